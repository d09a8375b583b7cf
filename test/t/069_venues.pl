# All exchanges with a WebSocket through the fake one, with faults, kills of each ingestor and of PostgreSQL. Where ids are a
# sequence every trade is in once; elsewhere nothing is in twice, what is missing came while the ingestor was away, and nothing of
# the calm at the end is missing.
#
#   TICK_SOURCE_SECONDS  how long (default 6.5)     TICK_SEED  repeats faults and kills
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use List::Util qw(shuffle);
use Time::HiRes qw(time);

plan skip_all => 'tick-ingest is not built' unless $ENV{TICK_INGEST} && -x $ENV{TICK_INGEST};
my $seed = $ENV{TICK_SEED} // int(rand 1_000_000);
my $seconds = $ENV{TICK_SOURCE_SECONDS} // 6.5;
diag("seed $seed (TICK_SEED), $seconds s (TICK_SOURCE_SECONDS)");
srand $seed;
my $rate = 400;
my $trades = int($rate * $seconds);
my $troubled = $trades - 900;  # faults and kills are before, then it is calm
my %kills = $seconds > 7 ? (ingestor => 10, server => 5) : (ingestor => 1, server => 1);
my $dir = PostgreSQL::Test::Utils::tempdir;
my $node = make_node('venues', conf => "log_statement = none\n");
my $database = $node->connstr('postgres');
command_ok([ $ENV{TICK_INGEST}, 'init', '--database', $database ], 'init');
command_ok([ $ENV{TICK_INGEST}, 'init', '--database', $database, '--feed', 'gemini', '--table', 'sparse', '--no-rollups' ],
  'init for ids that are no sequence');
