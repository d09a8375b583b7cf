# What the engine tells about itself: every view, its columns, and that nobody sees what he may not read.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = make_node('observe');
make_trades($node, 1);
$node->safe_psql('postgres', q{
  CREATE ROLE reader LOGIN; CREATE ROLE nobody LOGIN;
  INSERT INTO trades SELECT * FROM random_trades(500, 0.1);
  SELECT tick.create_rollup('candles_1m', candle_query('1 minute'));
  SELECT tick.create_rollup('candles_5m', candle_query('5 minutes'));
  SELECT tick.create_rollup('latest', 'SELECT symbol, count(*) AS n FROM trades GROUP BY symbol');
  GRANT SELECT ON candles_5m TO reader;
  SELECT tick.alter_source('trades', watermark_delay => '3 seconds');
  SELECT tick.wait(NULL)});
sub sql { my ($query) = @_; return $node->safe_psql('postgres', $query) }

# A view that is asked every few seconds must not be so dear in the planner's eyes that it is compiled: that takes seconds.
for my $view (split /\n/, sql(q{SELECT oid::regclass FROM pg_class WHERE relnamespace = 'tick'::regnamespace AND relkind = 'v'})) {
  my ($cost) = sql("EXPLAIN SELECT * FROM $view") =~ /cost=[\d.]+\.\.([\d.]+)/;
  cmp_ok($cost, '<', sql('SHOW jit_above_cost') / 4, "$view is not compiled");
}

