// `name_live`: what a rollup comes to in the reader's own snapshot. The view reads the state table and this
// file gives it the rows that are different by now, each with the place of the row that it replaces: states
// merged with the deltas between the frontier and the snapshot, and windows folded from the source where they
// are still to be computed or where something has left that the source alone can make good. Nothing is
// written; nobody is waited for.
#include <algorithm>
#include <map>
#include <set>

#include "capture.hpp"
#include "catalog.hpp"
#include "guard.hpp"
#include "late.hpp"
#include "queue.hpp"
#include "rollup.hpp"
#include "scan.hpp"
#include "session.hpp"
#include "state.hpp"
#include "wanted.hpp"

namespace tick::pg {
namespace {

// ---- what one snapshot sees
// -------------------------------------------------------------------------------------------

// Says that two calls see the same: those of one statement do.
struct Moment {
  TimestampTz statement = 0;
  SubTransactionId transaction = InvalidSubTransactionId;
  CommandId command = 0;
  TransactionId xmin = 0, xmax = 0;
  std::vector<TransactionId> running;
  friend bool operator==(const Moment&, const Moment&) = default;
};

Moment this_moment() {
  const Snapshot snapshot = GetActiveSnapshot();
  Moment moment{GetCurrentStatementStartTimestamp(),
                GetCurrentSubTransactionId(),
                snapshot->curcid,
                snapshot->xmin,
                snapshot->xmax,
                {}};
  moment.running.assign(snapshot->xip, snapshot->xip + snapshot->xcnt);
  moment.running.insert(moment.running.end(), snapshot->subxip, snapshot->subxip + Max(snapshot->subxcnt, 0));
  return moment;
}

// The rows that differ from the state table, and the places of those that they replace.
struct Difference {
  Moment moment;
  EState* statement = nullptr;     // which it is just enough for; nullptr: for any
  MemoryContext memory = nullptr;  // of the tuples, until the transaction ends
  std::vector<HeapTuple> rows;     // of the state table, then as the view shows them
  TupleDesc shown = nullptr;       // nullptr: there are no rows
  std::vector<ItemPointerData> places;
};

// By state table; the view asks twice.
std::map<Oid, Difference> differences;

// ---- deltas
// -----------------------------------------------------------------------------------------------------------

// A rollup as this snapshot sees it.
struct Reading {
  Rollup rollup;
  std::optional<Wanted> wanted;
  Frontier frontier;
  CommandId command = 0;           // of the snapshot
  TurnTime time;                   // as if a turn began now
  Micros frozen = minus_infinity;  // windows that end at or before this take in nothing more
  std::set<Micros> fallen;         // windows never computed in full that rows have left
  std::vector<Range> whole;        // windows to be folded from the source, ascending and apart
};

bool holds(const std::vector<Range>& ranges, Micros window) {
  return std::any_of(ranges.begin(), ranges.end(),
                     [&](const Range& range) { return window >= range.lo && window < range.hi; });
}

// The deltas between the frontier and the snapshot by window, but for those of windows never computed.
Fold fold_new(Reading& reading) {
  const Rollup& rollup = reading.rollup;
  Fold fold(rollup.program);
  std::map<int64_t, std::unique_ptr<Fold>> folds;
  const auto refuse_failures = [&](const Fold& delta) {
    if (!delta.failures().empty())
      throw Error{Error::Code::invalid_argument,
                  "rollup " + rollup.name + " cannot take in new rows: " + delta.failures().front().message};
  };
  read_deltas(reading.frontier, 0, [&](int64_t program, std::string_view payload) {
    if (!rollup.items.contains(program)) return;
    const Evaluator* evaluator = call([&] { return find_evaluator(program); });
    if (evaluator == nullptr) return;
    auto& delta = folds.try_emplace(program, nullptr).first->second;
    if (!delta) delta = std::make_unique<Fold>(evaluator->program);
    merge_delta(*delta, payload);
  });
  std::set<Micros> corrected;  // frozen windows that rows have left
  const auto take = [&](const Fold& from, size_t slot,
                        std::optional<Micros> window) -> std::optional<Micros> {
    const bool fresh =
        window && std::any_of(rollup.fresh.begin(), rollup.fresh.end(), [&](const Range& range) {
          return *window >= range.lo && *window < range.hi && !rollup.stays(range, *window);
        });
    // What is not subtracted here is missed when the source is folded.
    if (rollup.filling > 0 && fresh && from.removed(slot) > 0) reading.fallen.insert(*window);
    if (!window || !rollup.is_kept(*window) || fresh || is_too_wide(from, slot)) return std::nullopt;
    if (!rollup.windowed || window_end(*window, rollup.size) > reading.frozen) return window;
    if (from.removed(slot) == 0) return std::nullopt;
    corrected.insert(*window);
    return window;
  };
  // What this transaction has written to leaves directly, and not flushed.
  visit_unflushed(reading.command, [&](int64_t program, const Fold& unflushed) {
    const auto items = rollup.items.find(program);
    if (items == rollup.items.end()) return;
    refuse_failures(unflushed);
    merge_into_windows(fold, rollup, unflushed, items->second, take);
  });
  for (const auto& [program, delta] : folds) {
    refuse_failures(*delta);
    merge_into_windows(fold, rollup, *delta, rollup.items.at(program), take);
  }
  for (Micros window : corrected) reading.whole.push_back({window, next_window(window, rollup.size), false});
  return fold;
}

std::vector<bool> judge_slots(const Reading& reading, const Fold& fold) {
  return reading.wanted->judge({fold.slots(), [&](size_t row, size_t key) { return fold.key(row, key); },
                                [&](size_t row) { return fold.pane(row); }});
}

// ---- windows from the source
// ------------------------------------------------------------------------------------------

// Locks the leaves of the source, waiting for whoever holds them.
std::vector<Leaf> lock_source_of(const Rollup& rollup) {
  auto leaves = lock_leaves_of(rollup);
  if (!leaves) {
    call([&] { (void)find_all_inheritors(rollup.source, AccessShareLock, nullptr); });
    leaves = lock_leaves_of(rollup);
  }
  const auto known =
      read_text("SELECT leaf::oid FROM tick_catalog.leaf WHERE source = $1::oid", rollup.source);
  const bool complete = leaves && std::all_of(known.begin(), known.end(), [&](const auto& row) {
                          return std::any_of(leaves->begin(), leaves->end(), [&](const Leaf& leaf) {
                            return std::to_string(leaf.relid) == *row[0];
                          });
                        });
  // The snapshot is older than the lock: what has gone since is missing from both.
  if (!complete) {
    const char* name = rollup.name.c_str();
    call([&] {
      ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
                      errmsg("partitions of the source of rollup %s have just been changed", name),
                      errhint("Try again.")));
    });
  }
  return std::move(*leaves);
}

