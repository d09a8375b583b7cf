#include "insert.hpp"

#include <utility>

#include "guard.hpp"
#include "lean_slot.hpp"
#include "revive.hpp"

namespace tick::pg {

// A table that rows go to.
struct Insertion::Leaf {
  ResultRelInfo* info;
  TupleTableSlot* one;     // not nullptr: rows go through it one by one, and its triggers are fired
  const Binding* capture;  // nullptr: no rollup
  const IdColumns* ids;    // nullptr: no dedup
  AttrMap* map;            // nullptr: its columns are the target's
  TupleDesc columns;       // its own, if they are not, and their slots
  TupleTableSlot* slots[chunk_rows];
  TupleTableSlot* rows[chunk_rows];
  uint64 lines[chunk_rows];
  int count;
};

namespace {

bool fires(const Trigger& trigger) {
  if (trigger.tgenabled == TRIGGER_DISABLED) return false;
  if (trigger.tgenabled == TRIGGER_FIRES_ALWAYS) return true;
  const bool replica = SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA;
  return replica == (trigger.tgenabled == TRIGGER_FIRES_ON_REPLICA);
}

enum class Ours { none, flush, capture, dedup };

// Nobody else may create functions there.
Ours ours(const Trigger& trigger) {
  static const char* const schema = "tick_catalog";
  if (get_func_namespace(trigger.tgfoid) != get_namespace_oid(schema, true)) return Ours::none;
  const char* name = get_func_name(trigger.tgfoid);
  const bool row = TRIGGER_FOR_ROW(trigger.tgtype) != 0;
  if (name != nullptr && !row && strcmp(name, "flush") == 0) return Ours::flush;
  if (name != nullptr && row && strcmp(name, "capture") == 0) return Ours::capture;
  if (name != nullptr && row && strcmp(name, "dedup") == 0) return Ours::dedup;
  return Ours::none;
}

// Calls `use` for each trigger of ours that an INSERT fires; the first obstacle, or nullptr. `statements`:
// also of those for each statement.
template <typename Use>
const char* each_trigger(const TriggerDesc* triggers, bool statements, Use&& use) {
  for (int i = 0; triggers != nullptr && i < triggers->numtriggers; ++i) {
    const Trigger& trigger = triggers->triggers[i];
    if (!TRIGGER_FOR_INSERT(trigger.tgtype) || !fires(trigger)) continue;
    if (!statements && !TRIGGER_FOR_ROW(trigger.tgtype)) continue;
    const Ours which = ours(trigger);
    if (which == Ours::none)
      return trigger.tgisinternal ? "it has a foreign key or a deferrable constraint"
                                  : psprintf("it has a trigger \"%s\"", trigger.tgname);
    if (trigger.tgqual != nullptr) return psprintf("its trigger \"%s\" has a condition", trigger.tgname);
    use(which, trigger);
  }
  return nullptr;
}

const char* obstacle_of_kind(Relation table) {
  if (table->rd_rel->relkind == RELKIND_FOREIGN_TABLE) return "it is a foreign table";
  const TupleConstr* constraints = RelationGetDescr(table)->constr;
  if (constraints == nullptr) return nullptr;
  if (TICK_HAS_GENERATED(constraints)) return "it has generated columns";
  // It may look at the rows before its own.
  for (int i = 0; i < constraints->num_check; ++i)
    if (contain_volatile_functions(static_cast<Node*>(stringToNode(constraints->check[i].ccbin))))
      return psprintf("its constraint \"%s\" is volatile", constraints->check[i].ccname);
  return nullptr;
}

}  // namespace

void refuse_insertion(Relation table, const char* obstacle) {
  ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                  errmsg("tick.ingest cannot write to \"%s\": %s", RelationGetRelationName(table), obstacle),
                  errhint("Use COPY.")));
}

Fitness examine(Relation table) {
  Fitness fitness;
  const char kind = table->rd_rel->relkind;
  if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE)
    fitness.obstacle = "it is not a table";
  else if (check_enable_rls(RelationGetRelid(table), InvalidOid, false) == RLS_ENABLED)
    fitness.obstacle = "it has row security";
  else
    fitness.obstacle = obstacle_of_kind(table);
  if (fitness.obstacle != nullptr) return fitness;
  // A copy: the relation's own go when whatever is said of the table, as by an autovacuum, has it read anew.
  fitness.obstacle = each_trigger(CopyTriggerDesc(table->trigdesc), true, [&](Ours which, const Trigger&) {
    (which == Ours::flush ? fitness.flushes : fitness.ours) = true;
  });
  return fitness;
}

