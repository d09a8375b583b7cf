// Which partials an aggregate needs, the state columns that hold them, and the expression that finishes them
// with the very type and value of the aggregate. PostgreSQL only.
#include "define.hpp"
#include "session.hpp"
#include "values.hpp"

namespace tick::pg {
namespace {

struct Named {
  const char* name;
  Family family;
};

constexpr Named built_in[] = {
    {"count", Family::count},
    {"sum", Family::sum},
    {"avg", Family::avg},
    {"min", Family::min},
    {"max", Family::max},
    {"variance", Family::var_samp},
    {"var_samp", Family::var_samp},
    {"var_pop", Family::var_pop},
    {"stddev", Family::stddev_samp},
    {"stddev_samp", Family::stddev_samp},
    {"stddev_pop", Family::stddev_pop},
};

bool has_image_equality(Oid type, Oid collation) {
  const Oid opclass = GetDefaultOpClass(type, BTREE_AM_OID);
  if (!OidIsValid(opclass)) return false;
  const Oid of = get_opclass_input_type(opclass);
  const Oid function = get_opfamily_proc(get_opclass_family(opclass), of, of, BTEQUALIMAGE_PROC);
  return OidIsValid(function) &&
         DatumGetBool(OidFunctionCall1Coll(function, collation, ObjectIdGetDatum(of)));
}

bool is_opaque(Type type) {
  return type == Type::bytes || type == Type::word;
}

bool can_be_added(Type type) {
  return is_integer(type) || is_float(type) || type == Type::numeric;
}

bool can_be_ordered(Type type) {
  return !is_opaque(type) && type != Type::boolean;
}

Type type_of(Node* expr) {
  return value_type(exprType(expr)).type;
}

Node* argument(const Aggref* aggregate, int n) {
  return reinterpret_cast<Node*>(static_cast<TargetEntry*>(list_nth(aggregate->args, n))->expr);
}

[[noreturn]] void refuse(const Definition* def, const Aggref* aggregate, const char* what, const char* hint) {
  ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                  errmsg("a rollup cannot keep %s %s", get_func_name(aggregate->aggfnoid), what),
                  errhint("%s", hint), at(def->text, aggregate->location)));
}

bool is_ordered(Family which) {
  return which == Family::first || which == Family::last;
}

// True if the core can hold argument `n` of an aggregate of that family.
bool can_be_folded(const Aggref* aggregate, int n, Family which) {
  const Type type = type_of(argument(aggregate, n));
  if (is_ordered(which)) return n == 0 || can_be_ordered(type);
  return which == Family::min || which == Family::max ? can_be_ordered(type) : can_be_added(type);
}

void check_aggregate(const Definition* def, const Aggref* aggregate, Family which) {
  const bool ordered = is_ordered(which);
  if (ordered && (aggregate->aggdistinct != NIL || aggregate->aggorder != NIL))
    refuse(def, aggregate, "with DISTINCT or ORDER BY",
           "Its second argument is the order, its third one decides between equal ones.");
  if (ordered && list_length(aggregate->args) < 2)
    refuse(def, aggregate, "without an order",
           "Write tick.first(value, ts) or tick.last(value, ts), with a sequence number as third argument "
           "for ties.");
  for (int i = 0; i < list_length(aggregate->args); ++i) {
    Node* expr = argument(aggregate, i);
    if (which == Family::count) return;
    if (type_is_collatable(exprType(expr)) && !OidIsValid(aggregate->inputcollid))
      refuse(def, aggregate, "of arguments with different collations",
             "Give them one collation with COLLATE.");
    if (type_is_collatable(exprType(expr)) && !get_collation_isdeterministic(aggregate->inputcollid))
      refuse(def, aggregate, "over a nondeterministic collation",
             "Give its argument a deterministic collation, as in COLLATE \"C\".");
    if (!can_be_folded(aggregate, i, which))
      refuse(def, aggregate, psprintf("of type %s", format_type_be(exprType(expr))),
             "Order by a time or a number.");
    if (ordered && i == 0) check_type(expr, false, def->text, aggregate->location);
  }
}

