// The fake exchange's side of Binance's subscription protocol; see subscriptions.hpp.
#include "subscriptions.hpp"

#include <algorithm>

#include <simdjson.h>

#include "log.hpp"

namespace tick::ingest {

namespace {
constexpr std::size_t slow_client_backlog = 256u << 20;
}

bool Subscriptions::serves(std::string_view target) {
  return target == "/ws" || target.starts_with("/ws/") || target == "/stream" ||
         target.starts_with("/stream?");
}

void Subscriptions::open(ClientId client, std::string_view target) {
  Client state;
  std::string_view streams;
  if (target.starts_with("/ws")) {
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
}

void Subscriptions::close(ClientId client) {
  const auto found = clients_.find(client);
  if (found == clients_.end()) return;
  for (const auto& stream : found->second.streams) forget(client, stream);
  clients_.erase(found);
  log::info("client " + std::to_string(client) + " is gone");
}

void Subscriptions::request(ClientId client, std::string_view message) {
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

std::size_t Subscriptions::send(const std::string& stream, std::string_view payload) {
  const auto found = by_stream_.find(stream);
  if (found == by_stream_.end()) return 0;
  bool built = false;
  for (const ClientId client : found->second) {
    if (!clients_[client].combined) {
      server_->send(client, payload);
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
    server_->send(client, envelope_);
  }
  return found->second.size();
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
  if (stream.empty() || !clients_[client].streams.insert(stream).second) return;
  by_stream_[stream].push_back(client);
}

void Subscriptions::forget(ClientId client, const std::string& stream) {
  const auto found = by_stream_.find(stream);
  if (found == by_stream_.end()) return;
  std::erase(found->second, client);
  if (found->second.empty()) by_stream_.erase(found);
}

void Subscriptions::refuse(ClientId client, const std::string& id, const std::string& reason) {
  std::string text = "{\"code\":2,\"msg\":\"";
  for (const char c : reason)
    if (c != '"' && c != '\\' && static_cast<unsigned char>(c) >= 0x20) text += c;
  server_->send(client, text + "\",\"id\":" + id + "}");
}

}  // namespace tick::ingest
