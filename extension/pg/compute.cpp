#include "compute.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "catalog.hpp"
#include "changes.hpp"
#include "define.hpp"
#include "guard.hpp"
#include "notify.hpp"
#include "scan.hpp"
#include "shared.hpp"
#include "turn.hpp"
#include "worker.hpp"

extern "C" {
PGDLLEXPORT void tick_computer_main(Datum argument);
}

namespace tick::pg {
namespace {

constexpr TimestampTz start_patience = 2 * USECS_PER_SEC;
constexpr long idle_milliseconds = 1000;
constexpr TimestampTz short_pass = USECS_PER_SEC / 20, long_pass = USECS_PER_SEC / 5;
constexpr size_t first_windows = 16, most_windows = 10'000;
constexpr uint64 many_rows = 20'000;
constexpr uint64 slice_rows = 200;  // written under one hold of the mutex: some milliseconds
constexpr int most_misnamings = 3;  // of tables and columns, which may just be renamed
constexpr int most_failures = 10;   // 5 s

// What the query has given, palloc'ed: for each touched row its keys, window and values.
struct Found {
  uint64 rows;
  int cells;
  Datum* values;
  bool* nulls;
  int64* touched;
  bool* present;  // the source has rows of it

  Datum* row(uint64 at) const { return values + at * cells; }
  const bool* nulls_of(uint64 at) const { return nulls + at * cells; }
};

// One rollup's windows on their way.
struct Work {
  explicit Work(Rollup&& of) : rollup(std::move(of)) {}
  Rollup rollup;
  std::vector<Micros> windows;    // that are computed
  std::vector<Micros> uncovered;  // that the source no longer has the rows of
  TimestampTz started = 0;        // before the snapshot: what came before is in what was found
  bool full = false;              // there were more windows than are taken at once
  Found found{};
};

void begin() {
  call([&] {
    SetCurrentStatementStartTimestamp();
    StartTransactionCommand();
  });
}

void open() {
  call([&] {
    PushActiveSnapshot(GetTransactionSnapshot());
    SPI_connect();
  });
}

void close() {
  call([&] {
    SPI_finish();
    PopActiveSnapshot();
  });
}

void commit() {
  call([&] { CommitTransactionCommand(); });
}

void abort() {
  call([&] {
    HOLD_INTERRUPTS();
    AbortCurrentTransaction();
    FlushErrorState();
    RESUME_INTERRUPTS();
  });
}

// Starts of windows as an array of the type that the state table's column has, or as numbers.
Datum window_array(const Micros* windows, size_t count, Oid type) {
  auto* elements = static_cast<Datum*>(palloc(sizeof(Datum) * (count + 1)));
  for (size_t i = 0; i < count; ++i) elements[i] = Int64GetDatum(windows[i]);
  return PointerGetDatum(
      construct_array(elements, static_cast<int>(count), type, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

Oid window_type(const Rollup& rollup) {
  return rollup.windowed ? rollup.column_types[rollup.program.keys.size()] : TIMESTAMPTZOID;
}

// The rollup as it stands. Plain PostgreSQL code.
const Standing* standing_rollup(int rollup) {
  List* standing = standing_rollups("r.id = $1::int8", static_cast<Oid>(rollup));
  if (standing == NIL) elog(ERROR, "pg_tick: rollup %d does not exist", rollup);
  return static_cast<const Standing*>(linitial(standing));
}

class Computer {
 public:
  // Takes windows of one rollup through. False if there was nothing to do. Throws with a transaction open.
  bool pass();
  // The rollup at work when something went wrong, 0 = none.
  int current() const { return current_; }

 private:
  std::optional<Work> choose();
  void take_windows(Work& work);
  void compute(Work& work);
  bool write(const Work& work, uint64 from, uint64 to, bool last);
  void show(const Work& work, uint64 from, uint64 to, std::set<Micros>& changed);
  std::vector<Micros> finish(const Work& work);
  void tell(const Rollup& rollup, const std::set<Micros>& changed, int64_t token);

  int64_t generation_ = 0;
  int current_ = 0;
  int last_ = 0;               // the rollup of the pass before: they take turns
  bool newest_first_ = false;  // in turns with those that wait longest
  std::map<int, size_t> at_once_;
  ChangeLog log_;
};

bool Computer::pass() {
  current_ = 0;
  MemoryContext memory = CurrentMemoryContext;
  begin();
  if (!OidIsValid(call([&] { return catalog_relation("touched"); }))) call([&] { proc_exit(0); });
  open();
  auto work = choose();
  if (!work) {
    const bool needed =
        !read_text("SELECT 1 FROM tick_catalog.rollup WHERE value_columns IS NOT NULL LIMIT 1").empty();
    close();
    commit();
    if (!needed) call([&] { proc_exit(0); });
    return false;
  }
  current_ = last_ = work->rollup.id;
  // Before the snapshot, as in a turn: an older one would miss what a DROP PARTITION has done.
  const auto leaves = lock_leaves_of(work->rollup);
  close();
  if (!leaves) {  // somebody holds one of them: again in a while
    abort();
    return true;
  }
  work->started = GetCurrentTimestamp();
  open();
  const int64_t generation = std::stoll(*read_text("SELECT value FROM tick_catalog.generation").at(0)[0]);
  if (generation != generation_) call([&] { see_definitions(generation_ != 0); });
  generation_ = generation;
  std::vector<Rollup> again = load_rollups(current_);
  const bool there = again.size() == 1 && again.front().computed && again.front().status != "error" &&
                     call([&] { return same_leaves(work->rollup.source, *leaves); }) &&
                     knows_leaves(work->rollup.source, *leaves);
  if (!there) {
    close();
    abort();
    return true;
  }
  work->rollup = std::move(again.front());
  take_windows(*work);
  call([&] { MemoryContextSwitchTo(memory); });
  compute(*work);
  close();
  commit();
  call([&] { MemoryContextSwitchTo(memory); });
  size_t& at_once = at_once_[current_];
  const TimestampTz took = GetCurrentTimestamp() - work->started;
  if (took > long_pass || work->found.rows > many_rows)
    at_once = std::max<size_t>(at_once / 2, 1);
  else if (took < short_pass && work->full)
    at_once = std::min(at_once * 2, most_windows);
  for (uint64 from = 0; from <= work->found.rows; from += slice_rows) {
    const uint64 to = std::min(from + slice_rows, work->found.rows);
    if (!write(*work, from, to, to == work->found.rows)) break;
    if (to == work->found.rows) break;
  }
  const TimestampTz written = GetCurrentTimestamp() - work->started - took;
  call([&] {
    ereport(DEBUG1, (errmsg("pg_tick recompute of %s: " UINT64_FORMAT
                            " rows of %zu windows, read in %.1f ms, written in "
                            "%.1f ms",
                            work->rollup.name.c_str(), work->found.rows, work->windows.size(),
                            static_cast<double>(took) / 1000, static_cast<double>(written) / 1000)));
  });
  current_ = 0;
  return true;
}

// The next rollup that something is to be computed of.
std::optional<Work> Computer::choose() {
  const auto ids = read_text(
      "SELECT r.id FROM tick_catalog.rollup AS r JOIN tick_catalog.source AS o ON o.relid = r.source WHERE "
      "r.status <> 'error' AND o.epoch = tick_catalog.epoch() AND EXISTS (SELECT FROM tick_catalog.touched "
      "AS t WHERE t.rollup = r.id) ORDER BY 1");
  if (ids.empty()) return std::nullopt;
  int chosen = std::atoi(ids.front()[0]->c_str());
  for (const auto& row : ids) {
    const int id = std::atoi(row[0]->c_str());
    if (id <= last_) continue;
    chosen = id;
    break;
  }
  std::vector<Rollup> rollups = load_rollups(chosen);
  if (rollups.size() != 1 || !rollups.front().computed) return std::nullopt;
  return Work(std::move(rollups.front()));
}

// Windows side by side, so that what lies between is not read: from the newest one down, or from the one that
// waits longest up.
void Computer::take_windows(Work& work) {
  const Rollup& rollup = work.rollup;
  size_t& at_once = at_once_.try_emplace(rollup.id, first_windows).first->second;
  newest_first_ = !newest_first_;
  const auto rows = read_text(
      "SELECT start, since = min(since) OVER () FROM tick_catalog.touched WHERE rollup = $1 ORDER BY start",
      rollup.id);
  if (rows.empty()) return;
  std::vector<Micros> starts;
  size_t at = rows.size();
  for (const auto& row : rows) {
    if (row[1] == "t") at = std::min(at, starts.size());
    starts.push_back(std::strtoll(row[0]->c_str(), nullptr, 10));
  }
  size_t from = newest_first_ ? starts.size() - 1 : at, to = from + 1;
  const auto beside = [&](Micros a, Micros b) {
    return rollup.windowed && b <= window_end(next_window(a, rollup.size), rollup.size);
  };
  if (newest_first_)
    while (from > 0 && to - from < at_once && beside(starts[from - 1], starts[from])) --from;
  else
    while (to < starts.size() && to - from < at_once && beside(starts[to - 1], starts[to])) ++to;
  work.full = to - from >= at_once;
  const Micros covered = rollup.first_covered();
  for (size_t i = from; i < to; ++i)
    (starts[i] < covered ? work.uncovered : work.windows).push_back(starts[i]);
}

// Runs the query over the windows, as the owner, in the active snapshot.
void Computer::compute(Work& work) {
  if (work.windows.empty()) return;
  const Rollup& rollup = work.rollup;
  const Micros lo = rollup.windowed ? begin_of_rows(work.windows.front(), rollup.size) : minus_infinity;
  const Micros hi = rollup.windowed ? end_of_rows(next_window(work.windows.back(), rollup.size), rollup.size)
                                    : plus_infinity;
  const Micros* windows = work.windows.data();
  const size_t count = work.windows.size();
  Found& found = work.found;
  MemoryContext memory = CurrentMemoryContext;
  call([&] {
    const Standing* standing = standing_rollup(rollup.id);
    const Actor before = act_as_owner(standing);
    // What a session would have: our own small tables are read otherwise. The one join is ours; nothing is
    // known of how many rows it has, and a loop would run the query for each of them.
    for (const auto& [name, value] :
         {std::pair{"enable_seqscan", "on"}, std::pair{"plan_cache_mode", "auto"},
          std::pair{"max_parallel_workers_per_gather", "0"}, std::pair{"enable_nestloop", "off"}})
      (void)set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
    Definition* def = read_definition(standing);
    const char* sql = compute_sql(def, standing->definition, lo, hi);
    Oid types[1] = {get_array_type(window_type(rollup))};
    Datum values[1] = {window_array(windows, count, window_type(rollup))};
    if (SPI_execute_with_args(sql, rollup.windowed ? 1 : 0, types, values, nullptr, true, 0) != SPI_OK_SELECT)
      elog(ERROR, "pg_tick: cannot compute a rollup");
    TupleDesc desc = SPI_tuptable->tupdesc;
    MemoryContext spi = MemoryContextSwitchTo(memory);
    const int wide = list_length(def->keys) + (def->window != nullptr ? 1 : 0);
    found.rows = SPI_processed;
    found.cells = desc->natts - 2;
    found.values =
        static_cast<Datum*>(MemoryContextAllocHuge(memory, sizeof(Datum) * (found.rows * found.cells + 1)));
    found.nulls = static_cast<bool*>(MemoryContextAllocHuge(memory, found.rows * found.cells + 1));
    found.touched = static_cast<int64*>(MemoryContextAllocHuge(memory, sizeof(int64) * (found.rows + 1)));
    found.present = static_cast<bool*>(MemoryContextAllocHuge(memory, found.rows + 1));
    for (uint64 row = 0; row < found.rows; ++row) {
      bool null;
      HeapTuple tuple = SPI_tuptable->vals[row];
      found.touched[row] = DatumGetInt64(heap_getattr(tuple, wide + 1, desc, &null));
      found.present[row] = DatumGetBool(heap_getattr(tuple, wide + 2, desc, &null));
      for (int c = 0; c < found.cells; ++c) {
        const int at = c < wide ? c : c + 2;
        const Form_pg_attribute attribute = TupleDescAttr(desc, at);
        const Datum datum = heap_getattr(tuple, at + 1, desc, &null);
        found.nulls[row * found.cells + c] = null;
        // What lies outside of the row may be gone when this transaction has ended.
        found.row(row)[c] = null ? Datum{0}
                            : attribute->attlen == -1
                                ? PointerGetDatum(PG_DETOAST_DATUM_COPY(datum))
                                : datumCopy(datum, attribute->attbyval, attribute->attlen);
      }
      CHECK_FOR_INTERRUPTS();
    }
    MemoryContextSwitchTo(spi);
    act_again(before);
  });
}

// Writes some of what was found, in a transaction under the mutex. False if the rollup is at work no more.
bool Computer::write(const Work& work, uint64 from, uint64 to, bool last) {
  const Rollup& rollup = work.rollup;
  log_.clear();
  begin();
  call([&] {
    const Oid frontier = catalog_relation("frontier");
    if (!OidIsValid(frontier)) proc_exit(0);
    LockDatabaseObject(RelationRelationId, frontier, 1, ExclusiveLock);
  });
  open();
  const auto status = read_text("SELECT r.status FROM tick_catalog.rollup AS r WHERE r.id = $1", rollup.id);
  if (status.empty() || status[0][0] == "error") {
    close();
    abort();
    return false;
  }
  std::set<Micros> changed;
  show(work, from, to, changed);
  const std::vector<Micros> closed = last ? finish(work) : std::vector<Micros>();
  log_.changed(rollup, changed);
  log_.closed(rollup, closed);
  const int64_t token = log_.write(call([&] { return GetCurrentTransactionStartTimestamp(); }));
  close();
  commit();
  tell(rollup, changed, token);
  return true;
}

// Where the watermark of the rollup's source is.
std::optional<TimestampTz> watermark_of(const Rollup& rollup) {
  const auto rows = read_text(
      "SELECT (extract(epoch FROM watermark - '2000-01-01 00:00+00'::timestamptz) * 1000000)::int8 "
      "FROM tick_catalog.watermark WHERE watermark IS NOT NULL AND source = $1::oid",
      rollup.source);
  if (rows.empty()) return std::nullopt;
  return std::strtoll(rows[0][0]->c_str(), nullptr, 10);
}

bool has_ended(const Rollup& rollup, Micros window, const std::optional<TimestampTz>& watermark) {
  return rollup.windowed && watermark && window_end(window, rollup.size) <= *watermark;
}

// Brings rows of the state table up to what was found, and notes the windows that show something else now.
void Computer::show(const Work& work, uint64 from, uint64 to, std::set<Micros>& changed) {
  if (from == to) return;
  const Rollup& rollup = work.rollup;
  const Found& found = work.found;
  const auto watermark = watermark_of(rollup);
  const int keys = static_cast<int>(rollup.program.keys.size());
  const int wide = keys + (rollup.windowed ? 1 : 0), values = found.cells - wide;
  if (values != static_cast<int>(rollup.values.size()))
    throw Error{Error::Code::internal, "state table of " + rollup.name + " does not fit its query"};
  // Of groups without rows, nobody can say more before everything is merged that has left.
  const bool settled =
      std::find(found.present + from, found.present + to, false) == found.present + to ||
      read_text(
          "SELECT 1 FROM tick_catalog.frontier f, (SELECT xid FROM tick_catalog.queue_0 UNION ALL SELECT "
          "xid FROM tick_catalog.queue_1 UNION ALL SELECT xid FROM tick_catalog.queue_2) q WHERE q.xid >= "
          "pg_snapshot_xmin(f.snapshot) AND NOT pg_visible_in_snapshot(q.xid, f.snapshot) LIMIT 1")
          .empty();
  std::map<std::string, SPIPlanPtr> plans;  // by which keys are NULL
  Actor before{};
  Definition* def = nullptr;
  Oid* types = nullptr;
  Datum* arguments = nullptr;
  char* nulls = nullptr;
  call([&] {
    const Standing* standing = standing_rollup(rollup.id);
    before = act_as_owner(standing);
    def = read_definition(standing);
    const int count = values + wide + 3 + (rollup.windowed ? 0 : 1);
    types = static_cast<Oid*>(palloc(sizeof(Oid) * count));
    arguments = static_cast<Datum*>(palloc(sizeof(Datum) * count));
    nulls = static_cast<char*>(palloc(count));
    for (int i = 0; i < values; ++i) types[i] = value(def, i)->type;
    for (int i = 0; i < keys; ++i) types[values + i] = column(def, i)->type;
    types[values + keys] = window_type(rollup);
    types[values + keys + 1] = INT8OID;
    types[values + keys + 2] = BOOLOID;
    types[values + keys + 3] = TIMESTAMPTZOID;
  });
  const int parameters = values + keys + 4;
  std::set<Micros> stale;
  for (uint64 at = from; at < to; ++at) {
    const bool present = found.present[at];
    if (!present && !settled) continue;
    const Datum* cells = found.row(at);
    const bool* null = found.nulls_of(at);
    const Micros window = rollup.windowed ? DatumGetInt64(cells[keys]) : 0;
    std::string pattern(1, present ? '+' : '-');
    for (int i = 0; i < keys; ++i) pattern += null[i] ? 'n' : ' ';
    SPIPlanPtr& plan = plans[pattern];
    const bool final = has_ended(rollup, window, watermark);
    const bool shows = call([&] {
      if (plan == nullptr) {
        plan = SPI_prepare(show_sql(def, null, present), parameters, types);
        if (plan == nullptr) elog(ERROR, "pg_tick: cannot prepare: %s", SPI_result_code_string(SPI_result));
      }
      memset(nulls, ' ', parameters);
      for (int i = 0; i < values; ++i) {
        arguments[i] = cells[wide + i];
        if (null[wide + i]) nulls[i] = 'n';
      }
      for (int i = 0; i < keys; ++i) {
        arguments[values + i] = cells[i];
        if (null[i]) nulls[values + i] = 'n';
      }
      arguments[values + keys] = Int64GetDatum(window);
      arguments[values + keys + 1] = Int64GetDatum(found.touched[at]);
      arguments[values + keys + 2] = BoolGetDatum(final);
      arguments[values + keys + 3] = TimestampTzGetDatum(GetCurrentTransactionStartTimestamp());
      if (SPI_execute_plan(plan, arguments, nulls, false, 0) != SPI_OK_UPDATE_RETURNING)
        elog(ERROR, "pg_tick: cannot write what was computed");
      bool unknown;
      return SPI_processed > 0 &&
             DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &unknown));
    });
    if (present && shows) changed.insert(window);
    if (!present) stale.insert(window);
  }
  call([&] { act_again(before); });
  for (const Micros window : stale) list_stale(rollup, window, window + 1);
}

// After the last rows: what cannot be computed any more becomes stale, and of windows in which no row is left
// to be computed nothing is remembered. Returns those that have ended.
std::vector<Micros> Computer::finish(const Work& work) {
  const Rollup& rollup = work.rollup;
  std::vector<Micros> all = work.uncovered;
  all.insert(all.end(), work.windows.begin(), work.windows.end());
  std::set<Micros> open;
  Micros* left = nullptr;
  uint64 left_count = 0;
  call([&] {
    const Actor before = act_as_owner_of(rollup.state);
    const char* table = state_text(rollup);
    const char* time = rollup.windowed ? time_text(rollup) : nullptr;
    Oid types[2] = {get_array_type(window_type(rollup)), get_array_type(window_type(rollup))};
    Datum values[2] = {window_array(work.uncovered.data(), work.uncovered.size(), window_type(rollup)),
                       window_array(all.data(), all.size(), window_type(rollup))};
    const char* given_up = work.uncovered.empty() ? "tick_stale" : "true";
    const char* sql = psprintf(
        "UPDATE %s SET tick_stale = true, tick_touched = 0 WHERE tick_touched > 0 AND %s", table, given_up);
    if (rollup.windowed)
      sql = psprintf(
          "UPDATE %s SET tick_stale = true, tick_touched = 0 WHERE tick_touched > 0 AND (tick_stale "
          "OR %s = ANY ($1)) AND %s = ANY ($2)",
          table, time, time);
    if (SPI_execute_with_args(sql, rollup.windowed ? 2 : 0, types, values, nullptr, false, 0) < 0)
      elog(ERROR, "pg_tick: cannot mark what cannot be computed");
    sql = psprintf("SELECT 1 FROM %s WHERE tick_touched > 0 LIMIT 1", table);
    if (rollup.windowed)
      sql =
          psprintf("SELECT DISTINCT %s FROM %s WHERE tick_touched > 0 AND %s = ANY ($2)", time, table, time);
    if (SPI_execute_with_args(sql, rollup.windowed ? 2 : 0, types, values, nullptr, false, 0) < 0)
      elog(ERROR, "pg_tick: cannot read what was touched");
    left_count = SPI_processed;
    left = static_cast<Micros*>(palloc(sizeof(Micros) * (left_count + 1)));
    bool null;
    for (uint64 i = 0; i < left_count; ++i)
      left[i] = rollup.windowed
                    ? DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &null))
                    : 0;
    act_again(before);
  });
  open.insert(left, left + left_count);
  if (!work.uncovered.empty()) list_stale(rollup, work.uncovered.front(), work.uncovered.back() + 1);
  std::vector<Micros> done, ended;
  for (const Micros window : all)
    if (!open.contains(window)) done.push_back(window);
  const auto watermark = watermark_of(rollup);
  for (const Micros window : done)
    if (has_ended(rollup, window, watermark)) ended.push_back(window);
  call([&] {
    Oid types[4] = {INT4OID, INT8ARRAYOID, INT8ARRAYOID, TIMESTAMPTZOID};
    Datum values[4] = {Int32GetDatum(rollup.id), window_array(done.data(), done.size(), INT8OID),
                       window_array(left, left_count, INT8OID), TimestampTzGetDatum(work.started)};
    const char* forget = "DELETE FROM tick_catalog.touched WHERE rollup = $1 AND start = ANY ($2)";
    const char* later =
        "UPDATE tick_catalog.touched SET since = greatest(since, $4) WHERE rollup = $1 AND start = ANY ($3)";
    if (SPI_execute_plan(kept_plan(forget, 4, types), values, nullptr, false, 0) != SPI_OK_DELETE ||
        SPI_execute_plan(kept_plan(later, 4, types), values, nullptr, false, 0) != SPI_OK_UPDATE)
      elog(ERROR, "pg_tick: cannot forget what was touched");
  });
  return ended;
}

// Tells listeners, in a transaction of its own, and the worker: windows may have waited to be told of.
void Computer::tell(const Rollup& rollup, const std::set<Micros>& changed, int64_t token) {
  wake(false);
  if (changed.empty() || !has_listeners()) return;
  Change change;
  change.many = true;
  change.from = *changed.begin();
  if (rollup.windowed) change.to = window_end(*changed.rbegin(), rollup.size);
  begin();
  open();
  notify_change(rollup, change, std::to_string(token));
  close();
  commit();
}

// ---- the process
// -------------------------------------------------------------------------------------------------------

// As a turn would, whose cache of the catalogs must not miss it.
void set_aside_computed(int rollup, const std::string& message) {
  begin();
  call([&] { stop_turns(); });
  open();
  mark_set_aside(rollup, message);
  call([&] { tell_engine(); });
  close();
  commit();
}

// Changes or reads the slot; f must not raise.
template <typename F>
auto with_slot(F&& f) {
  LWLockAcquire(shared_lock(), LW_EXCLUSIVE);
  const auto result = f();
  LWLockRelease(shared_lock());
  return result;
}

void leave(int, Datum) {
  DatabaseSlot* slot = my_slot();
  if (slot == nullptr) return;
  (void)with_slot([&] {
    const bool mine = slot->computer.pid == MyProcPid;
    if (mine) slot->computer = {};
    return mine;
  });
}

// Sleeps for `wait` microseconds; `until_woken`: or until the worker has something for us.
void rest(TimestampTz wait, bool until_woken) {
  const TimestampTz due = GetCurrentTimestamp() + wait;
  call([&] {
    for (bool woken = false; !woken;) {
      const TimestampTz left = due - GetCurrentTimestamp();
      if (left <= 0) return;
      const int events = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
                                   static_cast<long>((left + 999) / 1000), wait_event());
      woken = (events & WL_LATCH_SET) != 0 && until_woken;
      ResetLatch(MyLatch);
      look_at_signals();
    }
  });
}

