// `tick-ingest backfill`: the trades of a time span, from the exchange's history into the table, each once
// whoever wrote some of them already. Told to stop and started again it goes on where it was.
#pragma once

#include "config.hpp"

namespace tick::ingest {

// Trades from `from` on and before `to`. Returns the exit code.
int run_backfill(const Config& config, Timestamp from, Timestamp to);

}  // namespace tick::ingest
