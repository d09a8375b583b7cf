# Hopping windows: each row is in all the windows that hold it, whatever is done to it, next to tumbling rollups that
# share its panes. The oracle is generate_series and date_bin.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = make_node('hop', conf => "tick.scan_size = 0\n");
my $seed = $ENV{SEED} || int(rand(2**31));
diag("seed $seed");
my $query = sub { my ($size, $slide, $table) = @_; return qq{SELECT symbol, tick.hop(ts, '$size', '$slide') AS ts, tick.first(price, ts, trade_id) AS open, max(price) AS high,
  min(price) AS low, tick.last(price, ts, trade_id) AS close, sum(qty::numeric) AS volume, count(*) AS trades FROM $table GROUP BY 1, 2} };
my $oracle = sub { my ($size, $slide, $table) = @_; return qq{SELECT symbol, generate_series(date_bin('$slide', ts, '2000-01-01 00:00+00') - interval '$size' + interval '$slide',
    date_bin('$slide', ts, '2000-01-01 00:00+00'), '$slide') AS ts,
  (array_agg(price ORDER BY ts, trade_id, price))[1] AS open, max(price) AS high, min(price) AS low, (array_agg(price ORDER BY ts DESC, trade_id DESC, price DESC))[1] AS close,
  sum(qty::numeric) AS volume, count(*) AS trades FROM $table WHERE isfinite(ts) GROUP BY 1, 2} };
my @hops = (['5 minutes', '1 minute'], ['1 hour', '15 minutes'], ['30 seconds', '10 seconds'], ['1 day', '6 hours'], ['1 minute', '1 minute']);

is($node->safe_psql('postgres', q{SELECT string_agg(to_char(w AT TIME ZONE 'UTC', 'HH24:MI'), ' ') FROM tick.hop('2024-03-01 00:02:30+00', '5 min', '1 min') w}),
  '23:58 23:59 00:00 00:01 00:02', 'the windows of a time, across midnight');
is($node->safe_psql('postgres', q{SELECT count(*) FROM tick.hop('infinity'::timestamptz, '5 min', '1 min') w}), '1', 'of infinity, one');

for my $partitioned (0, 1) {
  my $what = $partitioned ? 'partitioned' : 'plain';
  my $table = "trades_$what";
  make_trades($node, $partitioned, $table);
  $node->safe_psql('postgres', "SELECT setseed(" . ($seed % 1000 / 1000) . "); INSERT INTO $table SELECT * FROM random_trades(3000, 0.1)");
  my $n = 0;
  for my $hop (@hops) {
    ++$n;
    $node->safe_psql('postgres', "SELECT tick.create_rollup('hop_${what}_$n', \$\$" . $query->(@$hop, $table) . '$$)');
  }
  $node->safe_psql('postgres', "SELECT tick.create_rollup('candles_1m_$what', \$\$" . $query->('1 minute', '1 minute', $table) =~ s/hop\((.*?), '[^']*'\)/tumble($1)/r . '$$)');
  my $same = sub {
    my ($when) = @_;
    exact($node, "$what, $when");
    for my $n (1 .. @hops) {
      my $columns = 'symbol, ts, open, high, low, close, volume, trades';
      is($node->safe_psql('postgres', qq{WITH o AS (} . $oracle->(@{ $hops[$n - 1] }, $table) . qq{) SELECT
        (SELECT count(*) FROM (SELECT $columns FROM hop_${what}_$n EXCEPT ALL SELECT $columns FROM o) a) + (SELECT count(*) FROM (SELECT $columns FROM o EXCEPT ALL SELECT $columns FROM hop_${what}_$n) b)}),
        '0', "$what, $when: hop $n equals built-ins");
    }
  };
  wait_for($node, q{SELECT count(*) = 0 FROM tick.status WHERE state = 'backfill'});
  $same->('history');
  $node->safe_psql('postgres', "INSERT INTO $table SELECT * FROM random_trades(500, 0.9); INSERT INTO $table VALUES ('X', '2024-03-01 23:59:59.999999+00', 1, 1, 1), ('X', '2024-03-02 00:00+00', 2, 2, 2), ('X', NULL, 1, 1, 1), ('X', 'infinity', 1, 1, 1)");
  $same->('new and late rows');
  $node->safe_psql('postgres', "UPDATE $table SET price = price * 2 WHERE trade_id % 7 = 0; UPDATE $table SET ts = ts + interval '3 minutes' WHERE trade_id % 11 = 0");
  $same->('updated');
  $node->safe_psql('postgres', "DELETE FROM $table WHERE trade_id % 5 = 0 OR price = (SELECT max(price) FROM $table)");
  $same->('deleted');
  if ($partitioned) {
    # What straddles the border of what is left stays as it is; what is attached comes in again.
    $node->safe_psql('postgres', "SELECT tick.wait(NULL); ALTER TABLE $table DETACH PARTITION ${table}_1");
    exact($node, "$what, a partition detached");
    is($node->safe_psql('postgres', "SELECT count(*) FROM hop_${what}_1 WHERE ts < '2024-03-01 12:00+00'") > 0 ? 1 : 0, 1, 'its windows stay');
    $node->safe_psql('postgres', "ALTER TABLE $table ATTACH PARTITION ${table}_1 FOR VALUES FROM ('2024-03-01 00:00+00') TO ('2024-03-02 00:00+00')");
    $same->('attached again');
  }
  $node->safe_psql('postgres', "SELECT tick.refresh('hop_${what}_1', '2024-03-01 10:00+00', '2024-03-01 11:00+00')");
  $same->('refreshed');
  is($node->safe_psql('postgres', "SELECT count(*) FROM tick.verify('hop_${what}_1', '2024-03-01 10:00+00', '2024-03-01 11:00+00')"), '0', 'verified in part');
  is($node->safe_psql('postgres', "SELECT count(*) FILTER (WHERE window_end = ts + interval '5 minutes') = count(*) AND count(*) > 0 FROM hop_${what}_1"), 't', 'window_end is the start and the size');
}
is($node->safe_psql('postgres', q{WITH w AS (UPDATE trades_plain SET price = price + 1 RETURNING 1) SELECT count(*) > 0 FROM w}), 't', 'all of it');
exact($node, 'all of it');

