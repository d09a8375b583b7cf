// What has been seen: tick_catalog.seen, one row per set and key, its ids as packed ranges. The worker merges
// deltas into it; a definition fills it from the source's rows. Also the functions that show it.
#include <map>
#include <memory>

#include "audit.hpp"
#include "catalog.hpp"
#include "dedup.hpp"
#include "define.hpp"
#include "guard.hpp"
#include "revive.hpp"
#include "session.hpp"

namespace tick::pg {
namespace {

// ---- the catalog of sets

struct DedupRow {
  Oid source;
  int16* keys;
  int key_count;
  int16 id_column, group_column, time_column;
};

bool read_dedup(int32 id, DedupRow* row) {
  const Oid relid = catalog_relation("dedup");
  if (!OidIsValid(relid)) return false;
  Relation relation = table_open(relid, AccessShareLock);
  ScanKeyData key;
  ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(id));
  // No snapshot given: the catalog snapshot, newer than that of a REPEATABLE READ writer.
  SysScanDesc scan = systable_beginscan(relation, catalog_relation("dedup_pkey"), true, nullptr, 1, &key);
  HeapTuple tuple = systable_getnext(scan);
  const bool found = HeapTupleIsValid(tuple);
  if (found) {
    Datum values[7];
    bool nulls[7];
    if (RelationGetDescr(relation)->natts != 7)
      elog(ERROR, "pg_tick: unexpected shape of tick_catalog.dedup");
    heap_deform_tuple(tuple, RelationGetDescr(relation), values, nulls);
    ArrayType* keys = DatumGetArrayTypePCopy(values[2]);
    *row = DedupRow{DatumGetObjectId(values[1]),
                    reinterpret_cast<int16*>(ARR_DATA_PTR(keys)),
                    ArrayGetNItems(ARR_NDIM(keys), ARR_DIMS(keys)),
                    DatumGetInt16(values[3]),
                    DatumGetInt16(values[4]),
                    DatumGetInt16(values[5])};
  }
  systable_endscan(scan);
  table_close(relation, AccessShareLock);
  if (found && await_revival(row->source)) return read_dedup(id, row);
  return found;
}

// ---- packed sets in and out of tick_catalog.seen

// Ascending by key, so that concurrent writers of other sets never wait for each other in a circle.
using Sets = std::map<std::string, IdSet, std::less<>>;

Datum bytea_array(const std::vector<std::string_view>& values) {
  auto* datums = static_cast<Datum*>(palloc(sizeof(Datum) * (values.size() + 1)));
  for (size_t i = 0; i < values.size(); ++i) datums[i] = varlena_datum(values[i].data(), values[i].size());
  return PointerGetDatum(
      construct_array(datums, static_cast<int>(values.size()), BYTEAOID, -1, false, TYPALIGN_INT));
}

Datum int8_array(const std::vector<int64_t>& values) {
  auto* datums = static_cast<Datum*>(palloc(sizeof(Datum) * (values.size() + 1)));
  for (size_t i = 0; i < values.size(); ++i) datums[i] = Int64GetDatum(values[i]);
  return PointerGetDatum(
      construct_array(datums, static_cast<int>(values.size()), INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

// Fills the sets that are there for the keys of `sets`.
void read_sets(int32 set, Sets& sets) {
  std::vector<std::string_view> keys;
  for (const auto& [key, ids] : sets) keys.push_back(key);
  SPITupleTable* table = nullptr;
  uint64_t count = 0;
  call([&] {
    Oid types[2] = {INT4OID, get_array_type(BYTEAOID)};
    Datum values[2] = {Int32GetDatum(set), bytea_array(keys)};
    const char* sql = "SELECT key, ranges FROM tick_catalog.seen WHERE dedup = $1 AND key = ANY ($2)";
    if (SPI_execute_plan(kept_plan(sql, 2, types), values, nullptr, true, 0) != SPI_OK_SELECT)
      elog(ERROR, "pg_tick: cannot run: %s", sql);
    table = SPI_tuptable;
    count = SPI_processed;
  });
  for (uint64_t row = 0; row < count; ++row) {
    std::string_view field[2];
    call([&] {
      for (int i = 0; i < 2; ++i) {
        bool null;
        bytea* value = DatumGetByteaPP(SPI_getbinval(table->vals[row], table->tupdesc, i + 1, &null));
        field[i] = {VARDATA_ANY(value), static_cast<size_t>(VARSIZE_ANY_EXHDR(value))};
      }
    });
    std::span<const unsigned char> in(reinterpret_cast<const unsigned char*>(field[1].data()),
                                      field[1].size());
    sets.find(field[0])->second = IdSet::decode(in);
  }
  call([&] { SPI_freetuptable(table); });
}

// Writes sets of ids, unless theirs is not the present one any more.
void write_sets(int32 set, const Sets& sets, Micros now) {
  if (sets.empty()) return;
  std::vector<std::string_view> keys, packed;
  std::vector<int64_t> ranges, counts;
  std::vector<std::string> bytes(sets.size());
  for (const auto& [key, ids] : sets) {
    std::string& into = bytes[keys.size()];
    ids.encode(into);
    keys.push_back(key);
    packed.push_back(into);
    ranges.push_back(static_cast<int64_t>(ids.ranges().size()));
    counts.push_back(ids.count());
  }
  call([&] {
    Oid types[6] = {INT4OID,
                    get_array_type(BYTEAOID),
                    get_array_type(BYTEAOID),
                    get_array_type(INT8OID),
                    get_array_type(INT8OID),
                    TIMESTAMPTZOID};
    Datum values[6] = {Int32GetDatum(set), bytea_array(keys),  bytea_array(packed),
                       int8_array(ranges), int8_array(counts), TimestampTzGetDatum(now)};
    const char* sql =
        "INSERT INTO tick_catalog.seen AS s (dedup, key, ranges, range_count, ids, updated_at)"
        " SELECT $1, u.*, $6 FROM unnest($2, $3, $4, $5) AS u WHERE EXISTS"
        " (SELECT FROM tick_catalog.dedup AS d WHERE d.id = $1)"
        " ON CONFLICT (dedup, key) DO UPDATE SET ranges = excluded.ranges, range_count = "
        "excluded.range_count,"
        " ids = excluded.ids, updated_at = excluded.updated_at";
    if (SPI_execute_plan(kept_plan(sql, 6, types), values, nullptr, false, 0) != SPI_OK_INSERT)
      elog(ERROR, "pg_tick: cannot run: %s", sql);
  });
}

// A key without ids is forgotten.
void drop_empty(int32 set, const Sets& sets) {
  std::vector<std::string_view> keys;
  for (const auto& [key, ids] : sets)
    if (ids.empty()) keys.push_back(key);
  if (keys.empty()) return;
  call([&] {
    Oid types[2] = {INT4OID, get_array_type(BYTEAOID)};
    Datum values[2] = {Int32GetDatum(set), bytea_array(keys)};
    const char* sql = "DELETE FROM tick_catalog.seen WHERE dedup = $1 AND key = ANY ($2)";
    if (SPI_execute_plan(kept_plan(sql, 2, types), values, nullptr, false, 0) != SPI_OK_DELETE)
      elog(ERROR, "pg_tick: cannot run: %s", sql);
  });
}

void add_duplicates(int32 set, int64_t count) {
  call([&] {
    Oid types[2] = {INT4OID, INT8OID};
    Datum values[2] = {Int32GetDatum(set), Int64GetDatum(count)};
    const char* sql = "UPDATE tick_catalog.dedup SET duplicates = duplicates + $2 WHERE id = $1";
    if (SPI_execute_plan(kept_plan(sql, 2, types), values, nullptr, false, 0) != SPI_OK_UPDATE)
      elog(ERROR, "pg_tick: cannot run: %s", sql);
  });
}

void warn_sparse(int32 set, size_t ranges) {
  call([&] {
    const Dedup* dedup = find_dedup(set);
    ereport(WARNING,
            (errmsg("a key of \"%s\" has %zu ranges of ids: dedup is for ids that are nearly contiguous",
                    dedup == nullptr ? "?" : get_rel_name(dedup->source), ranges),
             errhint("tick.seen shows which. With ids that leave holes on purpose use a unique index.")));
  });
}

// All that one turn does to one set.
struct Changes {
  std::map<std::string, IdChange, std::less<>> keys;
  int64_t duplicates = 0;
};

void merge_changes(int32 set, const Changes& changes, Micros now) {
  if (changes.duplicates > 0) add_duplicates(set, changes.duplicates);
  if (changes.keys.empty()) return;
  Sets sets;
  for (const auto& [key, change] : changes.keys) sets[key];
  read_sets(set, sets);
  auto change = changes.keys.begin();
  for (auto& [key, ids] : sets) {
    const size_t before = ids.ranges().size();
    (change++)->second.apply_to(ids);
    ids.date_edges(now);
    if (before <= many_ranges && ids.ranges().size() > many_ranges) warn_sparse(set, ids.ranges().size());
  }
  write_sets(set, sets, now);
  drop_empty(set, sets);
}

// ---- definitions

}  // namespace

AttrNumber dedup_time(Oid source) {
  Relation relation = table_open(source, AccessShareLock);
  AttrNumber result = 0;
  int found = 0;
  for (int i = 0; i < RelationGetDescr(relation)->natts; ++i) {
    const Form_pg_attribute attribute = TupleDescAttr(RelationGetDescr(relation), i);
    if (attribute->attisdropped) continue;
    if (getBaseType(attribute->atttypid) != TIMESTAMPTZOID &&
        getBaseType(attribute->atttypid) != TIMESTAMPOID)
      continue;
    result = attribute->attnum;
    ++found;
  }
  if (relation->rd_rel->relkind == RELKIND_PARTITIONED_TABLE) {
    PartitionKey key = RelationGetPartitionKey(relation);
    const Oid type = key->partattrs[0] == 0 ? InvalidOid : getBaseType(key->parttypid[0]);
    if (type == TIMESTAMPTZOID || type == TIMESTAMPOID) {
      result = key->partattrs[0];
      found = 1;
    }
  }
  table_close(relation, NoLock);
  return found == 1 ? result : static_cast<AttrNumber>(0);
}

namespace {

Node* column_node(Oid source, AttrNumber column) {
  Oid type, collation;
  int32 typmod;
  get_atttypetypmodcoll(source, column, &type, &typmod, &collation);
  return reinterpret_cast<Node*>(makeVar(1, column, type, typmod, collation, 0));
}

void check_names(const SourceSettings* source) {
  if (source->dedup_key == NIL || source->dedup_id == nullptr)
    ereport(ERROR,
            (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("dedup needs both dedup_key and dedup_id"),
             errhint("dedup_key names the columns within which an id occurs once, dedup_id the id.")));
  const Oid type =
      getBaseType(exprType(column_node(source->relid, get_attnum(source->relid, source->dedup_id))));
  if (type != INT2OID && type != INT4OID && type != INT8OID)
    ereport(ERROR,
            (errcode(ERRCODE_DATATYPE_MISMATCH), errmsg("dedup_id must be an integer column"),
             errdetail("\"%s\" is of type %s.", source->dedup_id, format_type_be(type)),
             errhint("Ids of other types: use a unique index with INSERT .. ON CONFLICT DO NOTHING.")));
  bool grouped = source->dedup_group == nullptr;
  ListCell* cell;
  foreach (cell, source->dedup_key) {
    const char* name = static_cast<char*>(lfirst(cell));
    check_type(column_node(source->relid, get_attnum(source->relid, name)), true, "", -1);
    if (source->dedup_group != nullptr && strcmp(name, source->dedup_group) == 0) grouped = true;
    if (strcmp(name, source->dedup_id) == 0)
      ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                      errmsg("dedup_key must not name the id \"%s\"", name),
                      errhint("dedup_key names the columns within which an id occurs once.")));
    for (int i = 0; i < foreach_current_index(cell); ++i)
      if (strcmp(static_cast<char*>(list_nth(source->dedup_key, i)), name) == 0)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("dedup_key names \"%s\" twice", name), errhint("Name it once.")));
  }
  if (!grouped)
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("dedup_group must be one of the columns of dedup_key"),
                    errhint("Rows of one key must be of one group: they wait for each other's writers.")));
}

