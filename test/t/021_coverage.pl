# What raw no longer holds is never recomputed: partitions that go and come, a recompute that would make a candle shrink,
# rows that may show what has left.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = make_node('coverage');
sub sql { return $node->safe_psql('postgres', $_[0]) }
sub settle { sql("SELECT tick.wait(NULL, '60 s')") }
make_trades($node, 1);
sql(q{
  INSERT INTO trades SELECT * FROM random_trades(1500, 0.1);
  INSERT INTO trades SELECT * FROM random_trades(1500, 0.2, '2024-03-02 12:00+00');
  INSERT INTO trades SELECT * FROM random_trades(1500, 0.3, '2024-03-03 12:00+00');
  SELECT tick.create_rollup('candles_1m', candle_query('1 minute'));
  SELECT tick.create_rollup('weekly', candle_query('7 days'));
  SELECT tick.create_rollup('per_symbol', 'SELECT symbol, max(price) AS high, sum(qty) AS volume, count(*) AS n FROM trades GROUP BY 1')});
exact($node, 'history');
my $raw_from = q{SELECT raw_from AT TIME ZONE 'UTC' FROM tick_catalog.source};
my $candles = q{SELECT count(*), sum(trades), sum(high)::numeric(20,4) FROM candles_1m WHERE ts < '2024-03-02'};
my $before = sql($candles);
my $symbols = sql('SELECT sum(n) FROM per_symbol');

# ---- a partition goes.
sql('ALTER TABLE trades DETACH PARTITION trades_1');
is(sql($raw_from), '2024-03-02 00:00:00', 'DETACH moves raw_from in its own transaction');
settle();
is(sql($candles), $before, 'candles stay');
is(sql(q{SELECT count(*) FROM tick.verify('candles_1m')}), '0', 'verify asks only for what raw covers');
my ($rc, $out, $err) = $node->psql('postgres', q{SELECT count(*) FROM tick.verify('per_symbol')});
like("$out $err", qr/^0 .*cannot be verified: rows that it has seen were retired/s, 'and says what it cannot verify');

# Counts and sums of what is left are subtracted, though no window could be recomputed.
sql(q{DELETE FROM trades WHERE symbol = 'S1' AND ts < '2024-03-02 12:10+00' AND price BETWEEN 120 AND 180; SELECT tick.wait(NULL)});
is(sql(q{SELECT sum(n) FROM per_symbol}), $symbols - 1500 + sql('SELECT count(*) FROM trades WHERE ts < \'2024-03-03\''), 'subtracted exactly without raw');
is(sql(q{SELECT sum(trades) FROM weekly}), sql('SELECT sum(n) FROM per_symbol'), 'as in a window that straddles');

# An extremum leaves where raw is gone: the row stays as it is and says so.
sql(q{INSERT INTO trades VALUES ('S2', '2024-03-02 12:00+00', 1e6, 1, 1)});
settle();
is(sql(q{SELECT state, stale FROM tick.status WHERE rollup = 'per_symbol'::regclass}), 'live|0', 'nothing is stale yet');
sql(q{DELETE FROM trades WHERE price = 1e6});
settle();
is(sql(q{SELECT rollup, stale FROM tick.status ORDER BY 1}), "candles_1m|0\nweekly|1\nper_symbol|1", 'stale where it cannot be recomputed');
is(sql(q{SELECT rollup, ts AT TIME ZONE 'UTC' FROM tick.stale ORDER BY 1}), "weekly|2024-02-26 00:00:00\nper_symbol|", 'and listed');
is(sql(q{SELECT high FROM per_symbol WHERE symbol = 'S2'}), '1000000', 'the row shows what has left');
is(sql(q{SELECT count(*) FROM candles_1m WHERE high = 1e6}), '0', 'a covered window does not');
like(slurp($node->logfile), qr/WARNING:  1 windows of rollup public.per_symbol are stale/, 'the log says so');

# ---- it comes again, with its rows: recomputed, nothing counted twice.
sql(q{ALTER TABLE trades ATTACH PARTITION trades_1 FOR VALUES FROM ('2024-03-01 00:00+00') TO ('2024-03-02 00:00+00')});
is(sql($raw_from), '2024-03-01 00:00:00', 'ATTACH of the neighbour lowers raw_from');
settle();
is(sql($candles), $before, 'candles as before');
is(sql(q{SELECT count(*) FROM tick.verify('candles_1m')}), '0', 'exact');
sql(q{UPDATE trades SET price = price + 1 WHERE ts < '2024-03-02'});
exact($node, 'and corrected');

