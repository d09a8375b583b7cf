#include "audit.hpp"

#include "coverage.hpp"
#include "dedup.hpp"
#include "define.hpp"
#include "guard.hpp"
#include "revive.hpp"
#include "session.hpp"
#include "shared.hpp"

namespace tick::pg {
namespace {

bool changed = true;
bool expected = false;
bool paused = false;

void on_relcache(Datum, Oid) {
  changed = true;
}

struct Unguarded {
  Oid source;
  Oid leaf;
  bool captured;  // only the TRUNCATE trigger is missing
};

// Runs as the extension's owner with the fixed search_path. Plain PostgreSQL code.
List* find_unguarded() {
  List* result = NIL;
  MemoryContext memory = CurrentMemoryContext;
  open_catalogs();
  SPI_execute_plan(kept_plan("SELECT source, leaf, captured FROM tick_catalog.unguarded", 0, nullptr),
                   nullptr, nullptr, true, 0);
  for (uint64 row = 0; row < SPI_processed; ++row) {
    bool null;
    HeapTuple tuple = SPI_tuptable->vals[row];
    TupleDesc desc = SPI_tuptable->tupdesc;
    auto* found = static_cast<Unguarded*>(MemoryContextAlloc(memory, sizeof(Unguarded)));
    *found = {DatumGetObjectId(SPI_getbinval(tuple, desc, 1, &null)),
              DatumGetObjectId(SPI_getbinval(tuple, desc, 2, &null)),
              DatumGetBool(SPI_getbinval(tuple, desc, 3, &null))};
    MemoryContext spi = MemoryContextSwitchTo(memory);
    result = lappend(result, found);
    MemoryContextSwitchTo(spi);
  }
  close_catalogs();
  return result;
}

// Whether a statement was about a source, its partitions, its ancestors or a state table: all others, as
// every CREATE TEMP TABLE of anybody in this database, shall not wait for a look at all triggers.
bool concerns_us() {
  open_catalogs();
  SPI_execute_plan(
      kept_plan(
          "WITH RECURSIVE touched (relid) AS (SELECT CASE d.classid WHEN 'pg_class'::regclass THEN d.objid "
          "ELSE (SELECT g.tgrelid FROM pg_trigger AS g WHERE g.oid = d.objid) END "
          "FROM pg_event_trigger_ddl_commands() AS d "
          "WHERE d.classid IN ('pg_class'::regclass, 'pg_trigger'::regclass)), "
          "up (relid) AS (SELECT relid FROM touched UNION SELECT i.inhparent FROM up "
          "JOIN pg_inherits AS i ON i.inhrelid = up.relid), "
          "down (relid) AS (SELECT relid FROM touched UNION SELECT i.inhrelid FROM down "
          "JOIN pg_inherits AS i ON i.inhparent = down.relid) "
          "SELECT FROM tick_catalog.source AS s WHERE s.relid IN (SELECT relid FROM up) "
          "OR s.relid IN (SELECT relid FROM down) UNION ALL "
          "SELECT FROM tick_catalog.rollup AS r WHERE r.state IN (SELECT relid FROM touched)",
          0, nullptr),
      nullptr, nullptr, true, 1);
  const bool result = SPI_processed > 0;
  close_catalogs();
  return result;
}

// Enables what a statement has disabled on tables that it still holds: no other lock is needed, and a writer
// that waits for one of them may hold the source.
void enable_triggers(List* unguarded) {
  ListCell* cell;
  foreach (cell, unguarded) {
    const Oid table = static_cast<Unguarded*>(lfirst(cell))->leaf;
    Relation relation = table_open(table, AccessShareLock);
    const bool held = CheckRelationLockedByMe(relation, ShareRowExclusiveLock, true);
    StringInfoData commands;
    initStringInfo(&commands);
    for (int i = 0; held && relation->trigdesc != nullptr && i < relation->trigdesc->numtriggers; ++i) {
      const Trigger* trigger = &relation->trigdesc->triggers[i];
      if (trigger->tgenabled != TRIGGER_FIRES_ALWAYS && strncmp(trigger->tgname, "zz_tick_", 8) == 0)
        appendStringInfo(&commands, "%sENABLE ALWAYS TRIGGER %s", commands.len == 0 ? "" : ", ",
                         quote_identifier(trigger->tgname));
    }
    table_close(relation, NoLock);
    if (commands.len > 0) run(psprintf("ALTER TABLE %s %s", relation_text(table), commands.data));
  }
}

// Returns the sources whose capture had to be restored.
List* restore_triggers() {
  List* restored = NIL;
  ListCell* cell;
  foreach (cell, find_unguarded()) {
    auto* found = static_cast<Unguarded*>(lfirst(cell));
    if (found->captured) {
      guard_leaf(relation_text(found->leaf));
    } else if (!list_member_oid(restored, found->source)) {
      lock_source(found->source);
      attach_triggers(found->source);
      restored = lappend_oid(restored, found->source);
    }
  }
  return restored;
}

// The tables that a statement names in subcommands of a kind.
List* named_tables(Node* statement, AlterTableType kind) {
  List* result = NIL;
  if (!IsA(statement, AlterTableStmt)) return NIL;
  ListCell* cell;
  foreach (cell, reinterpret_cast<AlterTableStmt*>(statement)->cmds) {
    const auto* command = lfirst_node(AlterTableCmd, cell);
    if (command->subtype != kind) continue;
    const Oid table = RangeVarGetRelid(castNode(PartitionCmd, command->def)->name, NoLock, true);
    if (OidIsValid(table)) result = lappend_oid(result, table);
  }
  return result;
}

// Refuses what the statement made of a source's tables and tick.create_rollup would refuse as well.
void refuse_misfits() {
  static constexpr const char* query =
      "SELECT u.leaf::regclass, u.what, (SELECT string_agg(r.view::regclass::text, ', ' ORDER BY r.id) "
      "FROM tick_catalog.rollup AS r WHERE r.source = c.oid) "
      "FROM tick_catalog.source AS s JOIN pg_class AS c ON c.oid = s.relid CROSS JOIN LATERAL ("
      "SELECT c.oid, 'have row-level security' WHERE c.relrowsecurity UNION ALL "
      "SELECT i.inhrelid, 'inherit from their source' FROM pg_inherits AS i "
      "WHERE i.inhparent = c.oid AND c.relkind <> 'p' UNION ALL "
      "SELECT l.oid, CASE WHEN l.relkind = 'f' THEN 'be a foreign table' ELSE 'be unlogged' END FROM "
      "(SELECT c.oid UNION SELECT p.relid FROM pg_partition_tree(c.oid) AS p) AS t (oid) JOIN pg_class AS l "
      "ON l.oid = t.oid WHERE l.relkind = 'f' OR l.relpersistence <> 'p') AS u (leaf, what) WHERE EXISTS ("
      "SELECT FROM pg_event_trigger_ddl_commands() AS d WHERE d.classid = 'pg_class'::regclass AND ("
      "d.objid = c.oid OR d.objid IN (SELECT p.relid FROM pg_partition_tree(c.oid) AS p) OR "
      "d.objid IN (SELECT i.inhrelid FROM pg_inherits AS i WHERE i.inhparent = c.oid))) LIMIT 1";
  open_catalogs();
  SPI_execute_plan(kept_plan(query, 0, nullptr), nullptr, nullptr, true, 1);
  if (SPI_processed > 0) {
    HeapTuple tuple = SPI_tuptable->vals[0];
    TupleDesc desc = SPI_tuptable->tupdesc;
    const char* leaf = SPI_getvalue(tuple, desc, 1);
    const char* what = SPI_getvalue(tuple, desc, 2);
    const char* readers = SPI_getvalue(tuple, desc, 3);
    if (readers == nullptr)
      ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                      errmsg("table %s cannot %s: it has been declared a source of ticks", leaf, what),
                      errhint("Take that back first with tick.drop_source.")));
    ereport(
        ERROR,
        (errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("table %s cannot %s: rollups read it", leaf, what),
         errdetail("Read by: %s.", readers), errhint("Drop the rollups first with tick.drop_rollup.")));
  }
  close_catalogs();
}

