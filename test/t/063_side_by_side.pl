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

my $node = make_node('side', conf => "synchronous_commit = on\nlog_statement = none\n");
my $database = $node->connstr('postgres');
command_ok([ $ENV{TICK_INGEST}, 'init', '--database', $database ], 'init');
my $fake = launch('fake', $ENV{TICK_INGEST}, 'fake', '--symbols', 10, '--rate', $rate, '--seconds', $seconds, '--seed', $seed, '--wait',
  '--first-id', 1);
my $port = fake_port($fake);
my $symbols = join ',', map { sprintf 'SYM%03dUSDT', $_ } 0 .. 9;
my (%ingest, $runs);

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
cmp_ok($killed{$_}, '>=', 2, "$_ was killed $killed{$_} times under load") for qw(one two);
my $total = $rate * $seconds;
eval { wait_for($node, "SELECT count(*) >= $total FROM trades") };
is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT (symbol, trade_id)) FROM trades'), "$total|$total", 'every tick once');
ok(eval { wait_for($node, 'SELECT count(*) = 0 FROM tick.gaps'); 1 }, 'tick.gaps is empty');
my ($living) = grep { !defined $ingest{$_}{status} } qw(one two);
is(finish($ingest{$living}, 'TERM'), 0, 'the one that lives stops cleanly');
exact($node, 'two ingestors');
finish($fake, 'TERM');
$node->stop;
stop_all();
done_testing();
