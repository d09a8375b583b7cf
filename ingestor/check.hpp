// The verb `check`: tries everything a run would need, changes nothing, and names each mistake with the place
// of its setting and the cure. Returns the exit code: not 0 when there is a mistake.
#pragma once

#include <optional>
#include <string>

#include "config.hpp"

namespace tick::ingest {

// Also follow the ticks to the views; `role`: who must be able to read these, or empty.
struct EndToEnd {
  std::string role;
};

int run_check(const ConfigResult& read, const std::optional<EndToEnd>& end_to_end);

}  // namespace tick::ingest
