# What the people who run it see and do: /metrics, /healthz, /status and the verb, symbols that come and go on SIGHUP,
# connections replaced before their time without a gap, a mute symbol noticed, and next to no CPU while nothing flows.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use IO::Socket::INET;
use Time::HiRes qw(time);

shared_data();
my $dir = $ENV{TESTLOGDIR};
my $node = make_node('operations');
my $database = $node->connstr('postgres');
command_ok([ $ENV{TICK_INGEST}, 'init', '--database', $database ], 'init');
my $fake = launch('fake', $ENV{TICK_INGEST}, 'fake', '--symbols', 'BTCUSDT,ETHUSDT', '--rate', 200, '--first-id', 1);
my $port = fake_port($fake);
my $listen = '127.0.0.1:' . PostgreSQL::Test::Cluster::get_free_port();

sub write_config {
  my ($symbols, $more) = @_;
  open my $out, '>', "$dir/tick.toml" or die;
  print $out "[feed]\nurl = \"ws://127.0.0.1:$port\"\nsymbols = [$symbols]\nconnection = \"ops\"\n", $more // '',
    "[database]\nconninfo = \"$database password=verysecret\"\n[metrics]\nlisten = \"$listen\"\n[repair]\ninterval = \"5ms\"\n";
  close $out;
}

