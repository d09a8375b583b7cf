// The arithmetic of watermarks: what rows and the passing of time do to one, with every moment given.
#include "core/watermark.hpp"

#include <gtest/gtest.h>

#include <algorithm>

using namespace tick;

namespace {

constexpr Micros second = 1'000'000;
constexpr WatermarkRules rules{10 * second, 60 * second, 5 * second};

Moment at(Micros now, Micros credit = 1000 * second) {
  return Moment{now, now, credit, minus_infinity, false};
}

}  // namespace

TEST(watermark, follows_rows_by_its_delay) {
  EventTime time;
  EXPECT_EQ(time.reach(rules, at(0), minus_infinity), minus_infinity);
  time.note(rules, 100 * second, 101 * second);
  time.note(rules, 90 * second, 101 * second);
  time.last_arrival = 101 * second;
  EXPECT_EQ(time.reach(rules, at(101 * second), minus_infinity), 90 * second);
  EXPECT_EQ(time.reach(rules, at(161 * second), minus_infinity), 90 * second);
  EXPECT_EQ(time.reach(rules, at(161 * second), 95 * second), 95 * second) << "never goes back";
}

TEST(watermark, walks_with_the_clock_once_idle) {
  EventTime time;
  time.note(rules, 100 * second, 101 * second);
  time.last_arrival = 101 * second;
  EXPECT_EQ(time.reach(rules, at(171 * second), minus_infinity), 100 * second);
  // A replay of old rows does not jump to today.
  EXPECT_EQ(time.reach(rules, at(171 * second), 90 * second), 100 * second);
  Moment moment = at(171 * second);
  moment.lagging = true;
  EXPECT_EQ(time.reach(rules, moment, minus_infinity), 90 * second) << "rows are known to wait";
  moment = at(10'000 * second);
  moment.idle_until = 162 * second;
  EXPECT_EQ(time.reach(rules, moment, minus_infinity), 91 * second) << "the first row came then";
}

TEST(watermark, a_jump_of_the_clock_is_no_walk) {
  EventTime time;
  time.note(rules, 100 * second, 101 * second);
  time.last_arrival = 101 * second;
  const Micros year = 365 * 86'400 * second;
  EXPECT_EQ(time.reach(rules, at(year, 2 * second), 90 * second), 92 * second);
  EXPECT_EQ(time.reach(rules, at(-year, 2 * second), 90 * second), 90 * second);
}

TEST(watermark, rows_ahead_count_when_their_time_comes) {
  EventTime time;
  time.note(rules, 100 * second, 100 * second);
  time.note(rules, 105 * second, 100 * second);
  EXPECT_EQ(time.max_time, 105 * second) << "within the skew";
  time.note(rules, 200 * second, 100 * second);
  time.note(rules, 9'000'000 * second, 100 * second);
  time.last_arrival = 100 * second;
  EXPECT_EQ(time.max_time, 105 * second);
  EXPECT_FALSE(time.let_in(rules, 194 * second));
  EXPECT_TRUE(time.let_in(rules, 195 * second));
  EXPECT_EQ(time.max_time, 200 * second);
  EXPECT_EQ(time.reach(rules, at(195 * second), 95 * second), 190 * second) << "as if it had come just now";
  EXPECT_EQ(time.ahead, std::vector<Micros>{9'000'000 * second});
}

TEST(watermark, keeps_a_bounded_number_ahead) {
  EventTime time;
  for (int i = 1000; i > 0; --i) time.note(rules, (1000 + i) * second, 0);
  time.note(rules, 500'000 * second, 0);
  EXPECT_LE(time.ahead.size(), EventTime::most_ahead);
  EXPECT_EQ(time.ahead.front(), 1001 * second);
  EXPECT_EQ(time.ahead.back(), 500'000 * second);
  EXPECT_TRUE(std::is_sorted(time.ahead.begin(), time.ahead.end()));
}

TEST(watermark, is_the_lowest_of_the_values_that_are_not_idle) {
  EventTime time;
  for (const auto& [name, ts, now] :
       {std::tuple{"slow", 40, 100}, std::tuple{"fast", 100, 101}, std::tuple{"slow", 50, 102}}) {
    time.note(rules, ts * second, now * second);
    time.note_value(name, ts * second, now * second);
  }
  time.last_arrival = 102 * second;
  EXPECT_EQ(time.reach(rules, at(102 * second), minus_infinity), 40 * second);
  time.note_value("fast", 150 * second, 151 * second);
  time.note(rules, 150 * second, 151 * second);
  time.last_arrival = 151 * second;
  EXPECT_EQ(time.reach(rules, at(162 * second), minus_infinity), 40 * second);
  EXPECT_EQ(time.reach(rules, at(163 * second), minus_infinity), 140 * second) << "slow is idle";
  EXPECT_EQ(time.reach(rules, at(212 * second), minus_infinity), 141 * second) << "all are: it walks";
  Moment young = at(163 * second);
  young.watched_since = 120 * second;
  EXPECT_EQ(time.reach(rules, young, minus_infinity), 40 * second) << "nobody has watched for so long";
}

TEST(watermark, forgets_the_longest_idle_value) {
  EventTime time;
  for (size_t i = 0; i < EventTime::most_values + 5; ++i)
    time.note_value("v" + std::to_string(i), 0, static_cast<Micros>(i));
  EXPECT_EQ(time.values.size(), EventTime::most_values);
  for (const EventTime::Value& value : time.values) EXPECT_GE(value.last_arrival, 5);
}

TEST(watermark, is_due_when_it_reaches_the_goal) {
  EventTime time;
  time.note(rules, 100 * second, 101 * second);
  time.last_arrival = 101 * second;
  for (const Micros goal : {95 * second, 120 * second, 1000 * second}) {
    const Micros due = time.due(rules, at(102 * second), 90 * second, goal);
    EXPECT_LT(time.reach(rules, at(due - 1, 10'000 * second), 90 * second), goal);
    EXPECT_GE(time.reach(rules, at(due, 10'000 * second), 90 * second), goal);
  }
  EXPECT_EQ(time.due(rules, at(1000 * second), 100 * second, 120 * second), 1020 * second) << "at wall speed";
  time.note(rules, 130 * second, 102 * second);
  EXPECT_EQ(time.due(rules, at(102 * second), 90 * second, 120 * second), 125 * second);
}
