// What a turn makes of one row of a state table, and how its rows are found and read: for the two files that
// need it, state.cpp, which writes them, and preview.cpp, which only shows them to a reader.
#pragma once

#include <algorithm>

#include "guard.hpp"
#include "session.hpp"
#include "state.hpp"

namespace tick::pg {

inline constexpr size_t slice_rows = 4096;
inline constexpr size_t slice_memory = 32 * 1024 * 1024;

// Columns of the state table that identify a row; the next one counts its rows.
inline size_t identifying(const Rollup& rollup) {
  return rollup.program.keys.size() + (rollup.windowed ? 1 : 0);
}

// Some slots of a fold, as columns.
struct Slice {
  const Rollup& rollup;
  const Fold& fold;
  size_t from;  // its first slot
  const StateColumns& state;
  int rows;
  const TurnTime& time;
  bool complete;
  Lost& lost;
  const int64_t* revisions;  // of rows that are not there, by slot; nullptr: 0

  bool any_left(int row) const { return fold.removed(from + row) > 0; }
  bool may_lose(int row) const { return any_left(row) && (!complete || fold.may_lose(from + row)); }
  void lose(int row, bool marked) const {
    (marked ? lost.marked : lost.unmarked).insert(fold.pane(from + row));
  }
  int64_t revision(int row) const { return revisions == nullptr ? 0 : revisions[from + row]; }
};

// Hands over a fold in slices: an array of one must fit into PostgreSQL's largest allocation, however wide
// the values are.
template <typename Take>
void for_slices(const Rollup& rollup, const Fold& fold, const TurnTime& time, bool complete,
                const int64_t* revisions, Lost& lost, Take&& take) {
  if (fold.slots() == 0) return;
  const size_t rows = std::clamp<size_t>(slice_memory / (fold.memory() / fold.slots() + 1), 1, slice_rows);
  for (size_t from = 0; from < fold.slots(); from += rows) {
    const size_t to = std::min(from + rows, fold.slots());
    const StateColumns state = state_columns(rollup, fold, from, to);
    if (state.cells.size() != rollup.columns.size())
      throw Error{Error::Code::internal, "state table of " + rollup.name + " does not fit its program"};
    take(Slice{rollup, fold, from, state, static_cast<int>(to - from), time, complete, lost, revisions});
  }
}

// What becomes of row `row` of the slice, given the row that is there, if any.
struct Outcome {
  Datum* values;  // palloc'ed
  bool* nulls;
  int64 left;  // rows that it counts
  bool lost;   // an extremum may have left
  bool empty;  // nothing is left of it
  bool same;   // the partials that are there
};
Outcome merge_with(const Slice& slice, int row, TupleDesc desc, TupleTableSlot* there);

// True if a window was final before this turn.
bool was_final(const Rollup& rollup, Micros window, const TurnTime& time);
Cell to_cell_detoasted(Datum datum, bool null, const ValueType& type);
// The slot of a fold with the keys of a row of the state table.
std::optional<size_t> find_slot(const Rollup& rollup, const Fold& fold, const Cell* cells, Micros window);
// True if a row of the state table has the partials of a slot.
bool has_partials(const Rollup& rollup, const Cell* cells, const Fold& fold, size_t slot);

// An index without expression and predicate that is checked at once.
bool is_plain_index(Relation index);
// True if an index is over just the keys and the window: an owner may have made others that are unique.
bool is_key_index(const Rollup& rollup, Relation table, Relation index, int keys);
// Prepares the scan keys of such an index.
void prepare_scan_keys(Relation index, ScanKey keys);
// Fills the scan keys of one row.
void set_scan_keys(const Slice& slice, Relation index, int row, ScanKey keys);

// The rows of some windows, read under their owner's name a thousand at a time.
class Rows {
 public:
  // What has been read: plain data that lives until the next page.
  struct Page {
    uint64 rows = 0;
    Cell* cells = nullptr;  // row * columns + column
    bool* stale = nullptr;
    int64* revisions = nullptr;
    ItemPointerData* places = nullptr;
  };

