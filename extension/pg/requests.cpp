// What owners ask of the engine beside definitions: rows that go without their candles (tick.purge,
// tick.truncate), windows recomputed (tick.refresh), a source that begins anew (tick.reset); and what a state
// table lets happen to itself. Plain PostgreSQL code, but for the sets of ids; all checks rights first.
#include "changes.hpp"
#include "coverage.hpp"
#include "dedup.hpp"
#include "define.hpp"
#include "evaluator.hpp"
#include "guard.hpp"
#include "history.hpp"
#include "keys.hpp"
#include "revive.hpp"
#include "seed.hpp"
#include "session.hpp"
#include "shared.hpp"
#include "source.hpp"
#include "values.hpp"

namespace tick::pg {
namespace {

List* rollups_of(Oid source) {
  return read_numbers("SELECT id::int8 FROM tick_catalog.rollup WHERE source = $1 ORDER BY id", source);
}

// The column as a timestamptz, for a statement over the source.
const char* time_expression(Oid source, AttrNumber column) {
  const char* name = quote_identifier(get_attname(source, column, false));
  return getBaseType(get_atttype(source, column)) == TIMESTAMPOID ? psprintf("(%s AT TIME ZONE 'UTC')", name)
                                                                  : name;
}

// ---- rows that go without their candles

int64 purge(Oid source, TimestampTz before) {
  require_source(source);
  if (TIMESTAMP_IS_NOEND(before))
    ereport(ERROR, (errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE), errmsg("the time must not be infinity"),
                    errhint("To empty a source: SET LOCAL tick.truncate = 'retention', then TRUNCATE it.")));
  const Actor caller = act_as_extension();
  const AttrNumber column = time_column(source);
  act_again(caller);
  if (column == 0)
    ereport(ERROR, (errcode(ERRCODE_AMBIGUOUS_COLUMN),
                    errmsg("cannot tell which column dates the rows of \"%s\"", get_rel_name(source)),
                    errhint("DELETE the rows yourself, with SET LOCAL tick.corrections = off.")));
  const Actor again = act_as_owner_of(source);
  const char* name = quote_identifier(get_attname(source, column, false));
  const char* bound =
      getBaseType(get_atttype(source, column)) == TIMESTAMPOID ? "($1 AT TIME ZONE 'UTC')" : "$1";
  (void)set_config_option("tick.corrections", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
                          false);
  Oid types[] = {TIMESTAMPTZOID};
  Datum values[] = {TimestampTzGetDatum(before)};
  SPI_connect();
  const int code =
      SPI_execute_with_args(psprintf("DELETE FROM %s WHERE %s < %s", relation_text(source), name, bound), 1,
                            types, values, nullptr, false, 0);
  if (code != SPI_OK_DELETE) elog(ERROR, "pg_tick: purge failed: %s", SPI_result_code_string(code));
  const int64 rows = static_cast<int64>(SPI_processed);
  SPI_finish();
  act_again(again);
  return rows;
}

// While tick.reset truncates a source in this very subtransaction.
Oid resetting = InvalidOid;
SubTransactionId resetting_in = InvalidSubTransactionId;

bool is_resetting(Oid source) {
  return resetting == source && resetting_in == GetCurrentSubTransactionId();
}

void truncate_table(Relation table) {
  const Oid relid = RelationGetRelid(table);
  const Actor caller = act_as_extension();
  List* sources = read_numbers(
      "SELECT s.relid::int8 FROM tick_catalog.source AS s WHERE s.relid = $1 OR s.relid IN (SELECT relid "
      "FROM "
      "pg_partition_ancestors($1))",
      relid);
  act_again(caller);
  ListCell* cell;
  foreach (cell, sources) {
    const auto source = static_cast<Oid>(*static_cast<int64*>(lfirst(cell)));
    if (is_resetting(source)) continue;
    if (tick_truncate != truncate_retention)
      ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                      errmsg("cannot truncate \"%s\": rollups read it", RelationGetRelationName(table)),
                      errdetail("Its candles would no longer equal their query."),
                      errhint("To keep them: SET LOCAL tick.truncate = 'retention'. To begin anew: SELECT "
                              "tick.reset(%s).",
                              quote_literal_cstr(relation_text(source)))));
    if (!TICK_OWNS_RELATION(source, GetUserId()))
      aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, get_rel_name(source));
    if (table->rd_rel->relkind != RELKIND_RELATION) continue;  // its leaves have triggers of their own
    const Actor again = act_as_extension();
    if (relid != source) {
      retire_leaf(source, relid);
    } else {
      const AttrNumber column = time_column(source);
      List* newest = NIL;
      if (column != 0) {
        const char* time = time_expression(source, column);
        const Actor extension = act_as_owner_of(source);
        newest =
            read_numbers(psprintf("SELECT (extract(epoch FROM max(%s) - '2000-01-01 00:00+00') * "
                                  "1000000)::int8 FROM %s WHERE isfinite(%s) HAVING count(*) > 0 AND $1 IS "
                                  "NOT NULL",
                                  time, relation_text(source), time),
                         source);
        act_again(extension);
        if (newest != NIL) retire_rows(source, *static_cast<int64*>(linitial(newest)));
      } else {
        retire_rows(source, plus_infinity);
      }
    }
    act_again(again);
  }
}

