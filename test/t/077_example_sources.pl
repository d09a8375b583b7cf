# Standard input as a feed; and the examples that live of it and of a poller: 5-minute averages (examples/averages), told of early,
# revised, final after a delay, idle and resumed; coins of CoinLore (examples/coinlore); prices beside posts (examples/hype). All
# equal built-ins on the raw rows.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'tick-ingest is not built' unless $ENV{TICK_INGEST} && -x $ENV{TICK_INGEST};
my $node = make_node('sources');
my $database = $node->connstr('postgres');
my $example = "$FindBin::Bin/../../examples";
sub sql { return $node->safe_psql('postgres', $_[0]); }

# ---- standard input
sql(q{CREATE TABLE lines (symbol text, ts timestamptz, price float8, qty float8, trade_id int8); CREATE UNIQUE INDEX ON lines (symbol, ts, trade_id, price)});
$ENV{TICK_TABLE} = 'lines';
my @stdin = ($ENV{TICK_INGEST}, 'run', '--feed', 'stdin', '--database', $database);
# Pipes a text into it; exit code and log.
sub pipe_in {
  my ($text, @options) = @_;
  my $log = '';
  IPC::Run::run([ @stdin, @options ], '<', \$text, '>', \my $out, '2>', \$log);
  return ($? >> 8, $log);
}
my $json = join '', map { qq({"symbol":"A","ts":"2024-03-01T12:00:0${_}Z","price":"10.$_","qty":$_,"trade_id":$_}\r\n) } 1 .. 5;
my ($code, $log) = pipe_in("$json\n  \n" . '{"symbol":"A","ts":"2024-03-01 12:00:09","price":1}' . "\n{\"symbol\":\"A\",\"ts\":1709294410,\"price\":-1}\n{\"sym"
    . "\n" . '{"s":"B","T":1709294411000,"p":"20.5"}');
is($code, 0, 'objects, and the end of input') or diag($log);
like($log, qr/stopped: 6 rows committed, 9 lines, 0 duplicates, 3 malformed/, 'are counted');
is(sql('SELECT symbol, count(*), sum(price)::numeric(9,2), count(trade_id) FROM lines GROUP BY 1 ORDER BY 1'), "A|5|51.50|5\nB|1|20.50|0", 'and are in');
is(sql("SELECT count(*), count(*) FILTER (WHERE reason LIKE 'a time without zone%') FROM tick.rejected WHERE feed = 'stdin/lines'"), '3|1', 'what is none is rejected');
($code, $log) = pipe_in($json);
like($log, qr/stopped: 0 rows committed, 5 lines, 5 duplicates/, 'piped twice, in once');
($code, $log) = pipe_in("when;px;n\n2024-03-01 14:00;5.25;1\n2024-03-01 14:01;5.5;2\n", '--columns', 'ts=when,price=px,trade_id=n', '--tz', '+02:00', '--symbols', 'c');
is($code, 0, 'CSV') or diag($log);
is(sql("SELECT string_agg(to_char(ts AT TIME ZONE 'UTC', 'HH24:MI ') || price, ', ' ORDER BY ts) FROM lines WHERE symbol = 'C'"), '12:00 5.25, 12:01 5.5',
  'with columns, a zone and a symbol as told');
($code, $log) = pipe_in('{"symbol":"D","ts":1709294410,"price":1,"x":"' . ('x' x 5_000_000) . "\"}\n" . '{"symbol":"D","ts":1709294411,"price":2}' . "\n");
is(sql("SELECT string_agg(price::text, ',') FROM lines WHERE symbol = 'D'"), '2', 'a line without end is passed over, the next is not');
($code, $log) = pipe_in('', '--table', 'nowhere');
is($code, 1, 'no table, no success');
like($log, qr/table nowhere does not exist/, 'is said');

