# Windows in time zones, with origins: days, weeks, months, quarters and years equal date_trunc, 4 hours equal a table made
# with Python's zoneinfo (test/zones), whatever is done to the rows; final, closed, late and raw_from go by windows of
# different lengths.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = make_node('zones', conf => "tick.scan_size = 0\ntimezone = 'Asia/Kathmandu'\n");
my $seed = $ENV{SEED} || int(rand(2**31));
diag("seed $seed");
my $sql = sub { return $node->safe_psql('postgres', $_[0]); };

# The table: one row a window of 4 hours, `n` counted per zone.
$sql->('CREATE TABLE run (zone text, first date, days int, utc timestamptz, hours int[])');
for (split /\n/, slurp("$FindBin::Bin/../zones/table.txt")) {
  my ($zone, $first, $days, $utc, $hours) = split / /;
  $sql->("INSERT INTO run VALUES ('$zone', '$first', $days, '$utc', '{$hours}')");
}
$sql->(q{CREATE TABLE four AS
  SELECT *, row_number() OVER (PARTITION BY zone ORDER BY w) AS n FROM (
    SELECT r.zone, r.first + d AS day, h.hours,
      r.utc + make_interval(hours => d::int * (SELECT sum(u) FROM unnest(r.hours) u)::int + (SELECT coalesce(sum(u), 0) FROM unnest(r.hours[:h.i - 1]) u)::int) AS w
    FROM run r, generate_series(0, r.days - 1) d, unnest(r.hours) WITH ORDINALITY h(hours, i)) x;
  CREATE INDEX ON four (zone, w); CREATE INDEX ON four (zone, n); ANALYZE four});
my @zones = (['ny', 'America/New_York'], ['berlin', 'Europe/Berlin']);
my ($from, $to) = ('2025-01-02 06:00+00', '2026-12-31 22:00+00');

# Plain SQL.
for my $unit ('day', 'week', 'month', 'quarter', 'year') {
  my $size = $unit eq 'quarter' ? '3 months' : "1 $unit";
  is($sql->(qq{SELECT count(*), count(*) FILTER (WHERE tick.tumble(ts, '$size', zone) <> date_trunc('$unit', ts, zone)), count(*) FILTER (WHERE
      tick.tumble(ts AT TIME ZONE 'UTC', '$size', zone) <> date_trunc('$unit', ts, zone) AT TIME ZONE 'UTC')
    FROM generate_series('$from'::timestamptz, '$to', '37 min 11 s') ts, unnest('{America/New_York,Europe/Berlin}'::text[]) zone}) =~ s/^\d{5}\|/many|/r,
    'many|0|0', "every $unit is that of date_trunc");
}
is($sql->(qq{SELECT count(*) > 30000, count(*) FILTER (WHERE tick.tumble(ts, '4 hours', f.zone) <> f.w OR tick_catalog.window_end(f.w, '4 hours', NULL, f.zone, NULL) <> f.w + make_interval(hours => hours))
  FROM (SELECT *, w + o AS ts FROM four, unnest('{0,1 us,59 min,0:59:59.999999}'::interval[]) o) f}), 't|0', '4 hours are those of the table');
is($sql->(q{SELECT string_agg(day || ': ' || lengths, ', ' ORDER BY day) FROM (SELECT day, string_agg(extract(hour FROM e - w)::text, '+' ORDER BY w) AS lengths
    FROM (SELECT DISTINCT date_trunc('day', ts, z)::timestamptz AT TIME ZONE z AS day, tick.tumble(ts, '4 hours', z) AS w, tick_catalog.window_end(tick.tumble(ts, '4 hours', z), '4 hours', NULL, z, NULL) AS e
      FROM unnest('{2026-03-08 12:00+00,2026-11-01 12:00+00}'::timestamptz[]) d, generate_series(d - interval '8 h', d + interval '16 h 59 min', '1 min') ts, (VALUES ('America/New_York')) q(z)) x
    GROUP BY day) y WHERE day IN ('2026-03-08', '2026-11-01')}), '2026-03-08 00:00:00: 4+4+4+4+4+3, 2026-11-01 00:00:00: 4+4+4+4+4+4+1', 'days of 23 and 25 hours');
