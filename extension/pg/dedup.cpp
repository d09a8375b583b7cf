#include "dedup.hpp"

#include <algorithm>
#include <list>
#include <memory>
#include <optional>
#include <unordered_map>

#include "audit.hpp"
#include "catalog.hpp"
#include "evaluator.hpp"
#include "guard.hpp"
#include "revive.hpp"

namespace tick::pg {
namespace {

// A key's bytes are in an index.
constexpr size_t longest_key = 2000;
// A backend forgets sets of ids between transactions rather than keep more keys than this.
constexpr size_t most_keys = 200'000;

// What one statement does to a key. BEFORE triggers have put it into the set already; what no AFTER trigger
// confirms is taken back at the end: ON CONFLICT DO NOTHING, or another trigger, has left the row out.
struct Part {
  uint64_t statement;
  IdSet came, went;
  IdChange confirmed;
};

// What one (sub)transaction nesting level has done to a key.
struct Level {
  int level;
  std::optional<IdSet> before;  // what to go back to; a transaction that rolls back forgets the key instead
  IdChange change;              // not written yet
};

struct Ids {
  std::string key;
  IdSet now;
  std::vector<Part> parts;    // of the statements that are running, the innermost last
  std::vector<Level> levels;  // the innermost last
  bool touched = false;
};

struct KeyHash {
  using is_transparent = void;
  size_t operator()(std::string_view key) const { return std::hash<std::string_view>{}(key); }
};
template <typename Value>
using ByKey = std::unordered_map<std::string, Value, KeyHash, std::equal_to<>>;

// One dedup group of one set: its lock, and what this backend knows of its keys. Between two transactions
// that is what was true at the frontier `at`; with the lock, only the deltas since then are read.
struct Group {
  const Dedup* dedup;
  std::string name;
  int held = 0;  // nesting level that holds the lock
  bool known = false;
  Frontier at;
  RingFiles files;
  ByKey<std::unique_ptr<Ids>> keys;
  std::array<Ids*, 512> recent{};                   // of `keys`, by place_of(): the one that was found last
  ByKey<IdChange> unread;                           // deltas for keys that were not read yet
  std::vector<Ids*> touched;                        // by this transaction
  std::vector<std::pair<int, int64_t>> duplicates;  // by nesting level, not written yet
  bool active = false;                              // touched or locked by this transaction

  void forget() {
    known = false;
    keys.clear();
    recent.fill(nullptr);
    unread.clear();
    touched.clear();
  }
};

// One execution of a statement; it has ended when the memory of its triggers goes.
struct Statement {
  uint64_t number;
  MemoryContext memory;
  int level;
  std::vector<Ids*> keys;
};

std::list<Group> groups;
std::vector<Group*> active;
std::vector<Statement> statements;  // the innermost last
uint64_t last_statement = 0;
bool damaged = false;  // memory ran out where it must not: this transaction cannot commit

uint64_t widen(TransactionId xid, FullTransactionId next) {
  const uint32 epoch = EpochFromFullTransactionId(next);
  return U64FromFullTransactionId(
      FullTransactionIdFromEpochAndXid(xid > XidFromFullTransactionId(next) ? epoch - 1 : epoch, xid));
}

Frontier frontier_of(Snapshot snapshot) {
  const FullTransactionId next = ReadNextFullTransactionId();
  Frontier result;
  result.xmin = widen(snapshot->xmin, next);
  result.xmax = widen(snapshot->xmax, next);
  for (uint32 i = 0; i < snapshot->xcnt; ++i) result.xip.push_back(widen(snapshot->xip[i], next));
  std::sort(result.xip.begin(), result.xip.end());
  return result;
}

// Calls `use` for each row of a table, or of an index's equal rows, that the active snapshot sees. Not by the
// snapshot itself: that would leave predicate locks in a SERIALIZABLE transaction.
template <typename Use>
void each_visible(const char* table, const char* index, ScanKey keys, int count, Use&& use) {
  Relation relation = table_open(catalog_relation(table), AccessShareLock);
  TupleTableSlot* slot = table_slot_create(relation, nullptr);
  const auto visible = [&] { return table_tuple_satisfies_snapshot(relation, slot, GetActiveSnapshot()); };
  if (index == nullptr) {
    TableScanDesc scan = table_beginscan(relation, SnapshotAny, 0, nullptr);
    while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
      if (visible()) use(slot);
    table_endscan(scan);
  } else {
    Relation by = index_open(catalog_relation(index), AccessShareLock);
    IndexScanDesc scan = TICK_INDEX_BEGINSCAN(relation, by, SnapshotAny, count);
    index_rescan(scan, keys, count, nullptr, 0);
    while (index_getnext_slot(scan, ForwardScanDirection, slot))
      if (visible()) use(slot);
    index_endscan(scan);
    index_close(by, AccessShareLock);
  }
  ExecDropSingleTupleTableSlot(slot);
  table_close(relation, AccessShareLock);
}

// The frontier of ids as the active snapshot sees it, palloc'ed.
const char* read_frontier() {
  const char* result = nullptr;
  each_visible("frontier", nullptr, nullptr, 0, [&](TupleTableSlot* slot) {
    bool null;
    Datum snapshot = slot_getattr(slot, 3, &null);
    if (null) snapshot = slot_getattr(slot, 2, &null);
    Oid output;
    bool varlena;
    getTypeOutputInfo(TupleDescAttr(slot->tts_tupleDescriptor, 1)->atttypid, &output, &varlena);
    result = OidOutputFunctionCall(output, snapshot);
  });
  if (result == nullptr)
    ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("tick_catalog.frontier must have one row")));
  return result;
}

