// From an analysed query to keys, window and items (define.hpp), refusing what cannot be kept. PostgreSQL
// only; core calls are made where nothing non-trivial is alive.
#include "define.hpp"
#include "session.hpp"
#include "values.hpp"

namespace tick::pg {
namespace {

List* outputs(const Query* query) {
  List* result = NIL;
  ListCell* cell;
  foreach (cell, query->targetList) {
    if (!lfirst_node(TargetEntry, cell)->resjunk) result = lappend(result, lfirst(cell));
  }
  return result;
}

int place(TargetEntry* entry) {
  return exprLocation(reinterpret_cast<Node*>(entry->expr));
}

void check_names(const Definition* def) {
  const char* reserved[] = {"window_end", "final",        "revision",  "updated_at",
                            "tick_stale", "tick_touched", "tick_shown"};
  List* seen = NIL;
  ListCell* cell;
  foreach (cell, outputs(def->query)) {
    auto* entry = lfirst_node(TargetEntry, cell);
    const char* name = entry->resname;
    for (const char* taken : reserved) {
      if (strcmp(name, taken) == 0)
        ereport(ERROR, (errcode(ERRCODE_RESERVED_NAME),
                        errmsg("output column \"%s\" has the name of a column that every rollup gets", name),
                        errhint("Give it another name with AS."), at(def->text, place(entry))));
    }
    if (strcmp(name, "?column?") == 0)
      ereport(ERROR, (errcode(ERRCODE_INVALID_COLUMN_DEFINITION), errmsg("an output column has no name"),
                      errhint("Name it with AS."), at(def->text, place(entry))));
    ListCell* other;
    foreach (other, seen) {
      if (strcmp(static_cast<char*>(lfirst(other)), name) == 0)
        ereport(ERROR, (errcode(ERRCODE_DUPLICATE_COLUMN), errmsg("output column \"%s\" appears twice", name),
                        errhint("Give one of them another name with AS."), at(def->text, place(entry))));
    }
    seen = lappend(seen, entry->resname);
  }
}

struct WindowOver {
  Node* time;
  Node* found;
};

bool find_window_over(Node* node, void* context) {
  if (node == nullptr) return false;
  auto* search = static_cast<WindowOver*>(context);
  if (is_window(node) && equal(linitial(window_arguments(node)), search->time)) {
    search->found = node;
    return true;
  }
  return TICK_WALK(node, find_window_over, context);
}

// GROUP BY prefers an input column's name to an output column's: the query then says something else than it
// seems.
void check_shadow(const Definition* def, const TargetEntry* entry) {
  Node* expr = reinterpret_cast<Node*>(entry->expr);
  if (!IsA(expr, Var)) return;
  const char* column_name = get_attname(relation_read(def), reinterpret_cast<Var*>(expr)->varattno, false);
  ListCell* cell;
  foreach (cell, outputs(def->query)) {
    auto* other = lfirst_node(TargetEntry, cell);
    if (equal(other->expr, expr)) continue;
    WindowOver search{expr, nullptr};
    const bool same_name = entry->resjunk && strcmp(other->resname, column_name) == 0;
    if (other->ressortgroupref == 0) find_window_over(reinterpret_cast<Node*>(other->expr), &search);
    if (!same_name && search.found == nullptr) continue;
    ereport(ERROR, (errcode(ERRCODE_AMBIGUOUS_COLUMN),
                    errmsg("GROUP BY \"%s\" means the input column, not the output column \"%s\"",
                           column_name, other->resname),
                    errhint("Group by position, as in GROUP BY 1, 2."), at(def->text, exprLocation(expr))));
  }
}

bool is_users_function(Oid function, void*) {
  return function >= FirstNormalObjectId;
}

bool calls_user(Node* node, void* context) {
  if (node == nullptr) return false;
  return check_functions_in_node(node, is_users_function, context) || TICK_WALK(node, calls_user, context);
}

// Folded once, when the rollup is created; from then on the catalog has it. No user's function has a say: it
// could answer otherwise tomorrow.
Datum constant(const Definition* def, Node* given, const char* what) {
  Node* value = calls_user(given, nullptr) ? given : eval_const_expressions(nullptr, given);
  if (!IsA(value, Const) || reinterpret_cast<Const*>(value)->constisnull)
    ereport(ERROR,
            (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("the %s of a window must be a constant", what),
             errhint("Write it as in tick.tumble(ts, '1 minute')."), at(def->text, exprLocation(given))));
  return reinterpret_cast<Const*>(value)->constvalue;
}

// What a window's call says beside the time.
void take_arguments(Definition* def, List* arguments) {
  def->size = DatumGetIntervalP(constant(def, static_cast<Node*>(lsecond(arguments)), "size"));
  for (int i = 2; i < list_length(arguments); ++i) {
    Node* argument = static_cast<Node*>(list_nth(arguments, i));
    switch (exprType(argument)) {
      case INTERVALOID:
        def->slide = DatumGetIntervalP(constant(def, argument, def->grows ? "step" : "slide"));
        break;
      case TEXTOID:
        def->zone = TextDatumGetCString(constant(def, argument, "time zone"));
        break;
      default:
        def->origin = static_cast<TimestampTz*>(palloc(sizeof(TimestampTz)));
        *def->origin = DatumGetTimestampTz(constant(def, argument, "origin"));
    }
  }
}

// Makes the window of them; `reason` becomes why it cannot be kept, or stays empty.
void make_window(Definition* def, char* reason, size_t room) {
  try {
    def->window_size = window_size(def->size, def->slide, def->grows);
    if (def->zone != nullptr) def->window_size.zone = find_zone(def->zone);
    if (def->origin != nullptr && TIMESTAMP_NOT_FINITE(*def->origin))
      strlcpy(reason, "the origin of a window must be finite", room);
    else if (def->origin != nullptr)
      def->window_size.begin_at(*def->origin);
    if (reason[0] == '\0') strlcpy(reason, def->window_size.validate().c_str(), room);
  } catch (const Error& error) {
    strlcpy(reason, error.what(), room);
  }
}

// What to write instead of a window that cannot be kept.
const char* window_hint(const Definition* def, const char* reason) {
  if (strncmp(reason, "time zone", strlen("time zone")) == 0)
    return "pg_timezone_names lists the time zones, such as 'America/New_York'.";
  if (def->grows)
    return "Write it as in tick.cumulate(ts, '1 day', '1 hour'): the step divides the size, the size the "
           "day.";
  if (def->slide != nullptr)
    return "Write it as in tick.hop(ts, '5 minutes', '1 minute'): the slide divides the size and the day.";
  return "Use a size such as '10 seconds', '1 minute', '1 hour', '1 day' or '1 month'.";
}

void take_window(Definition* def, Node* node) {
  if (def->window != nullptr) {
    if (equal(def->window, node)) return;
    ereport(ERROR,
            (errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("a rollup cannot have more than one window"),
             errhint("Create one rollup for each window."), at(def->text, exprLocation(node))));
  }
  List* arguments = window_arguments(node);
  def->window = node;
  if (def->id == 0) {
    def->grows = is_tick_function(reinterpret_cast<FuncExpr*>(node)->funcid, "cumulate");
    take_arguments(def, arguments);
  }
  char reason[256] = "";
  make_window(def, reason, sizeof reason);
  if (def->slide != nullptr) {  // in the catalog both are times, a day is 24 hours
    def->size = static_cast<Interval*>(palloc0(sizeof(Interval)));
    def->size->time = def->grows ? def->window_size.grows : def->window_size.micros;
    def->slide = static_cast<Interval*>(palloc0(sizeof(Interval)));
    def->slide->time = def->grows ? def->window_size.micros : def->window_size.slide;
  }
  if (reason[0] != '\0')
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("%s", reason),
                    errhint("%s", window_hint(def, reason)),
                    at(def->text, exprLocation(static_cast<Node*>(lsecond(arguments))))));
  if (windows_of_time(def->window_size) > max_windows_of_time)
    ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
                    errmsg("a time would be in %lld windows, a rollup keeps at most %lld",
                           static_cast<long long>(windows_of_time(def->window_size)),
                           static_cast<long long>(max_windows_of_time)),
                    errhint("Make the %s longer, or sum up windows of a shorter rollup when you read it.",
                            def->grows ? "step" : "slide"),
                    at(def->text, exprLocation(static_cast<Node*>(lsecond(arguments))))));
  def->time = add_input(def, static_cast<Node*>(linitial(arguments)));
}