# Every column of a view is in the README's row of it.
my $readme = slurp("$FindBin::Bin/../../extension/README.md");
for my $view (qw(status rollups sources worker turns)) {
  my ($row) = $readme =~ /^\| view `$view` \| (.*)$/m;
  my @missing = grep { ($row // '') !~ /`$_`/ } split /\n/, sql(
    "SELECT attname FROM pg_attribute WHERE attrelid = 'tick.$view'::regclass AND attnum > 0 ORDER BY attnum");
  is("@missing", '', "columns of tick.$view are documented");
}

is(sql(q{SELECT rollup, source, owner, window_size, keys, pane, strategy, state, pending_ranges, query LIKE '%tumble%'
           FROM tick.rollups ORDER BY rollup::text}), join("\n",
    'candles_1m|trades|postgres|00:01:00|{symbol}|00:01:00|merge|live|0|t',
    'candles_5m|trades|postgres|00:05:00|{symbol}|00:01:00|merge|live|0|t',
    'latest|trades|postgres||{symbol}||merge|live|0|f'), 'tick.rollups');
is(sql(q{SELECT source, owner, rollups, watermark_delay, rows, watermark < max_time, partitions,
           partitions_from = '2024-03-01 00:00+00', partitions_to = '2024-03-04 00:00+00', attic FROM tick.sources}),
  'trades|postgres|3|00:00:03|0|t|4|t|t|trades_attic', 'tick.sources before any arrival');
sql(q{INSERT INTO trades SELECT * FROM random_trades(299, 0.2) UNION ALL SELECT 'A', '2024-03-03 23:00+00', 1, 1, 1});
sql('SELECT tick.wait(NULL)');
is(sql(q{SELECT rows, watermark = max_time - interval '3 seconds', rows_per_second > 0 FROM tick.sources}), '300|t|t',
  'tick.sources after an arrival');

# Turns.
is(sql(q{SELECT deltas, rows, ms > 0, started <= now() FROM tick.turns ORDER BY started DESC LIMIT 1}), '1|300|t|t', 'the last turn');
is(sql(q{SELECT pid = (SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_tick worker'), started_at < now(), turns > 0,
           busy BETWEEN 0 AND 1, last_ms > 0, p50_ms <= p99_ms, p99_ms <= max_ms, rows >= 300, deltas >= 1, lag_ms > 0, held_for,
           held_by IS NULL FROM tick.worker}), 't|t|t|t|t|t|t|t|t|t|00:00:00|t', 'tick.worker');
sql(q{DO $$ BEGIN FOR i IN 1 .. 300 LOOP
  INSERT INTO trades VALUES ('A', '2024-03-02 00:00+00', 1, 1, 1); COMMIT; PERFORM tick.wait(NULL); END LOOP; END $$});
is(sql('SELECT count(*) FROM tick.turns'), '256', 'as many turns as there is room for');
is(sql(q{SELECT started = (SELECT max(started) FROM tick.turns) FROM tick.turns OFFSET (SELECT count(*) - 1 FROM tick.turns)}), 't',
  'the newest of them');

# Somebody holds the horizon.
my $idle = $node->background_psql('postgres');
$idle->query_safe(q{SET application_name = 'forgotten'; BEGIN; SELECT pg_current_xact_id()});
sql(q{INSERT INTO trades VALUES ('A', '2024-03-02 00:00+00', 1, 1, 1)});
$node->poll_query_until('postgres', q{
    WITH w AS (INSERT INTO trades VALUES ('A', '2024-03-02 00:00+00', 1, 1, 1) RETURNING 1)
    SELECT held_for > '2 s' AND held_by ~ '^process \d+ \(forgotten, idle in transaction\)$' AND held_since < now() FROM tick.worker, w})
  or die 'the holder is not shown: ' . sql('SELECT * FROM tick.worker');
pass('who holds the horizon is shown');
$idle->query_safe('COMMIT');
$idle->quit;

# How a rollup comes about.
like(sql(q{SELECT * FROM tick.explain('candles_5m')}),
  qr/\Asource public\.trades: final 00:00:03 after the newest time, or 00:01:00 after the last arrival; 4 partitions
  group \d+: rows are folded once per symbol and pane of 00:01:00, for public\.candles_1m, public\.candles_5m, public\.latest
    rollup public\.candles_5m: window of 00:05:00 = 5 panes, strategy merge, live\Z/, 'tick.explain');
like(sql(q{SELECT string_agg(e, ' ') FROM tick.explain('latest') e}), qr/rollup public\.latest: no window/, 'tick.explain without window');
my ($code, $out, $err) = $node->psql('postgres', q{SELECT * FROM tick.explain('trades')});
like($err, qr/"public\.trades" is not a rollup/, 'tick.explain of a table');

# Rights.
sub as { my ($role, $query) = @_; return sql("SET ROLE $role; $query") }
is(as('reader', 'SELECT rollup FROM tick.rollups'), 'candles_5m', 'a reader sees his rollup');
is(as('reader', 'SELECT count(*) FROM tick.sources'), '0', 'and not its source');
like(as('reader', q{SELECT string_agg(e, ' ') FROM tick.explain('candles_5m') e}), qr/source public\.trades: you may not read it.*for public\.candles_5m /,
  'nor what others made of it');
is(as('nobody', 'SELECT (SELECT count(*) FROM tick.rollups) + (SELECT count(*) FROM tick.sources)'), '0', 'nobody sees nothing');
is(as('nobody', 'SELECT count(*) FROM tick.worker'), '1', 'all may see the worker');
($code, $out, $err) = $node->psql('postgres', q{SET ROLE nobody; SELECT * FROM tick.explain('candles_5m')});
like($err, qr/is not a rollup that you may read/, 'tick.explain is refused');

# A view does not wait for somebody's lock, and survives what was dropped.
my $locker = $node->background_psql('postgres');
$locker->query_safe('BEGIN; LOCK TABLE trades');
is(sql(q{SET statement_timeout = '5s'; SELECT source, partitions FROM tick.sources}), 'trades|0', 'tick.sources while the source is locked');
$locker->query_safe('COMMIT');
$locker->quit;
sql(q{SELECT tick.drop_rollup('latest')});
is(sql(q{SELECT count(*) FROM tick.rollups}), '2', 'a dropped rollup has gone');
exact($node, 'at the end');
$node->stop;
done_testing();