# Changed while it was away: more rows are taken in, fewer are not believed.
sql(q{ALTER TABLE trades DETACH PARTITION trades_1;
  INSERT INTO trades_1 VALUES ('NEW', '2024-03-01 12:00+00', 1, 1, 1), ('S1', '2024-03-01 12:00+00', 5000, 1, 1);
  ALTER TABLE trades ATTACH PARTITION trades_1 FOR VALUES FROM ('2024-03-01 00:00+00') TO ('2024-03-02 00:00+00')});
settle();
is(sql(q{SELECT count(*) FROM tick.verify('candles_1m')}), '0', 'rows that came with the partition');
is(sql(q{SELECT max(high) FROM candles_1m WHERE symbol = 'S1' AND ts = '2024-03-01 12:00+00'}), '5000', 'are in');
$before = sql($candles);
sql(q{ALTER TABLE trades DETACH PARTITION trades_1; DELETE FROM trades_1 WHERE symbol = 'NEW' OR price = 5000;
  ALTER TABLE trades ATTACH PARTITION trades_1 FOR VALUES FROM ('2024-03-01 00:00+00') TO ('2024-03-02 00:00+00')});
settle();
is(sql($candles), $before, 'rows that did not come again: no candle shrinks');
is(sql(q{SELECT count(*) FROM tick.stale WHERE rollup = 'candles_1m'::regclass}), '1', 'their window is listed');
is(sql(q{SELECT count(*) FROM tick.verify('candles_1m')}), '0', 'and left out of verify');

# ---- DROP, and a partition that nobody has used.
sql(q{CREATE TABLE trades_9 PARTITION OF trades FOR VALUES FROM ('2030-01-01 00:00+00') TO ('2030-02-01 00:00+00')});
sql('DROP TABLE trades_9');
is(sql($raw_from), '2024-03-01 00:00:00', 'dropping an empty partition ahead retires nothing');
sql('DROP TABLE trades_1');
is(sql($raw_from), '2024-03-02 00:00:00', 'DROP moves raw_from');
sql(q{BEGIN; DROP TABLE trades_2; ROLLBACK});
is(sql($raw_from), '2024-03-02 00:00:00', 'unless it is rolled back');
settle();
is(sql($candles), $before, 'candles outlive it');
sql(q{INSERT INTO trades VALUES ('LATE', '2024-03-01 12:00+00', 5, 2, 1), ('LATE', '2024-03-01 12:00:01+00', 7, 2, 1)});
settle();
is(sql(q{SELECT open, high, low, close, volume, trades FROM candles_1m WHERE symbol = 'LATE'}), '5|7|5|7|4|2', 'late rows merge exactly');

# ---- the safety net: what no event trigger has told.
sql(q{SET session_replication_role = DEFAULT; ALTER EVENT TRIGGER tick_drop DISABLE; ALTER EVENT TRIGGER tick_alter DISABLE;
  DROP TABLE trades_2; ALTER EVENT TRIGGER tick_drop ENABLE ALWAYS; ALTER EVENT TRIGGER tick_alter ENABLE ALWAYS});
wait_for($node, $raw_from, '2024-03-03 00:00:00');
pass('the worker notices a partition that went silently');
my $second = q{SELECT sum(trades) FROM candles_1m WHERE ts >= '2024-03-02' AND ts < '2024-03-03'};
my $kept = sql($second);
sql(q{INSERT INTO tick_catalog.pending SELECT id, -9223372036854775808, 9223372036854775807, false FROM tick_catalog.rollup;
  UPDATE tick_catalog.generation SET value = value + 1; SELECT tick_catalog.wake()});
settle();
is(sql($second), $kept, 'and a recompute of everything keeps its candles');
is(sql(q{SELECT count(*) FROM tick.verify('candles_1m')}), '0', 'exact where raw is');

# ---- revisions and times outlive a recompute.
sql(q{CREATE TABLE rev (k text, ts timestamptz, v float8);
  SELECT tick.create_rollup('rev_1m', 'SELECT k, tick.tumble(ts, ''1 minute'') AS ts, max(v) AS high, sum(v) AS s FROM rev GROUP BY 1, 2');
  INSERT INTO rev VALUES ('a', '2024-03-01 12:00+00', 1), ('b', '2024-03-01 12:00+00', 1), ('a', '2024-03-01 13:00+00', 1)});
