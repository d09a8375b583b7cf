# Cumulating windows: a row is in all windows of its day that end after it, whatever is done to it, and where the source
# has lost rows a window counts as covered only if the day's first row is. The oracle is generate_series and date_trunc.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# The oracles cost little, to compile them a second each.
my $node = make_node('cumulate', conf => "tick.scan_size = 0\njit = off\ntimezone = 'Asia/Kathmandu'\n");
my $seed = $ENV{SEED} || int(rand(2**31));
diag("seed $seed");
sub sql { return $node->safe_psql('postgres', $_[0]); }
sub refused { my ($query, $why, $what) = @_; my ($rc, $out, $err) = $node->psql('postgres', $query); like($err, $why, $what); }

# ---- plain SQL

is(sql(q{SELECT string_agg(to_char(w AT TIME ZONE 'UTC', 'HH24:MI'), ' ') FROM tick.cumulate('2024-03-01 20:30+00', '1 day', '1 hour') w}), '20:00 21:00 22:00 23:00', 'the windows of a time');
is(sql(q{SELECT string_agg(n::text, ' ' ORDER BY day) FROM (SELECT day, (SELECT count(*) FROM tick.cumulate(day + interval '6 h', '1 day', '1 hour', 'America/New_York')) AS n
    FROM unnest('{2024-03-09 00:00+00,2024-03-10 00:00+00,2024-11-03 00:00+00}'::timestamptz[]) day) x}), '23 22 23', 'in days of 24, 23 and 25 hours of New York');
is(sql(q{SELECT count(*), min(w), max(w) FROM tick.cumulate(timestamp '2024-11-03 04:00', '24 hours', '1 hour', 'America/New_York') w}), '25|2024-11-03 04:00:00|2024-11-04 04:00:00', 'all of one of 25 hours');
is(sql(q{SELECT string_agg(w::text, ' ') FROM tick.cumulate('infinity'::timestamptz, '1 day', '1 hour') w}), 'infinity', 'of infinity, one');
is(sql(q{SELECT count(*) FILTER (WHERE w = '-infinity'), count(*) FROM tick.cumulate('4714-11-24 00:00+00 BC', '1 day', '6 hours', 'America/New_York') w}), '1|1', 'where timestamps begin');

is(sql(q{SELECT string_agg(to_char(w AT TIME ZONE 'UTC', 'DD HH24'), ' ') FROM unnest(tick_catalog.window_reach('2024-03-01 10:30+00', '2024-03-01 10:40+00', '1 day', '1 hour', NULL, NULL, true)) w}), '01 10 02 00', 'what a gap touches');

# ---- rollups

sql(q{CREATE TABLE ticks (symbol text, ts timestamptz, price float8, id int8) PARTITION BY RANGE (ts);
  CREATE TABLE ticks_1 PARTITION OF ticks FOR VALUES FROM (MINVALUE) TO ('2024-03-10 12:00+00'); CREATE TABLE ticks_2 PARTITION OF ticks FOR VALUES FROM ('2024-03-10 12:00+00') TO (MAXVALUE);
  SELECT tick.add_source('ticks', watermark_delay => '5 s', idle_timeout => '1 hour')});
my $fill = sub { my ($n, $first) = @_; return qq{INSERT INTO ticks SELECT 'S' || (random() * 2)::int, '2024-03-08 22:00+00'::timestamptz + random() * interval '67 hours', (random() * 1000)::int, i FROM generate_series($first, $first + $n - 1) i}; };
sql('SELECT setseed(' . ($seed % 1000 / 1000) . '); ' . $fill->(400, 1));
my $ny = 'America/New_York';
my $of = 'max(price) AS high, min(price) AS low, count(*) AS n, sum(id) AS s';
my %window = (
  day => ["tick.cumulate(ts, '1 day', '1 hour')", "date_trunc('day', ts, 'UTC')", "interval '1 day'", '1 hour'],
  ny => ["tick.cumulate(ts, '1 day', '1 hour', '$ny')", "date_trunc('day', ts, '$ny')", undef, '1 hour'],
  four => ["tick.cumulate(ts, size => '4 hours', step => '30 min')", "date_bin('4 hours', ts, '2000-01-01 00:00+00')", "interval '4 hours'", '30 min'],
  fine => ["tick.cumulate(ts, '15 min', '1 min')", "date_bin('15 min', ts, '2000-01-01 00:00+00')", "interval '15 min'", '1 min'],
  whole => ["tick.cumulate(ts, '1 day', '24 hours', '$ny')", "date_trunc('day', ts, '$ny')", undef, '25 hours']);
