// Bluesky's Jetstream (v1): JSON events of the whole network, of which new posts are kept. Pure: text ->
// post. The service keeps 36 hours and sends everything from a cursor on, at least once, nearly in order.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "event.hpp"
#include "post.hpp"

namespace tick::ingest {

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
