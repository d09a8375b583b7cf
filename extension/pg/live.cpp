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
  MemoryContext memory = nullptr;  // of the tuples, until the transaction ends
  std::vector<HeapTuple> rows;
  std::vector<AttrNumber> columns;  // of the rows: those of the state table that the view reads
  std::vector<ItemPointerData> places;
};

// By state table; the view asks twice.
std::map<Oid, Difference> differences;

// ---- deltas
// -----------------------------------------------------------------------------------------------------------

// A rollup as this snapshot sees it.
struct Reading {
  Rollup rollup;
  Frontier frontier;
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
    // What is not subtracted here is missed when the source is folded.
    if (rollup.filling > 0 && window && from.removed(slot) > 0 && holds(rollup.fresh, *window))
      reading.fallen.insert(*window);
    if (!window || !rollup.is_kept(*window) || holds(rollup.fresh, *window) || is_too_wide(from, slot))
      return std::nullopt;
    if (!rollup.windowed || window_end(*window, rollup.size) > reading.frozen) return window;
    if (from.removed(slot) == 0) return std::nullopt;
    corrected.insert(*window);
    return window;
  };
  // What this transaction has written to leaves directly, and not flushed.
  for (const auto& [program, items] : rollup.items)
    visit_unflushed(program, [&](const Fold& unflushed) {
      refuse_failures(unflushed);
      merge_into_windows(fold, rollup, unflushed, items, take);
    });
  for (const auto& [program, delta] : folds) {
    refuse_failures(*delta);
    merge_into_windows(fold, rollup, *delta, rollup.items.at(program), take);
  }
  for (Micros window : corrected) reading.whole.push_back({window, next_window(window, rollup.size), false});
  return fold;
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