# A pipe that stays open: a line is in at once; half a line is not; a signal commits what was read.
sub open_pipe {
  my ($name) = @_;
  pipe my $reader, my $writer or die;
  my $pid = fork() // die;
  if ($pid == 0) {
    open STDIN, '<&', $reader;
    close $writer;
    open STDERR, '>', "$ENV{TESTLOGDIR}/$name.log";
    { no warnings; exec @stdin; }
    POSIX::_exit(127);
  }
  close $reader;
  return ($pid, $writer);
}
my ($pid, $writer) = open_pipe('open_pipe');
syswrite $writer, qq({"symbol":"E","ts":1709294410,"price":1}\n{"symbol":"E","ts":170929);
wait_for($node, "SELECT count(*) = 1 FROM lines WHERE symbol = 'E'");
syswrite $writer, qq(4411,"price":2}\n);
wait_for($node, "SELECT count(*) = 2 FROM lines WHERE symbol = 'E'");
syswrite $writer, join '', map { sprintf qq({"symbol":"E","ts":%d,"price":%d}\n), 1709294411 + $_, $_ } 1 .. 500;
wait_for($node, "SELECT count(*) > 2 FROM lines WHERE symbol = 'E'");
kill 'TERM', $pid;
waitpid $pid, 0;
is($?, 0, 'a signal ends it') or diag(slurp("$ENV{TESTLOGDIR}/open_pipe.log"));
my ($read) = slurp("$ENV{TESTLOGDIR}/open_pipe.log") =~ /stopped: (\d+) rows committed/;
is(sql("SELECT count(*) FROM lines WHERE symbol = 'E'"), $read, 'with all that it says');
close $writer;

# PostgreSQL is killed while lines come: all are in. The ingestor is: what it had in hand is lost, until it is piped once more.
sub lines_of { my ($symbol) = @_; return map { sprintf qq({"symbol":"$symbol","ts":%d,"price":%d,"trade_id":%d}\n), 1709294411 + $_, 1 + $_ % 90, $_ } 1 .. 3000 }
($pid, $writer) = open_pipe('server_killed');
my @lines = lines_of('F');
print $writer @lines[ 0 .. 1499 ];
$writer->flush;
wait_for($node, "SELECT count(*) > 0 FROM lines WHERE symbol = 'F'");
crash($node);
print $writer @lines[ 1500 .. 2999 ];
close $writer;
waitpid $pid, 0;
is($?, 0, 'PostgreSQL is killed meanwhile: no harm') or diag(slurp("$ENV{TESTLOGDIR}/server_killed.log"));
is(sql("SELECT count(*), count(DISTINCT trade_id) FROM lines WHERE symbol = 'F'"), '3000|3000', 'every line once');
($pid, $writer) = open_pipe('killed');
@lines = lines_of('G');
print $writer @lines[ 0 .. 1499 ];
$writer->flush;
wait_for($node, "SELECT count(*) > 0 FROM lines WHERE symbol = 'G'");
kill 'KILL', $pid;
waitpid $pid, 0;
close $writer;
($code, $log) = pipe_in(join '', @lines);
is("$code " . sql("SELECT count(*), count(DISTINCT trade_id) FROM lines WHERE symbol = 'G'"), '0 3000|3000', 'the ingestor is killed, all is piped once more: every line once');

# ---- the two examples by their one command
delete $ENV{TICK_TABLE};
for my $name ('averages', 'coinlore') {
  my ($shown, $errors) = ('', '');
  IPC::Run::run([ "$example/run", $name, '--seconds', 2, '--database', $database ], '<', \'', '>', \$shown, '2>', \$errors);
  is($?, 0, "examples/run $name") or diag("$shown\n$errors");
  like($shown, qr/differs from its query in 0 places/, 'compares its rollups');
  unlike($shown, qr/differs from its query in [1-9]/, 'all of them');
}

# ---- averages
sub averages {
  my ($what) = @_;
  exact($node, $what);
  is(sql(q{WITH e AS (SELECT symbol, date_bin('5 min', ts, '2000-01-01 00:00+00') + interval '5 min' AS timestamp, avg(price) AS price FROM quotes GROUP BY 1, 2)
    SELECT count(*) FROM e FULL JOIN test_write AS t ON (t.stock_ticker, t.timestamp) = (e.symbol, e.timestamp)
    WHERE t.price IS NULL OR e.price IS NULL OR abs(t.price - e.price) > 1e-9 * e.price}), '0', "$what: test_write equals built-ins");
  is(sql('SELECT count(*) - count(DISTINCT (stock_ticker, timestamp)) FROM test_write'), '0', "$what: a row for each ticker and time");
}
cmp_ok(sql('SELECT count(DISTINCT stock_ticker) FROM test_write'), '==', 3, 'three tickers');
averages('quotes of a walk');
sql(q{SELECT tick.reset('quotes')});
sub quotes {
  my $text = join '', map { sprintf qq({"id":"%s","price":%s,"time":%d,"exchange":"NMS"}\n), $_->[0], $_->[2], 1709294400_000 + $_->[1] * 1000 } @_;
  my $log = '';
  IPC::Run::run([ $ENV{TICK_INGEST}, 'run', '-c', "$example/averages/tick.toml", '--database', $database ], '<', \$text, '>', \my $out, '2>', \$log);
  is($?, 0, 'quotes are taken') or diag($log);
  sql('SELECT tick.wait(NULL)');
}
my $shown = q{SELECT to_char(timestamp AT TIME ZONE 'UTC', 'HH24:MI'), t.price, a.final, a.revision FROM test_write AS t JOIN averages_5m AS a
  ON (a.symbol, a.window_end) = (t.stock_ticker, t.timestamp) WHERE stock_ticker = 'AAPL' ORDER BY 1};
