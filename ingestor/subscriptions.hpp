// Who listens to what on the fake exchange, in the words of each exchange, and the faults on the way to
// them. The path of a connection chooses the protocol: /ws and /stream Binance, /v2 Kraken, /ws/v5 OKX,
// /v5/public/spot and linear Bybit, /v2/marketdata Gemini, /?version=2 Yahoo, /subscribe Jetstream; on / the
// first message tells Coinbase Exchange, Coinbase Advanced, Bitstamp and Yahoo's version 1 apart. Lives on
// the server's thread.
#pragma once

#include <chrono>
#include <cstddef>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "chatter.hpp"
#include "faults.hpp"
#include "socket.hpp"
#include "wire.hpp"

namespace tick::ingest {

class Subscriptions {
 public:
  Subscriptions(Faults faults, History& history, Chatter& chatter)
      : faults_(std::move(faults)), history_(history), chatter_(chatter) {}

  // The server is attached before its first callback.
  void attach(Server& server) { server_ = &server; }

  // A connection to `target`; false when there is no such path.
  static bool serves(std::string_view target);
  void open(ClientId client, std::string_view target);
  void close(ClientId client);
  void request(ClientId client, std::string_view message);

  // Sends the payload of one of Binance's streams to everyone who listens to it; returns to how many.
  // `trade`: the payload is a trade, which is what faults count.
  std::size_t send(const std::string& stream, std::string_view payload, bool trade);
  // The same trade for those who listen to its instrument on Coinbase and Kraken.
  std::size_t send(const Trade& trade);
  // An event of Jetstream for everyone who reads it.
  void send(const Chatter::Event& event);
  // The next trade begins: numbers them for the faults.
  void next_trade() { ++trade_; }
  // Heartbeats, and messages held back that are due.
  void turn();
  // "mute@7": client 7 meets it with the next trade that it listens to; false when there is no such fault or
  // client.
  bool order_fault(std::string_view text);
  // The fault that is to meet an answer to an HTTP request now, counted as played.
  std::optional<Fault> fault_of_answer();

  bool listens(const std::string& stream) const { return by_stream_.contains(stream); }
  bool listens_elsewhere() const { return !by_instrument_.empty(); }
  bool any() const { return !by_stream_.empty() || !by_instrument_.empty() || !readers_.empty(); }
  std::size_t worst_backlog() const;
  // A real exchange does not buffer for ever either.
  void drop_slow();
  std::string fault_summary() const { return faults_.summary(); }

 private:
  using Clock = std::chrono::steady_clock;
  struct Client {
    Protocol protocol = Protocol::binance;
    bool combined = false;
    bool mute = false;
    std::set<std::string> streams;  // Binance: streams; otherwise the symbols as the client wrote them
    std::vector<std::string> held;  // messages behind a fault
    Clock::time_point held_until{};
    std::size_t release_after = 0;  // messages, while reordering
    Clock::time_point close_at{};   // announced
    std::optional<Fault> ordered;
  };
  struct Listener {
    ClientId client;
    std::string name;
  };

  void add(ClientId client, const std::string& stream);
  void forget(ClientId client, const std::string& stream);
  void refuse(ClientId client, const std::string& id, const std::string& reason);
  void request_binance(ClientId client, std::string_view message);
  void request_coinbase(ClientId client, std::string_view message);
  void request_kraken(ClientId client, std::string_view message);
  // Of the others: which symbols, and what to answer.
  void request_plain(ClientId client, std::string_view message);
  void request_yahoo(ClientId client, std::string_view message);
  void deliver(ClientId client, std::string_view message, bool trade);
  bool play(ClientId client, Client& state, Fault fault, std::string_view message);
  // Of those whom a fault could meet now, the protocol that has met the fewest is next, so that a fast
  // connection does not meet them all.
  bool next_to_meet_one(const Client& state) const;
  static bool can_meet_one(const Client& state) {
    return !state.mute && state.held.empty() && state.close_at == Clock::time_point{};
  }

  Server* server_ = nullptr;
  Faults faults_;
  History& history_;
  Chatter& chatter_;
  std::vector<ClientId> readers_;  // of Jetstream
  std::uint64_t trade_ = 0;
  std::map<Protocol, std::size_t> met_;
  std::unordered_map<ClientId, Client> clients_;
  std::unordered_map<std::string, std::vector<ClientId>> by_stream_;
  std::unordered_map<std::string, std::vector<Listener>> by_instrument_;
  std::string envelope_;
  std::string frame_;
  Clock::time_point heartbeat_at_{};
};

}  // namespace tick::ingest
