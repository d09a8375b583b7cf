// Headers as text, and what they ask for; see http.hpp, and socket.hpp for http_get.
#include "http.hpp"

#include <algorithm>

#include "number.hpp"

namespace tick::ingest {

namespace {

constexpr int most_redirections = 5;

bool is_elsewhere(int status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

}  // namespace

HttpReply http_get(const Url& url, const TlsOptions& tls, std::chrono::milliseconds timeout,
                   const DocumentVersion& known) {
  using Clock = std::chrono::steady_clock;
  const auto until = Clock::now() + timeout;
  Url at = url;
  for (int redirections = 0;; ++redirections) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now());
    HttpReply reply = http_ask(at, nullptr, tls, left, known);
    if (!is_elsewhere(reply.status) || reply.location.empty()) return reply;
    std::string why =
        "redirected more than " + std::to_string(most_redirections) + " times, last to " + reply.location;
    const auto next = redirections == most_redirections ? std::nullopt : redirected(at, reply.location, why);
    if (!next) return {0, why};
    at = *next;
  }
}

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
