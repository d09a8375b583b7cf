# tick.forget and tick.rename_key: nothing is left of a key, or all of it has another name, in windows of any age. The
# oracle is each rollup's query over a copy of all rows there ever were, changed in the same way.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = make_node('keys');
sub sql { return $node->safe_psql('postgres', $_[0]); }
sub refused { my ($query, $why, $what) = @_; my ($rc, $out, $err) = $node->psql('postgres', $query); like($err, $why, $what); }

# ---- a source of three days, the first of which retention has dropped

my %query = (
  minutes => q{SELECT symbol, tick.tumble(ts, '1 minute') AS t, count(*) AS n, max(price) AS high, tick.first(price, ts, trade_id) AS open, tick.last(price, ts, trade_id) AS close, sum(qty) AS volume FROM trades GROUP BY 1, 2},
  hours => q{SELECT tick.tumble(ts, '1 hour') AS t, symbol, avg(price) AS mean, min(qty) AS low, stddev_samp(qty) AS spread FROM trades GROUP BY 1, 2},
  slides => q{SELECT tick.hop(ts, '1 hour', '20 min') AS t, symbol AS "Sy""m", count(*) AS n FROM trades WHERE qty > 1 GROUP BY 1, 2},
  latest => q{SELECT symbol, tick.last(price, ts, trade_id) AS price, count(*) AS n FROM trades GROUP BY 1},
  medians => q{SELECT symbol, tick.tumble(ts, '1 hour') AS t, percentile_cont(0.5) WITHIN GROUP (ORDER BY price) AS m FROM trades GROUP BY 1, 2},
  totals => q{SELECT tick.tumble(ts, '1 hour') AS t, count(*) AS n, sum(qty) AS volume, max(price) AS high FROM trades GROUP BY 1},
  letters => q{SELECT upper(symbol) AS letter, tick.tumble(ts, '1 hour') AS t, count(*) AS n FROM trades GROUP BY 1, 2},
);
(my $foreign = $query{minutes}) =~ s/symbol, tick/symbol, trade_id % 2 AS odd, tick/;
$foreign =~ s/GROUP BY 1, 2/GROUP BY 1, 2, 3/;
$query{'"o ther"."we%ird"'} = $foreign;
my %children = (
  kids => q{SELECT symbol, tick.tumble(t, '1 hour') AS t, sum(n) AS n, max(high) AS high FROM minutes GROUP BY 1, 2},
  kids_of_all => q{SELECT tick.tumble(t, '1 hour') AS t, sum(n) AS n FROM minutes GROUP BY 1},
);
make_trades($node, 1);
make_trades($node, 0, 'everything');
sql(q{SELECT tick.add_source('trades', dedup_key => '{symbol}', dedup_id => 'trade_id', watermark_delay => '1 s', idle_timeout => '1 hour');
  CREATE ROLE bob; CREATE SCHEMA "o ther" AUTHORIZATION bob; GRANT SELECT, TRIGGER ON trades TO bob; GRANT USAGE ON SCHEMA tick TO bob;});
for my $name (sort keys %query) {
  my $history = $name eq 'minutes' || $name =~ /we/ ? ", history => '1 day'" : '';
  my $role = $name =~ /we/ ? 'SET ROLE bob;' : '';
  sql("$role SELECT tick.create_rollup(\$\$$name\$\$, \$\$$query{$name}\$\$$history)");
}
sql("SELECT tick.create_rollup('$_', \$\$$children{$_}\$\$)") for sort keys %children;
(my $parent = $query{minutes}) =~ s/FROM trades/FROM everything AS trades/;
$query{$_} = $children{$_} =~ s/FROM minutes/FROM ($parent) AS minutes/r for keys %children;
my $number = 0;
# Rows of some keys on a day, as many ids each; also into the copy.
sub feed {
  my ($day, $from, $to, @keys) = @_;
  my $symbols = join ', ', map { defined $_ ? "'$_'" : 'NULL' } @keys;
  $number += 1000;
  sql(qq{INSERT INTO everything SELECT s, timestamptz '2024-03-0$day 00:00:03+00' + i * interval '97 s', (i * 37 + length(s)) % 1000 / 8.0, (i % 11) / 4.0, $number + i
      FROM generate_series($from, $to) i, unnest(ARRAY[$symbols]::text[]) s;
    INSERT INTO trades SELECT * FROM everything WHERE trade_id BETWEEN $number + $from AND $number + $to});
}
feed(1, 0, 300, 'A', 'B', undef, 'E', 'F');
feed(2, 0, 300, 'A', 'B', undef, 'E', 'F', 'G');
feed(2, 301, 500, 'A', 'B', 'F');
feed(1, 250, 350, 'A', 'B', 'G');    # late: versions of what was final
sql('SELECT tick.wait(NULL); DROP TABLE trades_1; SELECT tick.wait(NULL)');

