// Signals, and the replay of files. See run.hpp.
#include "run.hpp"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

#include "chain.hpp"
#include "import.hpp"
#include "log.hpp"
#include "number.hpp"

namespace tick::ingest {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t replay_chunk = 1024;

Timestamp now() {
  return std::chrono::floor<std::chrono::microseconds>(std::chrono::system_clock::now());
}

sigset_t stop_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGHUP);
  sigaddset(&set, SIGUSR1);  // our own
  return set;
}

// Logs the first few bad messages and then ever fewer, so that a broken feed cannot fill the disk.
void report_malformed(std::uint64_t count, const char* reason, std::string_view text) {
  if (count > 5 && count % 1000 != 0) return;
  std::string shown(text.substr(0, 160));
  for (char& c : shown)
    if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) > 0x7e) c = '?';
  log::warn("malformed message (" + std::to_string(count) + " so far): " + reason + ": " + shown);
}

}  // namespace

void block_signals() {
  const sigset_t set = stop_signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

int wait_for_signal(int milliseconds) {
  const sigset_t set = stop_signals();
  const timespec wait{milliseconds / 1000, milliseconds % 1000 * 1'000'000L};
  const int signal = sigtimedwait(&set, nullptr, &wait);
  return signal == SIGUSR1 ? 0 : std::max(0, signal);
}

void wake_supervision() {
  kill(getpid(), SIGUSR1);
}

int run_replay(const Config& config, const ReplayOptions& replay) {
  for (const auto& file : replay.files) {
    try {
      if (const auto code = import_candles(config, file, replay)) {
        if (*code != exit_ok) return *code;
        continue;
      }
    } catch (const std::exception& error) {
      log::error(error.what());
      return exit_failed;
    }
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
      const std::uint64_t done = chain.start_position().record;
      if (done > 0) log::info(file + ": going on after record " + std::to_string(done));
      RecordReader reader(file);
      RecordDecoder decoder(reader.framing(), decode);
      std::vector<Tick> ticks;
      Record record;
      const auto start = Clock::now();
      std::optional<Timestamp> first;
      while (!chain.stopping() && reader.next(record)) {
        if (++stats.messages % replay_chunk == 0) stats.progress = reader.progress();
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
              (stats.rows == 0 && chain.start_position().record > 0 ? " (was in already)" : ""));
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
