# What owners ask for: rows that go without their candles, windows recomputed, a source that begins anew, a state table
# that is emptied; and what is refused to others.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = make_node('requests');
sub sql { return $node->safe_psql('postgres', $_[0]) }
sub settle { sql("SELECT tick.wait(NULL, '60 s')") }
sub refused {
  my ($statement, $why, $what) = @_;
  my ($rc, $out, $err) = $node->psql('postgres', $statement);
  like($err, $why, $what);
}
# Rollups of tables that are complete, while others are not.
sub correct {
  my ($what, @rollups) = @_;
  settle();
  is(sql("SELECT count(*) FROM tick.verify('$_')"), '0', "$what: $_ is exact") for @rollups;
}
my $raw_from = q{SELECT raw_from AT TIME ZONE 'UTC' FROM tick_catalog.source WHERE relid = 'trades'::regclass};
my $candles = q{SELECT count(*), sum(trades), sum(high)::numeric(20,4), sum(volume)::numeric(20,4) FROM candles_1m};

make_trades($node, 1);
sql(q{
  CREATE ROLE other; GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON trades TO other;
  INSERT INTO trades SELECT * FROM random_trades(1500, 0.1);
  INSERT INTO trades SELECT * FROM random_trades(1500, 0.2, '2024-03-02 12:00+00');
  INSERT INTO trades SELECT * FROM random_trades(1500, 0.3, '2024-03-03 12:00+00');
  SELECT tick.create_rollup('candles_1m', candle_query('1 minute'));
  SELECT tick.create_rollup('per_symbol', 'SELECT symbol, sum(qty) AS volume, count(*) AS n FROM trades GROUP BY 1')});
exact($node, 'history');

# ---- rights.
for my $call (q{tick.purge('trades', '2024-03-02')}, q{tick.reset('trades')}) {
  refused("SET ROLE other; SELECT $call", qr/must be owner of table trades/, "$call is for the owner");
}
refused(q{SET ROLE other; SELECT tick.refresh('candles_1m')}, qr/must be owner of view candles_1m/, 'refresh, too');
refused(q{SET ROLE other; SET tick.corrections = off; DELETE FROM trades WHERE symbol = 'S1'}, qr/only the owner of "trades_1" may delete/, 'and DELETE without corrections');
refused(q{SET ROLE other; SET tick.truncate = 'retention'; TRUNCATE trades}, qr/must be owner/, 'and TRUNCATE');
refused(q{TRUNCATE trades}, qr/rollups read it.*tick\.truncate = 'retention'.*tick\.reset/s, 'TRUNCATE is refused with its cures');
refused(q{SELECT tick.purge('pg_class', now())}, qr/"pg_class" is no source/, 'purge of what is no source');
refused(q{SELECT tick.reset('candles_1m')}, qr/is no source/, 'reset of a view');
refused(q{SELECT tick.refresh('trades')}, qr/"trades" is not a rollup/, 'refresh of a table');

# ---- a reset that fails allows nothing to what comes after it in its session.
sql(q{CREATE TABLE referenced (id int8 PRIMARY KEY, ts timestamptz, v int4); CREATE TABLE refers (id int8 REFERENCES referenced);
  SELECT tick.create_rollup('sums', 'SELECT v, count(*) AS n FROM referenced GROUP BY 1'); INSERT INTO referenced VALUES (1, now(), 1)});
settle();
my ($status, $stdout, $stderr) = $node->psql('postgres',
  q{SELECT tick.reset('referenced'); TRUNCATE referenced, refers;}, on_error_stop => 0);
like($stderr, qr/foreign key constraint.*cannot truncate "referenced": rollups read it/s, 'a reset that failed allows no TRUNCATE');
correct('after it', 'sums');
sql('DROP TABLE refers; DROP TABLE referenced CASCADE');