# What differs between the rollups that are named and their queries over the copy.
my %columns;
sub same_as_everything {
  my ($what, @names) = @_;
  my @parts;
  for my $name ('kids_of_all', @names) {
    (my $copy = $query{$name}) =~ s/FROM trades/FROM everything AS trades/;
    $columns{$name} //= join ', ', map { /^(mean|spread|volume)$/ ? "round($_\::numeric, 9)" : qq{"$_"} } split /\n/, sql("SELECT replace(attname, '\"', '\"\"') FROM pg_attribute WHERE attrelid = \$\$$name\$\$::regclass AND attnum > 0 AND attname NOT IN ('window_end', 'final', 'revision', 'updated_at')");
    push @parts, "SELECT \$\$$name\$\$ AS name, count(*) AS n FROM ((SELECT $columns{$name} FROM $name EXCEPT ALL SELECT $columns{$name} FROM ($copy) q) UNION ALL (SELECT $columns{$name} FROM ($copy) q EXCEPT ALL SELECT $columns{$name} FROM $name)) d";
  }
  is(sql("SELECT tick.wait(NULL, '60 s'); SELECT name, n FROM (" . join(' UNION ALL ', @parts) . ') AS p WHERE n > 0'), 't', "$what: as if the rows had always been so");
}
my @keyed = ('minutes', 'kids', 'hours', 'slides', 'latest', 'medians', '"o ther"."we%ird"');
same_as_everything('before', sort keys %query);
my $moment = sql('SELECT clock_timestamp()');
my $token = sql('SELECT max(token) FROM tick.changes(null::minutes)');
is(sql("SELECT count(*) > 0 FROM tick_catalog.history_" . sql("SELECT id FROM tick_catalog.rollup WHERE view = 'minutes'::regclass") . " WHERE symbol = 'A'"), 't', 'there are versions of the key');

# ---- all of a key goes

my $known = sql(q{SELECT count(*) FROM trades WHERE symbol = 'A'});
my $windows = sql("SELECT " . join(' + ', map { my $c = $_ eq 'slides' ? '"Sy""m"' : 'symbol'; "(SELECT count(*) FROM $_ WHERE $c = 'A')" } @keyed));
is(sql(q{SELECT * FROM tick.forget('trades', '{"symbol": "A"}')}), "$known|$windows", 'a key is forgotten: so many rows and windows');
is(sql('SELECT ' . join(' + ', map { "(SELECT count(*) FROM $_ WHERE " . ($_ eq 'slides' ? '"Sy""m"' : 'symbol') . " = 'A')" } @keyed)), '0', 'at once in all of them');
sql(q{DELETE FROM everything WHERE symbol = 'A'});
same_as_everything('forgotten', @keyed);
is(sql(q{SELECT count(*), min(ts) < '2024-03-02', max(ts) < '2024-03-02' FROM tick.stale WHERE rollup = 'totals'::regclass}), sql(q{SELECT count(*), true, true FROM totals WHERE t < '2024-03-02'}), 'totals that the source has no rows of any more are listed');
is(sql(qq{SELECT count(*) FROM tick.as_of(null::minutes, '$moment') WHERE symbol = 'A'}), '0', 'nor is there a version of it');
is(sql(qq{SELECT count(*) > 100 FROM tick.as_of(null::minutes, '$moment') WHERE symbol = 'B'}), 't', 'of others there are');
is(sql(q{SELECT count(*) FROM tick.seen WHERE key->>'symbol' = 'A'}), '0', 'no id is seen');
is(sql(qq{SELECT count(DISTINCT (candle).t) > 300 AND bool_and((candle).symbol = 'A') FROM tick.changes(null::minutes, $token) WHERE change = 'delete'}), 't', 'the change feed says so');
feed(2, 0, 200, 'A');
is(sql(q{INSERT INTO trades SELECT 'A', '2024-03-02 12:00+00', 1, 1, 1000 + i FROM generate_series(0, 9) i; SELECT count(*) FROM trades WHERE symbol = 'A'}), '211', 'ids of rows that had long gone can come again');
sql(q{INSERT INTO everything SELECT 'A', '2024-03-02 12:00+00', 1, 1, 1000 + i FROM generate_series(0, 9) i});
same_as_everything('sent again', @keyed);
is(sql(q{SELECT rows FROM tick.forget('trades', '{"symbol": null}')}), sql(q{SELECT count(*) FROM everything WHERE symbol IS NULL AND ts >= '2024-03-02'}), 'rows without a key');
sql(q{DELETE FROM everything WHERE symbol IS NULL});
same_as_everything('NULL is forgotten', @keyed);

