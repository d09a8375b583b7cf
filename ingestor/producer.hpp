// A source of rows that needs no more than the chain to the database: standard input, a poller.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "chain.hpp"
#include "config.hpp"
#include "rejects.hpp"

namespace tick::ingest {

class Producer {
 public:
  virtual ~Producer() = default;
  virtual void run() = 0;   // until there is no more, or until stop()
  virtual void stop() = 0;  // from any thread
};

// Runs it until it ends, or until SIGTERM or SIGINT; the process's exit code. `connection` is the position's
// name where the configuration has none, `summary` the end of the last line of the log.
int run_producer(const Config& config, const std::string& connection,
                 const std::function<std::unique_ptr<Producer>(Chain&, Rejects&)>& make,
                 const std::function<std::string(const Stats&)>& summary);

}  // namespace tick::ingest
