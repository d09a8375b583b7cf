// tick.first and tick.last as ordinary aggregates, and the merges of partials that depend on an order. All
// use the core's comparison, so a query and a rollup cannot disagree: (order, seq with NULL lowest, value,
// bytes).
#include "../core/types.hpp"
#include "guard.hpp"
#include "values.hpp"

namespace tick::pg {
namespace {

// The types of (value, order, seq), or of the one value of min and max; kept in fn_extra.
struct Ranked {
  int count;
  ValueType type[3];
  Input input[3];
};

// What an aggregate keeps: the best row so far.
struct Holder {
  Ranked ranked;
  bool set;
  Datum datum[3];
  bool null[3];
};

void check_order(const Ranked& ranked) {
  for (int i = 1; i < ranked.count; ++i) {
    const Type type = ranked.type[i].type;
    if (type == Type::word || type == Type::bytes || type == Type::boolean)
      ereport(ERROR,
              (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
               errmsg("tick.first and tick.last cannot order by type %s", format_type_be(ranked.type[i].oid)),
               errhint("Order by a time or a number.")));
  }
}

// Reads the types of `count` arguments from argument `from` on. May ereport.
void describe(FunctionCallInfo fcinfo, int from, int count, Ranked* ranked) {
  ranked->count = count;
  for (int i = 0; i < count; ++i) {
    const Oid type = get_fn_expr_argtype(fcinfo->flinfo, from + i);
    if (!OidIsValid(type)) elog(ERROR, "pg_tick: cannot determine the type of an argument");
    ranked->type[i] = value_type(type);
    ranked->input[i] = Input{ranked->type[i].type, core_collation(ranked->type[i].oid, PG_GET_COLLATION())};
  }
  check_order(*ranked);
}

// For two rows of `count` arguments each, which must have the same types.
const Ranked* described(FunctionCallInfo fcinfo, int count) {
  if (fcinfo->flinfo->fn_extra == nullptr) {
    for (int i = 0; i < count; ++i) {
      const Oid mine = get_fn_expr_argtype(fcinfo->flinfo, i);
      const Oid other = get_fn_expr_argtype(fcinfo->flinfo, i + count);
      if (mine != other)
        ereport(ERROR,
                (errcode(ERRCODE_DATATYPE_MISMATCH),
                 errmsg("cannot compare type %s with type %s", format_type_be(mine), format_type_be(other))));
    }
    auto* ranked = static_cast<Ranked*>(MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(Ranked)));
    describe(fcinfo, 0, count, ranked);
    fcinfo->flinfo->fn_extra = ranked;
  }
  return static_cast<Ranked*>(fcinfo->flinfo->fn_extra);
}

Datum flat(Datum datum, bool null, const ValueType& type) {
  return !null && type.length == -1 ? PointerGetDatum(PG_DETOAST_DATUM_PACKED(datum)) : datum;
}

int compare_at(const Ranked& ranked, int i, Datum a, Datum b) {
  return compare(ranked.input[i], to_cell(a, false, ranked.type[i]), to_cell(b, false, ranked.type[i]),
                 compare_text);
}

// Orders two rows that have a value and an order.
int compare_rows(const Ranked& ranked, const Datum* a, const bool* a_null, const Datum* b,
                 const bool* b_null) {
  if (const int by_order = compare_at(ranked, 1, a[1], b[1]); by_order != 0) return by_order;
  if (ranked.count > 2) {
    if (a_null[2] != b_null[2]) return a_null[2] ? -1 : 1;
    if (const int by_seq = a_null[2] ? 0 : compare_at(ranked, 2, a[2], b[2]); by_seq != 0) return by_seq;
  }
  return compare_at(ranked, 0, a[0], b[0]);
}

void keep(Holder* holder, const Datum* datum, const bool* null, MemoryContext memory) {
  MemoryContext old = MemoryContextSwitchTo(memory);
  for (int i = 0; i < holder->ranked.count; ++i) {
    const ValueType& type = holder->ranked.type[i];
    if (holder->set && !holder->null[i] && !type.by_value) pfree(DatumGetPointer(holder->datum[i]));
    holder->null[i] = null[i];
    holder->datum[i] = null[i] ? Datum{0} : datumCopy(datum[i], type.by_value, type.length);
  }
  holder->set = true;
  MemoryContextSwitchTo(old);
}

[[noreturn]] void refuse_unordered() {
  ereport(ERROR,
          (errcode(ERRCODE_WRONG_OBJECT_TYPE), errmsg("tick.first and tick.last need an order"),
           errhint("Write tick.first(value, ts) or tick.last(value, ts), with a sequence number as third "
                   "argument for ties.")));
}

Datum step(FunctionCallInfo fcinfo, int direction) {
  MemoryContext memory;
  if (!AggCheckCallContext(fcinfo, &memory))
    elog(ERROR, "pg_tick: an aggregate's function was called by itself");
  const int count = PG_NARGS() - 1;
  if (count < 2) refuse_unordered();
  auto* holder = PG_ARGISNULL(0) ? nullptr : reinterpret_cast<Holder*>(PG_GETARG_POINTER(0));
  if (holder == nullptr) {
    holder = static_cast<Holder*>(MemoryContextAllocZero(memory, sizeof(Holder)));
    describe(fcinfo, 1, count, &holder->ranked);
  }
  if (PG_ARGISNULL(1) || PG_ARGISNULL(2)) return PointerGetDatum(holder);
  Datum datum[3] = {};
  bool null[3] = {};
  for (int i = 0; i < count; ++i) {
    null[i] = PG_ARGISNULL(i + 1);
    datum[i] = flat(PG_GETARG_DATUM(i + 1), null[i], holder->ranked.type[i]);
  }
  if (!holder->set || compare_rows(holder->ranked, datum, null, holder->datum, holder->null) * direction > 0)
    keep(holder, datum, null, memory);
  return PointerGetDatum(holder);
}

// Whether the first half of the arguments, a row, replaces the second half.
bool replaces(FunctionCallInfo fcinfo, int direction) {
  const int count = PG_NARGS() / 2;
  if (PG_ARGISNULL(0) || PG_ARGISNULL(1)) return false;
  if (PG_ARGISNULL(count) || PG_ARGISNULL(count + 1)) return true;
  const Ranked* ranked = described(fcinfo, count);
  Datum datum[6] = {};
  bool null[6] = {};
  for (int i = 0; i < 2 * count; ++i) {
    null[i] = PG_ARGISNULL(i);
    datum[i] = flat(PG_GETARG_DATUM(i), null[i], ranked->type[i % count]);
  }
  return compare_rows(*ranked, datum, null, datum + count, null + count) * direction > 0;
}

Datum merge_extreme(FunctionCallInfo fcinfo, int direction) {
  if (PG_ARGISNULL(0) && PG_ARGISNULL(1)) PG_RETURN_NULL();
  if (PG_ARGISNULL(0)) return PG_GETARG_DATUM(1);
  if (PG_ARGISNULL(1)) return PG_GETARG_DATUM(0);
  const Ranked* ranked = described(fcinfo, 1);
  const Datum a = flat(PG_GETARG_DATUM(0), false, ranked->type[0]);
  const Datum b = flat(PG_GETARG_DATUM(1), false, ranked->type[0]);
  return compare_at(*ranked, 0, b, a) * direction > 0 ? b : a;
}

}  // namespace
}  // namespace tick::pg

