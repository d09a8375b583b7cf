# Rollups over rollups: in the turn that changes a rollup the rollups over its view change, too, whatever changes it and
# whatever goes wrong. The oracle is the built-ins' query over the raw rows, and over the parent's rows in the same snapshot.
#
#   TICK_SEED  repeats a run
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{TICK_SEED} || int(rand(1_000_000));
diag("seed $seed");
my $node = make_node('children', conf => "log_statement = none\n");
my $sql = sub { return $node->safe_psql('postgres', $_[0]) };
sub refused {
  my ($query, $pattern, $what) = @_;
  my ($code, $out, $err) = $node->psql('postgres', $query);
  like($err, $pattern, $what);
}
make_trades($node);
$sql->(q{
  INSERT INTO trades SELECT * FROM random_trades(1500, 0.1, '2024-03-01 12:00+00', 300);
  INSERT INTO trades VALUES (NULL, '2024-03-01 12:00+00', 1, 1, -1), (NULL, '2024-03-01 12:31+00', NULL, NULL, NULL);
  SELECT tick.create_rollup('candles_1m', candle_query('1 minute'));
  CREATE FUNCTION child_query(parent text, size text) RETURNS text LANGUAGE sql AS $$
    SELECT format($q$SELECT symbol, tick.tumble(ts, %L) AS ts, tick.first(open, ts) AS open, max(high) AS high, min(low) AS low,
      tick.last(close, ts) AS close, sum(volume) AS volume, sum(trades)::int8 AS trades, sum(vwap * volume) / nullif(sum(volume), 0) AS vwap
      FROM %s GROUP BY 1, 2$q$, size, parent) $$;
  SELECT tick.create_rollup('candles_15m', child_query('candles_1m', '15 minutes'));
  SELECT tick.create_rollup('candles_60m', child_query('candles_15m', '1 hour'));
  SELECT tick.create_rollup('market', 'SELECT tick.hop(ts, ''20 minutes'', ''5 minutes'') AS ts, sum(volume) AS volume, count(*) AS candles FROM candles_1m GROUP BY 1');
  SELECT tick.create_rollup('sides', 'SELECT close > open AS up, symbol AS s, tick.tumble(ts, ''1 day'', ''America/New_York'') AS day, count(*) AS n,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY high - low) AS width FROM candles_1m WHERE trades > 1 GROUP BY 2, 1, 3')});

