// tick.seed: finished windows of which the source has no rows, as the rows of a query: an exchange's klines,
// candles of another system. They become rows of the state table, so that late rows are merged into them as
// into any window; `seeded_to` says below which start windows are never computed from the source again. A
// column of the state table that the query does not give follows from the others or is asked for; in the end
// the rollup must show what the query says.
#include "changes.hpp"
#include "define.hpp"
#include "guard.hpp"
#include "seed.hpp"
#include "session.hpp"
#include "values.hpp"

namespace tick::pg {
namespace {

constexpr const char* seeds = "pg_temp.tick_seed";

Oid seeded_state = InvalidOid;  // while tick.seed writes into it

struct Seeding {
  const Standing* rollup;
  Definition* def;
  Oid given;              // the table of the query's rows
  TimestampTz turn;       // of this; no turn runs meanwhile
  TimestampTz before;     // what was seeded earlier ends here
  TimestampTz kept_from;  // windows below were dropped for good
  TimestampTz lo, hi;     // starts of the first and the last window
  TimestampTz* windows;   // ascending
  int64 count;            // of windows
  int64 rows;
};

[[noreturn]] void refuse_column(const char* name, const char* reason, const char* hint) {
  ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("column \"%s\" %s", name, reason),
                  errhint("%s", hint)));
}

void find_rollup(Seeding* s, Oid view) {
  const char* name = get_rel_name(view);
  const Actor caller = act_as_extension();
  List* found = standing_rollups("r.view = $1", view);
  act_again(caller);
  if (found == NIL) refuse_no_rollup(view);
  s->rollup = static_cast<Standing*>(linitial(found));
  // What is on his state table runs under his name: nobody else may have it run with his own rows.
  if (s->rollup->owner != GetUserId())
    ereport(ERROR,
            (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("only its owner can seed \"%s\"", name),
             errhint("SET ROLE %s first.", quote_identifier(GetUserNameFromId(s->rollup->owner, false)))));
}

void check_rollup(Seeding* s) {
  const char* name = get_rel_name(s->rollup->view);
  Oid types[] = {INT4OID};
  Datum values[] = {Int32GetDatum(s->rollup->rollup)};
  const Actor caller = act_as_extension();
  open_catalogs();
  SPI_execute_with_args(
      "SELECT r.status = 'live' AND NOT EXISTS (SELECT FROM tick_catalog.pending AS p WHERE p.rollup = r.id "
      "AND "
      "p.fresh), r.seeded_to, r.kept_from FROM tick_catalog.rollup AS r WHERE r.id = $1",
      1, types, values, nullptr, true, 1);
  bool null = true, live = false;
  s->before = s->kept_from = minus_infinity;
  if (SPI_processed == 1) {
    HeapTuple row = SPI_tuptable->vals[0];
    live = DatumGetBool(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &null));
    const Datum before = SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &null);
    if (!null) s->before = DatumGetTimestampTz(before);
    const Datum kept_from = SPI_getbinval(row, SPI_tuptable->tupdesc, 3, &null);
    if (!null) s->kept_from = DatumGetTimestampTz(kept_from);
  }
  close_catalogs();
  act_again(caller);
  if (!live)
    ereport(
        ERROR,
        (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("\"%s\" is still to be computed", name),
         errhint("SELECT tick.wait(...), or tick.resume(...) if it was set aside, and try again.")));
  s->def = read_definition(s->rollup);
  if (s->def->window == nullptr || s->def->computed)
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("\"%s\" cannot be seeded: it %s", name,
                           s->def->window == nullptr ? "has no windows" : not_merged(s->def)),
                    errhint("Merged rollups with tick.tumble or tick.hop can be seeded.")));
  if (s->def->grows)
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("\"%s\" cannot be seeded: its windows cumulate", name),
                    errdetail("Windows of one size would be partly of rows that are there, partly seeded."),
                    errhint("Seed a rollup with tick.tumble, and sum up its windows when you read it.")));
}

const char* window_column(const Seeding* s) {
  return column(s->def, list_length(s->def->keys))->name;
}

