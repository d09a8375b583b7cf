# Partitions are made ahead of time and dropped when retention lets go of them; candles do not change by either.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = make_node('retention');
sub sql { my ($query) = @_; return $node->safe_psql('postgres', $query) }
sub refused {
  my ($query, $message, $what) = @_;
  my ($code, $out, $err) = $node->psql('postgres', $query);
  like($err, $message, $what);
}
sub merged { is(sql(q{SELECT tick.wait(NULL, '60 s')}), 't', 'merged') }

# A table of an ordinary role, hostile names, partitions of two days of the last fortnight, none for today.
my $today = sql("SELECT date_trunc('day', now(), 'UTC')");
sub day { my ($ago) = @_; return "(timestamptz '$today' - interval '1 day' * $ago)" }
sql(qq{
  CREATE ROLE feeder LOGIN; CREATE SCHEMA "mar.ket" AUTHORIZATION feeder; GRANT CREATE ON SCHEMA public TO feeder;
  SET ROLE feeder;
  CREATE TABLE "mar.ket"."tr'ades" (symbol text DEFAULT 'none', "t s" timestamptz, price float8, qty float8, trade_id int8,
    twice float8 GENERATED ALWAYS AS (price * 2) STORED, CHECK (price > -1)) PARTITION BY RANGE ("t s");
  CREATE TABLE old_1 PARTITION OF "mar.ket"."tr'ades" FOR VALUES FROM (${\day(12)}) TO (${\day(11)});
  CREATE TABLE old_2 PARTITION OF "mar.ket"."tr'ades" FOR VALUES FROM (${\day(11)}) TO (${\day(10)});
  SELECT tick.create_rollup('minutes', \$\$SELECT symbol, tick.tumble("t s", '1 minute') AS t, tick.first(price, "t s", trade_id) AS open,
    max(price) AS high, min(price) AS low, sum(qty) AS volume, count(*) AS trades FROM "mar.ket"."tr'ades" GROUP BY 1, 2\$\$);
  INSERT INTO "mar.ket"."tr'ades" SELECT symbol, ts, price, qty, trade_id FROM random_trades(2000, 0.1, ${\day(11.5)});
  SELECT tick.wait(NULL)});
my $table = q{"mar.ket"."tr'ades"};
my $source = q{'"mar.ket"."tr''ades"'};
sub owner { my ($query) = @_; return sql("SET ROLE feeder; $query") }
sub partitions { return sql("SELECT count(*) FROM tick_catalog.partitions($source\::regclass) WHERE NOT attic") }
my $candles = sql('SELECT count(*), sum(trades), sum(open), sum(volume) FROM minutes');

# Refusals.
owner('CREATE TABLE plain (ts timestamptz, v int); CREATE TABLE by_list (ts timestamptz, v int) PARTITION BY LIST (v)');
refused("SET ROLE feeder; SELECT tick.add_source('plain', retention => '1 day')", qr/need a source that is partitioned by time: "plain" is not.*tick\.purge/s, 'plain table');
refused("SET ROLE feeder; SELECT tick.add_source('by_list', partition_size => '1 day')", qr/partitioned by time: "by_list" is not/, 'partitioned by something else');
refused("SET ROLE feeder; SELECT tick.alter_source($source, retention => '0')", qr/retention must be positive/, 'no retention at all');
refused("SET ROLE feeder; SELECT tick.alter_source($source, partition_size => '1 second')", qr/partition_size cannot be used: it is shorter than a minute/, 'tiny partitions');
refused("SET ROLE feeder; SELECT tick.alter_source($source, partition_size => '1 month 1 day')", qr/partition_size cannot be used/, 'mixed units');
refused("SET ROLE feeder; SELECT tick.alter_source($source, partitions_ahead => 100000)", qr/partitions_ahead must be/, 'too many');

