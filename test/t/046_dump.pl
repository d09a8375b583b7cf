# Dumps taken under a live feed, with deltas that nobody has merged yet, restored in every form, here and elsewhere:
# rollups and sets of ids are exact at once and go on. What the states hold is not merged again, what they do not hold
# is not lost. TICK_DUMPS: how many dumps of the live feed are restored (3).
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Cwd;

my $dumps = $ENV{TICK_DUMPS} || 3;
my $conf = "max_worker_processes = 48\n";
my $here = make_node('here', conf => $conf);
my $other = make_node('elsewhere', conf => $conf);
my $bare = make_node('bare', conf => $conf);  # without the roles
$_->safe_psql('postgres', 'CREATE ROLE bob LOGIN') for $here, $other;
my $base = $here->basedir;

# ---- what is dumped

$here->safe_psql('postgres', 'CREATE DATABASE feed');
$here->safe_psql('feed', 'CREATE EXTENSION pg_tick; ' . slurp("$FindBin::Bin/../oracle/candles.sql"));
$here->safe_psql('feed', q{
  CREATE SCHEMA "odd ""schema"; CREATE SCHEMA zoo;
  CREATE TABLE junk (a int); DROP TABLE junk;
  CREATE TABLE trades (gone int, symbol text, ts timestamptz, price float8, qty float8, trade_id int8) PARTITION BY RANGE (ts);
  ALTER TABLE trades DROP COLUMN gone;
  CREATE TABLE trades_1 PARTITION OF trades FOR VALUES FROM ('2024-03-01+00') TO ('2024-03-02+00');
  CREATE TABLE trades_rest (trade_id int8, qty float8, symbol text, ts timestamptz, price float8);
  ALTER TABLE trades ATTACH PARTITION trades_rest DEFAULT;
  CREATE TYPE side AS ENUM ('buy', 'sell');
  CREATE FUNCTION side_of(q float8) RETURNS side LANGUAGE sql IMMUTABLE AS $$ SELECT CASE WHEN q > 1 THEN 'buy' ELSE 'sell' END::public.side $$;
  CREATE FUNCTION fee(p float8) RETURNS float8 LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN p / 1000; END $$;
  SELECT tick.create_rollup('candles_1m', candle_query('1 minute'));
  SELECT tick.create_rollup('candles_5m', candle_query('5 minutes'));
  GRANT SELECT, TRIGGER ON trades TO bob; GRANT CREATE ON SCHEMA public, "odd ""schema" TO bob; GRANT USAGE ON SCHEMA "odd ""schema" TO bob;
  SET ROLE bob;
  SELECT tick.create_rollup('"odd ""schema"."the ''sides'', e"""', $$
    SELECT side_of(qty) = 'buy' AS side, tick.tumble(ts, '1 hour') AS hour, sum(fee(price)) AS fees, min(symbol) AS "a ""b"
    FROM trades WHERE symbol <> 'Z' AND price BETWEEN -5 AND 1e9 GROUP BY 1, 2 $$);
  SELECT tick.create_rollup('total', 'SELECT count(*) AS n, sum(qty) FILTER (WHERE side_of(qty) = ''buy'') AS bought FROM trades');
  SELECT tick.feed('f', 'c', '{"at": 1}');
  RESET ROLE;

  -- Named so that a dump brings its rows after the catalogs', and with ids.
  CREATE TABLE zoo.ticks (x int, venue text, side side, id int8, price float8, ts timestamptz);
  ALTER TABLE zoo.ticks DROP COLUMN x;
  SELECT tick.add_source('zoo.ticks', dedup_key => '{venue,side}', dedup_id => 'id', dedup_group => 'venue', max_skew => '7 seconds');
  SELECT tick.create_rollup('zoo.sides', $$ SELECT venue, side, tick.tumble(ts, '1 minute') AS ts, count(*) AS n, max(price) AS high
    FROM zoo.ticks GROUP BY 1, 2, 3 $$);
  CREATE TABLE quotes (id int8, price float8, ts timestamptz);
  SELECT tick.add_source('quotes', dedup_key => '{price}', dedup_id => 'id');
  CREATE PROCEDURE write_ticks(batches int) LANGUAGE plpgsql AS $$
  DECLARE
    at int8 := (SELECT coalesce(max(id), 0) FROM zoo.ticks);
  BEGIN
    FOR i IN 1 .. batches LOOP
      INSERT INTO trades SELECT * FROM random_trades(5, random());
      -- Some ids come twice, some never.
      INSERT INTO zoo.ticks SELECT v, s, at + i * 4 + n - (random() * 5)::int, n, '2024-03-01 12:00+00'::timestamptz + i * interval '1 second'
        FROM unnest('{A,B}'::text[]) AS v, unnest(enum_range(NULL::side)) AS s, generate_series(1, 4) AS n;
      INSERT INTO quotes SELECT n - n % 3, i % 3, '2024-03-01 12:00+00' FROM generate_series(at + i * 3, at + i * 3 + 4) AS n;
      IF i % 50 = 0 THEN
        UPDATE trades SET price = price + 1 WHERE trade_id % 100 = 0;
        DELETE FROM zoo.ticks WHERE id % 50 = 7;
      END IF;
      COMMIT;
    END LOOP;
  END $$;
  INSERT INTO trades SELECT * FROM random_trades(2000, 0.1);
  UPDATE trades SET price = 8 WHERE trade_id % 100 = 0;
  CALL write_ticks(60)});