// Which windows the rows are of: each must be one of the rollup's, and lie before those that have rows.
void read_windows(Seeding* s) {
  const char* name = window_column(s);
  const StateColumn* of = column(s->def, list_length(s->def->keys));
  const AttrNumber number = get_attnum(s->given, name);
  if (number == InvalidAttrNumber) refuse_column(name, "is missing", "It is the start of the window.");
  if (get_atttype(s->given, number) != of->type)
    refuse_column(name, psprintf("must be of type %s", format_type_be(of->type)),
                  "It is the start of the window.");
  MemoryContext memory = CurrentMemoryContext;
  SPI_connect();
  SPI_execute(psprintf("SELECT DISTINCT %s FROM %s ORDER BY 1", quote_identifier(name), seeds), true, 0);
  s->count = static_cast<int64>(SPI_processed);
  s->windows = static_cast<TimestampTz*>(
      MemoryContextAllocHuge(memory, sizeof(TimestampTz) * (static_cast<Size>(s->count) + 1)));
  bool null = false;
  for (int64 i = 0; i < s->count && !null; ++i)
    s->windows[i] =
        DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &null));
  SPI_finish();
  if (null) refuse_column(name, "must not be NULL", "It is the start of the window.");
  for (int64 i = 0; i < s->count; ++i) {
    const TimestampTz start = s->windows[i];
    if (!is_finite_timestamp(start) || nth_window(start, 0, s->def->window_size) != start)
      ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                      errmsg("no window of \"%s\" starts at %s", get_rel_name(s->rollup->view),
                             timestamptz_to_str(start)),
                      errhint("Give each window by its start.")));
  }
  if (s->count == 0) return;
  s->lo = s->windows[0];
  s->hi = s->windows[s->count - 1];
  if (s->lo < s->kept_from)
    ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                    errmsg("windows of \"%s\" before %s are not made again: its retention has dropped them",
                           get_rel_name(s->rollup->view), timestamptz_to_str(s->kept_from)),
                    errhint("Seed the windows after.")));
  Oid types[] = {of->type};
  Datum values[] = {TimestampTzGetDatum(s->before)};
  TimestampTz first = plus_infinity;
  SPI_connect();
  // Rows that wait to be merged are there, too.
  const char* quoted = quote_identifier(name);
  SPI_execute_with_args(
      psprintf(
          "SELECT min(p.start) FROM (SELECT s.%s AS start FROM %s AS s UNION ALL SELECT u.%s FROM %s) AS p "
          "WHERE p.start >= $1",
          quoted, relation_text(s->def->state), quoted, unmerged_sql(s->def)),
      1, types, values, nullptr, true, 1);
  const Datum found = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null);
  if (!null) first = DatumGetTimestampTz(found);
  SPI_finish();
  if (s->hi >= first)
    ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                    errmsg("the source has rows of \"%s\" from %s on", get_rel_name(s->rollup->view),
                           timestamptz_to_str(first)),
                    errdetail("The query gives windows up to %s.", timestamptz_to_str(s->hi)),
                    errhint("Seed the windows before.")));
}

bool given(const Seeding* s, const char* name) {
  return get_attnum(s->given, name) != InvalidAttrNumber;
}

// Averages divide by counts that cannot be guessed.
bool has_averages(Node* node, void* context) {
  if (node == nullptr) return false;
  if (IsA(node, Aggref)) {
    const Family which = family(reinterpret_cast<Aggref*>(node)->aggfnoid);
    if (which != Family::count && which != Family::sum && which != Family::min && which != Family::max &&
        which != Family::first && which != Family::last)
      return true;
  }
  return TICK_WALK(node, has_averages, context);
}

// A column of the state table out of those that the query gives, which are called q.
const char* value_text(const Seeding* s, const StateColumn* of) {
  const char* name = quote_identifier(of->name);
  if (of->type == exact_sum_type() && get_atttype(s->given, get_attnum(s->given, of->name)) != of->type)
    return psprintf("tick_catalog.exact_of(q.%s::float8)", name);
  return psprintf("q.%s::%s", name, format_type_with_typemod(of->type, of->typmod));
}

// SQL's sum of no values is NULL, a state's is 0.
const char* sum_text(const Seeding* s, const StateColumn* of) {
  const char* zero = of->type == exact_sum_type()
                         ? "tick_catalog.exact_of(0)"
                         : psprintf("'0'::%s", format_type_with_typemod(of->type, of->typmod));
  return psprintf("coalesce(%s, %s)", value_text(s, of), zero);
}

