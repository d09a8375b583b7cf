// The part of a turn that makes windows anew from what their source holds: which ones, by whom (the turn
// itself or the helper process that scans long histories), and what is done where the source no longer covers
// them.
#include <algorithm>

#include "guard.hpp"
#include "history.hpp"
#include "notify.hpp"
#include "scan.hpp"
#include "session.hpp"
#include "shared.hpp"
#include "state.hpp"
#include "turn.hpp"

namespace tick::pg {
namespace {

constexpr TimestampTz pieces_for = USECS_PER_SEC / 100;    // that a turn merges what scans have found
constexpr TimestampTz helper_patience = USECS_PER_SEC;     // before the worker scans itself
constexpr TimestampTz no_helper_for = 30 * USECS_PER_SEC;  // after there was none to be had
constexpr TimestampTz least_rest = USECS_PER_SEC / 100;    // of a source that somebody else has locked
constexpr TimestampTz most_rest = USECS_PER_SEC / 2;
constexpr TimestampTz recent = 2 * USECS_PER_HOUR;
constexpr int most_yields = 3;  // of a scan to those who want a lock

// Runs a statement of ours about a range of pending windows of a rollup.
void pending_statement(const char* sql, int rollup, const Range& range) {
  call([&] {
    Oid types[8] = {INT4OID, INT8OID, INT8OID, BOOLOID, INT8OID, BOOLOID, BOOLOID, BOOLOID};
    Datum values[8] = {Int32GetDatum(rollup),      Int64GetDatum(range.lo),   Int64GetDatum(range.hi),
                       BoolGetDatum(range.fresh),  Int64GetDatum(range.scan), BoolGetDatum(range.replace),
                       BoolGetDatum(range.missed), BoolGetDatum(range.marked)};
    const char nulls[9] = {' ', ' ', ' ', ' ', range.scan == 0 ? 'n' : ' ', ' ', ' ', ' ', '\0'};
    if (SPI_execute_plan(kept_plan(sql, 8, types), values, nulls, false, 0) < 0)
      elog(ERROR, "pg_tick: cannot run: %s", sql);
  });
}

void delete_pending(int rollup, const Range& range) {
  pending_statement(
      "DELETE FROM tick_catalog.pending WHERE rollup = $1 AND lo = $2 AND hi = $3 AND fresh = $4", rollup,
      range);
}

// Runs a statement of ours; text must not contain anything a user supplied unquoted.
void execute(const std::string& sql) {
  const char* text = sql.c_str();
  call([&] {
    if (SPI_execute(text, false, 0) < 0) elog(ERROR, "pg_tick: cannot run: %s", text);
  });
}

}  // namespace

void insert_pending(int rollup, const Range& range) {
  pending_statement(
      "INSERT INTO tick_catalog.pending AS p (rollup, lo, hi, fresh, scan, replace, missed, marked) "
      "VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (rollup, lo, hi, fresh) DO UPDATE SET missed = "
      "p.missed OR excluded.missed, replace = p.replace OR excluded.replace, marked = p.marked AND "
      "excluded.marked WHERE excluded.missed OR excluded.replace OR p.marked AND NOT excluded.marked",
      rollup, range);
}

void note_windows(std::map<int, std::set<Micros>>& windows, const Rollup& rollup, const Fold& fold) {
  if (!rollup.windowed || fold.slots() == 0) return;
  std::set<Micros>& of = windows[rollup.id];
  for (size_t slot = 0; slot < fold.slots(); ++slot) of.insert(fold.pane(slot));
}

// Chooses a rollup with windows to recompute: what to lock has to be known before the snapshot. They take
// turns; one whose source is locked by somebody is passed over for a while.
void Merger::plan_recompute(Turn& turn) {
  turn.helper = look_at_helper();
  if (generation_ == 0) return;
  const TimestampTz now = GetCurrentTimestamp();
  // An idle helper has come for those who wait for it; those who have waited too long do without.
  if (turn.helper.phase == HelperPhase::idle || turn.helper.phase == HelperPhase::absent ||
      (turn.helper.phase == HelperPhase::starting && now - helper_asked_at_ > helper_patience))
    awaiting_helper_.clear();
  if (turn.helper.phase == HelperPhase::starting && now - helper_asked_at_ > helper_patience)
    no_helper_until_ = now + no_helper_for;
  Rollup* chosen = nullptr;
  for (Rollup& rollup : rollups_) {
    if (!is_due(rollup)) continue;
    if (chosen == nullptr || (chosen->id <= last_recomputed_ && rollup.id > last_recomputed_))
      chosen = &rollup;
  }
  if (chosen == nullptr) return;
  last_recomputed_ = chosen->id;
  turn.recomputed = chosen;
  if (const Range* fresh = next_fresh(*chosen)) {
    turn.ranges = turn.done = {*fresh};
    return;
  }
  // All dirty windows in one scan; overlapping ranges become one.
  std::vector<Range> sorted = chosen->dirty;
  std::erase_if(sorted, [&](const Range& range) { return overlaps_fresh(*chosen, range); });
  turn.done = sorted;
  std::sort(sorted.begin(), sorted.end(), [](const Range& a, const Range& b) { return a.lo < b.lo; });
  for (const Range& range : sorted) {
    if (!turn.ranges.empty() && range.lo <= turn.ranges.back().hi)
      turn.ranges.back().hi = std::max(turn.ranges.back().hi, range.hi);
    else
      turn.ranges.push_back(range);
  }
}

// The newest windows never computed that something can be done about: no scan is under way, or its helper is
// gone without having found anything.
const Range* Merger::next_fresh(const Rollup& rollup) const {
  if (awaiting_helper_.contains(rollup.id)) return nullptr;
  const Range* newest = nullptr;
  for (const Range& range : rollup.fresh)
    if ((range.scan == 0 || lost_.contains(range.scan)) && (newest == nullptr || range.hi > newest->hi))
      newest = &range;
  return newest;
}

// Windows that rows have left wait until the history around them is complete: what a scan finds is added.
bool Merger::overlaps_fresh(const Rollup& rollup, const Range& range) {
  return std::any_of(rollup.fresh.begin(), rollup.fresh.end(),
                     [&](const Range& fresh) { return fresh.lo < range.hi && fresh.hi > range.lo; });
}

bool Merger::is_due(const Rollup& rollup) const {
  const auto lockout = locked_out_.find(rollup.source);
  if (rollup.parent != 0 || rollup.status == "error" ||
      (lockout != locked_out_.end() && lockout->second.until > GetCurrentTimestamp()))
    return false;
  return next_fresh(rollup) != nullptr ||
         std::any_of(rollup.dirty.begin(), rollup.dirty.end(),
                     [&](const Range& range) { return !overlaps_fresh(rollup, range); });
}

void Merger::lock_out(Oid source) {
  Lockout& lockout = locked_out_[source];
  lockout.rest = std::clamp(lockout.rest * 2, least_rest, most_rest);
  lockout.until = GetCurrentTimestamp() + lockout.rest;
}

// An extremum may have left these windows: they are recomputed from the source, in a later turn, or listed as
// stale if it no longer covers them. With `replace` their counts may fall; `marked` as of a Range.
void Merger::mark_dirty(Rollup& rollup, const std::set<Micros>& windows, bool replace, bool marked) {
  const Micros covered = rollup.first_covered();
  if (!windows.empty() && *windows.begin() < covered)
    list_stale(rollup, *windows.begin(), std::min(covered, *windows.rbegin() + 1));
  std::vector<Range> ranges;
  for (Micros window : windows) {
    if (window < covered) continue;
    const Micros end = rollup.windowed ? next_window(window, rollup.size) : plus_infinity;
    const Range range{rollup.windowed ? window : minus_infinity, end, false, 0, replace, false, marked};
    if (!ranges.empty() && ranges.back().hi == range.lo)
      ranges.back().hi = range.hi;
    else
      ranges.push_back(range);
  }
  if (ranges.empty()) return;
  std::map<Micros, Micros> known;  // lo -> greatest hi
  for (const Range& range : rollup.dirty)
    if ((range.replace || !replace) && (marked || !range.marked))
      known[range.lo] = std::max(known[range.lo], range.hi);
  for (const Range& range : ranges) {
    const auto after = known.upper_bound(range.lo);
    if (after != known.begin() && std::prev(after)->second >= range.hi) continue;
    insert_pending(rollup.id, range);
    rollup.dirty.push_back(range);
  }
}

// Remembers the windows that a turn would have changed of a rollup that is set aside: rows of theirs may have
// gone when it is resumed.
void Merger::note_missed(Turn& turn, Rollup& rollup) {
  std::set<Micros> windows;
  std::vector<Range> ranges;
  Fold none(rollup.program);
  for (const auto& [program, delta] : turn.folds) {
    const auto items = rollup.items.find(program);
    if (items == rollup.items.end()) continue;
    if (!delta) {  // which windows, nobody can tell
      ranges = {{minus_infinity, plus_infinity, false}};
      continue;
    }
    merge_into_windows(none, rollup, *delta, items->second, [&](const Fold&, size_t, auto window) {
      if (window && rollup.is_kept(*window)) windows.insert(*window);
      return std::optional<Micros>();
    });
  }
  for (Micros window : windows)
    ranges.push_back(rollup.windowed ? Range{window, next_window(window, rollup.size), false}
                                     : Range{minus_infinity, plus_infinity, false});
  for (Range& range : ranges) {
    range.missed = true;
    const auto touches = [&](const Range& known) {
      return known.missed && known.lo <= range.hi && known.hi >= range.lo;
    };
    const auto known = std::find_if(rollup.dirty.begin(), rollup.dirty.end(), touches);
    if (known != rollup.dirty.end()) {
      if (known->lo <= range.lo && known->hi >= range.hi) continue;
      delete_pending(rollup.id, *known);
      range.lo = std::min(range.lo, known->lo);
      range.hi = std::max(range.hi, known->hi);
      range.replace = known->replace;
      rollup.dirty.erase(known);
    }
    insert_pending(rollup.id, range);
    rollup.dirty.push_back(range);
  }
}

// Of windows that were missed, those whose rows have gone can never be right again: their rows become stale,
// and a window without a row is listed, too.
void Merger::give_up_missed(Turn& turn, const Rollup& rollup, Micros covered) {
  for (const Range& range : turn.done) {
    if (!range.missed || range.lo >= covered) continue;
    const Micros hi = std::min(range.hi, covered);
    mark_stale(rollup, range.lo, hi);
    list_stale(rollup, range.lo, hi);
    if (rollup.windowed && range.lo == minus_infinity) continue;
    std::vector<Micros> windows{range.lo};
    while (rollup.windowed && next_window(windows.back(), rollup.size) < hi)
      windows.push_back(next_window(windows.back(), rollup.size));
    const Micros* starts = windows.data();
    const size_t count = windows.size();
    call([&] {
      auto* elements = static_cast<Datum*>(palloc(sizeof(Datum) * count));
      for (size_t i = 0; i < count; ++i) elements[i] = TimestampTzGetDatum(starts[i]);
      Oid types[3] = {INT4OID, TIMESTAMPTZARRAYOID, BOOLOID};
      Datum values[3] = {Int32GetDatum(rollup.id),
                         PointerGetDatum(construct_array(elements, static_cast<int>(count), TIMESTAMPTZOID, 8,
                                                         FLOAT8PASSBYVAL, TYPALIGN_DOUBLE)),
                         BoolGetDatum(rollup.windowed)};
      const char* list =
          "INSERT INTO tick_catalog.stale SELECT $1, CASE WHEN $3 THEN u END FROM unnest($2) AS u "
          "ON CONFLICT DO NOTHING";
      if (SPI_execute_plan(kept_plan(list, 3, types), values, nullptr, false, 0) != SPI_OK_INSERT)
        elog(ERROR, "pg_tick: cannot list stale windows");
    });
  }
}

// Replaces a pending range by the part of it that lies below `lo`, if any.
void Merger::shorten_pending(Rollup& rollup, const Range& range, Micros lo) {
  delete_pending(rollup.id, range);
  auto& ranges = range.fresh ? rollup.fresh : rollup.dirty;
  std::erase_if(ranges, [&](const Range& known) { return known.lo == range.lo && known.hi == range.hi; });
  if (range.lo >= lo) return;
  const Range rest{range.lo,      std::min(range.hi, lo), range.fresh, 0,
                   range.replace, range.missed,           range.marked};
  insert_pending(rollup.id, rest);
  ranges.push_back(rest);
}

void list_stale(const Rollup& rollup, Micros lo, Micros hi) {
  const std::set<Micros> windows = stale_windows(rollup, lo, hi);
  const std::vector<Micros> listed(windows.begin(), windows.end());
  call([&] {
    auto* starts = static_cast<Datum*>(palloc(sizeof(Datum) * (listed.size() + 1)));
    for (size_t i = 0; i < listed.size(); ++i) starts[i] = TimestampTzGetDatum(listed[i]);
    Oid types[5] = {INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZARRAYOID, BOOLOID};
    Datum values[5] = {Int32GetDatum(rollup.id), TimestampTzGetDatum(lo), TimestampTzGetDatum(hi),
                       PointerGetDatum(construct_array(starts, static_cast<int>(listed.size()),
                                                       TIMESTAMPTZOID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE)),
                       BoolGetDatum(rollup.windowed)};
    const char* forget =
        "DELETE FROM tick_catalog.stale AS t WHERE t.rollup = $1 AND ((t.ts >= $2 AND t.ts < $3 AND "
        "NOT t.ts = ANY ($4)) OR (NOT $5 AND cardinality($4) = 0))";
    const char* list =
        "INSERT INTO tick_catalog.stale SELECT $1, CASE WHEN $5 THEN u END FROM unnest($4) AS u "
        "WHERE $2 < $3 ON CONFLICT DO NOTHING";
    if (SPI_execute_plan(kept_plan(forget, 5, types), values, nullptr, false, 0) != SPI_OK_DELETE ||
        SPI_execute_plan(kept_plan(list, 5, types), values, nullptr, false, 0) != SPI_OK_INSERT)
      elog(ERROR, "pg_tick: cannot list stale windows");
    if (SPI_processed > 0)
      ereport(WARNING,
              (errmsg("%llu windows of rollup %s are stale: rows that a recompute needs were retired",
                      static_cast<unsigned long long>(SPI_processed), rollup.name.c_str()),
               errhint("tick.stale lists them; tick.refresh makes a window what its source still holds.")));
  });
}

bool knows_leaves(Oid source, const std::vector<Leaf>& leaves) {
  const auto known = read_text("SELECT leaf::oid FROM tick_catalog.leaf WHERE source = $1::oid", source);
  return std::all_of(known.begin(), known.end(), [&](const auto& row) {
    return std::any_of(leaves.begin(), leaves.end(),
                       [&](const Leaf& leaf) { return std::to_string(leaf.relid) == *row[0]; });
  });
}

// ---- history that a helper process scans
// ------------------------------------------------------------------------------

// Begins a scan of the windows never computed, if they are many enough to be worth it. True if there is
// nothing left to do about them in this turn.
bool Merger::leave_to_helper(Turn& turn) {
  Rollup& rollup = *turn.recomputed;
  const Range range = turn.ranges.front();
  if (!range.fresh) return false;
  const Micros hi = range.hi, lowest = std::max(range.lo, rollup.kept_from);
  Micros from = lowest;
  if (rollup.windowed) narrow_to_leaves(turn.leaves, rollup.size, from, hi);
  Micros lo = from > lowest ? from : range.lo;
  double rows = 0, blocks = 0;
  const Micros rows_begin = rollup.windowed ? begin_of_rows(from, rollup.size) : from;
  const Micros rows_end = rollup.windowed ? end_of_rows(hi, rollup.size) : hi;
  for (const Leaf& leaf : turn.leaves) {
    if (rollup.windowed && leaf.bounded && (leaf.hi <= rows_begin || leaf.lo >= rows_end)) continue;
    rows += leaf.rows;
    blocks += leaf.blocks;
  }
  if (blocks * (BLCKSZ / 1024) < tick_scan_size || turn.started < no_helper_until_) return false;
  // What a scan finds is added: there must be nothing yet but what deltas have brought since it began.
  const bool again = range.scan != 0;
  if (!again && holds_state(rollup, lo, hi)) return false;
  if (turn.helper.phase != HelperPhase::idle) {
    if (turn.helper.phase == HelperPhase::absent) {
      if (!start_helper()) {
        no_helper_until_ = turn.started + no_helper_for;
        return false;
      }
      helper_asked_at_ = GetCurrentTimestamp();
    }
    awaiting_helper_.insert(rollup.id);
    turn.recomputed = nullptr;
    return true;
  }
  const int64_t scan =
      call([&] { return static_cast<int64_t>(U64FromFullTransactionId(GetTopFullTransactionId())); });
  // The windows of the last hours come first, in a scan of their own: it has few groups, so it is fast. Not
  // if that would read a whole table twice.
  const bool divided = std::all_of(turn.leaves.begin(), turn.leaves.end(),
                                   [](const Leaf& leaf) { return leaf.bounded || leaf.blocks == 0; });
  if (rollup.windowed && hi == plus_infinity && divided)
    lo = std::max(lo, begin_of_rows(window_start(turn.started - recent, rollup.size), rollup.size));
  const int attempt = again ? ++attempts_[rollup.id] : (attempts_[rollup.id] = 0);
  if (!hand_over({rollup.id, scan, lo, hi, rows, attempt < most_yields})) {
    // It has just ended, or somebody wants a lock on the source.
    if (look_at_helper().phase != HelperPhase::absent) lock_out(rollup.source);
    turn.recomputed = nullptr;
    return true;
  }
  current_ = rollup.id;
  if (again) {
    replace_state(
        rollup, Fold(rollup.program), {range}, [](Micros) { return Replace::all; },
        time(turn, rollup.source));
    note_gone(turn, rollup, true);
    lost_.erase(range.scan);
  }
  forget_late(rollup, lo, hi);  // the scan sees what was listed
  turn.lo = lo;
  turn.hi = hi;
  shorten_pending(rollup, range, lo);
  const Range scanned{lo, hi, true, scan};
  insert_pending(rollup.id, scanned);
  rollup.fresh.push_back(scanned);
  delete_stray_pieces();
  current_ = 0;
  return true;
}

// Merges some of what finished scans have found. True if there was anything.
bool Merger::merge_pieces(Turn& turn) {
  const TimestampTz until = GetCurrentTimestamp() + pieces_for;
  bool merged = false, wanted = turn.helper.scan == 0;
  // They take turns, so that none waits for the whole history of another.
  std::vector<Rollup*> order;
  for (Rollup& rollup : rollups_)
    if (rollup.status != "error") order.push_back(&rollup);
  std::stable_partition(order.begin(), order.end(),
                        [&](const Rollup* rollup) { return rollup->id > last_pieces_; });
  for (Rollup* each : order) {
    Rollup& rollup = *each;
    std::vector<Range> ranges = rollup.fresh;
    std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.hi > b.hi; });
    for (const Range& range : ranges) {
      if (range.scan != 0 && range.scan == turn.helper.scan) wanted = true;
      if (range.scan == 0 || range.scan == turn.helper.scan || lost_.contains(range.scan)) continue;
      if (merged && GetCurrentTimestamp() >= until) {
        turn.result.more = true;
        continue;
      }
      current_ = rollup.id;
      if (const auto error = scan_error(range.scan)) {
        set_aside_in_turn(turn, rollup, *error);
        current_ = 0;
        merged = true;
        break;
      }
      bool left = has_piece(range.scan);
      if (!left) {  // and nobody works on it: its helper has ended, or was killed
        lost_.insert(range.scan);
        lock_out(rollup.source);
        current_ = 0;
        continue;
      }
      while (left) {
        Fold piece(rollup.program), fold(rollup.program);
        merge_delta(piece, take_piece(range.scan));
        const auto refusal = [&](const Fold& from, size_t slot) -> std::optional<Refusal> {
          if (rollup.windowed && from.pane(slot) == no_time_pane) return Refusal::no_time;
          return is_too_wide(from, slot) ? std::make_optional(Refusal::key) : std::nullopt;
        };
        const auto take = [&](Fold& into, std::optional<Refusal> wanted) {
          into.merge(piece, every_item(rollup), [&](const Fold& from, size_t slot) -> std::optional<Micros> {
            const Micros window = from.pane(slot);
            const bool kept = window == no_time_pane || rollup.is_kept(window);
            return kept && refusal(from, slot) == wanted ? std::make_optional(window) : std::nullopt;
          });
        };
        take(fold, std::nullopt);
        for (const Refusal reason : {Refusal::key, Refusal::no_time}) {
          Fold listed(rollup.program);
          take(listed, reason);
          list_late(rollup, listed, reason, turn.started);
        }
        // History is no revision of what deltas have brought meanwhile. Where these have taken away more than
        // is there yet, the window is marked already.
        (void)merge_state(rollup, fold, {turn.started, std::nullopt}, false);
        forgo_versions(rollup, turn.started);
        note_change(turn, rollup, fold, true);
        watermarks_.note(rollup.source, fold, true);
        note_windows(turn.replaced, rollup, fold);
        left = has_piece(range.scan);
        if (GetCurrentTimestamp() >= until) break;
      }
      merged = true;
      last_pieces_ = rollup.id;
      if (left) {
        turn.result.more = true;
      } else {
        shorten_pending(rollup, range, range.lo);
        become_live(rollup);
      }
      current_ = 0;
    }
  }
  if (!wanted) stop_scan(turn.helper.scan);
  return merged;
}

