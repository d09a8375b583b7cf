// The table of settings and the four layers that fill it; see config.hpp.
#include "config.hpp"

#include <algorithm>
#include <cctype>
#include <map>
#include <sstream>

#include <toml++/toml.h>

#include "kafka.hpp"
#include "names.hpp"
#include "number.hpp"
#include "rows.hpp"
#include "url.hpp"

namespace tick::ingest {

namespace {

std::string in_quotes(std::string_view text) {
  return "\"" + std::string(text) + "\"";
}

std::string show_duration(std::chrono::microseconds value) {
  const auto us = value.count();
  if (us % 1'000'000 == 0) return std::to_string(us / 1'000'000) + "s";
  if (us % 1'000 == 0) return std::to_string(us / 1'000) + "ms";
  return std::to_string(us) + "us";
}

std::string set_count(std::size_t& field, std::string_view text, std::int64_t low, std::int64_t high) {
  const auto value = parse_integer(text);
  if (!value || *value < low || *value > high)
    return "must be a whole number from " + std::to_string(low) + " to " + std::to_string(high) + ", not " +
           in_quotes(text);
  field = static_cast<std::size_t>(*value);
  return "";
}

std::string set_duration(std::chrono::microseconds& field, std::string_view text) {
  const auto value = parse_duration(text);
  if (!value) return "must be a time such as \"20ms\" or \"1.5s\", not " + in_quotes(text);
  field = *value;
  return "";
}

std::string set_bool(bool& field, std::string_view text) {
  if (text == "yes" || text == "on") {
    field = true;
  } else if (text == "no" || text == "off") {
    field = false;
  } else {
    const auto value = parse_bool(text);
    if (!value) return "must be true or false, not " + in_quotes(text);
    field = *value;
  }
  return "";
}

std::string set_url(Config& config, std::string_view text) {
  if (!parse_url(text) && !parse_url(text, "http"))
    return "must look like ws://host:port or wss://host[/path], not " + in_quotes(redact(text));
  config.url = text;
  return "";
}

std::string set_symbols(Config& config, std::string_view text) {
  auto symbols = split_symbols(text);
  if (symbols.empty()) return "must name at least one symbol";
  for (const auto& symbol : symbols)
    if (symbol.size() > 31 || symbol.find_first_of("@\"\\?&") != std::string::npos)
      return "has an impossible symbol " + in_quotes(symbol);
  config.symbols = std::move(symbols);
  return "";
}

std::string set_stream(Config& config, std::string_view text) {
  if (text == "trade")
    config.stream = Stream::trade;
  else if (text == "aggTrade")
    config.stream = Stream::agg_trade;
  else
    return "must be trade or aggTrade, not " + in_quotes(text);
  return "";
}

std::string set_feed(Config& config, std::string_view text) {
  if (find_venue(text) == nullptr) {
    std::string known;
    for (const auto& venue : venues()) known += (known.empty() ? "" : ", ") + std::string(venue.name);
    return "must be one of " + known + ", not " + in_quotes(text);
  }
  config.feed = text;
  return "";
}

std::string set_exchange(Config& config, std::string_view text) {
  if (text.empty() || text.size() > 14) return "must have 1 to 14 characters, not " + in_quotes(text);
  config.exchange = text;
  return "";
}

std::string set_text(std::string& field, std::string_view text) {
  if (text.empty()) return "must not be empty";
  field = text;
  return "";
}

std::string set_start(Config& config, std::string_view text) {
  if (text != "earliest" && text != "latest" && !parse_time(text))
    return "must be earliest, latest or a time such as 2026-01-01T00:00Z, not " + in_quotes(text);
  config.start = text;
  return "";
}

std::string set_columns(Config& config, std::string_view text) {
  std::string columns = columns_of_shape(text);
  std::string mistake;
  if (!parse_columns(columns, mistake)) return mistake;
  config.columns = std::move(columns);
  return "";
}

std::string set_table_columns(Config& config, std::string_view text) {
  std::string mistake;
  auto map = parse_column_map(text, mistake);
  if (!map) return mistake;
  config.table_columns = std::move(*map);
  return "";
}

std::string set_zone(Config& config, std::string_view text) {
  config.zone = parse_offset(text);
  return config.zone ? "" : "must be UTC or an offset such as +02:00, not " + in_quotes(text);
}

// Tables ordered as --help shows them.
constexpr Setting table[] = {
    {"feed.name", "--feed", "TICK_FEED",
     "binance, binance.data, binance.us, coinbase, coinbase.advanced, kraken, okx, bybit, bybit.linear, "
     "bitstamp, gemini, yahoo, kafka, coinlore, coingecko, http, stdin, jetstream or rss",
     set_feed, [](const Config& c) { return c.feed; }},
    {"feed.url", "--url", "TICK_URL", "WebSocket address (default: the venue's)", set_url,
     [](const Config& c) { return c.url; }},
    {"feed.symbols", "--symbols", "TICK_SYMBOLS", "symbols, comma separated", set_symbols,
     [](const Config& c) {
       std::string all;
       for (const auto& s : c.symbols) all += (all.empty() ? "" : ",") + s;
       return all;
     }},
    {"feed.stream", "--stream", "TICK_STREAM", "trade or aggTrade", set_stream,
     [](const Config& c) { return std::string(stream_name(c.stream)); }},
    {"feed.exchange", "--exchange", "TICK_EXCHANGE",
     "value of the column exchange (default: the feed's name)", set_exchange,
     [](const Config& c) { return c.exchange; }},
    {"feed.connection", "--connection", "TICK_CONNECTION",
     "name of this connection's position in the database (default: from stream and host)",
     [](Config& c, std::string_view t) { return set_text(c.connection, t); },
     [](const Config& c) { return c.connection; }},
    {"feed.tls_verify", "--tls-verify", "TICK_TLS_VERIFY", "check the server's certificate and name",
     [](Config& c, std::string_view t) { return set_bool(c.tls_verify, t); },
     [](const Config& c) { return std::string(c.tls_verify ? "true" : "false"); }},
    {"feed.tls_ca", "--tls-ca", "TICK_TLS_CA", "file of trusted certificates instead of the system's",
     [](Config& c, std::string_view t) { return set_text(c.tls_ca, t); },
     [](const Config& c) { return c.tls_ca; }},
    {"feed.max_silence", "--max-silence", "TICK_MAX_SILENCE",
     "reconnect when nothing at all (not even a ping) came for so long; 0 = never",
     [](Config& c, std::string_view t) { return set_duration(c.max_silence, t); },
     [](const Config& c) { return show_duration(c.max_silence); }},
    {"feed.max_data_silence", "--max-data-silence", "TICK_MAX_DATA_SILENCE",
     "reconnect when no message came for so long; 0 = never",
     [](Config& c, std::string_view t) { return set_duration(c.max_data_silence, t); },
     [](const Config& c) { return show_duration(c.max_data_silence); }},
    {"feed.max_stream_silence", "--max-stream-silence", "TICK_MAX_STREAM_SILENCE",
     "reconnect when a symbol had no trade for so long, whatever the others do; 0 = never",
     [](Config& c, std::string_view t) { return set_duration(c.max_stream_silence, t); },
     [](const Config& c) { return show_duration(c.max_stream_silence); }},
    {"feed.ping", "--ping", "TICK_PING", "time between pings that the exchange must answer; 0 = none",
     [](Config& c, std::string_view t) { return set_duration(c.ping, t); },
     [](const Config& c) { return show_duration(c.ping); }},
    {"feed.max_age", "--max-age", "TICK_MAX_AGE",
     "replace a connection, the new one first, before the exchange ends it (Binance: 24 h)",
     [](Config& c, std::string_view t) { return set_duration(c.max_age, t); },
     [](const Config& c) { return show_duration(c.max_age); }},
    {"feed.max_frame", "--max-frame", "TICK_MAX_FRAME", "bytes of the longest message that is taken",
     [](Config& c, std::string_view t) { return set_count(c.max_frame, t, 1024, 1 << 30); },
     [](const Config& c) { return std::to_string(c.max_frame); }},
    {"feed.stop_when_idle", "--stop-when-idle", "TICK_STOP_WHEN_IDLE",
     "end, with everything committed, when no trade came for so long; 0 = never",
     [](Config& c, std::string_view t) { return set_duration(c.stop_when_idle, t); },
     [](const Config& c) { return show_duration(c.stop_when_idle); }},
    {"session.tz", "--session-tz", "TICK_SESSION_TZ", "time zone of the market's days, hours and holidays",
     [](Config& c, std::string_view t) { return c.session.set_zone(t); },
     [](const Config& c) { return c.session.zone(); }},
    {"session.days", "--session-days", "TICK_SESSION_DAYS",
     "days on which sessions begin (Mon-Fri); outside sessions max_data_silence and max_stream_silence rest",
     [](Config& c, std::string_view t) { return c.session.set_days(t); },
     [](const Config& c) { return c.session.days(); }},
    {"session.hours", "--session-hours", "TICK_SESSION_HOURS",
     "hours of a session (09:30-16:00), or of several; empty = the whole day",
     [](Config& c, std::string_view t) { return c.session.set_hours(t); },
     [](const Config& c) { return c.session.hours(); }},
    {"session.holidays", "--session-holidays", "TICK_SESSION_HOLIDAYS",
     "dates on which no session begins (2026-12-25), comma separated",
     [](Config& c, std::string_view t) { return c.session.set_holidays(t); },
     [](const Config& c) { return c.session.holidays(); }},
    {"repair.enabled", "--repair", "TICK_REPAIR", "fetch missing trades by REST",
     [](Config& c, std::string_view t) { return set_bool(c.repair, t); },
     [](const Config& c) { return std::string(c.repair ? "true" : "false"); }},
    {"repair.url", "--repair-url", "TICK_REPAIR_URL",
     "REST address (default: the venue's, or that of feed.url)",
     [](Config& c, std::string_view t) -> std::string {
       if (!parse_url(t, "http")) return "must look like https://host[:port], not " + in_quotes(redact(t));
       c.repair_url = t;
       return "";
     },
     [](const Config& c) { return c.repair_url; }},
    {"repair.interval", "--repair-interval", "TICK_REPAIR_INTERVAL",
     "least time between REST requests; 0 = what the exchange's budget allows",
     [](Config& c, std::string_view t) { return set_duration(c.repair_interval, t); },
     [](const Config& c) { return show_duration(c.repair_interval); }},
    {"spool.directory", "--spool", "TICK_SPOOL",
     "where ticks go when memory is full because the database is away; empty = the socket is not read then",
     [](Config& c, std::string_view t) { return set_text(c.spool, t); },
     [](const Config& c) { return c.spool; }},
    {"spool.limit", "--spool-limit", "TICK_SPOOL_LIMIT",
     "bytes on disk; beyond them the newest ticks are dropped",
     [](Config& c, std::string_view t) {
       return set_count(c.spool_limit, t, 1 << 20, std::int64_t{1} << 50);
     },
     [](const Config& c) { return std::to_string(c.spool_limit); }},
    {"metrics.listen", "--listen", "TICK_LISTEN",
     "ADDRESS:PORT of a page with candles, /metrics, /healthz and /status; empty = none",
     [](Config& c, std::string_view t) -> std::string {
       if (!parse_url("http://" + std::string(t), "http"))
         return "must look like 127.0.0.1:9464, not " + in_quotes(t);
       c.listen = t;
       return "";
     },
     [](const Config& c) { return c.listen; }},
    {"kafka.brokers", "--brokers", "TICK_KAFKA_BROKERS", "HOST:PORT,... of Kafka",
     [](Config& c, std::string_view t) { return set_text(c.brokers, t); },
     [](const Config& c) { return c.brokers; }},
    {"kafka.topic", "--topic", "TICK_KAFKA_TOPIC", "topic of Kafka to read",
     [](Config& c, std::string_view t) { return set_text(c.topic, t); },
     [](const Config& c) { return c.topic; }},
    {"kafka.group", "--group", "TICK_KAFKA_GROUP",
     "ingestors of one group share the topic's partitions; also begins the names of their positions",
     [](Config& c, std::string_view t) { return set_text(c.group, t); },
     [](const Config& c) { return c.group; }},
    {"kafka.start", "--start", "TICK_KAFKA_START",
     "where to begin a partition that has no position: earliest, latest or a time", set_start,
     [](const Config& c) { return c.start; }},
    {"rows.columns", "--columns", "TICK_COLUMNS",
     "which member of a JSON message is what: symbol=s,ts=time,price=p (- = none), or the name of a shape: "
     "binance-prices, raw_trades, clean_trades, yahoo",
     set_columns, [](const Config& c) { return c.columns; }},
    {"rows.items", "--items", "TICK_ITEMS",
     "polled documents: JSON pointer to the array or object of rows; columns are pointers then: /price from "
     "the row, "
     "^/info/time from the document, @key",
     [](Config& c, std::string_view t) { return set_text(c.items, t); },
     [](const Config& c) { return c.items; }},
    {"poll.interval", "--poll-interval", "TICK_POLL_INTERVAL",
     "time between requests, give or take a tenth; 0 = 30s",
     [](Config& c, std::string_view t) { return set_duration(c.poll_interval, t); },
     [](const Config& c) { return show_duration(c.poll_interval); }},
    {"rows.tz", "--tz", "TICK_TZ", "UTC or an offset such as +02:00, of times that tell no zone", set_zone,
     [](const Config& c) { return c.zone ? std::to_string(c.zone->count()) + "min" : std::string(); }},
    {"sentiment.lexicon", "--lexicon", "TICK_LEXICON",
     "file of words and what they say of a price; empty = the built-in one",
     [](Config& c, std::string_view t) { return set_text(c.lexicon, t); },
     [](const Config& c) { return c.lexicon; }},
    {"sentiment.url", "--scorer", "TICK_SCORER",
     "HTTP address that gets {\"texts\": [..]} and answers {\"scores\": [..]}, each from -1 to 1, instead of "
     "the lexicon",
     [](Config& c, std::string_view t) -> std::string {
       if (!parse_url(t, "http"))
         return "must look like http://host[:port]/path, not " + in_quotes(redact(t));
       c.scorer_url = t;
       return "";
     },
     [](const Config& c) { return redact(c.scorer_url); }},
    {"sentiment.timeout", "--scorer-timeout", "TICK_SCORER_TIMEOUT",
     "how long it may take; posts without an answer are written without a score and asked about again later",
     [](Config& c, std::string_view t) { return set_duration(c.scorer_timeout, t); },
     [](const Config& c) { return show_duration(c.scorer_timeout); }},
    {"database.conninfo", "--database", "TICK_DATABASE",
     "libpq connection string, URL or database name (also PGHOST, PGPORT, ...)",
     [](Config& c, std::string_view t) { return set_text(c.database, t); },
     [](const Config& c) { return redact(c.database); }},
    {"database.table", "--table", "TICK_TABLE", "table that gets the ticks",
     [](Config& c, std::string_view t) { return set_text(c.table, t); },
     [](const Config& c) { return c.table; }},
    {"database.columns", "--table-columns", "TICK_TABLE_COLUMNS",
     "columns of a table of your own and what they get: event_time=ts,volume=qty, of exchange, symbol, ts, "
     "ts_ms, ts_s, price, qty, trade_id, is_buyer_maker, received_at, name (default: by their names)",
     set_table_columns, [](const Config& c) { return show_column_map(c.table_columns); }},
    {"database.partitions_ahead", "--partitions-ahead", "TICK_PARTITIONS_AHEAD",
     "day partitions made ahead of the newest day",
     [](Config& c, std::string_view t) { return set_count(c.partitions_ahead, t, 0, 366); },
     [](const Config& c) { return std::to_string(c.partitions_ahead); }},
    {"batch.rows", "--batch-rows", "TICK_BATCH_ROWS", "a transaction has at most so many rows",
     [](Config& c, std::string_view t) { return set_count(c.batch_rows, t, 1, 1'000'000); },
     [](const Config& c) { return std::to_string(c.batch_rows); }},
    {"batch.age", "--batch-age", "TICK_BATCH_AGE", "a tick waits at most so long for others",
     [](Config& c, std::string_view t) { return set_duration(c.batch_age, t); },
     [](const Config& c) { return show_duration(c.batch_age); }},
    {"batch.ring", "--ring", "TICK_RING",
     "ticks kept in memory while the database is away (about 140 bytes each); then the socket is not read",
     [](Config& c, std::string_view t) { return set_count(c.ring, t, 1, 100'000'000); },
     [](const Config& c) { return std::to_string(c.ring); }},
    {"batch.drain", "--drain", "TICK_DRAIN", "how long to try to commit what is in memory when told to stop",
     [](Config& c, std::string_view t) { return set_duration(c.drain, t); },
     [](const Config& c) { return show_duration(c.drain); }},
};

std::string upper(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return std::toupper(c); });
  return out;
}

