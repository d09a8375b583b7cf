// Under whose name, search_path and settings a piece of SQL runs, and the short way to run one. The name
// never changes without the path: what a caller put in front of pg_catalog must not run as somebody else.
// Nothing here is undone by a destructor: an ereport leaves it to the transaction's abort, which restores
// both.
#pragma once

#include "catalog.hpp"
#include "pg.hpp"

namespace tick::pg {

// What act_as() replaced.
struct Actor {
  Oid user;
  int context;
  int path;
};

// Returns the role that owns the extension and its catalogs.
Oid extension_owner();

// Switches to a role under fixed_path(); `flags` are SECURITY_* bits to add. act_again() takes both back.
Actor act_as(Oid role, int flags);
Actor act_as_extension();
// As the owner of a table or view, for what he may have put there.
Actor act_as_owner_of(Oid relation);
void act_again(const Actor& before);

// Keeps the present role, and sets search_path to pg_catalog, so that whatever is deparsed names its schemas,
// jit off, and what IMMUTABLE functions read of the session (the output of floats, bytea, intervals) to one
// value for writers, worker and readers. Returns what close_path() takes.
int fixed_path();
void close_path(int level);

// Runs one statement without a result through SPI, under the present identity and path.
void run(const char* sql);

// Has the worker look at its caches again once this transaction commits. As the extension's owner.
void tell_engine();

// For a process that has found the generation changed. A commit wakes the worker before it tells of what it
// has invalidated, a function that was replaced, say: all is told once its lock on the generation has gone.
// Where that does not happen at once, and where it is not `known` what the caches hold, they are emptied.
void see_definitions(bool known);

// A statement prepared once in the life of this process, by its text. Inside SPI. `options`: of a cursor;
// CURSOR_OPT_GENERIC_PLAN where a plan for these very values would be no better than the one for all.
SPIPlanPtr kept_plan(const char* sql, int count, Oid* types, int options = 0);

// Opens SPI under a snapshot of this moment, whatever the isolation level: for reading our own catalogs.
// Between the two, SPI statements must be read only.
void open_catalogs();
void close_catalogs();

// The extension's own objects.
Oid tick_schema();
Oid exact_sum_type();

// Returns the qualified, quoted name of a relation.
const char* relation_text(Oid relation);

// The error of everything that takes a rollup and was given something else.
[[noreturn]] void refuse_no_rollup(Oid relation);

}  // namespace tick::pg
