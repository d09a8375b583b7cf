// The launcher (one per cluster, connected to no database) starts a worker for each database that asks for
// one, and restarts it with backoff. The worker runs turns; it ends by itself when its database has no
// rollups, and lets go when somebody wants to drop or copy the database.
#include "worker.hpp"

#include <algorithm>
#include <deque>
#include <map>
#include <string>

#include "audit.hpp"
#include "catalog.hpp"
#include "changes.hpp"
#include "compute.hpp"
#include "guard.hpp"
#include "merge.hpp"
#include "observe.hpp"
#include "queue.hpp"
#include "retention.hpp"
#include "revive.hpp"
#include "shared.hpp"

extern "C" {
PGDLLEXPORT void tick_launcher_main(Datum argument);
PGDLLEXPORT void tick_worker_main(Datum argument);
}

namespace tick::pg {
namespace {

constexpr long idle_milliseconds = 1000;
constexpr TimestampTz healthy = 60 * USECS_PER_SEC;

// ---- launcher
// -----------------------------------------------------------------------------------------------

void forget_launcher(int, Datum) {
  set_launcher_latch(nullptr);
}

// Asks for a worker in every database once: each ends at once where there is nothing to do.
void request_all() {
  StartTransactionCommand();
  (void)GetTransactionSnapshot();
  Relation databases = table_open(DatabaseRelationId, AccessShareLock);
  TableScanDesc scan = table_beginscan_catalog(databases, 0, nullptr);
  for (HeapTuple tuple; (tuple = heap_getnext(scan, ForwardScanDirection)) != nullptr;) {
    auto* database = reinterpret_cast<Form_pg_database>(GETSTRUCT(tuple));
    if (!database->datallowconn || database->datistemplate) continue;
    DatabaseSlot* slot = slot_for(database->oid);
    if (slot != nullptr) pg_atomic_write_u32(&slot->requested, 1);
  }
  table_endscan(scan);
  table_close(databases, AccessShareLock);
  CommitTransactionCommand();
}

bool database_exists(Oid database) {
  StartTransactionCommand();
  (void)GetTransactionSnapshot();
  Relation databases = table_open(DatabaseRelationId, AccessShareLock);
  ScanKeyData key;
  ScanKeyInit(&key, Anum_pg_database_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(database));
  TableScanDesc scan = table_beginscan_catalog(databases, 1, &key);
  HeapTuple tuple = heap_getnext(scan, ForwardScanDirection);
  const bool exists =
      HeapTupleIsValid(tuple) && reinterpret_cast<Form_pg_database>(GETSTRUCT(tuple))->datallowconn;
  table_endscan(scan);
  table_close(databases, AccessShareLock);
  CommitTransactionCommand();
  return exists;
}

bool start_worker(Oid database) {
  BackgroundWorker worker;
  memset(&worker, 0, sizeof worker);
  worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
  worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
  worker.bgw_restart_time = BGW_NEVER_RESTART;  // the launcher restarts, with backoff
  worker.bgw_notify_pid = MyProcPid;
  worker.bgw_main_arg = ObjectIdGetDatum(database);
  strlcpy(worker.bgw_library_name, "pg_tick", BGW_MAXLEN);
  strlcpy(worker.bgw_function_name, "tick_worker_main", BGW_MAXLEN);
  snprintf(worker.bgw_name, BGW_MAXLEN, "pg_tick worker for database %u", database);
  strlcpy(worker.bgw_type, "pg_tick worker", BGW_MAXLEN);
  BackgroundWorkerHandle* handle;
  if (!RegisterDynamicBackgroundWorker(&worker, &handle)) return false;
  pid_t pid;
  const BgwHandleStatus status = WaitForBackgroundWorkerStartup(handle, &pid);
  pfree(handle);
  return status == BGWH_STARTED || status == BGWH_STOPPED;
}

// Starts what is asked for and due. Returns how long to sleep, in milliseconds; -1 = until woken.
long serve_requests(TimestampTz* started_at) {
  long sleep = -1;
  for (int i = 0; i < max_databases; ++i) {
    DatabaseSlot* slot = slot_at(i);
    if (slot->database == InvalidOid || slot->worker != 0 || pg_atomic_read_u32(&slot->requested) == 0)
      continue;
    const TimestampTz now = GetCurrentTimestamp();
    if (slot->next_start > now) {
      const long wait = static_cast<long>((slot->next_start - now) / 1000) + 1;
      sleep = sleep < 0 ? wait : Min(sleep, wait);
      continue;
    }
    if (!database_exists(slot->database)) {
      LWLockAcquire(shared_lock(), LW_EXCLUSIVE);
      slot->database = InvalidOid;
      LWLockRelease(shared_lock());
      continue;
    }
    // A worker that ran well for a while starts afresh; one that keeps dying waits 1, 2, 4 .. 64 seconds.
    if (started_at[i] != 0 && now - started_at[i] > healthy) slot->failures = 0;
    started_at[i] = now;
    slot->failures = Min(slot->failures + 1, 7);
    slot->next_start = now + (USECS_PER_SEC << (slot->failures - 1));
    if (!start_worker(slot->database))
      ereport(LOG, (errmsg("pg_tick cannot start a worker for database %u", slot->database),
                    errhint("Consider increasing max_worker_processes.")));
    sleep = sleep < 0 ? 1000 : Min(sleep, 1000L);
  }
  return sleep;
}

void launch() {
  pqsignal(SIGHUP, SignalHandlerForConfigReload);
  pqsignal(SIGTERM, die);
  before_shmem_exit(forget_launcher, 0);
  BackgroundWorkerUnblockSignals();
  BackgroundWorkerInitializeConnection(nullptr, nullptr, 0);
  pgstat_report_appname("pg_tick launcher");
  set_launcher_latch(MyLatch);
  static TimestampTz started_at[max_databases];
  request_all();
  for (;;) {
    ResetLatch(MyLatch);
    CHECK_FOR_INTERRUPTS();
    if (ConfigReloadPending) {
      ConfigReloadPending = false;
      ProcessConfigFile(PGC_SIGHUP);
    }
    const long sleep = serve_requests(started_at);
    pgstat_report_activity(STATE_IDLE, nullptr);
    (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (sleep >= 0 ? WL_TIMEOUT : 0), sleep,
                    wait_event());
  }
}

// ---- worker
// -------------------------------------------------------------------------------------------------

DatabaseSlot* worker_slot = nullptr;
bool orderly = false;     // the worker ends because there is nothing to do
uint64 orderly_seen = 0;  // commits it knew of then
volatile sig_atomic_t told_to_end = false;

void on_terminate(SIGNAL_ARGS) {
  told_to_end = true;
  die(postgres_signal_arg);
}

// Leaves the slot to a successor; asks for one unless there is nothing to do. The postmaster tells the
// launcher.
void leave_slot(int, Datum) {
  if (worker_slot == nullptr) return;
  if (orderly) worker_slot->next_start = 0;
  // Somebody has ended it: that is no failure. The next one comes a second after its start.
  if (told_to_end) worker_slot->next_start = worker_slot->started_at + USECS_PER_SEC;
  if (orderly || told_to_end) worker_slot->failures = 0;
  worker_slot->worker = 0;
  worker_slot->latch = nullptr;
  pg_memory_barrier();
  if (!orderly || pg_atomic_read_u64(&worker_slot->pending) != orderly_seen)
    pg_atomic_write_u32(&worker_slot->requested, 1);
}

// How long somebody's snapshot has held back the xmin horizon: versions of hot rows pile up behind it. That
// it is free again is seen within `look_every`.
class HorizonClock {
 public:
  static constexpr TimestampTz look_every = USECS_PER_SEC / 50;

