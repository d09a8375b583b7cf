// The fast door: tick.ingest puts the columns of a batch into a table, without a tuple's detour through text
// or COPY's messages and without firing triggers: those of ours it stands in for. Whatever else a table may
// ask of an INSERT is honoured (rights, defaults, NOT NULL, CHECK, partitions, indexes) or refused with
// feature_not_supported, and nothing is written, so that the caller can fall back to COPY, which does the
// same.
#include <algorithm>

#include "../core/batch.hpp"

#include "capture.hpp"
#include "guard.hpp"
#include "lean_slot.hpp"
#include "revive.hpp"
#include "session.hpp"

extern "C" {
PG_FUNCTION_INFO_V1(tick_ingest);
PGDLLEXPORT Datum tick_ingest(PG_FUNCTION_ARGS);
}

namespace tick::pg {
namespace {

using Kind = BatchColumn::Kind;

constexpr int chunk_rows = 256;  // formed, and written, together
constexpr Size chunk_memory = 512 * 1024;

// One column of the batch, or a default.
struct Filler {
  const BatchColumn* column;  // nullptr: a default
  AttrNumber attribute;
  Oid type;
  ExprState* expression;  // of a default
  Datum* texts;           // of the dictionary, made once
  Datum values[chunk_rows];
  bool nulls[chunk_rows];
};

// A table that rows go to.
struct Leaf {
  ResultRelInfo* info;
  const Binding* capture;  // nullptr: no rollup
  const IdColumns* ids;    // nullptr: no dedup
  AttrMap* map;            // nullptr: its columns are the target's
  TupleTableSlot** slots;  // of its own, if they are not
  TupleTableSlot* rows[chunk_rows];
  int count;
};

[[noreturn]] void refuse(Relation table, const char* what) {
  ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                  errmsg("tick.ingest cannot write to \"%s\": %s", RelationGetRelationName(table), what),
                  errhint("Use COPY.")));
}

bool fires(const Trigger& trigger) {
  if (trigger.tgenabled == TRIGGER_DISABLED) return false;
  if (trigger.tgenabled == TRIGGER_FIRES_ALWAYS) return true;
  const bool replica = SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA;
  return replica == (trigger.tgenabled == TRIGGER_FIRES_ON_REPLICA);
}

// The name of a trigger's function if it is one of ours, else nullptr. Nobody else may create any there.
const char* our_function(const Trigger& trigger) {
  static const char* const schema = "tick_catalog";
  if (get_func_namespace(trigger.tgfoid) != get_namespace_oid(schema, true)) return nullptr;
  return get_func_name(trigger.tgfoid);
}

// All in one transaction of the caller, and as the caller.
class Ingest {
 public:
  Ingest(const Batch& batch, Oid target) : batch_(batch), target_(target) {}

