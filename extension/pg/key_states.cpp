#include "key_states.hpp"

#include "guard.hpp"
#include "session.hpp"

namespace tick::pg {
namespace {

constexpr int slice_rows = 5000;

}  // namespace

uint64 execute(const Asked* asked, const char* sql, int expected) {
  const int code =
      SPI_execute_with_args(sql, asked->parameters, asked->types, asked->values, asked->nulls, false, 0);
  if (code != expected) elog(ERROR, "pg_tick: %s: %s", SPI_result_code_string(code), sql);
  return SPI_processed;
}

const char* has_key(const Asked* asked, bool renamed, const char* const* names) {
  StringInfoData sql;
  initStringInfo(&sql);
  for (int i = 0; i < asked->count; ++i) {
    const KeyColumn* of = renamed ? &asked->renamed[i] : &asked->key[i];
    if (i > 0) appendStringInfoString(&sql, " AND ");
    if (of->null)
      appendStringInfo(&sql, "%s IS NULL", names[i]);
    else
      generate_operator_clause(&sql, names[i], of->type, of->equal,
                               psprintf("$%d", i + 1 + (renamed ? asked->count : 0)), of->type);
  }
  return sql.data;
}

const char* in_range(const Asked* asked, const char* time, Oid type) {
  if (!asked->ranged) return "";
  const char* zone = getBaseType(type) == TIMESTAMPOID ? " AT TIME ZONE 'UTC'" : "";
  return psprintf(" AND %s >= ($%d%s) AND %s < ($%d%s)", time, asked->parameters - 2, zone, time,
                  asked->parameters - 1, zone);
}

namespace {

const char* has_state_key(const Asked* asked, const Member& member, bool renamed, const char* row) {
  auto** names = static_cast<const char**>(palloc(sizeof(char*) * asked->count));
  for (int i = 0; i < asked->count; ++i)
    names[i] = psprintf("%s.%s", row, quote_identifier(member.columns[i]->name));
  return has_key(asked, renamed, names);
}

const char* window_column(const Member& member, const char* row) {
  return psprintf("%s.%s", row, quote_identifier(column(member.def, list_length(member.def->keys))->name));
}

Oid window_type(const Member& member) {
  return column(member.def, list_length(member.def->keys))->type;
}

// ---- state rows that go

// The keys of a row as the log of changes has them; with those it is told of by their parameters.
const char* key_text(const Asked* asked, const Member& member, const char* row, bool before) {
  StringInfoData sql;
  initStringInfo(&sql);
  appendStringInfoString(&sql, "jsonb_build_object(");
  for (int i = 0; i < list_length(member.def->keys); ++i) {
    const StateColumn* of = column(member.def, i);
    const char* value = psprintf("%s.%s", row, quote_identifier(of->name));
    for (int k = 0; before && k < asked->count; ++k)
      if (member.columns[k] == of)
        value = psprintf("CAST($%d AS %s)", k + 1, format_type_with_typemod(of->type, of->typmod));
    appendStringInfo(&sql, "%s%s, %s", i == 0 ? "" : ", ", quote_literal_cstr(of->name), value);
  }
  appendStringInfoString(&sql, ")::text");
  return sql.data;
}

// Adds the rows of SPI's table, of which the first column is the window, the second the key.
void take_gone(Gone* gone, MemoryContext memory, bool windowed) {
  const auto count = static_cast<int64>(SPI_processed);
  if (count == 0) return;
  const Size before = static_cast<Size>(gone->count), all = before + static_cast<Size>(count);
  auto** keys = static_cast<const char**>(MemoryContextAllocHuge(memory, sizeof(char*) * all));
  auto* windows = static_cast<Micros*>(MemoryContextAllocHuge(memory, sizeof(Micros) * all));
  for (Size i = 0; i < before; ++i) {
    keys[i] = gone->keys[i];
    windows[i] = gone->windows[i];
  }
  for (int64 row = 0; row < count; ++row) {
    bool null;
    windows[before + row] =
        windowed
            ? DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 1, &null))
            : 0;
    keys[before + row] =
        MemoryContextStrdup(memory, SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 2));
  }
  gone->count += count;
  gone->keys = keys;
  gone->windows = windows;
}

