// The state rows of a rollup that groups by the columns of a key which is forgotten or renamed: how they go
// and how they move, with the versions and late rows that are known of them. keys.cpp says which and when;
// turns are stopped. All but the structs is plain PostgreSQL code, and may ereport.
#pragma once

#include "define.hpp"
#include "rollup.hpp"
#include "state.hpp"

namespace tick::pg {

// A column of the source, and the value that it has in the rows of the key.
struct KeyColumn {
  AttrNumber number;
  const char* name;
  Oid type;  // of the value: not a domain
  Oid equal;
  Datum value;
  bool null;
};

// What was asked for; palloc'ed. SQL has as parameters the values of the key, those it is to have, from, to
// and the time of the change.
struct Asked {
  Oid source;
  int count;  // of columns
  KeyColumn* key;
  KeyColumn* renamed;  // nullptr: it is to be forgotten
  bool ranged;
  Micros from, to;
  AttrNumber time;  // the column that these are about
  TimestampTz now;
  int parameters;
  Oid* types;
  Datum* values;
  char* nulls;
};

// How a rollup is kept right: its state rows go or move themselves; the windows are computed again; deltas
// correct it; it follows another rollup. Rollups that share their deltas are all corrected, or none is.
enum class How { direct, recomputed, corrected, followed };

// A rollup of the source.
struct Member {
  const Standing* standing;
  Definition* def;
  Rollup rollup;
  bool keyed;  // it groups by the key's columns as they are
  bool reads;  // its rows depend on what is to happen
  bool whole;  // what is to happen is to rows of its own alone
  How how;
  bool follows;                 // it reads another rollup
  const StateColumn** columns;  // of the state table, by column of the key; nullptr: it does not group by it
  AttrNumber* numbers;          // of these in what it reads
};

// What has gone from a state table: keys and windows, palloc'ed.
struct Gone {
  int64 count;
  int64 merged;       // of the first so many there was a row of the other key
  const char** keys;  // JSON
  Micros* windows;
};

// A statement with the parameters, inside SPI. Returns how many rows it is about.
uint64 execute(const Asked* asked, const char* sql, int expected);
// Says that a row has the key, or the one it is to have: its columns are called so.
const char* has_key(const Asked* asked, bool renamed, const char* const* names);
// Says that a time lies in [from, to), if they were given.
const char* in_range(const Asked* asked, const char* time, Oid type);

// The rows of the key go, from what is asked for to what is not, or get the other key; where there are rows
// of that one they are merged.
Gone delete_states(const Asked* asked, const Member& member);
Gone move_states(const Asked* asked, const Member& member, const TurnTime& time);
void delete_versions(const Asked* asked, const Member& member);
// What tick.late lists of the key.
void change_late(const Asked* asked, const Member& member);
// Windows that have no rows any more are not told of as closed.
void forget_open(const Member& member, const Micros* windows, int count);

// How many rows of the key there are in windows that [from, to) meets and that start before `covered`.
uint64 count_uncovered(const Asked* asked, const Member& member, Micros covered);
// Marks rows of the key stale, those of windows that start in [lo, hi) where there are windows.
void mark_key_stale(const Asked* asked, const Member& member, Micros lo, Micros hi);

}  // namespace tick::pg
