#include "retention.hpp"

#include <memory>
#include <vector>

#include "audit.hpp"
#include "coverage.hpp"
#include "define.hpp"
#include "guard.hpp"
#include "history.hpp"
#include "partitions.hpp"
#include "queue.hpp"
#include "rollup.hpp"
#include "values.hpp"

namespace tick::pg {
namespace {

constexpr TimestampTz look_every = 2 * USECS_PER_SEC;
constexpr TimestampTz locked_rest = USECS_PER_SEC / 4;
constexpr TimestampTz locked_patience = 2 * USECS_PER_SEC;
constexpr TimestampTz locked_trouble = 5 * USECS_PER_SEC;
constexpr TimestampTz error_rest = 30 * USECS_PER_SEC;
constexpr TimestampTz attic_rest = 5 * USECS_PER_SEC;
constexpr TimestampTz most_time = 50 * 1000;
constexpr int most_ahead = 1000;
constexpr int most_behind = 366;  // partitions that a gap is filled with
constexpr uint64 attic_rows = 20'000;
constexpr int64 window_rows = 20'000;           // that one transaction drops, if they are not of one window
constexpr int64 most_delay = USECS_PER_MINUTE;  // of windows that may go; else a thousandth of the retention

// What one step does.
struct Action {
  enum Kind { none, attic, make, drop, empty } kind;
  Oid relid;  // the partition to drop, or the attic
  Micros lo, hi;
  bool operator==(const Action&) const = default;
};

// Why a size makes no partitions; nullptr if it does.
const char* unusable(const Interval* size) {
  if (interval_micros(size) < USECS_PER_MINUTE) return "it is shorter than a minute";
  const std::string reason = window_size(size).validate();
  return reason.empty() ? nullptr : pstrdup(reason.c_str());
}

// Runs DDL as the owner of the source: his triggers, defaults and rights, not ours.
void run_as_owner(Oid source, const char* sql) {
  const Actor worker = act_as_owner_of(source);
  run(sql);
  act_again(worker);
}

// The part of [lo, hi) before which and in which no partition lies; false if there is none.
bool find_free(const TimePartitions& partitions, Micros* lo, Micros* hi) {
  for (int i = 0; i < partitions.count && *lo < *hi; ++i) {
    const TimePartition& other = partitions.list[i];
    if (other.hi <= *lo || other.lo >= *hi) continue;
    if (other.lo <= *lo)
      *lo = other.hi;
    else
      *hi = other.lo;
  }
  return *lo < *hi;
}

// The next partition that is missing: the present one, `ahead` after it, then what lies between it and older
// ones, newest first, so far as retention would keep it.
bool find_missing(const TimePartitions& partitions, const WindowSize& size, int ahead, Micros oldest,
                  Micros now, Action* action) {
  const auto missing = [&](Micros start) {
    *action = {Action::make, InvalidOid, start, window_end(start, size)};
    return find_free(partitions, &action->lo, &action->hi);
  };
  Micros start = window_start(now, size);
  for (int i = 0; i <= ahead; ++i, start = window_end(start, size))
    if (missing(start)) return true;
  start = window_start(now, size);
  for (int i = 0; i < most_behind; ++i) {
    if (start <= oldest || partitions.count == 0 || start <= partitions.list[0].lo) break;
    start = window_start(start - 1, size);
    if (missing(start)) return true;
  }
  *action = {};
  return false;
}

bool has_rows(Oid relation) {
  if (!OidIsValid(relation) || get_rel_relkind(relation) != RELKIND_RELATION) return false;
  Relation opened = table_open(relation, AccessShareLock);
  const bool result = RelationGetNumberOfBlocks(opened) > 0;
  table_close(opened, NoLock);
  return result;
}

// ---- plain PostgreSQL code inside a step's transaction
// ----------------------------------------------------------------------------------------------------------

// Takes the locks of a step, or says that somebody is in the way. A row that was on its way into the attic
// when its own partition is attached fails: unless writers never leave a gap (`hurried`), partitions are made
// while there are none.
bool lock_for(const Action& action, Oid source, Oid attic, bool hurried) {
  switch (action.kind) {
    case Action::none:
      return true;
    case Action::attic:
    case Action::make:
      return ConditionalLockRelationOid(
                 source, OidIsValid(attic) && !hurried ? ShareRowExclusiveLock : ShareUpdateExclusiveLock) &&
             (!OidIsValid(attic) || ConditionalLockRelationOid(attic, AccessExclusiveLock));
    case Action::empty:
      return ConditionalLockRelationOid(attic, ExclusiveLock);
    case Action::drop:
      break;
  }
  if (!ConditionalLockRelationOid(source, AccessExclusiveLock)) return false;
  if (OidIsValid(attic) && !ConditionalLockRelationOid(attic, AccessExclusiveLock)) return false;
  ListCell* cell;
  foreach (cell, find_all_inheritors(action.relid, NoLock, nullptr))
    if (!ConditionalLockRelationOid(lfirst_oid(cell), AccessExclusiveLock)) return false;
  return true;
}

// Deletes rows of the attic with times in [lo, hi), at most `limit`, without firing triggers: for the rollups
// nothing happens. Returns how many.
uint64 delete_rows(Oid attic, AttrNumber time, Micros lo, Micros hi, uint64 limit, Micros* newest) {
  uint64 deleted = 0;
  Relation relation = table_open(attic, NoLock);
  Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
  TupleTableSlot* slot = table_slot_create(relation, nullptr);
  TableScanDesc scan = table_beginscan(relation, snapshot, 0, nullptr);
  while (deleted < limit && table_scan_getnextslot(scan, ForwardScanDirection, slot)) {
    CHECK_FOR_INTERRUPTS();
    bool null;
    const Micros at = DatumGetTimestampTz(slot_getattr(slot, time, &null));
    if (null || at < lo || at >= hi) continue;
    ItemPointerData place = slot->tts_tid;
    simple_table_tuple_delete(relation, &place, snapshot);
    if (is_finite_timestamp(at)) *newest = Max(*newest, at);
    ++deleted;
  }
  table_endscan(scan);
  ExecDropSingleTupleTableSlot(slot);
  UnregisterSnapshot(snapshot);
  table_close(relation, NoLock);
  CommandCounterIncrement();
  return deleted;
}

AttrNumber time_attribute(Oid source, AttrNumber time, Oid partition) {
  return get_attnum(partition, get_attname(source, time, false));
}

const char* bound_text(Oid type, Micros at) {
  const Datum text = type == TIMESTAMPTZOID ? DirectFunctionCall1(timestamptz_out, TimestampTzGetDatum(at))
                                            : DirectFunctionCall1(timestamp_out, TimestampGetDatum(at));
  return quote_literal_cstr(DatumGetCString(text));
}

const char* time_label(Micros at, bool with_time) {
  pg_tm tm;
  fsec_t fraction;
  if (timestamp2tm(at, nullptr, &tm, &fraction, nullptr, nullptr) != 0)
    elog(ERROR, "pg_tick: partition bound out of range");
  const char* day = psprintf("%04d%02d%02d", tm.tm_year, tm.tm_mon, tm.tm_mday);
  if (!with_time && tm.tm_hour == 0 && tm.tm_min == 0) return day;
  return psprintf("%s_%02d%02d", day, tm.tm_hour, tm.tm_min);
}

// The columns that an INSERT can name, as a quoted list.
const char* column_list(Oid source) {
  StringInfoData list;
  initStringInfo(&list);
  Relation relation = table_open(source, NoLock);
  TupleDesc desc = RelationGetDescr(relation);
  for (int i = 0; i < desc->natts; ++i) {
    const Form_pg_attribute attribute = TupleDescAttr(desc, i);
    if (attribute->attisdropped || attribute->attgenerated != '\0') continue;
    appendStringInfo(&list, "%s%s", list.len == 0 ? "" : ", ", quote_identifier(NameStr(attribute->attname)));
  }
  table_close(relation, NoLock);
  return list.data;
}

// A table like the source that is not attached yet: it has no triggers. Returns its name, quoted.
const char* make_table(Oid source, const char* label) {
  const Oid schema = get_rel_namespace(source);
  const char* name = quote_qualified_identifier(
      get_namespace_name(schema), ChooseRelationName(get_rel_name(source), nullptr, label, schema, false));
  const Oid tablespace = get_rel_tablespace(source);
  run_as_owner(
      source,
      psprintf("CREATE TABLE %s (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED "
               "INCLUDING STORAGE INCLUDING COMPRESSION)%s%s",
               name, relation_text(source), OidIsValid(tablespace) ? " TABLESPACE " : "",
               OidIsValid(tablespace) ? quote_identifier(get_tablespace_name(tablespace)) : ""));
  return name;
}

void attach(Oid source, const char* what) {
  run_as_owner(source, psprintf("ALTER TABLE %s ATTACH PARTITION %s", relation_text(source), what));
}

void make_attic(Oid source) {
  const char* name = make_table(source, "attic");
  attach(source, psprintf("%s DEFAULT", name));
  ereport(LOG, (errmsg("pg_tick made the default partition %s", name)));
}

// Rows that wait in the attic are moved before the table is attached: neither there nor here a trigger fires,
// so the rollups, which have counted them, do not change.
void make_partition(Oid source, const TimePartitions& partitions, const Action& action, bool with_time) {
  const Actor worker = act_as_extension();  // bounds are written under its TimeZone and DateStyle
  const char* from = bound_text(partitions.type, action.lo);
  const char* to = bound_text(partitions.type, action.hi);
  const char* name = make_table(source, time_label(action.lo, with_time));
  uint64 moved = 0;
  if (has_rows(partitions.attic)) {
    const char* time = quote_identifier(get_attname(source, partitions.attribute, false));
    const char* columns = column_list(source);
    run_as_owner(source,
                 psprintf("INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM ONLY %s WHERE %s "
                          ">= %s AND %s < %s",
                          name, columns, columns, relation_text(partitions.attic), time, from, time, to));
    Micros newest = 0;
    moved = delete_rows(partitions.attic, time_attribute(source, partitions.attribute, partitions.attic),
                        action.lo, action.hi, PG_UINT64_MAX, &newest);
  }
  const bool paused = pause_audit(moved > 0);
  attach(source, psprintf("%s FOR VALUES FROM (%s) TO (%s)", name, from, to));
  (void)pause_audit(paused);
  if (moved > 0 && has_programs(source)) guard_leaf(name);
  act_again(worker);
  ereport(LOG, (errmsg("pg_tick made partition %s from %s to %s, with " UINT64_FORMAT " rows of the attic",
                       name, from, to, moved)));
}

void drop_partition(Oid source, const Action& action) {
  const char* name = relation_text(action.relid);
  run_as_owner(source, psprintf("DROP TABLE %s", name));
  raise_raw_from(source, action.hi);
  ereport(LOG, (errmsg("pg_tick dropped partition %s: retention of %s", name, relation_text(source))));
}

void empty_attic(Oid source, const TimePartitions& partitions, const Action& action) {
  Micros newest = minus_infinity;
  const uint64 deleted =
      delete_rows(partitions.attic, time_attribute(source, partitions.attribute, partitions.attic),
                  minus_infinity, action.hi, attic_rows, &newest);
  if (newest != minus_infinity) raise_raw_from(source, newest + 1);
  if (deleted > 0)
    ereport(LOG, (errmsg("pg_tick deleted " UINT64_FORMAT " rows of %s: retention of %s", deleted,
                         relation_text(partitions.attic), relation_text(source))));
}

}  // namespace

// What a source asks for, as of this moment.
struct Retention::Wanted {
  Oid source;
  bool retention, sized;
  Micros oldest;  // now - retention, else minus_infinity
  Micros limit;   // what lies below may go: the same, and not above the watermark
  WindowSize size;
  int ahead;
};

// Refuses what is no age, or older than time.
static void check_age(const Interval* retention) {
  if (interval_micros(retention) <= 0)
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("retention must be positive"),
                    errhint("Give an interval such as '30 days'.")));
  (void)DirectFunctionCall2(timestamptz_mi_interval, TimestampTzGetDatum(GetCurrentTimestamp()),
                            IntervalPGetDatum(retention));
}

