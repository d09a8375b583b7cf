#include "merge.hpp"

#include <algorithm>
#include <set>

#include "audit.hpp"
#include "catalog.hpp"
#include "dedup.hpp"
#include "guard.hpp"
#include "helper.hpp"
#include "queue.hpp"
#include "scan.hpp"
#include "session.hpp"
#include "shared.hpp"
#include "state.hpp"

namespace tick::pg {
namespace {

constexpr int most_lock_failures = 3;
constexpr TimestampTz locked_out_for = USECS_PER_SEC / 2;
constexpr TimestampTz pieces_for = USECS_PER_SEC / 100;    // that a turn merges what scans have found
constexpr TimestampTz helper_patience = USECS_PER_SEC;     // before the worker scans itself
constexpr TimestampTz no_helper_for = 30 * USECS_PER_SEC;  // after there was none to be had
constexpr int most_yields = 3;                             // of a scan to those who want a lock

// Runs a statement of ours about a range of pending windows of a rollup.
void pending_statement(const char* sql, int rollup, const Range& range) {
  call([&] {
    Oid types[6] = {INT4OID, INT8OID, INT8OID, BOOLOID, INT8OID, BOOLOID};
    Datum values[6] = {Int32GetDatum(rollup),     Int64GetDatum(range.lo),   Int64GetDatum(range.hi),
                       BoolGetDatum(range.fresh), Int64GetDatum(range.scan), BoolGetDatum(range.replace)};
    const char nulls[7] = {' ', ' ', ' ', ' ', range.scan == 0 ? 'n' : ' ', ' ', '\0'};
    if (SPI_execute_plan(kept_plan(sql, 6, types), values, nulls, false, 0) < 0)
      elog(ERROR, "pg_tick: cannot run: %s", sql);
  });
}

void insert_pending(int rollup, const Range& range) {
  pending_statement(
      "INSERT INTO tick_catalog.pending (rollup, lo, hi, fresh, scan, replace) "
      "VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
      rollup, range);
}

void delete_pending(int rollup, const Range& range) {
  pending_statement(
      "DELETE FROM tick_catalog.pending WHERE rollup = $1 AND lo = $2 AND hi = $3 AND fresh = $4", rollup,
      range);
}

// Keeps a delta that cannot be read, for people.
void hold_delta(int64_t program, std::string_view payload, const char* reason) {
  call([&] {
    Oid types[3] = {INT8OID, BYTEAOID, TEXTOID};
    Datum values[3] = {Int64GetDatum(program), varlena_datum(payload.data(), payload.size()),
                       CStringGetTextDatum(reason)};
    const char* sql = "INSERT INTO tick_catalog.held (program, payload, reason) VALUES ($1, $2, $3)";
    if (SPI_execute_plan(kept_plan(sql, 3, types), values, nullptr, false, 0) < 0)
      elog(ERROR, "pg_tick: cannot run: %s", sql);
  });
}

// Marks a rollup as set aside: its windows will be recomputed once it is resumed.
void mark_set_aside(int rollup, const std::string& reason) {
  const char* text = reason.c_str();
  const bool there = call([&] {
    Oid types[2] = {INT4OID, TEXTOID};
    Datum values[2] = {Int32GetDatum(rollup), CStringGetTextDatum(text)};
    SPI_execute_plan(
        kept_plan("UPDATE tick_catalog.rollup SET status = 'error', last_error = $2 WHERE id = $1", 2, types),
        values, nullptr, false, 0);
    const bool found = SPI_processed == 1;
    SPI_execute_plan(kept_plan("DELETE FROM tick_catalog.pending WHERE rollup = $1", 1, types), values,
                     nullptr, false, 0);
    if (found)
      ereport(WARNING, (errmsg("rollup %d is set aside: %s", rollup, text),
                        errhint("Cure the cause, then SELECT tick.resume(rollup) to recompute it.")));
    return found;
  });
  if (there) insert_pending(rollup, {minus_infinity, plus_infinity, true});
}

// Runs a statement of ours; text must not contain anything a user supplied unquoted.
void execute(const std::string& sql) {
  const char* text = sql.c_str();
  call([&] {
    if (SPI_execute(text, false, 0) < 0) elog(ERROR, "pg_tick: cannot run: %s", text);
  });
}

// The items of a fold of the rollup, each as itself.
std::vector<int16_t> every_item(const Rollup& rollup) {
  std::vector<int16_t> same(rollup.program.items.size());
  std::iota(same.begin(), same.end(), static_cast<int16_t>(0));
  return same;
}

// Notes which windows a fold of a rollup has rows in.
void note_windows(std::map<int, std::set<Micros>>& windows, const Rollup& rollup, const Fold& fold) {
  if (!rollup.windowed || fold.slots() == 0) return;
  std::set<Micros>& of = windows[rollup.id];
  for (size_t slot = 0; slot < fold.slots(); ++slot) of.insert(fold.pane(slot));
}

}  // namespace

// What one turn knows. Folds are per program of the deltas read.
struct Merger::Turn {
  Frontier before, now;
  Frontier ids_before;  // of the deltas of ids
  bool ids = false;     // there are any
  uint64_t cut = 0;
  std::map<int64_t, std::unique_ptr<Fold>> folds;
  Rollup* recomputed = nullptr;  // whose windows this turn recomputes
  std::vector<Range> ranges;     // which of them, ascending and apart; all fresh or all dirty
  std::vector<Range> done;       // the pending ranges that they are made of
  Micros lo = minus_infinity;    // the part of them below is left to a later turn
  Micros hi = plus_infinity;     // the greatest of their ends
  std::vector<Leaf> leaves;      // of its source, locked before the snapshot
  TimestampTz since = 0;         // the first commit not taken up before
  Relation frontier = nullptr;   // open while the turn runs
  HeapTuple frontier_row = nullptr;
  std::map<int, std::set<Micros>> touched;   // rollup -> windows that deltas were merged into
  std::map<int, std::set<Micros>> replaced;  // and those that were recomputed
  std::map<int, Change> changes;             // for those who listen
  std::map<int64_t, std::string> corrupted;  // programs with a delta that cannot be read
  TimestampTz started = 0;
  HelperView helper{HelperPhase::absent, 0};  // before the snapshot
  TurnResult result;