// A key on its way: its expression and its canonical text, by which the keys of a group are ordered.
struct Key {
  TargetEntry* entry;
  char* text;
};

int by_text(const ListCell* a, const ListCell* b) {
  return strcmp(static_cast<Key*>(lfirst(a))->text, static_cast<Key*>(lfirst(b))->text);
}

void add_key_columns(Definition* def, List* keys) {
  List* asked = list_copy(keys);
  list_sort(keys, by_text);
  ListCell* cell;
  foreach (cell, keys) {
    const auto* key = static_cast<Key*>(lfirst(cell));
    Node* expr = reinterpret_cast<Node*>(key->entry->expr);
    auto* added = static_cast<StateColumn*>(palloc0(sizeof(StateColumn)));
    added->name = key->entry->resname;
    added->typmod = exprTypmod(expr);
    added->type = getBaseTypeAndTypmod(exprType(expr), &added->typmod);
    added->collation = type_is_collatable(added->type) ? C_COLLATION_OID : InvalidOid;
    def->columns = lappend(def->columns, added);
    def->keys = lappend_int(def->keys, add_input(def, expr));
  }
  foreach (cell, asked) {
    ListCell* sorted;
    foreach (sorted, keys) {
      if (lfirst(sorted) == lfirst(cell))
        def->key_order = lappend_int(def->key_order, foreach_current_index(sorted));
    }
  }
}

