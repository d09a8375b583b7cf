# What came before: backfill of a time span from three exchanges' histories, exact at both ends, interrupted and repeated;
# import of dumps as exchanges publish them, zipped, over rows that are there already.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use IO::Compress::Zip qw(zip $ZipError);

shared_data();
my $dir = $ENV{TESTLOGDIR};
my $node = make_node('history');
my $database = $node->connstr('postgres');
command_ok([ $ENV{TICK_INGEST}, 'init', '--database', $database ], 'init');
my $sql = sub { $node->safe_psql('postgres', "SET timezone = 'UTC'; $_[0]") };

my ($first, $total) = (5_000_000, 12_000);
my $fake = launch('fake', $ENV{TICK_INGEST}, 'fake', '--symbols', 'BTCUSDT', '--rate', 6000, '--seconds', 2, '--first-id', $first,
  '--busy-every', 40);
my $port = fake_port($fake);
until_true(60, 'the exchange has a past', sub { slurp($fake->{log}) =~ /everything sent/ });

my %venue = (binance => [ 'BTCUSDT', '' ], coinbase => [ 'BTC-USDT', '/' ], kraken => [ 'BTC/USDT', '/v2' ]);
open my $toml, '>', "$dir/tick.toml" or die;
print $toml "[symbols]\nBTCUSDT = [\"BTC-USDT\", \"BTC/USDT\"]\n";
close $toml;

sub backfill_command {
  my ($venue, $from, $to, @more) = @_;
  my ($symbol, $path) = @{ $venue{$venue} };
  return ($ENV{TICK_INGEST}, 'backfill', '-c', "$dir/tick.toml", '--feed', $venue, '--symbols', $symbol, '--url', "ws://127.0.0.1:$port$path",
    '--repair-url', "http://127.0.0.1:$port", (grep { $_ eq '--repair-interval' } @more) ? () : ('--repair-interval', '2ms'), '--from', $from, '--to', $to, '--database', $database, @more);
}

sub said {
  my ($what, @command) = @_;
  my ($stdout, $stderr);
  IPC::Run::run(\@command, '<', \'', '>', \$stdout, '2>', \$stderr);
  is($?, 0, "$what: exit code") or diag($stderr);
  return $stderr;
}

# ---- the middle of the past first, then all of it

