// What the running statement asks of a state table: the conditions that its scans of it have on keys and
// window, found in its plan. A reader that need not show more is spared what the statement would throw away.
#pragma once

#include <functional>
#include <vector>

#include "rollup.hpp"

namespace tick::pg {

// Rows of a state table that somebody is about to look at, by number.
struct RowsToJudge {
  size_t count;
  std::function<Cell(size_t row, size_t key)> key;
  std::function<Micros(size_t row)> window;
};

class Wanted {
 public:
  // Reads the plan of the statement that calls `function` in its FROM about the state table; estate nullptr =
  // it is not known. Conditions are evaluated as the `reader` that act_as_extension() has returned. Inside
  // SPI. Both throw PgError.
  Wanted(const Rollup& rollup, EState* estate, Oid function, Actor& reader);
  // Which rows somebody may want; all if there is no telling.
  std::vector<bool> judge(const RowsToJudge& rows) const;

  bool everything() const { return everything_; }
  // Nobody wants windows that start outside [lo, hi).
  Micros lo() const { return lo_; }
  Micros hi() const { return hi_; }

 private:
  const Rollup& rollup_;
  EState* estate_;
  Actor& reader_;
  bool everything_ = true;
  Micros lo_ = minus_infinity, hi_ = plus_infinity;
  List* scans_ = nullptr;  // of each scan the conditions that can be judged, a list
};

}  // namespace tick::pg