int find_item(const Definition* def, const DefinedItem* wanted) {
  ListCell* cell;
  foreach (cell, def->items) {
    const auto* known = static_cast<DefinedItem*>(lfirst(cell));
    if (known->kind == wanted->kind && known->value == wanted->value && known->order == wanted->order &&
        known->seq == wanted->seq && known->filter == wanted->filter)
      return foreach_current_index(cell);
  }
  return -1;
}

void add_column(Definition* def, const char* name, Oid type, Oid collation) {
  auto* added = static_cast<StateColumn*>(palloc0(sizeof(StateColumn)));
  added->name = name;
  added->type = type;
  added->typmod = -1;
  added->collation = collation;
  def->columns = lappend(def->columns, added);
}

void add_value_column(Definition* def, const char* name, int of) {
  Node* expr = input(def, of);
  add_column(def, name, getBaseType(exprType(expr)), exprCollation(expr));
}

Oid sum_type(Type type, ItemKind kind) {
  if (is_float(type)) return exact_sum_type();
  return kind == ItemKind::sum && (type == Type::int2 || type == Type::int4) ? INT8OID : NUMERICOID;
}

// Returns the index of an equal item, adding it with its columns if there is none.
int add_item(Definition* def, DefinedItem wanted, const char* output, const char* what) {
  const int known = find_item(def, &wanted);
  if (known >= 0) return known;
  auto* added = static_cast<DefinedItem*>(palloc(sizeof(DefinedItem)));
  *added = wanted;
  added->column = list_length(def->columns);
  const char* name = free_name(def, output, what);
  switch (wanted.kind) {
    case ItemKind::count:
      add_column(def, name, INT8OID, InvalidOid);
      break;
    case ItemKind::sum:
    case ItemKind::sum_sq:
      add_column(def, name, sum_type(type_of(input(def, wanted.value)), wanted.kind), InvalidOid);
      break;
    case ItemKind::min:
    case ItemKind::max:
      add_value_column(def, name, wanted.value);
      break;
    case ItemKind::first:
    case ItemKind::last:
      add_value_column(def, name, wanted.value);
      add_value_column(def, free_name(def, name, "order"), wanted.order);
      if (wanted.seq >= 0) add_value_column(def, free_name(def, name, "seq"), wanted.seq);
      break;
  }
  added->width = list_length(def->columns) - added->column;
  added->partial = column(def, added->column)->type;
  def->items = lappend(def->items, added);
  return list_length(def->items) - 1;
}

// An argument as an input, in the collation the aggregate works in.
int add_argument(Definition* def, const Aggref* aggregate, int n) {
  if (n >= list_length(aggregate->args)) return -1;
  Node* expr = argument(aggregate, n);
  if (type_is_collatable(exprType(expr)) && exprCollation(expr) != aggregate->inputcollid)
    expr = reinterpret_cast<Node*>(makeRelabelType(reinterpret_cast<Expr*>(expr), exprType(expr),
                                                   exprTypmod(expr), aggregate->inputcollid,
                                                   COERCE_IMPLICIT_CAST));
  return add_input(def, expr);
}

// count(x) of a type that the core cannot hold: x IS NOT NULL becomes part of the filter.
int add_presence(Definition* def, const Aggref* aggregate) {
  NullTest* test = makeNode(NullTest);
  test->arg = reinterpret_cast<Expr*>(argument(aggregate, 0));
  test->nulltesttype = IS_NOT_NULL;
  test->argisrow = false;
  test->location = -1;
  Node* present = reinterpret_cast<Node*>(test);
  if (aggregate->aggfilter != nullptr)
    present = reinterpret_cast<Node*>(
        makeBoolExpr(AND_EXPR, list_make2(copyObjectImpl(aggregate->aggfilter), present), -1));
  return add_input(def, present);
}

// The items of one aggregate: indexes, -1 where it needs none.
struct Parts {
  int count;
  int sum;
  int squares;
  int extreme;
};