void check_retention(const SourceSettings* source) {
  if (source->partitions_ahead < 0 || source->partitions_ahead > most_ahead)
    ereport(ERROR,
            (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
             errmsg("partitions_ahead must be from 0 to %d", most_ahead), errhint("3 is the default.")));
  if (source->retention == nullptr && source->partition_size == nullptr) return;
  Relation relation = table_open(source->relid, AccessShareLock);
  const bool by_time = read_partitions(relation).by_time;
  table_close(relation, NoLock);
  const char* name = get_rel_name(source->relid);
  if (!by_time)
    ereport(ERROR,
            (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
             errmsg("retention and partition_size need a source that is partitioned by time: \"%s\" is not",
                    name),
             errhint("Delete old rows with tick.purge, or partition the table BY RANGE of its one timestamp "
                     "column.")));
  if (source->retention != nullptr) check_age(source->retention);
  if (source->partition_size == nullptr) return;
  const char* reason = unusable(source->partition_size);
  if (reason != nullptr)
    ereport(ERROR,
            (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("partition_size cannot be used: %s", reason),
             errhint("Give whole months, whole days, or a part of a day from a minute on.")));
}

void check_window_retention(const Interval* retention, bool windowed) {
  if (retention == nullptr) return;
  if (!windowed)
    ereport(ERROR,
            (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("a rollup without window has no retention"),
             errhint("Its rows are of all times. Leave retention out.")));
  check_age(retention);
}

