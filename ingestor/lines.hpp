// Standard input as a feed: JSON objects, one a line, or CSV, as another program writes them. A pipe cannot
// be asked again, so there is no position: what comes twice is kept out by the table (a unique index, or
// ids).
#pragma once

#include "config.hpp"

namespace tick::ingest {

// Runs until the input ends, or until SIGTERM or SIGINT; the process's exit code.
int run_lines(const Config& config);

}  // namespace tick::ingest
