// The definition of a rollup on its way from the query to SQL and catalogs, and the steps of that way:
//   statement.cpp parse and refuse -> analyse.cpp keys, window, items -> plan.cpp SQL text -> group.cpp
//   program and triggers -> define.cpp the objects. (refresh.cpp goes it again after DDL; parent.cpp is what
//   is different over the view of another rollup.) Everything is
//   palloc'ed plain data: any step may leave by ereport.
#pragma once

#include "../core/types.hpp"
#include "../core/window.hpp"
#include "pg.hpp"
#include "session.hpp"

namespace tick::pg {

// An item of the core, and where the state table keeps its partial.
struct DefinedItem {
  ItemKind kind;
  int value, order, seq, filter;  // indexes into Definition::inputs, -1 = none
  Oid partial;                    // type of the first column
  int width;                      // columns of the state table
  int column;                     // position of the first in Definition::columns
};

// A column of the state table.
struct StateColumn {
  const char* name;
  Oid type;
  int32 typmod;
  Oid collation;
};

struct Definition {
  const char* text;  // the query as it was given
  Query* query;
  Oid source;  // the table whose rows, and whose watermark, it all comes from
  Oid parent;  // the view of the rollup that the query reads instead; InvalidOid: it reads the source
  int32 parent_id;
  int16* parent_keys;  // by key: its position among the keys of the parent, -1 = it is none of them
  Oid owner;
  Oid schema;
  const char* name;
  int32 id;  // of the rollup; 0 until it has passed

  List* inputs;         // Node*: expressions over the source, which is variable number 1
  List* keys;           // int: inputs
  List* key_order;      // int: positions in `keys` as GROUP BY lists them
  int time;             // input or -1
  int where;            // input or -1
  Node* window;         // the call of tick.tumble, or nullptr
  Interval* size;       // when `id` is set, as the catalog has it; so are slide, zone and origin
  Interval* slide;      // nullptr: tumbling
  bool grows;           // by steps of `slide`, or else it hops
  const char* zone;     // nullptr: UTC
  TimestampTz* origin;  // nullptr: midnight
  Interval* retention;  // nullptr: for ever
  WindowSize window_size;
  List* items;  // DefinedItem*; the first counts rows

