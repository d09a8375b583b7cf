// Capture groups: rollups of one owner with the same source, keys, WHERE and time expression fold each row
// once. A program is immutable: every change of a group writes a new one, with the items of all its rollups,
// and retires the old; deltas of the old keep their rows of rollup_program. The caller holds the source's
// lock. PostgreSQL only.
#include "define.hpp"
#include "revive.hpp"
#include "session.hpp"
#include "values.hpp"

namespace tick::pg {
namespace {

// A program while it is put together.
struct Draft {
  int32 group;
  Oid source;
  Oid owner;
  int64 old_program;  // 0 = none
  List* inputs;       // Node*
  List* texts;        // char*: inputs as SQL
  List* keys;         // int
  int time;
  int where;
  int64 pane;
  List* items;  // List* of five ints
};

// A rollup that is in the group still, with the items of the old program that it uses.
struct Member {
  int32 rollup;
  List* items;  // int
};

// `text` is the expression as SQL, nullptr if that has to be written yet.
int draft_input(Draft* draft, Node* expr, const char* text) {
  ListCell* cell;
  foreach (cell, draft->inputs) {
    if (equal(lfirst(cell), expr)) return foreach_current_index(cell);
  }
  draft->inputs = lappend(draft->inputs, expr);
  draft->texts =
      lappend(draft->texts, const_cast<char*>(text == nullptr ? input_text(expr, draft->source) : text));
  return list_length(draft->inputs) - 1;
}

// Returns the index of an item whose numbers refer to `inputs`, adding what is missing.
int draft_item(Draft* draft, List* inputs, List* texts, List* numbers) {
  List* wanted = list_make1_int(linitial_int(numbers));
  for (int i = 1; i < 5; ++i) {
    const int number = list_nth_int(numbers, i);
    wanted = lappend_int(
        wanted, number < 0
                    ? -1
                    : draft_input(draft, static_cast<Node*>(list_nth(inputs, number)),
                                  texts == NIL ? nullptr : static_cast<char*>(list_nth(texts, number))));
  }
  ListCell* cell;
  foreach (cell, draft->items) {
    if (equal(lfirst(cell), wanted)) return foreach_current_index(cell);
  }
  draft->items = lappend(draft->items, wanted);
  return list_length(draft->items) - 1;
}

List* numbers_of(const DefinedItem* item) {
  return list_make5_int(static_cast<int>(item->kind), item->value, item->order, item->seq, item->filter);
}

const char* array_text(List* numbers) {
  StringInfoData text;
  initStringInfo(&text);
  appendStringInfoChar(&text, '{');
  ListCell* cell;
  foreach (cell, numbers)
    appendStringInfo(&text, "%s%d", foreach_current_index(cell) == 0 ? "" : ",", lfirst_int(cell));
  appendStringInfoChar(&text, '}');
  return text.data;
}

List* read_array(Datum array) {
  List* result = NIL;
  Datum* elements;
  int count;
  deconstruct_array(DatumGetArrayTypePCopy(array), INT2OID, sizeof(int16), true, TYPALIGN_SHORT, &elements,
                    nullptr, &count);
  for (int i = 0; i < count; ++i) result = lappend_int(result, DatumGetInt16(elements[i]));
  return result;
}

List* read_texts(Datum array) {
  List* result = NIL;
  Datum* elements;
  int count;
  deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT, &elements, nullptr, &count);
  for (int i = 0; i < count; ++i) result = lappend(result, TextDatumGetCString(elements[i]));
  return result;
}

Datum text_array(List* texts) {
  auto* elements = static_cast<Datum*>(palloc(sizeof(Datum) * (list_length(texts) + 1)));
  ListCell* cell;
  foreach (cell, texts)
    elements[foreach_current_index(cell)] = CStringGetTextDatum(static_cast<char*>(lfirst(cell)));
  return PointerGetDatum(construct_array(elements, list_length(texts), TEXTOID, -1, false, TYPALIGN_INT));
}

Datum field(uint64 row, int number) {
  bool null;
  return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number, &null);
}

// What a query of ours returns lives in `memory`, not in SPI's own context.
uint64 read(const char* sql, Datum argument, Oid type) {
  Oid types[] = {type};
  Datum values[] = {argument};
  if (SPI_execute_with_args(sql, 1, types, values, nullptr, true, 0) != SPI_OK_SELECT)
    elog(ERROR, "pg_tick: cannot read the catalogs");
  return SPI_processed;
}