// ---- windows computed again

struct Target {
  int32 rollup;
  bool failed;
  bool windowed;
  WindowSize size;
  bool partial;  // the source is complete from raw_from only
  TimestampTz raw_from;
  TimestampTz kept_from;  // of retention, or minus_infinity
};

Target find_target(Oid view) {
  Target target{};
  Oid types[] = {OIDOID};
  Datum values[] = {ObjectIdGetDatum(view)};
  open_catalogs();
  SPI_execute_with_args("SELECT r.id, r.status = 'error', " TICK_COVERED_FROM(
                            "s") ", r.kept_from, " TICK_WINDOW_COLUMNS
                                 " FROM tick_catalog.rollup AS r JOIN tick_catalog.source AS s ON s.relid = "
                                 "r.source WHERE r.view = $1",
                        1, types, values, nullptr, true, 1);
  if (SPI_processed == 1) {
    Datum field[4];
    bool null[4];
    for (int i = 0; i < 4; ++i)
      field[i] = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1, &null[i]);
    target.rollup = DatumGetInt32(field[0]);
    target.failed = DatumGetBool(field[1]);
    target.windowed = read_window(0, 5, &target.size);
    target.partial = !null[2];
    target.raw_from = null[2] ? 0 : DatumGetTimestampTz(field[2]);
    target.kept_from = null[3] ? minus_infinity : DatumGetTimestampTz(field[3]);
  }
  close_catalogs();
  return target;
}

void refresh(Oid view, Micros lo, Micros hi) {
  const char* name = get_rel_name(view);
  const Actor caller = act_as_extension();
  const Target target = find_target(view);
  act_again(caller);
  if (target.rollup == 0) refuse_no_rollup(view);
  if (!TICK_OWNS_RELATION(view, GetUserId())) aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_VIEW, name);
  if (target.failed)
    ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("\"%s\" is set aside", name),
                    errhint("SELECT tick.resume(...) recomputes all of it.")));
  if (!target.windowed) {
    if (target.partial)
      ereport(ERROR,
              (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
               errmsg("\"%s\" cannot be recomputed: rows that it has seen were retired", name),
               errdetail("Its source is complete only from %s on.", timestamptz_to_str(target.raw_from)),
               errhint("TRUNCATE its state table to compute it from what is left.")));
    lo = minus_infinity;
    hi = plus_infinity;
  } else {
    if (lo != minus_infinity && lo != plus_infinity) lo = first_window(lo, target.size);
    hi = end_of_windows(hi, target.size);
    if (target.partial) {
      const Micros covered = first_window_from(target.raw_from, target.size);
      if (lo < covered) {
        ereport(NOTICE, (errmsg("windows of \"%s\" before %s stay as they are: their rows were retired", name,
                                timestamptz_to_str(covered))));
        lo = covered;
      }
    }
    if (lo < target.kept_from) {
      if (lo != minus_infinity)
        ereport(NOTICE,
                (errmsg("windows of \"%s\" before %s are not made again: its retention has dropped them",
                        name, timestamptz_to_str(target.kept_from))));
      lo = target.kept_from;
    }
  }
  if (lo >= hi) return;
  const Actor again = act_as_extension();
  run(psprintf("INSERT INTO tick_catalog.pending (rollup, lo, hi, fresh, replace) VALUES (%d, (" INT64_FORMAT
               ")::numeric::int8, (" INT64_FORMAT
               ")::numeric::int8, false, true) ON CONFLICT (rollup, lo, hi, fresh) "
               "DO UPDATE SET replace = true",
               target.rollup, lo, hi));
  tell_engine();
  act_again(again);
}