# Made ahead: the gap behind, three ahead, and the attic; the feed's rows of today land in a partition.
owner("SELECT tick.alter_source($source, partition_size => '1 day')");
wait_for($node, "SELECT count(*) FILTER (WHERE NOT attic) = 16 AND max(hi) - min(lo) = '16 days' AND bool_or(attic) FROM tick_catalog.partitions($source\::regclass)");
is(sql("SELECT count(*) FROM tick_catalog.partitions($source\::regclass) WHERE lo > now()"), '3', 'three partitions ahead');
is(sql("SELECT count(DISTINCT hi - lo), min(hi - lo), bool_and(lo = date_trunc('day', lo, 'UTC')) FROM tick_catalog.partitions($source\::regclass) WHERE NOT attic"),
  '1|1 day|t', 'aligned days');
is(sql("SELECT bool_and(relowner::regrole::text = 'feeder') FROM pg_class c JOIN tick_catalog.partitions($source\::regclass) p ON p.partition = c.oid"), 't',
  'they belong to the owner of the source');
is(sql("SELECT count(*) FROM pg_class WHERE relname = 'tr''ades_' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD') AND relnamespace = '\"mar.ket\"'::regnamespace"), '1', 'named by its day');
is(sql('SELECT count(*) FROM tick_catalog.unguarded'), '0', 'all of them are captured');
sql("INSERT INTO $table (symbol, \"t s\", price, qty, trade_id) SELECT symbol, now() - random() * interval '1 minute', price, qty, trade_id FROM random_trades(500, 0.2)");
is(sql("SELECT count(*) FROM ONLY \"mar.ket\".\"tr'ades_attic\""), '0', 'nothing of today is in the attic');
exact($node, 'partitions made ahead');

# Rows that wait in the attic move into the partition that is made for them, and the rollup does not notice.
sql("CREATE TABLE seen AS SELECT * FROM minutes");
my $future = sql("SELECT date_trunc('day', now(), 'UTC') + interval '4 days'");
sql("INSERT INTO $table (symbol, \"t s\", price, qty, trade_id) SELECT 'later', timestamptz '$future' + i * interval '1 minute', i, 1, i FROM generate_series(0, 99) i");
sql("INSERT INTO $table (symbol, \"t s\", price, qty, trade_id) VALUES ('much later', timestamptz '$future' + interval '30 days', 1, 1, 1)");
merged();
is(sql("SELECT count(*), count(twice) FROM ONLY \"mar.ket\".\"tr'ades_attic\""), '101|101', 'rows ahead of the partitions are in the attic');
my $turns = sql('SELECT sum(revision), max(updated_at) FROM minutes');
owner("SELECT tick.alter_source($source, partitions_ahead => 4)");
wait_for($node, "SELECT count(*) = 4 FROM tick_catalog.partitions($source\::regclass) WHERE lo > now()");
is(sql("SELECT count(*) FROM ONLY \"mar.ket\".\"tr'ades_attic\""), '1', 'moved out of the attic');
is(sql("SELECT count(*), sum(price), sum(twice) FROM $table WHERE symbol = 'later'"), '100|4950|9900', 'all of them');
merged();
is(sql('SELECT sum(revision), max(updated_at) FROM minutes'), $turns, 'no candle was touched');
is(sql('SELECT count(*) FROM tick_catalog.unguarded'), '0', 'the new partition is captured');
exact($node, 'after the move');
sql("DELETE FROM $table WHERE symbol = 'later' AND trade_id < 50");
exact($node, 'rows that were moved can be corrected');

# Retention: what lies below goes, candles stay, raw_from follows.
owner("SELECT tick.alter_source($source, retention => '8 days')");
wait_for($node, "SELECT min(lo) = ${\day(8)} FROM tick_catalog.partitions($source\::regclass)");
is(sql("SELECT raw_from = partitions_from FROM tick.sources WHERE source = $source\::regclass"), 't', 'raw_from has followed');
is(sql("SELECT count(*), sum(trades), sum(open), sum(volume) FROM minutes WHERE t < ${\day(10)}"), $candles, 'candles outlive their rows');
is(sql("SELECT count(*) FROM $table WHERE \"t s\" < ${\day(8)}"), '0', 'raw rows are gone');
merged();
is(sql("SELECT count(*) FROM tick.verify('minutes', ${\day(8)})"), '0', 'exact where raw rows are kept');

