#include "changes.hpp"

#include <set>

#include "catalog.hpp"
#include "guard.hpp"
#include "session.hpp"
#include "shared.hpp"

namespace tick::pg {

int tick_change_log_size = 65536;

namespace {

constexpr int log_tables = 2;

Oid log_table(int number) {
  return catalog_relation(number == 0 ? "change_0" : "change_1");
}

// The row of tick_catalog.change_log under the active snapshot.
struct LogState {
  int current;      // the table that is written
  int64 kept_from;  // later tokens are all in the log
};
LogState read_state() {
  Relation table = table_open(catalog_relation("change_log"), AccessShareLock);
  ItemPointerData place;
  ItemPointerSetInvalid(&place);
  HeapTuple row = read_row(table, "change_log_pkey", F_BOOLEQ, BoolGetDatum(true), &place);
  if (row == nullptr)
    ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("tick_catalog.change_log must have one row")));
  bool null;
  const LogState state{DatumGetInt32(heap_getattr(row, 2, RelationGetDescr(table), &null)),
                       DatumGetInt64(heap_getattr(row, 3, RelationGetDescr(table), &null))};
  table_close(table, AccessShareLock);
  return state;
}

// Whatever this snapshot sees must not vanish in a crash: the worker commits asynchronously, and a turn that
// is lost is done again under a number that may be the same.
void flush_what_is_seen() {
  if (RecoveryInProgress()) return;
  XLogRecPtr end = GetXLogInsertRecPtr();
  // At the start of a page this points behind a header that is not written yet: XLogFlush would not find it.
  constexpr uint32 header = 24, segment_header = 40;
  const uint32 in_page = end % XLOG_BLCKSZ;
  if (in_page == (end % wal_segment_size == in_page ? segment_header : header)) end -= in_page;
  XLogFlush(end);
}

// Entries of one rollup after a token, or, without one, a single entry with the token of the newest turn.
void put_changes(ReturnSetInfo* result, Oid view, bool has_since, int64 since) {
  const char* name = get_rel_name(view);
  if (name != nullptr && pg_class_aclcheck(view, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
    aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_VIEW, name);
  flush_what_is_seen();
  const Actor caller = act_as_extension();
  // Before the look at what is kept: from now on nothing is truncated.
  for (int i = 0; i < log_tables; ++i) LockRelationOid(log_table(i), AccessShareLock);
  Oid types[] = {OIDOID, INT8OID};
  Datum values[] = {ObjectIdGetDatum(view), Int64GetDatum(since)};
  open_catalogs();
  int64 kept_from = 0;
  bool null;
  SPI_execute_with_args(
      "SELECT max(f.token) FROM tick_catalog.change_from AS f WHERE f.rollup = 0 OR f.rollup = (SELECT r.id "
      "FROM "
      "tick_catalog.rollup AS r WHERE r.view = $1)",
      1, types, values, nullptr, true, 1);
  if (SPI_processed == 1)
    kept_from = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
  if (!has_since) values[1] = Int64GetDatum(std::max(kept_from, read_state().kept_from));
  close_catalogs();
  if (has_since && since < kept_from)
    ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                    errmsg("changes after token %lld are no longer kept", static_cast<long long>(since)),
                    errdetail("The oldest token to go on from is %lld.", static_cast<long long>(kept_from)),
                    errhint("Start anew without a token; tick.change_log_size says how much is kept.")));
  if (has_since && !RecoveryInProgress() &&
      static_cast<uint64>(since) >= U64FromFullTransactionId(ReadNextFullTransactionId()))
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("token %lld is ahead of this database", static_cast<long long>(since)),
                    errhint("It comes from another one, or from before a restore: start anew without it.")));
  SPI_connect();
  SPI_execute_with_args(
      has_since
          ? "SELECT c.xid, c.turn, c.lo, c.hi, c.kind, c.key FROM tick_catalog.rollup AS r JOIN (SELECT * "
            "FROM "
            "tick_catalog.change_0 UNION ALL SELECT * FROM tick_catalog.change_1) AS c ON c.rollup = r.id "
            "WHERE r.view = $1 AND c.xid > $2"
          : "SELECT greatest($2, (SELECT max(c.xid) FROM tick_catalog.change_0 AS c), (SELECT max(c.xid) "
            "FROM "
            "tick_catalog.change_1 AS c)), NULL::timestamptz, NULL::timestamptz, NULL::timestamptz, "
            "'s'::\"char\", NULL::jsonb WHERE EXISTS (SELECT FROM tick_catalog.rollup AS r WHERE r.view = "
            "$1)",
      2, types, values, nullptr, true, 0);
  for (uint64 row = 0; row < SPI_processed; ++row)
    tuplestore_puttuple(result->setResult, SPI_tuptable->vals[row]);
  SPI_finish();
  act_again(caller);
}

}  // namespace

// Windows side by side are one entry.
void ChangeLog::changed(const Rollup& rollup, const Fold& fold) {
  std::set<Micros> windows;
  for (size_t slot = 0; slot < fold.slots(); ++slot) windows.insert(fold.pane(slot));
  changed(rollup, windows);
}