std::string bracketed(const std::string& host) {
  return host.find(':') == std::string::npos ? host : "[" + host + "]";
}

// Writes each symbol in the venue's own way where [symbols] knows how, and tells those it cannot have.
void spell_symbols(ConfigResult& result) {
  Config& config = result.config;
  const Venue& venue = *find_venue(config.feed);
  if (venue.way != Venue::Way::socket) return;
  for (auto& symbol : config.symbols) {
    const std::string name(table_name(config, symbol));
    if (spelled_for(venue, symbol)) {
      const std::string wire = wire_symbol(venue, symbol);
      if (wire != symbol) config.aliases.emplace(wire, name);
      symbol = wire;
      continue;
    }
    const auto other = std::find_if(config.aliases.begin(), config.aliases.end(), [&](const auto& alias) {
      return alias.second == name && spelled_for(venue, alias.first);
    });
    if (other != config.aliases.end()) {
      symbol = wire_symbol(venue, other->first);
      config.aliases.emplace(symbol, name);
    } else if (spelled_for(venue, name)) {
      symbol = name;
    } else {
      const auto place = result.places.find("feed.symbols");
      result.mistakes.push_back((place == result.places.end() ? "" : place->second + ": ") +
                                "feed.symbols has " + in_quotes(symbol) + ", which is not how " +
                                config.feed + " writes symbols; name it in [symbols] or write it like " +
                                (venue.separator == '-'   ? "BTC-USD"
                                 : venue.separator == '/' ? "BTC/USD"
                                                          : "BTCUSDT"));
    }
  }
}

