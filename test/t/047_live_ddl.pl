# DDL on tables that are being written and read: followed, or refused with the rollups named, never silently stale. A
# writer runs all the time, nothing fails it, and after each statement every rollup takes in what it writes.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = make_node('live_ddl', conf => "max_worker_processes = 16\n");
sub sql { return $node->safe_psql('postgres', $_[0]) }
make_trades($node, 1);
make_trades($node, 0, 'plain');
sql(q{CREATE SCHEMA away; CREATE SCHEMA kept; CREATE ROLE heir LOGIN; GRANT ALL ON SCHEMA public, away, kept TO heir;
  SELECT tick.create_rollup('candles_1m', candle_query('1 minute'));
  SELECT tick.create_rollup('by_symbol', 'SELECT symbol, count(*) AS n, max(price) AS high FROM trades WHERE qty > 1 GROUP BY 1');
  SELECT tick.create_rollup('kept.plain_1m', candle_query('1 minute', 'plain'));
  SELECT tick.alter_source('plain', watermark_by => 'symbol', freeze_after => '10000 days')});

# A writer of both tables: every round is a transaction; a table or column that has another name for a moment is waited for.
sql(q{CREATE TABLE go_on (); CREATE SEQUENCE rounds;
  CREATE FUNCTION more_rounds() RETURNS bool LANGUAGE plpgsql AS $$
    DECLARE seen int8 := last_value FROM rounds; until timestamptz := clock_timestamp() + interval '60 s'; BEGIN
    WHILE clock_timestamp() < until LOOP
      IF (SELECT last_value > seen + 3 FROM rounds) THEN RETURN true; END IF;
      PERFORM pg_sleep(0.01);
    END LOOP; RETURN false; END $$;
  CREATE PROCEDURE feed() LANGUAGE plpgsql AS $$
    DECLARE gone bool; BEGIN
    PERFORM setseed(0.5);
    WHILE to_regclass('go_on') IS NOT NULL LOOP
      BEGIN
        INSERT INTO trades (symbol, ts, price, qty, trade_id)
          SELECT 'S' || (random() * 7)::int, '2024-03-01 12:00+00'::timestamptz + floor(random() * 18000) * interval '100 ms',
            (100 + floor(random() * 10000) / 100)::float8, floor(random() * 1e6) / 1e4, i FROM generate_series(1, 3) AS i;
        INSERT INTO plain (symbol, ts, price, qty, trade_id) SELECT symbol, ts, price, qty, trade_id FROM trades
          WHERE symbol = 'S1' ORDER BY random() LIMIT 2;
        UPDATE plain SET price = price + 1 WHERE trade_id = 1 AND qty < 1;
        DELETE FROM plain WHERE qty BETWEEN 5 AND 5.5;
        PERFORM nextval('rounds');
        gone := false;
      EXCEPTION WHEN undefined_table OR undefined_column OR invalid_schema_name THEN gone := true; END;
      COMMIT;
      PERFORM pg_sleep(0.004);
    END LOOP; END $$});
