// The layers of the configuration, and that every mistake is told with its place and without secrets.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <random>
#include <set>

#include "ingestor/config.hpp"
#include "ingestor/position.hpp"
#include "ingestor/socket.hpp"

namespace {

using namespace tick::ingest;

ConfigResult from_toml(const std::string& text) {
  ConfigSource source;
  source.toml = text;
  source.toml_name = "tick.toml";
  return read_config(source);
}

TEST(Config, LayersOverrideEachOther) {
  ConfigSource source;
  source.toml =
      "[feed]\nsymbols = [\"btcusdt\", \"ethusdt\"]\nstream = \"aggTrade\"\n[batch]\nrows = 5\nage = "
      "\"7ms\"\n";
  source.toml_name = "tick.toml";
  source.environment = [](const char* name) -> std::optional<std::string> {
    const std::string_view key = name;
    if (key == "TICK_BATCH_ROWS") return "6";
    if (key == "TICK_TABLE") return "from_env";
    return std::nullopt;
  };
  source.flags = {{"--table", "from_flag"}, {"--url", "ws://127.0.0.1:1"}};
  const auto [config, mistakes, places] = read_config(source);
  EXPECT_TRUE(mistakes.empty()) << mistakes.at(0);
  EXPECT_EQ(config.symbols, (std::vector<std::string>{"BTCUSDT", "ETHUSDT"}));
  EXPECT_EQ(config.stream, Stream::agg_trade);
  EXPECT_EQ(config.batch_rows, 6u);
  EXPECT_EQ(config.batch_age, std::chrono::milliseconds(7));
  EXPECT_EQ(config.table, "from_flag");
  EXPECT_EQ(config.exchange, "binance");
  EXPECT_EQ(default_connection(config), "aggTrade@127.0.0.1:1");
}

TEST(Config, TheSampleIsGoodAndNamesEverySetting) {
  std::ifstream file("ingestor/service/tick.toml");
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  const auto sample = from_toml(text);
  EXPECT_TRUE(sample.mistakes.empty()) << sample.mistakes.at(0);
  // Every line that is commented out is a setting as well, with its default unless that is nothing.
  std::string whole;
  for (std::size_t at = 0; at < text.size();) {
    const auto end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    if (line.starts_with("# ") && line.find(" = ") != std::string::npos) line = line.substr(2);
    whole += line + "\n";
    at = end + 1;
  }
  const auto all = from_toml(whole);
  EXPECT_TRUE(all.mistakes.empty()) << all.mistakes.at(0);
  const Config defaults =
      from_toml("[feed]\nsymbols = [\"BTCUSDT\", \"ETHUSDT\"]\n[database]\nconninfo = \"dbname=market\"\n")
          .config;
  for (const auto& setting : settings()) {
    EXPECT_TRUE(all.places.contains(setting.key)) << setting.key << " is not in the sample";
    if (const auto shown = setting.show(defaults); !shown.empty()) {
      EXPECT_EQ(setting.show(all.config), shown) << setting.key;
    }
  }
}

TEST(Config, OtherPipelinesNamesAreUnderstood) {
  std::map<std::string, std::string, std::less<>> variables = {{"BINANCE_SYMBOLS", "BTCUSDT,ETHUSDT"},
                                                               {"POSTGRES_HOST", "db"},
                                                               {"POSTGRES_DB", "stock data"},
                                                               {"POSTGRES_USER", "admin"},
                                                               {"POSTGRES_PASSWORD", "it's"}};
  ConfigSource source;
  source.environment = [&](const char* name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional(found->second);
  };
  auto result = read_config(source);
  EXPECT_TRUE(result.mistakes.empty());
  EXPECT_EQ(result.config.symbols, (std::vector<std::string>{"BTCUSDT", "ETHUSDT"}));
  EXPECT_EQ(result.config.database, R"(host='db' dbname='stock data' user='admin' password='it\'s')");
  EXPECT_EQ(redact(result.config.database), "host='db' dbname='stock data' user='admin' password=***");
  variables["TICK_DATABASE"] = "dbname=mine";
  source.toml = "[feed]\nname = \"coinbase\"\nsymbols = [\"BTC-USD\"]\n";
  result = read_config(source);
  EXPECT_EQ(result.config.database, "dbname=mine");
  EXPECT_EQ(result.config.symbols, (std::vector<std::string>{"BTC-USD"}));
  // Symbols of Binance are for Binance's feeds, wherever the feed is named.
  variables["TICK_FEED"] = "binance.us";
  EXPECT_EQ(read_config(source).config.symbols, (std::vector<std::string>{"BTCUSDT", "ETHUSDT"}));
  source.toml.clear();
  source.connects = false;
  variables["TICK_FEED"] = "kafka";
  EXPECT_TRUE(read_config(source).config.symbols.empty());
  variables.erase("TICK_FEED");
  source.flags = {{"--feed", "kafka"}};
  EXPECT_TRUE(read_config(source).config.symbols.empty());
  source.flags = {{"--feed", "nothing"}};
  EXPECT_FALSE(read_config(source).mistakes.empty());
}

TEST(Config, EveryMistakeIsNamedWithItsLine) {
  const auto result = from_toml(
      "[feed]\n"
      "url = \"http://x\"\n"
      "stream = \"candle\"\n"
      "symbol = [\"A\"]\n"
      "[batch]\n"
      "rows = 0\n"
      "age = \"soon\"\n"
      "[databse]\n"
      "table = \"t\"\n"
      "[database]\n"
      "table = { a = 1 }\n");
  const auto has = [&](std::string_view start, std::string_view part) {
    for (const auto& mistake : result.mistakes)
      if (mistake.starts_with(start) && mistake.find(part) != std::string::npos) return true;
    return false;
  };
  EXPECT_EQ(result.mistakes.size(), 7u);
  EXPECT_TRUE(has("tick.toml:2: feed.url must", "http://x"));
  EXPECT_TRUE(has("tick.toml:3: feed.stream must", "candle"));
  EXPECT_TRUE(has("tick.toml:4: unknown setting feed.symbol", "did you mean feed.symbols?"));
  EXPECT_TRUE(has("tick.toml:6: batch.rows must", "\"0\""));
  EXPECT_TRUE(has("tick.toml:7: batch.age must", "soon"));
  EXPECT_TRUE(has("tick.toml:9: unknown setting databse.table", "did you mean database.table?"));
  EXPECT_TRUE(has("tick.toml:11: database.table must", ""));
}

TEST(Config, SyntaxErrorsAndOtherLayers) {
  const auto broken = from_toml("[feed]\nsymbols = [\n");
  ASSERT_EQ(broken.mistakes.size(), 1u);
  EXPECT_TRUE(broken.mistakes[0].starts_with("tick.toml:")) << broken.mistakes[0];

  ConfigSource source;
  source.environment = [](const char* name) -> std::optional<std::string> {
    return std::string_view(name) == "TICK_RING" ? std::optional<std::string>("many") : std::nullopt;
  };
  source.flags = {{"--stream", "x"}};
  const auto result = read_config(source);
  ASSERT_EQ(result.mistakes.size(), 2u);
  EXPECT_TRUE(result.mistakes[0].starts_with("TICK_RING must be a whole number"));
  EXPECT_TRUE(result.mistakes[1].starts_with("--stream must be trade or aggTrade"));
}

TEST(Config, SecretsAreNotShown) {
  EXPECT_EQ(redact("postgresql://u:s3cret@h:5432/db?sslmode=require"),
            "postgresql://u:***@h:5432/db?sslmode=require");
  EXPECT_EQ(redact("host=h password=s3cret dbname=d"), "host=h password=*** dbname=d");
  EXPECT_EQ(redact("password = 'a b\\' c' host=h"), "password = *** host=h");
  EXPECT_EQ(redact("postgresql://h/db?password=x&user=y"), "postgresql://h/db?password=***&user=y");
  EXPECT_EQ(redact("dbname=market"), "dbname=market");
  for (const auto& setting : settings()) {
    ConfigSource source;
    source.flags = {{"--database", "host=h password=s3cret"}, {setting.flag, "ws://u:s3cret@h:1"}};
    for (const auto& mistake : read_config(source).mistakes)
      if (std::string_view(setting.flag) == "--url") {
        EXPECT_EQ(mistake.find("s3cret"), std::string::npos) << mistake;
      }
  }
}

TEST(Config, ConnectionNameSeparatesIdSpaces) {
  Config config;
  EXPECT_EQ(default_connection(config), "trade");
  config.url = "wss://data-stream.binance.vision";
  EXPECT_EQ(default_connection(config), "trade");
  config.url = "wss://stream.testnet.binance.vision";
  EXPECT_EQ(default_connection(config), "trade@stream.testnet.binance.vision:443");
}

TEST(Urls, Redirections) {
  const Url plain = *parse_url("http://h:8080/a/b?q=1", "http");
  const Url secure = *parse_url("https://[::1]/a/b", "http");
  std::string why;
  const auto to = [&](const Url& from, std::string_view location) -> std::string {
    why.clear();
    const auto url = redirected(from, location, why);
    EXPECT_EQ(url.has_value(), why.empty()) << location;
    return url ? (url->tls ? "https " : "http ") + url->host + " " + url->port + " " + url->target : "";
  };
  EXPECT_EQ(to(plain, "https://x.org/feed.xml#top"), "https x.org 443 /feed.xml");
  EXPECT_EQ(to(plain, "http://x.org"), "http x.org 80 /");
  EXPECT_EQ(to(plain, "//x.org/y"), "http x.org 80 /y");
  EXPECT_EQ(to(plain, "/y?r=1:2"), "http h 8080 /y?r=1:2");
  EXPECT_EQ(to(plain, "c"), "http h 8080 /a/c");
  EXPECT_EQ(to(plain, "?q=2"), "http h 8080 /a/b?q=2");
  EXPECT_EQ(to(secure, "/c"), "https ::1 443 /c");
  EXPECT_EQ(to(secure, "//x.org/y"), "https x.org 443 /y");
  EXPECT_EQ(to(secure, "http://x.org/y"), "");
  EXPECT_EQ(why, "redirected from https to http://x.org/y");
  for (const char* bad :
       {"ftp://x.org/", "mailto:a@b.c", "https://", "http://u:p@x.org/", "/a b", "http:/x"}) {
    EXPECT_EQ(to(plain, bad), "") << bad;
    EXPECT_NE(why.find("no http address"), std::string::npos) << bad;
  }
}

TEST(Url, Parts) {
  const auto url = parse_url("wss://stream.binance.com:9443/stream?streams=a");
  ASSERT_TRUE(url);
  EXPECT_TRUE(url->tls);
  EXPECT_EQ(url->host, "stream.binance.com");
  EXPECT_EQ(url->port, "9443");
  EXPECT_EQ(url->target, "/stream?streams=a");
  EXPECT_EQ(parse_url("ws://[::1]:80/x")->host, "::1");
  EXPECT_EQ(parse_url("wss://h")->port, "443");
  EXPECT_EQ(parse_url("ws://h?x=1")->target, "/?x=1");
  for (const auto* text :
       {"", "http://h", "ws://", "ws://:1", "ws://h:x", "ws://h:1/a b", "ws://u:p@h", "ws://[::1"})
    EXPECT_FALSE(parse_url(text)) << text;
}

TEST(Position, RoundTrip) {
  Position position;
  position.session = "ab\"c";
  position.batch = 18446744073709551615u;
  position.table = "public.\"My Trades\"";
  position.record = 41247;
  position.ids = {{"BTCUSDT", 3735703162}, {"A\\B", -1}};
  const auto back = parse_position(to_json(position));
  ASSERT_TRUE(back);
  EXPECT_EQ(back->session, position.session);
  EXPECT_EQ(back->batch, position.batch);
  EXPECT_EQ(back->table, position.table);
  EXPECT_EQ(back->record, position.record);
  EXPECT_EQ(back->ids, position.ids);
  position.holes = {{"BTCUSDT", {{5, 9, Timestamp(std::chrono::microseconds(7))}, {11, 11, {}}}}};
  position.times = {{"BTCUSDT", Timestamp(std::chrono::microseconds(1723161255342123))}};
  EXPECT_EQ(parse_position(to_json(position))->holes, position.holes);
  EXPECT_EQ(parse_position(to_json(position))->times, position.times);
  EXPECT_FALSE(parse_position(R"({"holes":{"A":[[2,1,0]]}})"));
  EXPECT_FALSE(parse_position(R"({"holes":{"A":[[1]]}})"));
  EXPECT_FALSE(parse_position("[]"));
  EXPECT_FALSE(parse_position(R"({"ids":{"A":"x"}})"));
  EXPECT_TRUE(parse_position(R"({"future":1})"));
}

TEST(Position, IdsInAnyOrderAreTakenOnce) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    Position position;
    std::set<std::int64_t> in;
    const std::int64_t start = 1000;
    position.take("A", start, {});
    for (int i = 0; i < 120; ++i) {
      const std::int64_t id = start + static_cast<std::int64_t>(random() % 60);
      const bool fresh = id != start && in.insert(id).second;
      EXPECT_NE(position.has("A", id), fresh) << id;
      EXPECT_EQ(position.take("A", id, {}), fresh) << id;
      EXPECT_TRUE(position.has("A", id));
    }
    std::int64_t missing = 0;
    for (const auto& hole : position.holes["A"]) {
      for (std::int64_t id = hole.first; id <= hole.last; ++id) EXPECT_FALSE(in.contains(id)) << id;
      missing += hole.last - hole.first + 1;
    }
    EXPECT_EQ(missing, position.ids["A"] - start - static_cast<std::int64_t>(in.size()));
    EXPECT_FALSE(position.take("A", start - 1, {}));
  }
}

}  // namespace
