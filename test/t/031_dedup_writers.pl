# Dedup among concurrent writers: each row once, whatever the order of rows and keys, who waits, who rolls back and what
# is killed; nobody deadlocks, nobody gets a serialization failure, and other feeds do not wait.
#
#   TICK_DEDUP_ROWS  rows of the file that two writers COPY (default 40000; 1000000 is the full size)
#   TICK_DEDUP_IDLE  seconds that another writer of the feed is idle in its transaction meanwhile (default 2; full 30)
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $rows = $ENV{TICK_DEDUP_ROWS} || 40_000;
my $idle = $ENV{TICK_DEDUP_IDLE} || 2;
my $batch = $rows >= 200_000 ? 10_000 : $rows / 20;
my $symbols = 50;

my $node = make_node('dedup_writers', conf => "deadlock_timeout = 100ms\nlog_statement = none\nmax_wal_size = 1GB\n");
make_trades($node);
$node->safe_psql('postgres', q{
  SELECT tick.create_rollup('candles_1m', candle_query('1 minute'));
  SELECT tick.alter_source('trades', dedup_key => '{symbol}', dedup_id => 'trade_id');
  CREATE TABLE other (symbol text, ts timestamptz, trade_id int8);
  SELECT tick.add_source('other', dedup_key => '{symbol}', dedup_id => 'trade_id')});