const char* shown_window(const Member& member, const char* row) {
  return member.def->window == nullptr ? "NULL" : window_column(member, row);
}

const char* state_range(const Asked* asked, const Member& member, const char* row) {
  return member.def->window == nullptr ? ""
                                       : in_range(asked, window_column(member, row), window_type(member));
}

}  // namespace

Gone delete_states(const Asked* asked, const Member& member) {
  Gone gone{};
  MemoryContext memory = CurrentMemoryContext;
  const Actor extension = act_as_owner(member.standing);
  SPI_connect();
  execute(asked,
          psprintf("DELETE FROM %s AS s WHERE %s%s RETURNING %s, %s", relation_text(member.standing->state),
                   has_state_key(asked, member, false, "s"), state_range(asked, member, "s"),
                   shown_window(member, "s"), key_text(asked, member, "s", false)),
          SPI_OK_DELETE_RETURNING);
  take_gone(&gone, memory, member.def->window != nullptr);
  SPI_finish();
  act_again(extension);
  return gone;
}

// The types of keys may have an equality of a user's: the rollup's owner compares.
void delete_versions(const Asked* asked, const Member& member) {
  if (!OidIsValid(member.rollup.history)) return;
  const char* table = relation_text(member.rollup.history);
  const bool same = member.standing->owner == GetUserId();
  const char* owner = quote_identifier(GetUserNameFromId(member.standing->owner, false));
  if (!same) run(psprintf("GRANT SELECT, DELETE ON %s TO %s", table, owner));
  const Actor extension = act_as_owner(member.standing);
  SPI_connect();
  execute(asked,
          psprintf("DELETE FROM %s AS s WHERE %s%s", table, has_state_key(asked, member, false, "s"),
                   state_range(asked, member, "s")),
          SPI_OK_DELETE);
  SPI_finish();
  act_again(extension);
  if (!same) run(psprintf("REVOKE SELECT, DELETE ON %s FROM %s", table, owner));
}