  // May ereport.
  void open() {
    memory_ = AllocSetContextCreate(CurrentMemoryContext, "pg_tick ingest", ALLOCSET_DEFAULT_SIZES);
    // Its first block stays when it is reset: no chunk asks the system for memory.
    chunk_ = AllocSetContextCreate(memory_, "pg_tick ingest rows", 0, chunk_memory, 16 * chunk_memory);
    MemoryContext caller = MemoryContextSwitchTo(memory_);
    table_ = table_open(target_, RowExclusiveLock);
    check_table();
    estate_ = CreateExecutorState();
    estate_->es_snapshot = GetActiveSnapshot();
    estate_->es_output_cid = GetCurrentCommandId(true);
    auto* info = makeNode(ResultRelInfo);
    InitResultRelInfo(info, table_, 0, nullptr, 0);
    state_ = makeNode(ModifyTableState);
    state_->ps.state = estate_;
    state_->operation = CMD_INSERT;
    state_->mt_nrels = 1;
    state_->resultRelInfo = info;
    state_->rootResultRelInfo = info;
    if (table_->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
      routing_ = ExecSetupPartitionTupleRouting(estate_, table_);
    else
      ExecOpenIndices(info, false);
    find_fillers();
    rows_ = make_slots(RelationGetDescr(table_));
    // Equal words are one Datum: a key of them need not be looked at twice.
    const bool lasting = std::all_of(fillers_, fillers_ + filler_count_, [](const Filler* filler) {
      return filler->column != nullptr && filler->column->kind != Kind::text;
    });
    if (lasting) known_keys_ = make_known_keys();
    bulk_ = GetBulkInsertState();
    MemoryContextSwitchTo(caller);
  }

  // Throws.
  void run() {
    for (uint32_t from = 0; from < batch_.rows; from += chunk_rows)
      call([&] {
        MemoryContext caller = MemoryContextSwitchTo(chunk_);
        CHECK_FOR_INTERRUPTS();
        const int count = static_cast<int>(Min(batch_.rows - from, static_cast<uint32_t>(chunk_rows)));
        complete_ = filler_count_ == RelationGetDescr(table_)->natts;
        for (int i = 0; i < filler_count_; ++i) {
          if (fillers_[i]->column != nullptr) fill(*fillers_[i], from, count);
          complete_ = complete_ && fillers_[i]->column != nullptr && fillers_[i]->column->nulls == nullptr;
        }
        for (int row = 0; row < count; ++row) route(row);
        for (int i = 0; i < leaf_count_; ++i) write(*leaves_[i]);
        MemoryContextSwitchTo(caller);
        MemoryContextReset(chunk_);
      });
    if (flushes_) flush_statement();
  }

  // May ereport.
  void close() {
    FreeBulkInsertState(bulk_);
    if (routing_ != nullptr)
      ExecCleanupTupleRouting(state_, routing_);
    else
      ExecCloseIndices(state_->resultRelInfo);
    FreeExecutorState(estate_);
    table_close(table_, NoLock);
    MemoryContextDelete(memory_);
  }

  int64 inserted() const { return inserted_; }
  int64 duplicates() const { return duplicates_; }

 private:
  void check_table() {
    const char kind = table_->rd_rel->relkind;
    if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE) refuse(table_, "it is not a table");
    if (XactReadOnly && !table_->rd_islocaltemp) PreventCommandIfReadOnly("tick.ingest");
    if (check_enable_rls(target_, InvalidOid, false) == RLS_ENABLED) refuse(table_, "it has row security");
    if (GetDatabaseEncoding() != PG_UTF8) refuse(table_, "the database's encoding is not UTF8");
    const TupleConstr* constraints = RelationGetDescr(table_)->constr;
    if (constraints != nullptr && TICK_HAS_GENERATED(constraints)) refuse(table_, "it has generated columns");
    // Those for each row are on the leaves.
    check_triggers(table_, nullptr);
  }

  // With a leaf: those for each row, and what of ours they do; else those for each statement.
  void check_triggers(Relation relation, Leaf* leaf) {
    // A copy: the relation's own go when whatever is said of the table, as by an autovacuum, has it read
    // anew.
    const TriggerDesc* triggers =
        leaf == nullptr ? CopyTriggerDesc(relation->trigdesc) : leaf->info->ri_TrigDesc;
    for (int i = 0; triggers != nullptr && i < triggers->numtriggers; ++i) {
      const Trigger& trigger = triggers->triggers[i];
      if (!TRIGGER_FOR_INSERT(trigger.tgtype) || !fires(trigger)) continue;
      if ((TRIGGER_FOR_ROW(trigger.tgtype) != 0) != (leaf != nullptr)) continue;
      const char* ours = our_function(trigger);
      if (ours != nullptr && trigger.tgqual != nullptr)
        refuse(relation, psprintf("its trigger \"%s\" has a condition", trigger.tgname));
      if (ours != nullptr && leaf == nullptr && strcmp(ours, "flush") == 0)
        flushes_ = true;
      else if (ours != nullptr && leaf != nullptr && strcmp(ours, "capture") == 0)
        leaf->capture = bind_capture(&trigger, relation);
      else if (ours != nullptr && leaf != nullptr && strcmp(ours, "dedup") == 0)
        leaf->ids = loads_dump(RelationGetRelid(relation)) ? nullptr : bind_dedup(&trigger, relation);
      else if (trigger.tgisinternal)
        refuse(relation, "it has a foreign key or a deferrable constraint");
      else
        refuse(relation, psprintf("it has a trigger \"%s\"", trigger.tgname));
    }
  }

