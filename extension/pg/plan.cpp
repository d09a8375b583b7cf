// The SQL text of a rollup: its state table, its view, the worker's upsert, and the query that adds what is
// not merged yet. All of it is written under a search_path of pg_catalog, so every other name carries its
// schema. PostgreSQL only.
#include "define.hpp"
#include "session.hpp"

namespace tick::pg {
namespace {

const char* type_text(Oid type, int32 typmod) {
  return format_type_extended(type, typmod, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY);
}

void append_column_definition(StringInfo sql, const StateColumn* column) {
  appendStringInfo(sql, "%s %s", quote_identifier(column->name), type_text(column->type, column->typmod));
  if (OidIsValid(column->collation) && column->collation != get_typcollation(column->type))
    appendStringInfo(sql, " COLLATE %s", generate_collation_name(column->collation));
}

// Number of state columns that identify a row.
int identifying(const Definition* def) {
  return list_length(def->keys) + (def->window != nullptr ? 1 : 0);
}

const char* window_name(const Definition* def) {
  return column(def, list_length(def->keys))->name;
}

bool window_has_zone(const Definition* def) {
  return exprType(def->window) == TIMESTAMPTZOID;
}

// The columns of the unique index: keys in the order of GROUP BY, then the window.
const char* identity_list(const Definition* def) {
  if (!grouped(def)) return quote_identifier(def->unit);
  StringInfoData list;
  initStringInfo(&list);
  const char* separator = "";
  ListCell* cell;
  foreach (cell, def->key_order) {
    appendStringInfo(&list, "%s%s", separator, quote_identifier(column(def, lfirst_int(cell))->name));
    separator = ", ";
  }
  if (def->window != nullptr) appendStringInfo(&list, "%s%s", separator, quote_identifier(window_name(def)));
  return list.data;
}

const char* interval_text(const Interval* interval) {
  if (interval == nullptr) return "NULL";
  return psprintf("'%d months %d days " INT64_FORMAT " microseconds'::pg_catalog.interval", interval->month,
                  interval->day, static_cast<int64>(interval->time));
}

// In UTC, whatever the session's zone is when the text is read.
const char* origin_text(const Definition* def) {
  if (def->origin == nullptr) return "NULL";
  const char* utc = DatumGetCString(DirectFunctionCall1(timestamp_out, TimestampGetDatum(*def->origin)));
  return window_has_zone(def) ? psprintf("'%s+00'::pg_catalog.timestamptz", utc)
                              : psprintf("'%s'::pg_catalog.timestamp", utc);
}

const char* window_end_text(const Definition* def) {
  // One that grows ends with its last step.
  const Interval* length = def->grows ? def->slide : def->size;
  const Interval* slide = def->grows ? nullptr : def->slide;
  if (def->zone != nullptr || def->origin != nullptr)
    return psprintf("tick_catalog.window_end(s.%s, %s, %s, %s, %s)", quote_identifier(window_name(def)),
                    interval_text(length), interval_text(slide),
                    def->zone == nullptr ? "NULL" : psprintf("%s::text", quote_literal_cstr(def->zone)),
                    origin_text(def));
  if (slide != nullptr)
    return psprintf("(s.%s + %s)", quote_identifier(window_name(def)), interval_text(length));
  return psprintf("tick_catalog.window_end(s.%s, %s)", quote_identifier(window_name(def)),
                  interval_text(length));
}

// Replaces what the query computes from raw rows by what the state table holds.
Node* over_state(Node* node, void* context) {
  if (node == nullptr) return nullptr;
  auto* def = static_cast<Definition*>(context);
  if (def->window != nullptr && equal(node, def->window)) return state_variable(def, list_length(def->keys));
  ListCell* cell;
  foreach (cell, def->keys) {
    Node* key = input(def, lfirst_int(cell));
    if (!equal(node, key)) continue;
    Node* variable = state_variable(def, foreach_current_index(cell));
    if (exprType(variable) != exprType(key))
      variable = coerce_to_target_type(nullptr, variable, exprType(variable), exprType(key), exprTypmod(key),
                                       COERCION_EXPLICIT, COERCE_EXPLICIT_CAST, -1);
    if (exprCollation(variable) == exprCollation(key)) return variable;
    CollateExpr* collate = makeNode(CollateExpr);
    collate->arg = reinterpret_cast<Expr*>(variable);
    collate->collOid = exprCollation(key);
    collate->location = -1;
    return reinterpret_cast<Node*>(collate);
  }
  if (IsA(node, Aggref)) return finish(def, reinterpret_cast<Aggref*>(node));
  return TICK_MUTATE(node, over_state, context);
}

// One of the query's own columns, computed from the state's columns, which are called s. `nth` counts the
// outputs that are no keys.
const char* output_text(Definition* def, const TargetEntry* entry, int* nth) {
  if (def->computed && !is_grouped(def, reinterpret_cast<Node*>(entry->expr)))
    return psprintf("s.%s", quote_identifier(value(def, (*nth)++)->name));
  Node* expr = over_state(reinterpret_cast<Node*>(entry->expr), def);
  // A key that is shown as it is keeps the order of its index.
  if (IsA(expr, CollateExpr) && !IsA(entry->expr, CollateExpr))
    expr = reinterpret_cast<Node*>(reinterpret_cast<CollateExpr*>(expr)->arg);
  return deparse_expression(expr, deparse_context_for("s", def->state), true, false);
}

// How the upsert sets one column of an item.
void append_merge(StringInfo sql, const Definition* def, const DefinedItem* item, int at) {
  const char* name = quote_identifier(column(def, item->column + at)->name);
  appendStringInfo(sql, "%s = ", name);
  switch (item->kind) {
    case ItemKind::count:
    case ItemKind::sum:
    case ItemKind::sum_sq:
      if (item->partial == INT8OID || item->partial == NUMERICOID)
        appendStringInfo(sql, "s.%s + excluded.%s", name, name);
      else
        appendStringInfo(sql, "tick_catalog.merge_sum(s.%s, excluded.%s)", name, name);
      return;
    case ItemKind::min:
    case ItemKind::max:
      appendStringInfo(sql, "tick_catalog.merge_%s(s.%s, excluded.%s)",
                       item->kind == ItemKind::min ? "min" : "max", name, name);
      return;
    case ItemKind::first:
    case ItemKind::last:
      break;
  }
  appendStringInfo(sql, "CASE WHEN tick_catalog.%s(",
                   item->kind == ItemKind::first ? "comes_before" : "comes_after");
  const char* separator = "";
  for (const char* row : {"excluded", "s"}) {
    for (int i = 0; i < item->width; ++i) {
      appendStringInfo(sql, "%s%s.%s", separator, row, quote_identifier(column(def, item->column + i)->name));
      separator = ", ";
    }
  }
  appendStringInfo(sql, ") THEN excluded.%s ELSE s.%s END", name, name);
}

// How partials of one item are merged by GROUP BY; only what the outputs read.
void append_merged(StringInfo sql, const Definition* def, const DefinedItem* item) {
  const char* name = quote_identifier(column(def, item->column)->name);
  switch (item->kind) {
    case ItemKind::count:
    case ItemKind::sum:
    case ItemKind::sum_sq:
      if (item->partial == INT8OID)
        appendStringInfo(sql, "sum(p.%s)::bigint", name);
      else
        appendStringInfo(sql, "%s(p.%s)", item->partial == NUMERICOID ? "sum" : "tick_catalog.merged_sum",
                         name);
      break;
    case ItemKind::min:
    case ItemKind::max:
      appendStringInfo(sql, "%s(p.%s)", item->kind == ItemKind::min ? "min" : "max", name);
      break;
    case ItemKind::first:
    case ItemKind::last:
      appendStringInfo(sql, "tick.%s(p.%s", item->kind == ItemKind::first ? "first" : "last", name);
      for (int i = 1; i < item->width; ++i)
        appendStringInfo(sql, ", p.%s", quote_identifier(column(def, item->column + i)->name));
      appendStringInfoChar(sql, ')');
      break;
  }
  appendStringInfo(sql, " AS %s", name);
}

}  // namespace

Node* call_catalog(const char* function, List* arguments) {
  List* name = list_make2(makeString(pstrdup("tick_catalog")), makeString(pstrdup(function)));
  FuncCall* call = makeFuncCall(name, NIL, COERCE_EXPLICIT_CALL, -1);
  ParseState* state = make_parsestate(nullptr);
  Node* result = ParseFuncOrColumn(state, name, arguments, nullptr, call, false, -1);
  free_parsestate(state);
  return result;
}

Node* state_variable(const Definition* def, int which) {
  const StateColumn* of = column(def, which);
  return reinterpret_cast<Node*>(
      makeVar(1, get_attnum(def->state, of->name), of->type, of->typmod, of->collation, 0));
}

const char* state_sql(const Definition* def, const char* state) {
  StringInfoData sql;
  initStringInfo(&sql);
  appendStringInfo(&sql, "CREATE TABLE %s (", state);
  ListCell* cell;
  foreach (cell, def->columns) {
    const auto* of = static_cast<StateColumn*>(lfirst(cell));
    const int which = foreach_current_index(cell);
    append_column_definition(&sql, of);
    const bool is_window = def->window != nullptr && which == list_length(def->keys);
    if (is_window) appendStringInfoString(&sql, " NOT NULL");
    appendStringInfoString(&sql, ", ");
  }
  if (def->unit != nullptr)
    appendStringInfo(&sql, "%s boolean NOT NULL DEFAULT true CHECK (%s), ", quote_identifier(def->unit),
                     quote_identifier(def->unit));
  foreach (cell, def->values) {
    append_column_definition(&sql, static_cast<StateColumn*>(lfirst(cell)));
    appendStringInfoString(&sql, ", ");
  }
  // What has touched a row, 0 when it has been computed since. Two that touch it never leave the same number.
  if (def->computed && !OidIsValid(def->parent))
    appendStringInfoString(&sql,
                           "tick_touched bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint, "
                           "tick_shown boolean NOT NULL DEFAULT false, ");
  appendStringInfo(
      &sql,
      "tick_stale boolean NOT NULL DEFAULT false, revision bigint NOT NULL DEFAULT 0, updated_at timestamp "
      "with time zone NOT NULL, "
      "UNIQUE NULLS NOT DISTINCT (%s)) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.02, "
      "autovacuum_vacuum_cost_delay = 0); ALTER TABLE %s REPLICA IDENTITY FULL",
      identity_list(def), state);
  if (def->window != nullptr)
    appendStringInfo(&sql, "; CREATE INDEX ON %s (%s)", state, quote_identifier(window_name(def)));
  ListCell* counted;
  foreach (counted, def->items) {
    const auto* of = static_cast<DefinedItem*>(lfirst(counted));
    if (of->kind == ItemKind::count || of->kind == ItemKind::sum || of->kind == ItemKind::sum_sq)
      appendStringInfo(&sql, "; ALTER TABLE %s ALTER %s SET NOT NULL", state,
                       quote_identifier(column(def, of->column)->name));
  }
  return sql.data;
}

const char* added_columns_sql(const Definition* def) {
  StringInfoData sql;
  initStringInfo(&sql);
  ListCell* cell;
  foreach (cell, def->columns) {
    const auto* of = static_cast<StateColumn*>(lfirst(cell));
    if (get_attnum(def->state, of->name) != InvalidAttrNumber) continue;
    if (sql.len == 0)
      appendStringInfo(&sql, "ALTER TABLE %s ADD ", relation_text(def->state));
    else
      appendStringInfoString(&sql, ", ADD ");
    append_column_definition(&sql, of);
  }
  return sql.len == 0 ? nullptr : sql.data;
}

namespace {

// What the view of a rollup selects, of a row s that has the state table's columns.
const char* outputs_sql(Definition* def, Oid view) {
  StringInfoData sql;
  initStringInfo(&sql);
  int columns = 0;
  const auto add = [&](const char* text, const char* name) {
    const char* known =
        OidIsValid(view) ? get_attname(view, static_cast<AttrNumber>(++columns), true) : nullptr;
    appendStringInfo(&sql, "%s%s AS %s", sql.len == 0 ? "SELECT " : ", ", text,
                     quote_identifier(known == nullptr ? name : known));
  };
  const auto add_ours = [&] {
    if (def->window == nullptr) {
      add("NULL::timestamp with time zone", "window_end");
      add("NULL::boolean", "final");
    } else {
      add(window_end_text(def), "window_end");
      add(psprintf("COALESCE(%s <= (SELECT w.watermark%s FROM tick_catalog.watermark AS w "
                   "WHERE w.source = %s::pg_catalog.regclass::oid)%s, false)",
                   window_end_text(def), window_has_zone(def) ? "" : " AT TIME ZONE 'UTC'",
                   quote_literal_cstr(relation_text(def->source)),
                   def->computed && !OidIsValid(def->parent) ? " AND s.tick_touched = 0" : ""),
          "final");
    }
    add("s.revision", "revision");
    add("s.updated_at", "updated_at");
  };
  int outputs = 0, values = 0;
  ListCell* cell;
  foreach (cell, def->query->targetList) {
    const auto* entry = lfirst_node(TargetEntry, cell);
    if (entry->resjunk) continue;
    if (def->original > 0 && outputs++ == def->original) add_ours();
    add(output_text(def, entry, &values), entry->resname);
  }
  if (def->original == 0 || outputs == def->original) add_ours();
  return sql.data;
}

// A rollup without keys and window has always one row.
const char* from_sql(const Definition* def, const char* rows) {
  return psprintf(
      grouped(def) ? " FROM %s AS s" : " FROM (VALUES (true)) AS one(row) LEFT JOIN %s AS s ON true", rows);
}

}  // namespace

const char* view_sql(Definition* def, Oid view) {
  return psprintf("%s%s%s", outputs_sql(def, view), from_sql(def, relation_text(def->state)),
                  def->computed && !OidIsValid(def->parent) ? " WHERE s.tick_shown" : "");
}

const char* live_sql(Definition* def, Oid view, Oid live) {
  // Both arms of the union stay plain and nothing else is in the way, so that conditions, order and limits
  // reach the state table's indexes.
  StringInfoData names, fresh, definitions;
  initStringInfo(&names);
  initStringInfo(&fresh);
  initStringInfo(&definitions);
  const char* place = "tick_place";
  while (get_attnum(view, place) != InvalidAttrNumber || get_attnum(live, place) != InvalidAttrNumber)
    place = psprintf("%s_", place);
  Relation relation = table_open(view, AccessShareLock);
  const TupleDesc outputs = RelationGetDescr(relation);
  for (int i = 0; i < outputs->natts; ++i) {
    const Form_pg_attribute of = TupleDescAttr(outputs, i);
    const char* known = OidIsValid(live) ? get_attname(live, static_cast<AttrNumber>(i + 1), true) : nullptr;
    const StateColumn output{known == nullptr ? NameStr(of->attname) : known, of->atttypid, of->atttypmod,
                             of->attcollation};
    appendStringInfo(&names, "%sr.%s", i == 0 ? "" : ", ", quote_identifier(output.name));
    appendStringInfo(&fresh, "u.%s, ", quote_identifier(output.name));
    if (i > 0) appendStringInfoString(&definitions, ", ");
    append_column_definition(&definitions, &output);
  }
  table_close(relation, NoLock);
  const char* state = quote_literal_cstr(relation_text(def->state));
  place = quote_identifier(place);
  return psprintf(
      "SELECT %s FROM (%s, s.ctid AS %s FROM %s AS s UNION ALL SELECT %sNULL::tid FROM "
      "tick_catalog.live(%s::regclass) AS u(%s)) AS r WHERE r.%s IS NULL OR NOT r.%s IN (SELECT p.place FROM "
      "tick_catalog.live_places(%s::regclass) AS p(place))",
      names.data, outputs_sql(def, live), place, relation_text(def->state), fresh.data, state,
      definitions.data, place, place, state);
}

const char* finish_sql(Definition* def) {
  if (OidIsValid(def->parent)) return follow_sql(def, false);
  return psprintf("%s%s", outputs_sql(def, InvalidOid), from_sql(def, "tick_rows"));
}

int original_outputs(Oid view) {
  Relation relation = table_open(view, AccessShareLock);
  const Query* query = relation->rd_rel->relkind == RELKIND_VIEW ? get_view_query(relation) : nullptr;
  List* columns = query == nullptr ? NIL : query->targetList;
  int result = 0;
  ListCell* cell;
  foreach (cell, columns) {
    const auto* entry = lfirst_node(TargetEntry, cell);
    if (!IsA(entry->expr, Var)) continue;
    const auto* var = reinterpret_cast<Var*>(entry->expr);
    const RangeTblEntry* table = rt_fetch(var->varno, query->rtable);
    if (table->rtekind == RTE_RELATION &&
        strcmp(get_attname(table->relid, var->varattno, false), "revision") == 0)
      result = Max(entry->resno - 3, 0);
  }
  table_close(relation, NoLock);
  return result;
}

const char* upsert_sql(const Definition* def) {
  if (OidIsValid(def->parent)) return follow_sql(def, true);
  StringInfoData sql, names;
  initStringInfo(&sql);
  initStringInfo(&names);
  ListCell* cell;
  foreach (cell, def->columns)
    appendStringInfo(&names, "%s, ", quote_identifier(static_cast<StateColumn*>(lfirst(cell))->name));
  const int columns = list_length(def->columns);
  appendStringInfo(&sql,
                   "INSERT INTO %s AS s (%stick_stale, revision, updated_at) SELECT u.*, $%d FROM unnest(",
                   relation_text(def->state), names.data, columns + 3);
  for (int i = 0; i < columns; ++i)
    appendStringInfo(&sql, "%s$%d::%s[]", i == 0 ? "" : ", ", i + 1, type_text(column(def, i)->type, -1));
  appendStringInfo(&sql,
                   ", $%d::boolean[], $%d::bigint[]) AS u ON CONFLICT (%s) DO UPDATE SET tick_stale = "
                   "s.tick_stale OR excluded.tick_stale, ",
                   columns + 1, columns + 2, identity_list(def));
  foreach (cell, def->items) {
    const auto* of = static_cast<DefinedItem*>(lfirst(cell));
    for (int i = 0; i < of->width; ++i) {
      append_merge(&sql, def, of, i);
      appendStringInfoString(&sql, ", ");
    }
  }
  if (def->computed) {  // the rest changes when it is computed
    appendStringInfoString(&sql, "tick_touched = greatest(s.tick_touched + 1, excluded.tick_touched)");
    return sql.data;
  }
  if (def->window != nullptr)
    appendStringInfo(
        &sql, "revision = s.revision + CASE WHEN %s <= $%d::timestamp with time zone%s THEN 1 ELSE 0 END, ",
        window_end_text(def), columns + 4, window_has_zone(def) ? "" : " AT TIME ZONE 'UTC'");
  appendStringInfoString(&sql, "updated_at = excluded.updated_at");
  return sql.data;
}

namespace {

// The query's own columns as they are stored, and whether the row is stale: what is not merged yet is not in
// the parent either.
const char* stored_sql(Definition* def) {
  StringInfoData sql;
  initStringInfo(&sql);
  int values = 0;
  ListCell* cell;
  foreach (cell, def->query->targetList) {
    const auto* entry = lfirst_node(TargetEntry, cell);
    if (!entry->resjunk)
      appendStringInfo(&sql, "%s%s AS %s", sql.len == 0 ? "SELECT " : ", ", output_text(def, entry, &values),
                       quote_identifier(entry->resname));
  }
  appendStringInfo(&sql, ", s.tick_stale%s", from_sql(def, relation_text(def->state)));
  return sql.data;
}

// Its own columns from the states alone: what is not merged yet only says which of them are still to be
// computed, and so does not count.
const char* merged_of_computed_sql(Definition* def) {
  StringInfoData sql, definitions, identity;
  initStringInfo(&sql);
  initStringInfo(&definitions);
  initStringInfo(&identity);
  ListCell* cell;
  foreach (cell, def->columns) {
    if (definitions.len > 0) appendStringInfoString(&definitions, ", ");
    append_column_definition(&definitions, static_cast<StateColumn*>(lfirst(cell)));
  }
  for (int i = 0; i < identifying(def); ++i)
    appendStringInfo(&identity, ", p.%s", quote_identifier(column(def, i)->name));
  appendStringInfoString(&sql, "SELECT ");
  int values = 0;
  foreach (cell, def->query->targetList) {
    const auto* entry = lfirst_node(TargetEntry, cell);
    if (!entry->resjunk)
      appendStringInfo(&sql, "%s AS %s, ", output_text(def, entry, &values),
                       quote_identifier(entry->resname));
  }
  appendStringInfo(
      &sql,
      "s.tick_stale OR s.tick_touched > 0 OR u.tick_new IS NOT NULL FROM (SELECT ROW(true%s) AS tick_id, p.* "
      "FROM "
      "%s AS p) AS t FULL JOIN (SELECT ROW(true%s) AS tick_id, true AS tick_new%s FROM "
      "tick_catalog.unmerged(%d) AS "
      "p(%s, tick_stale boolean) GROUP BY 1, 2%s) AS u ON t.tick_id = u.tick_id CROSS JOIN LATERAL (SELECT ",
      identity.data, relation_text(def->state), identity.data, identity.data, def->id, definitions.data,
      identity.data);
  for (int i = 0; i < identifying(def); ++i) {
    const char* name = quote_identifier(column(def, i)->name);
    appendStringInfo(&sql, "CASE WHEN u.tick_new THEN u.%s ELSE t.%s END AS %s, ", name, name, name);
  }
  foreach (cell, def->values)
    appendStringInfo(&sql, "t.%s, ", quote_identifier(static_cast<StateColumn*>(lfirst(cell))->name));
  appendStringInfoString(&sql, "t.tick_stale, t.tick_touched) AS s");
  return sql.data;
}

}  // namespace

const char* unmerged_sql(const Definition* def) {
  StringInfoData definitions;
  initStringInfo(&definitions);
  ListCell* cell;
  foreach (cell, def->columns) {
    append_column_definition(&definitions, static_cast<StateColumn*>(lfirst(cell)));
    appendStringInfoString(&definitions, ", ");
  }
  return psprintf("tick_catalog.unmerged(%d) AS u(%stick_stale boolean)", def->id, definitions.data);
}

const char* merged_sql(Definition* def) {
  if (OidIsValid(def->parent)) return stored_sql(def);
  if (def->computed) return merged_of_computed_sql(def);
  StringInfoData sql, columns;
  initStringInfo(&sql);
  initStringInfo(&columns);
  ListCell* cell;
  foreach (cell, def->columns)
    appendStringInfo(&columns, "%s, ", quote_identifier(static_cast<StateColumn*>(lfirst(cell))->name));
  appendStringInfoString(&columns, "tick_stale");
  appendStringInfoString(&sql, "SELECT ");
  int values = 0;
  foreach (cell, def->query->targetList) {
    const auto* entry = lfirst_node(TargetEntry, cell);
    if (!entry->resjunk)
      appendStringInfo(&sql, "%s AS %s, ", output_text(def, entry, &values),
                       quote_identifier(entry->resname));
  }
  appendStringInfoString(&sql, "s.tick_stale FROM (SELECT bool_or(p.tick_stale) AS tick_stale, ");
  for (int i = 0; i < identifying(def); ++i)
    appendStringInfo(&sql, "p.%s, ", quote_identifier(column(def, i)->name));
  foreach (cell, def->items) {
    if (foreach_current_index(cell) > 0) appendStringInfoString(&sql, ", ");
    append_merged(&sql, def, static_cast<DefinedItem*>(lfirst(cell)));
  }
  appendStringInfo(&sql, " FROM (SELECT %s FROM %s UNION ALL SELECT %s FROM %s) AS p", columns.data,
                   relation_text(def->state), columns.data, unmerged_sql(def));
  for (int i = 0; i < identifying(def); ++i)
    appendStringInfo(&sql, "%sp.%s", i == 0 ? " GROUP BY " : ", ", quote_identifier(column(def, i)->name));
  // A group that nothing is left of is no row.
  if (grouped(def))
    appendStringInfo(&sql, " HAVING sum(p.%s) > 0",
                     quote_identifier(column(def, item(def, 0)->column)->name));
  appendStringInfoString(&sql, ") AS s");
  return sql.data;
}

namespace {

bool find_window(Node* node, void* context) {
  if (node == nullptr) return false;
  if (is_window(node)) {
    *static_cast<Node**>(context) = static_cast<Node*>(linitial(window_arguments(node)));
    return true;
  }
  return TICK_WALK(node, find_window, context);
}

// The expression under the window that is grouped by.
Node* time_expression(Query* query) {
  ListCell* cell;
  foreach (cell, query->groupClause) {
    Node* expr = get_sortgroupclause_expr(lfirst_node(SortGroupClause, cell), query->targetList);
    Node* time = nullptr;
    if (IsA(expr, FuncExpr) && find_window(expr, &time)) return time;
  }
  return nullptr;
}

Node* constant(Node* time, Timestamp bound) {
  return reinterpret_cast<Node*>(makeConst(exprType(time), -1, InvalidOid, sizeof(Timestamp),
                                           TimestampGetDatum(bound), false, FLOAT8PASSBYVAL));
}

Node* time_condition(Node* time, const char* op, Node* bound) {
  ParseState* state = make_parsestate(nullptr);
  Node* result =
      reinterpret_cast<Node*>(make_op(state, list_make1(makeString(pstrdup(op))),
                                      static_cast<Node*>(copyObjectImpl(time)), bound, nullptr, -1));
  free_parsestate(state);
  return result;
}

Node* parameter(int number, Oid type) {
  Param* result = makeNode(Param);
  result->paramkind = PARAM_EXTERN;
  result->paramid = number;
  result->paramtype = type;
  result->paramtypmod = -1;
  result->paramcollid = get_typcollation(type);
  result->location = -1;
  return reinterpret_cast<Node*>(result);
}

// That a key is among the elements of an array.
Node* any_of(Node* key, int number) {
  const Oid type = getBaseType(exprType(key));
  ScalarArrayOpExpr* result = makeNode(ScalarArrayOpExpr);
  result->opno = lookup_type_cache(type, TYPECACHE_EQ_OPR)->eq_opr;
  result->useOr = true;
  result->inputcollid = exprCollation(key);
  result->args = list_make2(copyObjectImpl(key), parameter(number, get_array_type(type)));
  result->location = -1;
  return reinterpret_cast<Node*>(result);
}

}  // namespace

Query* bounded_query(Oid definition, TimestampTz from, TimestampTz to) {
  Relation relation = table_open(definition, AccessShareLock);
  auto* query = static_cast<Query*>(copyObjectImpl(get_view_query(relation)));
  table_close(relation, NoLock);
  Query* plain = static_cast<Query*>(copyObjectImpl(query));
  TICK_UNGROUP(plain);
  Node* time = time_expression(plain);
  List* conditions = NIL;
  if (time != nullptr && !TIMESTAMP_NOT_FINITE(from))
    conditions = lappend(conditions, time_condition(time, ">=", constant(time, from)));
  if (time != nullptr && !TIMESTAMP_NOT_FINITE(to))
    conditions = lappend(conditions, time_condition(time, "<", constant(time, to)));
  if (conditions != NIL) {
    if (query->jointree->quals != nullptr) conditions = lcons(query->jointree->quals, conditions);
    query->jointree->quals = reinterpret_cast<Node*>(make_ands_explicit(conditions));
  }
  return query;
}

namespace {

// The query's outputs as q(c1, c2, ..), sorted into what the state table has of them.
struct Outputs {
  StringInfoData names;   // c1, c2, ..
  StringInfoData keys;    // ", " and each key and the window, as a column of the state table
  StringInfoData values;  // ", " and each of the rest, as its column
  const char* window;     // by itself; nullptr: there is none
};

Outputs outputs_of_query(const Definition* def) {
  Outputs result{};
  initStringInfo(&result.names);
  initStringInfo(&result.keys);
  initStringInfo(&result.values);
  // Where the query gives each key and the window.
  auto* place = static_cast<int*>(palloc0(sizeof(int) * identifying(def)));
  int outputs = 0;
  ListCell* cell;
  foreach (cell, def->query->targetList) {
    const auto* entry = lfirst_node(TargetEntry, cell);
    if (entry->resjunk) continue;
    Node* expr = reinterpret_cast<Node*>(entry->expr);
    const int number = ++outputs;
    appendStringInfo(&result.names, "%sc%d", number == 1 ? "" : ", ", number);
    if (!is_grouped(def, expr))
      appendStringInfo(&result.values, ", q.c%d::%s", number, type_text(exprType(expr), exprTypmod(expr)));
    for (int i = 0; i < identifying(def); ++i) {
      const bool is_key = i < list_length(def->keys);
      if (place[i] == 0 && equal(expr, is_key ? input(def, list_nth_int(def->keys, i)) : def->window))
        place[i] = number;
    }
  }
  for (int i = 0; i < identifying(def); ++i) {
    const StateColumn* of = column(def, i);
    appendStringInfo(&result.keys, ", q.c%d::%s%s", place[i], type_text(of->type, of->typmod),
                     OidIsValid(of->collation) ? " COLLATE \"C\"" : "");
  }
  if (def->window != nullptr) result.window = psprintf("q.c%d", place[list_length(def->keys)]);
  return result;
}

// Sums, averages and variances of floats that round once.
void round_once(Query* query) {
  ListCell* cell;
  foreach (cell, query->targetList) {
    auto* entry = lfirst_node(TargetEntry, cell);
    bool replaced = false;
    entry->expr = reinterpret_cast<Expr*>(exact_aggregates(reinterpret_cast<Node*>(entry->expr), &replaced));
  }
}

}  // namespace

const char* compute_sql(Definition* def, Oid definition, TimestampTz from, TimestampTz to) {
  StringInfoData sql, of_state;
  initStringInfo(&sql);
  initStringInfo(&of_state);
  const Outputs outputs = outputs_of_query(def);
  for (int i = 0; i < identifying(def); ++i)
    appendStringInfo(&of_state, ", p.%s", quote_identifier(column(def, i)->name));
  appendStringInfoString(&sql, "SELECT ");
  for (int i = 0; i < identifying(def); ++i)
    appendStringInfo(&sql, "t.%s, ", quote_identifier(column(def, i)->name));
  appendStringInfo(
      &sql,
      "t.tick_touched, q.tick_found IS NOT NULL%s FROM (SELECT ROW(true%s) AS tick_id, p.* FROM %s "
      "AS p WHERE p.tick_touched > 0 AND NOT p.tick_stale",
      outputs.values.data, of_state.data, relation_text(def->state));
  if (def->window != nullptr)
    appendStringInfo(&sql, " AND p.%s = ANY ($1)", quote_identifier(window_name(def)));
  Query* query = bounded_query(definition, from, to);
  round_once(query);
  appendStringInfo(
      &sql,
      ") AS t LEFT JOIN (SELECT ROW(true%s) AS tick_id, true AS tick_found, q.* FROM (%s) AS q(%s)) "
      "AS q ON q.tick_id = t.tick_id",
      outputs.keys.data, pg_get_querydef(query, false), outputs.names.data);
  return sql.data;
}

const char* follow_sql(const Definition* def, bool by_keys) {
  StringInfoData sql, of_state, names, updates, old_values, new_values, json;
  for (StringInfo each : {&sql, &of_state, &names, &updates, &old_values, &new_values, &json})
    initStringInfo(each);
  const Outputs outputs = outputs_of_query(def);
  const char* window = quote_identifier(window_name(def));
  const char* scope = psprintf("s.%s >= $1 AND s.%s < $2", window, window);
  Node* time = input(def, def->time);
  List* conditions = list_make2(time_condition(time, ">=", parameter(1, exprType(time))),
                                time_condition(time, "<", parameter(3, exprType(time))));
  for (int i = 0, array = 6; i < identifying(def); ++i) {
    const char* name = quote_identifier(column(def, i)->name);
    appendStringInfo(&of_state, ", s.%s", name);
    appendStringInfo(&names, "%s, ", name);
    if (i == list_length(def->keys)) continue;
    appendStringInfo(&json, "%s%s, s.%s", i == 0 ? "" : ", ", quote_literal_cstr(column(def, i)->name), name);
    if (!by_keys || def->parent_keys[i] < 0) continue;
    conditions = lappend(conditions, any_of(input(def, list_nth_int(def->keys, i)), array));
    scope = psprintf("%s AND %s", scope,
                     deparse_expression(any_of(state_variable(def, i), array++),
                                        deparse_context_for("s", def->state), true, false));
  }
  for (int i = 0; i < list_length(def->values); ++i) {
    const char* name = quote_identifier(value(def, i)->name);
    appendStringInfo(&names, "%s, ", name);
    appendStringInfo(&updates, "%s = excluded.%s, ", name, name);
    appendStringInfo(&old_values, "%ss.%s", i == 0 ? "" : ", ", name);
    appendStringInfo(&new_values, "%sexcluded.%s", i == 0 ? "" : ", ", name);
  }
  auto* query = static_cast<Query*>(copyObjectImpl(def->query));
  if (query->jointree->quals != nullptr) conditions = lcons(query->jointree->quals, conditions);
  query->jointree->quals = reinterpret_cast<Node*>(make_ands_explicit(conditions));
  round_once(query);
  // Rows are compared by their images: not every type has an equality.
  appendStringInfo(
      &sql,
      "WITH q AS MATERIALIZED (SELECT ROW(true%s) AS tick_id, q.* FROM (%s) AS q(%s)), gone AS (DELETE FROM "
      "%s AS s WHERE %s AND NOT EXISTS (SELECT FROM q WHERE q.tick_id = ROW(true%s)) RETURNING s.%s AS at, "
      "jsonb_build_object(%s)::text AS key), written AS (INSERT INTO %s AS s (%supdated_at) SELECT %s%s, $4 "
      "FROM q WHERE %s >= $1 AND %s < $2 ON CONFLICT (%s) DO UPDATE SET %srevision = s.revision + CASE WHEN "
      "%s <= $5%s THEN 1 ELSE 0 END, updated_at = excluded.updated_at WHERE NOT ROW(%s)::record "
      "OPERATOR(pg_catalog.*=) ROW(%s)::record RETURNING s.%s AS at) SELECT at, key FROM gone UNION ALL "
      "SELECT at, NULL FROM written",
      outputs.keys.data, pg_get_querydef(query, false), outputs.names.data, relation_text(def->state), scope,
      of_state.data, window, json.data, relation_text(def->state), names.data, outputs.keys.data + 2,
      outputs.values.data, outputs.window, outputs.window, identity_list(def), updates.data,
      window_end_text(def), window_has_zone(def) ? "" : " AT TIME ZONE 'UTC'", old_values.data,
      new_values.data, window);
  return sql.data;
}

const char* show_sql(const Definition* def, const bool* nulls, bool found) {
  StringInfoData sql, old_values, new_values;
  initStringInfo(&sql);
  initStringInfo(&old_values);
  initStringInfo(&new_values);
  const int values = list_length(def->values), keys = list_length(def->keys);
  const int window = values + keys + 1, touched = window + 1, was_final = window + 2, now = window + 3;
  appendStringInfo(&sql, "UPDATE %s AS s SET ", relation_text(def->state));
  for (int i = 0; i < values; ++i) {
    const char* name = quote_identifier(value(def, i)->name);
    if (found) appendStringInfo(&sql, "%s = $%d, ", name, i + 1);
    appendStringInfo(&old_values, "%ss.%s", i == 0 ? "" : ", ", name);
    appendStringInfo(&new_values, "%s$%d", i == 0 ? "" : ", ", i + 1);
  }
  // The images: not every type has an equality.
  const char* same = psprintf("(s.tick_shown AND ROW(%s)::record OPERATOR(pg_catalog.*=) ROW(%s)::record)",
                              old_values.data, new_values.data);
  if (!found)
    appendStringInfo(&sql, "tick_stale = true, tick_touched = 0 WHERE s.tick_touched = $%d", touched);
  else
    appendStringInfo(
        &sql,
        "tick_shown = true, tick_touched = CASE WHEN s.tick_touched = $%d THEN 0 ELSE s.tick_touched "
        "END, revision = s.revision + CASE WHEN s.tick_shown AND $%d AND NOT %s THEN 1 ELSE 0 END, "
        "updated_at = CASE WHEN %s THEN s.updated_at ELSE $%d END WHERE true",
        touched, was_final, same, same, now);
  for (int i = 0; i < keys; ++i) {
    const char* name = quote_identifier(column(def, i)->name);
    if (nulls[i])
      appendStringInfo(&sql, " AND s.%s IS NULL", name);
    else
      appendStringInfo(&sql, " AND s.%s = $%d", name, values + i + 1);
  }
  if (def->window != nullptr)
    appendStringInfo(&sql, " AND s.%s = $%d", quote_identifier(window_name(def)), window);
  appendStringInfo(&sql, " RETURNING s.updated_at = $%d", now);
  return sql.data;
}

}  // namespace tick::pg
