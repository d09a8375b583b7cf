// libFuzzer over what posts go through: an event of Jetstream, a document of RSS or Atom, a text's symbols
// and score, a lexicon, and a scoring server's answer. No input may crash, or give a post, a symbol or a
// score that the table cannot have.
#include <cmath>
#include <cstdlib>

#include "ingestor/feeds/jetstream.hpp"
#include "ingestor/feeds/rss.hpp"
#include "ingestor/mentions.hpp"
#include "ingestor/sentiment.hpp"

namespace {

using namespace tick::ingest;

void read_text(std::string_view text) {
  static const Mentions some({"BTCUSDT", "BRK.B", "AAPL"}, {{"SATS", "BTCUSDT"}});
  static const Mentions any({}, {});
  static const Lexicon lexicon = [] {
    std::string mistake;
    return std::move(*Lexicon::parse(Lexicon::built_in(), mistake));
  }();
  for (const auto* mentions : {&some, &any})
    for (const auto& symbol : mentions->find(text))
      if (symbol.empty() || symbol.size() > 31) std::abort();
  if (!(std::abs(lexicon.score(text)) <= 1)) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  static Jetstream stream;
  const Timestamp received{std::chrono::microseconds(1'800'000'000'000'000)};
  Post post;
  std::int64_t cursor = 0;
  const Decoded decoded = stream.decode(text, received, post, cursor);
  if (cursor < 0 || cursor > 1'800'086'400'000'000) std::abort();
  if (decoded.verdict == Verdict::tick) {
    if (cursor == 0 || post.cursor != cursor || post.author.empty() ||
        post.id.size() <= post.author.size() + 1 || (post.id + post.text).find('\0') != std::string::npos)
      std::abort();
    read_text(post.text);
  }
  std::vector<Post> articles;
  const Decoded document = read_articles(text, received, articles);
  if (articles.empty() != (document.verdict != Verdict::tick)) std::abort();
  for (const auto& article : articles) {
    const std::string all = article.id + article.author + article.text;
    if (article.id.empty() || article.text.empty() || article.ts > received || article.cursor <= 0 ||
        !simdjson::validate_utf8(all.data(), all.size()) || all.find('\0') != std::string::npos)
      std::abort();
    read_text(article.text);
  }
  read_text(text);
  std::string mistake;
  if (const auto lexicon = Lexicon::parse(text, mistake)) {
    if (!(std::abs(lexicon->score(text)) <= 1)) std::abort();
  } else if (!mistake.starts_with("line ")) {
    std::abort();
  }
  const char* wrong = "";
  if (const auto scores = scorer_answer(text, 2, wrong))
    if (scores->size() != 2) std::abort();
  return 0;
}