extern "C" {
PG_FUNCTION_INFO_V1(tick_first_step);
PG_FUNCTION_INFO_V1(tick_last_step);
PG_FUNCTION_INFO_V1(tick_ordered_final);
PG_FUNCTION_INFO_V1(tick_comes_before);
PG_FUNCTION_INFO_V1(tick_comes_after);
PG_FUNCTION_INFO_V1(tick_merge_min);
PG_FUNCTION_INFO_V1(tick_merge_max);

PGDLLEXPORT Datum tick_first_step(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] { return tick::pg::step(fcinfo, -1); });
}

PGDLLEXPORT Datum tick_last_step(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] { return tick::pg::step(fcinfo, 1); });
}

PGDLLEXPORT Datum tick_ordered_final(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&]() -> Datum {
    const auto* holder =
        PG_ARGISNULL(0) ? nullptr : reinterpret_cast<tick::pg::Holder*>(PG_GETARG_POINTER(0));
    if (holder == nullptr || !holder->set) PG_RETURN_NULL();
    return holder->datum[0];
  });
}

PGDLLEXPORT Datum tick_comes_before(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] { return BoolGetDatum(tick::pg::replaces(fcinfo, -1)); });
}

PGDLLEXPORT Datum tick_comes_after(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] { return BoolGetDatum(tick::pg::replaces(fcinfo, 1)); });
}

PGDLLEXPORT Datum tick_merge_min(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] { return tick::pg::merge_extreme(fcinfo, -1); });
}

PGDLLEXPORT Datum tick_merge_max(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] { return tick::pg::merge_extreme(fcinfo, 1); });
}
}
