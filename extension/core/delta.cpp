// The packed delta record: how a fold travels from the writer to the worker. Layout (all integers LEB128):
//   version | rows | failures (input, message) | keys | key cells | slots (key, pane, max_time, removed,
//   partials; of an extreme the best that came and the best that left)
#include <cstring>

#include "fold.hpp"

namespace tick {
namespace {

constexpr unsigned char delta_version = 2;
constexpr unsigned char extreme_set = 1, extreme_gone = 2;

class Writer {
 public:
  explicit Writer(std::string& out) : out_(out) {}
  void byte(unsigned char b) { out_.push_back(static_cast<char>(b)); }
  void number(uint64_t n) {
    while (n >= 0x80) {
      byte(static_cast<unsigned char>(n | 0x80));
      n >>= 7;
    }
    byte(static_cast<unsigned char>(n));
  }
  void integer(int64_t n) { number((static_cast<uint64_t>(n) << 1) ^ static_cast<uint64_t>(n >> 63)); }
  void word(uint64_t w) { out_.append(reinterpret_cast<const char*>(&w), sizeof w); }
  void bytes(std::string_view s) {
    number(s.size());
    out_.append(s);
  }
  void cell(const Cell& cell, Type type) {
    byte(cell.null ? 0 : 1);
    if (cell.null) return;
    if (is_variable(type))
      bytes(cell.view());
    else if (is_float(type) || type == Type::word)
      word(static_cast<uint64_t>(cell.word));
    else
      integer(cell.word);
  }
  std::string& out() { return out_; }

 private:
  std::string& out_;
};

[[noreturn]] void corrupted(const char* what) {
  throw Error{Error::Code::data_corrupted, std::string("corrupted delta: ") + what};
}

class Reader {
 public:
  explicit Reader(std::string_view in)
      : rest_(reinterpret_cast<const unsigned char*>(in.data()), in.size()) {}
  unsigned char byte() {
    if (rest_.empty()) corrupted("truncated");
    const unsigned char b = rest_[0];
    rest_ = rest_.subspan(1);
    return b;
  }
  uint64_t number() {
    uint64_t n = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const unsigned char b = byte();
      n |= static_cast<uint64_t>(b & 0x7f) << shift;
      if (b < 0x80) return n;
    }
    corrupted("number");
  }
  // A count of elements that take at least `least` bytes each.
  size_t count(size_t least) {
    const uint64_t n = number();
    if (n > rest_.size() / std::max<size_t>(least, 1)) corrupted("count");
    return static_cast<size_t>(n);
  }
  int64_t integer() {
    const uint64_t n = number();
    return static_cast<int64_t>(n >> 1) ^ -static_cast<int64_t>(n & 1);
  }
  uint64_t word() {
    if (rest_.size() < 8) corrupted("truncated");
    uint64_t w;
    std::memcpy(&w, rest_.data(), 8);
    rest_ = rest_.subspan(8);
    return w;
  }
  std::string_view bytes() {
    const size_t size = count(1);
    const std::string_view s(reinterpret_cast<const char*>(rest_.data()), size);
    rest_ = rest_.subspan(size);
    return s;
  }
  Cell cell(Type type) {
    if (byte() == 0) return Cell::none();
    if (is_variable(type)) return Cell::of_bytes(bytes());
    if (is_float(type) || type == Type::word) return Cell::of_word(static_cast<int64_t>(word()));
    return Cell::of_word(integer());
  }
  std::span<const unsigned char>& rest() { return rest_; }

 private:
  std::span<const unsigned char> rest_;
};

}  // namespace