// ---- in this very turn
// -------------------------------------------------------------------------------------------------

// Replaces windows by what the source holds in this snapshot.
void Merger::recompute(Turn& turn) {
  Rollup& rollup = *turn.recomputed;
  current_ = rollup.id;
  const bool fresh = turn.ranges.front().fresh;
  const Micros covered = rollup.first_covered();
  const Micros lowest = fresh ? turn.ranges.front().lo : std::max(turn.ranges.front().lo, covered);
  const bool reaches_timeless = lowest == minus_infinity;
  turn.lo = std::max(lowest, rollup.kept_from);
  turn.hi = turn.ranges.back().hi;
  Evaluator* evaluator = call([&] { return find_evaluator(rollup.newest); });
  Fold fold(rollup.program);
  const Micros target = turn.lo;
  if (turn.lo < turn.hi || reaches_timeless) {
    if (rollup.windowed) narrow_to_leaves(turn.leaves, rollup.size, turn.lo, turn.hi);
    Fold panes(rollup.program);
    Micros rows_begin = rollup.windowed ? begin_of_rows(turn.lo, rollup.size) : turn.lo;
    const Micros rows_end = rollup.windowed ? end_of_rows(turn.hi, rollup.size) : turn.hi;
    if (rollup.windowed) panes.restrict_to(rows_begin, rows_end);
    // If there are too many windows for memory, the oldest are left to a later turn.
    scan_leaves(rollup, evaluator, turn.leaves, rows_begin, rows_end, panes, [&](int) {
      if (!rollup.windowed || panes.memory() <= scan_memory) return;
      std::vector<Micros> times;
      for (size_t at = 0; at < panes.slots(); ++at) times.push_back(panes.pane(at));
      std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
      const Micros half = times[times.size() / 2];
      const Micros middle = half == no_time_pane ? half : first_window_from(half + 1, rollup.size);
      if (middle <= turn.lo || middle >= turn.hi) return;  // one window: nothing to leave out
      turn.lo = rows_begin = middle;
      panes.restrict_to(rows_begin, rows_end);
    });
    const bool timeless = reaches_timeless && turn.lo == target;
    const std::vector<int16_t> same = every_item(rollup);
    merge_into_windows(fold, rollup, panes, same, [&](const Fold& from, size_t slot, auto window) {
      return window && turn.recomputes(*window) && !is_too_wide(from, slot) ? window : std::nullopt;
    });
    watermarks_.note(rollup.source, panes, true);
    note_windows(turn.replaced, rollup, fold);
    note_change(turn, rollup, fold, true);
    std::vector<Range> windows;
    for (const Range& range : turn.ranges)
      if (range.hi > turn.lo && range.lo < turn.hi)
        windows.push_back({std::max(range.lo, turn.lo), std::min(range.hi, turn.hi), fresh});
    replace_state(
        rollup, fold, windows,
        [&](Micros window) {
          if (window < covered) return Replace::keep;
          return (fresh && rollup.filling == 0) || turn.may_fall(window) || (fresh && rollup.may_fall(window))
                     ? Replace::all
                     : Replace::guard;
        },
        time(turn, rollup.source));
    note_gone(turn, rollup, true);
    // The scan has seen what was listed of them; what it could not take in is listed anew.
    if (!rollup.windowed || timeless) forget_late(rollup, minus_infinity, minus_infinity);
    if (!rollup.windowed) forget_late(rollup, minus_infinity, plus_infinity);
    for (const Range& range : windows) forget_late(rollup, range.lo, range.hi);
    for (const Refusal refusal : {Refusal::key, Refusal::no_time}) {
      Fold listed(rollup.program);
      merge_into_windows(listed, rollup, panes, same, [&](const Fold& from, size_t slot, auto window) {
        const bool is_timeless = refusal == Refusal::no_time;
        if (!window) return is_timeless && timeless ? std::make_optional(no_time_pane) : window;
        return !is_timeless && turn.recomputes(*window) && is_too_wide(from, slot) ? window : std::nullopt;
      });
      list_late(rollup, listed, refusal, turn.started);
    }
  }
  if (fresh)  // these need no second look
    for (const Range& range : std::vector<Range>(rollup.dirty))
      if ((range.missed || range.replace) && range.lo >= std::max(turn.lo, covered) && range.hi <= turn.hi)
        shorten_pending(rollup, range, range.lo);
  // What lies below is left to a later turn, or, where the source does not reach, for good.
  const Micros rest = turn.lo > target ? turn.lo : turn.ranges.front().lo;
  for (const Range& range : turn.done)
    if (range.hi > rest) shorten_pending(rollup, range, rest);
  if (!fresh || rollup.status == "live") list_stale(rollup, std::min(rest, turn.hi), turn.hi);
  if (!fresh) give_up_missed(turn, rollup, covered);
  if (fresh && rollup.filling > 0) end_filling(turn, rollup);
  become_live(rollup);
  current_ = 0;
}

