// Text -> value. std::from_chars rounds correctly (round to nearest, ties to even) and knows no locale.
#include "number.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <utility>

namespace tick::ingest {

namespace {

bool digits(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

std::optional<Timestamp> plausible(std::int64_t us) {
  constexpr std::int64_t first = 86'400'000'000;        // 1970-01-02
  constexpr std::int64_t last = 7'258'118'400'000'000;  // 2200-01-01
  if (us < first || us >= last) return std::nullopt;
  return Timestamp(std::chrono::microseconds(us));
}

// The first n characters as a number; nothing unless all are digits.
std::optional<int> take_digits(std::string_view& text, std::size_t n) {
  if (text.size() < n || !digits(text.substr(0, n))) return std::nullopt;
  int value = 0;
  for (std::size_t i = 0; i < n; ++i) value = value * 10 + (text[i] - '0');
  text.remove_prefix(n);
  return value;
}

bool take(std::string_view& text, char c) {
  if (text.empty() || text[0] != c) return false;
  text.remove_prefix(1);
  return true;
}

// Digits after a decimal point as microseconds; further digits are cut off.
std::optional<std::int64_t> take_fraction(std::string_view& text) {
  std::int64_t us = 0;
  std::size_t n = 0;
  while (n < text.size() && text[n] >= '0' && text[n] <= '9') {
    if (n < 6) us = us * 10 + (text[n] - '0');
    ++n;
  }
  if (n == 0) return std::nullopt;
  for (std::size_t i = n; i < 6; ++i) us *= 10;
  text.remove_prefix(n);
  return us;
}

std::optional<Timestamp> parse_iso(std::string_view text) {
  using namespace std::chrono;
  const auto y = take_digits(text, 4);
  if (!y || !take(text, '-')) return std::nullopt;
  const auto mo = take_digits(text, 2);
  if (!mo || !take(text, '-')) return std::nullopt;
  const auto d = take_digits(text, 2);
  if (!d) return std::nullopt;
  const year_month_day date{year(*y), month(static_cast<unsigned>(*mo)), day(static_cast<unsigned>(*d))};
  if (!date.ok()) return std::nullopt;
  std::int64_t us = 0;
  if (take(text, 'T') || take(text, ' ')) {
    const auto h = take_digits(text, 2);
    if (!h || !take(text, ':')) return std::nullopt;
    const auto mi = take_digits(text, 2);
    if (!mi) return std::nullopt;
    int s = 0;
    std::int64_t fraction = 0;
    if (take(text, ':')) {
      const auto seconds = take_digits(text, 2);
      if (!seconds) return std::nullopt;
      s = *seconds;
      if (take(text, '.') || take(text, ',')) {
        const auto part = take_fraction(text);
        if (!part) return std::nullopt;
        fraction = *part;
      }
    }
    if (*h > 23 || *mi > 59 || s > 60) return std::nullopt;
    us = ((*h * 60 + *mi) * 60 + s) * std::int64_t{1'000'000} + fraction;
    take(text, ' ');
    if (!take(text, 'Z') && !text.empty()) {
      const bool minus = take(text, '-');
      if (!minus && !take(text, '+')) return std::nullopt;
      const auto oh = take_digits(text, 2);
      if (!oh) return std::nullopt;
      int om = 0;
      if (take(text, ':') || !text.empty()) {
        const auto minutes = take_digits(text, 2);
        if (!minutes) return std::nullopt;
        om = *minutes;
      }
      if (*oh > 15 || om > 59) return std::nullopt;
      const std::int64_t offset = (*oh * 60 + om) * std::int64_t{60'000'000};
      us += minus ? offset : -offset;
    }
  }
  if (!text.empty()) return std::nullopt;
  return plausible(sys_days(date).time_since_epoch().count() * std::int64_t{86'400'000'000} + us);
}

}  // namespace

std::optional<double> parse_decimal(std::string_view text) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, ec] = std::from_chars(text.data(), end, value);
  if (ec != std::errc() || stop != end || !std::isfinite(value)) return std::nullopt;
  return value;
}

std::optional<std::int64_t> parse_integer(std::string_view text) {
  std::int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, ec] = std::from_chars(text.data(), end, value);
  if (ec != std::errc() || stop != end) return std::nullopt;
  return value;
}

std::optional<bool> parse_bool(std::string_view text) {
  if (text == "true" || text == "True" || text == "TRUE" || text == "t" || text == "1") return true;
  if (text == "false" || text == "False" || text == "FALSE" || text == "f" || text == "0") return false;
  return std::nullopt;
}

std::optional<Timestamp> epoch_time(std::int64_t value) {
  if (value <= 0) return std::nullopt;
  if (value < 100'000'000'000) return plausible(value * 1'000'000);
  if (value < 100'000'000'000'000) return plausible(value * 1'000);
  if (value < 100'000'000'000'000'000) return plausible(value);
  return plausible(value / 1'000);
}

std::optional<Timestamp> parse_time(std::string_view text) {
  if (text.size() > 10 && text[4] == '-') return parse_iso(text);
  if (text.size() == 10 && text[4] == '-') return parse_iso(text);
  const auto point = text.find('.');
  const std::string_view whole = text.substr(0, point);
  if (!digits(whole) || whole.size() > 19) return std::nullopt;
  const auto value = parse_integer(whole);
  if (!value) return std::nullopt;
  if (point == std::string_view::npos) return epoch_time(*value);
  std::string_view rest = text.substr(point + 1);
  const auto fraction = take_fraction(rest);
  if (!fraction || !rest.empty()) return std::nullopt;
  if (*value >= 100'000'000'000) {
    if (*value >= 100'000'000'000'000) return std::nullopt;
    return plausible(*value * 1'000 + *fraction / 1'000);
  }
  return plausible(*value * 1'000'000 + *fraction);
}

bool tells_zone(std::string_view text) {
  if (text.size() < 10 || text[4] != '-') return true;
  return text.substr(10).find_first_of("Zz+-") != std::string_view::npos;
}

namespace {
constexpr std::string_view months = "JanFebMarAprMayJunJulAugSepOctNovDec";
constexpr std::string_view weekdays = "SunMonTueWedThuFriSat";
// Hours from UTC of the letters that mails had once.
constexpr std::pair<std::string_view, int> old_zones[] = {{"GMT", 0},  {"UT", 0},   {"UTC", 0},  {"Z", 0},
                                                          {"EST", -5}, {"EDT", -4}, {"CST", -6}, {"CDT", -5},
                                                          {"MST", -7}, {"MDT", -6}, {"PST", -8}, {"PDT", -7}};
}  // namespace

std::optional<Timestamp> parse_mail_time(std::string_view text) {
  std::array<std::string_view, 6> words{};
  std::size_t count = 0;
  while (count < words.size()) {
    text.remove_prefix(std::min(text.find_first_not_of(" \t\r\n,"), text.size()));
    if (text.empty()) break;
    words[count++] = text.substr(0, text.find_first_of(" \t\r\n,"));
    text.remove_prefix(words[count - 1].size());
  }
  std::size_t at = count > 0 && !digits(words[0]) ? 1 : 0;  // the day of the week says nothing new
  if (count < at + 4 || words[at + 1].size() != 3) return std::nullopt;
  const auto d = parse_integer(words[at]);
  const auto month_at = months.find(words[at + 1]);
  const auto y = parse_integer(words[at + 2]);
  if (!d || !y || month_at == std::string_view::npos || month_at % 3 != 0 || *d < 1 || *d > 31 || *y < 1970 ||
      *y > 2199)
    return std::nullopt;
  const std::chrono::year_month_day date{std::chrono::year(static_cast<int>(*y)),
                                         std::chrono::month(static_cast<unsigned>(month_at / 3 + 1)),
                                         std::chrono::day(static_cast<unsigned>(*d))};
  std::chrono::minutes offset{0};
  if (count > at + 4) {
    const std::string_view zone = words[at + 4];
    const auto known = std::find_if(std::begin(old_zones), std::end(old_zones),
                                    [&](const auto& one) { return one.first == zone; });
    const auto told = parse_offset(zone);
    if (known != std::end(old_zones))
      offset = std::chrono::hours(known->second);
    else if (told)
      offset = *told;
    else
      return std::nullopt;
  }
  if (!date.ok()) return std::nullopt;
  std::string_view clock = words[at + 3];
  const auto h = take_digits(clock, 2);
  if (!h || !take(clock, ':')) return std::nullopt;
  const auto mi = take_digits(clock, 2);
  const auto s = take(clock, ':') ? take_digits(clock, 2) : std::optional(0);
  if (!mi || !s || !clock.empty() || *h > 23 || *mi > 59 || *s > 60) return std::nullopt;
  const std::chrono::seconds since{(*h * 60 + *mi) * 60 + *s};
  return plausible(std::chrono::duration_cast<std::chrono::microseconds>(
                       std::chrono::sys_days(date).time_since_epoch() + since - offset)
                       .count());
}

std::string format_mail_time(Timestamp time) {
  const auto day = std::chrono::floor<std::chrono::days>(time);
  const std::chrono::year_month_day date{day};
  const auto s = std::chrono::floor<std::chrono::seconds>(time - day).count();
  const auto name = [](std::string_view names, unsigned n) { return std::string(names.substr(3 * n, 3)); };
  char text[64];
  std::snprintf(text, sizeof text, "%s, %02u %s %04d %02d:%02d:%02d GMT",
                name(weekdays, std::chrono::weekday(day).c_encoding()).c_str(),
                static_cast<unsigned>(date.day()),
                name(months, static_cast<unsigned>(date.month()) - 1).c_str(), static_cast<int>(date.year()),
                static_cast<int>(s / 3600), static_cast<int>(s / 60 % 60), static_cast<int>(s % 60));
  return text;
}

std::optional<std::chrono::minutes> parse_offset(std::string_view text) {
  if (text == "UTC" || text == "utc" || text == "Z") return std::chrono::minutes(0);
  if (text.size() < 3 || (text[0] != '+' && text[0] != '-')) return std::nullopt;
  const auto hours = parse_integer(text.substr(1, 2));
  std::string_view rest = text.substr(3);
  if (rest.starts_with(":")) rest.remove_prefix(1);
  const auto minutes = rest.empty() ? std::optional<std::int64_t>(0) : parse_integer(rest);
  if (!hours || !minutes || *hours < 0 || *hours > 15 || *minutes < 0 || *minutes > 59 ||
      (!rest.empty() && rest.size() != 2))
    return std::nullopt;
  const std::int64_t total = *hours * 60 + *minutes;
  return std::chrono::minutes(text[0] == '-' ? -total : total);
}

std::optional<std::chrono::microseconds> parse_duration(std::string_view text) {
  double factor = 1e3;
  if (text.ends_with("us")) {
    factor = 1;
    text.remove_suffix(2);
  } else if (text.ends_with("ms")) {
    text.remove_suffix(2);
  } else if (text.ends_with("min")) {
    factor = 60e6;
    text.remove_suffix(3);
  } else if (text.ends_with("s")) {
    factor = 1e6;
    text.remove_suffix(1);
  }
  while (text.ends_with(" ")) text.remove_suffix(1);
  const auto value = parse_decimal(text);
  if (!value || *value < 0 || *value * factor > 1e13) return std::nullopt;
  return std::chrono::microseconds(std::llround(*value * factor));
}

std::int64_t day_of(Timestamp time) {
  return std::chrono::floor<std::chrono::days>(time).time_since_epoch().count();
}

std::string format_day(std::int64_t day, char separator) {
  const std::chrono::year_month_day date{std::chrono::sys_days(std::chrono::days(day))};
  char text[32];
  std::snprintf(text, sizeof text, "%04d%c%02u%c%02u", static_cast<int>(date.year()), separator,
                static_cast<unsigned>(date.month()), separator, static_cast<unsigned>(date.day()));
  return text;
}

std::string format_time(Timestamp time) {
  const std::int64_t day = day_of(time);
  const std::int64_t us = time.time_since_epoch().count() - day * 86'400'000'000;
  char text[64];
  std::snprintf(text, sizeof text, "%sT%02d:%02d:%02d.%06dZ", format_day(day, '-').c_str(),
                static_cast<int>(us / 3'600'000'000), static_cast<int>(us / 60'000'000 % 60),
                static_cast<int>(us / 1'000'000 % 60), static_cast<int>(us % 1'000'000));
  return text;
}

}  // namespace tick::ingest
