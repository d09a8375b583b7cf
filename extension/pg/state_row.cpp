#include "state_row.hpp"

#include <string>

namespace tick::pg {
namespace {

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

}  // namespace

// True if a window was final before this turn.
bool was_final(const Rollup& rollup, Micros window, const TurnTime& time) {
  return rollup.windowed && time.watermark && window_end(window, rollup.size) <= *time.watermark;
}

Cell to_cell_detoasted(Datum datum, bool null, const ValueType& type) {
  if (!null && type.length == -1) datum = PointerGetDatum(PG_DETOAST_DATUM_PACKED(datum));
  return to_cell(datum, null, type);
}

Outcome merge_with(const Slice& slice, int row, TupleDesc desc, TupleTableSlot* there) {
  const Rollup& rollup = slice.rollup;
  auto* values = static_cast<Datum*>(palloc0(sizeof(Datum) * desc->natts));
  auto* nulls = static_cast<bool*>(palloc(desc->natts));
  bool lost;
  if (there != nullptr) {
    slot_getallattrs(there);
    memcpy(values, there->tts_values, sizeof(Datum) * desc->natts);
    memcpy(nulls, there->tts_isnull, desc->natts);
    lost = merge_row(slice, row, values, nulls);
  } else {
    memset(nulls, 1, desc->natts);
    lost = make_row(slice, row, values, nulls);
  }
  const int64 left = DatumGetInt64(values[rollup.attributes[identifying(rollup)] - 1]);
  const bool empty = left <= 0 && slice.complete;
  if (empty ? left < 0 : lost || left <= 0) values[rollup.stale_attribute - 1] = BoolGetDatum(true);
  const bool same = there != nullptr && slice.any_left(row) && !rollup.computed &&
                    same_partials(rollup, desc, there, values, nulls);
  const bool untold = there != nullptr && rollup.computed;  // what the row shows is as it was
  const int revision = rollup.revision_attribute - 1, updated = rollup.updated_attribute - 1;
  if (there != nullptr && !same && !untold &&
      was_final(rollup, slice.fold.pane(slice.from + row), slice.time))
    values[revision] = Int64GetDatum(DatumGetInt64(values[revision]) + 1);
  if (!same && !untold) values[updated] = TimestampTzGetDatum(slice.time.now);
  nulls[updated] = false;
  return {values, nulls, left, lost, empty, same};
}

std::optional<size_t> find_slot(const Rollup& rollup, const Fold& fold, const Cell* cells, Micros window) {
  const size_t keys = rollup.program.keys.size();
  std::vector<Cell> key(keys);
  std::vector<std::string> bytes(keys);
  for (size_t k = 0; k < keys; ++k) {
    const Type type = rollup.columns[k].type;
    key[k] = needs_canonical(type) ? canonical_cell(cells[k], type, bytes[k]) : cells[k];
  }
  return fold.find(key.data(), window);
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

void prepare_scan_keys(Relation index, ScanKey keys) {
  for (int i = 0; i < index->rd_index->indnkeyatts; ++i) {
    const Oid type = index->rd_opcintype[i];
    const Oid op = get_opfamily_member(index->rd_opfamily[i], type, type, BTEqualStrategyNumber);
    ScanKeyEntryInitialize(&keys[i], 0, static_cast<AttrNumber>(i + 1), BTEqualStrategyNumber, InvalidOid,
                           index->rd_indcollation[i], get_opcode(op), static_cast<Datum>(0));
  }
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

}  // namespace tick::pg
