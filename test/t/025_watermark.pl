# The watermark: it follows the rows, walks with the clock once a source is idle, is not moved by rows from the
# future before their time, nor by a backlog, and says what is final within a second of the moment it should.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();

my $node = make_node('watermark');
sub sql { return $node->safe_psql('postgres', $_[0]); }
sub merged { return sql('SELECT tick.wait(NULL)'); }

# A source of its own for each claim, with a rollup in windows of a second.
sub make_source {
  my ($name, $settings) = @_;
  sql("CREATE TABLE $name (symbol text, exchange text, ts timestamptz, price float8);"
    . "SELECT tick.add_source('$name', $settings);"
    . "SELECT tick.create_rollup('${name}_1s', 'SELECT exchange, tick.tumble(ts, ''1 second'') AS ts, count(*) AS n,"
    . " sum(price) AS total FROM $name GROUP BY 1, 2')");
  merged();
}

# How far the watermark is from max(ts) - watermark_delay, in ms.
sub walked {
  return sql("SELECT extract(epoch FROM watermark - max_time + watermark_delay) * 1000 FROM tick_catalog.watermark w"
    . " JOIN tick_catalog.source s ON s.relid = w.source WHERE relid = '$_[0]'::regclass");
}

# Until the clock of the server has come to a time.
sub until_clock { wait_for($node, "SELECT clock_timestamp() >= '$_[0]'::timestamptz"); }

# ---- rows move it; idle, it walks, and a window becomes final when it should.
make_source('live', "watermark_delay => '200 ms', idle_timeout => '300 ms', max_skew => '1 s'");
is(sql("SELECT tick.watermark('live') IS NULL"), 't', 'no rows, no watermark');
sql("INSERT INTO live VALUES ('A', 'x', now(), 1), ('A', 'x', now() - interval '5 s', 1)");
merged();
is(walked('live') + 0, 0, 'it is the newest time less the delay');
is(sql('SELECT bool_or(final), bool_and(final) FROM live_1s'), 't|f', 'the old window is final, the new one is not');
my $should = sql("SELECT last_arrival + idle_timeout + (e - (max_time - watermark_delay)) FROM tick_catalog.watermark w"
  . " JOIN tick_catalog.source s ON s.relid = w.source, (SELECT max(window_end) AS e FROM live_1s) x WHERE relid = 'live'::regclass");
wait_for($node, 'SELECT bool_and(final) FROM live_1s');
my $late = sql("SELECT extract(epoch FROM clock_timestamp() - '$should'::timestamptz)");
my $early = sql("SELECT '$should'::timestamptz > watermark - watermark_delay + interval '1 minute' FROM tick_catalog.watermark w"
  . " JOIN tick_catalog.source s ON s.relid = w.source WHERE relid = 'live'::regclass");
ok($late >= 0 && $late < 1, "the last window is final within a second of the moment it should be ($late s)");
is(sql("SELECT count(*) FROM tick_catalog.open_window"), '0', 'and none is open any more');
sql("INSERT INTO live SELECT 'A', 'x', min(ts), 1 FROM live");
merged();
is(sql('SELECT max(revision) FROM live_1s'), '1', 'a late row is a new revision of a final window');
is(sql("SELECT late FROM tick_catalog.watermark WHERE source = 'live'::regclass"), '1', 'and counted');

# ---- history does not jump to today.
make_source('history', "watermark_delay => '200 ms', idle_timeout => '100 ms'");
sql("INSERT INTO history SELECT 'A', 'x', '2024-03-01'::timestamptz + i * interval '250 ms', 1 FROM generate_series(0, 9) i");
merged();
wait_for($node, 'SELECT bool_and(final) FROM history_1s');
is(sql("SELECT tick.watermark('history') < '2024-03-01 00:00:30'"), 't', 'idle after a replay it walks, and does not jump');

# ---- rows from the future.
make_source('future', "watermark_delay => '0', idle_timeout => '1 hour', max_skew => '0'");
sql("INSERT INTO future VALUES ('A', 'x', now(), 1)");
merged();
my $before = sql("SELECT tick.watermark('future')");
sql("INSERT INTO future VALUES ('A', 'x', '2099-01-01', 1); INSERT INTO future VALUES ('A', 'x', date_trunc('second', now()) + interval '3 s', 1)");
merged();
is(sql("SELECT tick.watermark('future')"), $before, 'rows ahead of the clock do not move it');
is(sql("SELECT future, sum(n) FROM tick_catalog.watermark, future_1s WHERE source = 'future'::regclass GROUP BY 1"), '2|3',
  'they are counted, and in their windows');
