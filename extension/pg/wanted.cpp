#include "wanted.hpp"

#include <algorithm>

#include "guard.hpp"

namespace tick::pg {
namespace {

// ---- plain PostgreSQL code
// ------------------------------------------------------------------------------------

struct Search {
  EState* estate;
  Oid state;
  Oid function;
  const AttrNumber* columns;  // keys and window
  int count;
  Bitmapset* constants;  // numbers of parameters that have one value throughout the statement
  List* scans;           // of the state table
  int calls;             // of the function
  bool unknown;          // something else may read it
};

// The parameters that a plan computes once, whatever rows are around it.
void note_constants(Search* search, const Plan* plan) {
  ListCell *cell, *id;
  foreach (cell, plan->initPlan) {
    const auto* of = lfirst_node(SubPlan, cell);
    const auto* computed =
        static_cast<const Plan*>(list_nth(search->estate->es_plannedstmt->subplans, of->plan_id - 1));
    if (of->parParam != NIL || computed == nullptr || !bms_is_empty(computed->extParam)) continue;
    foreach (id, of->setParam) search->constants = bms_add_member(search->constants, lfirst_int(id));
  }
}

struct Judged {
  const Search* search;
  Index scanned;
};

bool is_not_ours(Oid function, void*) {
  return function >= FirstNormalObjectId || func_volatile(function) == PROVOLATILE_VOLATILE;
}

// True if a condition cannot be judged by keys and window alone, or is better left alone.
bool has_more(Node* node, void* context) {
  const auto* judged = static_cast<Judged*>(context);
  if (node == nullptr) return false;
  switch (nodeTag(node)) {
    case T_Var: {
      const auto* var = reinterpret_cast<Var*>(node);
      const AttrNumber* end = judged->search->columns + judged->search->count;
      return static_cast<Index>(var->varno) != judged->scanned || var->varlevelsup != 0 ||
             std::find(judged->search->columns, end, var->varattno) == end;
    }
    case T_Param: {
      const auto* param = reinterpret_cast<Param*>(node);
      if (param->paramkind == PARAM_EXTERN) return false;
      // One that has not been computed yet is not computed for us: its query may be what calls us.
      return param->paramkind != PARAM_EXEC || !bms_is_member(param->paramid, judged->search->constants) ||
             judged->search->estate->es_param_exec_vals[param->paramid].execPlan != nullptr;
    }
    case T_Const:
      return false;
    case T_List:
    case T_OpExpr:
    case T_FuncExpr:
    case T_ScalarArrayOpExpr:
    case T_BoolExpr:
    case T_NullTest:
    case T_RelabelType:
    case T_ArrayExpr:
      return check_functions_in_node(node, is_not_ours, nullptr) || TICK_WALK(node, has_more, context);
    default:
      return true;
  }
}

// The conditions of a scan that can be judged.
List* conditions_of(const Search* search, Scan* scan) {
  List* by_index = NIL;
  if (IsA(scan, IndexScan)) by_index = reinterpret_cast<IndexScan*>(scan)->indexqualorig;
  if (IsA(scan, BitmapHeapScan)) by_index = reinterpret_cast<BitmapHeapScan*>(scan)->bitmapqualorig;
  List* conditions = NIL;
  Judged judged{search, scan->scanrelid};
  for (List* list : {by_index, scan->plan.qual}) {
    ListCell* cell;
    foreach (cell, list) {
      auto* condition = static_cast<Node*>(lfirst(cell));
      if (!has_more(condition, &judged)) conditions = lappend(conditions, condition);
    }
  }
  return conditions;
}

void search_plan(Search* search, Plan* plan);

void search_all(Search* search, List* plans) {
  ListCell* cell;
  foreach (cell, plans) search_plan(search, static_cast<Plan*>(lfirst(cell)));
}

bool calls_us(const Search* search, const FunctionScan* scan) {
  ListCell* cell;
  foreach (cell, scan->functions) {
    const Node* call = lfirst_node(RangeTblFunction, cell)->funcexpr;
    if (IsA(call, FuncExpr) && reinterpret_cast<const FuncExpr*>(call)->funcid == search->function)
      return true;
  }
  return false;
}

void search_plan(Search* search, Plan* plan) {
  if (plan == nullptr) return;
  check_stack_depth();
  note_constants(search, plan);
  switch (nodeTag(plan)) {
    case T_SeqScan:
    case T_SampleScan:
    case T_IndexScan:
    case T_IndexOnlyScan:
    case T_BitmapHeapScan:
    case T_TidScan:
    case T_TidRangeScan: {
      auto* scan = reinterpret_cast<Scan*>(plan);
      if (exec_rt_fetch(scan->scanrelid, search->estate)->relid == search->state)
        search->scans = lappend(search->scans, scan);
      break;
    }
    case T_FunctionScan:
      if (calls_us(search, reinterpret_cast<FunctionScan*>(plan))) ++search->calls;
      break;
    case T_SubqueryScan:
      search_plan(search, reinterpret_cast<SubqueryScan*>(plan)->subplan);
      break;
    case T_Append:
      search_all(search, reinterpret_cast<Append*>(plan)->appendplans);
      break;
    case T_MergeAppend:
      search_all(search, reinterpret_cast<MergeAppend*>(plan)->mergeplans);
      break;
    case T_CustomScan:
      search->unknown = true;
      break;
    default:
      break;
  }
  search_plan(search, outerPlan(plan));
  search_plan(search, innerPlan(plan));
}

// The value of an expression without columns.
bool compute(EState* estate, Expr* expression, Micros* value) {
  ExprContext* context = CreateExprContext(estate);
  bool null;
  const Datum datum = ExecEvalExprSwitchContext(ExecInitExpr(expression, nullptr), context, &null);
  *value = null ? 0 : DatumGetTimestampTz(datum);
  FreeExprContext(context, true);
  return !null;
}

// Narrows [lo, hi) by a condition on the window, if it is one that can.
void narrow(EState* estate, Node* condition, AttrNumber window, Micros* lo, Micros* hi) {
  if (!IsA(condition, OpExpr) || list_length(reinterpret_cast<OpExpr*>(condition)->args) != 2) return;
  auto* op = reinterpret_cast<OpExpr*>(condition);
  auto *left = static_cast<Node*>(linitial(op->args)), *right = static_cast<Node*>(lsecond(op->args));
  Oid number = op->opno;
  if (IsA(right, Var)) {
    std::swap(left, right);
    number = get_commutator(number);
  }
  if (!OidIsValid(number) || !IsA(left, Var) || reinterpret_cast<Var*>(left)->varattno != window ||
      contain_var_clause(right))
    return;
  const Oid type = exprType(left);
  const Oid family = lookup_type_cache(type, TYPECACHE_BTREE_OPFAMILY)->btree_opf;
  int strategy;
  Oid of_left, of_right;
  if (exprType(right) != type || !op_in_opfamily(number, family)) return;
  get_op_opfamily_properties(number, family, false, &strategy, &of_left, &of_right);
  if (of_left != type || of_right != type) return;
  Micros value;
  if (!compute(estate, reinterpret_cast<Expr*>(right), &value)) {
    *hi = *lo;  // a comparison with NULL is never true
    return;
  }
  const Micros after = value == plus_infinity ? value : value + 1;
  if (strategy == BTGreaterEqualStrategyNumber || strategy == BTEqualStrategyNumber)
    *lo = std::max(*lo, value);
  if (strategy == BTGreaterStrategyNumber) *lo = std::max(*lo, after);
  if (strategy == BTLessStrategyNumber) *hi = std::min(*hi, value);
  if (strategy == BTLessEqualStrategyNumber || strategy == BTEqualStrategyNumber) *hi = std::min(*hi, after);
}

}  // namespace

Wanted::Wanted(const Rollup& rollup, EState* estate, Oid function, Actor& reader)
    : rollup_(rollup), estate_(estate), reader_(reader) {
  if (estate == nullptr || estate->es_plannedstmt == nullptr) return;
  const int count = static_cast<int>(rollup.program.keys.size()) + (rollup.windowed ? 1 : 0);
  Search search{estate, rollup.state, function, rollup.attributes.data(), count, nullptr, NIL, 0, false};
  call([&] {
    search_plan(&search, estate->es_plannedstmt->planTree);
    search_all(&search, estate->es_plannedstmt->subplans);
    // Each call belongs to a scan, with the same conditions, or somebody calls us by himself.
    if (search.unknown || search.scans == NIL || search.calls > list_length(search.scans)) return;
    act_again(reader_);
    ListCell *cell, *condition;
    Micros least = plus_infinity, most = minus_infinity;
    foreach (cell, search.scans) {
      List* conditions = conditions_of(&search, static_cast<Scan*>(lfirst(cell)));
      everything_ = conditions == NIL;
      if (everything_) break;
      scans_ = lappend(scans_, conditions);
      Micros lo = minus_infinity, hi = plus_infinity;
      foreach (condition, conditions)
        if (rollup.windowed)
          narrow(estate, static_cast<Node*>(lfirst(condition)), rollup.attributes[count - 1], &lo, &hi);
      least = std::min(least, lo);
      most = std::max(most, hi);
    }
    reader_ = act_as_extension();
    if (everything_) return;
    lo_ = least;
    hi_ = most;
  });
}

std::vector<bool> Wanted::judge(const RowsToJudge& rows) const {
  std::vector<bool> result(rows.count, everything_);
  if (everything_ || rows.count == 0) return result;
  const size_t keys = rollup_.program.keys.size();
  bool* wanted = nullptr;
  call([&] {
    wanted = static_cast<bool*>(palloc0(rows.count));
    Relation table = table_open(rollup_.state, AccessShareLock);
    TupleTableSlot* slot = MakeSingleTupleTableSlot(RelationGetDescr(table), &TTSOpsVirtual);
    ExprContext* context = CreateExprContext(estate_);
    const int scans = list_length(scans_);
    act_again(reader_);
    auto** tests = static_cast<ExprState**>(palloc(sizeof(ExprState*) * scans));
    for (int i = 0; i < scans; ++i) tests[i] = ExecInitQual(static_cast<List*>(list_nth(scans_, i)), nullptr);
    for (size_t row = 0; row < rows.count; ++row) {
      CHECK_FOR_INTERRUPTS();
      ResetExprContext(context);
      MemoryContext old = MemoryContextSwitchTo(context->ecxt_per_tuple_memory);
      ExecClearTuple(slot);
      memset(slot->tts_isnull, 1, slot->tts_tupleDescriptor->natts);
      const auto put = [&](size_t column, Datum value, bool null) {
        slot->tts_values[rollup_.attributes[column] - 1] = value;
        slot->tts_isnull[rollup_.attributes[column] - 1] = null;
      };
      for (size_t key = 0; key < keys; ++key) {
        const Cell cell = rows.key(row, key);
        put(key, key_datum(rollup_, key, cell), cell.null);
      }
      if (rollup_.windowed) put(keys, TimestampTzGetDatum(rows.window(row)), false);
      ExecStoreVirtualTuple(slot);
      context->ecxt_scantuple = slot;
      MemoryContextSwitchTo(old);
      for (int i = 0; i < scans && !wanted[row]; ++i) wanted[row] = ExecQual(tests[i], context);
    }
    reader_ = act_as_extension();
    FreeExprContext(context, true);
    ExecDropSingleTupleTableSlot(slot);
    table_close(table, NoLock);
  });
  for (size_t row = 0; row < rows.count; ++row) result[row] = wanted[row];
  return result;
}

}  // namespace tick::pg