  void find_fillers() {
    TupleDesc columns = RelationGetDescr(table_);
    fillers_ = static_cast<Filler**>(palloc(sizeof(Filler*) * static_cast<size_t>(columns->natts)));
    Bitmapset* named = nullptr;
    for (const BatchColumn& column : batch_.columns) {
      pg_verifymbstr(column.name.data(), static_cast<int>(column.name.size()), false);
      const char* name = pnstrdup(column.name.data(), column.name.size());
      const AttrNumber attribute = get_attnum(target_, name);
      if (attribute <= 0)
        ereport(ERROR,
                (errcode(ERRCODE_UNDEFINED_COLUMN), errmsg("column \"%s\" of relation \"%s\" does not exist",
                                                           name, RelationGetRelationName(table_))));
      if (bms_is_member(attribute, named))
        ereport(ERROR,
                (errcode(ERRCODE_DUPLICATE_COLUMN), errmsg("column \"%s\" specified more than once", name)));
      named = bms_add_member(named, attribute);
      add_filler(&column, attribute);
    }
    check_rights(named);
    for (AttrNumber attribute = 1; attribute <= columns->natts; ++attribute) {
      if (TupleDescAttr(columns, attribute - 1)->attisdropped || bms_is_member(attribute, named)) continue;
      Node* expression = build_column_default(table_, attribute);
      if (expression == nullptr) continue;
      // One may look at the rows before its own.
      if (contain_volatile_functions_not_nextval(expression))
        refuse(table_, psprintf("the default of column \"%s\" is volatile",
                                NameStr(TupleDescAttr(columns, attribute - 1)->attname)));
      Filler* filler = add_filler(nullptr, attribute);
      filler->expression = ExecInitExpr(expression_planner(reinterpret_cast<Expr*>(expression)), nullptr);
    }
  }

  Filler* add_filler(const BatchColumn* column, AttrNumber attribute) {
    const FormData_pg_attribute* to = TupleDescAttr(RelationGetDescr(table_), attribute - 1);
    auto* filler = static_cast<Filler*>(palloc0(sizeof(Filler)));
    filler->column = column;
    filler->attribute = attribute;
    filler->type = to->atttypid;
    fillers_[filler_count_++] = filler;
    if (column == nullptr) return filler;
    const Kind kind = column->kind;
    bool fits = false;
    switch (to->atttypid) {
      case BOOLOID:
        fits = kind == Kind::boolean;
        break;
      case INT2OID:
      case INT4OID:
      case INT8OID:
        fits = kind == Kind::whole;
        break;
      case FLOAT8OID:
        fits = kind == Kind::number;
        break;
      case TIMESTAMPOID:
      case TIMESTAMPTZOID:
        fits = kind == Kind::time;
        break;
      case TEXTOID:
      case VARCHAROID:
        fits = kind == Kind::text || kind == Kind::words;
        break;
      default:
        break;
    }
    if (!fits || to->atttypmod >= 0)
      refuse(table_, psprintf("column \"%s\" has type %s", NameStr(to->attname),
                              format_type_with_typemod(to->atttypid, to->atttypmod)));
    if (kind == Kind::words) {
      filler->texts = static_cast<Datum*>(palloc(sizeof(Datum) * (column->texts.size() + 1)));
      for (size_t i = 0; i < column->texts.size(); ++i) filler->texts[i] = text_of(column->texts[i]);
    }
    return filler;
  }

