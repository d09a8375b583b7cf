#include "coverage.hpp"

#include "capture.hpp"
#include "dedup.hpp"
#include "define.hpp"
#include "evaluator.hpp"
#include "leaves.hpp"
#include "session.hpp"
#include "shared.hpp"
#include "values.hpp"

namespace tick::pg {
namespace {

bool holds(List* numbers, int64 wanted) {
  ListCell* cell;
  foreach (cell, numbers)
    if (*static_cast<int64*>(lfirst(cell)) == wanted) return true;
  return false;
}

const char* time_text(Micros at) {
  return at == minus_infinity || at == plus_infinity
             ? "NULL"
             : quote_literal_cstr(timestamptz_to_str(static_cast<TimestampTz>(at)));
}

// Moves raw_from past partitions that have gone. One that lies beyond every row the source has had was empty;
// if there are deltas that nobody has read yet, nobody knows. One without an upper bound reached to the
// newest row.
void move_raw_from(Oid source, const char* gone) {
  run(psprintf(
      "UPDATE tick_catalog.source AS s SET raw_from = greatest(s.raw_from, m.raw_from) FROM "
      "(SELECT max(CASE WHEN w.max_time IS NULL THEN least(l.hi, now()) WHEN l.hi IS NULL THEN w.max_time + "
      "interval '1 microsecond' ELSE l.hi END) "
      "AS raw_from FROM tick_catalog.leaf AS l LEFT JOIN tick_catalog.watermark AS w ON w.source = l.source "
      "WHERE l.source = %u AND l.leaf IN (%s) AND (l.lo IS NULL OR w.max_time IS NULL OR l.lo <= w.max_time "
      "OR EXISTS "
      "(SELECT FROM tick_catalog.frontier AS f, (SELECT xid FROM tick_catalog.queue_0 UNION ALL SELECT xid "
      "FROM tick_catalog.queue_1 UNION ALL SELECT xid FROM tick_catalog.queue_2) AS q WHERE q.xid >= "
      "pg_snapshot_xmin(f.snapshot) AND NOT pg_visible_in_snapshot(q.xid, f.snapshot)))) AS m "
      "WHERE s.relid = %u AND m.raw_from IS NOT NULL",
      source, gone, source));
}

// Sets raw_from where it is not set, or `also`; both are SQL.
void raise(Oid source, const char* until, const char* also) {
  SPI_connect();
  SPI_execute(
      psprintf("UPDATE tick_catalog.source AS s SET raw_from = %s WHERE relid = %u AND (raw_from IS NULL "
               "OR %s)",
               until, source, also),
      false, 0);
  const bool moved = SPI_processed > 0;
  SPI_finish();
  if (moved) tell_engine();
}

void retire_leaves(Oid source, const char* gone) {
  move_raw_from(source, gone);
  run(psprintf("DELETE FROM tick_catalog.leaf WHERE source = %u AND leaf IN (%s)", source, gone));
  tell_engine();
}

void follow(Oid source) {
  if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(source))) return;
  List* known = read_numbers("SELECT leaf::int8 FROM tick_catalog.leaf WHERE source = $1", source);
  if (known == NIL && get_rel_relkind(source) != RELKIND_PARTITIONED_TABLE) return;
  List* present = find_all_inheritors(source, NoLock, nullptr);
  StringInfoData gone;
  initStringInfo(&gone);
  ListCell* cell;
  foreach (cell, known) {
    const Oid leaf = static_cast<Oid>(*static_cast<int64*>(lfirst(cell)));
    if (!list_member_oid(present, leaf)) appendStringInfo(&gone, "%s%u", gone.len == 0 ? "" : ", ", leaf);
  }
  if (gone.len > 0) retire_leaves(source, gone.data);
  foreach (cell, present) {
    const Oid leaf = lfirst_oid(cell);
    if (get_rel_relkind(leaf) != RELKIND_RELATION || leaf == source || holds(known, leaf)) continue;
    const Bounds bounds = find_bounds(source, leaf, 0);
    if (bounds.kind == Bounds::rest) continue;  // the attic is no coverage
    run(psprintf("INSERT INTO tick_catalog.leaf (source, leaf, lo, hi) VALUES (%u, %u, %s, %s)", source, leaf,
                 time_text(bounds.lo), time_text(bounds.hi)));
  }
}

