// A JSON document that is fetched again and again as a feed: CoinLore, CoinGecko, or any other by JSON
// pointers. What the source has not moved since the last answer is not written; the table's unique index
// keeps out what an earlier run has written.
#pragma once

#include "config.hpp"

namespace tick::ingest {

// Runs until SIGTERM or SIGINT; the process's exit code.
int run_poll(const Config& config);

// The address asked, with the symbols where they belong into it.
std::string poll_address(const Config& config);

}  // namespace tick::ingest
