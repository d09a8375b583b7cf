# 12,477 real trades, 2,490 of which share their millisecond with an earlier one, against 2,469 one-minute candles
# that somebody else made from them: open, high, low, close and volume are the same numbers.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($trades, $candles) = shared_data('oracle/XRP_OLD-trades.json.gz', 'oracle/XRP_ETH-1m.csv');
my $node = make_node('ties');
my $database = $node->connstr('postgres');
command_ok([ $ENV{TICK_INGEST}, 'init', '--database', $database ], 'init');

command_ok([ $ENV{TICK_INGEST}, 'replay', $trades, '--database', $database ], 'replay');
is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT trade_id), count(DISTINCT symbol), min(ts), max(ts) FROM trades'),
  '12477|12477|1|2019-10-11 00:00:11.62+00|2019-10-13 11:19:28.844+00', '12,477 trades')
  or diag($node->safe_psql('postgres', 'SELECT * FROM trades ORDER BY ts LIMIT 3'));
is($node->safe_psql('postgres', 'SELECT sum(n - 1) FROM (SELECT count(*) AS n FROM trades GROUP BY ts) t'), '2490', '2,490 ties');
exact($node, 'candles');

$node->safe_psql('postgres', 'CREATE TABLE theirs (ts timestamptz PRIMARY KEY, open float8, high float8, low float8, close float8, volume float8)');
$node->safe_psql('postgres', "COPY theirs FROM STDIN (FORMAT csv, HEADER);\n" . slurp($candles) . "\\.\n");

my $differences = q{
  SELECT t.*, c.* FROM theirs t FULL JOIN %s c ON c.ts = t.ts
  WHERE (t.open, t.high, t.low, t.close, t.volume) IS DISTINCT FROM (c.open, c.high, c.low, c.close, c.volume) LIMIT 5};
is($node->safe_psql('postgres', 'SELECT count(*) FROM candles_1m JOIN theirs USING (ts)'), '2469', '2,469 candles');
is($node->safe_psql('postgres', sprintf $differences, 'candles_1m'), '', 'the same as theirs: 0 differences');

# Made from history instead of from the feed, the same.
$node->safe_psql('postgres', q{SELECT tick.create_rollup('candles_later', candle_query('1 minute'));
  SELECT tick.wait('candles_later')});
is($node->safe_psql('postgres', sprintf $differences, 'candles_later'), '', 'made from history: 0 differences');

# And without the tie break these data would not do: the test can tell.
$node->safe_psql('postgres', q{SELECT tick.create_rollup('candles_untied', 'SELECT tick.tumble(ts, ''1 minute'') AS ts,
  tick.first(price, ts) AS open, max(price) AS high, min(price) AS low, tick.last(price, ts) AS close, sum(qty) AS volume
  FROM trades GROUP BY 1'); SELECT tick.wait('candles_untied')});
isnt($node->safe_psql('postgres', sprintf $differences, 'candles_untied'), '', 'without trade ids there are differences');

command_ok([ $ENV{TICK_INGEST}, 'replay', $trades, '--database', $database ], 'replay again');
is($node->safe_psql('postgres', 'SELECT count(*) FROM trades'), '12477', 'nothing is imported twice');
exact($node, 'after the second replay');

$node->stop;
done_testing();