my $time = sql("SELECT min(a) FROM tick_catalog.watermark, unnest(ahead) a WHERE source = 'future'::regclass");
until_clock($time);
wait_for($node, "SELECT tick.watermark('future') = '$time'");
cmp_ok(sql("SELECT extract(epoch FROM clock_timestamp() - '$time'::timestamptz)"), '<', 1, 'they do when their time comes');
is(sql("SELECT count(*) FROM future_1s WHERE final AND ts > '2090-01-01'"), '0', '2099 is not final yet');

# ---- by exchange: the slowest that is not idle decides.
make_source('by', "watermark_delay => '0', idle_timeout => '2 s', watermark_by => 'exchange'");
sql("INSERT INTO by VALUES ('A', 'slow', now() - interval '1 minute', 1), ('A', 'fast', now(), 1), ('B', NULL, now() - interval '10 s', 1)");
merged();
is(sql("SELECT max_time - watermark >= interval '1 minute' FROM tick_catalog.watermark WHERE source = 'by'::regclass"), 't',
  'the slowest exchange holds it back');
wait_for($node, "SELECT max_time - watermark < interval '1 s' FROM tick_catalog.watermark WHERE source = 'by'::regclass");
pass('once it is idle it does no longer');
my ($rc, $out, $err) = $node->psql('postgres', "CREATE TABLE other (s text, ts timestamptz, e text);"
  . "SELECT tick.add_source('other', watermark_by => 'e');"
  . "SELECT tick.create_rollup('other_1s', 'SELECT s, tick.tumble(ts, ''1 second'') AS ts, count(*) AS n FROM other GROUP BY 1, 2')");
like($err, qr/groups by "e".*HINT/s, 'a rollup has to group by the column, or none says whose rows they are');

# ---- a worker that was away does not take its backlog for an idle source.
make_source('backlog', "watermark_delay => '0', idle_timeout => '200 ms', max_skew => '1 hour'");
sql("INSERT INTO backlog VALUES ('A', 'x', now(), 1)");
merged();
my $worker = worker_pid($node);
kill 'STOP', $worker;
sql("INSERT INTO backlog SELECT 'A', 'x', now() + i * interval '1 ms', 1 FROM generate_series(1, 9) i");
until_clock(sql("SELECT now() + interval '3 s'"));
kill 'CONT', $worker;
merged();
cmp_ok(walked('backlog'), '<', 1000, 'it has not walked over the backlog');

# ---- a restart neither loses it nor lets it jump.
$before = sql("SELECT tick.watermark('history')");
$node->restart;
merged();
is(sql("SELECT tick.watermark('history') >= '$before' AND tick.watermark('history') < '$before'::timestamptz + interval '70 s'"), 't',
  'it is there after a restart');

# ---- tick.set_watermark: also back, by the owner only.
sql("SELECT tick.set_watermark('history', '2024-02-01 12:00+00')");
wait_for($node, "SELECT tick.watermark('history') = '2024-02-01 12:00+00'");
sql("INSERT INTO history VALUES ('A', 'x', '2024-03-01 00:00:30+00', 1)");
merged();
is(sql("SELECT tick.watermark('history') = '2024-03-01 00:00:29.8+00'"), 't', 'set back, rows move it on from there');
sql("CREATE ROLE stranger; GRANT ALL ON history TO stranger");
($rc, $out, $err) = $node->psql('postgres', "SET ROLE stranger; SELECT tick.set_watermark('history', now())");
like($err, qr/must be owner/, 'by the owner only');
sql("INSERT INTO history VALUES ('A', 'x', NULL, 1), ('A', 'x', 'infinity', 1), ('A', 'x', '-infinity', 1)");
merged();
is(sql("SELECT rejected, watermark < '2024-03-01 00:01:00+00' FROM tick_catalog.watermark WHERE source = 'history'::regclass"), '3|t',
  'rows without a time are counted and do not move it');

exact($node, 'at the end');
$node->stop;
done_testing();
