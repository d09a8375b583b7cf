// A document that is fetched again and again as a feed: CoinLore, CoinGecko, or any other JSON by its
// pointers. What the source has not moved since the last answer is not written; the table's unique index
// keeps out what an earlier run has written.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "config.hpp"
#include "feed.hpp"
#include "stats.hpp"

namespace tick::ingest {

// Asks for one document every poll.interval, give or take a tenth, and only for what is newer than the last
// answer, where the server tells versions. Patient: 429, Retry-After and errors make the pauses longer.
class Polling {
 public:
  Polling(const Config& config, std::string address, Stats& stats)
      : config_(config), address_(std::move(address)), stats_(stats) {}

  // Until stop(), from any thread. `take` gets each new document and says whether it could be read: one that
  // could not is asked for again, whatever version it claims to be.
  void run(const std::function<bool(const std::string& document)>& take);
  void stop();

 private:
  const Config& config_;
  std::string address_;
  Stats& stats_;
  std::minstd_rand random_{std::random_device{}()};
  std::mutex guard_;
  std::condition_variable changed_;
  bool stop_ = false;
};

// Runs until SIGTERM or SIGINT; the process's exit code.
int run_poll(const Config& config);

// Which symbols no row is of, and of what the rows are; "" when each has one, or none is named.
std::string strange_symbols(const std::vector<std::string>& wanted, const std::vector<Tick>& ticks);

// The address asked, with the symbols where they belong into it.
std::string poll_address(const Config& config);

}  // namespace tick::ingest
