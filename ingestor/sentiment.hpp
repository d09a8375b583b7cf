// What a short text says of a price, from -1 (it falls) to 1 (it rises): by a lexicon of words, phrases and
// emoji, or by asking a server in its own words. Pure: text in, number out.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace tick::ingest {

class Lexicon {
 public:
  // The format is told in ingestor/lexicon.txt. Nothing, and the mistake with its line, when it is not that.
  static std::optional<Lexicon> parse(std::string_view text, std::string& mistake);
  static std::string_view built_in();  // the text of that file

  // 0 when the text says nothing.
  double score(std::string_view text) const;

 private:
  struct Term {
    enum class What { weight, strengthens, negates } what = What::weight;
    double value = 0;
  };
  std::unordered_map<std::string, Term> terms_;
  std::size_t longest_ = 1;  // words of a phrase
};

// Scores nearer to 0 than this are best taken for neutral.
constexpr double least_telling_score = 0.35;

// The words, emoji and ends of sentences (".") of a text that a lexicon knows, lower case.
std::vector<std::string> words_of(std::string_view text);

// {"texts": [...]} for a scoring server, and its {"scores": [...]}: nothing, and what is wrong, unless there
// are `count` numbers from -1 to 1.
std::string scorer_request(const std::vector<std::string_view>& texts);
std::optional<std::vector<double>> scorer_answer(std::string_view body, std::size_t count,
                                                 const char*& wrong);

}  // namespace tick::ingest
