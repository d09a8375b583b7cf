# Whose error is it? An error in a rollup's own expression never fails the writer, one bad rollup never stops the
# others, and the worker survives whatever is done to it.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = make_node('errors');
make_trades($node, 1);
$node->safe_psql('postgres', q{
  CREATE FUNCTION fragile(x float8) RETURNS float8 LANGUAGE plpgsql IMMUTABLE AS
    $$ BEGIN IF x > 1000 THEN RAISE EXCEPTION 'too much: %', x; END IF; RETURN x; END $$;
  SELECT tick.create_rollup('candles_1m', candle_query('1 minute'));
  SELECT tick.create_rollup('ratio', 'SELECT symbol, sum(price / qty) AS ratio FROM trades GROUP BY symbol');
  SELECT tick.create_rollup('fragile_sum', 'SELECT symbol, sum(fragile(price)) AS s FROM trades GROUP BY symbol');
  INSERT INTO trades VALUES ('A', '2024-03-01 12:00+00', 10, 2, 1);
});
exact($node, 'before any error');

sub state { return $node->safe_psql('postgres', "SELECT state || coalesce(': ' || last_error, '') FROM tick.status WHERE rollup = '$_[0]'::regclass"); }

# Division by zero in the middle of a statement, and of a savepoint: the writer commits all of it.
$node->safe_psql('postgres', q{
  BEGIN;
  INSERT INTO trades SELECT 'A', '2024-03-01 12:00:10+00', 5, i % 3, i FROM generate_series(1, 1000) i;
  SAVEPOINT a;
  INSERT INTO trades_1 VALUES ('A', '2024-03-01 12:00:20+00', 5, 0, 5);
  RELEASE a;
  COMMIT});
is($node->safe_psql('postgres', 'SELECT count(*) FROM trades'), '1002', 'the writer has committed');
$node->safe_psql('postgres', 'SELECT tick.wait(NULL)');
is(state('ratio'), 'error: division by zero', 'the rollup is set aside, with the reason');
is(state('candles_1m'), 'live', 'the others go on');
is($node->safe_psql('postgres', q{SELECT trades FROM candles_1m WHERE symbol = 'A'}), '1002', 'and are up to date');
my ($rc, $out, $err) = $node->psql('postgres', "SELECT tick.wait('ratio')");
like($err, qr/set aside: division by zero/, 'waiting for it says so');

$node->safe_psql('postgres', "INSERT INTO trades VALUES ('B', '2024-03-01 12:00+00', 2000, 1, 1)");
$node->safe_psql('postgres', 'SELECT tick.wait(NULL)');
like(state('fragile_sum'), qr/^error: too much: 2000/, "a user's function that raises");

# Cured and resumed: exact again.
$node->safe_psql('postgres', "DELETE FROM trades WHERE qty = 0 OR price > 1000");
$node->safe_psql('postgres', "SELECT tick.resume('ratio'); SELECT tick.resume('fragile_sum')");
exact($node, 'resumed');

# Still broken: resume sets it aside again, without a crash loop.
$node->safe_psql('postgres', "INSERT INTO trades VALUES ('C', '2024-03-01 12:00+00', 1, 0, 1)");
$node->safe_psql('postgres', 'SELECT tick.wait(NULL)');
$node->safe_psql('postgres', "SELECT tick.resume('ratio')");
wait_for($node, q{SELECT state = 'error' FROM tick.status WHERE rollup = 'ratio'::regclass});
is(state('ratio'), 'error: division by zero', 'set aside by the recompute too');
$node->safe_psql('postgres', "DELETE FROM trades WHERE qty = 0; SELECT tick.resume('ratio')");
exact($node, 'cured');

# The failing row leaves in the transaction that resumes: what is recomputed does not have it.
$node->safe_psql('postgres', "INSERT INTO trades VALUES ('C', '2024-03-01 12:00+00', 1, 0, 1)");
$node->safe_psql('postgres', 'SELECT tick.wait(NULL)');
$node->safe_psql('postgres', "BEGIN; DELETE FROM trades WHERE qty = 0; SELECT tick.resume('ratio'); COMMIT");
exact($node, 'cured and resumed at once');

# A recompute fails for what its own rollup uses, not for what others of the group do.
$node->safe_psql('postgres', q{
  CREATE TABLE w (s text, a float8, b float8);
  INSERT INTO w VALUES ('A', 1, 0);
  SELECT tick.create_rollup('w_bad', 'SELECT s, sum(a / b) AS v FROM w GROUP BY 1');
  SELECT tick.create_rollup('w_good', 'SELECT s, sum(a) AS v FROM w GROUP BY 1')});
is($node->safe_psql('postgres', "SELECT tick.wait('w_good')"), 't', 'history beside a failing rollup');
$node->safe_psql('postgres', 'UPDATE w SET a = 5');
is($node->safe_psql('postgres', "SELECT tick.wait('w_good'); SELECT v FROM w_good"), "t\n5", 'correction beside it');
is(state('w_bad'), 'error: division by zero', 'which is set aside');
$node->safe_psql('postgres', 'DROP TABLE w CASCADE');