void apply_delta(Group& group, const IdDelta& delta) {
  for (const IdDelta::Entry& entry : delta.entries) {
    const auto known = group.keys.find(entry.key);
    if (known != group.keys.end())
      entry.change.apply_to(known->second->now);
    else
      group.unread[entry.key].then(entry.change);
  }
}

// With the group's lock just taken: brings what is known of it up to this moment. Whatever the isolation
// level, as a unique index does.
void catch_up(Group& group) {
  RingFiles files;
  call([&] {
    // Locked before the snapshot: a table of the ring that is truncated afterwards was merged in it.
    files = lock_ring();
    PushActiveSnapshot(GetLatestSnapshot());
  });
  const Frontier now = frontier_of(GetActiveSnapshot());
  // An error on the way leaves it unknown.
  if (!std::exchange(group.known, false) || group.files != files) {
    group.forget();
    const char* text = call([] { return read_frontier(); });
    group.at = Frontier::parse(text);
  }
  std::vector<IdDelta> deltas;
  const int64_t program = -int64_t{group.dedup->id};
  (void)read_deltas(group.at, 0,
                    [&](int64_t, std::string_view payload) {
                      IdDelta delta = IdDelta::decode(payload);
                      if (delta.group == group.name) deltas.push_back(std::move(delta));
                    },
                    {program, program});
  call([] { PopActiveSnapshot(); });
  std::sort(deltas.begin(), deltas.end(),
            [](const IdDelta& a, const IdDelta& b) { return a.order < b.order; });
  for (const IdDelta& delta : deltas) apply_delta(group, delta);
  group.at = now;
  group.files = files;
  group.known = true;
}

Group& find_group(const Dedup* dedup, std::string_view name) {
  static Group* last = nullptr;
  if (last != nullptr && last->dedup == dedup && last->name == name) return *last;
  for (Group& group : groups) {
    if (group.dedup != dedup || group.name != name) continue;
    last = &group;
    return group;
  }
  groups.push_back(Group{});
  groups.back().dedup = dedup;
  groups.back().name = name;
  last = &groups.back();
  return *last;
}

// Two groups of one number wait for each other, no more.
uint32 lock_number(const Group& group) {
  const auto set = static_cast<uint32>(group.dedup->id);
  return group.name.empty() ? set : static_cast<uint32>(std::hash<std::string>{}(group.name) * 31 + set);
}

