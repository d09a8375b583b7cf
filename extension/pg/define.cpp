// tick.create_rollup: the order of its steps, and the objects and catalog rows it makes. The source is locked
// before anything is made; user objects are made by the caller, the catalogs' rows by the extension's owner.
#include "coverage.hpp"
#include "define.hpp"
#include "guard.hpp"
#include "history.hpp"
#include "retention.hpp"
#include "session.hpp"
#include "shared.hpp"
#include "source.hpp"

namespace tick::pg {
namespace {

void check_preloaded() {
  if (preloaded()) return;
  ereport(ERROR,
          (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
           errmsg("pg_tick must be loaded by shared_preload_libraries"),
           errhint("Add pg_tick to shared_preload_libraries in postgresql.conf and restart the server.")));
}

void refuse_existing(Oid schema, const char* name) {
  if (OidIsValid(get_relname_relid(name, schema)))
    ereport(ERROR, (errcode(ERRCODE_DUPLICATE_TABLE), errmsg("relation \"%s\" already exists", name),
                    errhint("Drop it, or give the rollup another name.")));
}

// Finds where the rollup goes, and that nothing is there.
void take_name(Definition* def, text* name) {
  RangeVar* wanted = makeRangeVarFromNameList(textToQualifiedNameList(name));
  def->name = wanted->relname;
  def->schema = RangeVarGetCreationNamespace(wanted);
  if (isAnyTempNamespace(def->schema))
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("a rollup cannot be temporary"),
                    errhint("Create it in another schema.")));
  if (!TICK_MAY_CREATE_IN(def->schema, GetUserId()))
    ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                    errmsg("permission denied for schema %s", get_namespace_name(def->schema)),
                    errhint("A rollup is a view and a table: GRANT CREATE ON SCHEMA %s TO %s.",
                            quote_identifier(get_namespace_name(def->schema)),
                            quote_identifier(GetUserNameFromId(GetUserId(), false)))));
  refuse_existing(def->schema, def->name);
  refuse_existing(def->schema, makeObjectName(def->name, nullptr, "state"));
}

// Parses, locks the source and analyses.
void read_query(Definition* def) {
  QueryContext context;
  enter_query(&context, def->text);
  RawStmt* statement = parse_select(def->text);
  const RangeVar* name = source_name(statement);
  def->source = RangeVarGetRelid(name, AccessShareLock, true);
  if (!OidIsValid(def->source))
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE), errmsg("relation \"%s\" does not exist", name->relname),
                    errhint("A rollup reads an existing table."), at(def->text, name->location)));
  const Oid relation = def->source;
  if (!take_parent(def, relation, name)) {
    check_source(relation, name, def->text);
    lock_source(relation);
  }
  def->query = parse_analyze_fixedparams(statement, def->text, nullptr, 0, nullptr);
  if (list_length(def->query->rtable) < 1 ||
      linitial_node(RangeTblEntry, def->query->rtable)->relid != relation)
    ereport(ERROR, (errcode(ERRCODE_OBJECT_IN_USE), errmsg("the source was replaced meanwhile"),
                    errhint("Try again.")));
  if (!OidIsValid(def->parent)) check_source(relation, name, def->text);
  analyse(def);
  leave_query(&context);
}

int32 next_id() {
  open_catalogs();
  SPI_execute("SELECT nextval(pg_get_serial_sequence('tick_catalog.rollup', 'id'))::integer", true, 1);
  bool null;
  const int32 id = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
  close_catalogs();
  return id;
}

const char* definition_name(const Definition* def) {
  return makeObjectName(def->name, nullptr, psprintf("definition_%d", def->id));
}

Oid make_definition_view(const Definition* def, const char* query) {
  const char* name = definition_name(def);
  const char* qualified = quote_qualified_identifier("tick_catalog", name);
  run(psprintf("CREATE VIEW %s AS %s", qualified, query));
  run(psprintf("ALTER VIEW %s OWNER TO %s", qualified,
               quote_identifier(GetUserNameFromId(def->owner, false))));
  return get_relname_relid(name, catalog_namespace(false));
}