  // True for windows that somebody has asked to have replaced, whatever the source holds.
  bool may_fall(Micros window) const {
    return std::any_of(done.begin(), done.end(), [&](const Range& range) {
      return range.replace && window >= range.lo && window < range.hi;
    });
  }
  // True for windows that this turn replaces by what the source holds.
  bool recomputes(Micros window) const {
    const auto after = std::upper_bound(ranges.begin(), ranges.end(), window,
                                        [](Micros at, const Range& range) { return at < range.lo; });
    return after != ranges.begin() && window >= lo && window < std::prev(after)->hi;
  }
};

Merger::Merger() = default;
Merger::~Merger() = default;

TurnResult Merger::turn(TimestampTz since) {
  current_ = 0;
  try {
    return attempt(since);
  } catch (const PgError& error) {
    const int rollup = current_;
    const bool transient = is_transient(error.data->sqlerrcode);
    const std::string message = error.data->message == nullptr ? "unknown error" : error.data->message;
    // Somebody holds the state table: others cannot wait for him for ever.
    const bool stuck = rollup != 0 && error.data->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE &&
                       ++lock_failures_[rollup] >= most_lock_failures;
    if (rollup == 0 || (transient && !stuck)) {
      generation_ = 0;
      throw;
    }
    lock_failures_.erase(rollup);
    call([&] { AbortCurrentTransaction(); });
    set_aside(rollup, message);
  } catch (const Error& error) {
    const int rollup = current_;
    const std::string message = error.what();
    if (rollup == 0) {
      generation_ = 0;
      throw;
    }
    call([&] { AbortCurrentTransaction(); });
    set_aside(rollup, message);
  }
  TurnResult result;
  result.rollups = result.changed = result.more = true;
  return result;
}

TurnResult Merger::attempt(TimestampTz since) {
  Turn turn;
  turn.since = since;
  plan_recompute(turn);
  bool installed = true;
  call([&] {
    SetCurrentStatementStartTimestamp();
    StartTransactionCommand();
    XactIsoLevel = XACT_REPEATABLE_READ;
    if (planted("snapshot_before_lock")) PushActiveSnapshot(GetTransactionSnapshot());
    const Oid frontier = catalog_relation("frontier");
    installed = OidIsValid(frontier);
    if (installed) {
      // The only mutex of a turn. A lock on the object, not on the row: it has to be had before the snapshot.
      LockDatabaseObject(RelationRelationId, frontier, 1, ExclusiveLock);
      installed = OidIsValid(get_extension_oid("pg_tick", true));
    }
  });
  if (!installed) {
    call([&] { AbortCurrentTransaction(); });
    return turn.result;
  }
  // Before the snapshot: one older than a DROP PARTITION or a rewrite would wipe candles.
  if (turn.recomputed != nullptr) {
    current_ = turn.recomputed->id;
    auto leaves = lock_leaves_of(*turn.recomputed);
    if (leaves) {
      turn.leaves = std::move(*leaves);
    } else {
      locked_out_[turn.recomputed->source] = GetCurrentTimestamp() + locked_out_for;
      turn.recomputed = nullptr;
    }
    current_ = 0;
  }
  call([&] {
    if (!planted("snapshot_before_lock")) PushActiveSnapshot(GetTransactionSnapshot());
    SPI_connect();
  });
  turn.started = GetCurrentTransactionStartTimestamp();
  load(turn);
  if (turn.result.more) {  // the catalogs have changed under the plan: start over
    call([&] {
      SPI_finish();
      PopActiveSnapshot();
      AbortCurrentTransaction();
    });
    turn.result.rollups = true;
    return turn.result;
  }
  turn.result.rollups = !rollups_.empty() || dedup_;
  consume(turn);
  // All of them, also in a bounded turn: a delta must not be merged before one whose writer held the lock
  // earlier.
  if (turn.ids || turn.cut != 0) (void)merge_ids(turn.ids_before, turn.started, hold_delta);
  if (turn.cut != 0) turn.recomputed = nullptr;  // a bounded turn may merge but never recompute
  if (turn.recomputed != nullptr && !same_leaves(turn.recomputed->source, turn.leaves)) {
    turn.recomputed = nullptr;
    turn.result.more = true;
  }
  settle_watermarks(turn);
  if (turn.recomputed != nullptr && !knows_leaves(turn)) {
    // A leaf has gone that nobody has told us of: the audit says what the source covers now.
    locked_out_[turn.recomputed->source] = GetCurrentTimestamp() + locked_out_for;
    expect_audit();
    turn.recomputed = nullptr;
  }
  set_aside_failures(turn);
  const bool merged = merge_pieces(turn);
  // First the deltas: a recompute compares what it finds with what all of them make.
  merge_deltas(turn);
  if (turn.recomputed != nullptr && !leave_to_helper(turn)) recompute(turn);
  turn.result.changed = merged || !turn.folds.empty() || turn.ids || turn.recomputed != nullptr;
  move_watermarks(turn);
  if (turn.result.changed) move_frontier(turn);
  call([&] {
    table_close(turn.frontier, NoLock);
    SPI_finish();
    PopActiveSnapshot();
    CommitTransactionCommand();
  });
  watermarks_.committed();
  was_cut_ = turn.cut != 0;
  tell(turn);
  turn.result.due = next_due();
  for (const Rollup& rollup : rollups_)
    if (is_due(rollup)) turn.result.more = true;
  if (turn.cut != 0) turn.result.more = true;
  return turn.result;
}

// Chooses a rollup with windows to recompute: what to lock has to be known before the snapshot. They take
// turns; one whose source is locked by somebody is passed over for a while.
void Merger::plan_recompute(Turn& turn) {
  turn.helper = look_at_helper();
  if (generation_ == 0) return;
  const TimestampTz now = GetCurrentTimestamp();
  std::erase_if(locked_out_, [&](const auto& until) { return until.second <= now; });
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
  if (rollup.status == "error" || locked_out_.contains(rollup.source)) return false;
  return next_fresh(rollup) != nullptr ||
         std::any_of(rollup.dirty.begin(), rollup.dirty.end(),
                     [&](const Range& range) { return !overlaps_fresh(rollup, range); });
}

void Merger::load(Turn& turn) {
  const char* before = nullptr;
  const char* now = nullptr;
  const char* ids = nullptr;
  int64_t generation = 0;
  call([&] {
    turn.frontier = table_open(catalog_relation("frontier"), RowExclusiveLock);
    Relation generations = table_open(catalog_relation("generation"), AccessShareLock);
    const Datum one = BoolGetDatum(true);
    turn.frontier_row = read_row(turn.frontier, "frontier_pkey", F_BOOLEQ, one, &frontier_place_);
    HeapTuple row = read_row(generations, "generation_pkey", F_BOOLEQ, one, &generation_place_);
    if (turn.frontier_row == nullptr || row == nullptr)
      ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED),
                      errmsg("tick_catalog.frontier and tick_catalog.generation must have one row")));
    bool null;
    before = DatumGetCString(DirectFunctionCall1(
        pg_snapshot_out, heap_getattr(turn.frontier_row, 2, RelationGetDescr(turn.frontier), &null)));
    const Datum ids_at = heap_getattr(turn.frontier_row, 3, RelationGetDescr(turn.frontier), &null);
    ids = null ? before : DatumGetCString(DirectFunctionCall1(pg_snapshot_out, ids_at));
    now = DatumGetCString(DirectFunctionCall1(pg_snapshot_out, OidFunctionCall0(F_PG_CURRENT_SNAPSHOT)));
    generation = DatumGetInt64(heap_getattr(row, 2, RelationGetDescr(generations), &null));
    table_close(generations, NoLock);
  });
  turn.before = Frontier::parse(before);
  turn.now = Frontier::parse(now);
  turn.ids_before = Frontier::parse(ids);
  token_ = std::to_string(turn.before.xmax);
  if (generation == generation_) {
    watermarks_.read();
    return;
  }
  const bool planned = turn.recomputed != nullptr;
  turn.recomputed = nullptr;
  // A commit wakes the worker before it tells of what it has invalidated: a function that was replaced, say.
  call([&] { InvalidateSystemCaches(); });
  rollups_ = load_rollups(0);
  dedup_ = any_dedup();
  watermarks_.load();
  watermarks_.read();
  windows_.load();
  generation_ = generation;
  const bool pending = std::any_of(rollups_.begin(), rollups_.end(), [](const Rollup& rollup) {
    return rollup.status != "error" && rollup.pending();
  });
  if (planned || pending) turn.result.more = true;
}

