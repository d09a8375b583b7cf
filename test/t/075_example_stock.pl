# A table that its user has already, written by the ingestor through a mapping of columns; and the example that keeps another
# pipeline's names (examples/stock): run by its one command, then fed under kills with that pipeline's environment.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'tick-ingest is not built' unless $ENV{TICK_INGEST} && -x $ENV{TICK_INGEST};
my $node = make_node('stock');
my $database = $node->connstr('postgres');
my $example = "$FindBin::Bin/../../examples";

# ---- what cannot be is named with its column
$node->safe_psql('postgres', q{
  CREATE TABLE wide (sym varchar(20) NOT NULL, px numeric(20,8), size numeric, at timestamp, ms bigint, s bigint, id bigint,
    maker bool, "Got It" timestamptz, note text, n int);
  CREATE TABLE strict (sym text, px float8, at timestamptz, who text NOT NULL);
  CREATE TABLE trades (symbol text, ts timestamptz, price float8, qty float8, trade_id int8)});
my @mistakes = (
  [ 'wide', 'sym=symbol,px=price', qr/--table-columns must say which column gets ts/ ],
  [ 'wide', 'sym=symbol,px=price,at=time', qr/--table-columns must be like event_time=ts.*cannot read "at=time"/ ],
  [ 'wide', 'sym=symbol,px=price,at=ts,px=qty', qr/cannot read "px=qty"/ ],
  [ 'wide', 'sym=symbol,px=price,at=ts,sise=qty', qr/table wide has no column sise that can be written; did you mean size\?/ ],
  [ 'wide', 'sym=symbol,px=price,ms=ts', qr/column ms of table wide has type bigint, which cannot hold ts: that needs timestamptz, timestamp \(UTC\); or give it ts_ms or ts_s/ ],
  [ 'wide', 'sym=symbol,px=price,at=ts,note=qty', qr/column note of table wide has type text, which cannot hold qty: that needs double precision, numeric/ ],
  [ 'wide', 'sym=symbol,px=price,at=ts,n=trade_id', qr/column n of table wide has type integer, which cannot hold trade_id: that needs bigint/ ],
  [ 'strict', 'sym=symbol,px=price,at=ts', qr/column who of table strict is NOT NULL, has no default, and gets nothing/ ],
  [ 'nowhere', 'sym=symbol,px=price,at=ts', qr/table nowhere does not exist; with columns of your own, create it first/ ],
);
for my $case (@mistakes) {
  my ($table, $columns, $message) = @$case;
  command_fails_like([ $ENV{TICK_INGEST}, 'init', '--database', $database, '--table', $table, '--table-columns', $columns ],
    $message, "init refuses $table: $columns");
}
command_checks_all([ $ENV{TICK_INGEST}, 'check', '--database', $database, '--table', 'wide', '--table-columns', 'sym=symbol,px=price,ms=ts', '--url',
  'ws://127.0.0.1:1', '--symbols', 'BTCUSDT' ], 1, [ qr/MISTAKE  --table-columns: database\.columns: column ms of table wide/ ], [], 'check says so, too');

# ---- every digit of a number arrives
my @numbers = ('0.00000001', '0.00012', '1', '10', '9999', '10000', '10001', '100000000', '99999.99999999', '64000.12345678', '0.1', '123456789012.125',
  '1234567.8', '0.99999999', '500000.00000001');
my $csv = "$ENV{TESTLOGDIR}/numbers.csv";
open my $out, '>', $csv or die;
print $out "symbol,ts,price,qty,trade_id,is_buyer_maker\n";
print $out "BTCUSDT,2024-03-01T12:00:0${_}Z,$numbers[$_]," . ($_ % 3 ? $numbers[-1 - $_] : '') . ",$_,true\n" for 0 .. 9;
print $out "BTCUSDT,1709294${_}.5,$numbers[$_],0,$_,false\n" for 10 .. $#numbers;
close $out;
my @map = ('--table', 'wide', '--table-columns', 'sym=symbol,px=price,size=qty,at=ts,ms=ts_ms,s=ts_s,id=trade_id,maker=is_buyer_maker,Got It=received_at');
command_ok([ $ENV{TICK_INGEST}, 'init', '--database', $database, @map ], 'a mapping that fits');
command_ok([ $ENV{TICK_INGEST}, 'replay', '--database', $database, @map, $csv ], 'is written');
is($node->safe_psql('postgres', 'SELECT string_agg(trim_scale(px)::text, \' \' ORDER BY id), count(size), bool_and(maker) FILTER (WHERE id < 10) FROM wide'),
  "@numbers|11|t", 'numerics are what was written');
is($node->safe_psql('postgres', q{SELECT count(*) FROM wide WHERE "Got It" < now() - interval '1 day' OR ms <> (extract(epoch FROM at) * 1000)::int8
    OR s <> floor(extract(epoch FROM at))::int8 OR sym <> 'BTCUSDT' OR (id < 10) <> (date_trunc('minute', at) = '2024-03-01 12:00')}), '0', 'and so are times');

