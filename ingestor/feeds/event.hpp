// What the decoders of all exchanges share: a message made parsable, and the one place that turns the values
// of an event into a Tick or says what is wrong with them. Knows no exchange.
#pragma once

#include <optional>
#include <utility>

#include <simdjson.h>

#include "../feed.hpp"
#include "../number.hpp"

namespace tick::ingest {

namespace json = simdjson::ondemand;

// The values of one trade, in whatever order they came; a value of a wrong JSON type is not there.
struct Event {
  std::optional<std::string_view> symbol;
  std::optional<std::string_view> price;
  std::optional<std::string_view> qty;
  std::optional<Timestamp> time;
  std::optional<std::int64_t> id;
  std::optional<Maker> maker;
};

// Appends the tick and returns nullptr, or returns what is wrong.
const char* append_tick(const Event& event, Timestamp received, std::vector<Tick>& out);

void sort_by_id(std::vector<Tick>& ticks, std::size_t from);

template <class T, class Value>
void read(std::optional<T>& field, Value value) {
  T got{};
  if (std::move(value).get(got) == simdjson::SUCCESS) field = got;
}

// The members that Event needs of each element of an array of objects become ticks, ascending by id.
template <class Note>
Decoded append_history(json::array& trades, std::string_view symbol, Timestamp received,
                       std::vector<Tick>& out, Note&& note) {
  const std::size_t before = out.size();
  for (auto element : trades) {
    json::object trade;
    if (element.get_object().get(trade)) {
      out.resize(before);
      return {Verdict::malformed, "a trade is not an object"};
    }
    Event event;
    event.symbol = symbol;
    for (auto member : trade) {
      std::string_view key;
      json::value value;
      if (member.unescaped_key().get(key) || member.value().get(value)) {
        out.resize(before);
        return {Verdict::malformed, "broken JSON"};
      }
      note(key, value, event);
    }
    if (const char* wrong = append_tick(event, received, out)) {
      out.resize(before);
      return {Verdict::malformed, wrong};
    }
  }
  sort_by_id(out, before);
  return {Verdict::tick, ""};
}

// A price or quantity as the exchange wrote it, be it a JSON string or a number.
std::optional<std::string_view> digits_of(json::value& value);
// A whole number, or an epoch time, written as either.
std::optional<std::int64_t> whole_of(json::value& value);
std::optional<Timestamp> epoch_of(json::value& value);
// What `buy` and `sell` (in any case) of the side that took, or made, say of the maker.
std::optional<Maker> maker_when_taker(json::value& side);
std::optional<Maker> maker_when_maker(json::value& side);

// Calls note(key, value) for each member until it returns false, which it must when it left a value half
// read; false also when the JSON is broken.
template <class Note>
bool each_member(json::object& object, Note&& note) {
  for (auto field : object) {
    std::string_view key;
    json::value value;
    if (field.unescaped_key().get(key) || field.value().get(value) || !note(key, value)) return false;
  }
  return true;
}

// The trades of one message on their way into `out`: a bad one is counted and left out, and none is kept when
// the message turns out not to be what they were taken for.
class Harvest {
 public:
  Harvest(std::vector<Tick>& out, Timestamp received) : out_(out), received_(received), before_(out.size()) {}

  void add(const Event& event) {
    seen_ = true;
    if (const char* wrong = append_tick(event, received_, out_)) bad(wrong);
  }
  // Adds each object of an array; note(key, value, event) takes its members. False when the JSON is broken.
  template <class Note>
  bool add_each(json::value& value, Note&& note) {
    json::array trades;
    if (value.get_array().get(trades)) {
      bad("the trades are not an array");
      return true;
    }
    seen_ = true;
    for (auto element : trades) {
      json::object trade;
      Event event;
      const auto member = [&](std::string_view key, json::value& inner) {
        note(key, inner, event);
        return true;
      };
      if (element.get_object().get(trade) || !each_member(trade, member)) return false;
      add(event);
    }
    return true;
  }
  Decoded give_up(Verdict verdict, const char* reason = "") {
    out_.resize(before_);
    return {verdict, reason};
  }
  Decoded done();
  // The same for an answer of the history, which may hold no trade, but none that is bad.
  Decoded done_history();

 private:
  void bad(const char* wrong) {
    ++bad_;
    wrong_ = wrong;
  }

  std::vector<Tick>& out_;
  Timestamp received_;
  std::size_t before_;
  std::uint32_t bad_ = 0;
  const char* wrong_ = "";
  bool seen_ = false;
};

// A copy of the message with the padding that simdjson reads over. UTF-8 is checked with the JSON.
class Message {
 public:
  // Nothing when root is the message's object; otherwise the verdict on a message that has none.
  std::optional<Decoded> open(std::string_view text, json::object& root);
  // The same for a message that is an array.
  std::optional<Decoded> open(std::string_view text, json::array& root);
  // After all members were walked: whether the message ends with its object.
  bool complete();

 private:
  std::optional<Decoded> parse(std::string_view text, json::json_type& type);

  json::parser parser_;
  json::document document_;
  std::vector<char> scratch_;
};

}  // namespace tick::ingest
