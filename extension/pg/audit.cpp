#include "audit.hpp"

#include "define.hpp"
#include "guard.hpp"
#include "session.hpp"
#include "shared.hpp"

namespace tick::pg {
namespace {

bool changed = true;
bool paused = false;

void on_relcache(Datum, Oid) {
  changed = true;
}

struct Unguarded {
  Oid source;
  Oid leaf;
  bool captured;  // only the TRUNCATE trigger is missing
};

// Runs as the extension's owner with the fixed search_path. Plain PostgreSQL code.
List* find_unguarded() {
  List* result = NIL;
  MemoryContext memory = CurrentMemoryContext;
  open_catalogs();
  SPI_execute("SELECT source, leaf, captured FROM tick_catalog.unguarded", true, 0);
  for (uint64 row = 0; row < SPI_processed; ++row) {
    bool null;
    HeapTuple tuple = SPI_tuptable->vals[row];
    TupleDesc desc = SPI_tuptable->tupdesc;
    auto* found = static_cast<Unguarded*>(MemoryContextAlloc(memory, sizeof(Unguarded)));
    *found = {DatumGetObjectId(SPI_getbinval(tuple, desc, 1, &null)),
              DatumGetObjectId(SPI_getbinval(tuple, desc, 2, &null)),
              DatumGetBool(SPI_getbinval(tuple, desc, 3, &null))};
    MemoryContext spi = MemoryContextSwitchTo(memory);
    result = lappend(result, found);
    MemoryContextSwitchTo(spi);
  }
  close_catalogs();
  return result;
}

// Returns the sources whose capture had to be restored.
List* restore_triggers() {
  List* restored = NIL;
  ListCell* cell;
  foreach (cell, find_unguarded()) {
    auto* found = static_cast<Unguarded*>(lfirst(cell));
    if (found->captured) {
      const char* leaf = relation_text(found->leaf);
      run(psprintf(
          "CREATE OR REPLACE TRIGGER zz_tick_truncate BEFORE TRUNCATE ON %s FOR EACH STATEMENT EXECUTE "
          "FUNCTION tick_catalog.refuse_truncate(); ALTER TABLE %s ENABLE ALWAYS TRIGGER zz_tick_truncate",
          leaf, leaf));
    } else if (!list_member_oid(restored, found->source)) {
      lock_source(found->source);
      attach_triggers(found->source);
      restored = lappend_oid(restored, found->source);
    }
  }
  return restored;
}

// After DDL: the same transaction puts back what it took away, so nothing is missed.
void audit_statement() {
  const Actor actor = act_as_extension();
  const int level = fixed_path();
  const bool before = pause_audit(true);
  (void)restore_triggers();
  (void)pause_audit(before);
  open_catalogs();
  SPI_execute("SELECT leaf::regclass FROM tick_catalog.attached_with_rows", true, 1);
  if (SPI_processed > 0 &&
      strcasestr(debug_query_string == nullptr ? "" : debug_query_string, "attach") != nullptr)
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("cannot attach %s: it holds rows that the rollups have not seen",
                           SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1)),
                    errhint("Attach it empty, then INSERT the rows.")));
  close_catalogs();
  close_path(level);
  act_again(actor);
}

}  // namespace

void watch_relations() {
  CacheRegisterRelcacheCallback(on_relcache, static_cast<Datum>(0));
}

bool relations_changed() {
  const bool result = changed;
  changed = false;
  return result;
}

bool pause_audit(bool pause) {
  const bool before = paused;
  paused = pause;
  return before;
}

void audit_sources() {
  call([&] {
    StartTransactionCommand();
    if (OidIsValid(get_extension_oid("pg_tick", true))) {
      PushActiveSnapshot(GetTransactionSnapshot());
      ListCell* cell;
      (void)pause_audit(true);
      List* restored = restore_triggers();
      (void)pause_audit(false);
      foreach (cell, restored) {
        const Oid source = lfirst_oid(cell);
        ereport(
            WARNING,
            (errmsg("capture triggers of \"%s\" were missing or disabled: restored, recomputing its rollups",
                    get_rel_name(source))));
        run(psprintf(
            "INSERT INTO tick_catalog.pending SELECT id, (-9223372036854775808)::int8, "
            "9223372036854775807, false FROM tick_catalog.rollup WHERE source = %u AND status <> 'error' "
            "ON CONFLICT DO NOTHING; UPDATE tick_catalog.generation SET value = value + 1",
            source));
      }
      PopActiveSnapshot();
    }
    CommitTransactionCommand();
  });
}

}  // namespace tick::pg

using namespace tick::pg;

extern "C" {
PG_FUNCTION_INFO_V1(tick_on_alter);
PGDLLEXPORT Datum tick_on_alter(PG_FUNCTION_ARGS);
}

Datum tick_on_alter(PG_FUNCTION_ARGS) {
  if (!CALLED_AS_EVENT_TRIGGER(fcinfo)) elog(ERROR, "tick_catalog.on_alter is an event trigger");
  return entry([&] {
    if (!paused && preloaded()) audit_statement();
    return static_cast<Datum>(0);
  });
}