Datum name_array(List* columns, int from, int count) {
  Datum* names = static_cast<Datum*>(palloc(sizeof(Datum) * (count + 1)));
  for (int i = 0; i < count; ++i)
    names[i] = CStringGetTextDatum(static_cast<StateColumn*>(list_nth(columns, from + i))->name);
  return PointerGetDatum(construct_array(names, count, TEXTOID, -1, false, TYPALIGN_INT));
}

void write(const char* sql, int count, Oid* types, Datum* values, const char* nulls) {
  SPI_connect();
  if (SPI_execute_with_args(sql, count, types, values, nulls, false, 0) < 0)
    elog(ERROR, "pg_tick: cannot write the catalogs");
  SPI_finish();
}

Datum parent_keys(const Definition* def) {
  if (!OidIsValid(def->parent)) return Datum{0};
  const int count = list_length(def->keys);
  auto* keys = static_cast<Datum*>(palloc(sizeof(Datum) * (count + 1)));
  for (int i = 0; i < count; ++i) keys[i] = Int16GetDatum(def->parent_keys[i]);
  return PointerGetDatum(construct_array(keys, count, INT2OID, sizeof(int16), true, TYPALIGN_SHORT));
}

void write_rollup(Definition* def, Oid view, Oid state, Oid definition, Oid live, int32 group) {
  const int keys = list_length(def->keys);
  const int first = keys + (def->window != nullptr ? 1 : 0);
  Oid types[] = {INT4OID, OIDOID,      OIDOID,       OIDOID,       OIDOID,         INT4OID,
                 OIDOID,  INTERVALOID, TEXTARRAYOID, TEXTOID,      TEXTARRAYOID,   TEXTOID,
                 TEXTOID, INTERVALOID, INTERVALOID,  TEXTOID,      TIMESTAMPTZOID, TEXTARRAYOID,
                 OIDOID,  TEXTOID,     INT4OID,      INT2ARRAYOID, BOOLOID};
  Datum values[] = {Int32GetDatum(def->id),
                    ObjectIdGetDatum(view),
                    ObjectIdGetDatum(state),
                    ObjectIdGetDatum(definition),
                    ObjectIdGetDatum(def->source),
                    Int32GetDatum(group),
                    ObjectIdGetDatum(def->owner),
                    IntervalPGetDatum(def->size),
                    name_array(def->columns, 0, keys),
                    def->window == nullptr ? Datum{0} : CStringGetTextDatum(column(def, keys)->name),
                    name_array(def->columns, first, list_length(def->columns) - first),
                    CStringGetTextDatum(upsert_sql(def)),
                    CStringGetTextDatum(merged_sql(def)),
                    IntervalPGetDatum(def->slide),
                    IntervalPGetDatum(def->retention),
                    def->zone == nullptr ? Datum{0} : CStringGetTextDatum(def->zone),
                    def->origin == nullptr ? Datum{0} : TimestampTzGetDatum(*def->origin),
                    name_array(def->values, 0, list_length(def->values)),
                    ObjectIdGetDatum(live),
                    CStringGetTextDatum(finish_sql(def)),
                    Int32GetDatum(def->parent_id),
                    parent_keys(def),
                    BoolGetDatum(def->grows)};
  char nulls[] = "                       ";
  const bool follows = OidIsValid(def->parent);
  if (!def->computed || follows) nulls[17] = 'n';
  if (follows)
    nulls[5] = 'n';
  else
    nulls[20] = nulls[21] = 'n';
  if (!OidIsValid(live)) nulls[18] = 'n';
  if (def->zone == nullptr) nulls[15] = 'n';
  if (def->origin == nullptr) nulls[16] = 'n';
  if (def->slide == nullptr) nulls[13] = 'n';
  if (def->retention == nullptr) nulls[14] = 'n';
  if (def->window == nullptr) nulls[7] = nulls[9] = 'n';
  write(
      "INSERT INTO tick_catalog.rollup (id, view, state, definition, source, group_id, owner, window_size, "
      "key_columns, time_column, item_columns, upsert, merged, window_slide, retention, window_zone, "
      "window_origin, value_columns, live, finish, parent, parent_keys, window_grows) OVERRIDING SYSTEM "
      "VALUE VALUES ($1, "
      "$2, $3, $4, $5, $6, "
      "$7, $8, "
      "$9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23)",
      23, types, values, nulls);
  Oid pending_types[] = {INT4OID, INT8OID, INT8OID};
  Datum pending[] = {Int32GetDatum(def->id), Int64GetDatum(minus_infinity), Int64GetDatum(plus_infinity)};
  write("INSERT INTO tick_catalog.pending (rollup, lo, hi, fresh) VALUES ($1, $2, $3, true)", 3,
        pending_types, pending, nullptr);
}