# An error in the merge: something on the state table raises. It runs as its owner, not as the worker.
$node->safe_psql('postgres', q{
  CREATE ROLE owner LOGIN; GRANT CREATE ON SCHEMA public TO owner; GRANT SELECT, TRIGGER ON trades TO owner;
  SET ROLE owner;
  SELECT tick.create_rollup('theirs', 'SELECT symbol, count(*) AS n FROM trades GROUP BY symbol');
  CREATE TABLE who (name text, super text);
  CREATE FUNCTION attack() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO public.who VALUES (current_user, current_setting('is_superuser')); RETURN new; END $$;
  CREATE TRIGGER attack BEFORE INSERT OR UPDATE ON theirs_state FOR EACH ROW EXECUTE FUNCTION attack();
  RESET ROLE;
  INSERT INTO trades VALUES ('A', '2024-03-01 12:00+00', 1, 1, 1)});
exact($node, 'a trigger on a state table');
is($node->safe_psql('postgres', 'SELECT DISTINCT name FROM who'), 'owner', 'runs as the owner of the rollup');
$node->safe_psql('postgres', q{
  SET ROLE owner;
  CREATE OR REPLACE FUNCTION attack() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'mine'; END $$;
  RESET ROLE; INSERT INTO trades VALUES ('A', '2024-03-01 12:00+00', 1, 1, 1)});
$node->safe_psql('postgres', 'SELECT tick.wait(NULL)');
is(state('theirs'), 'error: mine', 'one that raises sets the rollup aside');
$node->safe_psql('postgres', 'SET ROLE owner; DROP TRIGGER attack ON theirs_state; SELECT tick.resume(\'theirs\')');
exact($node, 'without it');

# A unique index of the owner's own is not taken for that of the keys.
$node->safe_psql('postgres', q{
  CREATE TABLE one_key (k text, v int8);
  SELECT tick.create_rollup('by_key', 'SELECT k, max(v) AS m, count(*) AS n FROM one_key GROUP BY 1');
  INSERT INTO one_key VALUES ('a', 1), ('b', 2)});
exact($node, 'one key');
$node->safe_psql('postgres', q{CREATE UNIQUE INDEX ON by_key_state (m);
  SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE backend_type = 'pg_tick worker';
  INSERT INTO one_key VALUES ('a', 3), ('c', 5)});
exact($node, 'beside a unique index of the owner');

# User code in the capture runs as the owner too, and sees no other search_path.
$node->safe_psql('postgres', q{
  SET ROLE owner;
  CREATE FUNCTION spy(x float8) RETURNS float8 LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN IF current_user <> 'owner' THEN RAISE 'ran as %', current_user; END IF; RETURN x; END $$;
  SELECT tick.create_rollup('spied', 'SELECT symbol, sum(spy(price)) AS s FROM trades GROUP BY symbol');
  RESET ROLE; INSERT INTO trades VALUES ('A', '2024-03-01 12:00+00', 1, 1, 1)});
exact($node, 'user code in the capture');

# A corrupted delta is kept for people, its rollups are set aside, the worker lives on.
$node->safe_psql('postgres', q{INSERT INTO tick_catalog.queue_0
  SELECT pg_current_xact_id(), id, '\x01ff' FROM tick_catalog.program WHERE id = (SELECT max(program)
    FROM tick_catalog.rollup_program p JOIN tick_catalog.rollup r ON r.id = p.rollup WHERE r.view = 'spied'::regclass)});
$node->safe_psql('postgres', "INSERT INTO trades VALUES ('A', '2024-03-01 12:00+00', 1, 1, 1)");
wait_for($node, q{SELECT state = 'error' FROM tick.status WHERE rollup = 'spied'::regclass});
is($node->safe_psql('postgres', 'SELECT count(*) FROM tick_catalog.held'), '1', 'a delta that cannot be read is held');
$node->safe_psql('postgres', q{SELECT tick.resume(rollup) FROM tick.status WHERE state = 'error'});
exact($node, 'after a corrupted delta');

# Terminated, cancelled, timed out, without connections: the worker comes back and nothing is lost.
$node->safe_psql('postgres', q{ALTER DATABASE postgres SET statement_timeout = '1ms';
  ALTER DATABASE postgres SET default_transaction_isolation = 'serializable';
  ALTER DATABASE postgres SET default_transaction_read_only = off});
for my $round (1 .. 30) {
  $node->psql('postgres', "SET statement_timeout = 0; INSERT INTO trades SELECT * FROM random_trades(100, $round / 100.0);"
    . " SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'pg_tick worker' AND $round % 2 = 0;"
    . " SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE backend_type = 'pg_tick worker' AND $round % 2 = 1");
}
{
  local $ENV{PGOPTIONS} = '-c statement_timeout=0';  # a busy machine may not get to a SET in time
  $node->safe_psql('postgres', 'ALTER DATABASE postgres RESET ALL');
}
exact($node, 'terminated and cancelled 30 times');

$node->stop;
done_testing();
