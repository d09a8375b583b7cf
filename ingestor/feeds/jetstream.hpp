// Bluesky's Jetstream (v1): JSON events of the whole network, of which new posts are kept. Pure: text ->
// post. The service keeps 36 hours and sends everything from a cursor on, at least once, nearly in order.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "../feed.hpp"
#include "event.hpp"

namespace tick::ingest {

// What somebody wrote, and what it is about.
struct Post {
  Timestamp ts{};  // when the service saw it: what the author's program says of its time is not trusted
  std::string id;  // AUTHOR/KEY, the same wherever the post is read
  std::string author;
  std::string text;
  std::vector<std::string> symbols;
  std::optional<double> sentiment;  // from -1 to 1
  std::int64_t cursor = 0;
  Timestamp received{};
};

class Jetstream {
 public:
  // `tick`: post is filled but for its symbols. `cursor` is set to the event's place in the stream whenever
  // it is known, whatever the event is.
  Decoded decode(std::string_view message, Timestamp received, Post& post, std::int64_t& cursor);

  // The address that sends posts from `cursor` on; 0: from now on.
  static std::string url(std::string_view base, std::int64_t cursor);

 private:
  Message message_;
};

// How far back to ask: events come up to some milliseconds out of order, and up to a second or two late.
constexpr std::int64_t jetstream_rewind_us = 5'000'000;

}  // namespace tick::ingest