// The sum of the values that an item counts; nullptr if there is none.
const DefinedItem* sum_of(const Definition* def, const DefinedItem* count) {
  ListCell* cell;
  foreach (cell, def->items) {
    const auto* of = static_cast<DefinedItem*>(lfirst(cell));
    if (of->kind == ItemKind::sum && of->value == count->value && of->filter == count->filter) return of;
  }
  return nullptr;
}

// A column that the query does not give; nullptr if nothing can be said of it.
const char* missing_text(const Seeding* s, const DefinedItem* of, int part) {
  Definition* def = s->def;
  const char* rows = column(def, item(def, 0)->column)->name;
  if (of->kind == ItemKind::count) {
    if (of == item(def, 0)) return strcmp(rows, "tick_rows") == 0 ? "1" : nullptr;
    const DefinedItem* sum = sum_of(def, of);
    const bool counted = given(s, rows);
    if (sum == nullptr || of->value < 0 || !given(s, column(def, sum->column)->name) ||
        (!counted && has_averages(reinterpret_cast<Node*>(def->query->targetList), nullptr)))
      return nullptr;
    return psprintf("CASE WHEN q.%s IS NULL THEN 0 ELSE %s END",
                    quote_identifier(column(def, sum->column)->name),
                    counted ? psprintf("q.%s::int8", quote_identifier(rows)) : "1");
  }
  if (part == 0) return nullptr;
  // Where in the window it was nobody knows: a first is as early, a last as late as can be.
  if (part == 1) {
    if (of->order != def->time) return nullptr;
    return of->kind == ItemKind::first ? "w.first" : "w.last";
  }
  return "NULL";  // a seq
}

void append_item(const Seeding* s, StringInfo list, const DefinedItem* of) {
  for (int part = 0; part < of->width; ++part) {
    const StateColumn* here = column(s->def, of->column + part);
    const bool sums = of->kind == ItemKind::sum || of->kind == ItemKind::sum_sq;
    const char* text = !given(s, here->name) ? missing_text(s, of, part)
                       : sums                ? sum_text(s, here)
                                             : value_text(s, here);
    if (text == nullptr)
      refuse_column(here->name, "is missing",
                    psprintf("\"%s\" computes its columns from it: give it by this name.",
                             get_rel_name(s->rollup->view)));
    appendStringInfo(list, ", %s", text);
  }
}

// SQL's count is a number, also of nothing.
void check_counts(const Seeding* s) {
  StringInfoData nulls;
  initStringInfo(&nulls);
  ListCell* cell;
  foreach (cell, s->def->items) {
    const auto* of = static_cast<DefinedItem*>(lfirst(cell));
    const char* name = column(s->def, of->column)->name;
    if (of->kind == ItemKind::count && given(s, name))
      appendStringInfo(&nulls, " WHEN q.%s IS NULL THEN %s", quote_identifier(name),
                       quote_literal_cstr(name));
  }
  if (nulls.len == 0) return;
  SPI_connect();
  SPI_execute(
      psprintf("SELECT * FROM (SELECT CASE%s END AS name, (q.*)::text FROM %s AS q) AS n WHERE n.name IS "
               "NOT NULL LIMIT 1",
               nulls.data, seeds),
      true, 1);
  if (SPI_processed == 1)
    ereport(ERROR,
            (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
             errmsg("column \"%s\" is a count and must not be NULL",
                    SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1)),
             errdetail("The query: %s.", SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2)),
             errhint("Where nothing was counted it is 0.")));
  SPI_finish();
}

