// Dedup without a unique index (ENGINE 7): the ids of a key that are in a source are tick_catalog.seen,
// written by the worker alone, plus those in deltas that are not merged yet, plus the present transaction's
// own.
//   writer (dedup.cpp): one lock per dedup group, held to the end of the transaction; a BEFORE trigger
//   checks, the
//     AFTER trigger of the capture confirms; what is confirmed becomes one delta, program -(id of the set).
//   worker and definitions (seen.cpp): those deltas into tick_catalog.seen, sets built from the source's
//   rows.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "../core/id_set.hpp"
#include "queue.hpp"
#include "source.hpp"
#include "values.hpp"

namespace tick::pg {

// A row of tick_catalog.dedup. Immutable: other settings are another set. Lives until the process ends.
struct Dedup {
  int32 id;
  Oid catalog;  // the table it was read from: ids start anew with the extension
  Oid source;
  // Attributes of the source: keys, then id, group and time; 0 = none.
  std::vector<AttrNumber> columns;
  std::vector<ValueType> types;
  size_t keys;

  size_t id_at() const { return keys; }
  size_t group_at() const { return keys + 1; }
  size_t time_at() const { return keys + 2; }
};

// Read with the catalog snapshot; nullptr if there is no such set. May ereport.
const Dedup* find_dedup(int32 id);

// Beyond so many ranges a key's ids are reported as sparse, and beyond the second number refused.
inline constexpr size_t many_ranges = 10'000;
inline constexpr size_t most_ranges = 1'000'000;

// The columns of a set on one relation of the source's tree.
struct IdColumns {
  const Dedup* dedup;
  AttrNumber* attributes;
  int last;  // greatest attribute to be deformed
};

// One row as its set sees it. `key` and `group` live until the next row is read.
struct IdRow {
  std::string_view key;
  std::string_view group;
  int64_t id;
  Micros time;
};

// Palloc'ed. May ereport.
IdColumns* bind_ids(int32 set, Relation relation);
// The same by a trigger of the relation, which has to be the one that pg_tick has made.
IdColumns* bind_dedup(const Trigger* trigger, Relation relation);
// False if the row has no id: it is nobody's duplicate. May ereport.
bool read_ids(const IdColumns* columns, TupleTableSlot* slot, IdRow* row);

// Hands over the ids of all rows of a relation and its partitions, by the latest snapshot. `take` is called
// outside the doors. Throws.
void each_id(int32 set, Oid relation, const std::function<void(const IdColumns*, const IdRow&)>& take);

// ---- the writer (dedup.cpp)

// For the AFTER ROW triggers: the row is there, has changed or has gone. With `at_once` it is written now.
void confirm_ids(const IdColumns* columns, FunctionCallInfo fcinfo, bool at_once);

// For who inserts rows without firing the triggers: takes the id of a row that will be inserted, or else this
// (sub)transaction fails. False if it is a duplicate. May ereport, and throw. With `known` (palloc'ed, for
// one statement) a key or group whose Datums are the same as before is not looked up again: they must mean
// the same.
struct KnownKeys;
KnownKeys* make_known_keys();
bool take_id(const IdColumns* columns, TupleTableSlot* row, KnownKeys* known);

// Writes what this transaction does to its sets; true if that is anything. Throws.
bool flush_ids();
// The transaction has ended: committed here, or else (rolled back, prepared).
void end_ids(bool committed);
// A subtransaction of a nesting level has ended.
void end_ids_level(SubXactEvent event, int level);

// Takes in the ids of rows that have come without the triggers (ATTACH PARTITION), as this transaction's own.
// relation: the source or a part of it. Does nothing for a source without dedup. Throws.
void take_in_ids(Oid source, Oid relation);

// What a key has seen, under its group's lock from now on; and changes it, as what this transaction does. The
// reference is good until the next call. Throw.
const IdSet& known_ids(const Dedup* dedup, std::string_view key, std::string_view group);
void change_ids(const Dedup* dedup, std::string_view key, std::string_view group, const IdChange& change);

// ---- keys that change as a whole (key_ids.cpp)

// A column of a source, its value in the rows of some keys, and the one it is to have.
struct IdColumn {
  AttrNumber column;
  Datum before;
  bool before_null;
  Datum after;
  bool after_null;
};
// Gives back all ids of the keys with these values, rows or none, or lets the keys with the others have them:
// as what this transaction does. Does nothing if the set's keys are other columns. Throws.
void move_ids(Oid source, const std::vector<IdColumn>& columns, bool renamed);
// Refuses that if an id is known of both keys. Throws.
void check_ids(Oid source, const std::vector<IdColumn>& columns);

// ---- the worker and definitions (seen.cpp)

// The present set of a source, 0 = none. May ereport.
int32 dedup_of(Oid source);
// Whether there is any set, as the active snapshot sees it. Inside SPI. Throws.
bool any_dedup();

// Merges the deltas of ids that the active snapshot sees and `before` does not; true if there were any. What
// cannot be read goes to `hold`. Inside SPI. Throws.
bool merge_ids(
    const Frontier& before, Micros now,
    const std::function<void(int64_t program, std::string_view payload, const char* reason)>& hold);

// Checks the settings of dedup and puts them into effect: a new set is filled from the source's rows, under a
// lock that keeps writers out, and the triggers follow. As the extension's owner. May ereport.
void define_dedup(const SourceSettings* source);

// Fills a set that has no keys from the source's rows, whose writers are locked out. Throws.
void fill_dedup(int32 id);

// The column that dates a row: what the source is partitioned by, else the only one with a time; 0 if there
// are others.
AttrNumber dedup_time(Oid source);

// Makes the sets of a source anew from its rows: what its dropped partitions held is forgotten. Locks writers
// out. As the extension's owner. Throws.
void rebuild_seen(Oid source);

// Has the settings follow columns that were renamed. May ereport.
void rename_ids();

}  // namespace tick::pg
