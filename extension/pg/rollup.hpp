// Rollups as the engine sees them: what the catalogs say of each, where a pane goes, and how partials become
// the columns of its state table. The worker and tick_catalog.unmerged() share it.
#pragma once

#include <algorithm>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "evaluator.hpp"

namespace tick::pg {

// Window starts [lo, hi) still to be recomputed. Fresh ones have never been computed: they ignore deltas, the
// recompute will see those rows; unless a helper process scans them in the snapshot of one turn: then the
// deltas of later turns are merged, and what the helper finds as well. With `replace` somebody has asked for
// what the source holds: a count may fall. Of windows that were `missed` rows came while the rollup was set
// aside: what the source no longer holds of them is stale. Of windows that are `marked` only the rows that
// are marked stale can differ from the source.
struct Range {
  Micros lo, hi;
  bool fresh;
  int64_t scan = 0;  // of the helper's scan, 0 = none
  bool replace = false;
  bool missed = false;
  bool marked = false;
};

// True if one of the ranges says so of a window.
inline bool any_replaces(const std::vector<Range>& ranges, Micros window) {
  return std::any_of(ranges.begin(), ranges.end(), [&](const Range& range) {
    return range.replace && window >= range.lo && window < range.hi;
  });
}

struct Rollup {
  int id = 0;
  std::string name;  // qualified and quoted, of the view
  Oid state = InvalidOid;
  Oid source = InvalidOid;
  // The rollup whose rows it follows, 0 = it reads the source; by key, which of the other's keys it is, -1 =
  // none. Nothing is merged into it, and it has no program: `program` has its keys alone.
  int parent = 0;
  std::vector<int16_t> parent_keys;
  Oid owner = InvalidOid;
  int group = 0;
  std::string status;
  bool windowed = false;
  WindowSize size;
  std::string broken;        // why it cannot be kept: its time zone is not known any more
  Oid history = InvalidOid;  // the table of its versions
  bool apart = false;        // the state table is in another tablespace than the catalogs
  std::string upsert;
  std::string finish;   // of one with a parent
  std::string channel;  // of its notifications
  // Items that were added when the rollup had windows already are not known of older ones: there, NULL.
  std::vector<Micros> known_from;  // by item
  int filling = 0;                 // of the last items: windows still to be computed have none of them
  std::vector<ValueType> columns;  // of the state table: keys, window, partials
  std::vector<Oid> column_types;   // as declared
  std::vector<int32> modifiers;    // of these types: char(8), numeric(10,2)
  std::vector<AttrNumber> attributes;
  AttrNumber stale_attribute = 0, revision_attribute = 0, updated_attribute = 0;
  // Of a rollup that is recomputed. Merging touches its rows and counts them, all else is compute.hpp's.
  bool computed = false;
  std::vector<AttrNumber> values;
  AttrNumber touched_attribute = 0, shown_attribute = 0;
  Micros raw_from = minus_infinity;               // the source is complete from here on
  Micros kept_from = minus_infinity;              // windows below were dropped for good
  std::map<int64_t, std::vector<int16_t>> items;  // program -> its items, in the order of the rollup's
  std::vector<Range> fresh;                       // pending and never computed: usually none or one
  std::vector<Range> dirty;                       // pending because rows have left
  int64_t newest = 0;                             // program
  Program program;                                // the rollup's own items over the newest program's inputs

  bool pending() const { return !fresh.empty() || !dirty.empty(); }
  bool is_fresh(Micros window) const;  // and no helper scans it
  // True for windows that a fresh range leaves as they are, rows of which are there: of a rollup that is
  // computed again, those that the source does not cover. What deltas bring is merged into them all the
  // while.
  bool stays(const Range& range, Micros window) const;
  bool is_known(size_t item, Micros window) const {
    return item >= known_from.size() || window >= known_from[item];
  }
  bool is_kept(Micros window) const { return window >= kept_from; }
  // True for windows of which the engine knows, or somebody has said, that rows have left.
  bool may_fall(Micros window) const { return any_replaces(dirty, window); }
  // The first window that the source covers completely; plus_infinity if a rollup without window is not.
  Micros first_covered() const;
};

// For statements, quoted: the state table, which is locked so that nobody renames it before the transaction
// ends, and then the column of the windows. Throw nothing, ereport.
const char* state_text(const Rollup& rollup);
const char* time_text(const Rollup& rollup);

// Reads rollups under the active snapshot; id 0 = all. Inside SPI. Throws.
std::vector<Rollup> load_rollups(int id);

// Takes in the programs that were made since this transaction's snapshot: its own rows may be captured by
// them. Inside SPI. Throws.
void add_later_programs(Rollup& rollup);

// Rows of text cells of a query, read only, under the active snapshot; its $1 is an int8. Prepared once in
// the life of this process: no numbers in the text. Inside SPI. Throws.
using TextRows = std::vector<std::vector<std::optional<std::string>>>;
TextRows read_text(const char* sql);
TextRows read_text(const char* sql, int64_t argument);

// A key as its column has it: padded if it is a char(8), 1.50 if it is a numeric(10,2). Folds keep keys
// without that. Throws nothing, ereport.
Datum key_datum(const Rollup& rollup, size_t key, const Cell& cell);

// The items of a fold of the rollup, each as itself.
std::vector<int16_t> every_item(const Rollup& rollup);

// The windows that a pane belongs to, the last one first: `nth` counts from 0 to windows_of_pane() - 1.
// Nothing for panes without a time in a windowed rollup, and when there are no more.
std::optional<Micros> window_of(const Rollup& rollup, Micros pane, int64_t nth);
int64_t windows_of_pane(const Rollup& rollup);

// Merges panes into the windows that they belong to. `wanted` chooses the window, itself or none, for a slot;
// it is called for each of them.
template <typename Wanted>
void merge_into_windows(Fold& into, const Rollup& rollup, const Fold& panes,
                        const std::vector<int16_t>& items, Wanted&& wanted) {
  bool any = true;
  for (int64_t nth = 0; any && nth < windows_of_pane(rollup); ++nth) {
    any = false;
    into.merge(panes, items, [&](const Fold& from, size_t slot) -> std::optional<Micros> {
      const auto window = window_of(rollup, from.pane(slot), nth);
      any = any || window;
      // Without a time there is one place, not one for each window.
      return window || nth == 0 ? wanted(from, slot, window) : std::nullopt;
    });
  }
}

// The columns of a state table for slots [from, to) of a fold of the rollup: cells, and the bytes they point
// at.
struct StateColumns {
  std::vector<std::vector<Cell>> cells;
  std::deque<std::string> bytes;
};
StateColumns state_columns(const Rollup& rollup, const Fold& fold, size_t from, size_t to);

}  // namespace tick::pg