void lock_group(Group& group) {
  if (group.held > 0) return;
  if (!group.active) {
    active.push_back(&group);
    group.active = true;
  }
  const uint32 number = lock_number(group);
  const Oid catalog = group.dedup->catalog;
  const bool named = !group.name.empty();
  call([&] { LockDatabaseObject(catalog, number, named ? 2 : 1, ExclusiveLock); });
  catch_up(group);
  group.held = GetCurrentTransactionNestLevel();
}

size_t place_of(std::string_view key) {  // cheap, from both ends of a key
  uint64_t first = 0, last = 0;
  const size_t size = std::min(key.size(), sizeof first);
  memcpy(&first, key.data(), size);
  memcpy(&last, key.data() + key.size() - size, size);
  return ((first * 0x9e3779b97f4a7c15u ^ last) * 0xbf58476d1ce4e5b9u + key.size()) >> 55;
}

Ids& find_ids(Group& group, std::string_view key) {
  Ids*& recent = group.recent[place_of(key)];
  if (recent != nullptr && recent->key == key) return *recent;
  const auto known = group.keys.find(key);
  if (known != group.keys.end()) return *(recent = known->second.get());
  static std::string wanted;  // not on the stack: what follows may ereport
  wanted = key;
  auto ids = std::make_unique<Ids>();
  ids->key = wanted;
  const char* data = nullptr;
  size_t size = 0;
  const int32 set = group.dedup->id;
  call([&] {
    PushActiveSnapshot(GetLatestSnapshot());
    ScanKeyData keys[2];
    ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(set));
    ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_BYTEAEQ, varlena_datum(wanted.data(), wanted.size()));
    each_visible("seen", "seen_pkey", keys, 2, [&](TupleTableSlot* slot) {
      bool null;
      bytea* ranges = DatumGetByteaPCopy(slot_getattr(slot, 3, &null));
      data = VARDATA(ranges);
      size = static_cast<size_t>(VARSIZE(ranges) - VARHDRSZ);
    });
    PopActiveSnapshot();
  });
  if (data != nullptr) {
    std::span<const unsigned char> in(reinterpret_cast<const unsigned char*>(data), size);
    ids->now = IdSet::decode(in);
  }
  // What the worker has merged meanwhile is applied once more: that changes nothing.
  group.unread[wanted].apply_to(ids->now);
  group.unread.erase(wanted);
  return *(recent = group.keys.emplace(wanted, std::move(ids)).first->second.get());
}

// Whatever changes a key's ids asks for its level first.
Level& level_of(Group& group, Ids& ids, int level) {
  if (!ids.touched) {
    group.touched.push_back(&ids);
    ids.touched = true;
  }
  if (ids.levels.empty() || ids.levels.back().level < level) {
    ids.levels.push_back({level, std::nullopt, {}});
    if (level > 1) ids.levels.back().before = ids.now;
  }
  return ids.levels.back();
}

Part& part_of(Ids& ids, Statement& statement) {
  for (Part& part : ids.parts)
    if (part.statement == statement.number) return part;
  ids.parts.push_back({statement.number, {}, {}, {}});
  statement.keys.push_back(&ids);
  return ids.parts.back();
}

// Takes back what was not confirmed, and hands the rest to the nesting level.
void end_part(Ids& ids, const Part& part) {
  IdSet unconfirmed = part.came;
  unconfirmed.erase(part.confirmed.added);
  ids.now.erase(unconfirmed);
  if (!part.went.empty()) {
    unconfirmed = part.went;
    unconfirmed.erase(part.confirmed.removed);
    ids.now.insert(unconfirmed);
  }
  part.confirmed.apply_to(ids.now);
  if (!part.confirmed.empty() && !ids.levels.empty()) ids.levels.back().change.then(part.confirmed);
}

void end_statement(std::vector<Statement>::iterator statement, bool keep) {
  for (Ids* ids : statement->keys) {
    const auto part = std::find_if(ids->parts.begin(), ids->parts.end(),
                                   [&](const Part& p) { return p.statement == statement->number; });
    if (part == ids->parts.end()) continue;
    if (keep) end_part(*ids, *part);
    ids->parts.erase(part);
  }
  statements.erase(statement);
}

