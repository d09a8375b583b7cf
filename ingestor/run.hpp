// The chain socket -> decode -> ring -> COPY, put together and supervised: signals, drain, progress.
// Both functions return the process's exit code.
#pragma once

#include <string>
#include <vector>

#include "config.hpp"
#include "replay.hpp"

namespace tick::ingest {

constexpr int exit_ok = 0;
constexpr int exit_failed = 1;
constexpr int exit_usage = 2;

// Makes SIGINT and SIGTERM wait for supervision; call before any thread starts.
void block_signals();

// Waits up to `milliseconds` for SIGINT or SIGTERM; true when one came.
bool wait_for_signal(int milliseconds);

int run_live(const Config& config);

struct ReplayOptions {
  std::vector<std::string> files;
  DecodeOptions decode;
  double speed = 0;  // times the recorded pace; 0 = as fast as the database takes it
};

int run_replay(const Config& config, const ReplayOptions& options);

}  // namespace tick::ingest