void write(const char* sql, int count, Oid* types, Datum* values) {
  SPI_connect();
  if (SPI_execute_with_args(sql, count, types, values, nullptr, false, 0) < 0)
    elog(ERROR, "pg_tick: cannot write the catalogs");
  SPI_finish();
}

// The current programs of a source (or of one group), newest last.
List* read_drafts(const char* where, Datum argument, Oid type) {
  List* drafts = NIL;
  MemoryContext memory = CurrentMemoryContext;
  open_catalogs();
  const uint64 rows =
      read(psprintf("SELECT p.group_id, p.source, p.owner, p.id, p.inputs, p.keys, p.time_input, "
                    "p.where_input, p.pane, p.items, p.expressions "
                    "FROM tick_catalog.program AS p WHERE p.current AND "
                    "%s ORDER BY p.id",
                    where),
           argument, type);
  for (uint64 row = 0; row < rows; ++row) {
    MemoryContext spi = MemoryContextSwitchTo(memory);
    auto* draft = static_cast<Draft*>(palloc0(sizeof(Draft)));
    draft->group = DatumGetInt32(field(row, 1));
    draft->source = DatumGetObjectId(field(row, 2));
    draft->owner = DatumGetObjectId(field(row, 3));
    draft->old_program = DatumGetInt64(field(row, 4));
    const Datum texts = datumCopy(field(row, 11), false, -1);
    draft->texts = read_texts(texts);
    draft->inputs = static_cast<List*>(stringToNode(TextDatumGetCString(field(row, 5))));
    draft->keys = read_array(field(row, 6));
    draft->time = DatumGetInt16(field(row, 7));
    draft->where = DatumGetInt16(field(row, 8));
    draft->pane = DatumGetInt64(field(row, 9));
    List* numbers = read_array(field(row, 10));
    for (int i = 0; i + 4 < list_length(numbers); i += 5)
      draft->items =
          lappend(draft->items, list_make5_int(list_nth_int(numbers, i), list_nth_int(numbers, i + 1),
                                               list_nth_int(numbers, i + 2), list_nth_int(numbers, i + 3),
                                               list_nth_int(numbers, i + 4)));
    drafts = lappend(drafts, draft);
    MemoryContextSwitchTo(spi);
  }
  close_catalogs();
  return drafts;
}

List* read_members(const Draft* draft) {
  List* members = NIL;
  MemoryContext memory = CurrentMemoryContext;
  open_catalogs();
  const uint64 rows = read(
      "SELECT p.rollup, p.items FROM tick_catalog.rollup_program AS p JOIN tick_catalog.program AS g "
      "ON g.id = p.program JOIN tick_catalog.rollup AS r ON r.id = p.rollup AND r.group_id = g.group_id "
      "WHERE p.program = $1 ORDER BY p.rollup",
      Int64GetDatum(draft->old_program), INT8OID);
  for (uint64 row = 0; row < rows; ++row) {
    MemoryContext spi = MemoryContextSwitchTo(memory);
    auto* member = static_cast<Member*>(palloc(sizeof(Member)));
    member->rollup = DatumGetInt32(field(row, 1));
    member->items = read_array(field(row, 2));
    members = lappend(members, member);
    MemoryContextSwitchTo(spi);
  }
  close_catalogs();
  return members;
}

// The least time from one window to the next.
int64 window_length(const WindowSize& size) {
  if (size.months > 0) return size.months * 28 * micros_per_day;
  if (size.slide > 0) return size.slide;
  return size.days > 0 ? size.days * micros_per_day : size.micros;
}

// The widest pane that serves all windows of the group, and those of a pane `with`; 0 if there are none.
// Makes `narrowest` the length of the narrowest window if that is less.
int64 group_pane(int32 group, int64 with, int64* narrowest) {
  int64 pane = with;
  open_catalogs();
  const uint64 rows =
      read("SELECT " TICK_WINDOW_COLUMNS
           " FROM tick_catalog.rollup AS r WHERE r.group_id = $1 AND r.window_size IS NOT NULL",
           Int32GetDatum(group), INT4OID);
  for (uint64 row = 0; row < rows; ++row) {
    WindowSize window;
    (void)read_window(row, 1, &window);
    const int64 width = pane_width(window);
    pane = pane == 0 ? width : common_pane(pane, width);
    *narrowest = Min(*narrowest, window_length(window));
  }
  close_catalogs();
  return pane;
}

Node* part(const Draft* draft, int number) {
  return number < 0 ? nullptr : static_cast<Node*>(list_nth(draft->inputs, number));
}

