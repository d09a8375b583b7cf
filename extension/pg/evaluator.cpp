#include "evaluator.hpp"

#include "catalog.hpp"
#include "guard.hpp"

namespace tick::pg {
namespace {

// Functions that cannot raise for any input, beside comparisons.
bool is_total_function(Oid function) {
  switch (function) {
    case F_FLOAT8_INT2:
    case F_FLOAT8_INT4:
    case F_FLOAT8_INT8:
    case F_FLOAT8_FLOAT4:
    case F_FLOAT4_INT2:
    case F_FLOAT4_INT4:
    case F_FLOAT4_INT8:
    case F_INT4_INT2:
    case F_INT8_INT2:
    case F_INT8_INT4:
    case F_NUMERIC_INT2:
    case F_NUMERIC_INT4:
    case F_NUMERIC_INT8:
      return true;
    default:
      return false;
  }
}

bool is_total_operator(Oid op) {
  if (op >= FirstNormalObjectId) return false;
  List* interpretations = TICK_ORDERINGS_WITH(op);
  const bool total = interpretations != NIL;
  list_free_deep(interpretations);
  return total;
}

bool not_total(Node* node, void* context) {
  if (node == nullptr) return false;
  switch (nodeTag(node)) {
    case T_Var:
    case T_Const:
    case T_BoolExpr:
    case T_NullTest:
    case T_BooleanTest:
    case T_RelabelType:
    case T_CaseExpr:
    case T_CaseWhen:
    case T_CaseTestExpr:
    case T_CoalesceExpr:
    case T_List:
      break;
    case T_OpExpr:
    case T_DistinctExpr:
    case T_NullIfExpr:
      if (!is_total_operator(reinterpret_cast<OpExpr*>(node)->opno)) return true;
      break;
    case T_ScalarArrayOpExpr:
      if (!is_total_operator(reinterpret_cast<ScalarArrayOpExpr*>(node)->opno)) return true;
      break;
    case T_FuncExpr:
      if (!is_total_function(reinterpret_cast<FuncExpr*>(node)->funcid)) return true;
      break;
    default:
      return true;
  }
  return TICK_WALK(node, not_total, context);
}

struct Renumber {
  AttrNumber* attribute;
  int columns;
};

// Replaces attribute numbers of the source by positions in the evaluator's columns, collecting them.
Node* renumber(Node* node, void* context) {
  if (node == nullptr) return nullptr;
  if (IsA(node, Var)) {
    auto* renumbering = static_cast<Renumber*>(context);
    Var* var = static_cast<Var*>(copyObjectImpl(node));
    if (var->varattno <= 0) elog(ERROR, "pg_tick: program reads a system column");
    int at = 0;
    while (at < renumbering->columns && renumbering->attribute[at] != var->varattno) ++at;
    if (at == renumbering->columns) renumbering->attribute[renumbering->columns++] = var->varattno;
    var->varno = 1;
    var->varattno = static_cast<AttrNumber>(at + 1);
    return reinterpret_cast<Node*>(var);
  }
  return TICK_MUTATE(node, renumber, context);
}

bool collect_types(Node* node, void* context) {
  if (node == nullptr) return false;
  if (IsA(node, Var)) {
    const Var* var = reinterpret_cast<Var*>(node);
    TupleDescInitEntry(static_cast<TupleDesc>(context), var->varattno, "c", var->vartype, var->vartypmod, 0);
    TupleDescInitEntryCollation(static_cast<TupleDesc>(context), var->varattno, var->varcollid);
    return false;
  }
  return TICK_WALK(node, collect_types, context);
}

// Fills everything behind `program` from the catalog row; everything is allocated in evaluator->memory.
void compile(Evaluator* evaluator, const ProgramRow& row) {
  MemoryContext old = MemoryContextSwitchTo(evaluator->memory);
  evaluator->source = row.source;
  evaluator->owner = row.owner;
  List* inputs = row.inputs;
  const int count = list_length(inputs);
  Renumber renumbering{static_cast<AttrNumber*>(palloc0(sizeof(AttrNumber) * (MaxHeapAttributeNumber + 1))),
                       0};
  inputs = reinterpret_cast<List*>(renumber(reinterpret_cast<Node*>(inputs), &renumbering));
  evaluator->columns = renumbering.columns;
  evaluator->attribute = renumbering.attribute;
  TupleDesc desc = CreateTemplateTupleDesc(std::max(renumbering.columns, 1));
  if (renumbering.columns == 0) TupleDescInitEntry(desc, 1, "c", BOOLOID, -1, 0);
  collect_types(reinterpret_cast<Node*>(inputs), desc);
  evaluator->column_type = static_cast<ValueType*>(palloc0(sizeof(ValueType) * (renumbering.columns + 1)));
  for (int i = 0; i < renumbering.columns; ++i)
    evaluator->column_type[i] = value_type(TupleDescAttr(desc, i)->atttypid);
  evaluator->plain = static_cast<int*>(palloc0(sizeof(int) * (count + 1)));
  evaluator->input_type = static_cast<ValueType*>(palloc0(sizeof(ValueType) * (count + 1)));
  evaluator->expressions =
      AllocSetContextCreate(evaluator->memory, "pg_tick expressions", ALLOCSET_DEFAULT_SIZES);
  evaluator->source_text = static_cast<Expr**>(palloc0(sizeof(Expr*) * (count + 1)));
  evaluator->expression = static_cast<ExprState**>(palloc0(sizeof(ExprState*) * (count + 1)));
  evaluator->context = CreateStandaloneExprContext();
  evaluator->slot = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
  evaluator->context->ecxt_scantuple = evaluator->slot;
  evaluator->total = true;
  ListCell* cell;
  int at = 0;
  foreach (cell, inputs) {
    Expr* expr = static_cast<Expr*>(lfirst(cell));
    evaluator->input_type[at] = value_type(exprType(reinterpret_cast<Node*>(expr)));
    evaluator->source_text[at] = expr;
    evaluator->plain[at] = IsA(expr, Var) ? reinterpret_cast<Var*>(expr)->varattno - 1 : -1;
    if (not_total(reinterpret_cast<Node*>(expr), nullptr)) evaluator->total = false;
    ++at;
  }
  MemoryContextSwitchTo(old);
}

// The expression of an input, ready to run. Not made before: the worker reads deltas of programs that call
// functions which have been dropped since.
ExprState* expression_of(Evaluator* evaluator, int input) {
  ExprState*& expression = evaluator->expression[input];
  if (expression != nullptr) return expression;
  MemoryContext old = MemoryContextSwitchTo(evaluator->expressions);
  auto* text = static_cast<Expr*>(copyObjectImpl(evaluator->source_text[input]));
  fix_opfuncids(reinterpret_cast<Node*>(text));
  expression = ExecInitExpr(expression_planner(text), nullptr);
  MemoryContextSwitchTo(old);
  return expression;
}

// The collations of the inputs, for the core.
uint32_t input_collation(Evaluator* evaluator, const ProgramRow& row, int input) {
  return core_collation(evaluator->input_type[input].oid,
                        exprCollation(static_cast<Node*>(list_nth(row.inputs, input))));
}

// A function that expressions call may have been replaced, and SQL functions are inlined; a domain that they
// cast to may have other constraints.
uint64_t functions_changed = 0;  // how often
int evaluating = 0;

void on_function(Datum, int, uint32) {
  ++functions_changed;
}

std::vector<Evaluator*>& known() {
  static std::vector<Evaluator*> evaluators;
  return evaluators;
}

// Runs the expression of one input over all rows. Plain PostgreSQL code.
void evaluate_input(RowBatch* batch, int input, Datum* values, bool* nulls) {
  Evaluator* evaluator = batch->evaluator;
  ExprState* expression = expression_of(evaluator, input);
  TupleTableSlot* slot = evaluator->slot;
  ExecClearTuple(slot);
  ExecStoreVirtualTuple(slot);
  for (int row = 0; row < batch->rows; ++row) {
    for (int c = 0; c < evaluator->columns; ++c) {
      slot->tts_values[c] = batch->values[c * batch_rows + row];
      slot->tts_isnull[c] = batch->nulls[c * batch_rows + row];
    }
    values[row] = ExecEvalExpr(expression, evaluator->context, &nulls[row]);
    if (!nulls[row] && evaluator->input_type[input].length == -1)
      values[row] = PointerGetDatum(pg_detoast_datum_packed(reinterpret_cast<struct varlena*>(values[row])));
  }
  ExecClearTuple(slot);
}

// The inputs that a program's keys, time, WHERE and items use: a rollup must not fail for what only others
// use.
void mark_needed(const Program& program, bool* needed) {
  const auto mark = [&](int16_t input) {
    if (input >= 0) needed[input] = true;
  };
  for (int16_t key : program.keys) mark(key);
  mark(program.time);
  mark(program.where);
  for (const Item& item : program.items)
    for (int16_t input : {item.value, item.order, item.seq, item.filter}) mark(input);
}

// Evaluates the needed inputs in order. Returns -1, or the input that failed with its message copied.
// isolated: in an internal subtransaction, so that an error leaves the writer's transaction as it was.
int evaluate_inputs(RowBatch* batch, const bool* needed, Datum** values, bool** nulls, int from,
                    bool isolated, char* message, size_t message_size) {
  Evaluator* evaluator = batch->evaluator;
  const int count = static_cast<int>(evaluator->program.inputs.size());
  MemoryContext old = MemoryContextSwitchTo(batch->memory);
  ResourceOwner owner = CurrentResourceOwner;
  const bool subtransaction = isolated && !evaluator->total;
  if (subtransaction) {
    BeginInternalSubTransaction(nullptr);
    MemoryContextSwitchTo(batch->memory);
  }
  const int depth = evaluating;
  volatile int input = from;
  volatile bool failed = false;
  const auto run = [&] {
    // At commit there is no snapshot left, and a user's function may run SQL.
    const bool snapshot = !ActiveSnapshotSet();
    if (snapshot) PushActiveSnapshot(GetTransactionSnapshot());
    const Actor before = act_as_owner(evaluator->owner);
    ++evaluating;
    for (int at = from; at < count; ++at) {
      input = at;
      if (needed[at] && evaluator->plain[at] < 0) evaluate_input(batch, at, values[at], nulls[at]);
    }
    --evaluating;
    act_again(before);
    if (snapshot) PopActiveSnapshot();
  };
  if (!subtransaction) {
    run();
  } else {
    try {
      call(run);
      ReleaseCurrentSubTransaction();
    } catch (const PgError& error) {
      evaluating = depth;
      strlcpy(message, error.data->message, message_size);
      failed = true;
      // Cancel, termination and running out of memory are not the expression's fault.
      const int code = error.data->sqlerrcode;
      RollbackAndReleaseCurrentSubTransaction();
      if (ERRCODE_TO_CATEGORY(code) == ERRCODE_OPERATOR_INTERVENTION || code == ERRCODE_OUT_OF_MEMORY) throw;
    }
    CurrentResourceOwner = owner;
  }
  MemoryContextSwitchTo(old);
  return failed ? static_cast<int>(input) : -1;
}

}  // namespace

Actor act_as_owner(Oid owner) {
  return act_as(owner, SECURITY_RESTRICTED_OPERATION | SECURITY_LOCAL_USERID_CHANGE);
}

// Reads and compiles a program into memory of its own; false if there is none.
static bool read_evaluator(int64 id, Evaluator* evaluator, ProgramRow* row) {
  MemoryContext memory =
      AllocSetContextCreate(CurrentMemoryContext, "pg_tick program", ALLOCSET_DEFAULT_SIZES);
  MemoryContext old = MemoryContextSwitchTo(memory);
  const bool found = read_program(id, row);
  MemoryContextSwitchTo(old);
  if (!found) {
    MemoryContextDelete(memory);
    return false;
  }
  evaluator->memory = memory;
  compile(evaluator, *row);
  MemoryContextSetParent(memory, TopMemoryContext);
  return true;
}

// Forgets the expressions that call functions: they are made anew when they are evaluated. Not while one of
// them runs: it may be the caller.
static void recompile(Evaluator* evaluator) {
  if (evaluator->total || evaluator->compiled_at == functions_changed || evaluating > 0) return;
  evaluator->compiled_at = functions_changed;
  MemoryContextReset(evaluator->expressions);
  memset(evaluator->expression, 0, sizeof(ExprState*) * evaluator->program.inputs.size());
}

void end_evaluation() {
  evaluating = 0;
}

Evaluator* find_evaluator(int64 id) {
  static bool watching = false;
  for (const int cache : {PROCOID, TYPEOID, CONSTROID})
    if (!watching) CacheRegisterSyscacheCallback(cache, on_function, static_cast<Datum>(0));
  watching = true;
  const Oid catalog = catalog_relation("program");
  for (Evaluator* evaluator : known()) {
    if (evaluator->program.id != id || evaluator->catalog != catalog) continue;
    recompile(evaluator);
    return evaluator;
  }
  const uint64_t now = functions_changed;
  ProgramRow row;
  Evaluator plain{};
  if (!read_evaluator(id, &plain, &row)) return nullptr;
  plain.catalog = catalog;
  plain.compiled_at = now;
  const int count = row.input_count;
  auto* collations = static_cast<uint32_t*>(palloc(sizeof(uint32_t) * (count + 1)));
  for (int i = 0; i < count; ++i) collations[i] = input_collation(&plain, row, i);
  // From here on only C++: nothing below calls PostgreSQL.
  auto* evaluator = new Evaluator(plain);
  Program& program = evaluator->program;
  program.id = id;
  for (int i = 0; i < count; ++i) program.inputs.push_back({plain.input_type[i].type, collations[i]});
  program.keys.assign(row.keys, row.keys + row.key_count);
  program.time = row.time_input;
  program.pane = row.pane;
  program.where = row.where_input;
  for (int i = 0; i + 4 < row.item_count; i += 5) {
    const int16* item = row.items + i;
    program.items.push_back({static_cast<ItemKind>(item[0]), item[1], item[2], item[3], item[4]});
  }
  program.compare_text = compare_text;
  known().push_back(evaluator);
  return evaluator;
}

AttrNumber* map_attributes(Oid source_id, const AttrNumber* columns, int count, Relation relation) {
  auto* result = static_cast<AttrNumber*>(palloc(sizeof(AttrNumber) * (count + 1)));
  for (int i = 0; i < count; ++i) result[i] = columns[i];
  if (RelationGetRelid(relation) == source_id) return result;
  Relation source = table_open(source_id, AccessShareLock);
  AttrMap* map = TICK_MAP_BY_NAME(RelationGetDescr(relation), RelationGetDescr(source));
  for (int i = 0; i < count; ++i) {
    if (columns[i] == 0) continue;
    result[i] = map->attnums[columns[i] - 1];
    if (result[i] == 0)
      ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
                      errmsg("partition \"%s\" lacks a column that rollups of \"%s\" read",
                             RelationGetRelationName(relation), RelationGetRelationName(source))));
  }
  free_attrmap(map);
  table_close(source, NoLock);
  return result;
}

