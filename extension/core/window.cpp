// Window arithmetic on whole days and civil months; see window.hpp for the grids.
#include "window.hpp"

#include <algorithm>
#include <numeric>

namespace tick {
namespace {

constexpr int64_t days_from_0000_03_01_to_2000_01_01 = 730'425;
constexpr int64_t days_per_era = 146'097;  // 400 Gregorian years
constexpr Micros micros_per_minute = 60'000'000;

constexpr int64_t floor_div(int64_t a, int64_t b) {
  return a / b - (a % b < 0 ? 1 : 0);
}

constexpr int64_t floor_mod(int64_t a, int64_t b) {
  const int64_t remainder = a % b;
  return remainder < 0 ? remainder + b : remainder;
}

constexpr Micros saturate(__int128 t) {
  if (t > plus_infinity) return plus_infinity;
  if (t < minus_infinity) return minus_infinity;
  return static_cast<Micros>(t);
}

// Months since 2000-01 of a day counted from 2000-01-01. Years begin in March inside, so that the leap day is
// last.
int64_t month_of_day(int64_t day) {
  const int64_t shifted = day + days_from_0000_03_01_to_2000_01_01;
  const int64_t era = floor_div(shifted, days_per_era);
  const int64_t day_of_era = floor_mod(shifted, days_per_era);
  const int64_t year_of_era =
      (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
  const int64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
  const int64_t month_from_march = (5 * day_of_year + 2) / 153;
  return (era * 400 + year_of_era - 2000) * 12 + month_from_march + 2;
}

// First day, counted from 2000-01-01, of a month counted from 2000-01.
int64_t day_of_month(int64_t month) {
  const int64_t months_from_march = month - 2 + 2000 * 12;
  const int64_t year = floor_div(months_from_march, 12);
  const int64_t month_from_march = floor_mod(months_from_march, 12);
  const int64_t era = floor_div(year, 400);
  const int64_t year_of_era = floor_mod(year, 400);
  const int64_t day_of_year = (153 * month_from_march + 2) / 5;
  const int64_t day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
  return era * days_per_era + day_of_era - days_from_0000_03_01_to_2000_01_01;
}

bool is_infinite(Micros t) {
  return t == minus_infinity || t == plus_infinity;
}

bool is_plain(const WindowSize& size) {
  return size.zone == nullptr && size.day_begins == 0;
}

// From one start of a window to the next, unless that is a matter of the calendar: then 0.
Micros step_of(const WindowSize& size) {
  const Micros step = size.slide != 0 ? size.slide : size.micros;
  return step == micros_per_day ? 0 : step;
}

// The days of a window are those of its zone, each from the origin's time of day to that of the next.
Micros begin_of_day(int64_t day, const WindowSize& size) {
  const Micros local = saturate(static_cast<__int128>(day) * micros_per_day + size.day_begins);
  return size.zone == nullptr || is_infinite(local) ? local : size.zone->moment(local);
}

int64_t day_of(Micros t, const WindowSize& size) {
  const Micros local = size.zone == nullptr ? t : size.zone->local(t);
  int64_t day = floor_div(saturate(static_cast<__int128>(local) - size.day_begins), micros_per_day);
  while (begin_of_day(day, size) > t) --day;  // clocks read this day, but have not done with the one before
  return day;
}

// The first day of the window of days or months that holds a day.
int64_t first_day_of(int64_t day, const WindowSize& size) {
  if (size.months == 0) return day - floor_mod(day - size.first_day, std::max(size.days, 1));
  const int64_t month = month_of_day(day - size.month_begins);
  return day_of_month(month - floor_mod(month - size.first_month, size.months)) + size.month_begins;
}

// The windows within which cumulating ones grow.
WindowSize whole_of(const WindowSize& size) {
  WindowSize whole = size;
  whole.micros = size.grows;
  whole.grows = 0;
  return whole;
}

// The start of the nth cumulating window that holds a time, counted back from that of all steps.
Micros nth_step(Micros t, int64_t nth, const WindowSize& size) {
  const WindowSize whole = whole_of(size);
  const Micros first = window_start(t, whole);
  if (is_infinite(t) || size.micros == size.grows) return nth == 0 ? first : minus_infinity;
  const __int128 length = static_cast<__int128>(next_window(first, whole)) - first;
  const __int128 before = (length - 1) / size.micros - nth;
  const __int128 start = first + before * size.micros;
  return start + size.micros <= t || before < 0 ? minus_infinity : saturate(start);
}

// The start of the window so many slides before, most often at once: all slides of a day of 24 hours are
// whole.
Micros back(Micros start, int64_t windows, const WindowSize& size) {
  if (is_infinite(start) || windows == 0) return start;
  const Micros there = saturate(static_cast<__int128>(start) - static_cast<__int128>(windows) * size.slide);
  if (is_plain(size) || is_infinite(there)) return there;
  const int64_t from = day_of(there, size), to = day_of(start, size);
  if (begin_of_day(to, size) - begin_of_day(from, size) == (to - from) * micros_per_day) return there;
  for (; windows > 0; --windows) start = previous_window(start, size);
  return start;
}

}  // namespace

void WindowSize::begin_at(Micros moment) {
  const Micros local = zone == nullptr ? moment : zone->local(moment);
  first_day = floor_div(local, micros_per_day);
  day_begins = floor_mod(local, micros_per_day);
  const int64_t month = month_of_day(first_day);
  first_month = static_cast<int32_t>(month);
  month_begins = static_cast<int32_t>(first_day - day_of_month(month));
}

std::string WindowSize::validate() const {
  if (grows != 0) {
    if (grows < 0 || micros <= 0) return "the size and the step of a cumulating window must be positive";
    if (grows > micros_per_day) return "the size of a cumulating window must be a time of at most 24 hours";
    if (grows % micros != 0 || micros_per_day % grows != 0)
      return "the step of a cumulating window must divide its size, and the size the day";
  }
  if ((months != 0) + (days != 0) + (micros != 0) != 1) {
    return "window size must be a number of months, or of days, or a time of at most 24 hours";
  }
  if (months < 0 || days < 0 || micros < 0) return "window size must be positive";
  if (micros > micros_per_day) return "window size in hours must not exceed 24 hours";
  if (months > max_window_months || days > max_window_days) return "window size must not exceed 1000 years";
  const Micros step = step_of(*this) == 0 ? micros_per_day : step_of(*this);
  if (day_begins % std::gcd(step, micros_per_minute) != 0)
    return "the origin of a window must be a whole minute, or lie on the grid of a shorter one";
  if (months != 0 && month_begins > 27) return "the origin of a window of months must not be after the 28th";
  if (slide == 0) return {};
  if (micros == 0) return "the size of a hopping window must be a time of at most 24 hours";
  if (slide < 0) return "the slide of a hopping window must be positive";
  if (micros % slide != 0 || micros_per_day % slide != 0)
    return "the slide of a hopping window must divide its size and the day";
  return {};
}

Micros window_start(Micros t, const WindowSize& size) {
  if (is_infinite(t)) return t;
  const Micros step = step_of(size);
  if (step != 0) {
    // With a step that divides the day the grid of UTC's midnights is the grid of the epoch.
    if (is_plain(size) && micros_per_day % step == 0)
      return saturate(static_cast<__int128>(t) - floor_mod(t, step));
    const Micros midnight = begin_of_day(day_of(t, size), size);
    return saturate(static_cast<__int128>(t) - (static_cast<__int128>(t) - midnight) % step);
  }
  return begin_of_day(first_day_of(day_of(t, size), size), size);
}

Micros previous_window(Micros start, const WindowSize& size) {
  return is_infinite(start) ? start : window_start(start - 1, size);
}

Micros next_window(Micros start, const WindowSize& size) {
  if (is_infinite(start)) return start;
  if (const Micros step = step_of(size); step != 0) {
    const __int128 next = static_cast<__int128>(start) + step;
    if (is_plain(size) && micros_per_day % step == 0) return saturate(next);
    const Micros midnight = begin_of_day(day_of(start, size) + 1, size);
    return next < midnight ? saturate(next) : midnight;
  }
  const int64_t first = first_day_of(day_of(start, size), size);
  return begin_of_day(size.months == 0 ? first + std::max(size.days, 1)
                                       : day_of_month(month_of_day(first) + size.months) + size.month_begins,
                      size);
}

Micros nth_window(Micros t, int64_t nth, const WindowSize& size) {
  if (size.grows != 0) return nth_step(t, nth, size);
  return back(window_start(t, size), nth, size);
}

Micros first_window(Micros t, const WindowSize& size) {
  if (size.grows != 0) return window_start(t, size);
  return nth_window(t, windows_of_time(size) - 1, size);
}

Micros begin_of_rows(Micros start, const WindowSize& size) {
  return size.grows == 0 ? start : window_start(start, whole_of(size));
}

Micros end_of_rows(Micros end, const WindowSize& size) {
  return is_infinite(end) ? end : window_end(window_start(end - 1, size), size);
}

Micros window_ending(Micros end, const WindowSize& size) {
  if (is_infinite(end)) return end;
  const Micros last = window_start(end - 1, size);
  return size.slide == 0 ? last : back(last, windows_of_time(size) - 1, size);
}

Micros end_of_windows(Micros end, const WindowSize& size) {
  if (size.grows == 0 || is_infinite(end)) return end;
  const WindowSize whole = whole_of(size);
  return next_window(window_start(end - 1, whole), whole);
}

Micros first_window_from(Micros t, const WindowSize& size) {
  if (size.grows != 0) return first_window_from(t, whole_of(size));
  const Micros start = window_start(t, size);
  return start == t ? start : next_window(start, size);
}

namespace {

Micros unbounded_end(Micros start, const WindowSize& size) {
  if (size.slide == 0) return next_window(start, size);
  if (is_infinite(start)) return start;
  const Micros there = saturate(static_cast<__int128>(start) + size.micros);
  if (is_plain(size) || is_infinite(there)) return there;
  const int64_t from = day_of(start, size), to = day_of(there - 1, size) + 1;
  if (begin_of_day(to, size) - begin_of_day(from, size) == (to - from) * micros_per_day) return there;
  for (int64_t left = windows_of_time(size); left > 0; --left) start = next_window(start, size);
  return start;
}

}  // namespace

Micros window_end(Micros start, const WindowSize& size) {
  const Micros end = unbounded_end(start, size);
  return end >= timestamp_end ? plus_infinity : end;
}

Micros pane_width(const WindowSize& size) {
  Micros pane = step_of(size) == 0 ? micros_per_day : std::gcd(step_of(size), micros_per_day);
  if (size.zone != nullptr) pane = std::gcd(pane, zone_quarter);
  return std::gcd(pane, size.day_begins);
}

Micros common_pane(Micros a, Micros b) {
  return std::gcd(a, b);
}

}  // namespace tick
