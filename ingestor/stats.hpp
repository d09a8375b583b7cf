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
  Counter malformed{0};
  Counter duplicates{0};
  Counter rows{0};     // committed
  Counter batches{0};  // committed
  Counter refused{0};  // rows that the database will never take
  Counter feed_reconnects{0};
  Counter database_reconnects{0};
  std::atomic<std::int64_t> lag_us{0};      // receive -> committed, oldest tick of the last batch
  std::atomic<std::int64_t> max_lag_us{0};  // the worst since the last look
  std::atomic<bool> connected{false};
};

}  // namespace tick::ingest