# Every rollup of a database equals its query, and the sets of ids are those of the rows.
sub exact_in {
  my ($in, $database, $what) = @_;
  my $merged = $in->safe_psql($database, "SELECT tick.wait(NULL, '60 s')");
  my $bad = $in->safe_psql($database,
    "SELECT s.rollup, s.state, s.last_error, v.* FROM tick.status s LEFT JOIN LATERAL tick.verify(s.rollup) v ON true"
      . " WHERE s.state <> 'live' OR v.\"column\" IS NOT NULL LIMIT 10");
  my $rollups = $in->safe_psql($database, 'SELECT count(*) FROM tick.status');
  my $differences = $in->safe_psql($database, q{SELECT oracle_differences('candles_1m', '1 minute') + oracle_differences('candles_5m', '5 minutes')
    + (SELECT count(*) FROM (SELECT venue, side, date_bin('1 minute', ts, '2000-01-01 00:00+00') AS ts, count(*) AS n, max(price) AS high FROM zoo.ticks GROUP BY 1, 2, 3) e
       FULL JOIN zoo.sides s USING (venue, side, ts) WHERE (e.n, e.high) IS DISTINCT FROM (s.n, s.high))});
  my $raw = $in->safe_psql($database, 'SELECT count(*) FROM trades');
  my $counted = $in->safe_psql($database, 'SELECT sum(trades) FROM candles_1m');
  my $ids = ids_in($in, $database);
  ok($merged eq 't' && $bad eq '' && $rollups == 5 && $differences eq '0' && $raw == $counted && $ids eq '', "$what: exact")
    or diag("merged $merged, rollups $rollups, differences $differences, raw $raw, counted $counted\n$bad\nids $ids");
}

# What tick.gaps says of zoo.ticks, and what its rows say, where they differ. Ids that rows had which were deleted are
# gone again; sets made anew do not know of anything before the first.
sub ids_in {
  my ($in, $database) = @_;
  return $in->safe_psql($database, q{
    WITH rows AS (SELECT venue, side, id, lead(id) OVER (PARTITION BY venue, side ORDER BY id) AS next FROM (SELECT DISTINCT venue, side, id FROM zoo.ticks) t),
    real AS (SELECT jsonb_build_object('venue', venue, 'side', side::text) AS key, id + 1 AS from_id, next - 1 AS to_id FROM rows WHERE next > id + 1),
    told AS (SELECT key, from_id, to_id FROM tick.gaps WHERE source = 'zoo.ticks'::regclass)
    SELECT r, t FROM real r FULL JOIN told t ON (t.key, t.from_id, t.to_id) = (r.key, r.from_id, r.to_id)
    WHERE r.key IS NULL OR t.key IS NULL ORDER BY 1, 2 LIMIT 5});
}

