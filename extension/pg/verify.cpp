// tick.verify: one statement, in the caller's snapshot, that compares a rollup (its states and what is not
// merged yet) with its defining query. It runs as the rollup's owner in a restricted context, for whoever may
// read both. PostgreSQL only, except for the core's calendar.
#include <cmath>

#include "define.hpp"
#include "guard.hpp"
#include "session.hpp"
#include "source.hpp"
#include "values.hpp"

namespace tick::pg {
namespace {

struct Verified {
  Oid view;
  Oid definition;
  Oid source;
  Oid owner;
  const char* merged;
  const char* time_column;  // nullptr without a window
  bool has_raw_from;
  TimestampTz raw_from;
  bool has_kept_from;
  TimestampTz kept_from;
  WindowSize size;
  List* keys;  // char*
  int32 id;
  Oid parent;  // InvalidOid: it reads the source
};

// The bounds the caller gave.
struct Bounds {
  bool has_from, has_to;
  TimestampTz from, to;
  double tolerance;
};

Verified* read_rollup(Oid view) {
  Oid types[] = {OIDOID};
  Datum values[] = {ObjectIdGetDatum(view)};
  MemoryContext memory = CurrentMemoryContext;
  const Actor caller = act_as_extension();
  open_catalogs();
  const char* query =
      "SELECT r.definition, r.source, r.owner, r.merged, r.time_column, r.key_columns, " TICK_COVERED_FROM(
          "s") ", r.kept_from, " TICK_WINDOW_COLUMNS
               ", coalesce((SELECT p.view FROM tick_catalog.rollup AS p WHERE p.id = r.parent), 0), r.id "
               "FROM "
               "tick_catalog.rollup AS r JOIN tick_catalog.source AS s ON s.relid = r.source WHERE r.view = "
               "$1";
  SPI_execute_plan(kept_plan(query, 1, types), values, nullptr, true, 1);
  Verified* result = nullptr;
  if (SPI_processed == 1) {
    MemoryContext spi = MemoryContextSwitchTo(memory);
    bool null[8];
    Datum field[8];
    for (int i = 0; i < 8; ++i)
      field[i] = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1, &null[i]);
    result = static_cast<Verified*>(palloc0(sizeof(Verified)));
    result->view = view;
    result->definition = DatumGetObjectId(field[0]);
    result->source = DatumGetObjectId(field[1]);
    result->owner = DatumGetObjectId(field[2]);
    result->merged = TextDatumGetCString(field[3]);
    if (!null[4]) result->time_column = TextDatumGetCString(field[4]);
    (void)read_window(0, 9, &result->size);
    result->has_raw_from = !null[6];
    if (!null[6]) result->raw_from = DatumGetTimestampTz(field[6]);
    result->has_kept_from = !null[7];
    if (!null[7]) result->kept_from = DatumGetTimestampTz(field[7]);
    result->keys = read_names(field[5]);
    result->parent =
        DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 14, &null[0]));
    result->id = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 15, &null[0]));
    MemoryContextSwitchTo(spi);
  }
  close_catalogs();
  act_again(caller);
  return result;
}

// Of a rollup with a parent: windows that a turn has left to a later one, in the snapshot that is compared.
const char* awaiting_sql(const Verified* rollup, const char* time) {
  Oid types[] = {INT4OID};
  Datum values[] = {Int32GetDatum(rollup->id)};
  StringInfoData sql;
  initStringInfo(&sql);
  const Actor caller = act_as_extension();
  SPI_connect();
  const char* query = "SELECT p.lo, p.hi FROM tick_catalog.pending AS p WHERE p.rollup = $1 AND NOT p.fresh";
  SPI_execute_plan(kept_plan(query, 1, types), values, nullptr, true, 0);
  for (uint64 row = 0; row < SPI_processed; ++row) {
    bool null;
    TimestampTz bounds[2];
    for (int i = 0; i < 2; ++i)
      bounds[i] = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, i + 1, &null));
    if (!TIMESTAMP_NOT_FINITE(bounds[0])) bounds[0] = first_window(bounds[0], rollup->size);
    appendStringInfo(&sql, " AND NOT (%s >= '%s'", time, timestamptz_to_str(bounds[0]));
    appendStringInfo(&sql, " AND %s < '%s')", time, timestamptz_to_str(bounds[1]));
  }
  SPI_finish();
  act_again(caller);
  return sql.data;
}

