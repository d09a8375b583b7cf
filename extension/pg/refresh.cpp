// Keeps the catalogs true when what they name is renamed, moved or given to another role: after such DDL
// every rollup's texts are written anew from its definition view, which PostgreSQL itself keeps true. Nothing
// of a rollup is looked at under another name than its owner's. PostgreSQL only.
#include "audit.hpp"
#include "dedup.hpp"
#include "define.hpp"
#include "guard.hpp"
#include "revive.hpp"
#include "session.hpp"
#include "shared.hpp"

namespace tick::pg {
namespace {

constexpr const char* columns =
    "SELECT r.id, r.group_id, r.view, r.state, r.definition, r.source, r.owner, "
    "CASE WHEN v.relowner <> r.owner THEN v.relowner WHEN s.relowner <> r.owner THEN s.relowner "
    "ELSE d.relowner END, r.window_size, r.upsert, r.merged, r.window_slide, "
    "r.window_zone, r.window_origin, coalesce(r.live, 0), r.finish, coalesce((SELECT p.view FROM "
    "tick_catalog.rollup AS p WHERE p.id = r.parent), 0), r.parent_keys, r.window_grows FROM "
    "tick_catalog.rollup AS r "
    "JOIN pg_class AS v ON v.oid = r.view JOIN pg_class AS s ON s.oid = r.state "
    "JOIN pg_class AS d ON d.oid = r.definition WHERE ";

}  // namespace

static int16* array_of_int2(Datum array) {
  const ArrayType* copy = DatumGetArrayTypePCopy(array);
  return reinterpret_cast<int16*>(ARR_DATA_PTR(copy));
}

List* standing_rollups(const char* condition, Oid argument) {
  List* result = NIL;
  Oid types[] = {OIDOID};
  Datum values[] = {ObjectIdGetDatum(argument)};
  MemoryContext memory = CurrentMemoryContext;
  open_catalogs();
  SPI_execute_plan(kept_plan(psprintf("%s%s ORDER BY r.id", columns, condition), 1, types), values, nullptr,
                   true, 0);
  for (uint64 row = 0; row < SPI_processed; ++row) {
    bool null[19];
    Datum field[19];
    for (int i = 0; i < 19; ++i)
      field[i] = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, i + 1, &null[i]);
    MemoryContext spi = MemoryContextSwitchTo(memory);
    auto* texts = static_cast<Standing*>(palloc(sizeof(Standing)));
    *texts = Standing{DatumGetInt32(field[0]),
                      DatumGetInt32(field[1]),
                      DatumGetObjectId(field[2]),
                      DatumGetObjectId(field[3]),
                      DatumGetObjectId(field[4]),
                      DatumGetObjectId(field[14]),
                      DatumGetObjectId(field[5]),
                      DatumGetObjectId(field[16]),
                      null[17] ? nullptr : array_of_int2(field[17]),
                      DatumGetObjectId(field[6]),
                      DatumGetObjectId(field[7]),
                      null[8] ? nullptr : DatumGetIntervalP(datumCopy(field[8], false, sizeof(Interval))),
                      null[11] ? nullptr : DatumGetIntervalP(datumCopy(field[11], false, sizeof(Interval))),
                      DatumGetBool(field[18]),
                      null[12] ? nullptr : TextDatumGetCString(field[12]),
                      null[13] ? nullptr : static_cast<TimestampTz*>(palloc(sizeof(TimestampTz))),
                      TextDatumGetCString(field[9]),
                      TextDatumGetCString(field[10]),
                      TextDatumGetCString(field[15])};
    if (!null[13]) *texts->origin = DatumGetTimestampTz(field[13]);
    result = lappend(result, texts);
    MemoryContextSwitchTo(spi);
  }
  close_catalogs();
  return result;
}