// Brings the watermarks up to now, before the rows of this turn are taken in.
void Merger::settle_watermarks(Turn& turn) {
  std::vector<Oid> arrived;
  for (const auto& [program, fold] : turn.folds)
    if (fold) arrived.push_back(call([&] { return find_evaluator(program)->source; }));
  watermarks_.settle(turn.started, turn.since, turn.cut != 0 || was_cut_, arrived);
}

void Merger::consume(Turn& turn) {
  std::set<int64_t> wanted;
  for (const Rollup& rollup : rollups_)
    if (rollup.status != "error")
      for (const auto& [program, items] : rollup.items) wanted.insert(program);
  turn.cut = read_deltas(turn.before, static_cast<size_t>(tick_turn_memory) * 1024,
                         [&](int64_t program, std::string_view payload) {
                           ++turn.result.deltas;
                           if (program < 0) {
                             turn.ids = true;
                             return;
                           }
                           auto& fold = turn.folds[program];
                           if (!wanted.contains(program)) return;  // no rollup wants it any more
                           if (!fold) {
                             const Evaluator* evaluator = call([&] { return find_evaluator(program); });
                             if (evaluator == nullptr) return;
                             fold = std::make_unique<Fold>(evaluator->program);
                           }
                           try {
                             if (!turn.corrupted.contains(program)) merge_delta(*fold, payload);
                           } catch (const Error& error) {
                             turn.corrupted.emplace(program, error.what());
                             hold_delta(program, payload, error.what());
                           }
                         });
  for (const auto& [program, reason] : turn.corrupted) {
    turn.folds[program].reset();  // half merged: of no use
    for (Rollup& rollup : rollups_)
      if (rollup.status != "error" && rollup.items.contains(program)) set_aside_in_turn(turn, rollup, reason);
  }
}

