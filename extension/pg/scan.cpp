#include "scan.hpp"

#include "guard.hpp"

namespace tick::pg {

void check_source_rights(const Rollup& rollup) {
  call([&] {
    if (pg_class_aclcheck(rollup.source, rollup.owner, ACL_SELECT) != ACLCHECK_OK)
      ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                      errmsg("the owner of rollup %s may no longer read its source", rollup.name.c_str())));
  });
}

bool is_transient(int sqlstate) {
  return sqlstate == ERRCODE_T_R_SERIALIZATION_FAILURE || sqlstate == ERRCODE_T_R_DEADLOCK_DETECTED ||
         sqlstate == ERRCODE_LOCK_NOT_AVAILABLE || sqlstate == ERRCODE_QUERY_CANCELED ||
         sqlstate == ERRCODE_ADMIN_SHUTDOWN || sqlstate == ERRCODE_OUT_OF_MEMORY ||
         sqlstate == ERRCODE_DISK_FULL;
}

std::optional<std::vector<Leaf>> lock_leaves_of(const Rollup& rollup) {
  const Evaluator* evaluator = call([&] { return find_evaluator(rollup.newest); });
  const int time = evaluator->program.time < 0 ? -1 : evaluator->plain[evaluator->program.time];
  return lock_leaves(rollup.source, time < 0 ? 0 : evaluator->attribute[time]);
}

void scan_leaves(const Rollup& rollup, Evaluator* evaluator, const std::vector<Leaf>& leaves,
                 const Micros& lo, const Micros& hi, Fold& fold,
                 const std::function<void(int rows)>& between) {
  check_source_rights(rollup);
  RowBatch* batch = call([&] { return make_batch(evaluator, CurrentMemoryContext); });
  for (const Leaf& leaf : leaves) {
    if (rollup.windowed && leaf.bounded && (leaf.hi <= lo || leaf.lo >= hi)) continue;
    Relation relation = nullptr;
    TableScanDesc table = nullptr;
    TupleTableSlot* slot = nullptr;
    AttrNumber* attributes = nullptr;
    call([&] {
      relation = table_open(leaf.relid, AccessShareLock);
      attributes = map_attributes(evaluator, relation);
      slot = table_slot_create(relation, nullptr);
      table = table_beginscan(relation, GetActiveSnapshot(), 0, nullptr);
    });
    for (bool more = true; more;) {
      call([&] {
        CHECK_FOR_INTERRUPTS();
        while (more && batch->rows < batch_rows) {
          more = table_scan_getnextslot(table, ForwardScanDirection, slot);
          if (more) push_row(batch, slot, attributes);
        }
      });
      const int rows = batch->rows;
      fold_batch(batch, fold, false, false);
      between(rows);
    }
    call([&] {
      table_endscan(table);
      ExecDropSingleTupleTableSlot(slot);
      table_close(relation, NoLock);
    });
  }
}

Fold fold_windows(const Rollup& rollup, const Fold& panes, const std::function<bool(Micros window)>& wanted) {
  Fold fold(rollup.program);
  const std::vector<int16_t> same = every_item(rollup);
  merge_into_windows(fold, rollup, panes, same, [&](const Fold&, size_t, auto window) {
    const Micros place = window.value_or(no_time_pane);
    return wanted(place) ? std::make_optional(place) : std::nullopt;
  });
  return fold;
}

bool holds_state(const Rollup& rollup, Micros lo, Micros hi) {
  const Oid type = rollup.windowed ? rollup.column_types.at(rollup.program.keys.size()) : TIMESTAMPTZOID;
  return call([&] {
    const char* text = psprintf("SELECT FROM %s AS s", state_text(rollup));
    if (rollup.windowed)
      text = psprintf("%s WHERE s.%s >= $1 AND s.%s < $2", text, time_text(rollup), time_text(rollup));
    Oid types[2] = {type, type};
    Datum values[2] = {TimestampTzGetDatum(lo), TimestampTzGetDatum(hi)};
    const int code = SPI_execute_with_args(text, rollup.windowed ? 2 : 0, types, values, nullptr, false, 1);
    if (code != SPI_OK_SELECT) elog(ERROR, "pg_tick: cannot read state: %s", SPI_result_code_string(code));
    return SPI_processed > 0;
  });
}

}  // namespace tick::pg