bool Retention::run() {
  const TimestampTz now = GetCurrentTimestamp();
  if (now < next_) return needed_;
  next_ = now + look_every;
  MemoryContext memory = call([&] {
    MemoryContext made = AllocSetContextCreate(TopMemoryContext, "pg_tick retention", ALLOCSET_DEFAULT_SIZES);
    MemoryContextSwitchTo(made);
    return made;
  });
  try {
    look();
    look_at_rollups();
    prune_histories();
  } catch (const PgError& error) {
    const int code = error.data->sqlerrcode;
    const std::string message = error.message();
    call([&] {
      AbortCurrentTransaction();
      ereport(LOG, (errcode(code), errmsg("pg_tick could not look after retention: %s", message.c_str())));
    });
  }
  call([&] {
    MemoryContextSwitchTo(TopMemoryContext);
    MemoryContextDelete(memory);
  });
  return needed_;
}

void Retention::look() {
  Wanted* list = nullptr;
  uint64 count = 0;
  call([&] {
    MemoryContext memory = CurrentMemoryContext;
    SetCurrentStatementStartTimestamp();
    StartTransactionCommand();
    if (OidIsValid(get_extension_oid("pg_tick", true))) {
      PushActiveSnapshot(GetTransactionSnapshot());
      SPI_connect();
      SPIPlanPtr plan = kept_plan(
          "SELECT s.relid, now() - s.retention, least(now() - s.retention, CASE WHEN EXISTS (SELECT FROM "
          "tick_catalog.rollup r WHERE r.source = s.relid) THEN coalesce(w.watermark, '-infinity') END), "
          "s.partition_size, s.partitions_ahead "
          "FROM tick_catalog.source s LEFT JOIN tick_catalog.watermark w ON w.source = s.relid "
          "WHERE s.retention IS NOT NULL OR s.partition_size IS NOT NULL ORDER BY s.relid",
          0, nullptr);
      if (SPI_execute_plan(plan, nullptr, nullptr, true, 0) != SPI_OK_SELECT)
        elog(ERROR, "pg_tick: no settings");
      list = static_cast<Wanted*>(MemoryContextAllocZero(memory, sizeof(Wanted) * (SPI_processed + 1)));
      for (; count < SPI_processed; ++count) {
        Wanted& wanted = list[count];
        bool null, no_retention, no_size;
        HeapTuple tuple = SPI_tuptable->vals[count];
        TupleDesc desc = SPI_tuptable->tupdesc;
        wanted.source = DatumGetObjectId(SPI_getbinval(tuple, desc, 1, &null));
        const Datum oldest = SPI_getbinval(tuple, desc, 2, &no_retention);
        const Datum limit = SPI_getbinval(tuple, desc, 3, &null);
        const Datum size = SPI_getbinval(tuple, desc, 4, &no_size);
        wanted.retention = !no_retention;
        wanted.oldest = no_retention ? minus_infinity : DatumGetTimestampTz(oldest);
        wanted.limit = no_retention ? minus_infinity : DatumGetTimestampTz(limit);
        wanted.sized = !no_size;
        if (!no_size) wanted.size = window_size(DatumGetIntervalP(size));
        wanted.ahead = DatumGetInt32(SPI_getbinval(tuple, desc, 5, &null));
      }
      SPI_finish();
      PopActiveSnapshot();
    }
    CommitTransactionCommand();
    MemoryContextSwitchTo(memory);
  });
  needed_ = count > 0;
  std::erase_if(sources_, [&](const auto& known) {
    for (uint64 i = 0; i < count; ++i)
      if (list[i].source == known.first) return false;
    return true;
  });
  for (uint64 i = 0; i < count; ++i) {
    State& state = sources_[list[i].source];
    keep(list[i], state.making);
    keep(list[i], state.dropping);
    tell(list[i].source);
  }
}