  TimestampTz held_for() {
    const TimestampTz now = GetCurrentTimestamp();
    if (now - looked_at_ < (held_ == 0 ? USECS_PER_SEC : look_every)) return held_;
    looked_at_ = now;
    const FullTransactionId next = ReadNextFullTransactionId();
    const TransactionId horizon = call([&] { return GetOldestNonRemovableTransactionId(nullptr); });
    if (samples_.empty() || now - samples_.back().at >= USECS_PER_SEC)
      samples_.push_back({now, XidFromFullTransactionId(next)});
    while (samples_.size() > 2 && TransactionIdPrecedesOrEquals(samples_[1].next, horizon))
      samples_.pop_front();
    if (samples_.size() > 4000) samples_.erase(samples_.begin() + 1, samples_.begin() + 2000);
    held_ = TransactionIdPrecedesOrEquals(samples_.back().next, horizon) ? 0 : now - samples_.front().at;
    return held_ = held_ < 2 * USECS_PER_SEC ? 0 : held_;
  }

 private:
  struct Sample {
    TimestampTz at;
    TransactionId next;
  };
  std::deque<Sample> samples_;
  TimestampTz held_ = 0, looked_at_ = 0;
};

void sleep_until(TimestampTz due) {
  for (;;) {
    const long left = static_cast<long>((due - GetCurrentTimestamp() + 999) / 1000);
    if (left <= 0) return;
    call([&] {
      // Not woken by writers: `sleeping` is off.
      (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, left, wait_event());
      ResetLatch(MyLatch);
      look_at_signals();
    });
  }
}

// Waits for a commit, until `due`, or for the moment after which other things have to be looked at.
void wait_for_work(DatabaseSlot* slot, uint64 seen, TimestampTz due) {
  const TimestampTz now = GetCurrentTimestamp();
  long timeout = idle_milliseconds;
  if (due - now < timeout * 1000) timeout = due <= now ? 1 : static_cast<long>((due - now + 999) / 1000);
  call([&] {
    pgstat_report_stat(false);
    pgstat_report_activity(STATE_IDLE, nullptr);
    pg_atomic_exchange_u32(&slot->sleeping, 1);
    if (pg_atomic_read_u64(&slot->pending) == seen)
      (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, timeout, wait_event());
    pg_atomic_write_u32(&slot->sleeping, 0);
    ResetLatch(MyLatch);
    look_at_signals();
  });
}

// What goes wrong is said at once, but of each kind only every ten seconds: whatever is done to the worker,
// the log stays readable.
class FailureLog {
 public:
  // Ends the transaction that failed.
  void report(int sqlstate, const std::string& message) {
    const TimestampTz now = GetCurrentTimestamp();
    Kind& kind = kinds_[sqlstate];
    ++kind.count;
    const bool say = kind.said == 0 || now - kind.said > say_every;
    const uint64 like = kind.count - 1;
    if (say) kind = {now, 0};
    call([&] {
      HOLD_INTERRUPTS();
      AbortCurrentTransaction();
      if (say)
        ereport(LOG,
                (errcode(sqlstate), errmsg("pg_tick turn failed, will be run again: %s", message.c_str()),
                 like == 0
                     ? 0
                     : errdetail(UINT64_FORMAT " more failures of this kind since the last report.", like)));
      RESUME_INTERRUPTS();
    });
  }

