# When the worker starts, ends and lets go: extensions, databases, crashes, DDL on a live source.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = make_node('lifecycle');
my $workers = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_tick worker'};

sub rollup_in {
  my ($database) = @_;
  $node->safe_psql($database, q{
    CREATE EXTENSION IF NOT EXISTS pg_tick;
    CREATE TABLE IF NOT EXISTS trades (symbol text, ts timestamptz, price float8, qty float8, trade_id int8);
    SELECT tick.create_rollup('n', 'SELECT symbol, count(*) AS n FROM trades GROUP BY symbol');
    INSERT INTO trades VALUES ('A', now(), 1, 1, 1)});
  is($node->safe_psql($database, "SELECT tick.wait('n'); SELECT n FROM n"), "t\n1", "$database: a rollup moves");
}

wait_for($node, "SELECT ($workers) = 0");
pass('no worker where there are no rollups');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_tick launcher'}), '1',
  'one launcher');

$node->safe_psql('postgres', "CREATE DATABASE $_") for qw(one two);
rollup_in($_) for qw(one two);
is($node->safe_psql('postgres', $workers), '2', 'one worker per database with rollups');

# Databases are dropped and copied although a worker is connected.
copy_database($node, 'one', 'copy');
wait_for($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'pg_tick worker' AND datname = 'one'});
$node->safe_psql('one', "INSERT INTO trades VALUES ('A', now(), 1, 1, 2)");
is($node->safe_psql('one', "SELECT tick.wait('n'); SELECT n FROM n"), "t\n2", 'the template goes on');
$node->safe_psql('copy', "INSERT INTO trades VALUES ('A', now(), 1, 1, 2)");
is($node->safe_psql('copy', "SELECT tick.wait('n'); SELECT n FROM n"), "t\n2", 'so does the copy');
$node->safe_psql('postgres', "DROP DATABASE $_") for qw(two copy);
wait_for($node, "SELECT ($workers) = 1");
pass('dropped databases');

# Extension dropped and made again in one session: nothing of the old one is remembered.
rollup_in('postgres');
$node->safe_psql('postgres', q{
  DROP EXTENSION pg_tick CASCADE;
  INSERT INTO trades VALUES ('A', now(), 1, 1, 2);
  CREATE EXTENSION pg_tick;
  SELECT tick.create_rollup('m', 'SELECT price, count(*) AS n FROM trades GROUP BY price');
  INSERT INTO trades VALUES ('B', now(), 2, 1, 3)});
is($node->safe_psql('postgres', "SELECT tick.wait('m'); SELECT price, n FROM m ORDER BY 1"), "t\n1|2\n2|1", 'extension made anew');
$node->safe_psql('postgres', 'BEGIN; DROP EXTENSION pg_tick CASCADE; ROLLBACK; INSERT INTO trades VALUES (\'B\', now(), 2, 1, 3)');
is($node->safe_psql('postgres', "SELECT tick.wait('m'); SELECT n FROM m WHERE price = 2"), "t\n2", 'drop rolled back');
$node->safe_psql('postgres', "BEGIN; SELECT tick.create_rollup('gone', 'SELECT symbol, count(*) AS n FROM trades GROUP BY 1'); ROLLBACK");
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_class WHERE relname ~ '^gone'}), '0', 'creation rolled back');

