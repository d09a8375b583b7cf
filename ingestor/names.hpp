// What somebody may have meant: the known name that differs least from the one that was given.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace tick::ingest {

// "" when none is near enough.
std::string nearest(std::string_view given, const std::vector<std::string>& known);

}  // namespace tick::ingest
