// Reading recordings and files; see replay.hpp. zlib reads plain files as they are.
#include "replay.hpp"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdio>
#include <stdexcept>

#include "number.hpp"

namespace tick::ingest {

namespace {

constexpr std::size_t chunk_bytes = 256 * 1024;
constexpr std::size_t longest_record = 256u << 20;
constexpr std::size_t identity_bytes = 64 * 1024;

std::size_t leading_digits(std::string_view text) {
  const auto end = text.find_first_not_of("0123456789");
  return end == std::string_view::npos ? text.size() : end;
}

// "1633998512.0633569: {..." -> the time, and the payload in `line`.
std::optional<Timestamp> take_time(std::string_view& line) {
  const auto colon = line.find(": ");
  if (colon == std::string_view::npos || colon > 24) return std::nullopt;
  const std::string_view text = line.substr(0, colon);
  if (leading_digits(text) < 9) return std::nullopt;
  const auto time = parse_time(text);
  if (time) line.remove_prefix(colon + 2);
  return time;
}

}  // namespace

Framing detect_framing(std::string_view start) {
  if (start.starts_with("\xef\xbb\xbf")) start.remove_prefix(3);
  while (!start.empty() && std::isspace(static_cast<unsigned char>(start[0]))) start.remove_prefix(1);
  if (start.starts_with("[")) return Framing::array;
  if (start.starts_with("{")) return Framing::lines;
  const std::string_view line = start.substr(0, start.find('\n'));
  const std::size_t number = leading_digits(line);
  if (number >= 16 && number <= 19 && line.size() > number + 1 && line[number] == ' ' &&
      (line[number + 1] == '{' || line[number + 1] == '['))
    return Framing::nanoseconds;
  std::string_view rest = line;
  if (take_time(rest)) return Framing::connection;
  const auto scheme = line.find("://");
  if (scheme != std::string_view::npos && scheme < 8 &&
      (line.find(" -> ") != std::string_view::npos || line.find(" <-> ") != std::string_view::npos ||
       line.find(" <- ") != std::string_view::npos))
    return Framing::connection;
  return Framing::csv;
}

std::optional<Record> unframe(Framing framing, std::string_view line) {
  Record record;
  if (framing == Framing::nanoseconds) {
    const std::size_t number = leading_digits(line);
    if (number == 0 || number >= line.size() || line[number] != ' ') return std::nullopt;
    const auto time = parse_time(line.substr(0, number));
    if (!time) return std::nullopt;
    record.received = *time;
    record.text = line.substr(number + 1);
    return record;
  }
  if (framing == Framing::connection) {
    const auto time = take_time(line);
    if (!time) return std::nullopt;
    if (line.size() >= 3 && line.starts_with("b'") && line.ends_with("'"))
      line = line.substr(2, line.size() - 3);
    record.received = *time;
    record.text = line;
    return record;
  }
  record.text = line;
  return record;
}

namespace {

// The bytes of a file, unpacked: gzip, a zip archive of one file (as exchanges publish their dumps), or as it
// is.
class Bytes {
 public:
  explicit Bytes(const std::string& path) : path_(path), zipped_(path.ends_with(".zip")) {
    std::FILE* file = std::fopen(path.c_str(), "rb");
    if (file == nullptr) throw std::runtime_error(path + ": cannot be opened");
    std::fseek(file, 0, SEEK_END);
    size_ = std::max<double>(1, static_cast<double>(std::ftell(file)));
    std::rewind(file);
    if (zipped_) {
      file_ = file;
      open_zip();
      return;
    }
    std::fclose(file);
    gz_ = gzopen(path.c_str(), "rb");
    if (gz_ == nullptr) throw std::runtime_error(path + ": cannot be opened");
    gzbuffer(gz_, chunk_bytes);
  }
  ~Bytes() {
    if (gz_ != nullptr) gzclose(gz_);
    if (file_ != nullptr) std::fclose(file_);
    if (inflating_) inflateEnd(&stream_);
  }
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;

  // Returns how many; 0 at the end.
  std::size_t read(char* out, std::size_t most) {
    if (zipped_) return read_zip(out, most);
    const int n = gzread(gz_, out, static_cast<unsigned>(most));
    int code = Z_OK;
    const char* message = gzerror(gz_, &code);
    if (n < 0 || (code != Z_OK && code != Z_STREAM_END && code != Z_BUF_ERROR))
      throw std::runtime_error(path_ + ": " + message);
    if (n == 0 && code == Z_BUF_ERROR) throw std::runtime_error(path_ + ": the file is cut off");
    return static_cast<std::size_t>(n);
  }

  double progress() const {
    const auto at = zipped_ ? std::ftell(file_) : gzoffset(gz_);
    return std::clamp(static_cast<double>(at) / size_, 0.0, 1.0);
  }