void Insertion::open(Relation table, const Fitness& fitness, const Bitmapset* columns, Odd odd) {
  table_ = table;
  fitness_ = fitness;
  odd_ = odd;
  memory_ = AllocSetContextCreate(CurrentMemoryContext, "pg_tick insert", ALLOCSET_DEFAULT_SIZES);
  MemoryContext caller = MemoryContextSwitchTo(memory_);
  estate_ = CreateExecutorState();
  estate_->es_snapshot = GetActiveSnapshot();
  estate_->es_output_cid = GetCurrentCommandId(true);
  // Its first block stays when it is reset: no chunk asks the system for memory.
  chunk_ = AllocSetContextCreate(memory_, "pg_tick insert rows", 0, chunk_memory, 16 * chunk_memory);
  context_ = CreateExprContext(estate_);
  MemoryContextDelete(context_->ecxt_per_tuple_memory);
  context_->ecxt_per_tuple_memory = chunk_;
  auto* info = makeNode(ResultRelInfo);
  show_columns(info, columns);
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
  columns_ = CreateTupleDescCopy(RelationGetDescr(table_));  // which nobody counts references to
  bulk_ = GetBulkInsertState();
  if (odd_ == Odd::fired) AfterTriggerBeginQuery();
  MemoryContextSwitchTo(caller);
}

void Insertion::number_lines(uint64* line, bool* reading) {
  line_ = line;
  reading_ = reading;
}

// A row that fails is shown as far as who writes it may see it: what he has written, at least.
void Insertion::show_columns(ResultRelInfo* info, const Bitmapset* columns) {
  ParseState* state = make_parsestate(nullptr);
  const ParseNamespaceItem* item =
      addRangeTableEntryForRelation(state, table_, RowExclusiveLock, nullptr, false, false);
  int column = -1;
  while ((column = bms_next_member(const_cast<Bitmapset*>(columns), column)) >= 0)
    TICK_INSERTED(item) = bms_add_member(TICK_INSERTED(item), column - FirstLowInvalidHeapAttributeNumber);
  TICK_INIT_RANGE_TABLE(estate_, state);
  InitResultRelInfo(info, table_, 1, nullptr, 0);
}

Insertion::Leaf& Insertion::leaf_of(ResultRelInfo* info) {
  if (last_ != nullptr && last_->info == info) return *last_;
  for (int i = 0; i < leaf_count_; ++i)
    if (leaves_[i]->info == info) return *(last_ = leaves_[i]);
  MemoryContext chunk = MemoryContextSwitchTo(memory_);
  Relation table = info->ri_RelationDesc;
  auto* leaf = static_cast<Leaf*>(palloc0(sizeof(Leaf)));
  leaf->info = info;
  const char* obstacle = obstacle_of_kind(table);
  if (obstacle == nullptr)
    obstacle = each_trigger(info->ri_TrigDesc, false, [&](Ours which, const Trigger& trigger) {
      if (which == Ours::capture)
        leaf->capture = bind_capture(&trigger, table);
      else if (!loads_dump(RelationGetRelid(table)))
        leaf->ids = bind_dedup(&trigger, table);
    });
  if (obstacle != nullptr && odd_ == Odd::refused) refuse_insertion(table, obstacle);
  if (info->ri_FdwRoutine != nullptr)
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("cannot copy to \"%s\": %s", RelationGetRelationName(table), obstacle),
                    errhint("SET tick.fast_copy = off.")));
  if (obstacle != nullptr) leaf->one = table_slot_create(table, nullptr);
  const TupleConversionMap* map =
      info == state_->rootResultRelInfo ? nullptr : TICK_ROOT_TO_CHILD(info, estate_);
  if (map != nullptr) {
    leaf->map = map->attrMap;
    leaf->columns = CreateTupleDescCopy(RelationGetDescr(table));
  }
  const size_t size = sizeof(Leaf*) * static_cast<size_t>(leaf_count_ + 1);
  leaves_ = static_cast<Leaf**>(leaves_ == nullptr ? palloc(size) : repalloc(leaves_, size));
  leaves_[leaf_count_++] = leaf;
  MemoryContextSwitchTo(chunk);
  return *(last_ = leaf);
}

// Made as they are needed: many a statement brings few rows.
TupleTableSlot* Insertion::slot_at(TupleTableSlot*& place, TupleDesc columns) const {
  if (place == nullptr) {
    MemoryContext chunk = MemoryContextSwitchTo(memory_);
    place = make_lean_slot(columns);
    MemoryContextSwitchTo(chunk);
  }
  return place;
}

TupleTableSlot* Insertion::row(int i) {
  return ExecClearTuple(slot_at(rows_[i], columns_));
}

void Insertion::check(ResultRelInfo* info, TupleTableSlot* slot, bool complete) {
  Relation table = info->ri_RelationDesc;
  const TupleConstr* constraints = RelationGetDescr(table)->constr;
  if (constraints != nullptr && (constraints->num_check > 0 || !complete))
    ExecConstraints(info, slot, estate_);
  if (table->rd_rel->relispartition && routing_ == nullptr) ExecPartitionCheck(info, slot, estate_, true);
}

