// The ids of keys that are forgotten or renamed, as far as their set is by these columns: given back or moved
// whole, also of rows that the source holds no more. What is done is this transaction's, as if its own rows
// had come and gone: writers know of it when they have the group's lock, the worker by a delta.
#include <algorithm>

#include "dedup.hpp"
#include "guard.hpp"
#include "session.hpp"

namespace tick::pg {
namespace {

// A key of a set, and the one whose columns have other values.
struct Renaming {
  std::string key, group, new_key, new_group;
};

void append_value(std::string& to, Datum value, bool null, const ValueType& type) {
  std::string canonical;
  const Cell cell = call([&] {
    if (!null && type.length == -1)
      value = PointerGetDatum(pg_detoast_datum_packed(reinterpret_cast<struct varlena*>(value)));
    return to_cell(value, null, type);
  });
  append_key(to, needs_canonical(type.type) ? canonical_cell(cell, type.type, canonical) : cell, type.type);
}

// The merged keys of a set, as their bytes.
std::vector<std::string> keys_of(int32 set) {
  const char** data = nullptr;
  size_t* sizes = nullptr;
  size_t count = 0;
  call([&] {
    MemoryContext memory = CurrentMemoryContext;
    Oid types[] = {INT4OID};
    Datum values[] = {Int32GetDatum(set)};
    open_catalogs();
    SPI_execute_with_args("SELECT key FROM tick_catalog.seen WHERE dedup = $1", 1, types, values, nullptr,
                          true, 0);
    count = SPI_processed;
    MemoryContext spi = MemoryContextSwitchTo(memory);
    data = static_cast<const char**>(palloc(sizeof(char*) * (count + 1)));
    sizes = static_cast<size_t*>(palloc(sizeof(size_t) * (count + 1)));
    for (size_t row = 0; row < count; ++row) {
      bool null;
      bytea* key =
          DatumGetByteaPCopy(SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 1, &null));
      data[row] = VARDATA(key);
      sizes[row] = static_cast<size_t>(VARSIZE(key) - VARHDRSZ);
    }
    MemoryContextSwitchTo(spi);
    close_catalogs();
  });
  std::vector<std::string> keys;
  for (size_t row = 0; row < count; ++row) keys.emplace_back(data[row], sizes[row]);
  return keys;
}

std::vector<Renaming> find_keys(const Dedup* dedup, const std::vector<IdColumn>& columns) {
  std::vector<std::string> before(dedup->keys), after(dedup->keys);
  std::vector<bool> given(dedup->keys);
  for (const IdColumn& of : columns) {
    const auto end = dedup->columns.begin() + static_cast<std::ptrdiff_t>(dedup->keys);
    const auto at = std::find(dedup->columns.begin(), end, of.column);
    if (at == end) return {};
    const auto index = static_cast<size_t>(at - dedup->columns.begin());
    given[index] = true;
    append_value(before[index], of.before, of.before_null, dedup->types[index]);
    append_value(after[index], of.after, of.after_null, dedup->types[index]);
  }
  std::vector<Type> types;
  for (size_t i = 0; i < dedup->keys; ++i) types.push_back(dedup->types[i].type);
  std::vector<Renaming> found;
  for (const std::string& key : keys_of(dedup->id)) {
    const std::vector<Cell> cells = read_key(key, types);
    Renaming renaming;
    renaming.key = key;
    bool same = true;
    for (size_t i = 0; same && i < dedup->keys; ++i) {
      std::string part;
      append_key(part, cells[i], types[i]);
      const std::string& new_part = given[i] ? after[i] : part;
      same = !given[i] || part == before[i];
      renaming.new_key += new_part;
      if (dedup->columns[i] != dedup->columns[dedup->group_at()]) continue;
      renaming.group = part;
      renaming.new_group = new_part;
    }
    if (same) found.push_back(std::move(renaming));
  }
  return found;
}

// What was said of the gaps of a key.
void move_notes(const Dedup* dedup, const Renaming& renaming, bool renamed) {
  const std::string &key = renaming.key, &new_key = renaming.new_key;
  call([&] {
    Oid types[] = {INT4OID, BYTEAOID, BYTEAOID, BOOLOID};
    Datum values[] = {Int32GetDatum(dedup->id), varlena_datum(key.data(), key.size()),
                      varlena_datum(new_key.data(), new_key.size()), BoolGetDatum(renamed)};
    SPI_connect();
    if (SPI_execute_with_args(
            "WITH gone AS (DELETE FROM tick_catalog.gap_note WHERE dedup = $1 AND key = $2 "
            "RETURNING *) INSERT INTO tick_catalog.gap_note (dedup, key, to_id, reason) SELECT "
            "g.dedup, $3, g.to_id, g.reason FROM gone AS g WHERE $4 ON CONFLICT DO NOTHING",
            4, types, values, nullptr, false, 0) < 0)
      elog(ERROR, "pg_tick: cannot change tick_catalog.gap_note");
    SPI_finish();
  });
}

const Dedup* set_of(Oid source) {
  return call([&] {
    const int32 set = dedup_of(source);
    return set == 0 ? nullptr : find_dedup(set);
  });
}

}  // namespace

void check_ids(Oid source, const std::vector<IdColumn>& columns) {
  const Dedup* dedup = set_of(source);
  if (dedup == nullptr) return;
  for (const Renaming& renaming : find_keys(dedup, columns)) {
    const IdSet ids = known_ids(dedup, renaming.key, renaming.group);
    IdSet alone = ids;
    alone.erase(known_ids(dedup, renaming.new_key, renaming.new_group));
    IdSet common = ids;
    common.erase(alone);
    if (common.empty()) continue;
    const int64 first = common.ranges().front().lo, last = common.ranges().back().hi;
    call([&] {
      ereport(
          ERROR,
          (errcode(ERRCODE_UNIQUE_VIOLATION), errmsg("\"%s\" has ids of both keys", get_rel_name(source)),
           errdetail("They are between " INT64_FORMAT " and " INT64_FORMAT ": one key would have them twice.",
                     first, last),
           errhint("DELETE these rows of one of the keys, or tick.forget(...) it.")));
    });
  }
}

void move_ids(Oid source, const std::vector<IdColumn>& columns, bool renamed) {
  const Dedup* dedup = set_of(source);
  if (dedup == nullptr) return;
  for (const Renaming& renaming : find_keys(dedup, columns)) {
    IdChange going, coming;
    going.removed = coming.added = known_ids(dedup, renaming.key, renaming.group);
    change_ids(dedup, renaming.key, renaming.group, going);
    if (renamed) change_ids(dedup, renaming.new_key, renaming.new_group, coming);
    move_notes(dedup, renaming, renamed);
  }
}

}  // namespace tick::pg