settle();
sql("INSERT INTO rev VALUES ('a', '2024-03-01 12:00+00', 2)");
settle();
is(sql(q{SELECT k, high, revision FROM rev_1m WHERE ts < '2024-03-01 12:30+00' ORDER BY k}), "a|2|1\nb|1|0", 'a late row is a revision');
my $updated = sql(q{SELECT updated_at FROM rev_1m WHERE k = 'b'});
sql("DELETE FROM rev WHERE v = 2");
settle();
is(sql(q{SELECT k, high, revision >= 2 FROM rev_1m WHERE ts < '2024-03-01 12:30+00' ORDER BY k}), "a|1|t\nb|1|f", 'so is a correction, and it does not start again');
is(sql(q{SELECT updated_at FROM rev_1m WHERE k = 'b'}), $updated, 'the row beside is not touched');
my $revision = sql(q{SELECT revision FROM rev_1m WHERE k = 'b'});
sql("BEGIN; UPDATE rev SET v = 0.5 WHERE k = 'b'; UPDATE rev SET v = 1 WHERE k = 'b'; COMMIT");
settle();
is(sql(q{SELECT revision, updated_at FROM rev_1m WHERE k = 'b'}), "$revision|$updated", 'nor is one that is as it was');

# ---- a state table written by SQL, with the same rules.
sql(q{CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
  CREATE TRIGGER touch BEFORE INSERT OR UPDATE ON candles_1m_state FOR EACH ROW EXECUTE FUNCTION touch();
  INSERT INTO trades VALUES ('S3', '2024-03-02 12:00+00', 1e6, 1, 1), ('S3', '2024-03-03 12:00+00', 1e6, 1, 1)});
settle();
sql('DELETE FROM trades WHERE price = 1e6');
settle();
is(sql(q{SELECT ts AT TIME ZONE 'UTC', high FROM candles_1m WHERE symbol = 'S3' AND high = 1e6}), '2024-03-02 12:00:00|1000000', 'only where raw is gone');
is(sql(q{SELECT count(*) FROM tick.verify('candles_1m')}), '0', 'and it is exact elsewhere');

# ---- partitioned by something else than time.
sql(q{CREATE TABLE lists (symbol text, ts timestamptz, price float8) PARTITION BY LIST (symbol);
  CREATE TABLE lists_a PARTITION OF lists FOR VALUES IN ('A');
  CREATE TABLE lists_b PARTITION OF lists FOR VALUES IN ('B') PARTITION BY RANGE (ts);
  CREATE TABLE lists_b1 PARTITION OF lists_b FOR VALUES FROM ('2024-03-01+00') TO ('2024-03-02+00');
  INSERT INTO lists SELECT chr(65 + i % 2), '2024-03-01+00'::timestamptz + i * interval '1 min', i FROM generate_series(1, 200) AS i;
  SELECT tick.create_rollup('list_1h', 'SELECT symbol, tick.tumble(ts, ''1 hour'') AS ts, max(price) AS high, count(*) AS n FROM lists GROUP BY 1, 2')});
settle();
sql('ALTER TABLE lists DETACH PARTITION lists_a; ALTER TABLE lists ATTACH PARTITION lists_a FOR VALUES IN (\'A\')');
settle();
is(sql(q{SELECT sum(n) FROM list_1h}), '200', 'a list partition that goes and comes');
is(sql(q{SELECT lo AT TIME ZONE 'UTC', hi AT TIME ZONE 'UTC' FROM tick_catalog.leaf WHERE leaf = 'lists_b1'::regclass}),
  '2024-03-01 00:00:00|2024-03-02 00:00:00', 'bounds of a deeper level are known');

# An UPDATE that moves rows deletes them where they were: with corrections off they would count twice.
sql(q{CREATE TABLE moved (symbol text, ts timestamptz, price float8) PARTITION BY RANGE (ts);
  CREATE TABLE moved_1 PARTITION OF moved FOR VALUES FROM ('2024-03-01+00') TO ('2024-03-02+00');
  CREATE TABLE moved_2 PARTITION OF moved FOR VALUES FROM ('2024-03-02+00') TO ('2024-03-03+00');
  INSERT INTO moved SELECT 'A', '2024-03-01+00'::timestamptz + i * interval '1 min', i FROM generate_series(1, 100) AS i;
  SELECT tick.create_rollup('moved_1h', 'SELECT symbol, tick.tumble(ts, ''1 hour'') AS ts, max(price) AS high, count(*) AS n FROM moved GROUP BY 1, 2')});