// A TOML scalar or array of scalars as the text a flag would have.
std::optional<std::string> toml_text(const toml::node& node) {
  if (const auto* array = node.as_array()) {
    std::string all;
    for (const auto& element : *array) {
      const auto text = toml_text(element);
      if (!text || element.is_array()) return std::nullopt;
      all += (all.empty() ? "" : ",") + *text;
    }
    return all;
  }
  if (const auto* s = node.as_string()) return s->get();
  if (const auto* b = node.as_boolean()) return std::string(b->get() ? "true" : "false");
  if (const auto* i = node.as_integer()) return std::to_string(i->get());
  if (const auto* f = node.as_floating_point()) {
    std::ostringstream out;
    out << f->get();
    return out.str();
  }
  return std::nullopt;
}

// The known key that may have been meant.
std::string suggestion(std::string_view key) {
  std::vector<std::string> known;
  for (const auto& setting : table) known.emplace_back(setting.key);
  const std::string best = nearest(key, known);
  return best.empty() ? "" : "; did you mean " + best + "?";
}

void apply_toml(const ConfigSource& source, ConfigResult& result) {
  std::multimap<unsigned, std::string> found;  // toml++ walks by name; people read by line
  const auto complain = [&](const toml::source_region& where, const std::string& what) {
    const unsigned line = where.begin.line;
    found.emplace(line, source.toml_name + ":" + std::to_string(line) + ": " + what);
  };
  const auto tell = [&] {
    for (auto& [line, text] : found) result.mistakes.push_back(std::move(text));
  };
  toml::table root;
  try {
    root = toml::parse(source.toml);
  } catch (const toml::parse_error& error) {
    complain(error.source(), std::string(error.description()));
    return tell();
  }
  for (const auto& [section_key, section] : root) {
    const std::string prefix(section_key.str());
    const auto* members = section.as_table();
    if (prefix == "symbols" && members != nullptr) {
      for (const auto& [key, node] : *members) {
        const std::string name = upper(key.str());
        const auto text = toml_text(node);
        const auto others = split_symbols(text.value_or(""));
        if (others.empty() || name.empty() || name.size() > 31)
          complain(node.source(), "symbols." + name + " must be a list of the names that exchanges give it");
        for (const auto& other : others) {
          const auto [entry, fresh] = result.config.aliases.emplace(other, name);
          if (!fresh && entry->second != name)
            complain(node.source(), "symbols." + name + ": " + in_quotes(other) + " is an alias of " +
                                        entry->second + " already");
        }
      }
      continue;
    }
    if (members == nullptr) {
      complain(section.source(), "unknown setting " + prefix + suggestion(prefix));
      continue;
    }
    for (const auto& [key, node] : *members) {
      const std::string name = prefix + "." + std::string(key.str());
      const auto* setting = std::find_if(std::begin(table), std::end(table),
                                         [&](const Setting& candidate) { return name == candidate.key; });
      if (setting == std::end(table)) {
        complain(key.source(), "unknown setting " + name + suggestion(name));
        continue;
      }
      const auto text = toml_text(node);
      if (!text) {
        complain(node.source(), name + " must be a text, a number, true/false or a list of texts");
        continue;
      }
      const std::string mistake = setting->apply(result.config, *text);
      result.places[setting->key] = source.toml_name + ":" + std::to_string(node.source().begin.line);
      if (!mistake.empty()) complain(node.source(), name + " " + mistake);
    }
  }
  tell();
}