int draft_part(Draft* draft, const Draft* old, int number) {
  return draft_input(draft, part(old, number), static_cast<char*>(list_nth(old->texts, number)));
}

bool number_one(Node* node, void* context) {
  if (node == nullptr) return false;
  if (IsA(node, Var)) reinterpret_cast<Var*>(node)->varno = reinterpret_cast<Var*>(node)->varnosyn = 1;
  return TICK_WALK(node, number_one, context);
}

// The definition with the source as variable number 1: in a view before PostgreSQL 16 it is number 3.
const Definition* over_source(const Definition* def) {
  auto* result = static_cast<Definition*>(palloc(sizeof(Definition)));
  *result = *def;
  result->inputs = static_cast<List*>(copyObjectImpl(def->inputs));
  (void)number_one(reinterpret_cast<Node*>(result->inputs), nullptr);
  return result;
}

bool same_rows(const Draft* draft, const Definition* def) {
  if (draft->owner != def->owner || list_length(draft->keys) != list_length(def->keys)) return false;
  for (int i = 0; i < list_length(def->keys); ++i) {
    if (!equal(part(draft, list_nth_int(draft->keys, i)), input(def, list_nth_int(def->keys, i))))
      return false;
  }
  if (!equal(part(draft, draft->where), def->where < 0 ? nullptr : input(def, def->where))) return false;
  return draft->time < 0 || def->time < 0 || equal(part(draft, draft->time), input(def, def->time));
}

// Finds a group that can take the rollup: the gcd of its panes must not be much finer than any of its
// windows.
Draft* find_group(const Definition* def, int64 pane) {
  ListCell* cell;
  foreach (cell, read_drafts("p.source = $1", ObjectIdGetDatum(def->source), OIDOID)) {
    auto* draft = static_cast<Draft*>(lfirst(cell));
    if (!same_rows(draft, def)) continue;
    int64 narrowest = pane == 0 ? PG_INT64_MAX : window_length(def->window_size);
    const int64 common = group_pane(draft->group, pane, &narrowest);
    if (common > 0 && common < narrowest / 4) continue;
    draft->pane = common;
    return draft;
  }
  return nullptr;
}

Draft* new_group(const Definition* def, int64 pane) {
  auto* draft = static_cast<Draft*>(palloc0(sizeof(Draft)));
  draft->source = def->source;
  draft->owner = def->owner;
  draft->time = draft->where = -1;
  draft->pane = pane;
  Oid types[] = {OIDOID, OIDOID};
  Datum values[] = {ObjectIdGetDatum(def->source), ObjectIdGetDatum(def->owner)};
  SPI_connect();
  SPI_execute_with_args("INSERT INTO tick_catalog.capture_group (source, owner) VALUES ($1, $2) RETURNING id",
                        2, types, values, nullptr, false, 0);
  draft->group = DatumGetInt32(field(0, 1));
  SPI_finish();
  ListCell* cell;
  foreach (cell, def->keys)
    draft->keys = lappend_int(draft->keys, draft_input(draft, input(def, lfirst_int(cell)), nullptr));
  if (def->where >= 0) draft->where = draft_input(draft, input(def, def->where), nullptr);
  draft->items = list_make1(list_make5_int(static_cast<int>(ItemKind::count), -1, -1, -1, -1));
  return draft;
}

// The same group without items that no member uses; `members` get the numbers they have now.
Draft* without_unused(const Draft* old, List* members) {
  auto* draft = static_cast<Draft*>(palloc(sizeof(Draft)));
  *draft = *old;
  draft->inputs = draft->texts = draft->keys = draft->items = NIL;
  ListCell* cell;
  foreach (cell, old->keys) draft->keys = lappend_int(draft->keys, draft_part(draft, old, lfirst_int(cell)));
  if (old->where >= 0) draft->where = draft_part(draft, old, old->where);
  if (old->time >= 0) draft->time = draft_part(draft, old, old->time);
  (void)draft_item(draft, old->inputs, old->texts, static_cast<List*>(linitial(old->items)));
  foreach (cell, members) {
    auto* member = static_cast<Member*>(lfirst(cell));
    List* items = NIL;
    ListCell* number;
    foreach (number, member->items)
      items = lappend_int(items, draft_item(draft, old->inputs, old->texts,
                                            static_cast<List*>(list_nth(old->items, lfirst_int(number)))));
    member->items = items;
  }
  return draft;
}

