#include "history.hpp"

#include <map>

#include "define.hpp"
#include "guard.hpp"
#include "session.hpp"
#include "source.hpp"
#include "state_row.hpp"

namespace tick::pg {
namespace {

constexpr TimestampTz prune_every = 10 * USECS_PER_SEC;

const Rollup* kept_rollup = nullptr;
const TurnTime* kept_time = nullptr;

// The objects of a history.
struct History {
  Oid table;     // tick_replaced_at, and the columns of the state table that its view reads
  Oid versions;  // the view over it: tick_replaced_at, and the columns of the rollup
};

History find_history(int32 rollup) {
  History history{InvalidOid, InvalidOid};
  Oid types[] = {INT4OID};
  Datum values[] = {Int32GetDatum(rollup)};
  open_catalogs();
  SPI_execute_with_args("SELECT versions_table, versions FROM tick_catalog.history WHERE rollup = $1", 1,
                        types, values, nullptr, true, 1);
  if (SPI_processed == 1) {
    bool null;
    history.table = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
    history.versions =
        DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &null));
  }
  close_catalogs();
  return history;
}

bool exists(Oid relation) {
  return OidIsValid(relation) && SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relation));
}

const char* object_name(const char* kind, int32 rollup) {
  return quote_qualified_identifier("tick_catalog", psprintf("%s_%d", kind, rollup));
}

// A dump of the schema alone leaves the objects of a rollup that had this number.
void drop_left(const char* kind, const char* name, int32 rollup) {
  if (OidIsValid(get_relname_relid(psprintf("%s_%d", name, rollup), catalog_namespace(false))))
    run(psprintf("DROP %s %s", kind, object_name(name, rollup)));
}

// Readers of the rollup, and nobody else, see its versions. What the expressions call runs as the reader, as
// in the rollup's own view. It does not name that view, which must be free to go.
void make_versions_view(Definition* def, const Standing* rollup, Oid table, const char* name) {
  const Oid state = def->state;
  def->state = table;
  const char* sql = view_sql(def, rollup->view);
  def->state = state;
  constexpr size_t head = sizeof("SELECT ") - 1;
  run(
      psprintf("CREATE VIEW %s WITH (security_barrier) AS SELECT s.tick_replaced_at, %s WHERE "
               "EXISTS (SELECT FROM tick_catalog.rollup AS r WHERE r.id = %d AND "
               "pg_catalog.has_table_privilege(r.view, 'SELECT'))",
               name, sql + head, rollup->rollup));
  run(psprintf("GRANT SELECT ON %s TO PUBLIC", name));
}

void make_history(const Standing* rollup, Definition* def, const Interval* length) {
  const char* table_name = object_name("history", rollup->rollup);
  const char* view_name = object_name("versions", rollup->rollup);
  drop_left("VIEW", "versions", rollup->rollup);
  drop_left("TABLE", "history", rollup->rollup);
  StringInfoData sql;
  initStringInfo(&sql);
  appendStringInfo(&sql, "CREATE TABLE %s AS SELECT NULL::timestamptz AS tick_replaced_at", table_name);
  ListCell* cell;
  foreach (cell, def->columns)
    appendStringInfo(&sql, ", s.%s", quote_identifier(static_cast<StateColumn*>(lfirst(cell))->name));
  appendStringInfo(&sql, ", s.revision, s.updated_at FROM %s AS s WITH NO DATA", relation_text(def->state));
  run(sql.data);
  run(psprintf("CREATE INDEX ON %s (tick_replaced_at); ALTER TABLE %s REPLICA IDENTITY FULL", table_name,
               table_name));
  const Oid table = get_relname_relid(psprintf("history_%d", rollup->rollup), catalog_namespace(false));
  run(psprintf("SELECT tick_catalog.refuse_replica(%u)", table));
  make_versions_view(def, rollup, table, view_name);
  run(
      psprintf("CREATE TRIGGER tick_keep AFTER UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION "
               "tick_catalog.keep_version()",
               relation_text(rollup->state)));
  Oid types[] = {INT4OID, INTERVALOID, OIDOID};
  Datum values[] = {Int32GetDatum(rollup->rollup), IntervalPGetDatum(length),
                    ObjectIdGetDatum(rollup->source)};
  SPI_connect();
  if (SPI_execute_with_args(
          psprintf(
              "INSERT INTO tick_catalog.history (rollup, length, versions_table, versions, since) VALUES "
              "($1, $2, '%s', '%s', clock_timestamp())",
              table_name, view_name),
          2, types, values, nullptr, false, 0) < 0 ||
      SPI_execute_with_args("INSERT INTO tick_catalog.finality SELECT $1, '-infinity', w.watermark FROM "
                            "tick_catalog.watermark AS w WHERE w.source = $3 AND w.watermark IS NOT NULL AND "
                            "$2 IS NOT NULL",
                            3, types, values, nullptr, false, 0) < 0)
    elog(ERROR, "pg_tick: cannot write the catalogs");
  SPI_finish();
}

}  // namespace

KeepsVersions::KeepsVersions(const Rollup& rollup, const TurnTime& time) {
  if (!OidIsValid(rollup.history)) return;
  kept_rollup = &rollup;
  kept_time = &time;
}