// Refuses triggers that call our functions under other names: they would do their work twice.
void refuse_foreign_triggers() {
  open_catalogs();
  SPI_execute(
      "SELECT g.tgname, g.tgrelid::regclass FROM pg_event_trigger_ddl_commands() AS d JOIN pg_trigger AS g "
      "ON "
      "d.classid = 'pg_trigger'::regclass AND d.objid = g.oid WHERE g.tgfoid IN "
      "('tick_catalog.capture()'::regprocedure, 'tick_catalog.dedup()'::regprocedure) AND g.tgname NOT IN "
      "('zz_tick_insert', 'zz_tick_update', 'zz_tick_delete', 'zz_tick_dedup') LIMIT 1",
      true, 1);
  if (SPI_processed > 0) {
    HeapTuple tuple = SPI_tuptable->vals[0];
    TupleDesc desc = SPI_tuptable->tupdesc;
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("table %s cannot have a trigger \"%s\" that calls a function of pg_tick",
                           SPI_getvalue(tuple, desc, 2), SPI_getvalue(tuple, desc, 1)),
                    errhint("pg_tick makes the triggers that it needs.")));
  }
  close_catalogs();
}

// As refuse_misfits(), for state tables: what the worker could not write, or a crash would empty.
void refuse_broken_states() {
  static constexpr const char* query =
      "SELECT r.state::regclass, r.view::regclass, u.what FROM tick_catalog.rollup AS r JOIN pg_class AS c "
      "ON "
      "c.oid = r.state CROSS JOIN LATERAL (SELECT 'be unlogged' WHERE c.relpersistence <> 'p' UNION ALL "
      "SELECT 'do without its columns' WHERE (SELECT count(*) FROM pg_attribute AS a WHERE a.attrelid = "
      "c.oid "
      "AND (a.attname, a.atttypid) IN (('tick_stale', 'bool'::regtype), ('revision', 'int8'::regtype), "
      "('updated_at', 'timestamptz'::regtype))) < 3 UNION ALL "
      "SELECT 'do without its key' WHERE NOT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND "
      "i.indisunique AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL AND (r.time_column IS "
      "NULL AND r.key_columns = '{}' OR (SELECT array_agg(a.attname::text ORDER BY a.attname::text) FROM "
      "pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum = ANY (i.indkey)) = (SELECT array_agg(k ORDER "
      "BY k) FROM unnest(r.key_columns || r.time_column) AS k WHERE k IS NOT NULL)))) AS u (what) WHERE "
      "EXISTS (SELECT FROM pg_event_trigger_ddl_commands() AS d WHERE d.classid = 'pg_class'::regclass AND "
      "d.objid = c.oid) LIMIT 1";
  open_catalogs();
  SPI_execute_plan(kept_plan(query, 0, nullptr), nullptr, nullptr, true, 1);
  if (SPI_processed > 0) {
    HeapTuple tuple = SPI_tuptable->vals[0];
    TupleDesc desc = SPI_tuptable->tupdesc;
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("table %s cannot %s: it keeps rollup %s", SPI_getvalue(tuple, desc, 1),
                           SPI_getvalue(tuple, desc, 3), SPI_getvalue(tuple, desc, 2)),
                    errhint("Leave it as it is, or drop the rollup with tick.drop_rollup.")));
  }
  close_catalogs();
}

