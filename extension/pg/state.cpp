#include "state.hpp"

#include <algorithm>
#include <map>
#include <string>
#include <unordered_map>

#include "guard.hpp"
#include "session.hpp"

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
  TimestampTz now;
  std::optional<TimestampTz> watermark;
  bool complete;
  std::set<Micros>& lost;

  bool any_left(int row) const { return fold.removed(from + row) > 0; }
  void lose(int row) const { lost.insert(fold.pane(from + row)); }
};

// Columns of the state table that identify a row; the next one counts its rows.
size_t identifying(const Rollup& rollup) {
  return rollup.program.keys.size() + (rollup.windowed ? 1 : 0);
}

// ---- by the upsert
// -----------------------------------------------------------------------------------------

// Deletes the rows that nothing is left of. Runs as the owner.
void remove_empty(const Slice& slice) {
  const Rollup& rollup = slice.rollup;
  auto* windows = static_cast<Datum*>(palloc(sizeof(Datum) * slice.rows));
  int count = 0;
  for (int row = 0; slice.complete && row < slice.rows; ++row)
    if (slice.any_left(row)) windows[count++] = TimestampTzGetDatum(slice.fold.pane(slice.from + row));
  if (count == 0) return;
  StringInfoData sql;
  initStringInfo(&sql);
  appendStringInfo(
      &sql, "DELETE FROM %s WHERE %s <= 0", rollup.state_name.c_str(),
      quote_identifier(get_attname(rollup.state, rollup.attributes[identifying(rollup)], false)));
  const Oid type = rollup.windowed ? rollup.column_types[rollup.program.keys.size()] : TIMESTAMPTZOID;
  if (rollup.windowed) appendStringInfo(&sql, " AND %s = ANY ($1)", rollup.time_column.c_str());
  Oid types[1] = {get_array_type(type)};
  Datum values[1] = {
      PointerGetDatum(construct_array(windows, count, type, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE))};
  const int code = SPI_execute_with_args(sql.data, rollup.windowed ? 1 : 0, types, values, nullptr, false, 0);
  if (code != SPI_OK_DELETE) elog(ERROR, "pg_tick: merge failed: %s", SPI_result_code_string(code));
}

// The upsert does not say what it found: whatever left may have been the extremum.
void note_lost(const Slice& slice) {
  const std::vector<Item>& items = slice.rollup.program.items;
  for (int row = 0; row < slice.rows; ++row) {
    if (!slice.any_left(row)) continue;
    const size_t slot = slice.from + row;
    bool lost = !slice.complete;
    for (size_t i = 0; i < items.size(); ++i) {
      const Partials& partials = slice.fold.partials(i);
      lost = lost || (!partials.gone.empty() && partials.gone[slot].set) ||
             (partials.kind == PartialKind::decimal && partials.decimals[slot].lost_special());
    }
    if (lost) slice.lose(row);
  }
}

