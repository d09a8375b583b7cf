# name_live: a rollup as the reader's own snapshot sees it. It equals its defining query over the source in the same snapshot
# while the worker stands still, whatever rows came, left or were changed, in the reader's own transaction too; at random
# moments under a feed with corrections; and it follows its rollup's view.
#
#   TICK_LIVE_MOMENTS  random moments under the feed (default 20)
#   TICK_LIVE_RATE     rows a second of the feed (default 5000)
use strict;
use warnings;
BEGIN { $ENV{PG_TEST_TIMEOUT_DEFAULT} //= 1800 }  # sessions stay open while many moments are looked at
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $moments = $ENV{TICK_LIVE_MOMENTS} // 20;
my $rate = $ENV{TICK_LIVE_RATE} // 5000;
my $seed = $ENV{TICK_SEED} // int(rand(1e6));
diag("seed $seed, $moments moments, $rate rows a second");

my $node = make_node('live');
make_trades($node, 1);
sub sql { return $node->safe_psql('postgres', $_[0]); }
sub refused { my ($query, $why, $what) = @_; my ($rc, $out, $err) = $node->psql('postgres', $query); like($err, $why, $what); }

my %query = (
  hops => q{SELECT symbol, tick.hop(ts, '5 minutes', '1 minute') AS ts, sum(qty) AS volume, count(*) AS n FROM trades GROUP BY 1, 2},
  numbers => q{SELECT tick.tumble(ts, '1 hour') AS hour, sum(qty::numeric) AS total, max(symbol) AS most, avg(trade_id) AS mean FROM trades WHERE price > 110 GROUP BY 1},
  totals => q{SELECT count(*) AS n, sum(qty) AS volume, min(price) AS low FROM trades},
  latest => q{SELECT symbol, tick.last(price, ts, trade_id) AS price, count(*) AS n FROM trades GROUP BY 1});
my %plain = (
  hops => q{SELECT symbol, m - h * interval '1 minute', sum(qty), count(*) FROM (SELECT *, date_bin('1 minute', ts, '2000-01-01') AS m FROM trades) t,
    generate_series(0, 4) h WHERE isfinite(ts) GROUP BY 1, 2},
  numbers => q{SELECT date_trunc('hour', ts), sum(qty::numeric), max(symbol), avg(trade_id) FROM trades WHERE price > 110 AND isfinite(ts) GROUP BY 1},
  totals => q{SELECT count(*), sum(qty), min(price) FROM trades},
  latest => q{SELECT symbol, (array_agg(price ORDER BY ts DESC, trade_id DESC) FILTER (WHERE price IS NOT NULL))[1], count(*) FROM trades GROUP BY 1});
my %columns = (candles_1m => 'symbol, ts, open, high, low, close, volume, trades, vwap', hops => 'symbol, ts, volume, n', numbers => 'hour, total, most, mean', totals => 'n, volume, low', latest => 'symbol, price, n');

my %condition = (
  candles_1m => [q{symbol = 'S1'}, q{symbol IN ('S2', 'OWN', 'NEW') AND ts >= '2024-03-01 12:10:30+00'}, q{ts < '2024-03-01 12:05+00'}, q{symbol IS NULL},
    q{ts BETWEEN '2024-03-01 12:02+00' AND '2024-03-01 12:20:20+00' AND symbol <> 'S4'}, q{ts >= (SELECT max(ts) FROM trades) - interval '20 hours'},
    q{symbol = 'S5' AND '2024-03-01 12:13+00' = ts}, q{length(symbol) = 2 OR ts > now()}, q{ts > 'infinity'}, q{ts = NULL AND symbol = 'S1'}],
  hops => [q{symbol = 'S1' AND ts >= '2024-03-01 12:07:30+00' AND ts < '2024-03-01 12:19:30+00'}, q{ts > '2024-03-02 12:00+00'}, q{ts = '2024-03-01 12:00+00'}]);

# Quantities are quarters: sums of floats are the same in any order. Each of these is one statement, and one snapshot.
sql(q{INSERT INTO trades SELECT symbol, ts, price, floor(qty) / 4, trade_id FROM random_trades(4000, 0.3);
  INSERT INTO trades SELECT symbol, ts, price, floor(qty) / 4, trade_id FROM random_trades(2000, 0.4, '2024-03-02 12:00+00')});
sql("SELECT tick.create_rollup('candles_1m', candle_query('1 minute'))");
sql("SELECT tick.create_rollup('$_', q\$$query{$_}\$q\$)" =~ s/q\$/\$q\$/r) for sort keys %query;
sub check {
  my ($what, $before, $after) = @_;
  my @tests = ("'candles', oracle_differences('candles_1m_live', '1 minute')");
  push @tests, "'$_', (SELECT count(*) FROM ((SELECT $columns{$_} FROM ${_}_live EXCEPT ALL ($plain{$_})) UNION ALL (($plain{$_}) EXCEPT ALL SELECT $columns{$_} FROM ${_}_live)) d)"
    for sort keys %query;
  # What a statement asks for must be what it gets of all: without OFFSET its conditions reach live.
  my $some = sub { my ($rollup, $condition, $offset) = @_;
    "(SELECT coalesce(md5(string_agg(c::text, '' ORDER BY c)), '') FROM (SELECT * FROM (SELECT $columns{$rollup} FROM ${rollup}_live $offset) a WHERE $condition) c)" };
  my @asked = map { my $rollup = $_; map { my $c = $_; map { "SELECT 'asked', " . $some->($rollup, $c, $_) } '', 'OFFSET 0' } @{$condition{$rollup}} } sort keys %condition;
  my $found = sql(($before // '') . ';' . join(';', (map { "SELECT $_" } @tests), @asked) . ';' . ($after // ''));
  my @sums = $found =~ /^asked\|(.*)$/mg;
  my @differ = grep { $sums[2 * $_] ne $sums[2 * $_ + 1] } 0 .. @sums / 2 - 1;
  ok(@sums == @asked && !@differ, "$what: what is asked for is got") or diag("@asked[map { 2 * $_ } @differ]");
  my @wrong = grep { /^(candles|hops|numbers|totals|latest)\|[^0]/ } split /\n/, $found;
  my $seen = () = $found =~ /^(candles|hops|numbers|totals|latest)\|/mg;
  ok($seen == 5 && !@wrong, "$what: live is what the source says") or diag($found);
}
check('while history may still be computed');
exact($node, 'the rollups');
check('at rest');
is(sql('SELECT count(*) FROM (TABLE candles_1m EXCEPT ALL TABLE candles_1m_live) d'), '0', 'then it is the view itself, to the last column');
is(sql('SELECT count(*) FROM (TABLE candles_1m_live EXCEPT ALL TABLE candles_1m) d'), '0', 'and no more');

sql('ALTER TABLE candles_1m_state ADD noted text DEFAULT clock_timestamp()::text; ALTER TABLE candles_1m_state ALTER noted TYPE varchar(100)');
check('with a column of the owner\'s in the state table');

# ---- the worker stands still: nothing of what follows is merged.
my $worker = $node->background_psql('postgres');
$worker->query_safe('BEGIN; LOCK TABLE tick_catalog.frontier IN EXCLUSIVE MODE');
my $stored = sql('SELECT sum(trades) FROM candles_1m');
sql(q{INSERT INTO trades SELECT symbol, ts, price, floor(qty) / 4, trade_id FROM random_trades(3000, 0.5, '2024-03-01 12:20+00')});
check('new rows');
sql(q{INSERT INTO trades VALUES ('NEW', '2024-03-03 05:00+00', 120, 1, 7), (NULL, '2024-03-03 05:00+00', 130, 2, 8), ('OLD', '2020-01-01', 140, 1, 9)});
check('new keys, a null key, a new window');
sql(q{UPDATE trades SET qty = qty + 1 WHERE symbol = 'S2'; UPDATE trades_1 SET symbol = 'MOVED' WHERE symbol = 'S3' AND ts < '2024-03-01 12:10+00'});
check('changed rows');
sql(q{DELETE FROM trades WHERE symbol = 'S4'});
check('a key that has gone');
sql(q{DELETE FROM trades t USING (SELECT symbol, date_trunc('minute', ts) AS m, max(price) AS p FROM trades GROUP BY 1, 2) b
  WHERE t.symbol = b.symbol AND date_trunc('minute', ts) = b.m AND t.price = b.p});
check('extremes that have left');
my $own = q{INSERT INTO trades VALUES ('OWN', '2024-03-03 06:00+00', 120, 1, 70); SAVEPOINT a; DELETE FROM trades WHERE symbol = 'S5'; INSERT INTO trades_2 VALUES ('OWN', '2024-03-02 06:00+00', 1, 1, 71)};
check('in a transaction that writes', "BEGIN; $own", 'ROLLBACK');
check('after a savepoint rolled back', "BEGIN; $own; SELECT sum(trades) FROM candles_1m_live; ROLLBACK TO a", 'ROLLBACK');
check('in a repeatable read transaction that writes', "BEGIN ISOLATION LEVEL REPEATABLE READ; $own", 'ROLLBACK');
check('in a serializable one', "BEGIN ISOLATION LEVEL SERIALIZABLE; $own", 'ROLLBACK');

# Cursors see what there was when they were opened, also of rows written to a partition itself, which no statement's end flushes.
my $both = 'SELECT (SELECT count(*) FROM trades) - (SELECT sum(trades) FROM candles_1m_live)';
my $leaf = q{INSERT INTO trades_2 VALUES ('OWN', '2024-03-02 06:00+00', 1, 1, 72)};
is(sql("BEGIN; DECLARE c CURSOR FOR $both; $leaf; FETCH c; ROLLBACK"), '0', 'a cursor from before a partition was written to');
is(sql("BEGIN; $leaf; DECLARE c CURSOR FOR $both; FETCH c; ROLLBACK"), '0', 'and from after');
refused("BEGIN; $leaf; DECLARE c CURSOR FOR $both; $leaf; FETCH c", qr/cannot be told apart/, 'one from in between is refused');
refused("BEGIN; $leaf; DECLARE c CURSOR FOR $both; INSERT INTO trades TABLE trades_1 LIMIT 1; FETCH c", qr/cannot be told apart/, 'also when they are flushed');
is(sql("BEGIN; $leaf; INSERT INTO trades SELECT * FROM trades_1 LIMIT 1; $leaf; UPDATE trades_2 SET qty = 2 WHERE trade_id = 72; DECLARE c CURSOR FOR $both; FETCH c; DELETE FROM trades_2 WHERE symbol = 'OWN'; $both; ROLLBACK"),
  "0\n0", 'or left');
sql(q{CREATE FUNCTION put(t text) RETURNS int LANGUAGE plpgsql AS $p$ BEGIN EXECUTE format('INSERT INTO %s VALUES (''OWN'', ''2024-03-02 06:00+00'', 1, 1, 73)', t); RETURN 0; END $p$});
is(sql("BEGIN; SELECT put('$_') + ($both); ROLLBACK"), '0', "a query does not see what it makes a function write to $_") for qw(trades trades_2);
is(sql(q{BEGIN; SET LOCAL default_transaction_read_only = on; SELECT sum(trades) FROM candles_1m}), $stored, 'the worker has merged nothing of it');
is(sql(q{BEGIN READ ONLY; SELECT sum(trades) = (SELECT count(*) FROM trades) FROM candles_1m_live}), 't', 'a read only transaction can read it');

# A snapshot from before goes on seeing what it saw, whatever is merged meanwhile.
my $old = $node->background_psql('postgres');
my $sum = 'SELECT (SELECT count(*) FROM trades), (SELECT sum(trades) FROM candles_1m_live), (SELECT md5(string_agg(c::text, chr(10) ORDER BY symbol, ts)) FROM candles_1m_live c)';
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
my $seen = $old->query_safe($sum);
like($seen, qr/^(\d+)\|\1\|/, 'all rows are counted');
sql(q{DELETE FROM trades WHERE symbol = 'S6'; INSERT INTO trades SELECT 'S7', ts + interval '1 s', 1, 1, trade_id FROM trades_1});
$worker->query_safe('COMMIT');
exact($node, 'when the worker goes on');
check('when all is merged');
is($old->query_safe($sum) =~ s/\|[^|]*$//r, $seen =~ s/\|[^|]*$//r, 'an older snapshot still sees its own rows');
is($old->query_safe(q{SELECT oracle_differences('candles_1m_live', '1 minute')}), '0', 'exactly');
$old->query_safe('COMMIT');
$old->quit;

# A transaction whose snapshot is older than a definition: its own rows are captured for that one, too.
$old = $node->background_psql('postgres');
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
sql(q{SELECT tick.create_rollup('later', 'SELECT symbol, tick.tumble(ts, ''5 minutes'') AS ts, stddev(qty) AS spread FROM trades GROUP BY 1, 2'); SELECT tick.wait(NULL)});
is($old->query_safe(q{INSERT INTO trades VALUES ('OWN', '2024-03-02 06:00+00', 1, 1, 74); INSERT INTO trades_2 VALUES ('OWN', '2024-03-02 06:00+00', 1, 1, 75);
  SELECT oracle_differences('candles_1m_live', '1 minute') + (SELECT count(*) FROM tick.verify('candles_1m'))}), '0', 'rows captured by a program that the snapshot does not know');
$old->query_safe('ROLLBACK');
$old->quit;
sql('DROP VIEW later');

# ---- plans: conditions, order and limits reach the index of the state table.
sql('ANALYZE candles_1m_state');
my $plan = sql(q{SET enable_seqscan = off; EXPLAIN (COSTS off) SELECT * FROM candles_1m_live WHERE symbol = 'S1' AND ts >= '2024-03-01 12:10+00' ORDER BY ts DESC LIMIT 10});
like($plan, qr/Index Scan.*candles_1m_state.*\n.*Index Cond: .*ts >=/, 'conditions are looked up') or diag($plan);
like($plan, qr/Merge Append/, 'and its newest rows are not sorted') or diag($plan);

# ---- who may read, and who follows whom.
sql('CREATE ROLE reader; CREATE ROLE stranger; GRANT SELECT ON candles_1m_live TO reader; CREATE SCHEMA other; GRANT USAGE ON SCHEMA other TO PUBLIC');
is(sql('SET ROLE reader; SELECT count(*) > 0 FROM candles_1m_live'), 't', 'SELECT on it is enough');
refused('SET ROLE reader; SELECT count(*) FROM candles_1m', qr/permission denied/, 'and is no more than that');
refused('SET ROLE stranger; SELECT count(*) FROM candles_1m_live', qr/permission denied for view candles_1m_live/, 'without it nobody reads');
refused('SET ROLE stranger; SELECT tick_catalog.live_places($$candles_1m_state$$::regclass)', qr/permission denied for view candles_1m_live/, 'nor by the function below');
sql('GRANT SELECT ON candles_1m TO stranger');
refused(q{BEGIN; INSERT INTO trades VALUES ('OWN', '2024-03-01 12:00+00', 1, 1, 77); SET LOCAL ROLE stranger; SELECT * FROM tick_catalog.live('candles_1m_state'::regclass) AS l(symbol text, partial float8)},
  qr/does not fit what the rollup shows/, 'not even by the function more than the view shows');
is(sql('SET ROLE stranger; SELECT count(*) > 0 FROM candles_1m_live'), 't', 'who may read the rollup may read it');
sql('REVOKE SELECT ON candles_1m FROM stranger');
refused('SET ROLE stranger; SELECT count(*) FROM candles_1m_live', qr/permission denied for view candles_1m_live/, 'as long as he may');
# A session that loads a dump gives each its rights itself; two of them would meet at the same row.
is(sql(q{BEGIN; SET LOCAL check_function_bodies = off; SET LOCAL row_security = off; SELECT set_config('search_path', '', true); GRANT SELECT ON public.candles_1m TO stranger;
  SELECT pg_catalog.has_table_privilege('stranger', 'public.candles_1m_live', 'SELECT'); ROLLBACK}), "\nf", 'a restore is not followed');
sql(q{SELECT tick.alter_rollup('candles_1m', add => 'max(qty) AS biggest'); ALTER VIEW candles_1m RENAME COLUMN vwap TO mean});
sql(q{SELECT tick.wait(NULL)});
is(sql(q{SELECT count(*) FROM (SELECT symbol, ts, biggest FROM candles_1m_live EXCEPT ALL SELECT symbol, date_trunc('minute', ts), max(qty) FROM trades GROUP BY 1, 2) d}), '0',
  'it has the column that was added');
is(sql(q{SELECT count(mean) > 0 FROM candles_1m_live}), 't', 'and the name that one was given');
sql(q{ALTER VIEW candles_1m RENAME COLUMN mean TO vwap; ALTER VIEW candles_1m RENAME TO c1; ALTER VIEW c1 SET SCHEMA other; CREATE ROLE heir; GRANT ALL ON SCHEMA other TO heir; GRANT SELECT ON trades TO heir; ALTER VIEW other.c1 OWNER TO heir});
is(sql(q{SELECT r.live, c.relowner::regrole FROM tick_catalog.rollup r JOIN pg_class c ON c.oid = r.live WHERE r.view = 'other.c1'::regclass}), 'other.c1_live|heir', 'it follows name, schema and owner');
is(sql(q{SELECT oracle_differences('other.c1_live', '1 minute')}), '0', 'and still answers');
is(sql('SET ROLE reader; SELECT count(*) > 0 FROM other.c1_live'), 't', 'to the same readers');
sql('DROP VIEW latest_live');
is(sql('SELECT count(*) > 0 FROM latest'), 't', 'it can be dropped alone');
sql('SELECT tick.drop_rollup($$latest$$); DROP VIEW hops');
is(sql(q{SELECT to_regclass('hops_live') IS NULL AND to_regclass('latest') IS NULL}), 't', 'and goes with its rollup');
sql('CREATE TABLE taken_live (i int)');
is(sql(q{SELECT tick.create_rollup('taken', 'SELECT symbol, percentile_cont(0.5) WITHIN GROUP (ORDER BY price) AS p FROM trades GROUP BY 1');
  SELECT live IS NULL FROM tick_catalog.rollup WHERE view = 'taken'::regclass}), "taken\nt", 'one that is recomputed has none');
refused(q{SELECT * FROM tick_catalog.live('taken_state'::regclass) AS l(symbol text)}, qr/rollup public.taken is recomputed/, 'and says so');
sql('DROP VIEW taken');
refused(q{SELECT tick.create_rollup('taken', 'SELECT count(*) AS n FROM trades')}, qr/relation "taken_live" already exists/, 'a name that is taken is refused');
refused(q{INSERT INTO totals_live (n) VALUES (1)}, qr/cannot insert into view/, 'nobody writes through it');

# A dump brings it back at work.
my $dump = "$PostgreSQL::Test::Utils::tmp_check/dump.sql";
$node->command_ok(['pg_dump', '-f', $dump, 'postgres'], 'a dump');
sql('CREATE DATABASE restored');
$node->command_ok(['psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', $dump, '-d', 'restored'], 'is restored');
$node->poll_query_until('restored', q{SELECT bool_and(state = 'live') FROM tick.status}) or die 'timed out: restored';
is($node->safe_psql('restored', q{BEGIN; INSERT INTO trades SELECT symbol, ts, price + 1, qty, -trade_id FROM trades_1; DELETE FROM trades WHERE symbol = 'S1';
  SELECT oracle_differences('other.c1_live', '1 minute')}), '0', 'and answers there');
sql('DROP DATABASE restored WITH (FORCE)');

# A rollup that is set aside refuses rather than answers wrongly.
sql(q{CREATE TABLE odd (k text, v text); SELECT tick.create_rollup('odd_sum', 'SELECT k, sum(v::int8) AS s FROM odd GROUP BY 1'); INSERT INTO odd VALUES ('a', '1'), ('b', '2'); SELECT tick.wait('odd_sum'); INSERT INTO odd VALUES ('a', 'x')});
wait_for($node, "SELECT state = 'error' FROM tick.status WHERE rollup = 'odd_sum'::regclass");
refused('SELECT * FROM odd_sum_live', qr/is not kept up to date now/, 'one that is set aside refuses');

# ---- random moments under a feed with corrections: event time runs 600 times as fast, so that a window has 2000 rows;
# corrections reach back ten windows, the comparison a few more.
sql(q{CREATE TABLE ticks (symbol text, ts timestamptz, price float8, qty float8, trade_id int8) PARTITION BY RANGE (ts); CREATE INDEX ON ticks (ts); CREATE INDEX ON ticks (trade_id);
  CREATE TABLE feeding (ends bool, rows int8, seconds float8)});
my $hours = 30 + 2 * int($moments / 8);
sql("DO \$d\$ BEGIN FOR i IN 0 .. $hours BY 2 LOOP EXECUTE format('CREATE TABLE ticks_%s PARTITION OF ticks FOR VALUES FROM (%L) TO (%L)', i,
  '2024-03-09 22:00+00'::timestamptz + i * interval '1 hour', '2024-03-10 00:00+00'::timestamptz + i * interval '1 hour'); END LOOP; END \$d\$");
sql("SELECT tick.create_rollup('candles_1m', candle_query('1 minute', 'ticks'))");
sql(sprintf(q{CREATE PROCEDURE feed(seed float8) LANGUAGE plpgsql AS $p$
DECLARE
  began timestamptz := clock_timestamp(); fed int8 := 0; due int8; start timestamptz := '2024-03-10 00:00+00'; low int8; at timestamptz;
BEGIN
  PERFORM setseed(seed);
  LOOP
    due := least(%d * extract(epoch FROM clock_timestamp() - began), fed + 400);
    IF due > fed THEN
      INSERT INTO ticks SELECT 'S' || (random() * 199)::int, start + (i * 30 - (random() * 20000)::int) * interval '1 ms', 100 + floor(random() * 10000) / 100,
        floor(random() * 4000) / 4, i FROM generate_series(fed + 1, due) AS i;
      fed := due;
    END IF;
    low := greatest(fed - (random() * 20000)::int, 1);
    at := start + low * interval '30 ms';
    CASE (random() * 9)::int
      WHEN 1 THEN DELETE FROM ticks WHERE trade_id BETWEEN low AND low + 2 AND ts > at - interval '1 min' AND ts < at + interval '1 min';
      WHEN 2 THEN UPDATE ticks SET price = price + 1, qty = qty + 1 WHERE trade_id BETWEEN low AND low + 2 AND ts > at - interval '1 min' AND ts < at + interval '1 min';
      WHEN 3 THEN UPDATE ticks SET symbol = 'S' || (random() * 199)::int WHERE trade_id = low AND ts > at - interval '1 min' AND ts < at + interval '1 min';
      WHEN 4 THEN INSERT INTO ticks VALUES ('S1', at, 1, 1, -low);
      ELSE NULL;
    END CASE;
    COMMIT;
    EXIT WHEN EXISTS (SELECT FROM feeding WHERE ends);
  END LOOP;
  INSERT INTO feeding VALUES (false, fed, extract(epoch FROM clock_timestamp() - began));
END $p$}, $rate));
sql(q{CREATE FUNCTION recent_differences(since timestamptz) RETURNS int8 LANGUAGE sql STABLE AS $f$
  WITH expected AS (
    SELECT symbol, date_trunc('minute', ts) AS ts, (array_agg(price ORDER BY ts, trade_id))[1] AS open, max(price) AS high, min(price) AS low,
           (array_agg(price ORDER BY ts DESC, trade_id DESC))[1] AS close, sum(qty) AS volume, count(*) AS trades
    FROM ticks WHERE ticks.ts >= since GROUP BY 1, 2)
  SELECT count(*) FROM expected e FULL JOIN (SELECT * FROM candles_1m_live WHERE ts >= since) c USING (symbol, ts)
  WHERE (e.open, e.high, e.low, e.close, e.volume, e.trades) IS DISTINCT FROM (c.open, c.high, c.low, c.close, c.volume, c.trades) $f$;
  CREATE FUNCTION symbol_differences(since timestamptz, which text) RETURNS int8 LANGUAGE sql STABLE AS $f$
  WITH expected AS (
    SELECT date_trunc('minute', ts) AS ts, (array_agg(price ORDER BY ts, trade_id))[1] AS open, max(price) AS high, min(price) AS low,
           (array_agg(price ORDER BY ts DESC, trade_id DESC))[1] AS close, sum(qty) AS volume, count(*) AS trades
    FROM ticks WHERE ticks.ts >= since AND symbol = which GROUP BY 1)
  SELECT count(*) FROM expected e FULL JOIN (SELECT * FROM candles_1m_live WHERE ts >= since AND symbol = which) c USING (ts)
  WHERE (e.open, e.high, e.low, e.close, e.volume, e.trades) IS DISTINCT FROM (c.open, c.high, c.low, c.close, c.volume, c.trades) $f$;
  CREATE TABLE results (moment int, wrong int8, waiting int8, view_ms float8, live_ms float8);
  CREATE PROCEDURE look(moments int) LANGUAGE plpgsql AS $p$
  DECLARE
    since timestamptz; began timestamptz; wrong int8; waiting int8; view_ms float8; live_ms float8; which text;
  BEGIN
    FOR moment IN 1 .. moments LOOP
      since := date_trunc('minute', (SELECT max(ts) FROM ticks)) - interval '13 minutes';
      which := 'S' || (random() * 199)::int;
      began := clock_timestamp();
      PERFORM count(*) FROM candles_1m c WHERE c.symbol = which AND c.ts >= since;
      view_ms := extract(epoch FROM clock_timestamp() - began) * 1000;
      COMMIT;
      began := clock_timestamp();
      PERFORM count(*) FROM candles_1m_live c WHERE c.symbol = which AND c.ts >= since;
      live_ms := extract(epoch FROM clock_timestamp() - began) * 1000;
      COMMIT;
      SELECT recent_differences(since), (SELECT count(*) FROM tick_catalog.frontier f, LATERAL (SELECT xid FROM tick_catalog.queue_0 UNION ALL SELECT xid FROM tick_catalog.queue_1 UNION ALL SELECT xid FROM tick_catalog.queue_2) q
        WHERE NOT pg_visible_in_snapshot(q.xid, f.snapshot)) + (SELECT count(*) FROM tick_catalog.pending) INTO wrong, waiting;
      COMMIT;
      wrong := wrong + symbol_differences(since, which);
      COMMIT;
      INSERT INTO results VALUES (moment, wrong, waiting, view_ms, live_ms);
      COMMIT;
    END LOOP;
  END $p$});
# Beside it, twenty times a second, rows that a savepoint takes back, and late ones, changed and deleted before they are
# prepared; a third of those is rolled back.
sql('CREATE SEQUENCE own START 1000000000');
my $own = "$PostgreSQL::Test::Utils::tmp_check/own.sql";
append_to_file($own, q{\set back random(0, 590)
\set rows random(2, 20)
\set way random(1, 3)
BEGIN;
SELECT extract(epoch FROM '2024-03-10 00:00+00'::timestamptz) + max(trade_id) * 0.03 - :back AS at FROM ticks \gset
SAVEPOINT a;
INSERT INTO ticks SELECT 'S' || i, to_timestamp(:at), 900 + i, i, -nextval('own') FROM generate_series(1, :rows) AS i;
DELETE FROM ticks WHERE ts > to_timestamp(:at) AND ts < to_timestamp(:at) + interval '1 s' AND trade_id < -1000000000;
ROLLBACK TO a;
INSERT INTO ticks SELECT 'S' || i, to_timestamp(:at) + i * interval '1 s', 500 + i % 3, i, -nextval('own') FROM generate_series(1, :rows) AS i;
SAVEPOINT b;
UPDATE ticks SET price = 1, qty = qty * 2 WHERE ts > to_timestamp(:at) AND ts < to_timestamp(:at) + interval '20 s' AND trade_id = -currval('own');
RELEASE b;
DELETE FROM ticks WHERE ts > to_timestamp(:at) AND ts < to_timestamp(:at) + interval '20 s' AND trade_id = -currval('own') + 1;
PREPARE TRANSACTION 'own';
SELECT count(*) FROM candles_1m WHERE symbol = 'S1' AND ts > to_timestamp(:at);
\if :way = 1
ROLLBACK PREPARED 'own';
\else
COMMIT PREPARED 'own';
\endif
});
my $feed = $node->background_psql('postgres');
$feed->query_until(qr//, sprintf("CALL feed(%.6f);\n", $seed / 1e6));
wait_for($node, 'SELECT count(*) > 20000 FROM ticks');
my ($in, $told) = ('', '');
my $others = IPC::Run::start(['pgbench', '-n', '-R', '20', '-T', '100000', "--random-seed=$seed", '-f', $own, $node->connstr('postgres')], '<', \$in, '>&', \$told);
sql("CALL look(@{[int($moments / 2)]}); SET default_transaction_isolation = 'repeatable read'; CALL look(@{[$moments - int($moments / 2)]})");
is(sql(q{SELECT oracle_differences('candles_1m_live', '1 minute', 'ticks')}), '0', 'so were all its windows in the end');
ok($others->pumpable, 'the others were at it') or diag($told);
$others->kill_kill;
wait_for($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pgbench'});
sql('INSERT INTO feeding VALUES (true)');
wait_for($node, 'SELECT count(*) = 1 FROM feeding WHERE NOT ends');
$node->psql('postgres', q{ROLLBACK PREPARED 'own'});
cmp_ok(sql('SELECT count(*) FROM ticks WHERE trade_id < -1000000000 AND price = 1'), '>', 0, 'prepared transactions were among it');
$feed->quit;
is(sql('SELECT count(*) FROM results'), $moments, 'moments were looked at');
is(sql('SELECT count(*) FROM results WHERE wrong <> 0'), '0', 'each was exact') or diag(sql('SELECT * FROM results WHERE wrong <> 0 LIMIT 20'));
cmp_ok(sql('SELECT count(*) FROM results WHERE waiting > 0'), '>', 0, 'in some of them rows waited for the worker');
diag(sql(q{SELECT format('%s of %s moments had rows waiting; fed %s rows/s', (SELECT count(*) FROM results WHERE waiting > 0), (SELECT count(*) FROM results), (SELECT (rows / seconds)::int FROM feeding WHERE NOT ends))}));
diag(sql(q{SELECT format('one symbol, recent windows, p50 / p99 in ms: view %s / %s, live %s / %s', round(v[1]::numeric, 2), round(v[2]::numeric, 2), round(l[1]::numeric, 2), round(l[2]::numeric, 2))
  FROM (SELECT percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY view_ms) v, percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY live_ms) l FROM results) p}));
sql('DROP VIEW other.c1, odd_sum');
is(sql(q{SELECT count(*) FROM tick.status s, tick.verify(s.rollup)}), '0', 'and the rollups are exact');
done_testing();