// A table that has left its source can be truncated again. PostgreSQL itself drops the triggers it had
// cloned.
void release_detached() {
  StringInfoData sql;
  initStringInfo(&sql);
  open_catalogs();
  SPI_execute(
      "SELECT g.tgrelid FROM pg_trigger AS g WHERE g.tgname = 'zz_tick_truncate' "
      "AND g.tgfoid = 'tick_catalog.refuse_truncate()'::regprocedure AND NOT EXISTS ("
      "SELECT FROM tick_catalog.source AS s WHERE s.relid = g.tgrelid OR s.relid IN ("
      "SELECT a.relid FROM pg_partition_ancestors(g.tgrelid) AS a))",
      true, 0);
  for (uint64 row = 0; row < SPI_processed; ++row) {
    bool null;
    const Oid table =
        DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 1, &null));
    appendStringInfo(&sql, "DROP TRIGGER zz_tick_truncate ON %s;", relation_text(table));
  }
  close_catalogs();
  if (sql.len > 0) run(sql.data);
}

// After DDL: the same transaction puts back what it took away, so nothing is missed, or ends.
void audit_statement(Node* statement) {
  List* attached = named_tables(statement, AT_AttachPartition);
  const bool detached = named_tables(statement, AT_DetachPartition) != NIL ||
                        named_tables(statement, AT_DetachPartitionFinalize) != NIL;
  const bool loads = session_loads();
  const Actor caller = act_as_extension();
  const bool before = pause_audit(true);
  if (IsA(statement, CreateTrigStmt) || IsA(statement, RenameStmt)) refuse_foreign_triggers();
  if (concerns_us()) {
    refuse_misfits();
    // pg_restore --clean takes everything apart before it drops it.
    if (!loads && (IsA(statement, AlterTableStmt) || IsA(statement, RenameStmt))) refuse_broken_states();
    if (List* unguarded = find_unguarded()) {
      enable_triggers(unguarded);
      (void)restore_triggers();
    }
    if (detached) release_detached();
    if (attached != NIL || detached ||
        (IsA(statement, CreateStmt) && castNode(CreateStmt, statement)->partbound != nullptr))
      follow_leaves();
    take_in(attached);
  }
  if (is_restored()) expect_revival(loads);
  (void)pause_audit(before);
  act_again(caller);
}

}  // namespace