Actor act_as_owner(const Standing* texts) {
  return act_as(texts->owner, SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
}

Definition* read_definition(const Standing* texts) {
  auto* def = static_cast<Definition*>(palloc0(sizeof(Definition)));
  Relation relation = table_open(texts->definition, AccessShareLock);
  if (relation->rd_rel->relkind != RELKIND_VIEW)
    elog(ERROR, "pg_tick: \"%s\" is not the definition of a rollup", RelationGetRelationName(relation));
  def->query = static_cast<Query*>(copyObjectImpl(get_view_query(relation)));
  table_close(relation, NoLock);
  def->text = pg_get_querydef(static_cast<Query*>(copyObjectImpl(def->query)), false);
  def->source = texts->source;
  def->parent = texts->parent;
  def->parent_keys = texts->parent_keys;
  def->owner = texts->owner;
  def->id = texts->rollup;
  def->size = texts->size;
  def->slide = texts->slide;
  def->grows = texts->grows;
  def->zone = texts->zone;
  def->origin = texts->origin;
  def->state = texts->state;
  def->original = original_outputs(texts->view);
  analyse(def);
  return def;
}

const char* renamed_column(const Definition* def, Oid state) {
  for (List* columns : {def->columns, def->values}) {
    ListCell* cell;
    foreach (cell, columns) {
      const char* name = static_cast<StateColumn*>(lfirst(cell))->name;
      if (get_attnum(state, name) == InvalidAttrNumber) return name;
    }
  }
  return nullptr;
}

namespace {

void write(const char* sql, int count, Oid* types, Datum* values) {
  SPI_connect();
  if (SPI_execute_with_args(sql, count, types, values, nullptr, false, 0) < 0)
    elog(ERROR, "pg_tick: cannot write the catalogs");
  SPI_finish();
}

// Returns renamed_column(), and writes nothing then.
const char* refresh(const Standing* texts) {
  const Actor extension = act_as_owner(texts);
  Definition* def = read_definition(texts);
  const char* renamed = renamed_column(def, texts->state);
  const char* upsert = renamed != nullptr ? texts->upsert : upsert_sql(def);
  const char* merged = renamed != nullptr ? texts->merged : merged_sql(def);
  const char* finish = renamed != nullptr ? texts->finish : finish_sql(def);
  act_again(extension);
  if (strcmp(upsert, texts->upsert) == 0 && strcmp(merged, texts->merged) == 0 &&
      strcmp(finish, texts->finish) == 0)
    return renamed;
  Oid types[] = {INT4OID, TEXTOID, TEXTOID, TEXTOID};
  Datum values[] = {Int32GetDatum(texts->rollup), CStringGetTextDatum(upsert), CStringGetTextDatum(merged),
                    CStringGetTextDatum(finish)};
  write("UPDATE tick_catalog.rollup SET upsert = $2, merged = $3, finish = $4 WHERE id = $1", 4, types,
        values);
  tell_engine();
  return nullptr;
}

void set_aside(const Standing* texts, const ErrorData* error) {
  Oid types[] = {INT4OID, TEXTOID};
  Datum values[] = {Int32GetDatum(texts->rollup), CStringGetTextDatum(error->message)};
  write("UPDATE tick_catalog.rollup SET status = 'error', last_error = $2 WHERE id = $1", 2, types, values);
  run(psprintf(
      "DELETE FROM tick_catalog.pending WHERE rollup = %d AND fresh; INSERT INTO tick_catalog.pending "
      "(rollup, lo, hi, fresh, replace) VALUES (%d, " INT64_FORMAT ", " INT64_FORMAT ", true, true)",
      texts->rollup, texts->rollup, minus_infinity, plus_infinity));
  tell_engine();
  ereport(WARNING, (errmsg("rollup \"%s\" is set aside: %s", get_rel_name(texts->view), error->message)));
}

// What is wrong with somebody else's rollup must not stop whoever renames something.
void refresh_apart(const Standing* texts) {
  const char* renamed = nullptr;
  ErrorData* error = in_subtransaction([&] { renamed = refresh(texts); });
  if (renamed != nullptr)
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("cannot rename column \"%s\" of the state of a rollup", renamed),
                    errhint("Rename the column of the rollup's view.")));
  if (error == nullptr) return;
  // Cancel, resources and locks are not the rollup's fault.
  const int category = ERRCODE_TO_CATEGORY(error->sqlerrcode);
  if (category == ERRCODE_OPERATOR_INTERVENTION || category == ERRCODE_INSUFFICIENT_RESOURCES ||
      category == ERRCODE_TRANSACTION_ROLLBACK || error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
    ReThrowError(error);
  set_aside(texts, error);
}

void refresh_all() {
  const Actor caller = act_as_extension();
  ListCell* cell;
  foreach (cell, standing_rollups("true", InvalidOid))
    (void)await_revival(static_cast<Standing*>(lfirst(cell))->source);
  foreach (cell, standing_rollups("true", InvalidOid)) refresh_apart(static_cast<Standing*>(lfirst(cell)));
  refresh_input_texts();
  act_again(caller);
}

void give(Oid relation, Oid role) {
  run(psprintf("ALTER %s %s OWNER TO %s", get_rel_relkind(relation) == RELKIND_VIEW ? "VIEW" : "TABLE",
               relation_text(relation), quote_identifier(GetUserNameFromId(role, false))));
}

// A rollup that has passed to another role is captured, merged and recomputed as that role from now on. A
// program names its owner and is immutable, so the rollup moves to a group of the new one.
void follow_owner(Standing* texts) {
  const bool captured = !OidIsValid(texts->parent);
  if (captured) lock_source(texts->source);
  for (Oid object : {texts->view, texts->state, texts->definition, texts->live})
    if (OidIsValid(object)) give(object, texts->heir);
  texts->owner = texts->heir;
  if (!captured) {
    Oid types[] = {INT4OID, OIDOID};
    Datum values[] = {Int32GetDatum(texts->rollup), ObjectIdGetDatum(texts->owner)};
    write("UPDATE tick_catalog.rollup SET owner = $2 WHERE id = $1", 2, types, values);
    tell_engine();
    return;
  }
  const Actor extension = act_as_owner(texts);
  Definition* def = read_definition(texts);
  act_again(extension);
  const int32 group = join_group(def);
  Oid types[] = {INT4OID, INT4OID, OIDOID};
  Datum values[] = {Int32GetDatum(texts->rollup), Int32GetDatum(group), ObjectIdGetDatum(texts->owner)};
  write("UPDATE tick_catalog.rollup SET group_id = $2, owner = $3 WHERE id = $1", 3, types, values);
  record_items(def, group);
  shrink_group(texts->group);
  attach_triggers(texts->source);
  tell_engine();
}

}  // namespace