void check_reader(const Verified* rollup) {
  for (Oid relation : {rollup->view, OidIsValid(rollup->parent) ? rollup->parent : rollup->source}) {
    const AclResult result = pg_class_aclcheck(relation, GetUserId(), ACL_SELECT);
    if (result != ACLCHECK_OK)
      aclcheck_error(result, get_relkind_objtype(get_rel_relkind(relation)), get_rel_name(relation));
  }
}

// One output column of the query.
struct Column {
  const char* name;
  Oid type;
  Oid collation;
  bool is_key;
  bool is_time;
  bool has_exact;  // the expected side has it a second time, computed without rounding in between
};

// The defining query, reading no more raw rows than the bounds need.
const char* expected_sql(const Verified* rollup, List* columns, const Bounds& bounds) {
  TimestampTz from = bounds.has_from ? bounds.from : minus_infinity, to = plus_infinity;
  if (rollup->time_column != nullptr) from = begin_of_rows(from, rollup->size);
  if (rollup->time_column != nullptr && bounds.has_to && !TIMESTAMP_NOT_FINITE(bounds.to))
    to = window_end(window_start(bounds.to - 1, rollup->size), rollup->size);
  Query* query = bounded_query(rollup->definition, from, to);
  List* exact = NIL;
  ListCell* cell;
  foreach (cell, query->targetList) {
    const auto* entry = lfirst_node(TargetEntry, cell);
    bool replaced = false;
    Node* expr = exact_aggregates(reinterpret_cast<Node*>(entry->expr), &replaced);
    if (!replaced || entry->resjunk) continue;
    static_cast<Column*>(list_nth(columns, entry->resno - 1))->has_exact = true;
    exact = lappend(exact, makeTargetEntry(reinterpret_cast<Expr*>(expr),
                                           list_length(query->targetList) + list_length(exact) + 1,
                                           psprintf("exact_%d", entry->resno), false));
  }
  query->targetList = list_concat(query->targetList, exact);
  return pg_get_querydef(query, false);
}

List* read_columns(const Verified* rollup) {
  List* columns = NIL;
  Relation relation = table_open(rollup->definition, AccessShareLock);
  TupleDesc desc = RelationGetDescr(relation);
  for (int i = 0; i < desc->natts; ++i) {
    const Form_pg_attribute attribute = TupleDescAttr(desc, i);
    auto* column = static_cast<Column*>(palloc0(sizeof(Column)));
    column->name = pstrdup(NameStr(attribute->attname));
    column->type = attribute->atttypid;
    column->collation = attribute->attcollation;
    column->is_time = rollup->time_column != nullptr && strcmp(column->name, rollup->time_column) == 0;
    ListCell* cell;
    foreach (cell, rollup->keys)
      column->is_key = column->is_key || strcmp(column->name, static_cast<char*>(lfirst(cell))) == 0;
    columns = lappend(columns, column);
  }
  table_close(relation, NoLock);
  return columns;
}

const char* collate(const Column* column) {
  return OidIsValid(column->collation) ? " COLLATE \"C\"" : "";
}

// One side of the comparison: (k, present, c0, c1, ...), rows whose window is no time left out. `exact`: the
// query gives some columns a second time, called x and the number of the column; else the last column says
// that a row is stale.
const char* side_sql(List* columns, const Bounds& bounds, const char* query, const char* alias, bool exact) {
  StringInfoData sql, names;
  initStringInfo(&sql);
  initStringInfo(&names);
  appendStringInfoString(&sql, "(SELECT ROW(true");
  const Column* time = nullptr;
  int time_number = 0;
  ListCell* cell;
  foreach (cell, columns) {
    const auto* column = static_cast<Column*>(lfirst(cell));
    const int i = foreach_current_index(cell);
    if (column->is_key) appendStringInfo(&sql, ", q.c%d%s", i, collate(column));
    if (column->is_time) {
      time = column;
      time_number = i;
      appendStringInfo(&sql, ", q.c%d", i);
    }
    appendStringInfo(&names, "%sc%d", i == 0 ? "" : ", ", i);
  }
  foreach (cell, columns) {
    if (exact && static_cast<Column*>(lfirst(cell))->has_exact)
      appendStringInfo(&names, ", x%d", foreach_current_index(cell));
  }
  if (!exact) appendStringInfoString(&names, ", stale");
  appendStringInfo(&sql, ") AS k, true AS present, q.* FROM (%s) AS q(%s)", query, names.data);
  if (time != nullptr) {
    const char* as_utc = time->type == TIMESTAMPTZOID ? "" : " AT TIME ZONE 'UTC'";
    appendStringInfo(&sql, " WHERE isfinite(q.c%d)", time_number);
    if (bounds.has_from) appendStringInfo(&sql, " AND q.c%d >= $1%s", time_number, as_utc);
    if (bounds.has_to) appendStringInfo(&sql, " AND q.c%d < $2%s", time_number, as_utc);
  }
  appendStringInfo(&sql, ") AS %s", alias);
  return sql.data;
}

