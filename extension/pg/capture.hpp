// What a writer does: rows of a source become partials in backend memory, and those one delta row of the
// writer's own transaction. A delta commits if and only if its rows do.
#pragma once

#include <functional>

#include "../core/fold.hpp"
#include "dedup.hpp"
#include "evaluator.hpp"

namespace tick::pg {

void register_capture_callbacks();

// The programs in the arguments of a capture trigger, with the attributes they read of one relation.
struct Binding {
  Oid relation;
  int count;
  Evaluator** evaluators;
  AttrNumber** attributes;
  IdColumns* ids;  // nullptr without dedup
};
// Palloc'ed. May ereport.
Binding* bind_capture(const Trigger* trigger, Relation relation);

// For who inserts rows without firing the triggers: does what they do about rows that a command has inserted,
// but for their ids; and at the end of the statement. May ereport, and throw.
void capture_insert(const Binding* binding, TupleTableSlot* const* rows, int count, CommandId command);
void flush_statement();

// Shows what this transaction has folded, by programs, and not written yet, of the rows that a snapshot sees:
// those of commands before its own. Throws where folds cannot tell these from later ones.
void visit_unflushed(CommandId command, const std::function<void(int64_t program, const Fold&)>& visit);

}  // namespace tick::pg
