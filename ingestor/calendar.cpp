// Sessions in local time; see calendar.hpp.
#include "calendar.hpp"

#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <optional>

#include "number.hpp"

namespace tick::ingest {

namespace {

constexpr std::string_view day_names[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
constexpr int day_minutes = 24 * 60;

std::string not_text(std::string_view text) {
  return ", not \"" + std::string(text) + "\"";
}

std::vector<std::string_view> parts(std::string_view text, char separator) {
  std::vector<std::string_view> all;
  while (true) {
    const auto end = text.find(separator);
    std::string_view part = text.substr(0, end);
    while (part.starts_with(' ')) part.remove_prefix(1);
    while (part.ends_with(' ')) part.remove_suffix(1);
    all.push_back(part);
    if (end == std::string_view::npos) return all;
    text.remove_prefix(end + 1);
  }
}

std::optional<unsigned> weekday(std::string_view text) {
  for (unsigned day = 0; day < 7; ++day)
    if (text.size() == 3 &&
        std::tolower(static_cast<unsigned char>(text[0])) == std::tolower(day_names[day][0]) &&
        text.substr(1, 2) == day_names[day].substr(1))
      return day;
  return std::nullopt;
}

// "09:30" -> 570; 24:00 is the end of the day.
std::optional<int> minute_of_day(std::string_view text) {
  const auto colon = text.find(':');
  if (colon != 2 || text.size() != 5) return std::nullopt;
  const auto hour = parse_integer(text.substr(0, 2)), minute = parse_integer(text.substr(3));
  if (!hour || !minute || *hour < 0 || *minute < 0 || *minute > 59 || *hour * 60 + *minute > day_minutes)
    return std::nullopt;
  return static_cast<int>(*hour * 60 + *minute);
}

std::string clock(int minute) {
  char text[16];
  std::snprintf(text, sizeof text, "%02d:%02d", minute / 60, minute % 60);
  return text;
}

}  // namespace

std::string Calendar::set_zone(std::string_view text) {
  const std::string name(text);
  const char* directory = std::getenv("TZDIR");
  std::error_code missing;
  const bool plain = !name.empty() && name.find("..") == std::string::npos && name.front() != '/';
  if (!plain ||
      (name != "UTC" &&
       !std::filesystem::is_regular_file(
           (directory == nullptr ? "/usr/share/zoneinfo/" : std::string(directory) + "/") + name, missing)))
    return "must be the name of a time zone such as \"America/New_York\" (package tzdata)" + not_text(text);
  zone_ = name;
  if (zone_ != "UTC") {
    setenv("TZ", zone_.c_str(), 1);
    tzset();
  }
  return "";
}

std::string Calendar::set_days(std::string_view text) {
  unsigned days = 0;
  for (const auto part : parts(text, ',')) {
    const auto ends = parts(part, '-');
    const auto first = weekday(ends.front()), last = weekday(ends.back());
    if (!first || !last || ends.size() > 2)
      return "must be days such as \"Mon-Fri\" or \"Sun,Mon\"" + not_text(text);
    for (unsigned day = *first;; day = (day + 1) % 7) {
      days |= 1U << day;
      if (day == *last) break;
    }
  }
  days_ = days;
  return "";
}

std::string Calendar::set_hours(std::string_view text) {
  std::vector<Hours> hours;
  for (const auto part : parts(text, ',')) {
    const auto ends = parts(part, '-');
    const auto from = minute_of_day(ends.front()), to = minute_of_day(ends.back());
    if (ends.size() != 2 || !from || !to || *from == day_minutes)
      return "must be hours such as \"09:30-16:00\" or \"18:00-17:00\" (until the next day)" + not_text(text);
    hours.push_back({*from, *to});
  }
  hours_ = std::move(hours);
  return "";
}

std::string Calendar::set_holidays(std::string_view text) {
  std::set<std::int64_t> holidays;
  for (const auto part : parts(text, ',')) {
    const auto time = part.size() == 10 ? parse_time(std::string(part) + "T00:00:00Z") : std::nullopt;
    if (!time) return "must be dates such as \"2026-12-25\"" + not_text(part);
    holidays.insert(day_of(*time));
  }
  holidays_ = std::move(holidays);
  return "";
}

std::string Calendar::days() const {
  std::string text;
  for (unsigned day = 0; day < 7; ++day)
    if ((days_ >> day & 1) != 0) text += (text.empty() ? "" : ",") + std::string(day_names[day]);
  return text;
}

std::string Calendar::hours() const {
  std::string text;
  for (const auto& hours : hours_)
    text += (text.empty() ? "" : ",") + clock(hours.from) + "-" + clock(hours.to);
  return text;
}

std::string Calendar::holidays() const {
  std::string text;
  for (const auto day : holidays_) text += (text.empty() ? "" : ",") + format_day(day, '-');
  return text;
}

bool Calendar::open(Timestamp at) const {
  if (always()) return true;
  const std::time_t seconds = std::chrono::floor<std::chrono::seconds>(at).time_since_epoch().count();
  std::tm local{};
  zone_ == "UTC" ? gmtime_r(&seconds, &local) : localtime_r(&seconds, &local);
  using namespace std::chrono;
  const std::int64_t today =
      sys_days(year(local.tm_year + 1900) / (local.tm_mon + 1) / local.tm_mday).time_since_epoch().count();
  const int minute = local.tm_hour * 60 + local.tm_min;
  const auto trades_on = [&](std::int64_t day) {
    const auto weekday = static_cast<unsigned>(((day + 4) % 7 + 7) % 7);  // 1970-01-01 was a Thursday
    return (days_ >> weekday & 1) != 0 && !holidays_.contains(day);
  };
  if (hours_.empty()) return trades_on(today);
  for (const auto& [from, to] : hours_) {
    const bool overnight = to <= from;
    if (minute >= from && (overnight || minute < to) && trades_on(today)) return true;
    if (overnight && minute < to && trades_on(today - 1)) return true;
  }
  return false;
}

}  // namespace tick::ingest
