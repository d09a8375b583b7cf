// See the end of state.hpp: rows as a turn would write them, for who only reads.
#include "state_row.hpp"
#include "wanted.hpp"

namespace tick::pg {
namespace {

// The unique index over the keys and the window, whatever else is on the table.
Oid find_read_index(const Rollup& rollup, Relation table, int keys) {
  Oid result = InvalidOid;
  ListCell* cell;
  foreach (cell, RelationGetIndexList(table)) {
    Relation index = index_open(lfirst_oid(cell), AccessShareLock);
    if (is_plain_index(index) && is_key_index(rollup, table, index, keys)) result = RelationGetRelid(index);
    index_close(index, NoLock);
  }
  return result;
}

// Reads the rows that a slice would be merged with. Plain PostgreSQL code.
class Reader {
 public:
  Reader(const Rollup& rollup, MemoryContext memory) : memory_(memory) {
    const int keys = static_cast<int>(identifying(rollup));
    table_ = table_open(rollup.state, AccessShareLock);
    slot_ = table_slot_create(table_, nullptr);
    if (keys == 0) return;
    const Oid index = find_read_index(rollup, table_, keys);
    if (!OidIsValid(index)) elog(ERROR, "pg_tick: the state table of %s has no index", rollup.name.c_str());
    index_ = index_open(index, AccessShareLock);
    prepare_scan_keys(index_, keys_);
    scan_ = TICK_INDEX_BEGINSCAN(table_, index_, GetActiveSnapshot(), index_->rd_index->indnkeyatts);
  }

  void close() {
    if (scan_ != nullptr) index_endscan(scan_);
    if (index_ != nullptr) index_close(index_, NoLock);
    ExecDropSingleTupleTableSlot(slot_);
    table_close(table_, NoLock);
  }

  void merge(const Slice& slice, int row, Preview* into) {
    const bool found = find(slice, row);
    const Outcome outcome = merge_with(slice, row, RelationGetDescr(table_), found ? slot_ : nullptr);
    ItemPointerSetInvalid(&into->place);
    if (found) into->place = slot_->tts_tid;
    into->window = slice.fold.pane(slice.from + row);
    into->count = outcome.left;
    into->lost = outcome.empty ? outcome.left < 0 : outcome.lost || outcome.left <= 0;
    into->tuple = outcome.empty ? nullptr : form(outcome);
  }

  void make(const Slice& slice, int row, Preview* into) {
    const Outcome outcome = merge_with(slice, row, RelationGetDescr(table_), nullptr);
    ItemPointerSetInvalid(&into->place);
    into->window = slice.fold.pane(slice.from + row);
    into->count = outcome.left;
    into->lost = false;
    into->tuple = form(outcome);
  }

 private:
  bool find(const Slice& slice, int row) {
    if (index_ != nullptr) {
      set_scan_keys(slice, index_, row, keys_);
      index_rescan(scan_, keys_, index_->rd_index->indnkeyatts, nullptr, 0);
      return index_getnext_slot(scan_, ForwardScanDirection, slot_);
    }
    TableScanDesc scan = table_beginscan(table_, GetActiveSnapshot(), 0, nullptr);
    const bool found = table_scan_getnextslot(scan, ForwardScanDirection, slot_);
    if (found) ExecMaterializeSlot(slot_);
    table_endscan(scan);
    return found;
  }

  HeapTuple form(const Outcome& outcome) {
    MemoryContext old = MemoryContextSwitchTo(memory_);
    HeapTuple tuple = heap_form_tuple(RelationGetDescr(table_), outcome.values, outcome.nulls);
    MemoryContextSwitchTo(old);
    return tuple;
  }

  MemoryContext memory_;
  Relation table_ = nullptr, index_ = nullptr;
  TupleTableSlot* slot_ = nullptr;
  IndexScanDesc scan_ = nullptr;
  ScanKeyData keys_[INDEX_MAX_KEYS] = {};
};

std::vector<Preview> preview(const Rollup& rollup, const Fold& fold, const TurnTime& time,
                             const int64_t* revisions, const std::vector<bool>& wanted,
                             MemoryContext memory) {
  std::vector<Preview> previews(fold.slots());
  Lost lost;
  for_slices(rollup, fold, time, true, revisions, lost, [&](const Slice& slice) {
    Preview* into = &previews[slice.from];
    call([&] {
      Reader reader(rollup, memory);
      for (int row = 0; row < slice.rows; ++row) {
        CHECK_FOR_INTERRUPTS();
        if (!wanted[slice.from + row])
          ItemPointerSetInvalid(&into[row].place);
        else if (revisions == nullptr)
          reader.merge(slice, row, &into[row]);
        else
          reader.make(slice, row, &into[row]);
      }
      reader.close();
    });
  });
  return previews;
}

RowsToJudge rows_of(const Rollup& rollup, const Rows::Page& page) {
  const size_t columns = rollup.columns.size(), keys = rollup.program.keys.size();
  return {page.rows, [&page, columns](size_t row, size_t key) { return page.cells[row * columns + key]; },
          [&page, columns, keys](size_t row) { return page.cells[row * columns + keys].word; }};
}

}  // namespace

std::vector<Preview> preview_merge(const Rollup& rollup, const Fold& fold, const TurnTime& time,
                                   const std::vector<bool>& wanted, MemoryContext memory) {
  return preview(rollup, fold, time, nullptr, wanted, memory);
}

std::vector<Preview> preview_rows(const Rollup& rollup, const Fold& fold, const TurnTime& time,
                                  const std::vector<int64_t>& revisions, const std::vector<bool>& wanted,
                                  MemoryContext memory) {
  return preview(rollup, fold, time, revisions.data(), wanted, memory);
}

std::vector<Present> read_present(const Rollup& rollup, const Fold& fold, const std::vector<Range>& windows,
                                  const TurnTime& time, const Wanted& wanted) {
  std::vector<Present> result;
  const size_t keys = rollup.program.keys.size(), wide = identifying(rollup);
  Rows rows(rollup, windows, false, true);
  Rows::Page page;
  while (rows.next(page)) {
    const std::vector<bool> judged = wanted.judge(rows_of(rollup, page));
    for (uint64 row = 0; row < page.rows; ++row) {
      if (!judged[row]) continue;
      const Cell* cells = page.cells + row * rollup.columns.size();
      const Micros window = rollup.windowed ? cells[keys].word : 0;
      const auto slot = find_slot(rollup, fold, cells, window);
      const bool same = slot && has_partials(rollup, cells, fold, *slot);
      const int64_t revision = page.revisions[row] + (was_final(rollup, window, time) ? 1 : 0);
      result.push_back({page.places[row], window, cells[wide].word, revision, slot, same});
    }
  }
  return result;
}

std::set<Micros> read_stale(const Rollup& rollup, const std::vector<Range>& windows, const Wanted& wanted) {
  std::set<Micros> result;
  Rows rows(rollup, windows, true, true);
  Rows::Page page;
  while (rows.next(page)) {
    const std::vector<bool> judged = wanted.judge(rows_of(rollup, page));
    for (uint64 row = 0; row < page.rows; ++row)
      if (judged[row])
        result.insert(rollup.windowed ? rows_of(rollup, page).window(row) : static_cast<Micros>(0));
  }
  return result;
}

}  // namespace tick::pg
