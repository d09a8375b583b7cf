# A real Kafka broker (KRaft, on loopback): the table equals the topic and the positions its ends, whatever is killed and
# however two consumers share the partitions; message shapes, starts, names of topics, unread events.
#
#   TICK_KAFKA_TRADES  events (default 10,000)     TICK_KAFKA_KILLS  kills of broker, PostgreSQL and ingestor, in turn (default 2)
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use HTTP::Tiny;
use Time::HiRes qw(time);

plan skip_all => 'tick-ingest is not built' unless $ENV{TICK_INGEST} && -x $ENV{TICK_INGEST};
my $kafka = $ENV{TICK_KAFKA} // '';
plan skip_all => "no broker: build/kafka could not be made (Java, Maven, its registry or librdkafka is missing)"
  unless -d "$kafka/libs" && -x "$kafka/feeder";
my $trades = $ENV{TICK_KAFKA_TRADES} || 10_000;
my $kills = $ENV{TICK_KAFKA_KILLS} || 2;
my $partitions = 3;
my $dir = PostgreSQL::Test::Utils::tempdir;
my ($port, $controller) = map { PostgreSQL::Test::Cluster::get_free_port() } 1 .. 2;
my $brokers = "127.0.0.1:$port";
my ($broker, $broker_starts);

sub feeder {
  my ($verb, @arguments) = @_;
  my ($stdout, $stderr);
  my $input = $verb eq 'send' ? pop @arguments : '';
  IPC::Run::run([ "$kafka/feeder", $verb, $brokers, @arguments ], '<', \$input, '>', \$stdout, '2>', \$stderr, IPC::Run::timeout(120));
  die "feeder $verb: $stderr" if $?;
  return $stdout;
}

sub start_broker {
  $broker = launch('broker_' . ++$broker_starts, "$FindBin::Bin/../kafka/broker", "$kafka/libs", "$dir/broker", $port, $controller);
}

start_broker();
until_true(120, 'the broker answers', sub { eval { feeder('create', 'clean_trades', $partitions); 1 } || $@ =~ /exist/ });

my $node = make_node('kafka', conf => "synchronous_commit = on\n");
my $database = $node->connstr('postgres');
command_ok([ $ENV{TICK_INGEST}, 'init', '--database', $database ], 'init');

# ---- what check says
sub checked {
  my (@options) = @_;
  my ($stdout, $stderr);
  local %ENV = (%ENV, KAFKA_BOOTSTRAP_SERVERS => $brokers);
  IPC::Run::run([ $ENV{TICK_INGEST}, 'check', '--feed', 'kafka', '--database', $database, @options ], '<', \'',
    '>', \$stdout, '2>', \$stderr);
  return $stdout . $stderr;
}
like(checked('--topic', 'clean_trade'), qr/MISTAKE  --topic: kafka.topic: there is no topic "clean_trade".*did you mean "clean_trades"/,
  'a missing topic, and the one that was meant');
like(checked('--topic', 'clean_trades'), qr/topic clean_trades is empty.*\n0 mistakes/s, 'an empty topic');
like(checked('--brokers', '127.0.0.1:1', '--topic', 'x'), qr/kafka.brokers: no broker answers at 127.0.0.1:1/, 'no broker');
my ($out, $err);
IPC::Run::run([ $ENV{TICK_INGEST}, 'run', '--feed', 'kafka', '--database', $database, '--brokers', $brokers, '--topic', 'clean_tradez' ],
  '<', \'', '>', \$out, '2>', \$err);
ok($? != 0 && $err =~ /did you mean "clean_trades"/, 'run ends with it') or diag($err);

# ---- shapes of messages, starts, and the names that other pipelines use
sub run_until {
  my ($name, $what, $environment, @options) = @_;
  local %ENV = (%ENV, KAFKA_BOOTSTRAP_SERVERS => $brokers, %$environment);
  my $ingest = launch($name, $ENV{TICK_INGEST}, 'run', '--feed', 'kafka', '--database', $database, '--table', $name, @options);
  ok(eval { wait_for($node, $what); 1 }, "$name: rows come") or diag(slurp($ingest->{log}));
  is(finish($ingest, 'TERM'), 0, "$name: stops cleanly") or diag(slurp($ingest->{log}));
}
# Shapes are known by their topics' names.
feeder('create', $_, 1) for qw(binance-prices quotes data_stream raw_trades);
$node->safe_psql('postgres', "CREATE TABLE $_ (exchange text, symbol text, ts timestamptz, price float8, qty float8, trade_id int8)")
  for qw(p2 p3 p4 p4_named late timed);
