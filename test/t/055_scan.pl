# History that is too long for a turn is scanned by a helper process while live deltas are merged: whatever is
# written meanwhile, and whoever is killed, every rollup becomes exact.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = make_node('scan', conf => "tick.scan_size = 0\n");
# A query that takes its time, for those who must come in the middle: a function of the user in a sum.
$node->safe_psql('postgres', q{
  CREATE FUNCTION slowly(x float8) RETURNS float8 IMMUTABLE LANGUAGE plpgsql AS
    $$ BEGIN FOR i IN 1 .. 800 LOOP END LOOP; RETURN x; END $$});
my $slow = q{SELECT symbol, tick.tumble(ts, '1 minute') AS ts, sum(slowly(qty)) AS volume, max(price) AS high,
  tick.last(price, ts, trade_id) AS close, count(*) AS trades FROM %s GROUP BY 1, 2};
sub slow_rollup { my ($name, $table) = @_; return "SELECT tick.create_rollup('$name', \$\$" . sprintf($slow, $table) . '$$)' }

# Inserts, updates and deletes of rows old and new, until told to stop.
sub writer {
  my ($name, $table) = @_;
  my $script = "$ENV{TESTLOGDIR}/$name.sql";
  open my $out, '>', $script or die;
  print $out "INSERT INTO $table (symbol, ts, price, qty, trade_id) SELECT * FROM random_trades(20, random());\n"
    . "UPDATE $table SET price = price + 1 WHERE trade_id = (SELECT trade_id FROM $table TABLESAMPLE SYSTEM (0.5) LIMIT 1);\n"
    . "DELETE FROM $table WHERE trade_id = (SELECT trade_id FROM $table TABLESAMPLE SYSTEM (0.5) LIMIT 1);\n"
    . "\\sleep 5 ms\n";
  close $out;
  return launch($name, 'pgbench', '-n', '-f', $script, '-T', '60', '-h', $node->host, '-p', $node->port, 'postgres');
}

# Runs SQL in the middle of the scan for rollup slow, `pid` being the helper's, and returns the error, which only
# killing may make; the rollup is made anew if its history is complete.
sub in_the_middle {
  my ($action) = @_;
  for (1 .. 5) {
    if ($node->safe_psql('postgres', q{SELECT count(*) FROM tick_catalog.pending p JOIN tick_catalog.rollup r ON r.id = p.rollup
        WHERE r.view = to_regclass('slow') AND p.fresh}) eq '0') {
      $node->safe_psql('postgres', q{SELECT tick.drop_rollup('slow')}) if $node->safe_psql('postgres', q{SELECT to_regclass('slow')});
      $node->safe_psql('postgres', slow_rollup('slow', 'trades'));
    }
    my ($rc, $out, $err) = $node->psql('postgres', qq{
      DO \$\$
      DECLARE
        pid int4;
      BEGIN
        FOR i IN 1 .. 10000 LOOP
          PERFORM pg_stat_clear_snapshot();
          SELECT a.pid INTO pid FROM pg_stat_activity a, tick_catalog.scan_progress() p WHERE a.backend_type = 'pg_tick scan'
            AND p.rows > 0 AND p.rollup = (SELECT id FROM tick_catalog.rollup WHERE view = 'slow'::regclass);
          EXIT WHEN pid IS NOT NULL OR NOT EXISTS (SELECT FROM tick_catalog.pending WHERE fresh);
          PERFORM pg_sleep(0.002);
        END LOOP;
        IF pid IS NULL THEN RAISE 'no scan'; END IF;
        $action
      END \$\$});
    next if $err =~ /no scan|no victim|program .* failed|is not a PostgreSQL/;    # gone just before
    die $err if $err ne '' && $action !~ /KILL/;
    return $err;
  }
  die 'no scan to be seen';
}

# Kills a process of the server in the middle of the scan, and waits until the server has started again. No row goes
# to the program: it would not read it, and the action would end with an error before the server does.
sub shoot {
  my ($victim, $name) = @_;
  my $ended = in_the_middle(qq{
    IF $victim IS NULL THEN RAISE 'no victim'; END IF;
    EXECUTE format('COPY (SELECT WHERE false) TO PROGRAM %L', 'kill -KILL ' || $victim);
    PERFORM pg_sleep(60);});
  wait_for($node, 'SELECT true');
  like($ended, qr/server closed the connection|crash of another server process/, "the $name is killed");
}
my $worker = q{(SELECT s.pid FROM pg_stat_activity s WHERE s.backend_type = 'pg_tick worker' LIMIT 1)};

# ---- under a live writer, partitioned and not

for my $partitioned (0, 1) {
  my $what = $partitioned ? 'partitioned' : 'plain';
  make_trades($node, $partitioned);
  $node->safe_psql('postgres', 'INSERT INTO trades SELECT * FROM random_trades(30000, 0.1); CREATE INDEX ON trades (trade_id); ANALYZE trades');
  my $writer = writer("writer_$what", 'trades');
  $node->safe_psql('postgres', "SELECT tick.create_rollup('candles_1m', candle_query('1 minute'))");
  $node->safe_psql('postgres', "SELECT tick.create_rollup('candles_5m', candle_query('5 minutes'))");
  wait_for($node, q{SELECT count(*) = 2 FROM tick.status WHERE state IN ('live', 'recompute')});
  cmp_ok($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_tick scan'}), '<=', 1,
    "$what: at most one helper");
  finish($writer, 'TERM');
  exact($node, "$what: two rollups created under a writer");
  is($node->safe_psql('postgres', 'SELECT count(*) FROM tick_catalog.backfill'), '0', "$what: no piece is left");
  $node->safe_psql('postgres', "DROP TABLE trades CASCADE");
}

