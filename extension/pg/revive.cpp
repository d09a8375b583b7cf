#include "revive.hpp"

#include "audit.hpp"
#include "catalog.hpp"
#include "coverage.hpp"
#include "dedup.hpp"
#include "define.hpp"
#include "evaluator.hpp"
#include "guard.hpp"
#include "session.hpp"
#include "shared.hpp"

extern "C" {
PG_FUNCTION_INFO_V1(tick_loading);
PGDLLEXPORT Datum tick_loading(PG_FUNCTION_ARGS);
}

namespace tick::pg {
namespace {

constexpr TimestampTz patience = 10 * USECS_PER_SEC;

// ---- what is to be taken up
// -----------------------------------------------------------------------------------------------------------

// A source by the newest catalogs.
struct Known {
  bool there;
  bool stale;
  bool triggered;
};

bool read_epoch(pg_uuid_t* epoch) {
  Relation frontier = table_open(catalog_relation("frontier"), AccessShareLock);
  SysScanDesc scan =
      systable_beginscan(frontier, catalog_relation("frontier_pkey"), true, nullptr, 0, nullptr);
  HeapTuple tuple = systable_getnext(scan);
  bool null, ours = HeapTupleIsValid(tuple);
  if (ours) {
    *epoch = *DatumGetUUIDP(heap_getattr(tuple, 4, RelationGetDescr(frontier), &null));
    ours = static_cast<uint64>(DatumGetInt64(heap_getattr(tuple, 5, RelationGetDescr(frontier), &null))) ==
           GetSystemIdentifier();
  }
  systable_endscan(scan);
  table_close(frontier, AccessShareLock);
  return ours;
}

Known look_up(Oid source) {
  Known result{};
  pg_uuid_t epoch;
  const Oid catalog = catalog_relation("source");
  if (!OidIsValid(catalog)) return result;
  const bool ours = read_epoch(&epoch);
  Relation sources = table_open(catalog, AccessShareLock);
  ScanKeyData key;
  ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(source));
  SysScanDesc scan = systable_beginscan(sources, catalog_relation("source_pkey"), true, nullptr, 1, &key);
  HeapTuple tuple = systable_getnext(scan);
  if (HeapTupleIsValid(tuple)) {
    bool null;
    const auto field = [&](int number) {
      return heap_getattr(tuple, number, RelationGetDescr(sources), &null);
    };
    result = {true, !ours || memcmp(DatumGetUUIDP(field(2)), &epoch, sizeof epoch) != 0,
              DatumGetBool(field(3))};
  }
  systable_endscan(scan);
  table_close(sources, AccessShareLock);
  return result;
}

bool is_true(const char* sql) {
  open_catalogs();
  SPI_execute_plan(kept_plan(sql, 0, nullptr), nullptr, nullptr, true, 1);
  bool null = true;
  const bool result = SPI_processed == 1 &&
                      DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
  close_catalogs();
  return result && !null;
}

// ---- the sessions that load a dump
// -----------------------------------------------------------------------------------------------------------

// Held to its end by a session that has brought sources: jobs of a parallel restore end together.
bool loading = false;

// An advisory lock, which outlives errors; users' have other kinds.
LOCKTAG loading_tag() {
  LOCKTAG tag;
  SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, catalog_relation("frontier"), 0, 3);
  return tag;
}

void begin_loading() {
  const LOCKTAG tag = loading_tag();
  if (!loading) (void)LockAcquire(&tag, AccessShareLock, true, false);
  loading = true;
  wake_at_commit();
}

// Whoever writes rows of his own has loaded everything.
void end_loading() {
  const LOCKTAG tag = loading_tag();
  if (loading) (void)LockRelease(&tag, AccessShareLock, true);
  loading = false;
}

bool somebody_loads() {
  const LOCKTAG tag = loading_tag();
  if (LockAcquire(&tag, AccessExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL) return true;
  LockRelease(&tag, AccessExclusiveLock, false);
  return false;
}

}  // namespace

