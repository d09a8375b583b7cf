// Cashtags and names in a text; see mentions.hpp.
#include "mentions.hpp"

#include <algorithm>
#include <cctype>

namespace tick::ingest {

namespace {

constexpr std::size_t longest_any = 6;  // of a cashtag that nobody asked for

// Only names that mean little else: "apple", "meta" or "sol" do.
constexpr struct {
  std::string_view ticker;
  std::string_view name;
} well_known[] = {
    {"BTC", "BITCOIN"},    {"BTC", "BTC"},
    {"BTC", "XBT"},        {"ETH", "ETHEREUM"},
    {"ETH", "ETH"},        {"BNB", "BNB"},
    {"SOL", "SOLANA"},     {"XRP", "XRP"},
    {"ADA", "CARDANO"},    {"DOGE", "DOGECOIN"},
    {"LTC", "LITECOIN"},   {"DOT", "POLKADOT"},
    {"LINK", "CHAINLINK"}, {"AVAX", "AVAX"},
    {"XMR", "MONERO"},     {"TSLA", "TESLA"},
    {"NVDA", "NVIDIA"},    {"AMZN", "AMAZON"},
    {"MSFT", "MICROSOFT"}, {"GOOGL", "GOOGLE"},
    {"GOOG", "GOOGLE"},    {"NFLX", "NETFLIX"},
    {"INTC", "INTEL"},     {"PLTR", "PALANTIR"},
    {"COIN", "COINBASE"},  {"MSTR", "MICROSTRATEGY"},
};

constexpr std::string_view quotes[] = {"FDUSD", "USDT", "USDC", "USD", "EUR", "GBP"};

bool letter(char c) {
  return std::isalpha(static_cast<unsigned char>(c)) != 0;
}

bool of_word(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0;
}

std::string upper(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return std::toupper(c); });
  return out;
}

std::string_view word_at(std::string_view text, std::size_t at) {
  std::size_t end = at;
  while (end < text.size() && of_word(text[end])) ++end;
  return text.substr(at, end - at);
}

}  // namespace

std::string_view base_of(std::string_view symbol) {
  const auto separator = symbol.find_first_of("-/");
  if (separator != std::string_view::npos && separator > 0) return symbol.substr(0, separator);
  for (const auto quote : quotes)
    if (symbol.size() > quote.size() + 1 && symbol.ends_with(quote))
      return symbol.substr(0, symbol.size() - quote.size());
  return symbol;
}

Mentions::Mentions(const std::vector<std::string>& symbols,
                   const std::map<std::string, std::string, std::less<>>& names)
    : any_(symbols.empty()) {
  const auto wanted = [&](const std::string& symbol) {
    return std::find(symbols.begin(), symbols.end(), symbol) != symbols.end();
  };
  // What is written down is stronger than what is guessed, and the first symbol of a coin than the next.
  for (const auto& [name, symbol] : names) {
    if (!any_ && !wanted(symbol)) continue;
    tickers_.emplace(upper(name), symbol);
    if (std::all_of(name.begin(), name.end(), of_word)) words_.emplace(upper(name), symbol);
  }
  for (const auto& symbol : symbols) tickers_.emplace(upper(symbol), symbol);
  for (const auto& symbol : symbols) {
    const std::string base = upper(base_of(symbol));
    tickers_.emplace(base, symbol);
    for (const auto& known : well_known)
      if (known.ticker == base) words_.emplace(known.name, symbol);
  }
}

std::vector<std::string> Mentions::find(std::string_view text) const {
  std::vector<std::string> found;
  const auto add = [&](const std::string& symbol) {
    if (std::find(found.begin(), found.end(), symbol) == found.end()) found.push_back(symbol);
  };
  for (std::size_t at = 0; at < text.size();) {
    const char c = text[at];
    if (c == '$' && at + 1 < text.size() && letter(text[at + 1]) && (at == 0 || !of_word(text[at - 1]))) {
      const std::string_view tag = word_at(text, at + 1);
      at += 1 + tag.size();
      // BRK.B and BTC-USD are longer than a word.
      if (at + 1 < text.size() && (text[at] == '.' || text[at] == '-' || text[at] == '/')) {
        const std::string_view more = word_at(text, at + 1);
        const auto longer = tickers_.find(upper(text.substr(at - tag.size(), tag.size() + 1 + more.size())));
        if (!more.empty() && longer != tickers_.end()) {
          add(longer->second);
          at += 1 + more.size();
          continue;
        }
      }
      const std::string ticker = upper(tag);
      if (const auto known = tickers_.find(ticker); known != tickers_.end())
        add(known->second);
      else if (const auto word = words_.find(ticker); word != words_.end())
        add(word->second);
      else if (any_ && tag == ticker && tag.size() <= longest_any)
        add(ticker);
      continue;
    }
    if (!of_word(c)) {
      ++at;
      continue;
    }
    const std::string_view word = word_at(text, at);
    at += word.size();
    if (text.substr(at).starts_with("://")) {  // an address says little of what a text is about
      at = std::min(text.find_first_of(" \t\n\r", at), text.size());
      continue;
    }
    if (const auto known = words_.find(upper(word)); known != words_.end()) add(known->second);
  }
  return found;
}

}  // namespace tick::ingest
