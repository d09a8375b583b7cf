// tick.forget: all that is known of a key goes, also what the source has no rows of any more;
// tick.rename_key: it is known by another name. Writers are kept off until what they have committed is
// merged, then turns are stopped: states are what rows say. Of rollups that group by the key's columns the
// state rows themselves are deleted or moved (`direct`), which is exact in windows of any age; the others are
// corrected by deltas, as after a user's DELETE or UPDATE, and windows of which the source has lost rows are
// marked stale, or the call is refused.
#include "keys.hpp"

#include <algorithm>

#include "capture.hpp"
#include "catalog.hpp"
#include "changes.hpp"
#include "coverage.hpp"
#include "dedup.hpp"
#include "define.hpp"
#include "guard.hpp"
#include "history.hpp"
#include "key_states.hpp"
#include "notify.hpp"
#include "session.hpp"
#include "shared.hpp"
#include "source.hpp"
#include "turn.hpp"
#include "windows.hpp"

namespace tick::pg {
namespace {

Oid rewritten = InvalidOid;
std::vector<int64> spared;

// ---- what was asked for

[[noreturn]] void refuse_key(const char* what, const char* detail) {
  ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("%s is not the key of any rows", what),
                  errdetail("%s", detail),
                  errhint("Give columns and their values, such as '{\"symbol\": \"FB\"}'.")));
}

// The value that a text stands for. What a type makes of it is its owner's affair.
void read_value(Oid source, KeyColumn* column, char* text) {
  const Actor caller = act_as_owner_of(source);
  Oid input, element;
  getTypeInputInfo(column->type, &input, &element);
  column->null = text == nullptr;
  column->value = OidInputFunctionCall(input, text, element, -1);
  act_again(caller);
}

KeyColumn* read_key(Oid source, const char* what, Datum json, int* count) {
  if (!JB_ROOT_IS_OBJECT(DatumGetJsonbP(json)) || JB_ROOT_COUNT(DatumGetJsonbP(json)) == 0)
    refuse_key(what, "It must be a JSON object with at least one member.");
  *count = static_cast<int>(JB_ROOT_COUNT(DatumGetJsonbP(json)));
  auto* key = static_cast<KeyColumn*>(palloc0(sizeof(KeyColumn) * *count));
  auto** texts = static_cast<char**>(palloc0(sizeof(char*) * *count));
  MemoryContext memory = CurrentMemoryContext;
  Oid types[] = {JSONBOID};
  Datum values[] = {json};
  open_catalogs();
  SPI_execute_with_args("SELECT e.key, e.value FROM jsonb_each_text($1) AS e ORDER BY 1", 1, types, values,
                        nullptr, true, 0);
  for (int i = 0; i < *count; ++i)
    for (int field = 1; field <= 2; ++field) {
      const char* text = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, field);
      if (text == nullptr) continue;
      char* copy = MemoryContextStrdup(memory, text);
      if (field == 1)
        key[i].name = copy;
      else
        texts[i] = copy;
    }
  close_catalogs();
  for (int i = 0; i < *count; ++i) {
    key[i].number = get_attnum(source, key[i].name);
    if (key[i].number <= 0)
      ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
                      errmsg("column \"%s\" of \"%s\" does not exist", key[i].name, get_rel_name(source)),
                      errhint("%s names columns of the source, as they are written in the catalog.", what)));
    key[i].type = getBaseType(get_atttype(source, key[i].number));
    key[i].equal = lookup_type_cache(key[i].type, TYPECACHE_EQ_OPR)->eq_opr;
    if (!OidIsValid(key[i].equal))
      refuse_key(what, psprintf("Values of type %s cannot be compared.", format_type_be(key[i].type)));
    read_value(source, &key[i], texts[i]);
  }
  return key;
}

