// Lexicon or server; see scorer.hpp.
#include "scorer.hpp"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include "log.hpp"
#include "socket.hpp"

namespace tick::ingest {

namespace {
constexpr auto first_pause = std::chrono::seconds(1);
constexpr int most_doublings = 6;
}  // namespace

Scorer::Scorer(const Config& config) : config_(config) {
  if (!config.scorer_url.empty()) return;
  std::string text(Lexicon::built_in());
  if (!config.lexicon.empty()) {
    std::ifstream file(config.lexicon);
    if (!file) throw std::runtime_error(config.lexicon + ": cannot be opened");
    text.assign(std::istreambuf_iterator<char>(file), {});
  }
  std::string mistake;
  lexicon_ = Lexicon::parse(text, mistake);
  if (!lexicon_) throw std::runtime_error(config.lexicon + ": " + mistake);
}

std::optional<std::vector<double>> Scorer::score(const std::vector<std::string_view>& texts) {
  if (lexicon_) {
    std::vector<double> scores;
    for (const auto text : texts) scores.push_back(lexicon_->score(text));
    return scores;
  }
  if (texts.empty()) return std::vector<double>();
  if (!ready()) return std::nullopt;
  const auto url = parse_url(config_.scorer_url, "http");
  if (!url) throw std::runtime_error("impossible address " + config_.scorer_url);
  const std::string question = scorer_request(texts);
  const HttpReply reply = http_ask(*url, &question, {config_.tls_verify, config_.tls_ca},
                                   std::chrono::ceil<std::chrono::milliseconds>(config_.scorer_timeout));
  const char* wrong = "";
  auto scores = reply.status == 200 ? scorer_answer(reply.body, texts.size(), wrong) : std::nullopt;
  answered_ = reply.status != 0;
  if (scores) {
    if (failures_ > 0) log::info("the scorer answers again");
    failures_ = 0;
    return scores;
  }
  const std::string what = reply.status == 0     ? reply.body
                           : reply.status == 200 ? wrong
                                                 : "HTTP status " + std::to_string(reply.status);
  if (failures_ == 0) log::warn("no scores from " + redact(config_.scorer_url) + ": " + what);
  std::chrono::steady_clock::duration pause = first_pause * (1 << std::min(failures_++, most_doublings));
  if (reply.retry_after > 0) pause = std::chrono::seconds(std::min(reply.retry_after, 3600));
  next_try_ = std::chrono::steady_clock::now() + pause;
  return std::nullopt;
}

}  // namespace tick::ingest
