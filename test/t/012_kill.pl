# 20,000 ticks a second into three rollups while the writer's backend, the worker, the postmaster and the ingestor are
# killed with SIGKILL at random moments. Afterwards: what was committed is there once, what was never committed is
# listed, and the rollups are exact.
#
#   TICK_KILL_SECONDS  length of the load (default 30, at least 20)     TICK_KILL_SEED  repeats a run's moments and order
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use List::Util qw(max shuffle);

shared_data();
my $seconds = $ENV{TICK_KILL_SECONDS} || 30;
my $seed = $ENV{TICK_KILL_SEED} || int(time * 1000) % 1_000_000_000;
my $rate = 20_000;
my @kinds = qw(backend worker postmaster ingestor);
my $rounds = max(3, int($seconds / 10));
srand $seed;
my @plan = map { shuffle @kinds } 1 .. $rounds;
diag("seed $seed, $seconds s, " . @plan . ' kills');

# fsync stays off as in every test: a killed process loses nothing that it has handed to the kernel.
my $node = make_node('kill', conf => "synchronous_commit = on\nlog_statement = none\nmax_wal_size = 1GB\n");
my $database = $node->connstr('postgres');
command_ok([ $ENV{TICK_INGEST}, 'init', '--database', $database ], 'init');
is($node->safe_psql('postgres', 'SELECT count(*) FROM tick.status'), '3', 'three rollups');

# ---- the processes

# A postmaster that pg_ctl has started stays behind as a zombie when it is killed: this one is our own child.
my $server;
my $servers = 0;
$node->stop;

sub start_server {
  until_true(60, 'the server takes connections', sub {
    if ($server && waitpid($server->{pid}, POSIX::WNOHANG()) != 0) {
      undef $server;    # the processes of the one before still hold its memory
    }
    $server //= launch('server_' . ++$servers, "$ENV{TICK_BINDIR}/postgres", '-D', $node->data_dir);
    return defined ask('SELECT 1');
  });
}

# The answer to a query, or undef when there is no server to ask.
sub ask {
  my ($sql) = @_;
  my ($out, $err);
  IPC::Run::run([ 'psql', '-XAtq', '-d', "$database connect_timeout=5", '-v', 'ON_ERROR_STOP=1', '-c', $sql ],
    '<', \'', '>', \$out, '2>', \$err) or return undef;
  chomp $out;
  return $out;
}

my $fake;
my $ingest;
my $ingestors = 0;

sub start_ingestor {
  local $ENV{PGAPPNAME} = 'tick-ingest';
  $ingest = launch('ingest_' . ++$ingestors, $ENV{TICK_INGEST}, 'run', '--url', 'ws://127.0.0.1:' . fake_port($fake),
    '--symbols', join(',', map { sprintf 'SYM%03dUSDT', $_ } 0 .. 199), '--connection', 'kill', '--repair', 'no', '--database', $database);
}

# A writer whose commits we see return: single rows through psql, each id printed when its COMMIT is confirmed.
my @writers;

my $script = "$ENV{TESTLOGDIR}/writer.sql";
open my $out, '>', $script or die "$script: $!";
print $out map { "SELECT pg_sleep(0.005) \\g /dev/null\n"
    . 'INSERT INTO trades (exchange, symbol, ts, price, qty, trade_id) VALUES'
    . " ('acknowledged', 'ACK', now(), $_, 1, :base + $_) RETURNING trade_id;\n" } 1 .. 200 * $seconds;
close $out;

sub keep_writing {
  if (@writers) {
    return if $writers[-1]{begun} > time - 0.3 || waitpid($writers[-1]{pid}, POSIX::WNOHANG()) == 0;
    $writers[-1]{status} = $?;
  }
  push @writers, launch('writer_' . @writers, 'psql', '-XAtq', '-d', $database, '-v', 'ON_ERROR_STOP=1',
    '-v', 'base=' . @writers * 1_000_000, '-f', $script);
  $writers[-1]{begun} = time;
}

# ---- the load and the kills

start_server();
$fake = launch('fake', $ENV{TICK_INGEST}, 'fake', '--symbols', 200, '--rate', $rate, '--seconds', $seconds, '--seed', $seed,
  '--wait', '--sent', "$ENV{TESTLOGDIR}/sent.txt");
start_ingestor();

my %sql = (
  backend => "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name = 'tick-ingest'",
  worker  => "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_tick worker' AND datname = current_database()",
);
my %killed = map { $_ => 0 } @kinds;
my @samples;
my $kills_under_load = 0;
my $sent_all = sub { slurp($fake->{log}) =~ /everything sent/ };