Parts take_parts(Definition* def, const Aggref* aggregate, const char* output, bool direct) {
  const Family which = family(aggregate->aggfnoid);
  check_aggregate(def, aggregate, which);
  Parts parts{-1, -1, -1, -1};
  int filter =
      aggregate->aggfilter == nullptr ? -1 : add_input(def, reinterpret_cast<Node*>(aggregate->aggfilter));
  auto named = [&](const char* what, bool is_output) { return direct && is_output ? nullptr : what; };
  if (which == Family::count) {
    int value = -1;
    if (!aggregate->aggstar && aggregate->args != NIL) {
      if (!is_opaque(type_of(argument(aggregate, 0))))
        value = add_argument(def, aggregate, 0);
      else
        filter = add_presence(def, aggregate);
    }
    parts.count =
        add_item(def, {ItemKind::count, value, -1, -1, filter, 0, 0, 0}, output, named("count", true));
    return parts;
  }
  const int value = add_argument(def, aggregate, 0);
  if (which == Family::min || which == Family::max || which == Family::first || which == Family::last) {
    const ItemKind kind = which == Family::min     ? ItemKind::min
                          : which == Family::max   ? ItemKind::max
                          : which == Family::first ? ItemKind::first
                                                   : ItemKind::last;
    const int order = add_argument(def, aggregate, 1);
    const int seq = add_argument(def, aggregate, 2);
    parts.extreme = add_item(def, {kind, value, order, seq, filter, 0, 0, 0}, output,
                             named(get_func_name(aggregate->aggfnoid), true));
    return parts;
  }
  const bool plain_sum = which == Family::sum;
  parts.sum = add_item(def, {ItemKind::sum, value, -1, -1, filter, 0, 0, 0}, output, named("sum", plain_sum));
  if (!plain_sum && which != Family::avg)
    parts.squares = add_item(def, {ItemKind::sum_sq, value, -1, -1, filter, 0, 0, 0}, output, "sum_sq");
  parts.count = add_item(def, {ItemKind::count, value, -1, -1, filter, 0, 0, 0}, output, "count");
  return parts;
}

Node* partial(Definition* def, int which) {
  return state_variable(def, item(def, which)->column);
}

const char* finisher(Family which) {
  switch (which) {
    case Family::avg:
      return "finish_avg";
    case Family::var_pop:
      return "finish_var_pop";
    case Family::var_samp:
      return "finish_var_samp";
    case Family::stddev_pop:
      return "finish_stddev_pop";
    default:
      return "finish_stddev_samp";
  }
}

// Of PostgreSQL's own aggregates, those that show the order in which rows come.
bool shows_order(Oid function) {
  constexpr const char* names[] = {"array_agg", "string_agg",      "xmlagg",          "json_agg",
                                   "jsonb_agg", "json_object_agg", "jsonb_object_agg"};
  if (get_func_namespace(function) != PG_CATALOG_NAMESPACE) return false;
  for (const char* name : names)
    if (strcmp(name, get_func_name(function)) == 0) return true;
  return false;
}

// The functions that an aggregate consists of, 0 = none.
struct AggregateParts {
  Oid step, final;
};

AggregateParts parts_of(Oid function) {
  HeapTuple tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(function));
  if (!HeapTupleIsValid(tuple)) elog(ERROR, "pg_tick: aggregate %u does not exist", function);
  const auto* form = reinterpret_cast<Form_pg_aggregate>(GETSTRUCT(tuple));
  const AggregateParts parts{form->aggtransfn, form->aggfinalfn};
  ReleaseSysCache(tuple);
  return parts;
}

// The aggregate of ours that does without rounding what one of PostgreSQL's does with floats; InvalidOid if
// none.
Oid exact_aggregate(const Aggref* aggregate) {
  const char* name = nullptr;
  switch (family(aggregate->aggfnoid)) {
    case Family::sum:
      name = "exact_sum";
      break;
    case Family::avg:
      name = "exact_avg";
      break;
    case Family::var_pop:
      name = "exact_var_pop";
      break;
    case Family::var_samp:
      name = "exact_var_samp";
      break;
    case Family::stddev_pop:
      name = "exact_stddev_pop";
      break;
    case Family::stddev_samp:
      name = "exact_stddev_samp";
      break;
    default:
      return InvalidOid;
  }
  const Oid type = linitial_oid(aggregate->aggargtypes);
  if (type != FLOAT8OID && type != FLOAT4OID) return InvalidOid;
  return LookupFuncName(list_make2(makeString(pstrdup("tick_catalog")), makeString(pstrdup(name))), 1, &type,
                        false);
}

}  // namespace