is($sql->(q{SELECT bool_and(tick.tumble(ts, s, z) = tick.tumble(ts, s)), bool_and(tick.tumble(ts, s, z, '1999-12-27 00:00+00') = tick.tumble(ts, s)) FROM generate_series('2024-02-25'::timestamptz, '2024-03-05', '7 min') ts,
    unnest('{1 min,7 hours,24 hours,1 day,1 week}'::interval[]) s, unnest('{UTC,utc,Etc/UTC,GMT}'::text[]) z}), 't|t', 'UTC by any name');
is($sql->(q{SELECT to_char(tick.tumble('2026-03-09 20:59+00', '1 day', 'America/New_York', '2000-01-01 22:00+00') AT TIME ZONE 'UTC', 'MM-DD HH24:MI') || ' ' ||
    to_char(tick.tumble('2026-03-09 21:00+00', '1 day', 'America/New_York', origin => '2000-01-01 22:00+00') AT TIME ZONE 'UTC', 'MM-DD HH24:MI') || ' ' ||
    to_char(tick.tumble('2026-03-09 21:00+00', '1 week', origin => '2000-01-02 00:00+00') AT TIME ZONE 'UTC', 'Dy HH24:MI') || ' ' ||
    to_char(tick.tumble('2026-02-15', '1 month', origin => '2000-01-15 12:00+00') AT TIME ZONE 'UTC', 'MM-DD HH24:MI')}),
  '03-08 21:00 03-09 21:00 Sun 00:00 01-15 12:00', 'origins: a day from 17:00 to 17:00 of New York, weeks from Sunday, months from the fifteenth');
# Two midnights of a day: date_trunc takes the second.
is($sql->(q{SELECT count(*) > 50000, string_agg(name || ' ' || ts::text || ' ' || w || ' ' || d, ', ') FILTER (WHERE w > ts OR w <> d AND w AT TIME ZONE name <> d AT TIME ZONE name)
  FROM (SELECT DISTINCT ON (abbrev, utc_offset, is_dst) name FROM pg_timezone_names WHERE name !~ '^(posix|right)/' AND name NOT IN (SELECT abbrev FROM pg_timezone_abbrevs) ORDER BY abbrev, utc_offset, is_dst, name) z,
    generate_series('1999-01-01 00:07+00'::timestamptz, '2039-12-31', '11 days 37 min') ts, tick.tumble(ts, '1 day', name) w, date_trunc('day', ts, name) d}), 't|', 'days of every kind of zone begin at its midnight');
is($sql->(q{SELECT count(*), min(h - lag) FROM (SELECT h, lag(h, 1, h - interval '1 h') OVER (ORDER BY h) AS lag FROM tick.hop('2026-03-08 13:30+00', '8 hours', '1 hour', 'America/New_York') h) x}), '8|01:00:00', 'windows that hop');

# Rollups; five on one table fold its rows once, into minutes.
my $table = 'ticks';
$sql->(q{CREATE TABLE ticks (symbol text, ts timestamptz, price float8, id int8) PARTITION BY RANGE (ts);
  CREATE TABLE ticks_1 PARTITION OF ticks FOR VALUES FROM (MINVALUE) TO ('2026-03-08 12:00+00'); CREATE TABLE ticks_2 PARTITION OF ticks FOR VALUES FROM ('2026-03-08 12:00+00') TO (MAXVALUE)});
# Half of the rows within three days of a change.
my $fill = sub { my ($n, $first) = @_; return qq{INSERT INTO $table SELECT 'S' || (random() * 2)::int, CASE WHEN i % 2 = 0 THEN '$from'::timestamptz + random() * ('$to'::timestamptz - '$from')
    ELSE (array['2025-03-09','2025-03-30','2025-10-26','2025-11-02','2026-03-08','2026-03-29','2026-10-25','2026-11-01']::timestamptz[])[1 + i % 8] - interval '1 day' + random() * interval '3 days' END,
  round((random() * 1000)::numeric, 2)::float8, i FROM generate_series($first, $first + $n - 1) i}; };
