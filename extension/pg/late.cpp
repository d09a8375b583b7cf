#include "late.hpp"

#include "guard.hpp"
#include "session.hpp"

namespace tick::pg {
namespace {

constexpr size_t widest_key = 2048;

const char* name_of(Refusal refusal) {
  switch (refusal) {
    case Refusal::frozen:
      return "frozen";
    case Refusal::key:
      return "key";
    case Refusal::no_time:
      break;
  }
  return "no_time";
}

// The keys of a slot as tick.verify shows them. The types' functions may be a user's.
Datum key_object(const Rollup& rollup, const Fold& fold, size_t slot) {
  const int keys = static_cast<int>(rollup.program.keys.size());
  StringInfoData sql;
  initStringInfo(&sql);
  appendStringInfoString(&sql, "SELECT jsonb_build_object(");
  auto* types = static_cast<Oid*>(palloc(sizeof(Oid) * (keys + 1)));
  auto* values = static_cast<Datum*>(palloc(sizeof(Datum) * (keys + 1)));
  auto* nulls = static_cast<char*>(palloc(keys + 1));
  for (int k = 0; k < keys; ++k) {
    appendStringInfo(&sql, "%s%s, $%d", k == 0 ? "" : ", ",
                     quote_literal_cstr(get_attname(rollup.state, rollup.attributes[k], false)), k + 1);
    const Cell cell = fold.key(slot, k);
    types[k] = rollup.column_types[k];
    values[k] = key_datum(rollup, k, cell);
    nulls[k] = cell.null ? 'n' : ' ';
  }
  nulls[keys] = '\0';
  appendStringInfoChar(&sql, ')');
  const Actor before = act_as_owner(rollup.owner);
  if (SPI_execute_with_args(sql.data, keys, types, values, nulls, true, 1) != SPI_OK_SELECT)
    elog(ERROR, "pg_tick: cannot run: %s", sql.data);
  act_again(before);
  bool null;
  return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null);
}

}  // namespace

bool is_too_wide(const Fold& fold, size_t slot) {
  const Program& program = fold.program();
  size_t bytes = 0;
  for (size_t k = 0; k < program.keys.size(); ++k) {
    const Cell cell = fold.key(slot, k);
    if (!cell.null && is_variable(program.inputs[program.keys[k]].type)) bytes += cell.size;
  }
  return bytes > widest_key;
}

void list_late(const Rollup& rollup, const Fold& fold, Refusal refusal, TimestampTz now) {
  const std::vector<int16_t> same = every_item(rollup);
  for (size_t slot = 0; slot < fold.slots(); ++slot) {
    const int64_t rows = fold.partials(0).counts[slot];
    if (rows <= 0) continue;
    const char* reason = name_of(refusal);
    const bool timed = rollup.windowed && refusal != Refusal::no_time;
    Datum key = 0;
    const char* data = nullptr;
    size_t size = 0;
    int64_t total = rows;
    TimestampTz since = now;
    call([&] {
      key = key_object(rollup, fold, slot);
      Oid types[4] = {INT4OID, TEXTOID, TIMESTAMPTZOID, JSONBOID};
      Datum values[4] = {Int32GetDatum(rollup.id), CStringGetTextDatum(reason),
                         TimestampTzGetDatum(fold.pane(slot)), key};
      const char nulls[5] = {' ', ' ', timed ? ' ' : 'n', ' ', '\0'};
      const char* sql =
          "DELETE FROM tick_catalog.late WHERE rollup = $1 AND reason = $2 AND ts IS NOT DISTINCT FROM $3 "
          "AND "
          "key = $4 RETURNING partial, rows, since";
      if (SPI_execute_plan(kept_plan(sql, 4, types), values, nulls, false, 0) != SPI_OK_DELETE_RETURNING)
        elog(ERROR, "pg_tick: cannot run: %s", sql);
      if (SPI_processed == 0) return;
      bool null;
      HeapTuple row = SPI_tuptable->vals[0];
      const bytea* partial = DatumGetByteaPP(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &null));
      data = VARDATA_ANY(partial);
      size = VARSIZE_ANY_EXHDR(partial);
      total += DatumGetInt64(SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &null));
      since = DatumGetTimestampTz(SPI_getbinval(row, SPI_tuptable->tupdesc, 3, &null));
    });
    Fold one(rollup.program);
    one.merge(fold, same, [&](const Fold& from, size_t at) -> std::optional<Micros> {
      return at == slot ? std::make_optional(from.pane(at)) : std::nullopt;
    });
    if (size > 0) merge_delta(one, {data, size});
    std::string partial;
    encode(one, partial);
    call([&] {
      Oid types[7] = {INT4OID, TEXTOID, TIMESTAMPTZOID, JSONBOID, INT8OID, TIMESTAMPTZOID, BYTEAOID};
      Datum values[7] = {Int32GetDatum(rollup.id),
                         CStringGetTextDatum(reason),
                         TimestampTzGetDatum(fold.pane(slot)),
                         key,
                         Int64GetDatum(total),
                         TimestampTzGetDatum(since),
                         varlena_datum(partial.data(), partial.size())};
      const char nulls[8] = {' ', ' ', timed ? ' ' : 'n', ' ', ' ', ' ', ' ', '\0'};
      const char* sql =
          "INSERT INTO tick_catalog.late (rollup, reason, ts, key, rows, since, partial) VALUES ($1, $2, $3, "
          "$4, $5, $6, $7)";
      if (SPI_execute_plan(kept_plan(sql, 7, types), values, nulls, false, 0) != SPI_OK_INSERT)
        elog(ERROR, "pg_tick: cannot run: %s", sql);
    });
  }
}

void forget_late(const Rollup& rollup, Micros lo, Micros hi) {
  call([&] {
    Oid types[4] = {INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID, BOOLOID};
    Datum values[4] = {Int32GetDatum(rollup.id), TimestampTzGetDatum(lo), TimestampTzGetDatum(hi),
                       BoolGetDatum(lo == minus_infinity)};
    const char* sql =
        "DELETE FROM tick_catalog.late WHERE rollup = $1 AND CASE WHEN ts IS NULL THEN $4 ELSE ts >= $2 AND "
        "ts < "
        "$3 END";
    if (SPI_execute_plan(kept_plan(sql, 4, types), values, nullptr, false, 0) != SPI_OK_DELETE)
      elog(ERROR, "pg_tick: cannot run: %s", sql);
  });
}

}  // namespace tick::pg
