// When a market trades: days, hours and holidays in its own time zone. What is asked for is whether a moment
// lies within a session; a session belongs to the day on which it begins, also one that ends after midnight.
// Only one time zone a process: it becomes that of the C library.
#pragma once

#include <chrono>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "feed.hpp"

namespace tick::ingest {

class Calendar {
 public:
  // Each takes its setting's text and returns "" or what is wrong with it ("must be ..., not ...").
  std::string set_zone(std::string_view text);      // "America/New_York"
  std::string set_days(std::string_view text);      // "Mon-Fri", "Sun,Mon-Thu"
  std::string set_hours(std::string_view text);     // "09:30-16:00", "09:00-11:30,12:30-15:00", "18:00-17:00"
  std::string set_holidays(std::string_view text);  // "2026-12-25,2027-01-01"

  const std::string& zone() const { return zone_; }
  std::string days() const;
  std::string hours() const;
  std::string holidays() const;

  // No days, hours or holidays were given: the market never closes.
  bool always() const { return days_ == every_day && hours_.empty() && holidays_.empty(); }
  bool open(Timestamp at) const;

 private:
  struct Hours {
    int from, to;  // minutes of the day; to <= from: of the day after
  };
  static constexpr unsigned every_day = 0x7f;  // bit 0 is Sunday

  std::string zone_ = "UTC";
  unsigned days_ = every_day;
  std::vector<Hours> hours_;
  std::set<std::int64_t> holidays_;  // days since 1970-01-01
};

}  // namespace tick::ingest
