// The SQL type tick.exact_sum: the core's exact sum of floats in its canonical encoding, its merge, and what
// sum, avg, variance and stddev make of it. Every rounding happens here, once, at read.
#include <bit>
#include <cmath>
#include <string>

#include "../core/exact_sum.hpp"
#include "guard.hpp"
#include "values.hpp"

namespace tick::pg {
namespace {

ExactSum decode(std::span<const unsigned char> bytes) {
  ExactSum sum = ExactSum::decode(bytes);
  if (!bytes.empty()) throw Error{Error::Code::data_corrupted, "exact_sum has bytes behind its end"};
  return sum;
}

std::span<const unsigned char> bytes_of(Datum detoasted) {
  const char* pointer = DatumGetPointer(detoasted);
  return {reinterpret_cast<const unsigned char*>(VARDATA_ANY(pointer)),
          static_cast<size_t>(VARSIZE_ANY_EXHDR(pointer))};
}

ExactSum decode(Datum detoasted) {
  return decode(bytes_of(detoasted));
}

Datum detoast(Datum datum) {
  return PointerGetDatum(PG_DETOAST_DATUM_PACKED(datum));
}

Datum encode(const ExactSum& sum) {
  std::string bytes;
  sum.encode(bytes);
  return call([&] { return varlena_datum(bytes.data(), bytes.size()); });
}

[[noreturn]] void overflow() {
  throw Error{Error::Code::numeric_out_of_range, "value out of range: overflow"};
}

double value_of(const ExactSum& sum) {
  const double value = sum.value();
  if (std::isinf(value) && sum.finite_overflow()) overflow();
  return value;
}

// Of an encoded sum.
double value_of(Datum detoasted) {
  const auto plain = ExactSum::plain_value(bytes_of(detoasted));
  return plain ? *plain : value_of(decode(detoasted));
}

double mean_of(int64 n, Datum detoasted) {
  const auto plain = ExactSum::plain_value(bytes_of(detoasted));
  return plain && n > 0 ? *plain / static_cast<double>(n) : mean(n, decode(detoasted));
}

// The exact sum rounded once to float: a double rounded to odd keeps enough bits for a second rounding.
float float_of(ExactSum sum) {
  double value = value_of(sum);
  if (!std::isfinite(value)) return static_cast<float>(value);
  sum.subtract(value);
  const double rest = sum.value();
  if (rest != 0) {
    if (std::signbit(rest) != std::signbit(value)) value = std::nextafter(value, 0.0);
    value = std::bit_cast<double>(std::bit_cast<uint64_t>(value) | 1);
  }
  const float result = static_cast<float>(value);
  if (std::isinf(result)) overflow();
  return result;
}

double variance_of(Datum sum, Datum squares, int64 count, bool sample) {
  const ExactSum exact = decode(sum);
  const double result = variance(count, exact, decode(squares), sample);
  if (std::isinf(result)) overflow();
  return result;
}

Datum finish_moments(FunctionCallInfo fcinfo, bool sample, bool deviation) {
  if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2) || PG_GETARG_INT64(2) <= (sample ? 1 : 0))
    PG_RETURN_NULL();
  const double result =
      variance_of(detoast(PG_GETARG_DATUM(0)), detoast(PG_GETARG_DATUM(1)), PG_GETARG_INT64(2), sample);
  return Float8GetDatum(deviation ? std::sqrt(result) : result);
}

bool is_empty(FunctionCallInfo fcinfo) {
  return PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_GETARG_INT64(1) <= 0;
}

Datum parse(const char* text) {
  return encode(ExactSum::parse(text));
}

Datum print(Datum datum) {
  const std::string text = decode(datum).text();
  return call([&] { return CStringGetDatum(pstrdup(text.c_str())); });
}

// Takes over the bytes of a message after checking them.
Datum receive(StringInfo message) {
  const int size = message->len - message->cursor;
  const auto* bytes = reinterpret_cast<const unsigned char*>(pq_getmsgbytes(message, size));
  return encode(decode({bytes, static_cast<size_t>(size)}));
}

// The state of the aggregates that tick.verify asks where PostgreSQL's own have rounded too much. Its
// destructor runs when the aggregate's memory context is reset.
struct Floats {
  ExactSum sum;
  ExactSum squares;
};

void destroy(void* floats) {
  static_cast<Floats*>(floats)->~Floats();
}

