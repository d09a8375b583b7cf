// tick.feed and tick.position: how far a feed has been read. A position belongs to the role that wrote it
// first, and to the members of that role. PostgreSQL only.
#include "guard.hpp"
#include "session.hpp"

namespace tick::pg {
namespace {

[[noreturn]] void refuse(const char* feed, const char* connection) {
  ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                  errmsg("feed \"%s\", connection \"%s\" belongs to another role", feed, connection),
                  errhint("Use a feed of your own, or become a member of that role.")));
}

void remember(FunctionCallInfo fcinfo) {
  Oid types[] = {TEXTOID, TEXTOID, JSONBOID, OIDOID};
  Datum values[] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1), PG_GETARG_DATUM(2),
                    ObjectIdGetDatum(GetUserId())};
  const Actor caller = act_as_extension();
  SPI_connect();
  SPIPlanPtr plan = kept_plan(
      "INSERT INTO tick_catalog.feed AS f (feed, connection, position, updated_at, owner, role, epoch) "
      "VALUES ($1, $2, $3, now(), $4, pg_get_userbyid($4), (SELECT epoch FROM tick_catalog.frontier)) "
      "ON CONFLICT (feed, connection) DO UPDATE "
      "SET position = excluded.position, updated_at = excluded.updated_at, epoch = excluded.epoch, owner = "
      "tick_catalog.feed_owner(f), role = pg_get_userbyid(tick_catalog.feed_owner(f)) "
      "WHERE pg_has_role($4, tick_catalog.feed_owner(f), 'MEMBER')",
      4, types);
  if (SPI_execute_plan(plan, values, nullptr, false, 0) < 0) elog(ERROR, "pg_tick: cannot write a position");
  if (SPI_processed == 0)
    refuse(TextDatumGetCString(PG_GETARG_DATUM(0)), TextDatumGetCString(PG_GETARG_DATUM(1)));
  SPI_finish();
  act_again(caller);
}

Datum position(FunctionCallInfo fcinfo) {
  Oid types[] = {TEXTOID, TEXTOID, OIDOID};
  Datum values[] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1), ObjectIdGetDatum(GetUserId())};
  MemoryContext memory = CurrentMemoryContext;
  Datum result = 0;
  const Actor caller = act_as_extension();
  SPI_connect();
  SPIPlanPtr plan = kept_plan(
      "SELECT position, pg_has_role($3, tick_catalog.feed_owner(f), 'MEMBER') FROM tick_catalog.feed AS f "
      "WHERE feed = $1 AND "
      "connection = $2",
      3, types);
  if (SPI_execute_plan(plan, values, nullptr, true, 1) < 0) elog(ERROR, "pg_tick: cannot read a position");
  if (SPI_processed == 1) {
    bool null;
    HeapTuple tuple = SPI_tuptable->vals[0];
    if (!DatumGetBool(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2, &null)))
      refuse(TextDatumGetCString(PG_GETARG_DATUM(0)), TextDatumGetCString(PG_GETARG_DATUM(1)));
    const Datum found = SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &null);
    MemoryContext spi = MemoryContextSwitchTo(memory);
    result = PointerGetDatum(PG_DETOAST_DATUM_COPY(found));
    MemoryContextSwitchTo(spi);
  }
  fcinfo->isnull = SPI_processed == 0;
  SPI_finish();
  act_again(caller);
  return result;
}

}  // namespace
}  // namespace tick::pg

extern "C" {
PG_FUNCTION_INFO_V1(tick_feed);
PG_FUNCTION_INFO_V1(tick_position);

PGDLLEXPORT Datum tick_feed(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&]() -> Datum {
    tick::pg::remember(fcinfo);
    PG_RETURN_VOID();
  });
}

PGDLLEXPORT Datum tick_position(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] { return tick::pg::position(fcinfo); });
}
}