# Whether everything goes on in a restored database: what is new, what changes, and what has been there before.
my $again = q{INSERT INTO zoo.ticks SELECT venue, side, id, price, ts FROM zoo.ticks; INSERT INTO quotes SELECT * FROM quotes;};
my $late = "INSERT INTO trades VALUES ('late', '2024-03-01 12:00+00', 3, 2, 1), ('late', '2025-03-01 12:00+00', 3, 2, 1);";
sub goes_on {
  my ($in, $database, $what) = @_;
  my $count = q{SELECT (SELECT count(*) FROM zoo.ticks) || ' ' || (SELECT count(*) FROM quotes)};
  my $before = $in->safe_psql($database, $count);
  # At once, before the worker can have looked.
  $in->safe_psql($database, "$again $late");
  is($in->safe_psql($database, $count), $before, "$what: keeps out duplicates");
  exact_in($in, $database, $what);
  $in->safe_psql($database, qq{$late UPDATE trades SET qty = 9 WHERE symbol = 'late' AND ts < '2025-01-01'; ALTER TABLE trades RENAME price TO px;
    $late ALTER TABLE trades RENAME px TO price; DELETE FROM trades WHERE trade_id % 50 = 0; DELETE FROM zoo.ticks WHERE id % 9 = 0; CALL write_ticks(3)});
  exact_in($in, $database, "$what: goes on");
  is($in->safe_psql($database, q{SELECT count(*) FROM tick_catalog.unguarded; SELECT count(*) FROM pg_trigger
    WHERE tgname IN ('tick_replica', 'tick_replica_truncate') AND tgenabled <> 'R'}), "0\n0", "$what: every trigger fires");
}

# Has a database's worker rest after its next turn, so that deltas wait in the queue (not by a signal: it may hold what
# writers need), or work again.
sub rest {
  my ($in, $database) = @_;
  set_interval($in, $database, q{SET tick.turn_interval = '1min'}, '1min');
}
sub work_again {
  my ($in, $database) = @_;
  set_interval($in, $database, q{RESET tick.turn_interval}, '1ms');
}
sub set_interval {
  my ($in, $database, $how, $shown) = @_;
  $in->safe_psql('postgres', "ALTER SYSTEM $how");
  $in->reload;
  $in->poll_query_until('postgres', 'SHOW tick.turn_interval', $shown) or die 'not reloaded';
  $in->safe_psql($database, q{SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE backend_type = 'pg_tick worker' AND datname = current_database()});
}
# Waits until so many deltas wait.
sub waiting {
  my ($in, $database, $deltas) = @_;
  $in->poll_query_until($database, qq{SELECT count(*) >= $deltas FROM tick_catalog.frontier, (SELECT xid FROM tick_catalog.queue_0 UNION ALL
    SELECT xid FROM tick_catalog.queue_1 UNION ALL SELECT xid FROM tick_catalog.queue_2) q WHERE NOT pg_visible_in_snapshot(xid, snapshot)}) or die 'nothing waits';
}

sub create_in {
  my ($in, $database) = @_;
  $in->safe_psql('postgres', "CREATE DATABASE $database");
}

sub restored {
  my ($what, $in, $database, @command) = @_;
  $in->command_ok([ @command, '-d', $in->connstr($database) ], "$what: restored");
}

sub psql_file { return ('psql', '-Xq', '-v', 'ON_ERROR_STOP=1', map { ('-f', $_) } @_) }

exact_in($here, 'feed', 'before');

# ---- under a live feed