# ---- of a time only

refused(q{SELECT tick.forget('trades', '{"symbol": "B"}', '2024-03-02 03:10:20+00', '2024-03-02 05:20:10+00')}, qr/keeps a history: only whole windows/, 'not part of a window that has versions');
refused(q{SELECT tick.forget('trades', '{"symbol": "B"}', '2024-03-01 03:00+00', '2024-03-01 05:00+00')}, qr/"slides" has windows of the key that the source has lost rows of.*bounds of the windows/s, 'nor of windows that only rows could correct');
sql(q{SELECT tick.drop_rollup('slides')});
is(sql(q{SELECT rows, windows > 100 FROM tick.forget('trades', '{"symbol": "B"}', '2024-03-01 03:00+00', '2024-03-01 05:00+00')}), '0|t', 'whole windows of which there are no rows');
sql(q{DELETE FROM everything WHERE symbol = 'B' AND ts >= '2024-03-01 03:00+00' AND ts < '2024-03-01 05:00+00'});
@keyed = grep { $_ ne 'slides' } @keyed;
same_as_everything('of a time', grep { $_ ne 'latest' } @keyed);
is(sql(q{SELECT count(*) FROM tick.stale WHERE rollup = 'latest'::regclass}), '1', 'a row over all time is listed');
sql(q{SELECT tick.drop_rollup('latest'); SELECT tick.alter_rollup('minutes', reset => '{history}'); SET ROLE bob; SELECT tick.alter_rollup('"o ther"."we%ird"', reset => '{history}')});
@keyed = grep { $_ ne 'latest' } @keyed;
is(sql(q{SELECT rows FROM tick.forget('trades', '{"symbol": "B"}', '2024-03-02 03:10:20+00', '2024-03-02 05:20:10+00')}),
  sql(q{WITH gone AS (DELETE FROM everything WHERE symbol = 'B' AND ts >= '2024-03-02 03:10:20+00' AND ts < '2024-03-02 05:20:10+00' RETURNING 1) SELECT count(*) FROM gone}), 'parts of windows: as a DELETE');
same_as_everything('parts of windows', @keyed);
exact($node, 'parts of windows');

# ---- another name

my $before = sql(q{SELECT count(*) FROM minutes WHERE symbol = 'B'});
refused(q{SELECT tick.rename_key('trades', '{"symbol": "B"}', '{"symbol": "A"}')}, qr/has ids of both keys.*between 1000 and 1009/s, 'not where one key would have an id twice');
sql(q{SELECT tick.rename_key('trades', '{"symbol": "B"}', '{"symbol": "Beta"}'); UPDATE everything SET symbol = 'Beta' WHERE symbol = 'B'});
is(sql(q{SELECT count(*) FROM minutes WHERE symbol = 'Beta'}), $before, 'at once');
same_as_everything('renamed', @keyed);
is(sql(q{INSERT INTO trades SELECT s, '2024-03-02 12:00+00', 1, 1, 1007 FROM unnest(ARRAY['B', 'Beta']) s; SELECT string_agg(symbol, ' ') FROM trades WHERE trade_id = 1007}), 'A B', 'so have its ids, also of rows that have gone')
  or diag(sql('TABLE tick.seen'));