// Called while memory goes, perhaps after an error.
void on_memory_reset(void* argument) {
  const uint64_t number = *static_cast<uint64_t*>(argument);
  for (auto statement = statements.begin(); statement != statements.end(); ++statement) {
    if (statement->number != number) continue;
    try {
      end_statement(statement, true);
    } catch (...) {
      damaged = true;
    }
    return;
  }
}

struct Watch {
  MemoryContextCallback callback;
  uint64_t number;
};

// The statement whose trigger is being called. Its triggers, on all leaves, live in the memory of its
// execution.
Statement& find_statement(FunctionCallInfo fcinfo) {
  MemoryContext memory = fcinfo->flinfo->fn_mcxt;
  for (auto it = statements.rbegin(); it != statements.rend(); ++it)
    if (it->memory == memory) return *it;
  auto* watch = static_cast<Watch*>(call([&] { return MemoryContextAllocZero(memory, sizeof(Watch)); }));
  statements.push_back({++last_statement, memory, GetCurrentTransactionNestLevel(), {}});
  watch->number = last_statement;
  watch->callback.func = on_memory_reset;
  watch->callback.arg = &watch->number;
  MemoryContextRegisterResetCallback(memory, &watch->callback);
  return statements.back();
}

void refuse_sparse(const Group& group) {
  const Oid source = group.dedup->source;
  call([&] {
    ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
                    errmsg("ids of \"%s\" are too sparse for dedup", get_rel_name(source)),
                    errdetail("One key has more than %zu ranges of ids.", most_ranges),
                    errhint("Dedup is for ids that are nearly contiguous per key: use a unique index instead "
                            "(tick.alter_source with reset => '{dedup_key,dedup_id,dedup_group}').")));
  });
}

void check_key(std::string_view key) {
  if (key.size() <= longest_key) return;
  call([] {
    ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
                    errmsg("key of dedup is longer than %zu bytes", longest_key),
                    errhint("Choose columns with shorter values as dedup_key.")));
  });
}

Group& ready_group(const IdColumns* columns, const IdRow& row) {
  check_key(row.key);
  Group& group = find_group(columns->dedup, row.group);
  lock_group(group);
  return group;
}

// Says false, for who has found one.
bool count_duplicate(Group& group) {
  const int level = GetCurrentTransactionNestLevel();
  if (group.duplicates.empty() || group.duplicates.back().first < level)
    group.duplicates.push_back({level, 0});
  ++group.duplicates.back().second;
  return false;
}

// False if the row is a duplicate.
bool check_insert(FunctionCallInfo fcinfo, const IdColumns* columns, const IdRow& row) {
  Group& group = ready_group(columns, row);
  Ids& ids = find_ids(group, row.key);
  if (ids.now.contains(row.id)) return count_duplicate(group);
  (void)level_of(group, ids, GetCurrentTransactionNestLevel());
  Part& part = part_of(ids, find_statement(fcinfo));
  ids.now.insert(row.id);
  part.came.insert(row.id);
  if (ids.now.ranges().size() > most_ranges) refuse_sparse(group);
  return true;
}

// A row is about to go: the other half of a move to another partition, or of a DELETE with an INSERT in one
// statement, finds its id free.
void check_delete(FunctionCallInfo fcinfo, const IdColumns* columns, const IdRow& row) {
  Group& group = ready_group(columns, row);
  Ids& ids = find_ids(group, row.key);
  if (!ids.now.contains(row.id)) return;
  (void)level_of(group, ids, GetCurrentTransactionNestLevel());
  Part& part = part_of(ids, find_statement(fcinfo));
  ids.now.erase(row.id);
  part.went.insert(row.id);
}