// Committed rows, and those of this transaction.
bool holds_rows(Oid relid) {
  if (get_rel_relkind(relid) != RELKIND_RELATION) return false;
  Relation relation = table_open(relid, AccessShareLock);
  Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
  TableScanDesc scan = table_beginscan(relation, snapshot, 0, nullptr);
  TupleTableSlot* slot = table_slot_create(relation, nullptr);
  const bool found = table_scan_getnextslot(scan, ForwardScanDirection, slot);
  ExecDropSingleTupleTableSlot(slot);
  table_endscan(scan);
  UnregisterSnapshot(snapshot);
  table_close(relation, NoLock);
  return found;
}

// Has the windows of a rollup recomputed whose rows may lie within bounds of the time its window is made of.
void mark_pending(int32 rollup, Oid source, Oid table) {
  WindowSize size;
  int64 program = 0;
  Oid types[] = {INT4OID};
  Datum values[] = {Int32GetDatum(rollup)};
  open_catalogs();
  SPI_execute_with_args(
      "SELECT (SELECT max(p.program) FROM tick_catalog.rollup_program AS p WHERE p.rollup = "
      "r.id), " TICK_WINDOW_COLUMNS " FROM tick_catalog.rollup AS r WHERE r.id = $1",
      1, types, values, nullptr, true, 1);
  bool none;
  program = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &none));
  const bool windowed = read_window(0, 2, &size);
  close_catalogs();
  int64 lo = minus_infinity, hi = plus_infinity;
  if (windowed && !none) {
    const Evaluator* evaluator = find_evaluator(program);
    const int time =
        evaluator == nullptr || evaluator->program.time < 0 ? -1 : evaluator->plain[evaluator->program.time];
    if (time >= 0) {
      const Bounds bounds = find_bounds(source, table, evaluator->attribute[time]);
      if (bounds.kind == Bounds::known) {
        lo = first_window(bounds.lo, size);
        hi = end_of_windows(bounds.hi, size);
      }
    }
  }
  run(psprintf("INSERT INTO tick_catalog.pending (rollup, lo, hi, fresh) VALUES (%d, (" INT64_FORMAT
               ")::numeric::int8, " INT64_FORMAT
               ", false) ON CONFLICT (rollup, lo, hi, fresh) DO UPDATE SET marked = false",
               rollup, lo, hi));
}

// Rows of a table that were never in the source, as if they were inserted now. Throws.
void fold_rows(Oid table) {
  ListCell* cell;
  foreach (cell, find_all_inheritors(table, AccessShareLock, nullptr)) {
    if (get_rel_relkind(lfirst_oid(cell)) != RELKIND_RELATION) continue;
    Relation leaf = table_open(lfirst_oid(cell), NoLock);
    const Trigger* capture = nullptr;
    for (int i = 0; leaf->trigdesc != nullptr && i < leaf->trigdesc->numtriggers; ++i)
      if (strcmp(leaf->trigdesc->triggers[i].tgname, "zz_tick_insert") == 0)
        capture = &leaf->trigdesc->triggers[i];
    if (capture != nullptr) {
      const Binding* binding = bind_capture(capture, leaf);
      Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
      TableScanDesc scan = table_beginscan(leaf, snapshot, 0, nullptr);
      TupleTableSlot* slot = table_slot_create(leaf, nullptr);
      while (table_scan_getnextslot(scan, ForwardScanDirection, slot)) {
        CHECK_FOR_INTERRUPTS();
        capture_insert(binding, &slot, 1, GetCurrentCommandId(false));
      }
      ExecDropSingleTupleTableSlot(slot);
      table_endscan(scan);
      UnregisterSnapshot(snapshot);
    }
    table_close(leaf, NoLock);
  }
  flush_statement();
}