settle();
my ($rc, $out, $err) = $node->psql('postgres', q{SET tick.corrections = off; UPDATE moved SET ts = ts + interval '1 day' WHERE price < 10});
like($err, qr/cannot move rows to another partition while tick.corrections is off/, 'refused');
sql(q{SET tick.corrections = off; UPDATE moved SET price = price + 1 WHERE price < 10});
sql(q{UPDATE moved SET ts = ts + interval '1 day' WHERE price < 10});
settle();
is(sql('SELECT sum(n) FROM moved_1h'), '100', 'every row counts once');

# Rows that came while a rollup was set aside, and have gone before it was resumed, are in no candle: the windows say so.
sql(q{
  CREATE TABLE ratios (symbol text, ts timestamptz, v int8) PARTITION BY RANGE (ts);
  CREATE TABLE ratios_1 PARTITION OF ratios FOR VALUES FROM ('2024-03-01 00:00+00') TO ('2024-03-02 00:00+00');
  CREATE TABLE ratios_2 PARTITION OF ratios FOR VALUES FROM ('2024-03-02 00:00+00') TO ('2024-03-03 00:00+00');
  SELECT tick.create_rollup('ratios_1h', 'SELECT symbol, tick.tumble(ts, ''1 hour'') AS ts, count(*) AS n, sum(100 / v) AS x FROM ratios GROUP BY 1, 2');
  SELECT tick.create_rollup('ratios_all', 'SELECT symbol, count(*) AS n, sum(100 / v) AS x FROM ratios GROUP BY 1');
  INSERT INTO ratios VALUES ('a', '2024-03-01 12:00+00', 1), ('a', '2024-03-01 13:00+00', 1), ('a', '2024-03-02 10:00+00', 1);
  SELECT tick.wait(NULL);
  INSERT INTO ratios VALUES ('a', '2024-03-02 12:00+00', 0)});
wait_for($node, q{SELECT count(*) = 2 FROM tick.status WHERE rollup::text ~ 'ratios' AND state = 'error'});
sql(q{
  INSERT INTO ratios VALUES ('a', '2024-03-01 12:10+00', 2), ('a', '2024-03-01 15:00+00', 2), ('a', '2024-03-02 10:30+00', 4);
  INSERT INTO ratios VALUES ('a', '2024-03-01 15:30+00', 5), ('a', '2024-03-01 16:30+00', 5), ('a', '2024-03-02 13:00+00', 5)});
wait_for($node, q{SELECT sum(pending_deltas) = 0 FROM tick.status});
wait_for($node, q{SELECT count(*) FILTER (WHERE missed) > 0 FROM tick_catalog.pending});
sql(q{DROP TABLE ratios_1; DELETE FROM ratios WHERE v = 0;
  SELECT tick.resume('ratios_1h'), tick.resume('ratios_all'); SELECT tick.wait('ratios_1h'), tick.wait('ratios_all')});
is(sql(q{SELECT rollup, to_char(ts AT TIME ZONE 'UTC', 'DD HH24') FROM tick.stale WHERE rollup::text ~ 'ratios' ORDER BY 1, 2}),
  "ratios_1h|01 12\nratios_1h|01 15\nratios_1h|01 16\nratios_all|", 'what was missed and has gone is stale');
is(sql(q{SELECT to_char(ts AT TIME ZONE 'UTC', 'DD HH24'), n, x FROM ratios_1h ORDER BY 1}),
  "01 12|1|100\n01 13|1|100\n02 10|2|125\n02 13|1|20", 'the other candles are exact or as they were');
is(sql(q{SELECT count(*) FROM tick_catalog.pending WHERE rollup IN (SELECT id FROM tick_catalog.rollup WHERE source = 'ratios'::regclass)}),
  '0', 'nothing is left to do');
sql('DROP TABLE ratios CASCADE');

