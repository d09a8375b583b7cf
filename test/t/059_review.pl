# What reviews have found: names of columns that are those of the engine's own SQL; rows that leave while columns that were
# added are being filled.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = make_node('review');
sub sql { return $node->safe_psql('postgres', $_[0]); }

# ---- columns named as the SQL of tick.fill and tick.changes names its rows

my @names = qw(r v n s q k l d);
sql(q{CREATE TABLE letters (c text, ts timestamptz, p float8)});
sql(q{SELECT tick.create_rollup('short', 'SELECT c, tick.tumble(ts, ''1 min'') AS w, } . join(', ', map { "max(p) AS $_" } @names) . q{ FROM letters GROUP BY 1, 2');
  SELECT tick.create_rollup('shorter', 'SELECT c AS v, max(p) AS candle FROM letters GROUP BY 1');
  SELECT tick.create_rollup('alone', 'SELECT tick.tumble(ts, ''1 min'') AS w, max(p) AS v FROM letters GROUP BY 1');
  INSERT INTO letters VALUES ('a', '2024-03-01 10:00+00', 1), ('a', '2024-03-01 10:02+00', 3), (NULL, '2024-03-01 10:01+00', 2); SELECT tick.wait(NULL)});
is(sql(q{SELECT count(*), sum(v), max(l) FROM tick.fill(null::short, '2024-03-01 10:01+00', '2024-03-01 10:04+00')}), '6|13|3', 'tick.fill finds its rows beside columns of any name');
is(sql(q{SELECT count(*), sum(v) FROM tick.fill(null::alone, '2024-03-01 10:01+00', '2024-03-01 10:04+00')}), '3|8', 'without keys, too');
for ('short', 'shorter', 'alone') {
  my $token = sql("SELECT min(token) FROM tick.changes(null::$_)");
  is(sql("SELECT count(*) FROM tick.changes(null::$_) c WHERE (c.candle).v IS NOT NULL"), sql("SELECT count(*) FROM $_ WHERE v IS NOT NULL"), "all of $_");
  sql(q{INSERT INTO letters VALUES ('b', '2024-03-01 10:02+00', 4); SELECT tick.wait(NULL)});
  is(sql("SELECT change, (candle).v FROM tick.changes(null::$_, $token)"), $_ eq 'shorter' ? 'upsert|b' : 'upsert|4', "what has changed of $_");
  sql(q{DELETE FROM letters WHERE c = 'b'; SELECT tick.wait(NULL)});
}
exact($node, 'letters');

# ---- rows that leave while columns are being added

sql(q{CREATE TABLE moves (k text, ts timestamptz, v float8, id int);
  INSERT INTO moves SELECT 'S' || i % 3, '2024-03-01 00:00+00'::timestamptz + i * interval '1 min', i % 7, i FROM generate_series(0, 999) i;
  SELECT tick.create_rollup('hours', 'SELECT k, tick.tumble(ts, ''1 hour'') AS w, max(v) AS m, count(*) AS c FROM moves GROUP BY 1, 2');
  SELECT tick.create_rollup('sliding', 'SELECT k, tick.hop(ts, ''1 hour'', ''15 min'') AS w, count(*) AS c FROM moves GROUP BY 1, 2');
  SELECT tick.create_rollup('ever', 'SELECT k, count(*) AS c FROM moves GROUP BY 1');
  SELECT tick.wait(NULL)});
# In one transaction: the worker sees both at once.
sql(q{BEGIN; SELECT tick.alter_rollup(r, add => 'sum(v) AS s, min(v) AS least') FROM unnest('{hours,sliding,ever}'::regclass[]) r;
  DELETE FROM moves WHERE id % 5 = 0 OR id BETWEEN 300 AND 400; UPDATE moves SET k = 'S0' WHERE id % 7 = 0;
  UPDATE moves SET ts = ts + interval '1 day' WHERE id % 11 = 0; COMMIT});
exact($node, 'rows leave while columns are filled');
is(sql(q{SELECT (SELECT count(*) FROM tick.stale), (SELECT sum(c) = (SELECT count(*) FROM moves) FROM hours), (SELECT sum(s) = (SELECT sum(v) FROM moves) FROM ever)}), '0|t|t',
  'no window is taken for one whose rows are not there any more');

done_testing();