// The feed that will be read: TICK_FEED and --feed are applied later, and are stronger.
const Venue* feed_in_the_end(const ConfigSource& source, const Config& config) {
  std::string feed = config.feed;
  if (const auto text = source.environment("TICK_FEED"); text && !text->empty()) feed = *text;
  for (const auto& [flag, text] : source.flags)
    if (flag == "--feed") feed = text;
  return find_venue(feed);
}

// The names that other pipelines use for the same things; TICK_* is stronger.
void apply_foreign_environment(const ConfigSource& source, ConfigResult& result) {
  if (!source.environment) return;
  const auto get = [&](const char* name) { return source.environment(name).value_or(""); };
  const Venue* venue = feed_in_the_end(source, result.config);
  if (const auto symbols = get("BINANCE_SYMBOLS");
      !symbols.empty() && venue != nullptr && venue->make == make_binance_feed) {
    const std::string mistake = set_symbols(result.config, symbols);
    result.places["feed.symbols"] = "BINANCE_SYMBOLS";
    if (!mistake.empty()) result.mistakes.push_back("BINANCE_SYMBOLS " + mistake);
  }
  constexpr std::pair<const char*, const char*> kafka[] = {{"KAFKA_BOOTSTRAP_SERVERS", "kafka.brokers"},
                                                           {"KAFKA_TOPIC", "kafka.topic"},
                                                           {"KAFKA_GROUP_ID", "kafka.group"},
                                                           {"KAFKA_STARTING_OFFSETS", "kafka.start"}};
  for (const auto& [name, key] : kafka) {
    const auto value = get(name);
    if (value.empty()) continue;
    const auto setting = std::find_if(std::begin(table), std::end(table), [&](const Setting& candidate) {
      return candidate.key == std::string_view(key);
    });
    const std::string mistake = setting->apply(result.config, value);
    result.places[key] = name;
    if (!mistake.empty()) result.mistakes.push_back(std::string(name) + " " + mistake);
  }
  constexpr std::pair<const char*, const char*> words[] = {{"POSTGRES_HOST", "host"},
                                                           {"POSTGRES_PORT", "port"},
                                                           {"POSTGRES_DB", "dbname"},
                                                           {"POSTGRES_USER", "user"},
                                                           {"POSTGRES_PASSWORD", "password"}};
  std::string conninfo;
  for (const auto& [name, word] : words) {
    const auto value = get(name);
    if (value.empty()) continue;
    conninfo += (conninfo.empty() ? "" : " ") + std::string(word) + "='";
    for (const char c : value) conninfo += c == '\'' || c == '\\' ? std::string{'\\', c} : std::string{c};
    conninfo += "'";
  }
  if (conninfo.empty()) return;
  result.config.database = conninfo;
  result.places["database.conninfo"] =
      "POSTGRES_HOST, POSTGRES_PORT, POSTGRES_DB, POSTGRES_USER, POSTGRES_PASSWORD";
}

}  // namespace

