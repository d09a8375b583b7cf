#include "fold.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace tick {
namespace {

constexpr uint32_t no_slot = ~0u;
constexpr size_t arena_chunk = 64 * 1024;
constexpr size_t most_expected = 512;  // slots: a kilobyte each, or so

uint64_t mix(uint64_t a, uint64_t b) {
  const unsigned __int128 product =
      static_cast<unsigned __int128>(a ^ 0x9e3779b97f4a7c15u) * (b ^ 0xbf58476d1ce4e5b9u);
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

uint64_t hash_bytes(const char* data, size_t size) {
  uint64_t hash = size;
  while (size >= 8) {
    uint64_t word;
    std::memcpy(&word, data, 8);
    hash = mix(hash, word);
    data += 8;
    size -= 8;
  }
  uint64_t tail = 0;
  if (size >= 4) {
    uint32_t low, high;
    std::memcpy(&low, data, 4);
    std::memcpy(&high, data + size - 4, 4);
    tail = low | static_cast<uint64_t>(high) << 32;
  } else if (size > 0) {
    tail = static_cast<unsigned char>(data[0]) |
           static_cast<uint64_t>(static_cast<unsigned char>(data[size / 2])) << 8 |
           static_cast<uint64_t>(static_cast<unsigned char>(data[size - 1])) << 16;
  }
  return mix(hash, tail);
}

Micros floor_to(Micros t, Micros width) {
  const Micros rest = t % width;
  return rest < 0 ? t - rest - width : t - rest;
}

bool passes(std::span<const Column> inputs, int16_t filter, size_t row) {
  if (filter < 0) return true;
  const Cell& cell = inputs[filter][row];
  return !cell.null && cell.word != 0;
}

}  // namespace

bool needs_canonical(Type type) {
  return is_float(type) || type == Type::numeric || type == Type::bpchar;
}

Cell canonical_cell(const Cell& cell, Type type, std::string& bytes) {
  if (cell.null) return cell;
  if (is_float(type)) {
    if (std::isnan(cell.real)) return Cell::of_real(std::numeric_limits<double>::quiet_NaN());
    return Cell::of_real(cell.real == 0 ? 0.0 : cell.real);
  }
  if (type == Type::numeric) {
    bytes = canonical(cell.view());
    return Cell::of_bytes(bytes);
  }
  return Cell::of_bytes(without_trailing_blanks(cell.view()));
}

PartialKind partial_kind(const Program& program, const Item& item) {
  if (item.kind == ItemKind::count) return PartialKind::count;
  if (item.kind != ItemKind::sum && item.kind != ItemKind::sum_sq) return PartialKind::extreme;
  const Type type = program.inputs.at(item.value).type;
  if (is_float(type)) return PartialKind::exact;
  if (type == Type::numeric) return PartialKind::decimal;
  if (!is_integer(type)) throw Error{Error::Code::internal, "cannot sum a value of this type"};
  return item.kind == ItemKind::sum ? PartialKind::integer : PartialKind::decimal;
}

void Kept::keep(const Cell& cell, Type type) {
  null = cell.null;
  if (null) return;
  if (is_variable(type))
    bytes.assign(cell.data, cell.size);
  else
    word = cell.word;
}

Cell Kept::cell(Type type) const {
  if (null) return Cell::none();
  return is_variable(type) ? Cell::of_bytes(bytes) : Cell::of_word(word);
}

namespace {

// Calls `change` with the vector of that kind.
template <typename Change>
void with_values(Partials& partials, Change change) {
  switch (partials.kind) {
    case PartialKind::count:
      return change(partials.counts);
    case PartialKind::integer:
      return change(partials.integers);
    case PartialKind::exact:
      return change(partials.exacts);
    case PartialKind::decimal:
      return change(partials.decimals);
    case PartialKind::extreme:
      return change(partials.extremes);
  }
}

}  // namespace

void Partials::resize(size_t slots) {
  with_values(*this, [&](auto& values) { values.resize(slots); });
}

void Partials::reserve(size_t slots) {
  with_values(*this, [&](auto& values) { values.reserve(slots); });
}

Place place(const Program& program, const Item& item, const Extreme& extreme) {
  const auto part = [&](const Kept& kept, int16_t input) {
    return input < 0 || !extreme.set ? Cell::none() : kept.cell(program.inputs[input].type);
  };
  return {part(extreme.value, item.value), part(extreme.order, item.order), part(extreme.seq, item.seq)};
}

int compare(const Program& program, const Item& item, const Place& a, const Place& b) {
  int result = 0;
  if (item.order >= 0) result = compare(program.inputs[item.order], a.order, b.order, program.compare_text);
  if (result == 0 && item.seq >= 0) {
    if (a.seq.null || b.seq.null)
      result = int(b.seq.null) - int(a.seq.null);
    else
      result = compare(program.inputs[item.seq], a.seq, b.seq, program.compare_text);
  }
  return result != 0 ? result : compare(program.inputs[item.value], a.value, b.value, program.compare_text);
}

bool beats(const Program& program, const Item& item, const Place& a, const Place& b) {
  const int order = compare(program, item, a, b);
  return item.kind == ItemKind::max || item.kind == ItemKind::last ? order > 0 : order < 0;
}

Fold::Fold(const Program& program) : program_(&program) {
  for (const Item& item : program.items)
    items_.push_back(Partials{partial_kind(program, item), {}, {}, {}, {}, {}, {}});
  key_table_.assign(64, 0);
  slot_table_.assign(64, 0);
  canonical_.resize(program.keys.size());
}

size_t Fold::memory() const {
  size_t per_slot = sizeof(Slot) + 8;
  for (const Partials& item : items_) {
    switch (item.kind) {
      case PartialKind::count:
        per_slot += 8;
        break;
      case PartialKind::integer:
        per_slot += 16;
        break;
      case PartialKind::exact:
        per_slot += sizeof(ExactSum);
        break;
      case PartialKind::decimal:
        per_slot += sizeof(DecimalSum);
        break;
      case PartialKind::extreme:
        per_slot += has_gone_ ? 2 * sizeof(Extreme) : sizeof(Extreme);
        break;
    }
  }
  return slot_.size() * per_slot + arena_bytes_ + kept_bytes_ + keys_.size() * (sizeof(Cell) + 16);
}

Cell Fold::own(const Cell& cell, Type type) {
  if (cell.null || !is_variable(type)) return cell;
  if (cell.size > arena_left_) {
    const size_t size = std::max<size_t>(arena_chunk, cell.size);
    arena_.push_back(std::make_unique<char[]>(size));
    arena_next_ = arena_.back().get();
    arena_left_ = size;
    arena_bytes_ += size;
  }
  Cell copy = cell;
  copy.data = arena_next_;
  if (cell.size > 0) std::memcpy(arena_next_, cell.data, cell.size);
  arena_next_ += cell.size;
  arena_left_ -= cell.size;
  return copy;
}

void Fold::expect(size_t slots) {
  if (!slot_.empty() || !key_hash_.empty()) return;
  slots = std::min(slots, most_expected);
  slot_.reserve(slots);
  for (Partials& item : items_) item.reserve(slots);
  keys_.reserve(slots * program_->keys.size());
  key_hash_.reserve(slots);
  last_slot_.reserve(slots);
  for (auto* table : {&key_table_, &slot_table_})
    if (table->size() < 2 * slots) table->assign(std::bit_ceil(2 * slots), 0);
}

void Fold::grow_keys() {
  key_table_.assign(key_table_.size() * 2, 0);
  const size_t mask = key_table_.size() - 1;
  for (uint32_t id = 0; id < key_hash_.size(); ++id) {
    size_t at = key_hash_[id] & mask;
    while (key_table_[at] != 0) at = (at + 1) & mask;
    key_table_[at] = id + 1;
  }
}

uint64_t Fold::hash_key(const Cell* cells) const {
  const Program& program = *program_;
  uint64_t hash = 0;
  for (size_t k = 0; k < program.keys.size(); ++k) {
    const Cell& cell = cells[k];
    if (cell.null)
      hash = mix(hash, 1);
    else if (is_variable(program.inputs[program.keys[k]].type))
      hash = mix(hash, hash_bytes(cell.data, cell.size));
    else
      hash = mix(hash, static_cast<uint64_t>(cell.word));
  }
  return hash;
}

bool Fold::is_key(uint32_t id, const Cell* cells) const {
  const Program& program = *program_;
  const size_t width = program.keys.size();
  const Cell* known = keys_.data() + id * width;
  for (size_t k = 0; k < width; ++k) {
    if (known[k].null != cells[k].null) return false;
    if (known[k].null) continue;
    if (is_variable(program.inputs[program.keys[k]].type) ? known[k].view() != cells[k].view()
                                                          : known[k].word != cells[k].word)
      return false;
  }
  return true;
}

std::optional<size_t> Fold::find(const Cell* keys, Micros pane) const {
  const uint64_t hash = hash_key(keys);
  const size_t key_mask = key_table_.size() - 1, slot_mask = slot_table_.size() - 1;
  for (size_t at = hash & key_mask; key_table_[at] != 0; at = (at + 1) & key_mask) {
    const uint32_t key = key_table_[at] - 1;
    if (key_hash_[key] != hash || !is_key(key, keys)) continue;
    for (size_t to = mix(key, static_cast<uint64_t>(pane)) & slot_mask; slot_table_[to] != 0;
         to = (to + 1) & slot_mask) {
      const uint32_t slot = slot_table_[to] - 1;
      if (slot_[slot].key == key && slot_[slot].pane == pane) return slot;
    }
    return std::nullopt;
  }
  return std::nullopt;
}

bool Fold::may_lose(size_t slot) const {
  if (slot_[slot].removed == 0) return false;
  for (const Partials& item : items_)
    if ((!item.gone.empty() && item.gone[slot].set) ||
        (item.kind == PartialKind::decimal && item.decimals[slot].lost_special()))
      return true;
  return false;
}

// cells are canonical.
uint32_t Fold::find_key(const Cell* cells) {
  const Program& program = *program_;
  const size_t width = program.keys.size();
  const uint64_t hash = hash_key(cells);
  const size_t mask = key_table_.size() - 1;
  size_t at = hash & mask;
  for (; key_table_[at] != 0; at = (at + 1) & mask) {
    const uint32_t id = key_table_[at] - 1;
    if (key_hash_[id] == hash && is_key(id, cells)) return id;
  }
  const uint32_t id = static_cast<uint32_t>(key_hash_.size());
  for (size_t k = 0; k < width; ++k) keys_.push_back(own(cells[k], program.inputs[program.keys[k]].type));
  key_hash_.push_back(hash);
  last_slot_.push_back(no_slot);
  key_table_[at] = id + 1;
  if (key_hash_.size() * 2 > key_table_.size()) grow_keys();
  return id;
}

void Fold::grow_slots() {
  slot_table_.assign(slot_table_.size() * 2, 0);
  const size_t mask = slot_table_.size() - 1;
  for (uint32_t id = 0; id < slot_.size(); ++id) {
    size_t at = mix(slot_[id].key, static_cast<uint64_t>(slot_[id].pane)) & mask;
    while (slot_table_[at] != 0) at = (at + 1) & mask;
    slot_table_[at] = id + 1;
  }
}

uint32_t Fold::find_slot(uint32_t key, Micros pane) {
  const uint32_t last = last_slot_[key];
  if (last != no_slot && slot_[last].pane == pane) return last;
  const size_t mask = slot_table_.size() - 1;
  size_t at = mix(key, static_cast<uint64_t>(pane)) & mask;
  for (; slot_table_[at] != 0; at = (at + 1) & mask) {
    const uint32_t id = slot_table_[at] - 1;
    if (slot_[id].key == key && slot_[id].pane == pane) return last_slot_[key] = id;
  }
  const uint32_t id = static_cast<uint32_t>(slot_.size());
  slot_.push_back({key, pane, minus_infinity, 0});
  for (Partials& item : items_) item.resize(slot_.size());
  if (has_gone_) make_gone();
  slot_table_[at] = id + 1;
  if (slot_.size() * 2 > slot_table_.size()) grow_slots();
  return last_slot_[key] = id;
}

void Fold::make_gone() {
  has_gone_ = true;
  for (Partials& item : items_)
    if (item.kind == PartialKind::extreme) item.gone.resize(slot_.size());
}

// Fills row_slot_: the slot of each row, or no_slot where the row is not to be folded.
void Fold::find_slots(std::span<const Column> inputs, size_t rows) {
  const Program& program = *program_;
  const size_t width = program.keys.size();
  std::vector<Column> keys(width);
  for (size_t k = 0; k < width; ++k) {
    const Type type = program.inputs[program.keys[k]].type;
    keys[k] = inputs[program.keys[k]];
    if (!needs_canonical(type)) continue;
    canonical_[k].resize(rows);
    if (type == Type::numeric) canonical_bytes_.resize(std::max(canonical_bytes_.size(), rows * width));
    std::string none;
    for (size_t row = 0; row < rows; ++row)
      canonical_[k][row] = canonical_cell(keys[k][row], type,
                                          type == Type::numeric ? canonical_bytes_[row * width + k] : none);
    keys[k] = canonical_[k];
  }
  std::vector<Cell> cells(width);
  expect(rows);
  row_slot_.assign(rows, no_slot);
  for (size_t row = 0; row < rows; ++row) {
    if (!passes(inputs, program.where, row)) continue;
    Micros pane = 0, time = minus_infinity;
    if (program.time >= 0) {
      const Cell& cell = inputs[program.time][row];
      pane = no_time_pane;
      if (!cell.null && cell.word != minus_infinity && cell.word != plus_infinity) {
        time = cell.word;
        pane = floor_to(time, program.pane);
        if (pane < lo_ || pane >= hi_) continue;
      }
    }
    for (size_t k = 0; k < width; ++k) cells[k] = keys[k][row];
    const uint32_t slot = find_slot(find_key(cells.data()), pane);
    row_slot_[row] = slot;
    if (time > slot_[slot].max_time) slot_[slot].max_time = time;
  }
}

void Fold::add(std::span<const Column> inputs, size_t rows) {
  find_slots(inputs, rows);
  for (size_t item = 0; item < items_.size(); ++item) add_item<1>(item, inputs, rows);
  rows_ += static_cast<int64_t>(rows);
}

void Fold::retract(std::span<const Column> inputs, size_t rows) {
  find_slots(inputs, rows);
  for (size_t row = 0; row < rows; ++row)
    if (row_slot_[row] != no_slot) ++slot_[row_slot_[row]].removed;
  make_gone();
  for (size_t item = 0; item < items_.size(); ++item) add_item<-1>(item, inputs, rows);
}

// direction -1: the rows have left.
template <int direction>
void Fold::add_item(size_t index, std::span<const Column> inputs, size_t rows) {
  const Item& item = program_->items[index];
  Partials& partials = items_[index];
  if (partials.kind == PartialKind::extreme) {
    add_extremes(direction > 0 ? partials.extremes : partials.gone, item, inputs, rows);
    return;
  }
  const Cell* values = item.value < 0 ? nullptr : inputs[item.value].data();
  const Cell* filter = item.filter < 0 ? nullptr : inputs[item.filter].data();
  const bool square = item.kind == ItemKind::sum_sq;
  const auto each = [&](auto&& fold_one) {
    for (size_t row = 0; row < rows; ++row) {
      const uint32_t slot = row_slot_[row];
      if (slot == no_slot || (filter != nullptr && (filter[row].null || filter[row].word == 0))) continue;
      if (values == nullptr)
        fold_one(slot, Cell::none());
      else if (!values[row].null)
        fold_one(slot, values[row]);
    }
  };
  switch (partials.kind) {
    case PartialKind::count:
      each([&](uint32_t slot, const Cell&) { partials.counts[slot] += direction; });
      break;
    case PartialKind::integer:
      each([&](uint32_t slot, const Cell& cell) {
        partials.integers[slot] += direction * __int128{cell.word};
      });
      break;
    case PartialKind::exact:
      each([&](uint32_t slot, const Cell& cell) {
        ExactSum& sum = partials.exacts[slot];
        if (square)
          direction > 0 ? sum.add_square(cell.real) : sum.subtract_square(cell.real);
        else
          direction > 0 ? sum.add(cell.real) : sum.subtract(cell.real);
      });
      break;
    case PartialKind::decimal: {
      const bool integer = program_->inputs[item.value].type != Type::numeric;
      each([&](uint32_t slot, const Cell& cell) {
        DecimalSum& sum = partials.decimals[slot];
        if (integer)
          direction > 0 ? sum.add_square_int(cell.word) : sum.subtract_square_int(cell.word);
        else if (square)
          direction > 0 ? sum.add_square(cell.view()) : sum.subtract_square(cell.view());
        else
          direction > 0 ? sum.add(cell.view()) : sum.subtract(cell.view());
      });
      break;
    }
    case PartialKind::extreme:
      break;
  }
}

// min and max of fixed-width values. Whatever is not a plain win or loss (first value, tie, NaN) goes through
// offer().
template <typename Get>
void Fold::add_bounds(const Item& item, std::vector<Extreme>& holders, const Cell* values, size_t rows,
                      Get get) {
  const bool greatest = item.kind == ItemKind::max;
  for (size_t row = 0; row < rows; ++row) {
    const uint32_t slot = row_slot_[row];
    if (slot == no_slot || values[row].null) continue;
    Extreme& holder = holders[slot];
    if (holder.set) [[likely]] {
      const auto value = get(values[row].word), held = get(holder.value.word);
      if (greatest ? value < held : value > held) continue;
      if (greatest ? value > held : value < held) {
        holder.value.word = values[row].word;
        continue;
      }
    }
    offer(item, holder, {values[row], Cell::none(), Cell::none()});
  }
}

// first and last of fixed-width values in an order of words; ties go through offer().
void Fold::add_ends(const Item& item, std::vector<Extreme>& holders, const Cell* values, const Cell* orders,
                    const Cell* seqs, size_t rows) {
  const bool last = item.kind == ItemKind::last;
  for (size_t row = 0; row < rows; ++row) {
    const uint32_t slot = row_slot_[row];
    if (slot == no_slot || values[row].null || orders[row].null) continue;
    Extreme& holder = holders[slot];
    if (holder.set && orders[row].word != holder.order.word) [[likely]] {
      if ((orders[row].word > holder.order.word) != last) continue;
      holder.value.word = values[row].word;
      holder.order.word = orders[row].word;
      if (seqs != nullptr) {
        holder.seq.word = seqs[row].word;
        holder.seq.null = seqs[row].null;
      }
      continue;
    }
    offer(item, holder, {values[row], orders[row], seqs != nullptr ? seqs[row] : Cell::none()});
  }
}

void Fold::add_extremes(std::vector<Extreme>& holders, const Item& item, std::span<const Column> inputs,
                        size_t rows) {
  const Cell* values = inputs[item.value].data();
  const Cell* orders = item.order < 0 ? nullptr : inputs[item.order].data();
  const Cell* seqs = item.seq < 0 ? nullptr : inputs[item.seq].data();
  const bool word_order = orders != nullptr && !is_variable(program_->inputs[item.order].type) &&
                          !is_float(program_->inputs[item.order].type);
  const Type value_type = program_->inputs[item.value].type;
  const bool plain = item.filter < 0 && !is_variable(value_type);
  if (plain && orders == nullptr) {
    if (is_float(value_type))
      add_bounds(item, holders, values, rows, [](int64_t word) { return std::bit_cast<double>(word); });
    else
      add_bounds(item, holders, values, rows, [](int64_t word) { return word; });
    return;
  }
  if (plain && word_order && (seqs == nullptr || !is_variable(program_->inputs[item.seq].type))) {
    add_ends(item, holders, values, orders, seqs, rows);
    return;
  }
  for (size_t row = 0; row < rows; ++row) {
    const uint32_t slot = row_slot_[row];
    if (slot == no_slot || values[row].null || !passes(inputs, item.filter, row)) continue;
    if (orders != nullptr && orders[row].null) continue;
    Extreme& holder = holders[slot];
    if (word_order && holder.set && orders[row].word != holder.order.word &&
        (orders[row].word > holder.order.word) != (item.kind == ItemKind::last))
      continue;
    offer(item, holder,
          {values[row], orders != nullptr ? orders[row] : Cell::none(),
           seqs != nullptr ? seqs[row] : Cell::none()});
  }
}

// Lets a value compete for the holder's place.
void Fold::offer(const Item& item, Extreme& holder, const Place& candidate) {
  const Program& program = *program_;
  if (holder.set && !beats(program, item, candidate, place(program, item, holder))) return;
  const auto bytes = [&] {
    return holder.value.bytes.size() + holder.order.bytes.size() + holder.seq.bytes.size();
  };
  kept_bytes_ -= bytes();
  holder.set = true;
  holder.value.keep(candidate.value, program.inputs[item.value].type);
  if (item.order >= 0) holder.order.keep(candidate.order, program.inputs[item.order].type);
  if (item.seq >= 0) holder.seq.keep(candidate.seq, program.inputs[item.seq].type);
  kept_bytes_ += bytes();
}

void Fold::merge_partial(size_t index, size_t slot, const Partials& from, size_t from_slot) {
  Partials& partials = items_[index];
  if (partials.kind != from.kind) throw Error{Error::Code::internal, "merge of different partials"};
  switch (partials.kind) {
    case PartialKind::count:
      add_count(partials.counts[slot], from.counts[from_slot]);
      break;
    case PartialKind::integer:
      add_count(partials.integers[slot], from.integers[from_slot]);
      break;
    case PartialKind::exact:
      partials.exacts[slot].merge(from.exacts[from_slot]);
      break;
    case PartialKind::decimal:
      partials.decimals[slot].merge(from.decimals[from_slot]);
      break;
    case PartialKind::extreme: {
      const Item& item = program_->items[index];
      const auto compete = [&](const Extreme& other, Extreme& holder) {
        if (other.set) offer(item, holder, place(*program_, item, other));
      };
      compete(from.extremes[from_slot], partials.extremes[slot]);
      if (!from.gone.empty()) compete(from.gone[from_slot], partials.gone[slot]);
      break;
    }
  }
}

void Fold::merge(const Fold& from, std::span<const int16_t> items, const Route& route) {
  const size_t width = program_->keys.size();
  std::vector<uint32_t> key_of(from.key_hash_.size(), no_slot);
  expect(from.slots());
  if (from.has_gone_) make_gone();
  for (size_t at = 0; at < from.slots(); ++at) {
    const std::optional<Micros> window = route(from, at);
    if (!window) continue;
    const Slot& source = from.slot_[at];
    if (key_of[source.key] == no_slot) key_of[source.key] = find_key(from.keys_.data() + source.key * width);
    const uint32_t slot = find_slot(key_of[source.key], *window);
    slot_[slot].max_time = std::max(slot_[slot].max_time, source.max_time);
    add_count(slot_[slot].removed, source.removed);
    for (size_t item = 0; item < items.size(); ++item)
      merge_partial(item, slot, from.items_[items[item]], at);
  }
}

void Fold::restrict_to(Micros lo, Micros hi) {
  Fold rest(*program_);
  std::vector<int16_t> same(items_.size());
  for (size_t item = 0; item < same.size(); ++item) same[item] = static_cast<int16_t>(item);
  rest.merge(*this, same, [&](const Fold& from, size_t slot) -> std::optional<Micros> {
    const Micros pane = from.pane(slot);
    if (pane != no_time_pane && (pane < lo || pane >= hi)) return std::nullopt;
    return pane;
  });
  rest.rows_ = rows_;
  rest.failures_ = std::move(failures_);
  rest.lo_ = lo;
  rest.hi_ = hi;
  *this = std::move(rest);
}

void Fold::fail(int16_t input, std::string_view message) {
  for (const Failure& known : failures_)
    if (known.input == input) return;
  failures_.push_back({input, std::string(message)});
}

}  // namespace tick
