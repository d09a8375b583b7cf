// Window arithmetic on whole days and civil months; see window.hpp for the grids.
#include "window.hpp"

#include <numeric>

namespace tick {
namespace {

constexpr int64_t days_from_2000_01_01_to_monday = 2;
constexpr int64_t days_from_0000_03_01_to_2000_01_01 = 730'425;
constexpr int64_t days_per_era = 146'097;  // 400 Gregorian years

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

Micros start_of_day(int64_t day) {
  return saturate(static_cast<__int128>(day) * micros_per_day);
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

}  // namespace

std::string WindowSize::validate() const {
  if ((months != 0) + (days != 0) + (micros != 0) != 1) {
    return "window size must be a number of months, or of days, or a time of at most 24 hours";
  }
  if (months < 0 || days < 0 || micros < 0) return "window size must be positive";
  if (micros > micros_per_day) return "window size in hours must not exceed 24 hours";
  if (months > max_window_months || days > max_window_days) return "window size must not exceed 1000 years";
  if (slide == 0) return {};
  if (micros == 0) return "the size of a hopping window must be a time of at most 24 hours";
  if (slide < 0) return "the slide of a hopping window must be positive";
  if (micros % slide != 0 || micros_per_day % slide != 0)
    return "the slide of a hopping window must divide its size and the day";
  return {};
}

Micros window_start(Micros t, const WindowSize& size) {
  if (is_infinite(t)) return t;
  if (size.slide != 0) return saturate(static_cast<__int128>(t) - floor_mod(t, size.slide));
  if (size.months == 0 && size.days == 0) {
    // With a step that divides the day the grid of the midnights is the grid of the epoch.
    if (micros_per_day % size.micros == 0) {
      return saturate(static_cast<__int128>(t) - floor_mod(t, size.micros));
    }
    const int64_t time_of_day = floor_mod(t, micros_per_day);
    return saturate(static_cast<__int128>(t) - time_of_day % size.micros);
  }
  const int64_t day = floor_div(t, micros_per_day);
  if (size.days != 0) {
    return start_of_day(day - floor_mod(day - days_from_2000_01_01_to_monday, size.days));
  }
  const int64_t month = month_of_day(day);
  return start_of_day(day_of_month(month - floor_mod(month, size.months)));
}

Micros first_window(Micros t, const WindowSize& size) {
  const Micros last = window_start(t, size);
  if (is_infinite(last) || size.slide == 0) return last;
  return saturate(static_cast<__int128>(last) - (size.micros - size.slide));
}

Micros next_window(Micros start, const WindowSize& size) {
  if (is_infinite(start) || size.slide == 0) return window_end(start, size);
  return saturate(static_cast<__int128>(start) + size.slide);
}

Micros end_of_rows(Micros end, const WindowSize& size) {
  return is_infinite(end) ? end : window_end(window_start(end - 1, size), size);
}

Micros window_ending(Micros end, const WindowSize& size) {
  if (is_infinite(end)) return end;
  if (size.slide == 0) return window_start(end - 1, size);
  return saturate(static_cast<__int128>(end) - size.micros);
}

Micros window_end(Micros start, const WindowSize& size) {
  if (is_infinite(start)) return start;
  if (size.slide != 0) return saturate(static_cast<__int128>(start) + size.micros);
  if (size.months == 0 && size.days == 0) {
    const int64_t left_of_day = micros_per_day - floor_mod(start, micros_per_day);
    return saturate(static_cast<__int128>(start) + (size.micros < left_of_day ? size.micros : left_of_day));
  }
  if (size.days != 0) return saturate(start + static_cast<__int128>(size.days) * micros_per_day);
  return start_of_day(day_of_month(month_of_day(floor_div(start, micros_per_day)) + size.months));
}

Micros pane_width(const WindowSize& size) {
  if (size.slide != 0) return size.slide;
  if (size.months != 0 || size.days != 0) return micros_per_day;
  return std::gcd(size.micros, micros_per_day);
}

Micros common_pane(Micros a, Micros b) {
  return std::gcd(a, b);
}

}  // namespace tick