// Adds what the source has of windows [from, to) of the list. Far apart, they are read one half after the
// other rather than with all that lies between.
void fold_ranges(const Rollup& rollup, const std::vector<Leaf>& leaves, const std::vector<Range>& whole,
                 size_t from, size_t to, Fold& into) {
  Evaluator* evaluator = call([&] { return find_evaluator(rollup.newest); });
  Fold panes(rollup.program);
  Micros lo = rollup.windowed ? whole[from].lo : minus_infinity;
  const Micros hi = rollup.windowed ? end_of_rows(whole[to - 1].hi, rollup.size) : plus_infinity;
  if (rollup.windowed) panes.restrict_to(lo, hi);
  bool fits = true;
  scan_leaves(rollup, evaluator, leaves, lo, hi, panes, [&](int) {
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
    const size_t middle = from + (to - from) / 2;
    fold_ranges(rollup, leaves, whole, from, middle, into);
    fold_ranges(rollup, leaves, whole, middle, to, into);
    return;
  }
  merge_into_windows(into, rollup, panes, every_item(rollup), [&](const Fold& of, size_t slot, auto window) {
    const bool wanted = window && !is_too_wide(of, slot) && rollup.is_kept(*window) &&
                        (!rollup.windowed || holds(whole, *window));
    return wanted ? window : std::nullopt;
  });
}

// The windows that the source alone can give now: those still to be computed, and `lost` ones. Where it no
// longer covers them they stay as they are, as they do in the rollup.
void plan_whole(Reading& reading, const std::vector<Preview>& previews) {
  const Rollup& rollup = reading.rollup;
  const Micros covered = std::max(rollup.first_covered(), rollup.kept_from);
  std::vector<Range>& whole = reading.whole;
  for (const Preview& preview : previews)
    if (preview.lost)
      whole.push_back(rollup.windowed ? Range{preview.window, next_window(preview.window, rollup.size), false}
                                      : Range{minus_infinity, plus_infinity, false});
  whole.insert(whole.end(), rollup.dirty.begin(), rollup.dirty.end());
  for (Range& range : whole) range.lo = std::max(range.lo, covered);
  for (Range range : rollup.fresh) {
    range.lo = std::max(range.lo, rollup.kept_from);
    whole.push_back(range);
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
  for (const Present& row : read_present(rollup, found, reading.whole, reading.time)) {
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
  const std::vector<Preview> rows = preview_rows(rollup, found, reading.time, revisions, result.memory);
  for (size_t slot = 0; slot < rows.size(); ++slot)
    if (!done[slot]) result.rows.push_back(rows[slot].tuple);
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

void read(Oid state, Difference& result) {
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
  result.columns = rollup.attributes;
  result.columns.push_back(rollup.revision_attribute);
  result.columns.push_back(rollup.updated_attribute);
  reading.frontier = Frontier::parse(*source[0][3]);
  reading.time.now = result.moment.statement;
  if (source[0][1]) reading.time.watermark = std::strtoll(source[0][1]->c_str(), nullptr, 10);
  if (source[0][2]) reading.frozen = std::strtoll(source[0][2]->c_str(), nullptr, 10);
  const Fold fold = fold_new(reading);
  std::vector<Preview> previews;
  if (fold.slots() > 0) previews = preview_merge(rollup, fold, reading.time, result.memory);
  plan_whole(reading, previews);
  if (!reading.whole.empty()) replace_whole(reading, previews, result);
  for (const Preview& preview : previews) {
    if (ItemPointerIsValid(&preview.place)) result.places.push_back(preview.place);
    if (preview.tuple != nullptr) result.rows.push_back(preview.tuple);
  }
  call([&] {
    SPI_finish();
    act_again(reader);
  });
}

// The transaction that the tuples were made in has ended.
void forget(void* key) {
  differences.erase(static_cast<Oid>(reinterpret_cast<uintptr_t>(key)));
}

const Difference& difference(Oid state) {
  const auto known = differences.find(state);
  Moment moment = this_moment();
  if (known != differences.end()) {
    if (known->second.moment == moment) return known->second;
    MemoryContext memory = known->second.memory;
    call([&] { MemoryContextDelete(memory); });
  }
  Difference result;
  result.moment = std::move(moment);
  MemoryContext memory = call(
      [&] { return AllocSetContextCreate(TopTransactionContext, "pg_tick live", ALLOCSET_DEFAULT_SIZES); });
  result.memory = memory;
  read(state, result);
  call([&] {
    auto* callback =
        static_cast<MemoryContextCallback*>(MemoryContextAllocZero(memory, sizeof(MemoryContextCallback)));
    callback->func = forget;
    callback->arg = reinterpret_cast<void*>(static_cast<uintptr_t>(state));
    MemoryContextRegisterResetCallback(memory, callback);
  });
  return differences.insert_or_assign(state, std::move(result)).first->second;
}

void put_rows(Oid state, ReturnSetInfo* result) {
  const Difference& rows = difference(state);
  const size_t columns = rows.columns.size();
  call([&] {
    Relation table = table_open(state, AccessShareLock);
    TupleDesc desc = RelationGetDescr(table);
    bool fits = static_cast<int>(columns) == result->setDesc->natts;
    for (size_t c = 0; fits && c < columns; ++c)
      fits = TupleDescAttr(result->setDesc, static_cast<int>(c))->atttypid ==
             TupleDescAttr(desc, rows.columns[c] - 1)->atttypid;
    if (!fits)
      ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
                      errmsg("column definition list does not fit \"%s\"", RelationGetRelationName(table))));
    auto* values = static_cast<Datum*>(palloc(sizeof(Datum) * (columns + 1)));
    auto* nulls = static_cast<bool*>(palloc(columns + 1));
    for (HeapTuple row : rows.rows) {
      for (size_t c = 0; c < columns; ++c) values[c] = heap_getattr(row, rows.columns[c], desc, &nulls[c]);
      tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
    }
    table_close(table, NoLock);
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
    put_rows(PG_GETARG_OID(0), reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo));
    return static_cast<Datum>(0);
  });
}

Datum tick_live_places(PG_FUNCTION_ARGS) {
  return entry([&] {
    call([&] { InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC); });
    auto* result = reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo);
    const Difference& rows = difference(PG_GETARG_OID(0));
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
