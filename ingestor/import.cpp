// The import of candles; see import.hpp. A batch is one statement and one transaction; there is no position
// to keep, for what is there already is left as it is.
#include "import.hpp"

#include "candles.hpp"
#include "chain.hpp"
#include "database.hpp"
#include "log.hpp"
#include "number.hpp"

namespace tick::ingest {

namespace {

constexpr std::size_t batch_candles = 5000;
constexpr std::uint64_t shown_mistakes = 5;

constexpr std::string_view table_columns = R"( (
  exchange     text        NOT NULL,
  symbol       text        NOT NULL,
  size         interval    NOT NULL,
  ts           timestamptz NOT NULL,
  open         float8      NOT NULL,
  high         float8      NOT NULL,
  low          float8      NOT NULL,
  close        float8      NOT NULL,
  volume       float8,
  quote_volume float8,
  trades       int8,
  PRIMARY KEY (exchange, symbol, size, ts)
))";

std::string insert_into(const std::string& table) {
  return "WITH written AS (INSERT INTO " + table +
         " AS t (exchange, symbol, size, ts, open, high, low, close, volume, quote_volume, trades)"
         " SELECT DISTINCT ON (c.ts) $1, $2, $3::interval, c.ts, c.open, c.high, c.low, c.close, c.volume,"
         " c.quote_volume, c.trades FROM unnest($4::timestamptz[], $5::float8[], $6::float8[], $7::float8[],"
         " $8::float8[], $9::float8[], $10::float8[], $11::int8[])"
         " WITH ORDINALITY AS c(ts, open, high, low, close, volume, quote_volume, trades, n)"
         " ORDER BY c.ts, c.n DESC"
         " ON CONFLICT (exchange, symbol, size, ts) DO UPDATE SET open = excluded.open, high = excluded.high,"
         " low = excluded.low, close = excluded.close, volume = excluded.volume,"
         " quote_volume = excluded.quote_volume, trades = excluded.trades"
         " WHERE (t.open, t.high, t.low, t.close, t.volume, t.quote_volume, t.trades) IS DISTINCT FROM"
         " (excluded.open, excluded.high, excluded.low, excluded.close, excluded.volume, "
         "excluded.quote_volume,"
         " excluded.trades) RETURNING 1) SELECT count(*) FROM written";
}

// The parameters of one statement: three texts, then the arrays, a row at a time.
class Rows {
 public:
  Rows(const std::string& exchange, const std::string& symbol, const std::string& size)
      : parameters_{exchange, symbol, size} {
    parameters_.resize(3 + 1 + Candle::values);
    clear();
  }
  void add(const Candle& candle) {
    put(3, format_time(candle.ts));
    for (std::size_t i = 0; i < Candle::values; ++i) put(4 + i, candle.digits[i]);
    ++count_;
  }
  std::size_t count() const { return count_; }
  // How many were new, or other than before.
  std::uint64_t write(Database& database, const std::string& sql) {
    if (count_ == 0) return 0;
    for (std::size_t i = 3; i < parameters_.size(); ++i) parameters_[i] += '}';
    const auto answer = database.query(sql, parameters_);
    clear();
    return static_cast<std::uint64_t>(parse_integer(answer.at(0).at(0).value_or("")).value_or(0));
  }

 private:
  void put(std::size_t parameter, const std::string& value) {
    std::string& array = parameters_[parameter];
    if (array.size() > 1) array += ',';
    array += value.empty() ? "NULL" : value;
  }
  void clear() {
    for (std::size_t i = 3; i < parameters_.size(); ++i) parameters_[i] = '{';
    count_ = 0;
  }

  std::vector<std::string> parameters_;
  std::size_t count_ = 0;
};

}  // namespace

std::optional<int> import_candles(const Config& config, const std::string& file,
                                  const ReplayOptions& options) {
  RecordReader reader(file);
  CandleRows rows(options.decode.rows.offset);
  Record record;
  if (!reader.next(record) || !rows.recognises(reader.framing(), record.text)) return std::nullopt;
  const CandleFile named = candle_file(file);
  const std::string symbol = options.decode.rows.symbol.empty() ? named.symbol : options.decode.rows.symbol;
  std::string size = options.candle_size.empty() ? named.size : options.candle_size;
  if (symbol.empty()) {
    log::error(file + ": these are candles; say of what with --symbol");
    return exit_failed;
  }
  std::uint64_t read = 0, malformed = 0, written = 0;
  std::chrono::seconds told{0};  // by the rows themselves
  try {
    Database database(config.database);
    database.run("SET client_min_messages = warning; CREATE TABLE IF NOT EXISTS " + options.candles +
                 std::string(table_columns));
    const std::string sql = insert_into(options.candles);
    std::optional<Rows> batch;
    Candle candle;
    bool stopped = false;
    do {
      Decoded decoded = rows.decode(record.text, candle);
      if (decoded.verdict == Verdict::ignored) continue;
      ++read;
      if (decoded.verdict == Verdict::tick && candle.size.count() > 0) {
        if (told.count() == 0) told = candle.size;
        // Months are not all of one length.
        if (told != candle.size && size.find("month") == std::string::npos)
          decoded = {Verdict::malformed, "it is not as long as those before"};
      }
      if (decoded.verdict != Verdict::tick) {
        if (++malformed <= shown_mistakes)
          log::warn(file + ": row " + std::to_string(record.number) + ": " + decoded.reason);
        continue;
      }
      if (size.empty() && told.count() > 0) size = std::to_string(told.count()) + " seconds";
      if (size.empty()) {
        log::error(file + ": these are candles; say how long one is with --size 1m");
        return exit_failed;
      }
      if (!batch) batch.emplace(config.exchange, symbol, size);
      batch->add(candle);
      if (batch->count() < batch_candles) continue;
      written += batch->write(database, sql);
      log::progress(progress_bar(reader.progress()) + "candles " + grouped(read));
      stopped = wait_for_signal(0) != 0;
    } while (!stopped && reader.next(record));
    if (batch) written += batch->write(database, sql);
  } catch (const DatabaseError& error) {
    log::progress("");
    log::error(file + ": " + error.what() + " (what was written stays; import it again)");
    return exit_failed;
  }
  log::progress("");
  log::info(file + ": " + grouped(read) + " candles of " + symbol + " read, " + grouped(written) +
            " new or changed in " + options.candles + ", " + grouped(malformed) + " malformed");
  return malformed > 0 && malformed == read ? exit_failed : exit_ok;
}

}  // namespace tick::ingest