// True if ranges [from, to) of the list are a small part of what lies between the first and the last.
bool far_apart(const std::vector<Range>& whole, size_t from, size_t to) {
  Micros width = 0;
  for (size_t i = from; i < to; ++i) width += whole[i].hi - whole[i].lo;
  return to - from > 1 && width < (whole[to - 1].hi - whole[from].lo) / 4;
}

// Adds what the source has of windows [from, to) of the list. Those that are far apart, or are too many rows
// to be folded at once, are read one half after the other rather than with all that lies between.
void fold_ranges(const Rollup& rollup, const std::vector<Leaf>& leaves, const std::vector<Range>& whole,
                 size_t from, size_t to, Fold& into) {
  Evaluator* evaluator = call([&] { return find_evaluator(rollup.newest); });
  Fold panes(rollup.program);
  Micros lo = rollup.windowed ? begin_of_rows(whole[from].lo, rollup.size) : minus_infinity;
  const Micros hi = rollup.windowed ? end_of_rows(whole[to - 1].hi, rollup.size) : plus_infinity;
  if (rollup.windowed) panes.restrict_to(lo, hi);
  const bool bounded = rollup.windowed && lo != minus_infinity && hi != plus_infinity;
  const std::vector<Oid> indexes = bounded ? find_time_indexes(rollup, leaves, lo, hi) : std::vector<Oid>();
  const size_t middle = from + (to - from) / 2;
  if (!indexes.empty() && far_apart(whole, from, to)) {
    fold_ranges(rollup, leaves, whole, from, middle, into);
    fold_ranges(rollup, leaves, whole, middle, to, into);
    return;
  }
  bool fits = true;
  scan_leaves_by(indexes, rollup, evaluator, leaves, lo, hi, panes, [&](int) {
    if (fits && panes.memory() + into.memory() <= scan_memory) return;
    fits = false;
    lo = plus_infinity;  // what is left of the scan is of no use
    panes.restrict_to(lo, lo);
  });
  if (!fits) {
    if (to - from < 2 || into.memory() > scan_memory / 2) {
      const char* name = rollup.name.c_str();
      call([&] {
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                        errmsg("too much of rollup %s is still to be computed", name),
                        errhint("SELECT tick.wait(...), or read the rollup itself.")));
      });
    }
    fold_ranges(rollup, leaves, whole, from, middle, into);
    fold_ranges(rollup, leaves, whole, middle, to, into);
    return;
  }
  // Windows that hop or cumulate share rows: those of another half are that half's affair.
  const std::vector<Range> these(whole.begin() + from, whole.begin() + to);
  merge_into_windows(into, rollup, panes, every_item(rollup), [&](const Fold& of, size_t slot, auto window) {
    const bool wanted = window && !is_too_wide(of, slot) && rollup.is_kept(*window) &&
                        (!rollup.windowed || holds(these, *window));
    return wanted ? window : std::nullopt;
  });
}

