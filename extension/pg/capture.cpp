#include "capture.hpp"

#include <algorithm>
#include <list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "audit.hpp"
#include "catalog.hpp"
#include "coverage.hpp"
#include "dedup.hpp"
#include "evaluator.hpp"
#include "guard.hpp"
#include "keys.hpp"
#include "revive.hpp"
#include "session.hpp"
#include "shared.hpp"

namespace tick::pg {
namespace {

constexpr size_t flush_memory = 2 * 1024 * 1024;

// What one (sub)transaction nesting level has folded for one program. A released savepoint hands its entries
// to the level above by changing the number; a rolled back one drops them.
struct Entry {
  int level;
  Evaluator* evaluator;
  MemoryContext memory;  // child of TopTransactionContext, holds both batches
  RowBatch* added;
  RowBatch* retracted;  // made by the first UPDATE or DELETE
  RowBatch* purged;     // rows that go and leave their candles as they are
  Fold fold;
  bool retired = false;                // there are such
  Micros retired_to = minus_infinity;  // the newest
  uint64 rows = 0;
  CommandId first = InvalidCommandId, last = FirstCommandId;  // that wrote rows of the fold

  Entry(int level, Evaluator* evaluator)
      : level(level),
        evaluator(evaluator),
        memory(nullptr),
        added(nullptr),
        retracted(nullptr),
        purged(nullptr),
        fold(evaluator->program) {}
};

// A delta of this transaction with rows of commands before the one that has written it: a cursor that is
// older than the delta may be younger than its rows.
struct Belated {
  CommandId first, written;
};
constexpr size_t most_belated = 1000;

std::list<Entry> entries;
std::vector<Belated> belated;
bool delta_written = false;  // by this transaction
bool committing = false;     // after PRE_COMMIT: whatever still comes is flushed at once
bool rows_purged = false;    // since a statement of a whole source ended

Entry* find_entry(Evaluator* evaluator) {
  const int level = GetCurrentTransactionNestLevel();
  for (auto it = entries.rbegin(); it != entries.rend(); ++it)
    if (it->evaluator == evaluator && it->level == level) return &*it;
  Entry* entry = &entries.emplace_back(level, evaluator);
  call([&] {
    entry->memory = AllocSetContextCreate(TopTransactionContext, "pg_tick capture", ALLOCSET_DEFAULT_SIZES);
    entry->added = make_batch(evaluator, entry->memory);
  });
  return entry;
}

void fold_entry(Entry& entry) {
  fold_batch(entry.added, entry.fold, false, true);
  if (entry.retracted != nullptr) fold_batch(entry.retracted, entry.fold, true, true);
  if (entry.purged == nullptr || entry.purged->rows == 0) return;
  Fold purged(entry.evaluator->program);  // for their times alone
  fold_batch(entry.purged, purged, false, true);
  for (size_t slot = 0; slot < purged.slots(); ++slot)
    entry.retired_to = std::max(entry.retired_to, purged.max_time(slot));
  entry.retired = true;
}

// Tells from which time on the source is complete once the rows that were purged have gone. A program without
// a time does not know, and is asked last.
void retire(Entry& entry, bool timed) {
  fold_entry(entry);
  if (!entry.retired || (entry.evaluator->program.time >= 0) != timed) return;
  entry.retired = false;
  const Oid source = entry.evaluator->source;
  const Micros newest = timed ? entry.retired_to : plus_infinity;
  if (newest == minus_infinity) return;
  call([&] {
    const Actor writer = act_as_extension();
    const bool ending = !ActiveSnapshotSet();
    if (ending) PushActiveSnapshot(GetTransactionSnapshot());
    retire_rows(source, newest);
    if (ending) PopActiveSnapshot();
    act_again(writer);
  });
}

void note_belated(CommandId first) {
  const CommandId written = GetCurrentCommandId(false);
  if (first >= written) return;
  if (belated.size() == most_belated) {  // the oldest two: only a cursor as old can tell the difference
    belated[1].first = std::min(belated[0].first, belated[1].first);
    belated.erase(belated.begin());
  }
  belated.push_back({first, written});
}

// Writes what an entry holds as one delta row.
void flush(Entry& entry) {
  fold_entry(entry);
  const CommandId first = std::exchange(entry.first, InvalidCommandId);
  entry.last = FirstCommandId;
  if (entry.fold.empty()) return;
  note_belated(first);
  static std::string buffer;  // not on the stack: append_delta may ereport past it
  buffer.clear();
  encode(entry.fold, buffer);
  entry.fold = Fold(entry.evaluator->program);
  call([&] { append_delta(entry.evaluator->program.id, buffer.data(), buffer.size()); });
  delta_written = true;
  if (buffer.capacity() > flush_memory * 4) std::string().swap(buffer);
}

// Flushes the entries of a nesting level (0 = all); those of levels above must not be written by a child.
void flush_level(int level) {
  for (bool timed : {true, false})
    for (Entry& entry : entries)
      if (level == 0 || entry.level == level) retire(entry, timed);
  for (Entry& entry : entries)
    if (level == 0 || entry.level == level) flush(entry);
}

void drop_from(int level) {
  for (auto it = entries.begin(); it != entries.end();) {
    if (it->level < level) {
      ++it;
      continue;
    }
    if (it->memory != nullptr) MemoryContextDelete(it->memory);
    it = entries.erase(it);
  }
}

// The binding of a fired trigger is cached in its FmgrInfo, which lives as long as the statement: the table's
// lock keeps both true.
Binding* bind(FunctionCallInfo fcinfo, TriggerData* trigger) {
  auto* binding = static_cast<Binding*>(fcinfo->flinfo->fn_extra);
  if (binding != nullptr && binding->relation == RelationGetRelid(trigger->tg_relation)) return binding;
  MemoryContext old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
  binding = bind_capture(trigger->tg_trigger, trigger->tg_relation);
  fcinfo->flinfo->fn_extra = binding;
  MemoryContextSwitchTo(old);
  return binding;
}

void require_preloaded() {
  if (!preloaded())
    ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                    errmsg("pg_tick is not loaded by shared_preload_libraries"),
                    errhint("Add pg_tick to shared_preload_libraries and restart the server.")));
}