// What makes objects a rollup, its source being locked. One with a parent leaves the source alone.
void enter_rollup(Definition* def, Oid view, Oid state, Oid definition, Oid live) {
  const ObjectAddress depender{RelationRelationId, state, 0};
  const ObjectAddress referenced{RelationRelationId, definition, 0};
  recordDependencyOn(&depender, &referenced, DEPENDENCY_NORMAL);
  const Actor caller = act_as_extension();
  if (OidIsValid(def->parent)) {
    write_rollup(def, view, state, definition, live, 0);
    tell_engine();
    act_again(caller);
    return;
  }
  register_source(def->source);
  const int32 group = join_group(def);
  write_rollup(def, view, state, definition, live, group);
  record_items(def, group);
  check_new_rollup(def->source);
  tell_engine();
  attach_triggers(def->source);
  act_again(caller);
}

// Gives the windows of a query another size: a Const beside the time.
struct Resized {
  Const* size;
  int windows;
};

bool resize(Node* node, void* context) {
  if (node == nullptr) return false;
  auto* resized = static_cast<Resized*>(context);
  if (is_window(node)) {
    ListCell* cell;
    foreach (cell, reinterpret_cast<FuncExpr*>(node)->args) {
      Node* argument = static_cast<Node*>(lfirst(cell));
      auto* named = IsA(argument, NamedArgExpr) ? reinterpret_cast<NamedArgExpr*>(argument) : nullptr;
      if ((named == nullptr ? foreach_current_index(cell) : named->argnumber) != 1) continue;
      if (named == nullptr)
        lfirst(cell) = resized->size;
      else
        named->arg = reinterpret_cast<Expr*>(resized->size);
    }
    ++resized->windows;
  }
  return TICK_WALK(node, resize, context);
}

// The query of a rollup with windows of another size. Every name in it has its schema.
const char* query_like(Oid view, const Interval* size) {
  const char* name = get_rel_name(view);
  const Actor caller = act_as_extension();
  List* found = standing_rollups("r.view = $1", view);
  act_again(caller);
  if (found == NIL) refuse_no_rollup(view);
  Relation definition = table_open(static_cast<Standing*>(linitial(found))->definition, AccessShareLock);
  auto* query = static_cast<Query*>(copyObjectImpl(get_view_query(definition)));
  table_close(definition, NoLock);
  TICK_UNGROUP(query);
  Interval* wanted = static_cast<Interval*>(palloc(sizeof(Interval)));
  *wanted = *size;
  Resized resized{
      makeConst(INTERVALOID, -1, InvalidOid, sizeof(Interval), IntervalPGetDatum(wanted), false, false), 0};
  resize(reinterpret_cast<Node*>(query->targetList), &resized);
  if (resized.windows == 0)
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("rollup \"%s\" has no windows", name),
                    errhint("A size can be given to a rollup with a window, as tick.tumble makes one.")));
  return pg_get_querydef(query, false);
}

// What tick.create_rollup is given; nullptr and 0 is what it is not.
struct Wanted {
  text* name;
  text* query;
  Interval* retention;
  Oid like;
  Interval* size;
  Interval* history;
};

