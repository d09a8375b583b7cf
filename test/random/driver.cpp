// The random test: concurrent writers of all isolation levels do a seeded mix of everything that may be done
// to a source while the worker, backends and the postmaster are killed with SIGKILL; at every quiet point
// each rollup must equal the built-ins oracle over a shadow table, and tick.verify must find nothing, and a
// copy made from tick.changes alone must be its rollup. Ends at the first difference.
//
//   driver SEED DATA SOCKETS [OPERATIONS]
// DATA: a stopped server's directory with the extension created; SOCKETS: an empty directory. Every statement
// goes to DATA/statements.log.
#include <poll.h>

#include <algorithm>
#include <deque>
#include <map>
#include <memory>

#include "compare.hpp"
#include "follower.hpp"
#include "operations.hpp"
#include "server.hpp"
#include "shapes.hpp"
#include "writer.hpp"

namespace tick::random {
namespace {

constexpr int writers = 4, operations_of_a_source = 700;
constexpr int operations_between_quiet_points = 55, operations_between_kills = 800;

class Driver {
 public:
  Driver(uint64_t seed, const std::string& data, const std::string& sockets, int operations)
      : seed_(seed),
        planned_(operations),
        server_(data, sockets, settings(seed)),
        log_(data + "/statements.log"),
        dice_(seed * 977 + 5) {
    for (int i = 0; i < writers; ++i) writers_.push_back(std::make_unique<Writer>(seed, i));
  }

  int run();

 private:
  static std::vector<std::string> settings(uint64_t seed) {
    // clang-format off
    std::vector<std::string> list = {
        "fsync=off", "full_page_writes=off", "deadlock_timeout=20ms", "max_prepared_transactions=20",
        "restart_after_crash=on", "shared_buffers=64MB", "log_min_messages=warning"};
    // clang-format on
    // The ring turns over and turns are cut on every other seed.
    if (seed % 2 == 1) list.insert(list.end(), {"tick.queue_size=64kB", "tick.turn_memory=16kB"});
    return list;
  }

  void connect();
  void make_source();
  void drop_source();
  void work();
  std::vector<int> allowed() const;
  int draw(int from);
  int draw_definition();
  void give_work(Writer& writer);
  bool give_definition(Writer& writer, Kind kind);
  Script resolve_prepared();
  void finished(Writer& writer);
  void wait_for_writers();
  void poll_writers(int milliseconds);
  void learn();
  void learn_prepared();
  void quiet_point();
  struct Shown {
    Rows rows, stale;
    std::string raw_from;  // of the source, null_text: it has all its rows
  };
  std::map<std::string, Shown> read_live();
  void compare(const std::vector<std::string>& names, const std::map<std::string, Shown>& live);
  void kill_something();
  bool wanting(int kind) const { return table[kind].effect < least(kind); }
  // Less has come of it than should have by now, were all to be there a little before the end.
  bool behind(int kind) const {
    return table[kind].weight > 0 && table[kind].effect * planned_ * 20 < least(kind) * operations_ * 21;
  }
  std::vector<int> rare_definitions() const {
    std::vector<int> rare;
    for (int kind = create_partition; kind < kinds; ++kind)
      if (behind(kind)) rare.push_back(kind);
    return rare;
  }
  int least_quiet() const { return 200 * planned_ / 10000; }
  long least(int kind) const { return static_cast<long>(table[kind].least) * planned_ / 10000; }
  bool creating() const {
    return std::any_of(writers_.begin(), writers_.end(),
                       [](const auto& writer) { return writer->busy() && writer->script().creates; });
  }
  bool leaving() const {
    return std::any_of(writers_.begin(), writers_.end(),
                       [](const auto& writer) { return writer->busy() && writer->script().leaves; });
  }
  // Rows may leave the table once a new rollup has them, and the other way round.
  bool must_wait(Kind kind) const {
    if (kind == create_rollup || kind == create_child || kind == alter_rollup) return creating() || leaving();
    if (kind == seed_rollup || kind == forget_key || kind == rename_key) return creating();
    return creating() && (kind == detach_partition || kind == drop_partition);
  }
  bool in_the_making(const std::string& view) const {
    return std::any_of(writers_.begin(), writers_.end(), [&](const auto& writer) {
      const auto& made = writer->script().made;
      return writer->busy() && std::find(made.begin(), made.end(), view) != made.end();
    });
  }
  bool enough() const;
  void report();

