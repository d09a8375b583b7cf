# tick.fill: every window of each key, what it holds by each method, against built-ins over the raw rows; windows of all
# kinds; and who may read it.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = make_node('fill');
sub sql { return $node->safe_psql('postgres', $_[0]); }
my $seed = $ENV{TICK_SEED} // int(rand(1e6));
srand $seed;
diag("seed $seed");

# Two keys, one of them NULL at times; minutes with and without rows; a key that is quiet from noon on, and one with a NULL that
# has no row in the range.
sql(qq{CREATE TABLE trades (venue text, symbol text, ts timestamptz, price float8, qty numeric, n int, trade_id int8);
  SELECT setseed($seed / 1e6);
  INSERT INTO trades SELECT CASE i % 3 WHEN 0 THEN 'x' WHEN 1 THEN 'y' END, 's' || i % 4,
      '2024-03-01 10:00+00'::timestamptz + floor(random() * 14400) * interval '1 s', floor(random() * 1000) / 8, i % 7, i % 11, i
    FROM generate_series(1, 300) i;
  DELETE FROM trades WHERE symbol = 's3' AND ts >= '2024-03-01 12:00+00';
  INSERT INTO trades VALUES (NULL, 's9', '2024-03-01 10:30+00', 1, 1, 1, 301);
  SELECT tick.create_rollup('candles', \$\$ SELECT symbol, tick.tumble(ts, '5 minutes') AS ts, venue,
      tick.first(price, ts, trade_id) AS open, max(price) AS high, min(price) AS low, tick.last(price, ts, trade_id) AS close,
      sum(qty) AS volume, count(*) AS trades, coalesce(sum(n) FILTER (WHERE n > 3), 0) + count(*) AS mixed,
      sum(price * n) / nullif(sum(n), 0) AS vwap, max(n) AS most, upper(symbol) AS shown, max(ts) AS newest
    FROM trades GROUP BY venue, symbol, 2 \$\$)});
sql('SELECT tick.wait(NULL)');

# Every row that tick.fill should give from 11:30 to 13:30, by built-ins over raw: candles of all time, the grid, and for each
# cell the newest candle at or before it and the next one after it in the range.
sql(q{CREATE FUNCTION expected(method text) RETURNS TABLE (symbol text, ts timestamptz, venue text, open float8, high float8,
    low float8, close float8, volume numeric, trades int8, mixed int8, vwap float8, most int, shown text, newest timestamptz, present bool)
  LANGUAGE sql AS $$
  WITH c AS (
    SELECT symbol, date_bin('5 min', ts, '2000-01-01 00:00+00') AS ts, venue,
           (array_agg(price ORDER BY ts, trade_id))[1] AS open, max(price) AS high, min(price) AS low,
           (array_agg(price ORDER BY ts DESC, trade_id DESC))[1] AS close, sum(qty) AS volume, count(*) AS trades,
           coalesce(sum(n) FILTER (WHERE n > 3), 0) + count(*) AS mixed, sum(price * n) / nullif(sum(n), 0) AS vwap,
           max(n) AS most, upper(symbol) AS shown, max(ts) AS newest
    FROM trades WHERE ts < '2024-03-01 13:30+00' GROUP BY 1, 2, 3),
  k AS (SELECT DISTINCT symbol, venue FROM c WHERE venue IS NOT NULL OR ts >= '2024-03-01 11:30+00'),
  g AS (SELECT * FROM k, generate_series('2024-03-01 11:30+00'::timestamptz, '2024-03-01 13:25+00', '5 min') AS at)
  SELECT g.symbol, g.at, g.venue, v.open, v.high, v.low, v.close, v.volume, v.trades, v.mixed, v.vwap, v.most, upper(g.symbol),
         v.newest, c.ts IS NOT NULL
  FROM g LEFT JOIN c ON c.symbol = g.symbol AND c.venue IS NOT DISTINCT FROM g.venue AND c.ts = g.at
  LEFT JOIN LATERAL (SELECT p.* FROM c p WHERE p.symbol = g.symbol AND p.venue IS NOT DISTINCT FROM g.venue AND p.ts < g.at
                     ORDER BY p.ts DESC LIMIT 1) p ON true
  LEFT JOIN LATERAL (SELECT p.* FROM c p WHERE p.symbol = g.symbol AND p.venue IS NOT DISTINCT FROM g.venue AND p.ts > g.at
                     ORDER BY p.ts LIMIT 1) n ON true
  CROSS JOIN LATERAL (SELECT extract(epoch FROM g.at - p.ts)::float8 / extract(epoch FROM n.ts - p.ts)::float8 AS part) w
  CROSS JOIN LATERAL (
    SELECT c.open, c.high, c.low, c.close, c.volume, c.trades, c.mixed, c.vwap, c.most, c.newest WHERE c.ts IS NOT NULL
    UNION ALL SELECT p.close, p.close, p.close, p.close, 0, 0, 0, p.vwap, p.most, p.newest WHERE c.ts IS NULL AND method = 'prev'
    UNION ALL SELECT l, l, l, l, 0, 0, 0, p.vwap + (n.vwap - p.vwap) * w.part, (p.most + (n.most - p.most) * extract(epoch FROM g.at - p.ts) / extract(epoch FROM n.ts - p.ts))::int, NULL
      FROM (SELECT p.close + (n.close - p.close) * w.part AS l) l WHERE c.ts IS NULL AND method = 'linear'
    UNION ALL SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL WHERE c.ts IS NULL AND method = 'null'
    UNION ALL SELECT 7, 7, 7, 7, 7, 7, 7, 7, 7, NULL WHERE c.ts IS NULL AND method = 'value') v
  $$});
