#include "lean_slot.hpp"

namespace tick::pg {
namespace {

// A varlena that goes into a tuple as it is, or with a shorter header.
bool is_plain(Datum value) {
  return !VARATT_IS_EXTERNAL(DatumGetPointer(value)) && !VARATT_IS_COMPRESSED(DatumGetPointer(value));
}

char* put_varlena(char* to, Datum value, bool may_shorten) {
  char* from = DatumGetPointer(value);
  if (VARATT_IS_SHORT(from)) {
    const Size size = VARSIZE_SHORT(from);
    memcpy(to, from, size);
    return to + size;
  }
  if (may_shorten && VARATT_CAN_MAKE_SHORT(from)) {
    const Size size = VARATT_CONVERTED_SHORT_SIZE(from);
    SET_VARSIZE_SHORT(to, size);
    memcpy(to + 1, VARDATA(from), size - 1);
    return to + size;
  }
  const Size size = VARSIZE(from);
  memcpy(to, from, size);
  return to + size;
}

// The same as heap_form_tuple(), which does what this leaves to it: NULLs, and values to fetch from
// elsewhere.
HeapTuple form_tuple(TupleTableSlot* slot) {
  const TupleDesc columns = slot->tts_tupleDescriptor;
  const int count = columns->natts;
  Datum* values = slot->tts_values;
  bool simple = true;
  bool variable = false;
  Size most = 0;
  for (int i = 0; simple && i < count; ++i) {
    const FormData_pg_attribute* column = TupleDescAttr(columns, i);
    simple = !slot->tts_isnull[i];
    if (!simple) break;
    if (column->attbyval) {
      most += 2 * sizeof(Datum);  // and what aligns it
    } else {
      simple = column->attlen == -1 && is_plain(values[i]);
      variable = true;
      if (simple) most += VARSIZE_ANY(DatumGetPointer(values[i])) + sizeof(Datum);
    }
  }
  if (!simple) return heap_form_tuple(columns, values, slot->tts_isnull);
  constexpr Size head = MAXALIGN(SizeofHeapTupleHeader);
  auto* tuple = static_cast<HeapTuple>(palloc(HEAPTUPLESIZE + head + most));
  auto* header = reinterpret_cast<HeapTupleHeader>(reinterpret_cast<char*>(tuple) + HEAPTUPLESIZE);
  memset(header, 0, head + most);  // what aligns is zero
  char* const data = reinterpret_cast<char*>(header) + head;
  char* at = data;
  for (int i = 0; i < count; ++i) {
    const FormData_pg_attribute* column = TupleDescAttr(columns, i);
    const Datum value = values[i];
    if (column->attbyval) {
      at = reinterpret_cast<char*>(att_align_nominal(reinterpret_cast<uintptr_t>(at), column->attalign));
      store_att_byval(at, value, column->attlen);
      at += column->attlen;
      continue;
    }
    const char* from = DatumGetPointer(value);
    const bool may_shorten = column->attstorage != TYPSTORAGE_PLAIN;
    if (!VARATT_IS_SHORT(from) && !(may_shorten && VARATT_CAN_MAKE_SHORT(from)))
      at = reinterpret_cast<char*>(att_align_nominal(reinterpret_cast<uintptr_t>(at), column->attalign));
    at = put_varlena(at, value, may_shorten);
  }
  tuple->t_data = header;
  tuple->t_len = static_cast<uint32>(head + static_cast<Size>(at - data));
  ItemPointerSetInvalid(&tuple->t_self);
  tuple->t_tableOid = InvalidOid;
  HeapTupleHeaderSetDatumLength(header, tuple->t_len);
  HeapTupleHeaderSetTypeId(header, columns->tdtypeid);
  HeapTupleHeaderSetTypMod(header, columns->tdtypmod);
  ItemPointerSetInvalid(&header->t_ctid);
  HeapTupleHeaderSetNatts(header, count);
  header->t_hoff = static_cast<uint8>(head);
  if (variable) header->t_infomask |= HEAP_HASVARWIDTH;
  return tuple;
}

void keep_values(TupleTableSlot*) {}

const TupleTableSlotOps& lean_ops() {
  static const TupleTableSlotOps ops = [] {
    TupleTableSlotOps virtual_ops = TTSOpsVirtual;
    virtual_ops.materialize = keep_values;
    virtual_ops.copy_heap_tuple = form_tuple;
    return virtual_ops;
  }();
  return ops;
}

}  // namespace

TupleTableSlot* make_lean_slot(TupleDesc columns) {
  TupleTableSlot* slot = MakeSingleTupleTableSlot(columns, &lean_ops());
  memset(slot->tts_isnull, true, static_cast<size_t>(columns->natts));
  return slot;
}

}  // namespace tick::pg