 private:
  static constexpr std::size_t header_bytes = 30;
  static unsigned word(const unsigned char* at) { return at[0] | static_cast<unsigned>(at[1]) << 8; }

  void open_zip() {
    unsigned char header[header_bytes];
    if (std::fread(header, 1, header_bytes, file_) != header_bytes ||
        std::string_view(reinterpret_cast<char*>(header), 4) != "PK\3\4")
      throw std::runtime_error(path_ + ": not a zip file");
    if ((word(header + 6) & 1) != 0 || word(header + 8) != Z_DEFLATED)
      throw std::runtime_error(path_ + ": encrypted, or packed in a way that is not known: unpack it first");
    std::fseek(file_, static_cast<long>(word(header + 26) + word(header + 28)), SEEK_CUR);
    if (inflateInit2(&stream_, -MAX_WBITS) != Z_OK) throw std::bad_alloc();
    inflating_ = true;
    packed_.resize(chunk_bytes);
  }

  std::size_t read_zip(char* out, std::size_t most) {
    stream_.next_out = reinterpret_cast<Bytef*>(out);
    stream_.avail_out = static_cast<uInt>(most);
    while (!ended_ && stream_.avail_out > 0) {
      if (stream_.avail_in == 0) {
        stream_.next_in = reinterpret_cast<Bytef*>(packed_.data());
        stream_.avail_in = static_cast<uInt>(std::fread(packed_.data(), 1, packed_.size(), file_));
        if (stream_.avail_in == 0) throw std::runtime_error(path_ + ": the file is cut off");
      }
      const int code = inflate(&stream_, Z_NO_FLUSH);
      if (code != Z_OK && code != Z_STREAM_END)
        throw std::runtime_error(path_ + ": " + (stream_.msg != nullptr ? stream_.msg : "broken"));
      if (code == Z_STREAM_END) {
        ended_ = true;
        only_one();
      }
    }
    return most - stream_.avail_out;
  }

  // Behind the file's bytes come its sizes, perhaps, and then the directory: not another file.
  void only_one() {
    std::string rest(reinterpret_cast<char*>(stream_.next_in), stream_.avail_in);
    char more[64];
    rest.append(more, std::fread(more, 1, sizeof more, file_));
    if (rest.substr(0, 48).find("PK\3\4") != std::string::npos)
      throw std::runtime_error(path_ + ": holds more than one file: unpack it first");
  }

  std::string path_;
  bool zipped_;
  double size_ = 1;
  gzFile gz_ = nullptr;
  std::FILE* file_ = nullptr;
  z_stream stream_{};
  bool inflating_ = false;
  bool ended_ = false;
  std::string packed_;
};

}  // namespace

struct RecordReader::Impl {
  explicit Impl(const std::string& name) : file(name), path(name) {}

  Bytes file;
  std::string path;
  Framing framing = Framing::csv;
  std::string chunk;
  std::size_t at = 0;
  bool ended = false;
  bool in_array = false;
  std::string pending;
  std::uint64_t number = 0;

  // True when there is at least one byte at chunk[at].
  bool fill() {
    if (at < chunk.size()) return true;
    if (ended) return false;
    chunk.resize(chunk_bytes);
    chunk.resize(file.read(chunk.data(), chunk.size()));
    at = 0;
    ended = chunk.empty();
    return !ended;
  }

  void keep(const char* text, std::size_t n) {
    if (pending.size() + n > longest_record)
      throw std::runtime_error(path + ": a record is longer than 256 MiB");
    pending.append(text, n);
  }

  bool next_line() {
    pending.clear();
    bool any = false;
    while (fill()) {
      any = true;
      const auto end = chunk.find('\n', at);
      const std::size_t stop = end == std::string::npos ? chunk.size() : end;
      keep(chunk.data() + at, stop - at);
      at = end == std::string::npos ? stop : stop + 1;
      if (end != std::string::npos) break;
    }
    if (pending.ends_with('\r')) pending.pop_back();
    return any;
  }

  // The next element of the outermost array: text between commas at depth 1, braces inside strings ignored.
  bool next_element() {
    pending.clear();
    int depth = 0;
    bool in_string = false;
    bool escaped = false;
    while (fill()) {
      const std::size_t start = at;
      for (; at < chunk.size(); ++at) {
        const char c = chunk[at];
        if (in_string) {
          if (escaped)
            escaped = false;
          else if (c == '\\')
            escaped = true;
          else if (c == '"')
            in_string = false;
          continue;
        }
        if (!in_array) {
          if (c == '[') in_array = true;
          keep(chunk.data() + at, 0);
          continue;
        }
        if (c == '"') in_string = true;
        if (c == '{' || c == '[') ++depth;
        if ((c == '}' || c == ']') && depth > 0) {
          --depth;
        } else if (c == ']' || (c == ',' && depth == 0)) {
          keep(chunk.data() + start, at - start);
          ++at;
          const bool last = c == ']';
          if (last) ended = true, chunk.clear(), at = 0;
          tidy();
          return !pending.empty() || !last;
        }
      }
      keep(chunk.data() + start, at - start);
    }
    throw std::runtime_error(path + ": the JSON array does not end");
  }

