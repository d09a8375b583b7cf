// A source that is partitioned by range of one time column, as retention and the views see it: its direct
// partitions in the order of time, and the default one, the attic. PostgreSQL only.
#pragma once

#include "pg.hpp"

namespace tick::pg {

struct TimePartition {
  Oid relid;
  Micros lo, hi;  // rows have times in [lo, hi); a timestamp without zone is read as UTC
};

// Palloc'ed. Nothing is locked but what the caller holds.
struct TimePartitions {
  bool by_time;          // range of one column of type timestamp or timestamptz
  AttrNumber attribute;  // that column
  Oid type;
  int count;
  TimePartition* list;  // ascending
  Oid attic;            // InvalidOid if there is none
};

// `source` is open. For a table that is not partitioned by time only `attic` may be set.
TimePartitions read_partitions(Relation source);

}  // namespace tick::pg