void set_parameters(Asked* asked) {
  asked->parameters = asked->count * 2 + 3;
  asked->types = static_cast<Oid*>(palloc(sizeof(Oid) * asked->parameters));
  asked->values = static_cast<Datum*>(palloc0(sizeof(Datum) * asked->parameters));
  asked->nulls = static_cast<char*>(palloc0(asked->parameters + 1));
  for (int i = 0; i < asked->count * 2; ++i) {
    const KeyColumn* of = i < asked->count || asked->renamed == nullptr ? &asked->key[i % asked->count]
                                                                        : &asked->renamed[i - asked->count];
    asked->types[i] = of->type;
    asked->values[i] = of->value;
    asked->nulls[i] = of->null ? 'n' : ' ';
  }
  const TimestampTz times[] = {asked->from, asked->to, asked->now};
  for (int i = 0; i < 3; ++i) {
    const int at = asked->count * 2 + i;
    asked->types[at] = TIMESTAMPTZOID;
    asked->values[at] = TimestampTzGetDatum(times[i]);
    asked->nulls[at] = ' ';
  }
}

// ---- what the rollups make of it

// The columns of the state table that are the key's: columns of the source, or keys of the rollup it follows
// that are.
void find_columns(const Asked* asked, Member& member, const Member* parent) {
  member.columns = static_cast<const StateColumn**>(palloc0(sizeof(StateColumn*) * asked->count));
  member.numbers = static_cast<AttrNumber*>(palloc0(sizeof(AttrNumber) * asked->count));
  for (int i = 0; i < asked->count; ++i) {
    if (parent == nullptr) member.numbers[i] = asked->key[i].number;
    ListCell* cell;
    foreach (cell, member.def->keys) {
      const int at = foreach_current_index(cell);
      const Node* key = input(member.def, lfirst_int(cell));
      if (!IsA(key, Var)) continue;
      const AttrNumber number = reinterpret_cast<const Var*>(key)->varattno;
      const int of = parent == nullptr ? -1 : member.standing->parent_keys[at];
      const bool found = parent == nullptr ? number == member.numbers[i]
                                           : of >= 0 && parent->columns[i] != nullptr &&
                                                 column(parent->def, of) == parent->columns[i];
      if (!found) continue;
      member.numbers[i] = number;
      member.columns[i] = column(member.def, at);
    }
  }
}

struct Reading {
  const AttrNumber* numbers;
  int count;
  bool inside;  // of an aggregate, or of a condition
};

bool reads_column(Node* node, void* context) {
  if (node == nullptr) return false;
  const auto* reading = static_cast<Reading*>(context);
  if (IsA(node, Var)) {
    for (int i = 0; reading->inside && i < reading->count; ++i)
      if (reinterpret_cast<Var*>(node)->varattno == reading->numbers[i]) return true;
    return false;
  }
  Reading within = *reading;
  within.inside = within.inside || IsA(node, Aggref);
  return TICK_WALK(node, reads_column, &within);
}

// Whether rows that only change their key change anything but that in the rollup.
bool reads_otherwise(const Asked* asked, const Member& member) {
  const Definition* def = member.def;
  Reading outside{member.numbers, asked->count, false}, inside{member.numbers, asked->count, true};
  if (reads_column(reinterpret_cast<Node*>(def->query->targetList), &outside) ||
      reads_column(reinterpret_cast<Node*>(def->query->jointree), &inside))
    return true;
  if (def->time >= 0 && reads_column(input(def, def->time), &inside)) return true;
  ListCell* cell;
  foreach (cell, def->keys)
    if (!IsA(input(def, lfirst_int(cell)), Var) && reads_column(input(def, lfirst_int(cell)), &inside))
      return true;
  return false;
}

bool begins_window(const Member& member, Micros time) {
  return time == minus_infinity || time == plus_infinity ||
         window_start(time, member.def->window_size) == time;
}

// Whether [from, to) consists of whole windows.
bool has_whole_windows(const Asked* asked, const Member& member) {
  if (!asked->ranged) return true;
  if (member.def->window == nullptr || member.def->slide != nullptr) return false;
  const Node* time = input(member.def, member.def->time);
  if (member.follows) return begins_window(member, asked->from) && begins_window(member, asked->to);
  return IsA(time, Var) && reinterpret_cast<const Var*>(time)->varattno == asked->time &&
         begins_window(member, asked->from) && begins_window(member, asked->to);
}

