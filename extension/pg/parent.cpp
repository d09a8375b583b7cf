// Rollups over rollups: what a query may read of another rollup's view, so that the rows of that one which a
// turn writes or deletes say which of its own rows can differ. PostgreSQL only. (follow.cpp is what a turn
// does about it.)
#include "coverage.hpp"
#include "define.hpp"
#include "session.hpp"
#include "source.hpp"

namespace tick::pg {
namespace {

// The rollup that is read.
struct Parent {
  int32 id;
  Oid source;
  Oid definition;
  bool computed;
  const char* time;  // its window; nullptr: it has none
  List* keys;        // char*
};

Parent* read_parent(Oid view) {
  Oid types[] = {OIDOID};
  Datum values[] = {ObjectIdGetDatum(view)};
  MemoryContext memory = CurrentMemoryContext;
  const Actor caller = act_as_extension();
  open_catalogs();
  SPI_execute_with_args(
      "SELECT r.id, r.source, r.definition, r.value_columns IS NOT NULL, r.time_column, r.key_columns FROM "
      "tick_catalog.rollup AS r WHERE r.view = $1",
      1, types, values, nullptr, true, 1);
  Parent* parent = nullptr;
  if (SPI_processed == 1) {
    MemoryContext spi = MemoryContextSwitchTo(memory);
    Datum field[6];
    bool null[6];
    for (int i = 0; i < 6; ++i)
      field[i] = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1, &null[i]);
    parent = static_cast<Parent*>(palloc0(sizeof(Parent)));
    parent->id = DatumGetInt32(field[0]);
    parent->source = DatumGetObjectId(field[1]);
    parent->definition = DatumGetObjectId(field[2]);
    parent->computed = DatumGetBool(field[3]);
    if (!null[4]) parent->time = TextDatumGetCString(field[4]);
    parent->keys = read_names(field[5]);
    MemoryContextSwitchTo(spi);
  }
  close_catalogs();
  act_again(caller);
  return parent;
}

// The name of the parent's own output that a column of its view is, nullptr for those that every rollup has.
const char* output_name(const Parent* parent, Oid view, AttrNumber column) {
  const int original = original_outputs(view);
  if (column > original && column <= original + 4) return nullptr;
  const int number = column <= original ? column : column - 4;
  return get_attname(parent->definition, static_cast<AttrNumber>(number), true);
}

// What changes in a row of the parent although its turn has not written it.
bool check_columns(Node* node, void* context) {
  if (node == nullptr) return false;
  const auto* def = static_cast<Definition*>(context);
  if (IsA(node, Var)) {
    const AttrNumber column = reinterpret_cast<Var*>(node)->varattno;
    const int original = original_outputs(def->parent);
    if (column > original + 1 && column <= original + 4)
      ereport(ERROR,
              (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
               errmsg("a rollup cannot read \"%s\" of another", get_attname(def->parent, column, false)),
               errdetail("It says how far the other one is, and is no part of its query."),
               errhint("Every rollup has such a column of its own."), at(def->text, exprLocation(node))));
  }
  return TICK_WALK(node, check_columns, context);
}

}  // namespace

