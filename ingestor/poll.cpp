// One request after another, with jitter and patience; see poll.hpp.
#include "poll.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "log.hpp"
#include "producer.hpp"
#include "rows.hpp"
#include "socket.hpp"

namespace tick::ingest {

namespace {

constexpr auto default_interval = std::chrono::seconds(30);
constexpr auto longest_pause = std::chrono::minutes(10);
constexpr auto request_timeout = std::chrono::seconds(20);
constexpr double jitter = 0.1;

Timestamp now() {
  return std::chrono::floor<std::chrono::microseconds>(std::chrono::system_clock::now());
}

std::string folded(std::string_view text, int (*fold)(int)) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [fold](unsigned char c) { return static_cast<char>(fold(c)); });
  return out;
}

// The rows of each document.
class Poller final : public Producer {
 public:
  Poller(const Config& config, Chain& chain, Rejects& rejects)
      : config_(config),
        chain_(chain),
        rejects_(rejects),
        rows_(items_options(config)),
        polling_(config, poll_address(config), chain.stats()) {
    for (const auto& symbol : config.symbols) wanted_.insert(symbol);
  }

  void run() override {
    polling_.run([this](const std::string& document) { return take(document); });
  }
  void stop() override { polling_.stop(); }

 private:
  static RowOptions items_options(const Config& config) {
    RowOptions options;
    std::string mistake;
    options.columns = parse_columns(config.columns, mistake).value_or(std::map<Role, std::string>());
    options.offset = config.zone;
    options.items = config.items;
    return options;
  }

  bool take(const std::string& body) {
    std::vector<Tick> ticks;
    const Decoded decoded = rows_.decode(body, now(), ticks);
    const bool read = decoded.verdict != Verdict::malformed;
    if (!read || decoded.bad > 0) rejects_.add(decoded.reason, body);
    if (!looked_ && !ticks.empty()) {
      looked_ = true;
      if (const std::string strange = strange_symbols(config_.symbols, ticks); !strange.empty())
        log::warn(strange);
    }
    std::erase_if(ticks, [&](Tick& tick) {
      const std::string symbol = folded(tick.symbol.view(), std::toupper);
      if (!wanted_.empty() && !wanted_.contains(symbol)) return true;
      tick.symbol.assign(table_name(config_, symbol));
      auto& last = last_[symbol];
      const std::pair moved{tick.ts, tick.price};
      if (last == moved) {
        ++chain_.stats().ignored;
        return true;
      }
      last = moved;
      return false;
    });
    chain_.stats().ticks += ticks.size();
    chain_.ring().push_wait(ticks);
    return read;
  }

  const Config& config_;
  Chain& chain_;
  Rejects& rejects_;
  JsonItems rows_;
  std::set<std::string> wanted_;
  std::map<std::string, std::pair<Timestamp, double>> last_;
  bool looked_ = false;  // at the symbols of a document
  Polling polling_;
};

}  // namespace

void Polling::run(const std::function<bool(const std::string& document)>& take) {
  const auto url = parse_url(address_, "http");
  if (!url) throw std::runtime_error("impossible address " + address_);
  log::info("asking " + config_.url);
  const std::chrono::microseconds interval =
      config_.poll_interval.count() > 0 ? config_.poll_interval : default_interval;
  std::chrono::milliseconds patience = request_timeout;
  if (config_.max_silence.count() > 0)
    patience = std::min(patience, std::chrono::ceil<std::chrono::milliseconds>(config_.max_silence));
  DocumentVersion known;
  int failures = 0;
  for (;;) {
    const HttpReply reply = http_get(*url, {config_.tls_verify, config_.tls_ca}, patience, known);
    ++stats_.messages;
    std::chrono::microseconds wait = interval;
    if (reply.status == 200 || reply.status == 304) {
      if (failures > 0) log::info("the server answers again");
      failures = 0;
      stats_.connected = true;
      if (reply.status == 304)
        ++stats_.ignored;
      else
        known = take(reply.body) ? reply.version : DocumentVersion{};
    } else {
      if (failures++ == 0)
        log::warn(config_.url + ": " +
                  (reply.status == 0 ? reply.body : "HTTP status " + std::to_string(reply.status)));
      if (failures == 1) ++stats_.feed_reconnects;
      stats_.connected = reply.status == 429;
      wait = std::min<std::chrono::microseconds>(interval * (1 << std::min(failures, 5)), longest_pause);
      if (reply.retry_after > 0) wait = std::chrono::seconds(reply.retry_after);
    }
    const double factor = std::uniform_real_distribution<>(1 - jitter, 1 + jitter)(random_);
    std::unique_lock hold(guard_);
    // Not before the time that the server has named.
    if (changed_.wait_for(hold, wait * (reply.retry_after > 0 ? std::max(1.0, factor) : factor),
                          [&] { return stop_; }))
      return;
  }
}

void Polling::stop() {
  const std::lock_guard hold(guard_);
  stop_ = true;
  changed_.notify_all();
}

std::string strange_symbols(const std::vector<std::string>& wanted, const std::vector<Tick>& ticks) {
  constexpr std::size_t shown = 5;
  std::set<std::string> there;
  for (const Tick& tick : ticks) there.insert(folded(tick.symbol.view(), std::toupper));
  std::string missing;
  for (const auto& symbol : wanted)
    if (!there.contains(symbol)) missing += (missing.empty() ? "" : ", ") + symbol;
  if (missing.empty()) return "";
  std::string some;
  for (auto symbol = there.begin(); symbol != there.end(); ++symbol) {
    if (std::distance(there.begin(), symbol) == shown) {
      some += ", ..";
      break;
    }
    some += (some.empty() ? "" : ", ") + *symbol;
  }
  return "no row is of " + missing + "; the rows are of " + some;
}

std::string poll_address(const Config& config) {
  if (config.feed != "coingecko" || config.symbols.empty()) return config.url;
  std::string ids;
  for (const auto& symbol : config.symbols) ids += (ids.empty() ? "" : ",") + folded(symbol, std::tolower);
  return config.url + (config.url.find('?') == std::string::npos ? "?ids=" : "&ids=") + ids;
}

int run_poll(const Config& config) {
  return run_producer(
      config, "poll",
      [&](Chain& chain, Rejects& rejects) { return std::make_unique<Poller>(config, chain, rejects); },
      [](const Stats& stats) {
        return grouped(stats.messages) + " requests, " + grouped(stats.duplicates) + " duplicates, " +
               grouped(stats.ignored) + " unchanged";
      });
}

}  // namespace tick::ingest