my %oracle;
for my $name (sort keys %window) {
  my ($call, $begin, $size, $step) = @{ $window{$name} };
  my $end = $size ? "b + $size" : "date_trunc('day', b + interval '30 hours', '$ny')";
  $oracle{$name} = qq{SELECT symbol, w AS ts, (array_agg(price ORDER BY ts, id))[1] AS open, (array_agg(price ORDER BY ts DESC, id DESC))[1] AS close, $of
    FROM ticks, LATERAL (SELECT $begin AS b) x, LATERAL generate_series(b, $end - interval '1 us', '$step') w WHERE isfinite(ts) AND w + interval '$step' > ts GROUP BY 1, 2};
  sql("SELECT tick.create_rollup('$name', \$\$SELECT symbol, $call AS ts, tick.first(price, ts, id) AS open, tick.last(price, ts, id) AS close, $of FROM ticks GROUP BY 1, 2\$\$)");
}
sql(qq{SELECT tick.create_rollup('five', 'SELECT symbol, tick.tumble(ts, ''5 min'') AS ts, $of FROM ticks GROUP BY 1, 2');
  SELECT tick.create_rollup('local', \$\$SELECT tick.cumulate(ts AT TIME ZONE 'UTC', '12 hours', '3 hours') AS t, $of FROM ticks GROUP BY 1\$\$);
  SELECT tick.create_rollup('medians', \$\$SELECT tick.cumulate(ts, '1 day', '2 hours', '$ny') AS ts, percentile_cont(0.5) WITHIN GROUP (ORDER BY price) AS median FROM ticks GROUP BY 1\$\$);
  SELECT tick.create_rollup('half', like_rollup => 'day', size => '12 hours');
  SELECT tick.create_rollup('days', \$\$SELECT symbol, tick.tumble(ts, '1 day') AS ts, max(high) AS high, max(n) AS n, count(*) AS steps FROM day GROUP BY 1, 2\$\$);
  SELECT tick.create_rollup('past', \$\$SELECT symbol, tick.cumulate(ts, '1 day', '1 hour') AS ts, $of FROM ticks GROUP BY 1, 2\$\$, history => '1 day')});
my $columns = 'symbol, ts, open, close, high, low, n, s';
my $differ = sub { my ($rollup, $name) = @_; return qq{(WITH o AS MATERIALIZED ($oracle{$name}) SELECT (SELECT count(*) > 0 FROM o)::text || (SELECT count(*) FROM ((SELECT $columns FROM $rollup EXCEPT ALL SELECT $columns FROM o) UNION ALL (SELECT $columns FROM o EXCEPT ALL SELECT $columns FROM $rollup)) d))} };
my $same = sub {
  my ($when) = @_;
  exact($node, $when);
  is(sql('SELECT ' . join(q{ || ' ' || }, map { $differ->($_, $_) } sort keys %window)), join(' ', ('true0') x keys %window), "$when: as built-ins have it");
};
wait_for($node, q{SELECT count(*) = 0 FROM tick.status WHERE state = 'backfill'});
$same->('history');
is(sql("SELECT count(*) FROM five JOIN fine USING (symbol, ts) WHERE five.n > 0") > 0, 1, 'windows of the same name join');
is(sql(q{SELECT count(*) FILTER (WHERE window_end <> ts + interval '1 hour'), count(DISTINCT ts) FILTER (WHERE ts >= '2024-03-10 05:00+00' AND ts < '2024-03-11 04:00+00') FROM ny}), '0|23', 'a day of 23 hours has as many windows, which end with their last steps');
is(sql(q{SELECT count(*), count(DISTINCT window_end) FROM tick.fill(null::ny, '2024-03-10 05:00+00', '2024-03-11 04:00+00') WHERE symbol = 'S1'}), '23|23', 'filled');
sql($fill->(100, 5000) . q{; INSERT INTO ticks VALUES ('X', '2024-03-10 23:59:59.999999+00', 1, 1), ('X', '2024-03-11 00:00+00', 2, 2), ('X', '2024-03-11 03:59:59.999999+00', 3, 3), ('X', '2024-03-11 17:20:30+00', 4, 4)});
sql(q{UPDATE ticks SET price = price * 2, ts = ts + interval '3 hours' WHERE id % 11 = 0 AND ts < '2024-03-11 12:00+00'; DELETE FROM ticks WHERE id % 7 = 0 OR price > 900});
$same->('rows come and go');
sql(qq{SELECT tick.drop_rollup('$_')}) for qw(half local);

