// The address of a WebSocket or of a REST interface, taken apart, and what refuses it. Pure.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace tick::ingest {

struct Url {
  bool tls = false;
  std::string host;
  std::string port;
  std::string target;  // path and query; "/" when the text had none
};

// Splits ws:// and wss:// addresses (or http:// and https:// ones); nothing when the text is not one.
std::optional<Url> parse_url(std::string_view text, std::string_view scheme = "ws");

// Where the header Location sends whoever asked for `from`; nothing, and why, when that is no place to go: it
// is no address of the web, or not encrypted while `from` is.
std::optional<Url> redirected(const Url& from, std::string_view location, std::string& why);

// Exchanges answer some places with an HTTP status instead of a WebSocket: says what it means.
std::string explain_status(unsigned status);

}  // namespace tick::ingest
