// Gap repair for feeds whose ids are no sequence. Nothing in their ids tells that a trade is missing, so
// everything is taken for missing that may have come while nobody listened: from the last trade before which
// nothing is (its time is in the position) to the first that came live. That span, and a little more, is
// fetched by REST, on a thread of its own and within the exchange's budget; the table's unique index leaves
// out what is there. Promises that a trade is called whole only behind all of these in the ring, so that a
// kill at any moment leads to the same span again.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "feed.hpp"
#include "position.hpp"
#include "rest.hpp"
#include "stats.hpp"

namespace tick::ingest {

class Recovery {
 public:
  // `position` gives what is committed (nothing: not known yet), `push` takes ticks for the database,
  // `symbols` the exchange's names by the table's, `dropped` how many ticks found no room so far.
  Recovery(RestOptions rest, std::unique_ptr<Feed> feed, Stats& stats,
           std::function<std::optional<Position>()> position, std::function<bool(std::span<const Tick>)> push,
           std::function<std::map<std::string, std::string>()> symbols,
           std::function<std::uint64_t()> dropped);

  void run();   // returns after stop()
  void stop();  // from any thread

  // From the threads of connections. A connection begins; something came that could not be read, or found no
  // room.
  void begins();
  void unreadable();
  void dropped();
  // A live trade: whether nothing is missing before it. The first one after a doubt ends the span.
  bool whole(const Tick& tick);

 private:
  using Clock = std::chrono::steady_clock;
  struct Doubt {
    std::uint64_t number = 0;   // another one, another span
    std::optional<Tick> first;  // live
    Clock::time_point due{};
    int tries = 0;
    bool early = false;  // what may soon be told no more has been asked for at once
    bool told = false;   // the history has been asked; from when on it tells, and the last before `first`
    std::optional<Timestamp> oldest;
    std::optional<Tick> newest;
    // What went to the database, by id, with the latest time that it may have.
    std::map<std::int64_t, Timestamp> handed;
  };

  void doubt(Clock::duration wait);
  void turn();
  // What is to happen to the doubt: it ends, or is looked at again after a while.
  std::optional<Clock::duration> settle(const std::string& name, const std::string& symbol, Doubt& doubt);
  bool fetch(const std::string& name, const std::string& symbol, std::optional<Timestamp> mark, Doubt& doubt);
  bool conclude(const std::string& name, Timestamp mark, Doubt& doubt);
  bool pause(std::chrono::microseconds time);  // false: stopped

  RestHistory rest_;
  Stats& stats_;
  std::function<std::optional<Position>()> position_;
  std::function<bool(std::span<const Tick>)> push_;
  std::function<std::map<std::string, std::string>()> symbols_;
  std::function<std::uint64_t()> lost_;
  std::mutex guard_;  // of the following
  std::condition_variable changed_;
  std::map<std::string, Doubt, std::less<>> doubts_;     // by the table's names
  std::map<std::string, Timestamp, std::less<>> whole_;  // ahead of the position: not committed yet
  std::uint64_t number_ = 0;
  bool stop_ = false;
  bool woken_ = false;
};

}  // namespace tick::ingest
