// The triggers on a source, and the lock under which they change. They must fire in every session, so they
// are ENABLE ALWAYS, and their names sort last: BEFORE triggers of others have had their say. PostgreSQL
// only, except that the guard catches a lock timeout.
#include "audit.hpp"
#include "catalog.hpp"
#include "coverage.hpp"
#include "dedup.hpp"
#include "define.hpp"
#include "guard.hpp"
#include "session.hpp"
#include "shared.hpp"

namespace tick::pg {
namespace {

constexpr const char* row_triggers[][2] = {
    {"zz_tick_insert", "INSERT"}, {"zz_tick_delete", "DELETE"}, {"zz_tick_update", "UPDATE"}};

// Locks all of them or, after a moment, none. Returns whether it did.
bool try_lock(List* relations, LOCKMODE mode) {
  ErrorData* error = in_subtransaction([&] {
    const int level = NewGUCNestLevel();
    (void)set_config_option("lock_timeout", "100ms", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
                            false);
    ListCell* cell;
    foreach (cell, relations) LockRelationOid(lfirst_oid(cell), mode);
    AtEOXact_GUC(true, level);
  });
  if (error == nullptr) return true;
  if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE && error->sqlerrcode != ERRCODE_T_R_DEADLOCK_DETECTED)
    ReThrowError(error);
  return false;
}

void pause(int milliseconds) {
  CHECK_FOR_INTERRUPTS();
  (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, milliseconds, PG_WAIT_EXTENSION);
  ResetLatch(MyLatch);
  CHECK_FOR_INTERRUPTS();
}

// The current programs of a source as trigger arguments, a set of ids as a negative number; nullptr if there
// are none.
const char* program_arguments(Oid source) {
  Oid types[] = {OIDOID};
  Datum values[] = {ObjectIdGetDatum(source)};
  char* result = nullptr;
  MemoryContext memory = CurrentMemoryContext;
  open_catalogs();
  SPI_execute_with_args(
      "SELECT string_agg(quote_literal(t.id), ', ' ORDER BY t.id) FROM (SELECT p.id FROM "
      "tick_catalog.program "
      "AS p WHERE p.source = $1 AND p.current UNION ALL SELECT -d.id FROM tick_catalog.dedup AS d "
      "WHERE d.source = $1) AS t",
      1, types, values, nullptr, true, 1);
  char* found = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
  if (found != nullptr) result = MemoryContextStrdup(memory, found);
  close_catalogs();
  return result;
}

bool has_trigger(Oid relation, const char* name) {
  return OidIsValid(get_trigger_oid(relation, name, true));
}

void make_trigger(Oid relation, const char* name, const char* what) {
  const char* table = relation_text(relation);
  run(psprintf("CREATE OR REPLACE TRIGGER %s %s; ALTER TABLE %s ENABLE ALWAYS TRIGGER %s", name,
               psprintf(what, table), table, name));
}

void drop_trigger(Oid relation, const char* name) {
  if (has_trigger(relation, name)) run(psprintf("DROP TRIGGER %s ON %s", name, relation_text(relation)));
}

}  // namespace

const char* lock_holders(Oid source, LOCKMODE mode) {
  Oid types[] = {OIDOID, BOOLOID};
  Datum values[] = {ObjectIdGetDatum(source), BoolGetDatum(mode == AccessExclusiveLock)};
  const char* result = nullptr;
  MemoryContext memory = CurrentMemoryContext;
  const Actor caller = act_as_extension();
  open_catalogs();
  SPI_execute_with_args(
      "SELECT string_agg(DISTINCT CASE WHEN l.pid IS NOT NULL THEN 'process ' || l.pid ELSE 'prepared "
      "transaction ' || coalesce(quote_literal(x.gid), l.virtualtransaction) END, ', ') FROM pg_locks AS l "
      // A prepared transaction keeps the virtual one that its session had until a restart.
      "LEFT JOIN pg_locks AS t ON t.pid IS NULL AND l.pid IS NULL AND t.locktype = 'transactionid' AND "
      "t.granted AND t.virtualtransaction = l.virtualtransaction "
      "LEFT JOIN pg_prepared_xacts AS x ON x.transaction = t.transactionid WHERE l.granted AND l.locktype = "
      "'relation' AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()) "
      "AND l.relation IN (SELECT $1 UNION ALL SELECT relid FROM pg_partition_tree($1)) AND l.pid IS DISTINCT "
      "FROM pg_backend_pid() AND ($2 OR l.mode NOT IN ('AccessShareLock', 'RowShareLock'))",
      2, types, values, nullptr, true, 1);
  if (SPI_processed == 1) {
    char* found = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
    if (found != nullptr) result = MemoryContextStrdup(memory, found);
  }
  close_catalogs();
  act_again(caller);
  return result == nullptr ? "none any more" : result;
}

