// See session.hpp. PostgreSQL only: no C++ object lives on a stack here.
#include <map>
#include <string>

#include "session.hpp"

#include "shared.hpp"

namespace tick::pg {

static constexpr char own_path[] = "pg_catalog, pg_temp";

Oid extension_owner() {
  Relation extensions = table_open(ExtensionRelationId, AccessShareLock);
  ScanKeyData key;
  ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ, CStringGetDatum("pg_tick"));
  SysScanDesc scan = systable_beginscan(extensions, ExtensionNameIndexId, true, nullptr, 1, &key);
  HeapTuple tuple = systable_getnext(scan);
  const Oid owner =
      HeapTupleIsValid(tuple) ? reinterpret_cast<Form_pg_extension>(GETSTRUCT(tuple))->extowner : InvalidOid;
  systable_endscan(scan);
  table_close(extensions, AccessShareLock);
  if (!OidIsValid(owner))
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("extension \"pg_tick\" does not exist")));
  return owner;
}

Actor act_as(Oid role, int flags) {
  Actor before;
  GetUserIdAndSecContext(&before.user, &before.context);
  SetUserIdAndSecContext(role, before.context | flags);
  before.path = fixed_path();
  return before;
}

Actor act_as_extension() {
  return act_as(extension_owner(), SECURITY_LOCAL_USERID_CHANGE);
}

Actor act_as_owner_of(Oid relation) {
  HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
  if (!HeapTupleIsValid(tuple)) elog(ERROR, "pg_tick: relation %u does not exist", relation);
  const Oid owner = reinterpret_cast<Form_pg_class>(GETSTRUCT(tuple))->relowner;
  ReleaseSysCache(tuple);
  return act_as(owner, SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
}

void act_again(const Actor& before) {
  close_path(before.path);
  SetUserIdAndSecContext(before.user, before.context);
}

int fixed_path() {
  // Each with whether it is in force, from the variable itself: a look by name takes longer than what is run.
  static constexpr struct {
    const char* name;
    const char* value;
    bool (*in_force)();
  } settings[] = {
      {"search_path", own_path,
       [] { return namespace_search_path != nullptr && strcmp(namespace_search_path, own_path) == 0; }},
      {"jit", "off", [] { return !jit_enabled; }},  // compiling takes longer than anything that is run here
      {"extra_float_digits", "1", [] { return extra_float_digits == 1; }},
      {"bytea_output", "hex", [] { return bytea_output == BYTEA_OUTPUT_HEX; }},
      {"IntervalStyle", "postgres", [] { return IntervalStyle == INTSTYLE_POSTGRES; }},
      {"DateStyle", "ISO, MDY", [] { return DateStyle == USE_ISO_DATES && DateOrder == DATEORDER_MDY; }},
      {"TimeZone", "UTC", [] { return strcmp(pg_get_timezone_name(session_timezone), "UTC") == 0; }},
      {"xmlbinary", "base64", [] { return xmlbinary == XMLBINARY_BASE64; }},
      {"xmloption", "content", [] { return xmloption == XMLOPTION_CONTENT; }}};
  const int level = NewGUCNestLevel();
  for (const auto& [name, value, in_force] : settings)
    if (!in_force())
      (void)set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
  return level;
}

void close_path(int level) {
  AtEOXact_GUC(true, level);
}

void run(const char* sql) {
  SPI_connect();
  const int result = SPI_execute(sql, false, 0);
  if (result < 0) elog(ERROR, "SPI_execute failed: %s", SPI_result_code_string(result));
  SPI_finish();
}

void tell_engine() {
  run("UPDATE tick_catalog.generation SET value = value + 1");
  wake_at_commit();
}

void see_definitions(bool known) {
  constexpr int most_looks = 20;
  constexpr long look_every = 50;  // microseconds
  const Oid generation = catalog_relation("generation");
  for (int looks = 0; known && looks < most_looks; ++looks) {
    // The lock itself: whoever has just committed is no longer among the transactions that hold one.
    if (ConditionalLockRelationOid(generation, ShareLock)) {
      UnlockRelationOid(generation, ShareLock);
      AcceptInvalidationMessages();
      return;
    }
    pg_usleep(look_every);
  }
  InvalidateSystemCaches();
}

SPIPlanPtr kept_plan(const char* sql, int count, Oid* types, int options) {
  static std::map<std::string, SPIPlanPtr, std::less<>> plans;
  const auto known = plans.find(std::string_view(sql));
  if (known != plans.end()) return known->second;
  SPIPlanPtr plan = SPI_prepare_cursor(sql, count, types, options);
  if (plan == nullptr) elog(ERROR, "pg_tick: cannot prepare: %s", SPI_result_code_string(SPI_result));
  SPI_keepplan(plan);
  plans.emplace(sql, plan);
  return plan;
}

void open_catalogs() {
  // A parallel plan, for tick.fill, has one snapshot.
  if (!IsInParallelMode()) CommandCounterIncrement();
  PushActiveSnapshot(IsInParallelMode() ? GetActiveSnapshot() : GetLatestSnapshot());
  SPI_connect();
}

void close_catalogs() {
  SPI_finish();
  PopActiveSnapshot();
}

Oid tick_schema() {
  return get_namespace_oid("tick", false);
}

Oid exact_sum_type() {
  return GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum("exact_sum"),
                         ObjectIdGetDatum(tick_schema()));
}

const char* relation_text(Oid relation) {
  return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relation)), get_rel_name(relation));
}

void refuse_no_rollup(Oid relation) {
  const char* name = get_rel_name(relation);
  ereport(ERROR,
          (errcode(ERRCODE_WRONG_OBJECT_TYPE), errmsg("\"%s\" is not a rollup", name == nullptr ? "?" : name),
           errhint("tick.status lists the rollups.")));
}

}  // namespace tick::pg
