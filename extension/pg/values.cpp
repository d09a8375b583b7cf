#include "values.hpp"

#include <map>
#include <memory>

#include "guard.hpp"

namespace tick::pg {

ValueType value_type(Oid oid) {
  ValueType type{};
  type.oid = getBaseType(oid);
  get_typlenbyvalalign(type.oid, &type.length, &type.by_value, &type.align);
  switch (type.oid) {
    case BOOLOID:
      type.type = Type::boolean;
      break;
    case INT2OID:
      type.type = Type::int2;
      break;
    case INT4OID:
      type.type = Type::int4;
      break;
    case INT8OID:
      type.type = Type::int8;
      break;
    case FLOAT4OID:
      type.type = Type::float4;
      break;
    case FLOAT8OID:
      type.type = Type::float8;
      break;
    case NUMERICOID:
      type.type = Type::numeric;
      break;
    case TEXTOID:
    case VARCHAROID:
      type.type = Type::text;
      break;
    case BPCHAROID:
      type.type = Type::bpchar;
      break;
    case DATEOID:
      type.type = Type::date;
      break;
    case TIMESTAMPOID:
    case TIMESTAMPTZOID:
      type.type = Type::timestamp;
      break;
    default:
      type.type = type.by_value ? Type::word : Type::bytes;
  }
  return type;
}

uint32_t core_collation(Oid type, Oid collation) {
  if (type != TEXTOID && type != VARCHAROID && type != BPCHAROID) return 0;
  return !OidIsValid(collation) || TICK_COLLATES_BY_BYTES(collation) ? 0 : collation;
}

Cell to_cell(Datum datum, bool null, const ValueType& type) {
  if (null) return Cell::none();
  switch (type.type) {
    case Type::boolean:
      return Cell::of_word(DatumGetBool(datum));
    case Type::int2:
      return Cell::of_word(DatumGetInt16(datum));
    case Type::int4:
    case Type::date:
      return Cell::of_word(DatumGetInt32(datum));
    case Type::int8:
    case Type::timestamp:
    case Type::word:
      return Cell::of_word(static_cast<int64_t>(datum));
    case Type::float4:
      return Cell::of_real(DatumGetFloat4(datum));
    case Type::float8:
      return Cell::of_real(DatumGetFloat8(datum));
    case Type::numeric:
    case Type::text:
    case Type::bpchar:
    case Type::bytes:
      break;
  }
  char* pointer = DatumGetPointer(datum);
  if (type.length > 0) return Cell::of_bytes({pointer, static_cast<size_t>(type.length)});
  if (type.length == -2) return Cell::of_bytes({pointer, strlen(pointer)});
  return Cell::of_bytes({VARDATA_ANY(pointer), static_cast<size_t>(VARSIZE_ANY_EXHDR(pointer))});
}

Datum varlena_datum(const char* data, size_t size) {
  char* result = static_cast<char*>(palloc(size + VARHDRSZ));
  SET_VARSIZE(result, size + VARHDRSZ);
  if (size > 0) memcpy(VARDATA(result), data, size);
  return PointerGetDatum(result);
}

Datum to_datum(const Cell& cell, const ValueType& type) {
  if (cell.null) return static_cast<Datum>(0);
  switch (type.type) {
    case Type::boolean:
      return BoolGetDatum(cell.word != 0);
    case Type::int2:
      return Int16GetDatum(static_cast<int16>(cell.word));
    case Type::int4:
    case Type::date:
      return Int32GetDatum(static_cast<int32>(cell.word));
    case Type::int8:
    case Type::timestamp:
    case Type::word:
      return Int64GetDatum(cell.word);
    case Type::float4:
      return Float4GetDatum(static_cast<float4>(cell.real));
    case Type::float8:
      return Float8GetDatum(cell.real);
    case Type::numeric:
    case Type::text:
    case Type::bpchar:
    case Type::bytes:
      break;
  }
  if (type.length == -1) return varlena_datum(cell.data, cell.size);
  char* result = static_cast<char*>(palloc(cell.size + 1));
  memcpy(result, cell.data, cell.size);
  result[cell.size] = '\0';
  return PointerGetDatum(result);
}

int compare_text(std::string_view a, std::string_view b, uint32_t collation) {
  return call([&] {
    return varstr_cmp(a.data(), static_cast<int>(a.size()), b.data(), static_cast<int>(b.size()), collation);
  });
}

WindowSize window_size(const Interval* size, const Interval* slide, bool grows) {
  if (slide == nullptr) return {size->month, size->day, size->time};
  // A day of 24 hours is a time here; what is longer is refused as such.
  const auto micros = [](const Interval* interval) {
    return interval->month > 0 || interval->day > 1   ? micros_per_day + 1
           : interval->month < 0 || interval->day < 0 ? Micros{-1}
                                                      : interval->day * micros_per_day + interval->time;
  };
  const Micros step = micros(slide), length = micros(size);
  if (grows) return {.micros = step, .grows = length == 0 ? Micros{-1} : length};
  return {0, 0, length, step == 0 ? Micros{-1} : step};
}

const Zone* find_zone(std::string_view name) {
  // Without a zone: UTC.
  static auto& known = *new std::map<std::string, std::unique_ptr<Zone>, std::less<>>;
  const auto found = known.find(name);
  if (found != known.end()) return found->second.get();
  const std::string text(name);
  const char* wanted = text.c_str();
  const pg_tz* zone = text.size() > TZ_STRLEN_MAX ? nullptr : call([&] {
    pg_tz* loaded = pg_tzset(wanted);
    return loaded != nullptr && pg_tz_acceptable(loaded) ? loaded : nullptr;
  });
  if (zone == nullptr)
    throw Error{Error::Code::invalid_argument, "time zone \"" + text + "\" is not recognized"};
  const auto micros = [](pg_time_t seconds) {
    return (seconds - (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY) * USECS_PER_SEC;
  };
  std::vector<Zone::Change> changes;
  pg_time_t at = -170 * 366 * pg_time_t{SECS_PER_DAY}, next;
  long before = 0, after = 0, first = 0;
  int dst;
  // POSIX rules have no beginning: before 1800 there is standard time.
  for (bool begun = false;; begun = true) {
    const int result = pg_next_dst_boundary(&at, &before, &dst, &next, &after, &dst, zone);
    if (!begun) first = before;
    if (result != 1 || micros(next) >= Zone::changes_until) break;
    changes.push_back({micros(next), after * USECS_PER_SEC});
    at = next;
  }
  auto loaded =
      first == 0 && changes.empty() ? nullptr : std::make_unique<Zone>(first * USECS_PER_SEC, changes);
  return known.emplace(text, std::move(loaded)).first->second.get();
}

bool read_window(uint64 number, int first, WindowSize* size) {
  HeapTuple row = SPI_tuptable->vals[number];
  const TupleDesc desc = SPI_tuptable->tupdesc;
  bool none, tumbles, utc, plain;
  const Datum length = SPI_getbinval(row, desc, first, &none);
  const Datum slide = SPI_getbinval(row, desc, first + 1, &tumbles);
  const Datum zone = SPI_getbinval(row, desc, first + 2, &utc);
  const Datum origin = SPI_getbinval(row, desc, first + 3, &plain);
  bool unknown;
  const bool grows = DatumGetBool(SPI_getbinval(row, desc, first + 4, &unknown));
  if (none) return false;
  *size = window_size(DatumGetIntervalP(length), tumbles ? nullptr : DatumGetIntervalP(slide), grows);
  if (!utc) size->zone = find_zone(TextDatumGetCString(zone));
  if (!plain) size->begin_at(DatumGetTimestampTz(origin));
  return true;
}

}  // namespace tick::pg