  void tidy() {
    const auto first = pending.find_first_not_of(" \t\r\n[");
    pending.erase(0, first == std::string::npos ? pending.size() : first);
    while (!pending.empty() && std::isspace(static_cast<unsigned char>(pending.back()))) pending.pop_back();
  }
};

RecordReader::RecordReader(const std::string& path) : impl_(std::make_unique<Impl>(path)) {
  impl_->fill();
  impl_->framing = detect_framing(impl_->chunk);
}

double RecordReader::progress() const {
  return impl_->file.progress();
}

RecordReader::~RecordReader() = default;

Framing RecordReader::framing() const {
  return impl_->framing;
}

bool RecordReader::next(Record& record) {
  for (;;) {
    if (impl_->framing == Framing::array && impl_->ended) return false;
    if (impl_->framing == Framing::array ? !impl_->next_element() : !impl_->next_line()) return false;
    ++impl_->number;
    if (impl_->pending.empty()) continue;
    const auto found = unframe(impl_->framing, impl_->pending);
    if (!found) continue;
    record = *found;
    record.number = impl_->number;
    return true;
  }
}

RecordDecoder::RecordDecoder(Framing framing, DecodeOptions options)
    : framing_(framing), csv_(options.rows), json_(options.rows) {
  for (const char* name :
       {"binance", "kraken", "coinbase", "coinbase.advanced", "okx", "bybit", "bitstamp", "gemini"}) {
    venues_.push_back(find_venue(name));
    feeds_.push_back(venues_.back()->make(options.stream));
  }
}

Decoded RecordDecoder::decode(const Record& record, std::vector<Tick>& out) {
  const std::size_t before = out.size();
  Decoded result;
  if (framing_ == Framing::csv) {
    result = csv_.decode(record.text, record.received, out);
  } else if (framing_ == Framing::array) {
    result = json_.decode(record.text, record.received, out);
  } else {
    // A file is one exchange's: the protocol that last made a tick of something is asked first, and until
    // then all are, since each may take another's frame for one of its own without trades.
    Decoded other{Verdict::unknown, ""};
    for (std::size_t i = 0; i < feeds_.size(); ++i) {
      const std::size_t next = (at_ + i) % feeds_.size();
      result = feeds_[next]->decode(record.text, record.received, out);
      if (result.verdict == Verdict::malformed && i > 0) result = {Verdict::unknown, ""};
      if (result.verdict == Verdict::tick) {
        at_ = next;
        settled_ = true;
        if (next > 0)
          for (std::size_t t = before; t < out.size(); ++t) out[t].exchange.assign(venues_[next]->exchange);
        break;
      }
      if (other.verdict == Verdict::unknown) other = result;
      if (settled_ && other.verdict != Verdict::unknown) break;
    }
    if (result.verdict != Verdict::tick) result = other;
    if (result.verdict == Verdict::unknown) {
      if (framing_ == Framing::lines)
        result = json_.decode(record.text, record.received, out);
      else
        result.verdict = Verdict::ignored;
    }
  }
  for (std::size_t i = before; i < out.size(); ++i) out[i].record = record.number;
  return result;
}

std::string file_identity(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (file == nullptr) throw std::runtime_error(path + ": cannot be opened");
  std::string start(identity_bytes, '\0');
  start.resize(std::fread(start.data(), 1, start.size(), file));
  std::fclose(file);
  // A plain file that grows must keep its identity: its first two lines (header and first row) count.
  if (!start.starts_with("\x1f\x8b"))
    start.resize(std::min(start.find('\n', start.find('\n') + 1), start.size()));
  const auto sum = crc32(0, reinterpret_cast<const Bytef*>(start.data()), static_cast<uInt>(start.size()));
  char text[16];
  std::snprintf(text, sizeof text, "#%08lx", static_cast<unsigned long>(sum));
  const auto slash = path.rfind('/');
  return (slash == std::string::npos ? path : path.substr(slash + 1)) + text;
}

std::string symbol_of_file(const std::string& path) {
  const auto slash = path.rfind('/');
  const std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
  for (const std::string_view mark : {"-trades-", "-aggTrades-"}) {
    const auto found = name.find(mark);
    if (found != std::string::npos && found > 0) return name.substr(0, found);
  }
  return "";
}

}  // namespace tick::ingest