std::span<const Setting> settings() {
  return table;
}

ConfigResult read_config(const ConfigSource& source) {
  ConfigResult result;
  if (!source.toml.empty()) apply_toml(source, result);
  apply_foreign_environment(source, result);
  for (const auto& setting : table) {
    const auto text = source.environment ? source.environment(setting.environment) : std::nullopt;
    if (!text || text->empty()) continue;
    const std::string mistake = setting.apply(result.config, *text);
    result.places[setting.key] = setting.environment;
    if (!mistake.empty()) result.mistakes.push_back(std::string(setting.environment) + " " + mistake);
  }
  for (const auto& [flag, text] : source.flags) {
    for (const auto& setting : table) {
      if (flag != setting.flag) continue;
      const std::string mistake = setting.apply(result.config, text);
      result.places[setting.key] = flag;
      if (!mistake.empty()) result.mistakes.push_back(flag + " " + mistake);
    }
  }
  const Venue& venue = *find_venue(result.config.feed);
  if (venue.way == Venue::Way::topic && source.connects)
    for (const auto& [key, value] :
         {std::pair("kafka.brokers", &result.config.brokers), {"kafka.topic", &result.config.topic}})
      if (value->empty() && result.mistakes.empty())
        result.mistakes.push_back(std::string(key) + " is not given, and feed.name is " + result.config.feed);
  if (result.config.columns.empty() && venue.way == Venue::Way::topic)
    result.config.columns = columns_of_shape(shape_of_topic(result.config.topic));
  if (result.config.columns.empty() && result.config.feed == "coinlore") {
    result.config.items = "/data";
    result.config.columns = "symbol=/symbol,ts=^/info/time,price=/price_usd";
  }
  if (result.config.columns.empty() && result.config.feed == "coingecko")
    result.config.columns = "symbol=@key,ts=/last_updated_at,price=/usd";
  if (source.connects && result.config.feed == "http" &&
      (result.config.url.empty() || result.config.columns.empty()) && result.mistakes.empty())
    result.mistakes.push_back("feed.name is http: feed.url and rows.columns must be given");
  if (source.connects && venue.way == Venue::Way::articles && result.config.url.empty() &&
      result.mistakes.empty())
    result.mistakes.push_back("feed.name is rss: feed.url must be given");
  if (venue.writes_posts()) {
    // Somebody always writes something.
    if (!result.places.contains("feed.max_data_silence"))
      result.config.max_data_silence = result.config.max_silence;
    if (!result.places.contains("database.table")) result.config.table = "posts";
  }
  const bool polled = venue.asks();
  if (!result.config.url.empty() && !parse_url(result.config.url, polled ? "http" : "ws")) {
    const auto place = result.places.find("feed.url");
    result.mistakes.push_back(
        (place == result.places.end() ? "" : place->second + ": ") + "feed.url must look like " +
        (polled ? "http://host[/path] or https://host[/path]" : "ws://host:port or wss://host[/path]") +
        ", not " + in_quotes(redact(result.config.url)));
    result.config.url.clear();
  }
  if (result.config.exchange.empty()) result.config.exchange = venue.exchange;
  if (result.config.url.empty()) result.config.url = venue.url;
  if (result.config.repair_url.empty()) {
    const auto url = parse_url(result.config.url);
    if (url && own_host(venue, url->host))
      result.config.repair_url = venue.rest;
    else if (url)
      result.config.repair_url = (url->tls ? "https://" : "http://") + bracketed(url->host) + ":" + url->port;
  }
  spell_symbols(result);
  if (result.config.ring < result.config.batch_rows && result.mistakes.empty())
    result.mistakes.push_back("batch.ring (" + std::to_string(result.config.ring) +
                              ") must not be smaller than batch.rows (" +
                              std::to_string(result.config.batch_rows) + ")");
  return result;
}

