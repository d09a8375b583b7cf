# All exchanges with a WebSocket through the fake one, with faults, kills of each ingestor and of PostgreSQL: every trade is in once.
# Where ids are no sequence that is, but for messages that the exchange left out within a connection (nobody can know) and, with
# Bybit, which tells the newest 60 or 1000 trades only, what it truly no longer tells. Of these two ingestors side by side lose nothing at all.
#
#   TICK_SOURCE_SECONDS  how long (default 6.5)     TICK_SEED  repeats faults and kills
#   TICK_SOURCE_RATE     trades a second (default 400); up to 5, one ingestor may lose nothing of Bybit either: its newest 60 trades of the
#                        one symbol reach back 12 seconds then, and who is mute is left after 2
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use List::Util qw(shuffle sum0);
use Time::HiRes qw(time);

plan skip_all => 'tick-ingest is not built' unless $ENV{TICK_INGEST} && -x $ENV{TICK_INGEST};
my $seed = $ENV{TICK_SEED} // int(rand 1_000_000);
my $seconds = $ENV{TICK_SOURCE_SECONDS} // 6.5;
diag("seed $seed (TICK_SEED), $seconds s (TICK_SOURCE_SECONDS)");
srand $seed;
my $rate = $ENV{TICK_SOURCE_RATE} // 400;
my $trades = int($rate * $seconds);
my $troubled = $trades - int(2.25 * $rate);  # faults and kills are before, then it is calm
my $patience = $rate >= 33 ? 300 : 10_000 / $rate;
my ($silence, $stream_silence) = map { int($_ * $patience) . 'ms' } 1, 4 / 3;
my %history = (bybit => 60, 'bybit.linear' => 1000);  # so many trades
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
  '--first-id', 1, '--seed', $seed, '--faults', int($troubled / ($rate >= 100 ? 25 : 10)) . "/$troubled", '--busy-every', 7, '--ping', 1, '--wait');
