# A table that another pipeline has already: schema stock, DECIMAL prices, a TIMESTAMP without zone, a SERIAL id. It gets
# its candles under the column names its dashboards use, exactly, and keeps its own definition.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = make_node('p2');
$node->safe_psql('postgres', q{
  CREATE SCHEMA stock;
  CREATE TABLE stock.real_time_prices (
    id SERIAL PRIMARY KEY,
    symbol VARCHAR(20) NOT NULL,
    price DECIMAL(20,8) NOT NULL,
    timestamp BIGINT NOT NULL,
    event_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    volume DECIMAL(20,8),
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
  );
  CREATE INDEX idx_real_time_prices_symbol ON stock.real_time_prices(symbol);
  CREATE INDEX idx_real_time_prices_timestamp ON stock.real_time_prices(timestamp);
  CREATE INDEX idx_real_time_prices_event_time ON stock.real_time_prices(event_time);
});

my $definition = q{
  SELECT attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid) FROM pg_attribute
    LEFT JOIN pg_attrdef ON (adrelid, adnum) = (attrelid, attnum)
    WHERE attrelid = 'stock.real_time_prices'::regclass AND attnum > 0 ORDER BY attnum;
  SELECT indexdef FROM pg_indexes WHERE (schemaname, tablename) = ('stock', 'real_time_prices') ORDER BY 1;
  SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'stock.real_time_prices'::regclass ORDER BY 1;
  SELECT relkind, relpersistence, relreplident, reloptions FROM pg_class WHERE oid = 'stock.real_time_prices'::regclass};
my $before = $node->safe_psql('postgres', $definition);

# What its consumer does: one INSERT and COMMIT a message, `id`, `created_at` by default, times in ms and as a
# TIMESTAMP. Messages come late, twice, and many share their millisecond; the volume may be missing.
srand 20240808;
my @symbols = qw(BTCUSDT ETHUSDT BNBUSDT ADAUSDT SOLUSDT);
my $day = 1723161600;

sub messages {
  my ($n) = @_;
  my @statements;
  for (1 .. $n) {
    my $symbol = $symbols[ rand @symbols ];
    my $ms = $day * 1000 + 250 * int(rand 4 * 1500);
    $ms -= 60_000 * int(rand 30) if rand() < 0.1;
    my $price = sprintf '%d.%08d', 1 + rand 60_000, rand 100_000_000;
    my $volume = rand() < 0.05 ? 'NULL' : sprintf '%d.%08d', rand 1_000_000, rand 100_000_000;
    my $insert = "INSERT INTO stock.real_time_prices (symbol, price, timestamp, event_time, volume) VALUES"
      . " ('$symbol', $price, $ms, timestamp '1970-01-01' + $ms * interval '1 ms', $volume);\n";
    push @statements, $insert;
    push @statements, $insert if rand() < 0.05;
  }
  return join '', @statements;
}

# The types of its own tables of candles.
sub query {
  my ($width) = @_;
  return qq{SELECT symbol, tick.tumble(event_time, '$width') AS window_start,
    tick.first(price, event_time, id)::decimal(20,8) AS open_price, tick.last(price, event_time, id)::decimal(20,8) AS close_price,
    max(price)::decimal(20,8) AS high_price, min(price)::decimal(20,8) AS low_price,
    avg(price)::decimal(20,8) AS avg_price, sum(volume)::decimal(20,8) AS total_volume, count(*)::integer AS trade_count
    FROM stock.real_time_prices GROUP BY 1, 2};
}

# Half of it is history when the rollups are made.
$node->safe_psql('postgres', messages(1500));
for my $width (1, 5) {
  my $unit = $width == 1 ? 'minute' : 'minutes';
  is($node->safe_psql('postgres',
    "SELECT tick.create_rollup('stock.aggregated_prices_${width}min', \$q\$" . query("$width $unit") . '$q$)'),
    "stock.aggregated_prices_${width}min", "rollup of $width min");
}
is($node->safe_psql('postgres', $definition), $before, 'the table is as it was');

