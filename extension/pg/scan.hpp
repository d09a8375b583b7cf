// Folds the rows that a source holds in the active snapshot. A turn that recomputes windows and the helper
// process that scans history share it, so they cannot disagree.
#pragma once

#include <functional>
#include <vector>

#include "leaves.hpp"
#include "rollup.hpp"

namespace tick::pg {

inline constexpr size_t scan_memory = 256u * 1024 * 1024;  // of a fold that scans fill

// Folds the rows of the leaves, which must be locked; of a rollup with windows only panes in [lo, hi), if the
// fold is restricted to them. `between` is called after each batch with the number of its rows; it may take
// the fold's content away, or move `lo` up.
void scan_leaves(const Rollup& rollup, Evaluator* evaluator, const std::vector<Leaf>& leaves,
                 const Micros& lo, const Micros& hi, Fold& fold,
                 const std::function<void(int rows)>& between);

// The same, reading only rows with times in [lo, hi), by the indexes that find_time_indexes() has found.
void scan_leaves_by(const std::vector<Oid>& indexes, const Rollup& rollup, Evaluator* evaluator,
                    const std::vector<Leaf>& leaves, const Micros& lo, const Micros& hi, Fold& fold,
                    const std::function<void(int rows)>& between);

// Of each leaf a btree that begins with the time; empty if one that may have rows of [lo, hi) has none.
std::vector<Oid> find_time_indexes(const Rollup& rollup, const std::vector<Leaf>& leaves, Micros lo,
                                   Micros hi);

// The windows that the panes of a scan amount to, as far as they are wanted.
Fold fold_windows(const Rollup& rollup, const Fold& panes, const std::function<bool(Micros window)>& wanted);

// Locks the leaves of the rollup's source as lock_leaves() does.
std::optional<std::vector<Leaf>> lock_leaves_of(const Rollup& rollup);

// Capture and scan read the table themselves; that must not show an owner more than SQL would. Throws.
void check_source_rights(const Rollup& rollup);

// Whether the state table has rows for windows in [lo, hi). Inside SPI. Throws.
bool holds_state(const Rollup& rollup, Micros lo, Micros hi);

// An error that is nobody's fault: what was being done can simply be done again.
bool is_transient(int sqlstate);

}  // namespace tick::pg