// Makes the row of a new set and returns its id.
int32 insert_dedup(const SourceSettings* source) {
  StringInfoData keys;
  initStringInfo(&keys);
  ListCell* cell;
  foreach (cell, source->dedup_key)
    appendStringInfo(&keys, "%s%d", keys.len == 0 ? "" : ",",
                     get_attnum(source->relid, static_cast<char*>(lfirst(cell))));
  const AttrNumber group =
      source->dedup_group == nullptr ? 0 : get_attnum(source->relid, source->dedup_group);
  SPI_connect();
  SPI_execute(
      psprintf(
          "WITH old AS (DELETE FROM tick_catalog.dedup WHERE source = %u RETURNING duplicates) "
          "INSERT INTO tick_catalog.dedup (source, keys, id_column, group_column, time_column, duplicates) "
          "SELECT %u, '{%s}', %d, %d, %d, coalesce(sum(duplicates), 0) FROM old RETURNING id",
          source->relid, source->relid, keys.data, get_attnum(source->relid, source->dedup_id), group,
          dedup_time(source->relid)),
      false, 1);
  bool null;
  const int32 id = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
  SPI_finish();
  CommandCounterIncrement();
  return id;
}

// The ids of all rows of the source, by key. Returns how many rows have an id that another one has, too.
int64_t collect_ids(const Dedup* dedup, Sets& sets) {
  int64_t duplicates = 0;
  each_id(dedup->id, dedup->source, [&](const IdColumns*, const IdRow& row) {
    auto ids = sets.find(row.key);
    if (ids == sets.end()) ids = sets.emplace(std::string(row.key), IdSet{}).first;
    if (!ids->second.insert(row.id, row.time)) ++duplicates;
  });
  return duplicates;
}

}  // namespace