# ---- retention by DELETE.
my $before = sql($candles);
my $symbols = sql('SELECT sum(n), sum(volume)::numeric(20,4) FROM per_symbol');
is(sql(q{SELECT tick.purge('trades', '2024-03-01 12:05+00')}), sql(q{SELECT 1500 - count(*) FROM trades WHERE ts < '2024-03-02'}), 'purge tells how many rows went');
settle();
is(sql($candles), $before, 'their candles stay');
is(sql('SELECT sum(n), sum(volume)::numeric(20,4) FROM per_symbol'), $symbols, 'also without windows');
is(sql("SELECT ($raw_from) > '2024-03-01 12:00' AND ($raw_from) <= '2024-03-01 12:05'"), 't', 'raw_from is past the newest of them');
is(sql(q{SELECT count(*) FROM tick.verify('candles_1m')}), '0', 'exact from there on');
sql(q{INSERT INTO trades VALUES ('LATE', '2024-03-01 12:00+00', 5, 2, 1), ('LATE', '2024-03-01 12:00:01+00', 7, 2, 1)});
settle();
is(sql(q{SELECT open, high, low, close, volume, trades FROM candles_1m WHERE symbol = 'LATE'}), '5|7|5|7|4|2', 'late rows merge');
sql(q{DELETE FROM trades WHERE symbol = 'LATE' AND price = 5});
settle();
is(sql(q{SELECT volume, trades FROM candles_1m WHERE symbol = 'LATE'}), '2|1', 'and are corrected');
$before = sql($candles);
my $at = sql($raw_from);
sql(q{BEGIN; SET LOCAL tick.corrections = off; DELETE FROM trades WHERE ts < '2024-03-02'; ROLLBACK});
sql(q{BEGIN; SET LOCAL tick.corrections = off; SAVEPOINT a; DELETE FROM trades_1; ROLLBACK TO a; COMMIT});
is(sql($raw_from), $at, 'not when it is rolled back');
sql(q{BEGIN; SET LOCAL tick.corrections = off; SAVEPOINT a; DELETE FROM trades_1; RELEASE a; COMMIT});
settle();
is(sql($candles), $before, 'a DELETE from a partition, without corrections');
isnt(sql($raw_from), $at, 'moves raw_from');

# ---- retention by TRUNCATE.
sql(q{SET tick.truncate = 'retention'; TRUNCATE trades_2});
settle();
is(sql($raw_from), '2024-03-03 00:00:00', 'TRUNCATE of a partition moves raw_from to its end');
is(sql($candles), $before, 'candles stay');
is(sql(q{SELECT count(*) FROM tick.verify('candles_1m')}), '0', 'exact where raw is');

# ---- windows recomputed.
$before = sql(q{SELECT count(*), sum(trades) FROM candles_1m WHERE ts < '2024-03-03'});
my ($rc, $out, $err) = $node->psql('postgres', q{SELECT tick.refresh('candles_1m')});
like($err, qr/NOTICE:  windows of "candles_1m" before 2024-03-03 00:00:00\+00 stay/, 'what was retired stays');
settle();
is(sql(q{SELECT count(*), sum(trades) FROM candles_1m WHERE ts < '2024-03-03'}), $before, 'as it was');
refused(q{SELECT tick.refresh('per_symbol')}, qr/cannot be recomputed: rows that it has seen were retired/, 'a rollup without window');

sql(q{CREATE TABLE r (k text, ts timestamptz, v float8); CREATE TABLE r2 (LIKE r);
  SELECT tick.create_rollup('r_1m', 'SELECT k, tick.tumble(ts, ''1 minute'') AS ts, max(v) AS high, count(*) AS n FROM r GROUP BY 1, 2');
  SELECT tick.create_rollup('r_all', 'SELECT k, max(v) AS high, count(*) AS n FROM r GROUP BY 1');
  INSERT INTO r SELECT chr(65 + i % 3), '2024-03-01 12:00+00'::timestamptz + i * interval '1 s', i FROM generate_series(0, 599) AS i});
correct('a plain table', 'r_1m', 'r_all');
# Rows go behind the capture's back: only who asks for it gets fewer.
sql(q{BEGIN; SET LOCAL tick.corrections = off; DELETE FROM r WHERE ts < '2024-03-01 12:02+00' AND k = 'A'; COMMIT});
settle();
sql(q{UPDATE tick_catalog.source SET raw_from = NULL WHERE relid = 'r'::regclass; UPDATE tick_catalog.generation SET value = value + 1; SELECT tick_catalog.wake()});
is(sql('SELECT sum(n) FROM r_1m'), '600', 'rows that went quietly are still counted');
sql(q{SELECT tick.refresh('r_1m', '2024-03-01 12:01:30+00', '2024-03-01 12:02+00')});
settle();
is(sql('SELECT sum(n) FROM r_1m'), '580', 'refresh of a window: its count falls');
sql(q{SELECT tick.refresh('r_1m'); SELECT tick.refresh('r_all')});
correct('refresh of all', 'r_1m', 'r_all');
is(sql('SELECT sum(n) FROM r_all'), '560', 'what is left');