// The innermost statement whose BEFORE trigger has let an id pass, else the present one.
Part& inserting_part(FunctionCallInfo fcinfo, Ids& ids, int64_t id) {
  for (auto part = ids.parts.rbegin(); part != ids.parts.rend(); ++part)
    if (part->came.contains(id)) return *part;
  return part_of(ids, find_statement(fcinfo));
}

void confirm_insert(FunctionCallInfo fcinfo, const IdColumns* columns, const IdRow& row) {
  Group& group = ready_group(columns, row);
  Ids& ids = find_ids(group, row.key);
  (void)level_of(group, ids, GetCurrentTransactionNestLevel());
  inserting_part(fcinfo, ids, row.id).confirmed.added.insert(row.id, row.time);
}

void confirm_delete(FunctionCallInfo fcinfo, const IdColumns* columns, const IdRow& row) {
  Group& group = ready_group(columns, row);
  Ids& ids = find_ids(group, row.key);
  (void)level_of(group, ids, GetCurrentTransactionNestLevel());
  part_of(ids, find_statement(fcinfo)).confirmed.removed.insert(row.id);
}

// With tick.corrections off rows are purged: their ids stay seen.
bool purging() {
  const char* corrections = GetConfigOption("tick.corrections", true, false);
  return corrections != nullptr && strcmp(corrections, "off") == 0;
}

// An UPDATE that leaves key and id alone is none of ours.
void confirm_update(FunctionCallInfo fcinfo, const IdColumns* columns, TriggerData* trigger) {
  static std::string old_key, old_group;
  IdRow before, after;
  const bool had = read_ids(columns, trigger->tg_trigslot, &before);
  old_key = had ? before.key : std::string_view{};
  old_group = had ? before.group : std::string_view{};
  const bool has = read_ids(columns, trigger->tg_newslot, &after);
  if (had == has && (!had || (before.id == after.id && old_key == after.key))) return;
  static std::string new_key, new_group;
  new_key = has ? after.key : std::string_view{};
  new_group = has ? after.group : std::string_view{};
  if (had) confirm_delete(fcinfo, columns, {old_key, old_group, before.id, no_time});
  if (has) confirm_insert(fcinfo, columns, {new_key, new_group, after.id, after.time});
}

void write_delta(const Dedup* dedup, IdDelta& delta) {
  // The lock is held: whoever comes next reads a greater number.
  delta.order = GetXLogInsertRecPtr();
  static std::string buffer;  // not on the stack: append_delta may ereport past it
  buffer.clear();
  delta.encode(buffer);
  call([&] { append_delta(-int64{dedup->id}, buffer.data(), buffer.size()); });
  if (buffer.capacity() > 1024 * 1024) std::string().swap(buffer);
}

// False if the id is there already.
bool insert_at_once(Group& group, Ids& ids, const IdRow& row) {
  if (ids.now.contains(row.id)) return false;
  Level& level = level_of(group, ids, GetCurrentTransactionNestLevel());
  ids.now.insert(row.id, row.time);
  level.change.added.insert(row.id, row.time);
  if (ids.now.ranges().size() > most_ranges) refuse_sparse(group);
  return true;
}

Cell cell_of(const IdColumns* columns, TupleTableSlot* slot, size_t at) {
  const AttrNumber attribute = columns->attributes[at];
  const ValueType& type = columns->dedup->types[at];
  const bool null = slot->tts_isnull[attribute - 1];
  Datum value = slot->tts_values[attribute - 1];
  if (!null && type.length == -1)
    value = PointerGetDatum(pg_detoast_datum_packed(reinterpret_cast<struct varlena*>(value)));
  return to_cell(value, null, type);
}

// As read_ids(), but for key and group.
bool read_id(const IdColumns* columns, TupleTableSlot* slot, IdRow* row) {
  const Dedup& dedup = *columns->dedup;
  slot_getsomeattrs(slot, columns->last);
  const Cell id = cell_of(columns, slot, dedup.id_at());
  if (id.null) return false;
  row->id = id.word;
  row->time = no_time;
  if (dedup.columns[dedup.time_at()] != 0) {
    const Cell time = cell_of(columns, slot, dedup.time_at());
    if (!time.null && time.word != plus_infinity) row->time = time.word;
  }
  return true;
}

