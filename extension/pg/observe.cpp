#include "observe.hpp"

#include "guard.hpp"
#include "partitions.hpp"

namespace tick::pg {
namespace {

// Torn samples are possible and harmless: they are statistics.
void put_turns(ReturnSetInfo* result) {
  DatabaseSlot* slot = my_slot();
  if (slot == nullptr) return;
  const uint64 measured = pg_atomic_read_u64(&slot->measured);
  for (uint64 turn = measured < turn_samples ? 0 : measured - turn_samples; turn < measured; ++turn) {
    const TurnSample& sample = slot->samples[turn % turn_samples];
    Datum values[] = {TimestampTzGetDatum(sample.started), Float8GetDatum(sample.micros / 1000.0),
                      Int64GetDatum(sample.deltas), Int64GetDatum(sample.rows)};
    bool nulls[lengthof(values)] = {};
    tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
  }
}

Datum worker_counters(FunctionCallInfo fcinfo) {
  TupleDesc desc;
  if (get_call_result_type(fcinfo, nullptr, &desc) != TYPEFUNC_COMPOSITE)
    elog(ERROR, "return type must be a row type");
  desc = BlessTupleDesc(desc);
  Datum values[6] = {};
  bool nulls[6] = {true, true, true, true, true, true};
  DatabaseSlot* slot = my_slot();
  if (slot != nullptr) {
    const uint64 since = pg_atomic_read_u64(&slot->waiting_since);
    values[0] = Int32GetDatum(slot->worker);
    nulls[0] = slot->worker == 0;
    values[1] = TimestampTzGetDatum(static_cast<TimestampTz>(since));
    nulls[1] = since == 0;
    values[2] = Float8GetDatum(static_cast<double>(pg_atomic_read_u64(&slot->last_lag)) / 1000.0);
    values[3] = Int64GetDatum(static_cast<int64>(pg_atomic_read_u64(&slot->turns)));
    values[4] = TimestampTzGetDatum(slot->started_at);
    nulls[4] = slot->worker == 0;
    values[5] = Float8GetDatum(static_cast<double>(pg_atomic_read_u64(&slot->held_for)) / 1000.0);
    nulls[2] = nulls[3] = nulls[5] = false;
  }
  return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

// The direct partitions of a source. Somebody's ACCESS EXCLUSIVE lock must not stop whoever looks at a view:
// then there are none.
void put_partitions(ReturnSetInfo* result, Oid source) {
  if (!ConditionalLockRelationOid(source, AccessShareLock)) return;
  Relation relation = try_relation_open(source, NoLock);
  if (relation == nullptr) return;
  const TimePartitions partitions = read_partitions(relation);
  const auto put = [&](Oid partition, Micros lo, Micros hi, bool attic) {
    Datum values[] = {ObjectIdGetDatum(partition), TimestampTzGetDatum(lo), TimestampTzGetDatum(hi),
                      BoolGetDatum(attic)};
    bool nulls[lengthof(values)] = {false, attic, attic, false};
    tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
  };
  for (int i = 0; i < partitions.count; ++i)
    put(partitions.list[i].relid, partitions.list[i].lo, partitions.list[i].hi, false);
  if (OidIsValid(partitions.attic)) put(partitions.attic, 0, 0, true);
  relation_close(relation, AccessShareLock);
}

}  // namespace

void note_turn(DatabaseSlot* slot, TimestampTz started, TimestampTz ended, const TurnResult& result) {
  const uint64 measured = pg_atomic_read_u64(&slot->measured);
  slot->samples[measured % turn_samples] = {started, static_cast<uint64>(Max(ended - started, 0)),
                                            result.deltas, result.rows};
  pg_write_barrier();
  pg_atomic_write_u64(&slot->measured, measured + 1);
}

}  // namespace tick::pg

using namespace tick::pg;

extern "C" {
PG_FUNCTION_INFO_V1(tick_turns);
PGDLLEXPORT Datum tick_turns(PG_FUNCTION_ARGS);
PG_FUNCTION_INFO_V1(tick_worker_counters);
PGDLLEXPORT Datum tick_worker_counters(PG_FUNCTION_ARGS);
PG_FUNCTION_INFO_V1(tick_partitions);
PGDLLEXPORT Datum tick_partitions(PG_FUNCTION_ARGS);
}

Datum tick_turns(PG_FUNCTION_ARGS) {
  return entry([&] {
    InitMaterializedSRF(fcinfo, 0);
    put_turns(reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo));
    return static_cast<Datum>(0);
  });
}

Datum tick_worker_counters(PG_FUNCTION_ARGS) {
  return entry([&] { return worker_counters(fcinfo); });
}

Datum tick_partitions(PG_FUNCTION_ARGS) {
  return entry([&] {
    InitMaterializedSRF(fcinfo, 0);
    put_partitions(reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo), PG_GETARG_OID(0));
    return static_cast<Datum>(0);
  });
}
