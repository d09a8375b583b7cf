// Window functions, and the functions that finish partials which PostgreSQL itself can add: integers and
// numeric. They repeat PostgreSQL's own final functions step by step, so scale and rounding are the same.
#include "../core/window.hpp"
#include "guard.hpp"
#include "values.hpp"

namespace tick::pg {
namespace {

WindowSize valid_size(const Interval* size, const Interval* slide = nullptr) {
  const WindowSize result = window_size(size, slide);
  std::string reason = result.validate();
  if (!reason.empty()) throw Error{Error::Code::invalid_argument, std::move(reason)};
  return result;
}

Datum hop(FunctionCallInfo fcinfo) {
  if (SRF_IS_FIRSTCALL()) {
    const WindowSize size = valid_size(PG_GETARG_INTERVAL_P(1), PG_GETARG_INTERVAL_P(2));
    const Micros time = PG_GETARG_TIMESTAMP(0);
    call([&] {
      FuncCallContext* calls = SRF_FIRSTCALL_INIT();
      auto* next = static_cast<Micros*>(MemoryContextAlloc(calls->multi_call_memory_ctx, sizeof(Micros) * 2));
      next[0] = first_window(time, size);
      next[1] = size.slide;
      calls->user_fctx = next;
      calls->max_calls = TIMESTAMP_NOT_FINITE(time) ? 1 : static_cast<uint64>(windows_of_time(size));
    });
  }
  FuncCallContext* calls = SRF_PERCALL_SETUP();
  auto* next = static_cast<Micros*>(calls->user_fctx);
  if (calls->call_cntr >= calls->max_calls) SRF_RETURN_DONE(calls);
  const Micros start = next[0];
  next[0] += next[1];
  SRF_RETURN_NEXT(calls, TimestampGetDatum(start));
}

Numeric number(Datum datum) {
  return DatumGetNumeric(datum);
}

bool is_positive(Numeric value) {
  const Datum zero = DirectFunctionCall1(int8_numeric, Int64GetDatum(0));
  return DatumGetBool(DirectFunctionCall2(numeric_gt, NumericGetDatum(value), zero));
}

struct Moments {
  Datum sum;      // numeric
  Datum squares;  // numeric
  int64 count;
};

// numeric_stddev_internal of PostgreSQL in numeric's own operators.
Datum numeric_variance(const Moments& of, bool sample) {
  const Datum n = DirectFunctionCall1(int8_numeric, Int64GetDatum(of.count));
  const Datum divisor = sample ? DirectFunctionCall1(int8_numeric, Int64GetDatum(of.count - 1)) : n;
  const Datum numerator = DirectFunctionCall2(numeric_sub, DirectFunctionCall2(numeric_mul, n, of.squares),
                                              DirectFunctionCall2(numeric_mul, of.sum, of.sum));
  if (!is_positive(number(numerator))) return DirectFunctionCall1(int8_numeric, Int64GetDatum(0));
  return DirectFunctionCall2(numeric_div, numerator, DirectFunctionCall2(numeric_mul, n, divisor));
}

Datum parse_number(const char* digits, int scale) {
  return DirectFunctionCall3(numeric_in, CStringGetDatum(psprintf("%se-%d", digits, scale)),
                             ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
}

// The square root with the scale of its argument. numeric_sqrt rounds to a finer scale first, so that a
// second rounding may go up where the first already did.
Datum numeric_deviation(const Moments& of, bool sample) {
  const Datum variance = numeric_variance(of, sample);
  if (numeric_is_nan(number(variance)) || !is_positive(number(variance))) return variance;
  const int scale = DatumGetInt32(DirectFunctionCall1(numeric_scale, variance));
  const Datum root =
      DirectFunctionCall2(numeric_round, DirectFunctionCall1(numeric_sqrt, variance), Int32GetDatum(scale));
  const Datum half_less = DirectFunctionCall2(numeric_sub, root, parse_number("5", scale + 1));
  const Datum square = DirectFunctionCall2(numeric_mul, half_less, half_less);
  if (!DatumGetBool(DirectFunctionCall2(numeric_gt, square, variance))) return root;
  return DirectFunctionCall2(numeric_sub, root, parse_number("1", scale));
}

Datum finish_moments(FunctionCallInfo fcinfo, bool sample, bool deviation) {
  if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2) || PG_GETARG_INT64(2) <= (sample ? 1 : 0))
    PG_RETURN_NULL();
  const Moments moments{PG_GETARG_DATUM(0), PG_GETARG_DATUM(1), PG_GETARG_INT64(2)};
  return deviation ? numeric_deviation(moments, sample) : numeric_variance(moments, sample);
}

}  // namespace
}  // namespace tick::pg

extern "C" {
PG_FUNCTION_INFO_V1(tick_tumble);
PG_FUNCTION_INFO_V1(tick_hop);
PG_FUNCTION_INFO_V1(tick_window_end);
PG_FUNCTION_INFO_V1(tick_finish_sum);
PG_FUNCTION_INFO_V1(tick_finish_avg);
PG_FUNCTION_INFO_V1(tick_finish_var_pop);
PG_FUNCTION_INFO_V1(tick_finish_var_samp);
PG_FUNCTION_INFO_V1(tick_finish_stddev_pop);
PG_FUNCTION_INFO_V1(tick_finish_stddev_samp);

PGDLLEXPORT Datum tick_tumble(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] {
    return TimestampGetDatum(
        tick::window_start(PG_GETARG_TIMESTAMP(0), tick::pg::valid_size(PG_GETARG_INTERVAL_P(1))));
  });
}

// One value a call.
PGDLLEXPORT Datum tick_hop(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&]() -> Datum { return tick::pg::hop(fcinfo); });
}

PGDLLEXPORT Datum tick_window_end(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] {
    return TimestampGetDatum(
        tick::window_end(PG_GETARG_TIMESTAMP(0), tick::pg::valid_size(PG_GETARG_INTERVAL_P(1))));
  });
}

// The sum itself, NULL when nothing was added.
PGDLLEXPORT Datum tick_finish_sum(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&]() -> Datum {
    if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_GETARG_INT64(1) <= 0) PG_RETURN_NULL();
    return PG_GETARG_DATUM(0);
  });
}

PGDLLEXPORT Datum tick_finish_avg(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&]() -> Datum {
    if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_GETARG_INT64(1) <= 0) PG_RETURN_NULL();
    return DirectFunctionCall2(numeric_div, PG_GETARG_DATUM(0),
                               DirectFunctionCall1(int8_numeric, PG_GETARG_DATUM(1)));
  });
}

PGDLLEXPORT Datum tick_finish_var_pop(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] { return tick::pg::finish_moments(fcinfo, false, false); });
}

PGDLLEXPORT Datum tick_finish_var_samp(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] { return tick::pg::finish_moments(fcinfo, true, false); });
}

PGDLLEXPORT Datum tick_finish_stddev_pop(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] { return tick::pg::finish_moments(fcinfo, false, true); });
}

PGDLLEXPORT Datum tick_finish_stddev_samp(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] { return tick::pg::finish_moments(fcinfo, true, true); });
}
}
