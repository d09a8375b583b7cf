# Nothing that a table's owner supplies ever runs as anybody but him, whoever asks for it: every function says in the log
# as whom it runs. The triggers of the capture serve their own tables only, owners who are no superusers make and attach
# partitions, readers need the view alone, and names may be anything.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = make_node('rights', conf => "max_worker_processes = 16\n");
sub sql { return $node->safe_psql('postgres', $_[0]) }
sub as_role {
  my ($role, $sql) = @_;
  my ($rc, $out, $err) = $node->psql('postgres', $sql, extra_params => [ '-U', $role ]);
  return "$out$err";
}
sub fine { my ($role, $sql) = @_; unlike(as_role($role, $sql), qr/ERROR/, "$role: " . $sql =~ s/\s+/ /gr) }
sub refused { my ($role, $sql, $error) = @_; like(as_role($role, $sql), $error, "refused to $role: $sql") }
sql('CREATE ROLE mallory LOGIN; CREATE ROLE bob LOGIN; CREATE ROLE carol LOGIN; GRANT CREATE ON SCHEMA public TO mallory, bob;
  GRANT CREATE ON DATABASE postgres TO bob; CREATE SCHEMA evil AUTHORIZATION mallory; GRANT USAGE ON SCHEMA evil TO bob, carol');

# ---- the owner's code, wherever it can be put
my %kinds = (float8 => 'NULL::float8', text => 'NULL::text', bool => 'NULL::bool');
for my $type (keys %kinds) {
  fine('mallory', qq{CREATE FUNCTION evil.spy(what text, x $type) RETURNS $type LANGUAGE plpgsql IMMUTABLE AS \$\$ DECLARE before name := current_user; BEGIN
    RAISE LOG 'spied % as %', what, current_user;
    BEGIN PERFORM set_config('role', 'none', true); EXCEPTION WHEN OTHERS THEN NULL; END;
    BEGIN PERFORM set_config('session_authorization', 'default', true); EXCEPTION WHEN OTHERS THEN NULL; END;
    IF current_user <> before THEN RAISE LOG 'spied % as %', what || ', escaped', current_user; END IF;
    RETURN x; END \$\$});
}
fine('mallory', $_) for (
  q{CREATE FUNCTION evil.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE LOG 'spied % as %', tg_name || ' ' || tg_op, current_user; RETURN coalesce(new, old); END $$},
  q{CREATE DOMAIN evil.sym AS text CHECK (evil.spy('domain', VALUE) IS NOT NULL)},
  q{CREATE TYPE evil.mood AS ENUM ('sad', 'glad'); CREATE FUNCTION evil.mood_json(evil.mood) RETURNS json LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
      RAISE LOG 'spied json as %', current_user; RETURN '1'; END $$;
    CREATE CAST (evil.mood AS json) WITH FUNCTION evil.mood_json(evil.mood);
    CREATE FUNCTION evil.mood_text(evil.mood) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
      RAISE LOG 'spied text as %', current_user; RETURN 'x'; END $$;
    CREATE CAST (evil.mood AS text) WITH FUNCTION evil.mood_text(evil.mood) AS ASSIGNMENT},
  q{CREATE FUNCTION evil.above(float8, float8) RETURNS bool LANGUAGE sql IMMUTABLE AS $$ SELECT evil.spy('operator', $1 OPERATOR(pg_catalog.>) $2) $$;
    CREATE OPERATOR evil.> (LEFTARG = float8, RIGHTARG = float8, FUNCTION = evil.above)},
  q{CREATE TABLE evil.src (symbol evil.sym, mood evil.mood, ts timestamptz, price float8 DEFAULT evil.spy('default', 1::float8), id int8,
      CHECK (evil.spy('check', price >= 0))) PARTITION BY RANGE (ts);
    CREATE TABLE evil.src_1 PARTITION OF evil.src FOR VALUES FROM ('2024-03-01+00') TO ('2024-03-02+00');
    CREATE TABLE evil.src_2 PARTITION OF evil.src FOR VALUES FROM ('2024-03-02+00') TO ('2024-03-03+00');
    CREATE INDEX ON evil.src (evil.spy('index', price)); CREATE INDEX ON evil.src (ts) WHERE evil.spy('predicate', price > 0);
    GRANT SELECT, INSERT, UPDATE, DELETE, TRIGGER ON evil.src, evil.src_2 TO bob},
  q{CREATE TRIGGER a_row BEFORE INSERT OR UPDATE OR DELETE ON evil.src FOR EACH ROW EXECUTE FUNCTION evil.note();
    CREATE TRIGGER a_truncate BEFORE TRUNCATE ON evil.src FOR EACH STATEMENT EXECUTE FUNCTION evil.note();
    CREATE TRIGGER a_truncate BEFORE TRUNCATE ON evil.src_1 FOR EACH STATEMENT EXECUTE FUNCTION evil.note()},
  q{INSERT INTO evil.src VALUES ('A', 'sad', '2024-03-01 12:00+00', 1, 1), ('B', 'glad', '2024-03-02 12:00+00', 2, 2)},
  q{SET search_path = evil, public; SELECT tick.create_rollup('evil.r', $q$ SELECT evil.spy('key', symbol::text) AS s, mood,
      tick.tumble(ts, '1 minute') AS w, count(*) AS n, sum(evil.spy('value', price)) AS v, max(price) FILTER (WHERE price OPERATOR(evil.>) 0) AS m
      FROM evil.src WHERE evil.spy('where', price > 0) GROUP BY 1, 2, 3 $q$)},
  q{SELECT tick.create_rollup('evil.by_mood', 'SELECT symbol, mood, count(*) AS n, min(symbol::text) AS low FROM evil.src GROUP BY 1, 2')},
  q{CREATE VIEW evil.over AS SELECT evil.spy('view', v) AS v FROM evil.r; SELECT * FROM evil.over},
  q{SELECT tick.wait(NULL); CREATE TRIGGER s_row BEFORE INSERT OR UPDATE OR DELETE ON evil.r_state FOR EACH ROW EXECUTE FUNCTION evil.note();
    CREATE TRIGGER s_truncate AFTER TRUNCATE ON evil.r_state FOR EACH STATEMENT EXECUTE FUNCTION evil.note();
    ALTER TABLE evil.r_state ADD CHECK (evil.spy('state check', n > -100)); CREATE INDEX ON evil.r_state (evil.spy('state index', m));
    ALTER TABLE evil.r_state ADD extra float8 DEFAULT evil.spy('state default', 1::float8)});

# ---- everything that the engine does with it, asked for by somebody else
my $log = -s $node->logfile;
my $listener = $node->background_psql('postgres');
$listener->query_safe('LISTEN "' . sql("SELECT tick.channel('evil.r')") . '"');
$listener->query_safe('LISTEN "' . sql("SELECT tick.channel('evil.by_mood')") . '"');
fine('bob', $_) for (
  q{INSERT INTO evil.src (symbol, mood, ts, price, id) VALUES ('A', 'sad', '2024-03-01 12:00:10+00', 3, 3), (repeat('wide', 1000), 'sad', '2024-03-01 12:00:10+00', 3, 4)},
  q{BEGIN; SAVEPOINT a; INSERT INTO evil.src_2 (symbol, mood, ts, price, id) VALUES ('B', 'glad', '2024-03-02 12:00+00', 5, 5); RELEASE a; COMMIT},
  q{UPDATE evil.src SET price = price + 1 WHERE symbol::text = 'A'}, q{DELETE FROM evil.src WHERE id = 5},
  q{INSERT INTO evil.src (symbol, mood, ts, price, id) VALUES ('A', 'sad', '2024-03-01 13:00+00', 3, 6)});
is(as_role('bob', "SELECT tick.wait(NULL, '20 s')"), 't', 'merged');
sql($_) for (
  "SELECT tick.alter_source('evil.src', partition_size => '1 day', partitions_ahead => 2)", "SELECT tick.wait(NULL)");
wait_for($node, "SELECT partitions >= 5 AND attic IS NOT NULL FROM tick.sources WHERE source = 'evil.src'::regclass");
like(($node->psql('postgres', "SELECT tick.alter_source('evil.src', dedup_key => '{symbol,mood}', dedup_id => 'id')"))[2], qr/key of dedup is longer than 2000/,
  'dedup is not turned on over keys that it could not give back');
fine('mallory', 'DELETE FROM evil.src WHERE id = 4');
# What waits in the attic is copied as the owner.
fine('bob', q{INSERT INTO evil.src (symbol, mood, ts, price, id) VALUES ('A', 'sad', now() + interval '3 days', 3, 7)});
sql($_) for (
  "SELECT tick.alter_source('evil.src', partitions_ahead => 4)", "SELECT tick.wait(NULL)");
wait_for($node, "SELECT partitions >= 7 FROM tick.sources WHERE source = 'evil.src'::regclass");
sql($_) for (
  "SELECT tick.alter_source('evil.src', dedup_key => '{symbol,mood}', dedup_id => 'id')", "SELECT tick.wait(NULL)",
  "SELECT tick.refresh('evil.r'); SELECT tick.refresh('evil.by_mood'); SELECT tick.wait(NULL)",
  "SELECT count(*) FROM tick.verify('evil.r'); SELECT count(*) FROM tick.verify('evil.by_mood')",
  'SELECT * FROM tick.status; SELECT * FROM tick.late; SELECT * FROM tick.seen; SELECT * FROM tick.gaps; SELECT * FROM tick.sources;
   SELECT * FROM tick.rollups; SELECT * FROM tick.stale; SELECT * FROM tick.worker', "SELECT * FROM tick.explain('evil.r')",
  'ALTER TABLE evil.src RENAME price TO px; ALTER TABLE evil.src RENAME px TO price', 'ALTER VIEW evil.r RENAME TO r2; ALTER VIEW evil.r2 RENAME TO r',
  "SELECT tick.set_watermark('evil.src', '2030-01-01'); SELECT tick.wait(NULL)", 'TRUNCATE evil.by_mood_state; SELECT tick.wait(NULL)');
fine('bob', q{INSERT INTO evil.src (symbol, mood, ts, price, id) VALUES ('A', 'sad', '2024-03-01 12:00:10+00', 3, 3), ('A', 'sad', '2024-03-01 12:00:20+00', 3, 8)});
exact($node, 'with all the code in the way');
sql($_) for (
  "SELECT tick.purge('evil.src', '2024-03-02 13:00+00')", "SELECT tick.alter_source('evil.src', retention => '10 days')");
wait_for($node, "SELECT to_regclass('evil.src_1') IS NULL AND to_regclass('evil.src_2') IS NULL");
fine('bob', q{INSERT INTO evil.src (symbol, mood, ts, price, id) VALUES ('A', 'sad', '2020-01-01+00', 3, 9)});
wait_for($node, "SELECT count(*) = 0 FROM evil.src_attic");
sql("SELECT tick.reset('evil.src'); SELECT tick.wait(NULL)");
fine('bob', q{INSERT INTO evil.src (symbol, mood, ts, price, id) VALUES ('A', 'sad', now(), 3, 10)});
exact($node, 'after a reset');
$listener->quit;

my %spied;
for (split /\n/, PostgreSQL::Test::Utils::slurp_file($node->logfile, $log)) {
  next unless /LOG:  spied (.*) as (\w+)$/;
  $spied{$1}{$2}++;
}
note("$_: " . join ', ', %{ $spied{$_} }) for sort keys %spied;
# A writer's own INSERT runs triggers, checks and domains as the writer, so does whoever refers to a column; nobody else does.
my $superuser = sql('SELECT current_user');
my @wrong = grep { $spied{$_}{$superuser} || /escaped/ } keys %spied;
is("@wrong", '', 'nothing of the owner ran as a superuser, nor escaped');
for my $what ('key', 'value', 'where', 'operator') {
  is(join(',', keys %{ $spied{$what} }), 'mallory', "$what: as the owner alone");
}
ok($spied{$_}{mallory}, "$_: it ran, as the owner") for ('index', 'predicate', 'state check', 'state index', 's_row INSERT', 's_row UPDATE', 'a_truncate TRUNCATE', 's_truncate TRUNCATE');
is(sql("SELECT count(*) FROM pg_roles WHERE rolsuper AND rolname <> current_user"), '0', 'nobody has risen');

# A deferred trigger would run at the worker's commit, as the worker.
fine('mallory', q{CREATE CONSTRAINT TRIGGER s_late AFTER INSERT OR UPDATE ON evil.by_mood_state DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW EXECUTE FUNCTION evil.note()});
fine('bob', q{INSERT INTO evil.src (symbol, mood, ts, price, id) VALUES ('A', 'sad', now(), 3, 11)});
sql('SELECT tick.wait(NULL)');
like(sql("SELECT state || ': ' || last_error FROM tick.status WHERE rollup = 'evil.by_mood'::regclass"),
  qr/^error: cannot fire deferred trigger within security-restricted operation/, 'a deferred trigger is not fired');
fine('mallory', 'DROP TRIGGER s_late ON evil.by_mood_state');
refused('bob', "SELECT tick.resume('evil.by_mood')", qr/must be owner/);
fine('mallory', "SELECT tick.resume('evil.by_mood')");
exact($node, 'resumed by its owner');

# ---- every function that has somebody else's rights has a path of its own
is(sql(q{SELECT string_agg(p.oid::regprocedure::text, ', ') FROM pg_proc p WHERE p.pronamespace IN ('tick'::regnamespace, 'tick_catalog'::regnamespace)
  AND p.prosecdef AND coalesce(p.proconfig::text, '') !~ 'search_path=pg_catalog, pg_temp'}), '', 'SECURITY DEFINER');
refused('bob', $_, qr/must be owner|permission denied|only the owner/) for (
  "SELECT tick.drop_rollup('evil.r')", "SELECT tick.refresh('evil.r')", "SELECT tick.resume('evil.r')", "SELECT tick.alter_source('evil.src', max_skew => '1 s')",
  "SELECT tick.purge('evil.src', now())", "SELECT tick.reset('evil.src')", "SELECT tick.set_watermark('evil.src', now())", "SELECT tick.drop_source('evil.src')",
  "SELECT tick.channel('evil.r')", 'SELECT * FROM evil.r', 'TRUNCATE evil.r_state', 'DELETE FROM tick_catalog.rollup', 'SELECT tick_catalog.wake()',
  "SET tick.corrections = off; DELETE FROM evil.src");

# ---- readers need the view alone
fine('mallory', 'GRANT SELECT ON evil.by_mood TO carol');
is(as_role('carol', 'SELECT n FROM evil.by_mood'), '2', 'a reader of the view');
refused('carol', $_, qr/permission denied/) for ('SELECT * FROM evil.by_mood_state', 'SELECT * FROM evil.src', 'SELECT * FROM evil.r', "SELECT * FROM tick.verify('evil.r')",
  'SELECT * FROM tick_catalog.queue_0', 'SELECT * FROM tick_catalog.late', 'SELECT * FROM tick_catalog.backfill');
is(as_role('carol', q{SELECT string_agg(rollup::text, ',') FROM tick.status}), 'evil.by_mood', 'sees what it may read');

# ---- owners who are no superusers make partitions by hand
fine('bob', $_) for (
  q{CREATE TABLE bobs (symbol text, ts timestamptz, price float8, qty float8, trade_id int8) PARTITION BY RANGE (ts);
    CREATE TABLE bobs_1 PARTITION OF bobs FOR VALUES FROM ('2024-03-01+00') TO ('2024-03-02+00');
    SELECT tick.create_rollup('bob_1m', candle_query('1 minute', 'bobs')); SELECT tick.alter_source('bobs', dedup_key => '{symbol}', dedup_id => 'trade_id')},
  "CREATE TABLE bobs_2 PARTITION OF bobs FOR VALUES FROM ('2024-03-02+00') TO ('2024-03-03+00')",
  q{CREATE TABLE bobs_3 (LIKE bobs); INSERT INTO bobs_3 VALUES ('A', '2024-03-03 12:00+00', 1, 1, 1);
    ALTER TABLE bobs ATTACH PARTITION bobs_3 FOR VALUES FROM ('2024-03-03+00') TO ('2024-03-04+00')},
  'CREATE TABLE bobs_attic PARTITION OF bobs DEFAULT',
  q{INSERT INTO bobs SELECT * FROM random_trades(500, 0.5); INSERT INTO bobs SELECT symbol, ts + interval '1 day', price, qty, trade_id + 1000 FROM random_trades(500, 0.6)},
  'ALTER TABLE bobs_1 DISABLE TRIGGER ALL', 'ALTER TABLE bobs_1 ENABLE TRIGGER ALL', q{INSERT INTO bobs VALUES ('B', '2024-03-01 12:00+00', 1, 1, 9)},
  'ALTER TABLE bobs DETACH PARTITION bobs_2; DROP TABLE bobs_2');
exact($node, 'partitions made and attached by their owner');

# ---- the functions of the triggers are no door
my $program = sql("SELECT id FROM tick_catalog.program WHERE source = 'bobs'::regclass AND current");
my $set = sql("SELECT id FROM tick_catalog.dedup WHERE source = 'bobs'::regclass");
fine('bob', 'GRANT SELECT, INSERT, TRIGGER ON bobs TO mallory; GRANT SELECT, TRIGGER ON bobs_1, bobs_3, bobs_attic TO mallory');
fine('mallory', 'CREATE TABLE evil.like_bobs (LIKE bobs)');
for my $trigger ("zz_tick_insert AFTER INSERT ON evil.like_bobs FOR EACH ROW EXECUTE FUNCTION tick_catalog.capture('$program')",
  "zz_tick_dedup BEFORE INSERT OR DELETE ON evil.like_bobs FOR EACH ROW EXECUTE FUNCTION tick_catalog.dedup('$set')",
  "zz_tick_insert AFTER INSERT ON evil.like_bobs FOR EACH ROW EXECUTE FUNCTION tick_catalog.capture('-$set')")
{
  fine('mallory', "CREATE TRIGGER $trigger");
  refused('mallory', "INSERT INTO evil.like_bobs VALUES ('A', '2024-03-01 12:00+00', 1, 1, 12345)", qr/is not one of pg_tick's own/);
  my ($name) = $trigger =~ /^(\w+)/;
  fine('mallory', "DROP TRIGGER $name ON evil.like_bobs");
}
refused('mallory', "CREATE TRIGGER double AFTER INSERT ON bobs FOR EACH ROW EXECUTE FUNCTION tick_catalog.capture('$program')", qr/cannot have a trigger "double"/);
refused('mallory', "CREATE TRIGGER double AFTER INSERT ON bobs_1 FOR EACH ROW EXECUTE FUNCTION tick_catalog.capture('$program')", qr/cannot have a trigger "double"/);
refused('bob', 'ALTER TRIGGER zz_tick_insert ON bobs RENAME TO other', qr/cannot have a trigger "other"/);
fine('mallory', $_) for (
  q{CREATE FUNCTION evil.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'},
  'CREATE OR REPLACE TRIGGER zz_tick_insert AFTER INSERT ON bobs FOR EACH ROW WHEN (false) EXECUTE FUNCTION evil.nothing()',
  'CREATE OR REPLACE TRIGGER zz_tick_update AFTER INSERT OR UPDATE ON bobs FOR EACH ROW EXECUTE FUNCTION evil.nothing()',
  "CREATE OR REPLACE TRIGGER zz_tick_insert AFTER INSERT ON bobs FOR EACH ROW EXECUTE FUNCTION tick_catalog.capture('999')",
  'CREATE OR REPLACE TRIGGER zz_tick_flush AFTER INSERT ON bobs FOR EACH STATEMENT EXECUTE FUNCTION evil.nothing()');
fine('bob', q{INSERT INTO bobs VALUES ('C', '2024-03-01 12:00+00', 1, 1, 10); UPDATE bobs SET price = 2 WHERE trade_id = 10;
  INSERT INTO bobs VALUES ('C', '2024-03-01 12:00+00', 1, 1, 10)});
is(sql("SELECT count(*) FROM bobs WHERE symbol = 'C'"), '1', 'ids are still looked at');
exact($node, 'after triggers were replaced by who may create some');
is(sql('SELECT count(*) FROM tick_catalog.unguarded'), '0', 'all are as they were');

# ---- names
my $accents = "\xc3\xa9\xc3\xa9\xe2\x82\xac";
for my $name (q{we"ird ' na\\me $1 %s {x}; --}, 'select', 'UPPER Case', $accents, 'x' x 63, "\xc3\xa9" x 31, '1', ' ', 'excluded') {
  my $q = '"' . ($name =~ s/"/""/gr) . '"';
  my $l = "'" . ($name =~ s/'/''/gr) . "'";
  my $out = as_role('bob', qq{
    SET client_min_messages = error;
    CREATE SCHEMA $q;
    CREATE TABLE $q.$q ($q text, ts timestamptz, price float8, id int8) PARTITION BY RANGE (ts);
    CREATE TABLE $q."${\ substr $name =~ s/"/""/gr, 0, 8} p" PARTITION OF $q.$q FOR VALUES FROM ('2024-03-01+00') TO ('2024-03-02+00');
    SELECT tick.add_source(quote_ident($l) || '.' || quote_ident($l), dedup_key => ARRAY[$l], dedup_id => 'id');
    SELECT tick.create_rollup(quote_ident($l) || '.' || quote_ident(left($l, 20) || '_r'),
      format('SELECT %1\$I, tick.tumble(ts, ''1 minute'') AS "w ""%%", count(*) AS "n''", tick.last(price, ts) AS %2\$I, sum(price) AS s FROM %1\$I.%1\$I GROUP BY 1, 2', $l, 'Last ' || left($l, 10)));
    SELECT tick.alter_source(quote_ident($l) || '.' || quote_ident($l), watermark_by => $l, partition_size => '1 day');
    INSERT INTO $q.$q VALUES ('A', '2024-03-01 12:00+00', 1, 1), ($l, '2024-03-01 12:00:01+00', 2, 2), ($l, '2024-03-01 12:00:01+00', 2, 2);
    UPDATE $q.$q SET price = 3 WHERE id = 1;
    SELECT tick.wait(NULL, '20 s');
    SELECT tick.channel(r.rollup) IS NOT NULL, count(*) OVER () FROM tick.rollups r WHERE r.source = (quote_ident($l) || '.' || quote_ident($l))::regclass;
    SELECT tick.refresh(r.rollup), tick.explain(r.rollup) FROM tick.rollups r WHERE r.source = (quote_ident($l) || '.' || quote_ident($l))::regclass;
    SELECT tick.wait(NULL, '20 s')});
  unlike($out, qr/ERROR/, "name $q") or next;
  wait_for($node, "SELECT partitions >= 5 FROM tick.sources WHERE source = (quote_ident($l) || '.' || quote_ident($l))::regclass");
  exact($node, "name $q");
  $out = as_role('bob', qq{
    SET client_min_messages = error;
    SELECT tick.purge(quote_ident($l) || '.' || quote_ident($l), '2024-03-02+00');
    SELECT * FROM tick.seen; SELECT * FROM tick.gaps; SELECT tick.reset(quote_ident($l) || '.' || quote_ident($l));
    ALTER TABLE $q.$q RENAME $q TO other; ALTER TABLE $q.$q RENAME other TO $q;
    SELECT tick.drop_rollup(r.rollup) FROM tick.rollups r WHERE r.source = (quote_ident($l) || '.' || quote_ident($l))::regclass;
    DROP SCHEMA $q CASCADE});
  unlike($out, qr/ERROR/, "name $q, to the end");
}
exact($node, 'at the end');
$node->stop;
done_testing();