// Steps of one lane until there is nothing to do or something in the way.
void Retention::keep(const Wanted& wanted, Lane& lane) {
  const TimestampTz started = GetCurrentTimestamp();
  const bool dropping = &lane == &sources_[wanted.source].dropping;
  if (started < lane.due) {
    next_ = std::min(next_, lane.due);
    return;
  }
  Outcome outcome = Outcome::done;
  std::string trouble;
  lane.due = 0;
  while (outcome == Outcome::done && GetCurrentTimestamp() < started + most_time) {
    MemoryContext memory = CurrentMemoryContext;
    try {
      outcome = step(wanted, dropping, trouble);
    } catch (const PgError& error) {
      const int code = error.data->sqlerrcode;
      outcome = code == ERRCODE_LOCK_NOT_AVAILABLE || code == ERRCODE_T_R_DEADLOCK_DETECTED
                    ? Outcome::locked
                    : Outcome::waiting;
      trouble = error.message();
    } catch (const Error& error) {
      outcome = Outcome::waiting;
      trouble = error.what();
    }
    call([&] {
      AbortCurrentTransaction();
      MemoryContextSwitchTo(memory);
    });
  }
  const TimestampTz now = GetCurrentTimestamp();
  if (outcome != Outcome::locked) lane.locked_since = 0;
  switch (outcome) {
    case Outcome::done:  // more at once
      next_ = now;
      break;
    case Outcome::nothing:
      lane.trouble.clear();
      break;
    case Outcome::locked:
      if (lane.locked_since == 0) lane.locked_since = now;
      if (now - lane.locked_since > locked_trouble) lane.trouble = trouble;
      lane.due = now + locked_rest;
      break;
    case Outcome::waiting:
      lane.trouble = trouble;
      lane.due = now + error_rest;
      break;
  }
  if (lane.due != 0) next_ = std::min(next_, lane.due);
}

