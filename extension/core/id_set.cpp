#include "id_set.hpp"

#include <algorithm>
#include <cstring>

#include "exact_sum.hpp"

namespace tick {
namespace {

constexpr unsigned char delta_version = 1;
constexpr unsigned first_known = 1, last_known = 2, since_known = 4;
constexpr int64_t greatest_id = std::numeric_limits<int64_t>::max();

[[noreturn]] void corrupted(const char* what) {
  throw Error{Error::Code::data_corrupted, std::string("corrupted ids: ") + what};
}

// True if b is a's neighbour, or within or below it: the two are one range.
bool touches(int64_t a, int64_t b) {
  return a == greatest_id || b <= a + 1;
}

Micros known(Micros time, Micros otherwise) {
  return time != no_time ? time : otherwise;
}

uint64_t distance(int64_t from, int64_t to) {
  return static_cast<uint64_t>(to) - static_cast<uint64_t>(from);
}

int64_t plus(int64_t a, uint64_t b) {
  return static_cast<int64_t>(static_cast<uint64_t>(a) + b);
}

// Appends a range that starts at or after the start of the last one.
void append(std::vector<IdSet::Range>& ranges, const IdSet::Range& range) {
  if (ranges.empty() || !touches(ranges.back().hi, range.lo)) {
    ranges.push_back(range);
    return;
  }
  IdSet::Range& last = ranges.back();
  if (range.lo == last.lo) last.first = known(last.first, range.first);
  last.since = known(last.since, range.since);
  if (range.hi > last.hi) {
    last.hi = range.hi;
    last.last = range.last;
  } else if (range.hi == last.hi) {
    last.last = known(last.last, range.last);
  }
}

void put_bytes(std::string& out, std::string_view bytes) {
  put_varint(out, static_cast<int64_t>(bytes.size()));
  out.append(bytes);
}

size_t take_count(std::span<const unsigned char>& in, size_t least) {
  const int64_t count = take_varint(in);
  if (count < 0 || static_cast<uint64_t>(count) > in.size() / least) corrupted("count");
  return static_cast<size_t>(count);
}

std::string_view take_bytes(std::span<const unsigned char>& in) {
  const size_t size = take_count(in, 1);
  const std::string_view bytes(reinterpret_cast<const char*>(in.data()), size);
  in = in.subspan(size);
  return bytes;
}

unsigned char take_byte(std::span<const unsigned char>& in) {
  if (in.empty()) corrupted("truncated");
  const unsigned char byte = in[0];
  in = in.subspan(1);
  return byte;
}

bool is_fixed(Type type) {
  return is_float(type) || type == Type::word;
}

}  // namespace

std::vector<IdSet::Range>::iterator IdSet::first_at_or_after(int64_t id) {
  return std::lower_bound(ranges_.begin(), ranges_.end(), id,
                          [](const Range& range, int64_t at) { return range.hi < at; });
}

bool IdSet::contains(int64_t id) const {
  if (ranges_.empty() || id > ranges_.back().hi) return false;
  if (id >= ranges_.back().lo) return true;
  return const_cast<IdSet*>(this)->first_at_or_after(id)->lo <= id;
}

bool IdSet::insert(int64_t id, Micros time) {
  if (ranges_.empty() || id > ranges_.back().hi) {
    if (!ranges_.empty() && id == ranges_.back().hi + 1) {
      ranges_.back().hi = id;
      ranges_.back().last = time;
    } else {
      ranges_.push_back({id, id, time, time, no_time});
    }
    return true;
  }
  const auto at = first_at_or_after(id);
  if (at->lo <= id) return false;
  const bool joins_next = at->lo == id + 1;
  const bool joins_previous = at != ranges_.begin() && std::prev(at)->hi == id - 1;
  if (joins_next && joins_previous) {
    std::prev(at)->hi = at->hi;
    std::prev(at)->last = at->last;
    ranges_.erase(at);
  } else if (joins_next) {
    at->lo = id;
    at->first = time;
  } else if (joins_previous) {
    std::prev(at)->hi = id;
    std::prev(at)->last = time;
  } else {
    ranges_.insert(at, {id, id, time, time, no_time});
  }
  return true;
}

bool IdSet::erase(int64_t id) {
  if (!contains(id)) return false;
  const auto at = first_at_or_after(id);
  if (at->lo == at->hi) {
    ranges_.erase(at);
  } else if (at->lo == id) {
    *at = {id + 1, at->hi, no_time, at->last, no_time};
  } else if (at->hi == id) {
    at->hi = id - 1;
    at->last = no_time;
  } else {
    const Range rest{id + 1, at->hi, no_time, at->last, no_time};
    at->hi = id - 1;
    at->last = no_time;
    ranges_.insert(std::next(at), rest);
  }
  return true;
}

void IdSet::insert(const IdSet& other) {
  if (other.empty()) return;
  // Usually what comes is new: at the end.
  if (ranges_.empty() || other.ranges_.front().lo > ranges_.back().lo) {
    for (const Range& range : other.ranges_) append(ranges_, range);
    return;
  }
  std::vector<Range> result;
  result.reserve(ranges_.size() + other.ranges_.size());
  auto a = ranges_.begin();
  auto b = other.ranges_.begin();
  while (a != ranges_.end() || b != other.ranges_.end())
    append(result, b == other.ranges_.end() || (a != ranges_.end() && a->lo <= b->lo) ? *a++ : *b++);
  ranges_ = std::move(result);
}

void IdSet::erase(const IdSet& other) {
  if (other.empty() || empty()) return;
  std::vector<Range> result;
  result.reserve(ranges_.size() + other.ranges_.size());
  auto hole = other.ranges_.begin();
  for (Range range : ranges_) {
    while (hole != other.ranges_.end() && hole->hi < range.lo) ++hole;
    bool left = true;
    for (auto at = hole; left && at != other.ranges_.end() && at->lo <= range.hi; ++at) {
      if (at->lo > range.lo) result.push_back({range.lo, at->lo - 1, range.first, no_time, range.since});
      left = at->hi < range.hi;
      if (left) range = {at->hi + 1, range.hi, no_time, range.last, no_time};
    }
    if (left) result.push_back(range);
  }
  ranges_ = std::move(result);
}

void IdSet::date_edges(Micros now) {
  for (Range& range : ranges_) range.since = known(range.since, now);
}

int64_t IdSet::count() const {
  uint64_t count = 0;
  for (const Range& range : ranges_) {
    count += distance(range.lo, range.hi) + 1;
    if (count - 1 >= static_cast<uint64_t>(greatest_id)) return greatest_id;
  }
  return static_cast<int64_t>(count);
}

void IdSet::encode(std::string& out) const {
  put_varint(out, static_cast<int64_t>(ranges_.size()));
  int64_t before = 0;
  Micros time = 0;
  const auto put_time = [&](Micros at) {
    if (at == no_time) return;
    put_varint(out, static_cast<int64_t>(distance(time, at)));
    time = at;
  };
  for (const Range& range : ranges_) {
    put_varint(out, static_cast<int64_t>(distance(before, range.lo)));
    put_varint(out, static_cast<int64_t>(distance(range.lo, range.hi)));
    out.push_back(static_cast<char>((range.first != no_time ? first_known : 0) |
                                    (range.last != no_time ? last_known : 0) |
                                    (range.since != no_time ? since_known : 0)));
    put_time(range.first);
    put_time(range.last);
    put_time(range.since);
    before = range.hi;
  }
}

IdSet IdSet::decode(std::span<const unsigned char>& in) {
  IdSet set;
  set.ranges_.resize(take_count(in, 3));
  int64_t before = 0;
  Micros time = 0;
  const auto take_time = [&](bool there) {
    if (!there) return no_time;
    time = plus(time, static_cast<uint64_t>(take_varint(in)));
    if (time == no_time) corrupted("time");
    return time;
  };
  bool any = false;
  for (Range& range : set.ranges_) {
    range.lo = plus(before, static_cast<uint64_t>(take_varint(in)));
    range.hi = plus(range.lo, static_cast<uint64_t>(take_varint(in)));
    if (range.hi < range.lo || (any && (range.lo <= before || touches(before, range.lo)))) corrupted("range");
    const unsigned char flags = take_byte(in);
    if (flags > (first_known | last_known | since_known)) corrupted("flags");
    range.first = take_time(flags & first_known);
    range.last = take_time(flags & last_known);
    range.since = take_time(flags & since_known);
    before = range.hi;
    any = true;
  }
  return set;
}

void IdChange::apply_to(IdSet& set) const {
  set.erase(removed);
  set.insert(added);
}

void IdChange::then(const IdChange& next) {
  removed.insert(next.removed);
  next.apply_to(added);
}

void IdDelta::encode(std::string& out) const {
  out.push_back(static_cast<char>(delta_version));
  put_varint(out, static_cast<int64_t>(order));
  put_bytes(out, group);
  put_varint(out, duplicates);
  put_varint(out, static_cast<int64_t>(entries.size()));
  for (const Entry& entry : entries) {
    put_bytes(out, entry.key);
    entry.change.added.encode(out);
    entry.change.removed.encode(out);
  }
}

IdDelta IdDelta::decode(std::string_view bytes) {
  std::span<const unsigned char> in(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
  IdDelta delta;
  if (take_byte(in) != delta_version) corrupted("version");
  delta.order = static_cast<uint64_t>(take_varint(in));
  delta.group = take_bytes(in);
  delta.duplicates = take_varint(in);
  if (delta.duplicates < 0) corrupted("duplicates");
  delta.entries.resize(take_count(in, 3));
  for (Entry& entry : delta.entries) {
    entry.key = take_bytes(in);
    entry.change.added = IdSet::decode(in);
    entry.change.removed = IdSet::decode(in);
  }
  if (!in.empty()) corrupted("trailing bytes");
  return delta;
}

void append_key(std::string& key, const Cell& cell, Type type) {
  key.push_back(cell.null ? 0 : 1);
  if (cell.null) return;
  if (is_variable(type))
    put_bytes(key, cell.view());
  else if (is_fixed(type))
    key.append(reinterpret_cast<const char*>(&cell.word), sizeof cell.word);
  else
    put_varint(key, cell.word);
}

std::vector<Cell> read_key(std::string_view key, std::span<const Type> types) {
  std::span<const unsigned char> in(reinterpret_cast<const unsigned char*>(key.data()), key.size());
  std::vector<Cell> cells;
  for (Type type : types) {
    const unsigned char there = take_byte(in);
    if (there > 1) corrupted("key");
    if (there == 0) {
      cells.push_back(Cell::none());
    } else if (is_variable(type)) {
      cells.push_back(Cell::of_bytes(take_bytes(in)));
    } else if (is_fixed(type)) {
      int64_t word;
      if (in.size() < sizeof word) corrupted("key");
      std::memcpy(&word, in.data(), sizeof word);
      in = in.subspan(sizeof word);
      cells.push_back(Cell::of_word(word));
    } else {
      cells.push_back(Cell::of_word(take_varint(in)));
    }
  }
  if (!in.empty()) corrupted("key");
  return cells;
}

}  // namespace tick