// The windows that the source alone can give now: those still to be computed, and `lost` ones. Where it no
// longer covers them they stay as they are, as they do in the rollup.
void plan_whole(Reading& reading, const std::vector<Preview>& previews) {
  const Rollup& rollup = reading.rollup;
  const auto window_range = [&](Micros window) {
    return rollup.windowed ? Range{window, next_window(window, rollup.size), false}
                           : Range{minus_infinity, plus_infinity, false};
  };
  const Micros covered = std::max(rollup.first_covered(), rollup.kept_from);
  std::vector<Range>& whole = reading.whole;
  for (const Preview& preview : previews)
    if (preview.lost) whole.push_back(window_range(preview.window));
  std::vector<Range> marked;
  for (const Range& range : rollup.dirty)
    (range.marked && !range.missed && !range.replace ? marked : whole).push_back(range);
  if (!marked.empty())
    for (Micros window : read_stale(rollup, marked, *reading.wanted)) whole.push_back(window_range(window));
  for (Range& range : whole) range.lo = std::max(range.lo, covered);
  for (Range range : rollup.fresh) {
    range.lo = std::max(range.lo, rollup.kept_from);
    whole.push_back(range);
  }
  if (rollup.windowed) {
    const Micros lo = reading.wanted->lo(), hi = reading.wanted->hi();
    const Micros first = lo == minus_infinity ? lo : window_start(lo, rollup.size);
    const Micros end = hi == plus_infinity || hi == minus_infinity
                           ? hi
                           : next_window(window_start(hi - 1, rollup.size), rollup.size);
    for (Range& range : whole) {
      range.lo = std::max(range.lo, first);
      range.hi = std::min(range.hi, end);
    }
  }
  std::erase_if(whole, [](const Range& range) { return range.lo >= range.hi; });
  std::sort(whole.begin(), whole.end(), [](const Range& a, const Range& b) { return a.lo < b.lo; });
  std::vector<Range> merged;
  for (const Range& range : whole)
    if (!merged.empty() && range.lo <= merged.back().hi)
      merged.back().hi = std::max(merged.back().hi, range.hi);
    else
      merged.push_back(range);
  whole = std::move(merged);
}

// True if rows of a window may count less than they do: it was never computed, or rows are known to have
// left.
bool may_fall(const Reading& reading, Micros window) {
  const Rollup& rollup = reading.rollup;
  return (rollup.filling == 0 && holds(rollup.fresh, window)) || rollup.may_fall(window) ||
         reading.fallen.contains(window);
}