// The condition under which column i differs. A float does not if it is what exact sums give: then
// PostgreSQL's own aggregate, which rounds at every step, has lost more than the tolerance.
const char* difference(const Column* column, int i) {
  const Oid type = getBaseType(column->type);
  const char* exact = column->has_exact ? psprintf(" AND a.c%d IS DISTINCT FROM b.x%d", i, i) : "";
  if (type == FLOAT8OID) return psprintf("tick_catalog.differs(a.c%d, b.c%d, $3)%s", i, i, exact);
  if (type == FLOAT4OID)
    return psprintf("tick_catalog.differs(a.c%d, b.c%d, greatest($3, 1e-5))%s", i, i, exact);
  if (!OidIsValid(lookup_type_cache(type, TYPECACHE_EQ_OPR)->eq_opr))
    return psprintf("a.c%d::text IS DISTINCT FROM b.c%d::text", i, i);
  return psprintf("(a.c%d%s) IS DISTINCT FROM (b.c%d%s)%s", i, collate(column), i, collate(column), exact);
}

const char* comparison_sql(const Verified* rollup, const Bounds& bounds) {
  List* columns = read_columns(rollup);
  const char* expected = expected_sql(rollup, columns, bounds);
  StringInfoData keys, values, any, a_row, b_row, sql;
  initStringInfo(&keys);
  initStringInfo(&values);
  initStringInfo(&any);
  initStringInfo(&a_row);
  initStringInfo(&b_row);
  initStringInfo(&sql);
  const char* time = "NULL::timestamp with time zone";
  ListCell* cell;
  foreach (cell, columns) {
    const auto* column = static_cast<Column*>(lfirst(cell));
    const int i = foreach_current_index(cell);
    const char* comma = i == 0 ? "" : ", ";
    appendStringInfo(&a_row, "%sa.c%d", comma, i);
    appendStringInfo(&b_row, "%sb.c%d", comma, i);
    if (column->is_key)
      appendStringInfo(&keys, "%s%s, CASE WHEN a.present THEN a.c%d ELSE b.c%d END",
                       keys.len == 0 ? "" : ", ", quote_literal_cstr(column->name), i, i);
    if (column->is_time)
      time = psprintf("COALESCE(a.c%d, b.c%d)%s", i, i,
                      column->type == TIMESTAMPTZOID ? "" : " AT TIME ZONE 'UTC'");
    if (column->is_key || column->is_time) continue;
    appendStringInfo(&values, ", (%d, %s, a.c%d::text, b.c%d::text, a.present AND b.present AND %s)", i,
                     quote_literal_cstr(column->name), i, i, difference(column, i));
    appendStringInfo(&any, " OR %s", difference(column, i));
  }
  // Nearly all rows are equal: texts are made of those alone that are not.
  appendStringInfo(&sql, "SELECT jsonb_build_object(%s), %s, d.name, d.stored, d.expected FROM ", keys.data,
                   time);
  appendStringInfo(&sql, "%s FULL JOIN ", side_sql(columns, bounds, rollup->merged, "a", false));
  appendStringInfo(&sql, "%s ON a.k = b.k", side_sql(columns, bounds, expected, "b", true));
  appendStringInfo(
      &sql,
      " CROSS JOIN LATERAL (VALUES (-1, '(row)', CASE WHEN a.present THEN ROW(%s)::text END, "
      "CASE WHEN b.present THEN ROW(%s)::text END, a.present IS DISTINCT FROM b.present)%s) "
      "AS d(n, name, stored, expected, differs) WHERE (a.present IS DISTINCT FROM b.present%s) AND d.differs "
      "AND "
      "a.stale IS NOT TRUE AND NOT EXISTS "
      "(SELECT FROM "
      "tick.late AS l WHERE l.rollup = %u AND l.reason <> 'no_time' AND l.ts IS NOT DISTINCT FROM "
      "%s AND l.key = jsonb_build_object(%s))%s ORDER BY 2, 1, d.n",
      a_row.data, b_row.data, values.data, any.data, rollup->view, time, keys.data,
      OidIsValid(rollup->parent) ? awaiting_sql(rollup, time) : "");
  return sql.data;
}