void check_key_name(const Definition* def, TargetEntry* entry) {
  if (SystemAttributeByName(entry->resname) != nullptr)
    ereport(ERROR, (errcode(ERRCODE_RESERVED_NAME),
                    errmsg("output column \"%s\" has the name of a system column", entry->resname),
                    errhint("Give it another name with AS."), at(def->text, place(entry))));
}

// Sorts the GROUP BY list into keys and window.
void take_grouping(Definition* def) {
  List* keys = NIL;
  TargetEntry* window = nullptr;
  ListCell* cell;
  foreach (cell, def->query->groupClause) {
    auto* entry = get_sortgroupclause_tle(lfirst_node(SortGroupClause, cell), def->query->targetList);
    Node* expr = reinterpret_cast<Node*>(entry->expr);
    check_shadow(def, entry);
    if (entry->resjunk)
      ereport(ERROR,
              (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
               errmsg("an expression in GROUP BY is not among the output columns"),
               errhint("Add it to the SELECT list: its name is needed to keep the rollup's rows apart."),
               at(def->text, exprLocation(expr))));
    check_key_name(def, entry);
    if (is_window(expr)) {
      take_window(def, expr);
      if (window == nullptr) window = entry;
      continue;
    }
    check_type(expr, true, def->text, exprLocation(expr));
    bool known = false;
    ListCell* other;
    foreach (other, keys) known = known || equal(static_cast<Key*>(lfirst(other))->entry->expr, expr);
    if (known) continue;
    auto* key = static_cast<Key*>(palloc(sizeof(Key)));
    key->entry = entry;
    key->text = nodeToString(stringToNode(nodeToString(expr)));
    keys = lappend(keys, key);
  }
  add_key_columns(def, keys);
  if (window != nullptr) {
    auto* added = static_cast<StateColumn*>(palloc0(sizeof(StateColumn)));
    added->name = window->resname;
    added->type = exprType(def->window);
    added->typmod = -1;
    def->columns = lappend(def->columns, added);
  }
}

