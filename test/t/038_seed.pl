# tick.seed: windows of before the first row, given by a query, are candles like any: late rows are merged into them,
# nothing recomputes them, and what the query says is what the rollup shows.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = make_node('seed');
sub sql { return $node->safe_psql('postgres', $_[0]); }
sub refused { my ($query, $why, $what) = @_; my ($rc, $out, $err) = $node->psql('postgres', $query); like($err, $why, $what); }

# Raw rows of the first day are elsewhere, as candles; those of the second day are here.
make_trades($node, 1);
make_trades($node, 0, 'gone');
my $rows = q{SELECT (ARRAY['A', 'B', NULL])[1 + i %% 3], timestamptz '%s' + i * interval '7 s', (i * 37) %% 1000 / 8.0, (i %% 11) / 4.0, %d + i FROM generate_series(0, 3000) i};
sql('INSERT INTO gone ' . sprintf($rows, '2024-03-01 00:00+00', 100_000));
sql('INSERT INTO trades ' . sprintf($rows, '2024-03-02 00:00+00', 200_000));
sql(q{SELECT tick.create_rollup('candles', candle_query('1 minute'), history => '1 day');
  SELECT tick.create_rollup('means', 'SELECT symbol, tick.tumble(ts AT TIME ZONE ''UTC'', ''1 hour'') AS t, avg(price) AS mean, stddev_samp(qty) AS spread, sum(qty::numeric) AS total FROM trades GROUP BY 1, 2');
  SELECT tick.create_rollup('slides', 'SELECT tick.hop(ts, ''1 hour'', ''20 min'') AS t, sum(price * qty) / nullif(sum(qty), 0) AS vwap, max(price) AS high FROM trades GROUP BY 1');
  SELECT tick.create_rollup('latest', 'SELECT symbol, tick.last(price, ts, trade_id) AS price FROM trades GROUP BY 1');
  SELECT tick.create_rollup('medians', 'SELECT tick.tumble(ts, ''1 hour'') AS t, percentile_cont(0.5) WITHIN GROUP (ORDER BY price) AS m FROM trades GROUP BY 1');
  SELECT tick.wait(NULL)});
my $candles = sql(q{SELECT candle_query('1 minute')});
my @columns = split /\n/, sql(q{SELECT attname FROM pg_attribute WHERE attrelid = 'candles'::regclass AND attnum > 0 ORDER BY attnum});
splice @columns, -4;
my $columns = join ', ', @columns;
my $compared = join ', ', map { /^(volume|vwap)$/ ? 'round(' . $_ . '::numeric, 6)' : $_ } @columns;
(my $old = $candles) =~ s/FROM trades/FROM gone/ or die $candles;
sql("CREATE TABLE klines AS SELECT c.*, s.vwap_sum FROM ($old) AS c JOIN (SELECT symbol, date_trunc('minute', ts) AS ts, sum(price * qty) AS vwap_sum FROM gone GROUP BY 1, 2) AS s ON s.ts = c.ts AND s.symbol IS NOT DISTINCT FROM c.symbol");
my $token = sql('SELECT max(token) FROM tick.changes(null::candles)');

is(sql(qq{SELECT tick.seed('candles', 'TABLE klines') = (SELECT count(*) FROM klines)}), 't', 'candles are taken in');
sub shows {
  my ($what, $compared) = @_;
  my $both = $candles =~ s/FROM trades/FROM (TABLE gone UNION ALL TABLE trades) AS trades/r;
  is(sql(qq{SELECT count(*) FROM ((SELECT $compared FROM candles EXCEPT ALL SELECT $compared FROM ($both) q) UNION ALL (SELECT $compared FROM ($both) q EXCEPT ALL SELECT $compared FROM candles)) d}), '0', "$what: as if all rows were here");
}
shows('seeded', $compared);
exact($node, 'seeded');
is(sql(qq{SELECT count(*) FROM tick.changes(null::candles, $token) WHERE change = 'upsert'}), sql('SELECT count(*) FROM klines'), 'the change feed tells of them');
is(sql(q{SELECT seeded_to FROM tick.rollups WHERE rollup = 'candles'::regclass}), sql(q{SELECT max(ts) + interval '1 minute' FROM klines}), 'tick.rollups says so');

is(sql(qq{SELECT tick.seed('means', \$\$SELECT symbol, date_trunc('hour', ts AT TIME ZONE 'UTC') AS t, avg(price) AS mean, sum(price) AS mean_sum, count(*) AS mean_count,
  stddev_samp(qty) AS spread, sum(qty) AS spread_sum, sum(qty * qty) AS spread_sum_sq, count(*) AS spread_count, sum(qty::numeric) AS total, count(*) AS total_count FROM gone GROUP BY 1, 2\$\$) > 0}), 't', 'what averages are made of');