my $feed = launch('feed', 'psql', '-XqAt', '-d', $here->connstr('feed'), '-c', 'CALL write_ticks(1000000)');
wait_for($here, q{SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = 'feed' AND query ~ 'write_ticks'});
sub further {
  my $written = $here->safe_psql('feed', 'SELECT count(*) FROM trades');
  $here->poll_query_until('feed', "SELECT count(*) > $written + 50 FROM trades") or die 'no feed';
}
my %format = (custom => [ '-Fc' ], directory => [ '-Fd', '-j2' ], plain => [ '-Fp' ]);
my @formats = sort keys %format;
my @taken;
for my $n (0 .. ($dumps < 3 ? 2 : $dumps - 1)) {
  # Every other one with many deltas.
  rest($here, 'feed') if $n % 2 == 0;
  $n % 2 == 0 ? waiting($here, 'feed', 100) : further();
  my $name = $formats[$n % 3] . ($n < 3 ? '' : $n);
  push @taken, $name;
  $here->command_ok([ 'pg_dump', @{ $format{ $formats[$n % 3] } }, '-f', "$base/$name", $here->connstr('feed') ], "dumped: $name");
  work_again($here, 'feed') if $n % 2 == 0;
}
$here->safe_psql('feed', q{SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE query ~ '^CALL write_ticks'});
finish($feed, 'TERM');
exact_in($here, 'feed', 'the feed afterwards');

for my $name (@taken) {
  my ($format) = $name =~ /^([a-z]+)/;
  my $in = $name eq 'custom' ? $here : $other;
  create_in($in, $name);
  restored($name, $in, $name, $format eq 'plain' ? psql_file("$base/$name")
    : ('pg_restore', '-e', $format eq 'directory' ? ('-j3') : (), "$base/$name"));
  goes_on($in, $name, $name);
  is($in->safe_psql($name, q{SELECT string_agg(DISTINCT owner::regrole::text, ' ' ORDER BY owner::regrole::text) FROM tick_catalog.rollup}),
    $in->safe_psql('postgres', q{SELECT least(current_user, 'bob') || ' ' || greatest(current_user, 'bob')}), "$name: owners");
  is($in->safe_psql($name, q{SET ROLE bob; SELECT tick.feed('f', 'c', '{"at": 2}'); SELECT tick.position('f', 'c')}), qq(\n{"at": 2}), "$name: feeds go on");
  is($in->safe_psql($name, q{SELECT max_skew FROM tick.sources WHERE source = 'zoo.ticks'::regclass}), '00:00:07', "$name: settings");
}

# ---- the schema first, the data afterwards: rows fire the triggers, their candles are in the dump

$other->command_ok([ 'pg_restore', $$_[0], '-f', "$base/$$_[1]", "$base/custom" ], "script: $$_[1]")
  for [ '--schema-only', 'schema' ], [ '--data-only', 'data' ];
for my $parts ([ 'at_once', psql_file("$base/schema", "$base/data") ],
  [ 'one_transaction', psql_file("$base/schema", "$base/data"), '-1' ],
  [ 'row_by_row', psql_file("$base/schema"), ';', psql_file("$base/data") ],
  [ 'jobs', psql_file("$base/schema"), ';', 'pg_restore', '-e', '--data-only', '-j3', "$base/directory" ],
  [ 'disabled', psql_file("$base/schema"), ';', 'pg_restore', '-e', '--data-only', '--disable-triggers', "$base/custom" ]) {
  my ($name, @commands) = @$parts;
  create_in($other, $name);
  my @command;
  for my $word (@commands, ';') {
    push @command, $word and next if $word ne ';';
    restored($name, $other, $name, @command);
    @command = ();
  }
  goes_on($other, $name, $name);
}

# ---- the schema alone