AttrNumber* map_attributes(const Evaluator* evaluator, Relation relation) {
  return map_attributes(evaluator->source, evaluator->attribute, evaluator->columns, relation);
}

RowBatch* make_batch(Evaluator* evaluator, MemoryContext parent) {
  auto* batch = static_cast<RowBatch*>(MemoryContextAllocZero(parent, sizeof(RowBatch)));
  batch->evaluator = evaluator;
  batch->memory = AllocSetContextCreate(parent, "pg_tick batch", ALLOCSET_DEFAULT_SIZES);
  const size_t cells = static_cast<size_t>(evaluator->columns) * batch_rows + 1;
  batch->values = static_cast<Datum*>(MemoryContextAlloc(parent, sizeof(Datum) * cells));
  batch->nulls = static_cast<bool*>(MemoryContextAlloc(parent, cells));
  batch->room = static_cast<char*>(MemoryContextAlloc(parent, batch_room));
  return batch;
}

namespace {

// A varlena that the batch keeps.
Datum keep_varlena(RowBatch* batch, Datum value) {
  auto* from = reinterpret_cast<struct varlena*>(value);
  if (VARATT_IS_EXTERNAL(from) || VARATT_IS_COMPRESSED(from))
    return PointerGetDatum(pg_detoast_datum_packed(from));
  const size_t size = VARSIZE_ANY(from);
  void* copy;
  if (batch->used + size + 8 <= batch_room) {
    copy = batch->room + batch->used;
    batch->used += MAXALIGN(size);
  } else {
    copy = palloc(size);
  }
  memcpy(copy, from, size);
  return PointerGetDatum(copy);
}

}  // namespace

