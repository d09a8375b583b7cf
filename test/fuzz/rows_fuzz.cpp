// libFuzzer over the rows of files: the first byte chooses CSV or JSON, the rest are lines. No line may
// crash, give a tick that the table cannot have, or harm the next one.
#include <cstdlib>
#include <stdexcept>

#include "ingestor/replay.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tick::ingest;
  if (size == 0) return 0;
  std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  RowOptions options;
  options.symbol = "A";
  if ((data[0] & 2) != 0) options.offset = std::chrono::minutes(60);
  CsvRows csv(options);
  JsonRows json(options);
  std::vector<Tick> out;
  (void)detect_framing(text);
  while (!text.empty()) {
    const auto end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const std::size_t before = out.size();
    Decoded decoded;
    try {
      decoded = (data[0] & 1) != 0 ? csv.decode(line, {}, out) : json.decode(line, {}, out);
    } catch (const std::runtime_error&) {
      return 0;  // no layout fits: the file as a whole is refused
    }
    if (out.size() != before + (decoded.verdict == Verdict::tick ? 1 : 0)) std::abort();
    for (const Framing framing : {Framing::nanoseconds, Framing::connection}) (void)unframe(framing, line);
  }
  for (const auto& tick : out)
    if (!(tick.price > 0) || tick.qty < 0 || tick.symbol.view().empty()) std::abort();
  return 0;
}