create_in($other, 'schema_only');
restored('schema_only', $other, 'schema_only', psql_file("$base/schema"));
like(($other->psql('schema_only', $late))[2], qr/names program \d+, which does not exist.*SELECT tick\.resume/s, 'writers are told how to go on');
$other->safe_psql('schema_only', q{SELECT tick.add_source('zoo.ticks', dedup_key => '{venue,side}', dedup_id => 'id');
  SELECT tick.add_source('quotes', dedup_key => '{price}', dedup_id => 'id');
  SET ROLE bob; SELECT tick.resume('"odd ""schema"."the ''sides'', e"""'); SELECT tick.resume('total')});
like(($other->psql('schema_only', q{SET ROLE bob; SELECT tick.resume('candles_1m')}))[2], qr/is not a rollup/, 'each by its owner');
$other->safe_psql('schema_only', q{SELECT tick.resume(v) FROM unnest('{candles_1m,candles_5m,zoo.sides}'::regclass[]) v});
$other->safe_psql('schema_only', "$late CALL write_ticks(20)");
goes_on($other, 'schema_only', 'the schema alone');
$other->safe_psql('schema_only', q{SELECT tick.drop_rollup('candles_5m'); SELECT tick.create_rollup('candles_5m', candle_query('5 minutes'))});
exact_in($other, 'schema_only', 'the schema alone: definitions');
$other->command_ok([ 'pg_dump', '-Fc', '-f', "$base/adopted", $other->connstr('schema_only') ], 'dumped: adopted');
create_in($other, 'adopted');
restored('adopted', $other, 'adopted', 'pg_restore', '-e', "$base/adopted");
goes_on($other, 'adopted', 'adopted');

# ---- afterwards: definitions, crashes, a dump of a dump

$here->safe_psql('custom', q{SELECT tick.create_rollup('candles_10m', candle_query('10 minutes')); SELECT tick.drop_rollup('candles_10m');
  INSERT INTO trades SELECT * FROM random_trades(100, 0.9)});
exact_in($here, 'custom', 'definitions');
$here->stop('immediate');
$here->start;
exact_in($here, 'custom', 'after a crash');
$here->safe_psql('custom', 'ALTER TABLE trades RENAME price TO px; ALTER TABLE trades RENAME TO renamed; ALTER TABLE renamed RENAME TO trades; ALTER TABLE trades RENAME px TO price');
$here->command_ok([ 'pg_dump', '-Fc', '-f', "$base/again", $here->connstr('custom') ], 'dumped again');
create_in($other, 'again');
restored('a dump of a dump', $other, 'again', 'pg_restore', '-e', "$base/again");
goes_on($other, 'again', 'a dump of a dump');
restored('over itself', $other, 'again', 'pg_restore', '--clean', '--if-exists', '-e', "$base/again");
goes_on($other, 'again', 'over itself');

# ---- without owners, where their roles are not known

create_in($bare, 'owned');
restored('without owners', $bare, 'owned', 'pg_restore', '--no-owner', '--no-acl', '-e', "$base/again");
goes_on($bare, 'owned', 'without owners');
is($bare->safe_psql('owned', q{SELECT count(*) FROM tick_catalog.rollup r JOIN pg_class c ON c.oid = r.view WHERE c.relowner <> r.owner OR r.owner <> current_user::regrole}),
  '0', 'rollups belong to who has restored them');

# ---- the files copied: a clone keeps its frontier

copy_database($other, 'again', 'clone');
goes_on($other, 'clone', 'a clone');
goes_on($other, 'again', 'what was cloned');

is($other->safe_psql('again', q{SELECT count(*) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
  WHERE c.relnamespace = 'tick_catalog'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND a.atttypid IN ('oid'::regtype, 'oid[]'::regtype) AND a.attname <> 'owner'}),
  '0', 'no catalog names an object by a number');

# ---- what no source can give back: candles of retired rows, late rows, watermarks, duplicates counted

