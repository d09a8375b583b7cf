// What the worker tells about itself: how long its turns took and who holds it up. Kept in shared memory, so
// looking costs it nothing and a restart of the cluster forgets it.
#pragma once

#include "merge.hpp"
#include "shared.hpp"

namespace tick::pg {

// For the worker: one turn that changed something.
void note_turn(DatabaseSlot* slot, TimestampTz started, TimestampTz ended, const TurnResult& result);

}  // namespace tick::pg