# ---- the example: its one command
my ($shown, $errors) = ('', '');
IPC::Run::run([ "$example/run", 'stock', '--seconds', 2, '--database', $database ], '<', \'', '>', \$shown, '2>', \$errors);
is($?, 0, 'examples/run stock') or diag("$shown\n$errors");
like($shown, qr/^ BTCUSDT \| .*^stock\.aggregated_prices_1min differs from its query in 0 places/ms, 'shows candles and compares them');

my @five = qw(BTCUSDT ETHUSDT BNBUSDT ADAUSDT SOLUSDT);
my $sent = "$ENV{TESTLOGDIR}/sent";
my $fake = launch('fake', $ENV{TICK_INGEST}, 'fake', '--symbols', join(',', @five), '--rate', 1000, '--seconds', 3, '--seed', 5, '--first-id', 1,
  '--wait', '--sent', $sent);
my $url = 'ws://127.0.0.1:' . fake_port($fake);
my $n = 0;
sub start {
  local %ENV = (%ENV, POSTGRES_HOST => $node->host, POSTGRES_PORT => $node->port, POSTGRES_DB => 'postgres', POSTGRES_USER => (getpwuid $<)[0],
    BINANCE_SYMBOLS => join(',', @five));
  return launch('ingest_' . ++$n, $ENV{TICK_INGEST}, 'run', '-c', "$example/stock/tick.toml", '--url', $url, '--connection', 'killed');
}
my $before = $node->safe_psql('postgres', 'SELECT count(*) FROM stock.real_time_prices');
my $ingest = start();
for my $rows (200, 1000) {
  ok(eval { wait_for($node, "SELECT count(*) >= $before + $rows FROM stock.real_time_prices"); 1 }, "$rows trades are in") or diag(slurp($ingest->{log}));
  finish($ingest, 'KILL');
  $ingest = start();
}
ok(eval { wait_for($node, "SELECT count(*) = $before + 3000 FROM stock.real_time_prices"); 1 }, 'killed twice, and all 3000 trades are in')
  or diag($node->safe_psql('postgres', "SELECT count(*) - $before FROM stock.real_time_prices"), slurp($ingest->{log}));
is(finish($ingest, 'TERM'), 0, 'stops cleanly');
is($node->safe_psql('postgres', "SELECT count(*) FROM (SELECT symbol, trade_id FROM stock.real_time_prices WHERE trade_id < 1000000 GROUP BY 1, 2) t"), '3000', 'each once');

# ---- its rollups by built-ins, in both directions
exact($node, 'stock');
for my $width (1, 5) {
  my $columns = 'symbol, window_start, window_end, open_price, close_price, high_price, low_price, avg_price, total_volume, trade_count';
  my $expected = "SELECT symbol, date_bin('$width min', event_time, '2000-01-01') AS window_start,
      date_bin('$width min', event_time, '2000-01-01') + interval '$width min' AS window_end,
      (array_agg(price ORDER BY event_time, trade_id, price))[1] AS open_price,
      (array_agg(price ORDER BY event_time DESC, trade_id DESC, price DESC))[1] AS close_price,
      max(price) AS high_price, min(price) AS low_price, round(avg(price), 8) AS avg_price, sum(volume) AS total_volume,
      count(*) AS trade_count FROM stock.real_time_prices GROUP BY 1, 2";
  is($node->safe_psql('postgres', "WITH e AS ($expected), r AS (SELECT $columns FROM stock.aggregated_prices_${width}min)
      (SELECT 'missing', e::text FROM (SELECT $columns FROM e EXCEPT ALL TABLE r) e LIMIT 3) UNION ALL
      (SELECT 'too much', r::text FROM (TABLE r EXCEPT ALL SELECT $columns FROM e) r LIMIT 3)"), '', "$width min equals built-ins");
}
is($node->safe_psql('postgres', "WITH e AS (SELECT DISTINCT ON (symbol) symbol, price, timestamp, event_time, volume FROM stock.real_time_prices
      ORDER BY symbol, event_time DESC, trade_id DESC), r AS (SELECT symbol, price, timestamp, event_time, volume FROM stock.latest_prices)
    SELECT count(*) FROM ((TABLE e EXCEPT ALL TABLE r) UNION ALL (TABLE r EXCEPT ALL TABLE e)) d"), '0', 'latest_prices equals DISTINCT ON');
is($node->safe_psql('postgres', q{SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum)
    FROM pg_attribute WHERE attrelid = 'stock.aggregated_prices_1min'::regclass AND attnum <= 10}),
  'symbol character varying(20), window_start timestamp without time zone, open_price numeric(20,8), close_price numeric(20,8), '
    . 'high_price numeric(20,8), low_price numeric(20,8), avg_price numeric(20,8), total_volume numeric(20,8), trade_count integer, '
    . 'window_end timestamp without time zone', 'names and types');
stop_all();
$node->stop;
done_testing();
