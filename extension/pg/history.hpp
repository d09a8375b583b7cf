// History of a rollup, for tick.as_of: every version that a row of a final window has had, and when windows
// became final. A version is kept when it is replaced or deleted, by whoever writes the state table: by
// keep_version() or, from SQL, by the trigger tick_keep. What is there now is in the state table alone.
#pragma once

#include "rollup.hpp"

namespace tick::pg {

struct TurnTime;

// While one is alive the trigger tick_keep keeps what SQL does to this state table; otherwise nothing: what
// retention drops, or a dump brings, is no version.
class KeepsVersions {
 public:
  KeepsVersions(const Rollup& rollup, const TurnTime& time);
  ~KeepsVersions();
  KeepsVersions(const KeepsVersions&) = delete;
  KeepsVersions& operator=(const KeepsVersions&) = delete;
};

// Keeps the row of the state table that a turn is about to replace or delete, given by its columns. Plain
// PostgreSQL code; ereports.
void keep_version(const Rollup& rollup, Relation state, const Datum* values, const bool* nulls,
                  const TurnTime& time);

// Notes that the watermark has passed the ends of windows of a rollup that has a history, or has gone back:
// then its history begins anew. Inside SPI. Throws.
void note_finality(const Rollup& rollup, TimestampTz turn, TimestampTz before, TimestampTz after);

// A turn replaces rows and keeps no versions of them: the history of the rollup, if it has one, begins with
// it. Inside SPI. Throws.
void forgo_versions(const Rollup& rollup, TimestampTz turn);

// Lets go of what is older than the history, every ten seconds. Transactions of its own,
// between turns. Throws PgError.
void prune_histories();

// For definitions, under the mutex of the turns and as the extension's owner; all ereport.
// Gives a rollup a history of this length from now on, or another length; nullptr: it has none any more.
void set_history(Oid view, const Interval* length);
// Takes in the columns that the definition has got.
void extend_history(Oid view);
// What it holds no longer leads to what the rollup shows: it begins anew.
void restart_history(int32 rollup);
// Drops the objects of a rollup's history, if it has one.
void drop_history(int32 rollup);

}  // namespace tick::pg