my $feed = launch('feed', 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-c', 'CALL feed()');
wait_for($node, 'SELECT last_value > 20 FROM rounds');

# After a statement rounds go on, and all of them are merged.
sub goes_on {
  my ($what) = @_;
  my $result = sql("SELECT more_rounds(); SELECT tick.wait(NULL, '30 s'); SELECT rollup, state, last_error FROM tick.status WHERE state = 'error'");
  is($result, "t\nt", "goes on: $what");
}
# Statements are separated by '; ' and run one by one, unless they begin a transaction.
sub followed {
  my ($ddl) = @_;
  my @failed;
  for my $statement ($ddl =~ /^BEGIN/ ? ($ddl) : split /;\s+/, $ddl) {
    my ($rc, $out, $err) = $node->psql('postgres', $statement);
    push @failed, "$statement: $err" if $rc;
  }
  is("@failed", '', "followed: $ddl");
  goes_on($ddl);
}
# While it is written the view is behind: tick.verify counts what is not merged yet.
sub verified { is(sql('SELECT s.rollup, v.* FROM tick.status s, tick.verify(s.rollup) v'), '', "$_[0]: verified") }
sub refused {
  my ($ddl, $error) = @_;
  my ($rc, $out, $err) = $node->psql('postgres', $ddl);
  like($err, $error, "refused: $ddl");
  goes_on($ddl);
}

for my $table ('trades', 'plain') {
  my $leaf = $table eq 'trades' ? 'trades_1' : 'plain';
  my $reader = $table eq 'trades' ? 'candles_1m' : 'plain_1m';
  followed($_) for (
    "ALTER TABLE $table ADD COLUMN extra int DEFAULT 7", "ALTER TABLE $table ADD COLUMN noise float8 DEFAULT random()",
    "ALTER TABLE $table RENAME extra TO more", "ALTER TABLE $table ALTER more TYPE bigint",
    "ALTER TABLE $table ALTER noise TYPE text USING noise::text || 'x'", "ALTER TABLE $table DROP COLUMN more",
    "ALTER TABLE $table RENAME price TO px; ALTER TABLE $table RENAME px TO price",
    "ALTER TABLE $table RENAME ts TO at; ALTER TABLE $table RENAME at TO ts",
    "ALTER TABLE $table RENAME symbol TO sym; ALTER TABLE $table RENAME sym TO symbol",
    "BEGIN; ALTER TABLE $table RENAME symbol TO a; ALTER TABLE $table RENAME qty TO symbol; ALTER TABLE $table RENAME a TO qty; "
      . "INSERT INTO $table (qty, ts, price, symbol, trade_id) VALUES ('SWAPPED', '2024-03-01 12:00+00', 1, 2, 3); "
      . "ALTER TABLE $table RENAME symbol TO a; ALTER TABLE $table RENAME qty TO symbol; ALTER TABLE $table RENAME a TO qty; COMMIT",
    "ALTER TABLE $table RENAME TO t2; ALTER TABLE t2 RENAME TO $table",
    "ALTER TABLE $table SET SCHEMA away; ALTER TABLE away.$table SET SCHEMA public",
    "VACUUM FULL $leaf", "CREATE INDEX tick_i ON $leaf (ts); CLUSTER $leaf USING tick_i; REINDEX TABLE $leaf; REINDEX TABLE CONCURRENTLY $leaf; DROP INDEX tick_i",
    "ALTER TABLE $leaf SET (fillfactor = 50, autovacuum_enabled = off)", "ALTER TABLE $table ALTER price SET STATISTICS 10",
    "ALTER TABLE $table ADD CONSTRAINT positive CHECK (qty >= 0); ALTER TABLE $table DROP CONSTRAINT positive",
    "ALTER TABLE $table DISABLE TRIGGER ALL", "ALTER TABLE $table ENABLE TRIGGER ALL", "ALTER TABLE $leaf DISABLE TRIGGER USER",
    "ALTER TABLE $table ENABLE REPLICA TRIGGER zz_tick_insert", "DROP TRIGGER zz_tick_flush ON $table",
    "ALTER TABLE $table OWNER TO heir", "ANALYZE $table; VACUUM $leaf",
    "BEGIN; ALTER TABLE $table ADD b int; SAVEPOINT s; ALTER TABLE $table DROP COLUMN b; ALTER TABLE $table RENAME price TO px; ROLLBACK TO s; ROLLBACK",
    "BEGIN; ALTER TABLE $table RENAME price TO px; INSERT INTO $table (symbol, ts, px, qty) VALUES ('A', '2024-03-01 12:00+00', 1, 1); COMMIT; "
      . "BEGIN; INSERT INTO $table (symbol, ts, px, qty) VALUES ('A', '2024-03-01 12:00+00', 2, 1); ALTER TABLE $table RENAME px TO price; COMMIT");
  refused($_->[0], $_->[1]) for (
    [ "ALTER TABLE $table DROP COLUMN price", qr/cannot drop.*because other objects depend.*$reader/s ],
    [ "ALTER TABLE $table ALTER price TYPE numeric", qr/type of a column used by a view.*$reader/s ],
    [ "DROP TABLE $table", qr/cannot drop table.*$reader/s ],
    [ "TRUNCATE $table", qr/cannot truncate.*rollups read it/s ],
    [ "ALTER TABLE $leaf SET UNLOGGED", qr/cannot be unlogged: rollups read it.*$reader/s ],
    [ "ALTER TABLE $table ENABLE ROW LEVEL SECURITY", qr/cannot have row-level security.*$reader/s ]);
}
# What of a table is only named.
sql('ALTER TABLE plain RENAME symbol TO instrument');
is(sql("SELECT watermark_by FROM tick.sources WHERE source = 'plain'::regclass"), 'instrument', 'watermark_by follows its column');
is(sql("INSERT INTO plain (instrument, ts, price, qty) VALUES ('late', now() - interval '1 hour', 1, 1);
  SELECT tick.wait(NULL); SELECT value_names @> '{late}' FROM tick_catalog.watermark WHERE source = 'plain'::regclass"), "t\nt", 'and is kept by it');
followed('ALTER TABLE plain RENAME instrument TO symbol');
is(sql("SELECT watermark_by FROM tick.sources WHERE source = 'plain'::regclass"), 'symbol', 'back again');

# Partitions.
followed($_) for (
  "CREATE TABLE trades_5 PARTITION OF trades FOR VALUES FROM ('2024-03-05+00') TO ('2024-03-06+00')",
  'ALTER TABLE trades_5 RENAME TO trades_five; ALTER TABLE trades_five SET SCHEMA away; ALTER TABLE away.trades_five SET SCHEMA public',
  'ALTER TABLE trades DETACH PARTITION trades_five', 'DROP TABLE trades_five', 'DROP TABLE trades_3');

# The rollups' own objects.
followed('ALTER VIEW candles_1m RENAME TO candles_renamed');
is(sql("SELECT to_regclass('candles_1m_state') IS NULL AND to_regclass('candles_renamed_state') IS NOT NULL"), 't', 'the state table has its name too');
sql(q{SELECT tick.create_rollup('candles_1m', candle_query('1 minute')); SELECT tick.wait(NULL)});
verified('the old name is free');
sql(q{SELECT tick.drop_rollup('candles_1m')});
followed('ALTER TABLE candles_renamed RENAME TO candles_1m');
followed('ALTER VIEW candles_1m SET SCHEMA away');
is(sql("SELECT to_regclass('away.candles_1m_state') IS NOT NULL"), 't', 'the state table goes along');
followed('ALTER VIEW away.candles_1m SET SCHEMA public');
followed($_) for (
  'ALTER SCHEMA kept RENAME TO kept_2; ALTER SCHEMA kept_2 RENAME TO kept', 'ALTER TABLE candles_1m_state RENAME TO cs; ALTER TABLE cs RENAME TO candles_1m_state',
  'ALTER VIEW candles_1m RENAME COLUMN high TO top; ALTER VIEW candles_1m RENAME COLUMN top TO high',
  'REINDEX TABLE CONCURRENTLY candles_1m_state; REINDEX TABLE candles_1m_state', 'VACUUM FULL candles_1m_state',
  'CLUSTER candles_1m_state USING candles_1m_state_symbol_ts_key; ALTER TABLE candles_1m_state SET WITHOUT CLUSTER',
  'CREATE INDEX more ON candles_1m_state (high); DROP INDEX more', 'ALTER TABLE candles_1m_state ADD COLUMN note text DEFAULT random()::text',
  'ALTER TABLE candles_1m_state DROP COLUMN note', 'ALTER TABLE candles_1m_state SET (fillfactor = 40)',
  'ALTER TABLE candles_1m_state ADD CONSTRAINT high_enough CHECK (high > 0) NOT VALID; ALTER TABLE candles_1m_state DROP CONSTRAINT high_enough',
  'ALTER TABLE candles_1m_state DISABLE TRIGGER ALL; ALTER TABLE candles_1m_state ENABLE TRIGGER ALL',
  'GRANT SELECT, TRIGGER ON trades TO heir; ALTER VIEW by_symbol OWNER TO heir', 'TRUNCATE by_symbol_state');
refused($_->[0], $_->[1]) for (
  [ 'DROP TABLE candles_1m_state', qr/cannot drop table.*candles_1m/s ], [ 'ALTER TABLE candles_1m_state DROP COLUMN high', qr/cannot drop.*because other objects depend.*candles_1m/s ],
  [ 'ALTER TABLE candles_1m_state DROP COLUMN tick_stale', qr/candles_1m/ ], [ 'ALTER TABLE candles_1m_state RENAME high TO top', qr/cannot rename column "high" of the state/ ],
  [ 'ALTER TABLE candles_1m_state ALTER trades TYPE numeric', qr/used by a view/ ], [ 'ALTER TABLE candles_1m_state SET UNLOGGED', qr/cannot be unlogged.*candles_1m/s ],
  [ 'ALTER TABLE candles_1m_state DROP CONSTRAINT candles_1m_state_symbol_ts_key', qr/candles_1m/ ], [ 'DROP EXTENSION pg_tick', qr/depend/ ],
  [ 'DROP FUNCTION tick.tumble(timestamptz, interval)', qr/extension pg_tick/ ], [ 'DROP SCHEMA kept', qr/plain_1m/ ],
  [ 'CREATE OR REPLACE VIEW candles_1m AS SELECT 1', qr/candles_1m|cannot (drop|change)/ ]);
verified('after all of it, while it is written');
# What the feed corrects is computed again, at any time.
is(sql("SELECT string_agg(rollup || ' ' || state, ',') FROM tick.status WHERE state NOT IN ('live', 'recompute')"), '', 'all live');

# Renamed at any moment of the turns of a worker that has just been told of a rollup: none is set aside.
sql(join ';', map { ("SELECT tick.create_rollup('moving', 'SELECT qty, count(*) AS n FROM plain GROUP BY 1')",
  map({ "ALTER VIEW moving RENAME TO moved; ALTER TABLE moved_state RENAME TO x; ALTER TABLE x RENAME TO moved_state; ALTER VIEW moved RENAME TO moving" } 1 .. 3),
  "SELECT tick.wait('moving', '30 s')", "SELECT tick.drop_rollup('moving')") } 1 .. 15);
is(sql("SELECT string_agg(rollup::text, ',') FROM tick.status WHERE state = 'error'"), '', 'none of them');

# Who drops waits for a turn that is about to wait for what is dropped: the turn gives way, however late it gets there. Here
# a session stands for the worker: one that looks for deadlocks later than a session would without a rollup.
sql(q{CREATE TABLE other (k int, ts timestamptz NOT NULL); SELECT tick.create_rollup('others', 'SELECT k, count(*) AS n FROM other GROUP BY 1');
  SELECT tick.create_rollup('kept.by_qty', 'SELECT qty, count(*) AS n FROM plain GROUP BY 1')});
sql("SELECT tick.wait(NULL)");
my $turn = $node->background_psql('postgres', on_error_stop => 0);
$turn->query_safe("SET deadlock_timeout = '4s'; BEGIN; DROP VIEW others");
my $drop = launch('drop', 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-c', 'DROP TABLE kept.by_qty_state CASCADE');
wait_for($node, "SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND locktype = 'object' AND pid IN (SELECT pid FROM pg_stat_activity WHERE query LIKE 'DROP TABLE kept%')");
$turn->query("LOCK TABLE kept.by_qty_state; ROLLBACK");
like($turn->{stderr}, qr/deadlock detected/, 'who holds up a drop is the one to give way');
$turn->quit;
waitpid $drop->{pid}, 0;
is($?, 0, 'and the drop goes on') or diag(slurp($drop->{log}));
sql('DROP TABLE other CASCADE');

# Dropped under the writer.
followed('DROP VIEW by_symbol');
sql(q{SELECT tick.create_rollup('by_symbol', 'SELECT symbol, count(*) AS n FROM trades GROUP BY 1')});
followed('DROP TABLE by_symbol_state CASCADE');
sql(q{SELECT tick.create_rollup('kept.by_symbol', 'SELECT symbol, count(*) AS n FROM trades GROUP BY 1')});
followed('DROP SCHEMA kept CASCADE');
is(sql("SELECT string_agg(rollup::text, ',') FROM tick.status"), 'candles_1m', 'what was in the schema is gone');
verified('the rest');
sql(q{SELECT tick.create_rollup('again', 'SELECT symbol, count(*) AS n FROM plain GROUP BY 1')});
followed('ALTER TABLE plain DROP COLUMN symbol CASCADE; ALTER TABLE plain ADD COLUMN symbol text');
is(sql("SELECT to_regclass('again') IS NULL"), 't', 'a rollup goes with its column');
sql('DROP TABLE go_on');
waitpid $feed->{pid}, 0;
$feed->{status} = $?;
is($?, 0, 'the writer was never failed') or diag(slurp($feed->{log}));
exact($node, 'at the end');
sql('GRANT SELECT, TRIGGER ON trades TO heir; ALTER VIEW candles_1m OWNER TO heir; DROP TABLE trades CASCADE');
is(sql('SELECT count(*) FROM tick.status') . sql('SELECT count(*) FROM tick_catalog.rollup') . sql("SELECT count(*) FROM pg_class WHERE relname ~ '_definition_[0-9]+'"),
  '000', 'DROP TABLE CASCADE leaves nothing');
is(sql("SELECT count(*) FROM tick_catalog.source WHERE relid NOT IN (SELECT oid FROM pg_class)"), '0', 'nor a source');

$node->stop;
done_testing();