void Merger::set_aside_in_turn(Turn& turn, Rollup& rollup, const std::string& reason) {
  mark_set_aside(rollup.id, reason);
  rollup.status = "error";
  rollup.fresh = {{minus_infinity, plus_infinity, true}};
  rollup.dirty.clear();
  if (turn.recomputed == &rollup) turn.recomputed = nullptr;
}

// A delta whose writer could not evaluate an expression: the rollups that use it cannot be right any more.
void Merger::set_aside_failures(Turn& turn) {
  for (const auto& [program, fold] : turn.folds) {
    if (!fold) continue;
    for (const Fold::Failure& failure : fold->failures()) {
      const Program& of = fold->program();
      const bool shared = failure.input == of.where || failure.input == of.time ||
                          std::find(of.keys.begin(), of.keys.end(), failure.input) != of.keys.end();
      for (Rollup& rollup : rollups_) {
        const auto items = rollup.items.find(program);
        if (rollup.status == "error" || items == rollup.items.end()) continue;
        // Nothing has been computed yet: the recompute will meet the row, unless it is gone by then.
        if (std::any_of(rollup.fresh.begin(), rollup.fresh.end(), [](const Range& range) {
              return range.scan == 0 && range.lo == minus_infinity && range.hi == plus_infinity;
            }))
          continue;
        const bool uses =
            shared || std::any_of(items->second.begin(), items->second.end(), [&](int16_t index) {
              const Item& item = of.items.at(index);
              return item.value == failure.input || item.order == failure.input ||
                     item.seq == failure.input || item.filter == failure.input;
            });
        if (!uses) continue;
        set_aside_in_turn(turn, rollup, failure.message);
      }
    }
  }
}

