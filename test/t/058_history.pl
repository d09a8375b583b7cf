# tick.as_of: what was final at a time. Snapshots of the views, taken under a feed with late rows, corrections and
# kill -9 of the worker, are what as_of gives later; then what a history survives, and what it costs nobody.
#
#   TICK_HISTORY_MOMENTS  how many snapshots (default 20)
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $moments = $ENV{TICK_HISTORY_MOMENTS} // 20;
my $seed = $ENV{TICK_SEED} // int(rand(1e6));
srand $seed;
diag("seed $seed, $moments moments");

my $node = make_node('history');
sub sql { return $node->safe_psql('postgres', $_[0]); }
sub refused { my ($query, $why, $what) = @_; my ($rc, $out, $err) = $node->psql('postgres', $query); like($err, $why, $what); }

# ---- under a feed

make_trades($node, 1);
sql(q{SELECT tick.add_source('trades', watermark_delay => '5 s', idle_timeout => '1 hour');
  SELECT tick.create_rollup('candles_1m', candle_query('1 minute'), history => '1 day');
  SELECT tick.create_rollup('slow', 'SELECT upper(symbol) AS s, tick.tumble(ts AT TIME ZONE ''UTC'', ''10 s'') AS t, max(price) AS high, sum(qty) / count(*) AS mean FROM trades GROUP BY 1, 2', history => '1 day');
  SELECT tick.create_rollup('slides', 'SELECT tick.hop(ts, ''2 min'', ''30 s'') AS t, tick.last(price, ts, trade_id) AS price FROM trades GROUP BY 1', history => '1 day');
  ALTER TABLE slow_state ADD CHECK (t IS NOT NULL);
  ALTER VIEW slow RENAME COLUMN high TO "Top";
  CREATE TABLE snapshot (moment int, rollup text, r text);
  CREATE TABLE moment (id int, at timestamptz);
  CREATE PROCEDURE feed(turns int, seed float8) LANGUAGE plpgsql AS $$
  DECLARE
    base timestamptz := (SELECT coalesce(max(ts), '2024-03-01 10:00+00') FROM trades);
    next int8 := (SELECT coalesce(max(trade_id), 0) FROM trades);
  BEGIN
    PERFORM setseed(seed);
    FOR i IN 1 .. turns LOOP
      base := base + random() * interval '4 s';
      INSERT INTO trades SELECT (ARRAY['a', 'b', NULL])[ceil(random() * 3)], base - CASE WHEN random() < 0.3 THEN random() * random() * interval '10 min' ELSE '0' END,
        (random() * 400)::int / 8.0, (random() * 30)::int / 4.0, next + g FROM generate_series(1, 4) g;
      IF random() < 0.3 THEN UPDATE trades SET price = price + 1 WHERE trade_id = next - (random() * 300)::int; END IF;
      IF random() < 0.3 THEN DELETE FROM trades WHERE trade_id = next - (random() * 300)::int; END IF;
      -- Now and then all rows of a window go.
      IF random() < 0.02 THEN DELETE FROM trades WHERE ts >= date_trunc('minute', base - interval '3 min') AND ts < date_trunc('minute', base - interval '2 min'); END IF;
      next := next + 4;
      COMMIT;
    END LOOP;
  END $$;
  CREATE VIEW turn AS SELECT max(turn) AS at FROM (SELECT turn FROM tick_catalog.change_0 UNION ALL SELECT turn FROM tick_catalog.change_1) c;
});
my @rollups = qw(candles_1m slow slides);
my $feed;
my $feeds = 0;
sub feed_on { ++$feeds; $feed = launch("feed_$feeds", 'psql', '-Xq', '-h', $node->host, '-p', $node->port, '-c', sprintf('CALL feed(100000, %f)', rand), 'postgres') }
feed_on();
wait_for($node, "SELECT count(*) > 0 FROM $_ WHERE final AND revision > 0") for @rollups;
for my $moment (1 .. $moments) {
  # In one snapshot: the views, and the turn that they show.
  sql('BEGIN ISOLATION LEVEL REPEATABLE READ; '
      . "INSERT INTO moment SELECT $moment, at FROM turn; "
      . join(' ', map { "INSERT INTO snapshot SELECT $moment, '$_', (v.*)::text FROM $_ v WHERE final;" } @rollups) . ' COMMIT');
  if ($moment == int($moments / 3) || $moment == int(2 * $moments / 3)) {
    # As if the machine had lost its memory: all start again, and what was not flushed is done again.
    crash_worker($node);
    finish($feed, 'TERM');
    feed_on();
  }
  my $turns = sql('SELECT at FROM turn');
  wait_for($node, "SELECT at > timestamptz '$turns' + interval '200 ms' FROM turn");
}
finish($feed, 'TERM');
sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CALL feed%' AND pid <> pg_backend_pid()});
wait_for($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE query LIKE 'CALL feed%' AND pid <> pg_backend_pid()});
for my $rollup (@rollups) {
  is(sql(qq{WITH was AS (SELECT moment, r FROM snapshot WHERE rollup = '$rollup'),
      given AS (SELECT m.id, (a.*)::text FROM moment m, tick.as_of(null::$rollup, m.at) a)
    SELECT count(*) FROM ((TABLE was EXCEPT ALL TABLE given) UNION ALL (TABLE given EXCEPT ALL TABLE was)) d}), '0', "$rollup: as it was at $moments moments");
  my ($versions, $revised) = split /\|/, sql(qq{SELECT (SELECT count(*) FROM tick_catalog.history_} . sql("SELECT id FROM tick_catalog.rollup WHERE view = '$rollup'::regclass")
    . qq{), (SELECT count(*) FROM snapshot WHERE rollup = '$rollup') - (SELECT count(DISTINCT r) FROM snapshot WHERE rollup = '$rollup')});
  cmp_ok($versions, '>', 20, "$rollup: $versions versions were kept, and $revised rows of snapshots were as in others");
}
is(sql(q{SELECT tick.wait(NULL)}), 't', 'merged');
is(sql(qq{SELECT count(*) FROM ((SELECT (v.*)::text FROM $_ v WHERE final EXCEPT ALL SELECT (a.*)::text FROM tick.as_of(null::$_, now()) a)
  UNION ALL (SELECT (a.*)::text FROM tick.as_of(null::$_, now()) a EXCEPT ALL SELECT (v.*)::text FROM $_ v WHERE final)) d}), '0', "$_: as of now is what there is") for @rollups;