// True if no column that the program reads differs.
bool same_input(const Evaluator* evaluator, const AttrNumber* attributes, TupleTableSlot* before,
                TupleTableSlot* after) {
  for (int c = 0; c < evaluator->columns; ++c) {
    bool null_before, null_after;
    const Datum a = slot_getattr(before, attributes[c], &null_before);
    const Datum b = slot_getattr(after, attributes[c], &null_after);
    if (null_before != null_after) return false;
    const ValueType& type = evaluator->column_type[c];
    if (!null_before && !datum_image_eq(a, b, type.by_value, type.length)) return false;
  }
  return true;
}

void note_command(Entry* entry, CommandId command) {
  entry->first = std::min(entry->first, command);
  entry->last = std::max(entry->last, command);
}

// Rows that a command has written; InvalidCommandId: purged ones.
void push(Entry* entry, RowBatch* batch, TupleTableSlot* const* rows, int count, const AttrNumber* attributes,
          CommandId command) {
  while (count > 0) {
    // Of each piece: a flush forgets it.
    if (command != InvalidCommandId) note_command(entry, command);
    const int fit = Min(count, batch_rows - batch->rows);
    push_rows(batch, rows, fit, attributes);
    rows += fit;
    count -= fit;
    if (batch->rows < batch_rows) return;
    fold_entry(*entry);
    if (entry->fold.memory() > flush_memory) flush(*entry);
  }
}

void require_trigger(FunctionCallInfo fcinfo) {
  if (!CALLED_AS_TRIGGER(fcinfo))
    ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
                    errmsg("%s can only be a trigger", format_procedure(fcinfo->flinfo->fn_oid))));
}

void refuse_purge(Relation table) {
  ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                  errmsg("only the owner of \"%s\" may delete rows and keep their candles",
                         RelationGetRelationName(table)),
                  errhint("SET tick.corrections = on.")));
}

// The command that wrote the row a trigger is fired for; triggers that run before ours may have run others.
CommandId command_of(const TriggerData* trigger) {
  if (trigger->tg_relation->rd_rel->relam != HEAP_TABLE_AM_OID) return GetCurrentCommandId(false);
  if (TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
    return HeapTupleHeaderGetCmax(trigger->tg_trigtuple->t_data);
  const bool update = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event);
  return HeapTupleHeaderGetCmin((update ? trigger->tg_newtuple : trigger->tg_trigtuple)->t_data);
}

