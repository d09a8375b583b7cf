# The example that cleans trades (examples/clean-trades): run by its one command, then trades in any order, twice, invalid and by
# two writers at once. Spikes, windows and Parquet files equal what built-ins make of the raw rows.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'tick-ingest is not built' unless $ENV{TICK_INGEST} && -x $ENV{TICK_INGEST};
my $seed = $ENV{TICK_SEED} // int(rand(1e6));
srand $seed;
diag("seed $seed");
my $node = make_node('clean');
my $database = $node->connstr('postgres');
my $example = "$FindBin::Bin/../../examples";
my $out = PostgreSQL::Test::Utils::tempdir . '/parquet';
sub sql { return $node->safe_psql('postgres', $_[0]); }

my ($shown, $errors) = ('', '');
$ENV{OUT} = $out;
$ENV{PYTHON} = '/nonexistent';
IPC::Run::run([ "$example/run", 'clean-trades', '--seconds', 2, '--database', $database ], '<', \'', '>', \$shown, '2>', \$errors);
is($?, 0, 'examples/run clean-trades') or diag("$shown\n$errors");
like($shown, qr/^ BTCUSDT \| .*^tumbling_1m differs from its query in 0 places/ms, 'shows windows and compares them');

# What clean_trades must be, by built-ins, from the raw rows alone: the first copy of each valid trade, and its jump.
my $clean = q{
  SELECT symbol, trade_id, price, price * quantity AS trade_value_usdt, quantity, trade_time,
         coalesce(abs(price / lag(price) OVER (PARTITION BY symbol ORDER BY trade_id) - 1) > 0.02, false) AS is_price_spike
  FROM (SELECT DISTINCT ON (symbol, trade_id) * FROM raw_trades
        WHERE symbol IS NOT NULL AND trade_id IS NOT NULL AND trade_time IS NOT NULL AND timestamp_ms > 0
          AND price > 0 AND price < 'infinity' AND quantity > 0 AND quantity < 'infinity'
        ORDER BY symbol, trade_id) AS valid};
my $windows = q{SELECT window_start, window_end, symbol, trade_count, avg_price, sum_qty, sum_value, spike_count, event_date FROM tumbling_1m};

