// The open windows of every rollup: they have rows, and the watermark has not passed their end. The table
// tick_catalog.open_window is the truth, read when a definition has changed or a turn has failed; a window
// leaves it in the transaction that tells of its end, so that each is told of once.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <vector>

#include "rollup.hpp"

namespace tick::pg {

class OpenWindows {
 public:
  // Reads all of them under the active snapshot. Inside SPI. Throws.
  void load();
  // Takes in the windows that a turn has written to. Inside SPI, after the state. `before`: the watermark the
  // turn began with: a window that had ended by then was told of already, unless these are its first rows.
  void touch(const Rollup& rollup, const std::set<Micros>& windows, std::optional<TimestampTz> before,
             TimestampTz turn);
  // Takes in windows computed from the source: history that the watermark has passed is told of by nobody.
  void touch_recomputed(const Rollup& rollup, const std::set<Micros>& windows,
                        std::optional<TimestampTz> after);

  // The end of the earliest open window of a rollup; plus_infinity if none is open.
  Micros earliest_end(const Rollup& rollup) const;
  // The open windows that end at or before a watermark, ascending.
  std::vector<Micros> ended(const Rollup& rollup, TimestampTz watermark) const;
  // Removes windows: from the table, inside SPI; from memory, once that is committed.
  void remove(const Rollup& rollup, const std::vector<Micros>& windows);
  void forget(const Rollup& rollup, const std::vector<Micros>& windows);

 private:
  void add(const Rollup& rollup, const std::vector<Micros>& windows);

  std::map<int, std::set<Micros>> open_;
};

// Of a rollup that is recomputed: the windows with rows that have been touched since, without window 0; and
// notes some. Inside SPI. Throws.
std::set<Micros> touched_windows(const Rollup& rollup);
void touch_windows(const Rollup& rollup, const std::vector<Micros>& windows);

}  // namespace tick::pg
