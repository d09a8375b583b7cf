# What reviews have found: names of columns that are those of the engine's own SQL; rows that leave while columns that were
# added are being filled; keys whose types have a length or a scale, also out of a dump; tokens of tick.changes that nothing can be gone on from; the first and the last times there are.
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
sql(q{SELECT tick.create_rollup('commas', 'SELECT c AS "a,b", p AS "q r", tick.tumble(ts, ''1 min'') AS w, count(*) AS n FROM letters GROUP BY 1, 2, 3'); SELECT tick.wait(NULL)});
is(sql(q{SELECT count(*) FROM tick.fill(null::commas, '2024-03-01 10:01+00', '2024-03-01 10:04+00')}), '9', 'and of keys with commas in their names');
exact($node, 'letters');

# ---- queries as people write them

sql('CREATE TABLE target (k int PRIMARY KEY, v int)');
is(sql("SELECT inserted FROM tick.upsert('target', 'SELECT 1 AS k, 2 AS v; ')"), '1', 'tick.upsert of a query with a semicolon');
is(sql("SELECT inserted FROM tick.upsert('target', 'SELECT 2 AS k, 2 AS v -- two')"), '1', 'and of one that ends with a comment');

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
# Columns that cannot be computed yet: rows leave while the rollups are set aside.
sql(q{SELECT tick.alter_rollup(r, add => 'sum(10 / v) AS tenth') FROM unnest('{hours,ever}'::regclass[]) r});
wait_for($node, q{SELECT count(*) = 2 FROM tick.status WHERE state = 'error'});
sql(q{DELETE FROM moves WHERE id % 2 = 1; UPDATE moves SET k = 'S1' WHERE id % 3 = 0; UPDATE moves SET v = v + 1;
  SELECT tick.resume(r) FROM unnest('{hours,ever}'::regclass[]) r});
exact($node, 'resumed after rows have left');
is(sql(q{SELECT (SELECT count(*) FROM hours_state WHERE tick_stale) + (SELECT count(*) FROM ever_state WHERE tick_stale), (SELECT sum(c) = (SELECT count(*) FROM moves) FROM ever)}), '0|t',
  'and nothing is stale');

my ($rc, $out, $err) = $node->psql('postgres', q{SELECT tick.alter_rollup('hours', retention => '100000 years')});
like($err, qr/timestamp out of range/, 'a retention beyond time is refused at once');

# ---- keys of types with a length or a scale are shown as the query shows them, and found again when COPY has written them

sql(q{CREATE TYPE side AS ENUM ('buy', 'sell'); CREATE DOMAIN venue AS char(6);
  CREATE TABLE sized (c char(8), n numeric(10,2), s side, d venue, ts timestamptz, v float8, id int);
  INSERT INTO sized SELECT 'c' || i % 3, i % 2, (array['buy', 'sell'])[1 + i % 2]::side, 'd', '2024-03-01 00:00+00'::timestamptz + i * interval '1 min', i % 7, i FROM generate_series(0, 300) i;
  SELECT tick.create_rollup('sizes', 'SELECT c, n, d, s, tick.tumble(ts, ''1 hour'') AS w, max(v) AS m, count(*) AS k FROM sized GROUP BY 1, 2, 3, 4, 5');
  SELECT tick.create_rollup('plain', 'SELECT c, n, d, tick.tumble(ts, ''1 hour'') AS w, max(v) AS m, count(*) AS k FROM sized GROUP BY 1, 2, 3, 4'); SELECT tick.wait(NULL)});