# A late row goes into the attic, is merged, and retention empties the attic without taking it out of its candle.
sql("INSERT INTO $table (symbol, \"t s\", price, qty, trade_id) VALUES ('late', '2024-03-01 12:00:30+00', 5, 1, 1), ('later', NULL, 1, 1, 1)");
merged();
wait_for($node, "SELECT count(*) = 0 FROM $table WHERE symbol = 'late'");
merged();
is(sql("SELECT open, trades FROM minutes WHERE symbol = 'late'"), '5|1', 'the attic was emptied, the candle stayed');
is(sql("SELECT count(*) FROM $table WHERE \"t s\" IS NULL"), '1', 'a row without time is left');

# Locked: writers are not held up, it is told, and done once the lock has gone.
my $reader = $node->background_psql('postgres');
$reader->query_safe("BEGIN; SELECT count(*) FROM $table");
owner("SELECT tick.alter_source($source, retention => '5 days')");
my $before = partitions();
sql("SET statement_timeout = '5s'; INSERT INTO $table (symbol, \"t s\", price, qty, trade_id) VALUES ('A', now(), 1, 1, $_)") for 1 .. 20;
is(partitions(), $before, 'nothing is dropped under a lock');
wait_for($node, "SELECT trouble ~ '^not dropped: locks are held by process \\d+' FROM tick.sources WHERE source = $source\::regclass");
pass('who is in the way is told');
$reader->query_safe('COMMIT');
$reader->quit;
wait_for($node, "SELECT min(lo) = ${\day(5)} FROM tick_catalog.partitions($source\::regclass)");
wait_for($node, "SELECT trouble IS NULL FROM tick.sources WHERE source = $source\::regclass");

# Something else that stands in the way: a view over the partition. Making partitions goes on.
my $oldest = sql("SELECT partition::regclass FROM tick_catalog.partitions($source\::regclass) ORDER BY lo NULLS LAST LIMIT 1");
sql("CREATE VIEW keeper AS SELECT * FROM $oldest");
owner("SELECT tick.alter_source($source, retention => '3 days', partitions_ahead => 5)");
wait_for($node, "SELECT trouble ~ '^not dropped: cannot drop table' FROM tick.sources WHERE source = $source\::regclass");
wait_for($node, "SELECT count(*) = 5 FROM tick_catalog.partitions($source\::regclass) WHERE lo > now()");
is(sql("SELECT count(*) FROM keeper WHERE false"), '0', 'the view is still there');
exact_where_kept();

sub exact_where_kept {
  merged();
  is(sql("SELECT count(*) FROM tick.verify('minutes', ${\day(3)})"), '0', 'exact');
  is(sql("SELECT count(*), sum(trades), sum(open), sum(volume) FROM minutes WHERE t < ${\day(10)} AND symbol <> 'late'"), $candles, 'and old candles as they were');
}

# A source without any rollup is looked after, too.
sql(q{CREATE TABLE lone (at timestamp NOT NULL, v int) PARTITION BY RANGE (at)});
sql(q{SELECT tick.add_source('lone', partition_size => '6 hours', partitions_ahead => 2)});
wait_for($node, q{SELECT count(*) FILTER (WHERE lo > now()) = 2 AND bool_or(attic) FROM tick_catalog.partitions('lone'::regclass)});
is(sql(q{SELECT count(*) FROM pg_class WHERE relname ~ '^lone_\d{8}_(00|06|12|18)00$'}), '3', 'named by day and hour');