# By PostgreSQL alone, from the parent's rows and in one snapshot.
my %expected = (
  market => q{SELECT t + o * interval '5 min' AS ts, sum(volume)::numeric(30,9) AS volume, count(*) AS candles FROM (SELECT *, date_bin('5 min', ts, '2000-01-01 00:00+00') AS t FROM candles_1m) c,
    generate_series(-3, 0) AS o GROUP BY 1},
  sides => q{SELECT close > open AS up, symbol AS s, date_trunc('day', ts, 'America/New_York') AS day, count(*) AS n, percentile_cont(0.5) WITHIN GROUP (ORDER BY high - low) AS width
    FROM candles_1m WHERE trades > 1 GROUP BY 1, 2, 3},
  candles_15m => q{SELECT symbol, date_bin('15 min', ts, '2000-01-01 00:00+00') AS ts, (array_agg(open ORDER BY ts) FILTER (WHERE open IS NOT NULL))[1] AS open, max(high) AS high,
    (array_agg(close ORDER BY ts DESC) FILTER (WHERE close IS NOT NULL))[1] AS close, sum(trades)::int8 AS trades FROM candles_1m GROUP BY 1, 2},
  candles_60m => q{SELECT symbol, date_bin('1 hour', ts, '2000-01-01 00:00+00') AS ts, min(low) AS low, sum(trades)::int8 AS trades FROM candles_15m GROUP BY 1, 2},
);
my %shown = (market => 'ts, volume::numeric(30,9), candles', sides => 'up, s, day, n, width', candles_15m => 'symbol, ts, open, high, close, trades', candles_60m => 'symbol, ts, low, trades');
sub difference {
  my ($name) = @_;
  return "(WITH e AS ($expected{$name}) SELECT count(*) FROM ((TABLE e EXCEPT ALL SELECT $shown{$name} FROM $name) UNION ALL (SELECT $shown{$name} FROM $name EXCEPT ALL TABLE e)) AS d)";
}
sub oracle {
  my ($what, $database) = @_;
  is($node->safe_psql($database // 'postgres', 'SELECT ' . join ', ', map { difference($_) } sort keys %expected), '0|0|0|0', "$what: " . join ' ', sort keys %expected);
}
sub same {
  my ($what) = @_;
  exact($node, $what);
  oracle($what);
}
# Without an oracle over the raw rows.
sub verified {
  my ($what, $database) = @_;
  is($node->safe_psql($database // 'postgres', q{SELECT tick.wait(NULL, '60 s'); SELECT s.rollup, v.* FROM tick.status s, tick.verify(s.rollup) v LIMIT 5}), 't', "$what: exact");
}
same('history');
is($sql->(q{SELECT string_agg(rollup || ' ' || source || ' ' || strategy, ', ' ORDER BY rollup::text) FROM tick.status}),
  'candles_15m candles_1m follow, candles_1m trades merge, candles_60m candles_15m follow, market candles_1m follow, sides candles_1m follow', 'who follows whom');
like($sql->(q{SELECT string_agg(e, E'\n') FROM tick.explain('candles_60m') e}), qr/^source \S*trades: .*group 1: .*rollup \S*candles_1m: .*rollup \S*candles_15m: window of 00:15:00 over the rows of \S*candles_1m, strategy follow, live\n\s+rollup \S*candles_60m: /s, 'explained');
is($sql->('SELECT bool_and(revision = 0 AND NOT final) FROM candles_15m WHERE ts > (SELECT max(ts) - interval \'15 min\' FROM candles_15m)'), 't', 'history is no revision');
is($sql->(q{SELECT count(*) FROM candles_15m c WHERE final <> (window_end <= tick.watermark('trades'))}), '0', 'final by the watermark of the source');
is($sql->(q{SELECT to_regclass('candles_15m_live') IS NULL}), 't', 'no _live');

# ---- corrections, late rows, rows that leave
my $token = $sql->('SELECT max(token) FROM tick.changes(null::candles_60m)');
my $untouched = $sql->(q{SELECT updated_at FROM candles_60m WHERE symbol = 'S1' AND ts = '2024-03-01 16:00+00'});
$sql->(q{UPDATE trades SET price = price * 1.01 WHERE symbol = 'S1' AND ts < '2024-03-01 13:00+00' AND trade_id % 3 = 0;
  UPDATE trades SET symbol = 'MOVED' WHERE symbol = 'S3' AND trade_id % 5 = 0;
  DELETE FROM trades WHERE symbol = 'S4' OR (symbol = 'S5' AND ts >= '2024-03-01 12:20+00' AND ts < '2024-03-01 14:10+00');
  UPDATE trades SET qty = 7 WHERE symbol IS NULL; DELETE FROM trades WHERE symbol IS NULL AND qty IS NULL;
  INSERT INTO trades VALUES ('LATE', '2024-03-01 12:00:30+00', 5, 5, 5), ('S1', '2024-02-20 07:00+00', 1, 1, 6)});
same('corrections');
is($sql->(q{SELECT count(*) FROM candles_15m WHERE symbol = 'S4'}), '0', 'rows go with the last of the parent\'s');
is($sql->(q{SELECT updated_at FROM candles_60m WHERE symbol = 'S1' AND ts = '2024-03-01 16:00+00'}), $untouched, 'what has not changed is not touched');
is($sql->(q{SELECT bool_and(revision > 0) FROM candles_60m WHERE symbol = 'S1' AND ts = '2024-03-01 12:00+00'}), 't', 'a final row has a new revision');
is($sql->(qq{SELECT string_agg(change || ' ' || (candle).ts::time, ', ' ORDER BY (candle).ts) FROM tick.changes(null::candles_60m, $token) WHERE (candle).symbol = 'S4'}),
  'delete 12:00:00, delete 13:00:00, delete 14:00:00, delete 15:00:00, delete 16:00:00', 'the change feed tells of rows that have gone');
is($sql->(qq{SELECT (candle).open FROM tick.changes(null::candles_60m, $token) WHERE (candle).symbol = 'LATE'}), '5', 'and of those that have come');

# ---- in every snapshot the child is what the parent says, while a feed runs and others look
my $stop = $node->basedir . '/stop';
my $feed = launch('feed', 'bash', '-c', qq{n=0; while [ ! -e '$stop' -a \$n -lt 300 ]; do n=\$((n + 1)); echo "INSERT INTO trades SELECT * FROM random_trades(20, 0.5, '2024-03-01 17:00+00'::timestamptz + \$n * interval '7 s', 3);
  UPDATE trades SET price = price + 1 WHERE trade_id % 97 = \$n % 97 AND ts > '2024-03-01 16:30+00';
  DELETE FROM trades WHERE trade_id % 89 = \$n % 89 AND ts > '2024-03-01 16:30+00';"; done | psql -qX -v ON_ERROR_STOP=1 -d "} . $node->connstr('postgres') . '"');
my ($moments, $bad) = (0, '');
my %at;
until_true(60, 'moments', sub {
  for my $name ('candles_15m', 'candles_60m', 'market') {
    my ($settled, $wrong) = split /\|/, $sql->("WITH r AS (SELECT id FROM tick_catalog.rollup WHERE view = '$name'::regclass)
      SELECT (SELECT count(*) = 0 FROM tick_catalog.pending p JOIN r ON r.id = p.rollup), " . difference($name));
    next if $settled ne 't';
    $at{$name}++;
    $bad .= "$name $wrong " if $wrong;
  }
  my $found = $sql->(q{SELECT count(*) FROM tick.verify('sides')});
  $bad .= "verify $found " if $found;
  return ++$moments >= 3 && ($at{candles_15m} // 0) >= 2;
});
$sql->(q{UPDATE trades SET qty = qty + 1 WHERE ts < '2024-03-01 12:10+00'});
append_to_file($stop, '');
finish($feed, 'CONT', 60);
is($bad, '', 'in every snapshot: ' . join ', ', map { "$_ $at{$_}" } sort keys %at);
same('after the feed');

# ---- one that takes long does not hold up the others, and what it shows as final is complete
$sql->(q{CREATE TABLE steps (LIKE trades); CREATE FUNCTION slow(float8) RETURNS float8 LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM pg_sleep(0.002); RETURN $1; END $$;
  SELECT tick.create_rollup('steps_1m', candle_query('1 minute', 'steps')); SELECT tick.create_rollup('steps_5m', 'SELECT symbol, tick.tumble(ts, ''5 minutes'') AS ts, sum(trades) AS n, max(slow(high)) AS high FROM steps_1m GROUP BY 1, 2')});
my $steps = launch('steps', 'psql', '-qX', '-d', $node->connstr('postgres'), '-c', q{DO $$ BEGIN FOR i IN 1 .. 250 LOOP
    INSERT INTO steps SELECT 'S' || s, '2024-03-01 12:00+00'::timestamptz + i * interval '7 s', i, 1, i FROM generate_series(1, 6) s; COMMIT; END LOOP; END $$});
my ($read, $revised, %final) = (0, '');
my $cursor = 'NULL';
until_true(60, 'all is read', sub {
  my $over = waitpid($steps->{pid}, POSIX::WNOHANG()) != 0 || kill(0, $steps->{pid}) == 0;
  $over &&= $sql->(q{SELECT tick.wait('steps_5m', '1 ms')}) eq 't';
  for (split /\n/, $sql->("SELECT token, (candle).final, concat_ws(' ', (candle).symbol, (candle).ts::time), concat_ws(' ', (candle).n, (candle).high) FROM tick.changes(null::steps_5m, $cursor) ORDER BY 1")) {
    my ($token, $is_final, $key, $value) = split /\|/;
    $cursor = $token;
    next if $is_final ne 't';
    $revised .= "$key: $final{$key} then $value; " if ($final{$key} // $value) ne $value;
    $final{$key} = $value;
  }
  return $over && ++$read >= 2;
});
is($revised, '', 'final values do not change');
is($sql->('SELECT count(*) FROM steps_5m WHERE revision > 0'), '0', 'none was final before');
is(join(', ', map { "$_ $final{$_}" } sort keys %final), $sql->(q{SELECT string_agg(concat_ws(' ', symbol, ts::time, n, high), ', ' ORDER BY symbol COLLATE "C", ts) FROM steps_5m WHERE final}), 'and the change feed tells of each');
cmp_ok(scalar keys %final, '>=', 30, 'of five windows');
verified('slow');
$sql->('DROP TABLE steps CASCADE');

# ---- an error sets the child aside alone
$sql->(q{SELECT tick.create_rollup('ratios', 'SELECT tick.tumble(ts, ''1 hour'') AS ts, symbol, sum(1 / (low - 0.5)) AS r FROM candles_1m GROUP BY 1, 2')});
$sql->(q{SELECT tick.create_rollup('ratios_day', 'SELECT tick.tumble(ts, ''1 day'') AS ts, max(r) AS r FROM ratios GROUP BY 1')});
exact($node, 'another child');
$sql->(q{INSERT INTO trades VALUES ('ZERO', '2024-03-01 12:00+00', 0.5, 1, 1)});
wait_for($node, q{SELECT state = 'error' AND last_error = 'division by zero' FROM tick.status WHERE rollup = 'ratios'::regclass});
$sql->(q{SELECT tick.wait('candles_60m')});
is($sql->(q{SELECT string_agg(rollup::text, ' ') FROM tick.status WHERE state = 'error'}), 'ratios', 'an error sets the child aside alone');
is($sql->(q{SELECT trades FROM candles_60m WHERE symbol = 'ZERO'}), '1', 'the others go on');
refused(q{SELECT tick.wait('ratios_day')}, qr/rollup "ratios" is set aside: division by zero/, 'who waits for a grandchild is told');
$sql->(q{DELETE FROM trades WHERE symbol = 'ZERO'; UPDATE trades SET price = 50 WHERE symbol = 'S6' AND ts < '2024-03-01 13:00+00'; SELECT tick.wait('candles_1m'); SELECT tick.resume('ratios')});
same('resumed');

# ---- the parent is computed again
$sql->(q{TRUNCATE candles_1m_state});
same('TRUNCATE of the parent\'s state');
$sql->(q{TRUNCATE candles_15m_state, candles_60m_state});
same('TRUNCATE of a child\'s state');

# ---- kill -9, of the worker and of the server, while both are written
sub churn {
  my ($n) = @_;
  return qq{INSERT INTO trades SELECT * FROM random_trades(300, 0.6, '2024-03-01 12:00+00'::timestamptz + $n * interval '20 min', 60);
    UPDATE trades SET price = price + 1 WHERE trade_id % 7 = $n; DELETE FROM trades WHERE trade_id % 11 = $n};
}
for my $n (1 .. 3) {
  $sql->(churn($n));
  $n == 2 ? crash($node) : crash_worker($node);
}
same('killed');

# ---- names, places, owners, rights
$sql->(q{CREATE SCHEMA apart; CREATE ROLE bob LOGIN; CREATE ROLE carol LOGIN; GRANT CREATE, USAGE ON SCHEMA apart, public TO bob, carol;
  ALTER VIEW candles_1m RENAME TO minutes; ALTER VIEW minutes SET SCHEMA apart; ALTER VIEW apart.minutes RENAME COLUMN volume TO size;
  ALTER VIEW candles_15m SET SCHEMA apart; ALTER VIEW apart.candles_15m RENAME COLUMN vwap TO mean;
  ALTER TABLE trades RENAME TO ticks; ALTER TABLE ticks RENAME COLUMN qty TO amount;
  INSERT INTO ticks SELECT * FROM random_trades(300, 0.7)});
verified('renamed');
$sql->(q{ALTER TABLE ticks RENAME COLUMN amount TO qty; ALTER TABLE ticks RENAME TO trades; ALTER VIEW apart.minutes RENAME COLUMN size TO volume; ALTER VIEW apart.minutes SET SCHEMA public;
  ALTER VIEW minutes RENAME TO candles_1m; ALTER VIEW apart.candles_15m RENAME COLUMN mean TO vwap; ALTER VIEW apart.candles_15m SET SCHEMA public});
is($sql->(q{SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relname ~ '_state$' AND relnamespace = 'public'::regnamespace}),
  'candles_15m_state candles_1m_state candles_60m_state market_state ratios_day_state ratios_state sides_state', 'state tables go along');
refused(q{SET ROLE bob; SELECT tick.create_rollup('bobs', child_query('candles_1m', '1 day'))}, qr/permission denied for view candles_1m.*LINE 3:.*GRANT SELECT ON public\.candles_1m TO bob/s, 'who may not read the parent');
$sql->(q{GRANT SELECT ON candles_1m TO bob; SET ROLE bob; SELECT tick.create_rollup('bobs', child_query('candles_1m', '1 day')); RESET ROLE;
  ALTER VIEW market OWNER TO bob; UPDATE trades SET price = price + 1 WHERE symbol = 'S0'});
exact($node, 'of another role, with no right to the table');
is($sql->(q{SET ROLE bob; SELECT count(*) FROM tick.verify('bobs')}), '0', 'who may verify it');
is($sql->(q{SELECT count(DISTINCT owner) FROM tick.rollups WHERE rollup IN ('market'::regclass, 'bobs'::regclass)}), '1', 'owners are followed');
$sql->(q{REVOKE SELECT ON candles_1m FROM bob; UPDATE trades SET price = price + 1 WHERE symbol = 'S0'});
wait_for($node, q{SELECT count(*) = 2 FROM tick.status WHERE state = 'error' AND last_error ~ 'permission denied for view candles_1m'});
$sql->(q{GRANT SELECT ON candles_1m TO bob; SELECT tick.resume('bobs'), tick.resume('market')});
$sql->(q{ALTER VIEW candles_1m OWNER TO carol; GRANT SELECT, TRIGGER ON trades TO carol; UPDATE trades SET price = price + 1 WHERE symbol = 'S0'});
same('the parent\'s new owner');

# ---- what is on a child's state table runs as its owner
$sql->(q{CREATE TABLE seen (who name, what text); GRANT INSERT ON seen TO bob; CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO public.seen VALUES (current_user, tg_op); RETURN new; END $$;
  CREATE TRIGGER note BEFORE INSERT OR UPDATE ON bobs_state FOR EACH ROW EXECUTE FUNCTION note();
  INSERT INTO trades VALUES ('NEW', '2024-03-01 12:00+00', 1, 1, 1)});
exact($node, 'a trigger');
is($sql->('SELECT string_agg(DISTINCT who, \' \') FROM seen'), 'bob', 'as its owner');
refused(q{DELETE FROM bobs_state}, qr/only its worker writes it/, 'nobody else writes it');

# ---- columns, sizes, functions
$sql->(q{SELECT tick.wait(NULL); SELECT tick.alter_rollup('candles_1m', add => 'max(qty) AS biggest'); SELECT tick.wait(NULL);
  SELECT tick.create_rollup('biggest', 'SELECT symbol, tick.tumble(ts, ''2 hours'') AS ts, max(biggest) AS biggest, max(window_end) AS ends FROM candles_1m GROUP BY 1, 2');
  SELECT tick.create_rollup('candles_30m', like_rollup => 'candles_15m', size => '30 minutes');
  DELETE FROM trades WHERE qty > 90});
same('a column more in the parent');
is($sql->(q{SELECT count(*) FROM biggest b FULL JOIN (SELECT symbol, date_bin('2 hours', ts, '2000-01-01 00:00+00') AS ts, max(qty) AS q FROM trades GROUP BY 1, 2) t
  ON t.ts = b.ts AND t.symbol IS NOT DISTINCT FROM b.symbol WHERE b.biggest IS DISTINCT FROM t.q}), '0', 'read by a new child');
is($sql->(q{SELECT source FROM tick.rollups WHERE rollup = 'candles_30m'::regclass}), 'candles_1m', 'like_rollup reads what the other reads');
is($sql->(q{SELECT count(*) > 0 AND bool_and(open = high AND open = low AND open = close AND volume = 0 AND trades = 0) FROM tick.fill(null::candles_15m, '2024-03-01 00:00+00', '2024-03-03 00:00+00') WHERE revision IS NULL AND symbol = 'S1'}), 't', 'windows are filled');

# ---- what cannot be
$sql->(q{SELECT tick.create_rollup('total', 'SELECT symbol, count(*) AS n FROM trades GROUP BY 1'); SELECT tick.create_rollup('medians', 'SELECT tick.tumble(ts, ''1 min'') AS ts, percentile_cont(0.5) WITHIN GROUP (ORDER BY price) AS m FROM trades GROUP BY 1')});
for ([ 'SELECT max(high) AS h FROM candles_1m', qr/needs a window.*With each row.*Group by tick\.tumble\(ts, \.\.\.\), or roll up public\.trades/s, 'no window' ],
  [ q{SELECT symbol, tick.tumble(ts, '1 h') AS ts, max(n) AS n FROM total GROUP BY 1, 2}, qr/cannot roll up rollup "total": it has no windows.*LINE.*Roll up public\.trades/s, 'a parent without window' ],
  [ q{SELECT tick.tumble(ts, '1 h') AS ts, max(m) AS m FROM medians GROUP BY 1}, qr/cannot roll up rollup "medians": it is recomputed.*transactions of their own.*Roll up public\.trades/s, 'a parent that is recomputed' ],
  [ q{SELECT tick.tumble(window_end, '1 h') AS ts, count(*) AS n FROM candles_1m GROUP BY 1}, qr/must be over its windows.*Write tick\.tumble\(ts, \.\.\.\)/s, 'a window over something else' ],
  [ q{SELECT tick.tumble(ts, '1 h') AS ts, bool_and(final) AS f FROM candles_1m GROUP BY 1}, qr/cannot read "final" of another.*LINE/s, 'how far the parent is' ],
  [ q{SELECT tick.tumble(ts, '1 h') AS ts, max(high) AS h FROM candles_1m WHERE revision > 0 GROUP BY 1}, qr/cannot read "revision" of another.*LINE/s, 'a condition on it' ],
  [ q{SELECT tick.tumble(ts, '1 h') AS ts, max(high) AS h FROM candles_1m_live GROUP BY 1}, qr/it is a view/, 'name_live' ],
  [ q{SELECT tick.tumble(ts, '1 h') AS ts, max(high) AS h FROM candles_1m_state GROUP BY 1}, qr/it belongs to a rollup.*own view/s, 'the state table' ],
  [ q{SELECT tick.tumble(ts, '1 h') AS ts, array_agg(high) AS h FROM candles_1m GROUP BY 1}, qr/array_agg.*without ORDER BY/s, 'what shows how rows lie' ],
  [ q{SELECT tick.tumble(ts, '1 h') AS ts, max(to_char(ts, 'HH')) AS h FROM candles_1m GROUP BY 1}, qr/is STABLE, not IMMUTABLE/, 'what depends on the session' ]) {
  my ($query, $pattern, $what) = @$_;
  refused("SELECT tick.create_rollup('refused', \$\$$query\$\$)", $pattern, "refused: $what");
}
refused(q{SELECT tick.create_rollup('refused', child_query('candles_1m', '1 hour'), history => '1 day')}, qr/can have no history: it follows another rollup/, 'refused: a history');
refused(q{SELECT tick.seed('candles_15m', 'SELECT 1')}, qr/cannot be seeded: it follows another rollup/, 'refused: seeds');
refused(q{SELECT tick.alter_rollup('candles_15m', add => 'max(high) AS h2')}, qr/nothing can be added to "candles_15m": it follows another rollup/, 'refused: columns');
refused(q{SELECT tick.as_of(null::candles_15m, now())}, qr/history/, 'refused: the past');
refused(q{SELECT u.* FROM tick_catalog.rollup r, tick_catalog.unmerged(r.id) AS u(symbol text, ts timestamptz, stale bool) WHERE view = 'candles_15m'::regclass}, qr/no rows are merged into the rollup/, 'and nothing is merged into it');
refused(q{SELECT tick.drop_rollup('candles_1m')}, qr/cannot drop rollup "candles_1m": it is read by .*candles_15m, .*market.*DROP VIEW public\.candles_1m CASCADE/s, 'a parent is not dropped');
refused(q{DROP VIEW candles_1m}, qr/cannot drop view candles_1m because other objects depend on it.*candles_15m/s, 'by nobody');
is($sql->(q{SELECT count(*) FROM pg_class WHERE relname ~ 'refused'}), '0', 'nothing is left of what was refused');
$sql->(q{SELECT tick.drop_rollup('bobs'), tick.drop_rollup('biggest'), tick.drop_rollup('total'), tick.drop_rollup('medians'), tick.drop_rollup('candles_30m'); DROP VIEW ratios CASCADE});
is($sql->(q{SELECT string_agg(rollup::text, ' ' ORDER BY rollup::text) FROM tick.rollups}), 'candles_15m candles_1m candles_60m market sides', 'dropped');

# ---- a recompute of the parent that finds rows gone
$sql->(q{CREATE FUNCTION wanted(text) RETURNS bool LANGUAGE sql IMMUTABLE AS $$ SELECT $1 <> 'S7' $$;
  SELECT tick.create_rollup('chosen', 'SELECT symbol, tick.tumble(ts, ''5 minutes'') AS ts, count(*) AS n FROM trades WHERE public.wanted(symbol) GROUP BY 1, 2');
  SELECT tick.create_rollup('chosen_hours', 'SELECT symbol, tick.tumble(ts, ''1 hour'') AS ts, sum(n) AS n FROM chosen GROUP BY 1, 2')});
verified('another parent');
my %token = map { $_ => $sql->("SELECT max(token) FROM tick.changes(null::$_)") } 'chosen', 'chosen_hours';
my %going = map { $_ => $sql->("SELECT count(*) FROM $_ WHERE symbol = 'S1'") } keys %token;
$sql->(q{CREATE OR REPLACE FUNCTION wanted(text) RETURNS bool LANGUAGE sql IMMUTABLE AS $$ SELECT $1 <> 'S1' $$});
verified('a function replaced');
is($sql->("SELECT count(*) FROM tick.changes(null::$_, $token{$_}) WHERE change = 'delete' AND (candle).symbol = 'S1'"), $going{$_}, "$_: the change feed tells of the rows that have gone") for sort keys %token;
$sql->('DROP VIEW chosen CASCADE');

# ---- keys and times of other types, and a child of keys alone
$sql->(q{CREATE DOMAIN venue AS text; SELECT tick.create_rollup('typed', 'SELECT (trade_id % 3)::int4 AS k, tick.tumble(ts AT TIME ZONE ''UTC'', ''1 minute'') AS t, price::numeric(6,1) AS p, symbol::char(4) AS c, symbol::public.venue AS v,
    count(*) AS n, sum(price::numeric) AS total, max(qty) AS high FROM trades GROUP BY 1, 2, 3, 4, 5');
  SELECT tick.create_rollup('typed_keys', 'SELECT c, p, k, v, tick.tumble(t, ''90 minutes'') AS t FROM typed GROUP BY 1, 2, 3, 4, 5');
  SELECT tick.create_rollup('typed_sums', 'SELECT tick.hop(t, ''1 hour'', ''30 minutes'') AS t, p + 1 AS p, k, sum(n) AS n, sum(total) AS total, max(high) FILTER (WHERE n = 1) AS high FROM typed WHERE v <> ''S2'' GROUP BY 2, 1, 3')});
verified('other types');
$sql->(churn(4) . q{; UPDATE trades SET price = NULL WHERE trade_id % 13 = 1; UPDATE trades SET symbol = NULL WHERE trade_id % 17 = 1});
verified('other types follow');
is($sql->(q{SELECT (SELECT sum(n) FROM typed_sums) = 2 * (SELECT count(*) FROM trades WHERE symbol <> 'S2') AND
  (SELECT count(*) FROM typed_keys) = (SELECT count(*) FROM (SELECT DISTINCT symbol, price::numeric(6,1), trade_id % 3, date_bin('90 min', ts, '2000-01-01 00:00+00') FROM trades) d)}), 't', 'by the rows');
$sql->('DROP VIEW typed CASCADE');

# ---- dumped and restored
$sql->(churn(4));
my $dump = $node->basedir . '/dump';
my @at = ('-h', $node->host, '-p', $node->port);
$node->command_ok([ 'pg_dump', @at, '-Fc', '-f', $dump, 'postgres' ], 'pg_dump');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok([ 'pg_restore', @at, '-d', 'restored', '-j2', $dump ], 'pg_restore');
sub again {
  my ($database, $what) = @_;
  wait_for_in($database, q{SELECT count(*) = 5 AND bool_and(state = 'live') FROM tick.status});
  verified($what, $database);
  oracle($what, $database);
}
sub wait_for_in { my ($database, $query) = @_; $node->poll_query_until($database, $query) or die "timed out: $query" }
again('restored', 'restored');
$node->safe_psql('restored', churn(5));
again('restored', 'and goes on');
$node->safe_psql('postgres', 'CREATE DATABASE schema_only');
$node->command_ok([ 'pg_restore', @at, '-d', 'schema_only', '--schema-only', $dump ], 'the schema alone');
my ($rc, $out, $err) = $node->psql('schema_only', q{SELECT tick.resume('candles_15m')});
like($err, qr/cannot roll up "candles_1m": it is a view/, 'a child cannot be entered before its parent');
$node->safe_psql('schema_only', q{SELECT tick.resume(v) FROM unnest('{candles_1m,candles_15m,candles_60m,market,sides}'::regclass[]) WITH ORDINALITY v (v, n) ORDER BY n});
$node->safe_psql('schema_only', churn(5));
again('schema_only', 'the schema alone');
$sql->('DROP DATABASE restored; DROP DATABASE schema_only');

# ---- windows that are given, dropped for good, begun anew
same('before what follows');
$sql->(q{SET ROLE carol; SELECT tick.seed('candles_1m', $$SELECT 'OLD' AS symbol, '2024-01-05 00:00+00'::timestamptz + i * interval '1 minute' AS ts, 1.0::float8 AS open, i::float8 AS high, 1.0::float8 AS low, 1.0::float8 AS close,
  2.0::float8 AS volume, 1::int8 AS trades, 2.0::float8 AS vwap_sum, 1.0::float8 AS vwap, 1.0::float8 AS biggest FROM generate_series(0, 40) i$$); RESET ROLE; SELECT tick.wait(NULL)});
is($sql->(q{SELECT string_agg(concat_ws(' ', ts::time, high, trades), ', ' ORDER BY ts) FROM candles_15m WHERE symbol = 'OLD'}), '00:00:00 14 15, 00:15:00 29 15, 00:30:00 40 11', 'seeds are followed');
verified('seeded');
$sql->(q{INSERT INTO trades VALUES ('S1', '2024-03-02 12:20:00+00', 3, 3, 3), ('S1', '2024-03-02 12:40:30+00', 4, 4, 4); SELECT tick.wait(NULL);
  CREATE TABLE kept AS SELECT * FROM candles_15m; CREATE TABLE kept_60 AS SELECT * FROM candles_60m; SELECT tick.alter_rollup('candles_1m', retention => '1 day')});
wait_for($node, q{SELECT kept_from = '2024-03-02 12:40+00' FROM tick.rollups WHERE rollup = 'candles_1m'::regclass});
is($sql->(q{SELECT count(*) FROM candles_1m}), '1', 'the parent drops windows');
is($sql->(q{SELECT count(*) FROM (SELECT symbol, ts, high, trades, revision FROM kept EXCEPT ALL SELECT symbol, ts, high, trades, revision FROM candles_15m) d}), '0', 'the child keeps its own');
$sql->(q{INSERT INTO trades VALUES ('S1', '2024-03-02 12:40:31+00', 40, 4, 4), ('S1', '2024-03-01 12:40:31+00', 40, 4, 4), ('S1', '2024-03-02 12:50:00+00', 50, 4, 4); SELECT tick.wait(NULL)});
is($sql->(q{SELECT string_agg(concat_ws(' ', ts::time, high), ', ' ORDER BY ts) FROM candles_15m WHERE ts > '2024-03-02'}), '12:15:00 3, 12:30:00 4, 12:45:00 50', 'later windows go on');
is($sql->(q{SELECT string_agg(rollup || ' ' || ts::time, ', ') FROM tick.stale WHERE rollup = 'candles_15m'::regclass}), 'candles_15m 12:30:00', 'what cannot be known any more is listed');
is($sql->(q{SELECT string_agg(concat_ws(' ', ts::time, high), ', ' ORDER BY ts) FROM candles_60m WHERE ts > '2024-03-02'}), '12:00:00 50', 'a grandchild follows the child');
verified('what is left');
refused(q{SELECT tick.refresh('candles_15m')}, qr/NOTICE:  windows of "candles_15m" before 2024-03-02 12:45:00.* stay as they are/, 'refresh leaves them');
$sql->(q{SELECT tick.alter_rollup('candles_1m', reset => '{retention}'); SELECT tick.wait(NULL)});
is($sql->(q{SELECT count(*) FROM (SELECT symbol, ts, high, trades FROM kept EXCEPT ALL SELECT symbol, ts, high, trades FROM candles_15m) d}), '0', 'indeed');
$sql->(q{SELECT tick.reset('trades'); SELECT tick.wait(NULL)});
is($sql->('SELECT (SELECT count(*) FROM candles_15m) + (SELECT count(*) FROM candles_60m) + (SELECT count(*) FROM tick.stale)'), '0', 'reset empties them all');
$sql->(q{INSERT INTO trades SELECT * FROM random_trades(500, 0.8)});
same('reset');
$sql->(q{DROP VIEW candles_1m CASCADE});
is($sql->(q{SELECT (SELECT count(*) FROM tick_catalog.rollup) + (SELECT count(*) FROM pg_class WHERE relname ~ 'candles|market|sides')}), '0', 'CASCADE takes them all');
done_testing();
