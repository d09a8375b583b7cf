#include "rollup.hpp"

#include <cstdlib>
#include <numeric>

#include "guard.hpp"
#include "session.hpp"
#include "values.hpp"

namespace tick::pg {
namespace {

int64_t number(const std::optional<std::string>& text) {
  return text ? std::strtoll(text->c_str(), nullptr, 10) : 0;
}

template <typename T>
std::vector<T> numbers(const std::optional<std::string>& text) {
  std::vector<T> result;
  if (!text) return result;
  for (const char* at = text->c_str(); *at != '\0';) {
    char* end;
    const long value = std::strtol(at, &end, 10);
    if (end == at) {
      ++at;
      continue;
    }
    result.push_back(static_cast<T>(value));
    at = end;
  }
  return result;
}

// Of the catalogs, by a number: planned once after each change of theirs, not once for each number. Plain
// PostgreSQL code.
void execute_kept(const char* sql, int64_t argument) {
  Oid type = INT8OID;
  Datum value = Int64GetDatum(argument);
  if (SPI_execute_plan(kept_plan(sql, 1, &type, CURSOR_OPT_GENERIC_PLAN), &value, nullptr, true, 0) !=
      SPI_OK_SELECT)
    elog(ERROR, "pg_tick: unexpected result of: %s", sql);
}

void load_window(Rollup& rollup) {
  try {
    call([&] {
      execute_kept("SELECT " TICK_WINDOW_COLUMNS " FROM tick_catalog.rollup AS r WHERE r.id = $1", rollup.id);
      if (SPI_processed != 1) elog(ERROR, "pg_tick: rollup %d is gone", rollup.id);
      rollup.windowed = read_window(0, 1, &rollup.size);
    });
  } catch (const Error& error) {
    rollup.windowed = true;
    rollup.broken = error.message;
  }
}

// Types of the state table's columns, in the order of the parameters of the upsert.
void load_columns(Rollup& rollup) {
  const char* sql =
      "SELECT a.atttypid, a.attnum, a.atttypmod FROM tick_catalog.rollup r,"
      " unnest(r.key_columns || r.time_column || r.item_columns || ARRAY['tick_stale', 'revision', "
      "'updated_at']) WITH "
      "ORDINALITY AS c (name, at)"
      " JOIN pg_catalog.pg_attribute a ON a.attname = c.name"
      " WHERE r.id = $1 AND a.attrelid = r.state AND NOT a.attisdropped ORDER BY c.at";
  for (const auto& row : read_text(sql, rollup.id)) {
    const Oid type = static_cast<Oid>(number(row[0]));
    rollup.column_types.push_back(type);
    rollup.columns.push_back(call([&] { return value_type(type); }));
    rollup.attributes.push_back(static_cast<AttrNumber>(number(row[1])));
    auto modifier = static_cast<int32>(number(row[2]));
    call([&] { (void)getBaseTypeAndTypmod(type, &modifier); });
    rollup.modifiers.push_back(modifier);
  }
  if (rollup.columns.size() < 3)
    throw Error{Error::Code::internal, "state table of " + rollup.name + " lacks columns"};
  const auto take = [&] {
    const AttrNumber attribute = rollup.attributes.back();
    rollup.attributes.pop_back();
    rollup.columns.pop_back();
    rollup.column_types.pop_back();
    rollup.modifiers.pop_back();
    return attribute;
  };
  rollup.updated_attribute = take();
  rollup.revision_attribute = take();
  rollup.stale_attribute = take();
}

void load_values(Rollup& rollup) {
  const char* sql =
      "SELECT a.attnum FROM tick_catalog.rollup r, unnest(r.value_columns || ARRAY['tick_touched', "
      "'tick_shown']) WITH ORDINALITY AS c (name, at) JOIN pg_catalog.pg_attribute a ON a.attname = c.name"
      " WHERE r.id = $1 AND a.attrelid = r.state AND NOT a.attisdropped ORDER BY c.at";
  for (const auto& row : read_text(sql, rollup.id))
    rollup.values.push_back(static_cast<AttrNumber>(number(row[0])));
  if (rollup.values.size() < 3)
    throw Error{Error::Code::internal, "state table of " + rollup.name + " lacks columns"};
  rollup.shown_attribute = rollup.values.back();
  rollup.values.pop_back();
  rollup.touched_attribute = rollup.values.back();
  rollup.values.pop_back();
}

}  // namespace

bool Rollup::stays(const Range& range, Micros window) const {
  return (range.replace || filling > 0) && window != no_time_pane && window < first_covered();
}

bool Rollup::is_fresh(Micros window) const {
  for (const Range& range : fresh)
    if (range.scan == 0 && window >= range.lo && window < range.hi) return !stays(range, window);
  return false;
}

Micros Rollup::first_covered() const {
  if (raw_from == minus_infinity) return minus_infinity;
  if (!windowed) return plus_infinity;
  return first_window_from(raw_from, size);
}

namespace {

// Rows of what `execute`, plain PostgreSQL code, leaves in SPI's table.
template <typename Execute>
TextRows read_rows(Execute&& execute) {
  char*** cells = nullptr;
  int columns = 0;
  uint64_t count = 0;
  call([&] {
    execute();
    SPITupleTable* table = SPI_tuptable;
    count = SPI_processed;
    columns = table->tupdesc->natts;
    cells = static_cast<char***>(palloc(sizeof(char**) * (count + 1)));
    for (uint64_t row = 0; row < count; ++row) {
      cells[row] = static_cast<char**>(palloc(sizeof(char*) * columns));
      for (int c = 0; c < columns; ++c) cells[row][c] = SPI_getvalue(table->vals[row], table->tupdesc, c + 1);
    }
    SPI_freetuptable(table);
  });
  TextRows rows(count);
  for (uint64_t row = 0; row < count; ++row)
    for (int c = 0; c < columns; ++c)
      rows[row].push_back(cells[row][c] == nullptr ? std::nullopt
                                                   : std::make_optional<std::string>(cells[row][c]));
  return rows;
}

}  // namespace

TextRows read_text(const char* sql) {
  return read_rows([&] {
    if (SPI_execute_plan(kept_plan(sql, 0, nullptr), nullptr, nullptr, true, 0) != SPI_OK_SELECT)
      elog(ERROR, "pg_tick: unexpected result of: %s", sql);
  });
}

TextRows read_text(const char* sql, int64_t argument) {
  return read_rows([&] { execute_kept(sql, argument); });
}

const char* state_text(const Rollup& rollup) {
  LockRelationOid(rollup.state, AccessShareLock);
  return relation_text(rollup.state);
}

const char* time_text(const Rollup& rollup) {
  return quote_identifier(get_attname(rollup.state, rollup.attributes[rollup.program.keys.size()], false));
}

std::vector<Rollup> load_rollups(int id) {
  std::vector<Rollup> rollups;
  const char* sql =
      "SELECT r.id, pg_catalog.format('%I.%I', n.nspname, v.relname), r.state::int8, r.source::int8, "
      "r.owner::int8,"
      " r.group_id, r.status, r.upsert,"
      " (extract(epoch FROM " TICK_COVERED_FROM("o") " - '2000-01-01 00:00+00'::timestamptz) * "
      "1000000)::int8, r.channel,"
      " s.reltablespace <> (SELECT c.reltablespace FROM pg_catalog.pg_class c"
      "  WHERE c.oid = 'tick_catalog.frontier'::pg_catalog.regclass),"
      " (extract(epoch FROM r.kept_from - '2000-01-01 00:00+00'::timestamptz) * 1000000)::int8,"
      " (SELECT string_agg(coalesce((extract(epoch FROM u.t - '2000-01-01 00:00+00'::timestamptz) * "
      "1000000)::int8, -9223372036854775808)::text, ' ' ORDER BY u.n) FROM unnest(r.item_from) WITH "
      "ORDINALITY AS u (t, n)), r.filling, r.value_columns IS NOT NULL, h.versions_table::int8, r.parent, r.parent_keys::text, r.finish"
      " FROM tick_catalog.rollup r LEFT JOIN tick_catalog.history h ON h.rollup = r.id JOIN "
      "tick_catalog.source o ON o.relid = r.source"
      " JOIN pg_catalog.pg_class v ON v.oid = r.view JOIN pg_catalog.pg_namespace n ON n.oid = v.relnamespace"
      " JOIN pg_catalog.pg_class s ON s.oid = r.state WHERE $1 = 0 OR r.id = $1 ORDER BY r.id";
  for (const auto& row : read_text(sql, id)) {
    Rollup& rollup = rollups.emplace_back();
    rollup.id = static_cast<int>(number(row[0]));
    rollup.name = row[1].value_or("");
    rollup.state = static_cast<Oid>(number(row[2]));
    rollup.source = static_cast<Oid>(number(row[3]));
    rollup.owner = static_cast<Oid>(number(row[4]));
    rollup.group = static_cast<int>(number(row[5]));
    rollup.status = row[6].value_or("");
    rollup.upsert = row[7].value_or("");
    if (row[8]) rollup.raw_from = number(row[8]);
    rollup.channel = row[9].value_or("");
    rollup.apart = row[10] == "t";
    if (row[11]) rollup.kept_from = number(row[11]);
    rollup.known_from = numbers<Micros>(row[12]);
    rollup.filling = static_cast<int>(number(row[13]));
    rollup.computed = row[14] == "t";
    if (row[15]) rollup.history = static_cast<Oid>(number(row[15]));
    rollup.parent = static_cast<int>(number(row[16]));
    rollup.parent_keys = numbers<int16_t>(row[17]);
    if (rollup.parent != 0) rollup.finish = row[18].value_or("");
  }
  for (Rollup& rollup : rollups) {
    load_window(rollup);
    load_columns(rollup);
    if (rollup.computed) load_values(rollup);
    for (const auto& row : read_text(
             "SELECT program, items FROM tick_catalog.rollup_program WHERE rollup = $1 ORDER BY program",
             rollup.id)) {
      rollup.newest = number(row[0]);
      rollup.items[rollup.newest] = numbers<int16_t>(row[1]);
    }
    for (const auto& row :
         read_text("SELECT lo, hi, fresh, scan, replace, missed, marked FROM tick_catalog.pending "
                   "WHERE rollup = $1 ORDER BY "
                   "hi DESC",
                   rollup.id))
      (row[2] == "t" ? rollup.fresh : rollup.dirty)
          .push_back({number(row[0]), number(row[1]), row[2] == "t", number(row[3]), row[4] == "t",
                      row[5] == "t", row[6] == "t"});
    if (rollup.parent != 0) {
      for (size_t key = 0; key + 1 < rollup.columns.size(); ++key) {
        rollup.program.keys.push_back(static_cast<int16_t>(key));
        rollup.program.inputs.push_back({rollup.columns[key].type});
      }
      continue;
    }
    const int64_t newest = rollup.newest;
    const Evaluator* evaluator = call([&] { return find_evaluator(newest); });
    if (evaluator == nullptr) throw Error{Error::Code::internal, "rollup " + rollup.name + " has no program"};
    rollup.program = evaluator->program;
    rollup.program.items.clear();
    for (int16_t item : rollup.items[newest])
      rollup.program.items.push_back(evaluator->program.items.at(item));
  }
  return rollups;
}

void add_later_programs(Rollup& rollup) {
  if (!IsolationUsesXactSnapshot()) return;
  call([&] { PushActiveSnapshot(GetLatestSnapshot()); });
  const TextRows programs =
      read_text("SELECT program, items FROM tick_catalog.rollup_program WHERE rollup = $1", rollup.id);
  call([&] { PopActiveSnapshot(); });
  for (const auto& row : programs) {
    if (rollup.items.contains(number(row[0]))) continue;
    std::vector<int16_t> items = numbers<int16_t>(row[1]);
    items.resize(
        std::min(items.size(), rollup.program.items.size()));  // without those of columns added since
    rollup.items.emplace(number(row[0]), std::move(items));
  }
}

Datum key_datum(const Rollup& rollup, size_t key, const Cell& cell) {
  const ValueType& type = rollup.columns[key];
  const Datum datum = to_datum(cell, type);
  const int32 modifier = rollup.modifiers[key];
  if (cell.null || modifier < 0) return datum;
  if (type.type == Type::bpchar)
    return OidFunctionCall3(F_BPCHAR_BPCHAR_INT4_BOOL, datum, Int32GetDatum(modifier), BoolGetDatum(true));
  if (type.type == Type::numeric)
    return OidFunctionCall2(F_NUMERIC_NUMERIC_INT4, datum, Int32GetDatum(modifier));
  return datum;
}

std::vector<int16_t> every_item(const Rollup& rollup) {
  std::vector<int16_t> same(rollup.program.items.size());
  std::iota(same.begin(), same.end(), static_cast<int16_t>(0));
  return same;
}

std::optional<Micros> window_of(const Rollup& rollup, Micros pane, int64_t nth) {
  if (!rollup.windowed) return 0;
  if (pane == no_time_pane) return std::nullopt;
  const Micros label = window_label(nth_window(pane, nth, rollup.size));
  return label == minus_infinity ? std::nullopt : std::make_optional(label);
}

int64_t windows_of_pane(const Rollup& rollup) {
  return rollup.windowed ? most_windows_of_time(rollup.size) : 1;
}

StateColumns state_columns(const Rollup& rollup, const Fold& fold, size_t from, size_t to) {
  StateColumns result;
  const Program& program = fold.program();
  const auto column = [&]() -> std::vector<Cell>& {
    result.cells.emplace_back().reserve(to - from);
    return result.cells.back();
  };
  const auto bytes = [&](std::string&& value) {
    return Cell::of_bytes(result.bytes.emplace_back(std::move(value)));
  };
  const auto forget_unknown = [&](size_t index, size_t first) {
    for (size_t slot = from; slot < to; ++slot)
      if (!rollup.is_known(index, fold.pane(slot)))
        for (size_t c = first; c < result.cells.size(); ++c) result.cells[c][slot - from] = Cell::none();
  };
  for (size_t k = 0; k < program.keys.size(); ++k) {
    auto& cells = column();
    for (size_t slot = from; slot < to; ++slot) cells.push_back(fold.key(slot, k));
  }
  if (rollup.windowed) {
    auto& cells = column();
    for (size_t slot = from; slot < to; ++slot) cells.push_back(Cell::of_word(fold.pane(slot)));
  }
  for (size_t index = 0; index < program.items.size(); ++index) {
    const Partials& partials = fold.partials(index);
    const Item& item = program.items[index];
    const size_t first = result.cells.size();
    if (partials.kind != PartialKind::extreme) {
      const size_t at = result.cells.size();
      auto& cells = column();
      for (size_t slot = from; slot < to; ++slot) {
        switch (partials.kind) {
          case PartialKind::count:
            cells.push_back(Cell::of_word(partials.counts[slot]));
            break;
          case PartialKind::integer:
            if (rollup.columns.at(at).type == Type::numeric) {
              cells.push_back(bytes(numeric_from_int128(partials.integers[slot])));
            } else {
              const __int128 sum = partials.integers[slot];
              if (sum != static_cast<int64_t>(sum))
                throw Error{Error::Code::numeric_out_of_range, "bigint out of range"};
              cells.push_back(Cell::of_word(static_cast<int64_t>(sum)));
            }
            break;
          case PartialKind::exact: {
            std::string encoded;
            partials.exacts[slot].encode(encoded);
            cells.push_back(bytes(std::move(encoded)));
            break;
          }
          default:
            cells.push_back(bytes(partials.decimals[slot].numeric()));
        }
      }
      forget_unknown(index, first);
      continue;
    }
    const auto part = [&](const Kept Extreme::*member, int16_t input) {
      auto& cells = column();
      const Type type = program.inputs[input].type;
      for (size_t slot = from; slot < to; ++slot) {
        const Extreme& extreme = partials.extremes[slot];
        cells.push_back(extreme.set ? (extreme.*member).cell(type) : Cell::none());
      }
    };
    part(&Extreme::value, item.value);
    if (item.order >= 0) part(&Extreme::order, item.order);
    if (item.seq >= 0) part(&Extreme::seq, item.seq);
    forget_unknown(index, first);
  }
  return result;
}

}  // namespace tick::pg
