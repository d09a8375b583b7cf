// Names and rows of the extension's own catalogs, for code that has no snapshot of its own to read them with.
// (The worker reads them by SPI under the snapshot of its turn.)
#pragma once

#include "pg.hpp"

namespace tick::pg {

// One row of tick_catalog.program; arrays are palloc'ed.
struct ProgramRow {
  Oid source;
  Oid owner;
  List* inputs;  // Node*
  int input_count;
  int16* keys;
  int key_count;
  int16 time_input;
  int16 where_input;
  int64 pane;
  int16* items;
  int item_count;  // numbers, five an item
};

// All may ereport.
Oid catalog_namespace(bool missing_ok);
Oid catalog_relation(const char* name);  // InvalidOid if the extension is not there

// Reads a program with the catalog snapshot: a writer older than the program still finds it.
bool read_program(int64 id, ProgramRow* row);

// The small tables that every turn reads and writes, without the executor. `place` is where the row was last
// seen, invalid at first: only a hint. Returns a palloc'ed copy of the row that the active snapshot sees,
// nullptr if there is none; `key` is the first and only column of the index.
HeapTuple read_row(Relation table, const char* index, RegProcedure equal, Datum key, ItemPointerData* place);
// Replaces the row that was read at `place`, or adds it if that is invalid.
void write_row(Relation table, HeapTuple row, ItemPointerData* place);

// Appends a delta to the queue table that the hint names, keeping ROW EXCLUSIVE on it to the end of the
// transaction.
void append_delta(int64 program, const char* data, size_t size);

}  // namespace tick::pg
