// Candles that somebody else has made, out of files: exchanges' kline dumps and REST answers (12 columns
// without names), and CSV that names its columns. Pure text -> candle; a bad row is a value.
#pragma once

#include <array>
#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "feed.hpp"
#include "replay.hpp"

namespace tick::ingest {

struct Candle {
  enum Value { open, high, low, close, volume, quote_volume, trades };
  static constexpr std::size_t values = 7;

  Timestamp ts{};
  std::array<std::string, values>
      digits;                    // as the file has them; "" where it has none, of the last three alone
  std::chrono::seconds size{0};  // when the row tells its end
};

// "1m", "4h", "1d", "1w", "1mo" as exchanges write them -> an interval of PostgreSQL, "" for anything else.
std::string candle_size(std::string_view text);

// What the names of dumps tell: BTCUSDT-1m-2024-08.zip is of BTCUSDT and "1 minute".
struct CandleFile {
  std::string symbol, size;
};
CandleFile candle_file(const std::string& path);

class CandleRows {
 public:
  explicit CandleRows(std::optional<std::chrono::minutes> offset) : offset_(offset) {}
  // Whether this is the first record of a file of candles; chooses the layout.
  bool recognises(Framing framing, std::string_view first);
  // `tick`: the candle is whole; `ignored`: the names of the columns.
  Decoded decode(std::string_view text, Candle& candle);

 private:
  bool split(std::string_view text);

  std::optional<std::chrono::minutes> offset_;
  bool array_ = false;
  bool header_ = false;  // and it comes next
  std::string line_;
  std::vector<std::string> fields_;
  std::array<std::optional<std::size_t>, Candle::values + 2> at_{};  // then the time, and the end
};

}  // namespace tick::ingest
