// Lines out of a pipe, as they come; see lines.hpp.
#include "lines.hpp"

#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <optional>
#include <stdexcept>

#include "log.hpp"
#include "producer.hpp"
#include "rows.hpp"

namespace tick::ingest {

namespace {

constexpr int look_milliseconds = 50;  // how soon a signal is noticed
constexpr std::size_t chunk = 64 * 1024;

class Lines final : public Producer {
 public:
  Lines(const Config& config, Chain& chain, Rejects& rejects)
      : config_(config),
        chain_(chain),
        rejects_(rejects),
        csv_(row_options(config)),
        json_(row_options(config)) {}

  void run() override {
    chain_.stats().connected = true;
    std::string kept;  // the beginning of a line
    std::string buffer(chunk, '\0');
    while (!stop_) {
      pollfd input{STDIN_FILENO, POLLIN, 0};
      const int ready = poll(&input, 1, look_milliseconds);
      if (ready == 0 || (ready < 0 && errno == EINTR)) continue;
      const ssize_t got = read(STDIN_FILENO, buffer.data(), buffer.size());
      if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (got < 0) throw std::runtime_error(std::string("standard input: ") + std::strerror(errno));
      if (got == 0) {
        take(kept);
        push();
        log::info("standard input has ended");
        return;
      }
      std::string_view text(buffer.data(), static_cast<std::size_t>(got));
      for (auto end = text.find('\n'); end != std::string_view::npos; end = text.find('\n')) {
        if (kept.empty()) {
          take(text.substr(0, end));
        } else {
          take(kept.append(text.substr(0, end)));
          kept.clear();
        }
        text.remove_prefix(end + 1);
      }
      if (kept.size() + text.size() > config_.max_frame) {
        rejects_.add("a line is longer than feed.max_frame", kept.substr(0, 200));
        kept.clear();
        skip_ = true;
      } else {
        kept += text;
      }
      push();
    }
  }

  void stop() override { stop_ = true; }

 private:
  static RowOptions row_options(const Config& config) {
    RowOptions options;
    std::string mistake;
    options.columns = parse_columns(config.columns, mistake).value_or(std::map<Role, std::string>());
    options.offset = config.zone;
    if (config.symbols.size() == 1) options.symbol = config.symbols[0];
    return options;
  }

  void take(std::string_view line) {
    if (skip_) {  // the end of one that was too long
      skip_ = false;
      return;
    }
    const auto first = line.find_first_not_of(" \t\r");
    if (first == std::string_view::npos) return;
    ++chain_.stats().messages;
    const auto now = std::chrono::floor<std::chrono::microseconds>(std::chrono::system_clock::now());
    if (!objects_) objects_ = line[first] == '{';
    const Decoded decoded = line[first] == '{' ? json_.decode(line, now, ticks_)
                            : *objects_        ? Decoded{Verdict::malformed, "not a JSON object"}
                                               : csv_.decode(line, now, ticks_);
    if (decoded.verdict == Verdict::malformed) rejects_.add(decoded.reason, line);
    if (decoded.verdict == Verdict::ignored) ++chain_.stats().ignored;
  }

  void push() {
    for (auto& tick : ticks_) tick.symbol.assign(std::string(table_name(config_, tick.symbol.view())));
    chain_.stats().ticks += ticks_.size();
    chain_.ring().push_wait(ticks_);
    ticks_.clear();
  }

  const Config& config_;
  Chain& chain_;
  Rejects& rejects_;
  CsvRows csv_;
  JsonRows json_;
  std::vector<Tick> ticks_;
  std::optional<bool> objects_;  // what the first line is; CSV, where not
  bool skip_ = false;
  std::atomic<bool> stop_{false};
};

}  // namespace

int run_lines(const Config& config) {
  return run_producer(
      config, config.table,
      [&](Chain& chain, Rejects& rejects) { return std::make_unique<Lines>(config, chain, rejects); },
      [](const Stats& stats) {
        return grouped(stats.messages) + " lines, " + grouped(stats.duplicates) + " duplicates, " +
               grouped(stats.malformed) + " malformed, " + grouped(stats.refused) + " refused";
      });
}

}  // namespace tick::ingest
