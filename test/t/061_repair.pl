# Two real recordings at 20 times their pace through a fake exchange that plays 200 faults of all kinds, while the
# ingestor and PostgreSQL are killed again and again. Every trade is in the table once, no gap is left, rollups exact.
# Where the machine is too slow for 200 faults at that pace, the seed runs again at a quarter of it.
#
#   TICK_FAULT_SEEDS  how many seeds (default 2)     TICK_FAULT_SEED  the first one; repeats a run's faults and kills
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use List::Util qw(shuffle);

my @recordings = shared_data(map { "recordings/binance/spot_btcusdt_$_.gz" } 20240808, 20240809);
my $trades = 19_904;
my $faults = 200;   # really played; some more are planned, for when nobody is connected at the end
my %kills = (ingestor => 20, server => 5);
my $first_seed = $ENV{TICK_FAULT_SEED} || int(time * 1000) % 1_000_000;

# One seed at a pace: how many faults were played, and of how many kinds.
sub play {
  my ($seed, $speed) = @_;
  srand $seed;
  my $node = make_node("repair_${seed}_$speed", conf => "synchronous_commit = on\nlog_statement = none\n");
  my $database = $node->connstr('postgres');
  command_ok([ $ENV{TICK_INGEST}, 'init', '--database', $database ], 'init');
  my $fake = launch("fake_${seed}_$speed", $ENV{TICK_INGEST}, 'fake', '--speed', $speed, '--wait', '--seed', $seed, '--faults',
    int($faults * 1.3) . "/$trades", '--busy-every', 9, '--ping', 1, map { ('--recording', $_) } @recordings);
  my $port = fake_port($fake);
  my $ingestors = 0;
  my $ingest;
  my $start = sub {
    $ingest = launch("ingest_${seed}_${speed}_" . ++$ingestors, $ENV{TICK_INGEST}, 'run', '--url', "ws://127.0.0.1:$port", '--symbols',
      'BTCUSDT', '--connection', 'repair', '--max-silence', '250ms', '--ping', '80ms', '--max-data-silence', '250ms',
      '--max-frame', 1_000_000, '--repair-interval', '5ms', '--database', $database);
  };
  $start->();
  wait_for($node, 'SELECT count(*) > 0 FROM trades');
  my @plan = shuffle map { ($_) x $kills{$_} } sort keys %kills;
  my $step = 600 / $speed * 0.9 / @plan;
  my $begin = time;
  for my $i (0 .. $#plan) {
    my $moment = $begin + ($i + rand) * $step;
    while (time < $moment) { select undef, undef, undef, 0.02 }
    if ($plan[$i] eq 'ingestor') {
      finish($ingest, 'KILL');
      $start->();
    } else {
      $node->stop('immediate');
      $node->start;
    }
  }
  until_true(180, 'the fake exchange sends everything', sub { slurp($fake->{log}) =~ /everything sent/ });
  my $all = eval { wait_for($node, "SELECT count(*) >= $trades FROM trades"); 1 };
  is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT trade_id), min(trade_id), max(trade_id) FROM trades'),
    "$trades|$trades|3735683259|3735703162", "seed $seed: every trade once after " . @plan . ' kills');
  is($node->safe_psql('postgres', "SELECT position -> 'holes' FROM tick.feeds WHERE connection = 'repair'"), '', 'no gap is left');
  ok(eval { wait_for($node, 'SELECT count(*) = 0 FROM tick.gaps'); 1 }, 'tick.gaps is empty');
  is(finish($ingest, 'TERM'), 0, 'the ingestor stops cleanly');
  finish($fake, 'TERM');
  my $log = slurp($fake->{log});
  my ($summary) = $log =~ /(faults played:.*)/;
  diag("seed $seed at $speed times its pace: " . ($summary // 'no summary'));
  my ($played) = $summary =~ /together (\d+);/;
  my @kinds = $summary =~ /([a-z][a-z0-9-]+) \d+,/g;
  like($log, qr/[1-9]\d* REST requests, [1-9]\d* turned away/, 'repair worked against 429s');
  my $logs = join '', map { slurp("$ENV{TESTLOGDIR}/ingest_${seed}_${speed}_$_.log") } 1 .. $ingestors;
  my %seen = map { $_ => scalar(() = $logs =~ /$_/g) } 'code 1001', 'code 1012', 'opening a new connection before', 'no message received for',
    'nothing received for', 'rejected message', 'longer than 1000000 bytes', 'trades fetched';
  diag(join ', ', map { "$_: $seen{$_}" } sort keys %seen);
  is($node->safe_psql('postgres', 'SELECT count(*) > 0 FROM tick.rejected'), 't', 'broken messages are in tick.rejected');
  exact($node, "seed $seed");
  $node->stop;
  return ($played, scalar @kinds);
}

for my $seed ($first_seed .. $first_seed + ($ENV{TICK_FAULT_SEEDS} || 2) - 1) {
  my ($played, $kinds) = play($seed, 20);
  ($played, $kinds) = play($seed, 5) if $played < $faults || $kinds < 14;
  cmp_ok($played, '>=', $faults, "seed $seed: so many faults were really played");
  is($kinds, 14, "seed $seed: of all kinds");
}
stop_all();
done_testing();