  Rows(const Rollup& rollup, const std::vector<Range>& windows, bool only_stale, bool read_only = false)
      : rollup_(rollup) {
    const int count = static_cast<int>(windows.size());
    const Oid type = rollup.windowed ? rollup.column_types.at(rollup.program.keys.size()) : TIMESTAMPTZOID;
    call([&] {
      const char* table = state_text(rollup);
      const char* time = rollup.windowed ? time_text(rollup) : nullptr;
      StringInfoData sql;
      initStringInfo(&sql);
      appendStringInfoString(&sql, "SELECT ");
      for (size_t c = 0; c < rollup.columns.size(); ++c)
        appendStringInfo(&sql, "s.%s, ",
                         quote_identifier(get_attname(rollup.state, rollup.attributes[c], false)));
      appendStringInfo(&sql, "s.tick_stale, s.revision, s.ctid FROM %s AS s WHERE %s", table,
                       only_stale ? "s.tick_stale" : "true");
      if (rollup.windowed)
        appendStringInfo(&sql,
                         " AND s.%s >= $3 AND s.%s < $4 AND EXISTS (SELECT FROM unnest($1, $2) AS r (lo, hi) "
                         "WHERE s.%s >= r.lo AND s.%s < r.hi)",
                         time, time, time, time);
      auto* lo = static_cast<Datum*>(palloc(sizeof(Datum) * (count + 1)));
      auto* hi = static_cast<Datum*>(palloc(sizeof(Datum) * (count + 1)));
      Micros least = plus_infinity, most = minus_infinity;
      for (int i = 0; i < count; ++i) {
        lo[i] = TimestampTzGetDatum(windows[i].lo);
        hi[i] = TimestampTzGetDatum(windows[i].hi);
        least = std::min(least, windows[i].lo);
        most = std::max(most, windows[i].hi);
      }
      Oid types[4] = {get_array_type(type), get_array_type(type), type, type};
      Datum values[4] = {
          PointerGetDatum(construct_array(lo, count, type, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE)),
          PointerGetDatum(construct_array(hi, count, type, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE)),
          TimestampTzGetDatum(least), TimestampTzGetDatum(most)};
      memory_ = AllocSetContextCreate(CurrentMemoryContext, "pg_tick state rows", ALLOCSET_DEFAULT_SIZES);
      const Actor before = act_as_owner(rollup.owner);
      portal_ = SPI_cursor_open_with_args(nullptr, sql.data, rollup.windowed ? 4 : 0, types, values, nullptr,
                                          read_only, 0);
      act_again(before);
    });
  }
  Rows(const Rows&) = delete;  // the end of the transaction closes the cursor of one that an error has left

  // Reads some rows; false at the end.
  bool next(Page& page) {
    const size_t columns = rollup_.columns.size();
    call([&] {
      const Actor before = act_as_owner(rollup_.owner);
      MemoryContextReset(memory_);
      SPI_cursor_fetch(portal_, true, 1000);
      page.rows = SPI_processed;
      MemoryContext old = MemoryContextSwitchTo(memory_);
      page.cells = static_cast<Cell*>(palloc(sizeof(Cell) * (page.rows * columns + 1)));
      page.stale = static_cast<bool*>(palloc(page.rows + 1));
      page.revisions = static_cast<int64*>(palloc(sizeof(int64) * (page.rows + 1)));
      page.places = static_cast<ItemPointerData*>(palloc(sizeof(ItemPointerData) * (page.rows + 1)));
      for (uint64 row = 0; row < page.rows; ++row) {
        bool null;
        const auto field = [&](size_t c) {
          return heap_getattr(SPI_tuptable->vals[row], static_cast<int>(c) + 1, SPI_tuptable->tupdesc, &null);
        };
        for (size_t c = 0; c < columns; ++c) {
          const Datum datum = field(c);
          const ValueType& type = rollup_.columns[c];
          page.cells[row * columns + c] =
              to_cell_detoasted(null ? datum : datumCopy(datum, type.by_value, type.length), null, type);
        }
        page.stale[row] = DatumGetBool(field(columns));
        page.revisions[row] = DatumGetInt64(field(columns + 1));
        page.places[row] = *reinterpret_cast<ItemPointer>(DatumGetPointer(field(columns + 2)));
      }
      MemoryContextSwitchTo(old);
      SPI_freetuptable(SPI_tuptable);
      if (page.rows == 0) {
        SPI_cursor_close(portal_);
        MemoryContextDelete(memory_);
      }
      act_again(before);
    });
    return page.rows > 0;
  }

 private:
  const Rollup& rollup_;
  Portal portal_ = nullptr;
  MemoryContext memory_ = nullptr;
};

}  // namespace tick::pg
