// Turns rows of a source into the core's columns: which attributes a program reads, on which leaf they have
// which number, and how its expressions are evaluated. Capture and recompute share it. Rows are buffered and
// evaluated a batch at a time: expressions that can raise, or that call a user's function, run as the
// rollup's owner in one internal subtransaction per batch (SEMANTICS R18).
#pragma once

#include <vector>

#include "../core/fold.hpp"
#include "session.hpp"
#include "values.hpp"

namespace tick::pg {

inline constexpr int batch_rows = 512;
inline constexpr size_t batch_room = 16 * 1024;

// Everything about one program in this backend. Lives until the process ends; programs are immutable.
struct Evaluator {
  Program program;
  Oid catalog;  // the table it was read from: ids start anew with the extension
  Oid source;
  Oid owner;
  uint64_t compiled_at;   // how often functions had been replaced then
  bool total;             // no expression can raise or runs a user's code
  MemoryContext memory;   // of what follows
  int columns;            // attributes of the source that are read
  AttrNumber* attribute;  // their numbers in the source
  ValueType* column_type;
  int* plain;  // per input: the column it is, or -1
  ValueType* input_type;
  MemoryContext expressions;
  Expr** source_text;      // per input
  ExprState** expression;  // per input that is not plain: made when it is first evaluated
  ExprContext* context;
  TupleTableSlot* slot;  // virtual: the columns in order
};

// The evaluator of a program, read with the catalog snapshot; nullptr if there is no such program. Call from
// plain PostgreSQL code: may ereport.
Evaluator* find_evaluator(int64 program);

// An error may leave an evaluation without its end: the end of the transaction is one.
void end_evaluation();

// Attribute numbers of an evaluator's columns on one relation of the source's tree; palloc'ed. May ereport.
AttrNumber* map_attributes(const Evaluator* evaluator, Relation relation);
// The same for any columns of a source; 0 stays 0.
AttrNumber* map_attributes(Oid source, const AttrNumber* columns, int count, Relation relation);

// Raw rows on their way to a fold. Create with palloc'ed memory under `parent`.
struct RowBatch {
  Evaluator* evaluator;
  MemoryContext memory;  // copies of by-reference values and results; reset with each batch
  int rows;
  Datum* values;  // column * batch_rows + row
  bool* nulls;
  char* room;  // copies go here first, then to palloc
  size_t used;
};
RowBatch* make_batch(Evaluator* evaluator, MemoryContext parent);

// Copies what the program reads of some rows, for which the batch has room. May ereport; the batch then is as
// before.
void push_rows(RowBatch* batch, TupleTableSlot* const* rows, int count, const AttrNumber* attributes);

// Evaluates what the fold's program uses of the buffered rows (its inputs are the evaluator's) and hands the
// columns to the fold, then empties the batch. Throws PgError and Error. With `retract` the rows have left.
// In a recompute (isolated = false) an error is thrown; in a capture (isolated = true) it is noted in the
// fold as a Failure and the rows count as NULL there.
void fold_batch(RowBatch* batch, Fold& fold, bool retract, bool isolated);

// Switches to the owner of a rollup for whatever a user has supplied; act_again() switches back.
Actor act_as_owner(Oid owner);

}  // namespace tick::pg
