# UPDATE and DELETE: counts and sums are subtracted and exact at once, an extremum that has left is recomputed, a row that
# nothing is left of goes. Whatever the statement that corrects, and whoever writes the state table.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = make_node('corrections');
make_trades($node, 1);
$node->safe_psql('postgres', q{
  INSERT INTO trades SELECT * FROM random_trades(3000, 0.1);
  INSERT INTO trades SELECT * FROM random_trades(3000, 0.2, '2024-03-02 12:00+00');
  CREATE TABLE mixed (k text, ts timestamptz, n numeric, i int4, b int8, f float4, name text, id int PRIMARY KEY);
  INSERT INTO mixed SELECT 'K' || i % 5, '2024-03-01 12:00+00'::timestamptz + i * interval '1 s', i * 0.25, i, i::int8 << 33, i / 3.0,
    chr(97 + i % 26), i FROM generate_series(1, 600) AS i;
  SELECT tick.create_rollup('candles_1m', candle_query('1 minute'));
  SELECT tick.create_rollup('candles_5m', candle_query('5 minutes'));
  SELECT tick.create_rollup('sums_1m', 'SELECT symbol, tick.tumble(ts, ''1 minute'') AS ts, sum(qty) AS volume, avg(price) AS mean,
    stddev(price) AS deviation, count(*) FILTER (WHERE price > 150) AS dear FROM trades GROUP BY 1, 2');
  SELECT tick.create_rollup('totals', 'SELECT sum(qty) AS volume, count(*) AS n, avg(price) AS mean FROM trades');
  SELECT tick.create_rollup('latest', 'SELECT symbol, tick.last(price, ts, trade_id) AS price, count(*) AS n FROM trades GROUP BY 1');
  SELECT tick.create_rollup('mixed_1m', 'SELECT k, tick.tumble(ts, ''1 minute'') AS ts, sum(n) AS sn, avg(n) AS an, variance(n) AS vn,
    sum(i) AS si, sum(b) AS sb, sum(f) AS sf, stddev(i) AS di, min(name) AS least, max(name) AS most, tick.first(name, ts, id) AS one,
    tick.last(n, ts) AS last_n FROM mixed GROUP BY 1, 2');
  SELECT tick.create_rollup('mixed_all', 'SELECT sum(n) AS sn, max(name) AS most, count(*) AS n FROM mixed');
  SELECT tick.wait(NULL)});
exact($node, 'history');

# ---- what is subtracted needs no recompute: it is exact while nobody may read the source.
my $others = "SELECT count(*) FROM tick_catalog.pending p JOIN tick_catalog.rollup r ON r.id = p.rollup WHERE r.view IN ('sums_1m'::regclass, 'totals'::regclass)";
my $lock = $node->background_psql('postgres');
$lock->query_safe('BEGIN; LOCK TABLE trades_3 IN ACCESS EXCLUSIVE MODE');
$node->safe_psql('postgres', q{
  DELETE FROM trades_1 WHERE symbol = 'S1' AND ts < '2024-03-01 12:03+00';
  UPDATE trades_1 SET qty = qty + 1, price = price * 2 WHERE symbol = 'S2' AND ts < '2024-03-01 12:04+00';
  UPDATE trades_1 SET symbol = 'MOVED' WHERE symbol = 'S3' AND ts < '2024-03-01 12:02+00'});
wait_for($node, "SELECT pending_deltas = 0 FROM tick.status WHERE rollup = 'sums_1m'::regclass");
is($node->safe_psql('postgres', $others), '0', 'sums have nothing to recompute');
my $sums = q{SELECT sum(volume)::numeric(20,4), sum(dear) FROM sums_1m WHERE ts < '2024-03-02'};
my $raw = q{SELECT sum(qty)::numeric(20,4), count(*) FILTER (WHERE price > 150) FROM trades_1};
is($node->safe_psql('postgres', $sums), $node->safe_psql('postgres', $raw), 'and are exact while the source is locked');
$lock->query_safe('COMMIT');
$lock->quit;
exact($node, 'extremes too, after it');

# ---- rows that nothing is left of go, in every kind of rollup.
$node->safe_psql('postgres', q{DELETE FROM trades WHERE symbol = 'S4'; DELETE FROM mixed WHERE k = 'K1'});
exact($node, 'all of a key');
is($node->safe_psql('postgres', q{SELECT (SELECT count(*) FROM candles_1m_state WHERE symbol = 'S4') + (SELECT count(*) FROM latest_state WHERE symbol = 'S4')}),
  '0', 'no state row is left');
$node->safe_psql('postgres', 'DELETE FROM mixed');
exact($node, 'all of a table');
is($node->safe_psql('postgres', 'SELECT sn, most, n FROM mixed_all'), '||0', 'an ungrouped rollup keeps its one row');
$node->safe_psql('postgres', q{BEGIN; INSERT INTO mixed VALUES ('X', '2024-03-01 12:00+00', 1, 1, 1, 1, 'x', 1); DELETE FROM mixed; COMMIT});
exact($node, 'come and gone in one transaction');

# ---- NaN and infinities come and leave.
$node->safe_psql('postgres', q{
  INSERT INTO mixed VALUES ('N', '2024-03-01 12:00+00', 'NaN', 1, 1, 'NaN', 'x', 1), ('N', '2024-03-01 12:00+00', 5, 1, 1, 5, 'y', 2),
    ('I', '2024-03-01 12:00+00', 'infinity', 1, 1, 'infinity', 'x', 3), ('I', '2024-03-01 12:00+00', 2.5, 1, 1, 2.5, NULL, 4)});
exact($node, 'NaN and infinity');
$node->safe_psql('postgres', 'DELETE FROM mixed WHERE id IN (1, 3)');
exact($node, 'have left');
is($node->safe_psql('postgres', q{SELECT k, sn, sf, most FROM mixed_1m ORDER BY k}), "I|2.5|2.5|\nN|5|5|y", 'and nothing of them is left');

# ---- every statement that corrects.
$node->safe_psql('postgres', q{INSERT INTO mixed SELECT 'K' || i % 5, '2024-03-01 12:00+00'::timestamptz + i * interval '1 s', i * 0.25, i, i, i,
  chr(97 + i % 26), 100 + i FROM generate_series(1, 300) AS i});
my %corrections = (
  'merge' => q{MERGE INTO mixed USING (SELECT 100 + 3 * i AS id FROM generate_series(1, 40) AS i) s ON s.id = mixed.id
    WHEN MATCHED AND mixed.id % 2 = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET n = mixed.n * 2, name = 'merged'
    WHEN NOT MATCHED THEN INSERT (k, ts, n, id) VALUES ('M', '2024-03-01 12:01+00', 1, s.id)},
  'merge that inserts' => q{MERGE INTO mixed USING (SELECT 2000 + i AS id FROM generate_series(1, 5) AS i) s ON s.id = mixed.id
    WHEN NOT MATCHED THEN INSERT (k, ts, n, id) VALUES ('M', '2024-03-01 12:01+00', 1, s.id)},
  'on conflict do update' => q{INSERT INTO mixed SELECT 'K1', '2024-03-01 12:02+00', 7, 7, 7, 7, 'u', 100 + i FROM generate_series(290, 310) AS i
    ON CONFLICT (id) DO UPDATE SET n = excluded.n + mixed.n, name = NULL},
  'on conflict do nothing' => q{INSERT INTO mixed SELECT 'K1', '2024-03-01 12:02+00', 7, 7, 7, 7, 'u', 100 + i FROM generate_series(290, 310) AS i ON CONFLICT DO NOTHING},
  'update of the time' => q{UPDATE mixed SET ts = ts + interval '90 s' WHERE id % 7 = 0},
  'update of the key' => q{UPDATE mixed SET k = 'moved' WHERE id % 11 = 0},
  'key to null' => q{UPDATE mixed SET k = NULL WHERE id % 13 = 0},
  'time to null' => q{UPDATE mixed SET ts = NULL WHERE id % 17 = 0},
  'twice in one transaction' => q{BEGIN; UPDATE mixed SET n = n + 1, name = 'zz' WHERE id % 3 = 0; UPDATE mixed SET n = n - 1, name = 'a' WHERE id % 3 = 0; COMMIT},
  'rolled back' => q{BEGIN; DELETE FROM mixed; ROLLBACK},
  'savepoints' => q{BEGIN; UPDATE mixed SET n = n + 1 WHERE id % 3 = 0; SAVEPOINT a; DELETE FROM mixed; ROLLBACK TO a; UPDATE mixed SET i = i - 1; COMMIT},
  'across partitions' => q{UPDATE trades SET ts = ts + interval '1 day' WHERE symbol = 'S5' AND ts < '2024-03-01 12:10+00'},
  'to the attic' => q{UPDATE trades SET ts = ts - interval '1 year' WHERE symbol = 'S6' AND ts < '2024-03-01 12:05+00'},
  'prepared' => q{BEGIN; DELETE FROM mixed WHERE id % 19 = 0; PREPARE TRANSACTION 'p'; COMMIT PREPARED 'p'},
  'by a cursor' => q{DO $$ DECLARE r record; c CURSOR FOR SELECT * FROM mixed WHERE id % 5 = 0 FOR UPDATE; BEGIN
    FOR r IN c LOOP IF r.id % 2 = 0 THEN DELETE FROM mixed WHERE CURRENT OF c; ELSE UPDATE mixed SET n = -n WHERE CURRENT OF c; END IF; END LOOP; END $$},
);
for my $name (sort keys %corrections) {
  $node->safe_psql('postgres', $corrections{$name});
  exact($node, $name);
}

# ---- a correction of what the worker has not merged yet, and a flood that cuts turns: a row may leave before it has come.
$node->safe_psql('postgres', "ALTER SYSTEM SET tick.turn_memory = '64kB'");
$node->reload;
my $early = $node->background_psql('postgres');
$early->query_safe('BEGIN; SELECT pg_current_xact_id()');    # the least xid deletes what greater ones have written
my $worker = worker_pid($node);
kill 'STOP', $worker;
$node->safe_psql('postgres', "INSERT INTO trades SELECT * FROM random_trades(2000, 0.5 + $_ / 100.0, '2024-03-03 12:00+00', 600)") for 1 .. 6;
$early->query_safe(q{DELETE FROM trades_3 WHERE trade_id % 3 = 0; UPDATE trades_3 SET price = price + 1 WHERE trade_id % 3 = 1; COMMIT});
$early->quit;
kill 'CONT', $worker;
exact($node, 'cut turns');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET tick.turn_memory');
$node->reload;

# ---- a state table that its owner has given a trigger is written by SQL.
$node->safe_psql('postgres', q{
  CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
  CREATE TRIGGER touch BEFORE INSERT OR UPDATE ON mixed_1m_state FOR EACH ROW EXECUTE FUNCTION touch();
  CREATE TRIGGER touch BEFORE INSERT OR UPDATE ON candles_5m_state FOR EACH ROW EXECUTE FUNCTION touch();
  UPDATE mixed SET n = n + 1, name = 'k' WHERE id % 2 = 0;
  DELETE FROM mixed WHERE id % 3 = 0;
  DELETE FROM trades WHERE symbol = 'S7';
  UPDATE trades SET price = price / 2 WHERE symbol = 'S0' AND ts < '2024-03-01 12:15+00'});
exact($node, 'state tables with triggers');
is($node->safe_psql('postgres', q{SELECT count(*) FROM candles_5m_state WHERE symbol = 'S7'}), '0', 'no row of theirs is left either');

# ---- random corrections.
my $seed = int(rand(1e9));
srand($seed);
diag("seed $seed");
for my $round (1 .. 6) {
  my $sql = '';
  for (1 .. 12) {
    my $id = int(rand(400)) + 100;
    my $span = int(rand(60));
    my $act = int(rand(6));
    $sql .= $act == 0 ? "DELETE FROM mixed WHERE id BETWEEN $id AND $id + $span;"
      : $act == 1 ? "UPDATE mixed SET n = round((random() * 100)::numeric, 2), name = chr(97 + (random() * 25)::int) WHERE id BETWEEN $id AND $id + $span;"
      : $act == 2 ? "UPDATE mixed SET ts = ts + ((random() * 240)::int - 120) * interval '1 s' WHERE id BETWEEN $id AND $id + $span;"
      : $act == 3 ? "INSERT INTO mixed SELECT 'K' || i % 4, '2024-03-01 12:00+00'::timestamptz + (i % 300) * interval '1 s', random()::numeric(6,3), i, i, random(), chr(97 + i % 26), i FROM generate_series($id, $id + $span) AS i ON CONFLICT (id) DO UPDATE SET name = excluded.name, k = excluded.k;"
      : $act == 4 ? "UPDATE trades SET price = price * 1.01, symbol = 'S' || (random() * 7)::int WHERE trade_id % 97 = $span;"
      : "DELETE FROM trades WHERE trade_id % 101 = $span;";
    $sql = "BEGIN; $sql ROLLBACK;" if rand() < 0.05;
  }
  $node->safe_psql('postgres', $sql);
  exact($node, "random corrections $round");
}

$node->stop;
done_testing();
