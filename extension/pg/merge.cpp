
#include <algorithm>

#include "audit.hpp"
#include "catalog.hpp"
#include "dedup.hpp"
#include "guard.hpp"
#include "helper.hpp"
#include "history.hpp"
#include "queue.hpp"
#include "revive.hpp"
#include "scan.hpp"
#include "session.hpp"
#include "shared.hpp"
#include "state.hpp"
#include "turn.hpp"

namespace tick::pg {
namespace {

constexpr int most_passing_failures = 3;

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

}  // namespace

void mark_set_aside(int rollup, const std::string& reason) {
  const char* text = reason.c_str();
  const bool there = call([&] {
    Oid types[2] = {INT4OID, TEXTOID};
    Datum values[2] = {Int32GetDatum(rollup), CStringGetTextDatum(text)};
    SPI_execute_plan(
        kept_plan("UPDATE tick_catalog.rollup SET status = 'error', last_error = $2 WHERE id = $1", 2, types),
        values, nullptr, false, 0);
    const bool found = SPI_processed == 1;
    SPI_execute_plan(kept_plan("DELETE FROM tick_catalog.pending WHERE rollup = $1 AND fresh", 1, types),
                     values, nullptr, false, 0);
    if (found)
      ereport(WARNING, (errmsg("rollup %d is set aside: %s", rollup, text),
                        errhint("Cure the cause, then SELECT tick.resume(rollup) to recompute it.")));
    return found;
  });
  // Of rows that leave meanwhile nobody keeps count.
  if (there) insert_pending(rollup, {minus_infinity, plus_infinity, true, 0, true});
}

Merger::Merger() = default;
Merger::~Merger() = default;

TurnResult Merger::turn(TimestampTz since, bool held) {
  current_ = 0;
  held_ = held;
  try {
    return attempt(since);
  } catch (const PgError& error) {
    const int rollup = current_;
    const bool transient = is_transient(error.data->sqlerrcode);
    const std::string message = error.message();
    // A state table that was rewritten is empty for a snapshot from before: the next one sees its rows.
    const bool passing = transient || error.data->sqlerrcode == ERRCODE_UNIQUE_VIOLATION;
    if (rollup == 0 || (passing && !is_stuck(rollup, error.data->sqlerrcode))) {
      generation_ = 0;
      throw;
    }
    call([&] { AbortCurrentTransaction(); });
    // Statements name tables and columns: one that was renamed in this turn has its new name in the next.
    const bool name =
        ERRCODE_TO_CATEGORY(error.data->sqlerrcode) == ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION;
    if (name && named_again_.insert(rollup).second)
      generation_ = 0;
    else
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

// Somebody holds the state table, or the disk that it alone is on is full: others cannot wait for that for
// ever.
bool Merger::is_stuck(int rollup, int sqlstate) {
  const bool room = sqlstate == ERRCODE_DISK_FULL;
  if (!room && sqlstate != ERRCODE_LOCK_NOT_AVAILABLE && sqlstate != ERRCODE_UNIQUE_VIOLATION) return false;
  if (++passing_failures_[rollup] < most_passing_failures) return false;
  if (!room) return true;
  const auto found =
      std::find_if(rollups_.begin(), rollups_.end(), [&](const Rollup& known) { return known.id == rollup; });
  return found != rollups_.end() && found->apart;
}

TurnResult Merger::attempt(TimestampTz since) {
  Turn turn;
  turn.since = since;
  log_.clear();
  gone_.clear();
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
      lock_out(turn.recomputed->source);
      turn.recomputed = nullptr;
    }
    current_ = 0;
  }
  call([&] {
    if (!planted("snapshot_before_lock")) PushActiveSnapshot(GetTransactionSnapshot());
    SPI_connect();
  });
  // Not when the transaction began: whoever held the mutex may have shown what was there until now.
  turn.started = GetCurrentTimestamp();
  load(turn);
  // Nothing can be merged yet, or the catalogs have changed under the plan: start over.
  if (turn.result.restored || turn.result.more) {
    call([&] {
      SPI_finish();
      PopActiveSnapshot();
      AbortCurrentTransaction();
    });
    turn.result.rollups = true;
    return turn.result;
  }
  turn.result.rollups = !rollups_.empty() || dedup_;
  turn.result.computed =
      std::any_of(rollups_.begin(), rollups_.end(), [](const Rollup& rollup) { return rollup.computed; });
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
  if (turn.recomputed != nullptr && !knows_leaves(turn.recomputed->source, turn.leaves)) {
    // A leaf has gone that nobody has told us of: the audit says what the source covers now.
    lock_out(turn.recomputed->source);
    expect_audit();
    turn.recomputed = nullptr;
  }
  set_aside_failures(turn);
  const bool merged = merge_pieces(turn);
  // First the deltas: a recompute compares what it finds with what all of them make.
  merge_deltas(turn);
  if (turn.recomputed != nullptr) {
    const Oid source = turn.recomputed->source;
    if (!leave_to_helper(turn)) recompute(turn);
    if (turn.recomputed != nullptr) locked_out_.erase(source);
  }
  const bool followed = follow(turn);
  turn.result.changed = merged || followed || !turn.folds.empty() || turn.ids || turn.recomputed != nullptr;
  move_watermarks(turn);
  const int64_t token = log_.write(turn.started);
  if (token != 0) token_ = std::to_string(token);
  if (turn.result.changed) move_frontier(turn);
  call([&] {
    table_close(turn.frontier, NoLock);
    SPI_finish();
    PopActiveSnapshot();
    CommitTransactionCommand();
  });
  watermarks_.committed();
  passing_failures_.clear();
  named_again_.clear();
  was_cut_ = turn.cut != 0;
  tell(turn);
  turn.result.due = next_due();
  for (const Rollup& rollup : rollups_)
    if (is_due(rollup)) turn.result.more = true;
  if (turn.cut != 0) turn.result.more = true;
  return turn.result;
}

void Merger::load(Turn& turn) {
  const char* before = nullptr;
  const char* now = nullptr;
  const char* ids = nullptr;
  int64_t generation = 0;
  pg_uuid_t epoch{};
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
    epoch = *DatumGetUUIDP(heap_getattr(turn.frontier_row, 4, RelationGetDescr(turn.frontier), &null));
    table_close(generations, NoLock);
  });
  // The extension was dropped and created again: generations start anew.
  if (memcmp(&epoch, &epoch_, sizeof epoch) != 0) generation_ = 0;
  epoch_ = epoch;
  turn.before = Frontier::parse(before);
  turn.now = Frontier::parse(now);
  turn.ids_before = Frontier::parse(ids);
  // What was left to be told of belongs to some turn before this one.
  token_ = std::to_string(turn.now.xmax - 1);
  if (generation == generation_) {
    watermarks_.read();
    return;
  }
  turn.result.restored = call([&] { return is_restored(); });
  if (turn.result.restored) return;
  const bool planned = turn.recomputed != nullptr;
  turn.recomputed = nullptr;
  call([&] { see_definitions(generation_ != 0); });
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
  for (const Rollup& rollup : rollups_) turn.shown[rollup.source] = watermarks_.stored(rollup.source);
  std::vector<Oid> arrived;
  for (const auto& [program, fold] : turn.folds)
    if (fold) arrived.push_back(call([&] { return find_evaluator(program)->source; }));
  watermarks_.settle(turn.started, turn.since, turn.cut != 0 || was_cut_, arrived);
}