# Exact equality in both directions; numeric to the last digit, built-ins only.
sub same {
  my ($what) = @_;
  exact($node, $what);
  for my $width (1, 5) {
    my $columns = 'symbol, window_start, window_end, open_price, close_price, high_price, low_price, avg_price, total_volume, trade_count';
    my $expected = "SELECT symbol, date_bin('$width min', event_time, '2000-01-01') AS window_start,
        date_bin('$width min', event_time, '2000-01-01') + interval '$width min' AS window_end,
        (array_agg(price ORDER BY event_time, id))[1] AS open_price,
        (array_agg(price ORDER BY event_time DESC, id DESC))[1] AS close_price,
        max(price) AS high_price, min(price) AS low_price, round(avg(price), 8) AS avg_price, sum(volume) AS total_volume,
        count(*) AS trade_count FROM stock.real_time_prices GROUP BY 1, 2";
    is($node->safe_psql('postgres', "WITH e AS ($expected), r AS (SELECT $columns FROM stock.aggregated_prices_${width}min)
        (SELECT 'missing', e::text FROM (SELECT $columns FROM e EXCEPT ALL TABLE r) e LIMIT 3) UNION ALL
        (SELECT 'too much', r::text FROM (TABLE r EXCEPT ALL SELECT $columns FROM e) r LIMIT 3)"),
      '', "$what: $width min equals built-ins");
  }
}

same('history');

# The average unrounded, too.
$node->safe_psql('postgres', "SELECT tick.create_rollup('stock.averages', 'SELECT symbol, tick.tumble(event_time, ''1 minute'') AS window_start,
  avg(price) AS avg_price, stddev(price) AS deviation, sum(price * volume) / nullif(sum(volume), 0) AS vwap FROM stock.real_time_prices GROUP BY 1, 2')");

sub averages_same {
  my ($what) = @_;
  $node->safe_psql('postgres', "SELECT tick.wait('stock.averages')");
  is($node->safe_psql('postgres', "SELECT count(*), count(*) FILTER (WHERE (r.avg_price, r.deviation, r.vwap) IS DISTINCT FROM (e.avg_price, e.deviation, e.vwap))
    FROM stock.averages r FULL JOIN (SELECT symbol, date_bin('1 min', event_time, '2000-01-01') AS window_start, avg(price) AS avg_price,
      stddev(price) AS deviation, sum(price * volume) / nullif(sum(volume), 0) AS vwap FROM stock.real_time_prices GROUP BY 1, 2) e USING (symbol, window_start)"),
    $node->safe_psql('postgres', "SELECT count(*) || '|0' FROM (SELECT FROM stock.real_time_prices GROUP BY symbol, date_trunc('minute', event_time)) w"),
    "$what: average, deviation and weighted price to the last digit");
}

averages_same('history');
$node->safe_psql('postgres', messages(1500));
same('single-row inserts');
averages_same('single-row inserts');
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM (SELECT FROM stock.real_time_prices GROUP BY symbol, timestamp HAVING count(*) > 1) t'),
  '>', 100, 'many rows share their time');

is($node->safe_psql('postgres', q{SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum)
    FROM pg_attribute WHERE attrelid = 'stock.aggregated_prices_1min'::regclass AND attnum <= 10}),
  'symbol character varying(20), window_start timestamp without time zone, open_price numeric(20,8), close_price numeric(20,8), '
    . 'high_price numeric(20,8), low_price numeric(20,8), avg_price numeric(20,8), total_volume numeric(20,8), trade_count integer, '
    . 'window_end timestamp without time zone', 'names and types');

# The line chart of its dashboard reads the average of a window by its start, whatever the session's time zone.
my $chart = q{SELECT md5(string_agg(t::text, ',' ORDER BY window_start, symbol)) FROM
  (SELECT symbol, window_start, window_end, avg_price FROM stock.aggregated_prices_5min) t};
is($node->safe_psql('postgres', "SET TimeZone = 'Asia/Kathmandu'; $chart"), $node->safe_psql('postgres', "SET TimeZone = 'UTC'; $chart"),
  'windows do not depend on the time zone of the session');
$node->safe_psql('postgres', "SET TimeZone = 'America/New_York';\n" . messages(50));
same('a writer in another time zone');

# Its own housekeeping.
$node->safe_psql('postgres', "UPDATE stock.real_time_prices SET price = price * 2 WHERE id % 97 = 0; DELETE FROM stock.real_time_prices WHERE id % 101 = 0");
same('corrections');
is($node->safe_psql('postgres', $definition), $before, 'the table is still as it was');

$node->stop;
done_testing();