// A rollup whose state is empty: everything is computed from what the source holds. Turns are stopped. Nobody
// can say which rows have gone, so those who read its changes begin anew, too.
void begin_anew(int32 rollup) {
  for (const char* catalog : {"pending", "open_window", "stale", "late", "touched"})
    run(psprintf("DELETE FROM tick_catalog.%s WHERE rollup = %d", catalog, rollup));
  run(
      psprintf("INSERT INTO tick_catalog.pending (rollup, lo, hi, fresh) VALUES (%d, "
               "(-9223372036854775808)::int8, 9223372036854775807, true)",
               rollup));
  run(
      psprintf("UPDATE tick_catalog.rollup SET status = 'backfill' WHERE id = %d AND status = 'live'; UPDATE "
               "tick_catalog.rollup SET seeded_to = NULL WHERE id = %d",
               rollup, rollup));
  forget_changes(rollup);
  restart_history(rollup);
  tell_engine();
}

// Throws, like what it calls for the ids.
void reset(Oid source) {
  // An error in the TRUNCATE leaves nothing allowed: numbers of subtransactions come again.
  struct Ending {
    ~Ending() { resetting = InvalidOid; }
  } ending;
  Actor caller{};
  call([&] {
    require_source(source);
    caller = act_as_extension();
    lock_source(source, AccessExclusiveLock);
    stop_turns();
    const Actor extension = act_as_owner_of(source);
    resetting = source;
    resetting_in = GetCurrentSubTransactionId();
    SPI_connect();
    (void)SPI_execute(psprintf("TRUNCATE %s", relation_text(source)), false, 0);
    SPI_finish();
    resetting = InvalidOid;
    act_again(extension);
    // Their writers have ended: whatever is still to be merged was of rows that have gone.
    for (int queue = 0; queue < queue_tables; ++queue)
      run(psprintf(
          "DELETE FROM tick_catalog.queue_%d WHERE program IN (SELECT id FROM tick_catalog.program WHERE "
          "source = %u)",
          queue, source));
    ListCell* cell;
    foreach (cell, rollups_of(source)) {
      const auto rollup = static_cast<int32>(*static_cast<int64*>(lfirst(cell)));
      List* state = read_numbers(
          psprintf("SELECT state::int8 FROM tick_catalog.rollup WHERE id = %d AND $1 IS NOT NULL", rollup),
          source);
      const auto table = static_cast<Oid>(*static_cast<int64*>(linitial(state)));
      const Actor again = act_as_owner_of(table);
      run(psprintf("TRUNCATE %s", relation_text(table)));
      act_again(again);
      begin_anew(rollup);
    }
    run(psprintf("UPDATE tick_catalog.rollup SET kept_from = NULL WHERE source = %u", source));
    run(psprintf("UPDATE tick_catalog.source SET raw_from = NULL WHERE relid = %u", source));
    run(psprintf("DELETE FROM tick_catalog.watermark WHERE source = %u", source));
    run(psprintf("DELETE FROM tick_catalog.watermark_request WHERE source = %u", source));
    register_source(source);
    tell_engine();
  });
  rebuild_seen(source);
  call([&] { act_again(caller); });
}

// ---- what a state table lets happen to itself

void rebuild(Oid state) {
  stop_turns();
  const Actor caller = act_as_extension();
  ListCell* cell;
  foreach (cell, read_numbers("SELECT id::int8 FROM tick_catalog.rollup WHERE state = $1", state)) {
    const auto rollup = static_cast<int32>(*static_cast<int64*>(lfirst(cell)));
    begin_anew(rollup);
    have_followed(rollup, minus_infinity, plus_infinity);
  }
  act_again(caller);
}

