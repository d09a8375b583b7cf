// Looks the span's first and last ids up by halving, then fetches page by page; see backfill.hpp.
#include "backfill.hpp"

#include <algorithm>
#include <optional>
#include <thread>

#include "chain.hpp"
#include "gaps.hpp"
#include "log.hpp"
#include "number.hpp"
#include "rest.hpp"
#include "run.hpp"

namespace tick::ingest {

namespace {

constexpr std::int64_t beyond_all_ids = std::int64_t{1} << 40;
constexpr auto report_every = std::chrono::seconds(5);

class Stopped : public std::exception {};

class Backfill {
 public:
  Backfill(const Config& config, Chain& chain, Timestamp from, Timestamp to)
      : config_(config),
        chain_(chain),
        from_(from),
        to_(to),
        rest_({config.repair_url, {config.tls_verify, config.tls_ca}, config.repair_interval},
              find_venue(config.feed)->make(config.stream), chain.stats(),
              [this](std::chrono::microseconds time) { return pause(time); }) {}

  // True when everything there is was handed on.
  bool run() {
    try {
      for (const auto& symbol : config_.symbols) one(symbol);
      return true;
    } catch (const Stopped&) {
      return false;
    }
  }

 private:
  using Clock = std::chrono::steady_clock;

  bool pause(std::chrono::microseconds time) {
    const auto until = Clock::now() + time;
    while (Clock::now() < until && !chain_.stopping())
      std::this_thread::sleep_for(
          std::min<Clock::duration>(until - Clock::now(), std::chrono::milliseconds(50)));
    return !chain_.stopping();
  }

  std::vector<Tick> ask(const std::string& symbol, const std::string& target) {
    std::vector<Tick> page;
    for (;;) {
      if (chain_.stopping()) throw Stopped();
      switch (rest_.ask(symbol, target, page)) {
        case RestHistory::Result::page:
          return page;
        case RestHistory::Result::gone:
          throw std::runtime_error("the exchange gives no history of " + symbol + " at " +
                                   config_.repair_url);
        case RestHistory::Result::later:
          break;
      }
    }
  }

  std::vector<Tick> ids(const std::string& symbol, std::int64_t first, std::int64_t last) {
    return ask(symbol, *rest_.feed().history(symbol, {first, last, Timestamp{}}, nullptr));
  }

  // The first id whose trade is not before `time`. Every page says something of all its trades.
  std::int64_t seek(const std::string& symbol, Timestamp time) {
    std::int64_t before = 0;
    const auto newest = ids(symbol, beyond_all_ids, beyond_all_ids);
    const bool empty_is_newer = newest.empty();  // else the exchange gives what it has below an id
    std::int64_t after = empty_is_newer ? beyond_all_ids : newest.back().id + 1;
    std::optional<std::int64_t> first;  // that exists
    const auto learn = [&](const Tick& tick) {
      if (tick.ts >= time)
        after = std::min(after, tick.id), first = std::min(first.value_or(tick.id), tick.id);
      else
        before = std::max(before, tick.id);
    };
    for (const auto& tick : newest) learn(tick);
    while (after - before > 1) {
      const std::int64_t middle = before + (after - before) / 2;
      const auto page = ids(symbol, middle, middle);
      for (const auto& tick : page) learn(tick);
      // Where ids are missing the page tells of the nearest trade that there is.
      const auto next =
          std::find_if(page.begin(), page.end(), [&](const Tick& tick) { return tick.id >= middle; });
      if (page.empty())
        (empty_is_newer ? after : before) = middle;
      else if (next != page.end() && next->ts >= time)
        after = std::min(after, middle);
      else if (next == page.end() && page.back().ts < time)
        before = std::max(before, middle);
    }
    return first.value_or(after);
  }

  void hand_on(std::vector<Tick>& page, const std::string& name) {
    std::erase_if(page, [&](Tick& tick) {
      tick.symbol.assign(name);
      return tick.ts < from_ || tick.ts >= to_;
    });
    fetched_ += page.size();
    chain_.stats().ticks += page.size();
    if (!chain_.ring().push_wait(page)) throw Stopped();
  }

