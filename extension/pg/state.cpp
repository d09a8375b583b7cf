#include "state.hpp"

#include <algorithm>
#include <map>
#include <string>
#include <unordered_map>

#include "guard.hpp"
#include "notify.hpp"
#include "session.hpp"
#include "windows.hpp"

namespace tick::pg {
namespace {

constexpr size_t slice_rows = 4096;
constexpr size_t slice_memory = 32 * 1024 * 1024;

struct Slice {
  const Rollup& rollup;
  const Fold& fold;
  size_t from;  // its first slot
  const StateColumns& state;
  int rows;
  const TurnTime& time;
  bool complete;
  std::set<Micros>& lost;
  const int64_t* revisions;  // of rows that are not there, by slot; nullptr: 0

  bool any_left(int row) const { return fold.removed(from + row) > 0; }
  bool may_lose(int row) const { return any_left(row) && (!complete || fold.may_lose(from + row)); }
  void lose(int row) const { lost.insert(fold.pane(from + row)); }
  int64_t revision(int row) const { return revisions == nullptr ? 0 : revisions[from + row]; }
};

// Columns of the state table that identify a row; the next one counts its rows.
size_t identifying(const Rollup& rollup) {
  return rollup.program.keys.size() + (rollup.windowed ? 1 : 0);
}

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
    if (slice.may_lose(row)) slice.lose(row);
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

bool is_plain_index(Relation index) {
  return index->rd_index->indimmediate && !index->rd_index->indisexclusion && index->rd_index->indisvalid &&
         RelationGetIndexExpressions(index) == NIL && RelationGetIndexPredicate(index) == NIL;
}

// True if an index is over just the keys and the window: an owner may have made others that are unique.
bool is_key_index(const Rollup& rollup, Relation table, Relation index, int keys) {
  if (!index->rd_index->indisunique || index->rd_index->indnkeyatts != keys) return false;
  for (int i = 0; i < keys; ++i) {
    const AttrNumber attribute = index->rd_index->indkey.values[i];
    const auto end = rollup.attributes.begin() + keys;
    if (std::find(rollup.attributes.begin(), end, attribute) == end ||
        index->rd_indcollation[i] != TupleDescAttr(RelationGetDescr(table), attribute - 1)->attcollation)
      return false;
  }
  return true;
}

// True if something on the table fires for the worker; our own triggers let it pass.
bool fires_triggers(const TriggerDesc* triggers) {
  const Oid ours = catalog_namespace(false);
  for (int i = 0; triggers != nullptr && i < triggers->numtriggers; ++i) {
    const Oid function = triggers->triggers[i].tgfoid;
    if (get_func_namespace(function) == ours && strcmp(get_func_name(function), "guard_state") == 0) continue;
    const char enabled = triggers->triggers[i].tgenabled;
    if (enabled == TRIGGER_FIRES_ON_ORIGIN || enabled == TRIGGER_FIRES_ALWAYS) return true;
  }
  return false;
}

// The unique index over the keys and the window if nothing on the table needs the executor, else InvalidOid.
Oid find_key_index(const Rollup& rollup, Relation table, int keys) {
  const TupleConstr* constraints = RelationGetDescr(table)->constr;
  if (table->rd_rel->relkind != RELKIND_RELATION || table->rd_rel->relam != HEAP_TABLE_AM_OID ||
      fires_triggers(table->trigdesc) || table->rd_rules != nullptr || table->rd_rel->relrowsecurity ||
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

const std::string& merge_exact(std::string_view a, std::string_view b) {
  static std::string merged;
  const auto bytes = [](std::string_view s) {
    return std::span<const unsigned char>(reinterpret_cast<const unsigned char*>(s.data()), s.size());
  };
  auto left = bytes(a), right = bytes(b);
  ExactSum sum = ExactSum::decode(left);
  sum.merge(ExactSum::decode(right));
  merged.clear();
  sum.encode(merged);
  return merged;
}

Cell to_cell_detoasted(Datum datum, bool null, const ValueType& type) {
  if (!null && type.length == -1) datum = PointerGetDatum(PG_DETOAST_DATUM_PACKED(datum));
  return to_cell(datum, null, type);
}

// Merges the partials of row `row` of the slice into the row that values/nulls hold. Returns whether an
// extremum may have left: the best of what has left is not worse than what is there now.
bool merge_row(const Slice& slice, int row, Datum* values, bool* nulls) {
  const Rollup& rollup = slice.rollup;
  const Program& program = rollup.program;
  const size_t slot = slice.from + row;
  bool lost = false;
  size_t c = identifying(rollup);
  const auto old_cell = [&](size_t column) {
    const int at = rollup.attributes[column] - 1;
    return to_cell_detoasted(values[at], nulls[at], rollup.columns[column]);
  };
  const auto put = [&](size_t column, const Cell& cell) {
    const int at = rollup.attributes[column] - 1;
    values[at] = to_datum(cell, rollup.columns[column]);
    nulls[at] = cell.null;
  };
  for (size_t i = 0; i < program.items.size(); ++i) {
    const Item& item = program.items[i];
    const Partials& partials = slice.fold.partials(i);
    const ValueType& type = rollup.columns[c];
    const int at = rollup.attributes[c] - 1;
    const Cell& added = slice.state.cells[c][row];
    const bool known = rollup.is_known(i, slice.fold.pane(slot));
    switch (item.kind) {
      case ItemKind::count:
      case ItemKind::sum:
      case ItemKind::sum_sq:
        if (!known || nulls[at]) {
          // Nobody knows what the rows before came to.
        } else if (type.type == Type::int8) {
          int64 sum;
          if (pg_add_s64_overflow(DatumGetInt64(values[at]), added.word, &sum))
            ereport(ERROR, (errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE), errmsg("bigint out of range")));
          values[at] = Int64GetDatum(sum);
        } else if (partials.kind == PartialKind::decimal && partials.decimals[slot].lost_special()) {
          lost = true;  // numeric cannot say what is left when NaN or an infinity leaves
        } else if (type.type == Type::numeric) {
          values[at] = DirectFunctionCall2(numeric_add, values[at], to_datum(added, type));
        } else {
          const std::string& sum = merge_exact(old_cell(c).view(), added.view());
          values[at] = varlena_datum(sum.data(), sum.size());
        }
        ++c;
        break;
      case ItemKind::min:
      case ItemKind::max:
      case ItemKind::first:
      case ItemKind::last: {
        const size_t seq = c + (item.order >= 0 ? 2 : 1);
        const size_t width = seq - c + (item.seq >= 0 ? 1 : 0);
        const auto held = [&]() -> Place {
          return {old_cell(c), item.order >= 0 ? old_cell(c + 1) : Cell::none(),
                  item.seq >= 0 ? old_cell(seq) : Cell::none()};
        };
        if (!added.null) {
          const Place candidate = place(program, item, partials.extremes[slot]);
          if (nulls[at] || beats(program, item, candidate, held()))
            for (size_t part = 0; part < width; ++part) put(c + part, slice.state.cells[c + part][row]);
        }
        if (known && !partials.gone.empty() && partials.gone[slot].set)
          lost =
              lost || nulls[at] || !beats(program, item, held(), place(program, item, partials.gone[slot]));
        c += width;
        break;
      }
    }
  }
  return lost;
}

// What the partials of row `row` of the slice are as a row of their own. Returns as merge_row() does.
bool make_row(const Slice& slice, int row, Datum* values, bool* nulls) {
  const Rollup& rollup = slice.rollup;
  for (size_t c = 0; c < rollup.columns.size(); ++c) {
    const Cell& cell = slice.state.cells[c][row];
    values[rollup.attributes[c] - 1] =
        c < rollup.program.keys.size() ? key_datum(rollup, c, cell) : to_datum(cell, rollup.columns[c]);
    nulls[rollup.attributes[c] - 1] = cell.null;
  }
  values[rollup.revision_attribute - 1] = Int64GetDatum(slice.revision(row));
  nulls[rollup.revision_attribute - 1] = false;
  values[rollup.stale_attribute - 1] = BoolGetDatum(false);
  nulls[rollup.stale_attribute - 1] = false;
  if (rollup.computed) {
    values[rollup.shown_attribute - 1] = BoolGetDatum(false);
    values[rollup.touched_attribute - 1] = Int64GetDatum(0);
    nulls[rollup.shown_attribute - 1] = nulls[rollup.touched_attribute - 1] = false;
  }
  const Program& program = rollup.program;
  const size_t slot = slice.from + row;
  bool lost = false;
  for (size_t i = 0; slice.any_left(row) && i < program.items.size(); ++i) {
    const Partials& partials = slice.fold.partials(i);
    if (!rollup.is_known(i, slice.fold.pane(slot))) continue;
    if (partials.kind == PartialKind::decimal) lost = lost || partials.decimals[slot].lost_special();
    if (partials.gone.empty() || !partials.gone[slot].set) continue;
    const Item& item = program.items[i];
    lost = lost || !partials.extremes[slot].set ||
           !beats(program, item, place(program, item, partials.extremes[slot]),
                  place(program, item, partials.gone[slot]));
  }
  return lost;
}

// Marks a row as touched, by a number that it has not had before. Plain PostgreSQL code.
void touch_row(const Rollup& rollup, Datum* values) {
  Datum& touched = values[rollup.touched_attribute - 1];
  const int64 now = static_cast<int64>(U64FromFullTransactionId(GetTopFullTransactionId()));
  touched = Int64GetDatum(std::max(now, DatumGetInt64(touched) + 1));
}

// True if a window was final before this turn.
bool was_final(const Rollup& rollup, Micros window, const TurnTime& time) {
  return rollup.windowed && time.watermark && window_end(window, rollup.size) <= *time.watermark;
}

// True if two rows of the table have the same partials.
bool same_partials(const Rollup& rollup, TupleDesc desc, TupleTableSlot* before, const Datum* values,
                   const bool* nulls) {
  for (size_t c = identifying(rollup); c < rollup.columns.size(); ++c) {
    const int at = rollup.attributes[c] - 1;
    const Form_pg_attribute attribute = TupleDescAttr(desc, at);
    if (before->tts_isnull[at] != nulls[at] ||
        (!nulls[at] &&
         !datum_image_eq(before->tts_values[at], values[at], attribute->attbyval, attribute->attlen)))
      return false;
  }
  return true;
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

// Fills the scan keys of one row.
void set_scan_keys(const Slice& slice, Relation index, int row, ScanKey keys) {
  for (int i = 0; i < index->rd_index->indnkeyatts; ++i) {
    size_t column = 0;
    while (slice.rollup.attributes[column] != index->rd_index->indkey.values[i]) ++column;
    const Cell& cell = slice.state.cells[column][row];
    keys[i].sk_flags = cell.null ? SK_ISNULL | SK_SEARCHNULL : 0;
    keys[i].sk_argument = to_datum(cell, slice.rollup.columns[column]);
  }
}

void prepare_scan_keys(Relation index, ScanKey keys) {
  for (int i = 0; i < index->rd_index->indnkeyatts; ++i) {
    const Oid type = index->rd_opcintype[i];
    const Oid op = get_opfamily_member(index->rd_opfamily[i], type, type, BTEqualStrategyNumber);
    ScanKeyEntryInitialize(&keys[i], 0, static_cast<AttrNumber>(i + 1), BTEqualStrategyNumber, InvalidOid,
                           index->rd_indcollation[i], get_opcode(op), static_cast<Datum>(0));
  }
}

void write_directly(const Slice& slice, Relation table, Oid key_index) {
  // Rows that a recompute of this turn has deleted must be seen as gone.
  CommandCounterIncrement();
  UpdateActiveSnapshotCommandId();
  TupleDesc desc = RelationGetDescr(table);
  Relation index = index_open(key_index, RowExclusiveLock);
  CatalogIndexState indexes = CatalogOpenIndexes(table);
  TupleTableSlot* slot = table_slot_create(table, nullptr);
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
    auto* values = static_cast<Datum*>(palloc0(sizeof(Datum) * desc->natts));
    auto* nulls = static_cast<bool*>(palloc(desc->natts));
    bool lost;
    if (found) {
      slot_getallattrs(slot);
      memcpy(values, slot->tts_values, sizeof(Datum) * desc->natts);
      memcpy(nulls, slot->tts_isnull, desc->natts);
      lost = merge_row(slice, row, values, nulls);
    } else {
      memset(nulls, 1, desc->natts);
      lost = make_row(slice, row, values, nulls);
    }
    const int64 left = DatumGetInt64(values[slice.rollup.attributes[identifying(slice.rollup)] - 1]);
    const bool empty = left <= 0 && slice.complete;
    if (empty ? left < 0 : lost || left <= 0) {
      slice.lose(row);
      values[slice.rollup.stale_attribute - 1] = BoolGetDatum(true);
    }
    const bool same = found && slice.any_left(row) && !slice.rollup.computed &&
                      same_partials(slice.rollup, desc, slot, values, nulls);
    if (empty && found) {
      ItemPointerData before = slot->tts_tid;
      ExecClearTuple(slot);
      CatalogTupleDelete(table, &before);
      places.forget(key);
      MemoryContextSwitchTo(old);
      note_gone(slice.time, slice.rollup, slice.fold.pane(slice.from + row),
                [&](size_t k) { return slice.fold.key(slice.from + row, k); });
      MemoryContextSwitchTo(memory);
    } else if (!empty && (!same || lost)) {
      const int revision = slice.rollup.revision_attribute - 1;
      const bool untold = found && slice.rollup.computed;  // what the row shows is as it was
      if (slice.rollup.computed) touch_row(slice.rollup, values);
      if (found && !same && !untold && was_final(slice.rollup, slice.fold.pane(slice.from + row), slice.time))
        values[revision] = Int64GetDatum(DatumGetInt64(values[revision]) + 1);
      if (!same && !untold) values[slice.rollup.updated_attribute - 1] = TimestampTzGetDatum(slice.time.now);
      nulls[slice.rollup.updated_attribute - 1] = false;
      HeapTuple tuple = heap_form_tuple(desc, values, nulls);
      if (found) {
        ItemPointerData before = slot->tts_tid;
        ExecClearTuple(slot);
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
  ExecDropSingleTupleTableSlot(slot);
  CatalogCloseIndexes(indexes);
  index_close(index, NoLock);
  CommandCounterIncrement();
  UpdateActiveSnapshotCommandId();
}

void write(const Rollup& rollup, const Fold& fold, const TurnTime& time, bool complete,
           const int64_t* revisions, std::set<Micros>& lost) {
  if (fold.slots() == 0) return;
  // An array of one slice must fit into PostgreSQL's largest allocation, however wide the values are.
  const size_t rows = std::clamp<size_t>(slice_memory / (fold.memory() / fold.slots() + 1), 1, slice_rows);
  for (size_t from = 0; from < fold.slots(); from += rows) {
    const size_t to = std::min(from + rows, fold.slots());
    const StateColumns state = state_columns(rollup, fold, from, to);
    if (state.cells.size() != rollup.columns.size())
      throw Error{Error::Code::internal, "state table of " + rollup.name + " does not fit its program"};
    const Slice slice{rollup, fold,     from, state,    static_cast<int>(to - from),
                      time,   complete, lost, revisions};
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
  }
  if (!rollup.computed) return;
  std::set<Micros> touched;
  for (size_t slot = 0; slot < fold.slots(); ++slot) touched.insert(fold.pane(slot));
  touch_windows(rollup, {touched.begin(), touched.end()});
}

// ---- replacing
// ---------------------------------------------------------------------------------------------

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

  Rows(const Rollup& rollup, const std::vector<Range>& windows, bool only_stale) : rollup_(rollup) {
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
                                          false, 0);
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

// True if a row of the state table has the partials of a slot.
bool has_partials(const Rollup& rollup, const Cell* cells, const Fold& fold, size_t slot) {
  const StateColumns wanted = state_columns(rollup, fold, slot, slot + 1);
  for (size_t c = identifying(rollup); c < rollup.columns.size(); ++c) {
    const Cell &have = cells[c], &want = wanted.cells[c][0];
    if (have.null != want.null) return false;
    if (have.null) continue;
    if (is_variable(rollup.columns[c].type) ? have.view() != want.view() : have.word != want.word)
      return false;
  }
  return true;
}

}  // namespace

std::set<Micros> merge_state(const Rollup& rollup, const Fold& fold, const TurnTime& time, bool complete) {
  std::set<Micros> lost;
  write(rollup, fold, time, complete, nullptr, lost);
  return lost;
}

void replace_state(const Rollup& rollup, const Fold& fold, const std::vector<Range>& windows,
                   const std::function<Replace(Micros window)>& rule, const TurnTime& time) {
  const size_t keys = rollup.program.keys.size(), wide = identifying(rollup);
  std::vector<bool> done(fold.slots());
  std::vector<int64_t> revisions(fold.slots());
  std::vector<ItemPointerData> removed, stale, cleared, recounted;
  std::vector<Cell> key(keys);
  std::vector<std::string> bytes(keys);
  if (!windows.empty()) {
    Rows rows(rollup, windows, false);
    Rows::Page page;
    while (rows.next(page)) {
      for (uint64 row = 0; row < page.rows; ++row) {
        const Cell* cells = page.cells + row * rollup.columns.size();
        const Micros window = rollup.windowed ? cells[keys].word : 0;
        for (size_t k = 0; k < keys; ++k) {
          const Type type = rollup.columns[k].type;
          key[k] = needs_canonical(type) ? canonical_cell(cells[k], type, bytes[k]) : cells[k];
        }
        const auto slot = fold.find(key.data(), window);
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
  change_rows(rollup, "DELETE FROM %s WHERE ctid = ANY ($1)", removed);
  change_rows(rollup, "UPDATE %s SET tick_stale = true WHERE ctid = ANY ($1)", stale);
  change_rows(rollup, "UPDATE %s SET tick_stale = false WHERE ctid = ANY ($1)", cleared);
  if (!recounted.empty()) change_rows(rollup, recount_statement(rollup), recounted);
  std::set<Micros> lost;
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
