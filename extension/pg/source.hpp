// A source: a table that rollups read, and its settings in tick_catalog.source. It is there from the first
// rollup on, and until the last has gone; one that a user has declared stays. PostgreSQL only.
#pragma once

#include "pg.hpp"

namespace tick::pg {

// A row of tick_catalog.source; null pointers are NULL, everything is palloc'ed.
struct SourceSettings {
  Oid relid;
  Interval* watermark_delay;
  Interval* idle_timeout;
  Interval* max_skew;
  char* watermark_by;
  Interval* freeze_after;
  List* dedup_key;  // char*
  char* dedup_id;
  char* dedup_group;
  Interval* retention;
  Interval* partition_size;
  int32 partitions_ahead;
};

// An interval as a span of time: a month is 30 days, a day 24 hours, as where intervals are compared.
int64 interval_micros(const Interval* interval);

// Sees to it that a source has its rows in the catalogs. As the extension's owner.
void register_source(Oid source);

// Refuses a rollup that has just been written to the catalogs if the source's settings do not fit it.
void check_new_rollup(Oid source);

// Takes those rows away unless a rollup reads the source or a user has declared it. As the extension's owner.
void forget_source(Oid source);

// The texts of an array, none of which may be NULL.
List* read_names(Datum array);

// Refuses a table that is no source, or not the caller's own.
void require_source(Oid source);

// The column that dates the rows of a source: what it is partitioned by, else what its windows are made of,
// else the only one with a time; 0 if there are others. As the extension's owner.
AttrNumber time_column(Oid source);

}  // namespace tick::pg