# Each step is final by itself, and told of.
is(sql(q{SELECT bool_and(final = (ts < '2024-03-11 17:00+00')), count(*) FILTER (WHERE NOT final) > 0 FROM day}), 't|t', 'a window is final when its last step has passed');
sql(q{INSERT INTO ticks VALUES ('X', '2024-03-11 19:10+00', 4, 40); SELECT tick.wait(NULL)});
is(sql(q{SELECT string_agg(DISTINCT to_char(lo AT TIME ZONE 'UTC', 'HH24'), ' ') FROM (TABLE tick_catalog.change_0 UNION ALL TABLE tick_catalog.change_1) c JOIN tick_catalog.rollup r ON r.id = c.rollup
  WHERE r.view = 'day'::regclass AND c.kind = 'f' AND lo >= '2024-03-11 17:00+00'}), '17 18', 'one after the other');

# What was final then is known after late rows.
my $then = sql('SELECT clock_timestamp()');
sql(q{CREATE TABLE before AS SELECT symbol, ts, high, n FROM past WHERE final; INSERT INTO ticks SELECT 'S1', '2024-03-10 00:10+00', 5000, 7000 + i FROM generate_series(1, 3) i; SELECT tick.wait(NULL)});
is(sql(qq{WITH v AS (SELECT symbol, ts, high, n FROM tick.as_of(null::past, '$then')) SELECT (SELECT count(*) FROM (TABLE v EXCEPT ALL TABLE before) a), (SELECT count(*) FROM (TABLE before EXCEPT ALL TABLE v) a), (SELECT count(*) > 50 FROM before),
  (SELECT count(*) > 20 FROM past p JOIN before b USING (symbol, ts) WHERE p.n = b.n + 3 AND revision > 0)}), '0|0|t|t', 'as of a moment');

# The reader's own snapshot, with his own rows, and a greatest price that he has deleted; all of it, and one window.
for my $change ($fill->(100, 9000), q{DELETE FROM ticks WHERE price = 5000 OR id % 5 = 0}) {
  is(sql("BEGIN; $change; SELECT " . join(q{ || ' ' || }, map { $differ->("${_}_live", $_) } sort keys %window) . '; ROLLBACK'), join(' ', ('true0') x keys %window), "live: $change");
  is(sql("BEGIN; $change; SELECT (SELECT high || ' ' || n FROM day_live WHERE symbol = 'S1' AND ts = '2024-03-10 14:00+00') = (SELECT max(price) || ' ' || count(*) FROM ticks WHERE symbol = 'S1' AND ts >= '2024-03-10 00:00+00' AND ts < '2024-03-10 15:00+00'); ROLLBACK"), 't', 'live: one window');
}
sql('DELETE FROM ticks WHERE price = 5000');

# Killed.
sql($fill->(100, 20000));
crash_worker($node);
sql($fill->(100, 30000) . '; DELETE FROM ticks WHERE id % 13 = 0');
exact($node, 'killed');

