// tick.alter_rollup: what can be changed of a rollup that stands. Columns are added to its three relations in
// place, so grants, comments, dependent views and listeners stay; older windows are filled by the worker.
// PostgreSQL only.
#include "coverage.hpp"
#include "define.hpp"
#include "guard.hpp"
#include "history.hpp"
#include "retention.hpp"
#include "session.hpp"

namespace tick::pg {
namespace {

// A rollup that is the caller's own.
struct Altered {
  int32 id;
  bool windowed;
};

Altered find_rollup(Oid view) {
  Altered found{};
  Oid types[] = {OIDOID};
  Datum values[] = {ObjectIdGetDatum(view)};
  const Actor caller = act_as_extension();
  open_catalogs();
  SPI_execute_with_args("SELECT id, window_size IS NOT NULL FROM tick_catalog.rollup WHERE view = $1", 1,
                        types, values, nullptr, true, 1);
  if (SPI_processed == 1) {
    bool null;
    found.id = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
    found.windowed = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &null));
  }
  close_catalogs();
  act_again(caller);
  const char* name = get_rel_name(view);
  if (found.id == 0) refuse_no_rollup(view);
  if (!TICK_OWNS_RELATION(view, GetUserId())) aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_VIEW, name);
  return found;
}

// nullptr: windows are kept for ever. What has been dropped stays so.
void set_retention(const Altered& rollup, const Interval* retention) {
  check_window_retention(retention, rollup.windowed);
  Oid types[] = {INT4OID, INTERVALOID};
  Datum values[] = {Int32GetDatum(rollup.id), IntervalPGetDatum(retention)};
  const char nulls[] = {' ', retention == nullptr ? 'n' : ' ', '\0'};
  const Actor caller = act_as_extension();
  SPI_connect();
  if (SPI_execute_with_args("UPDATE tick_catalog.rollup SET retention = $2 WHERE id = $1", 2, types, values,
                            nulls, false, 0) < 0)
    elog(ERROR, "pg_tick: cannot write the settings of a rollup");
  SPI_finish();
  tell_engine();
  act_again(caller);
}

// ---- columns
// ------------------------------------------------------------------------------------------------------------

// The definition as it stands, parsed and analysed anew as the owner.
Query* standing_query(const char* text) {
  Query* query = parse_analyze_fixedparams(parse_select(text), text, nullptr, 0, nullptr);
  TICK_UNGROUP(query);
  return query;
}

bool same_group(const void* a, const void* b) {
  const auto *one = static_cast<const SortGroupClause*>(a), *other = static_cast<const SortGroupClause*>(b);
  return one->tleSortGroupRef == other->tleSortGroupRef && one->eqop == other->eqop;
}

// Its query with more output columns. What stood there must mean the same under the caller's search_path.
void read_added(Definition* def, const Definition* before, const Query* standing, const char* columns) {
  def->text = psprintf("SELECT %s\nFROM %s", columns, relation_text(before->source));
  QueryContext context;
  enter_query(&context, def->text);
  RawStmt* added = parse_select(def->text);
  const auto* select = castNode(SelectStmt, added->stmt);
  if (select->targetList == NIL || select->whereClause != nullptr || select->groupClause != NIL)
    ereport(ERROR, (errcode(ERRCODE_SYNTAX_ERROR), errmsg("only output columns can be added to a rollup"),
                    errhint("Write them as in a SELECT list: 'max(qty) AS biggest'.")));
  RawStmt* statement = parse_select(before->text);
  auto* whole = castNode(SelectStmt, statement->stmt);
  whole->targetList = list_concat(whole->targetList, select->targetList);
  def->query = parse_analyze_fixedparams(statement, def->text, nullptr, 0, nullptr);
  def->source = before->source;
  def->owner = before->owner;
  def->id = before->id;
  def->size = before->size;
  def->slide = before->slide;
  def->grows = before->grows;
  def->zone = before->zone;
  def->origin = before->origin;
  def->state = before->state;
  def->original = before->original;
  analyse(def);
  if (def->computed)
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("an aggregate that is recomputed cannot be added to a rollup that is merged"),
                    errhint("Create another rollup for it.")));
  bool same = list_length(standing->groupClause) == list_length(def->query->groupClause) &&
              equal(standing->jointree->quals, def->query->jointree->quals);
  for (int i = 0; same && i < list_length(standing->groupClause); ++i)
    same = same_group(list_nth(standing->groupClause, i), list_nth(def->query->groupClause, i));
  const int outputs = list_length(standing->targetList);
  for (int i = 0; same && i < outputs; ++i)
    same = equal(list_nth_node(TargetEntry, standing->targetList, i)->expr,
                 list_nth_node(TargetEntry, def->query->targetList, i)->expr);
  if (!same)
    ereport(ERROR, (errcode(ERRCODE_AMBIGUOUS_FUNCTION),
                    errmsg("the rollup's query means something else under the present search_path"),
                    errhint("SET search_path = pg_catalog, and give names their schema.")));
  for (int i = outputs; i < list_length(def->query->targetList); ++i)
    check_immutable(static_cast<Node*>(list_nth(def->query->targetList, i)), def->text);
  leave_query(&context);
}