void fill_dedup(int32 id) {
  const Dedup* dedup = call([&] { return find_dedup(id); });
  Sets sets;
  const int64_t duplicates = collect_ids(dedup, sets);
  const Micros now = GetCurrentTimestamp();
  for (auto& [key, ids] : sets) ids.date_edges(now);
  call([] { SPI_connect(); });
  write_sets(id, sets, now);
  call([] { SPI_finish(); });
  if (duplicates == 0) return;
  call([&] {
    ereport(WARNING, (errmsg("\"%s\" holds " INT64_FORMAT " rows whose id another row of the same key has",
                             get_rel_name(dedup->source), duplicates),
                      errdetail("They stay; dedup keeps out those that come from now on.")));
  });
}

namespace {

// Whether the present set of a source is what its settings ask for.
bool is_defined(const SourceSettings* source, int32 id) {
  DedupRow row;
  if (id == 0 || !read_dedup(id, &row)) return false;
  if (row.key_count != list_length(source->dedup_key)) return false;
  ListCell* cell;
  foreach (cell, source->dedup_key)
    if (row.keys[foreach_current_index(cell)] != get_attnum(source->relid, static_cast<char*>(lfirst(cell))))
      return false;
  const AttrNumber group =
      source->dedup_group == nullptr ? 0 : get_attnum(source->relid, source->dedup_group);
  return row.id_column == get_attnum(source->relid, source->dedup_id) && row.group_column == group;
}

// ---- what SQL sees

// A key as an object of its columns' names and the texts of their values.
Datum key_json(FunctionCallInfo fcinfo) {
  const Dedup* dedup = call([&] { return find_dedup(PG_GETARG_INT32(0)); });
  if (dedup == nullptr) PG_RETURN_NULL();
  bytea* key = call([&] { return PG_GETARG_BYTEA_PP(1); });
  std::vector<Type> types;
  for (size_t i = 0; i < dedup->keys; ++i) types.push_back(dedup->types[i].type);
  const std::vector<Cell> cells =
      read_key({VARDATA_ANY(key), static_cast<size_t>(VARSIZE_ANY_EXHDR(key))}, types);
  return call([&] {
    const int count = static_cast<int>(dedup->keys);
    auto* values = static_cast<Datum*>(palloc0(sizeof(Datum) * count));
    auto* nulls = static_cast<bool*>(palloc0(count));
    auto* names = static_cast<Datum*>(palloc0(sizeof(Datum) * count));
    const int level = fixed_path();
    for (int i = 0; i < count; ++i) {
      const char* name = get_attname(dedup->source, dedup->columns[i], true);
      names[i] = CStringGetTextDatum(name == nullptr ? "?" : name);
      nulls[i] = cells[i].null;
      if (nulls[i]) continue;
      Oid output;
      bool varlena;
      getTypeOutputInfo(dedup->types[i].oid, &output, &varlena);
      values[i] = CStringGetTextDatum(OidOutputFunctionCall(output, to_datum(cells[i], dedup->types[i])));
    }
    close_path(level);
    int dimensions[1] = {count}, bounds[1] = {1};
    return DirectFunctionCall2(
        jsonb_object_two_arg,
        PointerGetDatum(construct_array(names, count, TEXTOID, -1, false, TYPALIGN_INT)),
        PointerGetDatum(
            construct_md_array(values, nulls, 1, dimensions, bounds, TEXTOID, -1, false, TYPALIGN_INT)));
  });
}

Datum time_datum(Micros time, bool* null) {
  *null = time == no_time;
  return TimestampTzGetDatum(time);
}

// The ranges of a packed set as rows.
void put_ranges(FunctionCallInfo fcinfo) {
  bytea* packed = call([&] {
    InitMaterializedSRF(fcinfo, 0);
    return PG_GETARG_BYTEA_PP(0);
  });
  std::span<const unsigned char> in(reinterpret_cast<const unsigned char*>(VARDATA_ANY(packed)),
                                    VARSIZE_ANY_EXHDR(packed));
  const IdSet set = IdSet::decode(in);
  auto* result = reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo);
  call([&] {
    for (const IdSet::Range& range : set.ranges()) {
      Datum values[5];
      bool nulls[5] = {};
      values[0] = Int64GetDatum(range.lo);
      values[1] = Int64GetDatum(range.hi);
      values[2] = time_datum(range.first, &nulls[2]);
      values[3] = time_datum(range.last, &nulls[3]);
      values[4] = time_datum(range.since, &nulls[4]);
      tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
    }
  });
}

}  // namespace

