# Columns are added to rollups that stand: filled where raw rows are kept, NULL below; all that hangs on them stays.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = make_node('alter');
sub sql { my ($query) = @_; return $node->safe_psql('postgres', $query) }
sub refused {
  my ($query, $message, $what) = @_;
  my ($code, $out, $err) = $node->psql('postgres', $query);
  like($err, $message, $what);
}
make_trades($node, 1);
sub rows { my ($day, $count, $first) = @_; return "INSERT INTO trades SELECT (ARRAY['A', 'B', NULL])[1 + i % 3], timestamptz '2024-03-0$day 00:00+00' + i * interval '7 s', (i * 37) % 1000 / 8.0, (i % 11) / 4.0, $first + i FROM generate_series(0, $count) i" }
sql(rows($_, 3000, $_ * 100_000)) for 1 .. 3;
my $vwap = 'sum(price * qty) / nullif(sum(qty), 0) AS vwap';
sql(qq{
  CREATE ROLE owner_1 LOGIN; CREATE ROLE reader LOGIN; CREATE ROLE other LOGIN;
  GRANT CREATE ON SCHEMA public TO owner_1; GRANT SELECT, TRIGGER ON trades TO owner_1;
  SET ROLE owner_1;
  SELECT tick.create_rollup('fives', \$\$SELECT symbol, tick.tumble(ts, '5 min') AS t, $vwap, max(price) AS high FROM trades GROUP BY 1, 2\$\$);
  SELECT tick.create_rollup('hours', \$\$SELECT symbol, tick.tumble(ts, '1 hour') AS t, min(qty) AS least FROM trades GROUP BY 1, 2\$\$);
  SELECT tick.create_rollup('slides', \$\$SELECT tick.hop(ts, '1 hour', '20 min') AS t, count(*) AS n FROM trades GROUP BY 1\$\$);
  SELECT tick.create_rollup('latest', \$\$SELECT symbol, tick.last(price, ts, trade_id) AS price FROM trades GROUP BY 1\$\$)});
is(sql(q{SELECT tick.wait(NULL)}), 't', 'computed');

# Everything that hangs on the rollup.
sql(q{SET ROLE owner_1; GRANT SELECT ON fives TO reader; COMMENT ON VIEW fives IS 'five minutes'; COMMENT ON COLUMN fives.vwap IS 'weighed';
  CREATE VIEW above AS SELECT symbol, t, vwap FROM fives; ALTER VIEW fives SET (security_barrier = true); ALTER VIEW fives RENAME COLUMN high TO "Top"});
my $channel = sql(q{SELECT tick.channel('fives')});
my $listener = $node->background_psql('postgres');
$listener->query_safe(qq{LISTEN "$channel"});

sub refused_add { my ($columns, $message, $what) = @_; refused("SET ROLE owner_1; SELECT tick.alter_rollup('fives', add => \$\$$columns\$\$)", $message, $what) }
refused_add('sum(qty) AS vwap', qr/output column "vwap" appears twice/, 'a name that is there');
refused_add('qty', qr/column "qty" is neither grouped nor aggregated|must appear in the GROUP BY/, 'not aggregated');
refused_add('max(ts::date) AS day', qr/not IMMUTABLE/, 'not immutable');
refused_add('max(nothing) AS x', qr/column "nothing" does not exist\nLINE 1: SELECT max\(nothing\) AS x/, 'an unknown column, with its place');
refused_add("max(qty) AS x FROM trades UNION SELECT 1", qr/set operations|syntax error/, 'more than columns');
refused_add("max(qty) AS x FROM trades WHERE qty > 1 --", qr/syntax error|only output columns/, 'a WHERE');
refused_add("max(qty) AS x FROM trades GROUP BY symbol; SELECT 1", qr/exactly one SELECT/, 'two statements');
refused_add('max(max(qty)) OVER () AS x', qr/window functions/, 'a window function');
refused_add('', qr/only output columns/, 'nothing');
refused(q{SET ROLE other; SELECT tick.alter_rollup('fives', add => 'max(qty) AS x')}, qr/must be owner of view fives/, 'not the owner');
refused(q{BEGIN; SELECT tick.refresh('fives'); UPDATE tick_catalog.pending SET fresh = true; SELECT tick.alter_rollup('fives', add => 'max(qty) AS x')}, qr/"fives" is still to be computed/, 'not while it is being computed');
is(sql(q{SELECT count(*) FROM pg_attribute WHERE attrelid = 'fives_state'::regclass AND attname IN ('x', 'day')}), '0', 'nothing is left of them');

