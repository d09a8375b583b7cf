// Text -> value, once, for every source: decimals (correctly rounded), times in any unit, ids, booleans.
// Everything returns nothing instead of guessing; no locale, no exception.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "feed.hpp"

namespace tick::ingest {

// The nearest double to a finite decimal text ("61837.63000000"); hex, inf, nan and rests are refused.
std::optional<double> parse_decimal(std::string_view text);

std::optional<std::int64_t> parse_integer(std::string_view text);

std::optional<bool> parse_bool(std::string_view text);

// An epoch number in s, ms, us or ns (told apart by magnitude, fractions of seconds allowed).
std::optional<Timestamp> epoch_time(std::int64_t value);

// An epoch text or ISO 8601 ("2019-10-11T00:00:11.620Z", blank instead of T, offset; no offset means UTC).
// Times before 1970-01-02 or after 2199 are refused.
std::optional<Timestamp> parse_time(std::string_view text);

// Whether a text that parse_time takes tells its own place in time: an epoch, or ISO 8601 with Z or an
// offset.
bool tells_zone(std::string_view text);

// The time of a mail's or an HTTP header ("Fri, 11 Oct 2019 00:00:11 GMT", "+0200", "EST"), and an HTTP one.
std::optional<Timestamp> parse_mail_time(std::string_view text);
std::string format_mail_time(Timestamp time);

// "UTC", "Z", "+02:00", "-0530": minutes ahead of UTC.
std::optional<std::chrono::minutes> parse_offset(std::string_view text);

// "1.5s", "20ms", "250us" or a bare number of milliseconds.
std::optional<std::chrono::microseconds> parse_duration(std::string_view text);

// 2024-08-08T23:54:15.342000Z
std::string format_time(Timestamp time);

// Days since 1970-01-01 in UTC, and back.
std::int64_t day_of(Timestamp time);
std::string format_day(std::int64_t day, char separator);

}  // namespace tick::ingest