// A program of whose deltas nothing can be told, as a type that it reads was dropped, must not stop the
// others: the turn that finds out fails, the next one holds the delta.
const Evaluator* Merger::find_program(Turn& turn, int64_t program) {
  const auto broken = broken_programs_.find(program);
  if (broken != broken_programs_.end()) {
    turn.corrupted.emplace(program, broken->second);
    return nullptr;
  }
  try {
    return call([&] { return find_evaluator(program); });
  } catch (const PgError& error) {
    if (!is_transient(error.data->sqlerrcode)) broken_programs_.emplace(program, error.message());
    throw;
  }
}

void Merger::consume(Turn& turn) {
  std::set<int64_t> wanted;
  for (const Rollup& rollup : rollups_)
    for (const auto& [program, items] : rollup.items)
      if (rollup.status != "error" || !broken_programs_.contains(program)) wanted.insert(program);
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
                             const Evaluator* evaluator = find_program(turn, program);
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
  if (turn.recomputed == &rollup) turn.recomputed = nullptr;
}

// A delta whose writer could not evaluate an expression: the rollups that use it cannot be right any more.
void Merger::set_aside_failures(Turn& turn) {
  for (Rollup& rollup : rollups_)
    if (!rollup.broken.empty() && rollup.status != "error") set_aside_in_turn(turn, rollup, rollup.broken);
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

TurnTime Merger::time(const Turn& turn, Oid source) {
  return {turn.started, watermarks_.of(source), &gone_, held_};
}

// For the log and for those who listen. Of a rollup that is recomputed nothing shows before that is done.
void Merger::note_change(Turn& turn, const Rollup& rollup, const Fold& fold, bool recomputed) {
  if (fold.slots() == 0) return;
  lead_followers(turn, rollup, fold, recomputed);
  if (rollup.computed) turn.result.touched = true;
  if (rollup.computed) return;
  log_.changed(rollup, fold);
  if (has_listeners()) add_change(turn.changes[rollup.id], rollup, fold);
}

void Merger::note_gone(Turn& turn, const Rollup& rollup, bool recomputed) {
  for (const GoneRow& row : gone_) lead_followers(turn, rollup, row.window, {}, recomputed);
  log_.gone(rollup, gone_);
  gone_.clear();
}

Merger::Verdict Merger::judge(const Rollup& rollup, const Fold& from, size_t slot,
                              std::optional<Micros> window) const {
  // The recompute of what was never computed will see these rows.
  if (rollup.is_fresh(window.value_or(no_time_pane))) return {};
  if (!window) return {no_time_pane, Refusal::no_time, false};
  if (!rollup.is_kept(*window)) return {};
  if (is_too_wide(from, slot)) return {window, Refusal::key, false};
  const auto frozen = rollup.windowed ? watermarks_.frozen_before(rollup.source) : std::nullopt;
  if (!frozen || window_end(*window, rollup.size) > *frozen) return {window, std::nullopt, false};
  // What has left may be listed only: the source knows.
  if (from.removed(slot) > 0) return {window, std::nullopt, true};
  return {window, Refusal::frozen, false};
}

void Merger::merge_deltas(Turn& turn) {
  for (Rollup& rollup : rollups_) {
    if (rollup.status == "error") {
      note_missed(turn, rollup);
      continue;
    }
    if (rollup.parent != 0) continue;
    current_ = rollup.id;
    Fold fold(rollup.program);
    std::map<Refusal, std::unique_ptr<Fold>> refused;
    std::set<Micros> lost, fallen;
    for (const auto& [program, delta] : turn.folds) {
      const auto items = rollup.items.find(program);
      if (!delta || items == rollup.items.end()) continue;
      std::set<Refusal> found;
      merge_into_windows(
          fold, rollup, *delta, items->second, [&](const Fold& from, size_t slot, auto window) {
            // Rows that are not subtracted here will be missed by the recompute.
            if (rollup.filling > 0 && window && from.removed(slot) > 0 && rollup.is_fresh(*window))
              fallen.insert(*window);
            const Verdict verdict = judge(rollup, from, slot, window);
            if (verdict.corrects_frozen) lost.insert(*verdict.window);
            if (verdict.refusal) found.insert(*verdict.refusal);
            return verdict.refusal ? std::optional<Micros>() : verdict.window;
          });
      for (const Refusal refusal : found) {
        auto& listed = refused[refusal];
        if (!listed) listed = std::make_unique<Fold>(rollup.program);
        merge_into_windows(*listed, rollup, *delta, items->second,
                           [&](const Fold& from, size_t slot, auto window) {
                             const Verdict verdict = judge(rollup, from, slot, window);
                             return verdict.refusal == refusal ? verdict.window : std::optional<Micros>();
                           });
      }
    }
    if (fold.slots() > 0) check_source_rights(rollup);
    note_windows(turn.touched, rollup, fold);
    note_change(turn, rollup, fold, false);
    // In a bounded turn a row may leave before it has come, and so it may while its history is being scanned.
    const bool scanned = std::any_of(rollup.fresh.begin(), rollup.fresh.end(),
                                     [](const Range& range) { return range.scan != 0; });
    Lost rows = merge_state(rollup, fold, time(turn, rollup.source), turn.cut == 0 && !scanned);
    note_gone(turn, rollup, false);
    lost.merge(rows.unmarked);
    mark_dirty(rollup, lost);
    mark_dirty(rollup, rows.marked, false, true);
    mark_dirty(rollup, fallen, true);
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

// True for a window that is not told of before it has been computed.
bool Merger::waits(const Rollup& rollup, Micros window) const {
  const auto known = waiting_.find(rollup.id);
  return known != waiting_.end() && known->second.contains(window);
}

void Merger::move_watermarks(Turn& turn) {
  std::map<Oid, std::optional<TimestampTz>> before;
  for (const Rollup& rollup : rollups_) {
    before[rollup.source] = watermarks_.stored(rollup.source);
    const auto after = watermarks_.after(rollup.source);
    if (const auto windows = turn.replaced.find(rollup.id); windows != turn.replaced.end())
      windows_.touch_recomputed(rollup, windows->second, after);
    if (const auto windows = turn.touched.find(rollup.id); windows != turn.touched.end())
      windows_.touch(rollup, windows->second, watermarks_.of(rollup.source), turn.started);
    const bool ended = after && windows_.earliest_end(rollup) <= *after;
    if (ended) watermarks_.touch(rollup.source);
    if (rollup.computed) waiting_[rollup.id] = ended ? touched_windows(rollup) : std::set<Micros>();
  }
  watermarks_.write();
  for (const Rollup& rollup : rollups_)
    if (const auto after = watermarks_.stored(rollup.source); OidIsValid(rollup.history) && after)
      note_finality(rollup, turn.started, turn.shown[rollup.source].value_or(minus_infinity), *after);
  // What has become final now: some of what had before may only wait to be told of.
  for (const Rollup& rollup : rollups_) {
    const auto after = watermarks_.stored(rollup.source), reached = before[rollup.source];
    if (rollup.status == "error" || !after || after == reached) continue;
    std::vector<Micros> windows = windows_.ended(rollup, *after);
    std::erase_if(windows, [&](Micros window) {
      return (reached && window_end(window, rollup.size) <= *reached) || waits(rollup, window);
    });
    log_.closed(rollup, windows);
  }
}

void Merger::move_frontier(Turn& turn) {
  if (turn.recomputed != nullptr && planted("chunk_outside_turn")) return;
  const Frontier frontier = turn.cut != 0 ? turn.now.below(turn.cut) : turn.now;
  const std::string text = frontier.text(), ids = turn.now.text();
  call([&] {
    Datum values[5] = {0, DirectFunctionCall1(pg_snapshot_in, CStringGetDatum(text.c_str())),
                       DirectFunctionCall1(pg_snapshot_in, CStringGetDatum(ids.c_str())), 0, 0};
    bool nulls[5] = {false, false, turn.cut == 0, false, false};
    bool replaced[5] = {false, true, true, false, false};
    HeapTuple row =
        heap_modify_tuple(turn.frontier_row, RelationGetDescr(turn.frontier), values, nulls, replaced);
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
    std::erase_if(windows, [&](Micros window) { return rollup.is_fresh(window) || waits(rollup, window); });
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
      // Nobody is told of a turn that a crash may undo.
      if (listeners) ForceSyncCommit();
      SPI_finish();
      PopActiveSnapshot();
      CommitTransactionCommand();
    });
    tell_after_ = 0;
  } catch (const PgError& error) {
    // The turn is committed; closed windows are told of later.
    const int code = error.data->sqlerrcode;
    const std::string message = error.message();
    tell_after_ = GetCurrentTimestamp() + USECS_PER_SEC;
    const bool report = tell_after_ - failure_told_ > 60 * USECS_PER_SEC;
    if (report) failure_told_ = tell_after_;
    call([&] {
      HOLD_INTERRUPTS();
      AbortCurrentTransaction();
      if (report)
        ereport(WARNING, (errcode(code), errmsg("pg_tick cannot notify listeners: %s", message.c_str()),
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
  const TimestampTz now = GetCurrentTimestamp();
  for (const auto& [source, lockout] : locked_out_)
    if (lockout.until > now) due = std::min(due, lockout.until);
  for (const Rollup& rollup : rollups_) {
    if (rollup.status == "error") continue;
    if (rollup.parent != 0 && rollup.pending()) due = std::min(due, resting_until(rollup));
    const Micros end = windows_.earliest_end(rollup);
    // What is not computed yet is not told of yet.
    if (end == plus_infinity || rollup.is_fresh(window_ending(end, rollup.size))) continue;
    if (const auto known = waiting_.find(rollup.id); known != waiting_.end() && !known->second.empty())
      continue;
    const auto watermark = watermarks_.stored(rollup.source);
    due = std::min(due, watermark && end <= *watermark ? tell_after_ : watermarks_.due(rollup.source, end));
  }
  return due;
}

void Merger::set_aside(int rollup, const std::string& reason) {
  generation_ = 0;
  set_aside_apart(rollup, reason);
}

void set_aside_apart(int rollup, const std::string& reason) {
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
