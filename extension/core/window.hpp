// Calendar arithmetic of tumbling and hopping windows in UTC: where a window starts, where it ends, and the
// finest pane that subdivides it. Timestamps are PostgreSQL's: microseconds since 2000-01-01 00:00 UTC,
// proleptic Gregorian. Every function is total and free of overflow: results beyond the 64-bit range become
// the infinities.
#pragma once

#include <cstdint>
#include <string>

#include "types.hpp"

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

  // Returns an empty text if the size is usable, else the reason why not.
  std::string validate() const;
  bool operator==(const WindowSize&) const = default;
};

// True for the timestamps PostgreSQL can hold, infinities excluded.
constexpr bool is_finite_timestamp(Micros t) {
  return t >= timestamp_min && t < timestamp_end;
}

// Returns how many windows hold a time: 1, or size / slide.
constexpr int64_t windows_of_time(const WindowSize& size) {
  return size.slide == 0 ? 1 : size.micros / size.slide;
}

// Returns the start of the last window that holds `t`; an infinity is its own window. `size` must be valid.
//   micros: a grid anchored at each midnight; days: steps counted from Monday 2000-01-03 (7 are ISO weeks);
//   months: calendar months counted from 2000-01 (3 are quarters, 12 are years).
Micros window_start(Micros t, const WindowSize& size);

// Returns the start of the first window that holds `t`.
Micros first_window(Micros t, const WindowSize& size);

// Returns the start of the next window.
Micros next_window(Micros start, const WindowSize& size);

// Returns the end of the rows that windows with a start before `end`, any time, consist of.
Micros end_of_rows(Micros end, const WindowSize& size);

// Returns the start of the window that ends at `end`.
Micros window_ending(Micros end, const WindowSize& size);

// Returns the end of the window that starts at `start`. A micros window never crosses midnight: the last one
// of a day is short if the size does not divide the day.
Micros window_end(Micros start, const WindowSize& size);

// Returns the widest pane whose grid, aligned at 2000-01-01 00:00 UTC, subdivides every window of `size`.
Micros pane_width(const WindowSize& size);

// Returns the widest pane that subdivides two panes.
Micros common_pane(Micros a, Micros b);

}  // namespace tick