quotes([ 'AAPL', 10, 100 ]);
is(sql($shown), '12:05|100|f|0', 'an average is there with the first quote');
quotes([ 'AAPL', 20, 104 ], [ 'AAPL', 20, 104 ], [ 'AAPL', 310, 110 ]);
is(sql($shown), "12:05|102|f|0\n12:10|110|f|0", 'revised with the next; the same quote counts once');
quotes([ 'AAPL', 20 * 60 - 1, 120 ]);
is(sql("SELECT count(*) FROM averages_5m WHERE final"), '0', '14:59 minutes after the end it is not final');
quotes([ 'AAPL', 20 * 60, 122 ]);
is(sql($shown), "12:05|102|t|0\n12:10|110|f|0\n12:20|120|f|0\n12:25|122|f|0", 'after 15 minutes it is');
quotes([ 'AAPL', 30, 96 ]);
like(sql($shown), qr/^12:05\|100\|t\|1$/m, 'a quote that is later still revises it');
sql(q{SELECT tick.alter_source('quotes', watermark_delay => '1 s', idle_timeout => '1 s')});
quotes([ 'AAPL', 25 * 60 - 1, 124 ]);
wait_for($node, 'SELECT bool_and(final) FROM averages_5m');
pass('idle: the clock closes the last window');
quotes([ 'AAPL', 25 * 60 + 1, 130 ], [ 'AAPL', 25 * 60 - 2, 126 ]);
like(sql($shown), qr/^12:25\|124\|t\|1\n12:30\|130\|/m, 'resumed: new windows come, and the last one is revised');
averages('resumed');

# ---- coins
is(sql("SELECT string_agg(DISTINCT id || ' ' || name, ', ') FROM crypto.prices WHERE id IN ('90', '80')"), '80 Ethereum, 90 Bitcoin', 'coins have names');
is(sql('SELECT count(*) FROM crypto.prices WHERE name IS NULL OR price_usd IS NULL OR abs(extract(epoch FROM processing_time) - ts) > 60'), '0', 'and all columns');
is(sql(q{WITH e AS (SELECT id, date_bin('5 min', to_timestamp(ts), '2000-01-01 00:00+00') AS ts, (array_agg(price_usd ORDER BY ts))[1] AS open, max(price_usd) AS high,
    min(price_usd) AS low, (array_agg(price_usd ORDER BY ts DESC))[1] AS close, count(*) AS polls FROM crypto.prices GROUP BY 1, 2),
  r AS (SELECT id, ts, open, high, low, close, polls FROM crypto.prices_5m)
  SELECT count(*) FROM ((TABLE e EXCEPT ALL TABLE r) UNION ALL (TABLE r EXCEPT ALL TABLE e)) AS d}), '0', 'prices_5m equals built-ins');
is(sql(q{WITH e AS (SELECT DISTINCT ON (id) id, name, price_usd, ts FROM crypto.prices ORDER BY id, ts DESC), r AS (SELECT id, name, price_usd, ts FROM crypto.latest)
  SELECT count(*) FROM ((TABLE e EXCEPT ALL TABLE r) UNION ALL (TABLE r EXCEPT ALL TABLE e)) AS d}), '0', 'latest equals DISTINCT ON');

