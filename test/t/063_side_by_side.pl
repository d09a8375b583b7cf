# Two ingestors read one feed into one table, each under its own name, and are killed in turns, without repair: every
# tick is there once as long as either lives.
#
#   TICK_SIDE_SECONDS  length of the load (default 16)     TICK_SIDE_SEED  repeats a run's moments
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

shared_data();
my $seconds = $ENV{TICK_SIDE_SECONDS} || 16;
my $seed = $ENV{TICK_SIDE_SEED} || int(time * 1000) % 1_000_000;
my $rate = 3_000;
srand $seed;
diag("seed $seed");

my $symbols = join ',', map { sprintf 'SYM%03dUSDT', $_ } 0 .. 9;
my ($node, $database, $port, %ingest, $runs);

sub start_ingestor {
  my ($name) = @_;
  $ingest{$name} = launch("ingest_${name}_" . ++$runs, $ENV{TICK_INGEST}, 'run', '--url', "ws://127.0.0.1:$port", '--symbols', $symbols,
    '--connection', $name, '--repair', 'no', '--database', $database);
}

# The last id that this one has committed, of all symbols together.
sub position { return $node->safe_psql('postgres', "SELECT coalesce(sum(v::int8), 0) FROM tick.feeds, jsonb_each_text(position -> 'ids') e(k, v)
  WHERE connection = '$_[0]'") }

# Whether it reads the live feed: it goes on committing.
sub alive {
  my ($name) = @_;
  my $before = position($name);
  until_true(30, "$name writes", sub { position($name) > $before });
}

# The load for so many seconds; of the two, the fewest kills.
sub play {
  my ($seconds) = @_;
  $node = make_node("side_$seconds", conf => "synchronous_commit = on\nlog_statement = none\n");
  $database = $node->connstr('postgres');
  %ingest = ();
  command_ok([ $ENV{TICK_INGEST}, 'init', '--database', $database ], 'init');
  my $fake = launch("fake_$seconds", $ENV{TICK_INGEST}, 'fake', '--symbols', 10, '--rate', $rate, '--seconds', $seconds, '--seed', $seed, '--wait',
    '--first-id', 1);
  $port = fake_port($fake);
  start_ingestor('one');
  until_true(20, 'the first connects', sub { slurp($ingest{one}{log}) =~ /connected$/m });
  start_ingestor('two');
  alive($_) for qw(one two);
  my $sent_all = sub { slurp($fake->{log}) =~ /everything sent/ };
  my %killed = (one => 0, two => 0);
  my $name = 'one';
  while (!$sent_all->()) {
    select undef, undef, undef, rand 0.4;
    finish($ingest{$name}, 'KILL');
    last if $sent_all->();
    ++$killed{$name};
    start_ingestor($name);
    # Only one is ever away.
    eval { until_true(30, "$name is back", sub { $sent_all->() || (slurp($ingest{$name}{log}) =~ /connected$/m && (alive($name), 1)) }) }
      or $sent_all->() or die $@;
    $name = $name eq 'one' ? 'two' : 'one';
  }
  diag("killed $killed{one} and $killed{two} times in $seconds s");
  my $total = $rate * $seconds;
  eval { wait_for($node, "SELECT count(*) >= $total FROM trades") };
  is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT (symbol, trade_id)) FROM trades'), "$total|$total", 'every tick once');
  ok(eval { wait_for($node, 'SELECT count(*) = 0 FROM tick.gaps'); 1 }, 'tick.gaps is empty');
  my ($living) = grep { !defined $ingest{$_}{status} } qw(one two);
  is(finish($ingest{$living}, 'TERM'), 0, 'the one that lives stops cleanly');
  exact($node, 'two ingestors');
  finish($fake, 'TERM');
  $node->stop;
  return $killed{one} < $killed{two} ? $killed{one} : $killed{two};
}

# On a slow machine an ingestor may hardly be back when all has been sent: once more then, for longer.
my $killed = play($seconds);
$killed = play(4 * $seconds) if $killed < 2;
cmp_ok($killed, '>=', 2, 'both were killed under load, again and again');
stop_all();
done_testing();