is(sql(q{SELECT count(*) > 0 AND bool_and(ts >= '2024-03-01 10:02+00' AND ts < '2024-03-01 10:04+00') FROM tick.as_of(null::candles_1m, now(), '2024-03-01 10:02+00', '2024-03-01 10:04+00')}), 't', 'bounds on windows');
is(sql(q{SELECT count(*) > 0 AND bool_and(t >= '2024-03-01 10:02' AND t < '2024-03-01 10:04') FROM tick.as_of(null::slow, now(), '2024-03-01 10:02+00', '2024-03-01 10:04+00')}), 't', 'also of timestamps without a zone');

# ---- what stays of it

my $at = sql(q{SELECT at FROM moment WHERE id = 2});
my $was = qq{SELECT count(*) FROM snapshot s FULL JOIN tick.as_of(null::slides, '$at') a ON s.r = (a.*)::text AND s.moment = 2 AND s.rollup = 'slides' WHERE (s.moment = 2 AND s.rollup = 'slides' OR s.moment IS NULL) AND (s.r IS NULL OR a.t IS NULL)};
is(sql($was), '0', 'a moment to come back to');
sql(q{ALTER VIEW slides RENAME TO slipped; ALTER VIEW slipped RENAME TO slides; CREATE SCHEMA zoo; ALTER VIEW slides SET SCHEMA zoo; ALTER VIEW zoo.slides SET SCHEMA public});
is(sql($was), '0', 'names');
my $dump = $node->basedir . '/dump.sql';
$node->command_ok(['pg_dump', '-h', $node->host, '-p', $node->port, '-f', $dump, 'postgres'], 'a dump');
sql('CREATE DATABASE again');
$node->command_ok(['psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-h', $node->host, '-p', $node->port, '-d', 'again', '-f', $dump], 'is restored');
is($node->safe_psql('again', $was), '0', 'with its history');
$node->safe_psql('again', q{INSERT INTO trades SELECT symbol, ts, 1000, 1, trade_id + 1000000 FROM trades WHERE ts < '2024-03-01 10:02+00' LIMIT 3; SELECT tick.wait(NULL)});
is($node->safe_psql('again', $was), '0', 'and keeps more of it');
$node->safe_psql('again', q{SELECT tick.drop_rollup(rollup) FROM tick.status});
is($node->safe_psql('again', q{SELECT count(*) FROM pg_class WHERE relnamespace = 'tick_catalog'::regnamespace AND relname ~ '^(history|versions)_\d'}), '0', 'it goes with its rollup');
sql('DROP DATABASE again');

