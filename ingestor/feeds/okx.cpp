// OKX v5: the `trades-all` channel, one trade per message, whose ids are contiguous per instrument. `trades`,
// which puts trades of one price together, is understood in recordings. Keepalive is the text `ping`,
// answered by `pong`: neither is JSON. A notice announces that the connection will be closed.
#include "event.hpp"

namespace tick::ingest {

namespace {

constexpr std::size_t arguments_per_request = 50;
constexpr std::size_t page_size = 100;

void note(std::string_view key, json::value& value, Event& event) {
  if (key == "instId") {
    read(event.symbol, value.get_string());
  } else if (key == "tradeId") {
    event.id = whole_of(value);
  } else if (key == "px") {
    event.price = digits_of(value);
  } else if (key == "sz") {
    event.qty = digits_of(value);
  } else if (key == "side") {
    event.maker = maker_when_taker(value);
  } else if (key == "ts") {
    event.time = epoch_of(value);
  }
}

class OkxFeed final : public Feed {
 public:
  Decoded decode(std::string_view message, Timestamp received, std::vector<Tick>& out) override {
    if (message == "pong") return {Verdict::reply, ""};
    json::object root;
    if (const auto other = message_.open(message, root)) return *other;
    Harvest harvest(out, received);
    std::optional<std::string_view> event;
    std::optional<std::string_view> channel;
    bool argument = false;
    const bool whole = each_member(root, [&](std::string_view key, json::value& value) {
      json::object members;
      if (key == "event") {
        read(event, value.get_string());
      } else if (key == "arg" && !value.get_object().get(members)) {
        argument = true;
        return each_member(members, [&](std::string_view name, json::value& inner) {
          if (name == "channel") read(channel, inner.get_string());
          return true;
        });
      } else if (key == "data" && (!channel || channel->starts_with("trades"))) {
        return harvest.add_each(value, note);
      }
      return true;
    });
    if (!whole || !message_.complete()) return harvest.give_up(Verdict::malformed, "broken JSON");
    if (event == "notice") return harvest.give_up(Verdict::shutdown);
    if (event == "error") return harvest.give_up(Verdict::refused, "the exchange refused a request");
    if (event) return harvest.give_up(Verdict::reply);
    if (!argument) return harvest.give_up(Verdict::unknown);
    if (channel != "trades" && channel != "trades-all") return harvest.give_up(Verdict::ignored);
    return harvest.done();
  }

  std::optional<Heartbeat> heartbeat(const std::vector<std::string>&) const override {
    return Heartbeat{"ping", std::chrono::seconds(20)};
  }

  // Newest first: `after` is the id below which the next page begins.
  std::optional<std::string> history(std::string_view symbol, const Wanted& want,
                                     const std::vector<Tick>* page) const override {
    const std::string target = "/api/v5/market/history-trades?instId=" + std::string(symbol) +
                               "&type=1&limit=" + std::to_string(page_size);
    if (page == nullptr)
      return want.last == no_last ? target : target + "&after=" + std::to_string(want.last + 1);
    if (page->empty() || page->front().id <= want.first) return std::nullopt;
    return target + "&after=" + std::to_string(page->front().id);
  }

  std::size_t history_page_size() const override { return page_size; }

  Decoded decode_history(std::string_view body, std::string_view symbol, Timestamp received,
                         std::vector<Tick>& out) override {
    json::object root;
    if (const auto other = message_.open(body, root)) return *other;
    Harvest harvest(out, received);
    std::optional<std::string_view> code;
    bool foreign = false;
    const bool whole = each_member(root, [&](std::string_view key, json::value& value) {
      if (key == "code") read(code, value.get_string());
      if (key != "data") return true;
      return harvest.add_each(value, [&](std::string_view name, json::value& member, Event& event) {
        note(name, member, event);
        foreign = foreign || (name == "instId" && event.symbol != symbol);
      });
    });
    if (!whole || !message_.complete()) return harvest.give_up(Verdict::malformed, "broken JSON");
    if (code != "0") return harvest.give_up(Verdict::refused, "the exchange refused a request");
    if (foreign) return harvest.give_up(Verdict::malformed, "trades of another instrument");
    return harvest.done_history();
  }

  // 20 requests in 2 s are allowed.
  std::chrono::milliseconds history_interval() const override { return std::chrono::milliseconds(150); }

  std::vector<std::string> subscribe(const std::vector<std::string>& symbols, Stream,
                                     bool add) const override {
    std::vector<std::string> requests;
    for (std::size_t first = 0; first < symbols.size(); first += arguments_per_request) {
      std::string text = add ? R"({"op":"subscribe","args":[)" : R"({"op":"unsubscribe","args":[)";
      for (std::size_t i = first; i < std::min(first + arguments_per_request, symbols.size()); ++i)
        text +=
            std::string(i > first ? "," : "") + R"({"channel":"trades-all","instId":")" + symbols[i] + "\"}";
      requests.push_back(text + "]}");
    }
    return requests;
  }

 private:
  Message message_;
};

}  // namespace

std::unique_ptr<Feed> make_okx_feed(Stream) {
  return std::make_unique<OkxFeed>();
}

}  // namespace tick::ingest
