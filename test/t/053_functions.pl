# Functions for users' own SQL against built-ins: tick.vwap, tick.ohlcv and tick.ema over random rows, also in parallel plans;
# tick.upsert against a staging table.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = make_node('functions');
sub sql { return $node->safe_psql('postgres', $_[0]); }
sub refused { my ($query, $why) = @_; my ($rc, $out, $err) = $node->psql('postgres', $query); like($err, $why, "refused: $query"); }
my $seed = $ENV{TICK_SEED} // int(rand(1e6));
diag("seed $seed");
sql(qq{SELECT setseed($seed / 1e6);
  CREATE TABLE ticks AS SELECT i % 7 AS k, '2024-01-01 00:00+00'::timestamptz + floor(random() * 50) * interval '1 s' AS ts,
    CASE WHEN random() < 0.95 THEN floor(random() * 1000) / 8 END AS price, CASE WHEN random() < 0.95 THEN floor(random() * 100) / 4 END AS qty,
    CASE WHEN random() < 0.9 THEN (random() * 20)::int8 END AS seq, i FROM generate_series(1, 20000) i;
  INSERT INTO ticks SELECT 100, NULL, NULL, NULL, NULL, 0; INSERT INTO ticks SELECT 101, ts, 'NaN', 1, 1, 0 FROM ticks WHERE i < 9;
  ANALYZE ticks});
my $parallel = 'SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET max_parallel_workers_per_gather = 2; SET enable_indexscan = off;';

my $vwap = q{SELECT k, tick.vwap(price, qty) AS f, tick.vwap(price::numeric, qty::numeric) AS n FROM ticks WHERE k < 101 GROUP BY k};
for my $mode ('', $parallel) {
  is(sql(qq{$mode SELECT count(*), count(*) FILTER (WHERE abs(f - e) > 1e-9 * e OR n IS DISTINCT FROM en OR (f IS NULL) <> (e IS NULL)), count(e)
    FROM ($vwap) v JOIN (SELECT k, (sum(price * qty) / nullif(sum(qty) FILTER (WHERE price IS NOT NULL), 0)) AS e,
      sum(price::numeric * qty::numeric) / nullif(sum(qty::numeric) FILTER (WHERE price IS NOT NULL), 0) AS en FROM ticks GROUP BY k) o USING (k)}),
    '8|0|7', 'tick.vwap' . ($mode ? ' in parallel' : ''));
}
like(sql("$parallel EXPLAIN $vwap"), qr/Partial .*Aggregate/s, 'as partial aggregates');

my $ohlcv = q{SELECT k, ts, (tick.ohlcv(price, qty, ts, seq)).* FROM ticks GROUP BY k, ts};
for my $mode ('', $parallel) {
  is(sql(qq{$mode SELECT count(*) FILTER (WHERE (c.open, c.high, c.low, c.close, c.volume, c.trades)
        IS DISTINCT FROM (o.open, o.high, o.low, o.close, o.volume, o.trades)), count(*) > 300
    FROM ($ohlcv) c JOIN (SELECT k, ts, (array_agg(price ORDER BY ts, seq NULLS FIRST, price) FILTER (WHERE price IS NOT NULL AND ts IS NOT NULL))[1] AS open,
        max(price) AS high, min(price) AS low, (array_agg(price ORDER BY ts DESC, seq DESC NULLS LAST, price DESC) FILTER (WHERE price IS NOT NULL AND ts IS NOT NULL))[1] AS close,
        sum(qty) AS volume, count(*) AS trades FROM ticks GROUP BY k, ts) o ON c.k = o.k AND c.ts IS NOT DISTINCT FROM o.ts}), '0|t', 'tick.ohlcv' . ($mode ? ' in parallel' : ''));
}
is(sql(q{SELECT (tick.ohlcv(price, qty, ts)).* FROM (VALUES (1.5::float8, 2::float8, '2024-01-01'::timestamptz), (3, 1, '2024-01-02')) AS v (price, qty, ts)}),
  '1.5|3|1.5|3|3|2', 'without a sequence');
is(sql(q{SELECT (tick.ohlcv(price, qty, ts)).* FROM ticks WHERE false}), '|||||', 'of no rows');

