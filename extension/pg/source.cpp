// tick.add_source, tick.alter_source, tick.drop_source. Every setting is one column and one argument of the
// same name; what has been written is read back and checked as a whole, so that it does not matter in which
// call a setting came.
#include "source.hpp"

#include "catalog.hpp"
#include "coverage.hpp"
#include "dedup.hpp"
#include "define.hpp"
#include "evaluator.hpp"
#include "guard.hpp"
#include "retention.hpp"
#include "session.hpp"
#include "shared.hpp"

namespace tick::pg {
namespace {

struct Setting {
  const char* name;
  Oid type;
};

// In the order of the functions' arguments, after the source.
constexpr Setting settings[] = {{"watermark_delay", INTERVALOID},
                                {"idle_timeout", INTERVALOID},
                                {"max_skew", INTERVALOID},
                                {"watermark_by", TEXTOID},
                                {"freeze_after", INTERVALOID},
                                {"dedup_key", TEXTARRAYOID},
                                {"dedup_id", TEXTOID},
                                {"dedup_group", TEXTOID},
                                {"retention", INTERVALOID},
                                {"partition_size", INTERVALOID},
                                {"partitions_ahead", INT4OID}};
constexpr int setting_count = lengthof(settings);
constexpr int64 longest = INT64CONST(1000) * 12 * 30 * USECS_PER_DAY;

bool was_given(FunctionCallInfo fcinfo, int setting) {
  return !PG_ARGISNULL(setting + 1);
}

// ---- what may be set
// ----------------------------------------------------------------------------------------

void check_span(const char* name, const Interval* span) {
  if (span == nullptr) return;
  const int64 micros = interval_micros(span);
  if (micros >= 0 && micros <= longest) return;
  ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                  errmsg("%s must not be %s", name, micros < 0 ? "negative" : "longer than a thousand years"),
                  errhint("Give an interval such as '10 seconds'.")));
}

void check_column(Oid source, const char* setting, const char* name) {
  if (name == nullptr) return;
  const AttrNumber number = get_attnum(source, name);
  if (number <= 0)
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
                    errmsg("column \"%s\" of \"%s\" does not exist", name, get_rel_name(source)),
                    errhint("%s names a column of the source, as it is written in the catalog.", setting)));
}

bool is_key(const ProgramRow* program, AttrNumber column) {
  List* inputs = program->inputs;
  for (int k = 0; k < program->key_count; ++k) {
    const auto* key = static_cast<const Node*>(list_nth(inputs, program->keys[k]));
    if (IsA(key, Var) && reinterpret_cast<const Var*>(key)->varattno == column) return true;
  }
  return false;
}

// The column must be a key of one of the source's capture groups, if it has any: panes tell of their keys.
void check_watermark_by(const SourceSettings* source) {
  if (source->watermark_by == nullptr) return;
  check_column(source->relid, "watermark_by", source->watermark_by);
  const AttrNumber column = get_attnum(source->relid, source->watermark_by);
  Oid output;
  bool is_varlena;
  getTypeOutputInfo(getBaseType(get_atttype(source->relid, column)), &output, &is_varlena);
  if (output >= FirstNormalObjectId)
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("watermark_by cannot be \"%s\": its type is not one of PostgreSQL's own",
                           source->watermark_by),
                    errhint("Use a column of type text, an integer or an enum.")));
  int64* programs = nullptr;
  uint64 count = 0;
  Oid type = OIDOID;
  Datum value = ObjectIdGetDatum(source->relid);
  MemoryContext memory = CurrentMemoryContext;
  open_catalogs();
  SPI_execute_with_args("SELECT id FROM tick_catalog.program WHERE source = $1 AND current", 1, &type, &value,
                        nullptr, true, 0);
  count = SPI_processed;
  programs = static_cast<int64*>(MemoryContextAlloc(memory, sizeof(int64) * (count + 1)));
  for (uint64 row = 0; row < count; ++row) {
    bool null;
    programs[row] = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 1, &null));
  }
  close_catalogs();
  for (uint64 i = 0; i < count; ++i) {
    ProgramRow program;
    if (read_program(programs[i], &program) && is_key(&program, column)) return;
  }
  if (count == 0) return;
  ereport(ERROR,
          (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
           errmsg("no rollup of \"%s\" groups by \"%s\", by which its watermark is kept",
                  get_rel_name(source->relid), source->watermark_by),
           errhint("Create a rollup that groups by it first, or SELECT tick.alter_source('%s', reset => "
                   "'{watermark_by}').",
                   relation_text(source->relid))));
}