void ChangeLog::changed(const Rollup& rollup, const std::set<Micros>& windows) {
  if (windows.empty()) return;
  if (!rollup.windowed) {
    entries_.push_back({rollup.id, minus_infinity, plus_infinity, Kind::changed, nullptr});
    return;
  }
  bool open = false;
  for (const Micros window : windows) {
    Micros next = next_window(window, rollup.size);
    if (next >= timestamp_end) next = plus_infinity;
    if (open && entries_.back().hi == window)
      entries_.back().hi = next;
    else
      entries_.push_back({rollup.id, window, next, Kind::changed, nullptr});
    open = true;
  }
}

void ChangeLog::closed(const Rollup& rollup, const std::vector<Micros>& windows) {
  for (const Micros window : windows) entries_.push_back({rollup.id, window, window, Kind::final, nullptr});
}

void ChangeLog::gone(const Rollup& rollup, const std::vector<GoneRow>& rows) {
  for (const GoneRow& row : rows) {
    const Micros window = rollup.windowed ? row.window : minus_infinity;
    entries_.push_back({rollup.id, window, window, Kind::gone, row.key});
  }
}

int64_t ChangeLog::write(TimestampTz turn) {
  if (entries_.empty()) return 0;
  const Entry* entries = entries_.data();
  const size_t count = entries_.size();
  const int64_t token = call([&] {
    const int64 xid = static_cast<int64>(U64FromFullTransactionId(GetTopFullTransactionId()));
    Relation table = table_open(log_table(read_state().current), RowExclusiveLock);
    CatalogIndexState indexes = CatalogOpenIndexes(table);
    for (size_t i = 0; i < count; ++i) {
      const Entry& entry = entries[i];
      Datum values[] = {
          Int64GetDatum(xid),
          Int32GetDatum(entry.rollup),
          TimestampTzGetDatum(turn),
          TimestampTzGetDatum(entry.lo),
          TimestampTzGetDatum(entry.hi),
          CharGetDatum(static_cast<char>(entry.kind)),
          entry.key == nullptr ? Datum{0} : DirectFunctionCall1(jsonb_in, CStringGetDatum(entry.key))};
      bool nulls[lengthof(values)] = {};
      nulls[6] = entry.key == nullptr;
      HeapTuple tuple = heap_form_tuple(RelationGetDescr(table), values, nulls);
      CatalogTupleInsertWithInfo(table, tuple, indexes);
      heap_freetuple(tuple);
    }
    CatalogCloseIndexes(indexes);
    table_close(table, NoLock);
    return xid;
  });
  entries_.clear();
  return token;
}

void forget_changes(int rollup) {
  // Turns are stopped: those that come have later numbers.
  const auto newest = static_cast<int64>(U64FromFullTransactionId(ReadNextFullTransactionId())) - 1;
  run(psprintf("INSERT INTO tick_catalog.change_from AS f VALUES (%d, " INT64_FORMAT
               ") ON CONFLICT (rollup) DO UPDATE SET token = greatest(f.token, excluded.token)",
               rollup, newest));
}

void rotate_changes() {
  call([&] {
    StartTransactionCommand();
    if (!OidIsValid(catalog_relation("change_log"))) {
      CommitTransactionCommand();
      return;
    }
    PushActiveSnapshot(GetTransactionSnapshot());
    const LogState state = read_state();
    const int other = 1 - state.current;
    Relation table = table_open(log_table(state.current), AccessShareLock);
    const uint64 size = static_cast<uint64>(RelationGetNumberOfBlocks(table)) * BLCKSZ;
    table_close(table, AccessShareLock);
    // A waiting lock would stop all readers.
    if (size > static_cast<uint64>(tick_change_log_size) * 1024 / log_tables &&
        ConditionalLockRelationOid(log_table(other), AccessExclusiveLock)) {
      char sql[640];
      snprintf(sql, sizeof sql,
               "INSERT INTO tick_catalog.change_from AS f SELECT c.rollup, max(c.xid) FROM "
               "tick_catalog.change_%d AS c "
               "GROUP BY 1 ON CONFLICT (rollup) DO UPDATE SET token = greatest(f.token, excluded.token); "
               "DELETE FROM tick_catalog.change_from WHERE rollup <> 0 AND rollup NOT IN (SELECT id FROM "
               "tick_catalog.rollup); "
               "UPDATE tick_catalog.change_log SET current = %d, kept_from = greatest(kept_from, (SELECT "
               "max(c.xid) "
               "FROM tick_catalog.change_%d AS c)); TRUNCATE tick_catalog.change_%d",
               other, other, other, other);
      run(sql);
    }
    PopActiveSnapshot();
    CommitTransactionCommand();
  });
}

}  // namespace tick::pg

using namespace tick::pg;

extern "C" {
PG_FUNCTION_INFO_V1(tick_changes_after);

PGDLLEXPORT Datum tick_changes_after(PG_FUNCTION_ARGS) {
  return entry([&] {
    InitMaterializedSRF(fcinfo, 0);
    if (PG_ARGISNULL(0)) return Datum{0};
    put_changes(reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo), PG_GETARG_OID(0), !PG_ARGISNULL(1),
                PG_ARGISNULL(1) ? 0 : PG_GETARG_INT64(1));
    return Datum{0};
  });
}
}