  void check_rights(const Bitmapset* named) {
    const Oid role = GetUserId();
    if (pg_class_aclcheck(target_, role, ACL_INSERT) == ACLCHECK_OK) return;
    int attribute = -1;
    bool all = !bms_is_empty(const_cast<Bitmapset*>(named));
    while (all && (attribute = bms_next_member(const_cast<Bitmapset*>(named), attribute)) >= 0)
      all =
          pg_attribute_aclcheck(target_, static_cast<AttrNumber>(attribute), role, ACL_INSERT) == ACLCHECK_OK;
    if (!all) aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, RelationGetRelationName(table_));
  }

  static Datum text_of(std::string_view text) {
    pg_verifymbstr(text.data(), static_cast<int>(text.size()), false);
    return PointerGetDatum(cstring_to_text_with_len(text.data(), static_cast<int>(text.size())));
  }

  // As many as a chunk may need.
  TupleTableSlot** make_slots(TupleDesc of_relation) const {
    TupleDesc columns = CreateTupleDescCopy(of_relation);  // which nobody counts references to
    const size_t count = Min(batch_.rows, static_cast<uint32_t>(chunk_rows));
    auto** slots = static_cast<TupleTableSlot**>(palloc(sizeof(TupleTableSlot*) * (count + 1)));
    for (size_t i = 0; i < count; ++i) slots[i] = make_lean_slot(columns);
    return slots;
  }

  // Makes the values of a chunk.
  static void fill(Filler& filler, uint32_t from, int count) {
    const BatchColumn& column = *filler.column;
    if (column.nulls == nullptr)
      memset(filler.nulls, 0, static_cast<size_t>(count));
    else
      for (int i = 0; i < count; ++i) filler.nulls[i] = column.is_null(from + static_cast<uint32_t>(i));
    Datum* values = filler.values;
    if (column.kind == Kind::text) {
      for (int i = 0; i < count; ++i)
        if (!filler.nulls[i]) values[i] = text_of(column.texts[from + static_cast<uint32_t>(i)]);
      return;
    }
    static_assert(sizeof(Datum) == sizeof(int64_t));
    auto* words = reinterpret_cast<int64_t*>(values);
    column.read(from, static_cast<size_t>(count), words);
    const auto each = [&](auto&& make) {
      for (int i = 0; i < count; ++i)
        if (!filler.nulls[i]) values[i] = make(words[i]);
    };
    switch (filler.type) {
      case BOOLOID:
        each([](int64 word) { return BoolGetDatum(word != 0); });
        break;
      case INT2OID:
        each([](int64 word) {
          if (word < PG_INT16_MIN || word > PG_INT16_MAX) out_of_range("smallint");
          return Int16GetDatum(static_cast<int16>(word));
        });
        break;
      case INT4OID:
        each([](int64 word) {
          if (word < PG_INT32_MIN || word > PG_INT32_MAX) out_of_range("integer");
          return Int32GetDatum(static_cast<int32>(word));
        });
        break;
      case TEXTOID:
      case VARCHAROID:
        each([&](int64 word) { return filler.texts[word]; });
        break;
      case TIMESTAMPOID:
      case TIMESTAMPTZOID:
        each([](int64 word) {
          if (!IS_VALID_TIMESTAMP(word) && !TIMESTAMP_NOT_FINITE(word)) out_of_range("timestamp");
          return TimestampTzGetDatum(word);
        });
        break;
      default:  // the bits of an int8 or float8 are its Datum
        break;
    }
  }

  [[noreturn]] static void out_of_range(const char* type) {
    const bool number = strcmp(type, "timestamp") != 0;
    ereport(ERROR,
            (errcode(number ? ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE : ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
             errmsg("%s out of range", type)));
  }

  Leaf& leaf_of(ResultRelInfo* info) {
    if (last_ != nullptr && last_->info == info) return *last_;
    for (int i = 0; i < leaf_count_; ++i)
      if (leaves_[i]->info == info) return *(last_ = leaves_[i]);
    MemoryContext chunk = MemoryContextSwitchTo(memory_);
    Relation table = info->ri_RelationDesc;
    auto* leaf = static_cast<Leaf*>(palloc0(sizeof(Leaf)));
    leaf->info = info;
    if (info->ri_FdwRoutine != nullptr) refuse(table, "it is a foreign table");
    if (RelationGetDescr(table)->constr != nullptr && TICK_HAS_GENERATED(RelationGetDescr(table)->constr))
      refuse(table, "it has generated columns");
    check_triggers(table, leaf);
    const TupleConversionMap* map =
        info == state_->rootResultRelInfo ? nullptr : TICK_ROOT_TO_CHILD(info, estate_);
    if (map != nullptr) {
      leaf->map = map->attrMap;
      leaf->slots = make_slots(RelationGetDescr(table));
    }
    const size_t size = sizeof(Leaf*) * static_cast<size_t>(leaf_count_ + 1);
    leaves_ = static_cast<Leaf**>(leaves_ == nullptr ? palloc(size) : repalloc(leaves_, size));
    leaves_[leaf_count_++] = leaf;
    MemoryContextSwitchTo(chunk);
    return *(last_ = leaf);
  }

  // One row to the table that it goes to, in the order in which COPY looks at it.
  void route(int row) {
    TupleTableSlot* slot = rows_[row];
    ExecClearTuple(slot);
    ExprContext* context = GetPerTupleExprContext(estate_);
    for (int i = 0; i < filler_count_; ++i) {
      Filler& filler = *fillers_[i];
      const int at = filler.attribute - 1;
      if (filler.column != nullptr) {
        slot->tts_values[at] = filler.values[row];
        slot->tts_isnull[at] = filler.nulls[row];
      } else {
        slot->tts_values[at] = ExecEvalExpr(filler.expression, context, &slot->tts_isnull[at]);
      }
    }
    ExecStoreVirtualTuple(slot);
    ResultRelInfo* info = state_->resultRelInfo;
    if (routing_ != nullptr) info = ExecFindPartition(state_, info, routing_, slot, estate_);
    Leaf& leaf = leaf_of(info);
    Relation table = info->ri_RelationDesc;
    if (leaf.map != nullptr) slot = execute_attr_map_slot(leaf.map, slot, leaf.slots[leaf.count]);
    slot->tts_tableOid = RelationGetRelid(table);
    if (leaf.ids != nullptr && !take_id(leaf.ids, slot, known_keys_)) {
      ++duplicates_;
      return;
    }
    const TupleConstr* constraints = RelationGetDescr(table)->constr;
    if (constraints != nullptr && (constraints->num_check > 0 || !complete_))
      ExecConstraints(info, slot, estate_);
    if (table->rd_rel->relispartition && routing_ == nullptr) ExecPartitionCheck(info, slot, estate_, true);
    leaf.rows[leaf.count++] = slot;
  }

  void write(Leaf& leaf) {
    if (leaf.count == 0) return;
    Relation table = leaf.info->ri_RelationDesc;
    if (written_ != &leaf) ReleaseBulkInsertStatePin(bulk_);
    written_ = &leaf;
    table_multi_insert(table, leaf.rows, leaf.count, estate_->es_output_cid, 0, bulk_);
    for (int row = 0; leaf.info->ri_NumIndices > 0 && row < leaf.count; ++row) {
      TICK_INSERT_INDEXES(leaf.info, leaf.rows[row], estate_);
      ResetPerTupleExprContext(estate_);
    }
    if (leaf.capture != nullptr) capture_insert(leaf.capture, leaf.rows, leaf.count);
    ResetPerTupleExprContext(estate_);
    inserted_ += leaf.count;
    leaf.count = 0;
  }

  const Batch& batch_;
  Oid target_;
  MemoryContext memory_ = nullptr, chunk_ = nullptr;
  Relation table_ = nullptr;
  EState* estate_ = nullptr;
  ModifyTableState* state_ = nullptr;
  PartitionTupleRouting* routing_ = nullptr;
  BulkInsertState bulk_ = nullptr;
  Filler** fillers_ = nullptr;
  int filler_count_ = 0;
  Leaf** leaves_ = nullptr;
  int leaf_count_ = 0;
  Leaf* last_ = nullptr;           // that a row went to
  const Leaf* written_ = nullptr;  // that rows were written to
  TupleTableSlot** rows_ = nullptr;
  bool flushes_ = false;
  bool complete_ = false;  // no value of this chunk is NULL
  KnownKeys* known_keys_ = nullptr;
  int64 inserted_ = 0, duplicates_ = 0;
};

Datum ingest(FunctionCallInfo fcinfo) {
  bytea* bytes = call([&] { return PG_GETARG_BYTEA_PP(1); });
  const Batch batch = read_batch({reinterpret_cast<const unsigned char*>(VARDATA_ANY(bytes)),
                                  static_cast<size_t>(VARSIZE_ANY_EXHDR(bytes))});
  Ingest ingest(batch, PG_GETARG_OID(0));
  call([&] { ingest.open(); });
  ingest.run();
  return call([&] {
    ingest.close();
    TupleDesc result;
    if (get_call_result_type(fcinfo, nullptr, &result) != TYPEFUNC_COMPOSITE)
      elog(ERROR, "tick.ingest must return a row");
    Datum values[2] = {Int64GetDatum(ingest.inserted()), Int64GetDatum(ingest.duplicates())};
    bool nulls[2] = {false, false};
    return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(result), values, nulls));
  });
}

}  // namespace
}  // namespace tick::pg

Datum tick_ingest(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] { return tick::pg::ingest(fcinfo); });
}