void Insertion::route(int i, bool complete) {
  ResetPerTupleExprContext(estate_);
  TupleTableSlot* slot = ExecStoreVirtualTuple(rows_[i]);
  ResultRelInfo* info = state_->resultRelInfo;
  if (routing_ != nullptr) info = ExecFindPartition(state_, info, routing_, slot, estate_);
  Leaf& leaf = leaf_of(info);
  if (leaf.map != nullptr)
    slot = execute_attr_map_slot(leaf.map, slot, slot_at(leaf.slots[leaf.count], leaf.columns));
  slot->tts_tableOid = RelationGetRelid(info->ri_RelationDesc);
  if (leaf.one != nullptr) {
    write();  // its triggers may look at the rows before it
    insert_one(leaf, slot);
    return;
  }
  if (leaf.ids != nullptr && !take_id(leaf.ids, slot, known_keys_)) {
    ++duplicates_;
    return;
  }
  check(info, slot, complete);
  if (line_ != nullptr) leaf.lines[leaf.count] = *line_;
  leaf.rows[leaf.count++] = slot;
  waiting_ = true;
}

// As COPY does, where it cannot put many rows in at once.
void Insertion::insert_one(const Leaf& leaf, TupleTableSlot* values) {
  // What a trigger keeps for its next call is to outlive the chunk.
  MemoryContext chunk = MemoryContextSwitchTo(memory_);
  ResultRelInfo* info = leaf.info;
  const TupleConstr* constraints = RelationGetDescr(info->ri_RelationDesc)->constr;
  TupleTableSlot* slot = ExecCopySlot(leaf.one, values);
  slot->tts_tableOid = values->tts_tableOid;
  const bool changes = info->ri_TrigDesc != nullptr && info->ri_TrigDesc->trig_insert_before_row;
  if (!changes || ExecBRInsertTriggers(estate_, info, slot)) {
    if (constraints != nullptr && constraints->has_generated_stored)
      ExecComputeStoredGenerated(info, estate_, slot, CMD_INSERT);
    check(info, slot, false);
    if (changes && routing_ != nullptr) ExecPartitionCheck(info, slot, estate_, true);
    table_tuple_insert(info->ri_RelationDesc, slot, estate_->es_output_cid, 0, nullptr);
    List* recheck = info->ri_NumIndices > 0 ? TICK_INSERT_INDEXES(info, slot, estate_) : NIL;
    ExecARInsertTriggers(estate_, info, slot, recheck, nullptr);
    list_free(recheck);
    ++inserted_;
  }
  ResetPerTupleExprContext(estate_);
  MemoryContextSwitchTo(chunk);
}

void Insertion::write(Leaf& leaf) {
  if (leaf.count == 0) return;
  Relation table = leaf.info->ri_RelationDesc;
  if (written_ != &leaf) ReleaseBulkInsertStatePin(bulk_);
  written_ = &leaf;
  table_multi_insert(table, leaf.rows, leaf.count, estate_->es_output_cid, 0, bulk_);
  for (int i = 0; leaf.info->ri_NumIndices > 0 && i < leaf.count; ++i) {
    if (line_ != nullptr) *line_ = leaf.lines[i];
    list_free(TICK_INSERT_INDEXES(leaf.info, leaf.rows[i], estate_));
    ResetPerTupleExprContext(estate_);
  }
  if (leaf.capture != nullptr) capture_insert(leaf.capture, leaf.rows, leaf.count, estate_->es_output_cid);
  ResetPerTupleExprContext(estate_);
  inserted_ += leaf.count;
  leaf.count = 0;
}

void Insertion::write() {
  if (!std::exchange(waiting_, false)) return;
  const uint64 line = line_ == nullptr ? 0 : *line_;
  const bool reading = reading_ != nullptr && std::exchange(*reading_, false);
  for (int i = 0; i < leaf_count_; ++i) write(*leaves_[i]);
  if (line_ != nullptr) *line_ = line;
  if (reading_ != nullptr) *reading_ = reading;
}

void Insertion::leave() {
  write();
  MemoryContextSwitchTo(caller_);
  MemoryContextReset(chunk_);
}

void Insertion::finish() {
  if (odd_ == Odd::fired) call([&] { AfterTriggerEndQuery(estate_); });
  if (fitness_.flushes) flush_statement();
}

void Insertion::close() {
  FreeBulkInsertState(bulk_);
  for (int i = 0; i < leaf_count_; ++i) {
    table_finish_bulk_insert(leaves_[i]->info->ri_RelationDesc, 0);
    if (leaves_[i]->one != nullptr) ExecDropSingleTupleTableSlot(leaves_[i]->one);
  }
  ExecResetTupleTable(estate_->es_tupleTable, false);
  if (routing_ != nullptr)
    ExecCleanupTupleRouting(state_, routing_);
  else
    ExecCloseIndices(state_->resultRelInfo);
  ExecCloseResultRelations(estate_);  // those that triggers have opened
  FreeExecutorState(estate_);
  MemoryContextDelete(memory_);
}

}  // namespace tick::pg
