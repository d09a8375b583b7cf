#include "helper.hpp"

#include <algorithm>

#include "catalog.hpp"
#include "guard.hpp"
#include "scan.hpp"
#include "session.hpp"
#include "worker.hpp"

extern "C" {
PGDLLEXPORT void tick_helper_main(Datum argument);
PG_FUNCTION_INFO_V1(tick_scan_progress);
PGDLLEXPORT Datum tick_scan_progress(PG_FUNCTION_ARGS);
}

namespace tick::pg {
namespace {

constexpr size_t piece_slots = 250;                // a few milliseconds of merging
constexpr size_t helper_memory = scan_memory / 2;  // there are two folds while it is written out
constexpr long answer_milliseconds = 1000;         // that a turn waits for the helper
constexpr long idle_milliseconds = 1000;           // that the helper waits for another order
constexpr TimestampTz start_patience = 10 * USECS_PER_SEC;
constexpr TimestampTz look_around = USECS_PER_SEC / 50;

HelperSlot* slot_of_helper() {
  DatabaseSlot* slot = my_slot();
  return slot == nullptr ? nullptr : &slot->helper;
}

// Changes or reads the slot; f must not raise.
template <typename F>
auto with_slot(F&& f) {
  LWLockAcquire(shared_lock(), LW_EXCLUSIVE);
  if constexpr (std::is_void_v<std::invoke_result_t<F&>>) {
    f();
    LWLockRelease(shared_lock());
  } else {
    const auto result = f();
    LWLockRelease(shared_lock());
    return result;
  }
}

void wait_for_latch(long milliseconds) {
  (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, milliseconds, wait_event());
  ResetLatch(MyLatch);
  CHECK_FOR_INTERRUPTS();
}

}  // namespace

// ---- the worker's side
// -------------------------------------------------------------------------------------------------

HelperView look_at_helper() {
  HelperSlot* helper = slot_of_helper();
  if (helper == nullptr) return {HelperPhase::absent, 0};
  return with_slot([&] {
    const bool never_came =
        helper->phase == HelperPhase::starting && GetCurrentTimestamp() - helper->asked_at > start_patience;
    if (never_came) helper->phase = HelperPhase::absent;
    const bool busy = helper->phase == HelperPhase::given || helper->phase == HelperPhase::running;
    return HelperView{helper->phase, busy ? helper->scan : 0};
  });
}

bool start_helper() {
  HelperSlot* helper = slot_of_helper();
  if (helper == nullptr) return false;
  const bool absent = with_slot([&] {
    if (helper->phase != HelperPhase::absent) return false;
    helper->phase = HelperPhase::starting;
    helper->asked_at = GetCurrentTimestamp();
    return true;
  });
  if (!absent) return true;
  const bool registered = call([&] {
    BackgroundWorker process;
    memset(&process, 0, sizeof process);
    process.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
    process.bgw_start_time = BgWorkerStart_RecoveryFinished;
    process.bgw_restart_time = BGW_NEVER_RESTART;
    process.bgw_notify_pid = MyProcPid;
    process.bgw_main_arg = ObjectIdGetDatum(MyDatabaseId);
    strlcpy(process.bgw_library_name, "pg_tick", BGW_MAXLEN);
    strlcpy(process.bgw_function_name, "tick_helper_main", BGW_MAXLEN);
    snprintf(process.bgw_name, BGW_MAXLEN, "pg_tick scan for database %u", MyDatabaseId);
    strlcpy(process.bgw_type, "pg_tick scan", BGW_MAXLEN);
    return RegisterDynamicBackgroundWorker(&process, nullptr);
  });
  if (registered) return true;
  with_slot([&] { helper->phase = HelperPhase::absent; });
  call([&] {
    ereport(LOG, (errmsg("pg_tick cannot start a process that scans history: the worker does it itself"),
                  errhint("Consider increasing max_worker_processes.")));
  });
  return false;
}

bool hand_over(const ScanOrder& order) {
  HelperSlot* helper = slot_of_helper();
  const char* snapshot = call([&] { return ExportSnapshot(GetActiveSnapshot()); });
  const bool given = with_slot([&] {
    if (helper->phase != HelperPhase::idle || strlen(snapshot) >= sizeof helper->snapshot) return false;
    helper->phase = HelperPhase::given;
    helper->rollup = order.rollup;
    helper->scan = order.scan;
    helper->lo = order.lo;
    helper->hi = order.hi;
    helper->yields = order.yields;
    strlcpy(helper->snapshot, snapshot, sizeof helper->snapshot);
    pg_atomic_write_u32(&helper->stop, 0);
    pg_atomic_write_u64(&helper->rows, 0);
    pg_atomic_write_u64(&helper->rows_expected, static_cast<uint64>(std::max(order.rows, 0.0)));
    pg_atomic_write_u64(&helper->started_at, static_cast<uint64>(GetCurrentTimestamp()));
    if (helper->latch != nullptr) SetLatch(helper->latch);
    return true;
  });
  if (!given) return false;
  const TimestampTz give_up = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), answer_milliseconds);
  for (;;) {
    enum class Answer { none, yes, no };
    const Answer answer = with_slot([&] {
      if (helper->accepted == order.scan) return Answer::yes;
      if (helper->phase == HelperPhase::given && helper->scan == order.scan) {
        if (GetCurrentTimestamp() < give_up) return Answer::none;
        helper->phase = HelperPhase::idle;  // taken back
      }
      return Answer::no;
    });
    if (answer != Answer::none) return answer == Answer::yes;
    call([&] { wait_for_latch(20); });
  }
}