my $shown = sub { return qq{SELECT DISTINCT octet_length(c), octet_length(d), n::text FROM $_[0] ORDER BY 3} };
is(sql($shown->($_)), "8|6|0.00\n8|6|1.00", "keys of $_") for ('sized', 'sizes', 'plain');
my $dump = "$ENV{TESTDATADIR}/sized.sql";
sql(q{INSERT INTO sized SELECT 'c9', 9, 'buy', 'd', '2024-03-01 00:00+00', i, 1000 + i FROM generate_series(1, 100) i});
$node->command_ok([ 'pg_dump', '-f', $dump, 'postgres' ], 'a dump');
sql('CREATE DATABASE restored');
$node->command_ok([ 'psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-d', 'restored', '-f', $dump ], 'and its restore');
$node->poll_query_until('restored', q{SELECT count(*) = 0 FROM tick.status WHERE state <> 'live'}) or die 'the restored rollups are not at work';
for my $change ('SELECT 1', q{DELETE FROM sized WHERE id % 5 = 0 OR v = 6}, q{UPDATE sized SET n = n + 1, ts = ts + interval '1 hour' WHERE id % 3 = 0},
  q{SELECT tick.refresh('sizes'), tick.refresh('plain')}, q{SELECT tick.alter_rollup('plain', add => 'min(v) AS least')}) {
  $node->safe_psql('restored', "$change; SELECT tick.wait(NULL)");
  $node->poll_query_until('restored', q{SELECT count(*) = 0 FROM tick.status WHERE state <> 'live'}) or die 'something is still computed';
  is($node->safe_psql('restored', q{SELECT (SELECT count(*) FROM tick.stale), (SELECT sum(k) FROM sizes) - (SELECT count(*) FROM sized), (SELECT sum(k) FROM plain) - (SELECT count(*) FROM sized),
    (SELECT count(*) FROM tick.verify('sizes')), (SELECT count(*) FROM tick.verify('plain'))}), '0|0|0|0|0', "restored, $change");
}

# ---- a feed does not pass over rows that went without a trace, and a quiet one is not refused

my $refused = sub { my ($rollup, $token, $what) = @_; my ($rc, $out, $err) = $node->psql('postgres', "SELECT count(*) FROM tick.changes(null::$rollup, $token)");
  like($err, qr/changes after token $token are no longer kept/, $what) };
my $token_of = sub { return sql("SELECT max(token) FROM tick.changes(null::$_[0])") };
sql(q{CREATE TABLE busy (ts timestamptz, v int); CREATE TABLE rare (ts timestamptz, v int); SELECT tick.add_source('rare', idle_timeout => '1 day');
  SELECT tick.create_rollup('often', 'SELECT tick.tumble(ts, ''1 min'') AS w, sum(v) AS s FROM busy GROUP BY 1');
  SELECT tick.create_rollup('seldom', 'SELECT tick.tumble(ts, ''1 min'') AS w, sum(v) AS s FROM rare GROUP BY 1');
  INSERT INTO rare VALUES ('2024-03-01 10:00+00', 1); SELECT tick.wait(NULL)});
my ($often, $seldom) = ($token_of->('often') || sql('SELECT pg_current_xact_id()'), $token_of->('seldom'));
sql(q{ALTER SYSTEM SET tick.change_log_size = '32kB'; SELECT pg_reload_conf()});
until_true(60, 'the log has gone round', sub {
  sql(q{INSERT INTO busy SELECT '2024-03-01 10:00+00'::timestamptz + i * interval '2 min', i FROM generate_series(1, 400) i; SELECT tick.wait(NULL)});
  sql('SELECT kept_from FROM tick_catalog.change_log') > $seldom;
});
$refused->('often', $often, 'what the log no longer has is refused');
is(sql("SELECT count(*) FROM tick.changes(null::seldom, $seldom)"), '0', 'a rollup that has not changed can be gone on from');
sql(q{ALTER SYSTEM RESET tick.change_log_size; SELECT pg_reload_conf(); INSERT INTO rare VALUES ('2024-03-01 10:00:10+00', 2); SELECT tick.wait(NULL)});
is(sql("SELECT (candle).s FROM tick.changes(null::seldom, $seldom)"), '3', 'and its next change is there');
$seldom = $token_of->('seldom');
sql(q{TRUNCATE seldom_state; SELECT tick.wait(NULL)});
$refused->('seldom', $seldom, 'a state table was emptied');
$seldom = $token_of->('seldom');
is(sql("SELECT count(*) FROM tick.changes(null::seldom, $seldom)"), '0', 'a token of afterwards is good');
sql(q{SELECT tick.reset('rare'); INSERT INTO rare VALUES ('2024-03-01 11:00+00', 5); SELECT tick.wait(NULL)});
$refused->('seldom', $seldom, 'the source was reset');
exact($node, 'feeds');

