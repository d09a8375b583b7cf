// What a dump brings back. Programs hold node trees, whose object ids mean nothing in another database, and
// queue rows hold transaction ids of another time. So a source names the epoch of its frontier, which CREATE
// EXTENSION makes anew: sources of another epoch came out of a dump, and of another system with pg_upgrade.
// Nothing of them is merged, and whoever would write to them waits, until everything is there and the worker
// has taken it up; programs are then read again from their SQL text.
#pragma once

#include "pg.hpp"

namespace tick::pg {

// SQL text of an expression over a source, every name but those of its columns qualified. Under fixed_path().
const char* input_text(Node* expr, Oid source);

// Writes the texts of all programs anew, after a rename. Runs as the extension's owner.
void refresh_input_texts();

// Whether there is anything to take up. Reads with the newest snapshot.
bool is_restored();

// Waits until the source has been taken up; an error after tick.lock_timeout. True if it had to wait.
bool await_revival(Oid source);

// True for rows that a dump brings into a table that has its triggers already: they are in the states and
// sets of ids that it brings, too.
bool loads_dump(Oid table);
// The same for rows of a state table.
bool loads_state(Oid state);

// Whether this session has the settings with which every script of pg_dump and every connection of pg_restore
// begins. Not under fixed_path().
bool session_loads();
// In DDL, with something to take up: wakes the worker, which waits for the end of a session that loads.
void expect_revival(bool loads);

// For the worker, in a transaction of its own: takes up what was restored if all of it is there, else changes
// nothing. Returns whether it did. Throws PgError.
bool revive();

}  // namespace tick::pg
