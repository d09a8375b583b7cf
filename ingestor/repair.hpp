// Fetches what is missing from the exchange's history by REST: the holes of the committed position, and,
// where no live trade shows a hole soon after a connect, what came after the newest id. Works on a thread of
// its own, within the exchange's budget; the ticks take the same way into the database as live ones and are
// told from duplicates there.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
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

struct RepairOptions {
  RestOptions rest;
  std::chrono::microseconds patience{0};  // how old a hole must be: ids may come out of order
  std::int64_t widest = 1'000'000;        // wider holes are left alone
};

class Repair {
 public:
  // `position` gives what is committed, `holes` what is missing then (nothing: not known now), `push` takes
  // ticks for the database, `symbols` the exchange's names by the table's.
  Repair(RepairOptions options, std::unique_ptr<Feed> feed, Stats& stats, std::function<Position()> position,
         std::function<std::optional<Holes>(const Position&)> holes,
         std::function<void(const std::string&, const Hole&, const std::string&)> explain,
         std::function<bool(std::span<const Tick>)> push,
         std::function<std::map<std::string, std::string>()> symbols);

  void run();        // returns after stop()
  void stop();       // from any thread
  void connected();  // a live connection begins: what came before it may be missing

 private:
  using Clock = std::chrono::steady_clock;
  struct Attempts {
    std::int64_t first = 0;
    Clock::time_point seen;
    Clock::time_point next;
    int failed = 0;
  };
  enum class Result { done, later };

  void turn();
  void give_up(const std::string& name, const Hole& hole, const std::string& reason);
  Result fetch(const std::string& name, const std::string& symbol, const Wanted& want);
  bool pause(std::chrono::microseconds time);  // false: stopped
  std::optional<Holes> look(const Position& position);

  RepairOptions options_;
  RestHistory rest_;
  Stats& stats_;
  std::function<Position()> position_;
  std::function<std::optional<Holes>(const Position&)> holes_;
  std::function<void(const std::string&, const Hole&, const std::string&)> explain_;
  std::function<bool(std::span<const Tick>)> push_;
  std::function<std::map<std::string, std::string>()> symbols_;
  std::map<std::pair<std::string, std::int64_t>, Attempts> attempts_;  // by symbol and last id of the hole
  std::mutex guard_;
  std::condition_variable changed_;
  bool stop_ = false;
  bool tails_ = false;
  std::map<std::string, std::int64_t> tails_left_;  // symbols and their newest ids when the connection began
  Clock::time_point tails_at_{};
  std::uint64_t batches_seen_ = 0;  // committed when the holes were looked at
  Clock::time_point look_at_{};
  bool looked_ = false;
};

}  // namespace tick::ingest
