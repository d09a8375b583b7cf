# Rows that come by other roads: two-phase commit across kill and restart, writers older than the rollup, a
# subscription with its initial copy, a standby that is read and promoted.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = make_node('publisher', streaming => 'logical', conf => "wal_level = logical\nmax_worker_processes = 16\n");
make_trades($node, 1);
sub sql { return $node->safe_psql('postgres', $_[0]) }
sub row { my ($symbol, $at) = @_; return "('$symbol', '2024-03-01 12:00:00+00'::timestamptz + interval '$at s', $at, 1, $at)" }

# A writer whose snapshot is older than the rollup still captures: the program comes with the trigger.
for my $level ('REPEATABLE READ', 'SERIALIZABLE') {
  my $old = $node->background_psql('postgres');
  my $name = 'candles_' . ($level eq 'SERIALIZABLE' ? 5 : 1) . 'm';
  my $size = $level eq 'SERIALIZABLE' ? '5 minutes' : '1 minute';
  $old->query_safe("BEGIN ISOLATION LEVEL $level; SELECT count(*) FROM pg_class");
  sql("SELECT tick.create_rollup('$name', candle_query('$size')); SELECT tick.wait(NULL)");
  $old->query_safe('INSERT INTO trades VALUES ' . row('old', 1));
  $old->query_safe('INSERT INTO trades_1 VALUES ' . row('old', 2));
  $old->query_safe('COMMIT');
  $old->quit;
  exact($node, "a $level writer older than the rollup");
}
is(sql("SELECT sum(trades) FROM candles_5m"), '4', 'its rows are there');

# Prepared transactions: across a kill of the worker, of everything, and a restart.
sql('BEGIN; INSERT INTO trades VALUES ' . row('2pc', $_) . "; SAVEPOINT s; DELETE FROM trades WHERE symbol = 'old' AND price = $_;"
  . " RELEASE s; PREPARE TRANSACTION 'p$_'") for 1 .. 2;
sql('INSERT INTO trades VALUES ' . row('between', 3));
exact($node, 'beside prepared transactions');
crash_worker($node);
sql("COMMIT PREPARED 'p1'");
exact($node, 'committed after a crash');
$node->stop('immediate');
$node->start;
exact($node, 'beside one prepared before a restart');
sql("ROLLBACK PREPARED 'p2'");
exact($node, 'rolled back after a restart');
is(sql("SELECT coalesce(sum(trades), 0) FROM candles_5m WHERE symbol = '2pc'"), '1', 'one of two was committed');

# A subscription: initial copy, streamed rows, corrections, into a source that has rollups. The publication takes in the
# publisher's own catalogs and states as well: they must not reach the subscriber's, nor stop the publisher.
sql('ALTER TABLE trades REPLICA IDENTITY FULL; ' . join '', map { "ALTER TABLE trades_$_ REPLICA IDENTITY FULL;" } 1 .. 3, 'attic');
sql('CREATE PUBLICATION everything FOR ALL TABLES');
sql('INSERT INTO trades VALUES ' . row('published', 4));
exact($node, 'the publisher of all tables');
sql("UPDATE trades SET price = 7 WHERE symbol = 'published'; DELETE FROM trades WHERE symbol = 'between'");
exact($node, 'corrections of the publisher');
sql(q{BEGIN; SELECT tick.create_rollup('fleeting', 'SELECT symbol, count(*) AS n FROM trades GROUP BY 1'); COMMIT;
  SELECT tick.wait(NULL); SELECT tick.drop_rollup('fleeting')});
exact($node, 'definitions of the publisher');

