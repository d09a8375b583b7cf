// What tick.fill has to know of a rollup that its row type does not tell: what each column is of an empty
// window, and the grid of its windows. Of its definition alone, which is no secret; rows are read by SQL
// under the reader's own rights.
#include "define.hpp"
#include "guard.hpp"
#include "rollup.hpp"
#include "session.hpp"

namespace tick::pg {
namespace {

constexpr int64_t most_windows = 10'000'000;  // of one call

bool is_aggregate(Node* node, void*) {
  if (node == nullptr) return false;
  return IsA(node, Aggref) || TICK_WALK(node, is_aggregate, nullptr);
}

// True if a value is nothing but sums and counts, added up: 0 where there are no rows.
bool is_total(Node* node) {
  if (IsA(node, Aggref)) {
    const Family which = family(reinterpret_cast<Aggref*>(node)->aggfnoid);
    return which == Family::sum || which == Family::count;
  }
  if (IsA(node, RelabelType))
    return is_total(reinterpret_cast<Node*>(reinterpret_cast<RelabelType*>(node)->arg));
  if (IsA(node, CoalesceExpr))
    return is_total(static_cast<Node*>(linitial(reinterpret_cast<CoalesceExpr*>(node)->args)));
  List* arguments = NIL;
  if (IsA(node, FuncExpr)) {
    const auto* function = reinterpret_cast<FuncExpr*>(node);
    if (function->funcformat == COERCE_EXPLICIT_CALL) return false;
    return is_total(static_cast<Node*>(linitial(function->args)));
  }
  if (IsA(node, OpExpr)) {
    const auto* operation = reinterpret_cast<OpExpr*>(node);
    const char* name = get_opname(operation->opno);
    if (strcmp(name, "+") == 0 || strcmp(name, "-") == 0) arguments = operation->args;
  }
  ListCell* cell;
  foreach (cell, arguments) {
    if (!is_total(static_cast<Node*>(lfirst(cell)))) return false;
  }
  return arguments != NIL;
}

// What an aggregate is over; of a column of another rollup, which is an aggregate itself, what that one is
// over.
Node* aggregated(const Aggref* aggregate, const Query* query) {
  auto* node = reinterpret_cast<Node*>(linitial_node(TargetEntry, aggregate->args)->expr);
  while (IsA(node, Var)) {
    const auto* variable = reinterpret_cast<Var*>(node);
    const RangeTblEntry* read = rt_fetch(variable->varno, query->rtable);
    Query* other = nullptr;
    Node* output =
        read->rtekind != RTE_RELATION ? nullptr : output_of_rollup(read->relid, variable->varattno, &other);
    if (output == nullptr || !IsA(output, Aggref) || reinterpret_cast<Aggref*>(output)->args == NIL) break;
    node = reinterpret_cast<Node*>(linitial_node(TargetEntry, reinterpret_cast<Aggref*>(output)->args)->expr);
    query = other;
  }
  return node;
}

// The column with the last value of what this one has the first, least or greatest of; 0 if there is none.
int close_of(const Query* query, const Expr* expr) {
  if (!IsA(expr, Aggref)) return 0;
  const auto* aggregate = reinterpret_cast<const Aggref*>(expr);
  const Family which = family(aggregate->aggfnoid);
  if (which != Family::first && which != Family::min && which != Family::max) return 0;
  ListCell* cell;
  foreach (cell, query->targetList) {
    const auto* other = lfirst_node(TargetEntry, cell);
    if (other->resjunk || !IsA(other->expr, Aggref)) continue;
    const auto* last = reinterpret_cast<const Aggref*>(other->expr);
    if (family(last->aggfnoid) == Family::last && equal(last->aggfilter, aggregate->aggfilter) &&
        equal(aggregated(last, query), aggregated(aggregate, query)))
      return other->resno;
  }
  return 0;
}

// One row a column of the definition: its number in the view, what it is without rows, and the column whose
// value it takes then.
void put_columns(ReturnSetInfo* result, Oid definition, Oid view) {
  const int original = original_outputs(view);
  const auto in_view = [&](int number) {
    return Int16GetDatum(static_cast<int16>(original == 0 || number <= original ? number : number + 4));
  };
  Relation relation = table_open(definition, AccessShareLock);
  auto* query = static_cast<Query*>(copyObjectImpl(get_view_query(relation)));
  table_close(relation, NoLock);
  TICK_UNGROUP(query);
  ListCell* cell;
  foreach (cell, query->targetList) {
    const auto* entry = lfirst_node(TargetEntry, cell);
    if (entry->resjunk) continue;
    auto* expr = reinterpret_cast<Node*>(entry->expr);
    const int close = close_of(query, entry->expr);
    const char* kind = is_total(expr) ? "total" : is_aggregate(expr, nullptr) ? "value" : "constant";
    Datum values[] = {in_view(entry->resno), CStringGetTextDatum(kind),
                      in_view(close != 0 ? close : entry->resno)};
    bool nulls[lengthof(values)] = {};
    tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
  }
}

// The windows that start in [from, to), and their ends.
void put_windows(ReturnSetInfo* result, int id, Micros from, Micros to) {
  Actor caller{};
  call([&] {
    if (TIMESTAMP_NOT_FINITE(from) || TIMESTAMP_NOT_FINITE(to))
      ereport(ERROR,
              (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("\"from\" and \"to\" must be finite")));
    caller = act_as_extension();
    open_catalogs();
  });
  const std::vector<Rollup> rollups = load_rollups(id);
  call([&] {
    close_catalogs();
    act_again(caller);
  });
  if (rollups.size() != 1 || !rollups.front().windowed)
    throw Error{Error::Code::invalid_argument, "the rollup has no windows"};
  if (!rollups.front().broken.empty()) throw Error{Error::Code::invalid_argument, rollups.front().broken};
  const WindowSize size = rollups.front().size;
  const Micros step = size.slide != 0 ? size.slide : size.micros + size.days * micros_per_day;
  call([&] {
    // Months cannot be so many.
    if (step != 0 && to > from && static_cast<uint64_t>(to - from) / step > most_windows)
      ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
                      errmsg("more than %lld windows", static_cast<long long>(most_windows)),
                      errhint("Ask for a shorter time.")));
    Micros start = window_start(from, size);
    if (start < from) start = next_window(start, size);
    for (; start < to; start = next_window(start, size)) {
      CHECK_FOR_INTERRUPTS();
      Datum values[] = {TimestampTzGetDatum(start), TimestampTzGetDatum(window_end(start, size))};
      bool nulls[lengthof(values)] = {};
      tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
    }
  });
}

