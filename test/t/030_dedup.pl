# Dedup: a source holds each id of a key once, whatever writes, rolls back, moves or gives rows back, and no real row
# is ever left out. The oracle is the set of ids that must be there.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = make_node('dedup');
make_trades($node, 1);
$node->safe_psql('postgres', q{
  INSERT INTO trades SELECT 'H', '2024-03-01 12:00+00'::timestamptz + i * interval '1 s', 1, 1, i FROM generate_series(1, 100) i;
  SELECT tick.create_rollup('candles_1m', candle_query('1 minute'));
  SELECT tick.alter_source('trades', dedup_key => '{symbol}', dedup_id => 'trade_id');
  CREATE FUNCTION t(n int) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$ SELECT '2024-03-01 12:00+00'::timestamptz + n * interval '1 s' $$;
  CREATE FUNCTION insert_ids(s text, a int, b int) RETURNS void LANGUAGE sql AS
    $$ INSERT INTO trades SELECT s, t(i), i, 1, i FROM generate_series(a, b) i $$;
});

# The ids of a key in the table, as a multirange, and how many rows that is too many.
sub ids {
  my ($key) = @_;
  return $node->safe_psql('postgres', qq{SELECT coalesce(range_agg(int8range(trade_id, trade_id, '[]'))::text, '{}')
    || CASE WHEN count(*) > count(DISTINCT trade_id) THEN ' doubled' ELSE '' END FROM trades WHERE symbol = '$key'});
}

# What tick.seen says, once merged.
sub seen {
  my ($key) = @_;
  $node->safe_psql('postgres', 'SELECT tick.wait(NULL)');
  return $node->safe_psql('postgres', qq{SELECT coalesce(range_agg(int8range(r.from_id, r.to_id, '[]'))::text, '{}')
    FROM tick_catalog.seen s, tick_catalog.ranges(s.ranges) r WHERE tick_catalog.key_json(s.dedup, s.key)->>'symbol' = '$key'});
}

my $keys = 0;
# A new key, statements in which K stands for it, and the ids that must be there afterwards.
sub dedup_ok {
  my ($what, $sql, $expected) = @_;
  my $key = 'K' . ++$keys;
  $sql =~ s/\bK\b/$key/g;
  my (undef, undef, $err) = $node->psql('postgres', $sql, on_error_stop => 0);
  is(ids($key) . ' ' . seen($key), "$expected $expected", $what) or diag($err);
}

is(seen('H'), '{[1,101)}', 'the set is made from the rows that are there');
my $row = sub { "('K', t($_[0]), 1, 1, $_[0])" };
my $ins = sub { 'INSERT INTO trades VALUES ' . join(', ', map { $row->($_) } @_) };

dedup_ok('one row twice', $ins->(1) . ';' . $ins->(1), '{[1,2)}');
dedup_ok('twice in one statement', $ins->(1, 2, 1, 3, 2), '{[1,4)}');
dedup_ok('twice in one transaction', 'BEGIN;' . $ins->(1, 2) . ';' . $ins->(2, 3) . '; COMMIT', '{[1,4)}');
dedup_ok('out of order', $ins->(9, 3, 5) . ';' . $ins->(4, 9, 8, 3), '{[3,6),[8,10)}');
dedup_ok('many', "SELECT insert_ids('K', 1, 5000); SELECT insert_ids('K', 2000, 7000)", '{[1,7001)}');
dedup_ok('through a partition', "INSERT INTO trades_1 VALUES " . $row->(5) . ';' . $ins->(5) . '; INSERT INTO trades_1 VALUES ' . $row->(5), '{[5,6)}');
dedup_ok('other keys, other ids', "INSERT INTO trades VALUES ('H', t(5), 1, 1, 5);" . $ins->(5), '{[5,6)}');
dedup_ok('NULL ids are nobody\'s duplicates', "INSERT INTO trades VALUES ('K', t(1), 1, 1, NULL), ('K', t(1), 1, 1, NULL); DO \$\$ BEGIN ASSERT (SELECT count(*) FROM trades WHERE symbol = 'K') = 2; END \$\$; DELETE FROM trades WHERE symbol = 'K';" . $ins->(1), '{[1,2)}');
dedup_ok('rolled back', 'BEGIN;' . $ins->(1, 2) . '; ROLLBACK;' . $ins->(2), '{[2,3)}');
dedup_ok('savepoint rolled back', 'BEGIN;' . $ins->(1) . '; SAVEPOINT a;' . $ins->(2) . '; ROLLBACK TO a;' . $ins->(1, 2, 3) . '; COMMIT;' . $ins->(2), '{[1,4)}');
dedup_ok('savepoint rolled back at the start', 'BEGIN; SAVEPOINT a;' . $ins->(2) . '; ROLLBACK TO a;' . $ins->(2, 3) . '; COMMIT;' . $ins->(2), '{[2,4)}');
dedup_ok('released, then the outer rolled back', 'BEGIN; SAVEPOINT a; SAVEPOINT b;' . $ins->(2) . '; RELEASE b;' . $ins->(2) . '; ROLLBACK TO a;' . $ins->(2) . '; COMMIT', '{[2,3)}');
dedup_ok('released', 'BEGIN; SAVEPOINT a;' . $ins->(2) . '; SAVEPOINT b;' . $ins->(3) . '; RELEASE a;' . $ins->(2, 3, 4) . '; COMMIT;' . $ins->(3), '{[2,5)}');
dedup_ok('exception block', "DO \$\$ BEGIN INSERT INTO trades VALUES " . $row->(1) . "; BEGIN INSERT INTO trades VALUES " . $row->(2) .
  "; RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN INSERT INTO trades VALUES " . $row->(2) . "; END; END \$\$;" . $ins->(1, 2), '{[1,3)}');
