// Fields, the types that can hold them, and their bytes; see columns.hpp.
#include "columns.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstring>

#include "names.hpp"

namespace tick::ingest {

namespace {

constexpr std::int64_t postgres_epoch_us = 946'684'800'000'000;

// pg_type.oid of what binary COPY is encoded for.
constexpr unsigned type_bool = 16, type_int8 = 20, type_text = 25, type_float8 = 701, type_bpchar = 1042,
                   type_varchar = 1043, type_timestamp = 1114, type_timestamptz = 1184, type_numeric = 1700;

enum Field { exchange, symbol, ts, ts_ms, ts_s, price, qty, trade_id, is_buyer_maker, received_at, name };

using Kind = BatchColumn::Kind;
struct Known {
  const char* name;
  Kind kind;
  std::vector<unsigned> types;
  bool own = true;  // a column of this name gets it without being told
};
const std::vector<Known>& known() {
  static const std::vector<unsigned> text = {type_text, type_varchar, type_bpchar};
  static const std::vector<unsigned> time = {type_timestamptz, type_timestamp};
  static const std::vector<unsigned> number = {type_float8, type_numeric};
  static const std::vector<Known> fields = {
      {"exchange", Kind::words, text},
      {"symbol", Kind::words, text},
      {"ts", Kind::time, time},
      {"ts_ms", Kind::whole, {type_int8}, false},
      {"ts_s", Kind::whole, {type_int8}, false},
      {"price", Kind::number, number},
      {"qty", Kind::number, number},
      {"trade_id", Kind::whole, {type_int8}},
      {"is_buyer_maker", Kind::boolean, {type_bool}},
      {"received_at", Kind::time, time},
      {"name", Kind::words, text, false},
  };
  return fields;
}

std::string names_of_fields() {
  std::string all;
  for (const auto& field : known()) all += (all.empty() ? "" : ", ") + std::string(field.name);
  return all;
}

std::optional<int> find_field(std::string_view name) {
  const auto found =
      std::find_if(known().begin(), known().end(), [&](const Known& field) { return field.name == name; });
  if (found == known().end()) return std::nullopt;
  return static_cast<int>(found - known().begin());
}

const char* type_names(unsigned type) {
  switch (type) {
    case type_bool:
      return "boolean";
    case type_int8:
      return "bigint";
    case type_float8:
      return "double precision";
    case type_numeric:
      return "numeric";
    case type_timestamp:
      return "timestamp (UTC)";
    case type_timestamptz:
      return "timestamptz";
    case type_varchar:
      return "varchar";
    case type_bpchar:
      return "char";
    default:
      return "text";
  }
}

std::int64_t floor_div(std::int64_t value, std::int64_t by) {
  return value / by - (value % by < 0 ? 1 : 0);
}

std::int64_t whole(const Tick& tick, int field) {
  const std::int64_t us = tick.ts.time_since_epoch().count();
  if (field == ts_ms) return floor_div(us, 1'000);
  if (field == ts_s) return floor_div(us, 1'000'000);
  return tick.id;
}

bool is_null(const Tick& tick, int field) {
  switch (static_cast<Field>(field)) {
    case qty:
      return !tick.has_qty;
    case trade_id:
      return !tick.has_id;
    case is_buyer_maker:
      return tick.maker == Maker::unknown;
    case received_at:
      return tick.received == Timestamp{};
    case name:
      return tick.name.view().empty();
    default:
      return false;
  }
}

std::string_view words(const Tick& tick, int field, std::string_view venue) {
  if (field == symbol) return tick.symbol.view();
  if (field == name) return tick.name.view();
  return tick.exchange.view().empty() ? venue : tick.exchange.view();
}

std::int64_t micros(const Tick& tick, int field) {
  return (field == ts ? tick.ts : tick.received).time_since_epoch().count() - postgres_epoch_us;
}

// ---- binary COPY

void put16(std::string& out, std::uint16_t value) {
  const char bytes[2] = {static_cast<char>(value >> 8), static_cast<char>(value)};
  out.append(bytes, 2);
}

void put32(std::string& out, std::uint32_t value) {
  value = __builtin_bswap32(value);
  char bytes[4];
  std::memcpy(bytes, &value, 4);
  out.append(bytes, 4);
}

void put64(std::string& out, std::uint64_t value) {
  value = __builtin_bswap64(value);
  char bytes[12] = {0, 0, 0, 8};
  std::memcpy(bytes + 4, &value, 8);
  out.append(bytes, 12);
}

// A numeric of the shortest decimal that is this double: what the exchange wrote, up to 15 digits of it.
void put_numeric(std::string& out, double value) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, value, std::chars_format::scientific).ptr;
  std::string digits;
  const char* at = text + (*text == '-' ? 1 : 0);
  for (; at != end && *at != 'e'; ++at)
    if (*at != '.') digits += *at;
  int exponent = 0;
  std::from_chars(at + (at[1] == '+' ? 2 : 1), end, exponent);
  while (digits.size() > 1 && digits.back() == '0') digits.pop_back();
  const int scale = std::max(0, static_cast<int>(digits.size()) - 1 - exponent);
  // Groups of four digits, aligned at the decimal point.
  const int weight = static_cast<int>(floor_div(exponent, 4));
  digits.insert(0, static_cast<std::size_t>(3 - (exponent - weight * 4)), '0');
  digits.append((4 - digits.size() % 4) % 4, '0');
  const std::size_t groups = value == 0 ? 0 : digits.size() / 4;
  put32(out, static_cast<std::uint32_t>(8 + 2 * groups));
  put16(out, static_cast<std::uint16_t>(groups));
  put16(out, static_cast<std::uint16_t>(value == 0 ? 0 : weight));
  put16(out, value < 0 ? 0x4000 : 0);
  put16(out, static_cast<std::uint16_t>(scale));
  for (std::size_t group = 0; group < groups; ++group) {
    std::uint16_t number = 0;
    for (const char digit : digits.substr(group * 4, 4))
      number = static_cast<std::uint16_t>(number * 10 + (digit - '0'));
    put16(out, number);
  }
}

}  // namespace