$here->safe_psql('postgres', 'CREATE DATABASE kept');
$here->safe_psql('kept', 'CREATE EXTENSION pg_tick; ' . slurp("$FindBin::Bin/../oracle/candles.sql"));
$here->safe_psql('kept', q{
  CREATE TABLE trades (symbol text, ts timestamptz, price float8, qty float8, trade_id int8) PARTITION BY RANGE (ts);
  CREATE TABLE trades_0 PARTITION OF trades FOR VALUES FROM ('2024-02-29+00') TO ('2024-03-01 12:10+00');
  CREATE TABLE trades_1 PARTITION OF trades FOR VALUES FROM ('2024-03-01 12:10+00') TO ('2024-03-02+00');
  CREATE TABLE trades_2 PARTITION OF trades DEFAULT;
  SELECT tick.create_rollup('candles_1m', candle_query('1 minute'));
  SELECT tick.add_source('trades', freeze_after => '5 minutes', dedup_key => '{symbol}', dedup_id => 'trade_id');
  INSERT INTO trades SELECT * FROM random_trades(2000, 0.1);
  SELECT tick.wait(NULL);
  INSERT INTO trades SELECT * FROM random_trades(5, 0.1);
  DELETE FROM trades WHERE trade_id % 10 = 0});
$here->safe_psql('kept', q{SELECT tick.wait(NULL)});
$here->safe_psql('kept', q{DROP TABLE trades_0; INSERT INTO trades VALUES ('late', '2024-03-01 12:12+00', 1, 1, 1), ('none', 'infinity', 1, 1, 1)});
my $kept = q{SELECT tick.wait(NULL); SELECT c FROM candles_1m c ORDER BY symbol, ts; SELECT watermark, max_time, late, future, rejected, duplicates, raw_from FROM tick.sources;
  SELECT rollup, key, ts, rows, reason, since FROM tick.late ORDER BY 1, 2, 3; SELECT * FROM tick.stale ORDER BY 1, 2; SELECT source, key, from_id, to_id FROM tick.gaps ORDER BY 1, 2, 3};
my $before = $here->safe_psql('kept', $kept);
like($before, qr/frozen.*no_time/s, 'there is something to keep');
$here->command_ok([ 'pg_dump', '-Fd', '-j2', '-f', "$base/kept", $here->connstr('kept') ], 'dumped: kept');
create_in($other, 'kept');
restored('kept', $other, 'kept', 'pg_restore', '-e', '-j3', "$base/kept");
$other->poll_query_until('kept', q{SELECT count(*) = 1 FROM tick.status WHERE state = 'live'}) or die 'not live';
is($other->safe_psql('kept', $kept), $before, 'kept: everything');
$other->safe_psql('kept', q{INSERT INTO trades VALUES ('new', '2024-03-01 12:29+00', 1, 1, 1), ('new', '2024-03-01 12:29+00', 9, 1, 2); DELETE FROM trades WHERE trade_id = 2; SELECT tick.wait(NULL)});
is($other->safe_psql('kept', q{SELECT high, trades FROM candles_1m WHERE symbol = 'new'; SELECT count(*) FROM tick.verify('candles_1m')}), "1|1\n0", 'kept: goes on');

# ---- while history is scanned, and while what was found is merged

$here->safe_psql('postgres', 'CREATE DATABASE scanned');
$here->safe_psql('postgres', 'ALTER SYSTEM SET tick.scan_size = 0');
$here->safe_psql('scanned', 'CREATE EXTENSION pg_tick; ' . slurp("$FindBin::Bin/../oracle/candles.sql"));
$here->safe_psql('scanned', q{
  CREATE FUNCTION slow(x float8) RETURNS float8 LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM pg_catalog.pg_sleep(0.001); RETURN x; END $$;
  CREATE TABLE trades (symbol text, ts timestamptz, price float8, qty float8, trade_id int8);
  INSERT INTO trades SELECT * FROM random_trades(3000, 0.1)});
