// The fake exchange's side of the subscription protocols, and its faults; see subscriptions.hpp.
#include "subscriptions.hpp"

#include <algorithm>

#include <simdjson.h>

#include "log.hpp"
#include "number.hpp"

namespace tick::ingest {

namespace {
constexpr std::size_t slow_client_backlog = 256u << 20;
constexpr std::size_t giant_bytes = 8u << 20;
constexpr std::size_t snapshot_trades = 50;
constexpr auto heartbeat_interval = std::chrono::seconds(1);
constexpr auto slow_time = std::chrono::milliseconds(200);
constexpr auto shutdown_notice = std::chrono::milliseconds(500);
}  // namespace

bool Subscriptions::serves(std::string_view target) {
  return target == "/" || target == "/?version=2" || target == "/subscribe" ||
         target.starts_with("/subscribe?") || target == "/v2" || target == "/v2/marketdata" ||
         target.starts_with("/v5/public/") || target == "/ws" || target.starts_with("/ws/") ||
         target == "/stream" || target.starts_with("/stream?");
}

void Subscriptions::open(ClientId client, std::string_view target) {
  Client state;
  std::string_view streams;
  if (target == "/" || target == "/v2") {
    state.protocol = target == "/" ? Protocol::coinbase : Protocol::kraken;
  } else if (target == "/?version=2") {
    state.protocol = Protocol::yahoo_v2;
  } else if (target.starts_with("/subscribe")) {
    state.protocol = Protocol::jetstream;
  } else if (target == "/v2/marketdata") {
    state.protocol = Protocol::gemini;
  } else if (target.starts_with("/v5/public/")) {
    state.protocol = target.ends_with("linear") ? Protocol::bybit_linear : Protocol::bybit;
  } else if (target.starts_with("/ws/v5/")) {
    state.protocol = Protocol::okx;
  } else if (target.starts_with("/ws")) {
    streams = target.substr(std::min<std::size_t>(4, target.size()));
  } else {
    state.combined = true;
    const auto query = target.find("streams=");
    if (query != std::string_view::npos) streams = target.substr(query + 8);
  }
  clients_[client] = state;
  streams = streams.substr(0, streams.find_first_of("?&"));
  while (!streams.empty()) {
    const auto slash = streams.find('/');
    add(client, std::string(streams.substr(0, slash)));
    streams = slash == std::string_view::npos ? std::string_view() : streams.substr(slash + 1);
  }
  log::info("client " + std::to_string(client) + " connected, " +
            std::to_string(clients_[client].streams.size()) + " streams");
  if (state.protocol != Protocol::jetstream) return;
  readers_.push_back(client);
  const auto cursor = target.find("cursor=");
  if (cursor == std::string_view::npos) return;
  const auto from = parse_integer(target.substr(cursor + 7, target.find('&', cursor) - cursor - 7));
  chatter_.each_from(from.value_or(0),
                     [&](const Chatter::Event& event) { deliver(client, event.json, !event.id.empty()); });
}

void Subscriptions::close(ClientId client) {
  const auto found = clients_.find(client);
  if (found == clients_.end()) return;
  for (const auto& stream : found->second.streams) forget(client, stream);
  std::erase(readers_, client);
  clients_.erase(found);
  log::info("client " + std::to_string(client) + " is gone");
}

void Subscriptions::request(ClientId client, std::string_view message) {
  Client& state = clients_[client];
  const bool listened = !state.streams.empty();
  if (state.protocol == Protocol::coinbase && !listened) {
    if (message.find(R"("bts:)") != std::string_view::npos) state.protocol = Protocol::bitstamp;
    if (message.find(R"("channel":)") != std::string_view::npos && state.protocol == Protocol::coinbase)
      state.protocol = Protocol::coinbase_advanced;
    if (message.starts_with(R"({"subscribe":)")) state.protocol = Protocol::yahoo;
  }
  switch (state.protocol) {
    case Protocol::binance:
      request_binance(client, message);
      break;
    case Protocol::coinbase:
      request_coinbase(client, message);
      break;
    case Protocol::kraken:
      request_kraken(client, message);
      break;
    case Protocol::yahoo:
    case Protocol::yahoo_v2:
      request_yahoo(client, message);
      break;
    default:
      request_plain(client, message);
  }
  if (!listened && !state.streams.empty())
    log::info("client " + std::to_string(client) + " listens (" + std::string(protocol_name(state.protocol)) +
              ")");
}

void Subscriptions::request_binance(ClientId client, std::string_view message) {
  simdjson::dom::parser parser;
  simdjson::dom::object root;
  std::string_view method;
  std::string id = "null";
  if (parser.parse(message.data(), message.size()).get(root))
    return refuse(client, id, "Invalid JSON: expected object");
  simdjson::dom::element id_element;
  if (!root["id"].get(id_element)) id = simdjson::minify(id_element);
  if (root["method"].get(method)) return refuse(client, id, "Invalid request: missing field `method`");
  auto& state = clients_[client];
  if (method == "LIST_SUBSCRIPTIONS") {
    std::string reply = "{\"result\":[";
    for (const auto& stream : state.streams) reply += (reply.back() == '[' ? "\"" : ",\"") + stream + "\"";
    return server_->send(client, reply + "],\"id\":" + id + "}");
  }
  const bool subscribe = method == "SUBSCRIBE";
  if (!subscribe && method != "UNSUBSCRIBE")
    return refuse(client, id, "Invalid request: unknown variant `" + std::string(method) + "`");
  simdjson::dom::array params;
  if (root["params"].get(params)) return refuse(client, id, "Invalid request: params must be an array");
  std::vector<std::string> streams;
  for (const auto element : params) {
    std::string_view stream;
    if (element.get(stream)) return refuse(client, id, "Invalid request: params must be strings");
    streams.emplace_back(stream);
  }
  for (const auto& stream : streams) {
    if (subscribe) {
      add(client, stream);
    } else if (state.streams.erase(stream) > 0) {
      forget(client, stream);
    }
  }
  server_->send(client, "{\"result\":null,\"id\":" + id + "}");
}

void Subscriptions::request_coinbase(ClientId client, std::string_view message) {
  simdjson::dom::parser parser;
  simdjson::dom::object root;
  std::string_view type;
  simdjson::dom::array products;
  if (parser.parse(message.data(), message.size()).get(root) || root["type"].get(type) ||
      (type != "subscribe" && type != "unsubscribe") || root["product_ids"].get(products))
    return server_->send(client,
                         R"({"type":"error","message":"Failed to subscribe","reason":"malformed JSON"})");
  std::string reply = R"({"type":"subscriptions","channels":[{"name":"matches","product_ids":[)";
  for (const auto element : products) {
    std::string_view name;
    if (element.get(name)) continue;
    if (type == "subscribe") {
      add(client, std::string(name));
    } else if (clients_[client].streams.erase(std::string(name)) > 0) {
      forget(client, std::string(name));
    }
  }
  const auto& streams = clients_[client].streams;
  for (const auto& name : streams) reply += (reply.back() == '[' ? "\"" : ",\"") + name + '"';
  server_->send(client, reply + "]}]}");
  if (type == "subscribe")
    for (const auto& name : streams)
      if (const auto last = history_.coinbase_last_match(name); !last.empty()) server_->send(client, last);
}

void Subscriptions::request_kraken(ClientId client, std::string_view message) {
  simdjson::dom::parser parser;
  simdjson::dom::object root;
  std::string_view method;
  if (parser.parse(message.data(), message.size()).get(root) || root["method"].get(method))
    return server_->send(client, R"({"error":"Malformed JSON","method":null,"success":false})");
  if (method == "ping") return server_->send(client, R"({"method":"pong"})");
  simdjson::dom::array symbols;
  if ((method != "subscribe" && method != "unsubscribe") || root["params"]["symbol"].get(symbols))
    return server_->send(client, R"({"error":"Method not supported","method":"subscribe","success":false})");
  for (const auto element : symbols) {
    std::string_view name;
    if (element.get(name)) continue;
    if (name.find('/') == std::string_view::npos) {
      server_->send(client, R"({"error":"Currency pair not supported )" + std::string(name) +
                                R"(","method":"subscribe","success":false})");
      continue;
    }
    if (method == "subscribe") {
      add(client, std::string(name));
    } else if (clients_[client].streams.erase(std::string(name)) > 0) {
      forget(client, std::string(name));
    }
    server_->send(client, R"({"method":")" + std::string(method) +
                              R"(","result":{"channel":"trade","symbol":")" + std::string(name) +
                              R"("},"success":true})");
    if (method == "subscribe")
      if (const auto trades = history_.kraken_snapshot(name, snapshot_trades); !trades.empty())
        server_->send(client, trades);
  }
}