void work(Oid database) {
  call([&] {
    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    pqsignal(SIGTERM, die);
    DatabaseSlot* slot = slot_for(database);
    if (slot == nullptr) proc_exit(0);
    before_shmem_exit(leave, 0);
    BackgroundWorkerUnblockSignals();
    BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
    pgstat_report_appname("pg_tick recompute");
    safe_settings();
    const bool alone = with_slot([&] {
      if (slot->computer.pid != 0) return false;
      slot->computer.pid = MyProcPid;
      slot->computer.latch = MyLatch;
      return true;
    });
    if (!alone) proc_exit(0);
  });
  Computer computer;
  std::map<int, int> misnamed;  // rollup -> how often in a row
  for (int failures = 0;;) {
    const TimestampTz started = GetCurrentTimestamp();
    MemoryContext memory = call([&] {
      pgstat_report_activity(STATE_RUNNING, "pg_tick recompute");
      MemoryContext made =
          AllocSetContextCreate(TopMemoryContext, "pg_tick recompute", ALLOCSET_DEFAULT_SIZES);
      MemoryContextSwitchTo(made);
      return made;
    });
    bool worked = false;
    const auto failed = [&](int code, const std::string& message) {
      ++failures;
      const int rollup = computer.current();
      const bool naming = ERRCODE_TO_CATEGORY(code) == ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION;
      if (rollup != 0 && !is_transient(code) && !(naming && ++misnamed[rollup] < most_misnamings)) {
        set_aside_computed(rollup, message);
        misnamed.erase(rollup);
      } else if (failures == 1) {
        call([&] {
          ereport(LOG, (errcode(code),
                        errmsg("pg_tick recompute failed, will be run again: %s", message.c_str())));
        });
      }
    };
    try {
      worked = computer.pass();
      failures = 0;
    } catch (const PgError& error) {
      const int code = error.data->sqlerrcode;
      const std::string message = error.message();
      abort();
      failed(code, message);
    } catch (const Error& error) {
      const std::string message = error.what();
      abort();
      failed(ERRCODE_INTERNAL_ERROR, message);
    }
    call([&] {
      MemoryContextSwitchTo(TopMemoryContext);
      MemoryContextDelete(memory);
      pgstat_report_stat(false);
      pgstat_report_activity(STATE_IDLE, nullptr);
    });
    if (failures > 0)
      rest(USECS_PER_SEC / 200 << std::min(failures, most_failures), false);
    else
      rest((GetCurrentTimestamp() - started) * 3, false);
    if (failures == 0 && !worked) rest(idle_milliseconds * 1000, true);
  }
}

}  // namespace