  List* columns;     // StateColumn*: keys, window, partials
  bool computed;     // the query is run again over what has been touched; the only partials are counts
  List* values;      // StateColumn*: what it gives beside keys and window, in the order of its outputs
  Oid state;         // the table that has them, once it is there
  int original;      // outputs before window_end in the view, 0 = all; others were added by tick.alter_rollup
  const char* unit;  // name of the constant column of a rollup without keys and window, else nullptr
};

inline Node* input(const Definition* def, int i) {
  return static_cast<Node*>(list_nth(def->inputs, i));
}
inline DefinedItem* item(const Definition* def, int i) {
  return static_cast<DefinedItem*>(list_nth(def->items, i));
}
inline StateColumn* column(const Definition* def, int i) {
  return static_cast<StateColumn*>(list_nth(def->columns, i));
}
inline StateColumn* value(const Definition* def, int i) {
  return static_cast<StateColumn*>(list_nth(def->values, i));
}
inline Oid relation_read(const Definition* def) {
  return OidIsValid(def->parent) ? def->parent : def->source;
}
// Why nothing is merged into it, for messages.
inline const char* not_merged(const Definition* def) {
  return OidIsValid(def->parent) ? "follows another rollup" : "is recomputed";
}
inline bool grouped(const Definition* def) {
  return def->keys != NIL || def->window != nullptr;
}

// --- statement.cpp -----------------------------------------------------------------------------------------

// Errors raised between the two point into `text` instead of the statement that is running.
struct QueryContext {
  ErrorContextCallback callback;
  const char* text;
};
void enter_query(QueryContext* context, const char* text);
void leave_query(QueryContext* context);

// Returns errposition() of a location in the query that was entered.
int at(const char* text, int location);

// Parses the text and returns the one plain SELECT in it; refuses everything else.
RawStmt* parse_select(const char* text);
// The table it reads.
RangeVar* source_name(const RawStmt* statement);
// Refuses what a rollup cannot read, or the present user must not.
void check_source(Oid source, const RangeVar* name, const char* text);
// Refuses what the grammar allows and a rollup cannot hold.
void check_query(const Query* query, const char* text);
// Refuses expressions that are not IMMUTABLE.
void check_immutable(Node* node, const char* text);

// --- analyse.cpp, items.cpp --------------------------------------------------------------------------------

// Fills everything from `inputs` on.
void analyse(Definition* def);

// The aggregates that a rollup can hold.
enum class Family {
  none,
  count,
  sum,
  avg,
  min,
  max,
  var_pop,
  var_samp,
  stddev_pop,
  stddev_samp,
  first,
  last
};
Family family(Oid function);
// True if rows can be added to the aggregate and taken away one by one; else its rollup is recomputed.
bool is_foldable(const Aggref* aggregate);
// The expression with sums, averages and variances of floats replaced by aggregates that round once, so that
// the order of rows does not matter; sets `replaced` (bool*) if there are any.
Node* exact_aggregates(Node* node, void* replaced);
// Refuses an aggregate that a recompute could answer otherwise over the same rows.
void check_computed(const Definition* def, const Aggref* aggregate);
// True if the function is one of the named ones of schema tick.
bool is_tick_function(Oid function, const char* name);

// True for a call that says which windows a row is in.
bool is_window(const Node* node);
// Its arguments as the function has them, without the names a caller may have given.
List* window_arguments(const Node* window);

// Returns the index of an equal input, adding it if there is none.
int add_input(Definition* def, Node* expr);
// Adds the items of one aggregate and the state columns of new ones, named after the output column. `direct`:
// the output is the aggregate itself.
void add_items(Definition* def, const Aggref* aggregate, const char* output, bool direct);
// Adds the count of all rows, named as asked or by a name of our own.
void add_row_count(Definition* def, const char* output);
// Adds a count that reads these columns of the source, so that a change of one of them is captured.
void add_reading(Definition* def, List* variables);
// Returns the expression over the state table that finishes an aggregate.
Node* finish(Definition* def, const Aggref* aggregate);
// True for an expression that is a key or the window.
bool is_grouped(const Definition* def, Node* node);
// Returns a name for a state column that no other column has.
const char* free_name(const Definition* def, const char* output, const char* what);
// Refuses a type that cannot be a key or the value of an item.
void check_type(Node* expr, bool as_key, const char* text, int location);

// --- parent.cpp --------------------------------------------------------------------------------------------

// If the relation is the view of a rollup, makes that one the parent: takes its source, and refuses one that
// cannot be read, or not by the present user. False if it is no such view.
bool take_parent(Definition* def, Oid relation, const RangeVar* name);
// Refuses what cannot follow the rows of the parent, and says which keys are the parent's.
void check_following(Definition* def);
// What a column of a rollup's view is in its query; nullptr if the relation is no such view, or the column is
// one that every rollup has.
Node* output_of_rollup(Oid view, AttrNumber column, Query** query);
// The rollups that read the view of another, as a list of names; nullptr: there are none.
const char* follower_names(int32 parent);
// Has the rollups that read this one follow it in windows [lo, hi) of it, in the next turn. Turns are
// stopped, or this one's rows are not there yet. As the extension's owner.
void have_followed(int32 parent, int64 lo, int64 hi);

// --- plan.cpp ----------------------------------------------------------------------------------------------

// A call of a function in schema tick_catalog.
Node* call_catalog(const char* function, List* arguments);
// A column of the state table, which is variable number 1.
Node* state_variable(const Definition* def, int column);

// SQL over the state table, which must exist for all but the first.
const char* state_sql(const Definition* def, const char* state);
// Adds the columns that it has not got yet; nullptr if there are none.
const char* added_columns_sql(const Definition* def);
// The query of the view; a view that is there keeps the names that its columns have by now.
const char* view_sql(Definition* def, Oid view);
// The same of the view `name_live` beside `view`: the state table with what the reader's snapshot sees beyond
// it.
const char* live_sql(Definition* def, Oid view, Oid live);
// What the view makes of rows of the state table that are in the tuplestore tick_rows.
const char* finish_sql(Definition* def);
const char* upsert_sql(const Definition* def);
const char* merged_sql(Definition* def);
// Of a rollup with a parent: makes the windows that start in [$1, $2), whose rows end before $3, what the
// query finds, at the time $4; a window that ends at or before $5 gets a new revision. `by_keys`: only rows
// with keys in the arrays from $6 on, one for each key that is the parent's. Gives the window of each row
// that was written, and with its keys as JSON that of each that has gone.
const char* follow_sql(const Definition* def, bool by_keys);
// What is not merged yet, in the columns of the state table, as u of a FROM.
const char* unmerged_sql(const Definition* def);
// The query of a definition view, reading no rows whose time is before `from`, or not before `to`; an
// infinite bound is none. A rollup without window has no bounds.
Query* bounded_query(Oid definition, TimestampTz from, TimestampTz to);

// Of a rollup that is recomputed. The query that gives, for each touched row of the windows in $1 (without
// window: of all), its keys, window and tick_touched, whether the rows in these bounds have such a group, and
// the group's values.
const char* compute_sql(Definition* def, Oid definition, TimestampTz from, TimestampTz to);
// How to write one of these back. Parameters: the values, the keys, the window, tick_touched, whether it was
// final, and the time; a key whose element of `nulls` is true is NULL. Gives whether the row shows anything
// else now. If no rows of the group were `found`, the row becomes stale.
const char* show_sql(const Definition* def, const bool* nulls, bool found);
// How many outputs of its query come before window_end in the view of a rollup; 0 if it is another view by
// now.
int original_outputs(Oid view);

// --- group.cpp ---------------------------------------------------------------------------------------------

// Puts the rollup into a capture group with a new program that holds its items, and returns the group.
int32 join_group(const Definition* def);
// Writes the row of rollup_program of a rollup that has joined.
void record_items(const Definition* def, int32 group);
// Gives the group a program without the items nobody uses any more, or removes it with its last rollup.
void shrink_group(int32 group);

// --- refresh.cpp -------------------------------------------------------------------------------------------

// A rollup that stands, with its SQL texts.
struct Standing {
  int32 rollup;
  int32 group;
  Oid view;
  Oid state;
  Oid definition;
  Oid live;  // InvalidOid: there is none
  Oid source;
  Oid parent;          // InvalidOid: it reads the source
  int16* parent_keys;  // nullptr without a parent
  Oid owner;
  Oid heir;         // who owns its objects by now
  Interval* size;   // nullptr without a window
  Interval* slide;  // nullptr unless it hops or grows
  bool grows;
  const char* zone;     // nullptr: UTC
  TimestampTz* origin;  // nullptr: midnight
  const char* upsert;
  const char* merged;
  const char* finish;
};
// The rollups (Standing*) that a condition selects; `argument` is its $1.
List* standing_rollups(const char* condition, Oid argument);
// What a rollup's owner wrote is looked at under the owner's name.
Actor act_as_owner(const Standing* rollup);
// Its definition, analysed.
Definition* read_definition(const Standing* rollup);

// For the library's start: has rollups follow REASSIGN OWNED.
void watch_owners();
// Gives rollups whose objects have another owner by now to that role.
void follow_owners();
// Returns the first state column that has another name than the definition gives it, nullptr if none has.
const char* renamed_column(const Definition* def, Oid state);

// --- define.cpp --------------------------------------------------------------------------------------------

// The name of the view `name_live` of a rollup.
const char* live_name(const char* rollup);
// Makes a rollup of what a dump of the schema alone has left of it: false if that view is no such thing.
bool adopt_rollup(Oid view);

// --- triggers.cpp ------------------------------------------------------------------------------------------

// Locks the source and everything below it, without making its writers wait for more than a moment.
void lock_source(Oid source, LOCKMODE mode = ShareRowExclusiveLock);
// The same for several at once: a writer that waits for one of them may hold another.
void lock_sources(List* sources, LOCKMODE mode);

// Names the sessions and prepared transactions that hold conflicting locks on a source or its leaves.
const char* lock_holders(Oid source, LOCKMODE mode);
// Whether anything is still to be captured on the source.
bool has_programs(Oid source);
// The mutex of a turn: none runs from here to the end of the transaction.
void stop_turns();
// Makes the triggers of the source those of its current programs and of its dedup. The caller has locked the
// source.
void attach_triggers(Oid source);

}  // namespace tick::pg