# Raw rows of the first day go; then columns are added while writers are at work.
sql('DROP TABLE trades_1');
my $last = sql(q{SELECT max(t) FROM fives WHERE t < '2024-03-02'});
my $old = sql(q{SELECT count(*), sum(vwap), sum("Top") FROM fives WHERE t < '2024-03-02'});
sql(q{CREATE PROCEDURE feed(first int) LANGUAGE plpgsql AS $$ BEGIN FOR i IN 1 .. 400 LOOP
  INSERT INTO trades VALUES ('C', timestamptz '2024-03-03 13:00+00' + i * interval '3 s', i % 50, i % 9, first + i);
  IF i % 40 = 0 THEN UPDATE trades SET price = price + 1 WHERE trade_id = first + i - 20; DELETE FROM trades WHERE trade_id = first + i - 10; END IF;
  COMMIT; END LOOP; END $$});
my $feed = launch('feed', "$ENV{TICK_BINDIR}/psql", '-X', '-d', $node->connstr('postgres'), '-c', 'CALL feed(5000000)');
wait_for($node, q{SELECT count(*) > 20 FROM trades WHERE symbol = 'C'});
sql(q{SET ROLE owner_1; SELECT tick.alter_rollup('fives', add => 'max(qty) AS biggest, count(*) AS n, tick.first(price, ts, trade_id) AS open');
  SELECT tick.alter_rollup('slides', add => 'avg(price) AS mean')});