rest($here, 'scanned');  # after the turn that begins the scan: what is found waits
$here->safe_psql('scanned', q{SELECT tick.create_rollup('slowly', $$ SELECT symbol, tick.tumble(ts, '1 minute') AS ts, max(slow(price)) AS high, count(*) AS n FROM trades GROUP BY 1, 2 $$)});
$here->poll_query_until('scanned', 'SELECT count(*) = 1 FROM tick_catalog.scan_progress() WHERE rows > 0') or die 'no scan';
my $change = 'INSERT INTO trades SELECT * FROM random_trades(20, 0.2); DELETE FROM trades WHERE trade_id % 13 = 5; UPDATE trades SET price = 1 WHERE trade_id % 13 = 6;';
$here->safe_psql('scanned', $change);
$here->command_ok([ 'pg_dump', '-Fc', '-f', "$base/scanning", $here->connstr('scanned') ], 'dumped: scanning');
is($here->safe_psql('scanned', 'SELECT count(*) FROM tick_catalog.scan_progress()'), '1', 'while it was scanned');
$here->poll_query_until('scanned', 'SELECT count(*) > 0 FROM tick_catalog.backfill') or die 'nothing found';
$here->safe_psql('scanned', $change);
$here->command_ok([ 'pg_dump', '-Fc', '-f', "$base/pieces", $here->connstr('scanned') ], 'dumped: pieces');
work_again($here, 'scanned');
for my $name (qw(scanning pieces)) {
  create_in($other, $name);
  restored($name, $other, $name, 'pg_restore', '-e', "$base/$name");
  $other->safe_psql($name, $change);
  is($other->safe_psql($name, q{SELECT tick.wait(NULL, '60 s'); SELECT count(*) FROM tick.verify('slowly'); SELECT state FROM tick.status;
    SELECT count(*) FROM (SELECT symbol, date_bin('1 minute', ts, '2000-01-01 00:00+00') AS ts, max(price) AS high, count(*) AS n FROM trades GROUP BY 1, 2) e
    FULL JOIN slowly s USING (symbol, ts) WHERE (e.high, e.n) IS DISTINCT FROM (s.high, s.n)}), "t\n0\nlive\n0", "$name: exact");
}

# ---- pg_upgrade: the same files under another system, with deltas of which some are merged

my $upgraded;
SKIP: {
  skip 'from 18 on pg_upgrade looks for a library in its own directory alone, and there is none: make install', 1
      if slurp($ENV{TICK_CONF}) =~ /extension_control_path/ && !-e $bare->config_data('--pkglibdir') . '/pg_tick.so';
  $upgraded = PostgreSQL::Test::Cluster->new('upgraded');
  $upgraded->init;
  $upgraded->append_conf('postgresql.conf', $conf);
  rest($bare, 'owned');
  $bare->safe_psql('owned', 'CALL write_ticks(5)');
  $bare->poll_query_until('owned', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'pg_tick worker'}) or die 'no worker';
  $bare->safe_psql('owned', 'CALL write_ticks(5)');
  waiting($bare, 'owned', 1);
  is($bare->safe_psql('owned', q{SELECT string_agg(DISTINCT pg_visible_in_snapshot(xid, snapshot)::text, ' ') FROM tick_catalog.frontier,
    (SELECT xid FROM tick_catalog.queue_0 UNION ALL SELECT xid FROM tick_catalog.queue_1 UNION ALL SELECT xid FROM tick_catalog.queue_2) q}), 'false true', 'some are merged');
  $bare->stop;
  {
    my $from = Cwd::getcwd();
    chdir $upgraded->basedir;
    my $bin = $bare->config_data('--bindir');
    command_ok([ 'pg_upgrade', '--no-sync', '-d', $bare->data_dir, '-D', $upgraded->data_dir, '-b', $bin, '-B', $bin,
      '-s', $upgraded->host, '-p', $bare->port, '-P', $upgraded->port ], 'pg_upgrade');
    chdir $from;
  }
  $upgraded->start;
  goes_on($upgraded, 'owned', 'upgraded');
  like(slurp($upgraded->logfile), qr/pg_tick has taken up/, 'taken up after pg_upgrade');
}

$_->stop for $here, $other, $upgraded // ();
done_testing();
