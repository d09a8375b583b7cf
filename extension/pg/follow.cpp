// The part of a turn in which rollups over rollups follow. What the turn has written and deleted of a parent
// says which windows and keys of its children can differ; there, and in windows that are pending, the child's
// query runs again over the parent's view, as the child's owner, in the same transaction: whoever sees the
// parent's new rows sees the child's. Rows that turn out equal are not touched. Children come after their
// parents: their numbers are greater. One whose windows take long to compute rests three times as long
// afterwards, so that it does not hold up the others; its windows are pending meanwhile, but none becomes
// final so.
#include <algorithm>
#include <cstring>

#include "evaluator.hpp"
#include "guard.hpp"
#include "notify.hpp"
#include "session.hpp"
#include "shared.hpp"
#include "turn.hpp"

namespace tick::pg {
namespace {

constexpr int64_t chunk_rows = 20'000;                     // of the parent, that pending windows are made of
constexpr TimestampTz short_follow = USECS_PER_SEC / 100;  // after which nobody has to rest
constexpr size_t most_keys = 1000;                         // more are not told apart

std::string bytes_of(const Cell& cell, Type type) {
  if (is_variable(type)) return std::string(cell.view());
  return {reinterpret_cast<const char*>(&cell.word), sizeof cell.word};
}

Cell cell_of(const std::string& bytes, Type type) {
  if (is_variable(type)) return Cell::of_bytes(bytes);
  int64_t word;
  memcpy(&word, bytes.data(), sizeof word);
  return Cell::of_word(word);
}

// The keys as an array of the type that the parent's column has. Plain PostgreSQL code.
Datum key_array(const Rollup& parent, size_t key, const Cell* cells, size_t count) {
  const ValueType& type = parent.columns[key];
  auto* elements = static_cast<Datum*>(palloc(sizeof(Datum) * (count + 1)));
  for (size_t i = 0; i < count; ++i) elements[i] = key_datum(parent, key, cells[i]);
  return PointerGetDatum(construct_array(elements, static_cast<int>(count), parent.column_types[key],
                                         type.length, type.by_value, type.align));
}

// The window of the parent's row that has so many newer ones in [from, to); plus_infinity if none has.
Micros nth_newest(const Rollup& parent, Micros from, Micros to, int64_t n) {
  const Oid type = parent.column_types.at(parent.program.keys.size());
  return call([&] {
    const char* time = time_text(parent);
    const char* sql = psprintf(
        "SELECT s.%s FROM %s AS s WHERE s.%s >= $1 AND s.%s < $2 ORDER BY s.%s DESC OFFSET $3 LIMIT 1", time,
        state_text(parent), time, time, time);
    Oid types[3] = {type, type, INT8OID};
    Datum values[3] = {TimestampTzGetDatum(from), TimestampTzGetDatum(to), Int64GetDatum(n)};
    const Actor before = act_as_owner(parent.owner);
    if (SPI_execute_with_args(sql, 3, types, values, nullptr, false, 1) != SPI_OK_SELECT)
      elog(ERROR, "pg_tick: cannot read state");
    bool null;
    const Micros found =
        SPI_processed == 0
            ? plus_infinity
            : DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
    act_again(before);
    return found;
  });
}

bool covers(const std::vector<Range>& ranges, const Rollup& rollup, Micros window) {
  return std::any_of(ranges.begin(), ranges.end(), [&](const Range& range) {
    return window < range.hi && window_end(window, rollup.size) > range.lo;
  });
}

// True for a window that a change of the parent makes anew: it is neither pending, nor dropped for good, nor
// are rows of the parent that it was made of. Of such a one what is left says nothing: it becomes stale.
bool is_made(const Rollup& rollup, Micros window) {
  if (!rollup.is_kept(window) || covers(rollup.fresh, rollup, window) || covers(rollup.dirty, rollup, window))
    return false;
  if (window >= rollup.first_covered()) return true;
  const Micros next = next_window(window, rollup.size);
  mark_stale(rollup, window, next);
  list_stale(rollup, window, next);
  return false;
}

}  // namespace

void Merger::Followed::add(const Followed& other) {
  every = every || other.every;
  recomputed = recomputed && other.recomputed;
  keys.resize(std::max(keys.size(), other.keys.size()));
  for (size_t key = 0; key < other.keys.size(); ++key) {
    keys[key].insert(other.keys[key].begin(), other.keys[key].end());
    every = every || keys[key].size() > most_keys;
  }
}

void Merger::lead_followers(Turn& turn, const Rollup& parent, const Fold& fold, bool recomputed) {
  for (const Rollup& rollup : rollups_) {
    if (rollup.parent != parent.id || rollup.status == "error") continue;
    auto& windows = turn.follows[rollup.id];
    for (size_t slot = 0; slot < fold.slots(); ++slot)
      for (int64_t nth = 0; nth < windows_of_pane(rollup); ++nth) {
        const auto window = window_of(rollup, fold.pane(slot), nth);
        if (!window) continue;
        Followed& followed = windows[*window];
        followed.recomputed = followed.recomputed && recomputed;
        if (followed.every) continue;
        followed.keys.resize(rollup.parent_keys.size());
        for (size_t key = 0; key < followed.keys.size(); ++key) {
          const int16_t of = rollup.parent_keys[key];
          if (of < 0) continue;
          const Cell cell = fold.key(slot, of);
          if (!cell.null) followed.keys[key].insert(bytes_of(cell, parent.columns[of].type));
          if (cell.null || followed.keys[key].size() > most_keys) followed.every = true;
        }
      }
  }
}

void Merger::lead_followers(Turn& turn, const Rollup& parent, Micros window, const KeySets& keys,
                            bool recomputed) {
  for (const Rollup& rollup : rollups_) {
    if (rollup.parent != parent.id || rollup.status == "error") continue;
    Followed change;
    change.recomputed = recomputed;
    change.keys.resize(rollup.parent_keys.size());
    for (size_t key = 0; key < change.keys.size(); ++key) {
      const int16_t of = rollup.parent_keys[key];
      if (of < 0) continue;
      if (static_cast<size_t>(of) < keys.size()) change.keys[key] = keys[of];
      if (change.keys[key].empty()) change.every = true;
    }
    for (int64_t nth = 0; nth < windows_of_pane(rollup); ++nth)
      if (const auto of = window_of(rollup, window, nth)) turn.follows[rollup.id][*of].add(change);
  }
}

TimestampTz Merger::resting_until(const Rollup& rollup) const {
  const auto known = resting_.find(rollup.id);
  return known == resting_.end() ? 0 : known->second;
}

// True if there was anything to follow.
bool Merger::follow(Turn& turn) {
  bool followed = false;
  for (Rollup& rollup : rollups_) {
    if (rollup.parent == 0 || rollup.status == "error") continue;
    const bool touched = turn.follows.contains(rollup.id);
    if (!touched && !rollup.pending()) continue;
    current_ = rollup.id;
    // What the turn has written must be seen.
    call([&] {
      CommandCounterIncrement();
      UpdateActiveSnapshotCommandId();
    });
    if (turn.started >= resting_until(rollup)) {
      const TimestampTz started = GetCurrentTimestamp();
      do {
        followed = follow_pending(turn, rollup) || followed;
      } while (rollup.pending() && GetCurrentTimestamp() - started < short_follow);
      if (touched) follow_touched(turn, rollup);
      const TimestampTz ended = GetCurrentTimestamp();
      if (ended - started > short_follow) resting_[rollup.id] = ended + 3 * (ended - started);
      if (rollup.pending() && turn.started >= resting_until(rollup)) turn.result.more = true;
    } else if (touched) {
      std::set<Micros> windows, recomputed;
      for (const auto& [window, change] : turn.follows[rollup.id])
        if (is_made(rollup, window)) (change.recomputed ? recomputed : windows).insert(window);
      mark_dirty(rollup, windows);
      mark_dirty(rollup, recomputed, true);
    }
    follow_ended(turn, rollup);
    followed = followed || touched;
    current_ = 0;
  }
  return followed;
}

// Makes pending windows: by turns the newest, and those that the newest, which change most, would keep
// waiting. True if there were any to make.
bool Merger::follow_pending(Turn& turn, Rollup& rollup) {
  if (!rollup.pending()) return false;
  const auto parent = std::find_if(rollups_.begin(), rollups_.end(),
                                   [&](const Rollup& known) { return known.id == rollup.parent; });
  if (parent == rollups_.end()) throw Error{Error::Code::internal, "the rollup that is read is gone"};
  std::vector<Range> ranges = rollup.fresh;
  ranges.insert(ranges.end(), rollup.dirty.begin(), rollup.dirty.end());
  newest_followed_ = !newest_followed_;
  const auto [oldest, newest_range] = std::minmax_element(
      ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.hi < b.hi; });
  const Range range = newest_followed_ ? *newest_range : *oldest;
  const Micros first = range.lo == minus_infinity ? range.lo : first_window(range.lo, rollup.size);
  const Micros lowest = std::max({first, rollup.first_covered(), rollup.kept_from});
  Micros lo = lowest;
  if (lowest < range.hi) {
    const Micros end = end_of_rows(range.hi, rollup.size);
    const Micros newest = nth_newest(*parent, lowest, end, chunk_rows);
    if (newest != plus_infinity) lo = std::max(lowest, first_window(newest, rollup.size));
    make_windows(turn, rollup, lo, range.hi, {true, range.fresh || range.replace, {}});
  }
  shorten_pending(rollup, range, lo > lowest ? lo : range.lo);
  become_live(rollup);
  return true;
}