// One step in a transaction of its own; the caller aborts what is not committed.
Retention::Outcome Retention::step(const Wanted& wanted, bool dropping, std::string& trouble) {
  const Oid source = wanted.source;
  const TimestampTz now = GetCurrentTimestamp();
  State& state = sources_[source];
  Action action{};
  TimePartitions partitions{};
  const auto plan = [&]() -> Action {
    Relation relation = try_relation_open(source, NoLock);
    if (relation == nullptr) return {};
    partitions = read_partitions(relation);
    relation_close(relation, NoLock);
    Action found{};
    if (!partitions.by_time) return found;
    if (!dropping) {
      if (!wanted.sized) return found;
      if (!OidIsValid(partitions.attic)) return {Action::attic, InvalidOid, 0, 0};
      (void)find_missing(partitions, wanted.size, wanted.ahead, wanted.oldest, now, &found);
      return found;
    }
    if (!wanted.retention) return found;
    if (partitions.count > 0 && partitions.list[0].hi <= wanted.limit)
      return {Action::drop, partitions.list[0].relid, partitions.list[0].lo, partitions.list[0].hi};
    if (state.attic_due <= now && has_rows(partitions.attic))
      return {Action::empty, partitions.attic, minus_infinity, wanted.limit};
    return found;
  };
  const bool locked = call([&] {
    SetCurrentStatementStartTimestamp();
    StartTransactionCommand();
    // A safety net for locks that DDL takes beyond those asked for: nobody may queue behind us for long.
    (void)set_config_option("lock_timeout", "100ms", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0,
                            false);
    if (!ConditionalLockRelationOid(source, AccessShareLock)) return false;
    action = plan();
    return true;
  });
  if (locked && action.kind == Action::none) return Outcome::nothing;
  if (locked && dropping) {
    // What is still to be computed needs the rows.
    const char* reason = call([&] {
      PushActiveSnapshot(GetTransactionSnapshot());
      SPI_connect();
      Oid types[] = {OIDOID, INT8OID, INT8OID};
      Datum values[] = {ObjectIdGetDatum(source), Int64GetDatum(action.lo), Int64GetDatum(action.hi)};
      SPI_execute_plan(kept_plan("SELECT format('rows of %s are still to be computed for rollup %s', "
                                 "r.source::regclass, r.view::regclass) FROM tick_catalog.pending p JOIN "
                                 "tick_catalog.rollup r ON r.id = p.rollup WHERE r.source = $1 AND r.parent "
                                 "IS NULL AND p.lo < $3 "
                                 "AND p.hi > $2 ORDER BY r.id LIMIT 1",
                                 3, types),
                       values, nullptr, true, 1);
      char* found =
          SPI_processed == 0 ? nullptr : SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
      if (found != nullptr) found = MemoryContextStrdup(TopTransactionContext, found);
      SPI_finish();
      PopActiveSnapshot();
      return found;
    });
    if (reason != nullptr) {
      trouble = reason;
      return Outcome::waiting;
    }
  }
  const TimestampTz locked_since = state.making.locked_since;
  const bool hurried = locked_since != 0 && now - locked_since > locked_patience;
  const bool still = locked && call([&] {
                       if (!lock_for(action, source, partitions.attic, hurried)) return false;
                       AcceptInvalidationMessages();
                       const Action before = action;
                       action = plan();
                       return action == before;
                     });
  if (!still) {
    Lane& lane = dropping ? state.dropping : state.making;
    if (lane.locked_since == 0 || now - lane.locked_since < locked_trouble) return Outcome::locked;
    trouble = std::string("locks are held by ") +
              call([&] { return lock_holders(source, dropping ? AccessExclusiveLock : RowExclusiveLock); });
    return Outcome::locked;
  }
  // Everybody who wrote these rows has ended; now they must have been merged, too.
  call([&] { PushActiveSnapshot(GetTransactionSnapshot()); });
  if (dropping && !covered(source, partitions.attribute, action.hi)) return Outcome::locked;
  call([&] {
    switch (action.kind) {
      case Action::attic:
        make_attic(source);
        break;
      case Action::make:
        make_partition(source, partitions, action, wanted.size.micros != 0);
        break;
      case Action::drop:
        drop_partition(source, action);
        break;
      case Action::empty:
        empty_attic(source, partitions, action);
        break;
      case Action::none:
        break;
    }
    PopActiveSnapshot();
    CommitTransactionCommand();
  });
  if (action.kind == Action::empty)
    // A scan each time: never more than some percent of the worker's time.
    state.attic_due = GetCurrentTimestamp() + std::max(attic_rest, 50 * (GetCurrentTimestamp() - now));
  return Outcome::done;
}