sql(q{SET ROLE owner_1; SELECT tick.wait('fives'); SELECT tick.alter_rollup('fives', add => 'sum(qty) AS volume, avg(price) FILTER (WHERE qty > 1) AS mean')});
wait_for($node, q{SELECT count(*) = 390 FROM trades WHERE symbol = 'C'});
sub right {
  my ($what) = @_;
  exact($node, $what);
  my $query = "SELECT symbol, date_bin('5 min', ts, '2000-01-01 00:00+00') AS t, max(price), max(qty), count(*), (array_agg(price ORDER BY ts, trade_id))[1], sum(qty) AS volume, avg(price) FILTER (WHERE qty > 1)::numeric(20,6)
    FROM trades WHERE ts >= '2024-03-02' GROUP BY 1, 2";
  is(sql("WITH e AS ($query), r AS (SELECT symbol, t, \"Top\", biggest, n, open, volume, mean::numeric(20,6) FROM fives WHERE t >= '2024-03-02')
    SELECT (SELECT count(*) FROM (TABLE e EXCEPT ALL TABLE r) x), (SELECT count(*) FROM (TABLE r EXCEPT ALL TABLE e) x), (SELECT count(*) > 300 FROM r)"), '0|0|t', "$what: as built-ins say");
  is(sql("SELECT count(*) FROM fives WHERE t < '2024-03-02' AND num_nonnulls(biggest, open, mean) > 0"), '0', "$what: NULL where raw rows have gone");
}
right('added under a feed');
is(sql(q{SELECT count(*), sum(vwap), sum("Top") FROM fives WHERE t < '2024-03-02'}), $old, 'older windows are as they were');
is(sql(q{SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'fives'::regclass AND attnum > 0}),
  'symbol t vwap Top window_end final revision updated_at biggest n open volume mean', 'columns come last');
is(sql(q{SELECT has_table_privilege('reader', 'fives', 'SELECT'), obj_description('fives'::regclass), col_description('fives'::regclass, 3),
  (SELECT reloptions FROM pg_class WHERE oid = 'fives'::regclass), (SELECT count(*) > 0 FROM above), tick.channel('fives') = '} . $channel . q{'}),
  't|five minutes|weighed|{security_barrier=true}|t|t', 'grants, comments, options, views and channel stay');
$listener->query_safe('SELECT 1');
sql(q{INSERT INTO trades VALUES ('A', '2024-03-03 14:00+00', 1, 1, 7000001)});
right('the feed goes on');
like($listener->query('SELECT 1'), qr/1/, 'and so does the listener');

# Late rows and corrections: above as ever, below the added columns stay unknown while the others take them in.
sql(qq{INSERT INTO trades VALUES ('A', '$last', 4000, 50, 7000002), ('Z', '$last', 4000, 50, 7000003), ('Z', '2024-03-02 03:00+00', 1, 9, 7000004)});
sql(q{UPDATE trades SET qty = 0 WHERE trade_id = (SELECT trade_id FROM trades WHERE ts >= '2024-03-02 05:00+00' ORDER BY qty DESC, trade_id LIMIT 1);
  DELETE FROM trades WHERE ts BETWEEN '2024-03-02 04:00+00' AND '2024-03-02 04:01+00'; DELETE FROM trades WHERE trade_id = 7000003});
right('late rows and corrections');
is(sql(qq{SELECT "Top", n, biggest FROM fives WHERE symbol = 'A' AND t = '$last'}), '4000|2|', 'a late row merges into what is known');

# What is filled at read knows the columns by their place.
is(sql(q{SELECT count(*) > 100, bool_and(volume = 0 AND n = 0 AND revision IS NULL AND window_end = t + interval '5 min' AND biggest = 9) FROM tick.fill(null::fives, '2024-03-02 03:05+00', '2024-03-02 20:00+00') f WHERE symbol = 'Z'}), 't|t', 'filled');

# DDL, a rebuild, and one more column afterwards.
sql(q{ALTER TABLE trades RENAME COLUMN qty TO amount; ALTER VIEW fives RENAME TO quints});
sql(q{ALTER TABLE trades RENAME COLUMN amount TO qty; ALTER VIEW quints RENAME TO fives; SELECT tick.refresh('fives')});
right('after renames');
sql(q{SET ROLE owner_1; SELECT tick.alter_rollup('fives', add => 'min(price) AS low'); TRUNCATE fives_state});
right('rebuilt');
is(sql(q{SELECT count(*) FROM fives f WHERE t >= '2024-03-02' AND low IS DISTINCT FROM (SELECT min(price) FROM trades WHERE symbol IS NOT DISTINCT FROM f.symbol AND ts >= f.t AND ts < f.window_end)}), '0', 'with one more column');
is(sql(q{SELECT count(*) FROM tick_catalog.rollup WHERE filling > 0}), '0', 'all is filled');
refused(q{SELECT tick.alter_rollup('latest', add => 'count(*) AS n')}, qr/nothing can be added to "latest": rows that it has seen were retired/, 'no window, and rows have gone');

# What a dump brings back can be altered as well.
my $dump = $node->basedir . '/dump.sql';
$node->command_ok(['pg_dump', '-f', $dump, '-d', $node->connstr('postgres')], 'dumped');
sql('CREATE DATABASE copy');
$node->command_ok(['psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('copy'), '-f', $dump], 'restored');
my $candles = "SELECT md5(string_agg(f::text, ' ' ORDER BY f::text)) FROM (SELECT symbol, t, vwap, \"Top\", biggest, n, open, volume, mean, low FROM fives) f";
$node->poll_query_until('copy', q{SELECT count(*) = 0 FROM tick.status WHERE state <> 'live'}) or die;
is($node->safe_psql('copy', "SELECT tick.wait(NULL) \\g /dev/null\n$candles"), sql($candles), 'the same in the copy');
$node->safe_psql('copy', q{SELECT tick.alter_rollup('fives', add => 'max(price) - min(price) AS span')});
is($node->safe_psql('copy', q{SELECT tick.wait('fives'); SELECT count(*) FROM tick.verify('fives'); SELECT count(*) FROM fives WHERE span IS NULL AND t >= '2024-03-02'}), "t\n0\n0", 'altered in the copy');
$listener->quit;
$node->stop;
done_testing();
