// The tables that really hold a source's rows, with the time range each is known to hold.
#pragma once

#include <optional>
#include <vector>

#include "pg.hpp"

namespace tick::pg {

struct Leaf {
  Oid relid;
  bool bounded;  // rows have times in [lo, hi); else any
  Micros lo, hi;
  double rows;  // the planner's estimate
  double blocks;
};

// The times that the rows of a table in a source's tree can have. `rest`: a default partition.
struct Bounds {
  enum { any, known, rest } kind;
  Micros lo, hi;
};
// Of the column that windows are made of, or with 0 of whatever time the source is partitioned by. May
// ereport.
Bounds find_bounds(Oid source, Oid table, AttrNumber time_attribute);

// Locks the source and all its leaves in ACCESS SHARE and lists the leaves; nothing if somebody holds one of
// them in ACCESS EXCLUSIVE: the other rollups must not wait for him. time_attribute is the source's time
// column if that is what windows are made of, else 0. Throws PgError if the source is gone.
std::optional<std::vector<Leaf>> lock_leaves(Oid source, AttrNumber time_attribute);

// True if the source still has just these leaves: compared after the snapshot was taken.
bool same_leaves(Oid source, const std::vector<Leaf>& leaves);

// Moves `lo` up so that [lo, hi) takes about a million rows of the newest leaves, at least one leaf.
void narrow_to_leaves(const std::vector<Leaf>& leaves, const WindowSize& size, Micros& lo, Micros hi);

}  // namespace tick::pg