void check_settings(const SourceSettings* source) {
  check_span("watermark_delay", source->watermark_delay);
  check_span("idle_timeout", source->idle_timeout);
  check_span("max_skew", source->max_skew);
  check_span("freeze_after", source->freeze_after);
  check_span("retention", source->retention);
  check_span("partition_size", source->partition_size);
  check_watermark_by(source);
  ListCell* cell;
  foreach (cell, source->dedup_key)
    check_column(source->relid, "dedup_key", static_cast<char*>(lfirst(cell)));
  check_column(source->relid, "dedup_id", source->dedup_id);
  check_column(source->relid, "dedup_group", source->dedup_group);
  check_retention(source);
}

// ---- the catalog
// --------------------------------------------------------------------------------------------

int setting_named(const char* name) {
  for (int i = 0; i < setting_count; ++i)
    if (strcmp(settings[i].name, name) == 0) return i;
  StringInfoData names;
  initStringInfo(&names);
  for (const Setting& setting : settings)
    appendStringInfo(&names, "%s%s", names.len == 0 ? "" : ", ", setting.name);
  ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("\"%s\" is no setting of a source", name),
                  errhint("The settings are %s.", names.data)));
}

// Writes what was given and puts back to its default what `reset` names.
void write_settings(Oid source, FunctionCallInfo fcinfo, List* reset) {
  StringInfoData sql;
  initStringInfo(&sql);
  Oid types[setting_count + 1] = {OIDOID};
  Datum values[setting_count + 1] = {ObjectIdGetDatum(source)};
  char nulls[setting_count + 2];
  nulls[0] = ' ';
  for (int i = 0; i < setting_count; ++i) {
    const bool given = was_given(fcinfo, i);
    types[i + 1] = settings[i].type;
    values[i + 1] = given ? PG_GETARG_DATUM(i + 1) : Datum{0};
    nulls[i + 1] = given ? ' ' : 'n';
    if (given) appendStringInfo(&sql, ", %s = $%d", settings[i].name, i + 2);
  }
  nulls[setting_count + 1] = '\0';
  ListCell* cell;
  foreach (cell, reset) {
    const auto* name = static_cast<const char*>(lfirst(cell));
    const int i = setting_named(name);
    if (was_given(fcinfo, i))
      ereport(ERROR,
              (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("%s cannot be given and reset at once", name),
               errhint("Leave out one of both.")));
    for (int before = 0; before < foreach_current_index(cell); ++before)
      if (strcmp(static_cast<const char*>(list_nth(reset, before)), name) == 0)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("reset names %s twice", name),
                        errhint("Name it once.")));
    appendStringInfo(&sql, ", %s = DEFAULT", name);
  }
  SPI_connect();
  const char* text = psprintf("UPDATE tick_catalog.source SET relid = relid%s WHERE relid = $1", sql.data);
  if (SPI_execute_with_args(text, setting_count + 1, types, values, nulls, false, 0) < 0)
    elog(ERROR, "pg_tick: cannot write the settings of a source");
  SPI_finish();
}

// Returns nullptr if the table is no source.
SourceSettings* read_settings(Oid source, bool* declared) {
  SourceSettings* result = nullptr;
  Oid type = OIDOID;
  Datum value = ObjectIdGetDatum(source);
  MemoryContext memory = CurrentMemoryContext;
  open_catalogs();
  SPI_execute_with_args(
      "SELECT watermark_delay, idle_timeout, max_skew, watermark_by, freeze_after, dedup_key, dedup_id, "
      "dedup_group, retention, partition_size, partitions_ahead, declared FROM tick_catalog.source WHERE "
      "relid = $1",
      1, &type, &value, nullptr, true, 1);
  if (SPI_processed == 1) {
    Datum values[12];
    bool nulls[12];
    for (int i = 0; i < 12; ++i)
      values[i] = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1, &nulls[i]);
    MemoryContext spi = MemoryContextSwitchTo(memory);
    const auto span = [&](int at) {
      return nulls[at] ? nullptr : DatumGetIntervalP(datumCopy(values[at], false, sizeof(Interval)));
    };
    const auto name = [&](int at) { return nulls[at] ? nullptr : TextDatumGetCString(values[at]); };
    result = static_cast<SourceSettings*>(palloc(sizeof(SourceSettings)));
    *result = SourceSettings{source,
                             span(0),
                             span(1),
                             span(2),
                             name(3),
                             span(4),
                             nulls[5] ? NIL : read_names(values[5]),
                             name(6),
                             name(7),
                             span(8),
                             span(9),
                             DatumGetInt32(values[10])};
    *declared = DatumGetBool(values[11]);
    MemoryContextSwitchTo(spi);
  }
  close_catalogs();
  return result;
}

// ---- the functions
// ------------------------------------------------------------------------------------------