const Dedup* find_dedup(int32 id) {
  static std::vector<Dedup*> known;
  const Oid catalog = catalog_relation("dedup");
  for (const Dedup* dedup : known)
    if (dedup->id == id && dedup->catalog == catalog) return dedup;
  DedupRow row;
  if (!read_dedup(id, &row)) return nullptr;
  const int count = row.key_count + 3;
  auto* columns = static_cast<AttrNumber*>(palloc(sizeof(AttrNumber) * count));
  auto* types = static_cast<ValueType*>(palloc0(sizeof(ValueType) * count));
  for (int i = 0; i < row.key_count; ++i) columns[i] = row.keys[i];
  columns[row.key_count] = row.id_column;
  columns[row.key_count + 1] = row.group_column;
  columns[row.key_count + 2] = row.time_column;
  for (int i = 0; i < count; ++i)
    if (columns[i] != 0) types[i] = value_type(get_atttype(row.source, columns[i]));
  // From here on only C++: nothing below calls PostgreSQL.
  auto dedup = std::make_unique<Dedup>();
  dedup->id = id;
  dedup->catalog = catalog;
  dedup->source = row.source;
  dedup->columns.assign(columns, columns + count);
  dedup->types.assign(types, types + count);
  dedup->keys = static_cast<size_t>(row.key_count);
  known.push_back(dedup.get());
  return dedup.release();
}

