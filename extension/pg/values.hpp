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

// The windows of a size; with `slide`, which may be nullptr, they hop. To be validated.
WindowSize window_size(const Interval* size, const Interval* slide = nullptr);

}  // namespace tick::pg
