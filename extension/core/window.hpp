// Calendar arithmetic of tumbling windows in UTC: where a window starts, where it ends, and the finest pane
// that subdivides it. Timestamps are PostgreSQL's: microseconds since 2000-01-01 00:00 UTC, proleptic
// Gregorian. Every function is total and free of overflow: results beyond the 64-bit range become the
// infinities.
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

// Exactly one member is non-zero. 24 hours of micros mean one day.
struct WindowSize {
  int32_t months = 0;
  int32_t days = 0;
  Micros micros = 0;

  // Returns an empty text if the size is usable, else the reason why not.
  std::string validate() const;
  bool operator==(const WindowSize&) const = default;
};

// True for the timestamps PostgreSQL can hold, infinities excluded.
constexpr bool is_finite_timestamp(Micros t) {
  return t >= timestamp_min && t < timestamp_end;
}

// Returns the start of the window that holds `t`; an infinity is its own window. `size` must be valid.
//   micros: a grid anchored at each midnight; days: steps counted from Monday 2000-01-03 (7 are ISO weeks);
//   months: calendar months counted from 2000-01 (3 are quarters, 12 are years).
Micros window_start(Micros t, const WindowSize& size);

// Returns the end of the window that starts at `start`. A micros window never crosses midnight: the last one
// of a day is short if the size does not divide the day.
Micros window_end(Micros start, const WindowSize& size);

// Returns the widest pane whose grid, aligned at 2000-01-01 00:00 UTC, subdivides every window of `size`.
Micros pane_width(const WindowSize& size);

// Returns the widest pane that subdivides two panes.
Micros common_pane(Micros a, Micros b);

}  // namespace tick