std::optional<ColumnMap> parse_column_map(std::string_view text, std::string& mistake) {
  ColumnMap map;
  while (!text.empty()) {
    const auto comma = text.find(',');
    std::string_view pair = text.substr(0, comma);
    text = comma == std::string_view::npos ? std::string_view() : text.substr(comma + 1);
    while (pair.starts_with(' ')) pair.remove_prefix(1);
    while (pair.ends_with(' ')) pair.remove_suffix(1);
    const auto equals = pair.rfind('=');
    const std::string_view column = pair.substr(0, equals);
    const std::string_view field = equals == std::string_view::npos ? "" : pair.substr(equals + 1);
    const bool twice =
        std::any_of(map.begin(), map.end(), [&](const auto& other) { return other.first == column; });
    if (column.empty() || twice || !find_field(field)) {
      mistake =
          "must be like event_time=ts,volume=qty: columns of the table, each once, and what they get, of " +
          names_of_fields() + "; cannot read \"" + std::string(pair) + "\"";
      return std::nullopt;
    }
    map.emplace_back(column, field);
  }
  for (const std::string_view wanted : {"symbol", "ts", "price"}) {
    const bool there = std::any_of(map.begin(), map.end(), [&](const auto& pair) {
      return pair.second == wanted || (wanted == "ts" && pair.second.starts_with("ts_"));
    });
    if (there) continue;
    mistake = "must say which column gets " + std::string(wanted);
    return std::nullopt;
  }
  return map;
}

std::string show_column_map(const ColumnMap& map) {
  std::string all;
  for (const auto& [column, field] : map) all += (all.empty() ? "" : ",") + column + "=" + field;
  return all;
}