// Columns that were added stay unknown in the windows of this turn that the source no longer covers by now.
void Merger::end_filling(const Turn& turn, Rollup& rollup) {
  const Micros from = std::min(rollup.first_covered(), turn.hi);
  const size_t items = rollup.program.items.size(), first = items - std::min<size_t>(items, rollup.filling);
  if (rollup.fresh.empty()) rollup.filling = 0;
  for (size_t item = first; item < rollup.known_from.size(); ++item)
    rollup.known_from[item] = std::max(rollup.known_from[item], from);
  call([&] {
    Oid types[4] = {INT4OID, INT4OID, INT4OID, TIMESTAMPTZOID};
    Datum values[4] = {Int32GetDatum(rollup.id), Int32GetDatum(rollup.filling),
                       Int32GetDatum(static_cast<int32>(first)), TimestampTzGetDatum(from)};
    const char* sql =
        "UPDATE tick_catalog.rollup AS r SET filling = $2, item_from = (SELECT array_agg(CASE WHEN u.n > $3 "
        "THEN "
        "greatest(u.t, nullif($4, '-infinity')) ELSE u.t END ORDER BY u.n) FROM unnest(r.item_from) WITH "
        "ORDINALITY AS u "
        "(t, n)) WHERE r.id = $1";
    if (SPI_execute_plan(kept_plan(sql, 4, types), values, nullptr, false, 0) != SPI_OK_UPDATE)
      elog(ERROR, "pg_tick: cannot run: %s", sql);
  });
}

void Merger::become_live(Rollup& rollup) {
  if (rollup.status != "backfill" || !rollup.fresh.empty()) return;
  execute("UPDATE tick_catalog.rollup SET status = 'live' WHERE id = " + std::to_string(rollup.id));
  rollup.status = "live";
}

}  // namespace tick::pg
