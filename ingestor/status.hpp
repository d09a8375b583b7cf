// What a running ingestor tells about itself: /metrics (Prometheus), /healthz and /status (JSON) on an
// address of this machine, beside the live page, and the verb that asks there.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "config.hpp"
#include "stats.hpp"

namespace tick::ingest {

struct Gauges {
  std::size_t in_memory = 0;
  std::uint64_t spooled = 0;
  std::uint64_t dropped = 0;
};

// Serves on a thread of its own until destroyed. Throws std::runtime_error when the address cannot be used.
class StatusServer {
 public:
  StatusServer(const std::string& listen, const Stats& stats, std::function<Gauges()> gauges,
               std::string feed, std::string database);
  ~StatusServer();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// How long committed data lags behind received data, in milliseconds.
double lag_ms(const Stats& stats, const Gauges& gauges);

// Prints the answer of /status; not 0 when there is none, the feed is not connected or lags by more than
// `max_lag` (0: by whatever).
int run_status(const Config& config, std::chrono::microseconds max_lag);

}  // namespace tick::ingest
