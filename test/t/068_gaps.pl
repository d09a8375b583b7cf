# A gap that the exchange's history no longer covers stays in tick.gaps with the reason; what it does cover is filled; when
# the rest comes from elsewhere, gap and reason are gone.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

shared_data();
my $node = make_node('gaps');
my $database = $node->connstr('postgres');
command_ok([ $ENV{TICK_INGEST}, 'init', '--database', $database ], 'init');
my $sent = "$ENV{TESTLOGDIR}/sent.txt";
my $fake = launch('fake', $ENV{TICK_INGEST}, 'fake', '--symbols', 'BTCUSDT', '--rate', 200, '--first-id', 1, '--history', 1, '--sent', $sent);
my $runs = 0;
my $start = sub { launch('ingest_' . ++$runs, $ENV{TICK_INGEST}, 'run', '--url', 'ws://127.0.0.1:' . fake_port($fake), '--symbols', 'BTCUSDT',
    '--repair-interval', '5ms', '--connection', 'gaps', '--database', $database) };
my $newest = sub { slurp($sent) =~ /BTCUSDT (\d+) \d+\n\z/ ? $1 : 0 };

my $ingest = $start->();
wait_for($node, 'SELECT count(*) > 200 FROM trades');
is(finish($ingest, 'TERM'), 0, 'stopped');
my $left = $node->safe_psql('postgres', 'SELECT max(trade_id) FROM trades');
# It remembers a thousand trades, five seconds.
until_true(60, 'more is missed than the exchange remembers', sub { $newest->() > $left + 1500 });
my $missed = $newest->() - $left;
$ingest = $start->();
ok(eval { wait_for($node, 'SELECT count(*) = 1 FROM tick.gaps WHERE reason IS NOT NULL'); 1 }, 'the gap stays, with a reason')
  or diag($node->safe_psql('postgres', 'SELECT * FROM tick.gaps'));
like($node->safe_psql('postgres', 'SELECT reason FROM tick.gaps'), qr/the exchange's history does not have these trades/, 'which says why');
my ($from, $missing) = split /\|/, $node->safe_psql('postgres', 'SELECT from_id, missing FROM tick.gaps');
is($from, $left + 1, 'it begins where the first run ended');
cmp_ok($missing, '<', $missed, 'and the exchange has filled what it could');
like(slurp($ingest->{log}), qr/gap of BTCUSDT $from\.\.\d+: the exchange's history/, 'the log says it too');

# Only who may write may explain.
$node->safe_psql('postgres', q{CREATE ROLE reader; GRANT SELECT ON trades TO reader});
my (undef, undef, $denied) = $node->psql('postgres', q{SET ROLE reader; SELECT tick.explain_gap('trades', key, to_id::int8, 'x') FROM tick.gaps});
like($denied, qr/permission denied for table public.trades/, 'a reader may not');
is($node->safe_psql('postgres', q{SET ROLE reader; SELECT count(*) FROM tick.gaps WHERE reason IS NOT NULL}), '1', 'but sees it');

$node->safe_psql('postgres', q{INSERT INTO trades (exchange, symbol, ts, price, qty, trade_id)
  SELECT 'binance', 'BTCUSDT', g.from_time, 1, 1, i FROM tick.gaps g, generate_series(g.from_id, g.to_id) i});
ok(eval { wait_for($node, 'SELECT count(*) = 0 FROM tick.gaps'); 1 }, 'filled from elsewhere, it is gone');
is(finish($ingest, 'TERM'), 0, 'the ingestor stops cleanly');
finish($fake, 'TERM');
exact($node, 'after all');
$node->stop;
stop_all();
done_testing();