// The rollup, if something can be added to it now. Under its locks.
const Standing* find_addable(Oid view) {
  const char* name = get_rel_name(view);
  List* found = standing_rollups("r.view = $1", view);
  if (found == NIL) refuse_no_rollup(view);
  const auto* rollup = static_cast<const Standing*>(linitial(found));
  if (read_numbers("SELECT 1::int8 FROM tick_catalog.rollup AS r WHERE view = $1 AND (status <> 'live' OR "
                   "EXISTS (SELECT "
                   "FROM tick_catalog.pending AS p WHERE p.rollup = r.id AND p.fresh))",
                   view) != NIL)
    ereport(
        ERROR,
        (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("\"%s\" is still to be computed", name),
         errhint("SELECT tick.wait(...), or tick.resume(...) if it was set aside, and try again.")));
  if (rollup->size == nullptr &&
      read_numbers("SELECT 1::int8 FROM tick_catalog.source WHERE relid = $1 AND raw_from IS NOT NULL",
                   rollup->source) != NIL)
    ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                    errmsg("nothing can be added to \"%s\": rows that it has seen were retired", name),
                    errhint("Create another rollup.")));
  return rollup;
}

// The options of a view, as CREATE VIEW takes them.
const char* view_options(Oid view) {
  Oid types[] = {OIDOID};
  Datum values[] = {ObjectIdGetDatum(view)};
  const char* result = "";
  MemoryContext memory = CurrentMemoryContext;
  open_catalogs();
  SPI_execute_with_args(
      "SELECT ' WITH (' || string_agg(quote_ident(o.option_name) || ' = ' || quote_literal(o.option_value), "
      "', ') || ')' "
      "FROM pg_class AS c, pg_options_to_table(c.reloptions) AS o WHERE c.oid = $1 HAVING count(*) > 0",
      1, types, values, nullptr, true, 1);
  if (SPI_processed == 1)
    result = MemoryContextStrdup(memory, SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
  close_catalogs();
  return result;
}

Datum names_of(List* columns, int from) {
  const int count = list_length(columns) - from;
  auto* names = static_cast<Datum*>(palloc(sizeof(Datum) * (count + 1)));
  for (int i = 0; i < count; ++i)
    names[i] = CStringGetTextDatum(static_cast<StateColumn*>(list_nth(columns, from + i))->name);
  return PointerGetDatum(construct_array(names, count, TEXTOID, -1, false, TYPALIGN_INT));
}

// Takes the new items into the capture and the catalogs. Windows that the source covers are computed anew;
// deltas of programs from before, which do not have the items, are of no use to them, and to all others they
// bring the rest.
void record_added(const Definition* before, Definition* def, const Standing* rollup) {
  const int items = list_length(before->items), added = list_length(def->items) - items;
  const int32 group = join_group(def);
  if (group == rollup->group)
    run(
        psprintf("DELETE FROM tick_catalog.rollup_program WHERE rollup = %d AND program = (SELECT p.id FROM "
                 "tick_catalog.program AS p WHERE p.group_id = %d AND p.current)",
                 rollup->rollup, group));
  Oid types[] = {INT4OID, INT4OID, INT4OID, INT4OID, TEXTARRAYOID, TEXTOID, TEXTOID, TEXTOID};
  Datum values[] = {Int32GetDatum(rollup->rollup),
                    Int32GetDatum(group),
                    Int32GetDatum(items),
                    Int32GetDatum(added),
                    names_of(def->columns, list_length(def->keys) + (def->window != nullptr ? 1 : 0)),
                    CStringGetTextDatum(upsert_sql(def)),
                    CStringGetTextDatum(merged_sql(def)),
                    CStringGetTextDatum(finish_sql(def))};
  SPI_connect();
  if (SPI_execute_with_args(
          "UPDATE tick_catalog.rollup AS r SET group_id = $2, item_columns = $5, upsert = $6, merged = $7, "
          "finish = $8, "
          "item_from = "
          "coalesce(r.item_from, array_fill(NULL::timestamptz, ARRAY[$3])) || "
          "array_fill(tick_catalog.window_from(greatest(o.raw_from, r.seeded_to), r.window_size, "
          "r.window_slide, r.window_zone, r.window_origin, r.window_grows), ARRAY[$4]), "
          "filling = $4 FROM tick_catalog.source AS o WHERE r.id = $1 AND o.relid = r.source",
          8, types, values, nullptr, false, 0) < 0)
    elog(ERROR, "pg_tick: cannot write the catalogs");
  SPI_finish();
  record_items(def, group);
  if (group != rollup->group) shrink_group(rollup->group);
  if (added == 0) return;
  run(psprintf("UPDATE tick_catalog.late SET partial = '' WHERE rollup = %d", rollup->rollup));
  run(psprintf(
      "INSERT INTO tick_catalog.pending (rollup, lo, hi, fresh) SELECT r.id, coalesce((extract(epoch "
      "FROM greatest(o.raw_from, r.seeded_to) - "
      "'2000-01-01 00:00+00'::timestamptz) * 1000000)::int8, (" INT64_FORMAT
      ")::numeric::int8), " INT64_FORMAT
      ", true FROM tick_catalog.rollup AS r JOIN tick_catalog.source "
      "AS o ON o.relid = r.source WHERE r.id = %d",
      minus_infinity, plus_infinity, rollup->rollup));
}

void add_columns(Oid view, const char* columns) {
  Actor caller = act_as_extension();
  const Standing* rollup = find_addable(view);
  act_again(caller);
  List* locked = list_make3_oid(rollup->source, view, rollup->state);
  if (OidIsValid(rollup->live)) locked = lappend_oid(locked, rollup->live);
  lock_sources(locked, AccessExclusiveLock);
  stop_turns();
  caller = act_as_extension();
  rollup = find_addable(view);
  const Actor extension = act_as_owner(rollup);
  Definition* before = read_definition(rollup);
  if (before->original == 0)
    ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                    errmsg("view \"%s\" has been given another query", get_rel_name(view)),
                    errhint("Create another rollup.")));
  if (before->computed)
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("nothing can be added to \"%s\": it %s", get_rel_name(view), not_merged(before)),
                    errhint("Create another rollup.")));
  const Query* standing = standing_query(before->text);
  act_again(extension);
  act_again(caller);

  auto* def = static_cast<Definition*>(palloc0(sizeof(Definition)));
  read_added(def, before, standing, columns);

  caller = act_as_extension();
  run(psprintf("CREATE OR REPLACE VIEW %s AS %s", relation_text(rollup->definition),
               pg_get_querydef(static_cast<Query*>(copyObjectImpl(def->query)), false)));
  const char* options = view_options(view);
  const char* live_options = OidIsValid(rollup->live) ? view_options(rollup->live) : nullptr;
  const Actor again = act_as_owner(rollup);
  const char* sql = added_columns_sql(def);
  if (sql != nullptr) run(sql);
  run(psprintf("CREATE OR REPLACE VIEW %s%s AS %s", relation_text(view), options, view_sql(def, view)));
  if (OidIsValid(rollup->live))
    run(psprintf("CREATE OR REPLACE VIEW %s%s AS %s", relation_text(rollup->live), live_options,
                 live_sql(def, view, rollup->live)));
  act_again(again);
  record_added(before, def, rollup);
  extend_history(view);
  attach_triggers(rollup->source);
  tell_engine();
  act_again(caller);
}