# The body of a page of the running ingestor, after its status.
sub page {
  my ($path) = @_;
  my $socket = IO::Socket::INET->new(PeerAddr => $listen, Timeout => 5) or return '';
  print $socket "GET $path HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
  local $/;
  my $all = <$socket> // '';
  my ($status, $body) = $all =~ /^HTTP\S+ (\d+).*?\r\n\r\n(.*)/s;
  return ($status // '') . " $body";
}

sub metric {
  my ($name) = @_;
  my ($value) = page('/metrics') =~ /^tick_ingest_$name\{feed="binance\/ops"\} ([\d.]+)$/m;
  return $value // -1;
}

sub count_of {
  my ($symbol) = @_;
  return $node->safe_psql('postgres', "SELECT count(*) FROM trades WHERE symbol = '$symbol'");
}

# ---- what it says of itself

write_config('"BTCUSDT"');
my $ingest = launch('ingest', $ENV{TICK_INGEST}, 'run', '-c', "$dir/tick.toml");
wait_for($node, 'SELECT count(*) > 20 FROM trades');
like(page('/healthz'), qr/^200 ok/, '/healthz');
like(page('/elsewhere'), qr/^404 /, 'no other page');
my $metrics = page('/metrics');
my @types = $metrics =~ /^# TYPE (\S+) (?:counter|gauge)$/mg;
my @values = $metrics =~ /^([a-z_]+)\{feed="binance\/ops"\} [\d.]+$/mg;
is_deeply(\@values, \@types, '/metrics: ' . @types . ' values, each with its type');
cmp_ok(metric('rows_total'), '>', 20, 'rows are counted');
cmp_ok(metric('lag_milliseconds'), '>', 0, 'the lag is told');
like(page('/status'), qr/^200 \{"feed":"binance\/ops".*"connected":1\.000/s, '/status');
command_like([ $ENV{TICK_INGEST}, 'status', '--listen', $listen, '--max-lag', '30s' ], qr/"connected":1/, 'the verb status');
command_fails([ $ENV{TICK_INGEST}, 'status', '--listen', $listen, '--max-lag', '1us' ], 'a lag above --max-lag is told by the exit code');
command_fails([ $ENV{TICK_INGEST}, 'status', '--listen', '127.0.0.1:1' ], 'so is nobody there');

# ---- symbols come and go

write_config('"BTCUSDT", "ETHUSDT"');
kill 'HUP', $ingest->{pid};
ok(eval { wait_for($node, "SELECT count(*) > 20 FROM trades WHERE symbol = 'ETHUSDT'"); 1 }, 'a symbol is added by SIGHUP') or diag(slurp($ingest->{log}));
write_config('"BTCUSDT", "ETHUSDT"', "max_silenze = \"1s\"\n");
kill 'HUP', $ingest->{pid};
until_true(20, 'a broken file is told', sub { slurp($ingest->{log}) =~ /tick\.toml:5: unknown setting feed\.max_silenze/ });
my $there = count_of('BTCUSDT');
ok(eval { wait_for($node, "SELECT count(*) > $there + 20 FROM trades WHERE symbol = 'BTCUSDT'"); 1 }, 'and changes nothing');
write_config('"ETHUSDT"');
kill 'HUP', $ingest->{pid};
until_true(20, 'read', sub { slurp($ingest->{log}) =~ /0 symbols added, 1 removed/ });
$there = 0;
until_true(30, 'a symbol is taken away', sub {
  my ($before, $now) = ($there, count_of('BTCUSDT'));
  my $eth = count_of('ETHUSDT');
  wait_for($node, "SELECT count(*) > $eth + 20 FROM trades WHERE symbol = 'ETHUSDT'");
  $there = count_of('BTCUSDT');
  return $now == $there;
});
is(() = slurp($ingest->{log}) =~ /connecting to/g, 1, 'all on one connection');
is(finish($ingest, 'TERM'), 0, 'the ingestor stops cleanly');
is(page('/healthz'), '', 'and its pages are gone');

# ---- a connection is replaced before it is too old

write_config('"BTCUSDT", "ETHUSDT"', "max_age = \"700ms\"\n");
$ingest = launch('ingest_age', $ENV{TICK_INGEST}, 'run', '-c', "$dir/tick.toml");
until_true(60, 'replaced four times', sub { 4 <= (() = slurp($ingest->{log}) =~ /the new connection is good, the old one is closed/g) });
my $rows = metric('rows_total');
until_true(20, 'and goes on', sub { metric('rows_total') > $rows });
is(() = slurp($ingest->{log}) =~ /disconnected/g, 0, 'never without a connection');
is(finish($ingest, 'TERM'), 0, 'the ingestor stops cleanly');
is($node->safe_psql('postgres', "SELECT count(*) FROM tick.gaps WHERE key ->> 'symbol' = 'ETHUSDT'"), '0', 'no gap');

# ---- one symbol is mute, the other is not

write_config('"BTCUSDT", "DOGEUSDT"', "max_stream_silence = \"500ms\"\n");
$ingest = launch('ingest_mute', $ENV{TICK_INGEST}, 'run', '-c', "$dir/tick.toml");
until_true(20, 'it is noticed', sub { slurp($ingest->{log}) =~ /disconnected: no trade of DOGEUSDT for longer than feed\.max_stream_silence/ });
is(finish($ingest, 'TERM'), 0, 'the ingestor stops cleanly');

# The same while the market is closed: three times as long as a moment ago, silence means nothing.
my $holidays = $node->safe_psql('postgres', q{SELECT string_agg(format('"%s"', (now() AT TIME ZONE 'Asia/Tokyo')::date + d), ', ') FROM generate_series(-1, 1) d});
write_config('"BTCUSDT", "DOGEUSDT"', "max_stream_silence = \"500ms\"\nmax_data_silence = \"500ms\"\n[session]\ntz = \"Asia/Tokyo\"\ndays = \"Mon-Sun\"\n"
  . "hours = [\"00:00-12:00\", \"12:00-24:00\"]\nholidays = [$holidays]\n");
$ingest = launch('ingest_closed', $ENV{TICK_INGEST}, 'run', '-c', "$dir/tick.toml");
until_true(20, 'ticks are taken all the same', sub { metric('rows_total') > 350 });
unlike(slurp($ingest->{log}), qr/disconnected/, 'no watchdog outside the session');
is(finish($ingest, 'TERM'), 0, 'the ingestor stops cleanly');
finish($fake, 'TERM');
unlike(join('', map { slurp($_) } glob "$dir/ingest*.log"), qr/verysecret/, 'no password in any log');

# ---- idle

sub cpu_seconds {
  my ($pid) = @_;
  my $sum = 0;
  for my $file (glob "/proc/$pid/task/*/schedstat") { $sum += (split / /, slurp($file))[0] }
  return $sum / 1e9;
}

my $idle_seconds = $ENV{TICK_IDLE_SECONDS} || 10;
$fake = launch('fake_idle', $ENV{TICK_INGEST}, 'fake', '--symbols', 'BTCUSDT', '--rate', 0.01, '--seconds', 100_000);
$port = fake_port($fake);
write_config('"BTCUSDT"');
$ingest = launch('ingest_idle', $ENV{TICK_INGEST}, 'run', '-c', "$dir/tick.toml");
until_true(20, 'connected', sub { slurp($ingest->{log}) =~ /^\S+ info  connected$/m && slurp($ingest->{log}) =~ /database is ready/ });
my ($worker) = worker_pid($node);
my $settled = time + 3;
until_true(30, 'settled', sub { time > $settled });
my %before = map { $_ => cpu_seconds($_) } $ingest->{pid}, $worker;
my $since = time;
until_true($idle_seconds + 10, 'idle', sub { select undef, undef, undef, 0.2; time > $since + $idle_seconds });
my %share = map { $_ => 100 * (cpu_seconds($_) - $before{$_}) / (time - $since) } keys %before;
diag(sprintf 'idle CPU: ingestor %.3f %%, worker %.3f %%', $share{ $ingest->{pid} }, $share{$worker});
cmp_ok($share{ $ingest->{pid} }, '<', 0.1, 'an idle ingestor costs nothing');
cmp_ok($share{$worker}, '<', 0.1, 'nor does an idle worker');
is(finish($ingest, 'TERM'), 0, 'the ingestor stops cleanly');

# ---- what only a human can cure is said once, and that it is cured

$node->safe_psql('postgres', 'CREATE ROLE feeder LOGIN; GRANT SELECT ON trades TO feeder');
finish($fake, 'TERM');
$fake = launch('fake_feeder', $ENV{TICK_INGEST}, 'fake', '--symbols', 'BTCUSDT', '--rate', 50, '--first-id', 1);
$ingest = launch('ingest_feeder', $ENV{TICK_INGEST}, 'run', '--url', 'ws://127.0.0.1:' . fake_port($fake), '--symbols', 'BTCUSDT', '--exchange', 'feeder', '--connection', 'feeder',
  '--database', $node->connstr('postgres') . ' user=feeder');
until_true(20, 'a missing right is told', sub { slurp($ingest->{log}) =~ /batch not committed, trying again: permission denied for table trades \(42501\)/ });
my $refusals = sub { return scalar(() = slurp($node->logfile) =~ /ERROR:.*permission denied for table trades/g) };
my $seen = $refusals->();
until_true(20, 'it is tried again', sub { $refusals->() > $seen + 2 });
$node->safe_psql('postgres', 'GRANT INSERT ON trades TO feeder');
until_true(20, 'given, the batches are taken', sub { slurp($ingest->{log}) =~ /the database takes batches again/ });
is(scalar(() = slurp($ingest->{log}) =~ /permission denied/g), 1, 'the complaint was made once');
unlike(slurp($ingest->{log}), qr/connection lost/, 'and no connection was lost');
ok(eval { wait_for($node, "SELECT count(*) > 20 FROM trades WHERE exchange = 'feeder'"); 1 }, 'rows come');
is(finish($ingest, 'TERM'), 0, 'the ingestor stops cleanly');
finish($fake, 'TERM');
$node->stop;
stop_all();
done_testing();