sql(q{DELETE FROM trades WHERE symbol = 'B'});

# Both keys in the same windows, also where the source holds no rows: partials are merged.
sql(q{SELECT tick.alter_source('trades', reset => '{dedup_key,dedup_id}')});
refused(q{SELECT tick.rename_key('trades', '{"symbol": "E"}', '{"symbol": "F"}')}, qr/"medians" has rows of both keys that cannot be made one.*between 2024-03-01 00:00/s, 'values that only rows can tell are not made up');
same_as_everything('refused', @keyed);
sql(q{SELECT tick.drop_rollup('medians')});
@keyed = grep { $_ ne 'medians' } @keyed;
sql(q{SELECT tick.rename_key('trades', '{"symbol": "E"}', '{"symbol": "F"}'); UPDATE everything SET symbol = 'F' WHERE symbol = 'E'});
same_as_everything('made one', @keyed);
sql(q{SELECT tick.create_rollup('medians', $$SELECT symbol, tick.tumble(ts, '2 hours') AS t, percentile_cont(0.5) WITHIN GROUP (ORDER BY price) AS m FROM trades GROUP BY 1, 2$$); SELECT tick.wait(NULL)});
sql(q{SELECT tick.rename_key('trades', '{"symbol": "F"}', '{"symbol": "Beta"}'); UPDATE everything SET symbol = 'Beta' WHERE symbol = 'F'});
same_as_everything('twice', @keyed);
exact($node, 'values of which there are rows are computed again');
is(sql(q{SELECT count(*) > 0 FROM tick.stale WHERE rollup = 'letters'::regclass AND ts < '2024-03-02'}), 't', 'what is made of the key otherwise is listed');

# ---- with history: what was shown then is what as_of shows

sql(q{CREATE TABLE other (LIKE trades); SELECT tick.add_source('other', watermark_delay => '0 s');
  SELECT tick.create_rollup('shown', 'SELECT symbol, tick.tumble(ts, ''1 minute'') AS t, sum(qty) AS n FROM other GROUP BY 1, 2', history => '1 day');
  INSERT INTO other SELECT 'FB', '2024-03-01 00:00+00'::timestamptz + i * interval '10 s', 1, 1, i FROM generate_series(1, 100) i; SELECT tick.wait(NULL);
  CREATE TABLE snapshot AS SELECT clock_timestamp() AS at, symbol, t, n FROM shown WHERE final;
  SELECT tick.rename_key('other', '{"symbol": "FB"}', '{"symbol": "META"}');});
is(sql(q{SELECT count(*) > 10 AND bool_and(x.symbol = 'FB') FROM snapshot s FULL JOIN tick.as_of(null::shown, (SELECT min(at) FROM snapshot)) x USING (symbol, t, n)}), 't', 'a version keeps its name');
is(sql(q{SELECT count(*) FILTER (WHERE symbol = 'META') > 10, count(*) FILTER (WHERE symbol = 'FB') FROM tick.as_of(null::shown, clock_timestamp())}), 't|0', 'the present row has the new one');
sql(q{SELECT tick.forget('other', '{"symbol": "META"}')});
is(sql(q{SELECT count(*) FILTER (WHERE symbol = 'META') FROM tick_catalog.history_} . sql(q{SELECT id FROM tick_catalog.rollup WHERE view = 'shown'::regclass})), '0', 'forgotten with its versions');

# A rollup over one whose windows retention has dropped: nothing is left that it could follow.
sql(q{SELECT tick.create_rollup('m1', 'SELECT symbol, tick.tumble(ts, ''1 minute'') AS t, sum(qty) AS n FROM other GROUP BY 1, 2');
  SELECT tick.create_rollup('h1', 'SELECT symbol, tick.tumble(t, ''1 hour'') AS t, sum(n) AS n FROM m1 GROUP BY 1, 2');
  INSERT INTO other SELECT s, '2024-03-01 00:00+00'::timestamptz + i * interval '1 min', 1, 1, i FROM unnest(ARRAY['x', 'y', 'z']) s, generate_series(1, 300) i;
  SELECT tick.wait(NULL); SELECT tick.alter_rollup('m1', retention => '1 hour')});
