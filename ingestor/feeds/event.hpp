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