void write_rows(Seeding* s) {
  Definition* def = s->def;
  const int keys = list_length(def->keys);
  StringInfoData columns, values;
  initStringInfo(&columns);
  initStringInfo(&values);
  for (int i = 0; i <= keys; ++i) {
    const StateColumn* of = column(def, i);
    if (!given(s, of->name)) refuse_column(of->name, "is missing", "The query must give all keys.");
    appendStringInfo(&columns, "%s%s", i == 0 ? "" : ", ", quote_identifier(of->name));
    appendStringInfo(&values, "%s%s", i == 0 ? "" : ", ", value_text(s, of));
  }
  ListCell* cell;
  foreach (cell, def->items) {
    const auto* of = static_cast<DefinedItem*>(lfirst(cell));
    for (int part = 0; part < of->width; ++part)
      appendStringInfo(&columns, ", %s", quote_identifier(column(def, of->column + part)->name));
    append_item(s, &values, of);
  }
  const Oid type = column(def, keys)->type;
  auto* first = static_cast<Datum*>(MemoryContextAllocHuge(CurrentMemoryContext, sizeof(Datum) * s->count));
  auto* last = static_cast<Datum*>(MemoryContextAllocHuge(CurrentMemoryContext, sizeof(Datum) * s->count));
  for (int64 i = 0; i < s->count; ++i) {
    first[i] = TimestampTzGetDatum(s->windows[i]);
    last[i] = TimestampTzGetDatum(window_end(s->windows[i], def->window_size) - 1);
  }
  const auto array = [&](Datum* elements) {
    return PointerGetDatum(
        construct_array(elements, static_cast<int>(s->count), type, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
  };
  Oid types[] = {get_array_type(type), get_array_type(type), TIMESTAMPTZOID};
  Datum parameters[] = {array(first), array(last), TimestampTzGetDatum(s->turn)};
  const char* sql = psprintf(
      "INSERT INTO %s (%s, updated_at) SELECT %s, $3 FROM %s AS q JOIN unnest($1, $2) AS w (first, "
      "last) ON w.first = q.%s",
      relation_text(def->state), columns.data, values.data, seeds, quote_identifier(window_column(s)));
  SPI_connect();
  if (SPI_execute_with_args(sql, 3, types, parameters, nullptr, false, 0) != SPI_OK_INSERT)
    elog(ERROR, "pg_tick: cannot seed");
  s->rows = static_cast<int64>(SPI_processed);
  SPI_finish();
}

bool is_key(const Seeding* s, const char* name) {
  for (int i = 0; i <= list_length(s->def->keys); ++i)
    if (strcmp(column(s->def, i)->name, name) == 0) return true;
  return false;
}

// What the rollup shows must be what the query says, column by column.
void compare(const Seeding* s) {
  Definition* def = s->def;
  const Oid view = s->rollup->view;
  StringInfoData differing, here, there;
  initStringInfo(&differing);
  initStringInfo(&here);
  initStringInfo(&there);
  for (int i = 0; i <= list_length(def->keys); ++i) {
    const StateColumn* of = column(def, i);
    const char* collate = type_is_collatable(of->type) ? " COLLATE \"C\"" : "";
    appendStringInfo(&here, ", %s%s", value_text(s, of), collate);
    appendStringInfo(&there, ", v.%s%s", quote_identifier(of->name), collate);
  }
  Relation given_rows = table_open(s->given, AccessShareLock);
  TupleDesc desc = RelationGetDescr(given_rows);
  for (int i = 0; i < desc->natts; ++i) {
    const char* name = NameStr(TupleDescAttr(desc, i)->attname);
    const AttrNumber shown = get_attnum(view, name);
    if (shown == InvalidAttrNumber) {
      if (get_attnum(def->state, name) == InvalidAttrNumber)
        refuse_column(name, "is none of the rollup's", "Leave it out, or name it as the rollup does.");
      continue;
    }
    if (is_key(s, name)) continue;
    const Oid type = get_atttype(view, shown);
    const char* quoted = quote_identifier(name);
    const char* collate = type_is_collatable(type) ? " COLLATE \"C\"" : "";
    appendStringInfo(&differing, "%sWHEN ", differing.len == 0 ? "" : " ");
    if (type == FLOAT8OID || type == FLOAT4OID)
      appendStringInfo(&differing, "tick_catalog.differs(v.%s::float8, q.%s::float8, 1e-9)", quoted, quoted);
    else
      appendStringInfo(&differing, "v.%s%s IS DISTINCT FROM q.%s::%s%s", quoted, collate, quoted,
                       format_type_be(type), collate);
    appendStringInfo(&differing, " THEN %s", quote_literal_cstr(name));
  }
  table_close(given_rows, NoLock);
  if (differing.len == 0) return;
  const char* sql = psprintf(
      "SELECT d.name, d.q, d.v FROM (SELECT CASE %s END AS name, (q.*)::text AS q, (v.*)::text AS v FROM %s "
      "AS q "
      "LEFT "
      "JOIN %s AS v ON ROW(true%s)::record = ROW(true%s)::record) AS d WHERE d.name IS NOT NULL LIMIT 1",
      differing.data, seeds, relation_text(view), here.data, there.data);
  SPI_connect();
  SPI_execute(sql, true, 1);
  if (SPI_processed == 1) {
    HeapTuple row = SPI_tuptable->vals[0];
    const auto text = [&](int field) {
      const char* value = SPI_getvalue(row, SPI_tuptable->tupdesc, field);
      return value == nullptr ? "nothing" : value;
    };
    ereport(ERROR,
            (errcode(ERRCODE_DATA_EXCEPTION),
             errmsg("the query gives another \"%s\" than the rollup would show", text(1)),
             errdetail("The query: %s. The rollup: %s.", text(2), text(3)),
             errhint("A window in which nothing was traded is not given at all. What a column is computed "
                     "from can be given under the names that the state table has.")));
  }
  SPI_finish();
}

// Under a snapshot that sees what this transaction has written by now.
template <typename F>
void with_own_rows(F&& f) {
  CommandCounterIncrement();
  PushActiveSnapshot(GetLatestSnapshot());
  f();
  PopActiveSnapshot();
}

void read_query(Seeding* s, const char* text) {
  run(psprintf("CREATE TEMP TABLE tick_seed ON COMMIT DROP AS %s", text));
  s->given =
      RangeVarGetRelid(makeRangeVar(pstrdup("pg_temp"), pstrdup("tick_seed"), -1), AccessShareLock, false);
}

void record(const Seeding* s) {
  Oid types[] = {INT4OID, TIMESTAMPTZOID};
  Datum values[] = {Int32GetDatum(s->rollup->rollup),
                    TimestampTzGetDatum(next_window(s->hi, s->def->window_size))};
  SPI_connect();
  if (SPI_execute_with_args(
          "UPDATE tick_catalog.rollup SET seeded_to = greatest(seeded_to, $2) WHERE id = $1", 2, types,
          values, nullptr, false, 0) < 0)
    elog(ERROR, "pg_tick: cannot write the catalogs");
  SPI_finish();
  tell_engine();
}

int64 seed(Oid view, const char* text) {
  struct Ending {
    ~Ending() { seeded_state = InvalidOid; }
  } ending;
  Seeding s{};
  Actor caller{};
  call([&] {
    find_rollup(&s, view);
    read_query(&s, text);
    stop_turns();
    s.turn = GetCurrentTimestamp();
    caller = act_as_owner(s.rollup);
    check_rollup(&s);
    with_own_rows([&] { read_windows(&s); });
    if (s.count > 0) {
      with_own_rows([&] { check_counts(&s); });
      seeded_state = s.def->state;
      write_rows(&s);
      seeded_state = InvalidOid;
      with_own_rows([&] { compare(&s); });
    }
    act_again(caller);
    run(psprintf("DROP TABLE %s", seeds));
    if (s.count > 0) caller = act_as_extension();
  });
  if (s.count == 0) return 0;
  Rollup rollup;
  rollup.id = s.rollup->rollup;
  rollup.windowed = true;
  rollup.size = s.def->window_size;
  ChangeLog log;
  log.changed(rollup, std::set<Micros>(s.windows, s.windows + s.count));
  call([&] { SPI_connect(); });
  (void)log.write(s.turn);
  call([&] {
    SPI_finish();
    record(&s);
    have_followed(s.rollup->rollup, s.lo, next_window(s.hi, s.def->window_size));
    act_again(caller);
  });
  return s.rows;
}

}  // namespace

bool is_seeding(Oid state) {
  return OidIsValid(state) && seeded_state == state;
}

}  // namespace tick::pg

extern "C" {
PG_FUNCTION_INFO_V1(tick_seed);

PGDLLEXPORT Datum tick_seed(PG_FUNCTION_ARGS) {
  return tick::pg::entry(
      [&] { return Int64GetDatum(tick::pg::seed(PG_GETARG_OID(0), text_to_cstring(PG_GETARG_TEXT_PP(1)))); });
}
}
