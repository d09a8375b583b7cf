// Signals, exit codes, and the replay of files through the chain decode -> ring -> COPY.
#pragma once

#include <string>
#include <vector>

#include "config.hpp"
#include "replay.hpp"

namespace tick::ingest {

constexpr int exit_ok = 0;
constexpr int exit_failed = 1;
constexpr int exit_usage = 2;

// Makes SIGINT, SIGTERM and SIGHUP wait for supervision; call before any thread starts.
void block_signals();

// Waits up to `milliseconds` for one of them and returns it; 0: none came, or wake_supervision() was called.
int wait_for_signal(int milliseconds);
void wake_supervision();  // from any thread

struct ReplayOptions {
  std::vector<std::string> files;
  DecodeOptions decode;
  double speed = 0;                 // times the recorded pace; 0 = as fast as the database takes it
  std::string candles = "candles";  // the table of candles, should a file hold such
  std::string candle_size;          // an interval; from the file's name or rows unless given
};

int run_replay(const Config& config, const ReplayOptions& options);

}  // namespace tick::ingest
