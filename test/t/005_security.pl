# What a role must not get out of the engine: another role's rights, a crash, rows that rollups do not see.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = make_node('security');

# Runs SQL as a role; returns what it printed, errors behind it.
sub as_role {
  my ($role, $sql) = @_;
  my ($rc, $out, $err) = $node->psql('postgres', $sql, extra_params => [ '-U', $role ]);
  return "$out$err";
}
sub refused {
  my ($sql, $error, $role) = @_;
  like(as_role($role // $node->safe_psql('postgres', 'SELECT current_user'), $sql), $error, "refused: $sql");
}
sub sql { return $node->safe_psql('postgres', $_[0]) }

sql(q{
  CREATE ROLE mallory LOGIN; CREATE ROLE bob LOGIN; CREATE ROLE heir LOGIN;
  GRANT CREATE ON SCHEMA public TO mallory, bob, heir;
  CREATE SCHEMA evil AUTHORIZATION mallory; GRANT USAGE ON SCHEMA evil TO bob});
is(as_role('mallory', q{
  CREATE TABLE evil.rows (symbol text, ts timestamptz, price float8);
  SELECT tick.create_rollup('evil.sums', 'SELECT symbol, sum(price) AS s FROM evil.rows GROUP BY 1')}), 'evil.sums', 'a rollup of mallory');
is(as_role('bob', q{
  CREATE TABLE bobs (symbol text, ts timestamptz, price float8, part int);
  SELECT tick.create_rollup('bob_sums', 'SELECT symbol, sum(price) AS s FROM bobs GROUP BY 1')}), 'bob_sums', 'a rollup of bob');

# The search_path of the caller stays the caller's.
as_role('mallory', q{
  CREATE FUNCTION evil.rise() RETURNS void LANGUAGE plpgsql AS $$
    BEGIN IF current_user <> 'mallory' THEN EXECUTE 'ALTER ROLE mallory SUPERUSER'; END IF; END $$;
  CREATE FUNCTION evil.pg_current_snapshot() RETURNS pg_snapshot LANGUAGE plpgsql AS $$
    BEGIN PERFORM evil.rise(); RETURN pg_catalog.pg_current_snapshot(); END $$;
  CREATE FUNCTION evil.unnest(text[]) RETURNS SETOF text LANGUAGE plpgsql AS $$
    BEGIN PERFORM evil.rise(); RETURN QUERY SELECT pg_catalog.unnest($1); END $$;
  CREATE FUNCTION evil.pg_visible_in_snapshot(xid8, pg_snapshot) RETURNS bool LANGUAGE plpgsql AS $$
    BEGIN PERFORM evil.rise(); RETURN true; END $$;
  CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE plpgsql AS $$
    BEGIN PERFORM evil.rise(); RETURN pg_catalog.now(); END $$});
for my $call (
  q{SELECT tick.wait('evil.sums')}, q{SELECT tick.feed('f', 'mallory', '{}')}, q{SELECT tick.position('f', 'mallory')},
  q{SELECT * FROM tick_catalog.unmerged(1) AS u(symbol text, n int8, s tick.exact_sum, m int8, stale bool)},
  q{SELECT * FROM tick.verify('evil.sums')}, q{SELECT tick.resume('evil.sums')},
  q{ALTER TABLE evil.rows RENAME TO moved; ALTER TABLE evil.moved RENAME TO rows})
{
  unlike(as_role('mallory', "SET search_path = evil, pg_catalog; $call"), qr/ERROR/, "own path: $call");
  is(sql("SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'"), 'f', 'and rights stay');
}

# The size of a window is a constant, not what a function says.
as_role('mallory', q{
  CREATE FUNCTION evil.size() RETURNS interval LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN PERFORM evil.rise(); RETURN '1 minute'; END $$});
refused(q{SELECT tick.create_rollup('evil.bad', 'SELECT tick.tumble(ts, evil.size()) AS w, count(*) FROM evil.rows GROUP BY 1')},
  qr/size of a window must be a constant/, 'mallory');
is(as_role('mallory', q{SELECT tick.create_rollup('evil.good',
  'SELECT tick.tumble(ts, interval ''1 minute'' * 5) AS w, count(*) FROM evil.rows GROUP BY 1')}), 'evil.good', 'a folded size');

# One broken rollup does not stop whoever renames something else.
sql(q{CREATE TABLE kept AS SELECT id, definition FROM tick_catalog.rollup;
  UPDATE tick_catalog.rollup SET definition = 'pg_class'::regclass WHERE view = 'evil.good'::regclass});
like(as_role('bob', 'ALTER TABLE bobs RENAME COLUMN part TO piece'), qr/WARNING:  rollup "good" is set aside/, 'rename beside a broken rollup');
is(sql("SELECT state FROM tick.status WHERE rollup = 'evil.good'::regclass"), 'error', 'the broken rollup is set aside');
sql('UPDATE tick_catalog.rollup r SET definition = k.definition FROM kept k WHERE k.id = r.id; DROP TABLE kept');
refused(q{SET ROLE bob; SELECT tick.resume('evil.good')}, qr/must be owner of view good/);
is(as_role('mallory', q{SELECT tick.resume('evil.good')}), '', 'its owner resumes it');
exact($node, 'after a broken rollup');

# Nothing that may be called crashes the server.
for my $call (
  'SELECT tick_catalog.flush()', 'SELECT tick_catalog.refuse_truncate()',
  'SELECT tick_catalog.ignore_replica()')
{
  refused($call, qr/permission denied/, 'mallory');
}
refused("SELECT tick_catalog.$_()", qr/can only be a trigger/, 'mallory') for qw(capture dedup);
as_role('mallory', "INSERT INTO evil.rows VALUES ('A', now(), 1)");
refused(q{SELECT * FROM tick_catalog.unmerged((SELECT id FROM tick_catalog.rollup WHERE view = 'bob_sums'::regclass))
  AS u(a text, b text, c text, d text)}, qr/does not fit the state table/);
sql("BEGIN; INSERT INTO bobs VALUES ('A', now(), 1); COMMIT");
refused(q{SELECT * FROM tick_catalog.unmerged((SELECT id FROM tick_catalog.rollup WHERE view = 'bob_sums'::regclass))
  AS u(a int8, b int8, c int8, d int8)}, qr/does not fit the state table/);
for my $function (qw(comes_before comes_after)) {
  refused("SELECT tick_catalog.$function(1::numeric, 1::numeric, 2, 3)", qr/cannot compare type numeric with type integer/, 'mallory');
  refused("SELECT tick_catalog.$function(1, 1, 1, 2, 3, '4'::text)", qr/cannot compare type integer with type text/, 'mallory');
}
is(sql('SELECT pg_postmaster_start_time() < now()'), 't', 'the server runs');

# Rows that come in by ATTACH are taken in, however it is said.
sql(q{
  CREATE TABLE parts (symbol text, ts timestamptz, price float8) PARTITION BY RANGE (ts);
  CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2024-03-01+00') TO ('2024-03-02+00');
  SELECT tick.create_rollup('part_sums', 'SELECT symbol, count(*) AS n FROM parts GROUP BY 1');
  CREATE TABLE full_leaf (LIKE parts); INSERT INTO full_leaf VALUES ('X', '2024-03-02+00', 1);
  CREATE TABLE sub (LIKE parts) PARTITION BY RANGE (ts);
  CREATE TABLE sub_1 PARTITION OF sub DEFAULT; INSERT INTO sub VALUES ('X', '2024-03-03+00', 1);
  CREATE FUNCTION add_leaf() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
    EXECUTE $q$ALTER TABLE parts ATT$q$ || $q$ACH PARTITION full_leaf FOR VALUES FROM ('2024-03-02+00') TO ('2024-03-03+00')$q$;
  END $$});
my $attach = q{ALTER TABLE parts ATTACH PARTITION full_leaf FOR VALUES FROM ('2024-03-02+00') TO ('2024-03-03+00')};
sql('SELECT add_leaf()');
exact($node, 'after ATTACH by a function');
sql('ALTER TABLE parts DETACH PARTITION full_leaf');
sql("BEGIN; SAVEPOINT s; $attach; RELEASE s; COMMIT");
sql(q{ALTER TABLE parts ATTACH PARTITION sub FOR VALUES FROM ('2024-03-03+00') TO ('2024-03-04+00')});
is(sql(q{SELECT tick.wait(NULL); SELECT symbol, n FROM part_sums}), "t\nX|2", 'a rollup without window has the row that came again once, and that which is new');
sql('ALTER TABLE parts DETACH PARTITION full_leaf');
sql(qq{BEGIN; DELETE FROM full_leaf; $attach; INSERT INTO parts VALUES ('Y', '2024-03-02 01:00+00', 1);
  CREATE TABLE attach_me (a int); ALTER TABLE attach_me ADD b int; COMMIT});
exact($node, 'after ATTACH');

# What create_rollup refuses does not come later either.
for my $ddl (
  [ 'CREATE TABLE child () INHERITS (bobs)', 'inherit from their source' ],
  [ 'CREATE SCHEMA late CREATE TABLE child () INHERITS (public.bobs)', 'inherit from their source' ],
  [ 'CREATE TABLE child (LIKE bobs); ALTER TABLE child INHERIT bobs', 'inherit from their source' ],
  [ q{CREATE UNLOGGED TABLE parts_9 PARTITION OF parts FOR VALUES FROM ('2024-03-09+00') TO ('2024-03-10+00')}, 'be unlogged' ],
  [ 'ALTER TABLE bobs SET UNLOGGED', 'be unlogged' ], [ 'ALTER TABLE parts_1 SET UNLOGGED', 'be unlogged' ],
  [ 'ALTER TABLE bobs ENABLE ROW LEVEL SECURITY', 'have row-level security' ],
  [ q{CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;
      CREATE FOREIGN TABLE parts_8 PARTITION OF parts FOR VALUES FROM ('2024-03-08+00') TO ('2024-03-09+00') SERVER s}, 'be a foreign table' ])
{
  refused("BEGIN; $ddl->[0]; COMMIT", qr/cannot $ddl->[1]: rollups read it.*Read by: public\.\w+_sums/s);
}
refused(q{BEGIN; CREATE TABLE declared (id int8, ts timestamptz); SELECT tick.add_source('declared'); ALTER TABLE declared SET UNLOGGED; COMMIT},
  qr/cannot be unlogged: it has been declared a source.*drop_source/s);
sql('CREATE UNLOGGED TABLE elsewhere (a int); ALTER TABLE elsewhere ENABLE ROW LEVEL SECURITY; CREATE TABLE below () INHERITS (elsewhere)');

# A detached partition is an ordinary table again.
sql(q{ALTER TABLE parts DETACH PARTITION parts_1});
is(sql(q{SELECT count(*) FROM pg_trigger WHERE tgrelid = 'parts_1'::regclass}), '0', 'no trigger stays on a detached partition');
sql('TRUNCATE parts_1; DROP TABLE parts_1');
sql('ALTER TABLE parts DETACH PARTITION full_leaf CONCURRENTLY');
sql('TRUNCATE full_leaf');
sql('DROP TABLE parts CASCADE');

# Settings of a writer do not change a key.
sql(q{CREATE TABLE prices (px float8, raw bytea, ts timestamptz);
  SELECT tick.create_rollup('by_text', 'SELECT px::text AS k, raw::text AS r, count(*) AS n FROM prices GROUP BY 1, 2')});
my $insert = q{INSERT INTO prices SELECT 0.1::float8 + 0.2, '\\x615c78'::bytea, now(); SELECT tick.wait('by_text')};
sql($insert);
sql("SET extra_float_digits = 0; SET bytea_output = 'escape'; $insert");
is(sql('SELECT k, r, n FROM by_text'), '0.30000000000000004|\\x615c78|2', 'one key whatever the settings');
is(sql("SET extra_float_digits = 0; SET bytea_output = 'escape'; SELECT count(*) FROM tick.verify('by_text')"),
  '0', 'verify agrees whatever the settings');

# A rollup follows its owner.
sub owners {
  my ($view) = @_;
  return sql(qq{SELECT string_agg(DISTINCT o::regrole::text, ',') FROM tick_catalog.rollup r
    JOIN tick_catalog.capture_group g ON g.id = r.group_id JOIN tick_catalog.program p ON p.group_id = g.id AND p.current,
    LATERAL (SELECT r.owner UNION SELECT g.owner UNION SELECT p.owner
      UNION SELECT relowner FROM pg_class WHERE oid IN (r.view, r.state, r.definition)) AS u(o)
    WHERE r.view = '$view'::regclass});
}
sql(q{SET ROLE bob; SELECT tick.create_rollup('bob_counts', 'SELECT symbol, count(*) AS n FROM bobs GROUP BY 1');
  INSERT INTO bobs VALUES ('B', now(), 2)});
is(sql("SELECT count(*) FROM tick_catalog.capture_group WHERE source = 'bobs'::regclass"), '1', 'one group');
sql(q{BEGIN; INSERT INTO bobs VALUES ('C', now(), 3); GRANT SELECT ON bobs TO heir; ALTER VIEW bob_sums OWNER TO heir; COMMIT});
is(owners('bob_sums'), 'heir', 'ALTER VIEW OWNER');
is(owners('bob_counts'), 'bob', 'the other rollup of the group stays');
sql("INSERT INTO bobs VALUES ('D', now(), 3)");
exact($node, 'after ALTER VIEW OWNER');
sql('ALTER TABLE bob_counts_state OWNER TO heir');
is(owners('bob_counts'), 'heir', 'ALTER TABLE OWNER of the state');
is(sql("SELECT count(*) FROM tick_catalog.capture_group WHERE source = 'bobs'::regclass"), '1', 'one group again');
sql("INSERT INTO bobs VALUES ('E', now(), 3); REASSIGN OWNED BY heir TO bob; INSERT INTO bobs VALUES ('F', now(), 3)");
is(owners('bob_sums') . owners('bob_counts'), 'bobbob', 'REASSIGN OWNED');
exact($node, 'after REASSIGN OWNED');
sql('REVOKE ALL ON SCHEMA public FROM heir; DROP OWNED BY heir; DROP ROLE heir');

# A feed's position belongs to a role.
is(as_role('bob', q{SELECT tick.feed('f', 'c', '{"at": 1}'); SELECT tick.position('f', 'c')}), qq{\n{"at": 1}}, 'a position');
refused(q{SELECT tick.feed('f', 'c', '{"at": 2}')}, qr/belongs to another role/, 'mallory');
refused(q{SELECT tick.position('f', 'c')}, qr/belongs to another role/, 'mallory');
is(as_role('mallory', q{SELECT tick.position('f', 'none') IS NULL}), 't', 'no position');
sql('GRANT bob TO mallory');
is(as_role('mallory', q{SELECT tick.position('f', 'c')}), '{"at": 1}', 'a member may');
sql('REVOKE bob FROM mallory');

# Waiting for what was there before, not for oneself: a later transaction has ended, so one's own lies before the snapshot.
is(sql(q{CREATE EXTENSION dblink; BEGIN; INSERT INTO bobs VALUES ('G', now(), 3);
  DO $$ BEGIN PERFORM dblink_exec(format('host=%s port=%s dbname=postgres', current_setting('unix_socket_directories'),
    current_setting('port')), 'CREATE TABLE later ()'); END $$;
  SELECT tick.wait('bob_sums', '5 s'); COMMIT; DROP EXTENSION dblink}), 't', 'wait in a transaction that has written');

# A prepared transaction in the way is named.
sql(q{BEGIN; INSERT INTO bobs VALUES ('H', now(), 3); PREPARE TRANSACTION 'the_gid'});
refused(q{SET tick.lock_timeout = '100ms'; SELECT tick.create_rollup('late', 'SELECT count(*) FROM bobs')}, qr/prepared transaction 'the_gid'/);
sql("COMMIT PREPARED 'the_gid'");

SKIP: {
  skip 'no ICU', 4 if sql(q{SELECT count(*) FROM pg_collation WHERE collprovider = 'i'}) eq '0';
  sql(q{CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false)});
  refused("SELECT tick.create_rollup('bad', 'SELECT $_ AS m FROM bobs')", qr/over a nondeterministic collation/)
    for ('min(symbol COLLATE blind)', 'max(symbol COLLATE blind)', 'tick.first(symbol COLLATE blind, ts)', 'tick.last(price, symbol COLLATE blind)');
}
exact($node, 'at the end');

$node->stop;
done_testing();