Datum check_row(FunctionCallInfo fcinfo) {
  if (!CALLED_AS_TRIGGER(fcinfo))
    ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
                    errmsg("tick_catalog.dedup can only be a trigger")));
  auto* trigger = reinterpret_cast<TriggerData*>(fcinfo->context);
  auto* columns = static_cast<IdColumns*>(fcinfo->flinfo->fn_extra);
  if (columns == nullptr && loads_dump(RelationGetRelid(trigger->tg_relation)))
    return PointerGetDatum(trigger->tg_trigtuple);
  if (columns == nullptr) {
    MemoryContext old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
    columns = bind_dedup(trigger->tg_trigger, trigger->tg_relation);
    MemoryContextSwitchTo(old);
    fcinfo->flinfo->fn_extra = columns;
  }
  IdRow row;
  if (read_ids(columns, trigger->tg_trigslot, &row)) {
    if (TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
      check_delete(fcinfo, columns, row);
    else if (!check_insert(fcinfo, columns, row))
      return PointerGetDatum(nullptr);
  }
  return PointerGetDatum(trigger->tg_trigtuple);
}

}  // namespace

IdColumns* bind_ids(int32 set, Relation relation) {
  const Dedup* dedup = find_dedup(set);
  if (dedup == nullptr)
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
                    errmsg("dedup trigger of \"%s\" names set %d, which does not exist",
                           RelationGetRelationName(relation), set),
                    errhint("Declare the source again with tick.add_source or tick.alter_source.")));
  auto* columns = static_cast<IdColumns*>(palloc(sizeof(IdColumns)));
  columns->dedup = dedup;
  columns->attributes =
      map_attributes(dedup->source, dedup->columns.data(), static_cast<int>(dedup->columns.size()), relation);
  columns->last = 0;
  for (size_t i = 0; i < dedup->columns.size(); ++i)
    columns->last = Max(columns->last, columns->attributes[i]);
  return columns;
}

IdColumns* bind_dedup(const Trigger* trigger, Relation relation) {
  if (trigger->tgnargs != 1) elog(ERROR, "pg_tick: dedup trigger without a set");
  IdColumns* columns = bind_ids(pg_strtoint32(trigger->tgargs[0]), relation);
  check_trigger(trigger, relation, columns->dedup->source);
  return columns;
}

bool read_ids(const IdColumns* columns, TupleTableSlot* slot, IdRow* row) {
  static std::string key, group, canonical;
  const Dedup& dedup = *columns->dedup;
  if (!read_id(columns, slot, row)) return false;
  const auto append = [&](std::string& to, size_t at) {
    const Type type = dedup.types[at].type;
    const Cell cell = cell_of(columns, slot, at);
    append_key(to, needs_canonical(type) ? canonical_cell(cell, type, canonical) : cell, type);
  };
  key.clear();
  for (size_t at = 0; at < dedup.keys; ++at) append(key, at);
  row->key = key;
  row->group = {};
  if (dedup.columns[dedup.group_at()] != 0) {
    group.clear();
    append(group, dedup.group_at());
    row->group = group;
  }
  return true;
}

void confirm_ids(const IdColumns* columns, FunctionCallInfo fcinfo, bool at_once) {
  auto* trigger = reinterpret_cast<TriggerData*>(fcinfo->context);
  IdRow row;
  if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event)) {
    confirm_update(fcinfo, columns, trigger);
  } else if (read_ids(columns, trigger->tg_trigslot, &row)) {
    if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
      confirm_insert(fcinfo, columns, row);
    else if (!purging())
      confirm_delete(fcinfo, columns, row);
  }
  if (at_once) (void)flush_ids();
}

// Direct-mapped by the Datums of key and group. What it points to stays while the transaction holds the lock.
struct KnownKeys {
  static constexpr size_t size = 1024, most_columns = 4;
  struct Place {
    const Dedup* dedup;
    Group* group;
    Ids* ids;
    Datum values[most_columns];
  } places[size];
};