std::string default_connection(const Config& config) {
  const Venue& venue = *find_venue(config.feed);
  const auto page = venue.asks() ? parse_url(config.url, "http") : std::nullopt;
  if (venue.writes_posts() && page) return "posts@" + page->host + ":" + page->port + page->target;
  std::string name(venue.way == Venue::Way::posts    ? "posts"
                   : venue.make == make_binance_feed ? stream_name(config.stream)
                                                     : "trade");
  const auto url = parse_url(config.url);
  if (url && !own_host(venue, url->host)) name += "@" + url->host + ":" + url->port;
  return name;
}

std::string_view table_name(const Config& config, std::string_view symbol) {
  const auto found = config.aliases.find(symbol);
  return found == config.aliases.end() ? symbol : std::string_view(found->second);
}

std::string redact(std::string_view text) {
  std::string out(text);
  const auto scheme = out.find("://");
  if (scheme != std::string::npos) {
    const auto authority = scheme + 3;
    const auto at = out.find('@', authority);
    const auto slash = out.find('/', authority);
    const auto colon = out.find(':', authority);
    if (at != std::string::npos && (slash == std::string::npos || at < slash) && colon < at)
      out.replace(colon + 1, at - colon - 1, "***");
  }
  for (const std::string_view word : {"password", "sslpassword"}) {
    for (std::size_t at = out.find(word); at != std::string::npos; at = out.find(word, at + 1)) {
      std::size_t value = at + word.size();
      while (value < out.size() && out[value] == ' ') ++value;
      if (value >= out.size() || out[value] != '=') continue;
      ++value;
      while (value < out.size() && out[value] == ' ') ++value;
      std::size_t end = value;
      if (end < out.size() && out[end] == '\'') {
        for (++end; end < out.size() && out[end] != '\''; ++end)
          if (out[end] == '\\') ++end;
        end = std::min(end + 1, out.size());
      } else {
        while (end < out.size() && out[end] != ' ' && out[end] != '&') end += out[end] == '\\' ? 2 : 1;
        end = std::min(end, out.size());
      }
      out.replace(value, end - value, "***");
    }
  }
  return out;
}

std::vector<std::string> split_symbols(std::string_view text) {
  std::vector<std::string> symbols;
  std::string current;
  for (std::size_t i = 0; i <= text.size(); ++i) {
    const char c = i < text.size() ? text[i] : ',';
    if (c != ',' && c != ' ' && c != '\n' && c != '\t') {
      current += static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    } else if (!current.empty()) {
      if (std::find(symbols.begin(), symbols.end(), current) == symbols.end()) symbols.push_back(current);
      current.clear();
    }
  }
  return symbols;
}

}  // namespace tick::ingest
