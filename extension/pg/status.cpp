// What a session may ask of the engine: deltas not merged yet, and waiting for the worker.
#include "capture.hpp"
#include "catalog.hpp"
#include "guard.hpp"
#include "queue.hpp"
#include "rollup.hpp"
#include "session.hpp"
#include "shared.hpp"

namespace tick::pg {
namespace {

// The rows of the state table that the deltas between the frontier and the active snapshot amount to.
void put_unmerged(ReturnSetInfo* result, int id) {
  Oid view = InvalidOid;
  Actor actor{};
  call([&] {
    actor = act_as_extension();
    SPI_connect();
    char sql[128];
    snprintf(sql, sizeof sql, "SELECT view FROM tick_catalog.rollup WHERE id = %d", id);
    bool null = true;
    if (SPI_execute(sql, true, 1) == SPI_OK_SELECT && SPI_processed == 1)
      view = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
    if (!OidIsValid(view))
      ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("rollup %d does not exist", id)));
    if (pg_class_aclcheck(view, actor.user, ACL_SELECT) != ACLCHECK_OK)
      aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_VIEW, get_rel_name(view));
  });
  std::vector<Rollup> rollups = load_rollups(id);
  const auto frontier = read_text("SELECT snapshot::text FROM tick_catalog.frontier");
  if (rollups.size() != 1 || frontier.size() != 1)
    throw Error{Error::Code::internal, "rollup is being changed"};
  add_later_programs(rollups.front());
  const Rollup& rollup = rollups.front();
  if (rollup.parent != 0) throw Error{Error::Code::invalid_argument, "no rows are merged into the rollup"};
  Fold fold(rollup.program);
  std::map<int64_t, std::unique_ptr<Fold>> folds;
  read_deltas(Frontier::parse(*frontier[0][0]), 0, [&](int64_t program, std::string_view payload) {
    if (!rollup.items.contains(program)) return;
    const Evaluator* evaluator = call([&] { return find_evaluator(program); });
    if (evaluator == nullptr) return;
    auto& delta = folds.try_emplace(program, nullptr).first->second;
    if (!delta) delta = std::make_unique<Fold>(evaluator->program);
    merge_delta(*delta, payload);
  });
  const auto wanted = [&](std::optional<Micros> window) {
    return window && !rollup.is_fresh(*window) && rollup.is_kept(*window);
  };
  // What this transaction has written to leaves directly, and not flushed.
  visit_unflushed(GetActiveSnapshot()->curcid, [&](int64_t program, const Fold& unflushed) {
    const auto items = rollup.items.find(program);
    if (items == rollup.items.end()) return;
    merge_into_windows(fold, rollup, unflushed, items->second, [&](const Fold&, size_t, auto window) {
      return wanted(window) ? window : std::nullopt;
    });
  });
  for (const auto& [program, delta] : folds)
    merge_into_windows(fold, rollup, *delta, rollup.items.at(program), [&](const Fold&, size_t, auto window) {
      return wanted(window) ? window : std::nullopt;
    });
  const StateColumns state = state_columns(rollup, fold, 0, fold.slots());
  const size_t columns = state.cells.size();
  bool fits = static_cast<int>(columns) + 1 == result->setDesc->natts;
  for (size_t c = 0; fits && c < columns; ++c)
    fits = TupleDescAttr(result->setDesc, static_cast<int>(c))->atttypid == rollup.column_types.at(c);
  if (!fits)
    throw Error{Error::Code::invalid_argument, "column definition list does not fit the state table"};
  call([&] {
    auto* values = static_cast<Datum*>(palloc(sizeof(Datum) * (columns + 1)));
    auto* nulls = static_cast<bool*>(palloc(columns + 1));
    for (size_t row = 0; row < fold.slots(); ++row) {
      for (size_t c = 0; c < columns; ++c) {
        const Cell& cell = state.cells[c][row];
        nulls[c] = cell.null;
        values[c] = to_datum(cell, rollup.columns[c]);
      }
      // What has left may have been the extremum: nobody knows before it is merged.
      values[columns] = BoolGetDatum(fold.may_lose(row));
      nulls[columns] = false;
      tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
    }
    SPI_finish();
    act_again(actor);
  });
}

// The rollup $1 and those that it follows.
#define TICK_LINE                                                                                     \
  "line(id, parent) AS (SELECT id, parent FROM tick_catalog.rollup WHERE view = $1 UNION ALL SELECT " \
  "p.id, p.parent FROM tick_catalog.rollup AS p JOIN line AS l ON p.id = l.parent)"

// One that follows another has what that one has. Inside SPI. May ereport.
void check_line(Oid view) {
  Oid type = OIDOID;
  Datum value = ObjectIdGetDatum(view);
  SPI_execute_plan(kept_plan("WITH RECURSIVE " TICK_LINE
                             " SELECT r.status, r.last_error, r.view FROM line JOIN tick_catalog.rollup AS "
                             "r USING (id) ORDER BY r.status = 'error' DESC LIMIT 1",
                             1, &type),
                   &value, nullptr, true, 1);
  if (SPI_processed != 1) {
    const char* name = get_rel_name(view);
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
                    name == nullptr ? errmsg("the rollup to wait for was dropped meanwhile")
                                    : errmsg("\"%s\" is not a rollup", name)));
  }
  bool null;
  const char* status = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
  const char* error = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2);
  const Oid failed = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 3, &null));
  if (strcmp(status, "error") == 0)
    ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                    errmsg("rollup \"%s\" is set aside: %s", get_rel_name(failed), error ? error : ""),
                    errhint("Cure the cause, then SELECT tick.resume(...).")));
}

