// Broken messages for a decoder: every truncation of a real one, and random edits of it. Whatever comes, a
// tick is a possible one, and the decoder is as good as new afterwards.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <random>
#include <string>

#include "ingestor/feed.hpp"

namespace tick::ingest {

// Seeded by TICK_SEED, else at random; prints the seed.
inline std::mt19937 seeded_random() {
  const char* given = std::getenv("TICK_SEED");
  const auto seed =
      given != nullptr ? static_cast<unsigned>(std::strtoul(given, nullptr, 10)) : std::random_device{}();
  std::cout << "seed " << seed << " (TICK_SEED)\n";
  return std::mt19937(seed);
}

// One random edit.
inline void mutate(std::string& text, std::mt19937& random) {
  constexpr std::string_view special = "{}[]\":,\\u0000null-+eE.19\x80\xff";
  if (text.empty()) return;
  const std::size_t at = random() % text.size();
  switch (random() % 4) {
    case 0:
      text.insert(at, 1, special[random() % special.size()]);
      break;
    case 1:
      text.erase(at, random() % 8);
      break;
    case 2:
      text[at] = static_cast<char>(random());
      break;
    default:
      text.insert(at, text.substr(random() % text.size(), random() % 24));
      break;
  }
}

inline void expect_unbroken(Feed& feed, std::string_view frame, std::mt19937& random, int rounds) {
  std::vector<Tick> out;
  std::size_t ticks = 0;
  for (std::size_t n = 0; n < frame.size(); ++n)
    EXPECT_EQ(feed.decode(frame.substr(0, n), Timestamp{}, out).verdict, Verdict::malformed)
        << frame.substr(0, n);
  for (int i = 0; i < rounds; ++i) {
    std::string text(frame);
    for (auto edits = 1 + random() % 6; edits > 0; --edits) mutate(text, random);
    out.clear();
    const auto decoded = feed.decode(text, Timestamp{}, out);
    ASSERT_EQ(out.empty(), decoded.verdict != Verdict::tick) << text;
    for (const auto& tick : out) {
      ASSERT_TRUE(tick.price > 0 && tick.qty > 0 && tick.id >= 0) << text;
      ASSERT_FALSE(tick.symbol.view().empty()) << text;
      ++ticks;
    }
    if (i % 1000 != 0) continue;
    out.clear();
    ASSERT_EQ(feed.decode(frame, Timestamp{}, out).verdict, Verdict::tick) << text;
  }
  EXPECT_GT(ticks, 0U) << "no edit has left a tick";
}

}  // namespace tick::ingest