is(sql(q{WITH RECURSIVE x AS (SELECT i, CASE WHEN i % 5 <> 3 THEN price END AS x, row_number() OVER (ORDER BY i) AS n FROM ticks WHERE k = 3 AND i < 3000),
    e AS (SELECT n, x AS e FROM x WHERE n = 1 UNION ALL
      SELECT x.n, CASE WHEN x.x IS NULL THEN e.e WHEN e.e IS NULL THEN x.x ELSE e.e + 2.0 / 13 * (x.x - e.e) END FROM e JOIN x ON x.n = e.n + 1)
  SELECT count(*) > 300, count(*) FILTER (WHERE abs(e.e - t.e) > 1e-9 OR (e.e IS NULL) <> (t.e IS NULL))
  FROM e JOIN (SELECT n, tick.ema(x, 12) OVER (ORDER BY n) AS e FROM x) t USING (n)}), 't|0', 'tick.ema');
refused('SELECT tick.ema(1, 0)', qr/must be 1 or more/);

# Three batches into a plain and a partitioned table, with what a staging table would make of them.
my $columns = 'a int, b text, v float8, at int8, doc json';
sql("CREATE TABLE plain ($columns, UNIQUE (b, a)); CREATE TABLE parts ($columns, PRIMARY KEY (a, b)) PARTITION BY RANGE (a);"
    . 'CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (5); CREATE TABLE parts_2 PARTITION OF parts DEFAULT;'
    . "CREATE TABLE expected ($columns, PRIMARY KEY (a, b))");
for my $batch (1 .. 3) {
  sql("CREATE TABLE batch_$batch AS SELECT (random() * 9)::int AS a, 'b' || (random() * 9)::int AS b, floor(random() * 3)::float8 AS v,
      (random() * 1000000)::int8 AS at, '{\"x\": 1}'::json AS doc FROM generate_series(1, 60);
    CREATE TABLE newest AS SELECT DISTINCT ON (a, b) * FROM batch_$batch ORDER BY a, b, at DESC");
  my $counts = sql('SELECT count(*) FILTER (WHERE e.a IS NULL), count(*) FILTER (WHERE e.v <> n.v OR e.at <> n.at) FROM newest n LEFT JOIN expected e USING (a, b)');
  sql('INSERT INTO expected SELECT * FROM newest ON CONFLICT (a, b) DO UPDATE SET v = excluded.v, at = excluded.at, doc = excluded.doc; DROP TABLE newest');
  for my $table (qw(plain parts)) {
    is(sql("SELECT * FROM tick.upsert('$table', 'SELECT doc, at, v, b, a FROM batch_$batch', newest_by => 'at')"), $counts, "$table: counts of batch $batch");
    is(sql("SELECT count(*) FROM (SELECT a, b, v, at, doc::text FROM $table) t FULL JOIN expected e USING (a, b) WHERE (t.v, t.at) IS DISTINCT FROM (e.v, e.at)"), '0', 'and its rows');
  }
}
is(sql("SELECT * FROM tick.upsert('plain', 'SELECT * FROM plain')"), '0|0', 'nothing new, nothing written');
is(sql(q{SELECT * FROM tick.upsert('plain', 'SELECT 77 AS a, x AS b, i::float8 AS v FROM (VALUES (''p'', 1), (''p'', 2), (''q'', 3)) AS s (x, i)', key => '{a,b}')}), '2|0', 'the key by name');
is(sql('SELECT b, v FROM plain WHERE a = 77 ORDER BY b'), "p|2\nq|3", 'the last one counts');
refused(q{SELECT tick.upsert('ticks', 'SELECT 1 AS k')}, qr/has no unique index over columns/);
refused(q{SELECT tick.upsert('plain', 'SELECT 1 AS a')}, qr/does not give all columns of the key: b, a/);
refused(q{SELECT tick.upsert('plain', 'SELECT 1; SELECT 2')}, qr/one query that returns rows is needed/);
sql('CREATE ROLE stranger');
refused(q{SET ROLE stranger; SELECT tick.upsert('plain', 'SELECT 1 AS a, ''b'' AS b')}, qr/permission denied for table plain/);
$node->stop;
done_testing();
