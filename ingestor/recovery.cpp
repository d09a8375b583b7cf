// Spans in doubt and their settlement; see recovery.hpp.
#include "recovery.hpp"

#include <algorithm>
#include <utility>

#include "log.hpp"
#include "number.hpp"

namespace tick::ingest {

namespace {

using namespace std::chrono_literals;

constexpr auto look_every = 250ms;
constexpr auto overlap = 5s;           // trades come slightly out of order
constexpr auto quiet_after = 1s;       // without a live trade the span ends with the newest that is told
constexpr auto unreadable_every = 1s;  // whoever sends nonsense does not make us ask without end
constexpr auto first_retry = 250ms;
constexpr int most_tries = 8;  // about a minute
constexpr int most_refused = 5;
constexpr auto position_patience = 50ms;
constexpr auto one_second = 1s;  // what times in whole seconds hide

}  // namespace

Recovery::Recovery(RestOptions rest, std::unique_ptr<Feed> feed, Stats& stats,
                   std::function<std::optional<Position>()> position,
                   std::function<bool(std::span<const Tick>)> push,
                   std::function<std::map<std::string, std::string>()> symbols,
                   std::function<std::uint64_t()> dropped)
    : rest_(std::move(rest), std::move(feed), stats,
            [this](std::chrono::microseconds time) { return pause(time); }),
      stats_(stats),
      position_(std::move(position)),
      push_(std::move(push)),
      symbols_(std::move(symbols)),
      lost_(std::move(dropped)) {}

void Recovery::stop() {
  const std::lock_guard hold(guard_);
  stop_ = true;
  changed_.notify_all();
}

bool Recovery::pause(std::chrono::microseconds time) {
  std::unique_lock hold(guard_);
  return !changed_.wait_for(hold, time, [&] { return stop_; });
}

void Recovery::begins() {
  doubt(Clock::duration::zero());
}

void Recovery::unreadable() {
  doubt(unreadable_every);
}

void Recovery::dropped() {
  {
    const std::lock_guard hold(guard_);
    whole_.clear();
  }
  doubt(unreadable_every);
}

void Recovery::doubt(Clock::duration wait) {
  const auto symbols = symbols_();
  const std::lock_guard hold(guard_);
  ++number_;
  for (const auto& [name, symbol] : symbols) {
    Doubt& doubt = doubts_[name];
    auto handed = std::move(doubt.handed);
    doubt = {};
    doubt.handed = std::move(handed);
    doubt.number = number_;
    doubt.due = Clock::now() + wait;
  }
  woken_ = true;
  changed_.notify_all();
}

bool Recovery::whole(const Tick& tick) {
  const std::lock_guard hold(guard_);
  const auto found = doubts_.find(tick.symbol.view());
  if (found == doubts_.end()) {
    const auto until = whole_.find(tick.symbol.view());
    if (until == whole_.end())
      whole_.emplace(tick.symbol.view(), tick.ts);
    else
      until->second = std::max(until->second, tick.ts);
    return true;
  }
  if (found->second.first) return false;
  found->second.first = tick;
  woken_ = true;
  changed_.notify_all();
  return false;
}

void Recovery::run() {
  for (;;) {
    {
      std::unique_lock hold(guard_);
      changed_.wait_for(hold, look_every, [&] { return stop_ || woken_; });
      if (stop_) return;
      woken_ = false;
    }
    turn();
  }
}

void Recovery::turn() {
  std::map<std::string, Doubt, std::less<>> due;
  {
    const std::lock_guard hold(guard_);
    const bool newest = rest_.feed().history_of_newest();
    for (auto& [name, doubt] : doubts_) {
      const bool at_once = doubt.first || (newest && !doubt.early);
      if (Clock::now() >= doubt.due + (at_once ? Clock::duration::zero() : Clock::duration(quiet_after))) {
        auto handed = std::exchange(doubt.handed, {});  // may be many
        due.emplace(name, doubt).first->second.handed = std::move(handed);
      }
    }
  }
  if (due.empty()) return;
  const auto symbols = symbols_();
  for (auto& [name, doubt] : due) {
    const auto symbol = symbols.find(name);
    std::optional<Clock::duration> wait;
    if (symbol != symbols.end()) wait = settle(name, symbol->second, doubt);  // else nobody wants it now
    const std::lock_guard hold(guard_);
    if (stop_) return;
    const auto found = doubts_.find(name);
    if (found == doubts_.end()) continue;
    if (found->second.number != doubt.number) {  // another one by now
      found->second.handed.merge(doubt.handed);
      continue;
    }
    if (!doubt.first && found->second.first) {
      doubt.first = found->second.first;  // it ends the span all the same, if that is still open
      if (wait) doubt.told = false;
    }
    if (!wait) {
      doubts_.erase(found);
    } else {
      doubt.due = Clock::now() + *wait;
      found->second = std::move(doubt);
    }
  }
}

std::optional<Recovery::Clock::duration> Recovery::settle(const std::string& name, const std::string& symbol,
                                                          Doubt& doubt) {
  const auto position = position_();
  std::optional<Timestamp> mark;  // nothing is missing before it
  if (position) {
    const auto found = position->times.find(name);
    if (found == position->times.end()) return std::nullopt;  // nor is anything there
    mark = found->second;
    const std::lock_guard hold(guard_);
    const auto ahead = whole_.find(name);
    if (ahead != whole_.end()) mark = std::max(*mark, ahead->second);
  }
  // The newest trades may soon be told no more, so they are fetched before it is known from where on.
  if (!mark && !rest_.feed().history_of_newest()) return position_patience;
  if (rest_.feed().history_of_newest() && !doubt.first && !doubt.early) {
    doubt.early = true;
    Doubt until_now;
    if (fetch(name, symbol, mark, until_now) && mark)
      conclude(name, *mark, until_now);
    else
      doubt.handed.merge(until_now.handed);
    return Clock::duration::zero();
  }
  if (!doubt.told && !fetch(name, symbol, mark, doubt))
    return first_retry * (1 << std::min(doubt.tries, most_tries));
  if (!mark) return position_patience;
  if (!conclude(name, *mark, doubt)) return first_retry;
  return std::nullopt;
}

// The span is as whole as it can be: says what is not told, and hands on until when nothing is missing now.
bool Recovery::conclude(const std::string& name, Timestamp mark, Doubt& doubt) {
  const auto fetched = static_cast<std::uint64_t>(
      std::ranges::count_if(doubt.handed, [&](const auto& trade) { return trade.second > mark; }));
  doubt.handed.clear();  // said once, also if this must be tried again
  stats_.repaired += fetched;
  if (fetched > 0)
    log::info("repair: " + name + " after " + format_time(mark) + ": " + std::to_string(fetched) +
              " trades fetched");
  if (!doubt.oldest || *doubt.oldest > mark || doubt.tries > most_tries) {
    ++stats_.gaps_unfilled;
    log::warn("gap of " + name + ": the exchange's history does not tell everything after " +
              format_time(mark) + (doubt.oldest ? ", it begins at " + format_time(*doubt.oldest) : ""));
  }
  if (!doubt.newest) return true;
  doubt.newest->whole = true;  // once more, now that nothing is missing before it
  if (!push_({&*doubt.newest, 1})) return false;
  const std::lock_guard hold(guard_);
  auto& until = whole_.try_emplace(name, doubt.newest->ts).first->second;
  until = std::max(until, doubt.newest->ts);
  return true;
}

// Hands on what the exchange tells of the span; false: this must be tried again.
bool Recovery::fetch(const std::string& name, const std::string& symbol, std::optional<Timestamp> mark,
                     Doubt& doubt) {
  const Feed& feed = rest_.feed();
  const Wanted want{0, no_last, mark ? *mark - overlap : Timestamp{},
                    std::chrono::floor<std::chrono::microseconds>(std::chrono::system_clock::now())};
  const std::uint64_t dropped = lost_();
  bool reached = !doubt.first;
  int refused = 0;
  std::vector<Tick> page;
  doubt.oldest.reset();
  doubt.newest.reset();
  for (auto target = feed.history(symbol, want, nullptr); target && !(reached && doubt.first);) {
    const auto result = rest_.ask(symbol, *target, page);
    if (result == RestHistory::Result::later) {  // the same page once more: a long span may meet many a 429
      if (++refused > most_refused || !pause(std::chrono::microseconds(0))) return false;
      continue;
    }
    refused = 0;
    if (result == RestHistory::Result::gone) break;
    target = feed.history(symbol, want, &page);
    for (const auto& tick : page) {
      doubt.oldest = std::min(doubt.oldest.value_or(tick.ts), tick.ts);
      reached = reached || tick.id == doubt.first->id || tick.ts > doubt.first->ts;
    }
    std::erase_if(page, [&](Tick& tick) {
      tick.symbol.assign(name);
      return tick.ts < want.after - one_second || (doubt.first && tick.ts > doubt.first->ts);
    });
    for (const auto& tick : page) {
      if (!doubt.newest || tick.ts >= doubt.newest->ts) doubt.newest = tick;
      const bool in_seconds = tick.ts == std::chrono::floor<std::chrono::seconds>(tick.ts);
      doubt.handed.emplace(tick.id, in_seconds ? tick.ts + one_second : tick.ts);
    }
    // Where more pages follow they ascend, so that nothing is missing before the end of this one.
    if (target && !page.empty() && mark && *doubt.oldest <= *mark) page.back().whole = true;
    if (!push_(page)) return false;
  }
  if (!reached && doubt.tries++ < most_tries) return false;
  doubt.told = lost_() == dropped;
  return doubt.told;
}

}  // namespace tick::ingest
