# Yahoo's streamer through the fake exchange in both framings, with faults and kills of ingestors and PostgreSQL: nothing is in twice, everything in is what was
# sent, no volume counts twice. Yahoo keeps no history: of two ingestors side by side either may be killed, at any time, and nothing is missing.
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
my ($rate, $kills) = (300, $seconds > 6 ? 10 : 2);
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
  $node->safe_psql('postgres', "CREATE TABLE $table (symbol text, volume int8, number int8); INSERT INTO $table VALUES " . join ',', @rows);
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

# ---- two side by side, one in each framing: every four seconds one meets a fault, and then the other is killed
my @kinds = qw(drop mute half-open close-1001 no-pong bad-json close-1006 giant shutdown reorder duplicate slow close-1012);
my $pair = launch('pair', $ENV{TICK_INGEST}, 'fake', '--symbols', 'AAPL,BTC-USD,NVDA', '--rate', 100, '--first-id', 1, '--seed', $seed, '--ping', 1,
  '--wait', '--sent', my $pair_sent = PostgreSQL::Test::Utils::tempdir . '/pair', map { ('--fault', "$kinds[$_ % @kinds]@" . 400 * ($_ + 1)) } 0 .. $kills);
my $pair_url = 'ws://127.0.0.1:' . fake_port($pair);
my %side = (a => "$pair_url/", b => "$pair_url/?version=2");
sub side {
  return run('pair', $side{ $_[0] }, '--max-silence', '1500ms', '--ping', '400ms', '--max-data-silence', '1500ms', '--max-frame', 1_000_000, '--connection', $_[0]);
}
my %twin = map { $_ => side($_) } sort keys %side;
# Both listen, and what either has heard until now is in the table. Returns the time of the newest price there.
sub both_are_there {
  my $now = $node->safe_psql('postgres', 'SELECT clock_timestamp()');
  wait_for($node, "SELECT count(*) = 2 FROM tick.feeds WHERE connection IN ('a', 'b') AND updated_at > '$now'");
  return $node->safe_psql('postgres', "SELECT max(ts) FROM quotes WHERE exchange = 'pair'");
}
sub faults_met { return slurp($pair->{log}) =~ /fault \S+ at trade (\d+)/g }
my $first = both_are_there();
my @alone;  # the trades around a fault that one met while the other was dead: nobody may have listened
for my $n (1 .. $kills) {
  until_true(60, "fault $n", sub { (() = faults_met()) >= $n });
  both_are_there();
  my $met = () = faults_met();
  my $victim = $n % 2 ? 'a' : 'b';
  finish($twin{$victim}, 'KILL');
  crash($node) if $n % 3 == 0;
  $twin{$victim} = side($victim);
  both_are_there();
  my @faults = faults_met();
  push @alone, map { "AND number NOT BETWEEN $_ - 200 AND $_ + 600" } splice @faults, $met;
}
my $last = both_are_there();
both_are_there();
finish($pair, 'TERM');
is(finish($twin{$_}, 'TERM'), 0, "$_ of two side by side stops cleanly") for sort keys %twin;
truth('paired', $pair_sent);
my $within = "FROM quotes WHERE exchange = 'pair'";
is($node->safe_psql('postgres', "SELECT count(*) - count(DISTINCT (symbol, trade_id)) $within"), '0', 'two side by side: nothing twice');
is($node->safe_psql('postgres', "SELECT count(*) FROM (SELECT symbol, min(trade_id) AS a, max(trade_id) AS b $within AND ts BETWEEN '$first' AND '$last' GROUP BY 1) w
    JOIN paired p ON p.symbol = w.symbol AND volume BETWEEN a AND b @alone LEFT JOIN (SELECT symbol, trade_id $within) q ON q.symbol = p.symbol AND trade_id = volume WHERE trade_id IS NULL"),
  '0', 'two side by side: nothing is missing');
diag("two side by side, killed $kills times, " . (() = faults_met()) . ' faults: ' . $node->safe_psql('postgres', "SELECT count(*) $within AND ts BETWEEN '$first' AND '$last'")
  . ' prices, none missing; faults while the other was dead: ' . @alone);

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
