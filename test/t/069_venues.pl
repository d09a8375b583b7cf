# OKX, Coinbase Advanced, Bybit, Bitstamp and Gemini through the fake exchange, with faults and a kill of each ingestor.
# Where ids are a sequence every trade is in once; elsewhere nothing is in twice, and nothing of the calm at the end is missing.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'tick-ingest is not built' unless $ENV{TICK_INGEST} && -x $ENV{TICK_INGEST};
my $seed = $ENV{TICK_SEED} // int(rand 1_000_000);
diag("seed $seed (TICK_SEED)");
my ($trades, $rate) = (2600, 400);  # faults among the first 1700
my $dir = PostgreSQL::Test::Utils::tempdir;
my $node = make_node('venues');
my $database = $node->connstr('postgres');
command_ok([ $ENV{TICK_INGEST}, 'init', '--database', $database ], 'init');
command_ok([ $ENV{TICK_INGEST}, 'init', '--database', $database, '--feed', 'gemini', '--table', 'sparse', '--no-rollups' ],
  'init for ids that are no sequence');
$node->safe_psql('postgres', q{SELECT tick.create_rollup('sparse_1m', 'SELECT exchange, symbol, tick.tumble(ts, ''1 minute'') AS ts,
  sum(qty) AS volume, count(*) AS trades FROM sparse GROUP BY 1, 2, 3')});

my %path = (okx => '/ws/v5/business', 'coinbase.advanced' => '/', bybit => '/v5/public/spot', 'bybit.linear' => '/v5/public/linear',
  bitstamp => '/', gemini => '/v2/marketdata');
my %exact = map { $_ => 1 } qw(okx coinbase.advanced);
my %exchange = ('coinbase.advanced' => 'coinbase');
my $toml = "$dir/tick.toml";
open my $out, '>', $toml or die;
print $out "[feed]\nsymbols = [\"BTCUSDT\"]\n[symbols]\nBTCUSDT = [\"BTC-USDT\"]\n[database]\nconninfo = \"$database\"\n";
close $out;

my $fake = launch('fake', $ENV{TICK_INGEST}, 'fake', '--symbols', 'BTCUSDT', '--rate', $rate,
  '--first-id', 1, '--seed', $seed, '--faults', '60/1700', '--busy-every', 7, '--ping', 1, '--wait');
my $port = fake_port($fake);
my (%ingest, %starts);
sub start {
  my ($feed) = @_;
  $ingest{$feed} = launch("ingest_${feed}_" . ++$starts{$feed}, $ENV{TICK_INGEST}, 'run', '-c', $toml, '--feed', $feed, '--url',
    "ws://127.0.0.1:$port$path{$feed}", '--table', $exact{$feed} ? 'trades' : 'sparse', '--max-silence', '300ms', '--ping', '80ms',
    '--max-data-silence', '300ms', '--max-stream-silence', '400ms', '--max-frame', 1_000_000, '--repair-interval', '5ms', '--connection', 'test');
}
start($_) for sort keys %path;
my %in = map { my $e = $exchange{$_} // $_; $_ => ($exact{$_} ? 'trades' : 'sparse') . " WHERE exchange = '$e'" } keys %path;
for my $feed (sort keys %path) {
  wait_for($node, "SELECT count(*) > 20 FROM $in{$feed}");
  finish($ingest{$feed}, 'KILL');
  start($feed);
}
for my $feed (sort keys %path) {
  my $whole = $exact{$feed} ? "count(*) FILTER (WHERE trade_id <= $trades) = $trades - min(trade_id) + 1"
    : "max(ts) > (SELECT ts FROM trades WHERE exchange = 'okx' AND trade_id = $trades)";
  ok(eval { wait_for($node, "SELECT $whole FROM $in{$feed}"); 1 }, "$feed: everything came") or diag(slurp($ingest{$feed}{log}));
}
is(finish($ingest{$_}, 'TERM'), 0, "$_ stops cleanly") for sort keys %path;
diag(slurp($fake->{log}) =~ /(faults played:.*)/ ? $1 : 'no fault summary') if finish($fake, 'TERM') >= 0;

for my $feed (sort keys %path) {
  my $id = $feed eq 'bybit.linear' ? '(ts, price, qty)' : 'trade_id';
  if ($exact{$feed}) {
    is($node->safe_psql('postgres', "SELECT count(*) - $trades + min(trade_id), count(DISTINCT trade_id) - $trades + min(trade_id), min(trade_id) < 1000
        FROM $in{$feed} AND trade_id <= $trades"), '1|1|t', "$feed: every trade once");
    next;
  }
  is($node->safe_psql('postgres', "SELECT count(*) - count(DISTINCT trade_id) FROM $in{$feed}"), '0', "$feed: nothing twice");
  is($node->safe_psql('postgres', "SELECT count(*) FROM (SELECT * FROM $in{$feed} AND ts < (SELECT ts FROM $in{okx} AND trade_id = $trades)
      AND ts > (SELECT min(ts) + interval '1 ms' FROM $in{okx})) s LEFT JOIN (SELECT * FROM $in{okx}) t
      ON (date_trunc('milliseconds', s.ts), s.price, s.qty, s.is_buyer_maker) = (t.ts, t.price, t.qty, t.is_buyer_maker)"
      . ($id eq 'trade_id' ? ' AND s.trade_id = t.trade_id' : '') . ' WHERE t.trade_id IS NULL'), '0', "$feed: as OKX tells it");
  is($node->safe_psql('postgres', "SELECT count(*) FROM (SELECT * FROM $in{okx} AND trade_id BETWEEN $trades - 200 AND $trades) t
      WHERE NOT EXISTS (SELECT FROM $in{$feed} AND date_trunc('milliseconds', sparse.ts) = t.ts AND sparse.price = t.price)"),
    '0', "$feed: all of the calm at the end");
}
is($node->safe_psql('postgres', 'SELECT count(*) FROM tick.gaps'), '0', 'no gap is left');
is($node->safe_psql('postgres', 'SELECT count(*) FROM tick.status s, tick.verify(s.rollup)'), '0', 'rollups: exact')
  if $node->safe_psql('postgres', "SELECT tick.wait(NULL, '60 s')") eq 't';

# ---- the table must fit, and the heartbeat is spoken
my $again = launch('again', $ENV{TICK_INGEST}, 'fake', '--symbols', 'BTCUSDT', '--rate', 100);
my $url = 'ws://127.0.0.1:' . fake_port($again);
$ingest{$_} = launch("ingest_$_", $ENV{TICK_INGEST}, 'run', '-c', $toml, '--feed', 'gemini', '--url', "$url$path{gemini}", '--table', 'sparse',
  '--exchange', 'twice', '--connection', $_) for qw(first second);
wait_for($node, "SELECT count(*) > 100 FROM sparse WHERE exchange = 'twice'");
until_true(30, 'both of two side by side have written', sub { 2 == grep { slurp($ingest{$_}{log}) =~ /connected/ } qw(first second) });
is(finish($ingest{$_}, 'TERM'), 0, "$_ of two side by side stops cleanly") for qw(first second);
my $dropped = 0;
$dropped += slurp($ingest{$_}{log}) =~ /stopped:.* ([0-9]+) duplicates/ ? $1 : 0 for qw(first second);
cmp_ok($dropped, '>', 0, 'the table left out what both told');
is($node->safe_psql('postgres', "SELECT count(*) - count(DISTINCT trade_id) FROM sparse WHERE exchange = 'twice'"), '0', 'and has it once');
sub checked {
  my ($feed, $table) = @_;
  my ($stdout, $stderr);
  IPC::Run::run([ $ENV{TICK_INGEST}, 'check', '-c', $toml, '--feed', $feed, '--url', "$url$path{$feed}", '--table', $table ],
    '<', \'', '>', \$stdout, '2>', \$stderr);
  return $stdout;
}
like(checked('gemini', 'trades'), qr/MISTAKE.*keeps sets of ids.*\n.*init --feed gemini/, 'check: sets of ids');
$node->safe_psql('postgres', 'CREATE TABLE bare (symbol text, ts timestamptz, price float8)');
like(checked('gemini', 'bare'), qr/MISTAKE.*no unique index/, 'check: no unique index');
like(checked('gemini', 'sparse'), qr/\n0 mistakes/, 'check: fits');
like(checked('okx', 'trades'), qr/missing trades can be fetched.*\n0 mistakes/s, 'check: history of OKX');
for my $feed ('okx', 'bybit') {
  command_ok([ $ENV{TICK_INGEST}, 'record', '-c', $toml, '--feed', $feed, '--url', "$url$path{$feed}", '--ping', '50ms', '--limit', 60,
      "$dir/$feed" ], "record $feed");
  like(slurp("$dir/$feed"), qr/pong/, "$feed is kept alive in its own words");
}
stop_all();
done_testing();
