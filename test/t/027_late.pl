# Rows that a rollup does not take in are listed, counted and never lost: of frozen windows, with keys too wide for its
# index, without a time. What is listed is all that may differ.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = make_node('late');
sub sql { return $node->safe_psql('postgres', $_[0]); }
sub merge { sql($_[0]); sql('SELECT tick.wait(NULL)'); }
sub late { return sql("SELECT reason, key->>'symbol', ts AT TIME ZONE 'UTC', rows FROM tick.late WHERE rollup = '$_[0]'::regclass ORDER BY 1, 3, 2"); }
sql(q{CREATE TABLE trades (symbol text, ts timestamptz, price float8, id int8);
  SELECT tick.add_source('trades', watermark_delay => '0', idle_timeout => '1 hour', freeze_after => '5 minutes');
  INSERT INTO trades VALUES ('before', NULL, 1, 0), ('before', 'infinity', 1, 0);
  SELECT tick.create_rollup('minutes', 'SELECT symbol, tick.tumble(ts, ''1 minute'') AS ts, count(*) AS n, sum(price) AS total,
    max(price) AS high FROM trades GROUP BY 1, 2');
  SELECT tick.create_rollup('hours', 'SELECT symbol, tick.tumble(ts, ''1 hour'') AS ts, count(*) AS n FROM trades GROUP BY 1, 2');
  SELECT tick.create_rollup('all_time', 'SELECT symbol, count(*) AS n FROM trades GROUP BY 1')});
merge(q{INSERT INTO trades VALUES ('A', '2024-03-01 12:00:10+00', 1, 1), ('A', '2024-03-01 12:10:00+00', 2, 2)});
is(late('minutes'), 'no_time|before||2', 'rows without a time of before the rollup');

# Frozen: minutes that ended five minutes before 12:10. Final and not frozen yet: they merge.
merge(q{INSERT INTO trades VALUES ('A', '2024-03-01 12:00:20+00', 7, 3), ('A', '2024-03-01 12:05:00+00', 8, 4)});
merge(q{INSERT INTO trades VALUES ('A', '2024-03-01 12:00:30+00', 9, 5), ('B', '2024-03-01 12:00:30+00', 9, 6)});
is(sql("SELECT n, high, revision FROM minutes WHERE ts = '2024-03-01 12:00+00' AND symbol = 'A'"), '1|1|0', 'a frozen window stays as it is');
is(sql("SELECT n FROM minutes WHERE ts = '2024-03-01 12:05+00'"), '1', 'a final one does not');
is(late('minutes'), "frozen|A|2024-03-01 12:00:00|2\nfrozen|B|2024-03-01 12:00:00|1\nno_time|before||2", 'what came is listed and counted');
is(late('hours'), 'no_time|before||2', 'the hour is not frozen');
is(sql("SELECT n FROM all_time WHERE symbol = 'A'"), '5', 'what has no window never freezes');
exact($node, 'all but what is listed');
merge(q{ALTER TABLE minutes_state DISABLE TRIGGER tick_guard; UPDATE minutes_state SET n = 77 WHERE symbol = 'A' AND ts = '2024-03-01 12:10+00'});
is(sql("SELECT count(*) FROM tick.verify('minutes')"), '1', 'elsewhere a difference is found');
merge(q{UPDATE minutes_state SET n = 1 WHERE symbol = 'A' AND ts = '2024-03-01 12:10+00'});

# A correction of a frozen window recomputes it from the source, late rows and all.
merge(q{DELETE FROM trades WHERE id = 3});
wait_for($node, "SELECT n = 2 AND high = 9 FROM minutes WHERE symbol = 'A' AND ts = '2024-03-01 12:00+00'");
is(late('minutes'), 'no_time|before||2', 'and nothing of it is listed any more');
is(sql("SELECT count(*) FROM tick.verify('minutes')"), '0', 'it is exact');

# Rows without a time: NULL, infinite.
merge(q{INSERT INTO trades VALUES ('A', NULL, 1, 7), ('A', 'infinity', 1, 8), ('A', '-infinity', 1, 9), ('B', NULL, 1, 10)});
is(late('minutes'), "no_time|A||3\nno_time|B||1\nno_time|before||2", 'rows without a time are listed');
is(sql("SELECT rejected FROM tick_catalog.watermark WHERE source = 'trades'::regclass"), '4', 'and counted for the source');

# A key too wide for the index of the state sets nothing aside.
merge(q{INSERT INTO trades SELECT string_agg(md5(i::text), ''), '2024-03-01 12:11+00', 1, 11 FROM generate_series(1, 300) i});
merge(q{INSERT INTO trades VALUES ('A', '2024-03-01 12:11+00', 5, 12)});
is(sql("SELECT reason, length(key->>'symbol'), rows FROM tick.late WHERE rollup = 'all_time'::regclass"), 'key|9600|1', 'a key that is too wide is listed');
exact($node, 'and the rollup lives on');

# Computed again from the source: what it cannot take in is listed once, as before.
my $before = sql("SELECT rollup, reason, md5(key::text), ts, rows FROM tick.late ORDER BY 1, 2, 3, 4");
sql("INSERT INTO tick_catalog.pending SELECT id, (-9223372036854775808)::int8, 9223372036854775807, true FROM tick_catalog.rollup;"
  . "UPDATE tick_catalog.generation SET value = value + 1");
sql('SELECT tick.wait(NULL)');
wait_for($node, 'SELECT count(*) = 0 FROM tick_catalog.pending');
is(sql("SELECT rollup, reason, md5(key::text), ts, rows FROM tick.late ORDER BY 1, 2, 3, 4"), $before, 'computed again, listed once');
exact($node, 'computed again');

# By rights; gone with the rollup.
sql('CREATE ROLE stranger; GRANT SELECT ON hours TO stranger');
is(sql("SET ROLE stranger; SELECT DISTINCT rollup FROM tick.late"), 'hours', 'by the rights on the rollup');
sql("SELECT tick.drop_rollup('minutes')");
is(sql("SELECT count(*) FROM tick.late WHERE ts IS NULL AND rollup::text NOT IN ('hours', 'all_time')"), '0', 'gone with the rollup');
exact($node, 'at the end');
# History that a helper process reads is listed as well, once, also when its scan is begun again.
$node->append_conf('postgresql.conf', "tick.scan_size = '64kB'\n");
$node->reload;
$node->safe_psql('postgres', q{
  CREATE TABLE hist (k text, ts timestamptz, v int8);
  INSERT INTO hist SELECT 'a', '2024-03-01+00'::timestamptz + i * interval '1 second', i FROM generate_series(1, 60000) AS i;
  INSERT INTO hist SELECT k, ts, 1 FROM (VALUES ('a', NULL::timestamptz), ('a', NULL), ('b', 'infinity'), ('b', '-infinity'),
    (repeat('w', 3000), '2024-03-01 01:00+00')) AS v (k, ts)});
$node->safe_psql('postgres', q{SELECT tick.create_rollup('hist_1m', 'SELECT k, tick.tumble(ts, ''1 minute'') AS w, sum(v) AS s FROM hist GROUP BY 1, 2')});
my $listed = q{SELECT string_agg(reason || ' ' || rows, ', ' ORDER BY reason, rows) FROM (
  SELECT reason, sum(rows) AS rows FROM tick.late WHERE rollup = 'hist_1m'::regclass GROUP BY reason) AS l};
is($node->safe_psql('postgres', "SELECT tick.wait('hist_1m', '60 s'); $listed"), "t\nkey 1, no_time 4", 'history without a time is listed');
$node->safe_psql('postgres', q{TRUNCATE hist_1m_state});
is($node->safe_psql('postgres', "SELECT tick.wait('hist_1m', '60 s'); $listed"), "t\nkey 1, no_time 4", 'and once only when it is read again');
$node->safe_psql('postgres', q{INSERT INTO hist VALUES ('a', NULL, 1); SELECT tick.refresh('hist_1m')});
is($node->safe_psql('postgres', "SELECT tick.wait('hist_1m', '60 s'); $listed"), "t\nkey 1, no_time 5", 'with those that came since');
exact($node, 'late history');

$node->stop;
done_testing();