void follow_owners() {
  if (!OidIsValid(catalog_relation("rollup"))) return;
  const bool busy = pause_audit(true);  // what follows alters owners itself
  if (busy) return;
  const Actor caller = act_as_extension();
  ListCell* cell;
  foreach (cell, standing_rollups(
                     "r.owner <> ANY (ARRAY[v.relowner, s.relowner, d.relowner]) AND EXISTS (SELECT FROM "
                     "tick_catalog.source AS o WHERE o.relid = r.source AND o.epoch = tick_catalog.epoch())",
                     InvalidOid))
    follow_owner(static_cast<Standing*>(lfirst(cell)));
  act_again(caller);
  (void)pause_audit(false);
}

namespace {

// watermark_by names a column of the source.
void follow_column(const RenameStmt* rename) {
  if (rename->renameType != OBJECT_COLUMN) return;
  Oid types[] = {TEXTOID, TEXTOID};
  Datum values[] = {CStringGetTextDatum(rename->subname), CStringGetTextDatum(rename->newname)};
  const Actor caller = act_as_extension();
  write(
      "UPDATE tick_catalog.source SET watermark_by = $2 WHERE watermark_by = $1 AND EXISTS (SELECT FROM "
      "pg_event_trigger_ddl_commands() AS d WHERE d.classid = 'pg_class'::regclass AND d.objid = relid)",
      2, types, values);
  act_again(caller);
}

// The state table and `name_live` stay beside the view, and are named after it if they were: the old name is
// free.
void follow(const Standing* texts, Oid relation, const char* what, const RenameStmt* rename) {
  const Oid schema = get_rel_namespace(texts->view), lies = get_rel_namespace(relation);
  const char* name = get_rel_name(relation);
  const char* kind = get_rel_relkind(relation) == RELKIND_VIEW ? "VIEW" : "TABLE";
  if (rename != nullptr) {
    const char* wanted = makeObjectName(rename->newname, nullptr, what);
    if (strcmp(name, makeObjectName(rename->relation->relname, nullptr, what)) == 0 &&
        !OidIsValid(get_relname_relid(wanted, lies)))
      run(psprintf("ALTER %s %s RENAME TO %s", kind, relation_text(relation), quote_identifier(wanted)));
  } else if (lies != schema && !OidIsValid(get_relname_relid(name, schema))) {
    run(psprintf("ALTER %s %s SET SCHEMA %s", kind, relation_text(relation),
                 quote_identifier(get_namespace_name(schema))));
  }
}

// A column of a view has the same name in `name_live`.
void follow_output(const RenameStmt* rename) {
  if (rename->relation == nullptr) return;
  const Actor caller = act_as_extension();
  List* renamed = standing_rollups(
      "r.live IS NOT NULL AND EXISTS (SELECT FROM pg_event_trigger_ddl_commands() AS d WHERE d.classid = "
      "'pg_class'::regclass AND d.objid = r.view)",
      InvalidOid);
  ListCell* cell;
  foreach (cell, renamed) {
    const Oid live = static_cast<Standing*>(lfirst(cell))->live;
    if (get_attnum(live, rename->subname) != InvalidAttrNumber)
      run(psprintf("ALTER VIEW %s RENAME COLUMN %s TO %s", relation_text(live),
                   quote_identifier(rename->subname), quote_identifier(rename->newname)));
  }
  act_again(caller);
}

void follow_view(Node* statement) {
  const auto* rename = IsA(statement, RenameStmt) ? reinterpret_cast<RenameStmt*>(statement) : nullptr;
  if (rename != nullptr && rename->renameType == OBJECT_COLUMN) follow_output(rename);
  if (rename != nullptr && rename->renameType != OBJECT_VIEW && rename->renameType != OBJECT_TABLE) return;
  const Actor caller = act_as_extension();
  List* moved = standing_rollups(
      "EXISTS (SELECT FROM pg_event_trigger_ddl_commands() AS d WHERE d.classid = 'pg_class'::regclass "
      "AND d.objsubid = 0 AND d.objid = r.view)",
      InvalidOid);
  ListCell* cell;
  foreach (cell, moved) {
    const auto* texts = static_cast<Standing*>(lfirst(cell));
    follow(texts, texts->state, "state", rename);
    if (OidIsValid(texts->live)) follow(texts, texts->live, "live", rename);
  }
  act_again(caller);
}

// Who is given a right to a rollup's view, or loses it, has or has not the same to `name_live`. A dump has
// both, and jobs of a parallel restore give them at the same time.
void follow_grant(const GrantStmt* grant) {
  if (session_loads()) return;
  if (grant->targtype != ACL_TARGET_OBJECT || grant->objtype != OBJECT_TABLE) return;
  List* lives = NIL;
  ListCell* cell;
  foreach (cell, grant->objects) {
    const Oid view = RangeVarGetRelid(lfirst_node(RangeVar, cell), NoLock, true);
    const Actor caller = act_as_extension();
    List* found = standing_rollups("r.view = $1 AND r.live IS NOT NULL", view);
    act_again(caller);
    if (found == NIL) continue;
    const Oid live = static_cast<Standing*>(linitial(found))->live;
    lives = lappend(lives, makeRangeVar(get_namespace_name(get_rel_namespace(live)), get_rel_name(live), -1));
  }
  if (lives == NIL) return;
  CommandCounterIncrement();
  auto* same = static_cast<GrantStmt*>(copyObjectImpl(grant));
  same->objects = lives;
  ExecuteGrantStmt(same);
}

bool changes_owner(Node* statement) {
  if (!IsA(statement, AlterTableStmt)) return false;
  ListCell* cell;
  foreach (cell, reinterpret_cast<AlterTableStmt*>(statement)->cmds) {
    if (lfirst_node(AlterTableCmd, cell)->subtype == AT_ChangeOwner) return true;
  }
  return false;
}

// Queues a rollup that was set aside to be recomputed, or enters one that has come without its catalogs.
void resume(Oid view) {
  const char* name = get_rel_name(view);
  const Actor caller = act_as_extension();
  List* found = standing_rollups("r.view = $1", view);
  act_again(caller);
  if (found == NIL && name != nullptr && TICK_OWNS_RELATION(view, GetUserId()) && adopt_rollup(view)) return;
  if (found == NIL) refuse_no_rollup(view);
  const auto* texts = static_cast<Standing*>(linitial(found));
  if (!TICK_OWNS_RELATION(view, GetUserId())) aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_VIEW, name);
  const Actor again = act_as_extension();
  (void)refresh(texts);
  Oid types[] = {INT4OID};
  Datum values[] = {Int32GetDatum(texts->rollup)};
  write(
      "UPDATE tick_catalog.rollup SET status = 'backfill', last_error = NULL WHERE id = $1 AND status = "
      "'error'",
      1, types, values);
  tell_engine();
  act_again(again);
}

