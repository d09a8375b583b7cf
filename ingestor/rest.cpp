// Paced requests; see rest.hpp.
#include "rest.hpp"

#include <algorithm>

#include "log.hpp"

namespace tick::ingest {

namespace {
constexpr auto request_timeout = std::chrono::seconds(20);
constexpr auto busy_pause = std::chrono::seconds(2);
}  // namespace

RestHistory::RestHistory(RestOptions options, std::unique_ptr<Feed> feed, Stats& stats,
                         std::function<bool(std::chrono::microseconds)> pause)
    : options_(std::move(options)), feed_(std::move(feed)), stats_(stats), pause_(std::move(pause)) {
  if (options_.interval.count() == 0) options_.interval = feed_->history_interval();
}

HttpReply RestHistory::get(const std::string& target) {
  auto url = parse_url(options_.url, "http");
  if (!url) return {0, "repair.url " + options_.url + " is no http address"};
  while (url->target.ends_with('/')) url->target.pop_back();
  url->target += target;
  last_request_ = Clock::now();
  ++stats_.repair_requests;
  return http_get(*url, options_.tls, request_timeout);
}

RestHistory::Result RestHistory::ask(const std::string& symbol, const std::string& target,
                                     std::vector<Tick>& page) {
  const auto wait =
      std::chrono::duration_cast<std::chrono::microseconds>(last_request_ + options_.interval - Clock::now());
  if (wait.count() > 0 && !pause_(wait)) return Result::later;
  const HttpReply reply = get(target);
  const auto received = std::chrono::floor<std::chrono::microseconds>(std::chrono::system_clock::now());
  page.clear();
  Decoded decoded{Verdict::refused, ""};
  if (reply.status == 200) decoded = feed_->decode_history(reply.body, symbol, received, page);
  if (decoded.verdict == Verdict::tick) return Result::page;
  page.clear();
  const bool busy = reply.status == 429 || reply.status == 418 || reply.status == 200;
  if (stats_.repair_failures++ % 100 == 0 || !busy)
    log::warn("history of " + symbol + ": " +
              (reply.status == 0 ? reply.body
                                 : "status " + std::to_string(reply.status) + " " + decoded.reason + " " +
                                       reply.body.substr(0, 160)));
  if (reply.status == 404) return Result::gone;
  pause_(reply.retry_after > 0 ? std::chrono::seconds(reply.retry_after) : busy_pause);
  return Result::later;
}

}  // namespace tick::ingest