KnownKeys* make_known_keys() {
  return static_cast<KnownKeys*>(palloc0(sizeof(KnownKeys)));
}

bool take_id(const IdColumns* columns, TupleTableSlot* slot, KnownKeys* known) {
  const Dedup& dedup = *columns->dedup;
  KnownKeys::Place* place = nullptr;
  Datum values[KnownKeys::most_columns] = {};
  if (known != nullptr && dedup.keys < KnownKeys::most_columns) {
    slot_getsomeattrs(slot, columns->last);
    uint64_t hash = 0;
    bool null = false;
    for (size_t at = 0; at <= dedup.keys; ++at) {
      const AttrNumber attribute = columns->attributes[at < dedup.keys ? at : dedup.group_at()];
      if (attribute == 0) continue;
      null = null || slot->tts_isnull[attribute - 1];
      values[at] = slot->tts_values[attribute - 1];
      hash = (hash ^ values[at]) * 0x9e3779b97f4a7c15u;
    }
    if (!null) place = &known->places[hash >> 54];
  }
  IdRow row;
  if (place != nullptr && place->dedup == &dedup && memcmp(values, place->values, sizeof values) == 0) {
    if (!read_id(columns, slot, &row)) return true;
  } else {
    if (!read_ids(columns, slot, &row)) return true;
    Group& group = ready_group(columns, row);
    Ids& ids = find_ids(group, row.key);
    if (place == nullptr) return insert_at_once(group, ids, row) || count_duplicate(group);
    place->dedup = &dedup;
    place->group = &group;
    place->ids = &ids;
    memcpy(place->values, values, sizeof values);
  }
  return insert_at_once(*place->group, *place->ids, row) || count_duplicate(*place->group);
}

bool flush_ids() {
  while (!statements.empty()) end_statement(std::prev(statements.end()), true);
  if (damaged) throw std::bad_alloc();
  bool written = false;
  for (Group* group : active) {
    IdDelta delta;
    delta.group = group->name;
    for (Ids* ids : group->touched) {
      IdChange all;
      for (Level& level : ids->levels) {
        all.then(level.change);
        level.change = {};
      }
      if (!all.empty()) delta.entries.push_back({ids->key, std::move(all)});
    }
    for (auto& [level, count] : group->duplicates) delta.duplicates += std::exchange(count, 0);
    if (delta.entries.empty() && delta.duplicates == 0) continue;
    write_delta(group->dedup, delta);
    written = true;
  }
  return written;
}

void end_ids(bool committed) {
  for (Group* group : active) {
    if ((!committed && !group->touched.empty()) || group->keys.size() > most_keys) group->forget();
    for (Ids* ids : group->touched) {
      ids->levels.clear();
      ids->parts.clear();
      ids->touched = false;
    }
    group->touched.clear();
    group->duplicates.clear();
    group->held = 0;
    group->active = false;
  }
  active.clear();
  statements.clear();
  damaged = false;
}

void end_ids_level(SubXactEvent event, int level) {
  if (event == SUBXACT_EVENT_ABORT_SUB) {
    while (!statements.empty() && statements.back().level >= level)
      end_statement(std::prev(statements.end()), false);
  } else {
    for (Statement& statement : statements)
      if (statement.level == level) statement.level = level - 1;
  }
  for (Group* group : active) {
    for (Ids* ids : group->touched) {
      if (ids->levels.empty() || ids->levels.back().level < level) continue;
      if (event == SUBXACT_EVENT_ABORT_SUB) {
        for (; !ids->levels.empty() && ids->levels.back().level >= level; ids->levels.pop_back())
          if (ids->levels.back().before) ids->now = std::move(*ids->levels.back().before);
        continue;
      }
      if (ids->levels.size() > 1 && ids->levels[ids->levels.size() - 2].level == level - 1) {
        ids->levels[ids->levels.size() - 2].change.then(ids->levels.back().change);
        ids->levels.pop_back();
      } else {
        ids->levels.back().level = level - 1;
        if (level == 2) ids->levels.back().before.reset();
      }
    }
    if (!group->duplicates.empty() && group->duplicates.back().first >= level) {
      const int64_t count = group->duplicates.back().second;
      group->duplicates.pop_back();
      if (event != SUBXACT_EVENT_ABORT_SUB) {
        if (group->duplicates.empty() || group->duplicates.back().first < level - 1)
          group->duplicates.push_back({level - 1, 0});
        group->duplicates.back().second += count;
      }
    }
    // Its lock goes with the level that took it, and so does what is known.
    if (group->held >= level) group->held = event == SUBXACT_EVENT_ABORT_SUB ? 0 : level - 1;
  }
}

