// Who scores texts: the lexicon, or a server over HTTP. A server that does not answer in time, or wrongly, is
// left alone for a while, longer each time; whoever asks meanwhile gets nothing at once. Not thread safe.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "config.hpp"
#include "sentiment.hpp"

namespace tick::ingest {

class Scorer {
 public:
  // Throws std::runtime_error when the lexicon cannot be read.
  explicit Scorer(const Config& config);

  // A score for each text, or nothing.
  std::optional<std::vector<double>> score(const std::vector<std::string_view>& texts);
  bool remote() const { return !lexicon_; }
  bool ready() const { return std::chrono::steady_clock::now() >= next_try_; }
  // Whether the last failure was an answer: it may lie in the texts.
  bool answered() const { return answered_; }

 private:
  const Config& config_;
  std::optional<Lexicon> lexicon_;
  std::chrono::steady_clock::time_point next_try_{};
  int failures_ = 0;
  bool answered_ = false;
};

}  // namespace tick::ingest