# ---- windows of rollups: 36,000 of a second and some hundred of five minutes, of the last ten hours.
sql(q{CREATE TABLE ticks (symbol text, ts timestamptz, price float8, qty float8)});
my $query = sub { my ($window) = @_; return "SELECT symbol, $window AS t, max(price) AS high, sum(qty) AS volume, count(*) AS n FROM ticks GROUP BY 1, 2" };
sub create { my ($name, $window, $more) = @_; return sql("SELECT tick.create_rollup('$name', \$\$${\$query->($window)}\$\$$more)") }
refused(q{SELECT tick.create_rollup('r', 'SELECT symbol, count(*) AS n FROM ticks GROUP BY 1', retention => '1 day')}, qr/a rollup without window has no retention/, 'no window');
refused(q{SELECT tick.create_rollup('r', $$SELECT tick.tumble(ts, '1 s') AS t, count(*) AS n FROM ticks GROUP BY 1$$, retention => '-1 day')}, qr/retention must be positive/, 'negative');
my $start = sql(q{SELECT date_trunc('minute', now() - interval '10 hours')});
sql("INSERT INTO ticks SELECT (ARRAY['A', 'B'])[1 + i % 2], timestamptz '$start' + i * interval '1 s', i % 77, i % 5 FROM generate_series(0, extract(epoch FROM now() - '$start')::int) i");
sql(q{INSERT INTO ticks VALUES ('none', NULL, 1, 1)});
create('whole', "tick.tumble(ts, '5 min')", '');
create('kept', "tick.tumble(ts, '5 min')", ", retention => '2 hours'");
create('seconds', "tick.tumble(ts, '1 s')", ", retention => '1 hour'");
create('sliding', "tick.hop(ts, '1 hour', '10 min')", ", retention => '3 hours'");
refused(q{SELECT tick.alter_rollup('kept', retention => '0')}, qr/retention must be positive/, 'no retention at all');
refused(q{SELECT tick.alter_rollup('kept', retention => '1 day', reset => '{retention}')}, qr/given and reset at once/, 'both');
refused(q{SELECT tick.alter_rollup('kept', reset => '{keep}')}, qr/"keep" is no setting of a rollup/, 'unknown setting');
refused(q{SELECT tick.alter_rollup('ticks', retention => '1 day')}, qr/"ticks" is not a rollup/, 'not a rollup');
refused(q{SET ROLE feeder; SELECT tick.alter_rollup('kept', retention => '1 day')}, qr/must be owner of view kept/, 'not the owner');