KeepsVersions::~KeepsVersions() {
  kept_rollup = nullptr;
  kept_time = nullptr;
}

void keep_version(const Rollup& rollup, Relation state, const Datum* values, const bool* nulls,
                  const TurnTime& time) {
  // What this turn itself has made nobody has seen.
  if (DatumGetTimestampTz(values[rollup.updated_attribute - 1]) == time.now) return;
  Relation history = table_open(rollup.history, RowExclusiveLock);
  TupleDesc desc = RelationGetDescr(history);
  auto* kept = static_cast<Datum*>(palloc0(sizeof(Datum) * desc->natts));
  auto* missing = static_cast<bool*>(palloc0(desc->natts));
  for (int i = 0; i < desc->natts; ++i) {
    const Form_pg_attribute attribute = TupleDescAttr(desc, i);
    if (i == 0) {
      kept[i] = TimestampTzGetDatum(time.now);
      continue;
    }
    const AttrNumber from = attribute->attisdropped
                                ? InvalidAttrNumber
                                : get_attnum(RelationGetRelid(state), NameStr(attribute->attname));
    missing[i] = from == InvalidAttrNumber || nulls[from - 1];
    if (!missing[i]) kept[i] = values[from - 1];
  }
  CatalogTupleInsert(history, heap_form_tuple(desc, kept, missing));
  table_close(history, NoLock);
}

void note_finality(const Rollup& rollup, TimestampTz turn, TimestampTz before, TimestampTz after) {
  if (before != minus_infinity && after >= before &&
      first_window(after, rollup.size) == first_window(before, rollup.size))
    return;
  call([&] {
    Oid types[] = {INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID};
    Datum values[] = {Int32GetDatum(rollup.id), TimestampTzGetDatum(turn), TimestampTzGetDatum(after)};
    if (SPI_execute_plan(kept_plan("INSERT INTO tick_catalog.finality VALUES ($1, $2, $3)", 3, types), values,
                         nullptr, false, 0) < 0)
      elog(ERROR, "pg_tick: cannot note what is final");
  });
  // Rows of windows that are open again are replaced without a trace.
  if (after < before) forgo_versions(rollup, turn);
}

void forgo_versions(const Rollup& rollup, TimestampTz turn) {
  if (!OidIsValid(rollup.history)) return;
  call([&] {
    Oid types[] = {INT4OID, TIMESTAMPTZOID};
    Datum values[] = {Int32GetDatum(rollup.id), TimestampTzGetDatum(turn)};
    if (SPI_execute_plan(kept_plan("UPDATE tick_catalog.history SET since = $2 WHERE rollup = $1", 2, types),
                         values, nullptr, false, 0) < 0)
      elog(ERROR, "pg_tick: cannot begin a history anew");
  });
}

void prune_histories() {
  static TimestampTz next = 0;
  const TimestampTz now = GetCurrentTimestamp();
  if (now < next) return;
  next = now + prune_every;
  call([&] {
    SetCurrentStatementStartTimestamp();
    StartTransactionCommand();
    if (OidIsValid(catalog_relation("history"))) {
      PushActiveSnapshot(GetTransactionSnapshot());
      SPI_connect();
      const auto execute = [](const char* sql) {
        if (SPI_execute(sql, false, 0) < 0) elog(ERROR, "pg_tick: cannot prune: %s", sql);
      };
      execute(
          "SELECT format('DELETE FROM %s WHERE tick_replaced_at < %L', versions_table, now() - length) FROM "
          "tick_catalog.history");
      SPITupleTable* found = SPI_tuptable;
      for (uint64 row = 0; row < found->numvals; ++row)
        execute(SPI_getvalue(found->vals[row], found->tupdesc, 1));
      // The newest of those before tells what was final then.
      execute(
          "DELETE FROM tick_catalog.finality AS f USING tick_catalog.history AS h WHERE f.rollup = h.rollup "
          "AND "
          "f.at < (SELECT max(o.at) FROM tick_catalog.finality AS o WHERE o.rollup = h.rollup AND o.at <= "
          "now() "
          "- h.length)");
      SPI_finish();
      PopActiveSnapshot();
    }
    CommitTransactionCommand();
  });
}

void set_history(Oid view, const Interval* length) {
  const char* name = get_rel_name(view);
  List* found = standing_rollups("r.view = $1", view);
  if (found == NIL) refuse_no_rollup(view);
  const auto* rollup = static_cast<Standing*>(linitial(found));
  if (length == nullptr) {
    drop_history(rollup->rollup);
    tell_engine();
    return;
  }
  if (interval_micros(length) <= 0)
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("history must be positive"),
                    errhint("Give an interval such as '30 days'.")));
  stop_turns();
  if (OidIsValid(find_history(rollup->rollup).table)) {
    Oid types[] = {INT4OID, INTERVALOID};
    Datum values[] = {Int32GetDatum(rollup->rollup), IntervalPGetDatum(length)};
    SPI_connect();
    // What was let go of under the shorter length does not come back.
    if (SPI_execute_with_args("UPDATE tick_catalog.history SET since = greatest(since, clock_timestamp() - "
                              "length), length = $2 WHERE rollup = $1",
                              2, types, values, nullptr, false, 0) < 0)
      elog(ERROR, "pg_tick: cannot write the catalogs");
    SPI_finish();
    return;
  }
  const Actor extension = act_as_owner(rollup);
  Definition* def = read_definition(rollup);
  act_again(extension);
  if (def->window == nullptr || def->computed)
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("\"%s\" can have no history: it %s", name,
                           def->computed ? not_merged(def) : "has no windows that become final"),
                    errhint("A history is kept of merged rollups with windows.")));
  make_history(rollup, def, length);
  tell_engine();
}