  void one(const std::string& symbol) {
    const std::string name(table_name(config_, symbol));
    fetched_ = 0;
    if (rest_.feed().history_by_time())
      by_time(symbol, name);
    else
      by_id(symbol, name);
    log::info(name + ": " + grouped(fetched_) + " trades fetched");
  }

  void by_id(const std::string& symbol, const std::string& name) {
    const std::int64_t end = seek(symbol, to_);
    std::int64_t first = seek(symbol, from_);
    const std::int64_t begin = first;
    if (begin >= end) return;
    log::info(name + ": ids " + std::to_string(begin) + ".." + std::to_string(end - 1));
    const auto done = chain_.start_position().ids.find(name);
    if (done != chain_.start_position().ids.end() && done->second >= first) {
      first = done->second + 1;
      log::info(name + ": going on after id " + std::to_string(done->second));
    }
    auto report_at = Clock::now() + report_every;
    while (first < end) {
      const std::int64_t last =
          std::min(first + static_cast<std::int64_t>(rest_.feed().history_page_size()), end) - 1;
      auto page = ids(symbol, first, last);
      std::erase_if(page, [&](const Tick& tick) { return tick.id < first || tick.id > last; });
      hand_on(page, name);
      first = last + 1;
      chain_.stats().progress = static_cast<double>(first - begin) / static_cast<double>(end - begin);
      if (Clock::now() < report_at) continue;
      log::info(name + ": " + std::to_string(100 * (first - begin) / (end - begin)) + " %");
      report_at = Clock::now() + report_every;
    }
  }

  void by_time(const std::string& symbol, const std::string& name) {
    Wanted want{0, no_last, from_};
    const auto done = chain_.start_position().times.find(name);
    if (done != chain_.start_position().times.end()) want.after = std::max(want.after, done->second);
    auto target = rest_.feed().history(symbol, want, nullptr);
    while (target) {
      auto page = ask(symbol, *target);
      target = rest_.feed().history(symbol, want, &page);
      if (!page.empty() && page.back().ts >= to_) target.reset();
      hand_on(page, name);
    }
  }

  const Config& config_;
  Chain& chain_;
  Timestamp from_;
  Timestamp to_;
  RestHistory rest_;
  std::uint64_t fetched_ = 0;
};

}  // namespace

int run_backfill(const Config& given, Timestamp from, Timestamp to) try {
  Config config = given;
  config.spool.clear();
  // Without the table's own ids nobody would notice what is there already.
  const auto known = Gaps(config.database, config.table, config.exchange).read();
  if (known.what != Gaps::Answer::holes) {
    log::error(known.what == Gaps::Answer::unknown
                   ? "the database cannot be asked: " + redact(config.database)
                   : "table " + config.table +
                         " keeps no ids, so what is there would come twice; SELECT tick.alter_source('" +
                         config.table +
                         "', dedup_key => '{exchange,symbol}', dedup_id => 'trade_id') makes it keep them");
    return exit_failed;
  }
  WriterOptions options = writer_options(config);
  options.feed = find_venue(config.feed)->exchange;
  options.connection =
      config.connection.empty() ? "backfill " + format_time(from) + " " + format_time(to) : config.connection;
  Chain chain(config, options);
  bool complete = false;
  const auto produce = [&] {
    while (!chain.open() && !chain.stopping()) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    chain.stats().connected = true;
    Backfill backfill(config, chain, from, to);
    complete = backfill.run();
  };
  const int code = chain.supervise(produce, [] {});
  const Stats& stats = chain.stats();
  log::info(grouped(stats.rows) + " rows written, " + grouped(stats.duplicates) + " were there already, " +
            grouped(stats.repair_requests) + " requests" + (complete ? "" : "; not complete"));
  return code != exit_ok ? code : complete || chain.stopping() ? exit_ok : exit_failed;
} catch (const std::exception& error) {
  log::error(error.what());
  return exit_failed;
}

}  // namespace tick::ingest