# Sums of floats are compared to a billionth: tick's are rounded once, those of built-ins at each step.
sub same {
  my ($what) = @_;
  exact($node, $what);
  is(sql("WITH e AS ($clean), c AS (SELECT symbol, trade_id, price, trade_value_usdt, quantity, trade_time, is_price_spike FROM clean_trades)
      SELECT count(*) FROM ((TABLE e EXCEPT ALL TABLE c) UNION ALL (TABLE c EXCEPT ALL TABLE e)) AS d"), '0', "$what: clean_trades and its spikes");
  is(sql("WITH c AS ($clean), e AS (SELECT symbol, date_trunc('minute', trade_time, 'UTC') AS window_start, count(*) AS n, avg(price) AS a, sum(quantity) AS q,
        sum(trade_value_usdt) AS v, count(*) FILTER (WHERE is_price_spike) AS s FROM c GROUP BY 1, 2)
      SELECT count(*) FROM e FULL JOIN tumbling_1m AS r USING (symbol, window_start)
      WHERE (e.n, e.s, window_start + interval '1 min', (window_start AT TIME ZONE 'UTC')::date) IS DISTINCT FROM (r.trade_count, r.spike_count, r.window_end, r.event_date)
        OR abs(e.a - r.avg_price) > 1e-9 * e.a OR abs(e.q - r.sum_qty) > 1e-9 * e.q OR abs(e.v - r.sum_value) > 1e-9 * e.v"), '0', "$what: tumbling_1m");
  is(sql("WITH c AS ($clean), e AS (SELECT symbol, w AS window_start, count(*) AS n, min(price) AS low, max(price) AS high, sum(trade_value_usdt) AS v
        FROM c CROSS JOIN LATERAL generate_series(date_trunc('minute', trade_time, 'UTC') - interval '4 min', date_trunc('minute', trade_time, 'UTC'), '1 min') AS w
        GROUP BY 1, 2)
      SELECT count(*) FROM e FULL JOIN sliding_5m_1m AS r USING (symbol, window_start)
      WHERE (e.n, e.low, e.high, (window_start AT TIME ZONE 'UTC')::date, window_start + interval '5 min')
          IS DISTINCT FROM (r.trade_count, r.min_price, r.max_price, r.event_date, r.window_end) OR abs(e.v - r.sum_value) > 1e-9 * e.v"),
    '0', "$what: sliding_5m_1m");
}
same('the feed');

# ---- a gap that is repaired: its successor is judged anew
sql('TRUNCATE raw_trades; SELECT tick.reset(\'clean_trades\')');
my $insert = 'INSERT INTO raw_trades (symbol, price, quantity, trade_time, timestamp_ms, trade_id) VALUES ';
my $at = "'2024-03-01 12:00:01+00', 1709294401000";
sql("$insert ('X', 100, 1, $at, 1), ('X', 110, 1, $at, 3)");
is(sql('SELECT string_agg(trade_id::text, \' \' ORDER BY trade_id) FROM clean_trades WHERE is_price_spike'), '3', 'a jump over a gap is a spike');
sql("$insert ('X', 109, 1, $at, 2)");
is(sql('SELECT string_agg(trade_id::text, \' \' ORDER BY trade_id) FROM clean_trades WHERE is_price_spike'), '2', 'the trade in the gap takes it over');
same('a gap repaired');
is(sql('SELECT trade_count, spike_count FROM tumbling_1m'), '3|1', 'the window knows');

# ---- two writers bring a day and a half in any order, some twice, some that cannot be
my @rows;
my %price = (BTCUSDT => 60000, ETHUSDT => 3000, X => 109);
my $spikes = 0;
for my $id (10 .. 600) {
  for my $symbol (sort keys %price) {
    $price{$symbol} *= 1 + (rand() < 0.03 ? (++$spikes, rand() < 0.5 ? 0.03 : -0.03)[1] : (rand() - 0.5) / 100);
    my ($p, $q, $who, $trade) = (sprintf('%.8f', $price{$symbol}), sprintf('%.5f', 0.00001 + rand), "'$symbol'", $id);
    my $ms = 1709251200000 + int($id * 225_000 + rand 1000);
    if (rand() < 0.03) {
      my $kind = int rand 6;
      ($kind == 0 ? $p : $kind == 1 ? $q : $kind == 2 ? $ms : $kind == 3 ? $who : $kind == 4 ? $trade : $p)
        = ($kind == 0 ? -1 : $kind == 1 ? 0 : $kind == 2 ? 0 : $kind == 3 ? 'NULL' : $kind == 4 ? 'NULL' : "'NaN'");
    }
    my $row = "($who, $p, $q, to_timestamp($ms / 1000.0), $ms, $trade)";
    push @rows, $row;
    push @rows, $row if rand() < 0.05;
  }
}
my @order = sort { $a->[0] <=> $b->[0] } map { [ $_ + rand 400, $rows[$_] ] } 0 .. $#rows;
my @writers;
for my $writer (0, 1) {
  my @mine = map { $order[$_][1] } grep { $_ % 2 == $writer } 0 .. $#order;
  my $text = '';
  $text .= "$insert " . join(', ', splice @mine, 0, 1 + int rand 120) . ";\n" while @mine;
  my $file = "$ENV{TESTLOGDIR}/writer_$writer.sql";
  open my $script, '>', $file or die;
  print $script $text;
  close $script;
  push @writers, launch("writer_$writer", "$ENV{TICK_BINDIR}/psql", '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', $database, '-f', $file);
}
is(finish($_, 0, 120), 0, 'a writer is through') or diag(slurp($_->{log})) for @writers;
cmp_ok(sql('SELECT count(*) FROM raw_trades r WHERE price = -1 OR price = \'NaN\' OR quantity = 0 OR symbol IS NULL'), '>', 10, 'some were not valid');
cmp_ok(sql('SELECT count(*) FROM clean_trades WHERE is_price_spike'), '>', 10, 'there are spikes');
same('two writers');

# ---- Parquet
SKIP: {
  my $python = $ENV{TICK_PYTHON};
  skip 'no Python with pyarrow and psycopg', 9 unless $python;
  my @export = ($python, "$example/clean-trades/export.py", '--database', $database, '--out', $out);
  my $run = sub {
    my ($said, $wrong);
    IPC::Run::run([ @_ ], '<', \'', '>', \$said, '2>', \$wrong) or diag($wrong);
    return $said;
  };
  my $export = sub { $run->(@export, '--every', 0) };
  # What is in the files, as lines.
  my $read = 'import pyarrow.parquet as p, sys; [print(r["symbol"], r["window_start"].isoformat(), r["trade_count"], r["spike_count"], r["sum_value"], r["event_date"])'
    . ' for r in sorted(p.read_table(sys.argv[1]).to_pylist(), key=lambda r: (r["window_start"], r["symbol"]))]';
  my $files = sub { my $said = $run->($python, '-c', $read, "$out/tumbling_1m"); chomp $said; return $said; };
  my $expected = q{SELECT concat_ws(' ', symbol, to_char(window_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS') || '+00:00', trade_count, spike_count,
      CASE WHEN sum_value::text ~ '[.e]' THEN sum_value::text ELSE sum_value || '.0' END, event_date) FROM tumbling_1m WHERE final ORDER BY window_start, symbol};
  sql(q{SELECT tick.set_watermark('clean_trades', '2024-03-02 06:00+00'); SELECT tick.wait(NULL)});
  is($export->(), "tumbling_1m/event_date=2024-03-01 written\ntumbling_1m/event_date=2024-03-02 written\n", 'two days are handed on');
  is($files->(), sql($expected), 'the files hold the final windows');
  cmp_ok(sql('SELECT count(*) FROM tumbling_1m WHERE NOT final'), '>', 100, 'and there are others');
  is($export->(), '', 'then nothing');
  my $inode = sub { (stat "$out/tumbling_1m/event_date=2024-03-0$_[0]/part-0.parquet")[1] };
  my @before = map { $inode->($_) } 1, 2;
  sql("$insert ('BTCUSDT', 61000, 1, '2024-03-01 13:00:30+00', 1709298030000, 99999); SELECT tick.wait(NULL)");
  is($export->(), "tumbling_1m/event_date=2024-03-01 written\n", 'a late trade: its day alone');
  is($files->(), sql($expected), 'is as it is now');
  ok($inode->(1) != $before[0] && $inode->(2) == $before[1], 'the day was replaced as a whole, the other was not touched');
  # Killed at any moment while corrections come, and read meanwhile: each file is whole, and in the end all is there.
  my $broken = 0;
  for my $n (1 .. 2) {
    sql("$insert ('BTCUSDT', 61000, 1, '2024-03-0" . (1 + $n % 2) . " 03:00:30+00', 1709298030000, 10000$n); SELECT tick.wait(NULL)");
    my $loop = launch("export_$n", @export, '--every', 0.01);
    select undef, undef, undef, 0.1 + rand 0.5;
    ++$broken if !$files->();
    finish($loop, 'KILL');
  }
  is($broken, 0, 'a reader never meets half a file');
  $export->();
  is($files->(), sql($expected), 'after kills: the files hold the final windows');
}
stop_all();
$node->stop;
done_testing();