void classify(const Asked* asked, Member& member, const Member* parent) {
  find_columns(asked, member, parent);
  int known = 0;
  for (int i = 0; i < asked->count; ++i)
    if (member.columns[i] != nullptr) ++known;
  member.keyed = known == asked->count;
  if (asked->renamed == nullptr) {
    member.whole = has_whole_windows(asked, member);
    member.reads = true;
  } else {
    // Which columns of another rollup are the key is known of its keys alone.
    member.whole = (member.keyed || !member.follows) && !reads_otherwise(asked, member);
    member.reads = member.follows || known > 0 || !member.whole;
  }
}

// Whether the source still has all rows of these windows: of others it cannot have them corrected.
bool covers(const Asked* asked, const Member& member) {
  return member.def->window == nullptr ? asked->from >= member.rollup.raw_from
                                       : asked->from >= member.rollup.first_covered();
}

// Whether deltas do all there is to do.
bool corrects(const Asked* asked, const Member& member) {
  return covers(asked, member) && !OidIsValid(member.rollup.history);
}

void check_ready(const Member& member) {
  const char* name = get_rel_name(member.standing->view);
  if (member.rollup.status == "error")
    ereport(ERROR,
            (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("\"%s\" is set aside", name),
             errhint("Cure the cause and SELECT tick.resume(...), or tick.drop_rollup(...), before.")));
  if (member.rollup.status != "live" || !member.rollup.fresh.empty())
    ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                    errmsg("\"%s\" is still to be computed", name),
                    errhint("SELECT tick.wait(...), and try again.")));
}

std::vector<Member> read_members(const Asked* asked) {
  List* standing = call([&] { return standing_rollups("r.source = $1", asked->source); });
  std::vector<Member> members;
  for (int i = 0; i < list_length(standing); ++i) {
    Member member{};
    member.standing = static_cast<Standing*>(list_nth(standing, i));
    const int id = member.standing->rollup;
    call([&] { open_catalogs(); });
    std::vector<Rollup> loaded = load_rollups(id);
    call([&] { close_catalogs(); });
    if (loaded.size() != 1) throw Error{Error::Code::internal, "rollup is being changed"};
    member.rollup = std::move(loaded.front());
    member.follows = OidIsValid(member.standing->parent);
    const auto parent = std::find_if(members.begin(), members.end(), [&](const Member& other) {
      return other.standing->view == member.standing->parent;
    });
    const Member* followed = parent == members.end() ? nullptr : &*parent;
    if (member.follows && followed == nullptr)
      throw Error{Error::Code::internal, "the rollup that is read is gone"};
    call([&] {
      check_ready(member);
      const Actor extension = act_as_owner(member.standing);
      member.def = read_definition(member.standing);
      act_again(extension);
      classify(asked, member, followed);
    });
    members.push_back(std::move(member));
  }
  const auto all = [&](const Member& of, auto&& test) {
    return std::all_of(members.begin(), members.end(), [&](const Member& other) {
      return other.standing->group != of.standing->group || test(other);
    });
  };
  for (Member& member : members) {
    const bool keyed = all(member, [](const Member& other) { return other.keyed; });
    if (member.follows)
      member.how = member.keyed && member.whole ? How::direct : How::followed;
    else if (keyed && all(member, [](const Member& other) { return other.whole; }))
      member.how = How::direct;
    else if (keyed && asked->ranged &&
             !all(member, [&](const Member& other) { return corrects(asked, other); }))
      member.how = member.whole ? How::direct : How::recomputed;
    else
      member.how = How::corrected;
  }
  return members;
}

// ---- who else is there

bool any(const char* sql, Oid argument) {
  return read_numbers(sql, argument) != NIL;
}

