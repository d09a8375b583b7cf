// libFuzzer over rows of files, messages of topics, and polled documents: the first byte chooses CSV or JSON,
// the shape of a topic's messages, or a document; the rest are lines, or the document. No line may crash,
// give a tick that the table cannot have, or harm the next one.
#include <cstdlib>
#include <stdexcept>

#include "ingestor/replay.hpp"

// What is polled: CoinLore, CoinGecko, and a document that is a row itself.
static int document(std::uint8_t choice, std::string_view text) {
  using namespace tick::ingest;
  static constexpr const char* columns[] = {"symbol=/symbol,ts=^/info/time,price=/price_usd",
                                            "symbol=@key,ts=/last_updated_at,price=/usd",
                                            "symbol=/s,ts=/t,price=/p/0,qty=/q,trade_id=/i"};
  RowOptions options;
  options.symbol = "A";
  std::string mistake;
  const auto which = (choice >> 2 & 3) % 3;
  options.columns = *parse_columns(columns[which], mistake);
  options.items = which == 0 ? "/data" : "";
  JsonItems items(options);
  std::vector<Tick> out;
  for (int again = 0; again < 2; ++again) {
    const std::size_t before = out.size();
    const Decoded decoded = items.decode(text, Timestamp{}, out);
    if ((out.size() > before) != (decoded.verdict == Verdict::tick)) std::abort();
  }
  for (const auto& tick : out)
    if (!(tick.price > 0) || tick.qty < 0 || tick.symbol.view().empty()) std::abort();
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tick::ingest;
  if (size == 0) return 0;
  std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  RowOptions options;
  options.symbol = "A";
  if ((data[0] & 2) != 0) options.offset = std::chrono::minutes(60);
  static constexpr const char* shapes[] = {"", "symbol=symbol,ts=timestamp,price=price,qty=-",
                                           ("symbol=symbol,ts=timestamp_ms,price=price,qty=quantity,trade_id="
                                            "trade_id,is_buyer_maker=is_buyer_maker"),
                                           "symbol=id,ts=time,price=price,qty=-,exchange=-"};
  std::string mistake;
  if (const char* shape = shapes[data[0] >> 2 & 3]; *shape != 0)
    options.columns = *parse_columns(shape, mistake);
  if ((data[0] & 16) != 0) return document(data[0], text);
  CsvRows csv(options);
  JsonRows json(options);
  std::vector<Tick> out;
  (void)detect_framing(text);
  while (!text.empty()) {
    const auto end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const std::size_t before = out.size();
    Decoded decoded;
    try {
      decoded = (data[0] & 1) != 0 ? csv.decode(line, {}, out) : json.decode(line, {}, out);
    } catch (const std::runtime_error&) {
      return 0;  // no layout fits: the file as a whole is refused
    }
    if (out.size() != before + (decoded.verdict == Verdict::tick ? 1 : 0)) std::abort();
    for (const Framing framing : {Framing::nanoseconds, Framing::connection}) (void)unframe(framing, line);
  }
  for (const auto& tick : out)
    if (!(tick.price > 0) || tick.qty < 0 || tick.symbol.view().empty()) std::abort();
  return 0;
}
