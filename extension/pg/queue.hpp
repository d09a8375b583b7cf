// The delta queue as a reader sees it: which deltas lie between a frontier and a snapshot, and when a drained
// table of the ring may be truncated. Writers append through catalog.hpp.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "pg.hpp"
#include "shared.hpp"

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

// Which programs' deltas to read. Negative programs are sets of ids: -(id of the set).
struct Programs {
  int64_t least = std::numeric_limits<int64_t>::min();
  int64_t greatest = std::numeric_limits<int64_t>::max();
};

// Hands over every delta that the active snapshot sees and `frontier` does not. With a limit (bytes, 0 =
// none) it stops between two transactions; the result then is the first xid not consumed, else 0.
// Never a reason for a serialization failure. Throws.
uint64_t read_deltas(const Frontier& frontier, size_t limit, const DeltaConsumer& consume,
                     Programs programs = {});

// Whether the active snapshot sees a delta that `until` covers and `before` does not, of another transaction
// than `own` (0: none). Throws.
bool has_deltas(const Frontier& before, const Frontier& until, uint64_t own);

// The files of the ring's tables, which are locked in ACCESS SHARE from now on: as long as they are the same,
// nothing has been truncated. May ereport.
struct RingFiles {
  Oid file[queue_tables] = {};
  friend bool operator==(const RingFiles&, const RingFiles&) = default;
};
RingFiles lock_ring();

// A turn of its own: moves writers on from a table that has grown past tick.queue_size, and truncates drained
// ones under VACUUM's own rule (ENGINE 2.2). Starts and commits its own transactions. Throws PgError.
void rotate_queue();

}  // namespace tick::pg