Node* exact_aggregates(Node* node, void* replaced) {
  if (node == nullptr) return nullptr;
  if (!IsA(node, Aggref)) return TICK_MUTATE(node, exact_aggregates, replaced);
  auto* result = static_cast<Aggref*>(copyObjectImpl(node));
  const Oid exact = exact_aggregate(result);
  if (OidIsValid(exact)) {
    result->aggfnoid = exact;
    *static_cast<bool*>(replaced) = true;
  }
  return reinterpret_cast<Node*>(result);
}

bool is_foldable(const Aggref* aggregate) {
  const Family which = family(aggregate->aggfnoid);
  if (which == Family::none) return false;
  if (is_ordered(which)) return true;  // or it is refused
  if (aggregate->aggdistinct != NIL || aggregate->aggorder != NIL) return false;
  for (int i = 0; which != Family::count && i < list_length(aggregate->args); ++i)
    if (!can_be_folded(aggregate, i, which)) return false;
  return true;
}

void check_computed(const Definition* def, const Aggref* aggregate) {
  const Family which = family(aggregate->aggfnoid);
  if (is_ordered(which)) check_aggregate(def, aggregate, which);
  // DISTINCT sorts.
  if (shows_order(aggregate->aggfnoid) && aggregate->aggorder == NIL && aggregate->aggdistinct == NIL)
    refuse(def, aggregate, "without ORDER BY",
           "Its result would depend on how the rows lie: write it as in array_agg(price ORDER BY ts, seq).");
  const AggregateParts parts = parts_of(aggregate->aggfnoid);
  for (const Oid function : {parts.step, parts.final}) {
    if (!OidIsValid(function) || func_volatile(function) == PROVOLATILE_IMMUTABLE) continue;
    ereport(ERROR, (errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
                    errmsg("function %s of aggregate %s is not IMMUTABLE", format_procedure(function),
                           get_func_name(aggregate->aggfnoid)),
                    errdetail("A recompute could give another result over the same rows."),
                    errhint(function >= FirstNormalObjectId ? "ALTER FUNCTION %s IMMUTABLE, if it is."
                                                            : "Use another aggregate than one that calls %s.",
                            format_procedure(function)),
                    at(def->text, aggregate->location)));
  }
}

Family family(Oid function) {
  const char* name = get_func_name(function);
  if (get_func_namespace(function) == PG_CATALOG_NAMESPACE) {
    for (const Named& known : built_in) {
      if (strcmp(known.name, name) == 0) return known.family;
    }
    return Family::none;
  }
  if (is_tick_function(function, "first")) return Family::first;
  if (is_tick_function(function, "last")) return Family::last;
  return Family::none;
}

bool is_tick_function(Oid function, const char* name) {
  return get_func_namespace(function) == tick_schema() && strcmp(get_func_name(function), name) == 0;
}

int add_input(Definition* def, Node* expr) {
  ListCell* cell;
  foreach (cell, def->inputs) {
    if (equal(lfirst(cell), expr)) return foreach_current_index(cell);
  }
  def->inputs = lappend(def->inputs, copyObjectImpl(expr));
  return list_length(def->inputs) - 1;
}

void add_items(Definition* def, const Aggref* aggregate, const char* output, bool direct) {
  (void)take_parts(def, aggregate, output, direct);
}

void add_row_count(Definition* def, const char* output) {
  (void)add_item(def, {ItemKind::count, -1, -1, -1, -1, 0, 0, 0}, output == nullptr ? "tick" : output,
                 output == nullptr ? "rows" : nullptr);
}

