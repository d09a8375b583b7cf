// Keeps the SQL texts of the catalogs true when what they name is renamed or moved: after such DDL every
// rollup's texts are written anew from its definition view, which PostgreSQL itself keeps true. PostgreSQL
// only.
#include "define.hpp"
#include "guard.hpp"
#include "session.hpp"
#include "shared.hpp"

namespace tick::pg {
namespace {

struct Texts {
  int32 rollup;
  Oid state;
  Oid definition;
  Oid source;
  Oid owner;
  const char* upsert;
  const char* merged;
};

List* read_texts() {
  List* result = NIL;
  MemoryContext memory = CurrentMemoryContext;
  open_catalogs();
  SPI_execute("SELECT id, state, definition, source, owner, upsert, merged FROM tick_catalog.rollup", true,
              0);
  for (uint64 row = 0; row < SPI_processed; ++row) {
    bool null;
    Datum field[7];
    for (int i = 0; i < 7; ++i)
      field[i] = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, i + 1, &null);
    MemoryContext spi = MemoryContextSwitchTo(memory);
    auto* texts = static_cast<Texts*>(palloc(sizeof(Texts)));
    *texts = Texts{DatumGetInt32(field[0]),      DatumGetObjectId(field[1]), DatumGetObjectId(field[2]),
                   DatumGetObjectId(field[3]),   DatumGetObjectId(field[4]), TextDatumGetCString(field[5]),
                   TextDatumGetCString(field[6])};
    result = lappend(result, texts);
    MemoryContextSwitchTo(spi);
  }
  close_catalogs();
  return result;
}

Definition* read_definition(const Texts* texts) {
  auto* def = static_cast<Definition*>(palloc0(sizeof(Definition)));
  Relation relation = table_open(texts->definition, AccessShareLock);
  def->query = static_cast<Query*>(copyObjectImpl(get_view_query(relation)));
  table_close(relation, NoLock);
  def->text = pg_get_querydef(static_cast<Query*>(copyObjectImpl(def->query)), false);
  def->source = texts->source;
  def->owner = texts->owner;
  def->id = texts->rollup;
  analyse(def);
  return def;
}

void check_columns(const Definition* def, Oid state) {
  ListCell* cell;
  foreach (cell, def->columns) {
    const char* name = static_cast<StateColumn*>(lfirst(cell))->name;
    const AttrNumber number = static_cast<AttrNumber>(foreach_current_index(cell) + 1);
    if (strcmp(get_attname(state, number, false), name) != 0)
      ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                      errmsg("cannot rename column \"%s\" of the state of a rollup", name),
                      errhint("Rename the column of the rollup's view.")));
  }
}

void refresh(const Texts* texts) {
  Definition* def = read_definition(texts);
  check_columns(def, texts->state);
  const char* upsert = upsert_sql(def, texts->state);
  const char* merged = merged_sql(def, texts->state);
  if (strcmp(upsert, texts->upsert) == 0 && strcmp(merged, texts->merged) == 0) return;
  Oid types[] = {INT4OID, TEXTOID, TEXTOID};
  Datum values[] = {Int32GetDatum(texts->rollup), CStringGetTextDatum(upsert), CStringGetTextDatum(merged)};
  SPI_connect();
  SPI_execute_with_args("UPDATE tick_catalog.rollup SET upsert = $2, merged = $3 WHERE id = $1", 3, types,
                        values, nullptr, false, 0);
  SPI_finish();
  run("UPDATE tick_catalog.generation SET value = value + 1");
  wake_at_commit();
}

void refresh_all() {
  const Actor caller = act_as_extension();
  const int level = fixed_path();
  ListCell* cell;
  foreach (cell, read_texts()) refresh(static_cast<Texts*>(lfirst(cell)));
  close_path(level);
  act_again(caller);
}

}  // namespace
}  // namespace tick::pg

extern "C" {
PG_FUNCTION_INFO_V1(tick_on_rename);

PGDLLEXPORT Datum tick_on_rename(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&]() -> Datum {
    if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
      ereport(ERROR, (errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
                      errmsg("tick_catalog.on_rename is an event trigger")));
    const auto* data = reinterpret_cast<EventTriggerData*>(fcinfo->context);
    if (IsA(data->parsetree, RenameStmt) || IsA(data->parsetree, AlterObjectSchemaStmt))
      tick::pg::refresh_all();
    PG_RETURN_NULL();
  });
}
}