// Waits until all that has been committed by now is merged. Turns must be able to run.
void await_merged(Oid source) {
  const TimestampTz give_up = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), tick_lock_timeout);
  PushActiveSnapshot(GetLatestSnapshot());
  const char* now =
      DatumGetCString(DirectFunctionCall1(pg_snapshot_out, OidFunctionCall0(F_PG_CURRENT_SNAPSHOT)));
  PopActiveSnapshot();
  const char* unmerged = psprintf(
      "SELECT 1::int8 FROM tick_catalog.frontier AS f, (TABLE tick_catalog.queue_0 UNION ALL TABLE "
      "tick_catalog.queue_1 UNION ALL TABLE tick_catalog.queue_2) AS q WHERE q.xid >= "
      "pg_snapshot_xmin(f.snapshot) AND NOT pg_visible_in_snapshot(q.xid, f.snapshot) AND "
      "pg_visible_in_snapshot(q.xid, '%s') AND q.program IN (SELECT p.id FROM tick_catalog.program AS p "
      "WHERE "
      "p.source = $1 UNION ALL SELECT -d.id FROM tick_catalog.dedup AS d WHERE d.source = $1) LIMIT 1",
      now);
  for (long pause = 1; any(unmerged, source); pause = Min(pause * 2, 20L)) {
    if (GetCurrentTimestamp() >= give_up)
      ereport(ERROR, (errcode(ERRCODE_LOCK_NOT_AVAILABLE),
                      errmsg("rows of \"%s\" were not merged within tick.lock_timeout", get_rel_name(source)),
                      errhint("Try again when SELECT tick.wait(NULL) has returned true; in a transaction of "
                              "its own for each source.")));
    wake(false);
    (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, pause, PG_WAIT_EXTENSION);
    ResetLatch(MyLatch);
    CHECK_FOR_INTERRUPTS();
  }
}

void stop_writers(const Asked* asked) {
  if (any("SELECT 1::int8 FROM tick_catalog.source WHERE relid = $1 AND epoch IS DISTINCT FROM "
          "tick_catalog.epoch()",
          asked->source))
    ereport(ERROR,
            (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
             errmsg("\"%s\" has come out of a dump and is not at work yet", get_rel_name(asked->source)),
             errhint("Try again when tick.status no longer says \"restored\".")));
  await_merged(asked->source);  // they need not wait for that
  lock_source(asked->source);
  await_merged(asked->source);
  stop_turns();
}

// What somebody's trigger does instead of, or besides, what is asked for nobody knows.
void refuse_triggers(const Asked* asked) {
  int events = asked->renamed == nullptr ? TRIGGER_TYPE_DELETE : TRIGGER_TYPE_UPDATE;
  ListCell* cell;
  foreach (cell, find_all_inheritors(asked->source, NoLock, nullptr)) {
    Relation relation = table_open(lfirst_oid(cell), NoLock);
    Bitmapset* columns = nullptr;
    for (int i = 0; i < asked->count; ++i)
      columns = bms_add_member(
          columns, get_attnum(lfirst_oid(cell), asked->key[i].name) - FirstLowInvalidHeapAttributeNumber);
    // Then a row moves: it is deleted here and inserted there.
    if (asked->renamed != nullptr && relation->rd_rel->relkind == RELKIND_PARTITIONED_TABLE &&
        has_partition_attrs(relation, columns, nullptr))
      events |= TRIGGER_TYPE_DELETE | TRIGGER_TYPE_INSERT;
    table_close(relation, NoLock);
  }
  List* found = read_numbers(
      psprintf(
          "SELECT t.oid::int8 FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid WHERE t.tgrelid "
          "IN (SELECT tick_catalog.tree($1)) AND NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.tgtype "
          "& %d <> 0 AND p.pronamespace <> 'tick_catalog'::regnamespace UNION ALL SELECT r.oid::int8 "
          "FROM pg_rewrite AS r WHERE r.ev_class = $1 LIMIT 1",
          events),
      asked->source);
  if (found == NIL) return;
  ereport(ERROR,
          (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
           errmsg("\"%s\" has a trigger or rule that fires for these rows", get_rel_name(asked->source)),
           errdetail("What it does to them would be in the table, not in the rollups."),
           errhint("ALTER TABLE ... DISABLE TRIGGER it before, and ENABLE it afterwards.")));
}

void choose_spared(const std::vector<Member>& members) {
  for (const Member& member : members) {
    if (member.how == How::corrected || member.follows) continue;
    List* programs = call([&] {
      return read_numbers(
          psprintf("SELECT id FROM tick_catalog.program WHERE group_id = %d AND $1 IS NOT NULL",
                   member.standing->group),
          0);
    });
    for (int i = 0; i < list_length(programs); ++i)
      spared.push_back(*static_cast<int64*>(list_nth(programs, i)));
  }
}