bool session_loads() {
  const auto is = [](const char* setting, const char* value) {
    const char* present = GetConfigOption(setting, true, false);
    return present != nullptr && strcmp(present, value) == 0;
  };
  return is("check_function_bodies", "off") && is("row_security", "off") && is("search_path", "");
}

namespace {

const char* read_name(const char* sql) {
  const char* result = nullptr;
  MemoryContext memory = CurrentMemoryContext;
  open_catalogs();
  SPI_execute(sql, true, 1);
  if (SPI_processed == 1)
    result = MemoryContextStrdup(memory, SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
  close_catalogs();
  return result;
}

// What is still to come, nullptr if everything is there: what a dump makes after the data, which are the
// triggers of sources, leaves and state tables.
const char* find_missing() {
  if (somebody_loads()) return "the session that loads it has not ended";
  return read_name(
      "SELECT format('trigger %s of %s is missing', t.name, t.relid::regclass) FROM (SELECT r.source AS "
      "relid, "
      "t.name FROM (SELECT source FROM tick_catalog.rollup UNION SELECT source FROM tick_catalog.dedup) AS r "
      "CROSS JOIN (VALUES ('zz_tick_insert'), ('zz_tick_update'), ('zz_tick_delete'), ('zz_tick_flush')) AS "
      "t "
      "(name) UNION ALL "
      "SELECT r.state, t.name FROM tick_catalog.rollup AS r CROSS JOIN (VALUES ('tick_replica'), "
      "('tick_replica_truncate'), ('tick_guard'), ('tick_rebuild')) AS t (name) UNION ALL "
      "SELECT l.relid, 'zz_tick_truncate' FROM tick_catalog.rollup AS r, tick_catalog.tree(r.source) AS l "
      "(relid) UNION ALL SELECT d.source, 'zz_tick_dedup' FROM tick_catalog.dedup AS d) AS t WHERE NOT "
      "EXISTS "
      "(SELECT FROM pg_trigger AS g WHERE g.tgrelid = t.relid AND g.tgname = t.name)");
}

// Says what has been missing for too long, once.
bool is_complete() {
  static TimestampTz first = 0, ready = 0;
  static bool said = false;
  const TimestampTz now = GetCurrentTimestamp();
  if (first == 0) first = now;
  const char* missing = find_missing();
  if (missing != nullptr)
    ready = 0;
  else if (ready == 0)
    ready = now;
  // Rights come last of all, but a dump may lack them.
  if (missing == nullptr && now - ready < patience)
    missing = read_name(
        "SELECT format('%s may not read %s', v.relowner::regrole, t.read) FROM tick_catalog.rollup AS r "
        "JOIN pg_class AS v ON v.oid = r.view CROSS JOIN LATERAL (SELECT coalesce((SELECT p.view FROM "
        "tick_catalog.rollup AS p WHERE p.id = r.parent), r.source) AS read) AS t WHERE NOT "
        "has_table_privilege(v.relowner, t.read::oid, 'SELECT')");
  const bool complete = missing == nullptr;
  if (!complete && !said && now - first > patience) {
    ereport(LOG, (errmsg("pg_tick cannot take up the rollups of a restored database yet: %s", missing)));
    said = true;
  }
  if (complete) {
    first = ready = 0;
    said = false;
  }
  return complete;
}

// ---- taking it up
// -----------------------------------------------------------------------------------------------------------

// A program as the catalogs have it.
struct Stored {
  int64 id;
  bool current;
  Oid source;
  Oid owner;
  Datum texts;
};

uint64 execute(const char* sql) {
  if (SPI_execute(sql, false, 0) < 0) elog(ERROR, "pg_tick: cannot run: %s", sql);
  return SPI_processed;
}

constexpr const char* stale_sources =
    "(SELECT s.relid FROM tick_catalog.source AS s WHERE s.epoch IS DISTINCT FROM tick_catalog.epoch())";
constexpr const char* dumped_sources =
    "(SELECT s.relid FROM tick_catalog.source AS s, tick_catalog.frontier AS f WHERE s.epoch <> f.epoch)";

List* read_stored(const char* where) {
  List* result = NIL;
  MemoryContext memory = CurrentMemoryContext;
  execute(
      psprintf("SELECT p.id, p.current, p.source, p.owner, p.expressions FROM tick_catalog.program AS p "
               "WHERE %s",
               where));
  for (uint64 row = 0; row < SPI_processed; ++row) {
    bool null;
    const auto field = [&](int number) {
      return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number, &null);
    };
    MemoryContext spi = MemoryContextSwitchTo(memory);
    auto* stored = static_cast<Stored*>(palloc(sizeof(Stored)));
    *stored = {DatumGetInt64(field(1)), DatumGetBool(field(2)), DatumGetObjectId(field(3)),
               DatumGetObjectId(field(4)), datumCopy(field(5), false, -1)};
    result = lappend(result, stored);
    MemoryContextSwitchTo(spi);
  }
  return result;
}

// The expressions of a program from their texts, under its owner's name.
List* parse_inputs(const Stored* stored) {
  Datum* elements;
  int count;
  deconstruct_array(DatumGetArrayTypeP(stored->texts), TEXTOID, -1, false, TYPALIGN_INT, &elements, nullptr,
                    &count);
  if (count == 0) return NIL;
  const Actor before = act_as_owner(stored->owner);
  StringInfoData sql;
  initStringInfo(&sql);
  for (int i = 0; i < count; ++i)
    appendStringInfo(&sql, "%s (%s)", i == 0 ? "SELECT" : ",", TextDatumGetCString(elements[i]));
  appendStringInfo(&sql, " FROM %s", relation_text(stored->source));
  RawStmt* statement = linitial_node(RawStmt, raw_parser(sql.data, RAW_PARSE_DEFAULT));
  const Query* query = parse_analyze_fixedparams(statement, sql.data, nullptr, 0, nullptr);
  List* result = NIL;
  ListCell* cell;
  foreach (cell, query->targetList) result = lappend(result, lfirst_node(TargetEntry, cell)->expr);
  act_again(before);
  return result;
}

// Values whose bytes are an object's number: in deltas and sets of ids they mean nothing elsewhere.
bool is_object_number(Oid type) {
  switch (getBaseType(type)) {
    case REGPROCOID:
    case REGPROCEDUREOID:
    case REGOPEROID:
    case REGOPERATOROID:
    case REGCLASSOID:
    case REGTYPEOID:
    case REGROLEOID:
    case REGNAMESPACEOID:
    case REGCONFIGOID:
    case REGDICTIONARYOID:
    case REGCOLLATIONOID:
      return true;
    default:
      return type_is_enum(getBaseType(type));
  }
}

bool any_object_number(List* inputs) {
  ListCell* cell;
  foreach (cell, inputs)
    if (is_object_number(exprType(static_cast<Node*>(lfirst(cell))))) return true;
  return false;
}

// A program whose deltas cannot be read any more: its rollups are computed again, if it has left any. Rows
// may have gone with them, so counts may fall.
void recompute_rollups(int64 program, const char* reason) {
  uint64 deltas = 0;
  for (int i = 0; i < queue_tables; ++i)
    deltas +=
        execute(psprintf("DELETE FROM tick_catalog.queue_%d WHERE program = " INT64_FORMAT, i, program));
  deltas +=
      execute(psprintf("DELETE FROM tick_catalog.backfill WHERE scan IN (SELECT p.scan FROM "
                       "tick_catalog.pending AS p JOIN tick_catalog.rollup_program AS r ON r.rollup = "
                       "p.rollup WHERE r.program = " INT64_FORMAT ")",
                       program));
  if (deltas == 0) return;
  execute(
      psprintf("INSERT INTO tick_catalog.pending (rollup, lo, hi, fresh, replace) SELECT p.rollup, "
               "(-9223372036854775808)::int8, 9223372036854775807, false, true FROM "
               "tick_catalog.rollup_program AS p WHERE p.program = " INT64_FORMAT
               " ON CONFLICT (rollup, lo, hi, fresh) DO UPDATE SET replace = true",
               program));
  ereport(LOG, (errmsg("rollups that came with changes not merged yet are computed again: %s", reason)));
}

void revive_programs() {
  List* stale = read_stored(psprintf("p.source IN %s", stale_sources));
  List* dumped = read_stored(psprintf("p.source IN %s", dumped_sources));
  ListCell* cell;
  foreach (cell, stale) {
    const auto* stored = static_cast<Stored*>(lfirst(cell));
    List* inputs = NIL;
    const ErrorData* error = in_subtransaction([&] { inputs = parse_inputs(stored); });
    if (error != nullptr) {
      ereport(WARNING, (errmsg("what rollups of \"%s\" compute cannot be restored: %s",
                               get_rel_name(stored->source), error->message)));
      recompute_rollups(stored->id, error->message);
      if (!stored->current)
        execute(psprintf("DELETE FROM tick_catalog.program WHERE id = " INT64_FORMAT, stored->id));
      else
        execute(
            psprintf("UPDATE tick_catalog.rollup SET status = 'error', last_error = %s WHERE id IN "
                     "(SELECT p.rollup FROM tick_catalog.rollup_program AS p WHERE p.program "
                     "= " INT64_FORMAT ")",
                     quote_literal_cstr(error->message), stored->id));
      continue;
    }
    Oid types[] = {INT8OID, TEXTOID};
    Datum values[] = {Int64GetDatum(stored->id), CStringGetTextDatum(nodeToString(inputs))};
    if (SPI_execute_with_args("UPDATE tick_catalog.program SET inputs = $2 WHERE id = $1", 2, types, values,
                              nullptr, false, 0) < 0)
      elog(ERROR, "pg_tick: cannot write the catalogs");
    bool from_dump = false;
    ListCell* other;
    foreach (other, dumped)
      if (static_cast<Stored*>(lfirst(other))->id == stored->id) from_dump = true;
    if (from_dump && any_object_number(inputs))
      recompute_rollups(stored->id, "they contain object numbers of another database");
  }
}

// What tick.create_rollup has PostgreSQL remember beside the catalogs: DROP of a source reaches its rollups.
void revive_dependencies() {
  execute(
      psprintf("SELECT r.state, r.definition FROM tick_catalog.rollup AS r WHERE r.source IN %s AND NOT "
               "EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_class'::regclass AND d.objid = "
               "r.state AND d.refclassid = 'pg_class'::regclass AND d.refobjid = r.definition)",
               stale_sources));
  for (uint64 row = 0; row < SPI_processed; ++row) {
    bool null;
    ObjectAddress address[2];
    for (int i = 0; i < 2; ++i)
      ObjectAddressSet(
          address[i], RelationRelationId,
          DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, i + 1, &null)));
    recordDependencyOn(&address[0], &address[1], DEPENDENCY_NORMAL);
  }
}

