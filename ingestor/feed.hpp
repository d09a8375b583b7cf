// The words the whole ingestor shares: a Tick, a Verdict on one message, and the interface of a feed.
// Decoding is a pure function of text (and of the receive time): no clock, no I/O, no exception for a bad
// message.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tick::ingest {

using Timestamp = std::chrono::sys_time<std::chrono::microseconds>;

// A short text held in place, so that a Tick owns everything it says and is copied with memcpy.
template <std::size_t Capacity>
class InlineText {
 public:
  // Keeps the text and returns true, or returns false when it is empty or too long.
  bool assign(std::string_view text) {
    if (text.empty() || text.size() > Capacity) return false;
    std::memcpy(bytes_, text.data(), text.size());
    size_ = static_cast<std::uint8_t>(text.size());
    return true;
  }
  std::string_view view() const { return {bytes_, size_}; }

 private:
  char bytes_[Capacity];
  std::uint8_t size_ = 0;
};

enum class Maker : std::int8_t { unknown = -1, seller = 0, buyer = 1 };

struct Tick {
  Timestamp ts{};
  Timestamp received{};
  double price = 0;
  double qty = 0;
  std::int64_t id = 0;       // meaningful when has_id
  std::uint64_t record = 0;  // ordinal of the record in a replayed file, 0 on a live feed
  InlineText<31> symbol;
  InlineText<14> exchange;  // empty: the writer's own
  InlineText<31> name;      // what people call it, where a source tells; may be empty
  bool has_id = false;
  bool has_qty = false;
  bool whole = false;  // nothing of its symbol is missing before it (see recovery.hpp)
  Maker maker = Maker::unknown;
};

// What one message was. Only `tick` produced anything.
enum class Verdict {
  tick,       // one or more ticks were appended
  ignored,    // well formed, another kind of event
  reply,      // an answer to a request of ours
  refused,    // an error answer to a request of ours
  shutdown,   // the exchange announces that it will close the connection
  unknown,    // JSON, but not of this exchange
  malformed,  // not JSON, or an event of ours with a missing or impossible value
};

struct Decoded {
  Verdict verdict = Verdict::malformed;
  const char* reason = "";  // static text, for `malformed` and `refused`; with `tick`: why `bad` is not 0
  std::uint32_t bad = 0;    // with `tick`: trades of the same message that were malformed
};

enum class Stream { any, trade, agg_trade };

std::string_view stream_name(Stream stream);

// Ids that are to be fetched; `after` is the time of a trade before them, `now` that of the request where
// spans of time are asked for.
struct Wanted {
  std::int64_t first = 0;
  std::int64_t last = 0;  // no_last: up to the newest
  Timestamp after{};
  Timestamp now{};
};
constexpr std::int64_t no_last = std::numeric_limits<std::int64_t>::max();
constexpr std::size_t history_page = 1000;  // most exchanges here give so many at most

// A message that keeps a connection open, and how often to send it.
struct Heartbeat {
  std::string text;
  std::chrono::milliseconds every;
};