void lock_source(Oid source, LOCKMODE mode) {
  lock_sources(list_make1_oid(source), mode);
}

void lock_sources(List* sources, LOCKMODE mode) {
  const TimestampTz give_up = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), tick_lock_timeout);
  int rest = 10;
  const auto tables = [&] {
    List* all = NIL;
    ListCell* cell;
    foreach (cell, sources) all = list_concat(all, find_all_inheritors(lfirst_oid(cell), NoLock, nullptr));
    return all;
  };
  while (!try_lock(tables(), mode)) {
    const Oid source = linitial_oid(sources);
    if (GetCurrentTimestamp() >= give_up)
      ereport(ERROR, (errcode(ERRCODE_LOCK_NOT_AVAILABLE),
                      errmsg("could not lock \"%s\" within tick.lock_timeout", get_rel_name(source)),
                      errdetail("Locks are held by: %s.", lock_holders(source, mode)),
                      errhint("Try again when they have ended, or raise tick.lock_timeout.")));
    pause(rest);
    rest = Min(rest * 2, 200);
  }
}

// It would wait for what we drop, and we for what it has locked. A lock on the object, as the turn's own.
// The session looks for a deadlock so late that the worker, which looks at once, has always given way before.
void stop_turns() {
  const Oid frontier = catalog_relation("frontier");
  const int level = NewGUCNestLevel();
  (void)set_config_option("deadlock_timeout", "30s", PGC_SUSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
                          false);
  LockDatabaseObject(RelationRelationId, frontier, 1, ExclusiveLock);
  AtEOXact_GUC(true, level);
}

bool has_programs(Oid source) {
  return program_arguments(source) != nullptr;
}

// PostgreSQL refuses to drop or retype a column that a trigger depends on.
static void depend_on_columns(Oid source, Oid trigger, const Dedup* dedup) {
  const ObjectAddress depender{TriggerRelationId, trigger, 0};
  for (size_t i = 0; i < dedup->columns.size(); ++i) {
    if (dedup->columns[i] == 0) continue;
    const ObjectAddress referenced{RelationRelationId, source, dedup->columns[i]};
    recordDependencyOn(&depender, &referenced, DEPENDENCY_NORMAL);
  }
}

static void attach_dedup(Oid source) {
  const int32 set = dedup_of(source);
  if (set == 0) {
    drop_trigger(source, "zz_tick_dedup");
    return;
  }
  make_trigger(source, "zz_tick_dedup",
               psprintf("BEFORE INSERT OR DELETE ON %%s FOR EACH ROW EXECUTE FUNCTION "
                        "tick_catalog.dedup('%d')",
                        set));
  depend_on_columns(source, get_trigger_oid(source, "zz_tick_dedup", false), find_dedup(set));
}

void attach_triggers(Oid source) {
  const char* arguments = program_arguments(source);
  const Actor before = act_as_extension();
  const bool paused = pause_audit(true);
  List* relations = find_all_inheritors(source, NoLock, nullptr);
  attach_dedup(source);
  if (arguments != nullptr) {
    for (const auto& trigger : row_triggers)
      make_trigger(source, trigger[0],
                   psprintf("AFTER %s ON %%s FOR EACH ROW EXECUTE FUNCTION tick_catalog.capture(%s)",
                            trigger[1], arguments));
    make_trigger(
        source, "zz_tick_flush",
        "AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH STATEMENT EXECUTE FUNCTION tick_catalog.flush()");
  } else {
    for (const auto& trigger : row_triggers) drop_trigger(source, trigger[0]);
    drop_trigger(source, "zz_tick_flush");
  }
  ListCell* cell;
  foreach (cell, relations) {
    if (arguments == nullptr)
      drop_trigger(lfirst_oid(cell), "zz_tick_truncate");
    else
      make_trigger(
          lfirst_oid(cell), "zz_tick_truncate",
          "BEFORE TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION tick_catalog.refuse_truncate()");
  }
  if (arguments != nullptr) follow_leaves();
  (void)pause_audit(paused);
  act_again(before);
}

}  // namespace tick::pg