// Deltas get this transaction's own id: the frontier of a new database covers no such. A dump holds only
// deltas that its states do not, and no turn has run since. With pg_upgrade everything stays as it is.
void revive_deltas() {
  for (int i = 0; i < queue_tables; ++i) {
    execute(
        psprintf("UPDATE tick_catalog.queue_%d SET xid = pg_current_xact_id() WHERE program IN (SELECT p.id "
                 "FROM tick_catalog.program AS p WHERE p.source IN %s UNION ALL SELECT -d.id FROM "
                 "tick_catalog.dedup AS d WHERE d.source IN %s)",
                 i, dumped_sources, dumped_sources));
  }
  // Scans are named by transaction ids, too; none is running.
  execute(
      psprintf("WITH scan AS (SELECT p.scan AS old, -(pg_current_xact_id()::text::int8 * 1000 + row_number() "
               "OVER ()) AS new FROM (SELECT DISTINCT p.scan FROM tick_catalog.pending AS p JOIN "
               "tick_catalog.rollup AS r ON r.id = p.rollup WHERE p.scan IS NOT NULL AND r.source IN %s) AS "
               "p), piece AS (UPDATE tick_catalog.backfill AS b SET scan = s.new FROM scan AS s WHERE b.scan "
               "= s.old) UPDATE tick_catalog.pending AS p SET scan = s.new FROM scan AS s WHERE p.scan = "
               "s.old",
               dumped_sources));
}

