// Segment files; see spool.hpp. zlib's CRC-32 is the checksum: it is linked anyway.
#include "spool.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "log.hpp"
#include "number.hpp"

namespace tick::ingest {

namespace {

constexpr std::size_t header_bytes =
    8;  // length and checksum, little endian as on every machine this runs on
constexpr std::size_t longest_record = 256;
constexpr std::string_view suffix = ".spool";
constexpr std::uint64_t first_number = 1'000'000;  // there is room before it

template <class T>
void put(std::string& out, T value) {
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  out.append(bytes, sizeof value);
}

template <class T>
bool get(std::string_view& in, T& value) {
  if (in.size() < sizeof value) return false;
  std::memcpy(&value, in.data(), sizeof value);
  in.remove_prefix(sizeof value);
  return true;
}

void put_text(std::string& out, std::string_view text) {
  out += static_cast<char>(text.size());
  out += text;
}

bool get_text(std::string_view& in, std::string_view& text) {
  std::uint8_t size = 0;
  if (!get(in, size) || in.size() < size) return false;
  text = in.substr(0, size);
  in.remove_prefix(size);
  return true;
}

std::uint32_t checksum(std::string_view bytes) {
  return static_cast<std::uint32_t>(
      crc32(0, reinterpret_cast<const Bytef*>(bytes.data()), static_cast<uInt>(bytes.size())));
}

}  // namespace

void append_record(std::string& out, const Tick& tick) {
  const std::size_t start = out.size();
  out.append(header_bytes, '\0');
  put(out, tick.ts.time_since_epoch().count());
  put(out, tick.received.time_since_epoch().count());
  put(out, tick.price);
  put(out, tick.qty);
  put(out, tick.id);
  const auto maker = static_cast<unsigned>(static_cast<int>(tick.maker) + 1);
  put(out, static_cast<std::uint8_t>((tick.has_id ? 1u : 0u) | (tick.has_qty ? 2u : 0u) | maker << 2 |
                                     (tick.whole ? 16u : 0u)));
  put_text(out, tick.symbol.view());
  put_text(out, tick.exchange.view());
  put_text(out, tick.name.view());
  const std::string_view body = std::string_view(out).substr(start + header_bytes);
  const auto size = static_cast<std::uint32_t>(body.size());
  const std::uint32_t sum = checksum(body);
  std::memcpy(out.data() + start, &size, sizeof size);
  std::memcpy(out.data() + start + sizeof size, &sum, sizeof sum);
}

bool take_record(std::string_view& in, Tick& tick) {
  std::string_view rest = in;
  std::uint32_t size = 0;
  std::uint32_t sum = 0;
  if (!get(rest, size) || !get(rest, sum) || size > longest_record || size > rest.size()) return false;
  std::string_view body = rest.substr(0, size);
  if (checksum(body) != sum) return false;
  Tick read;
  std::int64_t ts = 0;
  std::int64_t received = 0;
  std::uint8_t flags = 0;
  std::string_view symbol;
  std::string_view exchange;
  std::string_view name;
  if (!get(body, ts) || !get(body, received) || !get(body, read.price) || !get(body, read.qty) ||
      !get(body, read.id) || !get(body, flags) || !get_text(body, symbol) || !get_text(body, exchange) ||
      (!body.empty() && !get_text(body, name)) || !body.empty() || !read.symbol.assign(symbol) ||
      (!exchange.empty() && !read.exchange.assign(exchange)) || (!name.empty() && !read.name.assign(name)))
    return false;
  read.ts = Timestamp(std::chrono::microseconds(ts));
  read.received = Timestamp(std::chrono::microseconds(received));
  read.has_id = (flags & 1u) != 0;
  read.has_qty = (flags & 2u) != 0;
  read.maker = static_cast<Maker>(std::min(static_cast<int>(flags >> 2 & 3u), 2) - 1);
  read.whole = (flags & 16u) != 0;
  tick = read;
  rest.remove_prefix(size);
  in = rest;
  return true;
}

Spool::Spool(std::string directory, std::uint64_t limit_bytes, std::uint64_t segment_bytes)
    : directory_(std::move(directory)), limit_(limit_bytes), segment_bytes_(segment_bytes) {
  const auto fail = [&](const std::string& what) {
    throw std::runtime_error("spool " + directory_ + ": " + what);
  };
  for (std::size_t slash = directory_.find('/', 1);; slash = directory_.find('/', slash + 1)) {
    const std::string part = directory_.substr(0, slash);
    if (mkdir(part.c_str(), 0700) != 0 && errno != EEXIST) fail(std::strerror(errno));
    if (slash == std::string::npos) break;
  }
  lock_ = open((directory_ + "/lock").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  if (lock_ < 0) fail(std::strerror(errno));
  if (flock(lock_, LOCK_EX | LOCK_NB) != 0)
    fail("in use by another process; give each ingestor a spool.directory of its own");
  DIR* dir = opendir(directory_.c_str());
  if (dir == nullptr) fail(std::strerror(errno));
  std::vector<std::uint64_t> numbers;
  while (const dirent* entry = readdir(dir)) {
    const std::string_view name = entry->d_name;
    if (!name.ends_with(suffix)) continue;
    if (const auto number = parse_integer(name.substr(0, name.size() - suffix.size())); number && *number > 0)
      numbers.push_back(static_cast<std::uint64_t>(*number));
  }
  closedir(dir);
  std::sort(numbers.begin(), numbers.end());
  for (const auto number : numbers) {
    Segment segment{number, 0, 0};
    if (!load(segment)) fail("segment " + path(number) + " cannot be read");
    std::string_view rest = content_;
    Tick tick;
    while (take_record(rest, tick)) ++segment.ticks;
    if (!rest.empty())
      log::warn("spool " + path(number) + ": " + std::to_string(rest.size()) +
                " bytes at its end are torn, cut off");
    segment.bytes = content_.size();
    bytes_ += segment.bytes;
    waiting_ += segment.ticks;
    segments_.push_back(segment);
  }
  content_.clear();
  reading_ = 0;
  if (waiting_ > 0)
    log::info("spool " + directory_ + " holds " + std::to_string(waiting_) + " ticks of an earlier run");
}

Spool::~Spool() {
  if (file_ != nullptr) std::fclose(file_);
  if (lock_ >= 0) ::close(lock_);
}

std::string Spool::path(std::uint64_t number) const {
  char name[32];
  std::snprintf(name, sizeof name, "/%012llu", static_cast<unsigned long long>(number));
  return directory_ + name + std::string(suffix);
}

bool Spool::begin_segment() {
  sync();
  if (file_ != nullptr) std::fclose(file_);
  const std::uint64_t number = segments_.empty() ? first_number : segments_.back().number + 1;
  file_ = std::fopen(path(number).c_str(), "wbe");
  if (file_ == nullptr) return false;
  segments_.push_back({number, 0, 0});
  return true;
}

void Spool::sync() {
  if (file_ == nullptr) return;
  if (std::fflush(file_) != 0 || fdatasync(fileno(file_)) != 0)
    log::error("spool " + directory_ + ": " + std::strerror(errno));
}

std::size_t Spool::append(std::span<const Tick> ticks) {
  std::size_t taken = 0;
  for (const auto& tick : ticks) {
    scratch_.clear();
    append_record(scratch_, tick);
    if (bytes_ + scratch_.size() > limit_) break;
    if ((file_ == nullptr || segments_.back().bytes >= segment_bytes_) && !begin_segment()) break;
    if (std::fwrite(scratch_.data(), 1, scratch_.size(), file_) != scratch_.size()) {
      log::error("spool " + directory_ + ": " + std::strerror(errno));
      std::fclose(file_);  // its end may be torn: go on in another segment
      file_ = nullptr;
      break;
    }
    segments_.back().bytes += scratch_.size();
    ++segments_.back().ticks;
    bytes_ += scratch_.size();
    ++waiting_;
    ++taken;
  }
  return taken;
}

bool Spool::prepend(std::span<const Tick> ticks) {
  if (ticks.empty()) return true;
  if (segments_.empty() || segments_.front().number <= 1) return append(ticks) == ticks.size();
  std::string bytes;
  for (const auto& tick : ticks) append_record(bytes, tick);
  if (bytes_ + bytes.size() > limit_) return false;
  const std::uint64_t number = segments_.front().number - 1;
  std::FILE* out = std::fopen(path(number).c_str(), "wbe");
  if (out == nullptr) return false;
  bool good = std::fwrite(bytes.data(), 1, bytes.size(), out) == bytes.size();
  good = std::fflush(out) == 0 && fdatasync(fileno(out)) == 0 && good;
  good = std::fclose(out) == 0 && good;
  if (!good) {
    log::error("spool " + directory_ + ": " + std::strerror(errno));
    unlink(path(number).c_str());
    return false;
  }
  segments_.push_front({number, bytes.size(), ticks.size()});
  bytes_ += bytes.size();
  waiting_ += ticks.size();
  return true;
}

bool Spool::load(const Segment& segment) {
  std::FILE* in = std::fopen(path(segment.number).c_str(), "rbe");
  if (in == nullptr) return false;
  content_.clear();
  char chunk[64 * 1024];
  while (const std::size_t n = std::fread(chunk, 1, sizeof chunk, in)) content_.append(chunk, n);
  std::fclose(in);
  at_ = 0;
  reading_ = segment.number;
  return true;
}

std::size_t Spool::take(std::vector<Tick>& out, std::size_t most) {
  std::size_t taken = 0;
  while (taken < most && read_ < segments_.size()) {
    Segment& segment = segments_[read_];
    if (reading_ != segment.number) {
      if (file_ != nullptr && &segment == &segments_.back()) {  // what is read is not written to any more
        std::fclose(file_);
        file_ = nullptr;
      }
      if (!load(segment)) {
        log::error("spool segment " + path(segment.number) +
                   " cannot be read: " + std::to_string(segment.ticks) + " ticks are left to gap repair");
        waiting_ -= segment.ticks;
        ++read_;
        continue;
      }
    }
    std::string_view rest = std::string_view(content_).substr(at_);
    Tick tick;
    while (taken < most && take_record(rest, tick)) {
      out.push_back(tick);
      ++taken;
      --segment.ticks;
      --waiting_;
    }
    at_ = content_.size() - rest.size();
    if (taken < most) {
      waiting_ -= segment.ticks;  // torn meanwhile
      segment.ticks = 0;
    }
    if (segment.ticks == 0) {
      ++read_;
      content_.clear();
      reading_ = 0;
    }
  }
  return taken;
}

void Spool::forget() {
  for (; read_ > 0; --read_) {
    bytes_ -= segments_.front().bytes;
    unlink(path(segments_.front().number).c_str());
    segments_.pop_front();
  }
}

}  // namespace tick::ingest