void add_reading(Definition* def, List* variables) {
  if (variables == NIL) return;
  List* tests = NIL;
  ListCell* cell;
  foreach (cell, variables) {
    NullTest* test = makeNode(NullTest);
    test->arg = reinterpret_cast<Expr*>(copyObjectImpl(lfirst(cell)));
    test->nulltesttype = IS_NOT_NULL;
    test->location = -1;
    tests = lappend(tests, test);
  }
  Node* filter = list_length(tests) == 1 ? static_cast<Node*>(linitial(tests))
                                         : reinterpret_cast<Node*>(makeBoolExpr(OR_EXPR, tests, -1));
  (void)add_item(def, {ItemKind::count, -1, -1, -1, add_input(def, filter), 0, 0, 0}, "tick", "read");
}

Node* finish(Definition* def, const Aggref* aggregate) {
  const Parts parts = take_parts(def, aggregate, "", false);
  const Family which = family(aggregate->aggfnoid);
  Node* result = nullptr;
  if (parts.extreme >= 0) {
    result = partial(def, parts.extreme);
  } else if (which == Family::count) {
    result = partial(def, parts.count);
    if (!grouped(def)) {
      CoalesceExpr* coalesce = makeNode(CoalesceExpr);
      coalesce->coalescetype = INT8OID;
      coalesce->args = list_make2(result, makeConst(INT8OID, -1, InvalidOid, sizeof(int64), Int64GetDatum(0),
                                                    false, FLOAT8PASSBYVAL));
      coalesce->location = -1;
      result = reinterpret_cast<Node*>(coalesce);
    }
  } else if (which == Family::sum) {
    const char* function = aggregate->aggtype == FLOAT8OID   ? "finish_float8"
                           : aggregate->aggtype == FLOAT4OID ? "finish_float4"
                                                             : "finish_sum";
    result = call_catalog(function, list_make2(partial(def, parts.sum), partial(def, parts.count)));
  } else if (which == Family::avg) {
    result = call_catalog("finish_avg", list_make2(partial(def, parts.sum), partial(def, parts.count)));
  } else {
    result = call_catalog(finisher(which), list_make3(partial(def, parts.sum), partial(def, parts.squares),
                                                      partial(def, parts.count)));
  }
  if (exprType(result) == aggregate->aggtype) return result;
  return coerce_to_target_type(nullptr, result, exprType(result), aggregate->aggtype, -1, COERCION_EXPLICIT,
                               COERCE_EXPLICIT_CAST, -1);
}

const char* free_name(const Definition* def, const char* output, const char* what) {
  const char* name = what == nullptr ? output : makeObjectName(output, what, nullptr);
  for (int n = 1;; ++n) {
    bool taken = strcmp(name, "tick_stale") == 0 || strcmp(name, "tick_touched") == 0 ||
                 strcmp(name, "tick_shown") == 0 || strcmp(name, "revision") == 0 ||
                 strcmp(name, "updated_at") == 0 || SystemAttributeByName(name) != nullptr;
    ListCell* cell;
    foreach (cell, def->values)
      taken = taken || strcmp(static_cast<StateColumn*>(lfirst(cell))->name, name) == 0;
    foreach (cell, def->columns)
      taken = taken || strcmp(static_cast<StateColumn*>(lfirst(cell))->name, name) == 0;
    if (!taken) return name;
    name = makeObjectName(output, what, psprintf("%d", n));
  }
}

void check_type(Node* expr, bool as_key, const char* text, int location) {
  const Oid type = exprType(expr);
  const Type core = type_of(expr);
  const char* role = as_key ? "a key" : "a value of tick.first or tick.last";
  if (is_opaque(core) && !has_image_equality(getBaseType(type), exprCollation(expr)))
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("type %s cannot be %s of a rollup", format_type_be(type), role),
                    errdetail("Its equal values need not be stored alike."),
                    errhint("Cast it to text, or to another type whose values can be compared byte by byte."),
                    at(text, location)));
  const Oid collation = exprCollation(expr);
  if (!as_key || !type_is_collatable(type)) return;
  if (!OidIsValid(collation) || !get_collation_isdeterministic(collation))
    ereport(
        ERROR,
        (errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("a key of a rollup needs a deterministic collation"),
         errhint("Group by the expression with COLLATE \"C\", or with another deterministic collation."),
         at(text, location)));
}

}  // namespace tick::pg