void each_id(int32 set, Oid relation, const std::function<void(const IdColumns*, const IdRow&)>& take) {
  struct Kept {
    std::string key, group;
    int64_t id;
    Micros time;
  };
  constexpr size_t batch = 256;  // rows between two doors
  std::vector<Kept> rows(batch);
  List* leaves = call([&] { return find_all_inheritors(relation, AccessShareLock, nullptr); });
  for (int i = 0; i < list_length(leaves); ++i) {
    const Oid leaf = list_nth_oid(leaves, i);
    Relation table = nullptr;
    IdColumns* columns = nullptr;
    TableScanDesc scan = nullptr;
    TupleTableSlot* slot = nullptr;
    const bool holds_rows = call([&] {
      if (get_rel_relkind(leaf) != RELKIND_RELATION) return false;
      table = table_open(leaf, NoLock);
      columns = bind_ids(set, table);
      PushActiveSnapshot(GetLatestSnapshot());
      scan = table_beginscan(table, GetActiveSnapshot(), 0, nullptr);
      slot = table_slot_create(table, nullptr);
      return true;
    });
    for (bool more = holds_rows; more;) {
      size_t count = 0;
      call([&] {
        CHECK_FOR_INTERRUPTS();
        IdRow row;
        while (count < batch && (more = table_scan_getnextslot(scan, ForwardScanDirection, slot))) {
          if (!read_ids(columns, slot, &row)) continue;
          Kept& kept = rows[count++];
          kept.key = row.key;
          kept.group = row.group;
          kept.id = row.id;
          kept.time = row.time;
        }
      });
      for (size_t at = 0; at < count; ++at) {
        check_key(rows[at].key);
        take(columns, {rows[at].key, rows[at].group, rows[at].id, rows[at].time});
      }
    }
    if (!holds_rows) continue;
    call([&] {
      table_endscan(scan);
      ExecDropSingleTupleTableSlot(slot);
      PopActiveSnapshot();
      table_close(table, NoLock);
    });
  }
}

void take_in_ids(Oid source, Oid relation) {
  const int32 set = call([&] { return dedup_of(source); });
  if (set == 0) return;
  each_id(set, relation, [](const IdColumns* columns, const IdRow& row) {
    Group& group = ready_group(columns, row);
    (void)insert_at_once(group, find_ids(group, row.key), row);
  });
}

const IdSet& known_ids(const Dedup* dedup, std::string_view key, std::string_view name) {
  check_key(key);
  Group& group = find_group(dedup, name);
  lock_group(group);
  return find_ids(group, key).now;
}

void change_ids(const Dedup* dedup, std::string_view key, std::string_view name, const IdChange& change) {
  (void)known_ids(dedup, key, name);
  Group& group = find_group(dedup, name);
  Ids& ids = find_ids(group, key);
  level_of(group, ids, GetCurrentTransactionNestLevel()).change.then(change);
  change.apply_to(ids.now);
}

}  // namespace tick::pg

using namespace tick::pg;

extern "C" {
PG_FUNCTION_INFO_V1(tick_dedup);
PGDLLEXPORT Datum tick_dedup(PG_FUNCTION_ARGS);
}

Datum tick_dedup(PG_FUNCTION_ARGS) {
  return entry([&] { return check_row(fcinfo); });
}
