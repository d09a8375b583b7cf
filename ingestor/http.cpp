// Headers as text; see http.hpp.
#include "http.hpp"

#include <algorithm>

#include "number.hpp"

namespace tick::ingest {

std::string host_header(const Url& url) {
  const bool standard_port = url.port == (url.tls ? "443" : "80");
  return standard_port ? url.host : url.host + ":" + url.port;
}

int seconds_to_wait(std::string_view text) {
  constexpr std::int64_t most = 7 * 86'400;
  auto seconds = parse_integer(text);
  if (!seconds)
    if (const auto time = parse_mail_time(text))
      seconds = std::chrono::ceil<std::chrono::seconds>(*time - std::chrono::system_clock::now()).count();
  return static_cast<int>(std::clamp<std::int64_t>(seconds.value_or(0), 0, most));
}

bool is_known(const DocumentVersion& version, std::string_view none_match, std::string_view modified_since) {
  if (!none_match.empty()) return none_match == version.etag;
  return !modified_since.empty() && modified_since == version.modified;
}

}  // namespace tick::ingest