Datum capture_row(FunctionCallInfo fcinfo) {
  require_trigger(fcinfo);
  require_preloaded();
  auto* trigger = reinterpret_cast<TriggerData*>(fcinfo->context);
  Binding* binding = bind(fcinfo, trigger);
  const bool purge = TRIGGER_FIRED_BY_DELETE(trigger->tg_event) && !tick_corrections;
  const bool insert = TRIGGER_FIRED_BY_INSERT(trigger->tg_event);
  const bool update = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event);
  for (int i = 0; i < binding->count; ++i) {
    Evaluator* evaluator = binding->evaluators[i];
    const AttrNumber* attributes = binding->attributes[i];
    if (is_spared(evaluator->program.id)) continue;
    if (update && same_input(evaluator, attributes, trigger->tg_trigslot, trigger->tg_newslot)) continue;
    Entry* entry = find_entry(evaluator);
    if (purge) {
      if (!TICK_OWNS_RELATION(evaluator->source, GetUserId())) refuse_purge(trigger->tg_relation);
      rows_purged = true;
      if (entry->purged == nullptr) entry->purged = make_batch(evaluator, entry->memory);
      push(entry, entry->purged, &trigger->tg_trigslot, 1, attributes, InvalidCommandId);
      if (committing) retire(*entry, evaluator->program.time >= 0);
      continue;
    }
    const CommandId command = command_of(trigger);
    if (!insert && entry->retracted == nullptr) entry->retracted = make_batch(evaluator, entry->memory);
    if (!insert) push(entry, entry->retracted, &trigger->tg_trigslot, 1, attributes, command);
    if (insert) push(entry, entry->added, &trigger->tg_trigslot, 1, attributes, command);
    if (update) push(entry, entry->added, &trigger->tg_newslot, 1, attributes, command);
    if (committing) flush(*entry);
  }
  if (binding->ids != nullptr) confirm_ids(binding->ids, fcinfo, committing);
  return PointerGetDatum(nullptr);
}

// A row that an UPDATE moves to another partition leaves by a DELETE: purged there, it would count twice.
void refuse_moves(const TriggerData* trigger) {
  const bool purged = rows_purged;
  rows_purged = false;
  if (purged && TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) && !tick_corrections)
    ereport(ERROR,
            (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
             errmsg("UPDATE of \"%s\" cannot move rows to another partition while tick.corrections is off",
                    RelationGetRelationName(trigger->tg_relation)),
             errhint("SET tick.corrections = on for it.")));
}

}  // namespace

Binding* bind_capture(const Trigger* trigger, Relation relation) {
  auto* binding = static_cast<Binding*>(palloc0(sizeof(Binding)));
  binding->evaluators = static_cast<Evaluator**>(palloc0(sizeof(Evaluator*) * (trigger->tgnargs + 1)));
  binding->attributes = static_cast<AttrNumber**>(palloc0(sizeof(AttrNumber*) * (trigger->tgnargs + 1)));
  const bool dumped = loads_dump(RelationGetRelid(relation));
  for (int i = 0; i < trigger->tgnargs && !dumped; ++i) {
    const int64 program = strtoll(trigger->tgargs[i], nullptr, 10);
    if (program < 0) {
      binding->ids = bind_ids(static_cast<int32>(-program), relation);
      check_trigger(trigger, relation, binding->ids->dedup->source);
      continue;
    }
    Evaluator* evaluator = find_evaluator(program);
    if (evaluator == nullptr)
      ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
                      errmsg("capture trigger of \"%s\" names program %s, which does not exist",
                             RelationGetRelationName(relation), trigger->tgargs[i]),
                      errhint("After a restore of the schema alone, restore the data as well, or SELECT "
                              "tick.resume(view) of each rollup.")));
    check_trigger(trigger, relation, evaluator->source);
    binding->evaluators[binding->count] = evaluator;
    binding->attributes[binding->count] = map_attributes(evaluator, relation);
    ++binding->count;
  }
  binding->relation = RelationGetRelid(relation);
  return binding;
}

void capture_insert(const Binding* binding, TupleTableSlot* const* rows, int count, CommandId command) {
  require_preloaded();
  for (int i = 0; i < binding->count; ++i) {
    Entry* entry = find_entry(binding->evaluators[i]);
    push(entry, entry->added, rows, count, binding->attributes[i], command);
    if (committing) flush(*entry);
  }
}

void flush_statement() {
  flush_level(GetCurrentTransactionNestLevel());
}