void end_computer() {
  const DatabaseSlot* slot = my_slot();
  if (slot == nullptr) return;
  (void)with_slot([&] { return slot->computer.pid != 0 && kill(slot->computer.pid, SIGTERM) == 0; });
}

void rouse_computer(bool touched) {
  DatabaseSlot* slot = my_slot();
  if (slot == nullptr) return;
  const TimestampTz now = GetCurrentTimestamp();
  const bool absent = with_slot([&] {
    ComputerSlot& computer = slot->computer;
    if (computer.pid != 0) {
      if (touched && computer.latch != nullptr) SetLatch(computer.latch);
      return false;
    }
    if (now - computer.asked_at < start_patience) return false;
    computer.asked_at = now;
    return true;
  });
  if (!absent) return;
  call([&] {
    BackgroundWorker process;
    memset(&process, 0, sizeof process);
    process.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
    process.bgw_start_time = BgWorkerStart_RecoveryFinished;
    process.bgw_restart_time = BGW_NEVER_RESTART;
    process.bgw_notify_pid = MyProcPid;
    process.bgw_main_arg = ObjectIdGetDatum(MyDatabaseId);
    strlcpy(process.bgw_library_name, "pg_tick", BGW_MAXLEN);
    strlcpy(process.bgw_function_name, "tick_computer_main", BGW_MAXLEN);
    snprintf(process.bgw_name, BGW_MAXLEN, "pg_tick recompute for database %u", MyDatabaseId);
    strlcpy(process.bgw_type, "pg_tick recompute", BGW_MAXLEN);
    if (!RegisterDynamicBackgroundWorker(&process, nullptr))
      ereport(LOG, (errmsg("pg_tick cannot start a process that recomputes rollups"),
                    errhint("Consider increasing max_worker_processes.")));
  });
}

}  // namespace tick::pg

void tick_computer_main(Datum argument) {
  tick::pg::entry([&] { tick::pg::work(DatumGetObjectId(argument)); });
}
