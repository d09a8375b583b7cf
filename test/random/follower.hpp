// A reader of tick.changes: keeps a copy of one rollup from nothing but its change feed, across crashes.
// Promise: what differs between copy and view is found at the next call, in words.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "compare.hpp"

namespace tick::random {

class Follower {
 public:
  const std::string& view() const { return view_; }
  void follow(const std::string& view) {
    view_ = view;
    since_ = "NULL";
    rows_.clear();
  }

  // Takes in what has changed; nothing may change the view meanwhile. `columns` of the shape are compared.
  // Returns what is wrong, or nothing.
  std::string catch_up(Link& link, const Shape& shape, size_t columns) {
    const size_t keys = key_columns(shape);
    std::vector<std::string> names;
    for (const Column& key : shape.keys) names.push_back(key.name);
    if (shape.window != 0) names.push_back("w");
    for (size_t i = 0; i < columns; ++i) names.push_back(shape.columns[i].name);
    std::string stored, told;
    for (const std::string& name : names) {
      stored += (stored.empty() ? "" : ", ") + name;
      told += ", (candle)." + name;
    }
    Rows changes;
    const auto ask = [&] {
      changes = link.ask("SELECT token, change" + told + " FROM tick.changes(null::" + view_ + ", " + since_ +
                         ") ORDER BY token");
    };
    try {
      ask();
    } catch (const Failed& failed) {
      if (std::string(failed.what()).find("no longer kept") == std::string::npos) throw;
      follow(view_);
      ask();
    }
    std::string wrong;
    for (const auto& row : changes) {
      if (since_ != "NULL" && std::stoll(row[0]) <= std::stoll(since_))
        wrong += "\n  token " + row[0] + " after " + since_;
      const std::vector<std::string> key(row.begin() + 2, row.begin() + 2 + static_cast<long>(keys));
      if (row[1] == "delete")
        rows_.erase(key);
      else
        rows_[key] = {row.begin() + 2, row.end()};
    }
    if (!changes.empty()) since_ = changes.back()[0];
    taken_ += static_cast<long>(changes.size());
    std::map<std::vector<std::string>, std::vector<std::string>> must;
    for (const auto& row : link.ask_again("SELECT " + stored + " FROM " + view_))
      must[{row.begin(), row.begin() + static_cast<long>(keys)}] = row;
    for (const auto& [key, row] : must) {
      const auto at = rows_.find(key);
      if (at == rows_.end() || at->second != row)
        wrong += "\n  told " + (at == rows_.end() ? "nothing" : text_of(at->second)) + " of " + text_of(row);
    }
    for (const auto& [key, row] : rows_)
      if (!must.contains(key)) wrong += "\n  not told that it has gone: " + text_of(row);
    return wrong.empty() ? wrong : "\n  tick.changes of " + view_ + " up to " + since_ + ":" + wrong;
  }

  long taken() const { return taken_; }

 private:
  std::string view_, since_ = "NULL";
  std::map<std::vector<std::string>, std::vector<std::string>> rows_;
  long taken_ = 0;
};

}  // namespace tick::random