// Puts the windows of `reading.whole` in the place of what is there, by the rules of a recompute.
void replace_whole(Reading& reading, std::vector<Preview>& previews, Difference& result) {
  const Rollup& rollup = reading.rollup;
  Fold found(rollup.program);
  fold_ranges(rollup, lock_source_of(rollup), reading.whole, 0, reading.whole.size(), found);
  const auto order = [](const ItemPointerData& a, const ItemPointerData& b) {
    return ItemPointerCompare(const_cast<ItemPointer>(&a), const_cast<ItemPointer>(&b)) < 0;
  };
  std::map<ItemPointerData, Preview*, decltype(order)> merged(order);
  std::set<Preview*> dropped;
  for (Preview& preview : previews) {
    if (rollup.windowed && !holds(reading.whole, preview.window)) continue;
    dropped.insert(&preview);
    if (ItemPointerIsValid(&preview.place)) merged[preview.place] = &preview;
  }
  const Micros covered = rollup.first_covered();
  std::vector<bool> done(found.slots());
  std::vector<int64_t> revisions(found.slots());
  for (const Present& row : read_present(rollup, found, reading.whole, reading.time, *reading.wanted)) {
    const auto preview = merged.find(row.place);
    const int64_t now = preview == merged.end() ? row.count : preview->second->count;
    const int64_t there = row.slot ? found.partials(0).counts[*row.slot] : 0;
    // Nobody has said that rows have left.
    if (row.window < covered || (there < now && !may_fall(reading, row.window))) {
      if (preview != merged.end()) dropped.erase(preview->second);
      if (row.slot) done[*row.slot] = true;
    } else if (row.same) {
      done[*row.slot] = true;
    } else {
      result.places.push_back(row.place);
      if (row.slot) revisions[*row.slot] = row.revision;
    }
  }
  std::vector<Preview> kept;
  for (Preview& preview : previews)
    if (!dropped.contains(&preview)) kept.push_back(preview);
  previews = std::move(kept);
  if (found.slots() == 0) return;
  const std::vector<bool> wanted = judge_slots(reading, found);
  const std::vector<Preview> rows =
      preview_rows(rollup, found, reading.time, revisions, wanted, result.memory);
  for (size_t slot = 0; slot < rows.size(); ++slot)
    if (wanted[slot] && !done[slot]) result.rows.push_back(rows[slot].tuple);
}

// ---- the whole of it
// --------------------------------------------------------------------------------------------------

// Finds the rollup of a state table for a caller who may read it.
int find_readable(Oid state, Oid reader) {
  Oid type = OIDOID;
  Datum value = ObjectIdGetDatum(state);
  SPIPlanPtr plan = kept_plan("SELECT id, view, live FROM tick_catalog.rollup WHERE state = $1", 1, &type);
  if (SPI_execute_plan(plan, &value, nullptr, true, 1) != SPI_OK_SELECT || SPI_processed != 1)
    ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE), errmsg("no rollup is kept in that table"),
                    errhint("After a restore of the schema alone: SELECT tick.resume(...).")));
  bool null, no_live;
  const auto field = [&](int number, bool* is_null) {
    return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, number, is_null);
  };
  const int id = DatumGetInt32(field(1, &null));
  const Oid view = DatumGetObjectId(field(2, &null)), live = DatumGetObjectId(field(3, &no_live));
  if (pg_class_aclcheck(view, reader, ACL_SELECT) != ACLCHECK_OK &&
      (no_live || pg_class_aclcheck(live, reader, ACL_SELECT) != ACLCHECK_OK))
    aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_VIEW, get_rel_name(no_live ? view : live));
  return id;
}

// On a standby nothing holds back the end of deltas that this snapshot may need.
void refuse_lost_deltas() {
  if (!RecoveryInProgress()) return;
  const RingFiles files = lock_ring();
  SPI_execute(
      "SELECT (SELECT relfilenode FROM pg_class WHERE oid = 'tick_catalog.queue_0'::regclass), "
      "(SELECT relfilenode FROM pg_class WHERE oid = 'tick_catalog.queue_1'::regclass), "
      "(SELECT relfilenode FROM pg_class WHERE oid = 'tick_catalog.queue_2'::regclass)",
      true, 1);
  bool null;
  for (int i = 0; i < queue_tables; ++i)
    if (DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1, &null)) !=
        files.file[i])
      ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
                      errmsg("rows that this snapshot needs have been cleared away meanwhile"),
                      errhint("Try again.")));
}