# Dropping the last rollup leaves the source as it was, and the worker ends.
$node->safe_psql('postgres', "SELECT tick.drop_rollup('m')");
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_trigger WHERE tgrelid = 'trades'::regclass}), '0', 'no trigger left');
is($node->safe_psql('postgres', 'SELECT (SELECT count(*) FROM tick_catalog.rollup) + (SELECT count(*) FROM tick_catalog.source)
  + (SELECT count(*) FROM tick_catalog.capture_group) + (SELECT count(*) FROM tick_catalog.watermark)'), '0', 'no catalog row left');
wait_for($node, "SELECT ($workers) = 1");
$node->safe_psql('postgres', 'DROP TABLE trades');

# DDL on a live source: followed or refused, never silently stale.
make_trades($node, 1);
$node->safe_psql('postgres', q{
  INSERT INTO trades SELECT * FROM random_trades(2000, 0.1);
  SELECT tick.create_rollup('candles_1m', candle_query('1 minute'))});
exact($node, 'before DDL');
my $insert = 'INSERT INTO trades (symbol, ts, price, qty, trade_id) SELECT * FROM random_trades(300, 0.7)';
my %ddl = (
  'add column'      => 'ALTER TABLE trades ADD COLUMN extra text DEFAULT random()::text',
  'drop other column' => 'ALTER TABLE trades DROP COLUMN IF EXISTS extra',
  'rename table'    => 'ALTER TABLE trades RENAME TO t; ALTER TABLE t RENAME TO trades',
  'vacuum full'     => 'VACUUM FULL trades',
  'disable trigger' => 'ALTER TABLE trades DISABLE TRIGGER ALL',
  'enable trigger'  => 'ALTER TABLE trades ENABLE TRIGGER ALL',
  'drop trigger'    => 'DROP TRIGGER zz_tick_flush ON trades',
  'new partition'   => q{CREATE TABLE trades_9 PARTITION OF trades FOR VALUES FROM ('2024-03-09+00') TO ('2024-03-10+00')},
  'reindex'         => 'CREATE INDEX ON trades (symbol); REINDEX TABLE trades',
);
for my $name (sort keys %ddl) {
  $node->psql('postgres', $ddl{$name});
  $node->safe_psql('postgres', $insert);
  exact($node, $name);
}
for my $refused (
  [ 'TRUNCATE trades', qr/cannot truncate "trades": rollups read it/ ],
  [ 'TRUNCATE trades_1', qr/cannot truncate "trades_1": rollups read it/ ],
  [ 'TRUNCATE trades_9', qr/cannot truncate "trades_9": rollups read it/ ],
  [ 'ALTER TABLE trades DROP COLUMN price', qr/depend/ ],
  [ 'ALTER TABLE trades ALTER price TYPE numeric', qr/used by a view/ ],
  [ 'DROP TABLE trades', qr/depend/ ])
{
  my ($rc, $out, $err) = $node->psql('postgres', $refused->[0]);
  like($err, $refused->[1], "refused: $refused->[0]");
}
exact($node, 'after refusals');
$node->safe_psql('postgres', "INSERT INTO trades VALUES ('X', '2024-03-02 12:00+00', 1, 1, 1); SELECT tick.wait(NULL)");
$node->safe_psql('postgres', 'DROP TABLE trades_2');
is($node->safe_psql('postgres', q{SELECT tick.wait(NULL); SELECT count(*) > 0 FROM candles_1m WHERE ts >= '2024-03-02+00' AND ts < '2024-03-03+00'}),
  "t\nt", 'candles outlive a dropped partition');

# So they do when everything is computed again.
my $candles = 'SELECT count(*), sum(trades), sum(volume::numeric) FROM candles_1m';
my $before = $node->safe_psql('postgres', $candles);
$node->safe_psql('postgres', q{
  UPDATE tick_catalog.rollup SET status = 'error';
  INSERT INTO tick_catalog.pending SELECT id, -9223372036854775808, 9223372036854775807, true FROM tick_catalog.rollup;
  SELECT tick.resume('candles_1m')});
is($node->safe_psql('postgres', 'SELECT tick.wait(NULL)'), 't', 'computed again');
is($node->safe_psql('postgres', $candles), $before, 'candles of dropped partitions outlive a resume');

# Crashes: worker, backend, postmaster, immediate stop.
$node->safe_psql('postgres', 'DROP TABLE trades CASCADE');
make_trades($node, 1);
$node->safe_psql('postgres', "SELECT tick.create_rollup('candles_1m', candle_query('1 minute')); SELECT tick.create_rollup('candles_5m', candle_query('5 minutes'))");
for my $round (1 .. 6) {
  $node->safe_psql('postgres', "INSERT INTO trades SELECT * FROM random_trades(500, $round / 10.0)");
  if ($round % 3 == 0) { $node->stop('immediate'); $node->start }
  else { crash_worker($node) }
  exact($node, "crash $round");
}
is($node->safe_psql('postgres', 'SELECT count(*) FROM trades'), '3000', 'every committed row is there');

# No slot for a worker: who waits is told.
$node->append_conf('postgresql.conf', 'max_worker_processes = 1');
$node->restart;
$node->safe_psql('postgres', 'INSERT INTO trades SELECT * FROM random_trades(1, 1)');
my ($rc, $merged, $said) = $node->psql('postgres', "SELECT tick.wait(NULL, '10 ms')");
is($merged, 'f', 'nothing is merged without a worker');
like($said, qr/WARNING:  no worker of pg_tick runs in database "postgres".*max_worker_processes/s, 'who waits is told why');

$node->stop;
done_testing();