// True if no delta that is not merged yet has rows below `hi`. An error if a rollup has windows by another
// time than the one the source is partitioned by.
bool Retention::covered(Oid source, AttrNumber attribute, Micros hi) {
  call([&] { SPI_connect(); });
  for (const auto& row :
       read_text("SELECT id FROM tick_catalog.program WHERE current AND source = $1::oid", source)) {
    const int64 program = std::stoll(*row[0]);
    const bool fits = call([&] {
      const Evaluator* evaluator = find_evaluator(program);
      if (evaluator == nullptr || evaluator->program.time < 0) return true;
      const int column = evaluator->plain[evaluator->program.time];
      return column >= 0 && evaluator->attribute[column] == attribute;
    });
    if (!fits)
      throw Error{Error::Code::invalid_argument,
                  "a rollup has windows by another time than the one the table is partitioned by"};
  }
  const auto frontier = read_text("SELECT snapshot::text FROM tick_catalog.frontier");
  if (frontier.size() != 1) throw Error{Error::Code::internal, "tick_catalog.frontier must have one row"};
  std::map<int64_t, std::unique_ptr<Fold>> folds;
  read_deltas(Frontier::parse(*frontier[0][0]), 0, [&](int64_t program, std::string_view payload) {
    const Evaluator* evaluator = call([&] { return find_evaluator(program); });
    if (evaluator == nullptr || evaluator->source != source) return;
    auto& fold = folds[program];
    if (!fold) fold = std::make_unique<Fold>(evaluator->program);
    merge_delta(*fold, payload);
  });
  bool result = true;
  for (const auto& [program, fold] : folds)
    for (size_t slot = 0; slot < fold->slots(); ++slot)
      if (fold->pane(slot) != no_time_pane && fold->pane(slot) < hi) result = false;
  call([&] { SPI_finish(); });
  return result;
}