void check_wanted(const Wanted& wanted) {
  const bool like = OidIsValid(wanted.like);
  if (wanted.name == nullptr)
    ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("name must not be NULL"),
                    errhint("Name the rollup.")));
  if ((wanted.query != nullptr) == like)
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("a rollup is made of a query, or like another rollup"),
                    errhint("Give either query, or like_rollup and size.")));
  if (like != (wanted.size != nullptr))
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("like_rollup and size go together"),
                    errhint("Write it as in like_rollup => 'candles_1m', size => '15 minutes'.")));
}

// Makes `name_live`. A rollup that is recomputed has none: there is nothing that a delta could be added to.
Oid make_live(Definition* def, Oid view) {
  if (def->computed) return InvalidOid;
  const char* name = live_name(def->name);
  run(psprintf("CREATE VIEW %s AS %s", quote_qualified_identifier(get_namespace_name(def->schema), name),
               live_sql(def, view, InvalidOid)));
  return get_relname_relid(name, def->schema);
}

Oid create_rollup(const Wanted& wanted) {
  check_wanted(wanted);
  auto* def = static_cast<Definition*>(palloc0(sizeof(Definition)));
  def->retention = wanted.retention;
  def->owner = GetUserId();
  check_preloaded();
  take_name(def, wanted.name);
  // A query of another rollup means what it meant there, whatever the caller's search_path.
  const bool like = OidIsValid(wanted.like);
  int level = like ? fixed_path() : 0;
  def->text = like ? query_like(wanted.like, wanted.size) : text_to_cstring(wanted.query);
  read_query(def);
  check_window_retention(def->retention, def->window != nullptr);
  if (!def->computed) refuse_existing(def->schema, live_name(def->name));

  if (!like) level = fixed_path();
  const char* canonical = pg_get_querydef(static_cast<Query*>(copyObjectImpl(def->query)), false);
  Actor caller = act_as_extension();
  do {
    def->id = next_id();
  } while (OidIsValid(get_relname_relid(definition_name(def), catalog_namespace(false))));
  const Oid definition = make_definition_view(def, canonical);
  act_again(caller);

  const char* state_name = makeObjectName(def->name, nullptr, "state");
  const char* schema = get_namespace_name(def->schema);
  run(state_sql(def, quote_qualified_identifier(schema, state_name)));
  const Oid state = def->state = get_relname_relid(state_name, def->schema);
  run(psprintf("CREATE VIEW %s AS %s", quote_qualified_identifier(schema, def->name),
               view_sql(def, InvalidOid)));
  const Oid view = get_relname_relid(def->name, def->schema);
  const Oid live = make_live(def, view);

  caller = act_as_extension();
  run(psprintf("SELECT tick_catalog.refuse_replica(%u), tick_catalog.guard_table(%u, %s)", state, state,
               quote_literal_cstr(get_rel_name(definition))));
  act_again(caller);
  enter_rollup(def, view, state, definition, live);
  if (wanted.history != nullptr) {
    caller = act_as_extension();
    set_history(view, wanted.history);
    act_again(caller);
  }
  close_path(level);
  return view;
}

// What a dump of the schema alone has left of a rollup.
struct Orphan {
  Oid state;
  Oid definition;
  Oid live;  // InvalidOid: there is none
};