// Whether rows of these times were never in the source: nothing from there on has gone. What was ahead of the
// clock when it went has not moved raw_from.
bool is_new(Oid source, const Bounds& bounds) {
  if (bounds.kind != Bounds::known || bounds.lo == minus_infinity) return false;
  const char *lo = time_text(bounds.lo), *hi = time_text(bounds.hi);
  return read_numbers(
             psprintf(
                 "SELECT 1::int8 FROM tick_catalog.source AS s WHERE s.relid = $1 AND s.raw_from <= %s "
                 "AND NOT EXISTS (SELECT FROM tick_catalog.watermark AS w, unnest(w.ahead) AS a (at) "
                 "WHERE w.source = s.relid AND a.at >= %s AND a.at < coalesce(%s::timestamptz, 'infinity'))",
                 lo, lo, hi),
             source) != NIL;
}

// Windows that reach below raw_from have what was there when a partition was detached, and nothing of what it
// has got since: nobody knows which rows these are.
void warn_of_straddling(Oid source, Oid table) {
  open_catalogs();
  SPI_execute(
      psprintf("SELECT string_agg(r.view::regclass::text, ', ' ORDER BY r.id) FROM "
               "tick_catalog.rollup AS r JOIN tick_catalog.source AS s ON s.relid = r.source WHERE "
               "r.source = %u AND r.parent IS NULL AND s.raw_from IS NOT NULL AND (r.time_column IS NULL OR "
               "tick_catalog.window_from(s.raw_from, r.window_size, r.window_slide, r.window_zone, "
               "r.window_origin, r.window_grows) <> s.raw_from)",
               source),
      true, 1);
  if (const char* names = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1))
    ereport(WARNING,
            (errmsg("rows of \"%s\" do not enter windows that its source does not hold completely",
                    get_rel_name(table)),
             errdetail("Windows of %s. They have the rows that were there when it was detached.", names)));
  close_catalogs();
}

void take_in_table(Oid source, Oid table) {
  const Bounds bounds = find_bounds(source, table, 0);
  take_in_ids(source, table);
  const bool unseen = is_new(source, bounds);
  if (unseen) fold_rows(table);
  if (bounds.kind == Bounds::known)
    run(psprintf("UPDATE tick_catalog.source SET raw_from = %s WHERE relid = %u AND raw_from = %s",
                 time_text(bounds.lo), source, time_text(bounds.hi)));
  // The windows that the leaf covers are computed with all their columns.
  const auto window_from = [](const char* time) {
    return psprintf(
        "tick_catalog.window_from(%s::timestamptz, r.window_size, r.window_slide, r.window_zone, "
        "r.window_origin, r.window_grows)",
        time);
  };
  const char *lo = window_from(time_text(bounds.lo)), *hi = window_from(time_text(bounds.hi));
  run(psprintf(
      "UPDATE tick_catalog.rollup AS r SET item_from = (SELECT array_agg(CASE WHEN u.t > coalesce(%s, "
      "'-infinity') AND u.t <= %s AND o.raw_from IS NOT DISTINCT FROM %s THEN %s ELSE u.t END ORDER BY u.n) "
      "FROM unnest(r.item_from) WITH ORDINALITY AS u (t, n)) FROM tick_catalog.source AS o WHERE o.relid = "
      "%u AND r.source = o.relid AND r.item_from IS NOT NULL",
      lo, hi, time_text(bounds.lo), lo, source));
  List* beyond = read_numbers(
      psprintf("SELECT 1::int8 FROM tick_catalog.source WHERE relid = $1 AND raw_from IS NOT NULL AND "
               "(%s::timestamptz IS NULL OR raw_from > %s)",
               time_text(bounds.lo), time_text(bounds.lo)),
      source);
  if (beyond != NIL)
    ereport(WARNING, (errmsg("rows of \"%s\" do not enter the rollups where older rows were retired",
                             get_rel_name(table)),
                      errdetail("Windows that the source does not hold completely are not recomputed."),
                      errhint("Attach partitions that were detached newest first.")));
  else if (!unseen)
    warn_of_straddling(source, table);
  ListCell* cell;
  foreach (cell,
           read_numbers("SELECT id::int8 FROM tick_catalog.rollup WHERE source = $1 AND parent IS NULL AND "
                        "status <> 'error'",
                        source))
    mark_pending(static_cast<int32>(*static_cast<int64*>(lfirst(cell))), source, table);
  tell_engine();
}

}  // namespace