# ---- two writers of one file, the second in reverse order of symbols
my $dir = $node->basedir;
my $batches = $rows / $batch;
my %script;
for my $way ('forward', 'reverse') {
  my $order = $way eq 'forward' ? 'symbol, trade_id' : 'symbol DESC, trade_id';
  $script{$way} = '';
  $node->safe_psql('postgres', qq{CREATE TEMP TABLE f AS
    SELECT 'S' || i % $symbols AS symbol, '2024-03-01 12:00+00'::timestamptz + i * interval '10 ms' AS ts, (i % 97)::float8 AS price, 1::float8 AS qty,
      (i / $symbols)::int8 AS trade_id FROM generate_series(0, $rows - 1) i;
    DO \$\$ BEGIN FOR b IN 0 .. $batches - 1 LOOP EXECUTE format('COPY (SELECT symbol, ts, price, qty, trade_id FROM (SELECT *, (row_number() OVER (ORDER BY
      trade_id / %s) - 1) / $batch AS b FROM f) x WHERE b = %s ORDER BY $order) TO ''$dir/$way.%s'' (FORMAT binary)', $batch / $symbols, b, b); END LOOP; END \$\$});
  $script{$way} .= "COPY trades FROM '$dir/$way.$_' (FORMAT binary);\n" for 0 .. $batches - 1;
  append_to_file("$dir/$way.sql", $script{$way});
}
my $sleeper = $node->background_psql('postgres');
$sleeper->query_safe(q{BEGIN; INSERT INTO trades SELECT 'S1', '2024-03-01 13:00+00', 1, 1, 1000000000});
my @writers = map { launch($_, 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-f', "$dir/$_.sql") } 'forward', 'reverse';
my (@other, $start);
$start = time;
for (my $n = 0; time < $start + $idle; ++$n) {
  my $began = time;
  $node->safe_psql('postgres', "SET statement_timeout = '10s'; INSERT INTO other VALUES ('A', now(), $n)");
  push @other, time - $began;
}
@other = sort { $a <=> $b } @other;
is($node->safe_psql('postgres', 'SELECT count(*) FROM trades'), '0', 'the writers of the feed wait for the one that is idle');
is($node->safe_psql('postgres', 'SELECT count(*) FROM other'), scalar(@other), sprintf('another feed does not: p50 %.0f ms, greatest %.0f ms with the start of psql', $other[@other / 2] * 1e3, $other[-1] * 1e3));
$sleeper->query_safe('ROLLBACK');
$sleeper->quit;
for my $writer (@writers) {
  until_true(300, "$writer->{name} ends", sub { my $done = waitpid($writer->{pid}, POSIX::WNOHANG()); $writer->{status} = $? if $done; $done });
  is($writer->{status}, 0, "$writer->{name} ends well") or diag(slurp($writer->{log}));
}
is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT (symbol, trade_id)) FROM trades'), "$rows|$rows", "exactly $rows rows");
is($node->safe_psql('postgres', "SELECT tick.wait(NULL); SELECT duplicates FROM tick_catalog.dedup WHERE source = 'trades'::regclass"), "t\n$rows", 'as many duplicates');
is($node->safe_psql('postgres', 'SELECT count(*), sum(ids) FROM tick.seen WHERE source = \'trades\'::regclass'), "$symbols|$rows", 'all of them seen');
is($node->safe_psql('postgres', 'SELECT count(*) FROM tick.gaps'), '0', 'no gaps');
unlike(slurp($node->logfile), qr/deadlock detected/, 'no deadlock');
exact($node, 'two writers');

# ---- isolation levels: one waits for the other and then sees its rows, without a serialization failure
sub two {
  my ($level, $end, $expected, $what) = @_;
  my ($a, $b) = map { $node->background_psql('postgres', on_error_stop => 0) } 1, 2;
  my $key = $what =~ s/\W+/_/gr;
  $a->query_safe("BEGIN ISOLATION LEVEL $level; SELECT count(*) FROM trades WHERE symbol = 'none'; INSERT INTO trades VALUES ('$key', now(), 1, 1, 1)");
  $b->query_safe("BEGIN ISOLATION LEVEL $level; SELECT count(*) FROM other WHERE symbol = 'none'");
  $b->query_until(qr/go/, "\\echo go\nINSERT INTO trades VALUES ('$key', now(), 2, 1, 1), ('$key', now(), 2, 1, 2); COMMIT;\n\\echo done\n");
  wait_for($node, q{SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND classid = 'tick_catalog.dedup'::regclass});
  $a->query_safe($end);
  $b->query_until(qr/done/, "\n");
  is($node->safe_psql('postgres', "SELECT string_agg(price || ':' || trade_id, ' ' ORDER BY trade_id) FROM trades WHERE symbol = '$key'"), $expected, $what);
  $_->quit for $a, $b;
}
for my $level ('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE') {
  two($level, 'COMMIT', '1:1 2:2', "$level, the first commits");
  two($level, 'ROLLBACK', '2:1 2:2', "$level, the first rolls back");
}
two('READ COMMITTED', "PREPARE TRANSACTION 'two'; COMMIT PREPARED 'two'", '1:1 2:2', 'the first is prepared');

# Two SERIALIZABLE writers of two sources: that each reads and writes the queue is no conflict.
my ($a, $b) = map { $node->background_psql('postgres') } 1, 2;
$_->query_safe('BEGIN ISOLATION LEVEL SERIALIZABLE') for $a, $b;
$a->query_safe("INSERT INTO trades VALUES ('ser', now(), 1, 1, 1)");
$b->query_safe("INSERT INTO other VALUES ('ser', now(), 1)");
$_->query_safe('COMMIT') for $a, $b;
pass('two SERIALIZABLE writers commit');

# The order of transaction ids is not that of the lock: an older transaction takes back what a younger one has added.
for my $memory ('64MB', '1kB') {
  $node->safe_psql('postgres', "ALTER SYSTEM SET tick.turn_memory = '$memory'");
  $node->reload;
  for my $round (1 .. 5) {
    $a->query_safe('BEGIN; SELECT pg_current_xact_id()');
    $node->safe_psql('postgres', "INSERT INTO trades VALUES ('old', now(), 1, 1, $round)");
    $a->query_safe("DELETE FROM trades WHERE symbol = 'old'; COMMIT");
  }
  $node->safe_psql('postgres', 'SELECT tick.wait(NULL)');
  $b->query_safe("INSERT INTO trades SELECT 'old', now(), 1, 1, i FROM generate_series(1, 5) i");
  is($node->safe_psql('postgres', "SELECT count(*) FROM trades WHERE symbol = 'old'; DELETE FROM trades WHERE symbol = 'old'"), '5', "an older transaction deletes, turns of $memory");
}
$_->quit for $a, $b;

# ---- groups: other feeds of one table do not wait
$node->safe_psql('postgres', q{CREATE TABLE feeds (exchange text, id int8, ts timestamptz);
  SELECT tick.add_source('feeds', dedup_key => '{exchange}', dedup_id => 'id', dedup_group => 'exchange')});
my $holder = $node->background_psql('postgres');
$holder->query_safe("BEGIN; INSERT INTO feeds VALUES ('a', 1, now()), ('a', 2, now())");
$node->safe_psql('postgres', "SET lock_timeout = '2s'; INSERT INTO feeds VALUES ('b', 1, now()), ('b', 1, now())");
my ($rc, $out, $err) = $node->psql('postgres', "SET lock_timeout = '100ms'; INSERT INTO feeds VALUES ('a', 2, now())");
like($err, qr/lock timeout/, 'one of the same group does');
$holder->query_safe('COMMIT');
$holder->quit;
is($node->safe_psql('postgres', "INSERT INTO feeds VALUES ('a', 2, now()), ('a', 3, now()); SELECT string_agg(exchange || id, ' ' ORDER BY exchange, id) FROM feeds"), 'a1 a2 a3 b1', 'groups');

# ---- killed between commit and merge
my $next = 1;
for my $round (1 .. 3) {
  for my $how ('worker', 'postmaster') {
    my $last = $next + 20;
    $node->safe_psql('postgres', "BEGIN; INSERT INTO trades SELECT 'kill', now(), 1, 1, i FROM generate_series($last, $last + 5) i; PREPARE TRANSACTION 'k$last'");
    $node->safe_psql('postgres', "COMMIT PREPARED 'k$last'; INSERT INTO trades SELECT 'kill', now(), 1, 1, i FROM generate_series($next, $last) i");
    if ($how eq 'worker') {
      crash_worker($node);
    } else {
      $node->stop('immediate');
      $node->start;
    }
    $node->safe_psql('postgres', "INSERT INTO trades SELECT 'kill', now(), 1, 1, i FROM generate_series(1, $last + 10) i");
    $next = $last + 11;
  }
}
is($node->safe_psql('postgres', "SELECT count(*), count(DISTINCT trade_id), max(trade_id) FROM trades WHERE symbol = 'kill'"), join('|', ($next - 1) x 3), 'killed between commit and merge');
exact($node, 'after the kills');

$node->stop;
done_testing();
