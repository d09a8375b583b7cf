// Who listens to what on the fake exchange: Binance's paths, SUBSCRIBE / UNSUBSCRIBE / LIST_SUBSCRIPTIONS,
// raw and combined delivery. Lives on the server's thread; holds no ticks.
#pragma once

#include <cstddef>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "socket.hpp"

namespace tick::ingest {

class Subscriptions {
 public:
  // The server is attached before its first callback.
  void attach(Server& server) { server_ = &server; }

  // A connection to `target`; false when there is no such path.
  static bool serves(std::string_view target);
  void open(ClientId client, std::string_view target);
  void close(ClientId client);
  void request(ClientId client, std::string_view message);

  // Sends the payload to everyone who listens to the stream; returns to how many.
  std::size_t send(const std::string& stream, std::string_view payload);

  bool listens(const std::string& stream) const { return by_stream_.contains(stream); }
  bool any() const { return !by_stream_.empty(); }
  std::size_t worst_backlog() const;
  // A real exchange does not buffer for ever either.
  void drop_slow();

 private:
  struct Client {
    bool combined = false;
    std::set<std::string> streams;
  };

  void add(ClientId client, const std::string& stream);
  void forget(ClientId client, const std::string& stream);
  void refuse(ClientId client, const std::string& id, const std::string& reason);

  Server* server_ = nullptr;
  std::unordered_map<ClientId, Client> clients_;
  std::unordered_map<std::string, std::vector<ClientId>> by_stream_;
  std::string envelope_;
};

}  // namespace tick::ingest
