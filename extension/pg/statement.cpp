// What a rollup's query may be: parses it and refuses, with the place, the reason and a cure, everything else
// (SEMANTICS R17). PostgreSQL only.
#include "define.hpp"
#include "session.hpp"

namespace tick::pg {
namespace {

// Moves the position of an error from the running statement into the rollup's query.
void move_position(void* argument) {
  const int position = geterrposition();
  if (position <= 0) return;
  errposition(0);
  internalerrposition(position);
  internalerrquery(static_cast<const char*>(argument));
}

[[noreturn]] void refuse(const char* text, int location, const char* what, const char* hint) {
  ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("a rollup cannot have %s", what),
                  errhint("%s", hint), at(text, location)));
}

void check_clauses(const SelectStmt* select, const char* text) {
  const char* plain = "Write one plain SELECT ... FROM table WHERE ... GROUP BY ....";
  const char* on_view = "Leave it out, and apply it when you read the rollup.";
  if (select->op != SETOP_NONE) refuse(text, -1, "set operations", "Create one rollup for each SELECT.");
  if (select->valuesLists != NIL) refuse(text, -1, "VALUES", plain);
  if (select->intoClause != nullptr) refuse(text, -1, "INTO", "The rollup's name is the first argument.");
  if (select->withClause != nullptr) refuse(text, select->withClause->location, "WITH", plain);
  if (select->distinctClause != NIL) refuse(text, -1, "DISTINCT", "Use GROUP BY.");
  if (select->havingClause != nullptr) refuse(text, exprLocation(select->havingClause), "HAVING", on_view);
  if (select->windowClause != NIL) refuse(text, -1, "a WINDOW clause", on_view);
  if (select->sortClause != NIL)
    refuse(text, exprLocation(static_cast<Node*>(linitial(select->sortClause))), "ORDER BY", on_view);
  if (select->limitCount != nullptr) refuse(text, exprLocation(select->limitCount), "LIMIT", on_view);
  if (select->limitOffset != nullptr) refuse(text, exprLocation(select->limitOffset), "OFFSET", on_view);
  if (select->lockingClause != NIL) refuse(text, -1, "a locking clause", on_view);
  if (select->groupDistinct) refuse(text, -1, "GROUP BY DISTINCT", "Use a plain GROUP BY.");
}

void check_from(const SelectStmt* select, const char* text) {
  if (select->fromClause == NIL)
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("a rollup must read a table"),
                    errhint("Name the table of the raw rows in FROM.")));
  Node* from = static_cast<Node*>(linitial(select->fromClause));
  if (list_length(select->fromClause) > 1 || IsA(from, JoinExpr)) {
    Node* place =
        list_length(select->fromClause) > 1 ? static_cast<Node*>(lsecond(select->fromClause)) : from;
    refuse(text, exprLocation(place), "a join", "Roll up one table, and join the rollup when you read it.");
  }
  if (IsA(from, RangeSubselect))
    refuse(text, exprLocation(from), "a sub-select", "Name the table of the raw rows in FROM.");
  if (IsA(from, RangeTableSample))
    refuse(text, exprLocation(from), "TABLESAMPLE", "Name the table of the raw rows in FROM.");
  if (!IsA(from, RangeVar))
    refuse(text, exprLocation(from), "anything but a table in FROM",
           "Name the table of the raw rows in FROM.");
  if (!castNode(RangeVar, from)->inh)
    refuse(text, exprLocation(from), "ONLY", "Name the table without ONLY: its partitions belong to it.");
}

struct Found {
  NodeTag tag;
  int location;
  bool found;
};

bool find_tag(Node* node, void* context) {
  if (node == nullptr) return false;
  auto* found = static_cast<Found*>(context);
  if (nodeTag(node) == found->tag) {
    found->found = true;
    found->location = exprLocation(node);
    return true;
  }
  return TICK_WALK(node, find_tag, context);
}

int location_of(const Query* query, NodeTag tag) {
  Found found{tag, -1, false};
  if (!find_tag(reinterpret_cast<Node*>(query->targetList), &found)) find_tag(query->jointree->quals, &found);
  return found.location;
}

bool find_set_returning(Node* node, void* context) {
  if (node == nullptr) return false;
  if ((IsA(node, FuncExpr) && reinterpret_cast<FuncExpr*>(node)->funcretset) ||
      (IsA(node, OpExpr) && reinterpret_cast<OpExpr*>(node)->opretset)) {
    *static_cast<int*>(context) = exprLocation(node);
    return true;
  }
  return TICK_WALK(node, find_set_returning, context);
}

struct Mutable {
  Oid function;
  int location;
  bool value_function;
};

bool is_mutable(Oid function, void* context) {
  if (func_volatile(function) == PROVOLATILE_IMMUTABLE) return false;
  static_cast<Mutable*>(context)->function = function;
  return true;
}

