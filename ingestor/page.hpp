// The live page: candles of the rollups that have open, high, low and close, drawn in a browser and pushed to
// it as each turn of the worker is told of by NOTIFY. Promise: it only reads; nothing is asked of the
// database, and there is no connection to it, while nobody looks; a database that is away is tried again.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace tick::ingest {

class LivePage {
 public:
  explicit LivePage(std::string conninfo);
  ~LivePage();

  // The one file that a browser needs.
  static const std::string& html();
  static bool serves(std::string_view target);

  // A browser has connected or left: all by the thread that also calls turn().
  void open(std::uint64_t client, std::string_view target);
  void closed(std::uint64_t client);

  // Hands out what is to be sent; returns when to be called again.
  std::chrono::microseconds turn(const std::function<void(std::uint64_t, std::string_view)>& send);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tick::ingest