my $other = make_node('subscriber');
sub there { return $other->safe_psql('postgres', $_[0]) }
make_trades($other, 1);
there("SELECT tick.create_rollup('candles_1m', candle_query('1 minute')); SELECT tick.create_rollup('candles_5m', candle_query('5 minutes'))");
there('INSERT INTO trades VALUES ' . row('own', 1));
exact($other, 'the subscriber before');
there("CREATE SUBSCRIPTION s CONNECTION '" . $node->connstr . " dbname=postgres' PUBLICATION everything WITH (copy_data = false, enabled = false)");
my @copied = split /\n/, there(q{SELECT srrelid::regclass FROM pg_subscription_rel ORDER BY 1});
ok(scalar(grep({ /queue_0/ } @copied)), 'the publication takes in the catalogs');
there('ALTER SUBSCRIPTION s ENABLE');
sql('INSERT INTO trades VALUES ' . row('streamed', $_)) for 1 .. 3;
sql("SELECT tick.wait(NULL); UPDATE trades SET price = 9 WHERE symbol = 'streamed' AND price = 2; DELETE FROM trades WHERE symbol = 'streamed' AND price = 3");
$node->wait_for_catchup('s');
exact($other, 'streamed rows and corrections');
is(there("SELECT sum(trades) FROM candles_5m WHERE symbol = 'streamed'"), '2', 'are there once');
is(there("SELECT sum(trades) FROM candles_5m WHERE symbol = 'own'"), '1', 'beside its own');
exact($node, 'the publisher meanwhile');

# The initial copy of one table.
there('DROP SUBSCRIPTION s');
sql('DROP PUBLICATION everything; CREATE PUBLICATION one FOR TABLE trades');
there('DELETE FROM trades');
exact($other, 'emptied');
there("CREATE SUBSCRIPTION s CONNECTION '" . $node->connstr . " dbname=postgres' PUBLICATION one");
$other->wait_for_subscription_sync($node, 's');
exact($other, 'the initial copy');
is(there('SELECT (SELECT sum(trades) FROM candles_1m) = count(*) FROM trades'), 't', 'all of it');
there('DROP SUBSCRIPTION s');
$other->stop;

# Who writes as a replica is captured as well.
sql('SET session_replication_role = replica; INSERT INTO trades VALUES ' . row('replica', 5));
exact($node, 'session_replication_role = replica');

# A standby: views, status and verify can be read; promoted, the worker starts by itself and goes on.
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
sql('INSERT INTO trades SELECT * FROM random_trades(500, 0.5)');
exact($node, 'the primary');
$node->wait_for_catchup($standby);
is($standby->safe_psql('postgres', 'SELECT count(*), sum(trades) FROM candles_1m'), sql('SELECT count(*), sum(trades) FROM candles_1m'),
  'the standby shows the same');
is($standby->safe_psql('postgres', "SELECT count(*) FROM tick.verify('candles_1m')"), '0', 'verify on a standby');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM tick.status'), '2', 'status on a standby');
is($standby->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ '^pg_tick'"), '0', 'no worker on a standby');
my ($rc, $out, $err) = $standby->psql('postgres', "SELECT tick.wait('candles_1m', '2 s')");
like("$out$err", qr/recovery|^t$/, 'wait on a standby says what it can');
($rc, $out, $err) = $standby->psql('postgres', "SELECT tick.drop_rollup('candles_1m')");
like($err, qr/recovery|read-only/, 'no definitions on a standby');

# Deltas that the primary had not merged when it died are merged by the standby.
sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'pg_tick worker';
  INSERT INTO trades SELECT * FROM random_trades(300, 0.6);
  BEGIN; INSERT INTO trades VALUES } . row('promoted', 6) . q{; PREPARE TRANSACTION 'over'});
$node->wait_for_catchup($standby);
$node->stop('immediate');
$standby->promote;
exact($standby, 'promoted');
$standby->safe_psql('postgres', "COMMIT PREPARED 'over'; INSERT INTO trades SELECT * FROM random_trades(300, 0.7)");
exact($standby, 'and goes on');
is($standby->safe_psql('postgres', "SELECT sum(trades) FROM candles_5m WHERE symbol = 'promoted'"), '1', 'with what was prepared before');

$standby->stop;
done_testing();
