// Aggregates for users' own SQL: tick.ohlcv, a candle in one call, and the step of tick.ema. Ties and NULLs
// are as in tick.first and tick.last, the volume is summed exactly and rounded once.
#include <cmath>
#include <new>

#include "../core/exact_sum.hpp"
#include "guard.hpp"

namespace tick::pg {
namespace {

// NaN is greatest, as in PostgreSQL.
bool is_less(double a, double b) {
  return std::isnan(b) ? !std::isnan(a) : a < b;
}

struct Tick {
  TimestampTz ts;
  bool has_seq;
  int64 seq;
  double price;

  bool before(const Tick& other) const {
    if (ts != other.ts) return ts < other.ts;
    if (has_seq != other.has_seq) return !has_seq;
    if (has_seq && seq != other.seq) return seq < other.seq;
    return is_less(price, other.price);
  }
};

struct Candle {
  MemoryContextCallback end;
  ExactSum volume;
  int64 trades = 0;
  bool priced = false;
  double high = 0, low = 0;
  bool timed = false;
  Tick first{}, last{};
};

Candle* candle_of(FunctionCallInfo fcinfo) {
  MemoryContext memory;
  if (!AggCheckCallContext(fcinfo, &memory))
    elog(ERROR, "pg_tick: an aggregate's function was called by itself");
  if (!PG_ARGISNULL(0)) return reinterpret_cast<Candle*>(PG_GETARG_POINTER(0));
  auto* candle = new (MemoryContextAlloc(memory, sizeof(Candle))) Candle;
  candle->end.func = [](void* self) { static_cast<Candle*>(self)->~Candle(); };
  candle->end.arg = candle;
  MemoryContextRegisterResetCallback(memory, &candle->end);
  return candle;
}

// Arguments: state, price, qty, ts, seq.
Datum add_tick(FunctionCallInfo fcinfo) {
  Candle* candle = candle_of(fcinfo);
  ++candle->trades;
  if (!PG_ARGISNULL(2)) candle->volume.add(PG_GETARG_FLOAT8(2));
  if (PG_ARGISNULL(1)) return PointerGetDatum(candle);
  const double price = PG_GETARG_FLOAT8(1);
  if (!candle->priced || is_less(candle->high, price)) candle->high = price;
  if (!candle->priced || is_less(price, candle->low)) candle->low = price;
  candle->priced = true;
  if (PG_ARGISNULL(3)) return PointerGetDatum(candle);
  const bool has_seq = PG_NARGS() > 4 && !PG_ARGISNULL(4);
  const Tick tick{PG_GETARG_TIMESTAMPTZ(3), has_seq, has_seq ? PG_GETARG_INT64(4) : 0, price};
  if (!candle->timed || tick.before(candle->first)) candle->first = tick;
  if (!candle->timed || candle->last.before(tick)) candle->last = tick;
  candle->timed = true;
  return PointerGetDatum(candle);
}

Datum finish_candle(FunctionCallInfo fcinfo) {
  if (PG_ARGISNULL(0)) PG_RETURN_NULL();
  const auto* candle = reinterpret_cast<Candle*>(PG_GETARG_POINTER(0));
  TupleDesc desc;
  if (get_call_result_type(fcinfo, nullptr, &desc) != TYPEFUNC_COMPOSITE)
    elog(ERROR, "return type must be a row type");
  if (candle->volume.finite_overflow())
    ereport(ERROR, (errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE), errmsg("value out of range: overflow")));
  Datum values[] = {Float8GetDatum(candle->first.price),
                    Float8GetDatum(candle->high),
                    Float8GetDatum(candle->low),
                    Float8GetDatum(candle->last.price),
                    Float8GetDatum(candle->volume.value()),
                    Int64GetDatum(candle->trades)};
  bool nulls[] = {
      !candle->timed, !candle->priced, !candle->priced, !candle->timed, candle->volume.count() == 0, false};
  return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

// Arguments: the average so far, x, n. The first value begins it.
Datum average(FunctionCallInfo fcinfo) {
  if (PG_ARGISNULL(2) || PG_GETARG_INT32(2) < 1)
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("n of tick.ema must be 1 or more")));
  if (PG_ARGISNULL(1)) {
    if (PG_ARGISNULL(0)) PG_RETURN_NULL();
    return PG_GETARG_DATUM(0);
  }
  const double x = PG_GETARG_FLOAT8(1);
  if (PG_ARGISNULL(0)) PG_RETURN_FLOAT8(x);
  const double before = PG_GETARG_FLOAT8(0);
  PG_RETURN_FLOAT8(before + 2.0 / (1.0 + PG_GETARG_INT32(2)) * (x - before));
}

}  // namespace
}  // namespace tick::pg

extern "C" {
PG_FUNCTION_INFO_V1(tick_ohlcv_step);
PG_FUNCTION_INFO_V1(tick_ohlcv_final);
PG_FUNCTION_INFO_V1(tick_ema_step);

PGDLLEXPORT Datum tick_ohlcv_step(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&]() -> Datum { return tick::pg::add_tick(fcinfo); });
}

PGDLLEXPORT Datum tick_ohlcv_final(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&]() -> Datum { return tick::pg::finish_candle(fcinfo); });
}

PGDLLEXPORT Datum tick_ema_step(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&]() -> Datum { return tick::pg::average(fcinfo); });
}
}
