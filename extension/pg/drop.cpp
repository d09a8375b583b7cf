// The end of a rollup, however it comes: tick.drop_rollup, DROP VIEW, DROP TABLE .. CASCADE, DROP SCHEMA,
// DROP OWNED. An event trigger sees what has gone and takes away the rest: objects, catalog rows, program and
// triggers. PostgreSQL only.
#include "coverage.hpp"
#include "define.hpp"
#include "guard.hpp"
#include "history.hpp"
#include "session.hpp"
#include "source.hpp"

namespace tick::pg {
namespace {

struct Remains {
  int32 rollup;
  int32 group;
  Oid source;
  bool follows;    // another rollup: nothing of it is captured
  Oid objects[4];  // live, view, state, definition; InvalidOid: there is none
};

constexpr const char* columns =
    "SELECT r.id, r.group_id, r.source, r.parent IS NOT NULL, coalesce(r.live, 0), r.view, r.state, "
    "r.definition "
    "FROM tick_catalog.rollup AS r WHERE ";

// The rollups that a condition selects; `argument` is its $1.
List* read_remains(const char* condition, Oid argument) {
  List* result = NIL;
  Oid types[] = {OIDOID};
  Datum values[] = {ObjectIdGetDatum(argument)};
  MemoryContext memory = CurrentMemoryContext;
  open_catalogs();
  SPI_execute_with_args(psprintf("%s%s", columns, condition), 1, types, values, nullptr, true, 0);
  for (uint64 row = 0; row < SPI_processed; ++row) {
    bool null;
    Datum field[8];
    for (int i = 0; i < 8; ++i)
      field[i] = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, i + 1, &null);
    auto* found = static_cast<Remains*>(MemoryContextAlloc(memory, sizeof(Remains)));
    *found = Remains{DatumGetInt32(field[0]),
                     DatumGetInt32(field[1]),
                     DatumGetObjectId(field[2]),
                     DatumGetBool(field[3]),
                     {DatumGetObjectId(field[4]), DatumGetObjectId(field[5]), DatumGetObjectId(field[6]),
                      DatumGetObjectId(field[7])}};
    MemoryContext spi = MemoryContextSwitchTo(memory);
    result = lappend(result, found);
    MemoryContextSwitchTo(spi);
  }
  close_catalogs();
  return result;
}

bool exists(Oid relation) {
  return SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relation));
}

void drop_objects(const Remains& remains) {
  for (Oid object : remains.objects) {
    if (!exists(object)) continue;
    const char* kind = get_rel_relkind(object) == RELKIND_VIEW ? "VIEW" : "TABLE";
    run(psprintf("DROP %s %s", kind, relation_text(object)));
  }
}

// Leaves the source as if the rollups had never been.
void release_source(Oid source) {
  if (exists(source)) {
    if (!has_programs(source)) lock_source(source, AccessExclusiveLock);
  }
  forget_source(source);
  if (exists(source)) attach_triggers(source);
}

// Removes what is left of a rollup. Runs as the extension's owner with the fixed search_path.
void remove(const Remains& remains) {
  stop_turns();
  drop_history(remains.rollup);
  run(psprintf("DELETE FROM tick_catalog.rollup WHERE id = %d", remains.rollup));
  drop_objects(remains);
  if (!remains.follows) {
    shrink_group(remains.group);
    release_source(remains.source);
  }
  tell_engine();
}

// All at once, and as strongly as release_source() will need them.
void lock_for_removal(List* all) {
  List* sources = NIL;
  bool last = false;
  ListCell* cell;
  foreach (cell, all) {
    const Oid source = static_cast<Remains*>(lfirst(cell))->source;
    if (static_cast<Remains*>(lfirst(cell))->follows) continue;
    if (!exists(source) || list_member_oid(sources, source)) continue;
    sources = lappend_oid(sources, source);
    int left = list_length(read_remains("r.source = $1 AND r.parent IS NULL", source));
    ListCell* other;
    foreach (other, all) {
      const auto* removed = static_cast<Remains*>(lfirst(other));
      left -= removed->source == source && !removed->follows ? 1 : 0;
    }
    last = last || left == 0;
  }
  if (sources != NIL) lock_sources(sources, last ? AccessExclusiveLock : ShareRowExclusiveLock);
}