# A window goes when all of it is older than the retention, to the window; every other is as its query says.
my %hours = (kept => 2, seconds => 1, sliding => 3);
my %size = (kept => '5 min', seconds => '1 s', sliding => '1 hour');
sub dropped_to {
  my ($rollup, $hours) = @_;
  wait_for($node, "SELECT kept_from + interval '$size{$rollup}' BETWEEN now() - interval '$hours hours 20 min' AND now() - interval '$hours hours' + interval '$size{$rollup}' FROM tick.rollups WHERE rollup = '$rollup'::regclass");
}
sub windows_right {
  my ($what) = @_;
  merged();
  for my $rollup (sort keys %hours) {
    is(sql("SELECT count(*) FROM $rollup WHERE t < (SELECT kept_from FROM tick.rollups WHERE rollup = '$rollup'::regclass)"), '0', "$rollup: nothing below kept_from, $what");
    is(sql("SELECT count(*) FROM tick.verify('$rollup')"), '0', "$rollup: exact, $what");
  }
  my $five = q{SELECT symbol, date_bin('5 min', ts, '2000-01-01 00:00+00') AS t, max(price) AS high, sum(qty) AS volume, count(*) AS n FROM ticks WHERE ts IS NOT NULL GROUP BY 1, 2};
  is(sql("WITH w AS ($five), k AS (SELECT kept_from FROM tick.rollups WHERE rollup = 'kept'::regclass),
    r AS (SELECT symbol, t, high, volume, n FROM kept), e AS (SELECT * FROM w WHERE t >= (SELECT kept_from FROM k))
    SELECT (SELECT count(*) FROM (TABLE r EXCEPT ALL TABLE e) x), (SELECT count(*) FROM (TABLE e EXCEPT ALL TABLE r) x), (SELECT count(*) > 20 FROM r)"), '0|0|t', "kept: as by date_bin, $what");
  is(sql("SELECT count(*) FROM tick.verify('whole')"), '0', "whole: exact, $what");
}
dropped_to($_, $hours{$_}) for sort keys %hours;
windows_right('after creation');
is(sql(q{SELECT count(*) FROM whole WHERE t < now() - interval '9 hours'}) > 10, 1, 'another rollup keeps its windows');
is(sql(q{SELECT bool_and(rows = 1) AND count(*) = 4 FROM tick.late WHERE reason = 'no_time' AND rollup IN ('whole'::regclass, 'kept'::regclass, 'seconds'::regclass, 'sliding'::regclass)}), 't', 'rows without time are listed');
like(sql(q{SELECT string_agg(e, ' ') FROM tick.explain('kept') e}), qr/windows are kept 02:00:00; there are none before/, 'told by explain');

# What comes late for a window that was dropped does not bring it back, merged or not yet; nor does a correction.
is(sql(qq{BEGIN; INSERT INTO ticks VALUES ('late', '$start', 1, 1); SELECT count(*) FROM tick.verify('kept'); SELECT count(*) FROM tick.verify('whole'); COMMIT}), "0\n0", 'not merged yet');
sql(qq{UPDATE ticks SET price = 1000 WHERE ts < timestamptz '$start' + interval '1 hour' AND symbol = 'A'; DELETE FROM ticks WHERE ts < timestamptz '$start' + interval '2 hours' AND symbol = 'B'});
windows_right('after late rows and corrections');
is(sql(q{SELECT count(*) FROM whole WHERE symbol = 'late'}), '1', 'the other rollup has it');

# Nor does any recompute: asked for, of what was truncated (in a turn, and by the helper), after it was set aside.
my ($code, $out, $err) = $node->psql('postgres', "SELECT tick.refresh('kept', '$start', now())");
like($err, qr/NOTICE:  windows of "kept" before .* are not made again: its retention has dropped them/, 'refresh says so');
sql("SELECT tick.refresh(r) FROM unnest(ARRAY['kept', 'seconds', 'sliding']::regclass[]) r");
windows_right('after refresh');
sql('TRUNCATE kept_state, sliding_state');
windows_right('rebuilt in a turn');
$node->safe_psql('postgres', q{ALTER SYSTEM SET tick.scan_size = 0});
$node->reload;
sql('TRUNCATE kept_state, seconds_state, sliding_state');
windows_right('rebuilt by the helper');
is(sql(q{SELECT bool_and(rows = 1) AND count(*) = 4 FROM tick.late WHERE reason = 'no_time' AND rollup IN ('whole'::regclass, 'kept'::regclass, 'seconds'::regclass, 'sliding'::regclass)}), 't', 'rows without time are still listed');

# A longer retention, or none, does not bring back what was dropped; a shorter one drops more; reset begins anew.
my $from = sql(q{SELECT kept_from FROM tick.rollups WHERE rollup = 'kept'::regclass});
sql(q{SELECT tick.alter_rollup('kept', reset => '{retention}'); SELECT tick.alter_rollup('sliding', retention => '1 year')});
sql('TRUNCATE kept_state, sliding_state');
windows_right('kept for ever');
is(sql(q{SELECT kept_from, retention FROM tick.rollups WHERE rollup = 'kept'::regclass}), "$from|", 'nothing dropped, nothing back');
sql(q{SELECT tick.alter_rollup('kept', retention => '1 hour')});
dropped_to('kept', 1);
windows_right('with a shorter retention');
sql(q{SELECT tick.alter_source('ticks', watermark_delay => '1 day'); SELECT tick.set_watermark('ticks', now() - interval '1 day')});
merged();
$from = sql(q{SELECT kept_from FROM tick.rollups WHERE rollup = 'sliding'::regclass});
sql(q{SELECT tick.alter_rollup('sliding', retention => '1 minute')});
wait_for($node, qq{SELECT turns > $_ FROM tick_catalog.worker_counters()}) for sql('SELECT turns + 3 FROM tick_catalog.worker_counters()');
is(sql(q{SELECT kept_from FROM tick.rollups WHERE rollup = 'sliding'::regclass}), $from, 'nothing goes that the watermark has not passed');
sql(q{SELECT tick.reset('ticks')});
is(sql(q{SELECT count(*) FROM tick.rollups WHERE source = 'ticks'::regclass AND kept_from IS NOT NULL}), '0', 'reset begins anew');
sql(qq{INSERT INTO ticks VALUES ('anew', '$start', 1, 1)});
merged();
is(sql(q{SELECT count(*) FROM kept WHERE symbol = 'anew'}), '1', 'and so do the windows');
$node->stop;
done_testing();
