// What people on the fake network write about what is traded: events of Jetstream, the same for the same seed
// and trades, kept for whoever asks from a cursor on. Most are posts about instruments; the others are posts
// about nothing, likes and the like, which a reader must leave out. Times are a little out of order.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace tick::ingest {

class Chatter {
 public:
  struct Event {
    std::int64_t time_us = 0;
    std::string json;
    std::string id;                    // AUTHOR/KEY of a post; "" for anything else
    std::vector<std::string> symbols;  // that it is about
  };
  using Hear = std::function<void(const Event&)>;

  // An event for each `every`th trade, 0: none.
  Chatter(std::size_t every, std::uint64_t seed) : every_(every), state_(seed) {}

  void trade(std::string_view symbol, std::int64_t time_us, const Hear& hear);
  // What is kept of `cursor` and later, in the order in which it was sent.
  void each_from(std::int64_t cursor, const Hear& hear) const;
  // The newest posts about instruments as an RSS document, the newest first.
  std::string rss() const;

 private:
  std::uint64_t below(std::uint64_t n);
  void post(Event& event, std::string_view symbol);

  std::size_t every_;
  std::uint64_t state_;
  std::uint64_t trades_ = 0;
  std::uint64_t events_ = 0;
  std::string other_;  // the symbol of an earlier post
  std::deque<Event> kept_;
};

}  // namespace tick::ingest