// The names of the columns of a query, by the caller's own means.
Datum query_columns(const char* query) {
  SPI_connect();
  SPIPlanPtr plan = SPI_prepare(query, 0, nullptr);
  List* sources = plan == nullptr ? NIL : SPI_plan_get_plan_sources(plan);
  TupleDesc desc =
      list_length(sources) != 1 ? nullptr : static_cast<CachedPlanSource*>(linitial(sources))->resultDesc;
  if (desc == nullptr)
    ereport(ERROR,
            (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("one query that returns rows is needed")));
  auto* names = static_cast<Datum*>(SPI_palloc(sizeof(Datum) * (desc->natts + 1)));
  for (int i = 0; i < desc->natts; ++i)
    names[i] = CStringGetTextDatum(NameStr(TupleDescAttr(desc, i)->attname));
  const Datum local = PointerGetDatum(construct_array(names, desc->natts, TEXTOID, -1, false, TYPALIGN_INT));
  const Datum result = SPI_datumTransfer(local, false, -1);
  SPI_finish();
  return result;
}

}  // namespace
}  // namespace tick::pg

using namespace tick::pg;

extern "C" {
PG_FUNCTION_INFO_V1(tick_empty_columns);
PG_FUNCTION_INFO_V1(tick_window_grid);
PG_FUNCTION_INFO_V1(tick_query_columns);

PGDLLEXPORT Datum tick_empty_columns(PG_FUNCTION_ARGS) {
  return entry([&] {
    InitMaterializedSRF(fcinfo, 0);
    put_columns(reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo), PG_GETARG_OID(0), PG_GETARG_OID(1));
    return Datum{0};
  });
}

PGDLLEXPORT Datum tick_window_grid(PG_FUNCTION_ARGS) {
  return entry([&] {
    call([&] { InitMaterializedSRF(fcinfo, 0); });
    put_windows(reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo), PG_GETARG_INT32(0),
                PG_GETARG_TIMESTAMPTZ(1), PG_GETARG_TIMESTAMPTZ(2));
    return Datum{0};
  });
}

PGDLLEXPORT Datum tick_query_columns(PG_FUNCTION_ARGS) {
  return entry([&] { return query_columns(text_to_cstring(PG_GETARG_TEXT_PP(0))); });
}
}