Orphan find_orphan(Oid view) {
  Orphan orphan{};
  Oid types[] = {OIDOID};
  Datum values[] = {ObjectIdGetDatum(view)};
  const Actor caller = act_as_extension();
  open_catalogs();
  SPI_execute_with_args(
      "SELECT s.oid, d.oid, (SELECT l.oid FROM pg_rewrite AS lw JOIN pg_class AS l ON l.oid = lw.ev_class "
      "AND "
      "l.relowner = v.relowner JOIN pg_depend AS lp ON lp.classid = 'pg_rewrite'::regclass AND lp.objid = "
      "lw.oid AND lp.refclassid = 'pg_class'::regclass AND lp.refobjid = s.oid JOIN pg_depend AS lf ON "
      "lf.classid = 'pg_rewrite'::regclass AND lf.objid = lw.oid AND lf.refobjid = "
      "'tick_catalog.live(oid)'::regprocedure LIMIT 1) FROM pg_rewrite AS w JOIN pg_class AS v ON "
      "v.oid = w.ev_class JOIN pg_depend AS p "
      "ON p.classid = 'pg_rewrite'::regclass AND p.objid = w.oid AND p.refclassid = 'pg_class'::regclass "
      "JOIN pg_trigger AS g ON g.tgrelid = p.refobjid AND g.tgname = 'tick_guard' AND g.tgfoid = "
      "'tick_catalog.guard_state()'::regprocedure JOIN pg_class AS s ON s.oid = g.tgrelid AND s.relowner = "
      "v.relowner JOIN pg_class AS d ON d.relnamespace = 'tick_catalog'::regnamespace AND d.relkind = 'v' "
      "AND "
      "d.relowner = v.relowner AND g.tgargs = convert_to(d.relname, getdatabaseencoding()) || '\\x00'::bytea "
      "WHERE w.ev_class = $1 AND NOT EXISTS (SELECT FROM pg_depend AS f WHERE f.classid = "
      "'pg_rewrite'::regclass AND f.objid = w.oid AND f.refobjid = "
      "'tick_catalog.live(oid)'::regprocedure) AND NOT EXISTS (SELECT FROM tick_catalog.rollup AS r "
      "WHERE s.oid = r.state OR "
      "d.oid = r.definition)",
      1, types, values, nullptr, true, 1);
  if (SPI_processed == 1) {
    bool null;
    orphan.state = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
    orphan.definition =
        DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &null));
    orphan.live = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 3, &null));
  }
  close_catalogs();
  act_again(caller);
  return orphan;
}

}  // namespace

const char* live_name(const char* rollup) {
  return makeObjectName(rollup, nullptr, "live");
}

bool adopt_rollup(Oid view) {
  const Orphan orphan = find_orphan(view);
  if (!OidIsValid(orphan.state)) return false;
  check_preloaded();
  if (any_holds_rows(orphan.state))
    ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                    errmsg("\"%s\" holds candles of a dump that came without the catalogs of pg_tick",
                           get_rel_name(view)),
                    errhint("Restore the data of all tables of the dump. To begin anew: TRUNCATE %s first.",
                            relation_text(orphan.state))));
  auto* def = static_cast<Definition*>(palloc0(sizeof(Definition)));
  def->name = get_rel_name(view);
  def->schema = get_rel_namespace(view);
  const Actor caller = act_as_owner_of(view);
  def->owner = GetUserId();
  def->text = TextDatumGetCString(
      DirectFunctionCall2(pg_get_viewdef_ext, ObjectIdGetDatum(orphan.definition), BoolGetDatum(false)));
  def->state = orphan.state;
  def->original = original_outputs(view);
  read_query(def);
  if (renamed_column(def, orphan.state) != nullptr)
    elog(ERROR, "pg_tick: \"%s\" is not the state of \"%s\"", get_rel_name(orphan.state), def->name);
  const Actor owner = act_as_extension();
  def->id = next_id();
  enter_rollup(def, view, orphan.state, orphan.definition, orphan.live);
  act_again(owner);
  act_again(caller);
  return true;
}

}  // namespace tick::pg

extern "C" {
PG_FUNCTION_INFO_V1(tick_create_rollup);

PGDLLEXPORT Datum tick_create_rollup(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&]() -> Datum {
    return ObjectIdGetDatum(tick::pg::create_rollup(
        {PG_ARGISNULL(0) ? nullptr : PG_GETARG_TEXT_PP(0), PG_ARGISNULL(1) ? nullptr : PG_GETARG_TEXT_PP(1),
         PG_ARGISNULL(2) ? nullptr : PG_GETARG_INTERVAL_P(2), PG_ARGISNULL(3) ? InvalidOid : PG_GETARG_OID(3),
         PG_ARGISNULL(4) ? nullptr : PG_GETARG_INTERVAL_P(4),
         PG_ARGISNULL(5) ? nullptr : PG_GETARG_INTERVAL_P(5)}));
  });
}
}
