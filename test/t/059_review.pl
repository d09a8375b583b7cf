# What reviews have found: names of columns that are those of the engine's own SQL.
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

done_testing();