void stop_scan(int64_t scan) {
  HelperSlot* helper = slot_of_helper();
  if (helper == nullptr) return;
  with_slot([&] {
    if (helper->phase == HelperPhase::running && helper->scan == scan) pg_atomic_write_u32(&helper->stop, 1);
  });
}

std::optional<std::string> scan_error(int64_t scan) {
  HelperSlot* helper = slot_of_helper();
  char error[sizeof helper->error] = "";
  const bool failed = helper != nullptr && with_slot([&] {
                        if (helper->failed != scan) return false;
                        strlcpy(error, helper->error, sizeof error);
                        return true;
                      });
  return failed ? std::make_optional<std::string>(error) : std::nullopt;
}

bool has_piece(int64_t scan) {
  return call([&] {
    Oid type = INT8OID;
    Datum value = Int64GetDatum(scan);
    SPIPlanPtr plan = kept_plan("SELECT FROM tick_catalog.backfill WHERE scan = $1 LIMIT 1", 1, &type);
    if (SPI_execute_plan(plan, &value, nullptr, false, 1) != SPI_OK_SELECT)
      elog(ERROR, "pg_tick: cannot read what a scan has found");
    return SPI_processed > 0;
  });
}

std::string take_piece(int64_t scan) {
  const char* data = nullptr;
  size_t size = 0;
  call([&] {
    Oid type = INT8OID;
    Datum value = Int64GetDatum(scan);
    SPIPlanPtr plan = kept_plan(
        "DELETE FROM tick_catalog.backfill b USING (SELECT scan, newest, number FROM tick_catalog.backfill"
        "  WHERE scan = $1 ORDER BY newest DESC, number DESC LIMIT 1) n"
        " WHERE (b.scan, b.newest, b.number) = (n.scan, n.newest, n.number) RETURNING b.payload",
        1, &type);
    if (SPI_execute_plan(plan, &value, nullptr, false, 0) != SPI_OK_DELETE_RETURNING || SPI_processed != 1)
      elog(ERROR, "pg_tick: cannot take what a scan has found");
    bool null;
    bytea* payload = DatumGetByteaPP(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
    data = VARDATA_ANY(payload);
    size = static_cast<size_t>(VARSIZE_ANY_EXHDR(payload));
  });
  std::string piece(data, size);
  call([&] { SPI_freetuptable(SPI_tuptable); });
  return piece;
}

void delete_stray_pieces() {
  call([&] {
    SPIPlanPtr plan = kept_plan(
        "DELETE FROM tick_catalog.backfill b WHERE NOT EXISTS"
        " (SELECT FROM tick_catalog.pending p WHERE p.scan = b.scan)",
        0, nullptr);
    if (SPI_execute_plan(plan, nullptr, nullptr, false, 0) != SPI_OK_DELETE)
      elog(ERROR, "pg_tick: cannot delete what nobody waits for");
  });
}

// ---- the process
// -------------------------------------------------------------------------------------------------------

namespace {

struct Order {
  int64 scan;
  int32 rollup;
  Micros lo, hi;
  bool yields;
  char snapshot[sizeof HelperSlot::snapshot];
};

// The transaction is over when this runs: it was registered before the connection's own clean-up.
void leave_helper(int, Datum) {
  HelperSlot* helper = slot_of_helper();
  if (helper == nullptr || helper->pid != MyProcPid) return;
  with_slot([&] {
    helper->pid = 0;
    helper->latch = nullptr;
    helper->phase = HelperPhase::absent;
    helper->scan = 0;
  });
  wake(false);
}

bool somebody_waits_for(Oid relation) {
  if (!ConditionalLockRelationOid(relation, RowShareLock)) return true;
  UnlockRelationOid(relation, RowShareLock);
  return false;
}

// One scan, in one transaction.
class Scan {
 public:
  Scan(HelperSlot* helper, const Order& order) : helper_(helper), order_(order) {}

  // Throws PgError and Error, with the transaction open.
  void run() {
    call([&] {
      SetCurrentStatementStartTimestamp();
      StartTransactionCommand();
      XactIsoLevel = XACT_REPEATABLE_READ;
      ImportSnapshot(order_.snapshot);
      PushActiveSnapshot(GetTransactionSnapshot());
      SPI_connect();
    });
    // The turn that gave the order still holds the leaves' locks: nothing has changed since its snapshot.
    const std::vector<Rollup> rollups = load_rollups(order_.rollup);
    if (rollups.size() != 1) return refuse();
    const Rollup& rollup = rollups.front();
    auto leaves = lock_leaves_of(rollup);
    if (!leaves) return refuse();
    if (!accept()) return refuse();
    relations_.push_back(rollup.source);
    from_ = std::max(order_.lo, rollup.kept_from);
    if (rollup.windowed) from_ = begin_of_rows(from_, rollup.size);
    rows_end_ = rollup.windowed ? end_of_rows(order_.hi, rollup.size) : order_.hi;
    for (const Leaf& leaf : *leaves) {
      const bool needed = !rollup.windowed || !leaf.bounded || (leaf.lo < rows_end_ && leaf.hi > from_);
      if (needed)
        relations_.push_back(leaf.relid);
      else
        call([&] { UnlockRelationOid(leaf.relid, AccessShareLock); });
    }
    Fold panes = empty(rollup);
    looked_at_ = GetCurrentTimestamp();
    Evaluator* evaluator = call([&] { return find_evaluator(rollup.newest); });
    scan_leaves(rollup, evaluator, *leaves, from_, rows_end_, panes, [&](int rows) {
      pg_atomic_fetch_add_u64(&helper_->rows, rows);
      look();
      if (panes.memory() < helper_memory) return;
      write(rollup, panes);
      panes = empty(rollup);
    });
    write(rollup, panes);
    call([&] {
      SPI_finish();
      PopActiveSnapshot();
      CommitTransactionCommand();
    });
  }

 private:
  Fold empty(const Rollup& rollup) const {
    Fold fold(rollup.program);
    if (rollup.windowed) fold.restrict_to(from_, rows_end_);
    return fold;
  }

  bool accept() {
    const bool accepted = with_slot([&] {
      if (helper_->phase != HelperPhase::given || helper_->scan != order_.scan) return false;
      helper_->phase = HelperPhase::running;
      helper_->accepted = order_.scan;
      return true;
    });
    if (accepted) wake(false);
    return accepted;
  }

  void refuse() {
    call([&] {
      SPI_finish();
      PopActiveSnapshot();
      AbortCurrentTransaction();
    });
  }

  // Now and then: is the scan still wanted, and does it stand in anybody's way?
  void look() {
    if (pg_atomic_read_u32(&helper_->stop) != 0) give_up("nobody wants it any more");
    const TimestampTz now = GetCurrentTimestamp();
    if (now - looked_at_ < look_around) return;
    looked_at_ = now;
    if (call([&] { return database_wanted(); })) give_up("the database is wanted");
    if (!order_.yields) return;
    for (const Oid relation : relations_)
      if (call([&] { return somebody_waits_for(relation); }))
        give_up("somebody waits for a lock on its source");
  }

  [[noreturn]] static void give_up(const char* why) {
    call([&] {
      ereport(ERROR, (errcode(ERRCODE_QUERY_CANCELED), errmsg("a scan of history is given up: %s", why),
                      errdetail("It will be run again.")));
    });
    __builtin_unreachable();
  }

  void write(const Rollup& rollup, const Fold& panes) {
    const Fold fold = fold_windows(rollup, panes, [&](Micros window) {
      return !rollup.windowed || (window >= order_.lo && window < order_.hi);
    });
    std::vector<uint32_t> slots(fold.slots());
    for (size_t slot = 0; slot < slots.size(); ++slot) slots[slot] = static_cast<uint32_t>(slot);
    std::stable_sort(slots.begin(), slots.end(),
                     [&](uint32_t a, uint32_t b) { return fold.pane(a) > fold.pane(b); });
    size_t from = 0;
    do {
      const size_t to = std::min(from + piece_slots, slots.size());
      const std::vector<uint32_t> part(slots.begin() + static_cast<ptrdiff_t>(from),
                                       slots.begin() + static_cast<ptrdiff_t>(to));
      std::string payload;
      encode(fold, payload, &part);
      const Micros newest = part.empty() ? minus_infinity : fold.pane(part.front());
      call([&] { insert_piece(newest, payload.data(), payload.size()); });
      look();
      from = to;
    } while (from < slots.size());
  }

  void insert_piece(Micros newest, const char* data, size_t size) {
    // Directly: whether the rollup is still there is asked when the piece is read.
    Relation backfill = table_open(catalog_relation("backfill"), RowExclusiveLock);
    Datum values[4] = {Int64GetDatum(order_.scan), Int64GetDatum(newest), Int32GetDatum(number_++),
                       varlena_datum(data, size)};
    bool nulls[4] = {};
    HeapTuple tuple = heap_form_tuple(RelationGetDescr(backfill), values, nulls);
    CatalogTupleInsert(backfill, tuple);
    heap_freetuple(tuple);
    pfree(DatumGetPointer(values[3]));
    table_close(backfill, NoLock);
    CHECK_FOR_INTERRUPTS();
  }

  HelperSlot* helper_;
  const Order& order_;
  Micros from_ = minus_infinity;     // of what the windows that are kept consist of
  Micros rows_end_ = plus_infinity;  // of what those of the order consist of
  std::vector<Oid> relations_;       // locked
  TimestampTz looked_at_ = 0;
  int32 number_ = 0;
};

// Runs an order; whatever happens, the slot says afterwards that it is over.
void obey(HelperSlot* helper, const Order& order) {
  char error[sizeof helper->error] = "";
  const auto failed = [&](const ErrorData* data) {
    // An error of the rollup sets it aside, any other is passed over and the scan is run again.
    if (data == nullptr || !is_transient(data->sqlerrcode))
      strlcpy(error, data == nullptr || data->message == nullptr ? "unknown error" : data->message,
              sizeof error);
  };
  try {
    Scan(helper, order).run();
  } catch (const PgError& raised) {
    failed(raised.data);
    const int code = raised.data->sqlerrcode;
    const std::string message = raised.message();
    call([&] {
      HOLD_INTERRUPTS();
      AbortCurrentTransaction();
      ereport(LOG, (errcode(code), errmsg("pg_tick scan failed: %s", message.c_str())));
      FlushErrorState();
      RESUME_INTERRUPTS();
    });
  } catch (const Error& raised) {
    strlcpy(error, raised.what(), sizeof error);
    call([&] {
      AbortCurrentTransaction();
      ereport(LOG, (errmsg("pg_tick scan failed: %s", error)));
    });
  }
  // Only now: whoever sees that the scan is over finds its pieces in a new snapshot.
  with_slot([&] {
    if (error[0] != '\0') {
      helper->failed = order.scan;
      strlcpy(helper->error, error, sizeof helper->error);
    }
    helper->scan = 0;
    helper->phase = HelperPhase::idle;
  });
  wake(false);
}

bool wanted_outside_transaction() {
  StartTransactionCommand();
  const bool wanted = database_wanted();
  CommitTransactionCommand();
  return wanted;
}

void help(Oid database) {
  HelperSlot* helper = nullptr;
  call([&] {
    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    pqsignal(SIGTERM, die);
    DatabaseSlot* slot = slot_for(database);
    if (slot == nullptr) proc_exit(0);
    helper = &slot->helper;
    before_shmem_exit(leave_helper, 0);
    BackgroundWorkerUnblockSignals();
    BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
    pgstat_report_appname("pg_tick scan");
    safe_settings();
    const bool alone = with_slot([&] {
      if (helper->pid != 0) return false;
      helper->pid = MyProcPid;
      helper->latch = MyLatch;
      helper->phase = HelperPhase::idle;
      helper->scan = 0;
      return true;
    });
    if (!alone) proc_exit(0);
    wake(false);
  });
  for (TimestampTz idle_since = GetCurrentTimestamp();;) {
    Order order;
    const bool given = with_slot([&] {
      if (helper->phase != HelperPhase::given) return false;
      order.scan = helper->scan;
      order.rollup = helper->rollup;
      order.lo = helper->lo;
      order.hi = helper->hi;
      order.yields = helper->yields;
      strlcpy(order.snapshot, helper->snapshot, sizeof order.snapshot);
      return true;
    });
    if (given) {
      MemoryContext memory = call([&] {
        InvalidateSystemCaches();  // as a turn does when definitions have changed
        pgstat_report_activity(STATE_RUNNING, "pg_tick scan");
        MemoryContext made = AllocSetContextCreate(TopMemoryContext, "pg_tick scan", ALLOCSET_DEFAULT_SIZES);
        MemoryContextSwitchTo(made);
        return made;
      });
      obey(helper, order);
      call([&] {
        MemoryContextSwitchTo(TopMemoryContext);
        MemoryContextDelete(memory);
        pgstat_report_stat(false);
        pgstat_report_activity(STATE_IDLE, nullptr);
      });
      idle_since = GetCurrentTimestamp();
      continue;
    }
    call([&] {
      if (GetCurrentTimestamp() - idle_since > idle_milliseconds * 1000 || wanted_outside_transaction()) {
        const bool nothing = with_slot([&] {
          if (helper->phase == HelperPhase::given) return false;
          helper->phase = HelperPhase::absent;
          return true;
        });
        if (nothing) proc_exit(0);
      }
      wait_for_latch(idle_milliseconds / 4);
      if (ConfigReloadPending) {
        ConfigReloadPending = false;
        ProcessConfigFile(PGC_SIGHUP);
      }
    });
  }
}

Datum scan_progress(FunctionCallInfo fcinfo) {
  InitMaterializedSRF(fcinfo, 0);
  auto* result = reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo);
  HelperSlot* helper = slot_of_helper();
  if (helper == nullptr) return 0;
  int32 rollup = 0;
  Micros lo = 0, hi = 0;
  const bool running = with_slot([&] {
    rollup = helper->rollup;
    lo = helper->lo;
    hi = helper->hi;
    return helper->phase == HelperPhase::running;
  });
  if (!running) return 0;
  const auto started = static_cast<TimestampTz>(pg_atomic_read_u64(&helper->started_at));
  const auto rows = static_cast<int64>(pg_atomic_read_u64(&helper->rows));
  const double seconds = static_cast<double>(Max(GetCurrentTimestamp() - started, 1)) / USECS_PER_SEC;
  const Datum values[7] = {Int32GetDatum(rollup),
                           TimestampTzGetDatum(lo),
                           TimestampTzGetDatum(hi),
                           Int64GetDatum(rows),
                           Int64GetDatum(static_cast<int64>(pg_atomic_read_u64(&helper->rows_expected))),
                           Float8GetDatum(static_cast<double>(rows) / seconds),
                           TimestampTzGetDatum(started)};
  const bool nulls[7] = {};
  tuplestore_putvalues(result->setResult, result->setDesc, const_cast<Datum*>(values),
                       const_cast<bool*>(nulls));
  return 0;
}

}  // namespace
}  // namespace tick::pg

void tick_helper_main(Datum argument) {
  tick::pg::entry([&] { tick::pg::help(DatumGetObjectId(argument)); });
}

Datum tick_scan_progress(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] { return tick::pg::scan_progress(fcinfo); });
}