feeder('send', 'binance-prices', qq({"symbol":"BTCUSDT","price":97000.5,"timestamp":1736509140000,"event_time":"2025-01-10T12:39:00","volume":12345.6,"high":1,"low":1,"open":1,"trades":99}\nno JSON\n{"symbol":"ETHUSDT","price":3300.25,"timestamp":1736509141000,"event_time":"2025-01-10T12:39:01","volume":5}\n));
like(checked('--topic', 'binance-prices'), qr/understood: ETHUSDT at 2025-01-10T11:39:01/, 'check reads the newest');
# BINANCE_SYMBOLS, which such a pipeline's environment has as well, are for Binance's own feeds.
run_until('p2', 'SELECT count(*) = 2 FROM p2',
  { KAFKA_TOPIC => 'binance-prices', KAFKA_GROUP_ID => 'kafka-consumer-group', BINANCE_SYMBOLS => 'SOLUSDT' });
is($node->safe_psql('postgres', "SELECT symbol, extract(epoch FROM ts)::int8, price, qty IS NULL, trade_id IS NULL FROM p2 ORDER BY ts"),
  "BTCUSDT|1736509140|97000.5|t|t\nETHUSDT|1736509141|3300.25|t|t", "P2's messages; its rolling volume is no quantity");
is($node->safe_psql('postgres', "SELECT count(*) FROM tick.rejected WHERE feed = 'kafka/binance-prices' AND payload = 'no JSON'"), '1',
  'what cannot be read is in tick.rejected');
is($node->safe_psql('postgres', "SELECT position ->> 'record' FROM tick.feeds WHERE connection = 'kafka-consumer-group/binance-prices/0'"),
  '3', 'the position is the next offset');
feeder('send', 'quotes', join '', map { qq({"id":"AAPL","price":$_.25,"time":"1736509${_}000","currency":"USD","exchange":"NMS","day_volume":"100"}\n) } 140 .. 142);
run_until('p4', 'SELECT count(*) = 3 FROM p4', { KAFKA_TOPIC => 'quotes' }, '--columns', 'yahoo');
is($node->safe_psql('postgres', "SELECT min(symbol), min(price), max(price), count(DISTINCT ts) FROM p4"), 'AAPL|140.25|142.25|3', "P4's messages");

feeder('send', 'data_stream', qq({"id":"NVDA","price":135.91,"time":"1736509140000","exchange":"NMS","quoteType":8,"marketHours":1,"dayVolume":"5"}\n));
run_until('p4_named', "SELECT count(*) = 1 FROM p4_named WHERE symbol = 'NVDA' AND price = 135.91 AND qty IS NULL", { KAFKA_TOPIC => 'data_stream' });
feeder('send', 'raw_trades', qq({"symbol":"BTCUSDT","price":97000.5,"quantity":0.25,"timestamp_ms":1736509140123,"is_buyer_maker":true,"trade_id":77,"source":"binance"}\n));
run_until('p3', "SELECT count(*) = 1 FROM p3 WHERE (symbol, price, qty, trade_id, extract(epoch FROM ts)) = ('BTCUSDT', 97000.5, 0.25, 77, 1736509140.123)",
  { KAFKA_TOPIC => 'raw_trades', KAFKA_STARTING_OFFSETS => 'earliest' });

{ # latest: what is in the topic already stays out, what comes while nobody runs does not
  local %ENV = (%ENV, KAFKA_STARTING_OFFSETS => 'latest', KAFKA_TOPIC => 'quotes', KAFKA_BOOTSTRAP_SERVERS => $brokers, KAFKA_GROUP_ID => 'late');
  my @command = ($ENV{TICK_INGEST}, 'run', '--feed', 'kafka', '--database', $database, '--table', 'late', '--columns', 'yahoo');
  my $ingest = launch('late_1', @command);
  wait_for($node, "SELECT count(*) = 1 FROM tick.feeds WHERE connection = 'late/quotes/0'");
  is(finish($ingest, 'TERM'), 0, 'latest: stopped before anything came');
  feeder('send', 'quotes', qq({"id":"AAPL","price":50,"time":"1736509500000"}\n));
  $ingest = launch('late_2', @command);
  ok(eval { wait_for($node, 'SELECT count(*) = 1 FROM late'); 1 }, 'latest: begun where nothing was missed') or diag(slurp($ingest->{log}));
  finish($ingest, 'TERM');
}
my $future = POSIX::strftime('%Y-%m-%dT%H:%M:%SZ', gmtime(time + 1));
until_true(10, 'a later second', sub { POSIX::strftime('%Y-%m-%dT%H:%M:%SZ', gmtime) gt $future });
feeder('send', 'quotes', qq({"id":"AAPL","price":60,"time":"1736509600000"}\n));
run_until('timed', 'SELECT count(*) = 1 FROM timed WHERE price = 60', { KAFKA_TOPIC => 'quotes', KAFKA_GROUP_ID => 'timed' }, '--columns', 'yahoo',
  '--start', $future);