// The columns of dedup, by name: dropped ones leave no number in a dump.
void revive_dedup() {
  execute(
      psprintf("UPDATE tick_catalog.dedup AS d SET id_column = (SELECT a.attnum FROM pg_attribute AS a WHERE "
               "a.attrelid = s.relid AND a.attname = s.dedup_id), group_column = coalesce((SELECT a.attnum "
               "FROM pg_attribute AS a WHERE a.attrelid = s.relid AND a.attname = s.dedup_group), 0), keys = "
               "(SELECT array_agg(a.attnum ORDER BY k.at) FROM unnest(s.dedup_key) WITH ORDINALITY AS k "
               "(name, at) JOIN pg_attribute AS a ON a.attrelid = s.relid AND a.attname = k.name) FROM "
               "tick_catalog.source AS s WHERE s.relid = d.source AND s.relid IN %s",
               dumped_sources));
  execute(
      psprintf("SELECT d.id, d.source FROM tick_catalog.dedup AS d WHERE d.source IN %s", dumped_sources));
  SPITupleTable* found = SPI_tuptable;
  for (uint64 row = 0; row < found->numvals; ++row) {
    bool null;
    const auto id = DatumGetInt32(SPI_getbinval(found->vals[row], found->tupdesc, 1, &null));
    const auto source = DatumGetObjectId(SPI_getbinval(found->vals[row], found->tupdesc, 2, &null));
    execute(psprintf("UPDATE tick_catalog.dedup SET time_column = %d WHERE id = %d", dedup_time(source), id));
  }
}