// No answer but the newest price of each, to every request, as often as it comes.
void Subscriptions::request_yahoo(ClientId client, std::string_view message) {
  simdjson::dom::parser parser;
  simdjson::dom::object root;
  simdjson::dom::array list;
  if (parser.parse(message.data(), message.size()).get(root)) return;
  for (const bool on : {true, false}) {
    if (root[on ? "subscribe" : "unsubscribe"].get(list)) continue;
    for (const auto element : list) {
      std::string_view name;
      if (element.get(name)) continue;
      if (!on && clients_[client].streams.erase(std::string(name)) > 0) forget(client, std::string(name));
      if (!on) continue;
      add(client, std::string(name));
      const auto last = history_.yahoo_last(clients_[client].protocol, name);
      if (!last.empty()) deliver(client, last, false);
    }
  }
}

void Subscriptions::request_plain(ClientId client, std::string_view message) {
  const Protocol protocol = clients_[client].protocol;
  const bool bybit = protocol == Protocol::bybit || protocol == Protocol::bybit_linear;
  if (message == "ping") return server_->send(client, "pong");
  simdjson::dom::parser parser;
  simdjson::dom::object root;
  std::string_view word;
  if (parser.parse(message.data(), message.size()).get(root) ||
      root[protocol == Protocol::okx || bybit ? "op"
           : protocol == Protocol::bitstamp   ? "event"
                                              : "type"]
          .get(word))
    return server_->send(client, R"({"event":"error","type":"error","result":"error","success":false})");
  if (word == "ping") return server_->send(client, R"({"success":true,"ret_msg":"pong","op":"ping"})");
  const bool on = !word.ends_with("unsubscribe");
  std::vector<std::string> names;
  simdjson::dom::array list;
  std::string_view name;
  if (protocol == Protocol::bitstamp) {
    if (!root["data"]["channel"].get(name) && name.starts_with("live_trades_"))
      names.emplace_back(instrument(name.substr(12)));
  } else if (protocol == Protocol::coinbase_advanced) {
    if (root["channel"].get(name) || name != "market_trades") return;
    if (!root["product_ids"].get(list))
      for (const auto element : list)
        if (!element.get(name)) names.emplace_back(name);
  } else if (protocol == Protocol::gemini) {
    if (!root["subscriptions"].at(0)["symbols"].get(list))
      for (const auto element : list)
        if (!element.get(name)) names.emplace_back(name);
  } else if (!root["args"].get(list)) {
    for (const auto element : list) {
      if (bybit && !element.get(name) && name.starts_with("publicTrade."))
        names.emplace_back(name.substr(12));
      if (!bybit && !element["instId"].get(name)) names.emplace_back(name);
    }
  }
  for (const auto& one : names) {
    if (on)
      add(client, one);
    else if (clients_[client].streams.erase(one) > 0)
      forget(client, one);
    if (protocol == Protocol::okx)
      server_->send(client, R"({"event":")" + std::string(word) +
                                R"(","arg":{"channel":"trades-all","instId":")" + one + "\"}}");
    if (protocol == Protocol::gemini && on)
      server_->send(client, history_.gemini_snapshot(one, snapshot_trades));
    if (protocol == Protocol::bitstamp)
      server_->send(client, R"({"event":")" + std::string(word) +
                                R"(ion_succeeded","channel":"live_trades_)" + one + R"(","data":{}})");
  }
  if (bybit) server_->send(client, R"({"success":true,"ret_msg":"","op":")" + std::string(word) + "\"}");
  if (protocol == Protocol::coinbase_advanced)
    server_->send(client, R"({"channel":"subscriptions","sequence_num":0,"events":[{"subscriptions":{}}]})");
}

