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

namespace {

// The number of the time column in the source, 0 if the time is an expression.
AttrNumber time_attribute(const Evaluator* evaluator) {
  const int time = evaluator->program.time < 0 ? -1 : evaluator->plain[evaluator->program.time];
  return static_cast<AttrNumber>(time < 0 ? 0 : evaluator->attribute[time]);
}

bool may_hold(const Rollup& rollup, const Leaf& leaf, Micros lo, Micros hi) {
  return !rollup.windowed || !leaf.bounded || (leaf.hi > lo && leaf.lo < hi);
}

// The rows of a leaf, or those with times in [lo, hi) by an index. Plain PostgreSQL code.
class LeafRows {
 public:
  void open(Oid leaf, Oid index, Micros lo, Micros hi) {
    relation_ = table_open(leaf, AccessShareLock);
    slot_ = table_slot_create(relation_, nullptr);
    if (!OidIsValid(index)) {
      table_ = table_beginscan(relation_, GetActiveSnapshot(), 0, nullptr);
      return;
    }
    index_ = index_open(index, AccessShareLock);
    const Oid type = index_->rd_opcintype[0], family = index_->rd_opfamily[0];
    ScanKeyData keys[2];
    const Oid from = get_opfamily_member(family, type, type, BTGreaterEqualStrategyNumber);
    const Oid to = get_opfamily_member(family, type, type, BTLessStrategyNumber);
    ScanKeyInit(&keys[0], 1, BTGreaterEqualStrategyNumber, get_opcode(from), TimestampTzGetDatum(lo));
    ScanKeyInit(&keys[1], 1, BTLessStrategyNumber, get_opcode(to), TimestampTzGetDatum(hi));
    scan_ = TICK_INDEX_BEGINSCAN(relation_, index_, GetActiveSnapshot(), 2);
    index_rescan(scan_, keys, 2, nullptr, 0);
  }

  Relation relation() { return relation_; }

  // The next row; nullptr at the end.
  TupleTableSlot* next() {
    const bool more = scan_ == nullptr ? table_scan_getnextslot(table_, ForwardScanDirection, slot_)
                                       : index_getnext_slot(scan_, ForwardScanDirection, slot_);
    return more ? slot_ : nullptr;
  }

  void close() {
    if (scan_ != nullptr) {
      index_endscan(scan_);
      index_close(index_, NoLock);
    } else {
      table_endscan(table_);
    }
    ExecDropSingleTupleTableSlot(slot_);
    table_close(relation_, NoLock);
  }

 private:
  Relation relation_ = nullptr, index_ = nullptr;
  TupleTableSlot* slot_ = nullptr;
  TableScanDesc table_ = nullptr;
  IndexScanDesc scan_ = nullptr;
};

}  // namespace

std::optional<std::vector<Leaf>> lock_leaves_of(const Rollup& rollup) {
  const Evaluator* evaluator = call([&] { return find_evaluator(rollup.newest); });
  return lock_leaves(rollup.source, time_attribute(evaluator));
}

void scan_leaves(const Rollup& rollup, Evaluator* evaluator, const std::vector<Leaf>& leaves,
                 const Micros& lo, const Micros& hi, Fold& fold,
                 const std::function<void(int rows)>& between) {
  scan_leaves_by({}, rollup, evaluator, leaves, lo, hi, fold, between);
}

void scan_leaves_by(const std::vector<Oid>& indexes, const Rollup& rollup, Evaluator* evaluator,
                    const std::vector<Leaf>& leaves, const Micros& lo, const Micros& hi, Fold& fold,
                    const std::function<void(int rows)>& between) {
  check_source_rights(rollup);
  RowBatch* batch = call([&] { return make_batch(evaluator, CurrentMemoryContext); });
  for (size_t i = 0; i < leaves.size(); ++i) {
    const Leaf& leaf = leaves[i];
    if (!may_hold(rollup, leaf, lo, hi)) continue;
    LeafRows rows;
    AttrNumber* attributes = nullptr;
    call([&] {
      rows.open(leaf.relid, indexes.empty() ? InvalidOid : indexes[i], lo, hi);
      attributes = map_attributes(evaluator, rows.relation());
    });
    for (bool more = true; more;) {
      call([&] {
        CHECK_FOR_INTERRUPTS();
        while (more && batch->rows < batch_rows) {
          TupleTableSlot* row = rows.next();
          more = row != nullptr;
          if (more) push_rows(batch, &row, 1, attributes);
        }
      });
      const int count = batch->rows;
      fold_batch(batch, fold, false, false);
      between(count);
    }
    call([&] { rows.close(); });
  }
}

std::vector<Oid> find_time_indexes(const Rollup& rollup, const std::vector<Leaf>& leaves, Micros lo,
                                   Micros hi) {
  std::vector<Oid> indexes(leaves.size(), InvalidOid);
  const Evaluator* evaluator = call([&] { return find_evaluator(rollup.newest); });
  const AttrNumber time = time_attribute(evaluator);
  if (time == 0) return {};
  for (size_t i = 0; i < leaves.size(); ++i) {
    if (!may_hold(rollup, leaves[i], lo, hi)) continue;
    call([&] {
      Relation leaf = table_open(leaves[i].relid, AccessShareLock);
      const AttrNumber* at = map_attributes(evaluator->source, &time, 1, leaf);
      ListCell* cell;
      foreach (cell, RelationGetIndexList(leaf)) {
        Relation index = index_open(lfirst_oid(cell), AccessShareLock);
        const Form_pg_index of = index->rd_index;
        // One that was made while rows changed may lack what an older snapshot sees.
        if (index->rd_rel->relam == BTREE_AM_OID && of->indisvalid && !of->indcheckxmin &&
            of->indkey.values[0] == *at && RelationGetIndexPredicate(index) == NIL)
          indexes[i] = RelationGetRelid(index);
        index_close(index, NoLock);
      }
      table_close(leaf, NoLock);
    });
    if (!OidIsValid(indexes[i])) return {};
  }
  return indexes;
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