// Makes the windows in which the turn has changed something, but for those that are still pending.
void Merger::follow_touched(Turn& turn, Rollup& rollup) {
  const auto& windows = turn.follows[rollup.id];
  for (auto at = windows.begin(); at != windows.end();) {
    const Micros lo = at->first;
    Micros hi = next_window(lo, rollup.size);
    Followed scope = at->second;
    ++at;
    if (!is_made(rollup, lo)) continue;
    // Windows side by side at once.
    while (at != windows.end() && at->first == hi && is_made(rollup, hi)) {
      scope.add(at->second);
      hi = next_window(hi, rollup.size);
      ++at;
    }
    make_windows(turn, rollup, lo, hi, scope);
  }
}

// Makes the windows that become final in this turn and are pending: what readers then see as final is.
void Merger::follow_ended(Turn& turn, Rollup& rollup) {
  const auto watermark = watermarks_.after(rollup.source);
  if (!watermark || rollup.dirty.empty()) return;
  for (const Micros window : windows_.ended(rollup, *watermark))
    if (covers(rollup.dirty, rollup, window) && !covers(rollup.fresh, rollup, window) &&
        window >= rollup.first_covered() && rollup.is_kept(window))
      make_windows(turn, rollup, window, next_window(window, rollup.size), {true, false, {}});
}