bool take_parent(Definition* def, Oid relation, const RangeVar* name) {
  const Parent* parent = get_rel_relkind(relation) == RELKIND_VIEW ? read_parent(relation) : nullptr;
  if (parent == nullptr) return false;
  const auto refuse = [&](const char* what, const char* why, const char* hint) {
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("cannot roll up rollup \"%s\": it %s", name->relname, what), errdetail("%s", why),
                    errhint(hint, relation_text(parent->source)), at(def->text, name->location)));
  };
  if (parent->computed)
    refuse("is recomputed", "What it shows changes in transactions of their own, after those of the others.",
           "Roll up %s.");
  if (parent->time == nullptr)
    refuse("has no windows", "With each of its rows all of them would have to be read again.", "Roll up %s.");
  if (original_outputs(relation) == 0)
    refuse("has been given another query", "Its rows are not those that its turns write.",
           "Make a rollup of that query, over %s.");
  if (pg_class_aclcheck(relation, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
    ereport(ERROR,
            (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("permission denied for view %s", name->relname),
             errdetail("A rollup needs the SELECT right on the rollup that it reads."),
             errhint("GRANT SELECT ON %s TO %s.", relation_text(relation),
                     quote_identifier(GetUserNameFromId(GetUserId(), false))),
             at(def->text, name->location)));
  def->parent = relation;
  def->parent_id = parent->id;
  def->source = parent->source;
  return true;
}

void check_following(Definition* def) {
  const Parent* parent = read_parent(def->parent);
  if (parent == nullptr) elog(ERROR, "pg_tick: the rollup that is read is gone");
  check_columns(reinterpret_cast<Node*>(def->query->targetList), def);
  check_columns(def->query->jointree->quals, def);
  if (def->window == nullptr)
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("a rollup of rollup \"%s\" needs a window", get_rel_name(def->parent)),
                    errdetail("With each row that changes there all of them would have to be read again."),
                    errhint("Group by tick.tumble(%s, ...), or roll up %s.", quote_identifier(parent->time),
                            relation_text(def->source))));
  if (def->grows)
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("windows over rollup \"%s\" cannot cumulate", get_rel_name(def->parent)),
                    errhint("Roll up %s, or group by tick.tumble(%s, ...).", relation_text(def->source),
                            quote_identifier(parent->time)),
                    at(def->text, exprLocation(def->window))));
  Node* time = input(def, def->time);
  const char* of =
      IsA(time, Var) ? output_name(parent, def->parent, reinterpret_cast<Var*>(time)->varattno) : nullptr;
  if (of == nullptr || strcmp(of, parent->time) != 0)
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("the windows of a rollup of rollup \"%s\" must be over its windows",
                           get_rel_name(def->parent)),
                    errdetail("Which of them a row belongs to is known by the window that it is of."),
                    errhint("Write tick.tumble(%s, ...).", quote_identifier(parent->time)),
                    at(def->text, exprLocation(def->window))));
  def->parent_keys = static_cast<int16*>(palloc(sizeof(int16) * (list_length(def->keys) + 1)));
  ListCell* cell;
  foreach (cell, def->keys) {
    Node* key = input(def, lfirst_int(cell));
    int16& found = def->parent_keys[foreach_current_index(cell)] = -1;
    if (!IsA(key, Var) || !OidIsValid(get_array_type(getBaseType(exprType(key))))) continue;
    const char* name = output_name(parent, def->parent, reinterpret_cast<Var*>(key)->varattno);
    ListCell* other;
    foreach (other, parent->keys)
      if (name != nullptr && strcmp(name, static_cast<char*>(lfirst(other))) == 0)
        found = static_cast<int16>(foreach_current_index(other));
  }
}

Node* output_of_rollup(Oid view, AttrNumber column, Query** query) {
  const Parent* parent = get_rel_relkind(view) == RELKIND_VIEW ? read_parent(view) : nullptr;
  const char* name = parent == nullptr ? nullptr : output_name(parent, view, column);
  if (name == nullptr) return nullptr;
  Relation definition = table_open(parent->definition, AccessShareLock);
  *query = static_cast<Query*>(copyObjectImpl(get_view_query(definition)));
  table_close(definition, NoLock);
  const auto* entry =
      list_nth_node(TargetEntry, (*query)->targetList, get_attnum(parent->definition, name) - 1);
  return reinterpret_cast<Node*>(entry->expr);
}

const char* follower_names(int32 parent) {
  Oid types[] = {INT4OID};
  Datum values[] = {Int32GetDatum(parent)};
  MemoryContext memory = CurrentMemoryContext;
  open_catalogs();
  SPI_execute_with_args(
      "SELECT string_agg(r.view::text, ', ' ORDER BY r.id) FROM tick_catalog.rollup AS r WHERE r.parent = $1",
      1, types, values, nullptr, true, 1);
  const char* names = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
  if (names != nullptr) names = MemoryContextStrdup(memory, names);
  close_catalogs();
  return names;
}

void have_followed(int32 parent, int64 lo, int64 hi) {
  run(psprintf("INSERT INTO tick_catalog.pending (rollup, lo, hi, fresh, replace) SELECT r.id, (" INT64_FORMAT
               ")::numeric::int8, (" INT64_FORMAT
               ")::numeric::int8, false, true FROM tick_catalog.rollup AS r WHERE r.parent = %d AND r.status "
               "<> 'error' ON CONFLICT (rollup, lo, hi, fresh) DO NOTHING",
               lo, hi, parent));
}

}  // namespace tick::pg