// Plays one fault on the way of a message; true when the message itself is dealt with.
bool Subscriptions::play(ClientId client, Client& state, Fault fault, std::string_view message) {
  const auto half = message.substr(0, message.size() / 2);
  switch (fault) {
    case Fault::drop:
    case Fault::close_1006:
      server_->drop(client);
      return true;
    case Fault::mute:
      state.mute = true;
      return true;
    case Fault::half_open:
      server_->swallow(client, true);
      return true;
    case Fault::duplicate:
      server_->send(client, message);
      return false;
    case Fault::reorder:
      state.held.emplace_back(message);
      state.release_after = 1;
      return true;
    case Fault::gap:
      // What is kept for readers can be lost with their connection alone.
      if (state.protocol == Protocol::jetstream) server_->drop(client);
      return true;
    case Fault::bad_json:
      server_->send(client, half);
      return true;
    case Fault::giant:
      server_->send(client, "{\"giant\":\"" + std::string(giant_bytes, 'x') + "\"}");
      return true;
    case Fault::close_1001:
      server_->close(client, 1001, "going away");
      return true;
    case Fault::close_1012:
      server_->close(client, 1012, "service restart");
      return true;
    case Fault::shutdown:
      if (state.protocol == Protocol::binance)
        server_->send(client, state.combined
                                  ? R"({"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1}})"
                                  : R"({"e":"serverShutdown","E":1})");
      if (state.protocol == Protocol::okx)
        server_->send(client,
                      R"({"event":"notice","code":"64008","msg":"The connection will soon be closed"})");
      if (state.protocol == Protocol::bitstamp)
        server_->send(client, R"({"event":"bts:request_reconnect","channel":"","data":""})");
      state.close_at = Clock::now() + shutdown_notice;
      return false;
    case Fault::no_pong:
      server_->swallow(client, false);
      return false;
    case Fault::slow:
      state.held.emplace_back(message);
      state.held_until = Clock::now() + slow_time;
      return true;
  }
  return false;
}

