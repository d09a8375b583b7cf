// What one turn knows, for the files that it is in: merge.cpp (its order, deltas, watermarks, what goes
// wrong), recompute.cpp (windows made anew from the source) and follow.cpp (rollups over rollups).
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <set>

#include "helper.hpp"
#include "leaves.hpp"
#include "merge.hpp"
#include "queue.hpp"

namespace tick::pg {

// What a turn has changed in windows that follow: rows of these keys.
struct Merger::Followed {
  bool every = false;      // it is not known which keys, or there are too many
  bool recomputed = true;  // by a recompute alone: nobody is told of windows that have ended long ago
  KeySets keys;            // by key of the one that follows; of those that are none of its parent's nothing
  void add(const Followed& other);
};

// What one turn knows. Folds are per program of the deltas read.
struct Merger::Turn {
  Frontier before, now;
  Frontier ids_before;  // of the deltas of ids
  bool ids = false;     // there are any
  uint64_t cut = 0;
  std::map<int64_t, std::unique_ptr<Fold>> folds;
  Rollup* recomputed = nullptr;  // whose windows this turn recomputes
  std::vector<Range> ranges;     // which of them, ascending and apart; all fresh or all dirty
  std::vector<Range> done;       // the pending ranges that they are made of
  Micros lo = minus_infinity;    // the part of them below is left to a later turn
  Micros hi = plus_infinity;     // the greatest of their ends
  std::vector<Leaf> leaves;      // of its source, locked before the snapshot
  TimestampTz since = 0;         // the first commit not taken up before
  Relation frontier = nullptr;   // open while the turn runs
  HeapTuple frontier_row = nullptr;
  std::map<int, std::map<Micros, Followed>> follows;  // rollup -> its windows in which its parent has changed
  std::map<int, std::set<Micros>> touched;            // rollup -> windows that deltas were merged into
  std::map<int, std::set<Micros>> replaced;           // and those that were recomputed
  std::map<int, Change> changes;                      // for those who listen
  std::map<int64_t, std::string> corrupted;           // programs with a delta that cannot be read
  std::map<Oid, std::optional<TimestampTz>> shown;    // watermarks of sources, as readers see them
  TimestampTz started = 0;
  HelperView helper{HelperPhase::absent, 0};  // before the snapshot
  TurnResult result;

  // True for windows that somebody has asked to have replaced, whatever the source holds.
  bool may_fall(Micros window) const { return any_replaces(done, window); }
  // True for windows that this turn replaces by what the source holds.
  bool recomputes(Micros window) const {
    const auto after = std::upper_bound(ranges.begin(), ranges.end(), window,
                                        [](Micros at, const Range& range) { return at < range.lo; });
    return after != ranges.begin() && window >= lo && window < std::prev(after)->hi;
  }
};

// Remembers that windows of a rollup are still to be computed. Inside SPI. Throws.
void insert_pending(int rollup, const Range& range);

// Marks a rollup as set aside: its windows will be recomputed once it is resumed. Inside SPI. Throws.
void mark_set_aside(int rollup, const std::string& reason);
// The same in a transaction of its own, after one that has failed was aborted.
void set_aside_apart(int rollup, const std::string& reason);

// Brings the list of stale windows in [lo, hi) up to what the state table says. Inside SPI. Throws.
void list_stale(const Rollup& rollup, Micros lo, Micros hi);

// True if every leaf that is known to have held rows of the source is still among those locked. Inside SPI.
bool knows_leaves(Oid source, const std::vector<Leaf>& leaves);

// Notes which windows a fold of a rollup has rows in.
void note_windows(std::map<int, std::set<Micros>>& windows, const Rollup& rollup, const Fold& fold);

}  // namespace tick::pg
