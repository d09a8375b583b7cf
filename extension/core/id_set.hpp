// Sets of ids, kept as ascending closed ranges that never touch, and what a transaction does to one. Made for
// ids that are near-contiguous: everything but an append at the end costs time by the number of ranges. Each
// range remembers the times of the rows at its edges, where they are known, and since when its lower edge is
// one: the hole between two ranges can so be dated without its neighbours' rows.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "error.hpp"
#include "types.hpp"

namespace tick {

inline constexpr Micros no_time = minus_infinity;

class IdSet {
 public:
  struct Range {
    int64_t lo, hi;
    Micros first = no_time;  // of the row with id lo
    Micros last = no_time;   // of the row with id hi
    Micros since = no_time;  // when lo became an edge
    friend bool operator==(const Range&, const Range&) = default;
  };

  bool contains(int64_t id) const;
  // False if the id is there already.
  bool insert(int64_t id, Micros time = no_time);
  // False if the id is not there.
  bool erase(int64_t id);
  void insert(const IdSet& other);
  void erase(const IdSet& other);
  void clear() { ranges_.clear(); }
  // Dates the lower edges that are not dated yet.
  void date_edges(Micros now);

  bool empty() const { return ranges_.empty(); }
  std::span<const Range> ranges() const { return ranges_; }
  // Ids in the set, at most 2^63 - 1.
  int64_t count() const;

  // decode advances `in` and throws Error data_corrupted on anything that encode cannot have written.
  void encode(std::string& out) const;
  static IdSet decode(std::span<const unsigned char>& in);

  friend bool operator==(const IdSet&, const IdSet&) = default;

 private:
  std::vector<Range>::iterator first_at_or_after(int64_t id);

  std::vector<Range> ranges_;
};

// What happens to a set: the ids removed leave it, then those added come. An id may be in both.
struct IdChange {
  IdSet added, removed;

  bool empty() const { return added.empty() && removed.empty(); }
  void apply_to(IdSet& set) const;
  // Makes this what it was followed by `next`.
  void then(const IdChange& next);
};

// What one transaction does to the sets of one dedup group. Records of a group are applied in the order of
// `order`, which is the order in which their writers held the group's lock; the ids of transactions are not.
struct IdDelta {
  uint64_t order = 0;
  std::string group;
  int64_t duplicates = 0;  // rows that were left out
  struct Entry {
    std::string key;
    IdChange change;
  };
  std::vector<Entry> entries;

  void encode(std::string& out) const;
  static IdDelta decode(std::string_view in);
};

// Appends one canonical cell of a key to its bytes: keys are equal if and only if their bytes are.
void append_key(std::string& key, const Cell& cell, Type type);
// The cells of such bytes, which they point into. Throws Error data_corrupted.
std::vector<Cell> read_key(std::string_view key, std::span<const Type> types);

}  // namespace tick
