// Writes partials into the state table of a rollup: merged with the row that is there, or as a new row.
// Plain state tables are written directly (the worker is their only writer, the turn's mutex sees to that);
// one that its owner has given triggers, checks or expression indexes is written by the rollup's upsert, as
// its owner.
#pragma once

#include <set>

#include "rollup.hpp"

namespace tick::pg {

// Merges all slots of a fold of the rollup. `now` becomes updated_at; a window that ends at or before
// `watermark` (nothing = none yet) was final, and gets a new revision. A row whose count falls to zero goes;
// `complete` says that the fold lacks no delta that is older than those it has, so that zero is zero. Returns
// the windows in which a first, last, min or max may have left with the rows that left: what the row holds
// there has to be recomputed. Inside SPI. Throws PgError and Error.
std::set<Micros> merge_state(const Rollup& rollup, const Fold& fold, TimestampTz now,
                             std::optional<TimestampTz> watermark, bool complete);

}  // namespace tick::pg
