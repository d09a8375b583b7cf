// Window functions, and the functions that finish partials which PostgreSQL itself can add: integers and
// numeric. They repeat PostgreSQL's own final functions step by step, so scale and rounding are the same.
#include "../core/window.hpp"
#include "guard.hpp"
#include "values.hpp"

namespace tick::pg {
namespace {

// The zone in an argument that is most often the same from call to call.
const Zone* zone_argument(FunctionCallInfo fcinfo, int argument) {
  struct Known {
    const Zone* zone;
    size_t length;
    char name[TZ_STRLEN_MAX + 1];
  };
  const text* name = PG_GETARG_TEXT_PP(argument);
  const std::string_view wanted(VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));
  auto* known = static_cast<Known*>(fcinfo->flinfo->fn_extra);
  if (known != nullptr && wanted == std::string_view(known->name, known->length)) return known->zone;
  const Zone* zone = find_zone(wanted);
  if (known == nullptr)
    known = static_cast<Known*>(MemoryContextAlloc(fcinfo->flinfo->fn_mcxt, sizeof(Known)));
  *known = Known{zone, wanted.size(), {}};
  wanted.copy(known->name, wanted.size());
  fcinfo->flinfo->fn_extra = known;
  return zone;
}

WindowSize valid_size(const Interval* size, const Interval* slide = nullptr, const Zone* zone = nullptr,
                      const Timestamp* origin = nullptr, bool grows = false) {
  WindowSize result = window_size(size, slide, grows);
  result.zone = zone;
  if (origin != nullptr && TIMESTAMP_NOT_FINITE(*origin))
    throw Error{Error::Code::invalid_argument, "the origin of a window must be finite"};
  if (origin != nullptr) result.begin_at(*origin);
  std::string reason = result.validate();
  if (!reason.empty()) throw Error{Error::Code::invalid_argument, std::move(reason)};
  return result;
}

// The window that arguments from `first` on describe, NULL what it has not.
WindowSize full_size(FunctionCallInfo fcinfo, int first) {
  const Timestamp origin = PG_ARGISNULL(first + 3) ? 0 : PG_GETARG_TIMESTAMP(first + 3);
  return valid_size(
      PG_GETARG_INTERVAL_P(first), PG_ARGISNULL(first + 1) ? nullptr : PG_GETARG_INTERVAL_P(first + 1),
      PG_ARGISNULL(first + 2) ? nullptr : zone_argument(fcinfo, first + 2),
      PG_ARGISNULL(first + 3) ? nullptr : &origin, PG_NARGS() > first + 4 && PG_GETARG_BOOL(first + 4));
}

// What a call site has made of its size, which most often is the same with every row.
struct KnownSize {
  Interval interval;
  WindowSize size;
};

WindowSize known_size(FunctionCallInfo fcinfo, const Interval* interval) {
  auto* known = static_cast<KnownSize*>(fcinfo->flinfo->fn_extra);
  if (known != nullptr && memcmp(&known->interval, interval, sizeof *interval) == 0) return known->size;
  const WindowSize size = valid_size(interval);
  if (known == nullptr) {
    known = static_cast<KnownSize*>(
        call([&] { return MemoryContextAlloc(fcinfo->flinfo->fn_mcxt, sizeof(KnownSize)); }));
    fcinfo->flinfo->fn_extra = known;
  }
  *known = KnownSize{*interval, size};
  return size;
}

Datum label(Timestamp time, const WindowSize& size) {
  return TimestampGetDatum(window_label(window_start(time, size)));
}

// The windows that hold a time.
struct Holding {
  Micros next, last;
  WindowSize size;
};

// One start a call, the first window first. (ts, size, slide or step [, zone]).
Datum windows_holding(FunctionCallInfo fcinfo, bool grow) {
  if (SRF_IS_FIRSTCALL()) {
    const text* name = PG_NARGS() > 3 ? PG_GETARG_TEXT_PP(3) : nullptr;
    const Zone* zone = name == nullptr
                           ? nullptr
                           : find_zone({VARDATA_ANY(name), static_cast<size_t>(VARSIZE_ANY_EXHDR(name))});
    const WindowSize size = valid_size(PG_GETARG_INTERVAL_P(1), PG_GETARG_INTERVAL_P(2), zone, nullptr, grow);
    const Micros time = PG_GETARG_TIMESTAMP(0);
    call([&] {
      FuncCallContext* calls = SRF_FIRSTCALL_INIT();
      auto* holding =
          static_cast<Holding*>(MemoryContextAlloc(calls->multi_call_memory_ctx, sizeof(Holding)));
      *holding = Holding{first_window(time, size), nth_window(time, 0, size), size};
      while (holding->next < timestamp_min && holding->next < holding->last)
        holding->next = next_window(holding->next, size);
      calls->user_fctx = holding;
      calls->max_calls = 1;
    });
  }
  FuncCallContext* calls = SRF_PERCALL_SETUP();
  auto* holding = static_cast<Holding*>(calls->user_fctx);
  if (calls->call_cntr >= calls->max_calls) SRF_RETURN_DONE(calls);
  const Micros start = holding->next;
  if (start < holding->last) {
    holding->next = next_window(start, holding->size);
    ++calls->max_calls;
  }
  SRF_RETURN_NEXT(calls, TimestampGetDatum(window_label(start)));
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
PG_FUNCTION_INFO_V1(tick_tumble_from);
PG_FUNCTION_INFO_V1(tick_tumble_in);
PG_FUNCTION_INFO_V1(tick_hop);
PG_FUNCTION_INFO_V1(tick_cumulate);
PG_FUNCTION_INFO_V1(tick_window_end);
PG_FUNCTION_INFO_V1(tick_window_end_in);
PG_FUNCTION_INFO_V1(tick_window_reach);
PG_FUNCTION_INFO_V1(tick_window_from);
PG_FUNCTION_INFO_V1(tick_finish_sum);
PG_FUNCTION_INFO_V1(tick_finish_avg);
PG_FUNCTION_INFO_V1(tick_finish_var_pop);
PG_FUNCTION_INFO_V1(tick_finish_var_samp);
PG_FUNCTION_INFO_V1(tick_finish_stddev_pop);
PG_FUNCTION_INFO_V1(tick_finish_stddev_samp);

PGDLLEXPORT Datum tick_tumble(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] {
    return tick::pg::label(PG_GETARG_TIMESTAMP(0), tick::pg::known_size(fcinfo, PG_GETARG_INTERVAL_P(1)));
  });
}

