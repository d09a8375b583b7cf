// Windows in time zones: what clocks read and when days begin, by brute force over zones with every kind of
// change, and the laws of windows there.
#include "core/zone.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <random>

#include "core/error.hpp"
#include "core/window.hpp"

namespace {

using tick::Micros;
using tick::WindowSize;
using tick::Zone;

constexpr Micros minute = 60'000'000;
constexpr Micros hour = 60 * minute;
constexpr Micros day = tick::micros_per_day;

// The calendar of the standard library, independent of ours.
Micros at(std::chrono::sys_days date, Micros time = 0) {
  using namespace std::chrono;
  return (date - sys_days(2000y / January / 1d)).count() * day + time;
}
Micros at(int year, unsigned month, unsigned day_of_month, Micros time = 0) {
  return at(std::chrono::sys_days(std::chrono::year(year) / std::chrono::month(month) /
                                  std::chrono::day(day_of_month)),
            time);
}

// The present rule of New York, for ever: second Sunday of March to first of November, 2:00.
Zone new_york() {
  using namespace std::chrono;
  std::vector<Zone::Change> changes;
  for (int y = 1883; y < 2440; ++y) {
    changes.push_back({at(sys_days(year(y) / March / Sunday[2]), 7 * hour), -4 * hour});
    changes.push_back({at(sys_days(year(y) / November / Sunday[1]), 6 * hour), -5 * hour});
  }
  return {-5 * hour, changes};
}

std::vector<Zone> zones() {
  std::vector<Zone> all;
  all.push_back(new_york());
  all.emplace_back(330 * minute, std::vector<Zone::Change>{});
  // Past midnight forward; back over midnight; an hour twice from midnight on; a minute after midnight back.
  all.emplace_back(-3 * hour, std::vector<Zone::Change>{{at(2010, 10, 17, 3 * hour), -2 * hour},
                                                        {at(2011, 2, 20, 2 * hour), -3 * hour},
                                                        {at(2012, 4, 1, 4 * hour), -4 * hour},
                                                        {at(2012, 8, 1, 4 * hour + minute), -5 * hour}});
  // A day is left out, half an hour comes and goes, a day comes twice.
  all.emplace_back(-10 * hour, std::vector<Zone::Change>{{at(2011, 12, 30, 10 * hour), 14 * hour},
                                                         {at(2012, 4, 1, 3 * hour), 14 * hour + 30 * minute},
                                                         {at(2012, 9, 1, 3 * hour), 14 * hour},
                                                         {at(2015, 3, 3, 10 * hour), -10 * hour}});
  return all;
}

TEST(Zone, DaysOfNewYork) {
  const Zone zone = new_york();
  EXPECT_EQ(zone.local(at(2026, 3, 8, 7 * hour - 1)), at(2026, 3, 8, 2 * hour - 1));
  EXPECT_EQ(zone.local(at(2026, 3, 8, 7 * hour)), at(2026, 3, 8, 3 * hour));
  EXPECT_EQ(zone.moment(at(2026, 3, 8)), at(2026, 3, 8, 5 * hour));
  EXPECT_EQ(zone.moment(at(2026, 3, 9)), at(2026, 3, 9, 4 * hour));
  EXPECT_EQ(zone.moment(at(2026, 3, 8, 2 * hour + 30 * minute)), at(2026, 3, 8, 7 * hour)) << "left out";
  EXPECT_EQ(zone.moment(at(2026, 11, 1, 90 * minute)), at(2026, 11, 1, 390 * minute)) << "the second one";
  // 400 years are whole weeks: the rule goes on.
  for (const int later : {400, 800, 4000, 200'000}) {
    const int year = std::min(2026 + later, 32'026);
    EXPECT_EQ(zone.moment(at(year, 7, 1)), at(year, 7, 1, 4 * hour));
    EXPECT_EQ(zone.local(at(year, 1, 1)), at(year, 1, 1) - 5 * hour);
  }
  for (const Micros size : {4 * hour}) {
    const WindowSize windows{.micros = size, .zone = &zone};
    const auto lengths = [&](Micros start, int days) {
      std::string result;
      const Micros end = zone.moment(zone.local(start) + days * day);
      for (; start < end; start = tick::next_window(start, windows))
        result += std::to_string((tick::window_end(start, windows) - start) / hour);
      return result;
    };
    EXPECT_EQ(lengths(at(2026, 3, 8, 5 * hour), 1), "444443");
    EXPECT_EQ(lengths(at(2026, 11, 1, 4 * hour), 1), "4444441");
    EXPECT_EQ(lengths(at(2026, 11, 2, 5 * hour), 1), "444444");
  }
}

TEST(Zone, MomentIsTheFirstFromWhichClocksNeverReadLess) {
  for (const Zone& zone : zones()) {
    const Micros from = at(2010, 1, 1), to = at(2015, 12, 31);
    std::vector<Micros> least;  // that clocks read from here on
    for (Micros t = to; t >= from; t -= 15 * minute)
      least.push_back(std::min(zone.local(t), least.empty() ? tick::plus_infinity : least.back()));
    for (Micros local = at(2010, 1, 3); local < at(2015, 12, 1); local += 105 * minute) {
      const Micros moment = zone.moment(local);
      ASSERT_EQ(moment % (15 * minute), 0);
      ASSERT_GE(least[(to - moment) / (15 * minute)], local);
      ASSERT_LT(least[(to - moment) / (15 * minute) + 1], local);
    }
  }
}

TEST(Zone, EveryTimeIsInItsWindowsAndWindowsTile) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  const auto all = zones();
  for (int round = 0; round < 100'000; ++round) {
    WindowSize size;
    size.zone = random() % 5 == 0 ? nullptr : &all[random() % all.size()];
    switch (random() % 4) {
      case 0:
        size.months = std::vector<int>{1, 3, 12}[random() % 3];
        break;
      case 1:
        size.days = std::vector<int>{1, 2, 7}[random() % 3];
        break;
      default:
        size.micros = std::vector<Micros>{minute, 15 * minute, hour, 4 * hour, 5 * hour, day}[random() % 6];
        if (random() % 2 == 0 && size.micros % hour == 0 && size.micros != 5 * hour)
          size.slide = size.micros / std::vector<Micros>{1, 2, 4}[random() % 3];
    }
    if (random() % 3 == 0)
      size.begin_at(at(2001, 1, 2 + random() % 26, static_cast<Micros>(random() % 1440) * minute));
    ASSERT_EQ(size.validate(), "");
    // Mostly near changes.
    Micros t = random() % 2 == 0
                   ? at(2010, 1, 1) + static_cast<Micros>(random() % (6 * 365 * day))
                   : std::vector<Micros>{at(2010, 10, 17), at(2011, 2, 20), at(2012, 4, 1), at(2011, 12, 30),
                                         at(2015, 3, 3),   at(2012, 3, 11), at(2012, 11, 4)}[random() % 7] -
                         day + static_cast<Micros>(random() % (3 * 1440)) * minute;
    SCOPED_TRACE(testing::Message() << "round " << round << ", " << size.months << " months " << size.days
                                    << " days " << size.micros << " slide " << size.slide << " at " << t);
    const Micros last = tick::window_start(t, size);
    ASSERT_LE(last, t);
    ASSERT_LT(t, tick::next_window(last, size));
    ASSERT_EQ(tick::window_start(last, size), last);
    ASSERT_EQ(tick::previous_window(tick::next_window(last, size), size), last);
    Micros start = tick::first_window(t, size);
    for (int64_t nth = windows_of_time(size); nth-- > 0; start = tick::next_window(start, size)) {
      ASSERT_EQ(tick::nth_window(t, nth, size), start);
      const Micros end = tick::window_end(start, size);
      ASSERT_LE(start, t);
      ASSERT_LT(t, end);
      ASSERT_EQ(tick::window_ending(end, size), start);
      ASSERT_EQ(tick::end_of_rows(start + 1, size), end);
      ASSERT_EQ(start % tick::pane_width(size), 0);
      ASSERT_EQ(end % tick::pane_width(size), 0);
    }
    ASSERT_EQ(start, tick::next_window(last, size)) << "as many as hold it";
    ASSERT_LE(tick::window_end(tick::previous_window(tick::first_window(t, size), size), size), t);
  }
}

TEST(Zone, CumulatingWindowsGrowWithinADay) {
  const Zone zone = new_york();
  const WindowSize hours{.micros = hour, .grows = day, .zone = &zone};
  ASSERT_EQ(hours.validate(), "");
  // Days of 24, 23 and 25 hours.
  for (const auto& [midnight, length] : {std::pair{at(2026, 3, 7, 5 * hour), 24},
                                         {at(2026, 3, 8, 5 * hour), 23},
                                         {at(2026, 11, 1, 4 * hour), 25}}) {
    const Micros t = midnight + 90 * minute;
    EXPECT_EQ(tick::first_window(t, hours), midnight + hour);
    EXPECT_EQ(tick::nth_window(t, 0, hours), midnight + (length - 1) * hour);
    EXPECT_EQ(tick::nth_window(t, length - 2, hours), midnight + hour);
    EXPECT_EQ(tick::nth_window(t, length - 1, hours), tick::minus_infinity);
    EXPECT_EQ(tick::end_of_windows(t, hours), midnight + length * hour);
    EXPECT_EQ(tick::first_window_from(t, hours), midnight + length * hour);
    EXPECT_GE(tick::most_windows_of_time(hours), length);
  }
  // The last of 4 hours has one on 2026-11-01.
  const WindowSize halves{.micros = 30 * minute, .grows = 4 * hour, .zone = &zone};
  EXPECT_EQ(tick::nth_window(at(2026, 11, 2, 4 * hour), 0, halves), at(2026, 11, 2, 4 * hour + 30 * minute));
  EXPECT_EQ(tick::begin_of_rows(at(2026, 11, 2, 4 * hour + 30 * minute), halves), at(2026, 11, 2, 4 * hour));
  // Their steps and what they grow within are tumbling windows.
  std::mt19937_64 random(20260308);
  for (const Zone& of : zones())
    for (const auto& [step, size] :
         {std::pair{hour, day}, {30 * minute, 4 * hour}, {6 * hour, day}, {day, day}}) {
      const WindowSize grows{.micros = step, .grows = size, .zone = &of};
      const WindowSize steps{.micros = step, .zone = &of}, whole{.micros = size, .zone = &of};
      for (int i = 0; i < 2000; ++i) {
        const Micros t = at(2010, 1, 1) + static_cast<Micros>(random() % (6 * 366 * day));
        const Micros begin = tick::window_start(t, whole), end = tick::next_window(begin, whole);
        int64_t windows = 0;
        for (Micros start = tick::window_start(t, steps); start < end;
             start = tick::next_window(start, steps))
          ++windows;
        ASSERT_LE(windows, tick::most_windows_of_time(grows));
        Micros start = tick::window_start(t, steps);
        ASSERT_EQ(tick::first_window(t, grows), start);
        for (int64_t nth = windows; nth-- > 0; start = tick::next_window(start, grows)) {
          ASSERT_EQ(tick::nth_window(t, nth, grows), start) << t << ' ' << nth;
          ASSERT_EQ(tick::begin_of_rows(start, grows), begin);
          ASSERT_EQ(tick::window_end(start, grows), tick::next_window(start, steps));
        }
        ASSERT_EQ(tick::nth_window(t, windows, grows), tick::minus_infinity);
        ASSERT_EQ(tick::end_of_windows(t + 1, grows), end);
        ASSERT_EQ(tick::first_window_from(t, grows), t == begin ? begin : end);
        ASSERT_EQ(begin % tick::pane_width(grows), 0);
      }
    }
}

TEST(Zone, OffsetsAreQuartersOfAnHour) {
  const Zone old(-(4 * hour + 56 * minute + 2'000'000), {{at(1883, 11, 18, 17 * hour), -5 * hour},
                                                         {at(1960, 5, 1), -5 * hour + 1'000'000},
                                                         {at(1971, 1, 1), -5 * hour}});
  EXPECT_EQ(old.local(at(1800, 1, 1)), at(1800, 1, 1) - 5 * hour);
  EXPECT_EQ(old.local(at(1965, 1, 1)), at(1965, 1, 1) - 5 * hour);
  EXPECT_THROW(Zone(7 * minute, {}), tick::Error);
  EXPECT_THROW(Zone(0, {{at(2020, 1, 1), 7 * minute}}), tick::Error);
  EXPECT_NO_THROW(Zone(7 * minute, {{at(1972, 1, 7), 0}}));
}

TEST(Zone, BoundsDoNotOverflow) {
  const Zone zone = new_york();
  for (const WindowSize& size :
       {WindowSize{.months = 12'000, .zone = &zone}, WindowSize{.days = 7, .zone = &zone},
        WindowSize{.micros = 4 * hour, .zone = &zone},
        WindowSize{.micros = 4 * hour, .slide = hour, .zone = &zone}}) {
    for (const Micros t : {tick::plus_infinity, tick::minus_infinity}) {
      EXPECT_EQ(tick::window_start(t, size), t);
      EXPECT_EQ(tick::window_end(t, size), t);
      EXPECT_EQ(tick::first_window(t, size), t);
    }
    for (const Micros t :
         {tick::timestamp_min, tick::timestamp_end - 1, tick::plus_infinity - 1, tick::minus_infinity + 1}) {
      EXPECT_LE(tick::first_window(t, size), t);
      EXPECT_GE(tick::window_end(tick::window_start(t, size), size), tick::window_start(t, size));
    }
  }
}

TEST(Zone, OriginsThatCannotBeKept) {
  WindowSize size{.days = 1};
  size.begin_at(17 * hour + 1);
  EXPECT_NE(size.validate(), "");
  size = {.micros = 250'000};
  size.begin_at(17 * hour + 125'000);
  EXPECT_NE(size.validate(), "");
  size.begin_at(17 * hour + 500'000);
  EXPECT_EQ(size.validate(), "");
  size = {.months = 1};
  size.begin_at(at(2001, 1, 29));
  EXPECT_NE(size.validate(), "");
  size.begin_at(at(2001, 1, 15, 17 * hour));
  EXPECT_EQ(size.validate(), "");
  EXPECT_EQ(tick::window_start(at(2024, 3, 15, 17 * hour - 1), size), at(2024, 2, 15, 17 * hour));
  EXPECT_EQ(tick::window_end(at(2024, 2, 15, 17 * hour), size), at(2024, 3, 15, 17 * hour));
}

}  // namespace