wait_for($node, q{SELECT count(*) < 10 FROM m1});
is(sql(q{SELECT rows FROM tick.forget('other', '{"symbol": "x"}'); SELECT count(*) FROM h1 WHERE symbol = 'x'}), "300\n0", 'its rows go themselves');
is(sql(q{SELECT rows FROM tick.rename_key('other', '{"symbol": "y"}', '{"symbol": "Y"}'); SELECT symbol, sum(n) FROM h1 GROUP BY 1 ORDER BY symbol COLLATE "C"}), "300\nY|300\nz|300", 'and move');
refused(q{SELECT tick.rename_key('other', '{"symbol": "Y"}', '{"symbol": "z"}')}, qr/"h1" has rows of both keys that cannot be made one/, 'but are not made one');

# ---- rows that a partition keeps for one key

sql(q{CREATE TABLE listed (symbol text, ts timestamptz, qty numeric, id int8) PARTITION BY LIST (symbol);
  CREATE TABLE listed_a PARTITION OF listed FOR VALUES IN ('a'); CREATE TABLE listed_b PARTITION OF listed FOR VALUES IN ('b');
  SELECT tick.add_source('listed', dedup_key => '{symbol}', dedup_id => 'id');
  SELECT tick.create_rollup('by_key', 'SELECT symbol, tick.tumble(ts, ''1 minute'') AS t, sum(qty) AS n FROM listed GROUP BY 1, 2');
  SELECT tick.create_rollup('by_none', 'SELECT tick.tumble(ts, ''1 minute'') AS t, sum(qty) AS n, max(symbol) AS s FROM listed GROUP BY 1');
  INSERT INTO listed SELECT 'a', '2024-03-01 00:00+00'::timestamptz + i * interval '10 s', i, i FROM generate_series(1, 100) i;
  SELECT * FROM tick.rename_key('listed', '{"symbol": "a"}', '{"symbol": "b"}')});
is(sql(q{SELECT count(*), min(symbol) FROM listed_b}), '100|b', 'rows move to another partition');

# ---- keys of other types, by an owner who may nothing else

sql(q{CREATE TYPE side AS ENUM ('buy', 'sell'); CREATE DOMAIN code AS varchar(6); CREATE ROLE carol; GRANT CREATE ON SCHEMA public TO carol; GRANT USAGE ON SCHEMA tick TO carol;
  SET ROLE carol;
  CREATE TABLE typed (s side, n numeric(10,2), c char(5), "d ""x" code, f float8, ts timestamp, q float8);
  SELECT tick.create_rollup('by_all', 'SELECT s, n, c, "d ""x", f, tick.tumble(ts, ''1 minute'') AS t, sum(q) AS total FROM typed GROUP BY 1, 2, 3, 4, 5, 6', history => '1 day');
  SELECT tick.create_rollup('by_side', 'SELECT s, tick.tumble(ts, ''1 minute'') AS t, sum(q) AS total FROM typed GROUP BY 1, 2');
  INSERT INTO typed SELECT (ARRAY['buy', 'sell', NULL])[1 + i % 3]::side, (i % 2) + 0.50, 'c' || i % 4, 'd' || i % 5, CASE WHEN i % 2 = 0 THEN 0 ELSE '-0' END, '2024-03-01'::timestamp + i * interval '1 s', 0.1 * i FROM generate_series(1, 600) i});
sub typed {
  my ($call, $where, $windows) = @_;
  my $n = sql("SELECT count(*) FROM typed WHERE $where");
  is(sql("SET ROLE carol; SELECT rows, windows $windows FROM $call; SELECT count(*) FROM by_all WHERE " . $where =~ s/\bts\b/t/gr) , "$n|t\n0", $call) or return;
  is(sql("SELECT count(*) FROM typed WHERE $where"), '0', 'and its rows');
}
typed(q{tick.forget('typed', '{"s": "buy", "n": 1.5}')}, q{s = 'buy' AND n = 1.5}, '> 10');
typed(q{tick.rename_key('typed', '{"c": "c1"}', '{"c": "new"}')}, q{c = 'c1'}, '> 10');
typed(q{tick.rename_key('typed', '{"n": "1.500", "s": null}', '{"n": 7, "s": "sell"}')}, q{n = 1.5 AND s IS NULL}, '> 10');
typed(q{tick.forget('typed', '{"d \"x": "d3"}', '2024-03-01 00:03+00', '2024-03-01 00:05+00')}, q{"d ""x" = 'd3' AND ts >= '2024-03-01 00:03' AND ts < '2024-03-01 00:05'}, '>= 0');
typed(q{tick.forget('typed', '{"f": 0}')}, 'f = 0', '> 10');
exact($node, 'other types');