TurnTime Merger::time(const Turn& turn, Oid source) const {
  return {turn.started, watermarks_.of(source)};
}

Merger::Verdict Merger::judge(const Rollup& rollup, const Fold& from, size_t slot) const {
  const auto window = window_of(rollup, from.pane(slot));
  // The recompute of what was never computed will see these rows.
  if (rollup.is_fresh(window.value_or(no_time_pane))) return {};
  if (!window) return {no_time_pane, Refusal::no_time, false};
  if (is_too_wide(from, slot)) return {window, Refusal::key, false};
  const auto frozen = rollup.windowed ? watermarks_.frozen_before(rollup.source) : std::nullopt;
  if (!frozen || window_end(*window, rollup.size) > *frozen) return {window, std::nullopt, false};
  // What has left may be listed only: the source knows.
  if (from.removed(slot) > 0) return {window, std::nullopt, true};
  return {window, Refusal::frozen, false};
}

void Merger::merge_deltas(Turn& turn) {
  for (Rollup& rollup : rollups_) {
    if (rollup.status == "error") continue;
    current_ = rollup.id;
    Fold fold(rollup.program);
    std::map<Refusal, std::unique_ptr<Fold>> refused;
    std::set<Micros> lost;
    for (const auto& [program, delta] : turn.folds) {
      const auto items = rollup.items.find(program);
      if (!delta || items == rollup.items.end()) continue;
      std::set<Refusal> found;
      fold.merge(*delta, items->second, [&](const Fold& from, size_t slot) -> std::optional<Micros> {
        const Verdict verdict = judge(rollup, from, slot);
        if (verdict.corrects_frozen) lost.insert(*verdict.window);
        if (verdict.refusal) found.insert(*verdict.refusal);
        return verdict.refusal ? std::nullopt : verdict.window;
      });
      for (const Refusal refusal : found) {
        auto& listed = refused[refusal];
        if (!listed) listed = std::make_unique<Fold>(rollup.program);
        listed->merge(*delta, items->second, [&](const Fold& from, size_t slot) -> std::optional<Micros> {
          const Verdict verdict = judge(rollup, from, slot);
          return verdict.refusal == refusal ? verdict.window : std::nullopt;
        });
      }
    }
    if (fold.slots() > 0) check_source_rights(rollup);
    note_windows(turn.touched, rollup, fold);
    if (has_listeners() && fold.slots() > 0) add_change(turn.changes[rollup.id], rollup, fold);
    // In a bounded turn a row may leave before it has come, and so it may while its history is being scanned.
    const bool scanned = std::any_of(rollup.fresh.begin(), rollup.fresh.end(),
                                     [](const Range& range) { return range.scan != 0; });
    lost.merge(merge_state(rollup, fold, time(turn, rollup.source), turn.cut == 0 && !scanned));
    mark_dirty(rollup, lost);
    for (const auto& [refusal, listed] : refused) list_late(rollup, *listed, refusal, turn.started);
    current_ = 0;
  }
  for (const auto& [program, fold] : turn.folds) {
    if (!fold) continue;
    const Oid source = call([&] { return find_evaluator(program)->source; });
    watermarks_.note(source, *fold, false);
  }
  turn.result.rows = watermarks_.arrived();
}

// An extremum may have left these windows: they are recomputed from the source, in a later turn, or listed as
// stale if it no longer covers them.
void Merger::mark_dirty(Rollup& rollup, const std::set<Micros>& windows) {
  const Micros covered = rollup.first_covered();
  if (!windows.empty() && *windows.begin() < covered)
    list_stale(rollup, *windows.begin(), std::min(covered, *windows.rbegin() + 1));
  std::vector<Range> ranges;
  for (Micros window : windows) {
    if (window < covered) continue;
    const Range range = rollup.windowed ? Range{window, window_end(window, rollup.size), false}
                                        : Range{minus_infinity, plus_infinity, false};
    if (!ranges.empty() && ranges.back().hi == range.lo)
      ranges.back().hi = range.hi;
    else
      ranges.push_back(range);
  }
  if (ranges.empty()) return;
  std::map<Micros, Micros> known;  // lo -> greatest hi
  for (const Range& range : rollup.dirty) known[range.lo] = std::max(known[range.lo], range.hi);
  for (const Range& range : ranges) {
    const auto after = known.upper_bound(range.lo);
    if (after != known.begin() && std::prev(after)->second >= range.hi) continue;
    insert_pending(rollup.id, range);
    rollup.dirty.push_back(range);
  }
}

