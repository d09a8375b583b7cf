// Threads of one run: main (signals, progress), a producer (socket or file) and the writer. See run.hpp.
#include "run.hpp"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <thread>

#include "batch.hpp"
#include "copy.hpp"
#include "log.hpp"
#include "number.hpp"
#include "socket.hpp"

namespace tick::ingest {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t replay_chunk = 1024;
constexpr double longest_backoff_seconds = 32;
constexpr auto log_interval = std::chrono::seconds(10);

Timestamp now() {
  return std::chrono::floor<std::chrono::microseconds>(std::chrono::system_clock::now());
}

sigset_t stop_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

std::string grouped(std::uint64_t value) {
  const std::string digits = std::to_string(value);
  std::string text;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

// Logs the first few bad messages and then ever fewer, so that a broken feed cannot fill the disk.
void report_malformed(std::uint64_t count, const char* reason, std::string_view text) {
  if (count > 5 && count % 1000 != 0) return;
  std::string shown(text.substr(0, 160));
  for (char& c : shown)
    if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) > 0x7e) c = '?';
  log::warn("malformed message (" + std::to_string(count) + " so far): " + reason + ": " + shown);
}

// Everything between a producer and the database. Lifecycle: start() once, then supervise() until it returns.
class Chain {
 public:
  Chain(const Config& config, WriterOptions options)
      : ring_(config.ring, config.batch_rows, config.batch_age),
        writer_(std::move(options), stats_, abandon_),
        drain_(config.drain),
        replay_(options.replay) {}

  Stats& stats() { return stats_; }
  Ring& ring() { return ring_; }
  const Position& position() const { return start_position_; }
  bool stopping() const { return stopping_; }