// ---- windows of rollups
// -----------------------------------------------------------------------------------------------

// The rollups whose windows retention lets go of now.
void Retention::look_at_rollups() {
  struct Due {
    int32 rollup;
    int64 span;
  };
  Due* list = nullptr;
  uint64 count = 0;
  call([&] {
    MemoryContext memory = CurrentMemoryContext;
    SetCurrentStatementStartTimestamp();
    StartTransactionCommand();
    if (OidIsValid(get_extension_oid("pg_tick", true))) {
      PushActiveSnapshot(GetTransactionSnapshot());
      SPI_connect();
      SPIPlanPtr plan = kept_plan(
          "SELECT id, retention FROM tick_catalog.rollup WHERE retention IS NOT NULL AND status <> 'error' "
          "ORDER BY id",
          0, nullptr);
      if (SPI_execute_plan(plan, nullptr, nullptr, true, 0) != SPI_OK_SELECT)
        elog(ERROR, "pg_tick: no settings");
      list = static_cast<Due*>(MemoryContextAlloc(memory, sizeof(Due) * (SPI_processed + 1)));
      for (; count < SPI_processed; ++count) {
        bool null;
        HeapTuple tuple = SPI_tuptable->vals[count];
        TupleDesc desc = SPI_tuptable->tupdesc;
        list[count] = {DatumGetInt32(SPI_getbinval(tuple, desc, 1, &null)),
                       interval_micros(DatumGetIntervalP(SPI_getbinval(tuple, desc, 2, &null)))};
      }
      SPI_finish();
      PopActiveSnapshot();
    }
    CommitTransactionCommand();
    MemoryContextSwitchTo(memory);
  });
  std::map<int32, TimestampTz> known;
  std::swap(known, dropped_at_);
  for (uint64 i = 0; i < count; ++i) {
    TimestampTz& dropped_at = dropped_at_[list[i].rollup] = known[list[i].rollup];
    const TimestampTz now = GetCurrentTimestamp();
    if (now < dropped_at + std::min(list[i].span / 1000, most_delay)) continue;
    MemoryContext memory = CurrentMemoryContext;
    Dropped dropped = Dropped::all;
    std::string trouble;
    bool locked = false;
    try {
      dropped = drop_windows(list[i].rollup);
    } catch (const PgError& error) {
      locked = error.data->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE;
      trouble = error.message();
    } catch (const Error& error) {
      trouble = error.what();
    }
    if (dropped == Dropped::some) next_ = now;
    if (dropped == Dropped::all) dropped_at = now;
    if (trouble.empty()) continue;
    const char* text = trouble.c_str();
    call([&] {
      AbortCurrentTransaction();
      MemoryContextSwitchTo(memory);
      // Who locks a state table for a moment is none of the log's business.
      ereport(locked ? DEBUG1 : LOG,
              (errmsg("pg_tick could not drop windows of rollup %d: %s", list[i].rollup, text)));
    });
  }
}

// Drops windows of a rollup that have ended before its retention and the watermark, oldest first, and moves
// kept_from with them: in every snapshot there are all windows from there on, and none below.
Retention::Dropped Retention::drop_windows(int32 id) {
  Micros limit = minus_infinity;
  call([&] {
    SetCurrentStatementStartTimestamp();
    StartTransactionCommand();
    (void)set_config_option("lock_timeout", "100ms", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0,
                            false);
    stop_turns();
    PushActiveSnapshot(GetTransactionSnapshot());
    SPI_connect();
    Oid type = INT4OID;
    Datum value = Int32GetDatum(id);
    SPI_execute_plan(
        kept_plan(
            "SELECT least(now() - r.retention, w.watermark) FROM tick_catalog.rollup r JOIN "
            "tick_catalog.watermark w ON w.source = r.source WHERE r.id = $1 AND w.watermark IS NOT NULL "
            "AND r.retention IS NOT NULL AND NOT EXISTS (SELECT FROM tick_catalog.rollup AS c JOIN "
            "tick_catalog.pending AS p ON p.rollup = c.id WHERE c.parent = r.id AND p.lo < (extract(epoch "
            "FROM least(now() - r.retention, w.watermark) - '2000-01-01 00:00+00'::timestamptz) * "
            "1000000)::int8)",
            1, &type),
        &value, nullptr, true, 1);
    bool null = true;
    if (SPI_processed == 1)
      limit = DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
  });
  Dropped result = Dropped::nothing;
  const std::vector<Rollup> found = limit == minus_infinity ? std::vector<Rollup>{} : load_rollups(id);
  if (found.size() == 1) {
    const Rollup& rollup = found.front();
    // The first window that has not ended.
    const Micros goal = first_window(limit, rollup.size);
    if (goal > rollup.kept_from) result = drop_windows_before(rollup, goal);
  }
  call([&] {
    SPI_finish();
    PopActiveSnapshot();
    CommitTransactionCommand();
  });
  return result;
}