void write_by_upsert(const Slice& slice) {
  const Rollup& rollup = slice.rollup;
  const size_t columns = rollup.columns.size();
  auto* types = static_cast<Oid*>(palloc(sizeof(Oid) * (columns + 2)));
  auto* values = static_cast<Datum*>(palloc0(sizeof(Datum) * (columns + 2)));
  auto* nulls = static_cast<char*>(palloc(columns + 2));
  auto* data = static_cast<Datum*>(palloc(sizeof(Datum) * slice.rows));
  auto* null = static_cast<bool*>(palloc(slice.rows));
  for (size_t c = 0; c < columns; ++c) {
    const ValueType& type = rollup.columns[c];
    for (int row = 0; row < slice.rows; ++row) {
      const Cell& cell = slice.state.cells[c][row];
      null[row] = cell.null;
      data[row] = to_datum(cell, type);
    }
    int dimension = slice.rows, lower = 1;
    types[c] = get_array_type(rollup.column_types[c]);
    values[c] = PointerGetDatum(construct_md_array(data, null, 1, &dimension, &lower, rollup.column_types[c],
                                                   type.length, type.by_value, type.align));
    nulls[c] = ' ';
  }
  types[columns] = types[columns + 1] = TIMESTAMPTZOID;
  values[columns] = TimestampTzGetDatum(slice.now);
  nulls[columns] = ' ';
  values[columns + 1] = TimestampTzGetDatum(slice.watermark.value_or(0));
  nulls[columns + 1] = slice.watermark ? ' ' : 'n';
  // Whatever a user has put on the state table runs as its owner, never as us.
  const Actor before = act_as_owner(rollup.owner);
  SPIPlanPtr plan = kept_plan(rollup.upsert.c_str(), static_cast<int>(columns + 2), types);
  const int code = SPI_execute_plan(plan, values, nulls, false, 0);
  if (code != SPI_OK_INSERT) elog(ERROR, "pg_tick: merge failed: %s", SPI_result_code_string(code));
  remove_empty(slice);
  act_again(before);
  note_lost(slice);
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

// True if something on the table fires for the worker; our own triggers against replicas do not.
bool fires_triggers(const TriggerDesc* triggers) {
  for (int i = 0; triggers != nullptr && i < triggers->numtriggers; ++i) {
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
    switch (item.kind) {
      case ItemKind::count:
      case ItemKind::sum:
      case ItemKind::sum_sq:
        if (type.type == Type::int8) {
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
        if (!partials.gone.empty() && partials.gone[slot].set)
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
    values[rollup.attributes[c] - 1] = to_datum(cell, rollup.columns[c]);
    nulls[rollup.attributes[c] - 1] = cell.null;
  }
  values[rollup.revision_attribute - 1] = Int64GetDatum(0);
  nulls[rollup.revision_attribute - 1] = false;
  const Program& program = rollup.program;
  const size_t slot = slice.from + row;
  bool lost = false;
  for (size_t i = 0; slice.any_left(row) && i < program.items.size(); ++i) {
    const Partials& partials = slice.fold.partials(i);
    if (partials.kind == PartialKind::decimal) lost = lost || partials.decimals[slot].lost_special();
    if (partials.gone.empty() || !partials.gone[slot].set) continue;
    const Item& item = program.items[i];
    lost = lost || !partials.extremes[slot].set ||
           !beats(program, item, place(program, item, partials.extremes[slot]),
                  place(program, item, partials.gone[slot]));
  }
  return lost;
}

// True if the window of the row was final before this turn.
bool was_final(const Slice& slice, int row) {
  return slice.rollup.windowed && slice.watermark &&
         window_end(slice.fold.pane(slice.from + row), slice.rollup.size) <= *slice.watermark;
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
    if (is_variable(type.type) ? there.view() != cell.view() : there.word != cell.word) return false;
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
    if (empty ? left < 0 : lost || left <= 0) slice.lose(row);
    const bool unchanged =
        found && slice.any_left(row) && same_partials(slice.rollup, desc, slot, values, nulls);
    if (empty && found) {
      ItemPointerData before = slot->tts_tid;
      ExecClearTuple(slot);
      CatalogTupleDelete(table, &before);
      places.forget(key);
    } else if (!empty && !unchanged) {
      const int revision = slice.rollup.revision_attribute - 1;
      if (found && was_final(slice, row))
        values[revision] = Int64GetDatum(DatumGetInt64(values[revision]) + 1);
      values[slice.rollup.updated_attribute - 1] = TimestampTzGetDatum(slice.now);
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

}  // namespace

std::set<Micros> merge_state(const Rollup& rollup, const Fold& fold, TimestampTz now,
                             std::optional<TimestampTz> watermark, bool complete) {
  std::set<Micros> lost;
  if (fold.slots() == 0) return lost;
  // An array of one slice must fit into PostgreSQL's largest allocation, however wide the values are.
  const size_t rows = std::clamp<size_t>(slice_memory / (fold.memory() / fold.slots() + 1), 1, slice_rows);
  for (size_t from = 0; from < fold.slots(); from += rows) {
    const size_t to = std::min(from + rows, fold.slots());
    const StateColumns state = state_columns(rollup, fold, from, to);
    if (state.cells.size() != rollup.columns.size())
      throw Error{Error::Code::internal, "state table of " + rollup.name + " does not fit its program"};
    const Slice slice{rollup, fold, from, state, static_cast<int>(to - from), now, watermark, complete, lost};
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
  return lost;
}

}  // namespace tick::pg