int32 dedup_of(Oid source) {
  if (!OidIsValid(catalog_relation("dedup"))) return 0;
  Oid type = OIDOID;
  Datum value = ObjectIdGetDatum(source);
  const Actor caller = act_as_extension();
  open_catalogs();
  SPI_execute_with_args("SELECT id FROM tick_catalog.dedup WHERE source = $1", 1, &type, &value, nullptr,
                        true, 1);
  bool null;
  const int32 id = SPI_processed == 0
                       ? 0
                       : DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
  close_catalogs();
  act_again(caller);
  return id;
}

bool any_dedup() {
  return call([] {
    SPI_execute_plan(kept_plan("SELECT FROM tick_catalog.dedup LIMIT 1", 0, nullptr), nullptr, nullptr, true,
                     1);
    return SPI_processed > 0;
  });
}

bool merge_ids(
    const Frontier& before, Micros now,
    const std::function<void(int64_t program, std::string_view payload, const char* reason)>& hold) {
  std::vector<std::pair<int32, IdDelta>> deltas;
  (void)read_deltas(before, 0,
                    [&](int64_t program, std::string_view payload) {
                      try {
                        deltas.emplace_back(static_cast<int32>(-program), IdDelta::decode(payload));
                      } catch (const Error& error) {
                        hold(program, payload, error.what());
                      }
                    },
                    {std::numeric_limits<int64_t>::min(), -1});
  std::sort(deltas.begin(), deltas.end(),
            [](const auto& a, const auto& b) { return a.second.order < b.second.order; });
  std::map<int32, Changes> sets;
  for (const auto& [set, delta] : deltas) {
    Changes& changes = sets[set];
    changes.duplicates += delta.duplicates;
    for (const IdDelta::Entry& entry : delta.entries) changes.keys[entry.key].then(entry.change);
  }
  for (const auto& [set, changes] : sets) merge_changes(set, changes, now);
  return !deltas.empty();
}