# ---- the first and the last times PostgreSQL knows

sql(q{CREATE TABLE ends (k int, ts timestamptz, v int);
  INSERT INTO ends SELECT 1, t, 1 FROM unnest('{4714-11-24 00:00+00 BC,4714-11-24 00:00:01+00 BC,4713-01-01 00:00+00 BC,2024-03-01 00:00+00,294276-12-31 00:00+00,294276-12-31 23:59:59.999999+00,infinity,-infinity,NULL}'::timestamptz[]) t});
my %windows = (minute => "tick.tumble(ts, '1 min')", year => "tick.tumble(ts, '1 year')", week => "tick.tumble(ts, '1 week')", month => "tick.tumble(ts, '1 month', 'America/New_York')",
  day => "tick.tumble(ts, '1 day', 'Asia/Tokyo')", slide => "tick.hop(ts, '1 hour', '15 min')", west => "tick.hop(ts, '8 hours', '4 hours', 'America/New_York')");
sql("SELECT tick.create_rollup('end_$_', \$\$SELECT k, $windows{$_} AS w, sum(v) AS s, count(*) AS c FROM ends GROUP BY 1, 2\$\$)") for sort keys %windows;
exact($node, 'times at both ends, of before');
sql(q{INSERT INTO ends SELECT 2, ts, 2 FROM ends; UPDATE ends SET v = 3 WHERE ts < '4000-01-01 BC' AND k = 2});
exact($node, 'and those that come');
my $differences = join ' UNION ALL ', map {
  "SELECT 'end_$_' AS name, 'more' AS what, count(*) AS n FROM (SELECT k, w, s, c FROM end_$_ EXCEPT ALL SELECT k, $windows{$_}, sum(v), count(*) FROM ends GROUP BY 1, 2) a
   UNION ALL SELECT 'end_$_', 'less', count(*) FROM (SELECT k, w, s FROM (SELECT k, $windows{$_} AS w, sum(v) AS s FROM ends GROUP BY 1, 2) q WHERE isfinite(w) EXCEPT ALL SELECT k, w, s FROM end_$_) a"
} sort keys %windows;
is(sql("SELECT * FROM ($differences) d WHERE n > 0"), '', 'they have what their queries give, and all of it that has a window');
is(sql(q{SELECT tick.tumble('4714-11-24 00:00+00 BC', '1 year'), (SELECT count(*) FROM tick.hop('4714-11-24 00:00+00 BC', '1 hour', '15 min')), max(window_end) FROM end_year}), '-infinity|1|infinity',
  'before the first time there is no window, the last one ends at infinity');
is(sql(q{SELECT count(watermark::text) > 0 FROM tick.sources}), 't', 'watermarks can be read');
sql(q{CREATE TABLE first_only (ts timestamptz); SELECT tick.create_rollup('first_minute', 'SELECT tick.tumble(ts, ''1 min'') AS w, count(*) AS c FROM first_only GROUP BY 1');
  INSERT INTO first_only VALUES ('4714-11-24 00:00+00 BC'); SELECT tick.wait(NULL)});
like(sql(q{SELECT watermark FROM tick.sources WHERE source = 'first_only'::regclass}), qr/^4714-11-24 00:0\d:\d\d.* BC$/, 'a watermark that would be before the first time');
exact($node, 'ends');

done_testing();
