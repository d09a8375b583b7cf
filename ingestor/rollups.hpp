// What SQL finds out about rollups, for those who show them; `r` is tick.rollups.
#pragma once

namespace tick::ingest {

// The quoted name of the column that holds the start of the window; NULL where there are no windows.
constexpr const char* window_column =
    "substring(r.query FROM '(?:tumble|hop)\\([^\\n]*\\) AS (\"[^\\n]*\"|\\w+)')";

}  // namespace tick::ingest