# ---- a source begins anew, with a writer in the queue and deltas not merged.
sql(q{INSERT INTO r SELECT 'B', '2025-01-01+00', i FROM generate_series(1, 1000) AS i});
my $holder = $node->background_psql('postgres');
$holder->query_safe(q{BEGIN; INSERT INTO r VALUES ('C', '2024-03-01 12:00+00', 1)});
my @psql = ("$ENV{TICK_BINDIR}/psql", '-X', '-d', $node->connstr('postgres'), '-c');
my $reset = launch('reset', @psql, q{SELECT tick.reset('r')});
wait_for($node, q{SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE '%tick.reset%' AND pid <> pg_backend_pid() AND state = 'active'});
my $writer = launch('writer', @psql, q{INSERT INTO r VALUES ('N', '2024-03-01 12:00+00', 1)});
$holder->query_safe('COMMIT');
$holder->quit;
is(finish($reset, 0), 0, 'reset waits for writers');
is(finish($writer, 0), 0, 'who do not wait for ever');
settle();
is(sql(q{SELECT count(*) FROM r}), sql(q{SELECT coalesce(sum(n), 0) FROM r_1m}), 'candles are those of the rows that came after');
correct('reset', 'r_1m', 'r_all');
sql(q{INSERT INTO r VALUES ('N', '2024-03-01 12:00:30+00', 3)});
settle();
is(sql(q{SELECT max_time AT TIME ZONE 'UTC' FROM tick_catalog.watermark WHERE source = 'r'::regclass}), '2024-03-01 12:00:30', 'its watermark begins anew');
correct('and it goes on', 'r_1m', 'r_all');
sql(q{SELECT tick.reset('trades'); INSERT INTO trades SELECT * FROM random_trades(500, 0.4, '2024-03-01 12:00+00')});
is(sql($raw_from), '', 'a source without part of its rows is complete again');
exact($node, 'and exact');
sql(q{CREATE TABLE d (k text, id int8, ts timestamptz, v float8);
  SELECT tick.add_source('d', dedup_key => '{k}', dedup_id => 'id');
  SELECT tick.create_rollup('d_1m', 'SELECT k, tick.tumble(ts, ''1 minute'') AS ts, sum(v) AS s FROM d GROUP BY 1, 2');
  INSERT INTO d SELECT 'a', i, '2024-03-01 12:00+00', 1 FROM generate_series(1, 100) AS i});
settle();
sql(q{SELECT tick.purge('d', '2024-03-02'); INSERT INTO d VALUES ('a', 5, '2024-03-01 12:00+00', 1)});
settle();
is(sql('SELECT sum(s) FROM d_1m'), '100', 'ids of purged rows are still seen');
sql(q{SELECT tick.reset('d'); INSERT INTO d VALUES ('a', 5, '2024-03-01 12:00+00', 1)});
settle();
is(sql('SELECT sum(s) FROM d_1m'), '1', 'those of a reset are not');

refused(q{BEGIN; TRUNCATE d_1m_state; SET LOCAL tick.corrections = off; DELETE FROM d}, qr/cannot go yet: "d_1m" is still being computed/, 'no purge of what was never computed');

# ---- TRUNCATE of a whole plain source.
sql(q{INSERT INTO r VALUES ('Z', '2024-03-01 12:00:40+00', 9)});
settle();
$before = sql('SELECT k, ts, high, n FROM r_1m ORDER BY 1, 2');
sql(q{SET tick.truncate = 'retention'; TRUNCATE r});
settle();
is(sql('SELECT k, ts, high, n FROM r_1m ORDER BY 1, 2'), $before, 'candles outlive all rows');
is(sql(q{SELECT raw_from AT TIME ZONE 'UTC' FROM tick_catalog.source WHERE relid = 'r'::regclass}), '2024-03-01 12:00:40.000001', 'raw_from is past the newest');

# ---- state tables.
for my $table ('candles_1m_state', 'candles_1m') {
  for my $statement ("INSERT INTO $table (symbol) VALUES ('x')", "UPDATE $table SET symbol = 'x'", "DELETE FROM $table") {
    refused($statement, qr/"candles_1m_state" is the state of a rollup.*HINT:.*tick\.refresh/s, "$statement is refused");
  }
}
sql('TRUNCATE candles_1m_state');
exact($node, 'TRUNCATE of a state table computes it again');
sql(q{INSERT INTO trades SELECT * FROM random_trades(500, 0.5, '2024-03-02 12:00+00'); SELECT tick.wait(NULL); DROP TABLE trades_1});
settle();
is(sql(q{SELECT count(*) > 0 FROM candles_1m WHERE ts < '2024-03-02'}), 't', 'candles without rows');
sql('TRUNCATE candles_1m_state, per_symbol_state');
settle();
is(sql('SELECT sum(trades) FROM candles_1m'), '500', 'now they are what is left');
is(sql('SELECT sum(n) FROM per_symbol'), '500', 'also without windows');
exact($node, 'and exact');
sql(q{ALTER TABLE candles_1m_state ENABLE TRIGGER ALL; INSERT INTO trades SELECT * FROM random_trades(500, 0.6, '2024-03-03 12:00+00');
  ALTER TABLE tick_catalog.frontier ENABLE TRIGGER ALL; INSERT INTO trades SELECT * FROM random_trades(500, 0.6, '2024-03-03 12:00+00')});
settle();
is(sql('SELECT sum(trades) FROM candles_1m'), '1500', 'ENABLE TRIGGER ALL loses nothing');
exact($node, 'at the end');

$node->stop;
done_testing();