// One exchange's protocol. Lifecycle: one object per connection thread; not thread safe, keeps scratch
// buffers.
class Feed {
 public:
  virtual ~Feed() = default;
  // Appends the ticks of one text message and says what it was.
  virtual Decoded decode(std::string_view message, Timestamp received, std::vector<Tick>& out) = 0;
  // Where to connect for these symbols, and what to send after the handshake.
  virtual std::string url(std::string_view base, const std::vector<std::string>&, Stream) const {
    return std::string(base);
  }
  virtual std::vector<std::string> greetings(std::string_view, const std::vector<std::string>& symbols,
                                             Stream stream) const {
    return subscribe(symbols, stream, true);
  }
  // For an exchange that wants more than the protocol's pings.
  virtual std::optional<Heartbeat> heartbeat(const std::vector<std::string>&) const { return std::nullopt; }
  // What an exchange still knows of its past, page by page: the path and query of the next request for the
  // ids want.first .. want.last, given the page before (nullptr at the beginning); nothing when there is no
  // more.
  virtual std::optional<std::string> history(std::string_view symbol, const Wanted& want,
                                             const std::vector<Tick>* page) const {
    (void)symbol, (void)want, (void)page;
    return std::nullopt;
  }
  virtual std::size_t history_page_size() const { return history_page; }
  // Whether want.after counts there, not the ids.
  virtual bool history_by_time() const { return false; }
  // Whether not even that counts: the newest trades are all that is told.
  virtual bool history_of_newest() const { return false; }
  // Whether trades have the time in whole seconds there, unlike live.
  virtual bool history_in_seconds() const { return false; }
  // Appends the trades of one answer, ascending by id; `refused`: the exchange wants to be asked later.
  virtual Decoded decode_history(std::string_view body, std::string_view symbol, Timestamp received,
                                 std::vector<Tick>& out) {
    (void)body, (void)symbol, (void)received, (void)out;
    return {Verdict::refused, "this exchange gives no history"};
  }
  // The least time between two such requests that stays well inside the exchange's budget.
  virtual std::chrono::milliseconds history_interval() const { return std::chrono::milliseconds(1000); }
  // The messages that add symbols to a connection, or take them away.
  virtual std::vector<std::string> subscribe(const std::vector<std::string>& symbols, Stream stream,
                                             bool add) const = 0;
};

std::unique_ptr<Feed> make_binance_feed(Stream stream);
std::unique_ptr<Feed> make_coinbase_feed();
std::unique_ptr<Feed> make_kraken_feed();
std::unique_ptr<Feed> make_coinbase_advanced_feed(Stream stream);
std::unique_ptr<Feed> make_okx_feed(Stream stream);
std::unique_ptr<Feed> make_bybit_feed(Stream stream);  // spot
std::unique_ptr<Feed> make_bybit_linear_feed(Stream stream);
std::unique_ptr<Feed> make_bitstamp_feed(Stream stream);
std::unique_ptr<Feed> make_gemini_feed(Stream stream);
std::unique_ptr<Feed> make_yahoo_feed(Stream stream);

// Somebody who publishes trades: which protocol, which id space and which addresses.
struct Venue {
  std::string_view name;      // as in feed.name
  std::string_view exchange;  // the id space, and the default of the column `exchange`
  std::string_view url;
  std::string_view rest;
  std::unique_ptr<Feed> (*make)(Stream stream);  // nullptr: not by WebSocket
  char separator = '\0';                         // of the two halves of a symbol, as it writes them
  // Whether ids of a symbol ascend by one: gaps can be seen, and sets of ids are small. Where not, a unique
  // index of the table keeps out what comes twice, and what may be missing is fetched by time.
  bool sequence = true;
  enum class Way { socket, topic, poll, lines, posts, articles } way = Way::socket;

  bool asks() const { return way == Way::poll || way == Way::articles; }           // by HTTP
  bool writes_posts() const { return way == Way::posts || way == Way::articles; }  // not ticks
};

std::span<const Venue> venues();
const Venue* find_venue(std::string_view name);  // nullptr: there is no such venue

// Whether this host serves the venue's own ids (so that positions carry over between its hosts).
bool own_host(const Venue& venue, std::string_view host);

// The venue's way to write a symbol: BTCUSDT, BTC-USDT or BTC/USDT. False when the text is none of its own.
bool spelled_for(const Venue& venue, std::string_view symbol);

// How the venue's messages name a symbol that its REST interface or its users may name otherwise (XBT/USD).
std::string wire_symbol(const Venue& venue, std::string_view symbol);

// Symbols grouped into the requests of one exchange: `before` "A","B" `after` per request; the word @ in
// `after` becomes the request's number.
std::vector<std::string> subscription_requests(const std::vector<std::string>& symbols,
                                               std::size_t per_request, std::string_view before,
                                               std::string_view after);

}  // namespace tick::ingest