// The table of the first argument, locked against everything but its writers and readers, and the caller's
// own.
Oid owned_source(FunctionCallInfo fcinfo) {
  if (PG_ARGISNULL(0))
    ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("source must not be NULL"),
                    errhint("Name the table that rollups read.")));
  if (!preloaded())
    ereport(ERROR,
            (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
             errmsg("pg_tick must be loaded by shared_preload_libraries"),
             errhint("Add pg_tick to shared_preload_libraries in postgresql.conf and restart the server.")));
  const Oid source = PG_GETARG_OID(0);
  const char* name = get_rel_name(source);
  if (name == nullptr)
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE), errmsg("relation %u does not exist", source),
                    errhint("Name the table that rollups read.")));
  // Before the lock: nobody can hold up another's table.
  if (!TICK_OWNS_RELATION(source, GetUserId())) aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, name);
  LockRelationOid(source, ShareUpdateExclusiveLock);
  if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(source)))
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE), errmsg("relation \"%s\" does not exist", name),
                    errhint("It was dropped meanwhile.")));
  if (!TICK_OWNS_RELATION(source, GetUserId())) aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, name);
  return source;
}

void change_source(Oid source, FunctionCallInfo fcinfo, List* reset) {
  write_settings(source, fcinfo, reset);
  bool declared;
  const SourceSettings* settings = read_settings(source, &declared);
  check_settings(settings);
  define_dedup(settings);
  tell_engine();
}

void add_source(FunctionCallInfo fcinfo) {
  const Oid source = owned_source(fcinfo);
  check_source(source, makeRangeVar(nullptr, get_rel_name(source), -1), "");
  const Actor caller = act_as_extension();
  bool declared = false;
  if (read_settings(source, &declared) != nullptr && declared)
    ereport(ERROR, (errcode(ERRCODE_DUPLICATE_OBJECT), errmsg("\"%s\" is a source", get_rel_name(source)),
                    errhint("Change it with tick.alter_source.")));
  register_source(source);
  run(psprintf("UPDATE tick_catalog.source SET declared = true WHERE relid = %u", source));
  change_source(source, fcinfo, NIL);
  act_again(caller);
}

// Refuses what is no source.
void require_source(Oid source) {
  bool declared;
  if (read_settings(source, &declared) == nullptr)
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("\"%s\" is no source", get_rel_name(source)),
                    errhint("Make it one with tick.add_source, or create a rollup over it.")));
}

void alter_source(FunctionCallInfo fcinfo) {
  const Oid source = owned_source(fcinfo);
  List* reset = PG_ARGISNULL(setting_count + 1) ? NIL : read_names(PG_GETARG_DATUM(setting_count + 1));
  const Actor caller = act_as_extension();
  require_source(source);
  change_source(source, fcinfo, reset);
  act_again(caller);
}

// The source is as if only its rollups had made it; without any it is forgotten.
void drop_source(FunctionCallInfo fcinfo) {
  const Oid source = owned_source(fcinfo);
  const Actor caller = act_as_extension();
  require_source(source);
  run(psprintf("UPDATE tick_catalog.source SET declared = false WHERE relid = %u", source));
  if (dedup_of(source) != 0) lock_source(source, AccessExclusiveLock);
  forget_source(source);
  attach_triggers(source);
  tell_engine();
  act_again(caller);
}

void set_watermark(FunctionCallInfo fcinfo) {
  const Oid source = owned_source(fcinfo);
  if (TIMESTAMP_NOT_FINITE(PG_GETARG_TIMESTAMPTZ(1)))
    ereport(ERROR, (errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE), errmsg("a watermark must be finite"),
                    errhint("Give the time up to which windows are to be final.")));
  Oid types[] = {OIDOID, TIMESTAMPTZOID};
  Datum values[] = {ObjectIdGetDatum(source), PG_GETARG_DATUM(1)};
  const Actor caller = act_as_extension();
  require_source(source);
  SPI_connect();
  if (SPI_execute_with_args("INSERT INTO tick_catalog.watermark_request VALUES ($1, $2) ON CONFLICT (source) "
                            "DO UPDATE SET watermark = excluded.watermark",
                            2, types, values, nullptr, false, 0) < 0)
    elog(ERROR, "pg_tick: cannot ask for a watermark");
  SPI_finish();
  tell_engine();
  act_again(caller);
}

}  // namespace

List* read_names(Datum array) {
  Datum* elements;
  bool* nulls;
  int count;
  List* names = NIL;
  deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &count);
  for (int i = 0; i < count; ++i) {
    if (nulls[i])
      ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("a name in an array must not be NULL"),
                      errhint("Leave the element out.")));
    names = lappend(names, TextDatumGetCString(elements[i]));
  }
  return names;
}

int64 interval_micros(const Interval* interval) {
  const __int128 micros =
      static_cast<__int128>(interval->month * INT64CONST(30) + interval->day) * USECS_PER_DAY +
      interval->time;
  if (micros > PG_INT64_MAX) return PG_INT64_MAX;
  return micros < PG_INT64_MIN ? PG_INT64_MIN : static_cast<int64>(micros);
}

