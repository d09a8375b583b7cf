// A fast way through the messages that exchanges send by the million: one flat object of members with names
// of one letter, as {"e":"trade","s":"BTCUSDT","t":1,"m":true}, in plain ASCII without escapes and blanks.
// Promise: what it walks to the end is valid JSON and has no member twice; of everything else it says so at
// once, and a real parser decides.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace tick::ingest {

class Flat {
 public:
  enum class Kind : char { string, whole, boolean };
  struct Value {
    Kind kind;
    std::string_view text;  // of a string, without its quotes
    std::int64_t whole;     // also the boolean
  };

  explicit Flat(std::string_view message) : at_(message.data()), end_(at_ + message.size()) {}

  bool take(std::string_view literal) {
    if (!std::string_view(at_, end_).starts_with(literal)) return false;
    at_ += literal.size();
    return true;
  }
  bool ended() const { return at_ == end_; }

  // The characters of a string, up to the quote that ends it.
  bool take_string(std::string_view& text) {
    const char* begin = at_;
    while (at_ != end_ && plain[static_cast<unsigned char>(*at_)]) ++at_;
    if (at_ == end_ || *at_ != '"') return false;
    text = {begin, static_cast<std::size_t>(at_ - begin)};
    ++at_;
    return true;
  }

  // The object that begins here; note(name, value) says whether it can use the value.
  template <class Note>
  bool members(Note&& note) {
    std::uint64_t seen = 0;
    if (!take("{")) return false;
    do {
      if (end_ - at_ < 5 || at_[0] != '"' || at_[2] != '"' || at_[3] != ':') return false;
      const char name = at_[1];
      if (name < 'A' || name > 'z' || (name > 'Z' && name < 'a')) return false;
      const std::uint64_t bit = std::uint64_t{1} << (name - 'A');
      if ((seen & bit) != 0) return false;
      seen |= bit;
      at_ += 4;
      Value value;
      if (!take_value(value) || !note(name, value)) return false;
    } while (take(","));
    return take("}");
  }

 private:
  // What may be in a string as it stands.
  static constexpr std::array<bool, 256> plain = [] {
    std::array<bool, 256> all{};
    for (int c = 0x20; c < 0x7f; ++c) all[static_cast<std::size_t>(c)] = c != '"' && c != '\\';
    return all;
  }();

  bool take_value(Value& value) {
    value.whole = 0;
    if (*at_ == '"') {
      ++at_;
      value.kind = Kind::string;
      return take_string(value.text);
    }
    if (*at_ == 't' || *at_ == 'f') {
      value.kind = Kind::boolean;
      value.whole = *at_ == 't' ? 1 : 0;
      return take(*at_ == 't' ? "true" : "false");
    }
    value.kind = Kind::whole;
    const char* begin = at_;
    // One digit more than fits for certain is no end of a number: what follows refuses it.
    while (at_ != end_ && *at_ >= '0' && *at_ <= '9' && at_ - begin < 18)
      value.whole = value.whole * 10 + (*at_++ - '0');
    const auto digits = at_ - begin;
    return digits > 0 && (*begin != '0' || digits == 1);
  }

  const char* at_;
  const char* end_;
};

}  // namespace tick::ingest