my $port = fake_port($fake);
my (%ingest, %starts);
sub start {
  my ($feed) = @_;
  $ingest{$feed} = launch("ingest_${feed}_" . ++$starts{$feed}, $ENV{TICK_INGEST}, 'run', '-c', $toml, '--feed', $feed, '--url',
    "ws://127.0.0.1:$port$path{$feed}", '--table', $exact{$feed} ? 'trades' : 'sparse', '--max-silence', '300ms', '--ping', '80ms',
    '--max-data-silence', $silence, '--max-stream-silence', $stream_silence, '--max-frame', 1_000_000, '--repair-interval', '5ms', '--connection', $exchange{$feed} // 'test',
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
$trades = int(0.75 * $rate) + $node->safe_psql('postgres', "SELECT max(trade_id) FROM $in{okx}");
for my $feed (sort keys %path) {
  my $whole = $exact{$feed} ? "count(*) FILTER (WHERE trade_id <= $trades) = $trades - min(trade_id) + 1"
    : "max(ts) > (SELECT ts FROM trades WHERE exchange = 'okx' AND trade_id = $trades)";
  ok(eval { wait_for($node, "SELECT $whole FROM $in{$feed}"); 1 }, "$feed: everything came") or diag(slurp($ingest{$feed}{log}));
}
# What is not in of a feed whose ids are no sequence, but for what its logs say that the exchange does not tell.
sub missing {
  my ($feed, $spans) = @_;
  my $same = $feed eq 'bybit.linear' ? 'sparse.ts = t.ts AND sparse.price = t.price AND sparse.qty = t.qty' : 'sparse.trade_id = t.trade_id';
  return "FROM (SELECT * FROM $in{okx} AND trade_id <= $trades AND ts > (SELECT min(ts) FROM $in{$feed})) t WHERE NOT EXISTS (SELECT FROM $in{$feed}
      AND sparse.symbol = 'BTCUSDT' AND sparse.ts >= date_trunc('second', t.ts) AND sparse.ts < t.ts + interval '1 ms' AND $same)"
    . join('', map { " AND NOT (t.ts > '$_->[0]' AND t.ts < '$_->[1]')" } @$spans);
}
sub untold {
  my ($feed) = @_;
  return [ grep { defined $_->[0] } map { [ (/^(\S+) .*not tell everything after (\S+), it begins at (\S+)/)[1, 2, 0] ] } grep { /warn.*gap of/ }
      map { split /\n/, slurp("$ENV{TESTLOGDIR}/ingest_${feed}_$_.log") } 1 .. $starts{$feed} ];
}
my (%met, %unsent);
for my $feed (sort keys %path) {
  my @met = slurp($fake->{log}) =~ /fault (\S+) at trade \d+, client \d+ \(\Q$feed\E\)/g;
  $met{$feed} = {};
  ++$met{$feed}{$_} for @met;
  $unsent{$feed} = $met{$feed}{gap} // 0;
  cmp_ok(scalar @met, '>', 0, "$feed: met faults");
  next if $exact{$feed};
  until_true(60, "$feed: nothing is lost", sub { $node->safe_psql('postgres', 'SELECT count(*) ' . missing($feed, untold($feed))) <= $unsent{$feed} });
}
is(finish($ingest{$_}, 'TERM'), 0, "$_ stops cleanly") for sort keys %path;
finish($fake, 'TERM');
my $log = slurp($fake->{log});
diag($log =~ /(faults played:.*)/ ? $1 : 'no fault summary');

for my $feed (sort keys %path) {
  my %kinds = %{ $met{$feed} };
  my $figures = sprintf '%s: %d faults (%s), killed %d times, %d other disconnects', $feed, sum0(values %kinds),
    join(', ', map { "$_ $kinds{$_}" } sort keys %kinds), $starts{$feed} - 1, breaks($feed);
  if ($exact{$feed}) {
    is($node->safe_psql('postgres', "SELECT count(*) - $trades + min(trade_id), count(DISTINCT trade_id) - $trades + min(trade_id), min(trade_id) < 1000
        FROM $in{$feed} AND trade_id <= $trades"), '1|1|t', "$feed: every trade once");
    diag("$figures; $trades sent, " . $node->safe_psql('postgres', "SELECT count(*) FILTER (WHERE trade_id <= $trades) || ' in, from ' || min(trade_id) || ' on' FROM $in{$feed}"));
    next;
  }
  is($node->safe_psql('postgres', "SELECT count(*) - count(DISTINCT trade_id) FROM $in{$feed}"), '0', "$feed: nothing twice");
  is($node->safe_psql('postgres', "SELECT count(*) FROM (SELECT * FROM $in{$feed} AND ts < (SELECT ts FROM $in{okx} AND trade_id = $trades)
      AND ts > (SELECT min(ts) + interval '1 s' FROM $in{okx})) s LEFT JOIN (SELECT * FROM $in{okx}) t
      ON (s.price, s.qty, s.is_buyer_maker) = (t.price, t.qty, t.is_buyer_maker)"
      . ($feed eq 'bybit.linear' ? ' AND s.ts = t.ts' : ' AND s.trade_id = t.trade_id')
      . ($feed eq 'bitstamp' ? " AND t.ts IN (s.ts, date_trunc('milliseconds', s.ts)) OR s.trade_id = t.trade_id AND s.ts = date_trunc('second', t.ts)" : ' AND s.ts = t.ts')
      . ' WHERE t.trade_id IS NULL'), '0', "$feed: as OKX tells it");
  my $untold = untold($feed);
  if (($history{$feed} // 'inf') / $rate >= 12) {
    is(scalar @$untold, 0, "$feed: the exchange tells everything");
  } else {
    my $claims = join ', ', map { "(timestamptz '$_->[1]', timestamptz '$_->[2]')" } @$untold;
    is($claims && $node->safe_psql('postgres', "SELECT count(*) FROM (VALUES $claims) c(begins, said) WHERE said < (SELECT ts FROM $in{okx} AND trade_id = $trades)
        AND (SELECT count(*) FROM $in{okx} AND ts BETWEEN begins AND said) < $history{$feed}") || '0', '0', "$feed: what it is said not to tell is older than what it tells");
  }
  my $logs = join '', map { slurp("$ENV{TESTLOGDIR}/ingest_${feed}_$_.log") } 1 .. $starts{$feed};
  my $fetched = sum0($logs =~ /repair: BTCUSDT after \S+: (\d+) trades fetched/g);
  cmp_ok($fetched, '>', 0, "$feed: missing trades were fetched") if $rate >= 100;  # else Gemini's newest 50, told at once, are enough
  diag("$figures; $trades sent, " . $node->safe_psql('postgres', "SELECT count(*) FROM $in{$feed} AND ts <= (SELECT max(ts) FROM $in{okx} AND trade_id <= $trades)")
      . " in, $fetched fetched; not in: " . $node->safe_psql('postgres', 'SELECT count(*) ' . missing($feed, $untold)) . " of $unsent{$feed} that the exchange left out, "
      . $node->safe_psql('postgres', 'SELECT count(*) ' . missing($feed, [])) . ' with ' . @$untold . ' spans that it no longer tells');
}
# Whoever lost the connection just before the end had no time to ask for what came then.
is($node->safe_psql('postgres', "SELECT count(*) FROM tick.gaps WHERE from_id <= $trades"), '0', 'no gap is left');

# ---- two side by side of each whose ids are no sequence: nothing is missing, neither what Bybit does not tell nor what an exchange left out of a connection
my @sparse = grep { !$exact{$_} } sort keys %path;
my $pairs = side_by_side($node, seed => $seed, rate => 400, symbols => 'BTCUSDT', rounds => $seconds > 7 ? 10 : 2, seconds => $seconds, pairs => { map { $_ => qr/\Q$_\E/ } @sparse },
  options => sub {
    my ($feed, $side, $address) = @_;
    return ('-c', $toml, '--feed', $feed, '--url', "$address$path{$feed}", '--table', 'sparse', '--exchange', "2 $feed");
  });
my $sent = "generate_series($pairs->{first} + 1, $pairs->{last}) t(id)";
my %lost = map { $_ => "SELECT count(*) FROM $sent WHERE id NOT IN (SELECT trade_id FROM sparse WHERE exchange = '2 $_')" } @sparse;
# Folded UUIDs tell no number; what the spot market's ids tell is in both.
$lost{'bybit.linear'} = "SELECT count(*) FROM $sent JOIN sparse s ON s.exchange = '2 bybit' AND s.trade_id = id
  WHERE NOT EXISTS (SELECT FROM sparse l WHERE l.exchange = '2 bybit.linear' AND (l.symbol, l.ts, l.price, l.qty) = (s.symbol, s.ts, s.price, s.qty))";
for my $feed (@sparse) {
  eval { until_true(30, "$feed: all is in", sub { $node->safe_psql('postgres', $lost{$feed}) == 0 }) };
  is($node->safe_psql('postgres', $lost{$feed}), '0', "$feed, two side by side: nothing is missing");
}
is($pairs->{end}->(), '', 'those side by side stop cleanly');
is($node->safe_psql('postgres', "SELECT string_agg(DISTINCT exchange, ' ') FROM (SELECT exchange FROM sparse WHERE exchange LIKE '2 %' GROUP BY exchange, trade_id HAVING count(*) > 1) x"),
  '', 'those side by side: nothing twice');
diag("two side by side: $pairs->{figures}");

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
like(checked($_, 'sparse'), qr/missing trades can be fetched.*\n0 mistakes/s, "check: fits, and the history of $_ answers") for qw(gemini bitstamp bybit bybit.linear);
like(checked('okx', 'trades'), qr/missing trades can be fetched.*\n0 mistakes/s, 'check: history of OKX');
for my $feed ('okx', 'bybit') {
  command_ok([ $ENV{TICK_INGEST}, 'record', '-c', $toml, '--feed', $feed, '--url', "$url$path{$feed}", '--ping', '50ms', '--limit', 60,
      "$dir/$feed" ], "record $feed");
  like(slurp("$dir/$feed"), qr/pong/, "$feed is kept alive in its own words");
}
stop_all();
done_testing();
