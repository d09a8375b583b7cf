// A local exchange that speaks the protocols of Binance, Coinbase and Kraken, plain and with TLS, for tests
// and demonstrations: the ingestor's production path runs against it unchanged. It can misbehave on demand,
// and answers the REST requests that repair what was lost. It sends recordings or a seeded random walk, open
// loop: what nobody is connected to receive is lost, as on a real exchange.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "faults.hpp"
#include "socket.hpp"

namespace tick::ingest {

struct FakeOptions {
  ServerOptions server;
  Faults faults;
  std::size_t history = 200'000;  // trades kept for snapshots and REST
  std::size_t busy_every = 0;     // every so-many-th REST request gets 429
  // gets a line `SYMBOL id receivers` per tick sent, `post SYMBOL id` per post, `answer DOCUMENT` per
  // document
  std::string sent_file;
  std::size_t post_every = 0;                 // a post after every so-many-th trade; 0 = none
  std::chrono::milliseconds document_age{0};  // prices that are polled stand so long, as behind a cache
  bool wait = false;                          // start with the first subscriber
  bool exit = false;                          // end when everything was sent and taken
  // recordings (in this order), or else the random walk
  std::vector<std::string> recordings;
  double speed = 1;  // times the recorded pace; 0 = as fast as the slowest subscriber takes it
  // random walk
  std::vector<std::string> symbols;
  double rate = 1000;  // ticks per second over all symbols
  std::uint64_t seed = 1;
  double seconds = 0;         // 0 = for ever
  std::int64_t first_id = 0;  // 0 = start time in microseconds, so that ids go on after a restart
};

// "A,B" or a number of symbols ("200" = SYM000USDT .. SYM199USDT).
std::vector<std::string> fake_symbols(const std::string& text);

// Prints `listening on ADDRESS:PORT` (and `TLS on ADDRESS:PORT`) on stdout and serves until told to stop.
// Returns the exit code.
int run_fake(const FakeOptions& options);

}  // namespace tick::ingest