# ---- exactly once
my %ingest;
my ($starts, %killed) = (0);
my $listen = PostgreSQL::Test::Cluster::get_free_port();
sub consumer {
  my ($name) = @_;
  $ingest{$name} = launch("trades_${name}_" . ++$starts, $ENV{TICK_INGEST}, 'run', '--feed', 'kafka', '--database', $database, '--brokers',
    $brokers, '--topic', 'clean_trades', '--columns', 'clean_trades', '--exchange', 'binance', $name eq 'a' ? ('--listen', "127.0.0.1:$listen") : ());
}
my $seconds = 4 + 4 * $kills;
my $fill = launch('fill', "$kafka/feeder", 'fill', $brokers, 'clean_trades', $trades, $trades / $seconds, 1);
consumer('a');
wait_for($node, 'SELECT count(*) > 100 FROM trades');
consumer('b');
my $begin = time;
for my $kill (1 .. $kills) {
  my $moment = $begin + $kill * $seconds / ($kills + 2);
  until_true(60, 'the next kill is due', sub { time >= $moment });
  my $what = (qw(broker server ingestor))[ ($kill - 1) % 3 ];
  my $name = $kill % 2 ? 'b' : 'a';
  ++$killed{$what};
  if ($what eq 'ingestor') {
    finish($ingest{$name}, 'KILL');
    consumer($name);
  } elsif ($what eq 'server') {
    crash($node);
  } else {  # and one that starts while there is no broker
    finish($broker, 'KILL');
    finish($ingest{$name}, 'KILL');
    ++$killed{ingestor};
    consumer($name);
    until_true(60, 'it says that no broker answers', sub { slurp($ingest{$name}{log}) =~ /no broker answers/ });
    start_broker();
  }
}
until_true(120 + $seconds, 'the topic is filled', sub { slurp($fill->{log}) =~ /sent/ });
finish($ingest{a}, 'TERM');   # its partitions go to the other
my $all = eval { wait_for($node, "SELECT count(*) >= $trades FROM trades"); 1 };
ok($all, 'everything came') or diag(map { slurp($_->{log}) } values %ingest);
open my $dump, '>', "$dir/topic.json" or die;
print $dump feeder('dump', 'clean_trades', $partitions);
close $dump;
chmod 0644, "$dir/topic.json";
$node->safe_psql('postgres', "CREATE TABLE topic (event jsonb); COPY topic FROM '$dir/topic.json' WITH (FORMAT csv, QUOTE E'\\x01', DELIMITER E'\\x02');
  CREATE VIEW expected AS SELECT 'binance' AS exchange, event ->> 'symbol' AS symbol, to_timestamp((event ->> 'timestamp_ms')::numeric / 1000) AS ts,
    (event ->> 'price')::float8 AS price, (event ->> 'quantity')::float8 AS qty, (event ->> 'trade_id')::int8 AS trade_id,
    (event ->> 'is_buyer_maker')::bool AS is_buyer_maker FROM topic");
my $columns = 'exchange, symbol, ts, price, qty, trade_id, is_buyer_maker';
is($node->safe_psql('postgres', 'SELECT count(*) FROM topic'), $trades, 'so many events are in the topic');
is($node->safe_psql('postgres', "SELECT (SELECT count(*) FROM (SELECT $columns FROM trades EXCEPT ALL SELECT $columns FROM expected) d),
    (SELECT count(*) FROM (SELECT $columns FROM expected EXCEPT ALL SELECT $columns FROM trades) d)"), '0|0', 'the table equals the topic');
my $ends = join ' ', map { /^\d+ \d+ (\d+)$/ } split /\n/, feeder('ends', 'clean_trades', $partitions);
is($node->safe_psql('postgres', "SELECT string_agg(position ->> 'record', ' ' ORDER BY connection) FROM tick.feeds
    WHERE connection LIKE 'tick-ingest/clean_trades/%'"), $ends, 'the positions are the ends of the topic');
diag("$trades events, kills: " . join(', ', map { "$_ $killed{$_}" } sort keys %killed) . '; rows: '
    . $node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT (symbol, trade_id)) FROM trades') . "; ends and positions: $ends");

# ---- what is unread is told
finish($ingest{b}, 'TERM');
consumer('a');
my $status = sub { my ($o); IPC::Run::run([ $ENV{TICK_INGEST}, 'status', '--listen', "127.0.0.1:$listen" ], '<', \'', '>', \$o, '2>', \my $e); $o };
until_true(30, 'status tells that nothing is unread', sub { $status->() =~ /"connected":1.*"unread":0\.000/s });
$node->safe_psql('postgres', "ALTER TABLE trades RENAME TO trades_away");
feeder('fill', 'clean_trades', 500, 0, 1_000_000);
until_true(30, 'status tells what is unread', sub { $status->() =~ /"unread":500\.000/ });
pass('unread events are in status');
like(HTTP::Tiny->new->get("http://127.0.0.1:$listen/metrics")->{content}, qr/^tick_ingest_unread\{feed="kafka\/clean_trades"\} 500\.000$/m, 'and in /metrics');
$node->safe_psql('postgres', "ALTER TABLE trades_away RENAME TO trades");
until_true(60, 'they are read', sub { $status->() =~ /"unread":0\.000/ });
is($node->safe_psql('postgres', 'SELECT count(*) - 500 FROM trades'), $trades, 'and come once');
is(finish($ingest{a}, 'TERM'), 0, 'stops cleanly');
exact($node, 'after ' . $kills . ' kills');
stop_all();
done_testing();