# Rows that come with a new partition are in windows as well of which the source has lost other rows.
sql(q{CREATE TABLE bulk (symbol text, ts timestamptz, v int8) PARTITION BY RANGE (ts);
  CREATE TABLE bulk_1 PARTITION OF bulk FOR VALUES FROM ('2024-03-01 00:00+00') TO ('2024-03-02 00:00+00');
  CREATE TABLE bulk_2 PARTITION OF bulk FOR VALUES FROM ('2024-03-02 00:00+00') TO ('2024-03-03 00:00+00');
  SELECT tick.create_rollup('bulk_1h', 'SELECT symbol, tick.tumble(ts, ''1 hour'') AS ts, count(*) AS n, max(v) AS v FROM bulk GROUP BY 1, 2');
  SELECT tick.create_rollup('bulk_month', 'SELECT symbol, tick.tumble(ts, ''1 month'') AS ts, count(*) AS n, max(v) AS v FROM bulk GROUP BY 1, 2');
  SELECT tick.create_rollup('bulk_all', 'SELECT symbol, count(*) AS n, max(v) AS v FROM bulk GROUP BY 1');
  SELECT tick.create_rollup('bulk_ids', 'SELECT symbol, tick.tumble(ts, ''1 day'') AS ts, count(DISTINCT v) AS n FROM bulk GROUP BY 1, 2');
  INSERT INTO bulk SELECT 'A', '2024-03-01 00:00+00'::timestamptz + i * interval '10 min', i FROM generate_series(0, 287) i;
  SELECT tick.wait(NULL); DROP TABLE bulk_1;
  CREATE TABLE bulk_3 (v int8, dropped int, ts timestamptz, symbol text); ALTER TABLE bulk_3 DROP dropped;
  INSERT INTO bulk_3 SELECT i, '2024-03-01 00:00+00'::timestamptz + i * interval '10 min', chr(65 + i % 2) FROM generate_series(288, 431) i});
my $counted = q{SELECT (SELECT string_agg(symbol || n || ',' || v, ' ' ORDER BY symbol) FROM bulk_all), (SELECT string_agg(symbol || n || ',' || v, ' ' ORDER BY symbol) FROM bulk_month),
  (SELECT sum(n) FROM bulk_1h), (SELECT sum(n) FROM bulk_ids)};
sql(q{BEGIN; ALTER TABLE bulk ATTACH PARTITION bulk_3 FOR VALUES FROM ('2024-03-03 00:00+00') TO ('2024-03-04 00:00+00'); ROLLBACK;
  BEGIN; ALTER TABLE bulk ATTACH PARTITION bulk_3 FOR VALUES FROM ('2024-03-03 00:00+00') TO ('2024-03-04 00:00+00'); INSERT INTO bulk VALUES ('B', '2024-03-03 10:00+00', 500); COMMIT});
settle();
is(sql($counted), 'A360,430 B73,500|A360,430 B73,500|433|433', 'a partition that is new');
is(sql(q{SELECT count(*) FROM tick.verify('bulk_1h')}), '0', 'and what the table holds');
# One that comes again is counted already.
my $attach = q{ALTER TABLE bulk ATTACH PARTITION bulk_2 FOR VALUES FROM ('2024-03-02 00:00+00') TO ('2024-03-03 00:00+00')};
sql('ALTER TABLE bulk DETACH PARTITION bulk_2');
settle();
($rc, $out, $err) = $node->psql('postgres', $attach);
like($err, qr/WARNING:  rows of "bulk_2" do not enter windows that its source does not hold completely\n.*bulk_month, public.bulk_all/, 'a warning');
sql("BEGIN; ALTER TABLE bulk DETACH PARTITION bulk_2; $attach; COMMIT");
settle();
is(sql($counted), 'A360,430 B73,500|A360,430 B73,500|433|433', 'one that comes again');
is(sql(q{SELECT count(*) FROM tick.verify('bulk_1h')}), '0', 'is counted once');
# Of times ahead of the clock nobody has noted that they have gone; those of other partitions do not matter.
sql(q{CREATE TABLE bulk_9 PARTITION OF bulk FOR VALUES FROM ('2098-01-01 00:00+00') TO ('2098-02-01 00:00+00');
  INSERT INTO bulk VALUES ('A', '2098-01-01 00:00+00', 1); SELECT tick.wait(NULL); ALTER TABLE bulk DETACH PARTITION bulk_9; SELECT tick.wait(NULL)});
$attach = q{ALTER TABLE bulk ATTACH PARTITION bulk_9 FOR VALUES FROM ('2098-01-01 00:00+00') TO ('2098-02-01 00:00+00')};
($rc, $out, $err) = $node->psql('postgres', $attach);
like($err, qr/WARNING:  rows of "bulk_9" do not enter/, 'a warning');
sql(q{CREATE TABLE bulk_4 (LIKE bulk); INSERT INTO bulk_4 VALUES ('B', '2024-03-04 10:00+00', 501);
  ALTER TABLE bulk ATTACH PARTITION bulk_4 FOR VALUES FROM ('2024-03-04 00:00+00') TO ('2024-03-05 00:00+00')});
settle();
is(sql('SELECT symbol, n, v FROM bulk_all ORDER BY 1'), "A|361|430\nB|74|501", 'counted once, and new');
sql('DROP TABLE bulk CASCADE');

$node->stop;
done_testing();
