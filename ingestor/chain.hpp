// Everything between producers and the database: the ring, the writer, and their supervision: signals, drain,
// progress. Lifecycle: start() is supervise(), once, until it returns; position() and ring() are for
// producers.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>

#include "batch.hpp"
#include "config.hpp"
#include "copy.hpp"
#include "stats.hpp"

namespace tick::ingest {

WriterOptions writer_options(const Config& config);

std::string grouped(std::uint64_t value);  // 1,234,567
std::string progress_bar(double progress);

class Chain {
 public:
  Chain(const Config& config, WriterOptions options);

  Stats& stats() { return stats_; }
  Ring& ring() { return ring_; }
  const Position& start_position() const { return start_position_; }
  Position position() const { return writer_.position(); }
  bool stopping() const { return stopping_; }
  bool open() const { return open_; }

  // Runs `produce` on its own thread (a replay: once the position is known; a live feed: at once, so that
  // ticks are kept in memory while the database starts); `interrupt` must make it return soon, `reload` is
  // called on SIGHUP. Returns the exit code.
  int supervise(std::function<void()> produce, std::function<void()> interrupt,
                std::function<void()> reload = {});

 private:
  void guarded(const std::function<void()>& body);
  void fail(const std::string& message);
  void write_all();
  bool wait_until_open();
  bool watch(const std::function<void()>& interrupt, const std::function<void()>& reload);
  std::string line(std::uint64_t rows, double rate);

  Stats stats_;
  Ring ring_;
  std::atomic<bool> abandon_{false};
  std::atomic<bool> stopping_{false};
  std::atomic<bool> done_{false};      // the writer has ended
  std::atomic<bool> produced_{false};  // nothing more will be pushed
  std::atomic<bool> open_{false};      // the database was reached and its position read
  std::atomic<bool> failed_{false};
  std::atomic<bool> saved_{false};  // what the database did not take is in the spool
  Writer writer_;
  std::chrono::microseconds drain_;
  bool replay_;
  bool spooled_;
  std::mutex guard_;
  std::condition_variable changed_;
  Position start_position_;
  std::string failure_;
};

}  // namespace tick::ingest
