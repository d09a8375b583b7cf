// WebSocket client and server behind plain types: nothing of Boost leaves socket.cpp.
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

namespace tick::ingest {

struct Url {
  bool tls = false;
  std::string host;
  std::string port;
  std::string target;  // path and query; "/" when the text had none
};

// Splits ws:// and wss:// addresses; nothing when the text is not one.
std::optional<Url> parse_url(std::string_view text);

// What a client connection reports. The handler outlives the run() that uses it.
class FrameHandler {
 public:
  virtual ~FrameHandler() = default;
  virtual void opened() = 0;
  // Takes one text message; false means "kept, but there is no room for another": reading pauses until
  // room().
  virtual bool frame(std::string_view text) = 0;
  virtual bool room() = 0;
};

struct ClientOptions {
  std::vector<std::string> greetings;          // sent after the handshake, paced below 5 messages/s
  bool verify = true;                          // check the server's certificate and name
  std::string ca_file;                         // trusted instead of the system's certificates when set
  std::chrono::seconds handshake_timeout{10};  // for each of: connect, TLS, upgrade
  std::chrono::seconds max_silence{60};        // no byte at all for so long ends the connection
  std::chrono::seconds max_data_silence{0};    // the same for text messages; 0 = never
};

// One connection from connect to end. run() blocks and returns why it ended ("" = stop() was called).
class Client {
 public:
  Client();
  ~Client();
  std::string run(const Url& url, const ClientOptions& options, FrameHandler& handler);
  void stop();  // from any thread, also before run()

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
  virtual std::chrono::microseconds turn() = 0;  // produce what is due; returns when to be called again
};

// A plain-text WebSocket server on one thread. send() only queues; queues are flushed after every turn().
class Server {
 public:
  Server(const std::string& address, std::uint16_t port, std::chrono::seconds ping_every,
         ServerHandler& handler);
  ~Server();
  std::uint16_t port() const;
  void run();
  void stop();  // from any thread
  void send(ClientId client, std::string_view text);
  std::size_t backlog(ClientId client) const;  // bytes queued and not yet taken by the kernel
  void drop(ClientId client);                  // closes the TCP connection without a close frame

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tick::ingest
