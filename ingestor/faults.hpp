// Which faults the fake exchange plays and when: a list of (trade number, kind), given or drawn from a seed;
// others are asked for while it runs.
// Each fault is counted when it was really played on somebody's connection, and only then.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tick::ingest {

enum class Fault {
  drop,       // the TCP connection ends, no close frame
  mute,       // no data any more, pings and heartbeats go on
  half_open,  // nothing is sent any more, TCP stays up
  duplicate,  // the message comes twice
  reorder,    // the message comes after its successor
  gap,        // the message does not come
  bad_json,   // half of the message comes
  giant,      // 8 MiB come instead
  close_1001,
  close_1006,  // what a client calls a connection that ended without a close frame
  close_1012,
  shutdown,  // announced, and a little later done
  no_pong,   // pings of the client are not answered any more
  slow,      // messages are held back for a while
};
constexpr std::size_t fault_kinds = 14;

std::string_view fault_name(Fault fault);

// "drop@500": at a trade, or for a client.
struct Planned {
  std::uint64_t number;
  Fault fault;
};
std::optional<Planned> parse_fault(std::string_view text);

class Faults {
 public:
  // "drop@500"; false when it is none.
  bool add(std::string_view text);
  // `count` faults of all kinds in turn, at random among the first `span` trades, and a little apart: those
  // that come due while nobody is connected must not all meet the next connection at its first trade.
  void draw(std::size_t count, std::uint64_t span, std::uint64_t seed);

  // The fault that is due at this trade, taken off the list; of several, one that ends no connection first.
  // The caller plays it and calls played().
  std::optional<Fault> due(std::uint64_t trade);
  bool is_due(std::uint64_t trade) const;
  // `who`: whom it met.
  void played(Fault fault, std::uint64_t trade, std::string_view who);
  // "faults played: drop 2, mute 1; 0 not reached", or "" when there was none.
  std::string summary() const;

 private:
  std::deque<Planned> plan_;
  std::uint64_t apart_ = 0;
  std::uint64_t last_ = 0;  // the trade of the last fault
  std::array<std::size_t, fault_kinds> counts_{};
};

}  // namespace tick::ingest