void alter_rollup(FunctionCallInfo fcinfo) {
  if (PG_ARGISNULL(0))
    ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("name must not be NULL"),
                    errhint("Name the rollup.")));
  const Altered rollup = find_rollup(PG_GETARG_OID(0));
  List* reset = PG_ARGISNULL(3) ? NIL : read_names(PG_GETARG_DATUM(3));
  bool no_retention = false, no_history = false;
  ListCell* cell;
  foreach (cell, reset) {
    const auto* setting = static_cast<char*>(lfirst(cell));
    if (strcmp(setting, "retention") == 0)
      no_retention = true;
    else if (strcmp(setting, "history") == 0)
      no_history = true;
    else
      ereport(ERROR,
              (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("\"%s\" is no setting of a rollup", setting),
               errhint("The settings are retention and history.")));
  }
  const bool retention = !PG_ARGISNULL(1), history = !PG_ARGISNULL(4);
  if ((no_retention && retention) || (no_history && history))
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("%s cannot be given and reset at once",
                           no_retention && retention ? "retention" : "history"),
                    errhint("Leave out one of both.")));
  if (no_retention || retention) set_retention(rollup, retention ? PG_GETARG_INTERVAL_P(1) : nullptr);
  if (no_history || history) {
    const Actor caller = act_as_extension();
    set_history(PG_GETARG_OID(0), history ? PG_GETARG_INTERVAL_P(4) : nullptr);
    act_again(caller);
  }
  if (!PG_ARGISNULL(2)) add_columns(PG_GETARG_OID(0), text_to_cstring(PG_GETARG_TEXT_PP(2)));
}

}  // namespace
}  // namespace tick::pg

extern "C" {
PG_FUNCTION_INFO_V1(tick_alter_rollup);

PGDLLEXPORT Datum tick_alter_rollup(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&]() -> Datum {
    tick::pg::alter_rollup(fcinfo);
    PG_RETURN_VOID();
  });
}
}
