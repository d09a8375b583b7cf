// libFuzzer over the decoders of all venues with a WebSocket: the low five bits of the first byte choose the
// venue, and below 64 its REST answers. No input may crash, leave a tick without its verdict, or break the
// decoder for the next message.
#include <cstdint>
#include <cstdlib>

#include "ingestor/feed.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tick::ingest;
  if (size == 0) return 0;
  static std::vector<std::unique_ptr<Feed>> feeds = [] {
    std::vector<std::unique_ptr<Feed>> all;
    for (const auto& venue : venues())
      if (venue.make != nullptr) all.push_back(venue.make(Stream::any));
    return all;
  }();
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const Timestamp received{std::chrono::microseconds(1'800'000'000'000'000)};
  std::vector<Tick> out;
  auto& feed = *feeds[data[0] % 32 % feeds.size()];  // seeds stay what they are when venues come
  if (data[0] >= 64) {
    const Decoded decoded = feed.decode(text, received, out);
    if (out.empty() != (decoded.verdict != Verdict::tick)) std::abort();
  } else if (feed.decode_history(text, "A", received, out).verdict != Verdict::tick && !out.empty()) {
    std::abort();
  }
  for (const auto& tick : out)
    if (!(tick.price > 0) || (tick.has_qty && !(tick.qty > 0)) || tick.id < 0 || tick.symbol.view().empty() ||
        tick.ts.time_since_epoch().count() <= 0 || tick.ts > received + std::chrono::days(1))
      std::abort();
  return 0;
}