dedup_ok('statement that fails half way', $ins->(1, 2) . ", ('K', t(3), 1, 'x', 3);" . $ins->(2), '{[2,3)}');
dedup_ok('fails at run time', "BEGIN; SAVEPOINT a; INSERT INTO trades SELECT 'K', t(i), 1 / (3 - i), 1, i FROM generate_series(1, 5) i; ROLLBACK TO a;" . $ins->(1, 2, 3) . '; COMMIT', '{[1,4)}');
dedup_ok('prepared and committed', 'BEGIN;' . $ins->(1) . "; PREPARE TRANSACTION 'p'; COMMIT PREPARED 'p';" . $ins->(1, 2), '{[1,3)}');
dedup_ok('prepared and rolled back', 'BEGIN;' . $ins->(1) . "; PREPARE TRANSACTION 'p'; ROLLBACK PREPARED 'p';" . $ins->(1, 2), '{[1,3)}');
dedup_ok('deleted, inserted again', $ins->(1, 2, 3) . "; DELETE FROM trades WHERE symbol = 'K' AND trade_id = 2;" . $ins->(1, 2), '{[1,4)}');
dedup_ok('deleted and inserted in one transaction', 'BEGIN;' . $ins->(1, 2) . "; DELETE FROM trades WHERE symbol = 'K';" . $ins->(2) . '; COMMIT;' . $ins->(1, 2), '{[1,3)}');
dedup_ok('deleted and inserted in one statement', $ins->(1, 2) . "; WITH d AS (DELETE FROM trades WHERE symbol = 'K' RETURNING *) INSERT INTO trades SELECT symbol, ts, price + 1, qty, trade_id FROM d;" . $ins->(1), '{[1,3)}');
dedup_ok('a delete rolled back', $ins->(1) . "; BEGIN; DELETE FROM trades WHERE symbol = 'K'; ROLLBACK;" . $ins->(1), '{[1,2)}');
dedup_ok('a delete in a savepoint rolled back', $ins->(1) . "; BEGIN; SAVEPOINT a; DELETE FROM trades WHERE symbol = 'K'; ROLLBACK TO a;" . $ins->(1) . '; COMMIT', '{[1,2)}');
dedup_ok('moved to another partition', $ins->(1, 2) . "; UPDATE trades SET ts = ts + interval '1 day' WHERE symbol = 'K';" . $ins->(1, 2, 3), '{[1,4)}');
dedup_ok('moved there and back', 'BEGIN;' . $ins->(1, 2) . "; UPDATE trades SET ts = ts + interval '1 day' WHERE symbol = 'K'; UPDATE trades SET ts = ts - interval '1 day' WHERE symbol = 'K'; COMMIT;" . $ins->(1, 2, 3), '{[1,4)}');
dedup_ok('another id', $ins->(1, 2) . "; UPDATE trades SET trade_id = 7 WHERE symbol = 'K' AND trade_id = 1;" . $ins->(1, 7), '{[1,3),[7,8)}');
dedup_ok('ids shifted by one', $ins->(1, 2, 3) . "; UPDATE trades SET trade_id = trade_id + 1 WHERE symbol = 'K';" . $ins->(1, 2, 3, 4), '{[1,5)}');
dedup_ok('another key', $ins->(1, 2) . "; UPDATE trades SET symbol = 'K other' WHERE symbol = 'K' AND trade_id = 1;" . $ins->(1, 2), '{[1,3)}');
dedup_ok('another price', $ins->(1) . "; UPDATE trades SET price = 5 WHERE symbol = 'K';" . $ins->(1), '{[1,2)}');
dedup_ok('merge', $ins->(1) . "; MERGE INTO trades t USING (VALUES ('K', 1), ('K', 2), ('K', 3)) AS v (s, i) ON t.symbol = v.s AND t.trade_id = v.i WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (v.s, t(v.i), 1, 1, v.i);" . $ins->(1, 2), '{[1,4)}');
dedup_ok('replica role', 'SET session_replication_role = replica;' . $ins->(1, 1) . '; RESET session_replication_role;' . $ins->(1), '{[1,2)}');
dedup_ok('repeatable read', 'BEGIN ISOLATION LEVEL REPEATABLE READ;' . $ins->(1) . ';' . $ins->(1) . '; COMMIT', '{[1,2)}');
dedup_ok('a cursor', 'BEGIN; DECLARE c CURSOR FOR SELECT 1;' . $ins->(1) . '; FETCH c;' . $ins->(1, 2) . '; COMMIT', '{[1,3)}');

