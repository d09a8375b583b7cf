// The jsonb form of a position; see position.hpp.
#include "position.hpp"

#include <algorithm>
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

bool Position::take(std::string_view symbol, std::int64_t id, Timestamp ts) {
  const auto newest = ids.find(symbol);
  if (newest == ids.end()) {
    ids.emplace(symbol, id);
    times.emplace(symbol, ts);
    return true;
  }
  if (id > newest->second) {
    auto& time = times[newest->first];
    if (id - 1 > newest->second) {
      auto& list = holes[newest->first];
      list.push_back({newest->second + 1, id - 1, time});
      if (list.size() > most_holes) list.erase(list.begin());
    }
    newest->second = id;
    time = ts;
    return true;
  }
  const auto found = holes.find(symbol);
  if (found == holes.end()) return false;
  auto& list = found->second;
  const auto hole = std::lower_bound(list.begin(), list.end(), id,
                                     [](const Hole& a, std::int64_t value) { return a.last < value; });
  if (hole == list.end() || id < hole->first) return false;
  if (hole->first == hole->last) {
    list.erase(hole);
    if (list.empty()) holes.erase(found);
  } else if (id == hole->first) {
    ++hole->first;
    hole->after = ts;
  } else if (id == hole->last) {
    --hole->last;
  } else {
    const Hole upper{id + 1, hole->last, ts};
    hole->last = id - 1;
    list.insert(hole + 1, upper);
  }
  return true;
}

bool Position::has(std::string_view symbol, std::int64_t id) const {
  const auto newest = ids.find(symbol);
  if (newest == ids.end() || id > newest->second) return false;
  const auto found = holes.find(symbol);
  if (found == holes.end()) return true;
  const auto hole = std::lower_bound(found->second.begin(), found->second.end(), id,
                                     [](const Hole& a, std::int64_t value) { return a.last < value; });
  return hole == found->second.end() || id < hole->first;
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
  const auto object = [&](const char* name, const auto& map, auto&& append) {
    if (map.empty()) return;
    out += std::string(",\"") + name + "\":{";
    for (const auto& [symbol, value] : map) {
      if (out.back() != '{') out += ',';
      append_json_string(out, symbol);
      out += ':';
      append(value);
    }
    out += '}';
  };
  object("holes", position.holes, [&](const std::vector<Hole>& holes) {
    out += '[';
    for (const auto& hole : holes)
      out += std::string(out.back() == '[' ? "[" : ",[") + std::to_string(hole.first) + ',' +
             std::to_string(hole.last) + ',' + std::to_string(hole.after.time_since_epoch().count()) + ']';
    out += ']';
  });
  object("times", position.times,
         [&](Timestamp time) { out += std::to_string(time.time_since_epoch().count()); });
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
    simdjson::dom::object times;
    if (key == "times" && !value.get(times))
      for (const auto& [symbol, time_value] : times)
        if (std::int64_t us = 0; !time_value.get(us))
          position.times[std::string(symbol)] = Timestamp(std::chrono::microseconds(us));
    simdjson::dom::object holes;
    if (key == "holes" && !value.get(holes))
      for (const auto& [symbol, list_value] : holes) {
        simdjson::dom::array list;
        if (list_value.get(list)) return std::nullopt;
        for (const auto element : list) {
          Hole hole;
          std::int64_t us = 0;
          if (element.at(0).get(hole.first) || element.at(1).get(hole.last) || element.at(2).get(us) ||
              hole.first > hole.last)
            return std::nullopt;
          hole.after = Timestamp(std::chrono::microseconds(us));
          position.holes[std::string(symbol)].push_back(hole);
        }
      }
  }
  return position;
}

}  // namespace tick::ingest
