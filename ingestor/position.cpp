// The jsonb form of a position; see position.hpp.
#include "position.hpp"

#include <cstdio>

#include <simdjson.h>

namespace tick::ingest {

void append_json_string(std::string& out, std::string_view text) {
  out += '"';
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\u%04x", static_cast<unsigned>(c));
      out += escaped;
    } else {
      out += c;
    }
  }
  out += '"';
}

std::string to_json(const Position& position) {
  std::string out = "{\"session\":";
  append_json_string(out, position.session);
  out += ",\"batch\":" + std::to_string(position.batch) + ",\"table\":";
  append_json_string(out, position.table);
  if (position.record > 0) out += ",\"record\":" + std::to_string(position.record);
  if (!position.ids.empty()) {
    out += ",\"ids\":{";
    bool first = true;
    for (const auto& [symbol, id] : position.ids) {
      if (!first) out += ',';
      first = false;
      append_json_string(out, symbol);
      out += ':';
      out += std::to_string(id);
    }
    out += '}';
  }
  out += '}';
  return out;
}

std::optional<Position> parse_position(std::string_view text) {
  simdjson::dom::parser parser;
  simdjson::dom::object root;
  if (parser.parse(text.data(), text.size()).get(root)) return std::nullopt;
  Position position;
  for (const auto& [key, value] : root) {
    std::string_view string;
    if (key == "session" && !value.get(string)) position.session = string;
    if (key == "table" && !value.get(string)) position.table = string;
    std::uint64_t number = 0;
    if (key == "batch" && !value.get(number)) position.batch = number;
    if (key == "record" && !value.get(number)) position.record = number;
    simdjson::dom::object ids;
    if (key == "ids" && !value.get(ids))
      for (const auto& [symbol, id_value] : ids) {
        std::int64_t id = 0;
        if (id_value.get(id)) return std::nullopt;
        position.ids[std::string(symbol)] = id;
      }
  }
  return position;
}

}  // namespace tick::ingest
