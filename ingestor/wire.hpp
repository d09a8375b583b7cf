// What the fake exchange says: a trade in the words of each exchange, and what it remembers of its trades for
// snapshots and for the REST routes that repair gaps. Pure: no socket, no clock.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "feed.hpp"
#include "socket.hpp"

namespace tick::ingest {

struct Trade {
  std::string_view symbol;
  std::int64_t id;
  std::string_view price;  // decimal digits
  std::string_view qty;
  std::int64_t time_us;
  bool maker;  // the buyer is the maker
};

// What a subscriber speaks.
enum class Protocol {
  binance,
  coinbase,
  coinbase_advanced,
  kraken,
  okx,
  bybit,
  bybit_linear,
  bitstamp,
  gemini,
  yahoo,     // bare base64
  yahoo_v2,  // in JSON
  jetstream
};

std::string_view protocol_name(Protocol protocol);

// BTC-USDT, BTC/USDT and BTCUSDT are one instrument: upper case without separators.
std::string instrument(std::string_view symbol);

void append_number(std::string& out, std::int64_t value);
void append_binance(std::string& out, const Trade& trade, Stream kind);
// `name` is the symbol as the subscriber wrote it.
void append_coinbase(std::string& out, const Trade& trade, std::string_view name, const char* type);
void append_kraken(std::string& out, const Trade& trade, std::string_view name);
// The whole message, for all but Binance and Jetstream. `volume` is what Yahoo tells of the day.
void append_message(std::string& out, Protocol protocol, const Trade& trade, std::string_view name,
                    std::int64_t volume);

// The newest trades of each instrument.
class History {
 public:
  // Keeps up to `capacity` trades over all instruments, at least 1000 of each; every `busy_every`th REST
  // request is turned away (0 = none).
  History(std::size_t capacity, std::size_t busy_every) : capacity_(capacity), busy_every_(busy_every) {}

  void add(const Trade& trade);
  // Appends the newest `count` trades of an instrument, oldest first, as a Kraken or (newest first) Gemini
  // snapshot, or Coinbase's last_match; "" when there are none.
  std::string kraken_snapshot(std::string_view name, std::size_t count) const;
  std::string gemini_snapshot(std::string_view name, std::size_t count) const;
  std::string coinbase_last_match(std::string_view name) const;
  std::string yahoo_last(Protocol protocol, std::string_view name) const;
  // All that was traded of an instrument, in what Yahoo counts in.
  std::int64_t volume(std::string_view name) const;
  // GET of Binance's historicalTrades and aggTrades, Coinbase's trades, Kraken's Trades, OKX's
  // history-trades, Bybit's recent-trade, Bitstamp's transactions, Gemini's trades.
  HttpReply rest(std::string_view target);
  // The newest prices as CoinLore and CoinGecko tell them; nothing for another target.
  std::optional<HttpReply> quotes(std::string_view target) const;
  std::uint64_t requests() const { return requests_; }
  std::uint64_t turned_away() const { return turned_away_; }

 private:
  struct Kept {
    std::int64_t id;
    std::int64_t time_us;
    std::string price;
    std::string qty;
    bool maker;
  };
  static Trade view(const Kept& kept) {
    return {"", kept.id, kept.price, kept.qty, kept.time_us, kept.maker};
  }
  const std::deque<Kept>* find(std::string_view name) const;
  std::string by_time(std::string_view target) const;

  std::map<std::string, std::deque<Kept>, std::less<>> kept_;
  std::map<std::string, std::int64_t, std::less<>> volumes_;
  std::string key_;
  std::size_t capacity_;
  std::size_t busy_every_;
  std::uint64_t requests_ = 0;
  std::uint64_t turned_away_ = 0;
};

}  // namespace tick::ingest
