// Threads of one run: main (signals, progress), a producer (sockets or a file) and the writer. See chain.hpp.
#include "chain.hpp"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <thread>

#include "log.hpp"
#include "run.hpp"

namespace tick::ingest {

namespace {

using Clock = std::chrono::steady_clock;

constexpr auto log_interval = std::chrono::seconds(10);

}  // namespace

std::string grouped(std::uint64_t value) {
  const std::string digits = std::to_string(value);
  std::string text;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

WriterOptions writer_options(const Config& config) {
  WriterOptions options;
  options.database = config.database;
  options.table = config.table;
  options.columns = config.table_columns;
  options.exchange = config.exchange;
  options.partitions_ahead = config.partitions_ahead;
  return options;
}

Chain::Chain(const Config& config, WriterOptions options)
    : ring_(config.ring, config.batch_rows, config.batch_age),
      writer_(options, stats_, abandon_),
      drain_(config.drain),
      replay_(options.replay),
      spooled_(!options.replay && !config.spool.empty()) {
  if (spooled_) ring_.spool_to(std::make_unique<Spool>(config.spool, config.spool_limit));
}

int Chain::supervise(std::function<void()> produce, std::function<void()> interrupt,
                     std::function<void()> reload) {
  std::thread writer([this] { write_all(); });
  std::thread producer([&] {
    if (!replay_ || wait_until_open()) guarded(produce);
    produced_ = true;
    ring_.close();
  });
  const bool stopped = watch(interrupt, reload);
  if (stopped) {
    const auto deadline = Clock::now() + drain_;
    const auto nothing_to_write = [&] { return produced_ && !open_ && ring_.size() == 0; };
    while (!done_ && !nothing_to_write() && Clock::now() < deadline)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    if (!done_ && nothing_to_write()) {
      abandon_ = true;
      for (int i = 0; i < 200 && !done_; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
      if (!done_) _exit(exit_ok);  // the writer hangs inside libpq's connect, with empty hands
      abandon_ = false;
    }
    if (!done_) {
      abandon_ = true;
      const std::size_t left = ring_.size();
      ring_.close();
      for (int i = 0; i < 400 && !done_; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
      if (!saved_)
        log::error("gave up: the database did not take the last ticks in time (" + grouped(left) +
                   " still in memory, besides the batch being written)");
      if (!done_) _exit(exit_failed);  // the writer hangs inside libpq; nothing more can be committed
    }
  }
  producer.join();
  writer.join();
  log::progress("");
  if (!failure_.empty()) log::error(failure_);
  return failure_.empty() && (!abandon_ || saved_) ? exit_ok : exit_failed;
}

void Chain::guarded(const std::function<void()>& body) {
  try {
    body();
  } catch (const std::exception& error) {
    fail(error.what());
  }
}

void Chain::fail(const std::string& message) {
  const std::lock_guard hold(guard_);
  if (failure_.empty()) failure_ = message;
  failed_ = true;
  changed_.notify_all();
  wake_supervision();
}

void Chain::write_all() {
  std::vector<Tick> batch;
  try {
    writer_.open();
    {
      const std::lock_guard hold(guard_);
      start_position_ = writer_.position();
      open_ = true;
    }
    if (!replay_)
      log::info("database is ready" + (start_position_.ids.empty()
                                           ? std::string()
                                           : ", going on after the stored ids of " +
                                                 std::to_string(start_position_.ids.size()) + " symbols"));
    changed_.notify_all();
    while (ring_.take(batch)) writer_.write(batch);
    batch.clear();
  } catch (const Abandoned&) {
  } catch (const std::exception& error) {
    fail(error.what());
  }
  ring_.close();
  if (spooled_) {
    saved_ = ring_.save(batch);
    if (const auto left = ring_.spooled(); left > 0)
      log::warn(grouped(left) + " ticks are in the spool: the next start writes them");
  }
  done_ = true;
  changed_.notify_all();
  wake_supervision();
}

bool Chain::wait_until_open() {
  std::unique_lock hold(guard_);
  changed_.wait(hold, [&] { return open_ || failed_ || done_ || stopping_; });
  return open_ && !failed_ && !stopping_;
}

// Shows progress until the work is done, something failed or a signal came (then true).
bool Chain::watch(const std::function<void()>& interrupt, const std::function<void()>& reload) {
  auto shown_at = Clock::now();
  auto logged_at = shown_at;
  std::uint64_t shown_rows = 0;
  std::uint64_t logged_rows = 0;
  while (!done_ && !failed_) {
    const int signal = wait_for_signal(log::on_terminal() ? 250 : 1000);
    if (signal == SIGHUP) {
      if (reload) reload();
    } else if (signal != 0 || failed_) {
      if (signal != 0) log::info("stopping: committing what was received");
      stopping_ = true;
      changed_.notify_all();
      interrupt();
      return true;
    }
    const auto time = Clock::now();
    const auto seconds = [&](Clock::time_point since) {
      return std::chrono::duration<double>(time - since).count();
    };
    if (log::on_terminal() && seconds(shown_at) > 0.24) {
      const auto rows = stats_.rows.load();
      log::progress(line(rows, static_cast<double>(rows - shown_rows) / seconds(shown_at)));
      shown_rows = rows;
      shown_at = time;
    }
    if (!log::on_terminal() && time - logged_at >= log_interval) {
      const auto rows = stats_.rows.load();
      if (rows != logged_rows || !replay_)
        log::info(line(rows, static_cast<double>(rows - logged_rows) / seconds(logged_at)));
      logged_rows = rows;
      logged_at = time;
    }
  }
  if (failed_) {
    stopping_ = true;
    interrupt();
    return true;
  }
  return false;
}

std::string progress_bar(double progress) {
  constexpr std::size_t width = 20;
  const auto full = static_cast<std::size_t>(progress * width);
  return "[" + std::string(full, '=') + std::string(width - full, ' ') + "] " +
         std::to_string(static_cast<int>(100 * progress)) + " %  ";
}

std::string Chain::line(std::uint64_t rows, double rate) {
  std::string text = "rows " + grouped(rows) + "  " + grouped(static_cast<std::uint64_t>(rate)) + "/s";
  if (const double progress = stats_.progress; progress > 0) {
    text = progress_bar(progress) + text;
  } else if (!replay_) {
    const double lag = static_cast<double>(stats_.max_lag_us.exchange(0)) / 1000;
    char number[32];
    std::snprintf(number, sizeof number, "%.1f", lag);
    text += std::string("  lag ") + number + " ms  " + (stats_.connected ? "connected" : "NOT CONNECTED");
  }
  text += "  in memory " + grouped(ring_.size());
  const auto add = [&](const char* name, std::uint64_t value) {
    if (value > 0) text += std::string("  ") + name + " " + grouped(value);
  };
  add("reconnects", stats_.feed_reconnects);
  add("database reconnects", stats_.database_reconnects);
  add("in the spool", ring_.spooled());
  add("dropped", ring_.dropped());
  add("repaired", stats_.repaired);
  add("missing", stats_.missing);
  add("duplicates", stats_.duplicates);
  add("malformed", stats_.malformed);
  add("refused", stats_.refused);
  return text;
}

}  // namespace tick::ingest