# A function that writes to the table while a statement on it runs.
$node->safe_psql('postgres', q{CREATE FUNCTION nested(k text, i int) RETURNS int LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO trades VALUES (k, t(i), 1, 1, i + 100), (k, t(i), 1, 1, i); RETURN i; END $$});
dedup_ok('nested statements', "INSERT INTO trades SELECT 'K', t(i), 1, 1, nested('K', i) FROM generate_series(1, 5) i;" . $ins->(3, 103), '{[1,6),[101,106)}');

# Rows that a later trigger, or ON CONFLICT, leaves out are not seen.
$node->safe_psql('postgres', q{CREATE UNIQUE INDEX ON trades_1 (symbol, price) WHERE symbol LIKE 'U%';
  CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF new.symbol LIKE 'ODD%' AND new.trade_id % 2 = 1 AND current_setting('my.odd', true) = 'no' THEN RETURN NULL; END IF; RETURN new; END $$;
  CREATE TRIGGER zzz_after_ours BEFORE INSERT ON trades_1 FOR EACH ROW EXECUTE FUNCTION odd()});
$node->safe_psql('postgres', q{INSERT INTO trades_1 VALUES ('U', t(1), 5, 1, 1);
  INSERT INTO trades_1 VALUES ('U', t(1), 5, 1, 2), ('U', t(1), 6, 1, 3) ON CONFLICT DO NOTHING;
  INSERT INTO trades_1 VALUES ('U', t(1), 7, 1, 2), ('U', t(1), 8, 1, 3)});
is(ids('U') . seen('U'), '{[1,4)}{[1,4)}', 'a row that ON CONFLICT left out comes later');
$node->safe_psql('postgres', q{SET my.odd = 'no'; INSERT INTO trades SELECT 'ODD', t(i), i, 1, i FROM generate_series(1, 6) i;
  SET my.odd = 'yes'; INSERT INTO trades SELECT 'ODD', t(i), i, 1, i FROM generate_series(1, 6) i});
is(ids('ODD') . seen('ODD'), '{[1,7)}{[1,7)}', 'so does one that a trigger after ours left out');

# COPY, and what it says.
my $dir = $node->basedir;
$node->safe_psql('postgres', qq{COPY (SELECT 'C' || i % 7, t(i), 1.0::float8, 1.0::float8, (i / 7)::int8 FROM generate_series(1, 7000) i) TO '$dir/c.bin' (FORMAT binary);
  COPY (SELECT 'C' || i % 7, t(i), 1.0::float8, 1.0::float8, (i / 7)::int8 FROM generate_series(7000, 1, -1) i) TO '$dir/r.bin' (FORMAT binary)});
