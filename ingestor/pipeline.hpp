// The way of the ticks through the database, for `check --end-to-end`: feed, table, rollups, the views that
// read them, and the role that reads the views. Changes nothing; each step is told with its figure, and where
// something is empty, the first step that lets nothing through.
#pragma once

#include "findings.hpp"

namespace tick::ingest {

// `role`: who must be able to read the views, or empty.
void check_pipeline(const Config& config, const std::string& role, Findings& findings);

}  // namespace tick::ingest
