// Gemini v2 market data: trades come with the `l2` subscription, one per message, and the newest fifty with
// the first picture of each book. Event ids are those of everything that happens on the exchange, so gaps
// between them mean nothing. The REST interface tells the trades of seven days, page by page from a time or
// an id on; what it calls tid is the event id (so the documentation's examples; not seen live).
#include "event.hpp"

namespace tick::ingest {

namespace {

constexpr std::size_t symbols_per_request = 100;
constexpr std::size_t page_size = 500;

void note_history(std::string_view key, json::value& value, Event& event) {
  if (key == "tid") {
    event.id = whole_of(value);
  } else if (key == "timestampms") {
    event.time = epoch_of(value);
  } else if (key == "price") {
    event.price = digits_of(value);
  } else if (key == "amount") {
    event.qty = digits_of(value);
  } else if (key == "type") {
    event.maker = maker_when_taker(value).value_or(Maker::unknown);  // nobody took in an auction
  }
}

void note(std::string_view key, json::value& value, Event& event) {
  if (key == "symbol") {
    read(event.symbol, value.get_string());
  } else if (key == "event_id") {
    event.id = whole_of(value);
  } else if (key == "timestamp") {
    event.time = epoch_of(value);
  } else if (key == "price") {
    event.price = digits_of(value);
  } else if (key == "quantity") {
    event.qty = digits_of(value);
  } else if (key == "side") {
    event.maker = maker_when_taker(value);
  }
}

class GeminiFeed final : public Feed {
 public:
  Decoded decode(std::string_view message, Timestamp received, std::vector<Tick>& out) override {
    json::object root;
    if (const auto other = message_.open(message, root)) return *other;
    Harvest harvest(out, received);
    std::optional<std::string_view> type;
    std::optional<std::string_view> result;
    Event event;
    bool snapshot = false;
    const bool whole = each_member(root, [&](std::string_view key, json::value& value) {
      if (key == "type") {
        read(type, value.get_string());
      } else if (key == "result") {
        read(result, value.get_string());
      } else if (key == "trades") {
        snapshot = true;
        return harvest.add_each(value, note);
      } else {
        note(key, value, event);
      }
      return true;
    });
    if (!whole || !message_.complete()) return harvest.give_up(Verdict::malformed, "broken JSON");
    if (result) return harvest.give_up(Verdict::refused, "the exchange refused a request");
    if (!type) return harvest.give_up(Verdict::unknown);
    if (type == "subscription_ack") return harvest.give_up(Verdict::reply);
    if (type == "trade") {
      harvest.add(event);
    } else if (type != "l2_updates" || !snapshot) {
      return harvest.give_up(Verdict::ignored);
    }
    return harvest.done();
  }

  std::optional<std::string> history(std::string_view symbol, const Wanted& want,
                                     const std::vector<Tick>* page) const override {
    const std::string target =
        "/v1/trades/" + std::string(symbol) + "?limit_trades=" + std::to_string(page_size);
    if (page != nullptr)
      return page->empty() ? std::nullopt
                           : std::optional(target + "&since_tid=" + std::to_string(page->back().id));
    const auto after = std::chrono::floor<std::chrono::milliseconds>(want.after.time_since_epoch());
    return target + "&timestamp=" + std::to_string(after.count());
  }
  std::size_t history_page_size() const override { return page_size; }
  bool history_by_time() const override { return true; }

  Decoded decode_history(std::string_view body, std::string_view symbol, Timestamp received,
                         std::vector<Tick>& out) override {
    json::array trades;
    if (const auto other = message_.open(body, trades)) return *other;
    return append_history(trades, symbol, received, out, note_history);
  }

  std::vector<std::string> subscribe(const std::vector<std::string>& symbols, Stream,
                                     bool add) const override {
    return subscription_requests(symbols, symbols_per_request,
                                 add ? R"({"type":"subscribe","subscriptions":[{"name":"l2","symbols":[)"
                                     : R"({"type":"unsubscribe","subscriptions":[{"name":"l2","symbols":[)",
                                 "]}]}");
  }

 private:
  Message message_;
};

}  // namespace

std::unique_ptr<Feed> make_gemini_feed(Stream) {
  return std::make_unique<GeminiFeed>();
}

}  // namespace tick::ingest
