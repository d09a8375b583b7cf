// What a feed sent that cannot be a tick, on its way to tick.rejected: counted always, kept within a rate,
// written by a thread and a connection of its own, so that no poisoned message ever holds up a good one.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

#include "stats.hpp"

namespace tick::ingest {

class Rejects {
 public:
  Rejects(std::string database, std::string feed, Stats& stats);
  ~Rejects();

  // From any thread; never waits.
  void add(const char* reason, std::string_view payload);

 private:
  struct Entry {
    std::string reason;
    std::string payload;
  };
  void run();

  std::string database_;
  std::string feed_;
  Stats& stats_;
  std::mutex guard_;
  std::condition_variable changed_;
  std::deque<Entry> waiting_;
  double allowance_;
  std::chrono::steady_clock::time_point filled_at_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace tick::ingest