for my $venue (sort keys %venue) {
  my $of = "exchange = '$venue'";
  my $said = said("$venue, all", backfill_command($venue, '2020-01-01T00:00Z', '2100-01-01'));
  is($sql->("SELECT count(*), min(trade_id), count(DISTINCT trade_id), min(symbol) FROM trades WHERE $of"), "$total|$first|$total|BTCUSDT", "$venue: all of the past");
  $sql->("CREATE TABLE all_$venue AS SELECT * FROM trades WHERE $of");
  $sql->("DELETE FROM trades WHERE $of");
  my ($from, $to) = split /\|/, $sql->(qq{SELECT min(ts) FILTER (WHERE trade_id = $first + 3456), min(ts) FILTER (WHERE trade_id = $first + 7890) FROM all_$venue});
  s/ /T/, s/\+00$/Z/ for $from, $to;
  $said = said("$venue, a span", backfill_command($venue, $from, $to, '--connection', "span $venue"));
  my $differ = sub { $sql->("SELECT count(*) FROM ((SELECT symbol, ts, price, qty, trade_id, is_buyer_maker FROM trades WHERE $of EXCEPT ALL
      SELECT symbol, ts, price, qty, trade_id, is_buyer_maker FROM all_$venue WHERE $_[0]) UNION ALL (SELECT symbol, ts, price, qty, trade_id,
      is_buyer_maker FROM all_$venue WHERE $_[0] EXCEPT ALL SELECT symbol, ts, price, qty, trade_id, is_buyer_maker FROM trades WHERE $of)) d") };
  is($differ->("ts >= '$from' AND ts < '$to'"), '0', "$venue: exact at both ends");
  cmp_ok($sql->("SELECT count(*) FROM trades WHERE $of"), '>', 4000, "$venue: a span of it");
  $said = said("$venue, again", backfill_command($venue, $from, $to, '--connection', "again $venue"));
  like($said, qr/0 rows written, [1-9][\d,]* were there already/, "$venue: nothing twice");

  # Killed in the middle, and started again.
  my $rows = $sql->("SELECT count(*) FROM trades WHERE $of");
  my $killed = launch("killed_$venue", backfill_command($venue, '2020-01-01', '2100-01-01', '--repair-interval', '40ms', '--connection', "kill $venue", '--batch-rows', 500));
  until_true(60, 'it is under way', sub { $sql->("SELECT count(*) FROM trades WHERE $of") > $rows + 500 });
  finish($killed, 'KILL');
  said("$venue, the rest", backfill_command($venue, '2020-01-01', '2100-01-01', '--connection', "kill $venue"));
  is($differ->('true'), '0', "$venue: complete after a kill");
}
is($sql->('SELECT count(*) FROM tick.gaps'), '0', 'no gap');
is($sql->('SELECT count(*) FROM (SELECT FROM trades GROUP BY exchange, trade_id HAVING count(*) > 1) d'), '0', 'no trade twice');
$sql->('CREATE TABLE no_ids (exchange text, symbol text, ts timestamptz, price float8, trade_id int8)');
command_fails_like([ backfill_command('binance', '2020-01-01', '2100-01-01', '--table', 'no_ids') ], qr/keeps no ids.*tick\.alter_source\('no_ids'/, 'a table without ids is refused, with the cure');
command_fails_like([ backfill_command('binance', '2100-01-01', '2020-01-01') ], qr/the first before the second/, 'an impossible span');
finish($fake, 'TERM');
like(slurp($fake->{log}), qr/[1-9]\d* REST requests, [1-9]\d* turned away/, 'against 429s');

# ---- dumps

my $dump = $sql->(q{SELECT string_agg(concat_ws(',', trade_id, price, qty, price * qty, (extract(epoch FROM ts) * 1000000)::int8,
  CASE WHEN is_buyer_maker THEN 'True' ELSE 'False' END, 'True'), E'\n' ORDER BY trade_id) FROM all_binance}) . "\n";
my $name = 'BTCUSDT-trades-2026-01-01';
open my $csv, '>', "$dir/$name.csv" or die;
print $csv $dump;
close $csv;
zip("$dir/$name.csv" => "$dir/$name.zip", Name => "$name.csv") or die $ZipError;
zip([ "$dir/$name.csv", "$dir/tick.toml" ] => "$dir/two.zip") or die $ZipError;
$sql->("DELETE FROM trades WHERE exchange = 'binance' AND trade_id % 3 = 0");
my $said = said('a zipped dump over two thirds of it', $ENV{TICK_INGEST}, 'import', "$dir/$name.zip", '--database', $database);
is($sql->("SELECT count(*) FROM (SELECT symbol, ts, price, qty, trade_id, is_buyer_maker FROM trades WHERE exchange = 'binance' EXCEPT ALL
    SELECT symbol, ts, price, qty, trade_id, is_buyer_maker FROM all_binance) d"), '0', 'the same trades');
is($sql->("SELECT count(*) FROM trades WHERE exchange = 'binance'"), $total, 'all of them');
$said = said('again', $ENV{TICK_INGEST}, 'import', "$dir/$name.zip", '--database', $database);
like($said, qr/was in already/, 'nothing to do');
command_fails_like([ $ENV{TICK_INGEST}, 'import', "$dir/two.zip", '--database', $database ], qr/more than one file/, 'an archive of two');
truncate "$dir/$name.zip", 10_000;
command_fails_like([ $ENV{TICK_INGEST}, 'import', "$dir/$name.zip", '--database', $database ], qr/cut off/, 'half an archive');
$sql->('SELECT tick.wait(NULL)');
is($sql->('SELECT count(*) FROM tick.status s, tick.verify(s.rollup)'), '0', 'every rollup is exact');

# ---- candles

# Trades and one-minute candles that an exchange made of them: ours of the trades are theirs.
my ($trades, $candles) = map { ($ENV{TICK_SHARED} // '') . "/data/oracle/$_" } qw(XRP_OLD-trades.json.gz XRP_ETH-1m.csv);
unless (-r $trades && -r $candles) {
  SKIP: { skip "$trades is not there", 1 }
  $node->stop;
  done_testing();
  exit;
}
said('trades', $ENV{TICK_INGEST}, 'import', $trades, '--database', $database);
$said = said('candles', $ENV{TICK_INGEST}, 'import', $candles, '--symbol', 'XRPETH', '--database', $database);
like($said, qr/2,469 candles of XRPETH read, 2,469 new or changed in candles, 0 malformed/, 'all of them');
$sql->('SELECT tick.wait(NULL)');
my $values = 'exchange, symbol, ts, open, high, low, close, round(volume::numeric, 4)';
is($sql->("SELECT count(*) FROM (SELECT $values FROM candles WHERE size = '1 minute' INTERSECT ALL SELECT $values FROM candles_1m) c"), 2469, 'ours are theirs');

# A zipped dump of klines, twice; then as the exchange replaced it; then with mistakes.
sub dump_candles {
  my ($change) = @_;
  my $rows = $sql->(q{SELECT string_agg(concat_ws(',', us / 1000, open, high, low, close, volume, us / 1000 + 59999, volume * vwap, trades, 1, 1, 0), E'\n' ORDER BY us)
    FROM (SELECT (extract(epoch FROM ts) * 1000000)::int8 AS us, * FROM candles_1m WHERE symbol = 'XRPETH') c}) . "\n";
  $change->($rows) if $change;
  unlink "$dir/XRPETH-1m-2019-10.zip";
  zip(\$rows => "$dir/XRPETH-1m-2019-10.zip", Name => 'XRPETH-1m-2019-10.csv') or die $ZipError;
}
my @import = ($ENV{TICK_INGEST}, 'import', "$dir/XRPETH-1m-2019-10.zip", '--candles', 'klines', '--database', $database);
dump_candles();
like(said('a dump of klines', @import), qr/2,469 candles of XRPETH read, 2,469 new or changed in klines, 0 malformed/, 'all in');
is($sql->("SELECT count(*) FROM (SELECT $values, quote_volume, trades FROM klines WHERE size = '1 minute' INTERSECT ALL
    SELECT $values, volume * vwap, trades FROM candles_1m) c"), 2469, 'as they were');
like(said('again', @import), qr/ 0 new or changed in klines/, 'nothing to do');
dump_candles(sub { $_[0] =~ s/^(\d+,)[\d.]+,[\d.]+/${1}0.002,0.9/ });
like(said('replaced', @import), qr/ 1 new or changed in klines/, 'one is another');
is($sql->('SELECT open, high FROM klines ORDER BY ts LIMIT 1'), '0.002|0.9', 'and what the newest file says counts');
dump_candles(sub { $_[0] =~ s/\A(.*\n).*\n/${1}nonsense,,,,,,,,,,,\n/ });
like(said('with a mistake', @import), qr/row 2: impossible time.* 1 new or changed in klines, 1 malformed/s, 'it is named and passed over');
command_fails_like([ $ENV{TICK_INGEST}, 'import', $candles, '--database', 'dbname=nowhere host=/nowhere' ], qr/nowhere/, 'no database');
command_fails_like([ $ENV{TICK_INGEST}, 'import', '/dev/null', '--size', '5 parsecs' ], qr/--size must be like/, 'an impossible size');
$node->stop;
stop_all();
done_testing();
