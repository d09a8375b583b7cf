// The delta queue as a reader sees it: which deltas lie between a frontier and a snapshot, and when a drained
// table of the ring may be truncated. Writers append through catalog.hpp.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "pg.hpp"

namespace tick::pg {

// A pg_snapshot: transactions below xmax and not in xip have been seen.
struct Frontier {
  uint64_t xmin = 0;
  uint64_t xmax = 0;
  std::vector<uint64_t> xip;

  static Frontier parse(std::string_view text);
  std::string text() const;
  bool covers(uint64_t xid) const;
  // The part of it below xid x: what a cut turn has consumed.
  Frontier below(uint64_t x) const;
};

using DeltaConsumer = std::function<void(int64_t program, std::string_view payload)>;

// Hands over every delta that the active snapshot sees and `frontier` does not. With a limit (bytes, 0 =
// none) it stops between two transactions; the result then is the first xid not consumed, else 0.
// Throws.
uint64_t read_deltas(const Frontier& frontier, size_t limit, const DeltaConsumer& consume);

// A turn of its own: moves writers on from a table that has grown past tick.queue_size, and truncates drained
// ones under VACUUM's own rule (ENGINE 2.2). Starts and commits its own transactions. Throws PgError.
void rotate_queue();

}  // namespace tick::pg