// What this transaction has written is not in the states.
void refuse_own_rows(const Asked* asked) {
  bool written = false;
  visit_unflushed(InvalidCommandId,
                  [&](int64_t program, const Fold&) { written = written || is_spared(program); });
  call([&] {
    ListCell* cell;
    foreach (cell,
             read_numbers("SELECT q.program FROM (TABLE tick_catalog.queue_0 UNION ALL TABLE "
                          "tick_catalog.queue_1 UNION ALL TABLE tick_catalog.queue_2) AS q WHERE q.xid = "
                          "pg_current_xact_id_if_assigned() AND $1 IS NOT NULL",
                          asked->source))
      if (is_spared(*static_cast<int64*>(lfirst(cell)))) written = true;
    if (written)
      ereport(ERROR, (errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
                      errmsg("\"%s\" has rows of this transaction", get_rel_name(asked->source)),
                      errdetail("They are not in the rollups before it commits."), errhint("Commit first.")));
  });
}

// ---- rollups that deltas correct

// What the source has no rows of any more no delta can correct.
void doubt(const Asked* asked, const Member& member) {
  const bool windowed = member.def->window != nullptr;
  const Micros covered = member.rollup.first_covered();
  if (!member.reads || covers(asked, member)) return;
  Micros lo = asked->from;
  if (windowed && lo != minus_infinity) lo = first_window(lo, member.rollup.size);
  const Micros hi = std::min(covered, windowed ? end_of_windows(asked->to, member.rollup.size) : asked->to);
  if (member.keyed) {
    const bool any = call([&] { return count_uncovered(asked, member, covered) > 0; });
    if (!any) return;
    if (windowed)
      call([&] {
        ereport(ERROR,
                (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                 errmsg("\"%s\" has windows of the key that the source has lost rows of",
                        get_rel_name(member.standing->view)),
                 errdetail("It is complete from %s on.", timestamptz_to_str(covered)),
                 asked->renamed == nullptr
                     ? errhint("Let from and to be bounds of the windows of all rollups that group by the "
                               "key, or give neither.")
                     : errhint("It, or one that shares its group, reads the key otherwise, too: "
                               "tick.drop_rollup(...) of that one before.")));
      });
    call([&] { mark_key_stale(asked, member, minus_infinity, plus_infinity); });
  }
  call([&] { SPI_connect(); });
  if (!member.keyed) mark_stale(member.rollup, lo, hi);
  list_stale(member.rollup, lo, hi);
  call([&] { SPI_finish(); });
}

// Has the worker make the windows anew that [from, to) meets. Until it has, and for good if their rows go
// before, they are stale.
void recompute(const Asked* asked, const Member& member) {
  const Micros covered = member.rollup.first_covered();
  Micros lo = minus_infinity, hi = plus_infinity;
  if (member.rollup.windowed) {
    lo = asked->from == minus_infinity ? asked->from : first_window(asked->from, member.rollup.size);
    lo = std::max({lo, covered, member.rollup.kept_from});
    hi = end_of_windows(asked->to, member.rollup.size);
  } else if (covered == plus_infinity) {
    return;
  }
  if (lo >= hi) return;
  call([&] {
    mark_key_stale(asked, member, lo, hi);
    SPI_connect();
  });
  insert_pending(member.rollup.id, {lo, hi, false, 0, true});
  call([&] { SPI_finish(); });
}

// A correction leaves what a row of a final window was in its history.
void refuse_versions(const Asked* asked, const Member& member) {
  if (asked->renamed != nullptr || !member.keyed || !OidIsValid(member.rollup.history)) return;
  ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                  errmsg("\"%s\" keeps a history: only whole windows of it can be forgotten",
                         get_rel_name(member.standing->view)),
                  errhint("Let from and to be bounds of the windows of all rollups that group by the key, or "
                          "give neither.")));
}

// ---- all of it