  // Runs `produce` on its own thread (a replay: once the position is known; a live feed: at once, so that
  // ticks are kept in memory while the database starts); `interrupt` must make it return soon.
  int supervise(std::function<void()> produce, std::function<void()> interrupt) {
    std::thread writer([this] { write_all(); });
    std::thread producer([&] {
      if (!replay_ || wait_until_open()) guarded(produce);
      produced_ = true;
      ring_.close();
    });
    const bool stopped = watch(interrupt);
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
        log::error("gave up: the database did not take the last ticks in time (" + grouped(left) +
                   " still in memory, besides the batch being written)");
        if (!done_) _exit(exit_failed);  // the writer hangs inside libpq; nothing more can be committed
      }
    }
    producer.join();
    writer.join();
    log::progress("");
    if (!failure_.empty()) log::error(failure_);
    return failure_.empty() && !abandon_ ? exit_ok : exit_failed;
  }

 private:
  void guarded(const std::function<void()>& body) {
    try {
      body();
    } catch (const std::exception& error) {
      fail(error.what());
    }
  }

  void fail(const std::string& message) {
    const std::lock_guard hold(guard_);
    if (failure_.empty()) failure_ = message;
    failed_ = true;
    changed_.notify_all();
  }

  void write_all() {
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
      std::vector<Tick> batch;
      while (ring_.take(batch)) writer_.write(batch);
    } catch (const Abandoned&) {
    } catch (const std::exception& error) {
      fail(error.what());
    }
    done_ = true;
    ring_.close();
    changed_.notify_all();
  }

  bool wait_until_open() {
    std::unique_lock hold(guard_);
    changed_.wait(hold, [&] { return open_ || failed_ || done_ || stopping_; });
    return open_ && !failed_ && !stopping_;
  }

  // Shows progress until the work is done, something failed or a signal came (then true).
  bool watch(const std::function<void()>& interrupt) {
    auto shown_at = Clock::now();
    auto logged_at = shown_at;
    std::uint64_t shown_rows = 0;
    std::uint64_t logged_rows = 0;
    while (!done_ && !failed_) {
      const bool signalled = wait_for_signal(log::on_terminal() ? 250 : 50);
      if (signalled || failed_) {
        if (signalled) log::info("stopping: committing what was received");
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

  std::string line(std::uint64_t rows, double rate) {
    std::string text = "rows " + grouped(rows) + "  " + grouped(static_cast<std::uint64_t>(rate)) + "/s";
    if (!replay_) {
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
    add("duplicates", stats_.duplicates);
    add("malformed", stats_.malformed);
    add("refused", stats_.refused);
    return text;
  }

  Stats stats_;
  Ring ring_;
  std::atomic<bool> abandon_{false};
  std::atomic<bool> stopping_{false};
  std::atomic<bool> done_{false};      // the writer has ended
  std::atomic<bool> produced_{false};  // nothing more will be pushed
  std::atomic<bool> open_{false};      // the database was reached and its position read
  std::atomic<bool> failed_{false};
  Writer writer_;
  std::chrono::microseconds drain_;
  bool replay_;
  std::mutex guard_;
  std::condition_variable changed_;
  Position start_position_;
  std::string failure_;
};

WriterOptions writer_options(const Config& config) {
  WriterOptions options;
  options.database = config.database;
  options.table = config.table;
  options.exchange = config.exchange;
  options.partitions_ahead = config.partitions_ahead;
  return options;
}

// One connection's messages on their way into the ring.
class Session final : public FrameHandler {
 public:
  Session(Feed& feed, Ring& ring, Stats& stats) : feed_(feed), ring_(ring), stats_(stats) {}

  bool got_data() const { return got_data_; }

  void opened() override {
    stats_.connected = true;
    log::info("connected");
  }

  bool frame(std::string_view text) override {
    ++stats_.messages;
    const Decoded decoded = feed_.decode(text, now(), pending_);
    switch (decoded.verdict) {
      case Verdict::tick:
        got_data_ = true;
        stats_.ticks += pending_.size();
        return room();
      case Verdict::malformed:
        report_malformed(++stats_.malformed, decoded.reason, text);
        break;
      case Verdict::refused:
        log::error("the exchange refused a request: " + std::string(text.substr(0, 300)));
        break;
      case Verdict::shutdown:
        log::info("the exchange announced that it will close this connection");
        break;
      case Verdict::ignored:
      case Verdict::reply:
      case Verdict::unknown:
        ++stats_.ignored;
        break;
    }
    return true;
  }

  bool room() override {
    const std::size_t taken = ring_.push(pending_);
    pending_.erase(pending_.begin(), pending_.begin() + static_cast<std::ptrdiff_t>(taken));
    const bool room = pending_.empty();
    if (!room && !full_)
      log::warn("the ring is full: the socket is not read until the database takes ticks again");
    full_ = !room;
    return room;
  }

  // After the connection ended: what was received must still go in.
  void flush() {
    ring_.push_wait(pending_);
    pending_.clear();
    stats_.connected = false;
  }

 private:
  Feed& feed_;
  Ring& ring_;
  Stats& stats_;
  std::vector<Tick> pending_;
  bool got_data_ = false;
  bool full_ = false;
};

}  // namespace

void block_signals() {
  const sigset_t set = stop_signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

bool wait_for_signal(int milliseconds) {
  const sigset_t set = stop_signals();
  const timespec wait{milliseconds / 1000, milliseconds % 1000 * 1'000'000L};
  return sigtimedwait(&set, nullptr, &wait) > 0;
}

int run_live(const Config& config) {
  WriterOptions options = writer_options(config);
  const Venue& venue = *find_venue(config.feed);
  options.feed = venue.exchange;
  options.connection = config.connection.empty() ? default_connection(config) : config.connection;
  Chain chain(config, options);

  const auto feed = venue.make(config.stream);
  const std::string address = feed->url(config.url, config.symbols, config.stream);
  const auto url = parse_url(address);
  if (!url) {
    log::error("impossible address " + address);
    return exit_usage;
  }
  ClientOptions client_options;
  client_options.greetings = feed->greetings(config.url, config.symbols, config.stream);
  client_options.verify = config.tls_verify;
  client_options.ca_file = config.tls_ca;
  client_options.max_silence = std::chrono::ceil<std::chrono::seconds>(config.max_silence);
  client_options.max_data_silence = std::chrono::ceil<std::chrono::seconds>(config.max_data_silence);

  std::mutex guard;
  std::condition_variable interrupted;
  std::shared_ptr<Client> current;
  bool stop = false;

  const auto produce = [&] {
    log::info("feed " + options.feed + "/" + options.connection + " into table " + config.table + ": " +
              std::to_string(config.symbols.size()) + " symbols");
    std::minstd_rand random(std::random_device{}());
    int failures = 0;
    for (;;) {
      auto client = std::make_shared<Client>();
      {
        const std::lock_guard hold(guard);
        if (stop) return;
        current = client;
      }
      log::info("connecting to " + config.url);
      Session session(*feed, chain.ring(), chain.stats());
      const std::string why = client->run(*url, client_options, session);
      session.flush();
      std::unique_lock hold(guard);
      current.reset();
      if (stop) return;
      if (session.got_data()) failures = 0;
      const double base =
          std::min(longest_backoff_seconds, 0.2 * static_cast<double>(1 << std::min(failures++, 10)));
      const double wait = base * std::uniform_real_distribution<>(0.5, 1.0)(random);
      char text[32];
      std::snprintf(text, sizeof text, "%.1f", wait);
      log::warn("disconnected: " + why + "; next try in " + text + " s");
      ++chain.stats().feed_reconnects;
      if (interrupted.wait_for(hold, std::chrono::duration<double>(wait), [&] { return stop; })) return;
    }
  };
  const auto interrupt = [&] {
    const std::lock_guard hold(guard);
    stop = true;
    if (current) current->stop();
    interrupted.notify_all();
  };
  const int code = chain.supervise(produce, interrupt);
  const Stats& stats = chain.stats();
  log::info("stopped: " + grouped(stats.rows) + " rows committed in " + grouped(stats.batches) +
            " batches, " + grouped(stats.messages) + " messages received, " + grouped(stats.duplicates) +
            " duplicates, " + grouped(stats.malformed) + " malformed, " + grouped(stats.refused) +
            " refused");
  return code;
}

int run_replay(const Config& config, const ReplayOptions& replay) {
  for (const auto& file : replay.files) {
    WriterOptions options = writer_options(config);
    options.feed = "replay";
    options.replay = true;
    try {
      options.connection =
          config.connection.empty() ? file_identity(file) + " -> " + config.table : config.connection;
    } catch (const std::exception& error) {
      log::error(error.what());
      return exit_failed;
    }
    DecodeOptions decode = replay.decode;
    if (decode.rows.symbol.empty()) decode.rows.symbol = symbol_of_file(file);
    Chain chain(config, options);
    bool complete = false;

    const auto produce = [&] {
      Stats& stats = chain.stats();
      const std::uint64_t done = chain.position().record;
      if (done > 0) log::info(file + ": going on after record " + std::to_string(done));
      RecordReader reader(file);
      RecordDecoder decoder(reader.framing(), decode);
      std::vector<Tick> ticks;
      Record record;
      const auto start = Clock::now();
      std::optional<Timestamp> first;
      while (!chain.stopping() && reader.next(record)) {
        ++stats.messages;
        const std::size_t before = ticks.size();
        const Decoded decoded = decoder.decode(record, ticks);
        if (decoded.verdict == Verdict::malformed)
          report_malformed(++stats.malformed, decoded.reason, record.text);
        else if (decoded.verdict != Verdict::tick)
          ++stats.ignored;
        if (record.number <= done) ticks.resize(before);
        if (ticks.size() == before) continue;
        ++stats.ticks;
        if (replay.speed > 0) {
          const Timestamp time = record.received == Timestamp{} ? ticks.back().ts : record.received;
          if (!first) first = time;
          const auto due =
              start + std::chrono::duration_cast<Clock::duration>((time - *first) / replay.speed);
          while (!chain.stopping() && Clock::now() < due)
            std::this_thread::sleep_for(
                std::min<Clock::duration>(due - Clock::now(), std::chrono::milliseconds(50)));
        }
        if (ticks.back().received == Timestamp{}) ticks.back().received = now();
        if (ticks.size() < replay_chunk && replay.speed == 0) continue;
        if (!chain.ring().push_wait(ticks)) return;
        ticks.clear();
      }
      if (!chain.ring().push_wait(ticks)) return;
      complete = !chain.stopping();
    };
    const int code = chain.supervise(produce, [] {});
    const Stats& stats = chain.stats();
    log::info(file + ": " + grouped(stats.rows) + " rows committed, " + grouped(stats.messages) +
              " records read, " + grouped(stats.ignored) + " ignored, " + grouped(stats.malformed) +
              " malformed, " + grouped(stats.refused) + " refused" +
              (stats.rows == 0 && chain.position().record > 0 ? " (was in already)" : ""));
    if (code != exit_ok) return code;
    if (!complete) return exit_ok;
    if (stats.malformed > 0) {
      log::warn(file + ": malformed records were passed over for good; put corrected ones into a new file");
      if (stats.malformed == stats.messages) return exit_failed;
    }
  }
  return exit_ok;
}

}  // namespace tick::ingest