 private:
  static constexpr TimestampTz say_every = 10 * USECS_PER_SEC;
  struct Kind {
    TimestampTz said = 0;
    uint64 count = 0;
  };
  std::map<int, Kind> kinds_;
};

// What a worker does over and over. Whatever goes wrong is passing: it is reported and slept over, with
// growing patience, and done again.
class Cycle {
 public:
  explicit Cycle(DatabaseSlot* slot) : slot_(slot), last_check_(GetCurrentTimestamp()) {}

  void run() {
    since_ = static_cast<TimestampTz>(pg_atomic_exchange_u64(&slot_->waiting_since, 0));
    MemoryContext memory = call([&] {
      MemoryContext made = AllocSetContextCreate(TopMemoryContext, "pg_tick turn", ALLOCSET_DEFAULT_SIZES);
      MemoryContextSwitchTo(made);
      return made;
    });
    try {
      attempt(memory);
      failures_ = 0;
    } catch (const PgError& error) {
      log_.report(error.data->sqlerrcode, error.message());
      ++failures_;
    } catch (const Error& error) {
      log_.report(ERRCODE_INTERNAL_ERROR, error.what());
      ++failures_;
    }
    call([&] {
      MemoryContextSwitchTo(TopMemoryContext);
      MemoryContextDelete(memory);
    });
    if (failures_ == 0) return;
    if (since_ != 0) {
      uint64 none = 0;
      pg_atomic_compare_exchange_u64(&slot_->waiting_since, &none, static_cast<uint64>(since_));
    }
    failures_ = std::min(failures_, most_failures);
    sleep_until(GetCurrentTimestamp() + (USECS_PER_SEC / 200 << failures_));
  }

