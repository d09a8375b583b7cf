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
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/ssl.hpp>
#include <boost/beast/websocket.hpp>
#include <boost/beast/websocket/ssl.hpp>

#include <algorithm>
#include <atomic>
#include <deque>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "clock.hpp"
#include "http.hpp"

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
constexpr std::uint64_t longest_http_body = 64u << 20;
constexpr int lost_pongs = 3;
constexpr auto greeting_interval = std::chrono::milliseconds(260);  // Binance: 5 incoming messages per second
constexpr auto full_ring_poll = std::chrono::milliseconds(1);

std::string seconds(std::chrono::milliseconds time) {
  const auto tenths = time.count() / 100;
  return std::to_string(tenths / 10) + (tenths % 10 != 0 ? "." + std::to_string(tenths % 10) : "") + " s";
}

std::string describe(const char* step, const error_code& ec) {
  return std::string(step) + ": " + ec.message();
}

// ---- TLS on the client's side

std::string set_up(net::ssl::context& context, const TlsOptions& options) {
  error_code ec;
  SSL_CTX_set_min_proto_version(context.native_handle(), TLS1_2_VERSION);
  if (options.ca_file.empty())
    context.set_default_verify_paths(ec);
  else
    context.load_verify_file(options.ca_file, ec);
  if (ec) return "trusted certificates " + options.ca_file + ": " + ec.message();
  context.set_verify_mode(options.verify ? net::ssl::verify_peer : net::ssl::verify_none, ec);
  return "";
}

// The name that is sent (SNI) and the one that the certificate must have. OpenSSL checks it itself, so that
// the verdict says what was wrong.
bool expect_host(SSL* ssl, const std::string& host, bool verify) {
  error_code not_an_address;
  net::ip::make_address(host, not_an_address);
  if (!not_an_address)
    return !verify || X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host.c_str()) == 1;
  if (SSL_set_tlsext_host_name(ssl, host.c_str()) != 1) return false;
  return !verify || SSL_set1_host(ssl, host.c_str()) == 1;
}

std::string explain(SSL* ssl, const error_code& ec, const Url& url) {
  const long verdict = SSL_get_verify_result(ssl);
  if (verdict == X509_V_OK || SSL_get_verify_mode(ssl) == SSL_VERIFY_NONE)
    return describe("TLS handshake", ec);
  std::string text = "TLS: the certificate of " + url.host + " is refused: ";
  switch (verdict) {
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
      return text + "it is for another host; is feed.url right?";
    case X509_V_ERR_CERT_HAS_EXPIRED:
      return text + "it has expired; is the clock of this machine right?";
    case X509_V_ERR_CERT_NOT_YET_VALID:
      return text + "it is not valid yet; is the clock of this machine right?";
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
      return text + "it is self-signed; feed.tls_ca names a file of certificates to trust";
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
      return text +
             "nobody trusted has signed it; is package ca-certificates installed? (feed.tls_ca names others)";
    default:
      return text + X509_verify_cert_error_string(verdict);
  }
}

// Resolves and connects; "" or what went wrong.
net::awaitable<std::string> reach(beast::tcp_stream& stream, const Url& url,
                                  std::chrono::milliseconds timeout) {
  tcp::resolver resolver(stream.get_executor());
  auto [resolve_ec, endpoints] = co_await resolver.async_resolve(url.host, url.port, tuple_awaitable);
  if (resolve_ec) co_return describe("resolve", resolve_ec) + " (" + url.host + ")";
  stream.expires_after(timeout);
  auto [ec, endpoint] = co_await stream.async_connect(endpoints, tuple_awaitable);
  if (ec) co_return describe("connect", ec);
  error_code ignored;
  stream.socket().set_option(tcp::no_delay(true), ignored);
  stream.socket().set_option(net::socket_base::keep_alive(true), ignored);
  stream.expires_after(timeout);
  co_return "";
}

}  // namespace

// ---- HTTP client

