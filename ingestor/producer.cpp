// Chain, rejects and status around a producer; see producer.hpp.
#include "producer.hpp"

#include <optional>

#include "log.hpp"
#include "run.hpp"
#include "status.hpp"

namespace tick::ingest {

int run_producer(const Config& config, const std::string& connection,
                 const std::function<std::unique_ptr<Producer>(Chain&, Rejects&)>& make,
                 const std::function<std::string(const Stats&)>& summary) try {
  WriterOptions options = writer_options(config);
  options.feed = find_venue(config.feed)->exchange;
  options.by_index = true;
  options.connection = config.connection.empty() ? connection : config.connection;
  Chain chain(config, options);
  const std::string name = options.feed + "/" + options.connection;
  int code = exit_failed;
  {
    Rejects rejects(config.database, name, chain.stats());
    std::optional<StatusServer> status;
    if (!config.listen.empty())
      status.emplace(
          config.listen, chain.stats(),
          [&] {
            return Gauges{chain.ring().size(), chain.ring().spooled(), chain.ring().dropped()};
          },
          name, config.database);
    const auto producer = make(chain, rejects);
    code = chain.supervise([&] { producer->run(); }, [&] { producer->stop(); });
  }
  log::info("stopped: " + grouped(chain.stats().rows) + " rows committed, " + summary(chain.stats()));
  return code;
} catch (const std::exception& error) {
  log::error(error.what());
  return exit_failed;
}

}  // namespace tick::ingest