void encode(const Fold& fold, std::string& out, const std::vector<uint32_t>* part) {
  const Program& program = fold.program();
  Writer writer(out);
  writer.byte(delta_version);
  writer.integer(part == nullptr ? fold.rows_ : 0);
  writer.number(part == nullptr ? fold.failures_.size() : 0);
  if (part == nullptr)
    for (const Fold::Failure& failure : fold.failures_) {
      writer.number(static_cast<uint64_t>(failure.input));
      writer.bytes(failure.message);
    }
  writer.number(program.keys.size());
  writer.number(program.items.size());
  const size_t width = program.keys.size();
  // Keys are numbered as they are written: all of them, or those of the part as they come up.
  std::vector<uint32_t> keys, number_of(part == nullptr ? 0 : fold.key_hash_.size());
  if (part == nullptr) {
    writer.number(fold.key_hash_.size());
  } else {
    for (const uint32_t at : *part) {
      const uint32_t key = fold.slot_[at].key;
      if (number_of[key] != 0) continue;
      keys.push_back(key);
      number_of[key] = static_cast<uint32_t>(keys.size());
    }
    writer.number(keys.size());
  }
  const size_t key_count = part == nullptr ? fold.key_hash_.size() : keys.size();
  for (size_t id = 0; id < key_count; ++id)
    for (size_t k = 0; k < width; ++k)
      writer.cell(fold.keys_[(part == nullptr ? id : keys[id]) * width + k],
                  program.inputs[program.keys[k]].type);
  const size_t slots = part == nullptr ? fold.slots() : part->size();
  writer.number(slots);
  for (size_t index_of = 0; index_of < slots; ++index_of) {
    const size_t at = part == nullptr ? index_of : (*part)[index_of];
    const Fold::Slot& slot = fold.slot_[at];
    writer.number(part == nullptr ? slot.key : number_of[slot.key] - 1);
    writer.integer(slot.pane);
    writer.integer(slot.max_time);
    writer.number(static_cast<uint64_t>(slot.removed));
    for (size_t index = 0; index < program.items.size(); ++index) {
      const Partials& partials = fold.items_[index];
      switch (partials.kind) {
        case PartialKind::count:
          writer.integer(partials.counts[at]);
          break;
        case PartialKind::integer:
          writer.integer(static_cast<int64_t>(partials.integers[at] >> 64));
          writer.word(static_cast<uint64_t>(partials.integers[at]));
          break;
        case PartialKind::exact:
          partials.exacts[at].encode(out);
          break;
        case PartialKind::decimal:
          partials.decimals[at].encode(out);
          break;
        case PartialKind::extreme: {
          const Item& item = program.items[index];
          const bool gone = !partials.gone.empty() && partials.gone[at].set;
          writer.byte((partials.extremes[at].set ? extreme_set : 0) | (gone ? extreme_gone : 0));
          const auto put = [&](const Extreme& extreme) {
            const Place parts = place(program, item, extreme);
            const auto part = [&](const Cell& cell, int16_t input) {
              if (input >= 0) writer.cell(cell, program.inputs[input].type);
            };
            part(parts.value, item.value);
            part(parts.order, item.order);
            part(parts.seq, item.seq);
          };
          if (partials.extremes[at].set) put(partials.extremes[at]);
          if (gone) put(partials.gone[at]);
          break;
        }
      }
    }
  }
}

void merge_delta(Fold& fold, std::string_view delta) {
  const Program& program = *fold.program_;
  Reader reader(delta);
  if (reader.byte() != delta_version) corrupted("version");
  const int64_t rows = reader.integer();
  for (size_t left = reader.count(2); left > 0; --left) {
    const uint64_t input = reader.number();
    if (input >= program.inputs.size()) corrupted("input");
    fold.fail(static_cast<int16_t>(input), reader.bytes());
  }
  if (reader.number() != program.keys.size() || reader.number() != program.items.size()) corrupted("program");
  const size_t width = program.keys.size();
  std::vector<Cell> cells(width);
  std::vector<uint32_t> key_of(reader.count(width));
  fold.expect(key_of.size());
  for (uint32_t& key : key_of) {
    for (size_t k = 0; k < width; ++k) cells[k] = reader.cell(program.inputs[program.keys[k]].type);
    key = fold.find_key(cells.data());
  }
  for (size_t left = reader.count(4); left > 0; --left) {
    const uint64_t key = reader.number();
    if (key >= key_of.size()) corrupted("key");
    const Micros pane = reader.integer();
    const uint32_t slot = fold.find_slot(key_of[key], pane);
    fold.slot_[slot].max_time = std::max<Micros>(fold.slot_[slot].max_time, reader.integer());
    const auto removed = static_cast<int64_t>(reader.number());
    if (removed < 0) corrupted("removed rows");
    add_count(fold.slot_[slot].removed, removed);
    if (removed > 0 && !fold.has_gone_) fold.make_gone();
    for (size_t index = 0; index < program.items.size(); ++index) {
      Partials& partials = fold.items_[index];
      switch (partials.kind) {
        case PartialKind::count:
          add_count(partials.counts[slot], reader.integer());
          break;
        case PartialKind::integer: {
          const auto high = static_cast<unsigned __int128>(static_cast<__int128>(reader.integer()));
          add_count(partials.integers[slot], static_cast<__int128>((high << 64) | reader.word()));
          break;
        }
        case PartialKind::exact:
          partials.exacts[slot].merge(ExactSum::decode(reader.rest()));
          break;
        case PartialKind::decimal:
          partials.decimals[slot].merge(DecimalSum::decode(reader.rest()));
          break;
        case PartialKind::extreme: {
          const Item& item = program.items[index];
          const unsigned char flags = reader.byte();
          if (flags > (extreme_set | extreme_gone) || ((flags & extreme_gone) != 0 && removed == 0))
            corrupted("extreme");
          const auto take = [&](Extreme& holder) {
            const auto part = [&](int16_t input) {
              return input < 0 ? Cell::none() : reader.cell(program.inputs[input].type);
            };
            const Cell value = part(item.value), order = part(item.order), seq = part(item.seq);
            if (value.null || (item.order >= 0 && order.null)) corrupted("value");
            fold.offer(item, holder, {value, order, seq});
          };
          if ((flags & extreme_set) != 0) take(partials.extremes[slot]);
          if ((flags & extreme_gone) != 0) take(partials.gone[slot]);
          break;
        }
      }
    }
  }
  if (!reader.rest().empty()) corrupted("trailing bytes");
  add_count(fold.rows_, rows);
}

}  // namespace tick
