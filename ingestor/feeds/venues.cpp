// The table of venues that feed.name chooses from; see feed.hpp.
#include <algorithm>

#include "../feed.hpp"

namespace tick::ingest {

namespace {

std::unique_ptr<Feed> coinbase(Stream) {
  return make_coinbase_feed();
}

std::unique_ptr<Feed> kraken(Stream) {
  return make_kraken_feed();
}

// binance.data is Binance's host for market data alone: no account, reachable where the others are not.
constexpr Venue table[] = {
    {"binance", "binance", "wss://stream.binance.com:9443", "https://api.binance.com", make_binance_feed},
    {"binance.data", "binance", "wss://data-stream.binance.vision", "https://data-api.binance.vision",
     make_binance_feed},
    {"binance.us", "binance.us", "wss://stream.binance.us:9443", "https://api.binance.us", make_binance_feed},
    {"coinbase", "coinbase", "wss://ws-feed.exchange.coinbase.com", "https://api.exchange.coinbase.com",
     coinbase, '-'},
    {"coinbase.advanced", "coinbase", "wss://advanced-trade-ws.coinbase.com",
     "https://api.exchange.coinbase.com", make_coinbase_advanced_feed, '-'},
    {"kraken", "kraken", "wss://ws.kraken.com/v2", "https://api.kraken.com", kraken, '/'},
    {"okx", "okx", "wss://ws.okx.com:8443/ws/v5/business", "https://www.okx.com", make_okx_feed, '-'},
    {"bybit", "bybit", "wss://stream.bybit.com/v5/public/spot", "https://api.bybit.com", make_bybit_feed,
     '\0', false},
    {"bybit.linear", "bybit.linear", "wss://stream.bybit.com/v5/public/linear", "https://api.bybit.com",
     make_bybit_linear_feed, '\0', false},
    {"bitstamp", "bitstamp", "wss://ws.bitstamp.net", "https://www.bitstamp.net", make_bitstamp_feed, '\0',
     false},
    {"gemini", "gemini", "wss://api.gemini.com/v2/marketdata", "https://api.gemini.com", make_gemini_feed,
     '\0', false},
    {"yahoo", "yahoo", "wss://streamer.finance.yahoo.com/?version=2", "", make_yahoo_feed, '\0', false},
    {"kafka", "kafka", "", "", nullptr, '\0', true, Venue::Way::topic},
    {"coinlore", "coinlore", "https://api.coinlore.net/api/tickers/?start=0&limit=100", "", nullptr, '\0',
     false, Venue::Way::poll},
    {"coingecko", "coingecko",
     "https://api.coingecko.com/api/v3/simple/price?vs_currencies=usd&include_last_updated_at=true", "",
     nullptr, '\0', false, Venue::Way::poll},
    {"http", "http", "", "", nullptr, '\0', false, Venue::Way::poll},
    {"stdin", "stdin", "", "", nullptr, '\0', false, Venue::Way::lines},
    {"jetstream", "jetstream", "wss://jetstream2.us-east.bsky.network/subscribe", "", nullptr, '\0', false,
     Venue::Way::posts},
    {"rss", "rss", "", "", nullptr, '\0', false, Venue::Way::articles},
};

std::string_view host_of(std::string_view url) {
  url.remove_prefix(url.find("://") + 3);
  return url.substr(0, url.find_first_of(":/"));
}

}  // namespace

std::span<const Venue> venues() {
  return table;
}

const Venue* find_venue(std::string_view name) {
  const auto found = std::find_if(std::begin(table), std::end(table),
                                  [&](const Venue& venue) { return venue.name == name; });
  return found == std::end(table) ? nullptr : found;
}

bool own_host(const Venue& venue, std::string_view host) {
  // A cursor of one of Bluesky's servers is good for the others.
  if (venue.way == Venue::Way::posts && host.ends_with(".bsky.network")) return true;
  return std::any_of(std::begin(table), std::end(table), [&](const Venue& other) {
    return other.exchange == venue.exchange && host_of(other.url) == host;
  });
}

bool spelled_for(const Venue& venue, std::string_view symbol) {
  if (venue.make == make_yahoo_feed) return true;  // AAPL, BTC-USD, EURUSD=X
  for (const char separator : {'-', '/'})
    if ((symbol.find(separator) != std::string_view::npos) != (venue.separator == separator)) return false;
  return true;
}

std::string wire_symbol(const Venue& venue, std::string_view symbol) {
  if (venue.name == "kraken" && symbol.starts_with("XBT/")) return "BTC" + std::string(symbol.substr(3));
  if (venue.name == "kraken" && symbol.starts_with("XDG/")) return "DOGE" + std::string(symbol.substr(3));
  if (venue.name == "coinbase.advanced" && symbol.ends_with("-USDC"))
    return std::string(symbol.substr(0, symbol.size() - 1));  // one book for both, named by the dollar
  return std::string(symbol);
}

std::vector<std::string> subscription_requests(const std::vector<std::string>& symbols,
                                               std::size_t per_request, std::string_view before,
                                               std::string_view after) {
  std::vector<std::string> requests;
  for (std::size_t first = 0; first < symbols.size(); first += per_request) {
    std::string text(before);
    const std::size_t last = std::min(first + per_request, symbols.size());
    for (std::size_t i = first; i < last; ++i) text += (i > first ? ",\"" : "\"") + symbols[i] + '"';
    const auto mark = after.find('@');
    text += after.substr(0, mark);
    if (mark != std::string_view::npos)
      text += std::to_string(requests.size() + 1) + std::string(after.substr(mark + 1));
    requests.push_back(std::move(text));
  }
  return requests;
}

}  // namespace tick::ingest