// Owners are those of the views now, whatever the dump says.
void revive_owners() {
  execute(psprintf(
      "UPDATE tick_catalog.rollup AS r SET owner = v.relowner FROM pg_class AS v WHERE v.oid = r.view "
      "AND r.source IN %s",
      dumped_sources));
  for (const char* catalog : {"capture_group AS g", "program AS g"}) {
    const char* group = catalog[0] == 'c' ? "g.id" : "g.group_id";
    execute(psprintf(
        "UPDATE tick_catalog.%s SET owner = coalesce((SELECT min(r.owner) FROM tick_catalog.rollup AS "
        "r WHERE r.group_id = %s), (SELECT c.relowner FROM pg_class AS c WHERE c.oid = g.source)) "
        "WHERE g.source IN %s",
        catalog, group, dumped_sources));
  }
}

// pg_restore --disable-triggers enables them all afterwards: what a subscription replays must be refused
// again.
void revive_refusals() {
  execute(
      "SELECT g.tgrelid, g.tgname FROM pg_trigger AS g WHERE g.tgfoid = "
      "'tick_catalog.ignore_replica()'::regprocedure AND g.tgenabled <> 'R'");
  SPITupleTable* found = SPI_tuptable;
  const bool paused = pause_audit(true);
  for (uint64 row = 0; row < found->numvals; ++row) {
    bool null;
    const Oid table = DatumGetObjectId(SPI_getbinval(found->vals[row], found->tupdesc, 1, &null));
    execute(psprintf("ALTER TABLE %s ENABLE REPLICA TRIGGER %s", relation_text(table),
                     SPI_getvalue(found->vals[row], found->tupdesc, 2)));
  }
  (void)pause_audit(paused);
}