void define_dedup(const SourceSettings* source) {
  const bool wanted =
      source->dedup_key != NIL || source->dedup_id != nullptr || source->dedup_group != nullptr;
  if (wanted) check_names(source);
  const int32 before = dedup_of(source->relid);
  if (wanted ? is_defined(source, before) : before == 0) return;
  lock_source(source->relid, wanted ? ShareRowExclusiveLock : AccessExclusiveLock);
  stop_turns();
  if (wanted) {
    fill_dedup(insert_dedup(source));
  } else {
    run(psprintf("DELETE FROM tick_catalog.dedup WHERE source = %u", source->relid));
  }
  attach_triggers(source->relid);
}

void rebuild_seen(Oid source) {
  const int32 id = call([&] {
    if (dedup_of(source) == 0) return int32{0};
    lock_source(source);
    stop_turns();
    SPI_connect();
    SPI_execute(
        psprintf("WITH old AS (DELETE FROM tick_catalog.dedup WHERE source = %u RETURNING *) "
                 "INSERT INTO tick_catalog.dedup (source, keys, id_column, group_column, time_column, "
                 "duplicates) SELECT source, keys, id_column, group_column, time_column, duplicates "
                 "FROM old RETURNING id",
                 source),
        false, 1);
    bool null;
    const int32 made = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
    SPI_finish();
    CommandCounterIncrement();
    return made;
  });
  if (id == 0) return;
  fill_dedup(id);
  call([&] { attach_triggers(source); });
}

void rename_ids() {
  const Actor caller = act_as_extension();
  run("UPDATE tick_catalog.source AS s SET dedup_key = n.keys, dedup_id = n.id, dedup_group = n.of_group "
      "FROM (SELECT d.source, ARRAY(SELECT a.attname::text FROM unnest(d.keys) WITH ORDINALITY AS k (number, "
      "at) "
      "JOIN pg_attribute AS a ON a.attrelid = d.source AND a.attnum = k.number ORDER BY k.at) AS keys, "
      "(SELECT a.attname::text FROM pg_attribute AS a WHERE a.attrelid = d.source AND a.attnum = "
      "d.id_column) AS id, "
      "(SELECT a.attname::text FROM pg_attribute AS a WHERE a.attrelid = d.source AND a.attnum = "
      "d.group_column "
      "AND d.group_column > 0) AS of_group FROM tick_catalog.dedup AS d) AS n WHERE s.relid = n.source "
      "AND (s.dedup_key, s.dedup_id, s.dedup_group) IS DISTINCT FROM (n.keys, n.id, n.of_group)");
  act_again(caller);
}

}  // namespace tick::pg

using namespace tick::pg;

extern "C" {
PG_FUNCTION_INFO_V1(tick_key_json);
PGDLLEXPORT Datum tick_key_json(PG_FUNCTION_ARGS);
PG_FUNCTION_INFO_V1(tick_rebuild_seen);
PGDLLEXPORT Datum tick_rebuild_seen(PG_FUNCTION_ARGS);
PG_FUNCTION_INFO_V1(tick_ranges);
PGDLLEXPORT Datum tick_ranges(PG_FUNCTION_ARGS);
}

Datum tick_key_json(PG_FUNCTION_ARGS) {
  return entry([&] { return key_json(fcinfo); });
}

Datum tick_rebuild_seen(PG_FUNCTION_ARGS) {
  return entry([&]() -> Datum {
    const Actor caller = act_as_extension();
    rebuild_seen(PG_GETARG_OID(0));
    act_again(caller);
    PG_RETURN_VOID();
  });
}

Datum tick_ranges(PG_FUNCTION_ARGS) {
  return entry([&] {
    put_ranges(fcinfo);
    return static_cast<Datum>(0);
  });
}