// Replaces a pending range by the part of it that lies below `lo`, if any.
void Merger::shorten_pending(Rollup& rollup, const Range& range, Micros lo) {
  delete_pending(rollup.id, range);
  auto& ranges = range.fresh ? rollup.fresh : rollup.dirty;
  std::erase_if(ranges, [&](const Range& known) { return known.lo == range.lo && known.hi == range.hi; });
  if (range.lo >= lo) return;
  const Range rest{range.lo, std::min(range.hi, lo), range.fresh, range.replace};
  insert_pending(rollup.id, rest);
  ranges.push_back(rest);
}

// Brings the list of stale windows in [lo, hi) up to what the state table says.
void Merger::list_stale(const Rollup& rollup, Micros lo, Micros hi) {
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

// True if every leaf that is known to have held rows of the source is still among those locked.
bool Merger::knows_leaves(const Turn& turn) {
  const auto known = read_text(
      ("SELECT leaf FROM tick_catalog.leaf WHERE source = " + std::to_string(turn.recomputed->source))
          .c_str());
  return std::all_of(known.begin(), known.end(), [&](const auto& row) {
    return std::any_of(turn.leaves.begin(), turn.leaves.end(),
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
  Micros lo = range.lo;
  const Micros hi = range.hi;
  if (rollup.windowed) narrow_to_leaves(turn.leaves, rollup.size, lo, hi);
  double rows = 0, blocks = 0;
  for (const Leaf& leaf : turn.leaves) {
    if (rollup.windowed && leaf.bounded && (leaf.hi <= lo || leaf.lo >= hi)) continue;
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
  const int attempt = again ? ++attempts_[rollup.id] : (attempts_[rollup.id] = 0);
  if (!hand_over({rollup.id, scan, lo, hi, rows, attempt < most_yields})) {
    // It has just ended, or somebody wants a lock on the source.
    if (look_at_helper().phase != HelperPhase::absent)
      locked_out_[rollup.source] = turn.started + locked_out_for;
    turn.recomputed = nullptr;
    return true;
  }
  current_ = rollup.id;
  if (again) {
    replace_state(
        rollup, Fold(rollup.program), {range}, [](Micros) { return Replace::all; },
        time(turn, rollup.source));
    lost_.erase(range.scan);
  }
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
  for (Rollup& rollup : rollups_) {
    if (rollup.status == "error") continue;
    const std::vector<Range> ranges = rollup.fresh;
    for (const Range& range : ranges) {
      if (range.scan != 0 && range.scan == turn.helper.scan) wanted = true;
      if (range.scan == 0 || range.scan == turn.helper.scan || lost_.contains(range.scan)) continue;
      current_ = rollup.id;
      if (const auto error = scan_error(range.scan)) {
        set_aside_in_turn(turn, rollup, *error);
        merged = true;
        break;
      }
      bool left = has_piece(range.scan);
      if (!left) {  // and nobody works on it: its helper has ended, or was killed
        lost_.insert(range.scan);
        locked_out_[rollup.source] = turn.started + locked_out_for;
        continue;
      }
      while (left) {
        Fold piece(rollup.program), fold(rollup.program), wide(rollup.program);
        merge_delta(piece, take_piece(range.scan));
        for (const bool too_wide : {false, true})
          (too_wide ? wide : fold)
              .merge(piece, every_item(rollup), [&](const Fold& from, size_t slot) -> std::optional<Micros> {
                return is_too_wide(from, slot) == too_wide ? std::make_optional(from.pane(slot))
                                                           : std::nullopt;
              });
        list_late(rollup, wide, Refusal::key, turn.started);
        // History is no revision of what deltas have brought meanwhile. Where these have taken away more than
        // is there yet, the window is marked already.
        (void)merge_state(rollup, fold, {turn.started, std::nullopt}, false);
        if (has_listeners()) add_change(turn.changes[rollup.id], rollup, fold);
        watermarks_.note(rollup.source, fold, true);
        if (rollup.windowed)
          for (size_t slot = 0; slot < fold.slots(); ++slot) turn.replaced[rollup.id].insert(fold.pane(slot));
        left = has_piece(range.scan);
        if (GetCurrentTimestamp() >= until) break;
      }
      merged = true;
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
  turn.lo = turn.ranges.front().lo;
  turn.hi = turn.ranges.back().hi;
  if (!fresh) turn.lo = std::max(turn.lo, covered);
  Evaluator* evaluator = call([&] { return find_evaluator(rollup.newest); });
  Fold fold(rollup.program);
  const Micros target = turn.lo;
  if (turn.lo < turn.hi) {
    if (rollup.windowed) narrow_to_leaves(turn.leaves, rollup.size, turn.lo, turn.hi);
    Fold panes(rollup.program);
    if (rollup.windowed) panes.restrict_to(turn.lo, turn.hi);
    // If there are too many windows for memory, the oldest are left to a later turn.
    scan_leaves(rollup, evaluator, turn.leaves, turn.lo, turn.hi, panes, [&](int) {
      if (!rollup.windowed || panes.memory() <= scan_memory) return;
      std::vector<Micros> times;
      for (size_t at = 0; at < panes.slots(); ++at) times.push_back(panes.pane(at));
      std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
      const Micros middle = window_end(window_start(times[times.size() / 2], rollup.size), rollup.size);
      if (middle <= turn.lo || middle >= turn.hi) return;  // one window: nothing to leave out
      turn.lo = middle;
      panes.restrict_to(turn.lo, turn.hi);
    });
    const std::vector<int16_t> same = every_item(rollup);
    fold.merge(panes, same, [&](const Fold& from, size_t slot) -> std::optional<Micros> {
      const auto window = window_of(rollup, from.pane(slot));
      return window && turn.recomputes(*window) && !is_too_wide(from, slot) ? window : std::nullopt;
    });
    watermarks_.note(rollup.source, panes, true);
    note_windows(turn.replaced, rollup, fold);
    if (has_listeners() && fold.slots() > 0) add_change(turn.changes[rollup.id], rollup, fold);
    std::vector<Range> windows;
    for (const Range& range : turn.ranges)
      if (range.hi > turn.lo && range.lo < turn.hi)
        windows.push_back({std::max(range.lo, turn.lo), std::min(range.hi, turn.hi), fresh});
    replace_state(
        rollup, fold, windows,
        [&](Micros window) {
          if (window < covered) return Replace::keep;
          return fresh || turn.may_fall(window) ? Replace::all : Replace::guard;
        },
        time(turn, rollup.source));
    // The scan has seen what was listed of them; what it could not take in is listed anew.
    if (!rollup.windowed || turn.recomputes(no_time_pane))
      forget_late(rollup, minus_infinity, minus_infinity);
    if (!rollup.windowed) forget_late(rollup, minus_infinity, plus_infinity);
    for (const Range& range : windows) forget_late(rollup, range.lo, range.hi);
    for (const Refusal refusal : {Refusal::key, Refusal::no_time}) {
      Fold listed(rollup.program);
      listed.merge(panes, same, [&](const Fold& from, size_t slot) -> std::optional<Micros> {
        const auto window = window_of(rollup, from.pane(slot));
        const bool timeless = refusal == Refusal::no_time;
        if (!window)
          return timeless && turn.recomputes(no_time_pane) ? std::make_optional(no_time_pane) : window;
        return !timeless && turn.recomputes(*window) && is_too_wide(from, slot) ? window : std::nullopt;
      });
      list_late(rollup, listed, refusal, turn.started);
    }
  }
  // What lies below is left to a later turn, or, where the source does not reach, for good.
  const Micros rest = turn.lo > target || fresh ? turn.lo : turn.ranges.front().lo;
  for (const Range& range : turn.done)
    if (range.hi > rest) shorten_pending(rollup, range, rest);
  if (!fresh || rollup.status == "live") list_stale(rollup, std::min(rest, turn.hi), turn.hi);
  become_live(rollup);
  current_ = 0;
}

void Merger::become_live(Rollup& rollup) {
  if (rollup.status != "backfill" || !rollup.fresh.empty()) return;
  execute("UPDATE tick_catalog.rollup SET status = 'live' WHERE id = " + std::to_string(rollup.id));
  rollup.status = "live";
}

void Merger::move_watermarks(Turn& turn) {
  for (const Rollup& rollup : rollups_) {
    const auto after = watermarks_.after(rollup.source);
    if (const auto windows = turn.replaced.find(rollup.id); windows != turn.replaced.end())
      windows_.touch_recomputed(rollup, windows->second, after);
    if (const auto windows = turn.touched.find(rollup.id); windows != turn.touched.end())
      windows_.touch(rollup, windows->second, watermarks_.of(rollup.source), turn.started);
    if (after && windows_.earliest_end(rollup) <= *after) watermarks_.touch(rollup.source);
  }
  watermarks_.write();
}

void Merger::move_frontier(Turn& turn) {
  if (turn.recomputed != nullptr && planted("chunk_outside_turn")) return;
  const Frontier frontier = turn.cut != 0 ? turn.now.below(turn.cut) : turn.now;
  const std::string text = frontier.text(), ids = turn.now.text();
  token_ = std::to_string(frontier.xmax);
  call([&] {
    Datum values[3] = {BoolGetDatum(true), DirectFunctionCall1(pg_snapshot_in, CStringGetDatum(text.c_str())),
                       DirectFunctionCall1(pg_snapshot_in, CStringGetDatum(ids.c_str()))};
    bool nulls[3] = {false, false, turn.cut == 0};
    HeapTuple row = heap_form_tuple(RelationGetDescr(turn.frontier), values, nulls);
    write_row(turn.frontier, row, &frontier_place_);
  });
}

// Tells listeners what has changed and which windows have closed, after the turn and in a transaction of its
// own. A closed window stays in its table until it has been told of.
void Merger::tell(Turn& turn) {
  std::map<int, std::vector<Micros>> ended;
  const bool listeners = has_listeners();
  bool anything = false;
  for (const Rollup& rollup : rollups_) {
    if (rollup.status == "error") continue;
    anything = anything || (listeners && turn.changes.contains(rollup.id));
    const auto watermark = watermarks_.stored(rollup.source);
    if (!watermark || windows_.earliest_end(rollup) > *watermark) continue;
    std::vector<Micros> windows = windows_.ended(rollup, *watermark);
    std::erase_if(windows, [&](Micros window) { return rollup.is_fresh(window); });
    if (windows.empty()) continue;
    ended.emplace(rollup.id, std::move(windows));
    anything = true;
  }
  if (!anything || turn.started < tell_after_) return;
  try {
    call([&] {
      StartTransactionCommand();
      PushActiveSnapshot(GetTransactionSnapshot());
      SPI_connect();
    });
    if (planted("notify_fails")) call([&] { elog(ERROR, "too many notifications in the NOTIFY queue"); });
    for (const Rollup& rollup : rollups_) {
      const auto change = turn.changes.find(rollup.id);
      if (listeners && change != turn.changes.end()) notify_change(rollup, change->second, token_);
      const auto windows = ended.find(rollup.id);
      if (windows == ended.end()) continue;
      windows_.remove(rollup, windows->second);
      for (size_t i = 0; listeners && i < windows->second.size(); ++i)
        notify_closed(rollup, windows->second[i], token_);
    }
    call([&] {
      SPI_finish();
      PopActiveSnapshot();
      CommitTransactionCommand();
    });
    tell_after_ = 0;
  } catch (const PgError& error) {
    // The turn is committed; closed windows are told of later.
    tell_after_ = GetCurrentTimestamp() + USECS_PER_SEC;
    const bool report = tell_after_ - failure_told_ > 60 * USECS_PER_SEC;
    if (report) failure_told_ = tell_after_;
    call([&] {
      HOLD_INTERRUPTS();
      AbortCurrentTransaction();
      if (report)
        ereport(WARNING, (errcode(error.data->sqlerrcode),
                          errmsg("pg_tick cannot notify listeners: %s", error.data->message),
                          errhint("Rollups are kept up to date all the same. If the queue is full, end the "
                                  "session that pg_notification_queue_usage() is waiting for.")));
      RESUME_INTERRUPTS();
    });
    return;
  }
  for (const Rollup& rollup : rollups_)
    if (const auto windows = ended.find(rollup.id); windows != ended.end())
      windows_.forget(rollup, windows->second);
}

// When there is something to do though nothing arrives: a window closes, or what was put off is tried again.
TimestampTz Merger::next_due() const {
  TimestampTz due = plus_infinity;
  for (const auto& [source, until] : locked_out_) due = std::min(due, until);
  for (const Rollup& rollup : rollups_) {
    if (rollup.status == "error") continue;
    const Micros end = windows_.earliest_end(rollup);
    // What is not computed yet is not told of yet.
    if (end == plus_infinity || rollup.is_fresh(window_start(end - 1, rollup.size))) continue;
    const auto watermark = watermarks_.stored(rollup.source);
    due = std::min(due, watermark && end <= *watermark ? tell_after_ : watermarks_.due(rollup.source, end));
  }
  return due;
}

// In a transaction of its own, after the turn that failed was aborted.
void Merger::set_aside(int rollup, const std::string& reason) {
  generation_ = 0;
  call([&] {
    StartTransactionCommand();
    PushActiveSnapshot(GetTransactionSnapshot());
    SPI_connect();
  });
  mark_set_aside(rollup, reason);
  call([&] {
    SPI_finish();
    PopActiveSnapshot();
    CommitTransactionCommand();
  });
}

}  // namespace tick::pg