bool check_variables(Node* node, void* context) {
  if (node == nullptr) return false;
  const auto* def = static_cast<Definition*>(context);
  if (IsA(node, Var) && reinterpret_cast<Var*>(node)->varattno <= 0)
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("a rollup cannot read system columns or whole rows"),
                    errhint("Name the columns that it needs."), at(def->text, exprLocation(node))));
  if (IsA(node, GroupingFunc))
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("a rollup cannot have GROUPING"),
                    errhint("Create one rollup for each grouping."), at(def->text, exprLocation(node))));
  return TICK_WALK(node, check_variables, context);
}

struct Output {
  Definition* def;
  const char* name;
};

// Adds the items of the aggregates in an output, and refuses what is neither aggregated nor grouped.
bool take_aggregates(Node* node, void* context) {
  if (node == nullptr) return false;
  const auto* output = static_cast<Output*>(context);
  if (is_grouped(output->def, node)) return false;
  if (IsA(node, Aggref)) {
    const auto* aggregate = reinterpret_cast<Aggref*>(node);
    if (!output->def->computed)
      add_items(output->def, aggregate, output->name, false);
    else if (output->def->id == 0)  // a definition that stands is not judged again
      check_computed(output->def, aggregate);
    return false;
  }
  if (IsA(node, Var))
    ereport(ERROR,
            (errcode(ERRCODE_GROUPING_ERROR),
             errmsg("column \"%s\" is neither grouped nor aggregated",
                    get_attname(relation_read(output->def), reinterpret_cast<Var*>(node)->varattno, false)),
             errhint("Add it to GROUP BY, or aggregate it, for instance with tick.last(value, ts)."),
             at(output->def->text, exprLocation(node))));
  return TICK_WALK(node, take_aggregates, context);
}

bool is_aggregate(const TargetEntry* entry) {
  return IsA(entry->expr, Aggref);
}

void take_output(Definition* def, const TargetEntry* entry) {
  if (is_aggregate(entry))
    return add_items(def, reinterpret_cast<Aggref*>(entry->expr), entry->resname, true);
  Output output{def, entry->resname};
  take_aggregates(reinterpret_cast<Node*>(entry->expr), &output);
}

bool find_unfoldable(Node* node, void* context) {
  if (node == nullptr) return false;
  if (IsA(node, Aggref) && !is_foldable(reinterpret_cast<Aggref*>(node))) {
    *static_cast<int*>(context) = exprLocation(node);
    return true;
  }
  return TICK_WALK(node, find_unfoldable, context);
}

// Of a rollup that is recomputed, or has a parent, every output but keys and window is a column of the state.
// What the rows give to the fold are counts: which keys and windows they touch.
void take_values(Definition* def) {
  const bool follows = OidIsValid(def->parent);  // nothing is folded
  if (!follows) add_row_count(def, nullptr);
  List* read = NIL;
  ListCell* cell;
  foreach (cell, outputs(def->query)) {
    const auto* entry = lfirst_node(TargetEntry, cell);
    Node* expr = reinterpret_cast<Node*>(entry->expr);
    if (is_grouped(def, expr)) continue;
    Output output{def, entry->resname};
    take_aggregates(expr, &output);
    read = list_concat_unique(read, pull_var_clause(expr, PVC_RECURSE_AGGREGATES));
    auto* added = static_cast<StateColumn*>(palloc0(sizeof(StateColumn)));
    added->name = free_name(def, entry->resname, nullptr);
    added->type = exprType(expr);
    added->typmod = exprTypmod(expr);
    added->collation = exprCollation(expr);
    def->values = lappend(def->values, added);
  }
  if (!follows) add_reading(def, read);
}