# ---- seen from outside, and killed

make_trades($node, 0);
$node->safe_psql('postgres', 'INSERT INTO trades SELECT * FROM random_trades(100000, 0.1); CREATE INDEX ON trades (trade_id); ANALYZE trades');
my $writer = writer('writer_before', 'trades');
# A scan may end before the row comes: then the next one shows it.
my ($rollup, $expected, $seen, $running);
for my $try (1 .. 5) {
  in_the_middle('');
  ($rollup, $expected, $seen, $running) = split /[|\n]/, $node->safe_psql('postgres', q{
  SELECT rollup, rows_expected > 80000 AND rows_done BETWEEN 0 AND 200000 AND rows_per_second >= 0 AND (rows_per_second = 0) = (remaining IS NULL)
    AND stale = 0 FROM tick.rollups WHERE rows_expected IS NOT NULL;
  INSERT INTO trades VALUES ('NEW} . $try . q{', '2030-01-01 00:00+00', 7, 1, 0);
  DO $$ BEGIN FOR i IN 1 .. 2000 LOOP EXIT WHEN EXISTS (SELECT FROM slow WHERE symbol = 'NEW} . $try . q{'); PERFORM pg_sleep(0.002); END LOOP; END $$;
  SELECT close, (SELECT count(*) FROM tick_catalog.scan_progress()) FROM slow WHERE symbol = 'NEW} . $try . q{'});
  last if defined $running && ($seen ne '7' || $running eq '1' && $rollup eq 'slow');
}
is("$rollup $expected", 'slow t', 'progress: of which rollup, and how much');
is("$seen $running", '7 1', 'a new row is seen while the history is being read');
$node->safe_psql('postgres', "SELECT tick.create_rollup('candles_1m', candle_query('1 minute'))");

in_the_middle('PERFORM pg_terminate_backend(pid);');
pass('the helper is terminated');
shoot('pid', 'helper');
finish($writer, 'TERM');
$writer = writer('writer_worker', 'trades');
shoot($worker, 'worker');
finish($writer, 'TERM');
in_the_middle('');
$node->stop('immediate');
$node->start;
$writer = writer('writer_end', 'trades');
in_the_middle("PERFORM pg_terminate_backend($worker);");
wait_for($node, q{SELECT count(*) = 2 FROM tick.status WHERE state IN ('live', 'recompute')});
finish($writer, 'TERM');
exact($node, 'after all that');

# ---- crashed when only a part of what was found has been merged

# A fast worker may be through before anybody looks: then once more.
my $left = 0;
for (1 .. 10) {
  $left = $node->safe_psql('postgres', q{SELECT tick.drop_rollup(view) FROM tick_catalog.rollup WHERE view::text = 'by_second';
    SELECT tick.create_rollup('by_second', $$SELECT symbol, tick.tumble(ts, '1 second') AS ts,
      sum(qty) AS volume, max(price) AS high, count(*) AS trades FROM trades GROUP BY 1, 2$$);
    DO $$BEGIN
      FOR i IN 1 .. 100000 LOOP
        EXIT WHEN EXISTS (SELECT FROM by_second);
        PERFORM pg_sleep(0.001);
      END LOOP;
    END$$;
    SELECT count(*) FROM tick_catalog.backfill}) =~ s/.*\n//sr;
  last if $left > 0;
}
$node->stop('immediate');
$node->start;
cmp_ok($left, '>', 0, 'crashed in the middle of the merge');
wait_for($node, q{SELECT count(*) = 3 FROM tick.status WHERE state IN ('live', 'recompute')});
exact($node, 'and after that');
$node->safe_psql('postgres', q{SELECT tick.drop_rollup('by_second')});

# ---- what stands in nobody's way

in_the_middle('');
$node->safe_psql('postgres', "SET lock_timeout = '5s'; ALTER TABLE trades ADD COLUMN note text");
pass('DDL on the source does not wait for a scan');
$node->safe_psql('postgres', q{SELECT tick.drop_rollup('candles_1m')});
in_the_middle('');
$node->safe_psql('postgres', "SELECT tick.drop_rollup('slow')");
wait_for($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type IN ('pg_tick scan', 'pg_tick worker')");
pass('a rollup dropped in the middle: scan and worker end');
in_the_middle('');
copy_database($node, 'postgres', 'copy');
pass('so does a copy of the database');
$node->safe_psql('postgres', q{SELECT tick.drop_rollup('slow')});

# ---- an error in the expression

$node->safe_psql('postgres', q{
  CREATE TABLE odd (k text, v int);
  INSERT INTO odd SELECT 'A', 50000 - g FROM generate_series(1, 100000) g;
  SELECT tick.create_rollup('odd_sum', 'SELECT k, sum(1 / v) AS s FROM odd GROUP BY 1')});
wait_for($node, q{SELECT state = 'error' FROM tick.status WHERE rollup = 'odd_sum'::regclass});
like($node->safe_psql('postgres', q{SELECT last_error FROM tick.status WHERE rollup = 'odd_sum'::regclass}), qr/division by zero/,
  'an error in the scan sets the rollup aside');
$node->safe_psql('postgres', q{DELETE FROM odd WHERE v = 0; SELECT tick.resume('odd_sum')});
exact($node, 'resumed');

$node->stop;
done_testing();