namespace {

// The key's columns as tick.late lists them.
char* late_key(const Asked* asked, const Member& member, bool renamed) {
  StringInfoData sql;
  initStringInfo(&sql);
  for (int i = 0; i < asked->count; ++i) {
    const StateColumn* of = member.columns[i];
    appendStringInfo(&sql, "%s%s, CAST($%d AS %s)", i == 0 ? "SELECT jsonb_build_object(" : ", ",
                     quote_literal_cstr(of->name), i + 1 + (renamed ? asked->count : 0),
                     format_type_with_typemod(of->type, of->typmod));
  }
  appendStringInfoChar(&sql, ')');
  MemoryContext memory = CurrentMemoryContext;
  const Actor extension = act_as_owner(member.standing);
  SPI_connect();
  execute(asked, sql.data, SPI_OK_SELECT);
  char* json = MemoryContextStrdup(memory, SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
  SPI_finish();
  act_again(extension);
  return json;
}

}  // namespace

void change_late(const Asked* asked, const Member& member) {
  const bool renamed = asked->renamed != nullptr;
  Oid types[] = {INT4OID, TEXTOID, TEXTOID, BOOLOID, TIMESTAMPTZOID, TIMESTAMPTZOID};
  Datum values[] = {Int32GetDatum(member.standing->rollup),
                    CStringGetTextDatum(late_key(asked, member, false)),
                    CStringGetTextDatum(late_key(asked, member, renamed)),
                    BoolGetDatum(asked->ranged),
                    TimestampTzGetDatum(asked->from),
                    TimestampTzGetDatum(asked->to)};
  const char* gone =
      "DELETE FROM tick_catalog.late AS l WHERE l.rollup = $1 AND (NOT $4 OR (l.ts >= $5 AND l.ts < $6)) AND "
      "((SELECT bool_and(l.key -> e.key = e.value) FROM jsonb_each($2::jsonb) AS e) OR (SELECT "
      "bool_and(l.key "
      "-> e.key = e.value) FROM jsonb_each($3::jsonb) AS e))";
  // What both had of a window becomes one row.
  const char* sql =
      !renamed ? gone
               : psprintf(
                     "WITH gone AS (%s RETURNING *) INSERT INTO tick_catalog.late (rollup, reason, ts, key, "
                     "rows, since, partial) SELECT g.rollup, g.reason, g.ts, g.key || $3::jsonb, "
                     "sum(g.rows), min(g.since), (array_agg(g.partial))[1] FROM gone AS g GROUP BY 1, 2, 3, "
                     "4",
                     gone);
  SPI_connect();
  if (SPI_execute_with_args(sql, 6, types, values, nullptr, false, 0) < 0)
    elog(ERROR, "pg_tick: cannot change tick_catalog.late");
  SPI_finish();
}

namespace {

// ---- state rows that move

// Says that two rows of the state table differ in the key alone.
const char* are_twins(const Asked* asked, const Member& member) {
  StringInfoData sql, here, there;
  initStringInfo(&sql);
  initStringInfo(&here);
  initStringInfo(&there);
  appendStringInfo(&sql, "%s AND %s", has_state_key(asked, member, false, "o"),
                   has_state_key(asked, member, true, "n"));
  if (member.def->window != nullptr)
    appendStringInfo(&sql, " AND %s = %s", window_column(member, "o"), window_column(member, "n"));
  for (int i = 0; i < list_length(member.def->keys); ++i) {
    const StateColumn* of = column(member.def, i);
    bool renamed = false;
    for (int k = 0; k < asked->count; ++k) renamed = renamed || member.columns[k] == of;
    if (renamed) continue;
    appendStringInfo(&here, ", o.%s", quote_identifier(of->name));
    appendStringInfo(&there, ", n.%s", quote_identifier(of->name));
  }
  if (here.len > 0)
    appendStringInfo(&sql, " AND ROW(true%s)::record = ROW(true%s)::record", here.data, there.data);
  return sql.data;
}

// Values can be computed again where the source has all rows, counts and the like be added anywhere.
void refuse_twins(const Asked* asked, const Member& member) {
  const Micros covered = member.rollup.first_covered();
  if ((!member.rollup.computed && !member.follows) || covered == minus_infinity) return;
  SPI_connect();
  execute(asked,
          psprintf("SELECT %s FROM %s AS o JOIN %s AS n ON %s ORDER BY 1", shown_window(member, "o"),
                   relation_text(member.standing->state), relation_text(member.standing->state),
                   are_twins(asked, member)),
          SPI_OK_SELECT);
  if (SPI_processed > 0) {
    bool null;
    const Datum first = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null);
    const Datum last = SPI_getbinval(SPI_tuptable->vals[SPI_processed - 1], SPI_tuptable->tupdesc, 1, &null);
    if (null || DatumGetTimestampTz(first) < covered)
      ereport(ERROR,
              (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
               errmsg("\"%s\" has rows of both keys that cannot be made one",
                      get_rel_name(member.standing->view)),
               null ? errdetail("The rows they were computed from are gone.")
                    : errdetail("It is computed anew, and of windows between %s and %s the rows are gone.",
                                timestamptz_to_str(DatumGetTimestampTz(first)),
                                pstrdup(timestamptz_to_str(Min(DatumGetTimestampTz(last), covered)))),
               errhint("Forget one of the two keys up to there: SELECT tick.forget(..., \"to\" => ...).")));
  }
  SPI_finish();
}

// Takes away some rows of a rollup that follows another one, which will make their twins anew. Returns
// whether there were any.
bool drop_twins(const Asked* asked, const Member& member, Gone* gone, MemoryContext memory) {
  const char* state = relation_text(member.standing->state);
  SPI_connect();
  const bool found =
      execute(
          asked,
          psprintf("DELETE FROM %s AS s WHERE s.ctid = ANY (ARRAY(SELECT o.ctid FROM %s AS o JOIN %s AS n ON "
                   "%s LIMIT %d)) RETURNING %s, %s",
                   state, state, state, are_twins(asked, member), slice_rows, shown_window(member, "s"),
                   key_text(asked, member, "s", false)),
          SPI_OK_DELETE_RETURNING) > 0;
  take_gone(gone, memory, member.def->window != nullptr);
  SPI_finish();
  return found;
}

// Takes away some rows that have a twin, as arrays by column, and gives them to the upsert, which merges.
// Returns whether there were any.
bool merge_twins(const Asked* asked, const Member& member, const TurnTime& time, Gone* gone,
                 MemoryContext memory) {
  const Definition* def = member.def;
  const int columns = list_length(def->columns);
  const char* state = relation_text(member.standing->state);
  StringInfoData sql;
  initStringInfo(&sql);
  appendStringInfo(
      &sql,
      "WITH gone AS (DELETE FROM %s AS s WHERE s.ctid = ANY (ARRAY(SELECT o.ctid FROM %s AS o JOIN "
      "%s AS n ON %s LIMIT %d)) RETURNING s.*) SELECT ",
      state, state, state, are_twins(asked, member), slice_rows);
  auto* types = static_cast<Oid*>(palloc(sizeof(Oid) * (columns + 4)));
  auto* values = static_cast<Datum*>(palloc(sizeof(Datum) * (columns + 4)));
  auto* nulls = static_cast<char*>(palloc(columns + 4));
  memset(nulls, ' ', columns + 4);
  for (int c = 0; c < columns; ++c) {
    const StateColumn* of = column(def, c);
    types[c] = get_array_type(of->type);
    if (!OidIsValid(types[c]))
      ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                      errmsg("\"%s\" has rows of both keys that cannot be made one",
                             get_rel_name(member.standing->view)),
                      errdetail("Its column \"%s\" is of type %s.", of->name, format_type_be(of->type)),
                      errhint("Forget one of the two keys.")));
    const char* value = psprintf("g.%s", quote_identifier(of->name));
    for (int k = 0; k < asked->count; ++k)
      if (member.columns[k] == of)
        value =
            psprintf("CAST($%d AS %s)", asked->count + k + 1, format_type_with_typemod(of->type, of->typmod));
    appendStringInfo(&sql, "array_agg(%s), ", value);
  }
  appendStringInfo(
      &sql,
      "array_agg(g.tick_stale), array_agg(0::int8), array_agg(%s::%s), array_agg(%s), count(*) FROM "
      "gone AS g",
      shown_window(member, "g"),
      member.def->window == nullptr ? "timestamptz" : format_type_be(window_type(member)),
      key_text(asked, member, "g", true));
  SPI_connect();
  execute(asked, sql.data, SPI_OK_SELECT);
  HeapTuple row = SPI_tuptable->vals[0];
  const auto field = [&](int at) {
    bool null;
    return SPI_getbinval(row, SPI_tuptable->tupdesc, at, &null);
  };
  const bool found = DatumGetInt64(field(columns + 5)) > 0;
  if (found) {
    for (int c = 0; c < columns + 2; ++c) values[c] = field(c + 1);
    types[columns] = BOOLARRAYOID;
    types[columns + 1] = INT8ARRAYOID;
    types[columns + 2] = types[columns + 3] = TIMESTAMPTZOID;
    values[columns + 2] = TimestampTzGetDatum(time.now);
    values[columns + 3] = TimestampTzGetDatum(time.watermark.value_or(0));
    nulls[columns + 3] = time.watermark ? ' ' : 'n';
    Oid shown_types[] = {get_array_type(member.def->window == nullptr ? TIMESTAMPTZOID : window_type(member)),
                         TEXTARRAYOID};
    Datum shown[] = {field(columns + 3), field(columns + 4)};
    if (SPI_execute_with_args(member.standing->upsert, columns + 4, types, values, nulls, false, 0) !=
        SPI_OK_INSERT)
      elog(ERROR, "pg_tick: cannot merge two keys");
    SPI_execute_with_args("SELECT u.w, u.k FROM unnest($1, $2) AS u (w, k)", 2, shown_types, shown, nullptr,
                          false, 0);
    take_gone(gone, memory, member.def->window != nullptr);
  }
  SPI_finish();
  return found;
}

}  // namespace

