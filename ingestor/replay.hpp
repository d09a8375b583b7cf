// Records out of a file, whatever it is: raw WebSocket recordings in both framings of the test data, JSON
// arrays, NDJSON and CSV, plain, gzip or zipped alone. A record's number depends on the file alone, so a
// replay can go on exactly after the last committed one. RecordDecoder turns a record into at most one tick.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "feed.hpp"
#include "rows.hpp"

namespace tick::ingest {

enum class Framing {
  nanoseconds,  // `<receive time in ns> <frame>` per line
  connection,   // `URL <-> T`, `URL <- T: sent`, `URL -> T: body`, `T: frame` per line, T in seconds
  array,        // one JSON array of trade objects
  lines,        // a JSON object per line: a frame or a row
  csv,
};

struct Record {
  std::uint64_t number = 0;  // 1, 2, ... over everything the file holds
  Timestamp received{};      // when the recording says; zero when it does not
  std::string_view text;     // valid until the next record
};

// Which framing these first bytes of the (unpacked) file show.
Framing detect_framing(std::string_view start);

// Takes the frame out of one recorded line; nothing for lines that are not received frames.
std::optional<Record> unframe(Framing framing, std::string_view line);

class RecordReader {
 public:
  // Throws std::runtime_error when the file cannot be read.
  explicit RecordReader(const std::string& path);
  ~RecordReader();
  Framing framing() const;
  // The next record that may hold a tick; false at the end.
  bool next(Record& record);
  // How much of the file has been read, 0 to 1.
  double progress() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct DecodeOptions {
  Stream stream = Stream::any;
  RowOptions rows;
};

class RecordDecoder {
 public:
  RecordDecoder(Framing framing, DecodeOptions options);
  Decoded decode(const Record& record, std::vector<Tick>& out);

 private:
  Framing framing_;
  std::vector<const Venue*> venues_;  // of `feeds_`
  std::vector<std::unique_ptr<Feed>> feeds_;
  std::size_t at_ = 0;    // the protocol that the file was last seen to speak
  bool settled_ = false;  // it was seen
  CsvRows csv_;
  JsonRows json_;
};

// "trades.csv.gz#1f2e3d4c": the file's name and a checksum of how it starts (a file that grows keeps its
// name).
std::string file_identity(const std::string& path);

// "BTCUSDT-trades-2024-08-08.csv" -> BTCUSDT, "" when the name does not start like that.
std::string symbol_of_file(const std::string& path);

}  // namespace tick::ingest
