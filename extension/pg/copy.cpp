// COPY into a source: what is read by PostgreSQL's own COPY goes in by an Insertion, a chunk at a time, which
// the triggers of pg_tick, fired row by row, would not let it. Promise: the same rows, errors and figures.
// (Of two faults in one COPY the other may be met first, as with COPY into a table without triggers.)
// Whatever is out of the ordinary is left to COPY and the triggers: other triggers, row security, rights on
// columns, volatile defaults, FREEZE, WHERE, ON_ERROR; and all if a library loaded before has a hook of its
// own here, which would not be called.
#include "copy.hpp"

#include <algorithm>

#include "guard.hpp"
#include "insert.hpp"
#include "shared.hpp"

namespace tick::pg {
namespace {

ProcessUtility_hook_type previous_utility = nullptr;

// Options say how rows are read, but for some.
bool ordinary(const List* options) {
  static const char* const known[] = {"format", "delimiter", "null",           "header",    "quote",
                                      "escape", "encoding",  "force_not_null", "force_null"};
  ListCell* cell;
  foreach (cell, options) {
    const char* name = lfirst_node(DefElem, cell)->defname;
    if (std::none_of(std::begin(known), std::end(known), [&](const char* k) { return strcmp(k, name) == 0; }))
      return false;
  }
  return true;
}

bool is_named(const CopyStmt* statement, const char* column) {
  ListCell* cell;
  foreach (cell, statement->attlist)
    if (strcmp(strVal(lfirst(cell)), column) == 0) return true;
  return statement->attlist == NIL;
}

Bitmapset* read_columns(const CopyStmt* statement, Relation table) {
  Bitmapset* columns = nullptr;
  for (AttrNumber attribute = 1; attribute <= RelationGetDescr(table)->natts; ++attribute) {
    const FormData_pg_attribute* column = TupleDescAttr(RelationGetDescr(table), attribute - 1);
    if (!column->attisdropped && is_named(statement, NameStr(column->attname)))
      columns = bms_add_member(columns, attribute);
  }
  return columns;
}

// Of a column that is not read: it may look at the rows before its own.
bool has_volatile_default(Relation table, const Bitmapset* read) {
  for (AttrNumber attribute = 1; attribute <= RelationGetDescr(table)->natts; ++attribute) {
    if (TupleDescAttr(RelationGetDescr(table), attribute - 1)->attisdropped || bms_is_member(attribute, read))
      continue;
    Node* expression = build_column_default(table, attribute);
    if (expression != nullptr && contain_volatile_functions_not_nextval(expression)) return true;
  }
  return false;
}

// One that may be ours, by what it says.
bool concerns(const CopyStmt* statement) {
  return tick_fast_copy && previous_utility == nullptr && statement->is_from &&
         statement->relation != nullptr && statement->whereClause == nullptr && !statement->is_program &&
         (statement->filename == nullptr || superuser()) && ExecutorCheckPerms_hook == nullptr &&
         !XactReadOnly && !IsInParallelMode() && ordinary(statement->options);
}

bool read_chunk(CopyFromState input, Insertion& insertion) {
  ErrorContextCallback context;
  context.callback = CopyFromErrorCallback;
  context.arg = input;
  context.previous = error_context_stack;
  error_context_stack = &context;
  insertion.enter();
  bool more = true;
  for (int i = 0; i < Insertion::chunk_rows && !insertion.full(); ++i) {
    CHECK_FOR_INTERRUPTS();
    TupleTableSlot* row = insertion.row(i);
    more = NextCopyFrom(input, insertion.context(), row->tts_values, row->tts_isnull);
    if (!more) break;
    insertion.route(i, false);
  }
  insertion.leave();
  pgstat_progress_update_param(PROGRESS_COPY_TUPLES_PROCESSED, insertion.inserted());
  error_context_stack = context.previous;
  return more;
}

// The number of rows that went in; -1 if COPY itself is to do it. Throws.
int64 copy(const CopyStmt* statement, const char* query, QueryEnvironment* environment) {
  Relation table = nullptr;
  CopyFromState input = nullptr;
  Insertion insertion;
  const bool taken = call([&] {
    table = table_openrv_extended(statement->relation, RowExclusiveLock, true);
    if (table == nullptr) return false;
    const bool could = table->trigdesc != nullptr &&
                       pg_class_aclcheck(RelationGetRelid(table), GetUserId(), ACL_INSERT) == ACLCHECK_OK;
    const Fitness fitness = could ? examine(table) : Fitness{};
    const Bitmapset* columns = read_columns(statement, table);
    if (!fitness.ours || fitness.obstacle != nullptr || has_volatile_default(table, columns)) {
      table_close(table, NoLock);
      return false;
    }
    ParseState* state = make_parsestate(nullptr);
    state->p_sourcetext = query;
    state->p_queryEnv = environment;
    input = BeginCopyFrom(state, table, nullptr, statement->filename, false, nullptr, statement->attlist,
                          statement->options);
    insertion.open(table, fitness, columns, Insertion::Odd::fired);
    insertion.number_lines(&input->cur_lineno, &input->line_buf_valid);
    return true;
  });
  if (!taken) return -1;
  while (call([&] { return read_chunk(input, insertion); })) {
  }
  insertion.finish();
  call([&] {
    insertion.close();
    EndCopyFrom(input);
    table_close(table, NoLock);
  });
  return insertion.inserted();
}

void on_utility(PlannedStmt* statement, const char* query, bool read_only, ProcessUtilityContext context,
                ParamListInfo parameters, QueryEnvironment* environment, DestReceiver* destination,
                QueryCompletion* completion) {
  if (IsA(statement->utilityStmt, CopyStmt) && concerns(castNode(CopyStmt, statement->utilityStmt))) {
    const int64 rows =
        entry([&] { return copy(castNode(CopyStmt, statement->utilityStmt), query, environment); });
    if (rows >= 0) {
      if (completion != nullptr) SetQueryCompletion(completion, CMDTAG_COPY, static_cast<uint64>(rows));
      return;
    }
  }
  const auto utility = previous_utility != nullptr ? previous_utility : standard_ProcessUtility;
  utility(statement, query, read_only, context, parameters, environment, destination, completion);
}

}  // namespace

void watch_copies() {
  previous_utility = ProcessUtility_hook;
  ProcessUtility_hook = on_utility;
  if (previous_utility != nullptr && process_shared_preload_libraries_in_progress)
    ereport(LOG, (errmsg("pg_tick leaves COPY to row triggers: a library before it in "
                         "shared_preload_libraries watches utility statements"),
                  errhint("COPY into a source is faster with pg_tick as the first of the list.")));
}

}  // namespace tick::pg