// State columns are named after the first output that needs them, aggregates by themselves first. What was
// added later does not change the names of those that were there.
void take_items(Definition* def) {
  List* all = outputs(def->query);
  List* original = def->original == 0 ? all : list_truncate(list_copy(all), def->original);
  const char* row_count = nullptr;
  ListCell* cell;
  foreach (cell, original) {
    const auto* entry = lfirst_node(TargetEntry, cell);
    if (!is_aggregate(entry) || row_count != nullptr) continue;
    const auto* aggregate = reinterpret_cast<Aggref*>(entry->expr);
    if (aggregate->aggstar && aggregate->aggfilter == nullptr && family(aggregate->aggfnoid) == Family::count)
      row_count = entry->resname;
  }
  add_row_count(def, row_count);
  for (const bool aggregates : {true, false}) {
    foreach (cell, original)
      if (is_aggregate(lfirst_node(TargetEntry, cell)) == aggregates)
        take_output(def, lfirst_node(TargetEntry, cell));
  }
  for (int i = list_length(original); i < list_length(all); ++i)
    take_output(def, static_cast<TargetEntry*>(list_nth(all, i)));
}

}  // namespace

bool is_grouped(const Definition* def, Node* node) {
  if (def->window != nullptr && equal(node, def->window)) return true;
  ListCell* cell;
  foreach (cell, def->keys) {
    if (equal(node, input(def, lfirst_int(cell)))) return true;
  }
  return false;
}

bool is_window(const Node* node) {
  if (!IsA(node, FuncExpr)) return false;
  const Oid function = reinterpret_cast<const FuncExpr*>(node)->funcid;
  return is_tick_function(function, "tumble") || is_tick_function(function, "hop") ||
         is_tick_function(function, "cumulate");
}

List* window_arguments(const Node* window) {
  List* given = reinterpret_cast<const FuncExpr*>(window)->args;
  List* result = NIL;
  for (int i = 0; i < list_length(given); ++i) {
    ListCell* cell;
    foreach (cell, given) {
      Node* argument = static_cast<Node*>(lfirst(cell));
      const auto* named = IsA(argument, NamedArgExpr) ? reinterpret_cast<NamedArgExpr*>(argument) : nullptr;
      if ((named == nullptr ? foreach_current_index(cell) : named->argnumber) == i)
        result = lappend(result, named == nullptr ? argument : reinterpret_cast<Node*>(named->arg));
    }
  }
  return result;
}

void analyse(Definition* def) {
  TICK_UNGROUP(def->query);
  check_query(def->query, def->text);
  check_variables(reinterpret_cast<Node*>(def->query->targetList), def);
  check_variables(def->query->jointree->quals, def);
  check_names(def);
  def->time = def->where = -1;
  take_grouping(def);
  if (def->id == 0) {  // a definition that stands is not judged again
    check_immutable(reinterpret_cast<Node*>(def->query->targetList), def->text);
    check_immutable(def->query->jointree->quals, def->text);
  }
  if (def->query->jointree->quals != nullptr) def->where = add_input(def, def->query->jointree->quals);
  int location = -1;
  def->computed = find_unfoldable(reinterpret_cast<Node*>(def->query->targetList), &location);
  if (OidIsValid(def->parent)) {
    if (def->id == 0) check_following(def);
    def->computed = true;
  }
  if (def->computed && !grouped(def))
    ereport(ERROR,
            (errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("a rollup that is recomputed needs GROUP BY"),
             errdetail("Rows cannot be added to this aggregate one by one: with each of them all would "
                       "be read again."),
             errhint("Group by a window, as in tick.tumble(ts, '1 minute')."), at(def->text, location)));
  if (def->computed)
    take_values(def);
  else
    take_items(def);
  if (!grouped(def)) def->unit = free_name(def, "tick", "all");
}

}  // namespace tick::pg
