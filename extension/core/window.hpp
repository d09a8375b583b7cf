// Calendar arithmetic of tumbling, hopping and cumulating windows in UTC or a time zone: where a window
// starts, where it ends, where its rows begin, and the widest pane that subdivides it. Timestamps are
// PostgreSQL's: microseconds since 2000-01-01 00:00 UTC, proleptic Gregorian. Every function is total and
// free of overflow: results beyond the 64-bit range become the infinities.
#pragma once

#include <cstdint>
#include <string>

#include "types.hpp"
#include "zone.hpp"

namespace tick {

inline constexpr Micros micros_per_day = 86'400'000'000;
// PostgreSQL's finite timestamps: [4714-11-24 BC, 294277-01-01).
inline constexpr Micros timestamp_min = -211'813'488'000'000'000;
inline constexpr Micros timestamp_end = 9'223'371'331'200'000'000;
inline constexpr int32_t max_window_months = 12'000;
inline constexpr int32_t max_window_days = 365'250;

inline constexpr int64_t max_windows_of_time = 64;  // that a rollup keeps

// Exactly one of months, days and micros is non-zero. 24 hours of micros mean one day.
struct WindowSize {
  int32_t months = 0;
  int32_t days = 0;
  Micros micros = 0;
  Micros slide = 0;  // 0: tumbling; else a window of `micros` starts every `slide`
  // 0, or the windows cumulate: they grow by steps of `micros` within tumbling ones of so many. Each is
  // called by the start of its last step, at which its rows do not begin: see begin_of_rows(). Starts and
  // ends are those of the steps.
  Micros grows = 0;

  const Zone* zone = nullptr;  // nullptr: UTC
  // The origin, as clocks of the zone read: days begin at its time of day, days and months are counted from
  // its date, months begin on its day. Without one, midnight, Monday 2000-01-03 (7 days are ISO weeks) and
  // 2000-01-01 (3 months are quarters, 12 are years).
  Micros day_begins = 0;
  int64_t first_day = 2;  // since 2000-01-01
  int32_t first_month = 0;
  int32_t month_begins = 0;  // days after its first

  // `moment` becomes the origin; the zone must be set before.
  void begin_at(Micros moment);
  // Returns an empty text if the size is usable, else the reason why not.
  std::string validate() const;
  bool operator==(const WindowSize&) const = default;
};

// True for the timestamps PostgreSQL can hold, infinities excluded.
constexpr bool is_finite_timestamp(Micros t) {
  return t >= timestamp_min && t < timestamp_end;
}

// Returns what a window that starts at `start` is called: minus_infinity where PostgreSQL has no timestamp
// for it, as of the year in which its first one lies. Such a window holds no rows: they are without a time.
constexpr Micros window_label(Micros start) {
  return start < timestamp_min ? minus_infinity : start;
}

// Returns how many windows hold a time: 1, or size / slide; of cumulating ones, of a day of 24 hours, at most
// size / step.
constexpr int64_t windows_of_time(const WindowSize& size) {
  if (size.grows != 0) return size.grows / size.micros;
  return size.slide == 0 ? 1 : size.micros / size.slide;
}

// Returns the same for the longest day that a zone has: clocks are never set back by more than a day.
constexpr int64_t most_windows_of_time(const WindowSize& size) {
  return size.grows == micros_per_day && size.zone != nullptr ? 2 * windows_of_time(size)
                                                              : windows_of_time(size);
}

// Returns the last start of a window that is not after `t`, which that window holds; an infinity is its own
// window. `size` must be valid.
//   micros: a grid anchored at each midnight of the zone, so that the last window of a day may be short (4 h
//   of New York: five and one of 3 h on 2026-03-08); 24 hours and days: local days, whatever their length;
//   months: calendar months. A day begins when clocks have done with the day before (see Zone::moment).
Micros window_start(Micros t, const WindowSize& size);

// Returns the start of the nth window that holds `t`, counted from 0, the last one; minus_infinity if so many
// cumulating ones do not hold it. And the start of the first one.
Micros nth_window(Micros t, int64_t nth, const WindowSize& size);
Micros first_window(Micros t, const WindowSize& size);

// Returns the start of the window before, and of the next one.
Micros previous_window(Micros start, const WindowSize& size);
Micros next_window(Micros start, const WindowSize& size);

// Returns where the rows begin that windows with a start at or after `start`, any time, consist of, and where
// those end of windows with a start before `end`.
Micros begin_of_rows(Micros start, const WindowSize& size);
Micros end_of_rows(Micros end, const WindowSize& size);

// Returns the time before which all windows start that hold times before `end`.
Micros end_of_windows(Micros end, const WindowSize& size);

// Returns the start from which on windows consist of rows at or after `t` alone.
Micros first_window_from(Micros t, const WindowSize& size);

// Returns the start of the window that ends at `end`.
Micros window_ending(Micros end, const WindowSize& size);

// Returns the end of the window that starts at `start`, plus_infinity for the last one there is. A micros
// window that tumbles never crosses midnight; one that hops is as long as its slides, of which the last of a
// day may be short.
Micros window_end(Micros start, const WindowSize& size);

// Returns the widest pane whose grid, aligned at 2000-01-01 00:00 UTC, subdivides every window of `size`.
Micros pane_width(const WindowSize& size);

// Returns the widest pane that subdivides two panes.
Micros common_pane(Micros a, Micros b);

}  // namespace tick