int64 write_program(const Draft* draft) {
  List* numbers = NIL;
  ListCell* cell;
  foreach (cell, draft->items) numbers = list_concat_copy(numbers, static_cast<List*>(lfirst(cell)));
  Oid types[] = {INT4OID, OIDOID, OIDOID, TEXTOID, TEXTOID, INT2OID, INT2OID, INT8OID, TEXTOID, TEXTARRAYOID};
  Datum values[] = {Int32GetDatum(draft->group),
                    ObjectIdGetDatum(draft->source),
                    ObjectIdGetDatum(draft->owner),
                    CStringGetTextDatum(nodeToString(draft->inputs)),
                    CStringGetTextDatum(array_text(draft->keys)),
                    Int16GetDatum(draft->time),
                    Int16GetDatum(draft->where),
                    Int64GetDatum(draft->pane),
                    CStringGetTextDatum(array_text(numbers)),
                    text_array(draft->texts)};
  Oid group_type[] = {INT4OID};
  write("UPDATE tick_catalog.program SET current = false WHERE group_id = $1 AND current", 1, group_type,
        values);
  SPI_connect();
  SPI_execute_with_args(
      "INSERT INTO tick_catalog.program (group_id, source, owner, current, inputs, keys, time_input, "
      "where_input, pane, items, expressions) VALUES ($1, $2, $3, true, $4, $5::smallint[], $6, $7, $8, "
      "$9::smallint[], $10) RETURNING id",
      10, types, values, nullptr, false, 0);
  const int64 id = DatumGetInt64(field(0, 1));
  SPI_finish();
  return id;
}

void write_member(int32 rollup, int64 program, List* items) {
  Oid types[] = {INT4OID, INT8OID, TEXTOID};
  Datum values[] = {Int32GetDatum(rollup), Int64GetDatum(program), CStringGetTextDatum(array_text(items))};
  write("INSERT INTO tick_catalog.rollup_program (rollup, program, items) VALUES ($1, $2, $3::smallint[])", 3,
        types, values);
}

void write_members(List* members, int64 program) {
  ListCell* cell;
  foreach (cell, members) {
    const auto* member = static_cast<Member*>(lfirst(cell));
    write_member(member->rollup, program, member->items);
  }
}

}  // namespace

int32 join_group(const Definition* defined) {
  const Definition* def = over_source(defined);
  const int64 pane = def->window == nullptr ? 0 : pane_width(def->window_size);
  Draft* draft = find_group(def, pane);
  List* members = NIL;
  if (draft == nullptr) {
    draft = new_group(def, pane);
  } else {
    members = read_members(draft);
    const int64 common = draft->pane;
    draft = without_unused(draft, members);
    draft->pane = common;
  }
  if (def->time >= 0) draft->time = draft_input(draft, input(def, def->time), nullptr);
  ListCell* cell;
  foreach (cell, def->items)
    (void)draft_item(draft, def->inputs, NIL, numbers_of(static_cast<DefinedItem*>(lfirst(cell))));
  write_members(members, write_program(draft));
  return draft->group;
}

void record_items(const Definition* defined, int32 group) {
  const Definition* def = over_source(defined);
  auto* draft = static_cast<Draft*>(linitial(read_drafts("p.group_id = $1", Int32GetDatum(group), INT4OID)));
  List* items = NIL;
  ListCell* cell;
  foreach (cell, def->items)
    items = lappend_int(
        items, draft_item(draft, def->inputs, NIL, numbers_of(static_cast<DefinedItem*>(lfirst(cell)))));
  write_member(def->id, draft->old_program, items);
}

void shrink_group(int32 group) {
  List* drafts = read_drafts("p.group_id = $1", Int32GetDatum(group), INT4OID);
  if (drafts == NIL) return;
  auto* old = static_cast<Draft*>(linitial(drafts));
  List* members = read_members(old);
  Oid types[] = {INT4OID};
  Datum values[] = {Int32GetDatum(group)};
  if (members == NIL) {
    write("UPDATE tick_catalog.program SET current = false WHERE group_id = $1 AND current", 1, types,
          values);
    write("DELETE FROM tick_catalog.capture_group WHERE id = $1", 1, types, values);
    return;
  }
  Draft* draft = without_unused(old, members);
  int64 narrowest = PG_INT64_MAX;
  draft->pane = group_pane(group, 0, &narrowest);
  if (draft->pane == 0) draft->time = -1;
  write_members(members, write_program(draft));
}

}  // namespace tick::pg
