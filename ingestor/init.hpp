// What a database needs before ticks can flow: the extension, the default table with its day partitions, the
// default rollups. Idempotent: whatever exists already is left as it is and reported.
#pragma once

#include <string>

#include "columns.hpp"

namespace tick::ingest {

struct InitOptions {
  std::string database;
  std::string table = "trades";
  ColumnMap columns;  // of a table of the user's own: it is checked, and nothing is made in it
  std::size_t days_ahead = 3;
  bool rollups = true;
  bool sequence = true;  // ids of the feed are one (Venue::sequence); otherwise the table gets a unique index
  bool posts = false;    // the table is one of posts, and has one rollup
};

// Returns the process's exit code.
int run_init(const InitOptions& options);

// The statements as text, for --print.
std::string init_script(const InitOptions& options);

}  // namespace tick::ingest
