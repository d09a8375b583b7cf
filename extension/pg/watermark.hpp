// The watermarks of the sources that rollups read: what a turn reads of them, when they move, and what it
// writes back. The arithmetic is core/watermark's; here are the catalog, the settings, the clocks and which
// panes of a fold tell what. Memory holds nothing that matters: how far an idle watermark has walked beyond
// what is stored is found again from the clock.
#pragma once

#include <map>
#include <optional>
#include <vector>

#include "../core/watermark.hpp"
#include "evaluator.hpp"

namespace tick::pg {

class Watermarks {
 public:
  // Reads the settings of all sources with rollups, and what was asked of them. Inside SPI, when a definition
  // has changed. Throws.
  void load();
  // Reads the rows under the active snapshot. Throws.
  void read();
  // Brings every watermark up to this moment, before the rows of the turn are taken in. `since`: the first
  // commit that had not been taken up came then, 0 = none; `lagging`: the turn does not read all there is;
  // `arrived`: sources with rows in this turn.
  void settle(TimestampTz now, TimestampTz since, bool lagging, const std::vector<Oid>& arrived);
  // Where it was settled: what `final` and the next revision go by.
  std::optional<TimestampTz> of(Oid source) const;

  // Windows that end at or before this are frozen; nothing = none is.
  std::optional<TimestampTz> frozen_before(Oid source) const;

  // Takes in the rows that a fold holds; rows read by a recompute are no arrival. `count`: this fold's rows
  // have not been counted through another group's.
  void note(Oid source, const Fold& fold, bool recomputed);
  // Rows that have arrived in this turn.
  int64_t arrived() const;
  // Where the watermark will be after write(), with everything that was noted.
  std::optional<TimestampTz> after(Oid source) const;
  // Where it was when the turn was committed.
  std::optional<TimestampTz> stored(Oid source) const;
  // Makes write() write a source though nothing has arrived.
  void touch(Oid source);
  // Writes what has changed. Throws.
  void write();
  // The turn has been committed.
  void committed();

  // When a watermark has to be looked at again for a window that ends at `goal`; plus_infinity = not before
  // rows arrive.
  TimestampTz due(Oid source, TimestampTz goal) const;

 private:
  struct Source {
    WatermarkRules rules;
    std::optional<Micros> freeze_after;
    AttrNumber by = 0;  // column that the watermark is kept by, 0 = none
    EventTime time;
    Moment moment{};
    int64_t rows = 0, late = 0, future = 0, rejected = 0;
    double rate = 0;
    // Of this turn.
    int64_t new_rows = 0, new_late = 0, new_future = 0, new_rejected = 0;
    bool arrived = false, changed = false;
    Micros quiet_since = minus_infinity;  // the arrival before
    std::optional<Micros> asked;          // tick.set_watermark
    // Of this process.
    Micros reached = minus_infinity;  // settled, perhaps not stored
    int64_t reached_at = 0;           // by the clock that never jumps; 0 = not yet
    ItemPointerData place{};
  };
  void note_values(Source& source, const Fold& fold);

  std::map<Oid, Source> sources_;
  bool asked_ = false;
  TimestampTz now_ = 0;
  TimestampTz watching_since_ = 0;
};

}  // namespace tick::pg