void visit_unflushed(CommandId command, const std::function<void(int64_t program, const Fold&)>& visit) {
  bool mixed = std::any_of(belated.begin(), belated.end(), [&](const Belated& delta) {
    return delta.first < command && command <= delta.written;
  });
  for (Entry& entry : entries) {
    fold_entry(entry);
    if (entry.fold.empty() || entry.first >= command) continue;
    mixed = mixed || entry.last >= command;
    if (!mixed) visit(entry.evaluator->program.id, entry.fold);
  }
  if (mixed)
    throw Error{Error::Code::invalid_argument,
                "rows written to a partition itself before and after this query began cannot be told apart"};
}

namespace {

void on_transaction(XactEvent event, void*) {
  switch (event) {
    case XACT_EVENT_PRE_COMMIT:
    case XACT_EVENT_PRE_PREPARE:
      entry([&] {
        flush_level(0);
        if (flush_ids()) delta_written = true;
        committing = true;
      });
      break;
    case XACT_EVENT_COMMIT:
      Assert(std::all_of(entries.begin(), entries.end(), [](const Entry& e) { return e.fold.empty(); }));
      entries.clear();
      belated.clear();
      end_ids(true);
      committing = false;
      if (take_wake_request() || delta_written) wake(delta_written);
      delta_written = rows_purged = false;
      break;
    case XACT_EVENT_PREPARE:
      // COMMIT PREPARED calls nobody: the worker has to be there, and looks every second.
      entries.clear();
      belated.clear();
      end_ids(false);
      committing = false;
      if (take_wake_request() || delta_written) wake(false);
      delta_written = rows_purged = false;
      break;
    case XACT_EVENT_ABORT:
      end_evaluation();
      (void)pause_audit(false);
      entries.clear();
      belated.clear();
      end_ids(false);
      committing = false;
      delta_written = rows_purged = false;
      take_wake_request();
      break;
    default:
      break;
  }
}

void on_subtransaction(SubXactEvent event, SubTransactionId, SubTransactionId, void*) {
  if (event == SUBXACT_EVENT_ABORT_SUB) (void)pause_audit(false);
  const int level = GetCurrentTransactionNestLevel();
  if (event == SUBXACT_EVENT_ABORT_SUB || event == SUBXACT_EVENT_COMMIT_SUB) end_ids_level(event, level);
  if (entries.empty() || planted("no_subtransaction_callback")) return;
  if (event == SUBXACT_EVENT_ABORT_SUB) {
    drop_from(level);
  } else if (event == SUBXACT_EVENT_COMMIT_SUB) {
    for (Entry& entry : entries)
      if (entry.level == level) entry.level = level - 1;
  }
}

}  // namespace

void register_capture_callbacks() {
  RegisterXactCallback(on_transaction, nullptr);
  RegisterSubXactCallback(on_subtransaction, nullptr);
}

}  // namespace tick::pg

using namespace tick::pg;

extern "C" {
PG_FUNCTION_INFO_V1(tick_capture);
PGDLLEXPORT Datum tick_capture(PG_FUNCTION_ARGS);
PG_FUNCTION_INFO_V1(tick_flush);
PGDLLEXPORT Datum tick_flush(PG_FUNCTION_ARGS);
PG_FUNCTION_INFO_V1(tick_ignore_replica);
PGDLLEXPORT Datum tick_ignore_replica(PG_FUNCTION_ARGS);
}

Datum tick_capture(PG_FUNCTION_ARGS) {
  return entry([&] { return capture_row(fcinfo); });
}

Datum tick_flush(PG_FUNCTION_ARGS) {
  require_trigger(fcinfo);
  refuse_moves(reinterpret_cast<TriggerData*>(fcinfo->context));
  return entry([&] {
    flush_statement();
    return PointerGetDatum(nullptr);
  });
}

Datum tick_ignore_replica(PG_FUNCTION_ARGS) {
  require_trigger(fcinfo);
  auto* trigger = reinterpret_cast<TriggerData*>(fcinfo->context);
  // Somebody may have enabled it for all sessions.
  if (SessionReplicationRole != SESSION_REPLICATION_ROLE_REPLICA)
    return PointerGetDatum(TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? trigger->tg_newtuple
                                                                      : trigger->tg_trigtuple);
  if (TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
    ereport(ERROR,
            (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
             errmsg("cannot replicate a TRUNCATE of \"%s\"", RelationGetRelationName(trigger->tg_relation)),
             errhint("Leave schema tick_catalog and the state tables out of the publication.")));
  return PointerGetDatum(nullptr);
}