bool is_worker() {
  const DatabaseSlot* slot = my_slot();
  return slot != nullptr && (slot->worker == MyProcPid || slot->computer.pid == MyProcPid);
}

TriggerData* trigger_data(FunctionCallInfo fcinfo) {
  if (!CALLED_AS_TRIGGER(fcinfo))
    ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
                    errmsg("%s can only be a trigger", format_procedure(fcinfo->flinfo->fn_oid))));
  return reinterpret_cast<TriggerData*>(fcinfo->context);
}

}  // namespace
}  // namespace tick::pg

using namespace tick::pg;

extern "C" {
PG_FUNCTION_INFO_V1(tick_purge);
PGDLLEXPORT Datum tick_purge(PG_FUNCTION_ARGS);
PG_FUNCTION_INFO_V1(tick_refresh);
PGDLLEXPORT Datum tick_refresh(PG_FUNCTION_ARGS);
PG_FUNCTION_INFO_V1(tick_reset);
PGDLLEXPORT Datum tick_reset(PG_FUNCTION_ARGS);
PG_FUNCTION_INFO_V1(tick_refuse_truncate);
PGDLLEXPORT Datum tick_refuse_truncate(PG_FUNCTION_ARGS);
PG_FUNCTION_INFO_V1(tick_guard_state);
PGDLLEXPORT Datum tick_guard_state(PG_FUNCTION_ARGS);
PG_FUNCTION_INFO_V1(tick_lock_out_writers);
PGDLLEXPORT Datum tick_lock_out_writers(PG_FUNCTION_ARGS);
}

Datum tick_purge(PG_FUNCTION_ARGS) {
  return entry([&] { return Int64GetDatum(purge(PG_GETARG_OID(0), PG_GETARG_TIMESTAMPTZ(1))); });
}

Datum tick_refresh(PG_FUNCTION_ARGS) {
  return entry([&]() -> Datum {
    if (!PG_ARGISNULL(0))
      refresh(PG_GETARG_OID(0), PG_ARGISNULL(1) ? tick::minus_infinity : PG_GETARG_TIMESTAMPTZ(1),
              PG_ARGISNULL(2) ? tick::plus_infinity : PG_GETARG_TIMESTAMPTZ(2));
    PG_RETURN_VOID();
  });
}

Datum tick_reset(PG_FUNCTION_ARGS) {
  return entry([&]() -> Datum {
    reset(PG_GETARG_OID(0));
    PG_RETURN_VOID();
  });
}

Datum tick_refuse_truncate(PG_FUNCTION_ARGS) {
  return entry([&] {
    truncate_table(trigger_data(fcinfo)->tg_relation);
    return PointerGetDatum(nullptr);
  });
}

// Only the worker writes a state table; emptied by its owner it is computed again.
Datum tick_guard_state(PG_FUNCTION_ARGS) {
  return entry([&] {
    const TriggerData* trigger = trigger_data(fcinfo);
    if (TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
      rebuild(RelationGetRelid(trigger->tg_relation));
    else if (!is_worker() && !is_seeding(RelationGetRelid(trigger->tg_relation)) &&
             !is_rewriting(RelationGetRelid(trigger->tg_relation)) &&
             !loads_state(RelationGetRelid(trigger->tg_relation)))
      ereport(ERROR,
              (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
               errmsg("\"%s\" is the state of a rollup: only its worker writes it",
                      RelationGetRelationName(trigger->tg_relation)),
               errhint("Change the rows of the source. tick.refresh recomputes windows, TRUNCATE of the "
                       "state table all of them.")));
    return PointerGetDatum(nullptr);
  });
}

// Waits until nobody writes to the sources; who wants to then waits for the end of this transaction.
Datum tick_lock_out_writers(PG_FUNCTION_ARGS) {
  return entry([&]() -> Datum {
    call([&] {
      Datum* elements;
      int count;
      deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), OIDOID, sizeof(Oid), true, TYPALIGN_INT, &elements, nullptr,
                        &count);
      List* sources = NIL;
      for (int i = 0; i < count; ++i) sources = lappend_oid(sources, DatumGetObjectId(elements[i]));
      if (sources != NIL) lock_sources(sources, ShareRowExclusiveLock);
    });
    PG_RETURN_VOID();
  });
}