void remove_all(List* all) {
  lock_for_removal(all);
  ListCell* cell;
  foreach (cell, all) remove(*static_cast<Remains*>(lfirst(cell)));
}

void drop_rollup(Oid view) {
  const char* name = get_rel_name(view);
  const Actor caller = act_as_extension();
  List* found = read_remains("r.view = $1", view);
  act_again(caller);
  if (found == NIL) refuse_no_rollup(view);
  if (!TICK_OWNS_RELATION(view, GetUserId())) aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_VIEW, name);
  const Actor again = act_as_extension();
  const char* followers = follower_names(static_cast<Remains*>(linitial(found))->rollup);
  if (followers != nullptr)
    ereport(ERROR, (errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
                    errmsg("cannot drop rollup \"%s\": it is read by %s", name, followers),
                    errhint("Drop first what reads it, or DROP VIEW %s CASCADE.", relation_text(view))));
  remove_all(found);
  act_again(again);
}

// Declared sources that no rollup reads.
void forget_dropped_sources() {
  List* dropped = NIL;
  MemoryContext memory = CurrentMemoryContext;
  open_catalogs();
  const char* query =
      "SELECT s.relid FROM tick_catalog.source AS s JOIN pg_event_trigger_dropped_objects() AS d ON "
      "d.objid = s.relid WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0";
  SPI_execute_plan(kept_plan(query, 0, nullptr), nullptr, nullptr, true, 0);
  for (uint64 row = 0; row < SPI_processed; ++row) {
    bool null;
    const Oid source =
        DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 1, &null));
    MemoryContext spi = MemoryContextSwitchTo(memory);
    dropped = lappend_oid(dropped, source);
    MemoryContextSwitchTo(spi);
  }
  close_catalogs();
  ListCell* cell;
  foreach (cell, dropped) forget_source(lfirst_oid(cell));
}

// True if a partition of a source is among what was dropped.
bool dropped_leaf() {
  open_catalogs();
  const char* query =
      "SELECT FROM pg_event_trigger_dropped_objects() AS d JOIN tick_catalog.leaf AS l ON l.leaf = d.objid "
      "WHERE d.classid = 'pg_class'::regclass";
  SPI_execute_plan(kept_plan(query, 0, nullptr), nullptr, nullptr, true, 1);
  const bool found = SPI_processed > 0;
  close_catalogs();
  return found;
}

void clean_up() {
  const Actor caller = act_as_extension();
  remove_all(
      read_remains("EXISTS (SELECT FROM pg_event_trigger_dropped_objects() AS d WHERE d.classid = "
                   "'pg_class'::regclass AND d.objsubid = 0 AND d.objid IN (r.view, r.state, "
                   "r.definition, r.source))",
                   InvalidOid));
  run("UPDATE tick_catalog.rollup AS r SET live = NULL FROM pg_event_trigger_dropped_objects() AS d WHERE "
      "d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND d.objid = r.live");
  if (dropped_leaf()) follow_leaves();
  forget_dropped_sources();
  act_again(caller);
}

}  // namespace
}  // namespace tick::pg

extern "C" {
PG_FUNCTION_INFO_V1(tick_drop_rollup);
PG_FUNCTION_INFO_V1(tick_on_drop);

PGDLLEXPORT Datum tick_drop_rollup(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&]() -> Datum {
    tick::pg::drop_rollup(PG_GETARG_OID(0));
    PG_RETURN_VOID();
  });
}

PGDLLEXPORT Datum tick_on_drop(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&]() -> Datum {
    if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
      ereport(ERROR, (errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
                      errmsg("tick_catalog.on_drop is an event trigger")));
    tick::pg::clean_up();
    PG_RETURN_NULL();
  });
}
}
