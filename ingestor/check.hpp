// The verb `check`: tries everything a run would need, changes nothing, and names each mistake with the place
// of its setting and the cure. Returns the exit code: not 0 when there is a mistake.
#pragma once

#include "config.hpp"

namespace tick::ingest {

int run_check(const ConfigResult& read);

}  // namespace tick::ingest