bool Subscriptions::next_to_meet_one(const Client& state) const {
  const auto met = [&](const Client& one) {
    const auto found = met_.find(one.protocol);
    return found == met_.end() ? 0 : found->second;
  };
  return std::none_of(clients_.begin(), clients_.end(), [&](const auto& other) {
    const bool listens = !other.second.streams.empty() || other.second.protocol == Protocol::jetstream;
    return listens && can_meet_one(other.second) && met(other.second) < met(state);
  });
}

bool Subscriptions::order_fault(std::string_view text) {
  const auto order = parse_fault(text);
  const auto found = order ? clients_.find(order->number) : clients_.end();
  if (found == clients_.end() || found->second.streams.empty()) return false;
  found->second.ordered = order->fault;
  return true;
}

std::optional<Fault> Subscriptions::fault_of_answer() {
  const auto fault = faults_.due(trade_);
  if (fault) faults_.played(*fault, trade_, "an HTTP request");
  return fault;
}

void Subscriptions::deliver(ClientId client, std::string_view message, bool trade) {
  Client& state = clients_[client];
  if (trade && can_meet_one(state) &&
      (state.ordered || (faults_.is_due(trade_) && next_to_meet_one(state)))) {
    const Fault fault = state.ordered ? *state.ordered : *faults_.due(trade_);
    state.ordered.reset();
    ++met_[state.protocol];
    faults_.played(
        fault, trade_,
        "client " + std::to_string(client) + " (" + std::string(protocol_name(state.protocol)) + ")");
    if (play(client, state, fault, message)) return;
  }
  if (state.mute) return;
  if (state.release_after > 0 && trade) {
    server_->send(client, message);
    for (const auto& held : state.held) server_->send(client, held);
    state.held.clear();
    state.release_after = 0;
  } else if (!state.held.empty()) {
    state.held.emplace_back(message);
  } else {
    server_->send(client, message);
  }
}

