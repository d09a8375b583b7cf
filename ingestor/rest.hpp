// An exchange's past over its REST interface, request by request, never faster than its budget allows and
// later when it says so. Not thread safe.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "feed.hpp"
#include "socket.hpp"
#include "stats.hpp"

namespace tick::ingest {

struct RestOptions {
  std::string url;
  TlsOptions tls;
  std::chrono::microseconds interval{0};  // least time between requests; 0 = the exchange's own
};

class RestHistory {
 public:
  enum class Result {
    page,   // there is an answer
    later,  // none now; what the exchange asked to wait for has been waited for
    gone,   // there is no such history: asking again will not help soon
  };

  // `pause` waits, and returns false when it is time to stop.
  RestHistory(RestOptions options, std::unique_ptr<Feed> feed, Stats& stats,
              std::function<bool(std::chrono::microseconds)> pause);

  // The answer to one of feed().history()'s requests, ascending by id, in place of what was in `page`.
  Result ask(const std::string& symbol, const std::string& target, std::vector<Tick>& page);
  const Feed& feed() const { return *feed_; }

 private:
  using Clock = std::chrono::steady_clock;
  HttpReply get(const std::string& target);

  RestOptions options_;
  std::unique_ptr<Feed> feed_;
  Stats& stats_;
  std::function<bool(std::chrono::microseconds)> pause_;
  Clock::time_point last_request_{};
};

}  // namespace tick::ingest