$sql->('SELECT setseed(' . ($seed % 1000 / 1000) . '); ' . $fill->(3000, 1));
my $columns = 'symbol, ts, open, high, low, close, n, s';
my $query = sub { my ($window) = @_; return qq{SELECT symbol, $window AS ts, tick.first(price, ts, id) AS open, max(price) AS high, min(price) AS low,
    tick.last(price, ts, id) AS close, count(*) AS n, sum(id) AS s FROM $table GROUP BY 1, 2} };
my $oracle = sub { my ($source) = @_; return qq{SELECT symbol, w AS ts, (array_agg(price ORDER BY ts, id, price))[1] AS open, max(price) AS high, min(price) AS low,
    (array_agg(price ORDER BY ts DESC, id DESC, price DESC))[1] AS close, count(*) AS n, sum(id) AS s FROM $source GROUP BY 1, 2} };
my @rollups;
my $add = sub { my ($name, $window, $source) = @_; push @rollups, [$name, $oracle->($source)];
  $sql->("SELECT tick.create_rollup('$name', \$\$" . $query->($window) . '$$)') };
$add->('minute', "tick.tumble(ts, '1 min')", "(SELECT *, date_trunc('minute', ts) AS w FROM $table) t");
for (@zones) {
  my ($short, $zone) = @$_;
  $add->("day_$short", "tick.tumble(ts, '1 day', '$zone')", "(SELECT *, date_trunc('day', ts, '$zone') AS w FROM $table) t");
  $add->("four_$short", "tick.tumble(ts, '4 hours', '$zone')", "$table, LATERAL (SELECT w FROM four WHERE zone = '$zone' AND w <= ts ORDER BY w DESC LIMIT 1) f");
}
my $ny = 'America/New_York';
$add->('day24', "tick.tumble(ts, '24 hours', tz => '$ny')", "(SELECT *, date_trunc('day', ts, '$ny') AS w FROM $table) t");
$add->('week', "tick.tumble(ts, '1 week', '$ny')", "(SELECT *, date_trunc('week', ts, '$ny') AS w FROM $table) t");
$add->('quarter', "tick.tumble(ts, '3 months', '$ny')", "(SELECT *, date_trunc('quarter', ts, '$ny') AS w FROM $table) t");
$add->('five', "tick.tumble(ts, '1 day', '$ny', '2000-01-03 17:00-05')", "(SELECT *, ((ts AT TIME ZONE '$ny' - interval '17 h')::date + time '17:00') AT TIME ZONE '$ny' AS w FROM $table) t");
$add->('sunday', "tick.tumble(ts, '1 week', origin => '2000-01-02 00:00+00')", "(SELECT *, date_trunc('week', ts + interval '1 day', 'UTC') - interval '1 day' AS w FROM $table) t");
$add->('hop', "tick.hop(ts, '12 hours', '4 hours', '$ny')", "$table, LATERAL (SELECT n FROM four WHERE zone = '$ny' AND w <= ts ORDER BY w DESC LIMIT 1) f, LATERAL (SELECT w FROM four g WHERE zone = '$ny' AND g.n BETWEEN f.n - 2 AND f.n) h");
is($sql->("SELECT count(DISTINCT group_id), max(pane) FROM tick.rollups WHERE source = '$table'::regclass"), '1|00:01:00', "rows are folded once");
my $same = sub {
  my ($when) = @_;
  exact($node, $when);
  for (@rollups) {
    my ($name, $expected) = @$_;
    is($sql->("WITH o AS MATERIALIZED ($expected) SELECT (SELECT count(*) > 0 FROM o), (SELECT count(*) FROM (SELECT $columns FROM $name EXCEPT ALL SELECT $columns FROM o) a), (SELECT count(*) FROM (SELECT $columns FROM o EXCEPT ALL SELECT $columns FROM $name) b)"),
      't|0|0', "$when: $name equals built-ins");
  }
};
wait_for($node, q{SELECT count(*) = 0 FROM tick.status WHERE state = 'backfill'});
$same->('history');
$sql->($fill->(1000, 5000) . "; UPDATE $table SET price = price + 1, ts = ts + interval '61 min' WHERE id % 9 = 0 AND ts < '2026-12-30'; DELETE FROM $table WHERE id % 7 = 0 OR price > 950");
$same->('rows come and go');
$sql->("SELECT tick.refresh(r.rollup, '2026-03-08 10:00+00', '2026-11-01 10:00+00') FROM tick.rollups r WHERE source = '$table'::regclass");
exact($node, 'refreshed');
is($sql->("SELECT count(*) FROM tick.rollups r, tick.verify(r.rollup, '2026-03-08 05:00+00', '2026-03-09 04:00+00') WHERE source = '$table'::regclass"), '0', "verified in part");
for (@zones) {
  my ($short, $zone) = @$_;
  is($sql->("SELECT count(*) FROM day_${short} WHERE window_end <> date_trunc('day', ts + interval '30 h', '$zone')"), '0', "days of $zone end with the next");
  is($sql->("SELECT count(*) FROM four_${short} c LEFT JOIN four f ON f.zone = '$zone' AND c.ts = f.w WHERE window_end IS DISTINCT FROM f.w + make_interval(hours => f.hours)"), '0', "so do 4 hours");
}
# The day that the border is in stays as it is; what is attached comes in again.
$sql->("INSERT INTO $table VALUES ('Z', '2026-03-08 07:00+00', 1, 10001), ('Z', '2026-03-08 13:00+00', 2000, 10002); SELECT tick.wait(NULL); ALTER TABLE $table DETACH PARTITION ${table}_1");
exact($node, 'a partition detached');
$sql->("DELETE FROM $table WHERE id = 10002");
exact($node, 'a greatest price of a day deleted that the source has a part of only');
is($sql->(q{SELECT count(*) FROM tick.stale WHERE rollup = 'day_ny'::regclass AND ts = '2026-03-08 05:00+00'}), '1', 'its day is stale');
is($sql->(q{SELECT count(*) FROM tick.stale WHERE rollup = 'minute'::regclass}), '0', 'its minute is not');
$sql->("ALTER TABLE $table ATTACH PARTITION ${table}_1 FOR VALUES FROM (MINVALUE) TO ('2026-03-08 12:00+00')");
$same->('attached again');

