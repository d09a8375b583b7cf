// The one translation unit that includes Boost.Beast (it costs most of the ingestor's build time).
// Client: coroutines on a private io_context, read top to bottom as the protocol goes.
// Server: Beast does handshake and framing over a layer that coalesces writes, so that thousands of small
// messages per turn cost one system call.
#include "socket.hpp"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/host_name_verification.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/ssl.hpp>
#include <boost/beast/websocket.hpp>
#include <boost/beast/websocket/ssl.hpp>

#include <atomic>
#include <unordered_map>
#include <utility>

namespace tick::ingest {

namespace beast = boost::beast;
namespace http = beast::http;
namespace net = boost::asio;
namespace websocket = beast::websocket;
using tcp = net::ip::tcp;
using beast::error_code;
using Clock = std::chrono::steady_clock;

namespace {

constexpr auto tuple_awaitable = net::as_tuple(net::use_awaitable);
constexpr std::size_t max_message_bytes = 16u << 20;
constexpr auto greeting_interval = std::chrono::milliseconds(260);  // Binance: 5 incoming messages per second
constexpr auto full_ring_poll = std::chrono::milliseconds(1);

std::string describe(const char* step, const error_code& ec) {
  return std::string(step) + ": " + ec.message();
}

}  // namespace

std::optional<Url> parse_url(std::string_view text) {
  Url url;
  if (text.starts_with("wss://")) {
    url.tls = true;
    text.remove_prefix(6);
  } else if (text.starts_with("ws://")) {
    text.remove_prefix(5);
  } else {
    return std::nullopt;
  }
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

// ---- client

struct Client::Impl {
  net::io_context io{1};
  std::atomic<bool> stopping{false};
  std::string reason;
  Clock::time_point last_byte{};
  Clock::time_point last_data{};

  template <class Ws>
  static net::awaitable<void> greet(Ws& ws, const std::vector<std::string>& greetings) {
    net::steady_timer timer(co_await net::this_coro::executor);
    for (const auto& text : greetings) {
      auto [ec, n] = co_await ws.async_write(net::buffer(text), tuple_awaitable);
      if (ec) co_return;
      timer.expires_after(greeting_interval);
      auto [timer_ec] = co_await timer.async_wait(tuple_awaitable);
      if (timer_ec) co_return;
    }
  }

  template <class Ws>
  net::awaitable<void> watch(Ws& ws, const ClientOptions& options) {
    net::steady_timer timer(co_await net::this_coro::executor);
    for (;;) {
      timer.expires_after(std::chrono::milliseconds(200));
      auto [ec] = co_await timer.async_wait(tuple_awaitable);
      if (ec) co_return;
      const auto now = Clock::now();
      if (stopping) {
        reason.clear();
      } else if (options.max_silence.count() > 0 && now - last_byte > options.max_silence) {
        reason = "nothing received for " + std::to_string(options.max_silence.count()) + " s";
      } else if (options.max_data_silence.count() > 0 && now - last_data > options.max_data_silence) {
        reason = "no message received for " + std::to_string(options.max_data_silence.count()) +
                 " s although the connection is alive";
      } else {
        continue;
      }
      beast::get_lowest_layer(ws).close();
      io.stop();
      co_return;
    }
  }

  template <class Ws>
  net::awaitable<std::string> talk(Ws& ws, const Url& url, const ClientOptions& options,
                                   FrameHandler& handler) {
    beast::get_lowest_layer(ws).expires_never();
    websocket::stream_base::timeout timeout{};
    timeout.handshake_timeout = options.handshake_timeout;
    timeout.idle_timeout = websocket::stream_base::none();
    timeout.keep_alive_pings = false;
    ws.set_option(timeout);
    ws.set_option(websocket::stream_base::decorator(
        [](websocket::request_type& request) { request.set(http::field::user_agent, "tick-ingest"); }));
    ws.read_message_max(max_message_bytes);
    ws.auto_fragment(false);
    ws.text(true);
    ws.control_callback([this](websocket::frame_type, beast::string_view) { last_byte = Clock::now(); });

    const bool standard_port = url.port == (url.tls ? "443" : "80");
    const std::string host = standard_port ? url.host : url.host + ":" + url.port;
    auto [handshake_ec] = co_await ws.async_handshake(host, url.target, tuple_awaitable);
    if (handshake_ec) co_return describe("websocket handshake", handshake_ec);
    last_byte = last_data = Clock::now();
    handler.opened();
    auto executor = co_await net::this_coro::executor;
    net::co_spawn(executor, greet(ws, options.greetings), net::detached);
    net::co_spawn(executor, watch(ws, options), net::detached);

    beast::flat_buffer buffer;
    net::steady_timer pause(executor);
    for (;;) {
      auto [ec, n] = co_await ws.async_read(buffer, tuple_awaitable);
      if (ec == websocket::error::closed) {
        const auto& why = ws.reason();
        co_return "closed by the server, code " + std::to_string(why.code) +
            (why.reason.empty() ? "" : " (" + std::string(why.reason.c_str()) + ")");
      }
      if (ec) co_return describe("read", ec);
      last_byte = last_data = Clock::now();
      const auto data = buffer.cdata();
      bool room = handler.frame({static_cast<const char*>(data.data()), data.size()});
      buffer.consume(buffer.size());
      while (!room && !stopping) {
        pause.expires_after(full_ring_poll);
        auto [pause_ec] = co_await pause.async_wait(tuple_awaitable);
        if (pause_ec) break;
        last_byte = last_data = Clock::now();
        room = handler.room();
      }
    }
  }

  net::awaitable<std::string> session(const Url& url, const ClientOptions& options, FrameHandler& handler) {
    auto executor = co_await net::this_coro::executor;
    tcp::resolver resolver(executor);
    auto [resolve_ec, endpoints] = co_await resolver.async_resolve(url.host, url.port, tuple_awaitable);
    if (resolve_ec) co_return describe("resolve", resolve_ec);

    if (!url.tls) {
      websocket::stream<beast::tcp_stream> ws(executor);
      auto& tcp_layer = beast::get_lowest_layer(ws);
      tcp_layer.expires_after(options.handshake_timeout);
      auto [ec, endpoint] = co_await tcp_layer.async_connect(endpoints, tuple_awaitable);
      if (ec) co_return describe("connect", ec);
      error_code ignored;
      tcp_layer.socket().set_option(tcp::no_delay(true), ignored);
      co_return co_await talk(ws, url, options, handler);
    }

    net::ssl::context tls(net::ssl::context::tls_client);
    error_code ec_tls;
    SSL_CTX_set_min_proto_version(tls.native_handle(), TLS1_2_VERSION);
    if (options.ca_file.empty())
      tls.set_default_verify_paths(ec_tls);
    else
      tls.load_verify_file(options.ca_file, ec_tls);
    if (ec_tls) co_return describe("certificates", ec_tls);
    tls.set_verify_mode(options.verify ? net::ssl::verify_peer : net::ssl::verify_none, ec_tls);
    websocket::stream<beast::ssl_stream<beast::tcp_stream>> ws(executor, tls);
    error_code not_an_address;
    net::ip::make_address(url.host, not_an_address);  // a server name (SNI) must not be an address
    if (not_an_address && !SSL_set_tlsext_host_name(ws.next_layer().native_handle(), url.host.c_str()))
      co_return "TLS: cannot set the server name";
    if (options.verify)
      ws.next_layer().set_verify_callback(net::ssl::host_name_verification(url.host), ec_tls);
    auto& tcp_layer = beast::get_lowest_layer(ws);
    tcp_layer.expires_after(options.handshake_timeout);
    auto [ec, endpoint] = co_await tcp_layer.async_connect(endpoints, tuple_awaitable);
    if (ec) co_return describe("connect", ec);
    error_code ignored;
    tcp_layer.socket().set_option(tcp::no_delay(true), ignored);
    tcp_layer.expires_after(options.handshake_timeout);
    auto [ec_handshake] =
        co_await ws.next_layer().async_handshake(net::ssl::stream_base::client, tuple_awaitable);
    if (ec_handshake) co_return describe("TLS handshake", ec_handshake);
    co_return co_await talk(ws, url, options, handler);
  }
};

Client::Client() : impl_(std::make_unique<Impl>()) {}
Client::~Client() = default;

std::string Client::run(const Url& url, const ClientOptions& options, FrameHandler& handler) {
  Impl& impl = *impl_;
  if (impl.stopping) return "";
  std::exception_ptr failure;
  net::co_spawn(impl.io, impl.session(url, options, handler),
                [&](std::exception_ptr error, std::string reason) {
                  failure = error;
                  impl.reason = std::move(reason);
                  impl.io.stop();
                });
  impl.io.run();
  if (failure) std::rethrow_exception(failure);
  return impl.stopping ? "" : impl.reason;
}

void Client::stop() {
  impl_->stopping = true;
  net::post(impl_->io, [impl = impl_.get()] { impl->io.stop(); });
}

// ---- server

namespace {

// The layer under Beast on the server: writes are appended to a string and leave in one piece. A write is
// therefore never partial, which is what lets synchronous sends and automatic pongs share one connection.
class CoalescingStream {
 public:
  using executor_type = tcp::socket::executor_type;

  explicit CoalescingStream(tcp::socket socket) : socket_(std::move(socket)) {}

  executor_type get_executor() { return socket_.get_executor(); }
  tcp::socket& socket() { return socket_; }
  std::size_t backlog() const { return out_.size() + sending_.size(); }
  void own(std::weak_ptr<void> owner) { owner_ = std::move(owner); }

  void flush() {
    if (busy_ || out_.empty() || !socket_.is_open()) return;
    busy_ = true;
    sending_.swap(out_);
    net::async_write(socket_, net::buffer(sending_),
                     [this, keep = owner_.lock()](const error_code& ec, std::size_t) {
                       busy_ = false;
                       sending_.clear();
                       if (ec)
                         close();
                       else
                         flush();
                     });
  }

  void close() {
    error_code ignored;
    socket_.shutdown(tcp::socket::shutdown_both, ignored);
    socket_.close(ignored);
    out_.clear();
  }

  template <class Buffers>
  std::size_t write_some(const Buffers& buffers, error_code& ec) {
    ec = socket_.is_open() ? error_code{} : error_code(net::error::not_connected);
    return ec ? 0 : append(buffers);
  }
  template <class Buffers>
  std::size_t write_some(const Buffers& buffers) {
    return append(buffers);
  }
  template <class Buffers>
  std::size_t read_some(const Buffers& buffers, error_code& ec) {
    return socket_.read_some(buffers, ec);
  }
  template <class Buffers>
  std::size_t read_some(const Buffers& buffers) {
    return socket_.read_some(buffers);
  }
  template <class Buffers, class Token>
  auto async_read_some(const Buffers& buffers, Token&& token) {
    return socket_.async_read_some(buffers, std::forward<Token>(token));
  }
  template <class Buffers, class Token>
  auto async_write_some(const Buffers& buffers, Token&& token) {
    return net::async_initiate<Token, void(error_code, std::size_t)>(
        [this](auto handler, const auto& all) {
          const std::size_t n = append(all);
          flush();
          net::post(get_executor(), beast::bind_front_handler(std::move(handler), error_code{}, n));
        },
        token, buffers);
  }

  friend void teardown(beast::role_type, CoalescingStream& stream, error_code& ec) {
    stream.finish();
    ec = {};
  }
  template <class Handler>
  friend void async_teardown(beast::role_type, CoalescingStream& stream, Handler&& handler) {
    stream.finish();
    net::post(stream.get_executor(), beast::bind_front_handler(std::forward<Handler>(handler), error_code{}));
  }
  friend void beast_close_socket(CoalescingStream& stream) { stream.close(); }

 private:
  template <class Buffers>
  std::size_t append(const Buffers& buffers) {
    std::size_t n = 0;
    for (auto it = net::buffer_sequence_begin(buffers); it != net::buffer_sequence_end(buffers); ++it) {
      const net::const_buffer piece(*it);
      out_.append(static_cast<const char*>(piece.data()), piece.size());
      n += piece.size();
    }
    return n;
  }

  // The close frame may still be queued: hand the kernel what it takes, then say that no more will come.
  void finish() {
    error_code ignored;
    if (!busy_ && !out_.empty()) {
      socket_.non_blocking(true, ignored);
      socket_.write_some(net::buffer(out_), ignored);
      out_.clear();
    }
    socket_.shutdown(tcp::socket::shutdown_both, ignored);
  }

  tcp::socket socket_;
  std::string out_;
  std::string sending_;
  bool busy_ = false;
  std::weak_ptr<void> owner_;
};

struct Peer {
  Peer(ClientId id_in, tcp::socket socket) : id(id_in), ws(std::move(socket)) {}
  ClientId id;
  bool open = false;
  websocket::stream<CoalescingStream> ws;
};

}  // namespace

struct Server::Impl {
  Impl(const std::string& address, std::uint16_t port, std::chrono::seconds ping, ServerHandler& handler_in)
      : acceptor(io, tcp::endpoint(net::ip::make_address(address), port)),
        timer(io),
        ping_every(ping),
        handler(handler_in) {}

  net::io_context io{1};
  tcp::acceptor acceptor;
  net::steady_timer timer;
  std::chrono::seconds ping_every;
  ServerHandler& handler;
  std::unordered_map<ClientId, std::shared_ptr<Peer>> peers;
  ClientId last_id = 0;

  net::awaitable<void> listen() {
    for (;;) {
      auto [ec, socket] = co_await acceptor.async_accept(tuple_awaitable);
      if (ec == net::error::operation_aborted) co_return;
      if (ec) continue;
      error_code ignored;
      socket.set_option(tcp::no_delay(true), ignored);
      auto peer = std::make_shared<Peer>(++last_id, std::move(socket));
      peer->ws.next_layer().own(peer);
      net::co_spawn(io, serve(peer), net::detached);
    }
  }

  net::awaitable<void> serve(std::shared_ptr<Peer> peer) {
    auto& ws = peer->ws;
    beast::flat_buffer buffer;
    http::request_parser<http::string_body> parser;
    parser.header_limit(64 * 1024);
    auto [read_ec, n] = co_await http::async_read(ws.next_layer(), buffer, parser, tuple_awaitable);
    if (read_ec) co_return;
    const auto request = parser.release();
    const std::string target(request.target());
    if (!websocket::is_upgrade(request) || !handler.serves(target)) {
      http::response<http::string_body> response{http::status::not_found, request.version()};
      response.set(http::field::content_type, "text/plain");
      response.keep_alive(false);
      response.body() = "no such stream\n";
      response.prepare_payload();
      co_await http::async_write(ws.next_layer(), response, tuple_awaitable);
      error_code ignored;
      teardown(beast::role_type::server, ws.next_layer(), ignored);
      co_return;
    }
    websocket::stream_base::timeout timeout{};
    timeout.handshake_timeout = std::chrono::seconds(10);
    timeout.idle_timeout = websocket::stream_base::none();
    timeout.keep_alive_pings = false;
    ws.set_option(timeout);
    ws.auto_fragment(false);
    ws.text(true);
    auto [accept_ec] = co_await ws.async_accept(request, tuple_awaitable);
    if (accept_ec) co_return;
    peer->open = true;
    peers.emplace(peer->id, peer);
    // Not before: what is sent to a peer that is not here yet would be lost, and counted as sent.
    handler.open(peer->id, target);
    if (ping_every.count() > 0) net::co_spawn(io, ping(peer), net::detached);
    buffer.consume(buffer.size());
    for (;;) {
      auto [ec, bytes] = co_await ws.async_read(buffer, tuple_awaitable);
      if (ec) break;
      const auto data = buffer.cdata();
      handler.text(peer->id, {static_cast<const char*>(data.data()), data.size()});
      buffer.consume(buffer.size());
      ws.next_layer().flush();
    }
    peer->open = false;
    peers.erase(peer->id);
    ws.next_layer().close();
    handler.closed(peer->id);
  }

  net::awaitable<void> ping(std::weak_ptr<Peer> weak) {
    net::steady_timer wait(io);
    for (;;) {
      wait.expires_after(ping_every);
      auto [ec] = co_await wait.async_wait(tuple_awaitable);
      const auto peer = weak.lock();
      if (ec || !peer || !peer->open) co_return;
      error_code ping_ec;
      const auto now = std::chrono::system_clock::now().time_since_epoch();
      const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
      const std::string payload = std::to_string(ms);
      peer->ws.ping(websocket::ping_data(payload.data(), payload.size()), ping_ec);
      peer->ws.next_layer().flush();
      if (ping_ec) co_return;
    }
  }

  net::awaitable<void> turns() {
    for (;;) {
      const auto delay = handler.turn();
      for (auto& [id, peer] : peers) peer->ws.next_layer().flush();
      timer.expires_after(delay);
      auto [ec] = co_await timer.async_wait(tuple_awaitable);
      if (ec) co_return;
    }
  }
};

Server::Server(const std::string& address, std::uint16_t port, std::chrono::seconds ping_every,
               ServerHandler& handler)
    : impl_(std::make_unique<Impl>(address, port, ping_every, handler)) {}

Server::~Server() {
  impl_->peers.clear();
}

std::uint16_t Server::port() const {
  return impl_->acceptor.local_endpoint().port();
}

void Server::run() {
  net::co_spawn(impl_->io, impl_->listen(), net::detached);
  net::co_spawn(impl_->io, impl_->turns(), net::detached);
  impl_->io.run();
}

void Server::stop() {
  net::post(impl_->io, [impl = impl_.get()] { impl->io.stop(); });
}

void Server::send(ClientId client, std::string_view text) {
  const auto found = impl_->peers.find(client);
  if (found == impl_->peers.end() || !found->second->open) return;
  error_code ec;
  found->second->ws.write(net::buffer(text.data(), text.size()), ec);
}

std::size_t Server::backlog(ClientId client) const {
  const auto found = impl_->peers.find(client);
  return found == impl_->peers.end() ? 0 : found->second->ws.next_layer().backlog();
}

void Server::drop(ClientId client) {
  const auto found = impl_->peers.find(client);
  if (found != impl_->peers.end()) found->second->ws.next_layer().close();
}

}  // namespace tick::ingest
