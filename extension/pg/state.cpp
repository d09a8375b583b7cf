#include "state.hpp"

#include <algorithm>
#include <map>
#include <string>
#include <unordered_map>

#include "guard.hpp"
#include "history.hpp"
#include "notify.hpp"
#include "session.hpp"
#include "state_row.hpp"
#include "windows.hpp"

namespace tick::pg {
namespace {

// Notes that the row with these keys is deleted. Plain PostgreSQL code.
template <typename KeyCell>
void note_gone(const TurnTime& time, const Rollup& rollup, Micros window, KeyCell&& key) {
  if (time.gone == nullptr) return;
  const Actor before = act_as_owner(rollup.owner);
  auto* cells = static_cast<Cell*>(palloc(sizeof(Cell) * (rollup.program.keys.size() + 1)));
  for (size_t k = 0; k < rollup.program.keys.size(); ++k) cells[k] = key(k);
  const char* json = key_json(rollup, cells);
  act_again(before);
  time.gone->push_back({window, json});
}

// ---- by the upsert
// -----------------------------------------------------------------------------------------

// Deletes the rows that nothing is left of. Runs as the owner.
void remove_empty(const Slice& slice) {
  const Rollup& rollup = slice.rollup;
  auto* windows = static_cast<Datum*>(palloc(sizeof(Datum) * slice.rows));
  int count = 0;
  for (int row = 0; slice.complete && row < slice.rows; ++row)
    if (slice.any_left(row)) {
      windows[count++] = TimestampTzGetDatum(slice.fold.pane(slice.from + row));
      note_gone(slice.time, rollup, slice.fold.pane(slice.from + row),
                [&](size_t k) { return slice.fold.key(slice.from + row, k); });
    }
  if (count == 0) return;
  StringInfoData sql;
  initStringInfo(&sql);
  appendStringInfo(
      &sql, "DELETE FROM %s WHERE %s <= 0", state_text(rollup),
      quote_identifier(get_attname(rollup.state, rollup.attributes[identifying(rollup)], false)));
  const Oid type = rollup.windowed ? rollup.column_types[rollup.program.keys.size()] : TIMESTAMPTZOID;
  if (rollup.windowed) appendStringInfo(&sql, " AND %s = ANY ($1)", time_text(rollup));
  Oid types[1] = {get_array_type(type)};
  Datum values[1] = {
      PointerGetDatum(construct_array(windows, count, type, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE))};
  const int code = SPI_execute_with_args(sql.data, rollup.windowed ? 1 : 0, types, values, nullptr, false, 0);
  if (code != SPI_OK_DELETE) elog(ERROR, "pg_tick: merge failed: %s", SPI_result_code_string(code));
}

void write_by_upsert(const Slice& slice) {
  const Rollup& rollup = slice.rollup;
  const size_t columns = rollup.columns.size(), keys = rollup.program.keys.size();
  auto* types = static_cast<Oid*>(palloc(sizeof(Oid) * (columns + 4)));
  auto* values = static_cast<Datum*>(palloc0(sizeof(Datum) * (columns + 4)));
  auto* nulls = static_cast<char*>(palloc(columns + 4));
  auto* data = static_cast<Datum*>(palloc(sizeof(Datum) * slice.rows));
  auto* null = static_cast<bool*>(palloc(slice.rows));
  for (size_t c = 0; c < columns; ++c) {
    const ValueType& type = rollup.columns[c];
    for (int row = 0; row < slice.rows; ++row) {
      const Cell& cell = slice.state.cells[c][row];
      null[row] = cell.null;
      data[row] = c < keys ? key_datum(rollup, c, cell) : to_datum(cell, type);
    }
    int dimension = slice.rows, lower = 1;
    types[c] = get_array_type(rollup.column_types[c]);
    values[c] = PointerGetDatum(construct_md_array(data, null, 1, &dimension, &lower, rollup.column_types[c],
                                                   type.length, type.by_value, type.align));
    nulls[c] = ' ';
  }
  // The upsert does not say what it found: whatever left may have been the extremum.
  for (int row = 0; row < slice.rows; ++row) {
    data[row] = BoolGetDatum(slice.may_lose(row));
    if (slice.may_lose(row)) slice.lose(row, false);
  }
  types[columns] = BOOLARRAYOID;
  values[columns] = PointerGetDatum(construct_array(data, slice.rows, BOOLOID, 1, true, TYPALIGN_CHAR));
  for (int row = 0; row < slice.rows; ++row) data[row] = Int64GetDatum(slice.revision(row));
  types[columns + 1] = INT8ARRAYOID;
  values[columns + 1] =
      PointerGetDatum(construct_array(data, slice.rows, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
  types[columns + 2] = types[columns + 3] = TIMESTAMPTZOID;
  values[columns + 2] = TimestampTzGetDatum(slice.time.now);
  values[columns + 3] = TimestampTzGetDatum(slice.time.watermark.value_or(0));
  nulls[columns] = nulls[columns + 1] = nulls[columns + 2] = ' ';
  nulls[columns + 3] = slice.time.watermark ? ' ' : 'n';
  // Whatever a user has put on the state table runs as its owner, never as us.
  const Actor before = act_as_owner(rollup.owner);
  SPIPlanPtr plan = kept_plan(rollup.upsert.c_str(), static_cast<int>(columns + 4), types);
  const int code = SPI_execute_plan(plan, values, nulls, false, 0);
  if (code != SPI_OK_INSERT) elog(ERROR, "pg_tick: merge failed: %s", SPI_result_code_string(code));
  remove_empty(slice);
  act_again(before);
}

// ---- directly
// ----------------------------------------------------------------------------------------------

bool is_ours(const char* function) {
  return strcmp(function, "guard_state") == 0 || strcmp(function, "keep_version") == 0;
}

// True if something on the table fires for the worker; our own triggers let it pass.
bool fires_triggers(Relation table) {
  // A copy: the relation's own may be made anew by any look at the catalogs.
  const TriggerDesc* triggers = CopyTriggerDesc(table->trigdesc);
  const Oid ours = catalog_namespace(false);
  for (int i = 0; triggers != nullptr && i < triggers->numtriggers; ++i) {
    const Oid function = triggers->triggers[i].tgfoid;
    if (get_func_namespace(function) == ours && is_ours(get_func_name(function))) continue;
    const char enabled = triggers->triggers[i].tgenabled;
    if (enabled == TRIGGER_FIRES_ON_ORIGIN || enabled == TRIGGER_FIRES_ALWAYS) return true;
  }
  return false;
}

// The unique index over the keys and the window if nothing on the table needs the executor, else InvalidOid.
Oid find_key_index(const Rollup& rollup, Relation table, int keys) {
  const TupleConstr* constraints = RelationGetDescr(table)->constr;
  if (table->rd_rel->relkind != RELKIND_RELATION || table->rd_rel->relam != HEAP_TABLE_AM_OID ||
      fires_triggers(table) || table->rd_rules != nullptr || table->rd_rel->relrowsecurity ||
      (constraints != nullptr && (constraints->num_check > 0 || constraints->has_generated_stored)))
    return InvalidOid;
  Oid result = InvalidOid;
  bool plain = true;
  ListCell* cell;
  foreach (cell, RelationGetIndexList(table)) {
    Relation index = index_open(lfirst_oid(cell), AccessShareLock);
    if (!is_plain_index(index)) plain = false;
    if (is_key_index(rollup, table, index, keys)) result = RelationGetRelid(index);
    index_close(index, NoLock);
  }
  return plain ? result : InvalidOid;
}

// Where the row of a key and window was last written. Rows move with each update, and this worker is the one
// that moves them: most are found without the index. A hint only: what lies there must be visible and have
// the key.
class Places {
 public:
  ItemPointerData* find(const std::string& key) {
    const auto known = places_.find(key);
    return known == places_.end() ? nullptr : &known->second;
  }
  void remember(const std::string& key, const ItemPointerData& place) {
    if (places_.size() >= most) places_.clear();
    places_.insert_or_assign(key, place);
  }
  void forget(const std::string& key) { places_.erase(key); }

 private:
  static constexpr size_t most = 100'000;
  std::unordered_map<std::string, ItemPointerData> places_;
};

Places& places_of(Oid table) {
  static std::map<Oid, Places> places;
  if (places.size() > 100 && !places.contains(table)) places.clear();  // tables come and go
  return places[table];
}

// The bytes of the keys and the window of a row.
void describe_key(const Slice& slice, int row, std::string& key) {
  key.clear();
  const size_t keys = slice.rollup.program.keys.size() + (slice.rollup.windowed ? 1 : 0);
  for (size_t c = 0; c < keys; ++c) {
    const Cell& cell = slice.state.cells[c][row];
    const bool variable = is_variable(slice.rollup.columns[c].type);
    const uint32_t size = cell.null ? ~0u : variable ? cell.size : 8;
    key.append(reinterpret_cast<const char*>(&size), sizeof size);
    if (!cell.null) key.append(variable ? cell.data : reinterpret_cast<const char*>(&cell.word), size);
  }
}

// True if the row in the slot has the keys and the window of row `row` of the slice.
bool has_key(const Slice& slice, int row, TupleTableSlot* slot) {
  const size_t keys = slice.rollup.program.keys.size() + (slice.rollup.windowed ? 1 : 0);
  for (size_t c = 0; c < keys; ++c) {
    const ValueType& type = slice.rollup.columns[c];
    bool null;
    const Datum datum = slot_getattr(slot, slice.rollup.attributes[c], &null);
    const Cell& cell = slice.state.cells[c][row];
    if (null != cell.null) return false;
    if (null) continue;
    const Cell there = to_cell_detoasted(datum, false, type);
    if (is_variable(type.type) ? there.view() == cell.view() : there.word == cell.word) continue;
    // The cell of a key has no blanks at its end, and no zeros.
    if (type.type == Type::bpchar && without_trailing_blanks(there.view()) == cell.view()) continue;
    if (type.type != Type::numeric ||
        !DatumGetBool(DirectFunctionCall2(numeric_eq, datum, to_datum(cell, type))))
      return false;
  }
  return true;
}

// Marks a row as touched, by a number that it has not had before. Plain PostgreSQL code.
void touch_row(const Rollup& rollup, Datum* values) {
  Datum& touched = values[rollup.touched_attribute - 1];
  const int64 now = static_cast<int64>(U64FromFullTransactionId(GetTopFullTransactionId()));
  touched = Int64GetDatum(std::max(now, DatumGetInt64(touched) + 1));
}

// Puts a row in the place of one with the same key, as CatalogTupleUpdate() does but that nobody looks
// through all versions of the row, which an old snapshot keeps, for another row with its key. That look is
// what clears an index of dead versions: not for every day.
void update_row(Relation table, ItemPointerData before, TupleTableSlot* slot, HeapTuple tuple,
                CatalogIndexState indexes, Oid key_index) {
  TU_UpdateIndexes which;
  TICK_HEAP_UPDATE(table, &before, tuple, &which);
  if (which == TU_None) return;
  ExecStoreHeapTuple(tuple, slot, false);
  for (int i = 0; i < indexes->ri_NumIndices; ++i) {
    Relation index = indexes->ri_IndexRelationDescs[i];
    IndexInfo* info = indexes->ri_IndexRelationInfo[i];
    if (!info->ii_ReadyForInserts || (which == TU_Summarizing && !TICK_SUMMARIZES(info))) continue;
    Datum values[INDEX_MAX_KEYS];
    bool nulls[INDEX_MAX_KEYS];
    FormIndexDatum(info, slot, nullptr, values, nulls);
    const bool same_key = RelationGetRelid(index) == key_index;
    const bool check = index->rd_index->indisunique && !same_key;
    index_insert(index, values, nulls, &tuple->t_self, table, check ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO,
                 same_key, info);
  }
  ExecClearTuple(slot);
}

void write_directly(const Slice& slice, Relation table, Oid key_index) {
  // Rows that a recompute of this turn has deleted must be seen as gone.
  CommandCounterIncrement();
  UpdateActiveSnapshotCommandId();
  TupleDesc desc = RelationGetDescr(table);
  Relation index = index_open(key_index, RowExclusiveLock);
  CatalogIndexState indexes = CatalogOpenIndexes(table);
  TupleTableSlot* slot = table_slot_create(table, nullptr);
  TupleTableSlot* written_slot = MakeSingleTupleTableSlot(desc, &TTSOpsHeapTuple);
  ScanKeyData keys[INDEX_MAX_KEYS];
  prepare_scan_keys(index, keys);
  IndexScanDesc scan = TICK_INDEX_BEGINSCAN(table, index, GetActiveSnapshot(), index->rd_index->indnkeyatts);
  MemoryContext memory =
      AllocSetContextCreate(CurrentMemoryContext, "pg_tick state row", ALLOCSET_DEFAULT_SIZES);
  Places& places = places_of(RelationGetRelid(table));
  static std::string key;  // not on the stack: an ereport may pass
  const BlockNumber blocks = RelationGetNumberOfBlocks(table);
  for (int row = 0; row < slice.rows; ++row) {
    MemoryContext old = MemoryContextSwitchTo(memory);
    describe_key(slice, row, key);
    ItemPointerData* place = places.find(key);
    bool found = place != nullptr && ItemPointerGetBlockNumber(place) < blocks &&
                 table_tuple_fetch_row_version(table, place, GetActiveSnapshot(), slot) &&
                 has_key(slice, row, slot);
    if (!found) {
      set_scan_keys(slice, index, row, keys);
      // A scan keeps some of what it allocates while it runs: not in the row's memory.
      MemoryContextSwitchTo(old);
      index_rescan(scan, keys, index->rd_index->indnkeyatts, nullptr, 0);
      found = index_getnext_slot(scan, ForwardScanDirection, slot);
      MemoryContextSwitchTo(memory);
    }
    const auto [values, nulls, left, lost, empty, same] =
        merge_with(slice, row, desc, found ? slot : nullptr);
    const bool written = !empty && (!same || lost);
    if (empty ? left < 0 : lost || left <= 0) slice.lose(row, written);
    // What shows otherwise from now on, of a window that was final.
    if (found && OidIsValid(slice.rollup.history) && (empty || !same) &&
        was_final(slice.rollup, slice.fold.pane(slice.from + row), slice.time))
      keep_version(slice.rollup, table, slot->tts_values, slot->tts_isnull, slice.time);
    if (empty && found) {
      ItemPointerData before = slot->tts_tid;
      ExecClearTuple(slot);
      CatalogTupleDelete(table, &before);
      places.forget(key);
      MemoryContextSwitchTo(old);
      note_gone(slice.time, slice.rollup, slice.fold.pane(slice.from + row),
                [&](size_t k) { return slice.fold.key(slice.from + row, k); });
      MemoryContextSwitchTo(memory);
    } else if (written) {
      if (slice.rollup.computed) touch_row(slice.rollup, values);
      HeapTuple tuple = heap_form_tuple(desc, values, nulls);
      if (found) {
        ItemPointerData before = slot->tts_tid;
        ExecClearTuple(slot);
        if (slice.time.held)
          update_row(table, before, written_slot, tuple, indexes, key_index);
        else
          CatalogTupleUpdateWithInfo(table, &before, tuple, indexes);
      } else {
        CatalogTupleInsertWithInfo(table, tuple, indexes);
      }
      places.remember(key, tuple->t_self);
    }
    MemoryContextSwitchTo(old);
    MemoryContextReset(memory);
  }
  MemoryContextDelete(memory);
  index_endscan(scan);
  ExecDropSingleTupleTableSlot(written_slot);
  ExecDropSingleTupleTableSlot(slot);
  CatalogCloseIndexes(indexes);
  index_close(index, NoLock);
  CommandCounterIncrement();
  UpdateActiveSnapshotCommandId();
}

void write(const Rollup& rollup, const Fold& fold, const TurnTime& time, bool complete,
           const int64_t* revisions, Lost& lost) {
  const KeepsVersions keeps(rollup, time);
  for_slices(rollup, fold, time, complete, revisions, lost, [&](const Slice& slice) {
    const int keys = static_cast<int>(identifying(rollup));
    call([&] {
      Relation table = table_open(rollup.state, RowExclusiveLock);
      const Oid key_index = keys == 0 ? InvalidOid : find_key_index(rollup, table, keys);
      if (OidIsValid(key_index))
        write_directly(slice, table, key_index);
      else
        write_by_upsert(slice);
      table_close(table, NoLock);
    });
  });
  if (!rollup.computed) return;
  std::set<Micros> touched;
  for (size_t slot = 0; slot < fold.slots(); ++slot) touched.insert(fold.pane(slot));
  touch_windows(rollup, {touched.begin(), touched.end()});
}

// ---- replacing
// ---------------------------------------------------------------------------------------------

// Runs a statement over rows named by their places, as the owner of the table.
void change_rows(const Rollup& rollup, const char* statement, const std::vector<ItemPointerData>& places) {
  constexpr size_t most = 10'000;
  for (size_t from = 0; from < places.size(); from += most) {
    const int count = static_cast<int>(std::min(most, places.size() - from));
    call([&] {
      auto* elements = static_cast<Datum*>(palloc(sizeof(Datum) * count));
      for (int i = 0; i < count; ++i)
        elements[i] = PointerGetDatum(const_cast<ItemPointerData*>(&places[from + i]));
      Oid types[1] = {get_array_type(TIDOID)};
      Datum values[1] = {PointerGetDatum(
          construct_array(elements, count, TIDOID, sizeof(ItemPointerData), false, TYPALIGN_SHORT))};
      const Actor before = act_as_owner(rollup.owner);
      const char* sql = psprintf(statement, relation_text(rollup.state));
      const int code = SPI_execute_with_args(sql, 1, types, values, nullptr, false, 0);
      if (code < 0) elog(ERROR, "pg_tick: recompute failed: %s", SPI_result_code_string(code));
      act_again(before);
    });
  }
}

// The statement, for change_rows(), that takes all that was counted out of rows of a rollup that is
// recomputed.
const char* recount_statement(const Rollup& rollup) {
  return call([&] {
    StringInfoData sql;
    initStringInfo(&sql);
    appendStringInfoString(&sql, "UPDATE %s SET tick_stale = false");
    for (size_t c = identifying(rollup); c < rollup.columns.size(); ++c) {
      const char* name = get_attname(rollup.state, rollup.attributes[c], false);
      // As a format: a name may have a percent sign.
      appendStringInfoString(&sql, ", ");
      for (const char* at = quote_identifier(name); *at != '\0'; ++at)
        appendStringInfo(&sql, *at == '%' ? "%%%%" : "%c", *at);
      appendStringInfoString(&sql, " = 0");
    }
    appendStringInfoString(&sql, " WHERE ctid = ANY ($1)");
    return const_cast<const char*>(sql.data);
  });
}

}  // namespace

Lost merge_state(const Rollup& rollup, const Fold& fold, const TurnTime& time, bool complete) {
  Lost lost;
  write(rollup, fold, time, complete, nullptr, lost);
  return lost;
}

void replace_state(const Rollup& rollup, const Fold& fold, const std::vector<Range>& windows,
                   const std::function<Replace(Micros window)>& rule, const TurnTime& time) {
  const size_t keys = rollup.program.keys.size(), wide = identifying(rollup);
  std::vector<bool> done(fold.slots());
  std::vector<int64_t> revisions(fold.slots());
  std::vector<ItemPointerData> removed, stale, cleared, recounted;
  if (!windows.empty()) {
    Rows rows(rollup, windows, false);
    Rows::Page page;
    while (rows.next(page)) {
      for (uint64 row = 0; row < page.rows; ++row) {
        const Cell* cells = page.cells + row * rollup.columns.size();
        const Micros window = rollup.windowed ? cells[keys].word : 0;
        const auto slot = find_slot(rollup, fold, cells, window);
        const Replace how = rule(window);
        const int64_t found = slot ? fold.partials(0).counts[*slot] : 0;
        if (how == Replace::keep || (how == Replace::guard && found < cells[wide].word)) {
          if (slot) done[*slot] = true;
          if (how == Replace::guard && !page.stale[row]) stale.push_back(page.places[row]);
          continue;
        }
        if (slot && rollup.computed) {  // its values stay until they are computed again
          recounted.push_back(page.places[row]);
          continue;
        }
        if (slot) {
          if (has_partials(rollup, cells, fold, *slot)) {
            done[*slot] = true;
            if (page.stale[row]) cleared.push_back(page.places[row]);
            continue;
          }
          revisions[*slot] = page.revisions[row] + (was_final(rollup, window, time) ? 1 : 0);
        } else {
          call([&] { note_gone(time, rollup, window, [&](size_t k) { return cells[k]; }); });
        }
        removed.push_back(page.places[row]);
      }
    }
  }
  {
    const KeepsVersions keeps(rollup, time);
    change_rows(rollup, "DELETE FROM %s WHERE ctid = ANY ($1)", removed);
  }
  change_rows(rollup, "UPDATE %s SET tick_stale = true WHERE ctid = ANY ($1)", stale);
  change_rows(rollup, "UPDATE %s SET tick_stale = false WHERE ctid = ANY ($1)", cleared);
  if (!recounted.empty()) change_rows(rollup, recount_statement(rollup), recounted);
  Lost lost;
  if (std::find(done.begin(), done.end(), true) == done.end()) {
    write(rollup, fold, time, true, revisions.data(), lost);
    return;
  }
  Fold rest(rollup.program);
  const std::vector<int16_t> same = every_item(rollup);
  std::vector<int64_t> rest_revisions;  // a slot of its own for each that is taken, in this order
  rest.merge(fold, same, [&](const Fold& from, size_t slot) -> std::optional<Micros> {
    if (done[slot]) return std::nullopt;
    rest_revisions.push_back(revisions[slot]);
    return from.pane(slot);
  });
  write(rollup, rest, time, true, rest_revisions.data(), lost);
}

void mark_stale(const Rollup& rollup, Micros lo, Micros hi) {
  const Oid type = rollup.windowed ? rollup.column_types.at(rollup.program.keys.size()) : TIMESTAMPTZOID;
  call([&] {
    const Actor before = act_as_owner(rollup.owner);
    const char* sql =
        psprintf("UPDATE %s AS s SET tick_stale = true WHERE NOT s.tick_stale", state_text(rollup));
    if (rollup.windowed)
      sql = psprintf("%s AND s.%s >= $1 AND s.%s < $2", sql, time_text(rollup), time_text(rollup));
    Oid types[2] = {type, type};
    Datum values[2] = {TimestampTzGetDatum(lo), TimestampTzGetDatum(hi)};
    const int code = SPI_execute_with_args(sql, rollup.windowed ? 2 : 0, types, values, nullptr, false, 0);
    if (code != SPI_OK_UPDATE) elog(ERROR, "pg_tick: cannot mark: %s", SPI_result_code_string(code));
    act_again(before);
  });
}

std::set<Micros> stale_windows(const Rollup& rollup, Micros lo, Micros hi) {
  std::set<Micros> windows;
  Rows rows(rollup, {Range{lo, hi, false}}, true);
  Rows::Page page;
  while (rows.next(page))
    for (uint64 row = 0; row < page.rows; ++row)
      windows.insert(
          rollup.windowed ? page.cells[row * rollup.columns.size() + rollup.program.keys.size()].word : 0);
  return windows;
}

}  // namespace tick::pg
