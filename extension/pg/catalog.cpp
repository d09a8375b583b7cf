#include "catalog.hpp"

#include "revive.hpp"
#include "shared.hpp"
#include "values.hpp"

namespace tick::pg {
namespace {

int16* int2_array(Datum datum, int* count) {
  ArrayType* array = DatumGetArrayTypePCopy(datum);
  *count = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
  return reinterpret_cast<int16*>(ARR_DATA_PTR(array));
}

}  // namespace

Oid catalog_namespace(bool missing_ok) {
  return get_namespace_oid("tick_catalog", missing_ok);
}

Oid catalog_relation(const char* name) {
  const Oid schema = catalog_namespace(true);
  return OidIsValid(schema) ? get_relname_relid(name, schema) : InvalidOid;
}

bool read_program(int64 id, ProgramRow* row) {
  const char* inputs = nullptr;
  const Oid relid = catalog_relation("program");
  if (!OidIsValid(relid)) return false;
  Relation relation = table_open(relid, AccessShareLock);
  TupleDesc desc = RelationGetDescr(relation);
  ScanKeyData key;
  ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(id));
  // No snapshot given: the catalog snapshot, newer than that of a REPEATABLE READ writer.
  SysScanDesc scan = systable_beginscan(relation, catalog_relation("program_pkey"), true, nullptr, 1, &key);
  HeapTuple tuple = systable_getnext(scan);
  const bool found = HeapTupleIsValid(tuple);
  if (found) {
    Datum values[12];
    bool nulls[12];
    if (desc->natts != 12) elog(ERROR, "pg_tick: unexpected shape of tick_catalog.program");
    heap_deform_tuple(tuple, desc, values, nulls);
    row->source = DatumGetObjectId(values[2]);
    row->owner = DatumGetObjectId(values[3]);
    inputs = TextDatumGetCString(values[5]);
    row->keys = int2_array(values[6], &row->key_count);
    row->time_input = DatumGetInt16(values[7]);
    row->where_input = DatumGetInt16(values[8]);
    row->pane = DatumGetInt64(values[9]);
    row->items = int2_array(values[10], &row->item_count);
  }
  systable_endscan(scan);
  table_close(relation, AccessShareLock);
  if (!found) return false;
  if (await_revival(row->source)) return read_program(id, row);
  row->inputs = static_cast<List*>(stringToNode(inputs));
  row->input_count = list_length(row->inputs);
  return true;
}

HeapTuple read_row(Relation table, const char* index, RegProcedure equal, Datum key, ItemPointerData* place) {
  HeapTuple row = nullptr;
  Snapshot snapshot = GetActiveSnapshot();
  if (ItemPointerIsValid(place) && ItemPointerGetBlockNumber(place) < RelationGetNumberOfBlocks(table)) {
    TupleTableSlot* slot = table_slot_create(table, nullptr);
    bool null;
    if (table_tuple_fetch_row_version(table, place, snapshot, slot) &&
        DatumGetBool(OidFunctionCall2(equal, slot_getattr(slot, 1, &null), key)))
      row = ExecCopySlotHeapTuple(slot);
    ExecDropSingleTupleTableSlot(slot);
  }
  if (row == nullptr) {
    ScanKeyData scan_key;
    ScanKeyInit(&scan_key, 1, BTEqualStrategyNumber, equal, key);
    SysScanDesc scan = systable_beginscan(table, catalog_relation(index), true, snapshot, 1, &scan_key);
    HeapTuple found = systable_getnext(scan);
    if (HeapTupleIsValid(found)) row = heap_copytuple(found);
    systable_endscan(scan);
  }
  if (row == nullptr)
    ItemPointerSetInvalid(place);
  else
    *place = row->t_self;
  return row;
}

void write_row(Relation table, HeapTuple row, ItemPointerData* place) {
  if (ItemPointerIsValid(place))
    CatalogTupleUpdate(table, place, row);
  else
    CatalogTupleInsert(table, row);
  *place = row->t_self;
}

void append_delta(int64 program, const char* data, size_t size) {
  DatabaseSlot* slot = my_slot();
  const uint32 hint = slot == nullptr ? 0 : pg_atomic_read_u32(&slot->queue) % queue_tables;
  char name[16];
  snprintf(name, sizeof name, "queue_%u", hint);
  const Oid relid = catalog_relation(name);
  if (!OidIsValid(relid)) return;  // the extension was dropped by this very transaction
  Relation queue = table_open(relid, RowExclusiveLock);
  Datum values[3] = {FullTransactionIdGetDatum(GetTopFullTransactionId()), Int64GetDatum(program),
                     varlena_datum(data, size)};
  bool nulls[3] = {false, false, false};
  HeapTuple tuple = heap_form_tuple(RelationGetDescr(queue), values, nulls);
  const bool snapshot = !ActiveSnapshotSet();
  if (snapshot) PushActiveSnapshot(GetTransactionSnapshot());
  CatalogTupleInsert(queue, tuple);
  if (snapshot) PopActiveSnapshot();
  heap_freetuple(tuple);
  pfree(DatumGetPointer(values[2]));
  // Releasing the lock here would let a TRUNCATE of the drained table erase this uncommitted row.
  table_close(queue, planted("queue_lock_released") ? RowExclusiveLock : NoLock);
}

}  // namespace tick::pg