Gone move_states(const Asked* asked, const Member& member, const TurnTime& time) {
  Gone gone{};
  MemoryContext memory = CurrentMemoryContext;
  const Actor extension = act_as_owner(member.standing);
  refuse_twins(asked, member);
  while (member.follows ? drop_twins(asked, member, &gone, memory)
                        : merge_twins(asked, member, time, &gone, memory))
    CHECK_FOR_INTERRUPTS();
  gone.merged = gone.count;
  StringInfoData sql;
  initStringInfo(&sql);
  appendStringInfo(&sql, "UPDATE %s AS s SET ", relation_text(member.standing->state));
  for (int i = 0; i < asked->count; ++i) {
    const StateColumn* of = member.columns[i];
    appendStringInfo(&sql, "%s = CAST($%d AS %s), ", quote_identifier(of->name), asked->count + i + 1,
                     format_type_with_typemod(of->type, of->typmod));
  }
  appendStringInfo(&sql, "updated_at = $%d WHERE %s RETURNING %s, %s", asked->parameters,
                   has_state_key(asked, member, false, "s"), shown_window(member, "s"),
                   key_text(asked, member, "s", true));
  SPI_connect();
  execute(asked, sql.data, SPI_OK_UPDATE_RETURNING);
  take_gone(&gone, memory, member.def->window != nullptr);
  SPI_finish();
  act_again(extension);
  return gone;
}

