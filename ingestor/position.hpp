// What the database remembers of a feed, as jsonb in tick.feed(): enough to go on exactly where the last
// commit ended, and to find out whether a batch whose COMMIT got no answer is in. Pure; unknown members are
// ignored.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace tick::ingest {

struct Position {
  std::string session;       // random, one per process start
  std::uint64_t batch = 0;   // counts the committed batches of that session
  std::string table;         // the target; ids committed to one table say nothing about another
  std::uint64_t record = 0;  // replay: ordinal of the last record committed
  std::map<std::string, std::int64_t, std::less<>> ids;  // live: last trade id per symbol
};

std::string to_json(const Position& position);

// Nothing when the text is not a position.
std::optional<Position> parse_position(std::string_view text);

// Appends text as a JSON string.
void append_json_string(std::string& out, std::string_view text);

}  // namespace tick::ingest