  const uint64_t seed_;
  const int planned_;
  Server server_;
  Log log_;
  Dice dice_;
  std::unique_ptr<Link> control_, second_;
  std::vector<std::unique_ptr<Writer>> writers_;
  Source source_;
  int sources_ = 0, operations_ = 0, in_source_ = 0, quiet_points_ = 0, next_rollup_ = 0;
  int next_quiet_ = 0, next_kill_ = operations_between_kills / 2;
  std::array<int, 3> kills_{};
  long stale_ = 0, live_ = 0, not_live_ = 0, histories_ = 0, finals_ = 0;
  bool defining_ = false;
  int alone_ = 0;                // so many times the first writer works alone
  std::deque<int> definitions_;  // drawn, not made yet
  std::set<std::string> prepared_;
  std::map<std::string, Standing> rollups_;
  std::map<std::string, Standing>::const_iterator pick_merged();
  std::map<std::string, Child> children_;
  Follower follower_;
  Comparison comparison_;
  double quiet_time_ = 0, drain_time_ = 0, wait_time_ = 0, kill_time_ = 0, verify_time_ = 0;
};

void Driver::connect() {
  control_ = std::make_unique<Link>(server_.conninfo());
  second_ = std::make_unique<Link>(server_.conninfo());
  for (Link* link : {control_.get(), second_.get()}) {
    if (!link->good()) throw Failed("no connection");
    link->ask("SET timezone = 'UTC'");
  }
  for (auto& writer : writers_) writer->connect(server_.conninfo());
}

void Driver::make_source() {
  const int number = ++sources_;
  source_ = Source{};
  source_.name = "src" + std::to_string(number);
  source_.shadow = "shadow" + std::to_string(number);
  source_.partitioned = number % 4 != 0;
  source_.hashed = number % 4 == 2;
  source_.special = number % 3 == 0;
  in_source_ = 0;
  std::string sql = "CREATE TABLE " + source_.name + " (" + column_types + ")";
  if (source_.partitioned) sql += " PARTITION BY RANGE (ts)";
  sql += "; CREATE TABLE " + source_.shadow + " (" + column_types + ", gone int8, PRIMARY KEY (id))";
  sql += "; CREATE TABLE " + source_.old() + " AS " + old_rows(static_cast<int>(seed_ % 97) + number);
  if (source_.partitioned) {
    sql += "; CREATE TABLE " + source_.name + "_attic PARTITION OF " + source_.name + " DEFAULT";
    for (int i = 0; i < 4; ++i)
      sql += "; CREATE TABLE " + source_.leaf(i) + " PARTITION OF " + source_.name + bounds(i);
    source_.next_partition = 4;
  }
  control_->ask(sql);
  definitions_.clear();
  learn();
}

void Driver::drop_source() {
  wait_for_writers();
  for (const std::string& gid : std::set<std::string>(prepared_))
    control_->ask("ROLLBACK PREPARED '" + gid + "'");
  prepared_.clear();
  quiet_point();
  std::string sql = "DELETE FROM births; DELETE FROM added; DELETE FROM children; DROP TABLE " +
                    source_.name + " CASCADE; DROP TABLE " + source_.shadow + ", " + source_.old();
  for (const Partition& partition : source_.partitions)
    if (!partition.attached) sql += "; DROP TABLE " + source_.leaf(partition.index);
  control_->ask(sql);
}

// What the catalogs say about partitions, columns and rollups: after a kill the driver cannot know.
void Driver::learn() {
  source_.partitions.clear();
  const std::string leaf = source_.name + "_p";
  for (const auto& row : control_->ask_again(
           "SELECT substring(relname FROM '_p(\\d+)$')::int, oid IN (SELECT inhrelid FROM pg_inherits) FROM "
           "pg_class WHERE relkind IN ('r', 'p') AND relname >= '" +
           leaf + "' AND relname < '" + source_.name + "_q' AND relname ~ '_p\\d+$' ORDER BY 1")) {
    source_.partitions.push_back({std::stoi(row[0]), row[1] == "t"});
    source_.next_partition = std::max(source_.next_partition, std::stoi(row[0]) + 1);
  }
  source_.extra.clear();
  for (const auto& row :
       control_->ask_again("SELECT attname FROM pg_attribute WHERE attrelid = '" + source_.name +
                           "'::regclass AND attname ~ '^x\\d+$' AND NOT attisdropped"))
    source_.extra.push_back(row[0]);
  rollups_.clear();
  for (const auto& row : control_->ask("SELECT view, shape, seeded, loose FROM births")) {
    const Shape& shape = shapes().at(static_cast<size_t>(std::stoi(row[1])));
    rollups_[row[0]] = {shape, shape.columns.size(), {}, row[2] == "t", row[3] == "t"};
  }
  children_.clear();
  for (const auto& row : control_->ask("SELECT view, parent, hop FROM children"))
    children_[row[0]] = {row[1], rollups_.at(row[1]).shape, row[2] == "t"};
  for (const auto& row : control_->ask("SELECT view, which, since FROM added ORDER BY number")) {
    Standing& rollup = rollups_.at(row[0]);
    rollup.shape.columns.push_back(additions().at(static_cast<size_t>(std::stoi(row[1]))));
    rollup.since.push_back(row[2]);
  }
}

// Only while no writer is about to end one.
void Driver::learn_prepared() {
  prepared_.clear();
  for (const auto& row : control_->ask("SELECT gid FROM pg_prepared_xacts")) prepared_.insert(row[0]);
}

std::vector<int> Driver::allowed() const {
  std::vector<int> list;
  for (int kind = insert; kind <= exception_block; ++kind) {
    if (table[kind].weight == 0 || (kind == leaf_insert && !source_.partitioned)) continue;
    list.push_back(kind);
  }
  return list;
}

Script Driver::resolve_prepared() {
  Script script;
  const std::string gid = *prepared_.begin();
  const bool commit = dice_.chance(55);
  const int kind = commit ? commit_prepared : rollback_prepared;
  script.resolved = gid;
  script.batches = {
      {{std::string(commit ? "COMMIT" : "ROLLBACK") + " PREPARED '" + gid + "'", "", kind, true}}};
  prepared_.erase(gid);
  return script;
}

// One with windows that are merged; the end if there is none.
std::map<std::string, Standing>::const_iterator Driver::pick_merged() {
  std::vector<std::map<std::string, Standing>::const_iterator> list;
  for (auto at = rollups_.cbegin(); at != rollups_.cend(); ++at)
    if (at->second.shape.window != 0 && !at->second.shape.computed) list.push_back(at);
  return list.empty() ? rollups_.cend() : dice_.pick(list);
}

// A definition for a writer; false when it makes no sense now.
bool Driver::give_definition(Writer& writer, Kind kind) {
  Script script;
  script.definition = true;
  const std::string lock = "LOCK TABLE " + source_.name + " IN ACCESS EXCLUSIVE MODE";
  const auto add = [&](Batch batch) { script.batches.push_back(std::move(batch)); };
  std::vector<int> attached, detached;
  for (const Partition& partition : source_.partitions)
    (partition.attached ? attached : detached).push_back(partition.index);
  switch (kind) {
    case create_partition:
    case attach_partition:
    case attach_rows: {
      if (!source_.partitioned) return false;
      if (attached.size() > 6)
        return !must_wait(drop_partition) &&
               give_definition(writer, dice_.chance(50) ? detach_partition : drop_partition);
      int index = source_.next_partition;
      std::vector<int> missing;
      for (int i = 0; i < source_.next_partition; ++i)
        if (std::none_of(source_.partitions.begin(), source_.partitions.end(),
                         [&](const Partition& known) { return known.index == i; }))
          missing.push_back(i);
      // Of one that has been there before nobody knows which rows it had.
      if (kind != attach_rows && !missing.empty() && dice_.chance(25)) index = dice_.pick(missing);
      const std::string leaf = source_.leaf(index);
      if (kind == create_partition) {
        std::string sql = "CREATE TABLE " + leaf + " PARTITION OF " + source_.name + bounds(index);
        if (source_.hashed && dice_.chance(60)) {
          add({{"BEGIN"},
               {sql + " PARTITION BY HASH (id)", "", kind, true},
               {"CREATE TABLE " + leaf + "_a PARTITION OF " + leaf +
                " FOR VALUES WITH (MODULUS 2, REMAINDER 0)"},
               {"CREATE TABLE " + leaf + "_b PARTITION OF " + leaf +
                " FOR VALUES WITH (MODULUS 2, REMAINDER 1)"},
               {"COMMIT"}});
        } else {
          add({{sql, "", kind, true}});
        }
      } else {
        std::string sql =  // another order of columns, and a hole
            "CREATE TABLE " + leaf +
            " (note text, flag bool, junk int, n int4, amount numeric, qty float8, price float8, seq int4, "
            "ts timestamptz, venue text, sym text, id int8";
        for (const std::string& name : source_.extra) sql += ", " + name + " int4";
        add({{"BEGIN"}, {sql + ")"}, {"ALTER TABLE " + leaf + " DROP COLUMN junk"}});
        if (kind == attach_rows) add({{new_rows(leaf, source_.shadow, index, dice_)}});
        add({{"ALTER TABLE " + source_.name + " ATTACH PARTITION " + leaf + bounds(index), "", kind, true},
             {"COMMIT"}});
        // Until they have been read they may go again as if they had never come.
        if (kind == attach_rows) add({{"SELECT tick.wait(NULL, '20 s')"}});
      }
      if (index == source_.next_partition) ++source_.next_partition;
      break;
    }
    case detach_partition:
    case drop_partition: {
      if (!source_.partitioned || attached.empty()) return false;
      script.leaves = true;
      const int index = dice_.chance(70) ? attached.front() : dice_.pick(attached);
      const std::string leaf = source_.leaf(index);
      add({{"BEGIN"},
           {lock},
           {"UPDATE " + source_.shadow +
            " SET gone = (SELECT nextval('clock')) WHERE gone IS NULL AND id IN (SELECT id FROM " + leaf +
            ")"}});
      if (kind == detach_partition)
        add({{"ALTER TABLE " + source_.name + " DETACH PARTITION " + leaf, "", kind, true},
             {"DROP TABLE " + leaf},
             {"COMMIT"}});
      else
        add({{"DROP TABLE " + leaf, "", kind, true}, {"COMMIT"}});
      break;
    }
    case create_rollup: {
      if (rollups_.size() >= 8) return false;
      int shape = dice_.below(static_cast<int>(shapes().size()));
      while (behind(seed_rollup) && !shapes()[static_cast<size_t>(shape)].seeds)
        shape = dice_.below(static_cast<int>(shapes().size()));
      const std::string view = "r" + std::to_string(++next_rollup_);
      const bool merged = shapes()[shape].window != 0 && !shapes()[shape].computed;
      const std::string history = merged && dice_.chance(30) ? ", history => '1 day'" : "";
      // The number is drawn while the table is locked: rows that leave it later have a greater one.
      add({{"BEGIN"},
           {"SELECT tick.create_rollup('" + view + "', $$" + rollup_query(shapes()[shape], source_.name) +
                "$$" + history + ")",
            "", kind, true},
           {"INSERT INTO births SELECT '" + view + "', " + std::to_string(shape) + ", nextval('clock')"},
           {"COMMIT"}});
      script.definition = false;
      script.creates = true;
      script.made = {view};
      add({{"SELECT tick.wait('" + view + "', '20 s')"}});
      break;
    }
    case create_child: {
      if (children_.size() >= 4 || rollups_.empty()) return false;
      const auto at = pick_merged();
      if (at == rollups_.end()) return false;
      const auto& [parent, rollup] = *at;
      const Child child{parent, rollup.shape, dice_.chance(30)};
      const std::string view = "c" + std::to_string(++next_rollup_);
      add({{"BEGIN"},
           {"SELECT tick.create_rollup('" + view + "', $$" + child.query(false) + "$$)", "", kind, true},
           {"INSERT INTO children VALUES ('" + view + "', '" + parent + "', " +
            (child.hop ? "true" : "false") + ")"},
           {"COMMIT"}});
      script.creates = true;
      script.made = {view, parent};
      add({{"SELECT tick.wait('" + view + "', '20 s')"}});
      break;
    }
    case drop_rollup: {
      if (rollups_.size() < 3) return false;
      if (!children_.empty() && dice_.chance(30)) {
        const std::string& view = children_.begin()->first;
        if (in_the_making(view)) return false;
        add({{"BEGIN"},
             {"SELECT tick.drop_rollup('" + view + "')", "", kind, true},
             {"DELETE FROM children WHERE view = '" + view + "'"},
             {"COMMIT"}});
        break;
      }
      const std::string view =
          std::next(rollups_.begin(), dice_.below(static_cast<int>(rollups_.size())))->first;
      if (in_the_making(view)) return false;
      const bool read = std::any_of(children_.begin(), children_.end(),
                                    [&](const auto& child) { return child.second.parent == view; });
      const std::string sql = read               ? "DROP VIEW " + view + " CASCADE"
                              : dice_.chance(50) ? "SELECT tick.drop_rollup('" + view + "')"
                                                 : "DROP VIEW " + view;
      add({{"BEGIN"},
           {sql, "", kind, true},
           {"DELETE FROM children WHERE parent = '" + view + "'"},
           {"DELETE FROM births WHERE view = '" + view + "'"},
           {"DELETE FROM added WHERE view = '" + view + "'"},
           {"COMMIT"}});
      break;
    }
    case alter_rollup: {
      if (rollups_.empty()) return false;
      const auto at = pick_merged();
      if (at == rollups_.end() || at->second.since.size() >= 3) return false;
      const auto& [view, rollup] = *at;
      const int which = dice_.below(static_cast<int>(additions().size()));
      const Column& column = additions()[static_cast<size_t>(which)];
      for (const Column& other : rollup.shape.columns)
        if (other.name == column.name) return false;
      // Before raw_from nobody promises anything of it; no partition leaves meanwhile.
      add({{"BEGIN"},
           {lock},
           {"SELECT tick.alter_rollup('" + view + "', add => $$" + column.rollup + " AS " + column.name +
                "$$)",
            "", kind, true},
           {"INSERT INTO added SELECT '" + view + "', " + std::to_string(which) +
            ", greatest(max(raw_from), '2024-02-29 00:00+00')::text, nextval('clock') FROM "
            "tick_catalog.source"},
           {"COMMIT"}});
      script.creates = true;
      script.made = {view};
      add({{"SELECT tick.wait('" + view + "', '20 s')"}});
      break;
    }
    case seed_rollup: {
      std::vector<std::string> list;
      for (const auto& [view, rollup] : rollups_)
        if (rollup.shape.seeds && !rollup.seeded && rollup.since.empty() && !in_the_making(view))
          list.push_back(view);
      if (list.empty()) return false;
      const std::string& view = dice_.pick(list);
      add({{"BEGIN"},
           {"SELECT tick.seed('" + view + "', $$" + seed_query(rollups_.at(view).shape, source_.old()) +
                "$$)",
            "", kind, true},
           {"UPDATE births SET seeded = true WHERE view = '" + view + "'"},
           {"COMMIT"}});
      break;
    }
    case forget_key:
    case rename_key: {
      Batch batch = change_key(source_, kind, dice_);
      if (batch.empty()) return false;
      add(std::move(batch));
      break;
    }
    case refresh_rollup: {
      if (rollups_.empty()) return false;
      const std::string view =
          std::next(rollups_.begin(), dice_.below(static_cast<int>(rollups_.size())))->first;
      const std::string from = time_text(dice_.below(source_.clock + 1), 0);
      const int end = dice_.below(4);  // 0: up to it, 1: from it on, else all
      const std::string range = end == 0 ? ", NULL, '" + from + "'" : end == 1 ? ", '" + from + "'" : "";
      // Without windows, it cannot be computed again once partitions have gone.
      add({{"SELECT tick.refresh('" + view + "'" + range + ")", "", kind, true, false, true}});
      break;
    }
    case truncate:
      if (rollups_.empty()) return false;  // nobody minds
      add({{"TRUNCATE " +
                (attached.empty() || dice_.chance(50) ? source_.name : source_.leaf(dice_.pick(attached))),
            "", kind, false, true}});
      break;
    case vacuum: {
      std::vector<std::string> tables = {source_.name, source_.shadow, "tick_catalog.queue_0",
                                         "tick_catalog.frontier"};
      for (const auto& [view, rollup] : rollups_) tables.push_back(view + "_state");
      for (const auto& [view, child] : children_) tables.push_back(view + "_state");
      add({{upkeep(dice_.pick(tables), dice_), "", kind, true}});
      break;
    }
    case add_column: {
      static const std::vector<std::string> defaults = {"", " DEFAULT 7", " DEFAULT (random() * 9)::int4"};
      add({{"ALTER TABLE " + source_.name + " ADD COLUMN x" + std::to_string(++source_.next_column) +
                " int4" + dice_.pick(defaults),
            "", kind, true}});
      break;
    }
    case drop_column:
      if (source_.extra.empty()) return give_definition(writer, add_column);
      add({{"ALTER TABLE " + source_.name + " DROP COLUMN " + dice_.pick(source_.extra), "", kind, true}});
      break;
    default:
      return false;
  }
  ++operations_;
  if (script.definition) defining_ = true;
  writer.begin(std::move(script), log_);
  return true;
}

// A definition of which there should have been more by now; any, now and then, if there is none such.
int Driver::draw_definition() {
  const std::vector<int> rare = rare_definitions();
  return !rare.empty() ? dice_.pick(rare) : draw(dice_.chance(20) ? create_partition : insert);
}

// What to do next, drawn by weight.
int Driver::draw(int from) {
  int sum = 0;
  for (int kind = from; kind < kinds; ++kind) sum += table[kind].weight;
  int at = dice_.below(sum);
  int kind = from;
  while ((at -= table[kind].weight) >= 0) ++kind;
  return kind;
}

// The next thing for a writer to do. Definitions are made one after another: those drawn meanwhile wait.
void Driver::give_work(Writer& writer) {
  const int before = operations_;
  const auto waiting = [&](int kind) {
    return static_cast<size_t>(std::count(definitions_.begin(), definitions_.end(), kind));
  };
  const int kind = rollups_.size() + waiting(create_rollup) < (creating() ? 3 : 4) ? create_rollup
                   : alone_ > 0 || dice_.chance(10)                                ? draw_definition()
                                                                                   : draw(insert);
  if (kind >= create_partition && (waiting(kind) == 0 || kind == create_rollup)) definitions_.push_back(kind);
  bool given = false;
  if (alone_ > 0) --alone_;
  // What is prepared holds its locks until somebody ends it: most definitions would wait for that in vain.
  const bool in_the_way = !definitions_.empty() && dice_.chance(80);
  if (!prepared_.empty() && (prepared_.size() > 3 || in_the_way || dice_.chance(25))) {
    ++operations_;
    writer.begin(resolve_prepared(), log_);
    given = true;
  }
  for (size_t i = 0; !given && !defining_ && i < definitions_.size();) {
    const auto kind = static_cast<Kind>(definitions_[i]);
    if (must_wait(kind)) {
      ++i;
      continue;
    }
    definitions_.erase(definitions_.begin() + static_cast<long>(i));
    given = give_definition(writer, kind);
  }
  if (!given && alone_ == 0) writer.begin(writer.author.transaction(source_, allowed(), operations_), log_);
  in_source_ += operations_ - before;
  const int reach = source_.partitioned ? source_.next_partition * slice - 60 : 7200;
  source_.clock = std::min(reach, source_.clock + (operations_ - before) * 4);
}

void Driver::finished(Writer& writer) {
  const Script& script = writer.script();
  if (script.definition) defining_ = false;
  if (writer.lost()) return;
  if (writer.succeeded() && !script.prepared.empty()) prepared_.insert(script.prepared);
  if (!writer.succeeded() && !script.resolved.empty()) prepared_.insert(script.resolved);
  if (script.definition || script.creates) learn();
}

void Driver::poll_writers(int milliseconds) {
  std::vector<pollfd> fds;
  std::vector<Writer*> which;
  for (auto& writer : writers_)
    if (writer->busy()) {
      fds.push_back({writer->socket(), POLLIN, 0});
      which.push_back(writer.get());
    }
  if (fds.empty() || poll(fds.data(), fds.size(), milliseconds) <= 0) return;
  for (size_t i = 0; i < fds.size(); ++i)
    if (fds[i].revents != 0 && which[i]->pump(log_)) finished(*which[i]);
}

void Driver::wait_for_writers() {
  const double until = now() + 60;
  const auto busy = [&] {
    return std::any_of(writers_.begin(), writers_.end(), [](const auto& writer) { return writer->busy(); });
  };
  while (busy()) {
    poll_writers(1000);
    if (now() > until) throw Failed("writers hang");
  }
}

// What the _live views say while deltas are still to be merged: a statement's rows are there when it has
// ended. Of what it cannot say at the moment it says so.
std::map<std::string, Driver::Shown> Driver::read_live() {
  std::map<std::string, Shown> result;
  for (const auto& [view, rollup] : rollups_) {
    const Shape& shape = rollup.shape;
    if (shape.computed) continue;
    try {
      control_->ask("BEGIN ISOLATION LEVEL REPEATABLE READ");
      Shown shown{control_->ask_again(stored_query(shape, view + "_live")),
                  control_->ask_again(stale_query(shape, view)),
                  control_->value("SELECT max(raw_from) FROM tick_catalog.source")};
      result[view] = std::move(shown);
      control_->ask("COMMIT");
      ++live_;
    } catch (const Failed& failed) {
      const std::string text = failed.what();
      if (text.find("have just been changed") == std::string::npos &&
          text.find("is still to be computed") == std::string::npos)
        throw;
      control_->ask("ROLLBACK");
      ++not_live_;
    }
  }
  return result;
}

void Driver::compare(const std::vector<std::string>& names, const std::map<std::string, Shown>& live) {
  if (names.empty()) return;
  std::string verify;
  for (const std::string& view : names)
    verify += (verify.empty() ? "" : " UNION ALL ") +
              ("(SELECT '" + view + "', v::text FROM tick.verify('" + view + "') AS v LIMIT 5)");
  const double begun = now();
  second_->send(verify);
  std::map<std::string, std::string> born;
  for (const auto& row : control_->ask("SELECT view, born FROM births")) born[row[0]] = row[1];
  const std::string raw_from = control_->value("SELECT max(raw_from) FROM tick_catalog.source");
  std::string failure;
  for (const auto& [view, child] : children_)
    for (const auto& other : control_->ask_again(child.comparison(view)))
      failure += "\n  " + view + ": " + text_of(other);
  for (const std::string& view : names) {
    if (children_.contains(view)) continue;
    const Shape& shape = rollups_.at(view).shape;
    Rows stored = control_->ask_again(stored_query(shape, view));
    const std::string old = rollups_.at(view).seeded ? source_.old() : "";
    Rows expected = control_->ask_again(oracle_query(shape, source_.shadow, born.at(view), old));
    // Rows that are stale say so themselves.
    const Rows stale = control_->ask_again(stale_query(shape, view));
    std::set<std::vector<std::string>> keys(stale.begin(), stale.end());
    stale_ += static_cast<long>(keys.size());
    // A row may have been stale and be computed again since.
    Rows shown = live.contains(view) ? live.at(view).rows : stored;
    if (live.contains(view)) keys.insert(live.at(view).stale.begin(), live.at(view).stale.end());
    for (Rows* rows : {&stored, &shown, &expected})
      std::erase_if(*rows, [&](const auto& row) {
        if (rollups_.at(view).loose && raw_from != null_text &&
            (shape.window == 0 || shape.rows_from(row[key_columns(shape) - 1]) < raw_from))
          return true;
        return keys.contains({row.begin(), row.begin() + static_cast<long>(key_columns(shape))});
      });
    try {
      comparison_.rows(source_.name, view, rollups_.at(view), stored, expected);
      comparison_.rows(source_.name, view + "_live", rollups_.at(view), shown, expected,
                       live.contains(view) ? live.at(view).raw_from : null_text);
    } catch (const Failed& failed) {
      failure += std::string("\n") + failed.what();
    }
  }
  for (const auto& row : control_->ask_again("SELECT r.view::regclass FROM tick_catalog.rollup AS r JOIN "
                                             "tick_catalog.history AS h ON h.rollup = r.id")) {
    const Shape& shape = rollups_.at(row[0]).shape;
    for (const auto& other : control_->ask_again(as_of_query(shape, row[0])))
      failure += "\n  tick.as_of: " + row[0] + " " + other[0] + " " + other[1];
    finals_ += std::stol(control_->value("SELECT count(*) FROM " + row[0] + " WHERE final"));
    ++histories_;
  }
  if (!rollups_.contains(follower_.view()))
    follower_.follow(std::next(rollups_.begin(), dice_.below(static_cast<int>(rollups_.size())))->first);
  const Standing& followed = rollups_.at(follower_.view());
  failure += follower_.catch_up(*control_, followed.shape, followed.born_with);
  for (const auto& row : second_->receive()) failure += "\n  tick.verify: " + row[0] + " " + row[1];
  verify_time_ += now() - begun;
  if (!failure.empty()) throw Failed("not exact:" + failure);
}

void Driver::quiet_point() {
  const double begun = now();
  wait_for_writers();
  drain_time_ += now() - begun;
  learn();
  const std::map<std::string, Shown> live = read_live();
  const double waiting = now();
  if (control_->value("SELECT tick.wait(NULL, '30 s')") != "t") throw Failed("not merged within 30 s");
  wait_time_ += now() - waiting;
  std::vector<std::string> names;
  for (const auto& row : control_->ask_again("SELECT rollup::text, state, last_error FROM tick.status")) {
    if (row[1] != "live") throw Failed("rollup " + row[0] + " is " + row[1] + ": " + row[2]);
    names.push_back(row[0]);
  }
  if (names.size() != rollups_.size() + children_.size()) throw Failed("a rollup too few or too many");
  compare(names, live);
  ++quiet_points_;
  log_.put(9, "quiet point " + std::to_string(quiet_points_));
  quiet_time_ += now() - begun;
}

void Driver::kill_something() {
  const double begun = now();
  const int which = kills_[0] <= kills_[1] && kills_[0] <= kills_[2] ? 0 : kills_[1] <= kills_[2] ? 1 : 2;
  if (which == 2) {
    log_.put(9, "kill postmaster");
    server_.kill_postmaster();
  } else {
    pid_t victim = 0;
    if (which == 0) {
      const std::string pid = control_->value("SELECT worker FROM tick_catalog.worker_counters()");
      victim = pid.empty() || pid == null_text ? 0 : std::stoi(pid);
    } else {
      for (const auto& writer : writers_)
        if (writer->busy()) victim = writer->backend();
    }
    if (victim <= 0) return;
    log_.put(9, which == 0 ? "kill worker" : "kill backend");
    if (kill(victim, SIGKILL) != 0) return;
    // The postmaster ends everybody else: wait for that, or a new connection may still meet the old server.
    const double until = now() + 30;
    while (PQstatus(control_->raw()) == CONNECTION_OK) {
      pollfd fd{PQsocket(control_->raw()), POLLIN, 0};
      poll(&fd, 1, 100);
      if (PQconsumeInput(control_->raw()) != 1 || now() > until) break;
    }
  }
  for (auto& writer : writers_) writer->disconnect();
  defining_ = false;
  ++kills_[static_cast<size_t>(which)];
  server_.start();
  connect();
  learn();
  learn_prepared();
  kill_time_ += now() - begun;
  next_quiet_ = operations_;
}

void Driver::work() {
  make_source();
  next_quiet_ = operations_ + operations_between_quiet_points;
  const int until = operations_ + operations_of_a_source / (source_.partitioned ? 1 : 2);
  while (operations_ < until && !enough()) {
    if (operations_ >= next_quiet_) {
      quiet_point();
      alone_ = 4;  // a few definitions get their locks more easily now
      next_quiet_ = operations_ + operations_between_quiet_points;
    }
    bool lost = false;
    for (auto& writer : writers_) {
      if (writer->lost()) lost = true;
      // Definitions take longest: while there are too few, others do less beside one.
      if (writer->busy() || (defining_ && dice_.chance(60) && !rare_definitions().empty())) continue;
      if (!lost && (alone_ == 0 || writer == writers_.front())) give_work(*writer);
    }
    if (lost) throw Failed("a connection was lost that nobody killed");
    if (operations_ >= next_kill_) {
      next_kill_ = operations_ + operations_between_kills;
      kill_something();
      continue;
    }
    poll_writers(1000);
  }
  drop_source();
}

// All planned operations are done, and a few more for what the dice have neglected.
bool Driver::enough() const {
  if (operations_ < planned_ || quiet_points_ < least_quiet()) return false;
  bool wanted = false;
  for (int kind = 0; kind < kinds; ++kind) wanted = wanted || wanting(kind);
  return !wanted || operations_ > planned_ * 2;
}

void Driver::report() {
  std::printf(
      "seed %llu: %d operations, %d quiet points, %ld values compared, %ld rows stale, %ld times _live (%ld "
      "times it had nothing to say, %ld values it could not know), %ld histories of %ld final rows, %ld "
      "changes followed, killed worker %d, backend %d, postmaster %d times\n",
      static_cast<unsigned long long>(seed_), operations_, quiet_points_, comparison_.compared, stale_, live_,
      not_live_, comparison_.unsure, histories_, finals_, follower_.taken(), kills_[0], kills_[1], kills_[2]);
  for (int kind = 0; kind < kinds; ++kind)
    if (table[kind].least > 0) table[kind].report(wanting(kind));
  std::fflush(stdout);
}

int Driver::run() {
  const double begun = now();
  try {
    server_.start();
    connect();
    control_->ask(
        "CREATE TABLE births (view text, shape int, born int8, seeded bool DEFAULT false, loose bool DEFAULT "
        "false); CREATE TABLE children (view text, parent text, hop bool); CREATE TABLE added (view text, "
        "which int, since text, number int8); CREATE SEQUENCE clock; CREATE TABLE staged (xact xid8, id "
        "int8); CREATE SEQUENCE ids START 1000000000");
    while (!enough()) work();
    server_.stop(SIGINT);
  } catch (const std::exception& error) {
    report();
    std::printf("seed %llu FAILED at operation %d: %s\n", static_cast<unsigned long long>(seed_), operations_,
                error.what());
    return 1;
  }
  report();
  bool passed = quiet_points_ >= least_quiet() && live_ > 10 * not_live_ &&
                1000 * comparison_.unsure < comparison_.compared && follower_.taken() > 0 &&
                (planned_ < 10000 || finals_ > 0) &&
                kills_[0] + kills_[1] + kills_[2] >= 10 * planned_ / 10000;
  for (int kind = 0; kind < kinds; ++kind) passed = passed && !wanting(kind);
  std::printf(
      "seed %llu %s: %.1f s (quiet points %.1f s: writers ending %.1f s, tick.wait %.1f s, comparing %.1f s; "
      "kills %.1f s)\n",
      static_cast<unsigned long long>(seed_), passed ? "passed" : "FAILED: not enough happened",
      now() - begun, quiet_time_, drain_time_, wait_time_, verify_time_, kill_time_);
  return passed ? 0 : 1;
}

}  // namespace
}  // namespace tick::random

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: driver SEED DATA SOCKETS [OPERATIONS]\n");
    return 2;
  }
  signal(SIGPIPE, SIG_IGN);
  tick::random::Driver driver(std::strtoull(argv[1], nullptr, 10), argv[2], argv[3],
                              argc > 4 ? std::atoi(argv[4]) : 10000);
  return driver.run();
}