 private:
  static constexpr int most_failures = 10;  // 5 s
  static constexpr uint64 long_held = 10 * USECS_PER_SEC;

  void attempt(MemoryContext memory) {
    const uint64 seen = pg_atomic_read_u64(&slot_->pending);
    const TimestampTz started = GetCurrentTimestamp();
    call([&] {
      AcceptInvalidationMessages();
      pgstat_report_activity(STATE_RUNNING, "pg_tick turn");
    });
    TurnResult result = merger_.turn(since_, pg_atomic_read_u64(&slot_->held_for) > long_held);
    if (result.restored) result.more = revive();
    if (result.computed) rouse_computer(result.touched);
    const TimestampTz ended = GetCurrentTimestamp();
    pg_atomic_fetch_add_u64(&slot_->turns, 1);
    if (result.changed) note_turn(slot_, started, ended, result);
    if (since_ != 0) pg_atomic_write_u64(&slot_->last_lag, static_cast<uint64>(ended - since_));
    since_ = 0;
    if ((result.restored || !retention_.run()) && !result.rollups) {
      // Nothing to do here: a later create_rollup asks for a new worker. It may just have done so.
      orderly = true;
      orderly_seen = seen;
      call([&] { proc_exit(0); });
    }
    // Rows of the queue that a dump has brought are not to be judged by this database's frontier.
    if (ended - last_rotation_ > 500 * 1000 && result.rollups && !result.restored) {
      last_rotation_ = ended;
      rotate_queue();
      rotate_changes();
    }
    if (result.more) {  // also in a long run of turns
      if (ended - last_check_ > USECS_PER_SEC) check(ended, result.restored);
      return;
    }
    call([&] { MemoryContextReset(memory); });
    for (TimestampTz due = next_turn(started); result.changed && due > GetCurrentTimestamp();
         due = next_turn(started))
      sleep_until(std::min(due, GetCurrentTimestamp() + HorizonClock::look_every));
    if (pg_atomic_read_u64(&slot_->pending) == seen && !retention_.more())
      wait_for_work(slot_, seen, result.due);
    if (ended - last_check_ > (audit_expected() ? USECS_PER_SEC / 50 : USECS_PER_SEC))
      check(ended, result.restored);
  }

  // When the turn after one that began at `started` may begin. It comes nearer at once when the horizon is
  // free.
  TimestampTz next_turn(TimestampTz started) {
    const TimestampTz held_for = horizon_.held_for();
    pg_atomic_write_u64(&slot_->held_for, static_cast<uint64>(held_for));
    return started +
           std::max<TimestampTz>(static_cast<TimestampTz>(tick_turn_interval) * 1000, held_for / 200);
  }

  void check(TimestampTz now, bool restored) {
    last_check_ = now;
    if (!restored && relations_changed()) {
      try {
        audit_sources();
      } catch (...) {
        expect_audit();
        throw;
      }
    }
    const bool wanted = call([&] {
      StartTransactionCommand();
      const bool asked_for = database_wanted();
      CommitTransactionCommand();
      return asked_for;
    });
    // Drop, copy or rename of the database: let go, and be started again afterwards if it is still there.
    if (!wanted) return;
    end_computer();
    call([&] { proc_exit(0); });
  }