namespace {

// The condition that a window starts in [lo, hi); "" without windows.
const char* windows_between(const Member& member, Micros lo, Micros hi) {
  if (member.def->window == nullptr) return "";
  const auto text = [](Micros time) { return pstrdup(timestamptz_to_str(time)); };
  const char* zone = window_type(member) == TIMESTAMPOID ? " AT TIME ZONE 'UTC'" : "";
  return psprintf(" AND %s >= ('%s'::timestamptz%s) AND %s < ('%s'::timestamptz%s)",
                  window_column(member, "s"), text(lo), zone, window_column(member, "s"), text(hi), zone);
}

}  // namespace

uint64 count_uncovered(const Asked* asked, const Member& member, Micros covered) {
  const Actor extension = act_as_owner(member.standing);
  const char* windows = "";
  if (member.def->window != nullptr) {
    const Micros from = asked->from == minus_infinity || asked->from == plus_infinity
                            ? asked->from
                            : first_window(asked->from, member.def->window_size);
    windows = windows_between(member, from, Min(covered, end_of_windows(asked->to, member.def->window_size)));
  }
  SPI_connect();
  const uint64 count =
      execute(asked,
              psprintf("SELECT FROM %s AS s WHERE %s%s", relation_text(member.standing->state),
                       has_state_key(asked, member, false, "s"), windows),
              SPI_OK_SELECT);
  SPI_finish();
  act_again(extension);
  return count;
}

void mark_key_stale(const Asked* asked, const Member& member, Micros lo, Micros hi) {
  const Actor extension = act_as_owner(member.standing);
  SPI_connect();
  execute(asked,
          psprintf("UPDATE %s AS s SET tick_stale = true WHERE %s%s", relation_text(member.standing->state),
                   has_state_key(asked, member, false, "s"), windows_between(member, lo, hi)),
          SPI_OK_UPDATE);
  SPI_finish();
  act_again(extension);
}

void forget_open(const Member& member, const Micros* windows, int count) {
  auto* elements = static_cast<Datum*>(palloc(sizeof(Datum) * (count + 1)));
  for (int i = 0; i < count; ++i) elements[i] = TimestampTzGetDatum(windows[i]);
  const Oid type = window_type(member);
  Oid types[] = {get_array_type(type), INT4OID};
  Datum values[] = {
      PointerGetDatum(construct_array(elements, count, type, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE)),
      Int32GetDatum(member.standing->rollup)};
  const char* origin =
      type == TIMESTAMPOID ? "'2000-01-01'::timestamp" : "'2000-01-01 00:00+00'::timestamptz";
  SPI_connect();
  if (SPI_execute_with_args(
          psprintf(
              "DELETE FROM tick_catalog.open_window AS w USING unnest($1) AS u (start) WHERE w.rollup = $2 "
              "AND w.start = (extract(epoch FROM u.start - %s) * 1000000)::int8 AND NOT EXISTS (SELECT "
              "FROM %s AS s WHERE %s = u.start)",
              origin, relation_text(member.standing->state), window_column(member, "s")),
          2, types, values, nullptr, false, 0) < 0)
    elog(ERROR, "pg_tick: cannot forget open windows");
  SPI_finish();
}

}  // namespace tick::pg