is(sql(q{SELECT tick.seed('slides', $$SELECT tick.hop(ts, '1 hour', '20 min') AS t, sum(price * qty) AS vwap_sum, sum(qty) AS vwap_sum_1, max(price) AS high FROM gone GROUP BY 1$$) > 0}), 't', 'sliding windows')
  or diag(sql(q{SELECT string_agg(attname, ' ') FROM pg_attribute WHERE attrelid = 'slides_state'::regclass AND attnum > 0}));
is(sql(q{SELECT count(*) > 0 AND bool_and(abs(s.vwap - q.vwap) < 1e-9 AND s.high = q.high) FROM slides s JOIN (SELECT tick.hop(ts, '1 hour', '20 min') AS t, sum(price * qty) / sum(qty) AS vwap, max(price) AS high FROM gone GROUP BY 1) q USING (t)}), 't', 'which show the same');

# Windows of no values: SQL's sum of them is NULL.
sql(q{SELECT tick.create_rollup('bare', 'SELECT symbol, tick.tumble(ts, ''1 hour'') AS t, sum(qty) AS volume, sum(trade_id) AS ids, count(*) AS n FROM trades GROUP BY 1, 2'); SELECT tick.wait('bare')});
is(sql(q{SELECT tick.seed('bare', $$SELECT s AS symbol, timestamptz '2024-02-01+00' AS t, v AS volume, NULL::numeric AS ids, 2 AS n FROM (VALUES ('A', NULL::float8), ('B', 0)) AS k (s, v)$$)}), '2', 'windows without a value')
  and is(sql(q{SELECT string_agg(format('%s %s %s %s', symbol, coalesce(volume::text, '-'), coalesce(ids::text, '-'), n), ', ' ORDER BY symbol) FROM bare WHERE t = '2024-02-01+00'}), 'A - - 2, B 0 - 2', 'show none');

# Late rows, and some that go again; windows of both days.
my $late = q{SELECT 'A', timestamptz '2024-03-01 01:00:03+00' + i * interval '61 s', 100000 + i, 3, 300000 + i FROM generate_series(1, 50) i};
sql("INSERT INTO trades $late; SELECT tick.wait(NULL)");
# Where in its window a seeded first or last was nobody knows: it stays first or last.
shows('late rows', join ', ', grep { !/^(open|close)$/ } split /, /, $compared);
sql(q{DELETE FROM trades WHERE trade_id % 2 = 0 AND trade_id > 300000; SELECT tick.wait(NULL)});
is(sql(q{SELECT count(*) > 0 FROM tick.stale WHERE rollup = 'candles'::regclass}), 't', 'a maximum that nobody has any more is listed');
is(sql(q{SELECT sum(volume) FROM candles}), sql(q{SELECT sum(qty) FROM (TABLE gone UNION ALL TABLE trades) q}), 'sums and counts follow');
my ($rc, $out, $err) = $node->psql('postgres', q{SELECT tick.refresh('candles')});
like($err, qr/NOTICE:  windows of "candles" before .* stay as they are/, 'refresh leaves them');
exact($node, 'refreshed');
is(sql(q{SELECT sum(volume) FROM candles}), sql(q{SELECT sum(qty) FROM (TABLE gone UNION ALL TABLE trades) q}), 'indeed');
sql(q{SELECT tick.alter_rollup('candles', add => 'min(trade_id) AS first_id'); SELECT tick.wait(NULL)});
is(sql(q{SELECT count(first_id) = 0 FROM candles WHERE ts < '2024-03-01 23:00+00'}), 't', 'a new column is not known of them');
exact($node, 'a column more');

# Earlier ones still; and what cannot be.
refused(q{SELECT tick.seed('means', $$SELECT symbol, date_trunc('hour', ts AT TIME ZONE 'UTC') - interval '1 day' AS t, avg(price) AS mean FROM gone GROUP BY 1, 2$$)}, qr/column "mean_sum" is missing\nHINT:.*give it by this name/, 'an average alone');
refused(q{SELECT tick.seed('means', $$SELECT symbol, date_trunc('hour', ts AT TIME ZONE 'UTC') - interval '1 day' AS t, avg(price) + 1 AS mean, sum(price) AS mean_sum, count(*) AS mean_count,
  sum(qty) AS spread_sum, sum(qty * qty) AS spread_sum_sq, count(*) AS spread_count, sum(qty::numeric) AS total, count(*) AS total_count FROM gone GROUP BY 1, 2$$)}, qr/gives another "mean" than the rollup would show/, 'an average of something else');