# ---- prices beside posts
$node->safe_psql('postgres', 'CREATE DATABASE hype');
my ($output, $errors) = ('', '');
IPC::Run::run([ "$example/run", 'hype', '--seconds', 12, '--database', $node->connstr('hype') ], '<', \'', '>', \$output, '2>', \$errors);
is($?, 0, 'examples/run hype') or diag("$output\n$errors");
like($output, qr/^ 20\S+ \S+ \| (BTC|ETH)USDT \| +[\d.]+ \| .*^posts_10s differs from its query in 0 places/ms, 'shows windows and compares them');
# Windows of all kinds: prices alone, posts alone (some of them without a score), both, neither; and rows that go again.
my $seed = $ENV{TICK_SEED} || int rand 1e9;
note("seed $seed");
$node->safe_psql('hype', qq{SELECT setseed(($seed % 1000) / 1000.0);
  CREATE TABLE kinds AS SELECT symbol, at, floor(random() * 3)::int AS prices, floor(random() * 3)::int AS posts
    FROM unnest('{BTCUSDT,ETHUSDT,SOLUSDT}'::text[]) AS symbol, generate_series('2024-03-01 12:00+00'::timestamptz, '2024-03-01 12:09:50+00', '10 s') AS at;
  INSERT INTO trades (exchange, symbol, ts, price, qty, trade_id)
    SELECT 'binance', symbol, at + i * interval '4.999999 s', 10 + random(), 1, -row_number() OVER () FROM kinds, generate_series(1, prices) AS i;
  INSERT INTO posts SELECT 'jetstream', symbol, at + (i - 1) * interval '9.999999 s', symbol || at || i, 'x', 'x', nullif(random() * 2 - 1, 0)
    * CASE WHEN random() < 0.8 THEN 1 END FROM kinds, generate_series(1, posts) AS i;
  INSERT INTO posts VALUES ('jetstream', 'BTCUSDT', '2024-03-01 11:59:55+00', 'unscored', 'x', 'x', NULL);
  SELECT tick.wait(NULL, '60 s')});
my $windows = q{WITH w AS (SELECT symbol, date_bin('10 s', ts, '2000-01-01 00:00+00') AS t FROM trades UNION SELECT symbol, date_bin('10 s', ts, '2000-01-01 00:00+00') FROM posts),
  e AS (SELECT w.symbol, w.t AT TIME ZONE 'UTC' AS time, (SELECT round(avg(price::numeric), 6) FROM trades AS x WHERE x.symbol = w.symbol AND x.ts >= w.t AND x.ts < w.t + interval '10 s') AS price,
    (SELECT round((avg(sentiment::numeric) + 1) / 2, 6) FROM posts AS x WHERE x.symbol = w.symbol AND x.ts >= w.t AND x.ts < w.t + interval '10 s') AS hype FROM w),
  r AS (SELECT symbol, time, round(avg_price::numeric, 6), round(hype_score::numeric, 6) FROM realtime_hype)
  SELECT (SELECT count(*) FROM e) = (SELECT count(DISTINCT (symbol, time)) FROM r), (SELECT count(*) FROM ((TABLE e EXCEPT ALL TABLE r) UNION ALL (TABLE r EXCEPT ALL TABLE e)) AS d)};
is($node->safe_psql('hype', q{SELECT count(*) FILTER (WHERE prices > 0 AND posts = 0) > 5, count(*) FILTER (WHERE prices = 0 AND posts > 0) > 5,
    count(*) FILTER (WHERE prices > 0 AND posts > 0) > 5, count(*) FILTER (WHERE prices = 0 AND posts = 0) > 0 FROM kinds}), 't|t|t|t', 'windows of every kind');
is($node->safe_psql('hype', $windows), 't|0', 'a row for each window that has prices or posts, and no other, as built-ins have it');
is($node->safe_psql('hype', q{SELECT avg_price, hype_score, trades, posts FROM realtime_hype WHERE time = '2024-03-01 11:59:50'}), '||0|1', 'one post without a score is a row');
is($node->safe_psql('hype', q{SELECT count(*) FROM kinds AS k LEFT JOIN realtime_hype AS h ON h.symbol = k.symbol AND h.time = k.at AT TIME ZONE 'UTC'
    WHERE coalesce(h.trades, 0) <> k.prices OR coalesce(h.posts, 0) <> k.posts OR (h.symbol IS NULL) <> (k.prices + k.posts = 0)}), 0, 'with how many of each');
$node->safe_psql('hype', q{DELETE FROM posts WHERE id LIKE 'BTC%' OR id = 'unscored'; DELETE FROM trades WHERE trade_id < 0 AND symbol <> 'ETHUSDT'; SELECT tick.wait(NULL, '60 s')});
is($node->safe_psql('hype', $windows), 't|0', 'also when rows have gone');
is($node->safe_psql('hype', 'SELECT count(*) FROM tick.status AS s, tick.verify(s.rollup)'), 0, 'and both rollups equal their queries');
stop_all();
$node->stop;
done_testing();