# The watermark passes the end of a day of 23 hours, and of one of 25; a window closes once and then freezes.
$sql->(q{CREATE TABLE t (ts timestamptz, v int); SELECT tick.add_source('t', watermark_delay => '0', freeze_after => '1 hour');
  SELECT tick.create_rollup('d', $$SELECT tick.tumble(ts, '1 day', 'America/New_York') AS ts, max(v) AS v FROM t GROUP BY 1$$);
  SELECT tick.create_rollup('h', $$SELECT tick.hop(ts, '12 hours', '6 hours', 'America/New_York') AS ts, max(v) AS v FROM t GROUP BY 1$$);
  INSERT INTO t SELECT ts, 1 FROM generate_series('2026-03-08 05:00+00'::timestamptz, '2026-03-09 03:59+00', '1 h') ts; SELECT tick.wait(NULL)});
my $state = sub { return $sql->(q{SELECT tick.wait(NULL)}) && $sql->(q{SELECT string_agg(to_char(ts AT TIME ZONE 'UTC', 'DD"T"HH24') || '-' || to_char(window_end AT TIME ZONE 'UTC', 'DD"T"HH24') || ':' || CASE WHEN final THEN 'final' ELSE 'open' END, ' ' ORDER BY ts) FROM }
  . $_[0]) };
