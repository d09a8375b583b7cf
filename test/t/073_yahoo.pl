# Yahoo's streamer through the fake exchange in both framings, with faults and kills of ingestors and PostgreSQL: nothing is in twice, everything in is what was
# sent, no volume counts twice. Yahoo keeps no history: of two ingestors side by side either may be killed or meet a fault while the other is well, and nothing is missing.
# A source that falls silent ends the ingestor when told so; when it goes on, nothing is missing.
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
my $seconds = $ENV{TICK_SOURCE_SECONDS} // 6;
diag("seed $seed (TICK_SEED), $seconds s (TICK_SOURCE_SECONDS)");
my ($rate, $kills) = (300, $seconds < 12 ? 2 : $seconds > 60 ? 10 : int($seconds / 6));
my $trades = $rate * $seconds;
my $node = make_node('yahoo');
my $database = $node->connstr('postgres');
command_ok([ $ENV{TICK_INGEST}, 'init', '--database', $database, '--feed', 'yahoo', '--table', 'quotes', '--no-rollups' ], 'init');
$node->safe_psql('postgres', q{SELECT tick.create_rollup('quotes_5m', 'SELECT exchange, symbol, tick.tumble(ts, ''5 minutes'') AS ts,
  avg(price) AS price, tick.last(price, ts, trade_id) AS close, sum(qty) AS volume, count(*) AS n FROM quotes GROUP BY 1, 2, 3')});
my %starts;
sub run {
  my ($name, $url, @more) = @_;
  return launch("${name}_" . ++$starts{$name}, $ENV{TICK_INGEST}, 'run', '--feed', 'yahoo', '--exchange', $name,
    (grep { $_ eq '--connection' } @more) ? () : ('--connection', $name), '--url', $url,
    '--symbols', 'AAPL,BTC-USD', '--table', 'quotes', '--database', $database, @more);
}

# ---- a source that falls silent: the ingestor ends (looked at below)
my $steady = launch('steady', $ENV{TICK_INGEST}, 'fake', '--symbols', 'AAPL,BTC-USD', '--rate', 50, '--seed', $seed, '--ping', 0,
  '--first-id', 1, '--sent', my $steady_sent = PostgreSQL::Test::Utils::tempdir . '/steady');
my $steady_url = 'ws://127.0.0.1:' . fake_port($steady) . '/?version=2';
my $idle = run('idle', $steady_url, '--stop-when-idle', '6s');
wait_for($node, "SELECT count(*) > 20 FROM quotes WHERE exchange = 'idle'");
kill 'STOP', $steady->{pid};

# ---- faults and kills
my $sent = PostgreSQL::Test::Utils::tempdir . '/sent';
my $fake = launch('fake', $ENV{TICK_INGEST}, 'fake', '--symbols', 'AAPL,BTC-USD,NVDA', '--rate', $rate, '--seconds', $seconds, '--first-id', 1,
  '--seed', $seed, '--faults', int($trades / 40) . '/' . int($trades * 0.6), '--ping', 1, '--wait', '--sent', $sent);
my $base = 'ws://127.0.0.1:' . fake_port($fake);
my %url = (bare => "$base/", json => "$base/?version=2");
my @patience = ('--max-silence', '300ms', '--ping', '80ms', '--max-data-silence', '300ms', '--max-frame', 1_000_000);
my %ingest = map { $_ => run($_, $url{$_}, @patience) } sort keys %url;
for my $n (1 .. $kills) {
  for my $name (sort keys %url) {
    wait_for($node, "SELECT coalesce(sum(1), 0) > " . int($n * $trades * 0.3 / ($kills + 1)) . " FROM quotes WHERE exchange = '$name'");
    finish($ingest{$name}, 'KILL');
    $ingest{$name} = run($name, $url{$name}, @patience);
  }
  crash($node) if $n % 2 == 0;
}
until_true(120 + $seconds, 'the fake exchange has sent all', sub { slurp($fake->{log}) =~ /everything sent/ });
# What was sent, by the day's volume that tells a trade, and in its order.
sub truth {
  my ($table, $file) = @_;
  my (%volume, @rows);
  my $number = 0;
  for (slurp($file) =~ /^(\S+ \d+) \d+$/mg) {
    my ($symbol, $id) = split / /;
    $volume{$symbol} += 1 + $id % 100;
    ++$number;
    push @rows, "('$symbol', $volume{$symbol}, $number)" unless $symbol eq 'NVDA';
  }
  $node->safe_psql('postgres', "DROP TABLE IF EXISTS $table; CREATE TABLE $table (symbol text, volume int8, number int8); INSERT INTO $table VALUES " . join ',', @rows);
  return scalar @rows;
}
my $told = truth('truth', $sent);
for my $name (sort keys %url) {
  my $rows = "FROM quotes WHERE exchange = '$name'";
  is(finish($ingest{$name}, 'TERM'), 0, "$name: stops cleanly");
  is($node->safe_psql('postgres', "SELECT count(*) - count(DISTINCT (symbol, trade_id)) $rows"), '0', "$name: nothing twice");
  is($node->safe_psql('postgres', "SELECT count(*) FROM (SELECT symbol, trade_id $rows EXCEPT SELECT symbol, volume FROM truth) x"), '0',
    "$name: nothing that was not sent");
  is($node->safe_psql('postgres', "SELECT string_agg(DISTINCT symbol, ' ' ORDER BY symbol), bool_and(price = price::float4::text::float8) $rows"),
    'AAPL BTC-USD|t', "$name: symbols, and prices as they were meant");
  is($node->safe_psql('postgres', "SELECT bool_and(s <= w) FROM (SELECT sum(qty) AS s, max(trade_id) - min(trade_id) AS w $rows GROUP BY symbol) x"), 't',
    "$name: no volume is counted twice");
  diag("$name: " . $node->safe_psql('postgres', "SELECT count(*) $rows") . " of $told prices in; the others came while nobody was connected");
  my ($duplicates) = slurp($ingest{$name}{log}) =~ /stopped:.* ([0-9,]+) duplicates/;
  isnt($duplicates // 0, '0', "$name: prices that were told again were left out");
}
finish($fake, 'TERM');
my ($faults) = slurp($fake->{log}) =~ /(faults played:.*)/;
diag($faults // 'no fault summary');
like($faults // '', qr/together [1-9]/, 'faults were played');

# ---- two side by side, one in each framing
my $pair = side_by_side($node, seed => $seed, rate => 100, symbols => 'AAPL,BTC-USD,NVDA', rounds => $kills, seconds => $seconds, pairs => { yahoo => qr/yahoo\S*/ }, options => sub {
  my ($name, $side, $address) = @_;
  return ('--feed', $name, '--exchange', 'pair', '--url', $address . ($side eq 'a' ? '/' : '/?version=2'), '--symbols', 'AAPL,BTC-USD',
    '--table', 'quotes', '--database', $database);
});
my $missing = sub {
  truth('paired', $pair->{sent});
  return $node->safe_psql('postgres', "SELECT count(*) FROM paired p LEFT JOIN (SELECT symbol, trade_id FROM quotes WHERE exchange = 'pair') q
    ON q.symbol = p.symbol AND trade_id = volume WHERE number > $pair->{first} AND number <= $pair->{last} AND trade_id IS NULL");
};
eval { until_true(30, 'two side by side: all is in', sub { $missing->() == 0 }) };
is($pair->{end}->(), '', 'two side by side stop cleanly');
is($node->safe_psql('postgres', "SELECT count(*) - count(DISTINCT (symbol, trade_id)) FROM quotes WHERE exchange = 'pair'"), '0', 'two side by side: nothing twice');
is($missing->(), '0', 'two side by side: nothing is missing');
diag("two side by side: $pair->{figures}");

# ---- silence, and what comes after
until_true(60, 'the ingestor has ended by itself', sub { waitpid($idle->{pid}, POSIX::WNOHANG()) == $idle->{pid} });
is($?, 0, 'idle: ended by itself, cleanly');
like(slurp($idle->{log}), qr/no trade for feed.stop_when_idle.*stopped: [1-9]/s, 'and says why');
my $old = $node->safe_psql('postgres', "SELECT max(ts) FROM quotes WHERE exchange = 'idle'");
kill 'CONT', $steady->{pid};
my %steady = (idle => run('idle', $steady_url), plain => run('plain', $steady_url =~ s/\?.*//r));
my $new = "FROM quotes WHERE ts > '$old' AND exchange =";
for my $name (sort keys %steady) {
  ok(eval { wait_for($node, "SELECT count(*) > 60 $new '$name'"); 1 }, "$name: goes on") or diag(slurp($steady{$name}{log}));
  is(finish($steady{$name}, 'TERM'), 0, "$name: stops cleanly");
}
truth('steadily', $steady_sent);
for my $name (sort keys %steady) {
  is($node->safe_psql('postgres', "SELECT count(*) FROM (SELECT symbol, min(trade_id) AS a, max(trade_id) AS b $new '$name' GROUP BY 1) w
      JOIN steadily s ON s.symbol = w.symbol AND volume BETWEEN a AND b
      LEFT JOIN (SELECT symbol, trade_id $new '$name') q ON q.symbol = s.symbol AND trade_id = volume WHERE trade_id IS NULL"), '0', "$name: nothing is missing");
  is($node->safe_psql('postgres', "SELECT count(*) FILTER (WHERE qty <> grown), count(qty) > 40 FROM (SELECT qty, trade_id - lag(trade_id)
      OVER (PARTITION BY symbol ORDER BY trade_id) AS grown $new '$name') x"), '0|t', "$name: quantities are what the day's volume grew by");
}
command_like([ $ENV{TICK_INGEST}, 'check', '--feed', 'yahoo', '--url', $steady_url, '--symbols', 'AAPL', '--table', 'quotes', '--database', $database ],
  qr/a trade came.*\n0 mistakes/s, 'check');
is($node->safe_psql('postgres', "SELECT count(*) - count(DISTINCT (symbol, trade_id)) FROM quotes WHERE exchange = 'idle'"), '0', 'nothing twice');
exact($node, 'five minutes of both, and of what was silent');
stop_all();
done_testing();