void Subscriptions::turn() {
  const auto now = Clock::now();
  const bool beat = now >= heartbeat_at_;
  if (beat) heartbeat_at_ = now + heartbeat_interval;
  for (auto& [client, state] : clients_) {
    if (state.held_until != Clock::time_point{} && now >= state.held_until) {
      for (const auto& held : state.held) server_->send(client, held);
      state.held.clear();
      state.held_until = {};
    }
    if (state.close_at != Clock::time_point{} && now >= state.close_at) {
      state.close_at = {};
      server_->close(client, 1001, "planned");
      continue;
    }
    if (beat && state.protocol == Protocol::kraken) server_->send(client, R"({"channel":"heartbeat"})");
    if (beat && state.protocol == Protocol::coinbase_advanced)
      server_->send(client,
                    R"({"channel":"heartbeats","sequence_num":2,"events":[{"heartbeat_counter":1}]})");
    if (beat && state.protocol == Protocol::gemini)
      server_->send(client, R"({"type":"heartbeat","timestamp":1})");
    if (beat && state.protocol == Protocol::coinbase)
      for (const auto& name : state.streams)
        server_->send(client,
                      R"({"type":"heartbeat","sequence":1,"last_trade_id":0,"product_id":")" + name + "\"}");
  }
}

std::size_t Subscriptions::send(const std::string& stream, std::string_view payload, bool trade) {
  const auto found = by_stream_.find(stream);
  if (found == by_stream_.end()) return 0;
  bool built = false;
  for (const ClientId client : found->second) {
    if (!clients_[client].combined) {
      deliver(client, payload, trade);
      continue;
    }
    if (!built) {
      envelope_ = "{\"stream\":\"";
      envelope_ += stream;
      envelope_ += "\",\"data\":";
      envelope_ += payload;
      envelope_ += '}';
      built = true;
    }
    deliver(client, envelope_, trade);
  }
  return found->second.size();
}

std::size_t Subscriptions::send(const Trade& trade) {
  const auto found = by_instrument_.find(instrument(trade.symbol));
  if (found == by_instrument_.end()) return 0;
  for (const auto& [client, name] : found->second) {
    frame_.clear();
    append_message(frame_, clients_[client].protocol, trade, name, history_.volume(trade.symbol));
    deliver(client, frame_, true);
  }
  return found->second.size();
}

void Subscriptions::send(const Chatter::Event& event) {
  for (const ClientId client : readers_) deliver(client, event.json, !event.id.empty());
}

std::size_t Subscriptions::worst_backlog() const {
  std::size_t worst = 0;
  for (const auto& [client, state] : clients_) worst = std::max(worst, server_->backlog(client));
  return worst;
}

void Subscriptions::drop_slow() {
  for (const auto& [client, state] : clients_)
    if (server_->backlog(client) > slow_client_backlog) {
      log::warn("client " + std::to_string(client) + " is too slow, dropped");
      server_->drop(client);
    }
}

void Subscriptions::add(ClientId client, const std::string& stream) {
  Client& state = clients_[client];
  if (stream.empty() || !state.streams.insert(stream).second) return;
  if (state.protocol == Protocol::binance)
    by_stream_[stream].push_back(client);
  else
    by_instrument_[instrument(stream)].push_back({client, stream});
}

void Subscriptions::forget(ClientId client, const std::string& stream) {
  if (const auto found = by_stream_.find(stream); found != by_stream_.end()) {
    std::erase(found->second, client);
    if (found->second.empty()) by_stream_.erase(found);
  }
  if (const auto found = by_instrument_.find(instrument(stream)); found != by_instrument_.end()) {
    std::erase_if(found->second, [&](const Listener& listener) {
      return listener.client == client && listener.name == stream;
    });
    if (found->second.empty()) by_instrument_.erase(found);
  }
}

void Subscriptions::refuse(ClientId client, const std::string& id, const std::string& reason) {
  std::string text = "{\"code\":2,\"msg\":\"";
  for (const char c : reason)
    if (c != '"' && c != '\\' && static_cast<unsigned char>(c) >= 0x20) text += c;
  server_->send(client, text + "\",\"id\":" + id + "}");
}

}  // namespace tick::ingest