void store_rows(FunctionCallInfo fcinfo, const char* sql, const Bounds& bounds) {
  auto* result = reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo);
  Oid types[] = {TIMESTAMPTZOID, TIMESTAMPTZOID, FLOAT8OID};
  Datum values[] = {TimestampTzGetDatum(bounds.from), TimestampTzGetDatum(bounds.to),
                    Float8GetDatum(bounds.tolerance)};
  SPI_connect();
  if (SPI_execute_with_args(sql, 3, types, values, nullptr, true, 0) != SPI_OK_SELECT)
    elog(ERROR, "pg_tick: verify failed");
  for (uint64 row = 0; row < SPI_processed; ++row)
    tuplestore_puttuple(result->setResult, SPI_tuptable->vals[row]);
  SPI_finish();
}

void verify(FunctionCallInfo fcinfo) {
  InitMaterializedSRF(fcinfo, 0);
  if (PG_ARGISNULL(0))
    ereport(ERROR,
            (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("verify takes one rollup, not NULL"),
             errhint("For all of them: SELECT s.rollup, v.* FROM tick.status s, tick.verify(s.rollup) v.")));
  const Oid view = PG_GETARG_OID(0);
  const int level = fixed_path();
  const Verified* rollup = read_rollup(view);
  if (rollup == nullptr) refuse_no_rollup(view);
  check_reader(rollup);
  Bounds bounds{!PG_ARGISNULL(1), !PG_ARGISNULL(2), 0, 0, 1e-9};
  if (bounds.has_from) bounds.from = PG_GETARG_TIMESTAMPTZ(1);
  if (bounds.has_to) bounds.to = PG_GETARG_TIMESTAMPTZ(2);
  if (!PG_ARGISNULL(3)) bounds.tolerance = PG_GETARG_FLOAT8(3);
  if ((bounds.has_from || bounds.has_to) && rollup->time_column == nullptr)
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("rollup \"%s\" has no window to restrict", get_rel_name(view)),
                    errhint("Leave out \"from\" and \"to\".")));
  if (rollup->has_raw_from && rollup->time_column == nullptr) {
    ereport(
        NOTICE,
        (errmsg("rollup \"%s\" cannot be verified: rows that it has seen were retired", get_rel_name(view)),
         errdetail("Its source is complete only from %s on.", timestamptz_to_str(rollup->raw_from))));
    close_path(level);
    return;
  }
  const auto begin_at = [&](bool given, TimestampTz from) {
    if (!given || (bounds.has_from && bounds.from >= from)) return;
    bounds.has_from = true;
    bounds.from = from;
  };
  begin_at(rollup->has_raw_from,
           rollup->has_raw_from ? first_window_from(rollup->raw_from, rollup->size) : minus_infinity);
  begin_at(rollup->has_kept_from, rollup->kept_from);
  const Actor caller = act_as(rollup->owner, SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
  store_rows(fcinfo, comparison_sql(rollup, bounds), bounds);
  act_again(caller);
  close_path(level);
}

// Whether two floats are further apart than rounding in another order explains.
bool differs(double a, double b, double tolerance) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) != std::isnan(b);
  if (std::isinf(a) || std::isinf(b)) return a != b;
  return std::fabs(a / 2 - b / 2) > tolerance * (std::fmax(std::fabs(a), std::fabs(b)) / 2);
}

}  // namespace
}  // namespace tick::pg

extern "C" {
PG_FUNCTION_INFO_V1(tick_verify);
PG_FUNCTION_INFO_V1(tick_differs);

PGDLLEXPORT Datum tick_verify(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&]() -> Datum {
    tick::pg::verify(fcinfo);
    return Datum{0};
  });
}

PGDLLEXPORT Datum tick_differs(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&]() -> Datum {
    if (PG_ARGISNULL(0) || PG_ARGISNULL(1)) PG_RETURN_BOOL(PG_ARGISNULL(0) != PG_ARGISNULL(1));
    PG_RETURN_BOOL(tick::pg::differs(PG_GETARG_FLOAT8(0), PG_GETARG_FLOAT8(1), PG_GETARG_FLOAT8(2)));
  });
}
}