// One REPEATABLE READ transaction; nobody writes to the sources meanwhile. Returns the sets of ids (int) that
// have to be made anew.
List* take_up() {
  revive_deltas();
  revive_owners();
  revive_programs();
  revive_dependencies();
  revive_dedup();
  List* sources = NIL;
  List* dumped = NIL;
  for (const char* which : {stale_sources, dumped_sources}) {
    execute(psprintf("SELECT s.relid FROM tick_catalog.source AS s WHERE s.relid IN %s", which));
    for (uint64 row = 0; row < SPI_processed; ++row) {
      bool null;
      const Oid source =
          DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 1, &null));
      List*& list = which == stale_sources ? sources : dumped;
      list = lappend_oid(list, source);
    }
  }
  execute(
      "UPDATE tick_catalog.frontier SET system = (SELECT system_identifier FROM pg_control_system()) WHERE "
      "tick_catalog.epoch() IS NULL");
  execute(
      "UPDATE tick_catalog.source SET epoch = tick_catalog.epoch(), triggered = false WHERE epoch IS "
      "DISTINCT "
      "FROM tick_catalog.epoch()");
  for (const char* table : {"rollup", "capture_group", "program", "dedup"})
    execute(
        psprintf("SELECT setval(pg_get_serial_sequence('tick_catalog.%s', 'id'), greatest(max(id), 1)) "
                 "FROM tick_catalog.%s",
                 table, table));
  tell_engine();
  follow_owners();
  revive_refusals();
  ListCell* cell;
  foreach (cell, sources)
    if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(lfirst_oid(cell)))) guard_again(lfirst_oid(cell));
  follow_leaves();
  List* sets = NIL;
  foreach (cell, dumped) {
    const int32 set = dedup_of(lfirst_oid(cell));
    if (set == 0) continue;
    const Dedup* dedup = find_dedup(set);
    bool numbers = false;
    for (size_t at = 0; at < dedup->keys; ++at) numbers = numbers || is_object_number(dedup->types[at].oid);
    if (!numbers) continue;
    execute(psprintf("DELETE FROM tick_catalog.seen WHERE dedup = %d", set));
    for (int i = 0; i < queue_tables; ++i)
      execute(psprintf("DELETE FROM tick_catalog.queue_%d WHERE program = -%d", i, set));
    sets = lappend_int(sets, set);
  }
  return sets;
}

}  // namespace

const char* input_text(Node* expr, Oid source) {
  return deparse_expression(expr, deparse_context_for(get_rel_name(source), source), false, false);
}

void refresh_input_texts() {
  List* all = NIL;
  MemoryContext memory = CurrentMemoryContext;
  open_catalogs();
  SPI_execute(
      "SELECT p.id, p.source, p.inputs FROM tick_catalog.program AS p JOIN tick_catalog.source AS s ON "
      "s.relid "
      "= p.source WHERE s.epoch = tick_catalog.epoch()",
      true, 0);
  for (uint64 row = 0; row < SPI_processed; ++row) {
    bool null;
    const auto field = [&](int number) {
      return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number, &null);
    };
    MemoryContext spi = MemoryContextSwitchTo(memory);
    auto* stored = static_cast<Stored*>(palloc0(sizeof(Stored)));
    stored->id = DatumGetInt64(field(1));
    stored->source = DatumGetObjectId(field(2));
    stored->texts = datumCopy(field(3), false, -1);
    all = lappend(all, stored);
    MemoryContextSwitchTo(spi);
  }
  close_catalogs();
  ListCell* cell;
  foreach (cell, all) {
    const auto* stored = static_cast<Stored*>(lfirst(cell));
    if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(stored->source))) continue;
    auto* inputs = static_cast<List*>(stringToNode(TextDatumGetCString(stored->texts)));
    auto* texts = static_cast<Datum*>(palloc(sizeof(Datum) * (list_length(inputs) + 1)));
    ListCell* expr;
    foreach (expr, inputs)
      texts[foreach_current_index(expr)] =
          CStringGetTextDatum(input_text(static_cast<Node*>(lfirst(expr)), stored->source));
    Oid types[] = {INT8OID, TEXTARRAYOID};
    Datum values[] = {
        Int64GetDatum(stored->id),
        PointerGetDatum(construct_array(texts, list_length(inputs), TEXTOID, -1, false, TYPALIGN_INT))};
    SPI_connect();
    if (SPI_execute_with_args(
            "UPDATE tick_catalog.program SET expressions = $2 WHERE id = $1 AND expressions <> $2", 2, types,
            values, nullptr, false, 0) < 0)
      elog(ERROR, "pg_tick: cannot write the catalogs");
    SPI_finish();
  }
}