  DatabaseSlot* slot_;
  Merger merger_;
  Retention retention_;
  HorizonClock horizon_;
  FailureLog log_;
  TimestampTz since_ = 0;  // the first commit that waits, until a turn has taken it up
  int failures_ = 0;       // one after another
  TimestampTz last_rotation_ = 0, last_check_;
};

void work(Oid database) {
  call([&] {
    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    pqsignal(SIGTERM, on_terminate);
    worker_slot = slot_for(database);
    if (worker_slot == nullptr || worker_slot->worker != 0) {
      worker_slot = nullptr;
      proc_exit(0);  // no slot, or another worker is there
    }
    before_shmem_exit(leave_slot, 0);
    pg_atomic_write_u32(&worker_slot->requested, 0);
    worker_slot->latch = MyLatch;
    worker_slot->started_at = GetCurrentTimestamp();
    pg_write_barrier();
    worker_slot->worker = MyProcPid;
    BackgroundWorkerUnblockSignals();
    BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
    pgstat_report_appname("pg_tick worker");
    safe_settings();
    watch_relations();
  });
  Cycle cycle(worker_slot);
  for (;;) cycle.run();
}

}  // namespace

uint32 wait_event() {
  static uint32 event = 0;
  if (event == 0) event = TICK_WAIT_EVENT("PgTickIdle");
  return event;
}

void look_at_signals() {
  HOLD_CANCEL_INTERRUPTS();
  CHECK_FOR_INTERRUPTS();
  QueryCancelPending = false;
  RESUME_CANCEL_INTERRUPTS();
  if (ConfigReloadPending) {
    ConfigReloadPending = false;
    ProcessConfigFile(PGC_SIGHUP);
  }
}

void safe_settings() {
  const char* settings[][2] = {{"search_path", "pg_catalog, pg_temp"},
                               {"statement_timeout", "0"},
                               {"lock_timeout", "5s"},
                               {"deadlock_timeout", "100ms"},  // whoever drops or alters goes first
                               {"idle_in_transaction_session_timeout", "0"},
                               {"default_transaction_isolation", "read committed"},
                               {"default_transaction_read_only", "off"},
                               {"synchronous_commit", "off"},
                               {"session_replication_role", "origin"},
                               {"jit", "off"},
                               {"extra_float_digits", "1"},
                               {"TimeZone", "UTC"},
                               {"DateStyle", "ISO"},
                               {"enable_seqscan", "off"},
                               {"plan_cache_mode", "force_generic_plan"},
                               {"standard_conforming_strings", "on"},
                               {"array_nulls", "on"},
                               {"transform_null_equals", "off"},
                               {"transaction_timeout", "0"}};
  for (const auto& [name, value] : settings)
    if (GetConfigOption(name, true, false) != nullptr)  // not every PostgreSQL has all of them
      SetConfigOption(name, value, PGC_SUSET, PGC_S_OVERRIDE);
}

// Sessions hold ROW EXCLUSIVE on their database only while they start.
bool database_wanted() {
  LOCKTAG tag;
  SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, MyDatabaseId, 0);
  if (LockAcquire(&tag, RowExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL) return true;
  LockRelease(&tag, RowExclusiveLock, false);
  return false;
}

void register_launcher() {
  BackgroundWorker launcher;
  memset(&launcher, 0, sizeof launcher);
  launcher.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
  launcher.bgw_start_time = BgWorkerStart_RecoveryFinished;
  launcher.bgw_restart_time = 1;
  strlcpy(launcher.bgw_library_name, "pg_tick", BGW_MAXLEN);
  strlcpy(launcher.bgw_function_name, "tick_launcher_main", BGW_MAXLEN);
  strlcpy(launcher.bgw_name, "pg_tick launcher", BGW_MAXLEN);
  strlcpy(launcher.bgw_type, "pg_tick launcher", BGW_MAXLEN);
  RegisterBackgroundWorker(&launcher);
}

}  // namespace tick::pg

void tick_launcher_main(Datum) {
  tick::pg::entry([] { tick::pg::launch(); });
}

void tick_worker_main(Datum argument) {
  tick::pg::entry([&] { tick::pg::work(DatumGetObjectId(argument)); });
}
