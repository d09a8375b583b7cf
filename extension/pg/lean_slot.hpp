// Slots for rows on their way into a heap: as virtual slots, but the tuple is formed in one pass over the
// values, and none are copied before. What PostgreSQL's heap_form_tuple() would form, to the bit.
// Promise: a slot keeps no copy of its values: they must stay until it is cleared or written.
#pragma once

#include "pg.hpp"

namespace tick::pg {

// Of rows like `columns`, which must stay while the slot does. May ereport.
TupleTableSlot* make_lean_slot(TupleDesc columns);

}  // namespace tick::pg
