# PostgreSQL is away for a while under 5,000 ticks a second: memory stays bounded, ticks wait on disk, are written in
# their order when it is back, and none is lost; nor when the ingestor is stopped or killed meanwhile.
#
#   TICK_SPOOL_SECONDS  how long it is away (default 4)
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
my $away = $ENV{TICK_SPOOL_SECONDS} || 4;
my $rate = 5_000;
my $ring = 5_000;
my $node = make_node('spool', conf => "log_statement = none\n");
my $database = $node->connstr('postgres');
command_ok([ $ENV{TICK_INGEST}, 'init', '--database', $database ], 'init');
my $sent = "$ENV{TESTLOGDIR}/sent.txt";
my $fake = launch('fake', $ENV{TICK_INGEST}, 'fake', '--symbols', 20, '--rate', $rate, '--seconds', $away + 10, '--wait', '--first-id', 1,
  '--sent', $sent, '--ping', 0.3);
my $port = fake_port($fake);
my $symbols = join ',', map { sprintf 'SYM%03dUSDT', $_ } 0 .. 19;
my $spool = "$ENV{TESTLOGDIR}/spool";
my $runs = 0;

sub start_ingestor {
  return launch('ingest_' . ++$runs, $ENV{TICK_INGEST}, 'run', '--url', "ws://127.0.0.1:$port", '--symbols', $symbols, '--connection', 'spool',
    '--ring', $ring, '--batch-rows', 2000, '--spool', $spool, '--drain', '1s', '--repair-interval', '5ms', '--database', $database);
}

sub spooled {
  my $bytes = 0;
  $bytes += -s $_ // 0 for glob "$spool/*.spool";
  return $bytes;
}

my $ingest = start_ingestor();
wait_for($node, 'SELECT count(*) > 1000 FROM trades');
$node->stop('immediate');
my $down = time;
until_true(60, 'ticks go to the spool', sub { slurp($ingest->{log}) =~ /ticks go to the spool/ && spooled() > 0 });
while (time < $down + $away / 2) { select undef, undef, undef, 0.05 }

# Stopped with the database away: everything it had is on disk, and it says so.
is(finish($ingest, 'TERM'), 0, 'stopped while the database is away: nothing is lost');
like(slurp($ingest->{log}), qr/ticks are in the spool: the next start writes them/, 'and it says where the ticks are');
$ingest = start_ingestor();
until_true(20, 'it is connected again', sub { slurp($ingest->{log}) =~ /connected$/m });
while (time < $down + $away) { select undef, undef, undef, 0.05 }
my ($rss) = slurp("/proc/$ingest->{pid}/status") =~ /^VmHWM:\s+(\d+) kB/m;
diag("spool " . int(spooled() / 1024) . " kB, ingestor's greatest RSS $rss kB");
cmp_ok($rss, '<', 120_000, 'memory is bounded');
$node->start;
wait_for($node, 'SELECT count(*) > 5000 FROM trades');

# A client that is half-open is noticed by the exchange, too.
kill 'STOP', $ingest->{pid};
until_true(30, 'the exchange drops who answers no pings', sub { slurp($fake->{log}) =~ /answers no pings, dropped/ });
kill 'CONT', $ingest->{pid};

until_true(120, 'the fake exchange sends everything', sub { slurp($fake->{log}) =~ /everything sent/ });
my $total = $rate * ($away + 10);
eval { wait_for($node, "SELECT count(*) >= $total FROM trades") };
is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT (symbol, trade_id)) FROM trades'), "$total|$total", 'every tick once');
is($node->safe_psql('postgres', "SELECT count(*) FROM (SELECT symbol FROM trades GROUP BY symbol
    HAVING min(trade_id) <> 1 OR max(trade_id) <> count(*)) s"), '0', 'no gap in any symbol');
is($node->safe_psql('postgres', "SELECT coalesce(position -> 'holes', '{}') FROM tick.feeds WHERE connection = 'spool'"), '{}', 'and none noted');
is(finish($ingest, 'TERM'), 0, 'the ingestor stops cleanly');
is(spooled(), 0, 'the spool is drained');
finish($fake, 'TERM');
# In their order, but for those that came by repair after the restarts.
my $repaired = 0;
$repaired += $_ for map { slurp($_) =~ /: (\d+) trades fetched/g } glob "$ENV{TESTLOGDIR}/ingest_*.log";
my $late = $node->safe_psql('postgres', 'SELECT count(*) FROM (SELECT trade_id < max(trade_id) OVER (PARTITION BY tableoid, symbol
    ORDER BY ctid ROWS UNBOUNDED PRECEDING) AS late FROM trades) t WHERE late');
diag("$late ticks out of order, $repaired repaired");
cmp_ok($late, '<=', $repaired, 'written in their order');
exact($node, 'after the outage');
$node->stop;
stop_all();
done_testing();
