// Bybit v5: publicTrade, several trades a message. Spot ids are numbers with gaps that mean nothing; those of
// derivatives are UUIDs, of which the tick keeps 63 bits: enough to tell the trades of one instant apart.
#include "event.hpp"

namespace tick::ingest {

namespace {

constexpr std::size_t arguments_per_request = 10;  // spot takes no more

std::optional<std::int64_t> fold_uuid(std::string_view text) {
  std::uint64_t halves[2] = {0, 0};
  std::size_t digits = 0;
  for (const char c : text) {
    if (c == '-') continue;
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                             : -1;
    if (digit < 0 || digits == 32) return std::nullopt;
    halves[digits / 16] = halves[digits / 16] << 4 | static_cast<std::uint64_t>(digit);
    ++digits;
  }
  if (digits != 32) return std::nullopt;
  std::uint64_t mixed = halves[0] * 0x9e3779b97f4a7c15u ^ halves[1];
  mixed = (mixed ^ mixed >> 29) * 0xbf58476d1ce4e5b9u;
  return static_cast<std::int64_t>(mixed >> 1);
}

void note(std::string_view key, json::value& value, Event& event) {
  if (key == "i") {
    const auto text = digits_of(value);
    if (text) event.id = parse_integer(*text);
    if (text && !event.id) event.id = fold_uuid(*text);
  } else if (key == "T") {
    event.time = epoch_of(value);
  } else if (key == "p") {
    event.price = digits_of(value);
  } else if (key == "v") {
    event.qty = digits_of(value);
  } else if (key == "S") {
    event.maker = maker_when_taker(value);
  } else if (key == "s") {
    read(event.symbol, value.get_string());
  }
}

class BybitFeed final : public Feed {
 public:
  Decoded decode(std::string_view message, Timestamp received, std::vector<Tick>& out) override {
    json::object root;
    if (const auto other = message_.open(message, root)) return *other;
    Harvest harvest(out, received);
    std::optional<std::string_view> topic;
    std::optional<bool> success;
    bool operation = false;
    const bool whole = each_member(root, [&](std::string_view key, json::value& value) {
      if (key == "topic") {
        read(topic, value.get_string());
      } else if (key == "success") {
        read(success, value.get_bool());
      } else if (key == "op") {
        operation = true;
      } else if (key == "data" && (!topic || is_trades(*topic))) {
        return harvest.add_each(value, note);
      }
      return true;
    });
    if (!whole || !message_.complete()) return harvest.give_up(Verdict::malformed, "broken JSON");
    if (success == false) return harvest.give_up(Verdict::refused, "the exchange refused a request");
    if (topic && !is_trades(*topic)) return harvest.give_up(Verdict::ignored);
    if (topic) return harvest.done();
    return harvest.give_up(success || operation ? Verdict::reply : Verdict::unknown);
  }

  std::optional<Heartbeat> heartbeat(const std::vector<std::string>&) const override {
    return Heartbeat{R"({"op":"ping"})", std::chrono::seconds(20)};
  }

  std::vector<std::string> subscribe(const std::vector<std::string>& symbols, Stream,
                                     bool add) const override {
    std::vector<std::string> topics;
    for (const auto& symbol : symbols) topics.push_back("publicTrade." + symbol);
    return subscription_requests(topics, arguments_per_request,
                                 add ? R"({"op":"subscribe","args":[)" : R"({"op":"unsubscribe","args":[)",
                                 "]}");
  }

 private:
  static bool is_trades(std::string_view topic) {
    return topic.starts_with("publicTrade.") || topic.starts_with("trade.");
  }

  Message message_;
};

}  // namespace

std::unique_ptr<Feed> make_bybit_feed(Stream) {
  return std::make_unique<BybitFeed>();
}

}  // namespace tick::ingest