my $rows = sql(q{SELECT count(*), sum(high) FROM tick.as_of(null::candles_1m, now())});
sql(q{SELECT tick.alter_rollup('candles_1m', add => 'min(qty) AS least'); SELECT tick.wait(NULL)});
is(sql(q{SELECT count(*), sum(high) FROM tick.as_of(null::candles_1m, now())}), $rows, 'a column is added');
sql(q{UPDATE trades SET qty = 0.125 WHERE trade_id IN (SELECT trade_id FROM trades WHERE ts < '2024-03-01 10:04+00' LIMIT 5)});
my $before = sql(q{SELECT clock_timestamp()});
exact($node, 'corrected');

# A turn that had to wait for the mutex has shown nothing before it had it, and a seed nothing before it was given.
sql(q{SELECT tick.create_rollup('named', 'SELECT symbol, tick.tumble(ts, ''1 minute'') AS t, max(ts) AS replaced_at, count(*) AS q, sum(qty) AS v FROM trades GROUP BY 1, 2', history => '1 day'); SELECT tick.wait(NULL)});
my $holder = $node->background_psql('postgres');
sub as_shown {
  my ($what, $in_between, $end) = @_;
  $in_between->();
  my ($then, $shown) = split /\|/, sql(q{SELECT clock_timestamp(), md5(string_agg(v::text, ' ' ORDER BY v)) FROM named v WHERE final});
  $end->();
  sql('SELECT tick.wait(NULL)');
  is(sql(qq{SELECT md5(string_agg(v::text, ' ' ORDER BY v)) FROM tick.as_of(null::named, '$then') v}), $shown, "$what: what was shown");
  isnt(sql(q{SELECT md5(string_agg(v::text, ' ' ORDER BY v)) FROM tick.as_of(null::named, clock_timestamp()) v}), $shown, "$what: which is not what is");
}
as_shown('a late row behind a lock', sub {
  $holder->query_safe(q{BEGIN; SELECT tick.alter_rollup('named', history => '2 days')});
  sql(q{INSERT INTO trades VALUES ('a', '2024-03-01 10:01+00', 1, 1, 1)});
  wait_for($node, q{SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND locktype = 'object' AND pid = (SELECT pid FROM tick.worker)});
}, sub { $holder->query_safe('COMMIT') });
as_shown('a seed', sub { $holder->query_safe('BEGIN; SELECT now()') }, sub {
  $holder->query_safe(q{SELECT tick.seed('named', $$SELECT 'seed' AS symbol, timestamptz '2024-02-01+00' AS t, timestamptz '2024-02-01+00' AS replaced_at, 2 AS q, 3.5 AS v$$); COMMIT});
});
is(sql(q{SELECT q, v FROM named WHERE symbol = 'seed'}), '2|3.5', 'whatever its columns are called');

# ---- who may read

sql(q{CREATE ROLE reader LOGIN; CREATE ROLE stranger LOGIN; GRANT SELECT ON slides TO reader});
is(sql(qq{SET ROLE reader; SELECT count(*) > 0 FROM tick.as_of(null::slides, '$at')}), 't', 'who may read the rollup');
refused(qq{SET ROLE stranger; SELECT * FROM tick.as_of(null::slides, '$at')}, qr/permission denied for view slides/, 'and nobody else');
my $versions = sql(q{SELECT versions FROM tick_catalog.history WHERE rollup = (SELECT id FROM tick_catalog.rollup WHERE view = 'slides'::regclass)});
is(sql(qq{SET ROLE stranger; SELECT count(*) FROM $versions}), '0', 'not even past the function');
refused(qq{SET ROLE stranger; SELECT tick.alter_rollup('slides', reset => '{history}')}, qr/must be owner of view slides/, 'or changes it');

# ---- its bounds

