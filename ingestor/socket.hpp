// WebSocket and HTTP, client and server, behind plain types: nothing of Boost leaves socket.cpp.
// Promises: every callback runs on the thread that called run(); pings are answered while a read is pending;
// a connection is never reused after it ended. Must not know any exchange's messages.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "url.hpp"

namespace tick::ingest {

struct TlsOptions {
  bool verify = true;   // check the server's certificate and name
  std::string ca_file;  // trusted instead of the system's certificates when set
};

// Which version of a document there was, in the server's own words: who has it asks for a newer one.
struct DocumentVersion {
  std::string etag;
  std::string modified;
};

struct HttpReply {
  int status = 0;  // 0: there was no answer, `body` says why
  std::string body;
  int retry_after = 0;  // seconds; 0 when the server did not say
  std::string content_type = "application/json";
  DocumentVersion version = {};
  // Of a server: how long it waits with this answer; with status 0 none comes, and then the connection ends.
  std::chrono::milliseconds delay{0};
  std::string location = {};  // where another address is named
};

// One GET, or one POST of a JSON text. Blocks up to `timeout` for the whole of it. The status is 304 when
// the document is the version that is `known`.
HttpReply http_ask(const Url& url, const std::string* json, const TlsOptions& tls,
                   std::chrono::milliseconds timeout, const DocumentVersion& known = {});
// One GET that follows a few redirections.
HttpReply http_get(const Url& url, const TlsOptions& tls, std::chrono::milliseconds timeout,
                   const DocumentVersion& known = {});

// What a client connection reports. The handler outlives the run() that uses it.
class FrameHandler {
 public:
  virtual ~FrameHandler() = default;
  virtual void opened() = 0;
  // Takes one text message, which came at that time; false means "kept, but there is no room for another":
  // reading pauses until room().
  virtual bool frame(std::string_view text, std::chrono::system_clock::time_point received) = 0;
  virtual bool room() = 0;
  // Asked every look_every: "" to go on, or why this connection is to be ended.
  virtual std::string overdue() { return ""; }
};

struct ClientOptions {
  std::vector<std::string> greetings;  // sent after the handshake, paced below 5 messages/s
  std::string heartbeat;               // sent every so often, when not empty
  std::chrono::milliseconds heartbeat_every{20'000};
  TlsOptions tls;
  std::chrono::milliseconds handshake_timeout{10'000};  // for each of: connect, TLS, upgrade
  std::chrono::milliseconds ping_every{15'000};         // 0 = never
  std::chrono::milliseconds max_silence{60'000};  // no byte, or no pong, for so long ends the connection
  std::chrono::milliseconds max_data_silence{0};  // the same for text messages; 0 = never
  std::chrono::milliseconds look_every{50};       // at these two and at the handler's overdue()
  std::size_t max_frame = 4u << 20;               // a longer message ends the connection
};

// One connection from connect to end. run() blocks and returns why it ended ("" = stop() was called).
class Client {
 public:
  Client();
  ~Client();
  std::string run(const Url& url, const ClientOptions& options, FrameHandler& handler);
  void stop();                  // from any thread, also before run()
  void send(std::string text);  // from any thread; queued like the greetings

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

using ClientId = std::uint64_t;

// What the server asks of the exchange it fronts.
class ServerHandler {
 public:
  virtual ~ServerHandler() = default;
  virtual bool serves(std::string_view target) = 0;  // false: answered with 404
  virtual void open(ClientId client,
                    std::string_view target) = 0;  // the handshake is done: it can be sent to
  virtual void text(ClientId client, std::string_view message) = 0;
  virtual void closed(ClientId client) = 0;
  virtual void lost(ClientId client) { (void)client; }  // pings were not answered: closed() follows
  virtual std::chrono::microseconds turn() = 0;  // produce what is due; returns when to be called again
  // Answers a GET that asks for no WebSocket; who has that version already is told so instead.
  virtual HttpReply get(std::string_view target) {
    (void)target;
    return {404, "no such stream\n", 0, "text/plain"};
  }
};

struct ServerOptions {
  std::string address = "127.0.0.1";
  std::uint16_t port = 0;  // 0 = any free one
  std::chrono::milliseconds ping_every{
      0};                       // 0 = no pings; a client without a pong in three of them is dropped
  std::string tls_certificate;  // PEM files; when set, a second port speaks TLS
  std::string tls_key;
  std::uint16_t tls_port = 0;
};

// A WebSocket and HTTP server on one thread. send() only queues; queues are flushed after every turn().
class Server {
 public:
  Server(const ServerOptions& options, ServerHandler& handler);
  ~Server();
  std::uint16_t port() const;
  std::uint16_t tls_port() const;  // 0: none
  void run();
  void stop();  // from any thread
  void send(ClientId client, std::string_view text);
  std::size_t backlog(ClientId client) const;  // bytes queued and not yet taken by the kernel
  void drop(ClientId client);                  // closes the TCP connection without a close frame
  void close(ClientId client, std::uint16_t code, std::string_view reason);
  void swallow(ClientId client, bool all);  // from now on nothing is sent to it; !all: no pongs are

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tick::ingest