// Makes rows of the state table what the view shows of them, as the rollup's owner.
void show(const Rollup& rollup, Difference& result) {
  // A rollup without keys and window shows a row when it has none.
  const bool nothing = !rollup.windowed && rollup.program.keys.empty() && result.rows.empty() &&
                       (!result.places.empty() || !holds_state(rollup, minus_infinity, plus_infinity));
  if (result.rows.empty() && !nothing) return;
  const auto text = read_text("SELECT finish FROM tick_catalog.rollup WHERE id = $1", rollup.id);
  const char* sql = text.at(0).at(0)->c_str();
  uint64 count = 0;
  HeapTuple* tuples = nullptr;
  call([&] {
    Tuplestorestate* store = tuplestore_begin_heap(false, false, work_mem);
    for (HeapTuple row : result.rows) tuplestore_puttuple(store, row);
    auto* rows = static_cast<EphemeralNamedRelation>(palloc0(sizeof(EphemeralNamedRelationData)));
    rows->md.name = pstrdup("tick_rows");
    rows->md.reliddesc = rollup.state;
    rows->md.enrtype = ENR_NAMED_TUPLESTORE;
    rows->md.enrtuples = static_cast<double>(result.rows.size());
    rows->reldata = store;
    LockRelationOid(rollup.state, AccessShareLock);
    const Actor before = act_as_owner(rollup.owner);
    SPI_connect();
    if (SPI_register_relation(rows) != SPI_OK_REL_REGISTER || SPI_execute(sql, true, 0) != SPI_OK_SELECT)
      elog(ERROR, "pg_tick: unexpected result of: %s", sql);
    count = SPI_processed;
    MemoryContext old = MemoryContextSwitchTo(result.memory);
    result.shown = CreateTupleDescCopy(SPI_tuptable->tupdesc);
    tuples = static_cast<HeapTuple*>(palloc(sizeof(HeapTuple) * (count + 1)));
    for (uint64 row = 0; row < count; ++row) tuples[row] = heap_copytuple(SPI_tuptable->vals[row]);
    MemoryContextSwitchTo(old);
    SPI_finish();
    act_again(before);
    tuplestore_end(store);
  });
  result.rows.assign(tuples, tuples + count);
}

void read(Oid state, EState* statement, Oid function, Difference& result) {
  Reading reading;
  std::vector<Rollup> found;
  Actor reader{};
  int id = 0;
  call([&] {
    reader = act_as_extension();
    SPI_connect();
    id = find_readable(state, reader.user);
    refuse_lost_deltas();
  });
  found = load_rollups(id);
  if (found.size() != 1) throw Error{Error::Code::internal, "rollup is being changed"};
  reading.rollup = std::move(found.front());
  const Rollup& rollup = reading.rollup;
  if (rollup.computed) {
    const char* name = rollup.name.c_str();
    call([&] {
      ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                      errmsg("rollup %s is recomputed: rows cannot be added to what it has", name),
                      errhint("SELECT tick.wait(...), then read the rollup itself.")));
    });
  }
  const auto source = read_text(
      "SELECT s.epoch IS NOT DISTINCT FROM tick_catalog.epoch(), "
      "(extract(epoch FROM w.watermark - '2000-01-01 00:00+00'::timestamptz) * 1000000)::int8, "
      "(extract(epoch FROM w.watermark - s.freeze_after - '2000-01-01 00:00+00'::timestamptz) * "
      "1000000)::int8, "
      "f.snapshot::text FROM tick_catalog.frontier AS f CROSS JOIN tick_catalog.source AS s LEFT JOIN "
      "tick_catalog.watermark AS w ON w.source = s.relid WHERE s.relid = $1::oid",
      rollup.source);
  if (rollup.status == "error" || !rollup.broken.empty() || source.size() != 1 || *source[0][0] != "t") {
    const char* name = rollup.name.c_str();
    call([&] {
      ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                      errmsg("rollup %s is not kept up to date now", name),
                      errhint("tick.status says why; the rollup itself shows what it has.")));
    });
  }
  reading.frontier = Frontier::parse(*source[0][3]);
  add_later_programs(reading.rollup);
  reading.command = result.moment.command;
  reading.time.now = result.moment.statement;
  if (source[0][1]) reading.time.watermark = std::strtoll(source[0][1]->c_str(), nullptr, 10);
  if (source[0][2]) reading.frozen = std::strtoll(source[0][2]->c_str(), nullptr, 10);
  reading.wanted.emplace(rollup, statement, function, reader);
  if (!reading.wanted->everything()) result.statement = statement;
  const Fold fold = fold_new(reading);
  std::vector<Preview> previews;
  if (fold.slots() > 0)
    previews = preview_merge(rollup, fold, reading.time, judge_slots(reading, fold), result.memory);
  plan_whole(reading, previews);
  if (!reading.whole.empty()) replace_whole(reading, previews, result);
  for (const Preview& preview : previews) {
    if (ItemPointerIsValid(&preview.place)) result.places.push_back(preview.place);
    if (preview.tuple != nullptr) result.rows.push_back(preview.tuple);
  }
  show(rollup, result);
  call([&] {
    SPI_finish();
    act_again(reader);
  });
}