refused(q{SELECT * FROM tick.as_of(null::slides, '2024-03-01')}, qr/the history of "public\.slides" reaches back to \d{4}-/, 'before it began');
refused(q{SELECT * FROM tick.as_of(null::slides, NULL)}, qr/tick\.as_of needs a time/, 'no time');
refused(q{SELECT * FROM tick.as_of(null::trades, now())}, qr/trades is not the row type of a rollup/, 'no rollup');
sql(q{SELECT tick.create_rollup('plain', 'SELECT tick.tumble(ts, ''1 hour'') AS t, count(*) AS n FROM trades GROUP BY 1')});
refused(q{SELECT * FROM tick.as_of(null::plain, now())}, qr/rollup "public\.plain" keeps no history\nHINT:.*history => '30 days'/, 'no history');
refused(q{SELECT tick.create_rollup('latest', 'SELECT symbol, count(*) AS n FROM trades GROUP BY 1', history => '1 day')}, qr/"latest" can have no history: it has no windows/, 'no windows');
refused(q{SELECT tick.create_rollup('medians', 'SELECT tick.tumble(ts, ''1 hour'') AS t, percentile_cont(0.5) WITHIN GROUP (ORDER BY price) AS m FROM trades GROUP BY 1', history => '1 day')}, qr/"medians" can have no history: it is recomputed/, 'recomputed');
refused(q{SELECT tick.alter_rollup('plain', history => '-1 day')}, qr/history must be positive/, 'negative');
refused(q{SELECT tick.alter_rollup('plain', history => '1 day', reset => '{history}')}, qr/history cannot be given and reset at once/, 'given and reset');
my $now = sql(q{SELECT clock_timestamp()});
sql(q{SELECT tick.set_watermark('trades', '2024-03-01 10:05+00')});
wait_for($node, q{SELECT tick.watermark('trades') = '2024-03-01 10:05+00'});
refused(qq{SELECT * FROM tick.as_of(null::slides, '$now')}, qr/the history of "public\.slides" reaches back to/, 'windows were opened again');
is(sql(q{SELECT count(*) FROM ((SELECT * FROM slides WHERE final) EXCEPT ALL SELECT * FROM tick.as_of(null::slides, clock_timestamp())) d}), '0', 'from then on it goes on');
sql(q{TRUNCATE slow_state; SELECT tick.wait(NULL)});
refused(qq{SELECT * FROM tick.as_of(null::slow, '$now')}, qr/the history of "public\.slow" reaches back to/, 'a state table was emptied');
sql(q{CREATE FUNCTION refusal(q text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN EXECUTE q; RETURN ''; EXCEPTION WHEN object_not_in_prerequisite_state THEN RETURN SQLERRM; END $$});
$holder->query_safe('BEGIN; SELECT now()');
$now = sql(q{SELECT clock_timestamp()});
wait_for($node, "SELECT clock_timestamp() > timestamptz '$now' + interval '1.5 s'");  # so that it is older than what is to be kept
sql(q{SELECT tick.alter_rollup('candles_1m', history => '1 second')});
wait_for($node, q{SELECT count(*) = 0 FROM tick_catalog.history_} . sql(q{SELECT id FROM tick_catalog.rollup WHERE view = 'candles_1m'::regclass}));
like($holder->query_safe("SELECT refusal('SELECT tick.as_of(null::candles_1m, ''$now'')')"), qr/reaches back to/, 'also for a transaction that began before');
$holder->quit;
is(sql(q{SELECT count(*) FROM tick_catalog.finality WHERE rollup = (SELECT id FROM tick_catalog.rollup WHERE view = 'candles_1m'::regclass)}) <= 2, 1, 'what is older goes');
sql(q{SELECT tick.alter_rollup('candles_1m', reset => '{history}')});
refused(q{SELECT * FROM tick.as_of(null::candles_1m, now())}, qr/keeps no history/, 'and all of it');
is(sql(q{SELECT count(*) FROM pg_trigger WHERE tgrelid = 'candles_1m_state'::regclass AND tgname = 'tick_keep'}), '0', 'and leaves nothing');
sql('DROP VIEW slides');
is(sql(q{SELECT count(*) FROM pg_class WHERE relnamespace = 'tick_catalog'::regnamespace AND relkind IN ('r', 'v') AND relname ~ '^(history|versions)_\d' AND NOT EXISTS (SELECT FROM tick_catalog.rollup AS r WHERE relname ~ ('_' || r.id || '$'))}), '0', 'DROP VIEW takes it along');
exact($node, 'at the end');
$node->stop;
done_testing();
