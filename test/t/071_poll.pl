# CoinLore, CoinGecko and any JSON document: polled from the fake exchange, while the ingestor is
# killed again and again. No price is in twice, each is one that the server told, and what has not moved is not written.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'tick-ingest is not built' unless $ENV{TICK_INGEST} && -x $ENV{TICK_INGEST};
my $node = make_node('poll');
my $database = $node->connstr('postgres');
command_ok([ $ENV{TICK_INGEST}, 'init', '--database', $database, '--feed', 'coinlore', '--table', 'quotes', '--no-rollups' ], 'init');
$node->safe_psql('postgres', q{SELECT tick.create_rollup('quotes_1m', 'SELECT exchange, symbol, tick.tumble(ts, ''1 minute'') AS ts,
  max(price) AS high, count(*) AS n FROM quotes GROUP BY 1, 2, 3')});
my $fake = launch('fake', $ENV{TICK_INGEST}, 'fake', '--symbols', 'BTCUSDT,ETHUSDT', '--rate', 20, '--seed', 3);
my $base = 'http://127.0.0.1:' . fake_port($fake);

my %options = (
  coinlore => [ '--url', "$base/api/tickers/?start=0&limit=100", '--symbols', 'BTC,ETH' ],
  coingecko => [ '--url', "$base/api/v3/simple/price?vs_currencies=usd&include_last_updated_at=true", '--symbols', 'BITCOIN,ETHEREUM' ],
);
my (%ingest, %starts);
sub start {
  my ($feed) = @_;
  $ingest{$feed} = launch("${feed}_" . ++$starts{$feed}, $ENV{TICK_INGEST}, 'run', '--feed', $feed, '--table', 'quotes', '--database', $database,
    '--poll-interval', '100ms', @{ $options{$feed} });
}
start($_) for sort keys %options;
for my $feed (sort keys %options) {
  for my $n (1 .. 3) {
    ok(eval { wait_for($node, "SELECT count(DISTINCT ts) >= 2 * $n FROM quotes WHERE exchange = '$feed'"); 1 }, "$feed: prices come ($n)")
      or diag(slurp($ingest{$feed}{log}));
    finish($ingest{$feed}, 'KILL');
    start($feed);
  }
  wait_for($node, "SELECT count(DISTINCT ts) >= 8 FROM quotes WHERE exchange = '$feed'");
  is(finish($ingest{$feed}, 'TERM'), 0, "$feed stops cleanly");
  like(slurp($ingest{$feed}{log}), qr/stopped: [1-9]\d* rows committed/, "$feed: the last run wrote");
}
is($node->safe_psql('postgres', 'SELECT string_agg(DISTINCT symbol, \' \' ORDER BY symbol) FROM quotes'), 'BITCOIN BTC ETH ETHEREUM', 'symbols');
is($node->safe_psql('postgres', 'SELECT count(*) FROM (SELECT FROM quotes GROUP BY exchange, symbol, ts, price HAVING count(*) > 1) d'), '0',
  'no price is in twice');

# ---- any document by pointers, from a file that does not move: one row, and then the server says so
my $still = launch('still', $ENV{TICK_INGEST}, 'fake', '--symbols', 'SOLUSDT', '--rate', 5, '--seconds', 1, '--wait');
my $port = fake_port($still);
my $record = launch('record', $ENV{TICK_INGEST}, 'record', '--url', "ws://127.0.0.1:$port", '--symbols', 'SOLUSDT', '--limit', 5,
  PostgreSQL::Test::Utils::tempdir . '/record');
until_true(30, 'the fake exchange has sent all', sub { slurp($still->{log}) =~ /everything sent/ });
my @generic = ('--feed', 'http', '--url', "http://127.0.0.1:$port/api/tickers/", '--items', '/data', '--columns',
  'symbol=/symbol,ts=^/info/time,price=/price_usd', '--table', 'quotes', '--database', $database);
command_like([ $ENV{TICK_INGEST}, 'check', @generic ], qr/the answer is understood: 1 rows, SOL at .*\n0 mistakes/s, 'check reads the answer');
my $generic = launch('generic', $ENV{TICK_INGEST}, 'run', @generic, '--poll-interval', '50ms', '--listen', '127.0.0.1:'
    . (my $listen = PostgreSQL::Test::Cluster::get_free_port()));
wait_for($node, "SELECT count(*) = 1 FROM quotes WHERE exchange = 'http' AND symbol = 'SOL'");
until_true(30, 'the server says that nothing has moved', sub {
  IPC::Run::run([ $ENV{TICK_INGEST}, 'status', '--listen', "127.0.0.1:$listen" ], '<', \'', '>', \my $out, '2>', \my $err);
  my ($messages) = $out =~ /"messages":(\d+)/;
  ($messages // 0) > 5;
});
is(finish($generic, 'TERM'), 0, 'stops cleanly');
like(slurp($generic->{log}), qr/stopped: 1 rows committed, ([0-9]+) requests, 0 duplicates, [1-9]\d* unchanged/, 'one row; the rest was unchanged');
is($node->safe_psql('postgres', "SELECT tick.wait(NULL, '60 s')"), 't', 'the worker is through');
is($node->safe_psql('postgres', 'SELECT count(*) FROM tick.status s, tick.verify(s.rollup)'), '0', 'rollups: exact');
stop_all();
done_testing();
