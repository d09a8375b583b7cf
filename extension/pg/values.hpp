// The one place where a PostgreSQL Datum becomes a core cell and back.
#pragma once

#include "../core/types.hpp"
#include "pg.hpp"

namespace tick::pg {

// How values of one SQL type travel. Plain data: may live across an ereport.
struct ValueType {
  Oid oid;
  int16 length;
  bool by_value;
  char align;
  Type type;
};

// The core type of a SQL type: Type::word or Type::bytes for types the core does not interpret. May ereport.
ValueType value_type(Oid type);

// The collation number of an input: 0 where bytes decide.
uint32_t core_collation(Oid type, Oid collation);

// Does not copy: the cell of a variable type points into the datum, which must be detoasted.
Cell to_cell(Datum datum, bool null, const ValueType& type);

// Allocates by-reference values in the current memory context; may ereport.
Datum to_datum(const Cell& cell, const ValueType& type);
// The same for bytes that are a varlena's content.
Datum varlena_datum(const char* data, size_t size);

// Orders text by a collation through PostgreSQL; throws PgError.
int compare_text(std::string_view a, std::string_view b, uint32_t collation);

// The windows of a size; with `slide`, which may be nullptr, they hop, or, with `grows`, cumulate by such
// steps. To be validated.
WindowSize window_size(const Interval* size, const Interval* slide = nullptr, bool grows = false);

// The time zone of a name as PostgreSQL knows it, kept for the life of the process; nullptr is UTC. Throws
// Error if there is none, or none that windows can be in.
const Zone* find_zone(std::string_view name);

// The columns of tick_catalog.rollup, there called r, that say what its windows are.
#define TICK_WINDOW_COLUMNS "r.window_size, r.window_slide, r.window_zone, r.window_origin, r.window_grows"
// The time from which on there is all that rollup r reads: rows of its source, whose row is called `source`,
// or of the rollup that it reads.
#define TICK_COVERED_FROM(source)                                                         \
  "CASE WHEN r.parent IS NULL THEN greatest(" source                                      \
  ".raw_from, r.seeded_to) ELSE (SELECT p.kept_from FROM tick_catalog.rollup AS p WHERE " \
  "p.id = r.parent) END"
// Reads the windows from a row of the last SPI result, `first` being the number of the first; false if the
// rollup has no windows. May ereport; throws Error.
bool read_window(uint64 row, int first, WindowSize* size);

}  // namespace tick::pg
