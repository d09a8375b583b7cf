// What the verb `check` has found, printed as it is found: what is good, with its figure, and each mistake
// with the place of its setting and the cure.
#pragma once

#include <cstdio>
#include <string>

#include "config.hpp"

namespace tick::ingest {

class Findings {
 public:
  explicit Findings(const ConfigResult& read) : read_(read) {}

  void good(const std::string& text) { std::printf("ok       %s\n", text.c_str()); }
  void note(const std::string& text) { std::printf("note     %s\n", text.c_str()); }
  // `key` is the setting that has to be changed.
  void mistake(const std::string& key, const std::string& what, const std::string& cure) {
    const auto place = read_.places.find(key);
    std::printf("MISTAKE  %s%s: %s\n         cure: %s\n",
                place == read_.places.end() ? "(default) " : (place->second + ": ").c_str(), key.c_str(),
                what.c_str(), cure.c_str());
    ++mistakes_;
  }
  void mistake(const std::string& text) {
    std::printf("MISTAKE  %s\n", text.c_str());
    ++mistakes_;
  }
  // Not a matter of a setting.
  void broken(const std::string& what, const std::string& cure) {
    std::printf("MISTAKE  %s\n         cure: %s\n", what.c_str(), cure.c_str());
    ++mistakes_;
  }
  std::size_t mistakes() const { return mistakes_; }

 private:
  const ConfigResult& read_;
  std::size_t mistakes_ = 0;
};

}  // namespace tick::ingest