namespace {

template <class Stream>
net::awaitable<HttpReply> ask(Stream& stream, const Url& url, const std::string* json,
                              const DocumentVersion& known) {
  http::request<http::string_body> request{json == nullptr ? http::verb::get : http::verb::post, url.target,
                                           11};
  if (json != nullptr) {
    request.set(http::field::content_type, "application/json");
    request.body() = *json;
    request.prepare_payload();
  }
  request.set(http::field::host, host_header(url));
  request.set(http::field::user_agent, "tick-ingest");
  request.set(http::field::connection, "close");
  if (!known.etag.empty()) request.set(http::field::if_none_match, known.etag);
  if (!known.modified.empty()) request.set(http::field::if_modified_since, known.modified);
  auto [write_ec, written] = co_await http::async_write(stream, request, tuple_awaitable);
  if (write_ec) co_return HttpReply{0, describe("write", write_ec)};
  beast::flat_buffer buffer;
  http::response_parser<http::string_body> parser;
  parser.body_limit(longest_http_body);
  auto [read_ec, n] = co_await http::async_read(stream, buffer, parser, tuple_awaitable);
  if (read_ec) co_return HttpReply{0, describe("read", read_ec)};
  auto response = parser.release();
  HttpReply reply;
  reply.status = static_cast<int>(response.result_int());
  reply.body = std::move(response.body());
  reply.retry_after = seconds_to_wait(response[http::field::retry_after]);
  reply.version = {std::string(response[http::field::etag]),
                   std::string(response[http::field::last_modified])};
  reply.location = std::string(response[http::field::location]);
  co_return reply;
}

net::awaitable<HttpReply> get(const Url& url, const std::string* json, const TlsOptions& options,
                              std::chrono::milliseconds timeout, const DocumentVersion& known) {
  auto executor = co_await net::this_coro::executor;
  if (!url.tls) {
    beast::tcp_stream stream(executor);
    std::string problem = co_await reach(stream, url, timeout);
    if (!problem.empty()) co_return HttpReply{0, problem};
    co_return co_await ask(stream, url, json, known);
  }
  net::ssl::context tls(net::ssl::context::tls_client);
  std::string problem = set_up(tls, options);
  if (!problem.empty()) co_return HttpReply{0, problem};
  beast::ssl_stream<beast::tcp_stream> stream(executor, tls);
  if (!expect_host(stream.native_handle(), url.host, options.verify))
    co_return HttpReply{0, "TLS: cannot set the server name"};
  problem = co_await reach(beast::get_lowest_layer(stream), url, timeout);
  if (!problem.empty()) co_return HttpReply{0, problem};
  auto [ec] = co_await stream.async_handshake(net::ssl::stream_base::client, tuple_awaitable);
  if (ec) co_return HttpReply{0, explain(stream.native_handle(), ec, url)};
  co_return co_await ask(stream, url, json, known);
}

}  // namespace

HttpReply http_ask(const Url& url, const std::string* json, const TlsOptions& tls,
                   std::chrono::milliseconds timeout, const DocumentVersion& known) {
  net::io_context io{1};
  HttpReply reply{0, "no answer in time"};
  net::co_spawn(io, get(url, json, tls, timeout, known), [&](std::exception_ptr error, HttpReply got) {
    if (!error) reply = std::move(got);
    io.stop();
  });
  io.run_for(timeout);
  return reply;
}

// ---- WebSocket client

struct Client::Impl {
  net::io_context io{1};
  std::atomic<bool> stopping{false};
  std::string reason;
  Clock::time_point last_byte{};
  Clock::time_point last_data{};
  Clock::time_point last_pong{};
  Clock::time_point pinged_at{};
  std::mutex outbox_guard;
  std::deque<std::string> outbox;
  net::steady_timer outbox_filled{io};

  // One message at a time, and not faster than the strictest exchange allows.
  template <class Ws>
  net::awaitable<void> write_outbox(Ws& ws) {
    net::steady_timer timer(co_await net::this_coro::executor);
    for (;;) {
      std::string text;
      {
        const std::lock_guard hold(outbox_guard);
        if (!outbox.empty()) {
          text = std::move(outbox.front());
          outbox.pop_front();
        }
      }
      if (text.empty()) {
        outbox_filled.expires_at(Clock::time_point::max());
        co_await outbox_filled.async_wait(tuple_awaitable);  // until send() cancels it
        continue;
      }
      auto [ec, n] = co_await ws.async_write(net::buffer(text), tuple_awaitable);
      if (ec) co_return;
      timer.expires_after(greeting_interval);
      auto [timer_ec] = co_await timer.async_wait(tuple_awaitable);
      if (timer_ec) co_return;
    }
  }

