# Standard input as a source, with faults in what is piped (lines twice, halves, no JSON, impossible values, endless lines), while
# PostgreSQL is killed under it: nothing is lost, nothing is in twice, all that is no trade is rejected. Beside it an ingestor that
# is killed itself: a pipe cannot be asked again, so the same input is piped again from its beginning until one run sees its end, and
# the table is the same; once more changes nothing.
#
#   TICK_SOURCE_SECONDS  how long (default 3)     TICK_SEED  repeats faults and kills
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use List::Util qw(shuffle);
use POSIX ();
use Time::HiRes qw(time);

plan skip_all => 'tick-ingest is not built' unless $ENV{TICK_INGEST} && -x $ENV{TICK_INGEST};
my $seed = $ENV{TICK_SEED} // int(rand 1_000_000);
my $seconds = $ENV{TICK_SOURCE_SECONDS} // 3;
diag("seed $seed (TICK_SEED), $seconds s (TICK_SOURCE_SECONDS)");
srand $seed;
my %kills = $seconds > 6 ? (ingestor => 10, server => 10) : (ingestor => 2, server => 1);
my $rate = 2000;
my $dir = PostgreSQL::Test::Utils::tempdir;
my $node = make_node('stdin', conf => "log_statement = none\n");
my $database = $node->connstr('postgres');
for my $table (qw(steady again)) {
  command_ok([ $ENV{TICK_INGEST}, 'init', '--database', $database, '--feed', 'http', '--table', $table, '--no-rollups' ], "init $table");
  $node->safe_psql('postgres', "SELECT tick.create_rollup('${table}_1m', 'SELECT symbol, tick.tumble(ts, ''1 minute'') AS ts, sum(qty) AS volume,
    count(*) AS trades FROM $table GROUP BY 1, 2')");
}

# ---- what is piped: trades 1 .. $trades, and among them what is none
my $trades = int($rate * $seconds);
my ($bad, $twice, @lines) = (0, 0);
for my $id (1 .. $trades) {
  my $line = sprintf '{"symbol":"%s","ts":%d,"price":"%.2f","qty":%d,"trade_id":%d}', $id % 3 ? 'A' : 'B', 1_709_294_400_000 + 10 * $id, 100 + $id % 7, 1 + $id % 5, $id;
  push @lines, $line;
  my $fault = int rand 250;
  if ($fault < 2) { push @lines, $line; ++$twice }
  elsif ($fault == 2) { push @lines, substr($line, 0, 10 + rand(length($line) - 20)); ++$bad }
  elsif ($fault == 3) { push @lines, 'no JSON at all'; ++$bad }
  elsif ($fault == 4) { push @lines, $line =~ s/"price":"/"price":"-/r; ++$bad }
  elsif ($fault == 5) { push @lines, '{"symbol":"A","x":"' . ('x' x 40_000) . '"}'; ++$bad }
}
# Writes all lines into a pipe, as fast as time goes by, the last fifth after all kills; ends early when nobody reads.
sub producer {
  my ($fifo) = @_;
  my $pid = fork() // die "fork: $!";
  return $pid if $pid;
  open my $out, '>', $fifo or POSIX::_exit(1);
  my ($begin, $at) = (time, 0);
  while ($at < @lines) {
    my $due = int((time - $begin) / $seconds * @lines);
    $due = $#lines if $due > $#lines;
    $due = int(0.8 * @lines) if $due > 0.8 * @lines && !-e "$dir/calm";
    my $text = join '', map { "$_\n" } @lines[ $at .. $due ];
    while (length $text) {
      my $n = syswrite $out, $text;
      POSIX::_exit(1) unless defined $n;
      substr($text, 0, $n) = '';
    }
    $at = $due + 1 if $due >= $at;
    select undef, undef, undef, 0.01;
  }
  POSIX::_exit(0);
}
my (%ingest, %producer, %starts);
sub start {
  my ($table) = @_;
  my $fifo = "$dir/$table." . ++$starts{$table};
  POSIX::mkfifo($fifo, 0600) or die "mkfifo: $!";
  $ingest{$table} = launch("${table}_$starts{$table}", 'sh', '-c', 'exec "$@" <"$0"', $fifo, $ENV{TICK_INGEST}, 'run', '--feed', 'stdin', '--database', $database,
    '--table', $table, '--max-frame', 20_000, '--ring', 3000, '--batch-rows', 500);
  $producer{$table} = producer($fifo);
}
sub ended {  # how it ends who reads a pipe to its end
  my ($table) = @_;
  waitpid $producer{$table}, 0;
  return finish($ingest{$table}, 0, 120);  # without a signal
}
END { kill 'KILL', values %producer if %producer }

# ---- kills
start($_) for qw(steady again);
wait_for($node, "SELECT count(*) > 20 FROM $_") for qw(steady again);
my @plan = shuffle(('again') x $kills{ingestor}, ('server') x $kills{server});
my ($begin, $step) = (time, $seconds * 0.8 / @plan);
for my $i (0 .. $#plan) {
  my $moment = $begin + ($i + rand) * $step;
  while (time < $moment) { select undef, undef, undef, 0.02 }
  if ($plan[$i] eq 'server') {
    crash($node);
  } else {
    finish($ingest{again}, 'KILL');
    kill 'KILL', $producer{again};
    waitpid $producer{again}, 0;
    start('again');
  }
}
append_to_file("$dir/calm", '');
is(ended($_), 0, "$_: ends with its input") or diag(slurp($ingest{$_}{log})) for qw(steady again);
for my $table (qw(steady again)) {
  is($node->safe_psql('postgres', "SELECT count(*), count(DISTINCT trade_id), min(trade_id), max(trade_id) FROM $table"), "$trades|$trades|1|$trades",
    "$table: nothing is lost, nothing twice");
  is($node->safe_psql('postgres', "SELECT count(*) FROM $table WHERE symbol <> CASE WHEN trade_id % 3 = 0 THEN 'B' ELSE 'A' END OR price <> 100 + trade_id % 7
    OR qty <> 1 + trade_id % 5 OR ts <> timestamptz '2024-03-01 12:00Z' + trade_id * interval '10 ms'"), '0', "$table: as it was piped");
}
my $log = slurp($ingest{steady}{log});
my ($count, $malformed) = $log =~ /stopped: [\d,]+ rows committed, ([\d,]+) lines, [\d,]+ duplicates, ([\d,]+) malformed/;
s/,//g for $count, $malformed;
is($malformed, $bad, 'steady: what is no trade is rejected');
cmp_ok(() = $log =~ /database connection is back/g, '>=', 1, 'steady: lost its database');
diag("$trades trades in " . @lines . " lines, $bad bad, $twice twice; PostgreSQL killed $kills{server} times, ingestor $kills{ingestor} times: "
    . $node->safe_psql('postgres', "SELECT (SELECT count(*) FROM steady) || ' and ' || (SELECT count(*) FROM again) || ' in, 0 lost, 0 twice'"));
start('again');
is(ended('again'), 0, 'piped once more');
like(slurp($ingest{again}{log}), qr/stopped: 0 rows committed/, 'and nothing is new');
exact($node, 'what was piped');
stop_all();
done_testing();