refused(q{SELECT tick.seed('slides', $$SELECT timestamptz '2024-02-01 00:10+00' AS t, 1 AS vwap_sum, 1 AS vwap_sum_1, 1 AS high$$)}, qr/no window of "slides" starts at 2024-02-01 00:10:00/, 'between windows');
refused(q{SELECT tick.seed('slides', $$SELECT timestamptz '2024-03-02 12:00+00' AS t, 1 AS vwap_sum, 1 AS vwap_sum_1, 1 AS high$$)}, qr/the source has rows of "slides" from .* on/, 'windows that have rows');
refused(q{SELECT tick.seed('slides', $$SELECT timestamptz '2024-03-01 03:00+00' AS t, 1 AS vwap_sum, 1 AS vwap_sum_1, 1 AS high$$)}, qr/duplicate key value/, 'twice');
refused(q{SELECT tick.seed('slides', $$SELECT '2024-02-01+00' AS t, 1 AS vwap_sum, 1 AS vwap_sum_1, 1 AS high$$)}, qr/column "t" must be of type timestamp with time zone/, 'a time that is none');
refused(q{SELECT tick.seed('slides', $$SELECT NULL::timestamptz AS t, 1 AS vwap_sum, 1 AS vwap_sum_1, 1 AS high$$)}, qr/column "t" must not be NULL/, 'no time');
refused(q{SELECT tick.seed('slides', $$SELECT timestamptz '2024-02-01+00' AS t, 1 AS vwap_sum, 1 AS vwap_sum_1, 1 AS high, 1 AS hihg$$)}, qr/column "hihg" is none of the rollup's/, 'a column too many');
refused(q{SELECT tick.seed('slides', $$SELECT timestamptz '2024-02-01+00' AS t, 1 AS vwap_sum, 1 AS vwap_sum_1$$)}, qr/column "high" is missing/, 'a column too few');
refused(q{SELECT tick.seed('bare', $$SELECT 'C' AS symbol, timestamptz '2024-02-01+00' AS t, 1 AS volume, 1 AS ids, NULL::int AS n$$)}, qr/column "n" is a count and must not be NULL\nDETAIL:.*\(C,.*\nHINT:.*0/, 'a count that is none');
refused(q{SELECT tick.seed('latest', 'SELECT 1')}, qr/"latest" cannot be seeded: it has no windows/, 'no windows');
refused(q{SELECT tick.seed('medians', 'SELECT 1')}, qr/"medians" cannot be seeded: it is recomputed/, 'recomputed');
refused(q{SELECT tick.seed('trades', 'SELECT 1')}, qr/"trades" is not a rollup/, 'no rollup');
is(sql(q{SELECT tick.seed('slides', 'SELECT t FROM slides WHERE false')}), '0', 'nothing');
sql(q{CREATE ROLE owner_1; GRANT SELECT, TRIGGER ON trades TO owner_1; GRANT CREATE ON SCHEMA public TO owner_1; SET ROLE owner_1;
  SELECT tick.create_rollup('counts', 'SELECT tick.tumble(ts, ''1 day'') AS t, count(*) AS n FROM trades GROUP BY 1'); SELECT tick.wait(NULL)});
refused(q{SELECT tick.seed('counts', 'SELECT 1')}, qr/only its owner can seed "counts"\nHINT:  SET ROLE owner_1 first/, 'not even a superuser, by whose name triggers would run');
is(sql(q{SET ROLE owner_1; SELECT tick.seed('counts', 'SELECT timestamptz ''2024-02-28+00'' AS t, 5 AS n')}), '1', 'its owner');
refused(q{INSERT INTO counts_state (t, n, updated_at) VALUES ('2024-02-27+00', 1, now())}, qr/only its worker writes it/, 'nobody writes it otherwise');

# Rows that the worker has not seen yet are in the way of a seed as those that it has.
sql(q{SELECT tick.create_rollup('early', 'SELECT tick.tumble(ts, ''1 day'') AS t, count(*) AS n FROM trades GROUP BY 1'); SELECT tick.wait(NULL)});
my $worker = worker_pid($node);
until_true(30, 'the worker stands still between turns', sub {
  kill 'STOP', $worker;
  return 1 if sql(qq{SELECT count(*) FROM pg_locks WHERE pid = $worker AND locktype = 'object'}) eq '0';
  kill 'CONT', $worker;
  return 0;
});
sql(q{INSERT INTO trades VALUES ('A', '2024-02-10 12:00+00', 1, 1, 1)});
my $early = q{SELECT tick.seed('early', 'SELECT timestamptz ''2024-02-%s+00'' AS t, 5 AS n')};
refused(sprintf($early, 10), qr/the source has rows of "early" from 2024-02-10 00:00:00\+00 on/, 'rows that wait to be merged');
kill 'CONT', $worker;
is(sql(sprintf($early, '09')), '1', 'before them');
sql(q{SELECT tick.alter_rollup('early', retention => '1 day')});
wait_for($node, q{SELECT kept_from IS NOT NULL FROM tick.rollups WHERE rollup = 'early'::regclass});
refused(sprintf($early, '08'), qr/windows of "early" before .* are not made again: its retention has dropped them/, 'what retention would drop');

# While a rollup that was set aside is computed again, late rows still come to windows that are not.
sql(q{CREATE TABLE odd (k text, ts timestamptz, v text) PARTITION BY RANGE (ts); CREATE TABLE odd_1 PARTITION OF odd FOR VALUES FROM ('2024-03-01+00') TO ('2024-03-02+00');
  CREATE TABLE odd_2 PARTITION OF odd FOR VALUES FROM ('2024-03-02+00') TO ('2024-03-03+00'); INSERT INTO odd VALUES ('a', '2024-03-01 10:00+00', '1');
  SELECT tick.create_rollup('odds', 'SELECT k, tick.tumble(ts, ''1 hour'') AS t, sum(v::int8) AS s, count(*) AS n FROM odd GROUP BY 1, 2'); SELECT tick.wait(NULL);
  SELECT tick.seed('odds', $$SELECT 'a' AS k, timestamptz '2024-03-01 08:00+00' AS t, 30 AS s, 5 AS n$$); INSERT INTO odd VALUES ('a', '2024-03-01 10:00+00', 'x')});
wait_for($node, q{SELECT state = 'error' FROM tick.status WHERE rollup = 'odds'::regclass});
sql(q{DELETE FROM odd WHERE v = 'x'});
my $holder = $node->background_psql('postgres');
$holder->query_safe('BEGIN; LOCK TABLE odd_2 IN ACCESS EXCLUSIVE MODE');
sql(q{SELECT tick.resume('odds');
  INSERT INTO odd_1 VALUES ('a', '2024-03-01 08:30+00', '100'), ('b', '2024-03-01 08:30+00', '100'), ('a', '2024-03-01 11:00+00', '100')});
wait_for($node, q{SELECT count(*) = 0 FROM tick_catalog.frontier f, LATERAL (SELECT xid FROM tick_catalog.queue_0 UNION ALL SELECT xid FROM tick_catalog.queue_1
  UNION ALL SELECT xid FROM tick_catalog.queue_2) q WHERE NOT pg_visible_in_snapshot(q.xid, f.snapshot)});
is(sql(q{SELECT count(*) > 0 FROM tick_catalog.pending}), 't', 'which waits for a lock');
sql(q{INSERT INTO odd_1 VALUES ('a', '2024-03-01 08:40+00', '1000')});
$holder->query_safe('COMMIT');
$holder->quit;
my $odds = q{SELECT string_agg(format('%s %s %s %s', k, extract(hour FROM t AT TIME ZONE 'UTC'), s, n), ', ' ORDER BY t, k) FROM };
sql('SELECT tick.wait(NULL)');
is(sql($odds . 'odds'), 'a 8 1130 7, b 8 100 1, a 10 1 1, a 11 100 1', 'they are all there');
is(sql($odds . 'odds_live'), sql($odds . 'odds'), 'live, too');

my $dump = $node->basedir . '/dump.sql';
$node->command_ok(['pg_dump', '-h', $node->host, '-p', $node->port, '-f', $dump, 'postgres'], 'a dump');
sql('CREATE DATABASE again');
$node->command_ok(['psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-h', $node->host, '-p', $node->port, '-d', 'again', '-f', $dump], 'is restored');
is($node->safe_psql('again', q{SELECT tick.wait(NULL); SELECT count(*) FROM tick.status s, tick.verify(s.rollup)}), "t\n0", 'exact');
is($node->safe_psql('again', q{SELECT count(*), sum(n) FROM counts}), sql('SELECT count(*), sum(n) FROM counts'), 'with what was seeded');
sql('TRUNCATE counts_state; SELECT tick.wait(NULL)');
is(sql(q{SELECT seeded_to IS NULL FROM tick.rollups WHERE rollup = 'counts'::regclass}), 't', 'TRUNCATE begins anew');
is(sql(q{SELECT count(*) FROM counts}), sql(q{SELECT count(DISTINCT tick.tumble(ts, '1 day')) FROM trades}), 'from the rows alone');
exact($node, 'at the end');
$node->stop;
done_testing();