my $same = q{
  SELECT count(*), count(*) FILTER (WHERE NOT e.present), count(*) FILTER (WHERE f.ts IS NULL OR e.ts IS NULL
      OR (f.volume, f.trades, f.mixed, f.most, f.shown, f.newest) IS DISTINCT FROM (e.volume, e.trades, e.mixed, e.most, e.shown, e.newest)
      OR (f.open IS NULL) <> (e.open IS NULL) OR abs(f.open - e.open) + abs(f.high - e.high) + abs(f.low - e.low) + abs(f.close - e.close) > 1e-9
      OR (f.vwap IS NULL) <> (e.vwap IS NULL) OR abs(f.vwap - e.vwap) > 1e-9 OR (f.revision IS NOT NULL) <> e.present
      OR (f.updated_at IS NOT NULL) <> e.present OR f.window_end <> f.ts + interval '5 min'
      OR f.final <> (f.window_end <= tick.watermark('trades')))
  FROM tick.fill(null::candles, '2024-03-01 11:30+00', '2024-03-01 13:30+00', %s) f
  FULL JOIN expected('%s') e ON (f.symbol, f.ts) = (e.symbol, e.ts) AND f.venue IS NOT DISTINCT FROM e.venue};
for my $method (qw(prev linear null value)) {
  my ($rows, $filled, $wrong) = split /\|/, sql(sprintf $same, $method eq 'value' ? "'value', 7" : "'$method'", $method);
  is("$wrong " . ($rows > 200 && $filled > 50 ? 'enough' : "$rows $filled"), '0 enough', "$method: every cell");
}

# Keys of a type that is not PostgreSQL's, a window that hops, months, timestamp, no key; renamed columns.
sql(q{CREATE TYPE side AS ENUM ('buy', 'sell');
  CREATE DOMAIN name AS text;
  CREATE TABLE other (s side, d name, at timestamp, x int);
  INSERT INTO other VALUES ('buy', 'a', '2024-01-15 10:00', 1), ('sell', 'a', '2024-01-31 10:07', 2), ('buy', 'a', '2024-04-01 00:00', 3), (NULL, 'a', '2024-01-10 00:00', 4);
  SELECT tick.create_rollup('months', 'SELECT s, d, tick.tumble(at, ''1 month'') AS m, sum(x) AS x, tick.last(x, at) AS l FROM other GROUP BY 1, 2, 3');
  SELECT tick.create_rollup('all_days', 'SELECT tick.tumble(at, ''1 day'') AS day, sum(x) AS x, tick.last(x, at) AS l FROM other GROUP BY 1');
  SELECT tick.create_rollup('hops', 'SELECT s, tick.hop(at, ''10 minutes'', ''5 minutes'') AS h, count(*) AS n FROM other GROUP BY 1, 2');
  SELECT tick.create_rollup('total', 'SELECT s, count(*) AS n FROM other GROUP BY 1');});
sql('SELECT tick.wait(NULL)');
sql('ALTER VIEW months RENAME COLUMN l TO newest; ALTER VIEW months RENAME COLUMN m TO month');
is(sql(q{SELECT s, d, month, x, newest, window_end, revision FROM tick.fill(null::months, '2024-02-01 00:00+00', '2024-05-01 00:00+00') ORDER BY s, month}),
  join("\n", 'buy|a|2024-02-01 00:00:00|0|1|2024-03-01 00:00:00|', 'buy|a|2024-03-01 00:00:00|0|1|2024-04-01 00:00:00|',
    'buy|a|2024-04-01 00:00:00|3|3|2024-05-01 00:00:00|0', map { my $m = $_ + 1; "sell|a|2024-0$_-01 00:00:00|0|2|2024-0$m-01 00:00:00|" } 2 .. 4),
  'months, other types, renamed columns');