// The transaction that the tuples were made in has ended.
void forget(void* key) {
  differences.erase(static_cast<Oid>(reinterpret_cast<uintptr_t>(key)));
}

// A statement has ended: another one may lie at the same place.
void forget_statement(void* statement) {
  for (;;) {
    const auto known = std::find_if(differences.begin(), differences.end(),
                                    [&](const auto& entry) { return entry.second.statement == statement; });
    if (known == differences.end()) return;
    MemoryContextDelete(known->second.memory);
  }
}

// Plain PostgreSQL code.
void call_at_end(MemoryContext memory, MemoryContextCallbackFunction function, void* argument) {
  auto* callback =
      static_cast<MemoryContextCallback*>(MemoryContextAllocZero(memory, sizeof(MemoryContextCallback)));
  callback->func = function;
  callback->arg = argument;
  MemoryContextRegisterResetCallback(memory, callback);
}

// What the function that is called has to show of the state table that is its argument.
const Difference& difference(FunctionCallInfo fcinfo) {
  const Oid state = PG_GETARG_OID(0);
  const ExprContext* context = reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo)->econtext;
  EState* statement = context == nullptr ? nullptr : context->ecxt_estate;
  const auto known = differences.find(state);
  Moment moment = this_moment();
  if (known != differences.end()) {
    const EState* of = known->second.statement;
    if (known->second.moment == moment && (of == nullptr || of == statement)) return known->second;
    MemoryContext memory = known->second.memory;
    call([&] { MemoryContextDelete(memory); });
  }
  Difference result;
  result.moment = std::move(moment);
  MemoryContext memory = call(
      [&] { return AllocSetContextCreate(TopTransactionContext, "pg_tick live", ALLOCSET_DEFAULT_SIZES); });
  result.memory = memory;
  read(state, statement, fcinfo->flinfo->fn_oid, result);
  call([&] {
    call_at_end(memory, forget, reinterpret_cast<void*>(static_cast<uintptr_t>(state)));
    if (result.statement != nullptr) call_at_end(statement->es_query_cxt, forget_statement, statement);
  });
  return differences.insert_or_assign(state, std::move(result)).first->second;
}

void put_rows(const Difference& rows, ReturnSetInfo* result) {
  if (rows.rows.empty()) return;
  call([&] {
    bool fits = rows.shown->natts == result->setDesc->natts;
    for (int c = 0; fits && c < rows.shown->natts; ++c)
      fits = TupleDescAttr(rows.shown, c)->atttypid == TupleDescAttr(result->setDesc, c)->atttypid;
    if (!fits)
      ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
                      errmsg("column definition list does not fit what the rollup shows")));
    auto* values = static_cast<Datum*>(palloc(sizeof(Datum) * rows.shown->natts));
    auto* nulls = static_cast<bool*>(palloc(rows.shown->natts));
    for (HeapTuple row : rows.rows) {
      heap_deform_tuple(row, rows.shown, values, nulls);
      tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
    }
  });
}

}  // namespace
}  // namespace tick::pg

using namespace tick::pg;

extern "C" {
PG_FUNCTION_INFO_V1(tick_live);
PGDLLEXPORT Datum tick_live(PG_FUNCTION_ARGS);
PG_FUNCTION_INFO_V1(tick_live_places);
PGDLLEXPORT Datum tick_live_places(PG_FUNCTION_ARGS);
}

Datum tick_live(PG_FUNCTION_ARGS) {
  return entry([&] {
    call([&] { InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC); });
    put_rows(difference(fcinfo), reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo));
    return static_cast<Datum>(0);
  });
}

Datum tick_live_places(PG_FUNCTION_ARGS) {
  return entry([&] {
    call([&] { InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC); });
    auto* result = reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo);
    const Difference& rows = difference(fcinfo);
    call([&] {
      for (const ItemPointerData& place : rows.places) {
        Datum value = PointerGetDatum(&place);
        bool null = false;
        tuplestore_putvalues(result->setResult, result->setDesc, &value, &null);
      }
    });
    return static_cast<Datum>(0);
  });
}