// One look, with the newest snapshot whatever the isolation level. Throws.
bool is_merged(Oid view, const Frontier& until) {
  static constexpr const char* query =
      "WITH RECURSIVE " TICK_LINE
      " SELECT snapshot::text FROM tick_catalog.frontier WHERE"
      " NOT EXISTS (SELECT FROM tick_catalog.rollup r JOIN tick_catalog.pending p ON p.rollup = r.id"
      "  WHERE r.status <> 'error' AND (r.id IN (SELECT id FROM line) OR $1 IS NULL))"
      " AND NOT EXISTS (SELECT FROM tick_catalog.rollup r JOIN tick_catalog.touched t ON t.rollup = r.id"
      "  WHERE r.status <> 'error' AND (r.id IN (SELECT id FROM line) OR $1 IS NULL))"
      " AND NOT EXISTS (SELECT FROM tick_catalog.source s WHERE s.epoch IS DISTINCT FROM "
      "tick_catalog.epoch())";
  const char* frontier = nullptr;
  call([&] {
    PushActiveSnapshot(GetLatestSnapshot());
    SPI_connect();
    Oid type = OIDOID;
    Datum value = ObjectIdGetDatum(view);
    if (OidIsValid(view)) check_line(view);
    SPI_execute_plan(kept_plan(query, 1, &type), &value, OidIsValid(view) ? " " : "n", true, 1);
    if (SPI_processed == 1) frontier = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
  });
  const bool merged =
      frontier != nullptr &&
      !has_deltas(Frontier::parse(frontier), until, U64FromFullTransactionId(GetTopFullTransactionIdIfAny()));
  call([] {
    SPI_finish();
    PopActiveSnapshot();
  });
  return merged;
}

// The snapshot up to which to wait, palloc'ed. May ereport.
const char* begin_waiting(Oid view) {
  MemoryContext memory = CurrentMemoryContext;
  PushActiveSnapshot(GetLatestSnapshot());
  SPI_connect();
  if (OidIsValid(view)) {
    Oid type = OIDOID;
    Datum value = ObjectIdGetDatum(view);
    SPI_execute_with_args(
        "SELECT FROM tick_catalog.rollup WHERE view = $1 AND xmin = pg_current_xact_id_if_assigned()::xid", 1,
        &type, &value, nullptr, true, 1);
    if (SPI_processed == 1)
      ereport(ERROR, (errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
                      errmsg("rollup \"%s\" was created or changed by this transaction", get_rel_name(view)),
                      errhint("Commit first: the worker sees nothing before.")));
  }
  SPI_execute("SELECT pg_current_snapshot()::text", true, 1);
  const char* until =
      MemoryContextStrdup(memory, SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
  SPI_finish();
  PopActiveSnapshot();
  wake(false);
  return until;
}

void end_waiting(bool merged) {
  const DatabaseSlot* slot = my_slot();
  if (!merged && !RecoveryInProgress() && slot != nullptr && slot->worker == 0)
    ereport(WARNING, (errmsg("no worker of pg_tick runs in database \"%s\"", get_database_name(MyDatabaseId)),
                      errhint("The server's log says why. Each database with the extension takes one of "
                              "max_worker_processes, and rollups that are recomputed one more.")));
}

Datum wait_merged(FunctionCallInfo fcinfo) {
  const Oid view = PG_ARGISNULL(0) ? InvalidOid : PG_GETARG_OID(0);
  TimestampTz deadline = 0;
  Actor actor{};
  const char* text = call([&] {
    if (PG_ARGISNULL(1))
      ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("timeout must not be null")));
    deadline = DatumGetTimestampTz(DirectFunctionCall2(
        timestamptz_pl_interval, TimestampTzGetDatum(GetCurrentTimestamp()), PG_GETARG_DATUM(1)));
    actor = act_as_extension();
    return begin_waiting(view);
  });
  const Frontier until = Frontier::parse(text);
  bool merged = is_merged(view, until);
  for (long pause = 1; !merged && GetCurrentTimestamp() < deadline; pause = Min(pause * 2, 20L)) {
    call([&] {
      (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, pause, PG_WAIT_EXTENSION);
      ResetLatch(MyLatch);
      CHECK_FOR_INTERRUPTS();
    });
    merged = is_merged(view, until);
  }
  call([&] {
    act_again(actor);
    end_waiting(merged);
  });
  PG_RETURN_BOOL(merged);
}

}  // namespace
}  // namespace tick::pg

using namespace tick::pg;

extern "C" {
PG_FUNCTION_INFO_V1(tick_unmerged);
PGDLLEXPORT Datum tick_unmerged(PG_FUNCTION_ARGS);
PG_FUNCTION_INFO_V1(tick_wait);
PGDLLEXPORT Datum tick_wait(PG_FUNCTION_ARGS);
PG_FUNCTION_INFO_V1(tick_wake);
PGDLLEXPORT Datum tick_wake(PG_FUNCTION_ARGS);
}

Datum tick_unmerged(PG_FUNCTION_ARGS) {
  return entry([&] {
    call([&] { InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC); });
    put_unmerged(reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo), PG_GETARG_INT32(0));
    return static_cast<Datum>(0);
  });
}

Datum tick_wait(PG_FUNCTION_ARGS) {
  return entry([&] { return wait_merged(fcinfo); });
}

// Asks for the worker when this transaction commits.
Datum tick_wake(PG_FUNCTION_ARGS) {
  (void)fcinfo;
  wake_at_commit();
  PG_RETURN_VOID();
}