$node->safe_psql('postgres', qq{COPY trades FROM '$dir/c.bin' (FORMAT binary)});
$node->safe_psql('postgres', qq{COPY trades FROM '$dir/r.bin' (FORMAT binary)});
is($node->safe_psql('postgres', q{SELECT count(*), count(DISTINCT (symbol, trade_id)) FROM trades WHERE symbol ~ '^C\d'}), '7000|7000', 'COPY twice');
is($node->safe_psql('postgres', q{SELECT tick.wait(NULL); SELECT duplicates >= 7000 FROM tick_catalog.dedup}), "t\nt", 'duplicates are counted');

# Another backend's cache is as good as none.
my $other = $node->background_psql('postgres');
$other->query_safe("SELECT insert_ids('X', 1, 10)");
$node->safe_psql('postgres', "SELECT insert_ids('X', 5, 20); DELETE FROM trades WHERE symbol = 'X' AND trade_id IN (3, 15)");
$other->query_safe("SELECT insert_ids('X', 1, 25)");
$node->safe_psql('postgres', "SELECT tick.wait(NULL); SELECT insert_ids('Y', $_, $_ + 5) FROM generate_series(1, 50) i") for 1 .. 3;
$other->query_safe("SELECT insert_ids('X', 1, 30); SELECT insert_ids('Y', 1, 20)");
is(ids('X') . ids('Y'), '{[1,31)}{[1,21)}', 'two backends in turns');
$other->quit;

exact($node, 'the rollup has each row once');

# Gaps.
$node->safe_psql('postgres', q{SELECT insert_ids('G', 1, 10); SELECT insert_ids('G', 100, 110); SELECT insert_ids('G', 50, 50); SELECT tick.wait(NULL)});
is($node->safe_psql('postgres', q{SELECT source, key, from_id, to_id, missing, from_time = t(from_id::int - 1), to_time = t(to_id::int + 1),
    (windows->'candles_1m'->>0)::timestamptz = '2024-03-01 12:00+00', since > now() - interval '1 min' FROM tick.gaps WHERE key->>'symbol' = 'G' ORDER BY from_id}),
  qq{trades|{"symbol": "G"}|11|49|39|t|t|t|t\ntrades|{"symbol": "G"}|51|99|49|t|t|t|t}, 'holes are shown, with times and windows');
is($node->safe_psql('postgres', q{SELECT ids, ranges, from_id, to_id FROM tick.seen WHERE key->>'symbol' = 'G'}), '22|3|1|110', 'tick.seen');

# Hostile keys and names.
$node->safe_psql('postgres', q{
  CREATE TABLE "Tr'a""d" ("k'""1" text, "k 2" numeric, c char(5), f float8, "I'd" int2, "t""s" timestamptz);
  SELECT tick.add_source('"Tr''a""d"', dedup_key => ARRAY['k''"1', 'k 2', 'c', 'f'], dedup_id => 'I''d', dedup_group => 'k 2')});
my $insert = q{INSERT INTO "Tr'a""d" SELECT k, n, c, f, i, now() FROM generate_series(1, 3) i,
  (VALUES ('a''"\\;--', 1.0, 'x', 0::float8), ('a''"\\;--', 1.00, 'x  ', '-0'), (NULL, 2, NULL, 'NaN'), (repeat('z', 1500), 'NaN', '', 1), ('', NULL, 'x', 2)) v (k, n, c, f)};
$node->safe_psql('postgres', "$insert; $insert");
is($node->safe_psql('postgres', q{SELECT count(*) FROM "Tr'a""d"}), '12', 'keys are equal as GROUP BY has it');
is($node->safe_psql('postgres', q{SELECT tick.wait(NULL); SELECT count(*), sum(ids) FROM tick.seen WHERE source = '"Tr''a""d"'::regclass}), "t\n4|12", 'and seen so');
my ($rc, $out, $err) = $node->psql('postgres', q{INSERT INTO "Tr'a""d" VALUES (repeat('z', 3000), 1, 'x', 1, 1, now())});
like($err, qr/key of dedup is longer than 2000 bytes/, 'a key that is too long is refused');
($rc, $out, $err) = $node->psql('postgres', q{ALTER TABLE "Tr'a""d" DROP COLUMN "I'd"});
like($err, qr/depends on/, 'a column of dedup cannot be dropped');
($rc, $out, $err) = $node->psql('postgres', q{ALTER TABLE "Tr'a""d" ALTER "I'd" TYPE text});
like($err, qr/cannot alter type of a column used/, 'nor retyped');
$node->safe_psql('postgres', q{ALTER TABLE "Tr'a""d" RENAME "I'd" TO id; ALTER TABLE "Tr'a""d" RENAME "k 2" TO "k''3";
  SELECT tick.alter_source('"Tr''a""d"', idle_timeout => '1 min')});
