// What a source still holds: tick_catalog.leaf says which partitions its rows are in, raw_from from which
// time on they are complete. Windows before that are never recomputed. PostgreSQL only; all may ereport, and
// run as the extension's owner with the fixed search_path.
#pragma once

#include "pg.hpp"

namespace tick::pg {

// Compares the partitions of all sources with those recorded, and moves raw_from past the ones that have
// gone.
void follow_leaves();

// Takes in tables that were attached with their rows and ids: their windows are recomputed, and rows that
// were never in the source enter those of which it has lost rows. `tables`: list of oid.
void take_in(List* tables);

// Rows of a source are gone for good, the newest of this time, and their windows stay as they are
// (plus_infinity: nobody knows the times). retire_leaf(): all rows of a partition.
void retire_rows(Oid source, Micros newest);
void retire_leaf(Oid source, Oid leaf);

// Raw rows below this time are no longer all there. Never lowers raw_from.
void raise_raw_from(Oid source, Micros until);

// Whether a table or its partitions hold rows, committed ones or this transaction's.
bool any_holds_rows(Oid table);

// Reads one column of int8 into a list of them, palloc'ed; `argument` is $1, an oid.
List* read_numbers(const char* sql, Oid argument);

}  // namespace tick::pg