bool find_mutable(Node* node, void* context) {
  if (node == nullptr) return false;
  auto* found = static_cast<Mutable*>(context);
  if (IsA(node, SQLValueFunction) || IsA(node, NextValueExpr)) {
    found->value_function = true;
    found->location = exprLocation(node);
    return true;
  }
  if (check_functions_in_node(node, is_mutable, context)) {
    found->location = exprLocation(node);
    return true;
  }
  return TICK_WALK(node, find_mutable, context);
}

bool takes_time(Oid function) {
  Oid* types;
  int count;
  (void)get_func_signature(function, &types, &count);
  bool result = false;
  for (int i = 0; i < count; ++i)
    result = result || types[i] == TIMESTAMPTZOID || types[i] == TIMESTAMPOID || types[i] == DATEOID;
  return result;
}

void check_relation_kind(Oid source, const char* name, const char* text, int location) {
  const char relkind = get_rel_relkind(source);
  const char* kind = nullptr;
  const char* hint = "Roll up the table that holds the raw rows.";
  switch (relkind) {
    case RELKIND_RELATION:
    case RELKIND_PARTITIONED_TABLE:
      break;
    case RELKIND_VIEW:
      kind = "view";
      break;
    case RELKIND_MATVIEW:
      kind = "materialized view";
      break;
    case RELKIND_FOREIGN_TABLE:
      kind = "foreign table";
      hint = "Copy its rows into an ordinary table and roll up that one.";
      break;
    default:
      kind = "relation of another kind than a table";
  }
  if (kind != nullptr)
    ereport(ERROR,
            (errcode(ERRCODE_WRONG_OBJECT_TYPE), errmsg("cannot roll up \"%s\": it is a %s", name, kind),
             errhint("%s", hint), at(text, location)));
  const char persistence = get_rel_persistence(source);
  if (persistence != RELPERSISTENCE_PERMANENT)
    ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
                    errmsg("cannot roll up \"%s\": it is %s table", name,
                           persistence == RELPERSISTENCE_TEMP ? "a temporary" : "an unlogged"),
                    errdetail("Its rows would not survive what the rollup survives."),
                    errhint("Use a permanent, logged table."), at(text, location)));
  const Oid schema = get_rel_namespace(source);
  if (IsCatalogRelationOid(source) || schema == PG_CATALOG_NAMESPACE || schema == catalog_namespace(false) ||
      strcmp(get_namespace_name(schema), "information_schema") == 0)
    ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
                    errmsg("cannot roll up \"%s\": it is a system catalog", name), errhint("%s", hint),
                    at(text, location)));
}

void check_inheritance(Oid source, const char* name, const char* text, int location) {
  Relation relation = table_open(source, NoLock);
  const bool partition = relation->rd_rel->relispartition;
  const bool security = relation->rd_rel->relrowsecurity;
  const bool partitioned = relation->rd_rel->relkind == RELKIND_PARTITIONED_TABLE;
  table_close(relation, NoLock);
  if (partition)
    ereport(ERROR,
            (errcode(ERRCODE_WRONG_OBJECT_TYPE), errmsg("cannot roll up \"%s\": it is a partition", name),
             errhint("Roll up the partitioned table it belongs to."), at(text, location)));
  if (!partitioned && (has_subclass(source) || has_superclass(source)))
    ereport(ERROR,
            (errcode(ERRCODE_WRONG_OBJECT_TYPE),
             errmsg("cannot roll up \"%s\": it takes part in table inheritance", name),
             errhint("Use declarative partitioning, or a table without INHERITS."), at(text, location)));
  if (security)
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("cannot roll up \"%s\": it has row-level security", name),
                    errdetail("The rollup would show every reader what the policies hide."),
                    errhint("Disable row security on the table, or roll up a table without policies."),
                    at(text, location)));
  ListCell* cell;
  foreach (cell, find_all_inheritors(source, NoLock, nullptr)) {
    if (lfirst_oid(cell) != source)
      check_relation_kind(lfirst_oid(cell), get_rel_name(lfirst_oid(cell)), text, location);
  }
}

void check_not_ours(Oid source, const char* name, const char* text, int location) {
  Oid types[] = {OIDOID};
  Datum values[] = {ObjectIdGetDatum(source)};
  const Actor caller = act_as_extension();
  open_catalogs();
  SPI_execute_with_args("SELECT FROM tick_catalog.rollup WHERE $1 IN (state, view)", 1, types, values,
                        nullptr, true, 1);
  const bool ours = SPI_processed > 0;
  close_catalogs();
  act_again(caller);
  if (ours)
    ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
                    errmsg("cannot roll up \"%s\": it belongs to a rollup", name),
                    errhint("Roll up the table that holds the raw rows, or the rollup's own view."),
                    at(text, location)));
}

}  // namespace

void enter_query(QueryContext* context, const char* text) {
  context->text = text;
  context->callback.callback = move_position;
  context->callback.arg = const_cast<char*>(text);
  context->callback.previous = error_context_stack;
  error_context_stack = &context->callback;
}

