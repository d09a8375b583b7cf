// How far the event time of a source has come: its watermark, from the rows that arrive and from the clock
// while none do. Pure arithmetic: the caller brings every moment, and keeps what is here.
// Promises: a watermark never goes back; a row ahead of the clock moves it only when its time comes; while
// nothing arrives it walks no faster than the clock.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "types.hpp"

namespace tick {

struct WatermarkRules {
  Micros delay = 0;         // rows may come this much out of order
  Micros idle_timeout = 0;  // after this long without rows, event time walks on with the clock
  Micros max_skew = 0;      // rows further ahead of the clock do not count yet
};

// When a watermark is looked at.
struct Moment {
  Micros now;            // by the wall clock
  Micros idle_until;     // no row that has not been taken in came before
  Micros credit;         // how far it may walk, by a clock that never jumps
  Micros watched_since;  // values are idle only after having been watched for the timeout
  bool lagging;          // rows are known to wait: nothing is idle
};

// minus_infinity = not known yet.
struct EventTime {
  // Rows of one value of the column that the watermark is kept by.
  struct Value {
    std::string name;
    Micros max_time;
    Micros last_arrival;
  };
  static constexpr size_t most_ahead = 16;
  static constexpr size_t most_values = 1000;

  Micros watermark = minus_infinity;
  Micros max_time = minus_infinity;
  Micros last_arrival = minus_infinity;
  std::vector<Micros> ahead;  // times of rows ahead of the clock, ascending
  std::vector<Value> values;  // ascending names; empty = not kept by a column

  // True for a row that is too far ahead of the clock to count yet.
  static bool is_ahead(const WatermarkRules& rules, Micros time, Micros now) {
    return time > now + rules.max_skew;
  }
  // Takes in the time of a row. When there are too many ahead, some move nothing but max_time later on.
  void note(const WatermarkRules& rules, Micros time, Micros now);
  // Takes in a row's time, not ahead, under the value it belongs to. Of too many values the longest idle
  // goes.
  void note_value(std::string_view name, Micros time, Micros now);
  // Lets rows count whose time has come; true if there were any.
  bool let_in(const WatermarkRules& rules, Micros now);

  // The watermark at a moment, if it had come to `from` before.
  Micros reach(const WatermarkRules& rules, const Moment& moment, Micros from) const;
  // When to look again whether it has come to `goal`, if nothing arrives; plus_infinity = no use.
  Micros due(const WatermarkRules& rules, const Moment& moment, Micros from, Micros goal) const;

 private:
  bool is_active(const WatermarkRules& rules, const Moment& moment, const Value& value) const;
};

}  // namespace tick
