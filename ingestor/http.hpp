// What headers of HTTP say, and how they are written. Pure.
#pragma once

#include <string>
#include <string_view>

#include "socket.hpp"

namespace tick::ingest {

std::string host_header(const Url& url);

// Retry-After, a number of seconds or the time at which to come again, in seconds from now.
int seconds_to_wait(std::string_view retry_after);

// Whether who asks so (If-None-Match, If-Modified-Since) has this version already.
bool is_known(const DocumentVersion& version, std::string_view none_match, std::string_view modified_since);

}  // namespace tick::ingest