$node->safe_psql('postgres', $insert);
is($node->safe_psql('postgres', q{SELECT count(*) FROM "Tr'a""d"}), '12', 'but renamed');
$node->safe_psql('postgres', q{SELECT tick.drop_source('"Tr''a""d"')});
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'zz_tick%' AND tgrelid = '"Tr''a""d"'::regclass}), '0', 'nothing is left when the source is dropped');

# Rows that came while the triggers were off are seen as soon as the worker has put them back.
$node->safe_psql('postgres', q{ALTER EVENT TRIGGER tick_alter DISABLE; ALTER TABLE trades DISABLE TRIGGER ALL;
  SELECT insert_ids('A', 1, 10); ALTER EVENT TRIGGER tick_alter ENABLE ALWAYS; SELECT tick_catalog.wake()});
wait_for($node, 'SELECT NOT EXISTS (SELECT FROM tick_catalog.unguarded)');
$node->safe_psql('postgres', "SELECT insert_ids('A', 5, 15)");
is(ids('A') . seen('A'), '{[1,16)}{[1,16)}', 'rows that came without the triggers');

# Made anew from the rows, in one transaction with what comes.
$node->safe_psql('postgres', q{BEGIN; SELECT insert_ids('R', 1, 5); SELECT tick_catalog.rebuild_seen('trades'); SELECT insert_ids('R', 4, 8); COMMIT;
  DELETE FROM trades WHERE symbol = 'R' AND trade_id = 2; SELECT insert_ids('R', 1, 2); SELECT insert_ids('A', 1, 15)});
is(ids('R') . seen('R') . ids('A'), '{[1,9)}{[1,9)}{[1,16)}', 'rebuilt');

# A partition brings its ids along, and one that comes again has them already.
$node->safe_psql('postgres', q{CREATE TABLE parts (symbol text, ts timestamptz, price float8, trade_id int8) PARTITION BY RANGE (ts);
  CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2024-03-01 00:00+00') TO ('2024-03-02 00:00+00');
  SELECT tick.add_source('parts', dedup_key => '{symbol}', dedup_id => 'trade_id');
  SELECT tick.create_rollup('parts_1h', 'SELECT symbol, tick.tumble(ts, ''1 hour'') AS ts, count(*) AS n FROM parts GROUP BY 1, 2');
  CREATE TABLE parts_2 (LIKE parts); INSERT INTO parts_2 SELECT 'P', '2024-03-02 10:00+00', 1, i FROM generate_series(1, 10) i;
  ALTER TABLE parts ATTACH PARTITION parts_2 FOR VALUES FROM ('2024-03-02 00:00+00') TO ('2024-03-03 00:00+00');
  INSERT INTO parts SELECT 'P', '2024-03-02 10:00+00', 1, i FROM generate_series(5, 15) i; SELECT tick.wait(NULL);
  ALTER TABLE parts DETACH PARTITION parts_2; ALTER TABLE parts ATTACH PARTITION parts_2 FOR VALUES FROM ('2024-03-02 00:00+00') TO ('2024-03-03 00:00+00');
  INSERT INTO parts SELECT 'P', '2024-03-02 10:00+00', 1, i FROM generate_series(10, 20) i; SELECT tick.wait(NULL)});
is($node->safe_psql('postgres', q{SELECT n, (SELECT ids FROM tick.seen WHERE source = 'parts'::regclass) FROM parts_1h}), '20|20', 'ids come with their partition');
$node->safe_psql('postgres', 'DROP TABLE parts CASCADE');

# Switched off, then on again with rows that are doubled.
$node->safe_psql('postgres', q{SELECT tick.alter_source('trades', reset => '{dedup_key,dedup_id}'); SELECT insert_ids('H', 1, 3)});
is(ids('H'), '{[1,101)} doubled', 'off');
($rc, $out, $err) = $node->psql('postgres', q{SELECT tick.alter_source('trades', dedup_key => '{symbol}', dedup_id => 'trade_id')});
like($err, qr/holds 3 rows whose id another row of the same key has/, 'what is doubled is reported');
$node->safe_psql('postgres', q{SELECT insert_ids('H', 50, 120)});
is(seen('H'), '{[1,121)}', 'on again');
exact($node, 'after all');

$node->stop;
done_testing();
