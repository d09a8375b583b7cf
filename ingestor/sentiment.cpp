// Words, weights and their sum; see sentiment.hpp.
#include "sentiment.hpp"

#include <algorithm>
#include <cctype>
#include <cmath>

#include <simdjson.h>

#include "number.hpp"
#include "position.hpp"

asm(R"(
.section .rodata
tick_lexicon_begin:
.incbin "ingestor/lexicon.txt"
tick_lexicon_end:
.byte 0
.previous
)");
extern "C" __attribute__((visibility("hidden"))) const char tick_lexicon_begin[];
extern "C" __attribute__((visibility("hidden"))) const char tick_lexicon_end[];

namespace tick::ingest {

namespace {

constexpr std::size_t most_words = 6;    // of a phrase
constexpr std::size_t reach = 3;         // of a negation
constexpr double turned = -0.7;          // "not good" is less bad than "bad" is
constexpr double half_way = 2;           // a sum of so much is a score of 0.7
constexpr double most_strengthened = 4;  // "very very very"
constexpr double most_of_a_term = 100;

bool letter(char c) {
  return std::isalpha(static_cast<unsigned char>(c)) != 0;
}

bool digit(char c) {
  return c >= '0' && c <= '9';
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front()))) text.remove_prefix(1);
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.remove_suffix(1);
  return text;
}

// The character at the front as its number, and its bytes; 0xfffd for what is no UTF-8.
char32_t character(std::string_view text, std::size_t& bytes) {
  const auto first = static_cast<unsigned char>(text.front());
  bytes = first < 0x80 ? 1 : first >> 5 == 6 ? 2 : first >> 4 == 14 ? 3 : first >> 3 == 30 ? 4 : 1;
  if (bytes == 1) return first < 0x80 ? first : 0xfffd;
  if (bytes > text.size()) return bytes = 1, 0xfffd;
  char32_t value = first & (0x7fu >> bytes);
  for (std::size_t i = 1; i < bytes; ++i) value = value << 6 | (static_cast<unsigned char>(text[i]) & 0x3f);
  return value;
}

std::string emoji(char32_t value) {
  char text[16];
  std::snprintf(text, sizeof text, "u+%x", static_cast<unsigned>(value));
  return text;
}

bool is_emoji(char32_t value) {
  if (value >= 0x1f3fb && value <= 0x1f3ff) return false;  // colours of skin
  return (value >= 0x1f000 && value <= 0x1faff) || (value >= 0x2600 && value <= 0x27bf);
}

// A text with typographic apostrophes made plain, and in lower case.
std::string plain(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    if (text.substr(at).starts_with("\xe2\x80\x99")) {
      out += '\'';
      at += 3;
    } else {
      out += static_cast<char>(std::tolower(static_cast<unsigned char>(text[at++])));
    }
  }
  return out;
}

std::size_t skip(std::string_view text, std::size_t at, bool (*inside)(char)) {
  while (at < text.size() && inside(text[at])) ++at;
  return at;
}

// Words with what joins their parts: all-time, won't.
std::size_t end_of_word(std::string_view text, std::size_t at) {
  const auto part = [](char c) { return letter(c) || digit(c); };
  at = skip(text, at, part);
  while (at + 1 < text.size() && (text[at] == '-' || text[at] == '\'') && part(text[at + 1]))
    at = skip(text, at + 1, part);
  return at;
}

}  // namespace

std::vector<std::string> words_of(std::string_view original) {
  const std::string text = plain(original);
  const std::string_view view = text;
  std::vector<std::string> words;
  const auto no_space = [](char c) { return !std::isspace(static_cast<unsigned char>(c)); };
  const auto of_name = [](char c) { return letter(c) || digit(c) || c == '_' || c == '.' || c == '-'; };
  const auto of_number = [](char c) { return digit(c) || c == '.' || c == ','; };
  for (std::size_t at = 0; at < view.size();) {
    const char c = view[at];
    const char next = at + 1 < view.size() ? view[at + 1] : '\0';
    if (view.substr(at).starts_with("http://") || view.substr(at).starts_with("https://")) {
      at = skip(view, at, no_space);
    } else if ((c == '@' || c == '$') && letter(next)) {
      at = skip(view, at + 1, of_name);
      if (view[at - 1] == '.') --at;  // the end of a sentence
    } else if ((c == '+' || c == '-') && (digit(next) || next == '$')) {
      at = skip(view, skip(view, at + 1, [](char d) { return d == '$'; }), of_number);
      if (at < view.size() && view[at] == '%') words.push_back({c, '%'});
    } else if (digit(c)) {
      const std::size_t end = end_of_word(view, at);
      words.emplace_back(view.substr(at, end - at));  // 52-week, 10
      at = skip(view, end, of_number);
      if (end < at && view[at - 1] == '.') --at;
    } else if (letter(c)) {
      const std::size_t end = end_of_word(view, at);
      words.emplace_back(view.substr(at, end - at));
      at = end;
    } else if (c == '.' || c == '!' || c == '?' || c == ';' || c == '\n') {
      words.emplace_back(".");
      ++at;
    } else {
      std::size_t bytes = 1;
      const char32_t value = character(view.substr(at), bytes);
      if (is_emoji(value)) words.push_back(emoji(value));
      at += bytes;
    }
  }
  return words;
}