int64 change_rows(const Asked* asked) {
  const Actor extension = act_as_owner_of(asked->source);
  for (const char* setting : {"row_security", "tick.corrections"})
    (void)set_config_option(setting, strcmp(setting, "row_security") == 0 ? "off" : "on", PGC_USERSET,
                            PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
  auto** names = static_cast<const char**>(palloc(sizeof(char*) * asked->count));
  for (int i = 0; i < asked->count; ++i) names[i] = quote_identifier(asked->key[i].name);
  const char* of_key = has_key(asked, false, names);
  const char* table = relation_text(asked->source);
  StringInfoData sql;
  initStringInfo(&sql);
  if (asked->renamed == nullptr) {
    appendStringInfo(&sql, "DELETE FROM %s WHERE %s", table, of_key);
    if (asked->ranged)
      appendStringInfoString(&sql,
                             in_range(asked, quote_identifier(get_attname(asked->source, asked->time, false)),
                                      get_atttype(asked->source, asked->time)));
  } else {
    appendStringInfo(&sql, "UPDATE %s SET ", table);
    for (int i = 0; i < asked->count; ++i)
      appendStringInfo(&sql, "%s%s = $%d", i == 0 ? "" : ", ", quote_identifier(asked->key[i].name),
                       asked->count + i + 1);
    appendStringInfo(&sql, " WHERE %s", of_key);
  }
  SPI_connect();
  const auto rows =
      static_cast<int64>(execute(asked, sql.data, asked->renamed == nullptr ? SPI_OK_DELETE : SPI_OK_UPDATE));
  SPI_finish();
  act_again(extension);
  return rows;
}

// The values by which a watermark is kept are known by name, too.
void change_watermark(const Asked* asked) {
  const char* by = nullptr;
  const char* texts[2] = {nullptr, nullptr};
  SPI_connect();
  SPI_execute(psprintf("SELECT watermark_by FROM tick_catalog.source WHERE relid = %u", asked->source), true,
              1);
  if (SPI_processed == 1) by = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
  const bool concerned = by != nullptr && asked->count == 1 && !asked->ranged &&
                         strcmp(by, asked->key[0].name) == 0 && !asked->key[0].null &&
                         (asked->renamed == nullptr || !asked->renamed[0].null);
  if (concerned) {
    const Actor extension = act_as_owner_of(asked->source);
    for (int i = 0; i < 2; ++i) {
      const KeyColumn* of = i == 0 || asked->renamed == nullptr ? &asked->key[0] : &asked->renamed[0];
      Oid output;
      bool varlena;
      getTypeOutputInfo(of->type, &output, &varlena);
      texts[i] = OidOutputFunctionCall(output, of->value);
    }
    act_again(extension);
    Oid types[] = {OIDOID, TEXTOID, TEXTOID, BOOLOID};
    Datum values[] = {ObjectIdGetDatum(asked->source), CStringGetTextDatum(texts[0]),
                      CStringGetTextDatum(texts[1]), BoolGetDatum(asked->renamed == nullptr)};
    if (SPI_execute_with_args(
            "UPDATE tick_catalog.watermark AS w SET (value_names, value_times, value_arrivals) = (SELECT "
            "array_agg(g.n ORDER BY g.o), array_agg(g.t ORDER BY g.o), array_agg(g.a ORDER BY g.o) FROM "
            "(SELECT "
            "CASE WHEN u.n = $2 THEN $3 ELSE u.n END AS n, max(u.t) AS t, max(u.a) AS a, min(u.o) AS o FROM "
            "unnest(w.value_names, w.value_times, w.value_arrivals) WITH ORDINALITY AS u (n, t, a, o) WHERE "
            "NOT "
            "$4 OR u.n <> $2 GROUP BY 1) AS g) WHERE w.source = $1 AND w.value_names IS NOT NULL",
            4, types, values, nullptr, false, 0) < 0)
      elog(ERROR, "pg_tick: cannot change the watermark");
  }
  SPI_finish();
}

std::optional<TimestampTz> read_watermark(Oid source) {
  TimestampTz watermark = 0;
  const bool known = call([&] {
    bool null = true;
    open_catalogs();
    SPI_execute(psprintf("SELECT watermark FROM tick_catalog.watermark WHERE source = %u", source), true, 1);
    if (SPI_processed == 1)
      watermark = DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
    close_catalogs();
    return !null;
  });
  return known ? std::make_optional(watermark) : std::nullopt;
}

// What is told of, of which rollups.
struct Told {
  ChangeLog log;
  std::vector<const Rollup*> rollups;
  std::vector<Change> changes;
};

// The state rows of a rollup that groups by the key; returns how many.
int64 rewrite(const Asked* asked, const Member& member, const TurnTime& time, Told& told) {
  const bool moves = asked->renamed != nullptr;
  Gone gone{};
  rewritten = member.standing->state;
  {
    std::optional<KeepsVersions> keeps;
    if (moves) keeps.emplace(member.rollup, time);
    call([&] { gone = moves ? move_states(asked, member, time) : delete_states(asked, member); });
  }
  rewritten = InvalidOid;
  call([&] {
    if (!moves) delete_versions(asked, member);
    change_late(asked, member);
  });
  if (gone.count == 0) return 0;
  std::vector<GoneRow> rows;
  std::set<Micros> windows;
  for (int64 i = 0; i < gone.count; ++i) {
    rows.push_back({gone.windows[i], gone.keys[i]});
    windows.insert(gone.windows[i]);
  }
  told.log.gone(member.rollup, rows);
  if (moves) told.log.changed(member.rollup, windows);
  told.rollups.push_back(&member.rollup);
  told.changes.push_back({*windows.begin(), minus_infinity, {}, true});
  if (member.rollup.windowed) told.changes.back().to = window_end(*windows.rbegin(), member.rollup.size);
  if (member.rollup.windowed && !moves) {
    const std::vector<Micros> starts(windows.begin(), windows.end());
    call([&] { forget_open(member, starts.data(), static_cast<int>(starts.size())); });
  }
  call([&] { SPI_connect(); });
  list_stale(member.rollup, *windows.begin(), *windows.rbegin() + 1);
  if (member.rollup.computed && !member.follows && gone.merged > 0)
    touch_windows(member.rollup, {gone.windows, gone.windows + gone.merged});
  call([&] {
    SPI_finish();
    // Those that follow it; where what they were made of is gone they are changed themselves, as this one.
    if (member.rollup.windowed)
      have_followed(member.rollup.id, *windows.begin(), next_window(*windows.rbegin(), member.rollup.size));
  });
  return gone.count;
}

struct Done {
  int64 rows, windows;
};

Done change(Asked* asked) {
  // An error leaves nothing allowed.
  struct Ending {
    ~Ending() {
      rewritten = InvalidOid;
      spared.clear();
    }
  } ending;
  Actor caller{};
  call([&] {
    caller = act_as_extension();
    stop_writers(asked);
    refuse_triggers(asked);
  });
  const std::vector<Member> members = read_members(asked);
  spared.clear();
  choose_spared(members);
  refuse_own_rows(asked);
  asked->now = GetCurrentTimestamp();
  const TurnTime time{asked->now, read_watermark(asked->source)};
  call([&] { set_parameters(asked); });
  std::vector<IdColumn> ids;
  for (int i = 0; i < asked->count; ++i) {
    const KeyColumn& before = asked->key[i];
    const KeyColumn& after = asked->renamed == nullptr ? before : asked->renamed[i];
    ids.push_back({before.number, before.value, before.null, after.value, after.null});
  }
  const bool renamed = asked->renamed != nullptr;
  if (renamed) check_ids(asked->source, ids);
  Done done{};
  Told told;
  for (const Member& member : members) {
    if (member.how == How::direct) {
      done.windows += rewrite(asked, member, time, told);
      continue;
    }
    rewritten = member.standing->state;
    call([&] { refuse_versions(asked, member); });
    doubt(asked, member);
    if (member.how == How::recomputed) recompute(asked, member);
    rewritten = InvalidOid;
  }
  call([&] { done.rows = change_rows(asked); });
  spared.clear();
  if (!asked->ranged) move_ids(asked->source, ids, renamed);
  call([&] {
    change_watermark(asked);
    SPI_connect();
  });
  const std::string token = std::to_string(told.log.write(time.now));
  for (size_t i = 0; i < told.rollups.size() && has_listeners(); ++i)
    notify_change(*told.rollups[i], told.changes[i], token);
  call([&] {
    SPI_finish();
    tell_engine();
    act_again(caller);
  });
  return done;
}

Asked* ask(Oid source) {
  require_source(source);
  // It would not see what has been merged since its snapshot.
  if (IsolationUsesXactSnapshot())
    ereport(ERROR, (errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
                    errmsg("a key cannot be changed in a transaction with one snapshot"),
                    errhint("BEGIN ISOLATION LEVEL READ COMMITTED.")));
  auto* asked = static_cast<Asked*>(palloc0(sizeof(Asked)));
  asked->source = source;
  asked->from = minus_infinity;
  asked->to = plus_infinity;
  return asked;
}

Asked* ask_forget(FunctionCallInfo fcinfo) {
  Asked* asked = ask(PG_GETARG_OID(0));
  asked->ranged = !PG_ARGISNULL(2) || !PG_ARGISNULL(3);
  if (!PG_ARGISNULL(2)) asked->from = PG_GETARG_TIMESTAMPTZ(2);
  if (!PG_ARGISNULL(3)) asked->to = PG_GETARG_TIMESTAMPTZ(3);
  if (asked->ranged) {
    const Actor caller = act_as_extension();
    asked->time = time_column(asked->source);
    act_again(caller);
    if (asked->time == 0)
      ereport(ERROR,
              (errcode(ERRCODE_AMBIGUOUS_COLUMN),
               errmsg("cannot tell which column dates the rows of \"%s\"", get_rel_name(asked->source)),
               errhint("DELETE the rows yourself, or give neither from nor to.")));
  }
  asked->key = read_key(asked->source, "keys", PG_GETARG_DATUM(1), &asked->count);
  return asked;
}

Asked* ask_rename(FunctionCallInfo fcinfo) {
  Asked* asked = ask(PG_GETARG_OID(0));
  int count;
  asked->key = read_key(asked->source, "old", PG_GETARG_DATUM(1), &asked->count);
  asked->renamed = read_key(asked->source, "new", PG_GETARG_DATUM(2), &count);
  bool same = count == asked->count;
  for (int i = 0; same && i < count; ++i) same = asked->key[i].number == asked->renamed[i].number;
  if (!same) refuse_key("new", "It must have the same columns as old.");
  return asked;
}

Datum record(FunctionCallInfo fcinfo, const Done& done) {
  TupleDesc result;
  if (get_call_result_type(fcinfo, nullptr, &result) != TYPEFUNC_COMPOSITE)
    elog(ERROR, "pg_tick: return type must be a row type");
  Datum values[] = {Int64GetDatum(done.rows), Int64GetDatum(done.windows)};
  bool nulls[] = {false, false};
  return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(result), values, nulls));
}

}  // namespace

bool is_rewriting(Oid state) {
  return OidIsValid(state) && rewritten == state;
}

bool is_spared(int64 program) {
  return !spared.empty() && std::find(spared.begin(), spared.end(), program) != spared.end();
}

}  // namespace tick::pg

using namespace tick::pg;

extern "C" {
PG_FUNCTION_INFO_V1(tick_forget);
PGDLLEXPORT Datum tick_forget(PG_FUNCTION_ARGS);
PG_FUNCTION_INFO_V1(tick_rename_key);
PGDLLEXPORT Datum tick_rename_key(PG_FUNCTION_ARGS);
}

Datum tick_forget(PG_FUNCTION_ARGS) {
  return entry([&] {
    if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
      call([] {
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("source and keys must not be NULL"),
                        errhint("Rows without a value: '{\"symbol\": null}'.")));
      });
    Asked* asked = call([&] { return ask_forget(fcinfo); });
    const auto done = change(asked);
    return call([&] { return record(fcinfo, done); });
  });
}

Datum tick_rename_key(PG_FUNCTION_ARGS) {
  return entry([&] {
    Asked* asked = call([&] { return ask_rename(fcinfo); });
    const auto done = change(asked);
    return call([&] { return record(fcinfo, done); });
  });
}