  template <class Ws>
  net::awaitable<void> ping(Ws& ws, std::chrono::milliseconds every) {
    net::steady_timer timer(co_await net::this_coro::executor);
    for (;;) {
      timer.expires_after(every);
      auto [timer_ec] = co_await timer.async_wait(tuple_awaitable);
      if (timer_ec) co_return;
      if (pinged_at <= last_pong) pinged_at = Clock::now();
      auto [ec] = co_await ws.async_ping("tick", tuple_awaitable);
      if (ec) co_return;
    }
  }

  net::awaitable<void> beat(std::string text, std::chrono::milliseconds every) {
    net::steady_timer timer(co_await net::this_coro::executor);
    for (;;) {
      timer.expires_after(every);
      auto [ec] = co_await timer.async_wait(tuple_awaitable);
      if (ec) co_return;
      {
        const std::lock_guard hold(outbox_guard);
        outbox.push_back(text);
      }
      outbox_filled.cancel();
    }
  }

  template <class Ws>
  net::awaitable<void> watch(Ws& ws, const ClientOptions& options, FrameHandler& handler) {
    net::steady_timer timer(co_await net::this_coro::executor);
    for (;;) {
      timer.expires_after(options.look_every);
      auto [ec] = co_await timer.async_wait(tuple_awaitable);
      if (ec) co_return;
      const auto now = Clock::now();
      if (stopping) {
        reason.clear();
      } else if (options.max_silence.count() > 0 && now - last_byte > options.max_silence) {
        reason = "nothing received for " + seconds(options.max_silence);
      } else if (options.max_silence.count() > 0 && pinged_at > last_pong &&
                 now - pinged_at > options.max_silence) {
        reason = "no pong received for " + seconds(options.max_silence);
      } else if (options.max_data_silence.count() > 0 && now - last_data > options.max_data_silence) {
        reason = "no message received for " + seconds(options.max_data_silence) +
                 " although the connection is alive";
      } else {
        reason = handler.overdue();
        if (reason.empty()) continue;
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
    ws.read_message_max(options.max_frame);
    ws.auto_fragment(false);
    ws.text(true);
    ws.control_callback([this](websocket::frame_type kind, beast::string_view) {
      last_byte = Clock::now();
      if (kind == websocket::frame_type::pong) last_pong = last_byte;
    });

    websocket::response_type response;
    const std::string host = host_header(url);
    auto [handshake_ec] = co_await ws.async_handshake(response, host, url.target, tuple_awaitable);
    if (handshake_ec == websocket::error::upgrade_declined) co_return explain_status(response.result_int());
    if (handshake_ec == http::error::bad_version)
      co_return "the server does not speak HTTP: this is not an exchange's WebSocket address";
    if (handshake_ec) co_return describe("websocket handshake", handshake_ec);
    last_byte = last_data = last_pong = pinged_at = Clock::now();
    handler.opened();
    auto executor = co_await net::this_coro::executor;
    {
      const std::lock_guard hold(outbox_guard);
      outbox.insert(outbox.begin(), options.greetings.begin(), options.greetings.end());
    }
    net::co_spawn(executor, write_outbox(ws), net::detached);
    net::co_spawn(executor, watch(ws, options, handler), net::detached);
    if (options.ping_every.count() > 0) net::co_spawn(executor, ping(ws, options.ping_every), net::detached);
    if (!options.heartbeat.empty())
      net::co_spawn(executor, beat(options.heartbeat, options.heartbeat_every), net::detached);

    beast::flat_buffer buffer;
    net::steady_timer pause(executor);
    for (;;) {
      auto [ec, n] = co_await ws.async_read(buffer, tuple_awaitable);
      if (ec == websocket::error::closed) {
        const auto& why = ws.reason();
        co_return "closed by the server, code " + std::to_string(why.code) +
            (why.reason.empty() ? "" : " (" + std::string(why.reason.c_str()) + ")");
      }
      if (ec == websocket::error::message_too_big)
        co_return "a message is longer than " + std::to_string(options.max_frame) + " bytes";
      if (ec) co_return describe("read", ec);
      last_byte = last_data = coarse_now();
      const auto data = buffer.cdata();
      bool room = handler.frame({static_cast<const char*>(data.data()), data.size()},
                                std::chrono::system_clock::now());
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
    if (!url.tls) {
      websocket::stream<beast::tcp_stream> ws(executor);
      std::string problem = co_await reach(beast::get_lowest_layer(ws), url, options.handshake_timeout);
      if (!problem.empty()) co_return problem;
      co_return co_await talk(ws, url, options, handler);
    }

    net::ssl::context tls(net::ssl::context::tls_client);
    std::string problem = set_up(tls, options.tls);
    if (!problem.empty()) co_return problem;
    websocket::stream<beast::ssl_stream<beast::tcp_stream>> ws(executor, tls);
    SSL* ssl = ws.next_layer().native_handle();
    if (!expect_host(ssl, url.host, options.tls.verify)) co_return "TLS: cannot set the server name";
    problem = co_await reach(beast::get_lowest_layer(ws), url, options.handshake_timeout);
    if (!problem.empty()) co_return problem;
    auto [ec] = co_await ws.next_layer().async_handshake(net::ssl::stream_base::client, tuple_awaitable);
    if (ec) co_return explain(ssl, ec, url);
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

void Client::send(std::string text) {
  {
    const std::lock_guard hold(impl_->outbox_guard);
    impl_->outbox.push_back(std::move(text));
  }
  net::post(impl_->io, [impl = impl_.get()] { impl->outbox_filled.cancel(); });
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
  void swallow(bool all) { (all ? swallow_all_ : swallow_pongs_) = true; }

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
    bool keep = !swallow_all_;
    for (auto it = net::buffer_sequence_begin(buffers); it != net::buffer_sequence_end(buffers); ++it) {
      const net::const_buffer piece(*it);
      // Every write begins a frame here, and the first byte of a pong is this one.
      constexpr char pong = static_cast<char>(0x8a);
      if (swallow_pongs_ && n == 0 && piece.size() > 0 && *static_cast<const char*>(piece.data()) == pong)
        keep = false;
      if (keep) out_.append(static_cast<const char*>(piece.data()), piece.size());
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
  bool swallow_all_ = false;
  bool swallow_pongs_ = false;
  std::weak_ptr<void> owner_;
};

struct Peer {
  Peer(ClientId id_in, tcp::socket socket) : id(id_in), ws(std::move(socket)) {}
  ClientId id;
  bool open = false;
  int pings_since_pong = 0;
  websocket::stream<CoalescingStream> ws;
};

}  // namespace

// TLS in front of the plain server: bytes are carried between a TLS client and a connection to the own port.
struct TlsPipe {
  TlsPipe(tcp::socket socket, net::ssl::context& context)
      : outer(std::move(socket), context), inner(outer.get_executor()) {}
  net::ssl::stream<tcp::socket> outer;
  tcp::socket inner;

  void close() {
    error_code ignored;
    outer.lowest_layer().close(ignored);
    inner.close(ignored);
  }

  template <class From, class To>
  static net::awaitable<void> carry(std::shared_ptr<TlsPipe> pipe, From& from, To& to) {
    std::vector<char> bytes(64 * 1024);
    for (;;) {
      auto [read_ec, n] = co_await from.async_read_some(net::buffer(bytes), tuple_awaitable);
      if (read_ec) break;
      auto [write_ec, written] = co_await net::async_write(to, net::buffer(bytes.data(), n), tuple_awaitable);
      if (write_ec) break;
    }
    pipe->close();
  }

  static net::awaitable<void> serve(std::shared_ptr<TlsPipe> pipe, tcp::endpoint plain) {
    auto [tls_ec] = co_await pipe->outer.async_handshake(net::ssl::stream_base::server, tuple_awaitable);
    if (tls_ec) co_return;
    auto [ec] = co_await pipe->inner.async_connect(plain, tuple_awaitable);
    if (ec) co_return;
    error_code ignored;
    pipe->inner.set_option(tcp::no_delay(true), ignored);
    net::co_spawn(pipe->outer.get_executor(), carry(pipe, pipe->inner, pipe->outer), net::detached);
    co_await carry(pipe, pipe->outer, pipe->inner);
  }
};

// A browser tells which page wants the connection: one of another server has no business here.
bool is_foreign(const http::request<http::string_body>& request) {
  const std::string_view origin = request[http::field::origin];
  const auto at = origin.find("://");
  return websocket::is_upgrade(request) && at != origin.npos &&
         origin.substr(at + 3) != request[http::field::host];
}

struct Server::Impl {
  Impl(const ServerOptions& options, ServerHandler& handler_in)
      : acceptor(io, tcp::endpoint(net::ip::make_address(options.address), options.port)),
        timer(io),
        ping_every(options.ping_every),
        handler(handler_in) {
    if (options.tls_certificate.empty()) return;
    tls.emplace(net::ssl::context::tls_server);
    tls->use_certificate_chain_file(options.tls_certificate);
    tls->use_private_key_file(options.tls_key.empty() ? options.tls_certificate : options.tls_key,
                              net::ssl::context::pem);
    tls_acceptor.emplace(io, tcp::endpoint(acceptor.local_endpoint().address(), options.tls_port));
  }

  net::io_context io{1};
  tcp::acceptor acceptor;
  net::steady_timer timer;
  std::chrono::milliseconds ping_every;
  ServerHandler& handler;
  std::optional<net::ssl::context> tls;
  std::optional<tcp::acceptor> tls_acceptor;
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

  net::awaitable<void> listen_tls() {
    for (;;) {
      auto [ec, socket] = co_await tls_acceptor->async_accept(tuple_awaitable);
      if (ec == net::error::operation_aborted) co_return;
      if (ec) continue;
      error_code ignored;
      socket.set_option(tcp::no_delay(true), ignored);
      net::co_spawn(
          io, TlsPipe::serve(std::make_shared<TlsPipe>(std::move(socket), *tls), acceptor.local_endpoint()),
          net::detached);
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
    if (!websocket::is_upgrade(request) || is_foreign(request) || !handler.serves(target)) {
      HttpReply reply = handler.get(target);
      if (is_foreign(request)) reply = {403, "only pages of this server may connect\n", 0, "text/plain"};
      net::steady_timer wait(io, reply.delay);
      if (reply.delay.count() > 0) co_await wait.async_wait(tuple_awaitable);
      error_code ignored;
      if (reply.status == 0) co_return teardown(beast::role_type::server, ws.next_layer(), ignored);
      if (reply.status == 200 && is_known(reply.version, request[http::field::if_none_match],
                                          request[http::field::if_modified_since])) {
        reply.status = 304;
        reply.body.clear();
      }
      http::response<http::string_body> response(http::int_to_status(static_cast<unsigned>(reply.status)),
                                                 request.version());
      response.set(http::field::content_type, reply.content_type);
      if (reply.retry_after > 0) response.set(http::field::retry_after, std::to_string(reply.retry_after));
      if (!reply.version.etag.empty()) response.set(http::field::etag, reply.version.etag);
      if (!reply.version.modified.empty()) response.set(http::field::last_modified, reply.version.modified);
      response.keep_alive(false);
      response.body() = std::move(reply.body);
      response.prepare_payload();
      co_await http::async_write(ws.next_layer().socket(), response, tuple_awaitable);  // past the queue
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
    ws.control_callback([raw = peer.get()](websocket::frame_type kind, beast::string_view) {
      if (kind == websocket::frame_type::pong) raw->pings_since_pong = 0;
    });
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
      if (++peer->pings_since_pong > lost_pongs) {
        handler.lost(peer->id);
        peer->ws.next_layer().close();
        co_return;
      }
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

Server::Server(const ServerOptions& options, ServerHandler& handler)
    : impl_(std::make_unique<Impl>(options, handler)) {}

Server::~Server() {
  impl_->peers.clear();
}

std::uint16_t Server::port() const {
  return impl_->acceptor.local_endpoint().port();
}

std::uint16_t Server::tls_port() const {
  return impl_->tls_acceptor ? impl_->tls_acceptor->local_endpoint().port() : 0;
}

void Server::run() {
  if (impl_->tls_acceptor) net::co_spawn(impl_->io, impl_->listen_tls(), net::detached);
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

void Server::close(ClientId client, std::uint16_t code, std::string_view reason) {
  const auto found = impl_->peers.find(client);
  if (found == impl_->peers.end() || !found->second->open) return;
  auto& peer = *found->second;
  peer.open = false;
  peer.ws.async_close(websocket::close_reason(static_cast<websocket::close_code>(code),
                                              beast::string_view(reason.data(), reason.size())),
                      [keep = found->second](const error_code&) {});
  peer.ws.next_layer().flush();
}

void Server::swallow(ClientId client, bool all) {
  const auto found = impl_->peers.find(client);
  if (found != impl_->peers.end()) found->second->ws.next_layer().swallow(all);
}

void Server::drop(ClientId client) {
  const auto found = impl_->peers.find(client);
  if (found != impl_->peers.end()) found->second->ws.next_layer().close();
}

}  // namespace tick::ingest