# The first half of a day goes: its windows stay, all of them, and are not made again from what is left.
sql(q{INSERT INTO ticks VALUES ('Y', '2024-03-10 07:00+00', 1, 100001), ('Y', '2024-03-10 14:30+00', 2000, 100002)});
sql('SELECT tick.wait(NULL)');
my $kept = sql(q{SELECT string_agg(c::text, ' ' ORDER BY c) FROM (SELECT symbol, ts, high, low, n FROM day WHERE ts < '2024-03-11 00:00+00') c});
sql('ALTER TABLE ticks DETACH PARTITION ticks_1');
sql("SELECT tick.refresh(r.rollup) FROM tick.rollups r WHERE r.rollup <> 'days'::regclass");
exact($node, 'refreshed');
is(sql(q{SELECT string_agg(c::text, ' ' ORDER BY c) FROM (SELECT symbol, ts, high, low, n FROM day WHERE ts < '2024-03-11 00:00+00') c}), $kept, 'its windows stay');
sql(q{INSERT INTO ticks VALUES ('Y', '2024-03-10 15:30+00', 3, 100003)});
is(sql(q{SELECT tick.wait(NULL); SELECT n FROM day WHERE symbol = 'Y' AND ts = '2024-03-10 15:00+00'}), "t\n3", 'rows are added to them');
sql('DELETE FROM ticks WHERE id = 100002');
exact($node, 'a greatest price of it deleted');
is(sql(q{SELECT count(*), min(ts) = '2024-03-10 14:00+00' FROM tick.stale WHERE rollup = 'day'::regclass}), '10|t', 'the windows that it was in are stale');
is(sql(q{SELECT count(*) FROM tick.stale WHERE rollup IN ('fine'::regclass, 'four'::regclass)}), '0', 'those of which nothing has gone are not');
is(sql(q{SELECT count(*) FROM tick.verify('ny', '2024-03-10 13:00+00')}), '0', 'a part of it verified');

refused(q{SELECT tick.forget('ticks', '{"symbol": "S1"}', '2024-03-10 05:00+00', '2024-03-10 06:00+00')}, qr/has windows of the key that the source has lost rows of/, 'no part of them is forgotten');

# A column that is added then is known of the days that are there. What comes back comes in again, to the end of the day.
sql(q{SELECT tick.alter_rollup('ny', add => 'max(id) AS newest'); SELECT tick.alter_rollup('day', add => 'max(id) AS newest')});
exact($node, 'a column added');
is(sql(q{SELECT string_agg((newest IS NULL)::text, ' ') FROM (SELECT newest FROM ny WHERE symbol = 'S1' AND ts IN ('2024-03-10 13:00+00', '2024-03-11 03:00+00', '2024-03-11 16:00+00') ORDER BY ts) c}), 'true true false', 'but not of the day that has lost rows');
sql(q{ALTER TABLE ticks ATTACH PARTITION ticks_1 FOR VALUES FROM (MINVALUE) TO ('2024-03-10 12:00+00')});
$same->('attached again');
is(sql(q{SELECT (SELECT count(*) FROM tick.stale), (SELECT count(*) FROM ny WHERE newest IS NULL)}), '0|0', 'all of it is there');
is(sql(q{SELECT count(*) > 0, sum(d.n) = (SELECT count(*) FROM ticks WHERE isfinite(ts)), max(steps) FROM days d}), 't|t|24', 'a rollup over its windows follows');

# A part of a day.
refused(q{SELECT tick.forget('ticks', '{"symbol": "Y"}', '2024-03-10 06:00+00', '2024-03-10 08:00+00')}, qr/"past" keeps a history: only whole windows/, 'a part of a day is not forgotten where versions have it');
is(sql(q{SELECT tick.drop_rollup('past'); SELECT rows FROM tick.forget('ticks', '{"symbol": "Y"}', '2024-03-10 06:00+00', '2024-03-10 08:00+00')}), "\n1", 'a row of a part of a day is forgotten');
sql(q{SELECT tick.refresh('day', '2024-03-10 10:10+00', '2024-03-10 11:00+00')});

