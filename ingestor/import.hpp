// Files of candles into a table of their own, once however often they are imported: the row of (exchange,
// symbol, size, ts) is what the newest file says.
#pragma once

#include <string>

#include "config.hpp"
#include "run.hpp"

namespace tick::ingest {

// Nothing when the file holds no candles; otherwise the exit code. Throws std::runtime_error when the file
// cannot be read.
std::optional<int> import_candles(const Config& config, const std::string& file,
                                  const ReplayOptions& options);

}  // namespace tick::ingest
