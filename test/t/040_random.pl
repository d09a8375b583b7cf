# The random test: a seeded mix of everything that may be done to a source, by four concurrent writers of all isolation
# levels, while worker, backends and postmaster are killed; at each of 200 quiet points every rollup equals an oracle of
# built-ins. The driver (test/random) does it; here are the clusters, several at once, and the verdicts.
#
#   RANDOM_SEEDS       how many seeds; default 20, of which all but 8 only if they begin within 600 s
#   RANDOM_FIRST       the first of them (default 1)
#   SEED               this one alone                   RANDOM_OPERATIONS  a seed's operations (default 10000)
#   RANDOM_AT_ONCE     clusters at once (default: one more than cores)
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $driver = $ENV{TICK_RANDOM};
plan skip_all => 'the driver is not built' unless $driver && -x $driver;
my $first = $ENV{RANDOM_FIRST} || 1;
my @seeds = $ENV{SEED} ? ($ENV{SEED}) : ($first .. $first + ($ENV{RANDOM_SEEDS} || 20) - 1);
my ($seconds, $least) = $ENV{RANDOM_SEEDS} ? (9**9, 0) : (600, 8);
my $operations = $ENV{RANDOM_OPERATIONS} || 10_000;
my $cores = () = slurp('/proc/cpuinfo') =~ /^processor\s*:/mg;
my $at_once = $ENV{RANDOM_AT_ONCE} || $cores + 1;

my $template = make_node('template');
$template->stop;

my %running;    # pid -> the run of a seed
my $begun = time;
while (@seeds || %running) {
  if (@seeds && time - $begun > $seconds && $seeds[0] >= $first + $least) {
    diag('too slow a machine for seeds from ' . $seeds[0] . ' on');
    @seeds = ();
    next;
  }
  while (@seeds && keys %running < $at_once) {
    my $seed = shift @seeds;
    my $data = $template->basedir . "/seed_$seed";
    system('cp', '-a', $template->data_dir, $data) == 0 or die "cp: $?";
    my $process = launch("seed_$seed", $driver, $seed, $data, PostgreSQL::Test::Utils::tempdir_short(), $operations);
    $running{ $process->{pid} } = { %$process, seed => $seed, data => $data };
  }
  my $pid = any_ended();
  my $status = $?;
  my $run = delete $running{$pid} or next;
  my $output = slurp($run->{log});
  my ($verdict) = $output =~ /\n(seed \d+ [^\n]*)\n?\z/;
  ok($status == 0, $verdict // "seed $run->{seed}: $output");
  note($output);
  if ($status == 0) {
    system('rm', '-rf', $run->{data});
  } else {
    diag("repeat with SEED=$run->{seed}; every statement is in $run->{data}/statements.log\n$output");
  }
}
diag(sprintf '%d seeds in %.0f s, %d at once', Test::More->builder->current_test, time - $begun, $at_once);
done_testing();
