// The repair loop; see repair.hpp.
#include "repair.hpp"

#include <algorithm>

#include "log.hpp"

namespace tick::ingest {

namespace {

constexpr auto look_every = std::chrono::milliseconds(250);
constexpr auto tail_patience = std::chrono::seconds(1);
constexpr auto holes_every = std::chrono::milliseconds(500);
constexpr auto idle_look = std::chrono::minutes(1);
constexpr auto first_retry = std::chrono::seconds(2);
constexpr int most_doublings = 9;  // about a quarter of an hour
constexpr int given_up_after = 4;

}  // namespace

Repair::Repair(RepairOptions options, std::unique_ptr<Feed> feed, Stats& stats,
               std::function<Position()> position, std::function<std::optional<Holes>(const Position&)> holes,
               std::function<void(const std::string&, const Hole&, const std::string&)> explain,
               std::function<bool(std::span<const Tick>)> push,
               std::function<std::map<std::string, std::string>()> symbols)
    : options_(std::move(options)),
      rest_(options_.rest, std::move(feed), stats,
            [this](std::chrono::microseconds time) { return pause(time); }),
      stats_(stats),
      position_(std::move(position)),
      holes_(std::move(holes)),
      explain_(std::move(explain)),
      push_(std::move(push)),
      symbols_(std::move(symbols)) {}

void Repair::stop() {
  const std::lock_guard hold(guard_);
  stop_ = true;
  changed_.notify_all();
}

void Repair::connected() {
  const std::lock_guard hold(guard_);
  tails_ = true;
  changed_.notify_all();
}

bool Repair::pause(std::chrono::microseconds time) {
  std::unique_lock hold(guard_);
  return !changed_.wait_for(hold, time, [&] { return stop_; });
}

void Repair::run() {
  while (pause(look_every)) turn();
}

std::optional<Holes> Repair::look(const Position& position) {
  const auto time = Clock::now();
  const std::uint64_t batches = stats_.batches;
  if (time < look_at_) return std::nullopt;
  auto holes = holes_(position);
  look_at_ = time + holes_every;
  looked_ = holes.has_value();
  batches_seen_ = batches;
  return holes;
}

void Repair::turn() {
  {  // only when there may be another answer: an idle feed costs nothing
    const std::lock_guard hold(guard_);
    if (!tails_ && tails_left_.empty() && attempts_.empty() && looked_ && stats_.batches == batches_seen_ &&
        Clock::now() < look_at_ + idle_look)
      return;
  }
  const Position position = position_();
  const auto symbols = symbols_();
  if (position.ids.empty()) return;  // the database is not there yet, or nothing is in it
  bool begun = false;
  {
    const std::lock_guard hold(guard_);
    std::swap(begun, tails_);
  }
  if (begun) {
    tails_left_.clear();
    tails_left_.insert(position.ids.begin(), position.ids.end());
    tails_at_ = Clock::now() + tail_patience;
  }
  while (!tails_left_.empty() && Clock::now() >= tails_at_) {
    const auto [name, known] = *tails_left_.begin();
    const auto newest = position.ids.find(name);
    const auto symbol = symbols.find(name);
    // A live trade has come since then: what is missing before it is a hole.
    const bool quiet = newest != position.ids.end() && newest->second == known;
    if (quiet && symbol != symbols.end()) {
      const auto time = position.times.find(name);
      const Wanted want{known + 1, no_last, time == position.times.end() ? Timestamp{} : time->second};
      if (fetch(name, symbol->second, want) == Result::later) return;
    }
    tails_left_.erase(name);
  }
  const auto all_holes = look(position);
  if (!all_holes) return;
  std::uint64_t missing = 0;
  std::map<std::pair<std::string, std::int64_t>, Attempts> still;
  for (const auto& [name, holes] : *all_holes) {
    const auto symbol = symbols.find(name);
    for (const auto& hole : holes) {
      missing += static_cast<std::uint64_t>(hole.last - hole.first) + 1;
      const auto key = std::pair(name, hole.last);
      const auto known = attempts_.find(key);
      const auto time = Clock::now();
      Attempts entry = known != attempts_.end() ? known->second : Attempts{hole.first, time, time, 0};
      if (symbol != symbols.end() && time - entry.seen >= options_.patience && time >= entry.next) {
        if (hole.last - hole.first >= options_.widest) {
          if (entry.failed++ == 0)
            give_up(name, hole, "too wide to be fetched at once: tick-ingest backfill can");
          entry.next = time + std::chrono::hours(1);
        } else if (fetch(name, symbol->second, {hole.first, hole.last, hole.after}) == Result::done) {
          if (++entry.failed == given_up_after)
            give_up(name, hole,
                    "the exchange's history does not have these trades; it is asked ever more seldom");
          entry.next = Clock::now() + first_retry * (1 << std::min(entry.failed - 1, most_doublings));
        }
      }
      still.emplace(key, entry);
      const std::lock_guard hold(guard_);
      if (stop_) return;
    }
  }
  attempts_.swap(still);
  stats_.missing = missing;
}

void Repair::give_up(const std::string& name, const Hole& hole, const std::string& reason) {
  ++stats_.gaps_unfilled;
  log::warn("gap of " + name + " " + std::to_string(hole.first) + ".." + std::to_string(hole.last) + ": " +
            reason);
  explain_(name, hole, reason);
}

Repair::Result Repair::fetch(const std::string& name, const std::string& symbol, const Wanted& want) {
  std::vector<Tick> page;
  std::uint64_t found = 0;
  auto target = rest_.feed().history(symbol, want, nullptr);
  while (target) {
    const auto result = rest_.ask(symbol, *target, page);
    if (result != RestHistory::Result::page)
      return result == RestHistory::Result::gone ? Result::done : Result::later;
    target = rest_.feed().history(symbol, want, &page);
    std::erase_if(page, [&](Tick& tick) {
      tick.symbol.assign(name);
      return tick.id < want.first || tick.id > want.last;
    });
    found += page.size();
    if (!push_(page)) return Result::later;
  }
  stats_.repaired += found;
  if (found > 0)
    log::info("repair: " + name + " " + std::to_string(want.first) + ".." +
              (want.last == no_last ? "newest" : std::to_string(want.last)) + ": " + std::to_string(found) +
              " trades fetched");
  return Result::done;
}

}  // namespace tick::ingest
