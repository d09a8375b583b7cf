// The launcher and the worker of a database: when they start, sleep, back off and end.
#pragma once

#include "pg.hpp"

namespace tick::pg {

void register_launcher();

// What the worker and its helper have in common; all plain PostgreSQL code.
uint32 wait_event();
// The settings under which they run.
void safe_settings();
// Between transactions there is nothing to cancel: only what ends the process counts, and what it is
// configured by.
void look_at_signals();
// Somebody waits to drop or copy this database. In a transaction.
bool database_wanted();

}  // namespace tick::pg