until_true(30, 'ticks arrive', sub { (ask('SELECT EXISTS (SELECT FROM trades)') // '') eq 't' });
my $start = time;
my $step = ($seconds - 8) / @plan;  # on a slow machine the last kills come seconds late
for my $i (0 .. $#plan) {
  my $kind = $plan[$i];
  my $moment = $start + ($i + 0.1 + rand 0.9) * $step;
  while (time < $moment) {
    keep_writing();
    select undef, undef, undef, max(0, $moment - time) > 0.05 ? 0.05 : max(0, $moment - time);
  }
  # What everybody could see before the kill. Ids of a symbol are committed in ascending order, so the rows up to the
  # greatest one must never change again.
  my $seen = $i % 4 != 3 ? undef
    : ask("SELECT symbol, count(*), sum(trade_id), max(trade_id) FROM trades WHERE symbol <> 'ACK' GROUP BY 1");
  push @samples, $seen if $seen;

  if ($kind eq 'ingestor') {
    kill 'KILL', $ingest->{pid};
    is(finish($ingest, 'KILL') & 127, 9, "kill $i: ingestor");
    start_ingestor();
  } elsif ($kind eq 'postmaster') {
    is(finish($server, 'KILL') & 127, 9, "kill $i: postmaster");
    undef $server;
    start_server();
  } else {
    my $pid = until_true(60, "there is a $kind", sub { ask($sql{$kind}) });
    ok(kill('KILL', (split /\n/, $pid)[0]), "kill $i: $kind");
  }
  ++$killed{$kind};
  ++$kills_under_load unless $sent_all->();
}
cmp_ok($kills_under_load, '>=', 12, "$kills_under_load kills under load (" . join(', ', map { "$_ $killed{$_}" } @kinds) . ')');
is((grep { $killed{$_} < 2 } @kinds), 0, 'each kind at least twice');

while (!$sent_all->()) {
  keep_writing();
  die 'the fake exchange does not end' if time > $start + $seconds + 120;
  select undef, undef, undef, 0.1;
}
start_server();

# ---- the end: everything the ingestor received is committed, then all stop

$node->safe_psql('postgres', qq{
  CREATE TABLE sent_lines (line int8 GENERATED ALWAYS AS IDENTITY, symbol text, id int8, receivers int);
  COPY sent_lines (symbol, id, receivers) FROM '$ENV{TESTLOGDIR}/sent.txt' (DELIMITER ' ');
  ANALYZE sent_lines});
is($node->safe_psql('postgres', 'SELECT count(*) FROM sent_lines'), $rate * $seconds, 'the fake exchange sent what it should');
my $behind = q{SELECT count(*) FROM (SELECT symbol, max(id) AS id FROM sent_lines WHERE receivers > 0 GROUP BY 1) s
  WHERE id > coalesce((tick.position('binance', 'kill') -> 'ids' ->> symbol)::int8, 0)};
my $caught_up = eval { until_true(90, 'the last ticks', sub { (ask($behind) // '') eq '0' }) };
ok($caught_up, 'the last ticks are committed') or diag('symbols behind: ' . (ask($behind) // 'no answer'));
is(finish($ingest, 'TERM'), 0, 'the ingestor stops cleanly');
finish($fake, 'TERM');
my @acknowledged;
for my $writer (@writers) {
  finish($writer, 'TERM');
  push @acknowledged, grep { /^\d+$/ } split /\n/, slurp($writer->{log});
}

# ---- what is in the table

is($node->safe_psql('postgres', 'SELECT count(*) FROM (SELECT FROM trades GROUP BY exchange, symbol, trade_id HAVING count(*) > 1) d'),
  '0', 'no (symbol, trade_id) twice');
is($node->safe_psql('postgres', "SELECT count(*) FROM trades t WHERE exchange = 'binance'
    AND NOT EXISTS (SELECT FROM sent_lines s WHERE (s.symbol, s.id) = (t.symbol, t.trade_id))"), '0', 'nothing that was not sent');

$node->safe_psql('postgres', q{
  CREATE TABLE never_committed AS SELECT line, symbol, id, receivers FROM sent_lines s
    WHERE NOT EXISTS (SELECT FROM trades t WHERE t.exchange = 'binance' AND (t.symbol, t.trade_id) = (s.symbol, s.id))});
my ($never, $undelivered) = split /\|/,
  $node->safe_psql('postgres', 'SELECT count(*), count(*) FILTER (WHERE receivers = 0) FROM never_committed');
my $list = "$ENV{TESTLOGDIR}/never_committed.txt";
$node->safe_psql('postgres', "COPY (SELECT symbol, id FROM never_committed ORDER BY line) TO '$list'");
is(() = slurp($list) =~ /\n/g, $never, 'the ticks never committed are listed');
diag('sent ' . $rate * $seconds . ", committed " . ($rate * $seconds - $never) . ", never committed $never"
  . " ($undelivered while no ingestor was connected, " . ($never - $undelivered) . ' in the memory of a killed one)');

# A living ingestor loses nothing, whatever happens to the server: per symbol the missing ids are one run for each
# kill of an ingestor, at most.
is($node->safe_psql('postgres', "SELECT count(*) FROM (
    SELECT symbol FROM (SELECT symbol, missing AND NOT coalesce(lag(missing) OVER (PARTITION BY symbol ORDER BY id), false) AS begins
      FROM (SELECT s.symbol, s.id, n.id IS NOT NULL AS missing FROM sent_lines s LEFT JOIN never_committed n USING (symbol, id)) m) r
    GROUP BY symbol HAVING count(*) FILTER (WHERE begins) > $killed{ingestor}) t"), '0', 'ticks are lost by kills of the ingestor only');
is($node->safe_psql('postgres', "SELECT count(*) FROM (SELECT symbol, max(id) AS id FROM sent_lines WHERE receivers > 0 GROUP BY 1) s
    JOIN never_committed n USING (symbol, id)"), '0', 'the last tick of each symbol is there');

# Batches that the ingestor was told to be committed are checked by itself whenever it comes back to the database.
my $logs = join '', map { slurp("$ENV{TESTLOGDIR}/ingest_$_.log") } 1 .. $ingestors;
unlike($logs, qr/the database lost|another session wrote|has vanished/, 'no confirmed batch was lost');
my ($in, $not_in) = map { scalar(() = $logs =~ /$_/g) } qr/was committed before the connection broke/, qr/was not committed, sending it again/;
note("batches in doubt: $in were in, $not_in were not; database reconnects: " . (() = $logs =~ /database connection is back/g));

my $lost = 0;
for my $seen (@samples) {
  $seen =~ tr/|/\t/;
  $lost += $node->safe_psql('postgres', "CREATE TEMP TABLE seen (symbol text, n int8, total numeric, last int8);\n"
    . "COPY seen FROM STDIN;\n$seen\n\\.\n" . 'ANALYZE seen; SELECT count(*) FROM (SELECT symbol, n, total FROM seen EXCEPT
      SELECT symbol, count(*), sum(trade_id) FROM seen JOIN trades USING (symbol) WHERE trade_id <= last GROUP BY symbol) d');
}
cmp_ok(scalar @samples, '>', 0, 'looked at the table during the load');
is($lost, 0, 'what was once visible is there for good');

# The other writer: confirmed ids are there; besides them at most the one whose answer was cut off, per connection.
cmp_ok(scalar @acknowledged, '>', 10 * $seconds, scalar(@acknowledged) . ' single-row commits were confirmed to another writer');
$node->safe_psql('postgres', "CREATE TABLE acknowledged (id int8); COPY acknowledged FROM STDIN;\n"
  . join("\n", @acknowledged) . "\n\\.\nANALYZE acknowledged;\n");
is($node->safe_psql('postgres', "SELECT count(*) FROM (SELECT FROM acknowledged a LEFT JOIN trades t ON t.symbol = 'ACK' AND t.trade_id = a.id
    GROUP BY a.id HAVING count(t.trade_id) <> 1) d"), '0', 'each confirmed row is there exactly once');
is($node->safe_psql('postgres', "SELECT count(*) FROM trades t WHERE symbol = 'ACK' AND trade_id NOT IN (SELECT id FROM acknowledged)
    AND trade_id <> 1 + coalesce((SELECT max(id) FROM acknowledged WHERE id < t.trade_id), 0) AND trade_id % 1000000 <> 1"), '0',
  'nothing else but rows in doubt');

exact($node, 'three rollups after ' . @plan . ' kills');
is($node->safe_psql('postgres', "SELECT count(*) FROM latest_price l FULL JOIN
    (SELECT exchange, symbol, (array_agg(price ORDER BY ts DESC, trade_id DESC, price DESC))[1] AS price,
       max(ts) AS last_ts, count(*) AS trades FROM trades GROUP BY 1, 2) e USING (exchange, symbol)
    WHERE (l.price, l.last_ts, l.trades) IS DISTINCT FROM (e.price, e.last_ts, e.trades)"), '0', 'latest price by built-ins');

is(finish($server, 'INT', 60), 0, 'the server shuts down');
done_testing();
