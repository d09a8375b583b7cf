// Rows on their way into a table, a chunk at a time, without a trigger of ours being fired for each: what
// they do is done for the chunk. All else that a table asks of an INSERT is honoured: NOT NULL, CHECK,
// partitions, indexes.
#pragma once

#include "capture.hpp"
#include "dedup.hpp"

namespace tick::pg {

// What rows would meet at a table itself.
struct Fitness {
  const char* obstacle = nullptr;  // why they cannot go in like this, palloc'ed; nullptr: they can
  bool ours = false;               // a trigger of ours, for each row
  bool flushes = false;            // one for each statement
};
// Of a table that is open. May ereport.
Fitness examine(Relation table);

// All in one statement of the caller, and as the caller, who has looked at his rights.
class Insertion {
 public:
  static constexpr int chunk_rows = 256;

  // What becomes of a row whose partition, unlike the table, has an obstacle: it is refused, or goes in by
  // itself, with all triggers fired.
  enum class Odd { refused, fired };

  // The table is fit and stays open; rows will come with values in these columns of it. May ereport, as all
  // that follow.
  void open(Relation table, const Fitness& fitness, const Bitmapset* columns, Odd odd);
  // Shows an error the line of the input that a row came from: what it prints, and whether that is the one
  // being read.
  void number_lines(uint64* line, bool* reading);
  // The Datums of key and group columns that are equal will mean the same for the whole statement.
  void know_keys() { known_keys_ = make_known_keys(); }

  // Of all that a chunk needs: the values of its rows, expressions that make them. Gone with leave().
  ExprContext* context() const { return context_; }
  bool full() const { return MemoryContextMemAllocated(chunk_, false) > chunk_most; }

  void enter() { caller_ = MemoryContextSwitchTo(chunk_); }
  // Empty, of the table's columns.
  TupleTableSlot* row(int i);
  // Sends a row whose values are there on its way, in the order in which COPY looks at it. `complete`: none
  // of its values is NULL. Throws, too.
  void route(int i, bool complete);
  // Writes the chunk. Throws, too.
  void leave();

  // The statement ends. Throws.
  void finish();
  void close();

  int64 inserted() const { return inserted_; }
  int64 duplicates() const { return duplicates_; }

 private:
  static constexpr Size chunk_memory = 512 * 1024, chunk_most = 4 * chunk_memory;
  struct Leaf;

  void show_columns(ResultRelInfo* info, const Bitmapset* columns);
  Leaf& leaf_of(ResultRelInfo* info);
  TupleTableSlot* slot_at(TupleTableSlot*& place, TupleDesc columns) const;
  void write();
  void write(Leaf& leaf);
  void insert_one(const Leaf& leaf, TupleTableSlot* slot);
  void check(ResultRelInfo* info, TupleTableSlot* slot, bool complete);

  Relation table_ = nullptr;
  Fitness fitness_;
  Odd odd_ = Odd::refused;
  MemoryContext memory_ = nullptr, chunk_ = nullptr, caller_ = nullptr;
  EState* estate_ = nullptr;
  ExprContext* context_ = nullptr;
  ModifyTableState* state_ = nullptr;
  PartitionTupleRouting* routing_ = nullptr;
  BulkInsertState bulk_ = nullptr;
  Leaf** leaves_ = nullptr;
  int leaf_count_ = 0;
  Leaf* last_ = nullptr;           // that a row went to
  const Leaf* written_ = nullptr;  // that rows were written to
  bool waiting_ = false;           // rows to be written
  TupleDesc columns_ = nullptr;
  TupleTableSlot* rows_[chunk_rows] = {};
  KnownKeys* known_keys_ = nullptr;
  uint64* line_ = nullptr;
  bool* reading_ = nullptr;
  int64 inserted_ = 0, duplicates_ = 0;
};

// Refuses what tick.ingest cannot do, and names COPY, which can.
[[noreturn]] void refuse_insertion(Relation table, const char* obstacle);

}  // namespace tick::pg