PGDLLEXPORT Datum tick_tumble_from(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] {
    const Timestamp origin = PG_GETARG_TIMESTAMP(2);
    return tick::pg::label(PG_GETARG_TIMESTAMP(0),
                           tick::pg::valid_size(PG_GETARG_INTERVAL_P(1), nullptr, nullptr, &origin));
  });
}

// In a time zone, with an origin or without.
PGDLLEXPORT Datum tick_tumble_in(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] {
    const Timestamp origin = PG_NARGS() > 3 ? PG_GETARG_TIMESTAMP(3) : 0;
    const auto size =
        tick::pg::valid_size(PG_GETARG_INTERVAL_P(1), nullptr, tick::pg::zone_argument(fcinfo, 2),
                             PG_NARGS() > 3 ? &origin : nullptr);
    return tick::pg::label(PG_GETARG_TIMESTAMP(0), size);
  });
}

PGDLLEXPORT Datum tick_hop(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&]() -> Datum { return tick::pg::windows_holding(fcinfo, false); });
}

PGDLLEXPORT Datum tick_cumulate(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&]() -> Datum { return tick::pg::windows_holding(fcinfo, true); });
}

PGDLLEXPORT Datum tick_window_end(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] {
    return TimestampGetDatum(
        tick::window_end(PG_GETARG_TIMESTAMP(0), tick::pg::known_size(fcinfo, PG_GETARG_INTERVAL_P(1))));
  });
}

// (start, size, slide, zone, origin): what a window can have, NULL what it has not.
PGDLLEXPORT Datum tick_window_end_in(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&]() -> Datum {
    if (PG_ARGISNULL(0) || PG_ARGISNULL(1)) PG_RETURN_NULL();
    return TimestampGetDatum(tick::window_end(PG_GETARG_TIMESTAMP(0), tick::pg::full_size(fcinfo, 1)));
  });
}

// (from, to, size, slide, zone, origin, grows): the first start and the last end of windows that times from
// .. to may be in.
PGDLLEXPORT Datum tick_window_reach(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&]() -> Datum {
    if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2)) PG_RETURN_NULL();
    const tick::WindowSize size = tick::pg::full_size(fcinfo, 2);
    const Timestamp first = tick::window_label(tick::first_window(PG_GETARG_TIMESTAMP(0), size));
    const Timestamp last = tick::window_end(tick::nth_window(PG_GETARG_TIMESTAMP(1), 0, size), size);
    return tick::pg::call([&] {
      Datum both[] = {TimestampTzGetDatum(first), TimestampTzGetDatum(last)};
      return PointerGetDatum(construct_array(both, 2, TIMESTAMPTZOID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
    });
  });
}

// (time, size, slide, zone, origin, grows): the start from which on windows consist of rows from that time
// on; the time itself without a size.
PGDLLEXPORT Datum tick_window_from(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&]() -> Datum {
    if (PG_ARGISNULL(0)) PG_RETURN_NULL();
    const Timestamp time = PG_GETARG_TIMESTAMP(0);
    if (PG_ARGISNULL(1)) return TimestampGetDatum(time);
    return TimestampGetDatum(tick::first_window_from(time, tick::pg::full_size(fcinfo, 1)));
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