# ---- who may not, and when not

sql(q{CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'});
# Windows that only rows can correct, and these go before the worker has read them: what stays is known to be wrong.
sql(q{CREATE TABLE leaving (symbol text, ts timestamptz, qty float8) PARTITION BY RANGE (ts);
  CREATE TABLE leaving_0 PARTITION OF leaving FOR VALUES FROM ('2024-02-29 00:00+00') TO ('2024-03-01 00:00+00');
  CREATE TABLE leaving_1 PARTITION OF leaving FOR VALUES FROM ('2024-03-01 00:00+00') TO ('2024-03-02 00:00+00');
  CREATE TABLE leaving_2 PARTITION OF leaving FOR VALUES FROM ('2024-03-02 00:00+00') TO ('2024-03-03 00:00+00');
  SELECT tick.create_rollup('left_hops', 'SELECT symbol, tick.hop(ts, ''2 hours'', ''1 hour'') AS ts, max(qty) AS high, count(*) AS n FROM leaving GROUP BY 1, 2');
  INSERT INTO leaving SELECT s, '2024-03-01 00:30+00'::timestamptz + i * interval '1 hour', i FROM unnest('{A,B}'::text[]) s, generate_series(1, 47) i;
  INSERT INTO leaving VALUES ('B', '2024-02-29 12:00+00', 1); SELECT tick.wait(NULL); DROP TABLE leaving_0; SELECT tick.wait(NULL);
  BEGIN; SELECT tick.forget('leaving', '{"symbol": "A"}', '2024-02-29 12:00+00'); DROP TABLE leaving_1; COMMIT; SELECT tick.wait(NULL)});
is(sql(q{SELECT count(*), count(*) FILTER (WHERE tick_stale), min(ts) = '2024-03-01 00:00+00', max(ts) < '2024-03-02 00:00+00' FROM left_hops_state WHERE symbol = 'A'}), '24|24|t|t', 'windows that lost their rows meanwhile are stale');
is(sql(q{SELECT count(*) FROM left_hops_state WHERE tick_stale AND symbol = 'B'}), '0', 'no others');
is(sql(q{SELECT count(*) FROM tick.stale WHERE rollup = 'left_hops'::regclass}), '24', 'and are listed');
exact($node, 'and the rest');
sql('DROP TABLE leaving CASCADE');
refused(q{SET ROLE bob; SELECT tick.forget('trades', '{"symbol": "A"}')}, qr/must be owner of table trades/, 'only the owner');
refused(q{SELECT tick.forget('everything', '{"symbol": "A"}')}, qr/is no source/, 'no source');
refused(q{SELECT tick.forget('trades', '{"sym": "A"}')}, qr/column "sym" of "trades" does not exist/, 'no column');
refused(q{SELECT tick.forget('trades', '{}')}, qr/keys is not the key of any rows/, 'no key');
refused(q{SELECT tick.forget('trades', '{"trade_id": "A"}')}, qr/invalid input syntax for type bigint/, 'no value of the type');
refused(q{SELECT tick.rename_key('trades', '{"symbol": "A"}', '{"trade_id": 1}')}, qr/must have the same columns as old/, 'other columns');
refused(q{BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1; SELECT tick.forget('trades', '{"symbol": "A"}')}, qr/with one snapshot/, 'REPEATABLE READ');
refused(q{BEGIN; INSERT INTO trades VALUES ('A', '2024-03-02 12:00+00', 1, 1, 1); SELECT tick.forget('trades', '{"symbol": "A"}')}, qr/has rows of this transaction/, 'rows of the same transaction');
refused(q{BEGIN; CREATE TRIGGER keep BEFORE DELETE ON trades FOR EACH ROW EXECUTE FUNCTION keep(); SELECT tick.forget('trades', '{"symbol": "A"}')}, qr/has a trigger or rule that fires/, 'a trigger that may keep rows');
is(sql(q{BEGIN; SELECT rows FROM tick.forget('trades', '{"symbol": "A"}'); SELECT count(*) FROM minutes WHERE symbol = 'A'; ROLLBACK; SELECT count(*) > 0 FROM minutes WHERE symbol = 'A'}), "211\n0\nt", 'rolled back');
same_as_everything('rolled back', @keyed);
sql(q{BEGIN; SELECT tick.forget('trades', '{"symbol": "A"}'); SAVEPOINT s; SELECT tick.forget('trades', '{"symbol": "G"}'); ROLLBACK TO s;
  INSERT INTO trades VALUES ('A', '2024-03-02 12:00+00', 7, 7, 7); COMMIT; DELETE FROM everything WHERE symbol = 'A'; INSERT INTO everything VALUES ('A', '2024-03-02 12:00+00', 7, 7, 7)});
same_as_everything('a savepoint, and rows that come afterwards', @keyed);

# ---- under writers, with workers and servers that die

sql(q{SELECT tick.alter_source('trades', dedup_key => '{symbol}', dedup_id => 'trade_id');
  CREATE PROCEDURE write(seed int) LANGUAGE plpgsql AS $$ BEGIN FOR i IN 1 .. 100000 LOOP
    INSERT INTO trades SELECT (ARRAY['A', 'B', 'C'])[1 + (i + g) % 3], '2024-03-02 00:00+00'::timestamptz + (i % 80000) * interval '1 s', i % 17, g, 10000000 * seed + i * 10 + g FROM generate_series(1, 5) g;
    IF i % 7 = 0 THEN DELETE FROM trades WHERE trade_id = 10000000 * seed + (i - 5) * 10 + 3; END IF; COMMIT; END LOOP; END $$});
my @writers;
sub stop_writers { finish($_, 'KILL') for @writers; @writers = (); wait_for($node, "SELECT count(pg_terminate_backend(pid)) = 0 FROM pg_stat_activity WHERE query LIKE 'CALL write%'"); }
for my $round (1 .. 4) {
  @writers = map { launch("write_$_", 'psql', '-Xq', '-h', $node->host, '-p', $node->port, '-c', "CALL write($_)", 'postgres') } 2 * $round, 2 * $round + 1 if $round % 2;
  wait_for($node, q{SELECT bool_and(EXISTS (SELECT FROM minutes m WHERE m.symbol = k.k AND m.n > 0)) FROM (VALUES ('A'), ('C')) k (k)});
  my ($one, $other) = $round % 2 ? ('A', 'C') : ('C', 'A');
  sql(qq{SELECT tick.forget('trades', '{"symbol": "$one"}')});
  if ($round == 2) {
    crash_worker($node);
    stop_writers();
    next;
  }
  sql(qq{SELECT tick.rename_key('trades', '{"symbol": "$other"}', '{"symbol": "R$round"}')});
}
stop_writers();
exact($node, 'under writers');
sql(q{SELECT tick.forget('trades', '{"symbol": "B"}'); SELECT tick.rename_key('trades', '{"symbol": "R3"}', '{"symbol": "R"}')});
crash($node);
is(sql(q{SELECT count(*) FROM minutes WHERE symbol IN ('B', 'R3')}), '0', 'after a crash');
exact($node, 'after a crash');
is(sql(q{SELECT count(*) FROM tick.seen WHERE key->>'symbol' IN ('B', 'R3')}), '0', 'ids too');
is(sql(q{SELECT count(*) FROM (SELECT s.key->>'symbol' AS symbol, s.ids FROM tick.seen s WHERE source = 'trades'::regclass) s FULL JOIN (SELECT symbol, count(DISTINCT trade_id) AS ids FROM trades GROUP BY 1) t USING (symbol) WHERE s.ids IS DISTINCT FROM t.ids}), '0', 'and those of all keys are those of the rows');

$node->stop;
done_testing();