# Old windows go one by one.
sql(q{SELECT tick.alter_rollup('day', retention => now() - '2024-03-10 10:30+00')});
wait_for($node, q{SELECT count(*) = 0 FROM day WHERE ts < '2024-03-10 10:00+00'});
is(sql(q{SELECT min(ts) = '2024-03-10 10:00+00', bool_and(r.n = o.n) FROM day r JOIN (} . $oracle{day} . q{) o USING (symbol, ts)}), 't|t', 'the others are as they were');
sql($fill->(100, 40000) . q{; UPDATE ticks SET price = price + 7 WHERE id % 3 = 0});
exact($node, 'and go on');

# ---- what there is not

for my $wrong ([ "'1 hour', '7 minutes'", 'must divide.*tick\.cumulate\(ts, ' ], [ "'5 hours', '1 hour'", 'must divide' ], [ "'2 days', '1 day'", 'at most 24 hours' ], [ "'1 week', '1 day', 'Europe/Berlin'", 'at most 24 hours' ], [ "'1 month', '1 day'", 'at most 24 hours' ],
  [ "'1 hour', '-1 minute'", 'must be positive' ], [ "'0', '1 minute'", 'must be positive' ], [ "'1 hour', '0'", 'must be positive' ], [ "'1 hour', '10 seconds'", 'in 360 windows, a rollup keeps at most 64.*step longer' ], [ "'1 hour', NULL", 'step of a window must be a constant' ]) {
  refused("SELECT tick.create_rollup('wrong', \$\$SELECT tick.cumulate(ts, $wrong->[0]) AS ts, count(*) AS n FROM ticks GROUP BY 1\$\$)", qr/$wrong->[1]/s, "refused: $wrong->[0]");
}
refused(q{SELECT tick.cumulate(now(), '1 hour', '7 minutes')}, qr/must divide/, 'nor in plain SQL');
refused(q{SELECT tick.create_rollup('wrong', $$SELECT tick.cumulate(ts, '1 day', '1 hour') AS ts, sum(n) AS n FROM five GROUP BY 1$$)}, qr/windows over rollup "five" cannot cumulate/, 'over another rollup');
refused(q{SELECT tick.seed('four', 'SELECT 1')}, qr/cannot be seeded: its windows cumulate/, 'seeded');
refused(q{SELECT tick.create_rollup('wrong', like_rollup => 'day', size => '1 week')}, qr/at most 24 hours/, 'like another one, a week long');
exact($node, 'all of it');

# Dumped with their rows, and without.
for my $form ('', '--schema-only') {
  my ($name, $file) = ("copy$form", $node->basedir . "/dump$form.sql");
  $node->command_ok([ 'pg_dump', '-f', $file, ($form || ()), 'postgres' ], "dumped $form");
  sql(qq{CREATE DATABASE "$name"});
  $node->command_ok([ 'psql', '-Xqo', '/dev/null', '-v', 'ON_ERROR_STOP=1', '-f', $file, $name ], "restored $form");
  my $there = sub { return $node->safe_psql($name, $_[0]) };
  $there->(qq{SELECT tick.resume(v) FROM unnest('{day,ny,four,fine,whole,five,medians,days}'::regclass[]) WITH ORDINALITY u (v, n) WHERE '$form' <> '' ORDER BY n; INSERT INTO ticks VALUES ('X', '2024-03-10 08:30+00', 1, 8), ('X', '2024-03-11 03:30+00', 9999, 9)});
  $there->(q{SELECT tick.wait(NULL, '60 s')});
  $node->poll_query_until($name, q{SELECT count(*) = 0 FROM tick.status WHERE state <> 'live'});
  is($there->(q{SELECT (SELECT count(*) FROM tick.status), (SELECT count(*) FROM tick.status s, tick.verify(s.rollup)),
    (SELECT count(*) FROM ny WHERE high = 9999 AND ts >= '2024-03-11 03:00+00'), (SELECT count(*) FROM four WHERE symbol = 'X' AND ts >= '2024-03-10 08:30+00' AND ts < '2024-03-10 12:00+00')}), '8|0|1|7', "and is exact there $form");
}
$node->stop;
done_testing();
