# Two real recordings of one feed, from a fake exchange over WebSocket into a table: every trade once, candles exact,
# and the float sum equal to math.fsum to the last bit.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my @recordings = shared_data(map { "recordings/binance/spot_btcusdt_$_.gz" } 20240808, 20240809);
my ($first, $last) = (3735683259, 3735703162);
my $count = $last - $first + 1;

my $node = make_node('recordings');
my $database = $node->connstr('postgres');
command_ok([ $ENV{TICK_INGEST}, 'init', '--database', $database ], 'init');
command_ok([ $ENV{TICK_INGEST}, 'init', '--database', $database ], 'init again');
$node->safe_psql('postgres', q{
  SELECT tick.create_rollup('turnover_1m', 'SELECT symbol, tick.tumble(ts, ''1 minute'') AS ts,
    sum(price * qty) AS turnover, sum(qty) AS volume FROM trades GROUP BY 1, 2')});

my $run = 0;

# Serves both recordings to one ingestor and returns the ingestor's log. The fake exchange ends by itself, so the
# ingestor has seen the last frame when it sees the end of the connection.
sub feed_both {
  ++$run;
  my $fake = launch("fake_$run", $ENV{TICK_INGEST}, 'fake', '--speed', 'max', '--wait', '--exit',
    map { ('--recording', $_) } @recordings);
  my $ingest = launch("ingest_$run", $ENV{TICK_INGEST}, 'run', '--url', 'ws://127.0.0.1:' . fake_port($fake),
    '--symbols', 'BTCUSDT', '--connection', 'recordings', '--database', $database);
  until_true(120, 'the end of the feed', sub { slurp($ingest->{log}) =~ /disconnected/ });
  is(finish($ingest, 'TERM'), 0, "run $run: the ingestor stops cleanly");
  is(finish($fake, 0), 0, "run $run: the fake exchange has ended");
  return slurp($ingest->{log});
}

my $log = feed_both();
like($log, qr/ 19,904 messages received, 0 duplicates, 0 malformed, 0 refused/, 'nothing dropped') or diag($log);
is($node->safe_psql('postgres', "SELECT count(*), count(DISTINCT trade_id), min(trade_id), max(trade_id),
     count(DISTINCT symbol), min(ts)::date, max(ts)::date FROM trades"),
  "$count|$count|$first|$last|1|2024-08-08|2024-08-09", "all $count trades, none twice");
is($node->safe_psql('postgres', "SELECT position -> 'ids' FROM tick.feeds"), qq({"BTCUSDT": $last}), 'the stored position');
is($node->safe_psql('postgres', 'SELECT count(*) FROM trades_default'), '0', 'each day has its partition');
exact($node, 'candles and latest price');
is($node->safe_psql('postgres', 'SELECT count(*), sum(trades) FROM candles_1m'), "12|$count", 'twelve minutes');
is($node->safe_psql('postgres', 'SELECT count(*), sum(trades) FROM candles_5m'), "4|$count", 'four windows of five minutes');
is($node->safe_psql('postgres', 'SELECT price = (SELECT price FROM trades ORDER BY ts DESC, trade_id DESC LIMIT 1), trades FROM latest_price'),
  "t|$count", 'latest price');

SKIP: {
  my $python = 'python3';
  skip 'no python3', 1 if system("$python -c 'import math' >/dev/null 2>&1") != 0;
  my $base = $node->basedir;
  $node->safe_psql('postgres', qq{
    SET extra_float_digits = 3;
    COPY (SELECT extract(epoch FROM date_bin('1 min', ts, '2000-01-01 00:00+00'))::int8, price, qty FROM trades ORDER BY random())
      TO '$base/rows.csv' (FORMAT csv);
    COPY (SELECT extract(epoch FROM ts)::int8, turnover, volume FROM turnover_1m) TO '$base/sums.csv' (FORMAT csv);
    COPY (SELECT extract(epoch FROM ts)::int8, sum FROM (SELECT date_bin('1 min', ts, '2000-01-01 00:00+00') AS ts,
      sum(price * qty) FROM trades GROUP BY 1) s) TO '$base/builtin.csv' (FORMAT csv);
  });
  my $program = <<'PYTHON';
import csv, math, sys
products, volumes = {}, {}
for minute, price, qty in csv.reader(open(sys.argv[1] + '/rows.csv')):
    products.setdefault(minute, []).append(float(price) * float(qty))
    volumes.setdefault(minute, []).append(float(qty))
wrong = 0
seen = set()
for minute, turnover, volume in csv.reader(open(sys.argv[1] + '/sums.csv')):
    seen.add(minute)
    for got, values in ((turnover, products[minute]), (volume, volumes[minute])):
        if float(got).hex() != math.fsum(values).hex():
            wrong += 1
            print('minute', minute, 'is', float(got).hex(), 'must be', math.fsum(values).hex(), file=sys.stderr)
builtin = sum(float(got).hex() != math.fsum(products[minute]).hex()
              for minute, got in csv.reader(open(sys.argv[1] + '/builtin.csv')))
print(len(seen), len(products), wrong, builtin)
PYTHON
  my ($out, $err);
  IPC::Run::run([ $python, '-c', $program, $base ], '>', \$out, '2>', \$err);
  like($out, qr/^12 12 0 \d+$/, 'sums equal math.fsum bit for bit') or diag($out, $err);
  note("minutes in which the built-in sum rounds otherwise: " . (split ' ', $out)[3]);
}

# The same again: everything is known already, so nothing is written.
$log = feed_both();
like($log, qr/ 0 rows committed .* 19,904 duplicates/, 'a second pass is all duplicates') or diag($log);
is($node->safe_psql('postgres', 'SELECT count(*) FROM trades'), $count, 'a second pass adds nothing');
exact($node, 'after the second pass');

$node->stop;
done_testing();