void extend_history(Oid view) {
  const auto* rollup = static_cast<Standing*>(linitial(standing_rollups("r.view = $1", view)));
  const History history = find_history(rollup->rollup);
  if (!OidIsValid(history.table)) return;
  const Actor extension = act_as_owner(rollup);
  Definition* def = read_definition(rollup);
  act_again(extension);
  const Oid state = def->state;
  def->state = history.table;
  const char* sql = added_columns_sql(def);
  def->state = state;
  if (sql != nullptr) run(sql);
  // Its columns are named as those of the rollup's view, which may have been renamed.
  const char* name = relation_text(history.versions);
  run(psprintf("DROP VIEW %s", name));
  make_versions_view(def, rollup, history.table, name);
  run(psprintf("UPDATE tick_catalog.history SET versions = %s WHERE rollup = %d", quote_literal_cstr(name),
               rollup->rollup));
}

void restart_history(int32 rollup) {
  const History history = find_history(rollup);
  if (!OidIsValid(history.table)) return;
  run(psprintf("DELETE FROM %s", relation_text(history.table)));
  run(psprintf("DELETE FROM tick_catalog.finality WHERE rollup = %d", rollup));
  run(psprintf(
      "INSERT INTO tick_catalog.finality SELECT r.id, '-infinity', w.watermark FROM "
      "tick_catalog.rollup AS r JOIN tick_catalog.watermark AS w ON w.source = r.source WHERE r.id = "
      "%d AND w.watermark IS NOT NULL",
      rollup));
  run(psprintf("UPDATE tick_catalog.history SET since = clock_timestamp() WHERE rollup = %d", rollup));
}

void drop_history(int32 rollup) {
  const History history = find_history(rollup);
  if (!OidIsValid(history.table)) return;
  Oid types[] = {INT4OID};
  Datum values[] = {Int32GetDatum(rollup)};
  stop_turns();
  open_catalogs();
  SPI_execute_with_args(
      "SELECT g.tgrelid FROM pg_trigger AS g JOIN tick_catalog.rollup AS r ON r.state = "
      "g.tgrelid WHERE r.id = $1 AND g.tgname = 'tick_keep'",
      1, types, values, nullptr, true, 1);
  bool null = true;
  const Oid state =
      SPI_processed == 0
          ? InvalidOid
          : DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
  close_catalogs();
  if (exists(state)) run(psprintf("DROP TRIGGER tick_keep ON %s", relation_text(state)));
  if (exists(history.versions)) run(psprintf("DROP VIEW %s", relation_text(history.versions)));
  if (exists(history.table)) run(psprintf("DROP TABLE %s", relation_text(history.table)));
  run(
      psprintf("DELETE FROM tick_catalog.finality WHERE rollup = %d; DELETE FROM tick_catalog.history WHERE "
               "rollup = %d",
               rollup, rollup));
}

}  // namespace tick::pg

using namespace tick::pg;

extern "C" {
PG_FUNCTION_INFO_V1(tick_keep_version);

PGDLLEXPORT Datum tick_keep_version(PG_FUNCTION_ARGS) {
  return entry([&] {
    if (!CALLED_AS_TRIGGER(fcinfo))
      ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
                      errmsg("tick_catalog.keep_version can only be a trigger")));
    const auto* trigger = reinterpret_cast<TriggerData*>(fcinfo->context);
    Relation state = trigger->tg_relation;
    if (kept_rollup == nullptr || kept_rollup->state != RelationGetRelid(state))
      return PointerGetDatum(nullptr);
    const Rollup& rollup = *kept_rollup;
    TupleDesc desc = RelationGetDescr(state);
    auto* values = static_cast<Datum*>(palloc(sizeof(Datum) * desc->natts));
    auto* nulls = static_cast<bool*>(palloc(desc->natts));
    heap_deform_tuple(trigger->tg_trigtuple, desc, values, nulls);
    const int updated = rollup.updated_attribute;
    bool null;
    if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) &&
        heap_getattr(trigger->tg_newtuple, updated, desc, &null) == values[updated - 1])
      return PointerGetDatum(nullptr);  // it shows what it has shown
    const tick::Micros window =
        DatumGetTimestampTz(values[rollup.attributes[rollup.program.keys.size()] - 1]);
    if (was_final(rollup, window, *kept_time)) keep_version(rollup, state, values, nulls, *kept_time);
    return PointerGetDatum(nullptr);
  });
}
}
