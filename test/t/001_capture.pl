# A delta commits if and only if its rows do: every way of writing, of not committing, and of nesting.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = make_node('capture');
make_trades($node, 1);
$node->safe_psql('postgres', q{
  INSERT INTO trades SELECT * FROM random_trades(2000, 0.1);
  SELECT tick.create_rollup('candles_1m', candle_query('1 minute'));
  SELECT tick.create_rollup('candles_5m', candle_query('5 minutes'));
  SELECT tick.create_rollup('latest', 'SELECT symbol, tick.last(price, ts, trade_id) AS price, max(ts) AS last_ts,
    count(*) AS n FROM trades GROUP BY symbol');
});
exact($node, 'history');
is($node->safe_psql('postgres', 'SELECT count(DISTINCT group_id) FROM tick_catalog.rollup'), '1',
  'rollups of equal keys share a capture group');

my $row = "('A', '2024-03-01 12:00:30+00', 7, 1, 1)";
my %writes = (
  'insert'               => "INSERT INTO trades VALUES $row",
  'insert select'        => 'INSERT INTO trades SELECT * FROM random_trades(3000, 0.2)',
  'direct partition'     => "INSERT INTO trades_1 VALUES $row",
  'attic'                => "INSERT INTO trades VALUES ('A', '2019-01-01 00:00+00', 1, 1, 1), ('A', '2031-01-01 00:00+00', 1, 1, 1)",
  'direct in savepoint'  => "BEGIN; SAVEPOINT a; INSERT INTO trades_1 VALUES $row; RELEASE a; COMMIT",
  'nested released'      => "BEGIN; SAVEPOINT a; INSERT INTO trades_1 VALUES $row; SAVEPOINT b; INSERT INTO trades_2 VALUES ('B', '2024-03-02 01:00+00', 1, 1, 1); RELEASE b; INSERT INTO trades_1 VALUES $row; RELEASE a; COMMIT",
  'rolled back'          => "BEGIN; INSERT INTO trades VALUES $row; ROLLBACK",
  'savepoint rolled back' => "BEGIN; INSERT INTO trades VALUES $row; SAVEPOINT a; INSERT INTO trades VALUES $row; INSERT INTO trades_1 VALUES $row; ROLLBACK TO a; INSERT INTO trades VALUES $row; COMMIT",
  'inner kept, outer rolled back' => "BEGIN; SAVEPOINT a; SAVEPOINT b; INSERT INTO trades_1 VALUES $row; RELEASE b; ROLLBACK TO a; INSERT INTO trades VALUES $row; COMMIT",
  'outer kept, inner rolled back' => "BEGIN; SAVEPOINT a; INSERT INTO trades_1 VALUES $row; SAVEPOINT b; INSERT INTO trades_1 VALUES $row; ROLLBACK TO b; RELEASE a; COMMIT",
  'exception block'      => "DO \$\$ BEGIN INSERT INTO trades VALUES $row; BEGIN INSERT INTO trades VALUES $row; RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN INSERT INTO trades_1 VALUES $row; END; END \$\$",
  'many statements'      => "BEGIN; " . ("INSERT INTO trades VALUES $row; " x 50) . "COMMIT",
  'prepared, committed'  => "BEGIN; INSERT INTO trades VALUES $row; INSERT INTO trades_1 VALUES $row; PREPARE TRANSACTION 'x'; COMMIT PREPARED 'x'",
  'prepared, rolled back' => "BEGIN; INSERT INTO trades_1 VALUES $row; PREPARE TRANSACTION 'y'; ROLLBACK PREPARED 'y'",
  'null keys and values' => "INSERT INTO trades VALUES (NULL, '2024-03-01 12:00:31+00', NULL, NULL, NULL), (NULL, '2024-03-01 12:00:32+00', 4, NULL, NULL), ('A', '2024-03-01 12:00:31+00', 'NaN', 1, 3)",
  'null and infinite time' => "INSERT INTO trades VALUES ('Z', NULL, 1, 1, 1), ('Z', 'infinity', 1, 1, 1), ('Z', '-infinity', 1, 1, 1)",
  'failing statement'    => "INSERT INTO trades VALUES $row, ('A', 'tomorrow-ish', 1, 1, 1)",
  'update'               => "UPDATE trades SET price = price + 1 WHERE symbol = 'S1' AND ts < '2024-03-01 12:05+00'",
  'update of key'        => "UPDATE trades SET symbol = 'MOVED' WHERE symbol = 'S2' AND ts < '2024-03-01 12:05+00'",
  'update across partitions' => "UPDATE trades SET ts = ts + interval '1 day' WHERE symbol = 'S3' AND ts < '2024-03-01 12:10+00'",
  'delete'               => "DELETE FROM trades WHERE symbol = 'S4' AND ts < '2024-03-01 12:10+00'",
  'delete of all of a window' => "DELETE FROM trades WHERE ts >= '2024-03-01 12:20+00' AND ts < '2024-03-01 12:21+00'",
  'cte'                  => "WITH w AS (DELETE FROM trades WHERE symbol = 'S5' AND ts < '2024-03-01 12:03+00' RETURNING *) INSERT INTO trades SELECT symbol, ts + interval '1 hour', price, qty, trade_id FROM w",
  'replica role'         => "SET session_replication_role = replica; INSERT INTO trades VALUES $row; INSERT INTO trades_1 VALUES $row",
  'insert then delete'   => "BEGIN; INSERT INTO trades VALUES ('D', '2024-03-01 12:40+00', 1, 1, 1); DELETE FROM trades WHERE symbol = 'D'; COMMIT",
);
for my $name (sort keys %writes) {
  $node->psql('postgres', $writes{$name});
  exact($node, $name);
}

# COPY, also binary and through the parent and a partition.
my $dir = $node->basedir;
$node->safe_psql('postgres', qq{
  COPY (SELECT * FROM random_trades(5000, 0.3)) TO '$dir/trades.bin' (FORMAT binary);
  COPY trades FROM '$dir/trades.bin' (FORMAT binary);
  COPY (SELECT * FROM random_trades(1000, 0.4)) TO '$dir/one.txt';
  COPY trades_1 FROM '$dir/one.txt';
});
exact($node, 'copy');

# A REPEATABLE READ writer whose snapshot is older than the rollup must not lose its row.
my $old = $node->background_psql('postgres');
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM pg_class LIMIT 1');
$node->safe_psql('postgres', q{SELECT tick.create_rollup('candles_15m', candle_query('15 minutes'))});
$old->query_safe("INSERT INTO trades VALUES ('OLD', '2024-03-01 12:00+00', 1, 1, 1); COMMIT");
$old->quit;
exact($node, 'writer older than the rollup');

# Commit order is not id order: the older transaction commits after newer ones were merged.
my $slow = $node->background_psql('postgres');
$slow->query_safe("BEGIN; INSERT INTO trades VALUES ('SLOW', '2024-03-01 12:00+00', 1, 1, 1)");
$node->safe_psql('postgres', "INSERT INTO trades VALUES ('FAST', '2024-03-01 12:00+00', 1, 1, 1)") for 1 .. 5;
$node->safe_psql('postgres', 'SELECT tick.wait(NULL)');
exact($node, 'while an older transaction is open');
$slow->query_safe('COMMIT');
$slow->quit;
exact($node, 'after it has committed');

# A prepared transaction survives a crash of everything.
$node->safe_psql('postgres', "BEGIN; INSERT INTO trades VALUES ('P', '2024-03-01 12:00+00', 1, 1, 1); PREPARE TRANSACTION 'crash'");
$node->stop('immediate');
$node->start;
$node->safe_psql('postgres', "COMMIT PREPARED 'crash'");
exact($node, 'prepared before a crash');

# A leaf with another order of columns.
$node->safe_psql('postgres', q{
  CREATE TABLE odd (trade_id int8, junk text, qty float8, price float8, ts timestamptz, symbol text);
  ALTER TABLE odd DROP COLUMN junk;
  ALTER TABLE trades ATTACH PARTITION odd FOR VALUES FROM ('2024-03-04 00:00+00') TO ('2024-03-05 00:00+00');
  INSERT INTO trades SELECT symbol, ts + interval '3 days', price, qty, trade_id FROM random_trades(500, 0.5);
  INSERT INTO odd (symbol, ts, price, qty, trade_id) VALUES ('ODD', '2024-03-04 01:00+00', 3, 4, 5);
});
exact($node, 'leaf with other attribute numbers');

# A truncated queue and a drained ring: many deltas, small tables.
$node->append_conf('postgresql.conf', "tick.queue_size = '64kB'\ntick.turn_memory = '16kB'\n");
$node->reload;
$node->safe_psql('postgres', "INSERT INTO trades SELECT * FROM random_trades(200, $_ / 1000.0)") for 1 .. 120;
exact($node, 'while the queue rotates');
wait_for($node, q{SELECT sum(pg_relation_size(c.oid)) < 300000 FROM pg_class c WHERE relname ~ '^queue_\d$'});
exact($node, 'after it has rotated');

# What a transaction has written to a leaf directly is not flushed yet; verify counts it all the same.
is($node->safe_psql('postgres', "BEGIN; INSERT INTO trades_1 VALUES $row; SELECT count(*) FROM tick.verify('candles_1m'); ROLLBACK"),
  '0', 'verify sees what the same transaction wrote to a partition');

# Many windows dirty at once are one scan, and the rollups of other tables do not wait for a table that is locked.
$node->safe_psql('postgres', q{
  CREATE TABLE wide (k text, ts timestamptz, v float8);
  INSERT INTO wide SELECT 'a', '2024-01-01 00:00+00'::timestamptz + i * interval '2 minutes', i FROM generate_series(1, 20000) i;
  SELECT tick.create_rollup('wide_1m', 'SELECT k, tick.tumble(ts, ''1 minute'') AS t, sum(v) AS s FROM wide GROUP BY 1, 2');
  SELECT tick.wait(NULL)});
$node->safe_psql('postgres', q{DELETE FROM wide WHERE v::int % 3 = 0});
is($node->safe_psql('postgres', q{SELECT tick.wait('wide_1m', '20 s')}), 't', 'thousands of dirty windows');
exact($node, 'thousands of dirty windows');
my $locker = $node->background_psql('postgres');
$node->safe_psql('postgres', 'DELETE FROM wide WHERE v < 100');
$locker->query_safe('BEGIN; LOCK TABLE wide');
$node->safe_psql('postgres', q{SELECT tick.create_rollup('late', 'SELECT symbol, count(*) AS n FROM trades GROUP BY 1')});
is($node->safe_psql('postgres', q{SELECT tick.wait('late', '20 s')}), 't', 'a locked source does not stop others');
$locker->query_safe('COMMIT');
$locker->quit;
exact($node, 'after the lock');

# Wide values: flushed early, merged in slices.
$node->safe_psql('postgres', q{
  CREATE TABLE blobs (k int, ts timestamptz, v text);
  SELECT tick.create_rollup('last_blob', 'SELECT k, tick.last(v, ts) AS v FROM blobs GROUP BY 1');
  INSERT INTO blobs SELECT i, now(), repeat(i::text, 60000) FROM generate_series(1, 1500) i});
exact($node, 'wide values');

# A function that a rollup calls is replaced.
$node->safe_psql('postgres', q{
  CREATE FUNCTION scaled(x float8) RETURNS float8 LANGUAGE sql IMMUTABLE AS 'SELECT x * 2';
  SELECT tick.create_rollup('scaled_sum', 'SELECT symbol, sum(scaled(price)) AS s FROM trades GROUP BY 1');
  INSERT INTO trades SELECT * FROM random_trades(100, 0.91)});
exact($node, 'with the first function');
$node->safe_psql('postgres', q{
  INSERT INTO trades SELECT * FROM random_trades(10, 0.92);
  CREATE OR REPLACE FUNCTION scaled(x float8) RETURNS float8 LANGUAGE sql IMMUTABLE AS 'SELECT x * 10';
  INSERT INTO trades SELECT * FROM random_trades(10, 0.93)});
exact($node, 'with the second');
$node->safe_psql('postgres', 'DROP TABLE wide, blobs CASCADE');

# The tool that says so must notice: change, delete and add a state row. It is asked in the same transaction, so that
# the broken row is never committed.
my %breaks = (
  high    => "UPDATE candles_1m_state SET high = 1e9 WHERE (symbol, ts) = ('S1', '2024-03-01 12:11+00')",
  deleted => "DELETE FROM candles_1m_state WHERE (symbol, ts) = ('S1', '2024-03-01 12:12+00')",
  added   => "CREATE TEMP TABLE g AS SELECT * FROM candles_1m_state LIMIT 1; UPDATE g SET symbol = 'GHOST'; INSERT INTO candles_1m_state SELECT * FROM g",
);
for my $name (sort keys %breaks) {
  my $found = $node->safe_psql('postgres',
    qq{BEGIN; ALTER TABLE candles_1m_state DISABLE TRIGGER tick_guard; $breaks{$name}; SELECT key->>'symbol', ts, "column" FROM tick.verify('candles_1m'); ROLLBACK});
  my $expected = $name eq 'added' ? qr/^GHOST\|/ : qr/^S1\|2024-03-01 12:1[12]:00\+00\|/;
  like($found, $expected, "verify notices: $name ($found)");
}
exact($node, 'the broken rows were never there');

$node->stop;
done_testing();