$node->safe_psql('postgres', q{SELECT tick.create_rollup('sparse_1m', 'SELECT exchange, symbol, tick.tumble(ts, ''1 minute'') AS ts,
  sum(qty) AS volume, count(*) AS trades FROM sparse GROUP BY 1, 2, 3')});

my %path = (binance => '', coinbase => '/', kraken => '/v2', okx => '/ws/v5/business', 'coinbase.advanced' => '/', bybit => '/v5/public/spot', 'bybit.linear' => '/v5/public/linear',
  bitstamp => '/', gemini => '/v2/marketdata');
my %exact = map { $_ => 1 } qw(binance coinbase kraken okx coinbase.advanced);
my %exchange = ('coinbase.advanced' => 'advanced');  # Coinbase's ids, but here they are told apart
my $toml = "$dir/tick.toml";
open my $out, '>', $toml or die;
print $out "[feed]\nsymbols = [\"BTCUSDT\"]\n[symbols]\nBTCUSDT = [\"BTC-USDT\", \"XBT/USDT\"]\n[database]\nconninfo = \"$database\"\n";
close $out;

my $fake = launch('fake', $ENV{TICK_INGEST}, 'fake', '--symbols', 'BTCUSDT', '--rate', $rate,
  '--first-id', 1, '--seed', $seed, '--faults', int($troubled / 25) . "/$troubled", '--busy-every', 7, '--ping', 1, '--wait');
my $port = fake_port($fake);
my (%ingest, %starts);
sub start {
  my ($feed) = @_;
  $ingest{$feed} = launch("ingest_${feed}_" . ++$starts{$feed}, $ENV{TICK_INGEST}, 'run', '-c', $toml, '--feed', $feed, '--url',
    "ws://127.0.0.1:$port$path{$feed}", '--table', $exact{$feed} ? 'trades' : 'sparse', '--max-silence', '300ms', '--ping', '80ms',
    '--max-data-silence', '300ms', '--max-stream-silence', '400ms', '--max-frame', 1_000_000, '--repair-interval', '5ms', '--connection', $exchange{$feed} // 'test',
    $exchange{$feed} ? ('--exchange', $exchange{$feed}) : ());
}
start($_) for sort keys %path;
my %in = map { my $e = $exchange{$_} // $_; $_ => ($exact{$_} ? 'trades' : 'sparse') . " WHERE exchange = '$e'" } keys %path;
wait_for($node, "SELECT count(*) > 20 FROM $in{$_}") for sort keys %path;
my @plan = shuffle((map { my $feed = $_; ($feed) x $kills{ingestor} } sort keys %path), ('server') x $kills{server});
my ($begin, $left) = (time, $troubled / $rate - 1);
for my $i (0 .. $#plan) {
  my $moment = $begin + ($i + rand) * $left / @plan;
  while (time < $moment) { select undef, undef, undef, 0.02 }
  if ($plan[$i] eq 'server') {
    crash($node);
  } else {
    finish($ingest{ $plan[$i] }, 'KILL');
    start($plan[$i]);
  }
}
# From here on it is calm: everybody is there, and no fault is left.
my $done = $node->safe_psql('postgres', "SELECT greatest(max(trade_id), $troubled) FROM $in{okx}");
wait_for($node, "SELECT count(*) > 0 FROM $in{okx} AND trade_id > $done");
wait_for($node, "SELECT max(ts) > (SELECT ts FROM $in{okx} AND trade_id > $done ORDER BY trade_id LIMIT 1) FROM $in{$_}") for sort keys %path;
sub breaks {
  my ($feed) = @_;
  return scalar(() = join('', map { slurp("$ENV{TESTLOGDIR}/ingest_${feed}_$_.log") } 1 .. $starts{$feed}) =~ /disconnected/g);
}
my %breaks = map { $_ => breaks($_) } keys %path;
$trades = 300 + $node->safe_psql('postgres', "SELECT max(trade_id) FROM $in{okx}");
for my $feed (sort keys %path) {
  my $whole = $exact{$feed} ? "count(*) FILTER (WHERE trade_id <= $trades) = $trades - min(trade_id) + 1"
    : "max(ts) > (SELECT ts FROM trades WHERE exchange = 'okx' AND trade_id = $trades)";
  ok(eval { wait_for($node, "SELECT $whole FROM $in{$feed}"); 1 }, "$feed: everything came") or diag(slurp($ingest{$feed}{log}));
}
is(finish($ingest{$_}, 'TERM'), 0, "$_ stops cleanly") for sort keys %path;
finish($fake, 'TERM');
my $log = slurp($fake->{log});
diag($log =~ /(faults played:.*)/ ? $1 : 'no fault summary');

for my $feed (sort keys %path) {
  my $id = $feed eq 'bybit.linear' ? '(ts, price, qty)' : 'trade_id';
  my @met = $log =~ /fault (\S+) at trade \d+, client \d+ \(\Q$feed\E\)/g;
  my %met;
  ++$met{$_} for @met;
  cmp_ok(scalar @met, '>', 0, "$feed: met faults");
  my $breaks = breaks($feed);
  my $figures = sprintf '%s: %d faults (%s), killed %d times, %d other disconnects', $feed, scalar @met,
    join(', ', map { "$_ $met{$_}" } sort keys %met), $starts{$feed} - 1, $breaks;
  if ($exact{$feed}) {
    is($node->safe_psql('postgres', "SELECT count(*) - $trades + min(trade_id), count(DISTINCT trade_id) - $trades + min(trade_id), min(trade_id) < 1000
        FROM $in{$feed} AND trade_id <= $trades"), '1|1|t', "$feed: every trade once");
    diag("$figures; $trades sent, " . $node->safe_psql('postgres', "SELECT count(*) FILTER (WHERE trade_id <= $trades) || ' in, from ' || min(trade_id) || ' on' FROM $in{$feed}"));
    next;
  }
  is($node->safe_psql('postgres', "SELECT count(*) - count(DISTINCT trade_id) FROM $in{$feed}"), '0', "$feed: nothing twice");
  is($node->safe_psql('postgres', "SELECT count(*) FROM (SELECT * FROM $in{$feed} AND ts < (SELECT ts FROM $in{okx} AND trade_id = $trades)
      AND ts > (SELECT min(ts) + interval '1 ms' FROM $in{okx})) s LEFT JOIN (SELECT * FROM $in{okx}) t
      ON (date_trunc('milliseconds', s.ts), s.price, s.qty, s.is_buyer_maker) = (t.ts, t.price, t.qty, t.is_buyer_maker)"
      . ($id eq 'trade_id' ? ' AND s.trade_id = t.trade_id' : '') . ' WHERE t.trade_id IS NULL'), '0', "$feed: as OKX tells it");
  my ($runs, $missing) = split /\|/, $node->safe_psql('postgres', "SELECT count(DISTINCT run), count(*) FROM (SELECT trade_id - row_number() OVER (ORDER BY trade_id) AS run
      FROM (SELECT * FROM $in{okx} AND trade_id <= $trades AND ts > (SELECT min(ts) FROM $in{$feed})) t WHERE NOT EXISTS (SELECT FROM $in{$feed} AND sparse.symbol = 'BTCUSDT'
        AND sparse.ts >= t.ts AND sparse.ts < t.ts + interval '1 ms' AND sparse.price = t.price)) m");
  my $lost = grep { /^(gap|bad-json|giant)$/ } @met;
  cmp_ok($runs, '<=', $breaks + $starts{$feed} - 1 + $lost, "$feed: what is missing came while the ingestor was away");
  diag("$figures; $trades sent, " . $node->safe_psql('postgres', "SELECT count(*) FROM $in{$feed} AND ts <= (SELECT max(ts) FROM $in{okx} AND trade_id <= $trades)")
      . " in, $missing missing in $runs runs");
  # A machine that stalls for longer than the watchdogs wait looks like an exchange that does.
  is($breaks == $breaks{$feed} ? $node->safe_psql('postgres', "SELECT count(*) FROM (SELECT * FROM $in{okx} AND trade_id BETWEEN $trades - 200 AND $trades) t
      WHERE NOT EXISTS (SELECT FROM $in{$feed} AND date_trunc('milliseconds', sparse.ts) = t.ts AND sparse.price = t.price)") : 0,
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