Floats* make_floats(FunctionCallInfo fcinfo) {
  MemoryContext memory;
  if (!AggCheckCallContext(fcinfo, &memory))
    elog(ERROR, "pg_tick: an aggregate's function was called by itself");
  auto* callback =
      static_cast<MemoryContextCallback*>(MemoryContextAlloc(memory, sizeof(MemoryContextCallback)));
  auto* floats = new (MemoryContextAlloc(memory, sizeof(Floats))) Floats;
  callback->func = destroy;
  callback->arg = floats;
  MemoryContextRegisterResetCallback(memory, callback);
  return floats;
}

Floats* floats_of(FunctionCallInfo fcinfo) {
  return PG_ARGISNULL(0) ? nullptr : reinterpret_cast<Floats*>(PG_GETARG_POINTER(0));
}

Datum exact_step(FunctionCallInfo fcinfo, bool single, bool with_squares) {
  Floats* floats = floats_of(fcinfo);
  if (PG_ARGISNULL(1)) return PointerGetDatum(floats);
  if (floats == nullptr) floats = make_floats(fcinfo);
  const double value = single ? static_cast<double>(PG_GETARG_FLOAT4(1)) : PG_GETARG_FLOAT8(1);
  floats->sum.add(value);
  if (with_squares) floats->squares.add_square(value);
  return PointerGetDatum(floats);
}

Datum exact_moments(FunctionCallInfo fcinfo, bool sample, bool deviation) {
  const Floats* floats = floats_of(fcinfo);
  if (floats == nullptr || floats->sum.count() <= (sample ? 1 : 0)) PG_RETURN_NULL();
  const double result = variance(floats->sum.count(), floats->sum, floats->squares, sample);
  if (std::isinf(result)) overflow();
  return Float8GetDatum(deviation ? std::sqrt(result) : result);
}

Datum merge(Datum a, Datum b) {
  ExactSum sum = decode(a);
  sum.merge(decode(b));
  return encode(sum);
}

}  // namespace
}  // namespace tick::pg

extern "C" {
PG_FUNCTION_INFO_V1(tick_exact_sum_in);
PG_FUNCTION_INFO_V1(tick_exact_sum_out);
PG_FUNCTION_INFO_V1(tick_exact_sum_recv);
PG_FUNCTION_INFO_V1(tick_exact_sum_send);
PG_FUNCTION_INFO_V1(tick_exact_value);
PG_FUNCTION_INFO_V1(tick_exact_of);
PG_FUNCTION_INFO_V1(tick_merge_sum);
PG_FUNCTION_INFO_V1(tick_finish_float8);
PG_FUNCTION_INFO_V1(tick_finish_float4);
PG_FUNCTION_INFO_V1(tick_finish_float_avg);
PG_FUNCTION_INFO_V1(tick_finish_float_var_pop);
PG_FUNCTION_INFO_V1(tick_finish_float_var_samp);
PG_FUNCTION_INFO_V1(tick_finish_float_stddev_pop);
PG_FUNCTION_INFO_V1(tick_finish_float_stddev_samp);
PG_FUNCTION_INFO_V1(tick_exact_step);
PG_FUNCTION_INFO_V1(tick_exact_step4);
PG_FUNCTION_INFO_V1(tick_exact_step_squares);
PG_FUNCTION_INFO_V1(tick_exact_step4_squares);
PG_FUNCTION_INFO_V1(tick_exact_sum_final);
PG_FUNCTION_INFO_V1(tick_exact_sum4_final);
PG_FUNCTION_INFO_V1(tick_exact_avg_final);
PG_FUNCTION_INFO_V1(tick_exact_var_pop_final);
PG_FUNCTION_INFO_V1(tick_exact_var_samp_final);
PG_FUNCTION_INFO_V1(tick_exact_stddev_pop_final);
PG_FUNCTION_INFO_V1(tick_exact_stddev_samp_final);

PGDLLEXPORT Datum tick_exact_sum_in(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] { return tick::pg::parse(PG_GETARG_CSTRING(0)); });
}

PGDLLEXPORT Datum tick_exact_sum_out(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] { return tick::pg::print(tick::pg::detoast(PG_GETARG_DATUM(0))); });
}

PGDLLEXPORT Datum tick_exact_sum_recv(PG_FUNCTION_ARGS) {
  return tick::pg::entry(
      [&] { return tick::pg::receive(reinterpret_cast<StringInfo>(PG_GETARG_POINTER(0))); });
}

