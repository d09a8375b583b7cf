// Addresses; see url.hpp.
#include "url.hpp"

namespace tick::ingest {

std::optional<Url> parse_url(std::string_view text, std::string_view scheme) {
  Url url;
  if (!text.starts_with(scheme)) return std::nullopt;
  text.remove_prefix(scheme.size());
  url.tls = text.starts_with("s");
  if (url.tls) text.remove_prefix(1);
  if (!text.starts_with("://")) return std::nullopt;
  text.remove_prefix(3);
  const auto slash = text.find_first_of("/?");
  std::string_view authority = text.substr(0, slash);
  if (slash != std::string_view::npos) url.target = text.substr(slash);
  if (url.target.empty() || url.target[0] != '/') url.target.insert(0, "/");
  if (authority.starts_with("[")) {
    const auto bracket = authority.find(']');
    if (bracket == std::string_view::npos) return std::nullopt;
    url.host = authority.substr(1, bracket - 1);
    authority.remove_prefix(bracket + 1);
    if (!authority.empty() && authority[0] != ':') return std::nullopt;
    url.port = authority.empty() ? "" : std::string(authority.substr(1));
  } else {
    const auto colon = authority.find(':');
    url.host = authority.substr(0, colon);
    if (colon != std::string_view::npos) url.port = authority.substr(colon + 1);
  }
  if (url.port.empty()) url.port = url.tls ? "443" : "80";
  if (url.host.empty() || url.host.find('@') != std::string::npos || url.port.size() > 5 ||
      url.port.find_first_not_of("0123456789") != std::string::npos)
    return std::nullopt;
  for (const char c : url.target)
    if (static_cast<unsigned char>(c) <= ' ') return std::nullopt;
  return url;
}

std::optional<Url> redirected(const Url& from, std::string_view location, std::string& why) {
  location = location.substr(0, location.find('#'));
  const std::string path = from.target.substr(0, from.target.find('?'));
  const std::string scheme = from.tls ? "https:" : "http:";
  const std::string here = scheme + "//" +
                           (from.host.find(':') == std::string::npos ? from.host : "[" + from.host + "]") +
                           ":" + from.port;
  std::string address;
  if (location.find(':') < location.find_first_of("/?"))
    address = location;
  else if (location.starts_with("//"))
    address = scheme + std::string(location);
  else if (location.starts_with('/'))
    address = here + std::string(location);
  else if (location.starts_with('?'))
    address = here + path + std::string(location);
  else
    address = here + path.substr(0, path.rfind('/') + 1) + std::string(location);
  auto url = parse_url(address, "http");
  if (!url) {
    why = "redirected to " + address + ", which is no http address";
  } else if (from.tls && !url->tls) {
    why = "redirected from https to " + address;
    url.reset();
  }
  return url;
}

std::string explain_status(unsigned status) {
  std::string text = "the server answered with HTTP status " + std::to_string(status);
  switch (status) {
    case 451:
      return text + ": it does not serve this country; feed.name = \"binance.data\" or \"binance.us\" may";
    case 403:
      return text + ": it does not serve this address (a firewall, or a country that is not served)";
    case 429:
    case 418:
      return text + ": too many requests from this address";
    case 404:
      return text + ": no such path; is feed.url right?";
    default:
      return text + " instead of a WebSocket";
  }
}

}  // namespace tick::ingest