void leave_query(QueryContext* context) {
  error_context_stack = context->callback.previous;
}

int at(const char* text, int location) {
  return location < 0 ? 0 : errposition(pg_mbstrlen_with_len(text, location) + 1);
}

RawStmt* parse_select(const char* text) {
  List* statements = raw_parser(text, RAW_PARSE_DEFAULT);
  if (list_length(statements) != 1)
    ereport(ERROR, (errcode(ERRCODE_SYNTAX_ERROR), errmsg("a rollup is defined by exactly one SELECT"),
                    errhint("Create one rollup for each SELECT.")));
  RawStmt* statement = linitial_node(RawStmt, statements);
  if (!IsA(statement->stmt, SelectStmt))
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("a rollup is defined by a SELECT"),
                    errhint("Write SELECT ... FROM table WHERE ... GROUP BY ....")));
  const SelectStmt* select = castNode(SelectStmt, statement->stmt);
  check_clauses(select, text);
  check_from(select, text);
  return statement;
}

RangeVar* source_name(const RawStmt* statement) {
  return linitial_node(RangeVar, castNode(SelectStmt, statement->stmt)->fromClause);
}

void check_source(Oid source, const RangeVar* name, const char* text) {
  check_relation_kind(source, name->relname, text, name->location);
  check_inheritance(source, name->relname, text, name->location);
  check_not_ours(source, name->relname, text, name->location);
  const AclMode needed[] = {ACL_SELECT, ACL_TRIGGER};
  for (AclMode mode : needed) {
    if (pg_class_aclcheck(source, GetUserId(), mode) == ACLCHECK_OK) continue;
    const char* right = mode == ACL_SELECT ? "SELECT" : "TRIGGER";
    ereport(ERROR,
            (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("permission denied for table %s", name->relname),
             errdetail("A rollup needs the %s right on its source.", right),
             errhint("GRANT %s ON %s TO %s.", right, relation_text(source),
                     quote_identifier(GetUserNameFromId(GetUserId(), false))),
             at(text, name->location)));
  }
}

void check_query(const Query* query, const char* text) {
  const char* on_view = "Compute it when you read the rollup.";
  if (query->hasSubLinks)
    refuse(text, location_of(query, T_SubLink), "sub-selects",
           "Join the rollup with the other table when you read it.");
  if (query->hasWindowFuncs) refuse(text, location_of(query, T_WindowFunc), "window functions", on_view);
  if (query->groupingSets != NIL)
    refuse(text, exprLocation(static_cast<Node*>(linitial(query->groupingSets))), "grouping sets",
           "Create one rollup for each grouping.");
  if (query->hasTargetSRFs) {
    int location = -1;
    ListCell* cell;
    foreach (cell, query->targetList) {
      const auto* entry = lfirst_node(TargetEntry, cell);
      Node* node = reinterpret_cast<Node*>(entry->expr);
      // The window itself may be one, nothing within it.
      if (entry->ressortgroupref != 0 && is_window(node))
        node = reinterpret_cast<Node*>(reinterpret_cast<FuncExpr*>(node)->args);
      if (find_set_returning(node, &location)) refuse(text, location, "set-returning functions", on_view);
    }
  }
  if (!query->hasAggs && query->groupClause == NIL)
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("a rollup needs GROUP BY or an aggregate"),
                    errhint("Name the keys in GROUP BY, or use an aggregate such as count(*).")));
}

void check_immutable(Node* node, const char* text) {
  Mutable found{InvalidOid, -1, false};
  if (!find_mutable(node, &found)) {
    if (!contain_mutable_functions(node)) return;
    found.value_function = true;
  }
  if (found.value_function)
    ereport(ERROR, (errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
                    errmsg("an expression of the rollup is not immutable"),
                    errdetail("Its result depends on when, or in which session, it is computed."),
                    errhint("Use values of the row only."), at(text, found.location)));
  const bool is_volatile = func_volatile(found.function) == PROVOLATILE_VOLATILE;
  const char* hint = is_volatile ? "Use values of the row, and IMMUTABLE functions of them, only."
                     : takes_time(found.function) ? "Use tick.tumble(ts, size) for windows, (ts AT TIME ZONE "
                                                    "'UTC') before casts, date_trunc or to_char, and "
                                                    "day::timestamp for dates."
                                                  : "Use IMMUTABLE functions only.";
  ereport(
      ERROR,
      (errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
       errmsg("function %s in the rollup's query is %s, not IMMUTABLE", format_procedure(found.function),
              is_volatile ? "VOLATILE" : "STABLE"),
       is_volatile ? errdetail("Its result changes from call to call.")
                   : errdetail("Its result depends on settings of the session, so the writer and the worker "
                               "would disagree."),
       errhint("%s", hint), at(text, found.location)));
}

}  // namespace tick::pg
