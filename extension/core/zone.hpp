// A time zone: what clocks there read at any moment, and at which moment they have done with a local time.
// The adapter hands over the changes of its offset; how those of today go on for ever is known here. Every
// function is total and free of overflow.
#pragma once

#include <vector>

#include "types.hpp"

namespace tick {

// Clocks run in whole quarters of an hour: what is older than 1972 (local mean times, mostly) is rounded to
// them, so that panes of a quarter of an hour serve the days of every zone.
inline constexpr Micros zone_quarter = 900'000'000;

class Zone {
 public:
  // From `at` on local time is UTC + offset.
  struct Change {
    Micros at;
    Micros offset;
  };
  // Changes must be handed over up to here (2440-01-01); from 2040 on they repeat every 400 years.
  static constexpr Micros changes_until = 160'707 * 86'400'000'000;

  // `first` is the offset before all changes, which come in order. Throws Error if offsets of after 1972 are
  // no whole quarters of an hour.
  Zone(Micros first, const std::vector<Change>& changes);

  // What clocks read at a moment.
  Micros local(Micros moment) const;
  // The first moment from which on clocks never read less than `local` again: midnight, or where clocks go
  // past it forward, the moment they do; where they read it twice because it comes again after what is before
  // it, the second.
  Micros moment(Micros local) const;

 private:
  size_t period_of(Micros moment) const;

  std::vector<Change> periods_;  // the first begins with time itself
};

}  // namespace tick
