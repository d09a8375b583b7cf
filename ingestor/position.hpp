// What the database remembers of a feed, as jsonb in tick.feed(): enough to go on exactly where the last
// commit ended, to know which ids are missing, and to find out whether a batch whose COMMIT got no answer is
// in. Pure; unknown members are ignored.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "feed.hpp"

namespace tick::ingest {

// Ids that were passed over: first..last, both missing.
struct Hole {
  std::int64_t first = 0;
  std::int64_t last = 0;
  Timestamp after{};  // time of a tick before it, for exchanges whose history is asked for by time

  bool operator==(const Hole&) const = default;
};

// By symbol, ascending; no empty lists.
using Holes = std::map<std::string, std::vector<Hole>, std::less<>>;

struct Position {
  std::string session;       // random, one per process start
  std::uint64_t batch = 0;   // counts the committed batches of that session
  std::string table;         // the target; ids committed to one table say nothing about another
  std::uint64_t record = 0;  // replay: ordinal of the last record committed
  std::map<std::string, std::int64_t, std::less<>> ids;  // live: greatest trade id per symbol
  Holes holes;                                           // below it
  std::map<std::string, Timestamp, std::less<>> times;   // of the tick with the greatest id

  // Marks an id as in; false when it was already. The first id of a symbol begins its set.
  bool take(std::string_view symbol, std::int64_t id, Timestamp ts);
  bool has(std::string_view symbol, std::int64_t id) const;
};

// A symbol keeps at most so many holes; the oldest ones are given up then.
constexpr std::size_t most_holes = 1000;

std::string to_json(const Position& position);

// Nothing when the text is not a position.
std::optional<Position> parse_position(std::string_view text);

// Appends text as a JSON string.
void append_json_string(std::string& out, std::string_view text);

}  // namespace tick::ingest
