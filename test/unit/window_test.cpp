// Window arithmetic: known dates, and the laws that hold for every size and time.
#include "core/window.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <random>
#include <vector>

namespace {

using tick::begin_of_rows;
using tick::end_of_rows;
using tick::end_of_windows;
using tick::first_window;
using tick::first_window_from;
using tick::Micros;
using tick::micros_per_day;
using tick::minus_infinity;
using tick::most_windows_of_time;
using tick::next_window;
using tick::nth_window;
using tick::pane_width;
using tick::plus_infinity;
using tick::window_end;
using tick::window_ending;
using tick::window_start;
using tick::windows_of_time;
using tick::WindowSize;

constexpr Micros second = 1'000'000;
constexpr Micros minute = 60 * second;
constexpr Micros hour = 60 * minute;
constexpr Micros day = tick::micros_per_day;

// The calendar of the standard library, independent of ours.
Micros at(int year, unsigned month, unsigned day_of_month, Micros time = 0) {
  using namespace std::chrono;
  const auto date =
      sys_days(std::chrono::year(year) / std::chrono::month(month) / std::chrono::day(day_of_month));
  return (date - sys_days(2000y / January / 1d)).count() * day + time;
}

WindowSize months(int32_t n) {
  return {.months = n};
}
WindowSize days(int32_t n) {
  return {.days = n};
}
WindowSize micros(Micros n) {
  return {.micros = n};
}

std::vector<WindowSize> sizes() {
  std::vector<WindowSize> all;
  for (const int32_t n : {1, 2, 3, 5, 6, 7, 12, 60, 120, 1200, tick::max_window_months})
    all.push_back(months(n));
  for (const int32_t n : {1, 2, 3, 7, 10, 14, 28, 365, 1000, tick::max_window_days}) all.push_back(days(n));
  for (const Micros n :
       {Micros{1}, Micros{7}, Micros{250'000}, second, 7 * second, minute, 5 * minute, 7 * minute,
        11 * minute, hour, 4 * hour, 5 * hour, 7 * hour, 23 * hour, day - 1, day}) {
    all.push_back(micros(n));
  }
  return all;
}

std::string describe(const WindowSize& size) {
  return std::to_string(size.months) + " months " + std::to_string(size.days) + " days " +
         std::to_string(size.micros) + " micros";
}

TEST(Window, KnownDates) {
  EXPECT_EQ(window_start(at(2026, 8, 1, 13 * hour + 59 * second), micros(minute)), at(2026, 8, 1, 13 * hour));
  EXPECT_EQ(window_start(at(2026, 8, 1, 13 * hour - 1), micros(hour)), at(2026, 8, 1, 12 * hour));
  EXPECT_EQ(window_start(at(1969, 12, 31, 23 * hour + 1), micros(5 * minute)), at(1969, 12, 31, 23 * hour));
  EXPECT_EQ(window_start(-1, micros(second)), -second);
  EXPECT_EQ(window_start(-1, micros(day)), -day);
  EXPECT_EQ(window_start(at(2026, 8, 1, hour), days(1)), at(2026, 8, 1));
  // ISO weeks begin on Monday.
  EXPECT_EQ(window_start(at(2026, 8, 1), days(7)), at(2026, 7, 27));
  EXPECT_EQ(window_start(at(2000, 1, 1), days(7)), at(1999, 12, 27));
  EXPECT_EQ(window_start(at(2000, 1, 3), days(7)), at(2000, 1, 3));
  EXPECT_EQ(window_start(at(1, 1, 7, day - 1), days(7)), at(1, 1, 1));
  EXPECT_EQ(window_start(at(2000, 1, 12), days(10)), at(2000, 1, 3));
  EXPECT_EQ(window_start(at(2000, 1, 2), days(10)), at(1999, 12, 24));
  EXPECT_EQ(window_start(at(2026, 2, 28, day - 1), months(1)), at(2026, 2, 1));
  EXPECT_EQ(window_end(at(2024, 2, 1), months(1)), at(2024, 3, 1));
  EXPECT_EQ(window_start(at(2026, 8, 1), months(3)), at(2026, 7, 1));
  EXPECT_EQ(window_end(at(2026, 10, 1), months(3)), at(2027, 1, 1));
  EXPECT_EQ(window_start(at(1999, 12, 31), months(12)), at(1999, 1, 1));
  EXPECT_EQ(window_start(at(1900, 2, 28, day - 1), months(1)), at(1900, 2, 1));
  EXPECT_EQ(window_end(at(1900, 2, 1), months(1)), at(1900, 2, 28) + day);
  EXPECT_EQ(window_start(at(1, 3, 31), months(3)), at(1, 1, 1));
  EXPECT_EQ(window_start(at(0, 12, 31), months(12)), at(0, 1, 1));
  EXPECT_EQ(window_start(at(-4712, 1, 1), months(3)), at(-4712, 1, 1));
  EXPECT_EQ(window_start(at(2026, 8, 1), months(120)), at(2020, 1, 1));
}

TEST(Window, LastWindowOfADayIsShort) {
  const WindowSize size = micros(7 * hour);
  EXPECT_EQ(window_start(at(2026, 8, 1, 22 * hour), size), at(2026, 8, 1, 21 * hour));
  EXPECT_EQ(window_end(at(2026, 8, 1, 21 * hour), size), at(2026, 8, 2));
  EXPECT_EQ(window_end(at(2026, 8, 1, 14 * hour), size), at(2026, 8, 1, 21 * hour));
  EXPECT_EQ(window_start(at(2026, 8, 2, hour), size), at(2026, 8, 2));
}

TEST(Window, EveryTimeIsInOneWindowAndWindowsTile) {
  std::mt19937_64 random(11);
  const auto all = sizes();
  for (int round = 0; round < 200'000; ++round) {
    const WindowSize& size = all[random() % all.size()];
    SCOPED_TRACE(testing::Message() << "seed 11, round " << round << ", " << describe(size));
    Micros t = 0;
    switch (random() % 4) {
      case 0:
        t = at(1, 1, 1) + static_cast<Micros>(random() % (4000 * 365 * static_cast<uint64_t>(day)));
        break;
      case 1:
        t = static_cast<Micros>(random() % (2 * static_cast<uint64_t>(day))) - day;
        break;
      case 2:
        t = tick::timestamp_min + static_cast<Micros>(random() % 300'000) * day +
            static_cast<Micros>(random() % 3) - 1;
        break;
      default:
        t = static_cast<Micros>(random() % 800'000) * day - 400'000 * day +
            static_cast<Micros>(random() % 3) - 1;
    }
    const Micros start = window_start(t, size);
    const Micros end = window_end(start, size);
    ASSERT_LE(start, t);
    ASSERT_LT(t, end);
    ASSERT_EQ(window_start(start, size), start);
    ASSERT_EQ(window_start(end - 1, size), start);
    ASSERT_EQ(window_start(end, size), end);
    ASSERT_EQ(window_end(window_start(start - 1, size), size), start);
    const Micros pane = tick::pane_width(size);
    ASSERT_EQ(start % pane, 0);
    ASSERT_EQ(end % pane, 0);
  }
}

TEST(Window, MonthsAgreeWithTheStandardCalendar) {
  for (const int32_t size : {1, 3, 12}) {
    for (int year = -4000; year <= 6000; year += 7) {
      for (unsigned month = 1; month <= 12; ++month) {
        const unsigned first = (month - 1) / size * size + 1;
        const Micros start = window_start(at(year, month, 28, day - 1), months(size));
        ASSERT_EQ(start, at(year, first, 1)) << year << "-" << month;
        const unsigned next = first + size;
        ASSERT_EQ(window_end(start, months(size)),
                  next > 12 ? at(year + 1, next - 12, 1) : at(year, next, 1));
      }
    }
  }
}

TEST(Window, InfinitiesAndBoundsDoNotOverflow) {
  for (const WindowSize& size : sizes()) {
    SCOPED_TRACE(describe(size));
    for (const Micros t : {tick::plus_infinity, tick::minus_infinity}) {
      EXPECT_EQ(window_start(t, size), t);
      EXPECT_EQ(window_end(t, size), t);
    }
    for (const Micros t :
         {tick::timestamp_min, tick::timestamp_end - 1, tick::plus_infinity - 1, tick::minus_infinity + 1}) {
      const Micros start = window_start(t, size);
      EXPECT_LE(start, t);
      EXPECT_GE(window_end(start, size), start);
    }
    EXPECT_GT(window_start(tick::timestamp_min, size), tick::minus_infinity);
    EXPECT_GT(window_end(window_start(tick::timestamp_end - 1, size), size), tick::timestamp_end - 1);
  }
  EXPECT_EQ(window_end(window_start(tick::timestamp_end - 1, months(12'000)), months(12'000)),
            tick::plus_infinity);
  EXPECT_EQ(tick::timestamp_min, at(-4713, 11, 24));
  EXPECT_TRUE(tick::is_finite_timestamp(0));
  EXPECT_FALSE(tick::is_finite_timestamp(tick::timestamp_end));
  EXPECT_FALSE(tick::is_finite_timestamp(tick::minus_infinity));
}

TEST(Window, PanesSubdivide) {
  EXPECT_EQ(tick::pane_width(months(1)), day);
  EXPECT_EQ(tick::pane_width(days(7)), day);
  EXPECT_EQ(tick::pane_width(micros(day)), day);
  EXPECT_EQ(tick::pane_width(micros(hour)), hour);
  EXPECT_EQ(tick::pane_width(micros(7 * hour)), hour);
  EXPECT_EQ(tick::pane_width(micros(7 * second)), second);
  EXPECT_EQ(tick::common_pane(minute, 90 * second), 30 * second);
  EXPECT_EQ(tick::common_pane(day, 5 * minute), 5 * minute);
}

TEST(Window, HopsHoldEachTimeAsOftenAsTheyOverlap) {
  const WindowSize hop{0, 0, 300'000'000, 60'000'000};
  ASSERT_EQ(hop.validate(), "");
  EXPECT_EQ(windows_of_time(hop), 5);
  EXPECT_EQ(pane_width(hop), 60'000'000);
  for (const Micros t : {Micros{0}, Micros{59'999'999}, Micros{60'000'000}, Micros{-1},
                         -7 * micros_per_day - 5, 9 * micros_per_day + 86'399'999'999}) {
    int windows = 0;
    for (Micros start = first_window(t, hop); start <= window_start(t, hop);
         start = next_window(start, hop)) {
      EXPECT_LE(start, t);
      EXPECT_GT(window_end(start, hop), t);
      EXPECT_EQ(window_ending(window_end(start, hop), hop), start);
      ++windows;
    }
    EXPECT_EQ(windows, 5) << t;
    EXPECT_LE(window_end(first_window(t, hop) - hop.slide, hop), t);
    EXPECT_GT(next_window(window_start(t, hop), hop), t);
    // What windows that start before the next one consist of ends with the last of them.
    EXPECT_EQ(end_of_rows(next_window(window_start(t, hop), hop), hop),
              window_end(window_start(t, hop), hop));
  }
  EXPECT_EQ(first_window(plus_infinity, hop), plus_infinity);
  EXPECT_EQ(end_of_rows(plus_infinity, hop), plus_infinity);
  const WindowSize tumbling{0, 0, 300'000'000};
  EXPECT_EQ(windows_of_time(tumbling), 1);
  EXPECT_EQ(first_window(77, tumbling), window_start(77, tumbling));
  EXPECT_EQ(end_of_rows(300'000'000, tumbling), 300'000'000);
  EXPECT_EQ(end_of_rows(300'000'001, tumbling), 600'000'000);
  EXPECT_EQ(end_of_rows(60'000'001, hop), 360'000'000);
  for (const WindowSize& wrong : {WindowSize{0, 0, 300'000'000, 70'000'000}, WindowSize{0, 1, 0, 60'000'000},
                                  WindowSize{0, 0, 49'000'000, 7'000'000}, WindowSize{0, 0, 60'000'000, -1}})
    EXPECT_NE(wrong.validate(), "");
}

TEST(Window, CumulatingWindowsShareTheirBegin) {
  const WindowSize hours{.micros = hour, .grows = day};
  ASSERT_EQ(hours.validate(), "");
  EXPECT_EQ(windows_of_time(hours), 24);
  EXPECT_EQ(most_windows_of_time(hours), 24);
  EXPECT_EQ(pane_width(hours), hour);
  // 10:30: in [0:00, 11:00) and so on, called 10:00, to [0:00, 24:00), called 23:00; before 2000, too.
  for (const Micros midnight : {Micros{0}, -7 * day, 9 * day}) {
    const Micros t = midnight + 10 * hour + 30 * minute;
    EXPECT_EQ(first_window(t, hours), midnight + 10 * hour);
    EXPECT_EQ(nth_window(t, 0, hours), midnight + 23 * hour);
    EXPECT_EQ(nth_window(t, 13, hours), midnight + 10 * hour);
    EXPECT_EQ(nth_window(t, 14, hours), minus_infinity);
    EXPECT_EQ(window_end(midnight + 10 * hour, hours), midnight + 11 * hour);
    EXPECT_EQ(window_ending(midnight + 11 * hour, hours), midnight + 10 * hour);
    EXPECT_EQ(begin_of_rows(midnight + 23 * hour, hours), midnight);
    EXPECT_EQ(begin_of_rows(midnight, hours), midnight);
    EXPECT_EQ(begin_of_rows(midnight - 1, hours), midnight - day);
    EXPECT_EQ(end_of_rows(midnight + 10 * hour + 1, hours), midnight + 11 * hour);
    EXPECT_EQ(end_of_windows(t, hours), midnight + day);
    EXPECT_EQ(end_of_windows(midnight, hours), midnight);
    EXPECT_EQ(first_window_from(midnight, hours), midnight);
    EXPECT_EQ(first_window_from(midnight + 1, hours), midnight + day);
    EXPECT_EQ(first_window_from(midnight - hour, hours), midnight);
  }
  for (const Micros end : {minus_infinity, plus_infinity}) {
    EXPECT_EQ(nth_window(end, 0, hours), end);
    EXPECT_EQ(first_window(end, hours), end);
    EXPECT_EQ(begin_of_rows(end, hours), end);
    EXPECT_EQ(end_of_windows(end, hours), end);
    EXPECT_EQ(first_window_from(end, hours), end);
  }
  const WindowSize hop{.micros = 5 * minute, .slide = minute}, tumble{.micros = 5 * minute};
  for (const WindowSize& size : {hop, tumble}) {
    EXPECT_EQ(begin_of_rows(7 * minute, size), 7 * minute);
    EXPECT_EQ(end_of_windows(7 * minute, size), 7 * minute);
  }
  EXPECT_EQ(first_window_from(6 * minute, hop), 6 * minute);
  EXPECT_EQ(first_window_from(6 * minute + 1, hop), 7 * minute);
  EXPECT_EQ(first_window_from(6 * minute, tumble), 10 * minute);
  for (const WindowSize& right :
       {WindowSize{.micros = day, .grows = day}, WindowSize{.micros = 1, .grows = 1},
        WindowSize{.micros = 7'500'000, .grows = 15'000'000}})
    EXPECT_EQ(right.validate(), "");
  for (const WindowSize& wrong :
       {WindowSize{.micros = 7 * minute, .grows = hour}, WindowSize{.micros = hour, .grows = 5 * hour},
        WindowSize{.micros = day, .grows = 2 * day}, WindowSize{.micros = hour, .grows = minute},
        WindowSize{.micros = -1, .grows = hour}, WindowSize{.micros = minute, .grows = -1}})
    EXPECT_NE(wrong.validate(), "");
}

TEST(Window, ValidationNamesTheMistake) {
  for (const WindowSize& size : sizes()) EXPECT_EQ(size.validate(), "") << describe(size);
  for (const WindowSize& size :
       {WindowSize{}, WindowSize{1, 1, 0}, WindowSize{1, 0, 1}, WindowSize{0, 1, 1}, months(-1), days(-1),
        micros(-1), micros(day + 1), months(tick::max_window_months + 1), days(tick::max_window_days + 1)}) {
    EXPECT_NE(size.validate(), "") << describe(size);
  }
}

}  // namespace