is(sql(q{SELECT count(*), sum(x), min(l), max(l) FROM tick.fill(null::all_days, '2024-01-20 00:00+00', '2024-02-10 00:00+00')}), '21|2|1|2', 'without keys');
is(sql(q{SELECT h, n FROM tick.fill(null::hops, '2024-01-31 09:50+00', '2024-01-31 10:20+00') WHERE s = 'sell' ORDER BY h}),
  join("\n", map { "2024-01-31 $$_[0]:00|$$_[1]" } [ '09:50', 0 ], [ '09:55', 0 ], [ '10:00', 1 ], [ '10:05', 1 ], [ '10:10', 0 ], [ '10:15', 0 ]), 'hops');
is(sql(q{SELECT count(*) FROM tick.fill(null::hops, '2024-01-31 10:00+00', '2024-01-31 10:00+00')}), '0', 'an empty range');

# Refused, in words; and only what the caller may read.
my @refused = (
  [ q{tick.fill(null::total, now(), now())}, qr/has no windows to fill/ ],
  [ q{tick.fill(null::other, now(), now())}, qr/other is not the row type of a rollup/ ],
  [ q{tick.fill(null::months, now(), NULL)}, qr/needs two times/ ],
  [ q{tick.fill(null::months, now(), now(), 'next')}, qr/needs two times and one of the methods/ ],
  [ q{tick.fill(null::months, now(), now(), 'value')}, qr/a value is for the method value/ ],
  [ q{tick.fill(null::months, '-infinity', now())}, qr/must be finite/ ],
  [ q{tick.fill(null::all_days, '4000-01-01 BC', '200000-01-01')}, qr/more than 10000000 windows/ ],
);
for my $case (@refused) {
  my ($rc, $out, $err) = $node->psql('postgres', "SELECT * FROM $$case[0]");
  like($err, $$case[1], "refused: $$case[0]");
}
sql('CREATE ROLE reader LOGIN; GRANT SELECT ON months TO reader; CREATE ROLE stranger LOGIN');
is(sql(q{SET ROLE reader; SELECT count(*) FROM tick.fill(null::months, '2024-02-01 00:00+00', '2024-05-01 00:00+00')}), '6', 'who may read the view');
my ($rc, $out, $err) = $node->psql('postgres', q{SET ROLE stranger; SELECT * FROM tick.fill(null::months, '2024-02-01 00:00+00', '2024-05-01 00:00+00')});
like($err, qr/permission denied for view months/, 'nobody else');

# From key to key through the index, however long the history is.
sql(q{CREATE TABLE long (k int, ts timestamptz, x int);
  SELECT tick.create_rollup('longs', 'SELECT k, tick.tumble(ts, ''1 minute'') AS ts, tick.last(x, ts) AS x FROM long GROUP BY 1, 2');
  INSERT INTO long SELECT i % 20, '2024-01-01 00:00+00'::timestamptz + i / 20 * interval '1 minute', i FROM generate_series(0, 59999) i});
sql(q{SELECT tick.wait(NULL)});
sql('ANALYZE longs_state');
my $hour = q{SELECT count(*), count(DISTINCT x) FROM tick.fill(null::longs, '2024-02-01 00:00+00', '2024-02-01 01:00+00')};
is(sql($hour), '1200|20', 'a quiet hour');
# The first time in a session the catalogs are read, too.
my ($hit, $read) = sql("$hour; EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF) $hour") =~ /Buffers: shared hit=(\d+)(?: read=(\d+))?/;
cmp_ok($hit + ($read // 0), '<', 500, 'few pages of ' . sql(q{SELECT pg_relation_size('longs_state') / 8192}));

# Beside and within the workers of a parallel plan.
for my $query (q{SELECT count(*) FROM long WHERE k < (SELECT count(*) FROM %s)}, q{SELECT count(*) FROM long l JOIN %s f ON f.k = l.k}) {
  my $filled = sprintf $query, q{tick.fill(null::longs, '2024-02-01 00:00+00', '2024-02-01 00:01+00')};
  my $settings = 'SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0';
  like(sql("$settings; EXPLAIN $filled"), qr/Workers Planned/, 'a parallel plan');
  is(sql("$settings; $filled"), '60000', 'with tick.fill');
}
exact($node, 'at the end');
$node->stop;
done_testing();