ProcessUtility_hook_type previous_utility = nullptr;

// REASSIGN OWNED fires no event trigger.
void on_utility(PlannedStmt* statement, const char* query, bool read_only, ProcessUtilityContext context,
                ParamListInfo parameters, QueryEnvironment* environment, DestReceiver* destination,
                QueryCompletion* completion) {
  const bool reassigned = IsA(statement->utilityStmt, ReassignOwnedStmt);
  const auto utility = previous_utility != nullptr ? previous_utility : standard_ProcessUtility;
  utility(statement, query, read_only, context, parameters, environment, destination, completion);
  if (reassigned) entry([] { follow_owners(); });
}

}  // namespace

void watch_owners() {
  previous_utility = ProcessUtility_hook;
  ProcessUtility_hook = on_utility;
}

}  // namespace tick::pg

extern "C" {
PG_FUNCTION_INFO_V1(tick_on_rename);
PG_FUNCTION_INFO_V1(tick_resume);

PGDLLEXPORT Datum tick_on_rename(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&]() -> Datum {
    if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
      ereport(ERROR, (errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
                      errmsg("tick_catalog.on_rename is an event trigger")));
    const auto* data = reinterpret_cast<EventTriggerData*>(fcinfo->context);
    if (IsA(data->parsetree, RenameStmt)) {
      tick::pg::rename_ids();
      tick::pg::follow_column(reinterpret_cast<RenameStmt*>(data->parsetree));
    }
    if (IsA(data->parsetree, GrantStmt))
      tick::pg::follow_grant(reinterpret_cast<GrantStmt*>(data->parsetree));
    if (IsA(data->parsetree, RenameStmt) || IsA(data->parsetree, AlterObjectSchemaStmt)) {
      tick::pg::follow_view(data->parsetree);
      tick::pg::refresh_all();
    } else if (tick::pg::changes_owner(data->parsetree))
      tick::pg::follow_owners();
    PG_RETURN_NULL();
  });
}

PGDLLEXPORT Datum tick_resume(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&]() -> Datum {
    tick::pg::resume(PG_GETARG_OID(0));
    PG_RETURN_VOID();
  });
}
}