PGDLLEXPORT Datum tick_exact_sum_send(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] { return PointerGetDatum(PG_DETOAST_DATUM_COPY(PG_GETARG_DATUM(0))); });
}

PGDLLEXPORT Datum tick_exact_value(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] {
    const Datum sum = tick::pg::detoast(PG_GETARG_DATUM(0));
    return Float8GetDatum(tick::pg::value_of(sum));
  });
}

PGDLLEXPORT Datum tick_exact_of(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] {
    tick::ExactSum sum;
    sum.add(PG_GETARG_FLOAT8(0));
    return tick::pg::encode(sum);
  });
}

PGDLLEXPORT Datum tick_merge_sum(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] {
    const Datum a = tick::pg::detoast(PG_GETARG_DATUM(0)), b = tick::pg::detoast(PG_GETARG_DATUM(1));
    return tick::pg::merge(a, b);
  });
}

PGDLLEXPORT Datum tick_finish_float8(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&]() -> Datum {
    if (tick::pg::is_empty(fcinfo)) PG_RETURN_NULL();
    const Datum sum = tick::pg::detoast(PG_GETARG_DATUM(0));
    return Float8GetDatum(tick::pg::value_of(sum));
  });
}

PGDLLEXPORT Datum tick_finish_float4(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&]() -> Datum {
    if (tick::pg::is_empty(fcinfo)) PG_RETURN_NULL();
    const Datum sum = tick::pg::detoast(PG_GETARG_DATUM(0));
    return Float4GetDatum(tick::pg::float_of(tick::pg::decode(sum)));
  });
}

PGDLLEXPORT Datum tick_finish_float_avg(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&]() -> Datum {
    if (tick::pg::is_empty(fcinfo)) PG_RETURN_NULL();
    const Datum sum = tick::pg::detoast(PG_GETARG_DATUM(0));
    return Float8GetDatum(tick::pg::mean_of(PG_GETARG_INT64(1), sum));
  });
}

PGDLLEXPORT Datum tick_finish_float_var_pop(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] { return tick::pg::finish_moments(fcinfo, false, false); });
}

PGDLLEXPORT Datum tick_finish_float_var_samp(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] { return tick::pg::finish_moments(fcinfo, true, false); });
}

PGDLLEXPORT Datum tick_finish_float_stddev_pop(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] { return tick::pg::finish_moments(fcinfo, false, true); });
}

PGDLLEXPORT Datum tick_finish_float_stddev_samp(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] { return tick::pg::finish_moments(fcinfo, true, true); });
}

PGDLLEXPORT Datum tick_exact_step(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] { return tick::pg::exact_step(fcinfo, false, false); });
}

PGDLLEXPORT Datum tick_exact_step4(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] { return tick::pg::exact_step(fcinfo, true, false); });
}

PGDLLEXPORT Datum tick_exact_step_squares(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] { return tick::pg::exact_step(fcinfo, false, true); });
}

PGDLLEXPORT Datum tick_exact_step4_squares(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] { return tick::pg::exact_step(fcinfo, true, true); });
}

PGDLLEXPORT Datum tick_exact_sum_final(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&]() -> Datum {
    const auto* floats = tick::pg::floats_of(fcinfo);
    if (floats == nullptr) PG_RETURN_NULL();
    return Float8GetDatum(tick::pg::value_of(floats->sum));
  });
}

PGDLLEXPORT Datum tick_exact_sum4_final(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&]() -> Datum {
    const auto* floats = tick::pg::floats_of(fcinfo);
    if (floats == nullptr) PG_RETURN_NULL();
    return Float4GetDatum(tick::pg::float_of(floats->sum));
  });
}

PGDLLEXPORT Datum tick_exact_avg_final(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&]() -> Datum {
    const auto* floats = tick::pg::floats_of(fcinfo);
    if (floats == nullptr) PG_RETURN_NULL();
    return Float8GetDatum(tick::mean(floats->sum.count(), floats->sum));
  });
}

PGDLLEXPORT Datum tick_exact_var_pop_final(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] { return tick::pg::exact_moments(fcinfo, false, false); });
}

PGDLLEXPORT Datum tick_exact_var_samp_final(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] { return tick::pg::exact_moments(fcinfo, true, false); });
}

PGDLLEXPORT Datum tick_exact_stddev_pop_final(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] { return tick::pg::exact_moments(fcinfo, false, true); });
}

PGDLLEXPORT Datum tick_exact_stddev_samp_final(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] { return tick::pg::exact_moments(fcinfo, true, true); });
}
}