void push_rows(RowBatch* batch, TupleTableSlot* const* rows, int count, const AttrNumber* attributes) {
  const Evaluator* evaluator = batch->evaluator;
  int last = 0;
  for (int c = 0; c < evaluator->columns; ++c) last = Max(last, attributes[c]);
  for (int row = 0; row < count; ++row) slot_getsomeattrs(rows[row], last);
  MemoryContext old = MemoryContextSwitchTo(batch->memory);
  for (int c = 0; c < evaluator->columns; ++c) {
    const int attribute = attributes[c] - 1;
    const ValueType type = evaluator->column_type[c];
    Datum* values = batch->values + c * batch_rows + batch->rows;
    bool* nulls = batch->nulls + c * batch_rows + batch->rows;
    for (int row = 0; row < count; ++row) {
      const Datum value = rows[row]->tts_values[attribute];
      const bool null = rows[row]->tts_isnull[attribute];
      nulls[row] = null;
      if (null || type.by_value)
        values[row] = value;
      else
        values[row] = type.length == -1 ? keep_varlena(batch, value) : datumCopy(value, false, type.length);
    }
  }
  MemoryContextSwitchTo(old);
  batch->rows += count;
}

void fold_batch(RowBatch* batch, Fold& fold, bool retract, bool isolated) {
  if (batch->rows == 0) return;
  Evaluator* evaluator = batch->evaluator;
  const int count = static_cast<int>(evaluator->program.inputs.size());
  const int rows = batch->rows;
  Datum** values = nullptr;
  bool** nulls = nullptr;
  bool* needed = nullptr;
  const Program& program = fold.program();
  call([&] {
    MemoryContext old = MemoryContextSwitchTo(batch->memory);
    needed = static_cast<bool*>(palloc0(count + 1));
    mark_needed(program, needed);
    values = static_cast<Datum**>(palloc0(sizeof(Datum*) * (count + 1)));
    nulls = static_cast<bool**>(palloc0(sizeof(bool*) * (count + 1)));
    for (int i = 0; i < count; ++i) {
      const int plain = evaluator->plain[i];
      values[i] = plain >= 0 ? batch->values + plain * batch_rows
                             : static_cast<Datum*>(palloc0(sizeof(Datum) * rows));
      nulls[i] = plain >= 0 ? batch->nulls + plain * batch_rows : static_cast<bool*>(palloc0(rows));
      if (plain < 0 && !needed[i]) memset(nulls[i], 1, rows);
    }
    MemoryContextSwitchTo(old);
  });
  for (int from = 0; from < count;) {
    char message[256];
    int failed = -1;
    if (isolated)
      failed = evaluate_inputs(batch, needed, values, nulls, from, true, message, sizeof message);
    else
      call([&] { evaluate_inputs(batch, needed, values, nulls, from, false, message, sizeof message); });
    if (failed < 0) break;
    memset(nulls[failed], 1, rows);
    fold.fail(static_cast<int16_t>(failed), message);
    from = failed + 1;
  }
  thread_local std::vector<Cell> cells;
  std::vector<Column> columns(count);
  cells.resize(static_cast<size_t>(count) * rows);
  for (int i = 0; i < count; ++i) {
    Cell* column = cells.data() + static_cast<size_t>(i) * rows;
    const ValueType& type = evaluator->input_type[i];
    for (int row = 0; row < rows; ++row) column[row] = to_cell(values[i][row], nulls[i][row], type);
    columns[i] = {column, static_cast<size_t>(rows)};
  }
  if (retract)
    fold.retract(columns, rows);
  else
    fold.add(columns, rows);
  batch->rows = 0;
  batch->used = 0;
  call([&] { MemoryContextReset(batch->memory); });
}

}  // namespace tick::pg