std::string_view Lexicon::built_in() {
  return {tick_lexicon_begin, static_cast<std::size_t>(tick_lexicon_end - tick_lexicon_begin)};
}

std::optional<Lexicon> Lexicon::parse(std::string_view text, std::string& mistake) {
  Lexicon lexicon;
  std::size_t number = 0;
  const auto wrong = [&](const std::string& what) {
    mistake = "line " + std::to_string(number) + ": " + what;
    return std::nullopt;
  };
  while (!text.empty()) {
    const auto end = std::min(text.find('\n'), text.size());
    const std::string_view line = trimmed(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    ++number;
    if (line.empty() || line.starts_with('#')) continue;
    const auto colon = line.find(':');
    if (colon == std::string_view::npos) return wrong("must be VALUE: TERM, TERM, ...");
    const std::string_view value = trimmed(line.substr(0, colon));
    Term term;
    if (value == "negates") {
      term.what = Term::What::negates;
    } else {
      if (value.starts_with('x')) term.what = Term::What::strengthens;
      const auto parsed = parse_decimal(value.substr(term.what == Term::What::strengthens ? 1 : 0));
      if (!parsed || std::abs(*parsed) > most_of_a_term ||
          (term.what == Term::What::strengthens && *parsed <= 0))
        return wrong("\"" + std::string(value) + "\" must be a number, x and a number, or negates");
      term.value = *parsed;
    }
    std::string_view rest = line.substr(colon + 1);
    for (;;) {
      const auto comma = std::min(rest.find(','), rest.size());
      const std::string_view one = trimmed(rest.substr(0, comma));
      const auto words = words_of(one);
      const std::string lower = plain(one);
      std::string key;
      if (lower.starts_with("u+") || lower == "+%" || lower == "-%")
        key = lower;
      else
        for (const auto& word : words) key += (key.empty() ? "" : " ") + word;
      if (key.empty() || words.size() > most_words)
        return wrong("\"" + std::string(one) + "\" must be one to six words, or an emoji as U+1F680");
      if (!lexicon.terms_.emplace(key, term).second) return wrong("\"" + key + "\" is there already");
      lexicon.longest_ = std::max(lexicon.longest_, words.size());
      if (comma == rest.size()) break;
      rest.remove_prefix(comma + 1);
    }
  }
  return lexicon;
}

double Lexicon::score(std::string_view text) const {
  auto words = words_of(text);
  // Numbers stand for nothing, and must not part "raised to $50 from" either.
  std::erase_if(words, [&](const std::string& word) { return digit(word[0]) && !terms_.contains(word); });
  double sum = 0;
  double strength = 1;
  std::size_t negated = 0;  // words that are
  std::unordered_map<std::string_view, bool> counted;
  for (std::size_t at = 0; at < words.size();) {
    if (words[at] == ".") {
      negated = 0;
      strength = 1;
      ++at;
      continue;
    }
    std::size_t length = std::min(longest_, words.size() - at);
    auto found = terms_.end();
    for (std::string phrase; length > 0; --length) {
      phrase = words[at];
      for (std::size_t i = 1; i < length; ++i) phrase += ' ' + words[at + i];
      if ((found = terms_.find(phrase)) != terms_.end()) break;
    }
    const bool negates =
        found == terms_.end() ? words[at].ends_with("n't") : found->second.what == Term::What::negates;
    at += std::max<std::size_t>(length, 1);
    if (found != terms_.end() && found->second.what == Term::What::strengthens) {
      strength = std::min(strength * found->second.value, most_strengthened);
      negated -= negated > 0;
      continue;
    }
    if (found != terms_.end() && found->second.what == Term::What::weight &&
        counted.emplace(found->first, true).second)
      sum += found->second.value * strength * (negated > 0 ? turned : 1);
    strength = 1;
    negated = negates ? reach : negated - (negated > 0);
  }
  return sum / std::sqrt(sum * sum + half_way * half_way);
}

std::string scorer_request(const std::vector<std::string_view>& texts) {
  std::string out = "{\"texts\":[";
  for (const auto text : texts) {
    if (out.back() != '[') out += ',';
    append_json_string(out, text);
  }
  return out + "]}";
}

std::optional<std::vector<double>> scorer_answer(std::string_view body, std::size_t count,
                                                 const char*& wrong) {
  simdjson::dom::parser parser;
  simdjson::dom::array scores;
  wrong = "the answer has no array \"scores\"";
  if (parser.parse(body.data(), body.size()).at_key("scores").get(scores)) return std::nullopt;
  std::vector<double> out;
  for (const auto element : scores) {
    double score = 0;
    wrong = "a score is no number from -1 to 1";
    if (element.get(score) || !(score >= -1 && score <= 1)) return std::nullopt;
    out.push_back(score);
  }
  wrong = "there are not as many scores as texts";
  if (out.size() != count) return std::nullopt;
  return out;
}

}  // namespace tick::ingest