void check_trigger(const Trigger* trigger, Relation relation, Oid source) {
  static constexpr struct {
    const char* name;
    int16 type;
  } ours[] = {
      {"zz_tick_insert", TRIGGER_TYPE_ROW | TRIGGER_TYPE_INSERT},
      {"zz_tick_delete", TRIGGER_TYPE_ROW | TRIGGER_TYPE_DELETE},
      {"zz_tick_update", TRIGGER_TYPE_ROW | TRIGGER_TYPE_UPDATE},
      {"zz_tick_dedup", TRIGGER_TYPE_ROW | TRIGGER_TYPE_BEFORE | TRIGGER_TYPE_INSERT | TRIGGER_TYPE_DELETE}};
  const Oid table = RelationGetRelid(relation);
  if (table == source || list_member_oid(get_partition_ancestors(table), source))
    for (const auto& [name, type] : ours)
      if (strcmp(trigger->tgname, name) == 0 && trigger->tgtype == type) return;
  ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                  errmsg("trigger \"%s\" of \"%s\" is not one of pg_tick's own", trigger->tgname,
                         RelationGetRelationName(relation)),
                  errhint("Drop it; pg_tick makes the triggers that it needs.")));
}

void guard_again(Oid source) {
  ListCell* cell;
  bool guarded = true;
  foreach (cell, find_unguarded())
    if (static_cast<Unguarded*>(lfirst(cell))->source == source) guarded = false;
  if (guarded) return;
  foreach (cell, find_all_inheritors(source, NoLock, nullptr))
    if (!ConditionalLockRelationOid(lfirst_oid(cell), ShareRowExclusiveLock)) return;
  attach_triggers(source);
}

void guard_leaf(const char* leaf) {
  run(psprintf(
      "CREATE OR REPLACE TRIGGER zz_tick_truncate BEFORE TRUNCATE ON %s FOR EACH STATEMENT EXECUTE "
      "FUNCTION tick_catalog.refuse_truncate(); ALTER TABLE %s ENABLE ALWAYS TRIGGER zz_tick_truncate",
      leaf, leaf));
}

void watch_relations() {
  CacheRegisterRelcacheCallback(on_relcache, static_cast<Datum>(0));
}

void expect_audit() {
  changed = expected = true;
}

bool audit_expected() {
  return expected;
}

bool relations_changed() {
  const bool result = changed;
  changed = expected = false;
  return result;
}

bool pause_audit(bool pause) {
  const bool before = paused;
  paused = pause;
  return before;
}

void audit_sources() {
  call([&] {
    StartTransactionCommand();
    if (OidIsValid(get_extension_oid("pg_tick", true))) {
      PushActiveSnapshot(GetTransactionSnapshot());
      const Actor worker = act_as_extension();
      ListCell* cell;
      (void)pause_audit(true);
      List* restored = restore_triggers();
      (void)pause_audit(false);
      follow_leaves();
      foreach (cell, restored) {
        const Oid source = lfirst_oid(cell);
        ereport(
            WARNING,
            (errmsg("capture triggers of \"%s\" were missing or disabled: restored, recomputing its rollups",
                    get_rel_name(source))));
        run(psprintf(
            "INSERT INTO tick_catalog.pending (rollup, lo, hi, fresh) SELECT id, "
            "(-9223372036854775808)::int8, "
            "9223372036854775807, false FROM tick_catalog.rollup WHERE source = %u AND status <> 'error' "
            "ON CONFLICT (rollup, lo, hi, fresh) DO UPDATE SET marked = false",
            source));
        tell_engine();
        take_in_ids(source, source);
      }
      act_again(worker);
      PopActiveSnapshot();
    }
    CommitTransactionCommand();
  });
}

}  // namespace tick::pg

using namespace tick::pg;

extern "C" {
PG_FUNCTION_INFO_V1(tick_on_alter);
PGDLLEXPORT Datum tick_on_alter(PG_FUNCTION_ARGS);
}

Datum tick_on_alter(PG_FUNCTION_ARGS) {
  if (!CALLED_AS_EVENT_TRIGGER(fcinfo)) elog(ERROR, "tick_catalog.on_alter is an event trigger");
  return entry([&] {
    if (!paused && preloaded())
      audit_statement(reinterpret_cast<EventTriggerData*>(fcinfo->context)->parsetree);
    return static_cast<Datum>(0);
  });
}