my $at = sub { $sql->("SELECT tick.set_watermark('t', '$_[0]')"); wait_for($node, "SELECT tick.watermark('t') = '$_[0]'") };
$at->('2026-03-09 03:59:59.999+00');
is($state->('d'), '08T05-09T04:open', 'a day of 23 hours is open until it ends');
is($state->('h'), '07T23-08T11:final 08T05-08T17:final 08T11-08T23:final 08T17-09T04:open 08T23-09T10:open', 'so are windows that hop');
is($sql->(q{SELECT count(*) FROM tick_catalog.open_window WHERE rollup IN (SELECT id FROM tick_catalog.rollup WHERE view IN ('d'::regclass, 'h'::regclass))}), '3', 'those are to be told of');
$at->('2026-03-09 04:00+00');
is($state->('d'), '08T05-09T04:final', 'and final then');
wait_for($node, q{SELECT count(*) = 1 FROM tick_catalog.open_window WHERE rollup IN (SELECT id FROM tick_catalog.rollup WHERE view IN ('d'::regclass, 'h'::regclass))});
$sql->(q{INSERT INTO t VALUES ('2026-03-09 03:30+00', 2)});
is($sql->(q{SELECT tick.wait(NULL); SELECT v || ' ' || revision FROM d}), "t\n2 1", 'a late row revises it');
$at->('2026-03-09 05:00+00');
$sql->(q{INSERT INTO t VALUES ('2026-03-08 05:00+00', 3), ('2026-03-09 04:00+00', 4)});
is($sql->(q{SELECT tick.wait(NULL); SELECT (SELECT string_agg(v || ' ' || revision, ', ' ORDER BY ts) FROM d), (SELECT string_agg(rollup::text || ' ' || extract(epoch FROM ts)::int8, ', ' ORDER BY rollup::text, ts) FROM tick.late)}),
  "t\n2 1, 4 0|d 1772946000, h 1772924400, h 1772946000", 'it freezes an hour after its end, not after 25 hours');
$sql->(q{SELECT tick.refresh(r) FROM unnest('{d,h}'::regclass[]) r});
exact($node, 'taken in by a refresh');

# A rename rewrites the texts; a dump has all of it.
$sql->('ALTER TABLE t RENAME v TO value; ALTER VIEW d RENAME TO days; ALTER TABLE t RENAME TO readings');
$sql->(q{INSERT INTO readings VALUES ('2026-11-01 04:00+00', 7), ('2026-11-02 04:59+00', 8)});
exact($node, 'renamed');
is($sql->(q{SELECT v || ' ' || (window_end - ts) FROM days WHERE ts = '2026-11-01 04:00+00'}), '8 1 day 01:00:00', 'a day of 25 hours');

# Which are no windows.
for my $wrong ([ "tumble(ts, '1 day', 'Amerika/New_York')", 'time zone "Amerika/New_York" is not recognized.*pg_timezone_names' ], [ "tumble(ts, '1 day', 'FOO+00:07')", 'quarters of an hour' ],
  [ "tumble(ts, '1 day', tz => NULL)", 'time zone of a window must be a constant' ], [ "tumble(ts, '1 day', origin => 'infinity')", 'must be finite' ], [ "tumble(ts, '1 day', origin => '2000-01-01 17:00:01+00')", 'whole minute' ],
  [ "tumble(ts, '1 month', origin => '2000-01-29 00:00+00')", 'after the 28th' ], [ "tumble(ts, '1 day', symbol)", 'time zone of a window must be a constant' ], [ "tumble(ts, '1 day', origin => ts)", 'origin of a window must be a constant' ],
  [ "hop(ts, '5 hours', '2 hours', 'Europe/Berlin')", 'must divide' ]) {
  my ($rc, $out, $err) = $node->psql('postgres', "SELECT tick.create_rollup('wrong', \$\$SELECT tick.$wrong->[0] AS ts, count(*) AS n FROM ticks GROUP BY 1\$\$)");
  like($err, qr/$wrong->[1]/s, "refused: $wrong->[0]");
}
$node->stop;
done_testing();