bool any_holds_rows(Oid table) {
  ListCell* cell;
  foreach (cell, find_all_inheritors(table, NoLock, nullptr))
    if (holds_rows(lfirst_oid(cell))) return true;
  return false;
}

List* read_numbers(const char* sql, Oid argument) {
  List* result = NIL;
  Oid types[] = {OIDOID};
  Datum values[] = {ObjectIdGetDatum(argument)};
  MemoryContext memory = CurrentMemoryContext;
  open_catalogs();
  SPI_execute_with_args(sql, 1, types, values, nullptr, true, 0);
  for (uint64 row = 0; row < SPI_processed; ++row) {
    bool null;
    auto* number = static_cast<int64*>(MemoryContextAlloc(memory, sizeof(int64)));
    *number = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 1, &null));
    MemoryContext spi = MemoryContextSwitchTo(memory);
    result = lappend(result, number);
    MemoryContextSwitchTo(spi);
  }
  close_catalogs();
  return result;
}

// What was never computed would never be.
static void refuse_during_backfill(Oid source) {
  List* waiting = read_numbers(
      "SELECT r.view::int8 FROM tick_catalog.rollup AS r JOIN tick_catalog.pending AS p ON p.rollup = r.id "
      "WHERE r.source = $1 AND r.parent IS NULL AND p.fresh AND r.status <> 'error' LIMIT 1",
      source);
  if (waiting == NIL) return;
  const auto view = static_cast<Oid>(*static_cast<int64*>(linitial(waiting)));
  ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                  errmsg("rows of \"%s\" cannot go yet: \"%s\" is still being computed from them",
                         get_rel_name(source), get_rel_name(view)),
                  errhint("Try again when SELECT tick.wait(...) of it has returned true.")));
}

void raise_raw_from(Oid source, Micros until) {
  const char* text = time_text(until);
  raise(source, text, psprintf("raw_from < %s", text));
}

void retire_rows(Oid source, Micros newest) {
  refuse_during_backfill(source);
  if (newest != plus_infinity) return raise_raw_from(source, newest + 1);
  raise(source,
        "(SELECT greatest(now(), w.max_time) + interval '1 microsecond' FROM tick_catalog.watermark AS w "
        "WHERE w.source = s.relid)",
        "false");
}

void retire_leaf(Oid source, Oid leaf) {
  refuse_during_backfill(source);
  move_raw_from(source, psprintf("%u", leaf));
  tell_engine();
}

void follow_leaves() {
  ListCell* cell;
  foreach (cell, read_numbers("SELECT relid::int8 FROM tick_catalog.source WHERE $1 IS NOT NULL", 0))
    follow(static_cast<Oid>(*static_cast<int64*>(lfirst(cell))));
}

void take_in(List* tables) {
  ListCell* cell;
  foreach (cell, tables) {
    const Oid table = lfirst_oid(cell);
    List* sources = read_numbers(
        "SELECT s.relid::int8 FROM tick_catalog.source AS s WHERE s.relid IN (SELECT relid FROM "
        "pg_partition_ancestors($1)) AND s.relid <> $1",
        table);
    if (sources == NIL || !any_holds_rows(table)) continue;
    ListCell* source;
    foreach (source, sources) take_in_table(static_cast<Oid>(*static_cast<int64*>(lfirst(source))), table);
  }
}

}  // namespace tick::pg