// Makes the windows that start in [lo, hi) what the query finds in the parent's view.
void Merger::make_windows(Turn& turn, const Rollup& rollup, Micros lo, Micros hi, const Followed& scope) {
  const auto parent = std::find_if(rollups_.begin(), rollups_.end(),
                                   [&](const Rollup& known) { return known.id == rollup.parent; });
  if (parent == rollups_.end()) throw Error{Error::Code::internal, "the rollup that is read is gone"};
  const Micros end = end_of_rows(hi, rollup.size);
  // History that is still being computed is no revision.
  const auto watermark = scope.recomputed && (parent->status != "live" || rollup.status != "live")
                             ? std::nullopt
                             : watermarks_.of(rollup.source);
  const bool every = scope.every;
  const char* sql = every ? rollup.finish.c_str() : rollup.upsert.c_str();
  std::vector<std::vector<Cell>> cells(rollup.parent_keys.size());
  for (size_t key = 0; !every && key < cells.size(); ++key)
    if (const int16_t of = rollup.parent_keys[key]; of >= 0)
      for (const std::string& bytes : scope.keys[key])
        cells[key].push_back(cell_of(bytes, parent->columns[of].type));
  struct Row {
    Micros window;
    const char* gone;  // its keys as JSON; nullptr: it was written
  };
  Row* rows = nullptr;
  uint64_t count = 0;
  call([&] {
    MemoryContext memory = CurrentMemoryContext;
    const Oid type = rollup.column_types[rollup.program.keys.size()];
    const auto most = static_cast<int>(5 + rollup.parent_keys.size());
    auto* types = static_cast<Oid*>(palloc(sizeof(Oid) * most));
    auto* values = static_cast<Datum*>(palloc(sizeof(Datum) * most));
    types[0] = types[1] = types[2] = type;
    types[3] = types[4] = TIMESTAMPTZOID;
    values[0] = TimestampTzGetDatum(lo);
    values[1] = TimestampTzGetDatum(hi);
    values[2] = TimestampTzGetDatum(end);
    values[3] = TimestampTzGetDatum(turn.started);
    values[4] = TimestampTzGetDatum(watermark.value_or(0));
    const char nulls[6] = {' ', ' ', ' ', ' ', watermark ? ' ' : 'n', '\0'};
    int number = 5;
    const Actor before = act_as_owner(rollup.owner);
    for (size_t key = 0; !every && key < rollup.parent_keys.size(); ++key) {
      const int16_t of = rollup.parent_keys[key];
      if (of < 0) continue;
      types[number] = get_array_type(parent->column_types[of]);
      values[number++] = key_array(*parent, of, cells[key].data(), cells[key].size());
    }
    auto* all_nulls = static_cast<char*>(palloc(number + 1));
    memset(all_nulls, ' ', number);
    memcpy(all_nulls, nulls, 5);
    all_nulls[number] = '\0';
    // Nothing is known of how many rows there are: a loop would compare each with each.
    (void)set_config_option("enable_nestloop", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
                            false);
    const int code = SPI_execute_plan(kept_plan(sql, number, types), values, all_nulls, false, 0);
    if (code != SPI_OK_SELECT) elog(ERROR, "pg_tick: cannot follow: %s", SPI_result_code_string(code));
    act_again(before);
    count = SPI_processed;
    MemoryContext spi = MemoryContextSwitchTo(memory);
    rows = static_cast<Row*>(MemoryContextAllocHuge(memory, sizeof(Row) * (count + 1)));
    for (uint64_t row = 0; row < count; ++row) {
      bool null;
      HeapTuple tuple = SPI_tuptable->vals[row];
      TupleDesc desc = SPI_tuptable->tupdesc;
      rows[row] = {DatumGetTimestampTz(SPI_getbinval(tuple, desc, 1, &null)), SPI_getvalue(tuple, desc, 2)};
    }
    MemoryContextSwitchTo(spi);
    SPI_freetuptable(SPI_tuptable);
  });
  std::set<Micros> written, changed;
  std::vector<GoneRow> gone;
  for (uint64_t row = 0; row < count; ++row) {
    changed.insert(rows[row].window);
    if (rows[row].gone == nullptr)
      written.insert(rows[row].window);
    else
      gone.push_back({rows[row].window, rows[row].gone});
  }
  if (changed.empty()) return;
  auto& noted = scope.recomputed ? turn.replaced[rollup.id] : turn.touched[rollup.id];
  noted.insert(written.begin(), written.end());
  log_.changed(rollup, written);
  log_.gone(rollup, gone);
  if (has_listeners()) {
    Change& change = turn.changes[rollup.id];
    change.many = true;
    change.from = std::min(change.from, *changed.begin());
    change.to = std::max(change.to, window_end(*changed.rbegin(), rollup.size));
  }
  for (Micros window : changed)
    lead_followers(turn, rollup, window, every ? KeySets() : scope.keys, scope.recomputed);
}

}  // namespace tick::pg
