// Which symbols a text is about: by cashtags ($BTC, $BRK.B), by the names of well-known coins and companies
// (bitcoin), and by the names in [symbols]. Pure; knows no network.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace tick::ingest {

class Mentions {
 public:
  // The table's name of each symbol, and other names -> the table's name. Without symbols every cashtag is
  // one.
  Mentions(const std::vector<std::string>& symbols,
           const std::map<std::string, std::string, std::less<>>& names);

  // In the order in which they come, each once.
  std::vector<std::string> find(std::string_view text) const;

 private:
  std::map<std::string, std::string, std::less<>> tickers_;  // BTC -> BTCUSDT
  std::map<std::string, std::string, std::less<>> words_;    // BITCOIN -> BTCUSDT
  bool any_;
};

// What is bought in a pair: BTC of BTCUSDT, BTC-USD and BTC/USD; the symbol itself when it is no pair.
std::string_view base_of(std::string_view symbol);

}  // namespace tick::ingest
