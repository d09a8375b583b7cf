// The one fold: rows, deltas and other folds go in, partials per (keys, pane) come out. Capture, the worker's
// pre-merge and recompute all use this class, so they cannot disagree.
// Promises: any order and any split of the input gives the same partials to the last bit; rows that leave are
// subtracted as exactly as they were added. Works on column spans.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "decimal.hpp"
#include "error.hpp"
#include "exact_sum.hpp"
#include "types.hpp"

namespace tick {

// Keys are grouped by their image: -0 and 0, all NaN, 1.0 and 1.00, padded and bare char(n) become one.
// `bytes` holds the result of a numeric.
bool needs_canonical(Type type);
Cell canonical_cell(const Cell& cell, Type type, std::string& bytes);

// The pane of rows whose time is NULL or infinite: only rollups without a window count them.
inline constexpr Micros no_time_pane = minus_infinity;

// How the partial of an item is kept.
enum class PartialKind : uint8_t { count, integer, exact, decimal, extreme };
PartialKind partial_kind(const Program& program, const Item& item);

// A value that owns its bytes.
struct Kept {
  int64_t word = 0;
  std::string bytes;
  bool null = true;

  void keep(const Cell& cell, Type type);
  Cell cell(Type type) const;
};

// The current holder of min, max, first or last.
struct Extreme {
  bool set = false;
  Kept value, order, seq;
};

// What competes for the place of an extreme.
struct Place {
  Cell value, order, seq;
};
Place place(const Program& program, const Item& item, const Extreme& extreme);
// The total order of an item's places: (order, seq with NULL lowest, value, bytes).
int compare(const Program& program, const Item& item, const Place& a, const Place& b);
// True if `a` takes the place from `b`.
bool beats(const Program& program, const Item& item, const Place& a, const Place& b);

// The partials of one item, one element a slot; only the vectors of its kind are used. Rows that have left
// are subtracted from counts and sums, which may be negative; an extreme cannot be taken back, so the best of
// those that have left is kept beside (`gone`, empty until the fold has seen any).
struct Partials {
  PartialKind kind;
  std::vector<int64_t> counts;
  std::vector<__int128> integers;
  std::vector<ExactSum> exacts;
  std::vector<DecimalSum> decimals;
  std::vector<Extreme> extremes;
  std::vector<Extreme> gone;

  void resize(size_t slots);
  void reserve(size_t slots);
};

class Fold {
 public:
  // The program must outlive the fold.
  explicit Fold(const Program& program);
  Fold(Fold&&) = default;
  Fold& operator=(Fold&&) = default;

  // Folds rows; inputs[i] is the column of Program::inputs[i]. Throws Error if a type is not summable.
  void add(std::span<const Column> inputs, size_t rows);
  // Folds rows that have left.
  void retract(std::span<const Column> inputs, size_t rows);

  // Where a slot of another fold goes: the window to merge it into, or nothing to leave it out.
  using Route = std::function<std::optional<Micros>(const Fold& from, size_t slot)>;
  // Merges another fold; items[k] is the item of `from` that is this fold's item k.
  void merge(const Fold& from, std::span<const int16_t> items, const Route& route);

  // Only panes in [lo, hi) are folded from now on; those outside that are already here are dropped.
  void restrict_to(Micros lo, Micros hi);

  const Program& program() const { return *program_; }
  size_t slots() const { return slot_.size(); }
  bool empty() const { return slot_.empty() && failures_.empty(); }
  size_t memory() const;  // bytes, an estimate
  int64_t rows() const { return rows_; }

  Micros pane(size_t slot) const { return slot_[slot].pane; }
  Micros max_time(size_t slot) const { return slot_[slot].max_time; }
  // The slot of keys (canonical, as key() gives them) and pane.
  std::optional<size_t> find(const Cell* keys, Micros pane) const;
  // True if something may be lost where the slot is merged: the best that left, or a special value of a
  // decimal sum.
  bool may_lose(size_t slot) const;
  // Rows that have left, whatever was added beside.
  int64_t removed(size_t slot) const { return slot_[slot].removed; }
  Cell key(size_t slot, size_t k) const { return keys_[slot_[slot].key * program_->keys.size() + k]; }
  const Partials& partials(size_t item) const { return items_[item]; }

  // An input that could not be evaluated for some rows (SEMANTICS R18): rollups using it must be set aside.
  struct Failure {
    int16_t input;
    std::string message;
  };
  void fail(int16_t input, std::string_view message);
  const std::vector<Failure>& failures() const { return failures_; }

 private:
  friend void encode(const Fold& fold, std::string& out, const std::vector<uint32_t>* part);
  friend void merge_delta(Fold& fold, std::string_view delta);

  struct Slot {
    uint32_t key;
    Micros pane;
    Micros max_time;
    int64_t removed;
  };

  void find_slots(std::span<const Column> inputs, size_t rows);
  uint64_t hash_key(const Cell* cells) const;
  bool is_key(uint32_t id, const Cell* cells) const;
  uint32_t find_key(const Cell* cells);
  uint32_t find_slot(uint32_t key, Micros pane);
  // The first slots are to come, about so many: memory for them is taken once.
  void expect(size_t slots);
  void grow_keys();
  void grow_slots();
  Cell own(const Cell& cell, Type type);
  void make_gone();
  template <int direction>
  void add_item(size_t item, std::span<const Column> inputs, size_t rows);
  void add_extremes(std::vector<Extreme>& holders, const Item& item, std::span<const Column> inputs,
                    size_t rows);
  template <typename Get>
  void add_bounds(const Item& item, std::vector<Extreme>& holders, const Cell* values, size_t rows, Get get);
  void add_ends(const Item& item, std::vector<Extreme>& holders, const Cell* values, const Cell* orders,
                const Cell* seqs, size_t rows);
  void merge_partial(size_t item, size_t slot, const Partials& from, size_t from_slot);
  void offer(const Item& item, Extreme& holder, const Place& candidate);

  const Program* program_;
  Micros lo_ = minus_infinity, hi_ = plus_infinity;
  int64_t rows_ = 0;
  bool has_gone_ = false;  // rows have left: every slot has its `gone`
  std::vector<Slot> slot_;
  std::vector<Partials> items_;
  std::vector<Failure> failures_;

  std::vector<Cell> keys_;  // key id * number of keys + k
  std::vector<uint64_t> key_hash_;
  std::vector<uint32_t> key_table_;  // open addressing, id + 1
  std::vector<uint32_t> slot_table_;
  std::vector<uint32_t> last_slot_;  // of a key: the slot used last, the likely next one
  std::vector<std::unique_ptr<char[]>> arena_;
  size_t arena_left_ = 0;
  char* arena_next_ = nullptr;
  size_t arena_bytes_ = 0;
  size_t kept_bytes_ = 0;  // of values in extremes

  // Scratch of one batch.
  std::vector<uint32_t> row_slot_;
  std::vector<std::vector<Cell>> canonical_;
  std::vector<std::string> canonical_bytes_;
};

// The packed delta record of a fold: version, counts, keys once, then slots. merge_delta checks every bound
// and throws Error data_corrupted. Given a part, only those slots are in it, and neither rows nor failures.
void encode(const Fold& fold, std::string& out, const std::vector<uint32_t>* part = nullptr);
void merge_delta(Fold& fold, std::string_view delta);

}  // namespace tick