void TableColumns::open(Database& database, const std::string& table, const ColumnMap& map) {
  const std::string parameters[] = {table};
  const auto found = database.query("SELECT to_regclass($1)::oid", parameters);
  if (!found.at(0).at(0))
    throw FatalError(
        "table " + table + " does not exist; " +
        (map.empty() ? "`tick-ingest init` creates it" : "with columns of your own, create it first"));
  const auto rows = database.query(
      "SELECT a.attname, a.atttypid, format_type(a.atttypid, a.atttypmod), c.relnamespace::regnamespace::text"
      " || '.' || quote_ident(c.relname), quote_ident(a.attname),"
      " a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AND NOT EXISTS (SELECT FROM"
      " pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgtype & 2 <> 0"
      " AND (SELECT p.pronamespace FROM pg_catalog.pg_proc p WHERE p.oid = t.tgfoid)::regnamespace::text <> "
      "'tick_catalog')"  // which may fill it
      " FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid"
      " WHERE c.oid = $1::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''",
      parameters);
  std::vector<std::string> names;
  for (const auto& row : rows) names.push_back(*row[0]);
  ColumnMap wanted = map;
  if (map.empty())
    for (const auto& field : known())
      if (field.own && std::find(names.begin(), names.end(), field.name) != names.end())
        wanted.emplace_back(field.name, field.name);

  columns_.clear();
  list_.clear();
  time_.clear();
  std::vector<BatchWriter::Column> in_batch;
  for (const auto& [column, field_name] : wanted) {
    const int field = find_field(field_name).value();
    const auto row = std::find_if(rows.begin(), rows.end(), [&](const Row& r) { return *r[0] == column; });
    if (row == rows.end()) {
      const std::string near = nearest(column, names);
      throw FatalError("table " + table + " has no column " + column + " that can be written" +
                       (near.empty() ? "" : "; did you mean " + near + "?"));
    }
    const auto& types = known()[static_cast<std::size_t>(field)].types;
    const auto type = static_cast<unsigned>(std::stoul(*(*row)[1]));
    if (std::find(types.begin(), types.end(), type) == types.end()) {
      std::string fit;
      for (const unsigned other : types) fit += (fit.empty() ? "" : ", ") + std::string(type_names(other));
      throw FatalError("column " + column + " of table " + table + " has type " + *(*row)[2] +
                       ", which cannot hold " + field_name + ": that needs " + fit +
                       (field == ts && type == type_int8 ? "; or give it ts_ms or ts_s" : ""));
    }
    columns_.push_back({column, *(*row)[4], type, field});
    in_batch.push_back({column, known()[static_cast<std::size_t>(field)].kind});
    list_ += (list_.empty() ? "" : ", ") + *(*row)[4];
    if (field == ts && time_.empty()) time_ = column;
  }
  for (const int required : {symbol, ts, price})
    if (map.empty() && std::none_of(columns_.begin(), columns_.end(),
                                    [&](const Column& column) { return column.field == required; }))
      throw FatalError("table " + table + " has no column " +
                       known()[static_cast<std::size_t>(required)].name);
  for (const auto& row : rows)
    if (*row[5] == "t" &&
        std::none_of(wanted.begin(), wanted.end(), [&](const auto& pair) { return pair.first == *row[0]; }))
      throw FatalError("column " + *row[0] + " of table " + table +
                       " is NOT NULL, has no default, and gets nothing: name it in database.columns");
  table_ = *rows.at(0).at(3);
  writer_.emplace(std::move(in_batch));
}

std::string TableColumns::column(std::string_view field) const {
  const auto found = std::find_if(columns_.begin(), columns_.end(),
                                  [&](const Column& column) { return column.field == find_field(field); });
  return found == columns_.end() ? "" : found->quoted;
}

void TableColumns::batch(std::span<const Tick> ticks, std::string_view venue, std::string& out) {
  for (std::size_t i = 0; i < columns_.size(); ++i) {
    const int field = columns_[i].field;
    for (const auto& tick : ticks) {
      if (is_null(tick, field)) {
        writer_->null(i);
        continue;
      }
      switch (known()[static_cast<std::size_t>(field)].kind) {
        case Kind::time:
          writer_->whole(i, micros(tick, field));
          break;
        case Kind::whole:
          writer_->whole(i, whole(tick, field));
          break;
        case Kind::number:
          writer_->number(i, field == price ? tick.price : tick.qty);
          break;
        case Kind::boolean:
          writer_->boolean(i, tick.maker == Maker::buyer);
          break;
        default:
          writer_->text(i, words(tick, field, venue));
          break;
      }
    }
  }
  out = writer_->finish();
}

void TableColumns::copy(std::span<const Tick> ticks, std::string_view venue, std::string& out) const {
  out.assign("PGCOPY\n\377\r\n\0\0\0\0\0\0\0\0\0", 19);
  for (const auto& tick : ticks) {
    put16(out, static_cast<std::uint16_t>(columns_.size()));
    for (const auto& column : columns_) put(tick, venue, column, out);
  }
  put16(out, 0xffff);
}

void TableColumns::put(const Tick& tick, std::string_view venue, const Column& column,
                       std::string& out) const {
  if (is_null(tick, column.field)) return put32(out, 0xffffffffu);
  switch (known()[static_cast<std::size_t>(column.field)].kind) {
    case Kind::time:
      return put64(out, static_cast<std::uint64_t>(micros(tick, column.field)));
    case Kind::whole:
      return put64(out, static_cast<std::uint64_t>(whole(tick, column.field)));
    case Kind::number: {
      const double value = column.field == price ? tick.price : tick.qty;
      if (column.type == type_numeric) return put_numeric(out, value);
      return put64(out, std::bit_cast<std::uint64_t>(value));
    }
    case Kind::boolean:
      put32(out, 1);
      out += tick.maker == Maker::buyer ? '\1' : '\0';
      return;
    default: {
      const std::string_view text = words(tick, column.field, venue);
      put32(out, static_cast<std::uint32_t>(text.size()));
      out += text;
    }
  }
}

}  // namespace tick::ingest