Retention::Dropped Retention::drop_windows_before(const Rollup& rollup, Micros goal) {
  const Oid type = rollup.column_types.at(rollup.program.keys.size());
  const auto nth_oldest = [&](int64 n) {
    return call([&] {
      const char* time = time_text(rollup);
      const char* sql =
          psprintf("SELECT s.%s FROM %s AS s WHERE s.%s < $1 ORDER BY s.%s OFFSET " INT64_FORMAT " LIMIT 1",
                   time, state_text(rollup), time, time, n);
      Oid types[1] = {type};
      Datum values[1] = {TimestampTzGetDatum(goal)};
      const Actor worker = act_as_owner(rollup.owner);
      if (SPI_execute_with_args(sql, 1, types, values, nullptr, true, 1) != SPI_OK_SELECT)
        elog(ERROR, "pg_tick: cannot read state");
      act_again(worker);
      bool null;
      return SPI_processed == 0
                 ? goal
                 : DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
    });
  };
  Micros until = nth_oldest(window_rows);
  if (until < goal && until == nth_oldest(0)) until = std::min(goal, next_window(until, rollup.size));
  call([&] {
    Oid types[2] = {type, INT4OID};
    Datum values[2] = {TimestampTzGetDatum(until), Int32GetDatum(rollup.id)};
    const char* sql = psprintf("DELETE FROM %s AS s WHERE s.%s < $1", state_text(rollup), time_text(rollup));
    const Actor worker = act_as_owner(rollup.owner);
    if (SPI_execute_with_args(sql, 1, types, values, nullptr, false, 0) != SPI_OK_DELETE)
      elog(ERROR, "pg_tick: cannot drop windows");
    act_again(worker);
    types[0] = TIMESTAMPTZOID;
    for (const char* statement :
         {"UPDATE tick_catalog.rollup SET kept_from = $1 WHERE id = $2",
          "DELETE FROM tick_catalog.stale WHERE ts < $1 AND rollup = $2",
          "DELETE FROM tick_catalog.late WHERE ts < $1 AND rollup = $2",
          "UPDATE tick_catalog.generation SET value = value + 1 WHERE $1 IS NOT NULL AND $2 "
          "IS NOT NULL"})
      if (SPI_execute_plan(kept_plan(statement, 2, types), values, nullptr, false, 0) < 0)
        elog(ERROR, "pg_tick: cannot run: %s", statement);
  });
  return until < goal ? Dropped::some : Dropped::all;
}

// Keeps tick.sources.trouble and the log true.
void Retention::tell(Oid source) {
  State& state = sources_[source];
  const std::string& making = state.making.trouble;
  const std::string& dropping = state.dropping.trouble;
  std::string trouble = making;
  if (!dropping.empty()) trouble += (making.empty() ? "not dropped: " : "; not dropped: ") + dropping;
  if (trouble == state.told) return;
  const char* text = trouble.c_str();
  call([&] {
    StartTransactionCommand();
    PushActiveSnapshot(GetTransactionSnapshot());
    SPI_connect();
    Oid types[] = {OIDOID, TEXTOID};
    Datum values[] = {ObjectIdGetDatum(source), CStringGetTextDatum(text)};
    SPI_execute_with_args("UPDATE tick_catalog.source SET trouble = nullif($2, '') WHERE relid = $1", 2,
                          types, values, nullptr, false, 0);
    SPI_finish();
    const char* name = get_rel_name(source);
    if (*text != '\0' && name != nullptr)
      ereport(WARNING, (errmsg("partitions of \"%s\" cannot be kept: %s", name, text),
                        errhint("It is tried again; tick.sources shows whether it still is so.")));
    PopActiveSnapshot();
    CommitTransactionCommand();
  });
  state.told = trouble;
}

}  // namespace tick::pg