bool is_restored() {
  return is_true(psprintf("SELECT EXISTS %s", stale_sources));
}

void expect_revival(bool loads) {
  if (loads)
    begin_loading();
  else
    wake_at_commit();
}

bool await_revival(Oid source) {
  if (!look_up(source).stale) return false;
  end_loading();
  const TimestampTz give_up = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), tick_lock_timeout);
  while (look_up(source).stale) {
    if (GetCurrentTimestamp() >= give_up)
      ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                      errmsg("the rollups of \"%s\" have been restored and are not at work yet",
                             get_rel_name(source)),
                      errdetail("They begin when the restore has ended and has made all triggers."),
                      errhint("If it has, see the server's log for what the worker of pg_tick misses.")));
    wake(false);
    CHECK_FOR_INTERRUPTS();
    (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 50, PG_WAIT_EXTENSION);
    ResetLatch(MyLatch);
    CHECK_FOR_INTERRUPTS();
  }
  return true;
}

bool loads_dump(Oid table) {
  if (!session_loads()) return false;
  List* tables = lcons_oid(table, get_rel_relispartition(table) ? get_partition_ancestors(table) : NIL);
  ListCell* cell;
  foreach (cell, tables) {
    const Known known = look_up(lfirst_oid(cell));
    if (known.there) return known.stale && known.triggered;
  }
  return true;  // the catalogs are still to come
}

bool loads_state(Oid state) {
  if (!session_loads()) return false;
  const Actor caller = act_as_extension();
  List* sources =
      read_numbers("SELECT r.source::int8 FROM tick_catalog.rollup AS r WHERE r.state = $1", state);
  act_again(caller);
  if (sources == NIL) return true;
  const Known known = look_up(static_cast<Oid>(*static_cast<int64*>(linitial(sources))));
  return !known.there || known.stale;
}

bool revive() {
  bool done = false;
  List* sets = NIL;
  Actor worker{};
  call([&] {
    StartTransactionCommand();
    XactIsoLevel = XACT_REPEATABLE_READ;
    const Oid frontier = catalog_relation("frontier");
    if (!OidIsValid(frontier)) return;
    LockDatabaseObject(RelationRelationId, frontier, 1, ExclusiveLock);  // the mutex of a turn
    PushActiveSnapshot(GetTransactionSnapshot());
    worker = act_as_extension();
    done = is_restored() && is_complete();
    if (!done) return;
    MemoryContext memory = CurrentMemoryContext;
    SPI_connect();
    sets = take_up();
    MemoryContextSwitchTo(memory);
    sets = list_copy(sets);
    SPI_finish();
  });
  if (done)
    for (int i = 0; i < list_length(sets); ++i) fill_dedup(list_nth_int(sets, i));
  call([&] {
    if (ActiveSnapshotSet()) {
      act_again(worker);
      PopActiveSnapshot();
    }
    CommitTransactionCommand();
    if (done) ereport(LOG, (errmsg("pg_tick has taken up the rollups of a restored database")));
  });
  return done;
}

}  // namespace tick::pg

Datum tick_loading(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&]() -> Datum {
    tick::pg::begin_loading();
    PG_RETURN_VOID();
  });
}