void register_source(Oid source) {
  run(psprintf("INSERT INTO tick_catalog.source (relid) VALUES (%u) ON CONFLICT DO NOTHING", source));
  run(psprintf("INSERT INTO tick_catalog.watermark (source) VALUES (%u) ON CONFLICT DO NOTHING", source));
}

void check_new_rollup(Oid source) {
  bool declared;
  check_watermark_by(read_settings(source, &declared));
}

void forget_source(Oid source) {
  const bool exists = SearchSysCacheExists1(RELOID, ObjectIdGetDatum(source));
  run(
      psprintf("DELETE FROM tick_catalog.source AS s WHERE s.relid = %u AND NOT (s.declared AND %s) AND NOT "
               "EXISTS (SELECT FROM tick_catalog.rollup AS r WHERE r.source = s.relid)",
               source, exists ? "true" : "false"));
  run(
      psprintf("DELETE FROM tick_catalog.watermark AS w WHERE w.source = %u AND NOT EXISTS "
               "(SELECT FROM tick_catalog.source AS s WHERE s.relid = w.source)",
               source));
}

void require_source(Oid source) {
  const char* name = get_rel_name(source);
  if (name == nullptr)
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE), errmsg("relation %u does not exist", source),
                    errhint("Name the table that rollups read.")));
  if (!TICK_OWNS_RELATION(source, GetUserId())) aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, name);
  const Actor caller = act_as_extension();
  const bool known = read_numbers("SELECT 1::int8 FROM tick_catalog.source WHERE relid = $1", source) != NIL;
  act_again(caller);
  if (!known)
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("\"%s\" is no source", name),
                    errhint("tick.sources lists the sources.")));
  if (!preloaded())
    ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                    errmsg("pg_tick is not loaded by shared_preload_libraries"),
                    errhint("Add pg_tick to shared_preload_libraries and restart the server.")));
}

AttrNumber time_column(Oid source) {
  Bitmapset* columns = nullptr;
  Relation relation = table_open(source, AccessShareLock);
  TupleDesc desc = RelationGetDescr(relation);
  const auto is_time = [&](AttrNumber column) {
    const Oid type = getBaseType(TupleDescAttr(desc, column - 1)->atttypid);
    return type == TIMESTAMPTZOID || type == TIMESTAMPOID;
  };
  if (relation->rd_rel->relkind == RELKIND_PARTITIONED_TABLE) {
    PartitionKey key = RelationGetPartitionKey(relation);
    if (key->partattrs[0] > 0 && is_time(key->partattrs[0]))
      columns = bms_add_member(columns, key->partattrs[0]);
  }
  if (columns == nullptr) {
    ListCell* cell;
    foreach (cell,
             read_numbers("SELECT id FROM tick_catalog.program WHERE source = $1 AND current", source)) {
      const Evaluator* evaluator = find_evaluator(*static_cast<int64*>(lfirst(cell)));
      if (evaluator == nullptr || evaluator->program.time < 0) continue;
      const int plain = evaluator->plain[evaluator->program.time];
      if (plain >= 0) columns = bms_add_member(columns, evaluator->attribute[plain]);
    }
  }
  if (columns == nullptr)
    for (AttrNumber column = 1; column <= desc->natts; ++column)
      if (!TupleDescAttr(desc, column - 1)->attisdropped && is_time(column))
        columns = bms_add_member(columns, column);
  table_close(relation, NoLock);
  return bms_num_members(columns) == 1 ? static_cast<AttrNumber>(bms_singleton_member(columns))
                                       : static_cast<AttrNumber>(0);
}

}  // namespace tick::pg

extern "C" {
PG_FUNCTION_INFO_V1(tick_add_source);
PG_FUNCTION_INFO_V1(tick_alter_source);
PG_FUNCTION_INFO_V1(tick_drop_source);
PG_FUNCTION_INFO_V1(tick_set_watermark);

PGDLLEXPORT Datum tick_add_source(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&]() -> Datum {
    tick::pg::add_source(fcinfo);
    PG_RETURN_VOID();
  });
}

PGDLLEXPORT Datum tick_alter_source(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&]() -> Datum {
    tick::pg::alter_source(fcinfo);
    PG_RETURN_VOID();
  });
}

PGDLLEXPORT Datum tick_drop_source(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&]() -> Datum {
    tick::pg::drop_source(fcinfo);
    PG_RETURN_VOID();
  });
}

PGDLLEXPORT Datum tick_set_watermark(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&]() -> Datum {
    tick::pg::set_watermark(fcinfo);
    PG_RETURN_VOID();
  });
}
}
