# What definitions call changes under them: functions are replaced while writers are underway and one after another as fast as
# can be, constraints of domains come and go. Values are those of the new function, everywhere, and stay so.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = make_node('replaced');
sub sql { return $node->safe_psql('postgres', $_[0]); }
sub replace { return "CREATE OR REPLACE FUNCTION f(float8) RETURNS float8 LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN \$1 * $_[0]; END'"; }
sub differing { return sql('SELECT count(*) FROM tick.status AS s, tick.verify(s.rollup)'); }

sql(replace(1) . q{;
  CREATE TABLE ticks (k int, ts timestamptz, price float8) PARTITION BY RANGE (ts);
  CREATE TABLE ticks_1 PARTITION OF ticks FOR VALUES FROM ('2024-03-01 00:00+00') TO ('2024-03-02 00:00+00');
  CREATE TABLE ticks_attic PARTITION OF ticks DEFAULT;
  SELECT tick.create_rollup('sums', 'SELECT k, tick.tumble(ts, ''1 minute'') AS t, sum(f(price)) AS s FROM ticks GROUP BY 1, 2');
  SELECT tick.create_rollup('medians', 'SELECT k, percentile_cont(0.5) WITHIN GROUP (ORDER BY f(price)) AS m FROM ticks GROUP BY 1');
  INSERT INTO ticks SELECT i % 3, '2024-03-01 00:00+00'::timestamptz + i * interval '1 s', i FROM generate_series(1, 300) i;
  SELECT tick.wait(NULL, '20 s')});
is(differing(), '0', 'with the first function');

# A commit wakes the worker before it tells of what it has replaced.
my $rounds = 100;
my $wrong = sql(join "\n", 'CREATE TEMP TABLE wrong (round int, rows int8);', (map { replace($_ + 1) . ";
  DO \$\$ BEGIN ASSERT tick.wait(NULL, '20 s'); END \$\$;
  INSERT INTO wrong SELECT $_, count(*) FROM tick.status AS s, tick.verify(s.rollup) HAVING count(*) > 0;" } 1 .. $rounds), 'SELECT count(*) FROM wrong');
is($wrong, '0', "$rounds times replaced, at once everywhere");
is(differing(), '0', 'and for good');

# Rows that have been folded with the old one are waited for: those of a session, of a prepared transaction, of a direct write.
my %underway = (
  'an open transaction' => ["BEGIN; INSERT INTO ticks VALUES (1, '2024-03-01 00:00:30+00', 5)", 'COMMIT'],
  'a direct write'      => ["BEGIN; INSERT INTO ticks_1 VALUES (1, '2024-03-01 00:00:30+00', 5)", 'COMMIT'],
  'a prepared one'      => ["BEGIN; INSERT INTO ticks VALUES (1, '2024-03-01 00:00:30+00', 5); PREPARE TRANSACTION 'w'", "COMMIT PREPARED 'w'"]);
my $factor = 1000;
for my $name (sort keys %underway) {
  my ($begin, $end) = @{ $underway{$name} };
  my $writer = $node->background_psql('postgres');
  $writer->query_safe($begin);
  ++$factor;
  my ($rc, undef, $error) = $node->psql('postgres', "SET tick.lock_timeout = 100; " . replace($factor));
  like($error, qr/could not lock "ticks" within tick\.lock_timeout\nDETAIL:  Locks are held by: p/, "$name is named");
  is(sql("SELECT f(1) < $factor"), 't', 'and nothing has happened');
  my $replacing = $node->background_psql('postgres');
  $replacing->query_until(qr/asked/, "\\echo asked\nSET tick.lock_timeout = 20000; " . replace($factor) . ";\n");
  wait_for($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%REPLACE FUNCTION f%' AND state = 'active' AND pid <> pg_backend_pid()");
  sql("INSERT INTO ticks VALUES (2, '2024-03-01 00:00:31+00', 7)");
  $writer->query_safe($end);
  wait_for($node, "SELECT f(1) = $factor");
  $replacing->quit;
  sql("SELECT tick.wait(NULL, '20 s')");
  is(differing(), '0', "$name: exact after it");
  $writer->quit;
}

# What a definition calls through others: the function of an aggregate, of an operator, of a function with a body of SQL.
sql(q{CREATE FUNCTION step(float8, float8) RETURNS float8 LANGUAGE sql IMMUTABLE AS 'SELECT $1 + $2';
  CREATE AGGREGATE total(float8) (SFUNC = step, STYPE = float8, INITCOND = '0');
  CREATE FUNCTION plus(float8, float8) RETURNS float8 LANGUAGE sql IMMUTABLE AS 'SELECT $1 + $2';
  CREATE OPERATOR |+| (FUNCTION = plus, LEFTARG = float8, RIGHTARG = float8);
  CREATE FUNCTION inner_one(float8) RETURNS float8 LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 1';
  CREATE FUNCTION outer_one(x float8) RETURNS float8 LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT inner_one(x); END;
  SELECT tick.create_rollup('totals', 'SELECT k, total(price) AS s FROM ticks GROUP BY 1');
  SELECT tick.create_rollup('pluses', 'SELECT k, sum(price |+| 1) AS s FROM ticks GROUP BY 1');
  SELECT tick.create_rollup('inners', 'SELECT k, sum(outer_one(price)) AS s FROM ticks GROUP BY 1');
  SELECT tick.wait(NULL, '20 s')});
my $all = 'SELECT (SELECT sum(s) FROM totals), (SELECT sum(s) FROM pluses), (SELECT sum(s) FROM inners)';
my @before = split /\|/, sql($all);
for my $sql (q{CREATE OR REPLACE FUNCTION step(float8, float8) RETURNS float8 LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 2 * $2'},
  q{CREATE OR REPLACE FUNCTION plus(float8, float8) RETURNS float8 LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 2 * $2'},
  q{CREATE OR REPLACE FUNCTION inner_one(float8) RETURNS float8 LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 2'},
  q{CREATE OR REPLACE AGGREGATE total(float8) (SFUNC = step, STYPE = float8, INITCOND = '1000')}) {
  sql("$sql; SELECT tick.wait(NULL, '20 s')");
  my @after = split /\|/, sql($all);
  isnt("@after", "@before", "rows are others: $sql");
  is(differing(), '0', 'and exact');
  @before = @after;
}

# A constraint that is gone hinders nobody, in a session that knew it neither.
sql(q{CREATE DOMAIN small AS float8 CONSTRAINT limited CHECK (VALUE < 400);
  SELECT tick.create_rollup('smalls', 'SELECT k, sum((price::small)::float8) AS s FROM ticks WHERE price < 1000 GROUP BY 1')});
my $old = $node->background_psql('postgres');
$old->query_safe(q{INSERT INTO ticks VALUES (1, '2024-03-01 00:00:40+00', 8)});
sql(q{SELECT tick.wait(NULL, '20 s'); ALTER DOMAIN small DROP CONSTRAINT limited});
$old->query_safe(q{INSERT INTO ticks VALUES (1, '2024-03-01 00:00:41+00', 500)});
sql(q{INSERT INTO ticks VALUES (1, '2024-03-01 00:00:42+00', 600); SELECT tick.wait(NULL, '20 s'); SELECT tick.refresh('smalls'); SELECT tick.wait(NULL, '20 s')});
is(sql(q{SELECT state, last_error FROM tick.status WHERE rollup = 'smalls'::regclass}), 'live|', 'a domain without its constraint');
$old->quit;
exact($node, 'after all');
$node->stop;
done_testing();
