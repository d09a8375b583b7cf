// A process beside the worker for rollups whose aggregates rows cannot be added to one by one. The worker's
// turns count such a rollup's rows and so touch them; this process runs the query again over what has been
// touched, as the rollup's owner, in one transaction, and writes what it gives in others, under the mutex of
// the turns and so briefly. It works at most a quarter of its time. A row shows what was computed last, and
// nothing before the first time.
#pragma once

namespace tick::pg {

// For the worker, after a turn while there are such rollups: starts the process if it is not there; if rows
// of one were `touched`, wakes it.
void rouse_computer(bool touched);
// Ends the process, in the middle of whatever it does: the database is wanted.
void end_computer();

}  // namespace tick::pg
