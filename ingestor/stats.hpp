// Counters of one run, written by the threads that know them and read by the progress line.
#pragma once

#include <atomic>
#include <cstdint>

namespace tick::ingest {

struct Stats {
  using Counter = std::atomic<std::uint64_t>;
  Counter messages{0};
  Counter ticks{0};
  Counter ignored{0};
  Counter malformed{0};  // messages, or trades in them, that cannot be ticks
  Counter duplicates{0};
  Counter rows{0};     // committed
  Counter batches{0};  // committed
  Counter refused{0};  // rows that the database will never take
  Counter feed_reconnects{0};
  Counter database_reconnects{0};
  Counter repair_requests{0};
  Counter repair_failures{0};
  Counter repaired{0};                           // trades fetched by repair
  Counter gaps_unfilled{0};                      // given up
  Counter missing{0};                            // ids in gaps, at the last look
  Counter unread{0};                             // events of a topic that are not committed yet
  std::atomic<std::int64_t> lag_us{0};           // receive -> committed, oldest tick of the last batch
  std::atomic<std::int64_t> max_lag_us{0};       // the worst since the last look
  std::atomic<std::int64_t> committed_at_us{0};  // steady clock
  std::atomic<std::int64_t> data_at_us{0};       // steady clock, last tick received
  std::atomic<double> progress{0};               // of what has an end, 0 to 1
  std::atomic<bool> connected{false};
};

}  // namespace tick::ingest
