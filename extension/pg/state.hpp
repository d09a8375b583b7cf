// Writes partials into the state table of a rollup: merged with the row that is there, or as a new row.
// Plain state tables are written directly (the worker is their only writer, the turn's mutex sees to that);
// one that its owner has given triggers, checks or expression indexes is written by the rollup's upsert, as
// its owner.
#pragma once

#include <functional>
#include <set>

#include "rollup.hpp"

namespace tick::pg {

// When a turn writes: `now` becomes updated_at; a window that ends at or before `watermark` (nothing = none
// yet) was final, and gets a new revision if its row changes.
struct TurnTime {
  TimestampTz now;
  std::optional<TimestampTz> watermark;
  std::vector<struct GoneRow>* gone =
      nullptr;        // rows that are deleted; by the upsert, also some that are not
  bool held = false;  // somebody's old snapshot keeps all versions of rows
};

struct GoneRow {
  Micros window;
  const char* key;  // JSON, palloc'ed where the turn works
};

// Merges all slots of a fold of the rollup. A row whose count falls to zero goes; `complete` says that the
// fold lacks no delta that is older than those it has, so that zero is zero. Returns the windows in which a
// first, last, min or max may have left with the rows that left: such a row is marked stale until it is
// recomputed, unless it is no longer there. Inside SPI. Throws PgError and Error.
struct Lost {
  std::set<Micros> marked, unmarked;  // all rows that are concerned are marked; some may not be
};
Lost merge_state(const Rollup& rollup, const Fold& fold, const TurnTime& time, bool complete);

// What a recompute does with the rows of a window. `guard`: a row that counts more than the fold has found is
// kept and marked stale, as nobody has said that rows have left. `keep`: rows stay as they are.
enum class Replace { all, guard, keep };

// Makes the rows of these windows what a fold over the source has found; what does not differ is not written.
// Inside SPI. Throws PgError and Error.
void replace_state(const Rollup& rollup, const Fold& fold, const std::vector<Range>& windows,
                   const std::function<Replace(Micros window)>& rule, const TurnTime& time);

// Marks all rows of the windows of [lo, hi) as stale; of a rollup without window all. Inside SPI. Throws.
void mark_stale(const Rollup& rollup, Micros lo, Micros hi);

// The windows of [lo, hi) that have stale rows; of a rollup without window it is 0. Inside SPI. Throws.
std::set<Micros> stale_windows(const Rollup& rollup, Micros lo, Micros hi);

// ---- for who reads only: what a turn would make of the rows that the active snapshot sees. Inside SPI.
// Throws.

// A row of the state table as it would be.
struct Preview {
  HeapTuple tuple;        // nullptr: nothing is left of it
  ItemPointerData place;  // of the row that it would replace; invalid: none
  Micros window;
  int64_t count;  // rows that it counts
  bool lost;      // a first, last, min or max may have left: only the source knows
};

// The rows that merge_state() would write of the slots that are wanted, by slot; of others there is neither
// tuple nor place. Tuples are palloc'ed in `memory`.
std::vector<Preview> preview_merge(const Rollup& rollup, const Fold& fold, const TurnTime& time,
                                   const std::vector<bool>& wanted, MemoryContext memory);
// The same of a fold over the source, as rows of their own with these revisions.
std::vector<Preview> preview_rows(const Rollup& rollup, const Fold& fold, const TurnTime& time,
                                  const std::vector<int64_t>& revisions, const std::vector<bool>& wanted,
                                  MemoryContext memory);

// A row that is there, and what a fold over the source has of it.
struct Present {
  ItemPointerData place;
  Micros window;
  int64_t count;
  int64_t revision;            // if it changes now
  std::optional<size_t> slot;  // of the fold
  bool same;                   // the same partials
};
std::vector<Present> read_present(const Rollup& rollup, const Fold& fold, const std::vector<Range>& windows,
                                  const TurnTime& time, const class Wanted& wanted);
// The windows that have rows which are wanted and marked stale.
std::set<Micros> read_stale(const Rollup& rollup, const std::vector<Range>& windows, const Wanted& wanted);

}  // namespace tick::pg