# Ranges that end within a window, with panes narrower than it.
$node->safe_psql('postgres', q{CREATE TABLE mm (ts timestamptz, price float8) PARTITION BY RANGE (ts);
  CREATE TABLE mm_1 PARTITION OF mm FOR VALUES FROM ('2024-03-01 10:00:30+00') TO ('2024-03-02 00:00+00');
  INSERT INTO mm VALUES ('2024-03-01 10:00:50+00', 1), ('2024-03-01 10:04:50+00', 2);
  SELECT tick.create_rollup('mm_s', $$SELECT tick.tumble(ts, '10 seconds') AS ts, count(*) AS n FROM mm GROUP BY 1$$);
  SELECT tick.create_rollup('mm_hop', $$SELECT tick.hop(ts, '5 min', '1 min') AS ts, count(*) AS n, max(price) AS p FROM mm GROUP BY 1$$);
  SELECT tick.create_rollup('mm_5', $$SELECT tick.tumble(ts, '5 min') AS ts, count(*) AS n, max(price) AS p FROM mm GROUP BY 1$$);
  SELECT tick.create_rollup('mm_week', $$SELECT tick.tumble(ts, '1 week') AS ts, count(*) AS n, max(price) AS p FROM mm GROUP BY 1$$)});
exact($node, 'before');
$node->safe_psql('postgres', "SELECT tick.refresh(r::regclass, '2024-03-01 10:00:10+00', '2024-03-01 10:00:40+00') FROM unnest('{mm_hop,mm_5,mm_week}'::text[]) r");
exact($node, 'part of a window refreshed');
is($node->safe_psql('postgres', 'SELECT n FROM mm_5'), '2', 'and whole');
$node->safe_psql('postgres', q{CREATE TABLE mm_0 (ts timestamptz, price float8); INSERT INTO mm_0 VALUES ('2024-03-01 10:00:10+00', 3);
  ALTER TABLE mm ATTACH PARTITION mm_0 FOR VALUES FROM ('2024-03-01 00:00+00') TO ('2024-03-01 10:00:30+00')});
exact($node, 'a partition attached that ends within a window');
is($node->safe_psql('postgres', q{SELECT (SELECT n FROM mm_5), (SELECT n FROM mm_week), (SELECT n FROM mm_hop WHERE ts = '2024-03-01 10:00+00'), (SELECT count(*) FROM tick.stale)}), '3|3|3|0', 'all of it is there');

# Which are no windows.
for my $wrong ([ "'5 minutes', '2 minutes'", 'must divide' ], [ "'49 seconds', '7 seconds'", 'must divide' ], [ "'2 days', '1 day'", 'must not exceed 24 hours' ],
  [ "'1 hour', '-1 minute'", 'must be positive' ], [ "'1 hour', '0'", 'must be positive' ], [ "'1 hour', '10 seconds'", 'a rollup keeps at most 64' ], [ "'1 hour', NULL", 'must be a constant' ]) {
  my ($rc, $out, $err) = $node->psql('postgres', "SELECT tick.create_rollup('wrong', \$\$SELECT tick.hop(ts, $wrong->[0]) AS ts, count(*) AS n FROM trades_plain GROUP BY 1\$\$)");
  like($err, qr/$wrong->[1]/, "refused: $wrong->[0]");
}
for my $nested ("tick.hop(tick.hop(ts, '5 min', '1 min'), '5 min', '1 min')", "tick.tumble(tick.hop(ts, '5 min', '1 min'), '5 min')", "tick.hop(ts, '5 min', '1 min') + '1 s'") {
  my ($rc, $out, $err) = $node->psql('postgres', "SELECT tick.create_rollup('wrong', \$\$SELECT $nested AS ts, count(*) AS n FROM trades_plain GROUP BY 1\$\$)");
  like($err, qr/set-returning/, "refused: $nested");
}
my ($rc, $out, $err) = $node->psql('postgres', q{SELECT tick.create_rollup('wrong', $$SELECT tick.hop(ts, '5 min', '1 min') AS ts, generate_series(1, 3) AS g, count(*) AS n FROM trades_plain GROUP BY 1, 2$$)});
like($err, qr/set-returning/, 'other set-returning functions are refused still');
$node->stop;
done_testing();
