// tick.alter_rollup: what can be changed of a rollup that stands. PostgreSQL only.
#include "define.hpp"
#include "guard.hpp"
#include "retention.hpp"
#include "session.hpp"

namespace tick::pg {
namespace {

// A rollup that is the caller's own.
struct Altered {
  int32 id;
  bool windowed;
};

Altered find_rollup(Oid view) {
  Altered found{};
  Oid types[] = {OIDOID};
  Datum values[] = {ObjectIdGetDatum(view)};
  const Actor caller = act_as_extension();
  open_catalogs();
  SPI_execute_with_args("SELECT id, window_size IS NOT NULL FROM tick_catalog.rollup WHERE view = $1", 1,
                        types, values, nullptr, true, 1);
  if (SPI_processed == 1) {
    bool null;
    found.id = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
    found.windowed = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &null));
  }
  close_catalogs();
  act_again(caller);
  const char* name = get_rel_name(view);
  if (found.id == 0)
    ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
                    errmsg("\"%s\" is not a rollup", name == nullptr ? "?" : name),
                    errhint("tick.status lists the rollups.")));
  if (!TICK_OWNS_RELATION(view, GetUserId())) aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_VIEW, name);
  return found;
}

// nullptr: windows are kept for ever. What has been dropped stays so.
void set_retention(const Altered& rollup, const Interval* retention) {
  check_window_retention(retention, rollup.windowed);
  Oid types[] = {INT4OID, INTERVALOID};
  Datum values[] = {Int32GetDatum(rollup.id), IntervalPGetDatum(retention)};
  const char nulls[] = {' ', retention == nullptr ? 'n' : ' ', '\0'};
  const Actor caller = act_as_extension();
  SPI_connect();
  if (SPI_execute_with_args("UPDATE tick_catalog.rollup SET retention = $2 WHERE id = $1", 2, types, values,
                            nulls, false, 0) < 0)
    elog(ERROR, "pg_tick: cannot write the settings of a rollup");
  SPI_finish();
  tell_engine();
  act_again(caller);
}

void alter_rollup(FunctionCallInfo fcinfo) {
  if (PG_ARGISNULL(0))
    ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("name must not be NULL"),
                    errhint("Name the rollup.")));
  const Altered rollup = find_rollup(PG_GETARG_OID(0));
  List* reset = PG_ARGISNULL(2) ? NIL : read_names(PG_GETARG_DATUM(2));
  ListCell* cell;
  foreach (cell, reset)
    if (strcmp(static_cast<char*>(lfirst(cell)), "retention") != 0)
      ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                      errmsg("\"%s\" is no setting of a rollup", static_cast<char*>(lfirst(cell))),
                      errhint("The setting is retention.")));
  if (reset != NIL && !PG_ARGISNULL(1))
    ereport(ERROR,
            (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("retention cannot be given and reset at once"),
             errhint("Leave out one of both.")));
  if (reset != NIL) set_retention(rollup, nullptr);
  if (!PG_ARGISNULL(1)) set_retention(rollup, PG_GETARG_INTERVAL_P(1));
}

}  // namespace
}  // namespace tick::pg

extern "C" {
PG_FUNCTION_INFO_V1(tick_alter_rollup);

PGDLLEXPORT Datum tick_alter_rollup(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&]() -> Datum {
    tick::pg::alter_rollup(fcinfo);
    PG_RETURN_VOID();
  });
}
}
