# Rollups whose aggregates rows cannot be added to one by one: medians, DISTINCT, lists, aggregates of users. A process beside
# the worker runs the query again over what was touched. The oracle is the built-ins' query.
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
my $node = make_node('recompute', conf => "log_statement = none\n");
my $sql = sub { return $node->safe_psql('postgres', $_[0]) };
make_trades($node, 1);
$sql->(q{
  CREATE FUNCTION widen(numeric[], float8) RETURNS numeric[] LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
    IF $2 < 0 THEN RAISE 'no price is below zero'; END IF;
    RETURN ARRAY[least($1[1], $2::numeric), greatest($1[2], $2::numeric)]; END $$;
  CREATE FUNCTION width(numeric[]) RETURNS numeric LANGUAGE sql IMMUTABLE AS 'SELECT $1[2] - $1[1]';
  CREATE AGGREGATE spread(float8) (SFUNC = widen, STYPE = numeric[], INITCOND = '{}', FINALFUNC = width);
  CREATE FUNCTION whoami(text, int8) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN current_user; END';
  CREATE AGGREGATE who(int8) (SFUNC = whoami, STYPE = text);
  INSERT INTO trades SELECT * FROM random_trades(3000, 0.1);
  INSERT INTO trades SELECT * FROM random_trades(2000, 0.2, '2024-03-02 12:00+00');
  INSERT INTO trades VALUES (NULL, '2024-03-01 12:00+00', 1, 1, -1), (NULL, '2024-03-01 12:01+00', NULL, NULL, NULL)});

my %query = (
  medians => q{SELECT symbol, %s AS ts, percentile_cont(0.5) WITHIN GROUP (ORDER BY price) AS median, count(*) AS n, avg(price) AS mean,
    percentile_disc(ARRAY[0.1, 0.9]) WITHIN GROUP (ORDER BY price) AS tails, mode() WITHIN GROUP (ORDER BY qty) AS usual FROM trades GROUP BY 1, 2},
  lists => q{SELECT %s AS ts, symbol, string_agg(trade_id::text, ',' ORDER BY ts, trade_id, price) AS ids, count(DISTINCT qty) AS sizes,
    array_agg(price ORDER BY ts, trade_id, price) FILTER (WHERE qty > 1) AS prices, 'x' || max(symbol) AS label FROM trades GROUP BY 2, 1},
);
my $minute = q{tick.tumble(ts, '1 minute')};
my %windows = (
  medians => [ $minute, q{date_trunc('minute', ts)} ],
  lists => [ q{tick.tumble(ts, '1 hour')}, q{date_trunc('hour', ts)} ],
);
$sql->(sprintf "SELECT tick.create_rollup('%s', \$\$$query{$_}\$\$)", $_, $windows{$_}[0]) for sort keys %query;
$sql->(q{
  SELECT tick.create_rollup('spreads', 'SELECT symbol, tick.tumble(ts, ''5 minutes'') AS ts, spread(price) AS spread FROM trades WHERE qty > 0.5 GROUP BY 1, 2');
  SELECT tick.create_rollup('sliding', 'SELECT tick.hop(ts, ''5 minutes'', ''1 minute'') AS ts, count(DISTINCT symbol) AS symbols FROM trades GROUP BY 1');
  SELECT tick.create_rollup('everything', 'SELECT symbol, count(DISTINCT qty) AS sizes, string_agg(DISTINCT qty::text, '','') AS list FROM trades GROUP BY 1');
  SELECT tick.create_rollup('candles_1m', candle_query('1 minute'))});

# Both directions, by PostgreSQL alone.
my $column = {
  medians => 'symbol, ts, median, n, round(mean::numeric, 6), tails, usual', lists => 'ts, symbol, ids, sizes, prices, label',
};
sub same {
  my ($what) = @_;
  exact($node, $what);
  for my $name (sort keys %query) {
    my $expected = sprintf "SELECT $column->{$name} FROM ($query{$name}) AS q", $windows{$name}[1];
    my $shown = "SELECT $column->{$name} FROM $name";
    is($sql->("SELECT count(*) FROM (($expected EXCEPT ALL $shown) UNION ALL ($shown EXCEPT ALL $expected)) AS d"), '0', "$what: $name");
  }
  my $wide = q{SELECT symbol, date_bin('5 min', ts, '2000-01-01 00:00+00') AS ts, (max(price) - min(price))::numeric(20,6) AS w FROM trades WHERE qty > 0.5 GROUP BY 1, 2};
  is($sql->("SELECT count(*) FROM ($wide) AS e FULL JOIN spreads AS s ON (s.symbol, s.ts) = (e.symbol, e.ts) OR s.symbol IS NULL AND e.symbol IS NULL AND s.ts = e.ts
    WHERE s.spread::numeric(20,6) IS DISTINCT FROM e.w"), '0', "$what: spreads")
    if $what !~ /set aside/;
}
same('history');
is($sql->(q{SELECT string_agg(strategy, ' ' ORDER BY rollup::text) FROM tick.status}), 'merge recompute recompute recompute recompute recompute', 'strategies');
like($sql->(q{SELECT tick.explain('medians')}), qr/strategy recompute, live/, 'and explained');

# ---- corrections, late rows, rows that leave, and what tells of them
my $token = $sql->(q{SELECT max(token) FROM tick.changes(null::medians)});
$sql->(qq{SELECT setseed($seed / 1000000.0);
  UPDATE trades SET price = price * 1.01 WHERE symbol = 'S1' AND random() < 0.3;
  UPDATE trades SET symbol = 'MOVED' WHERE symbol = 'S3' AND random() < 0.2;
  DELETE FROM trades WHERE random() < 0.1 OR symbol = 'S4';
  UPDATE trades SET qty = 7 WHERE symbol IS NULL;
  INSERT INTO trades VALUES ('LATE', '2024-03-01 12:00:30+00', 5, 5, 5)});
same('corrections');
is($sql->(qq{SELECT (candle).median, change FROM tick.changes(null::medians, $token) WHERE (candle).symbol = 'LATE'}), '5|upsert', 'the change feed tells of a window when it was computed');
is($sql->(qq{SELECT count(*) > 0 FROM tick.changes(null::medians, $token) WHERE (candle).symbol = 'S4' AND change = 'delete'}), 't', 'and of rows that have gone');
# A correction that leaves the number of rows as it is, of a final window: a revision of what changes, and of nothing else.
$sql->(q{SELECT tick.set_watermark('trades', '2024-03-04')});
wait_for($node, q{SELECT bool_and(final) FROM medians});
my $revisions = q{SELECT sum(revision), count(*) FILTER (WHERE updated_at > now() - interval '1 hour') FROM medians WHERE symbol IS DISTINCT FROM 'LATE'};
my $before = $sql->($revisions);
$sql->(q{UPDATE trades SET price = 6 WHERE symbol = 'LATE'; UPDATE trades SET trade_id = -trade_id WHERE symbol = 'S2'});
same('corrections of final windows');
is($sql->(q{SELECT median, revision, final FROM medians WHERE symbol = 'LATE'}), '6|1|t', 'a revision');
is($sql->($revisions), $before, 'of nothing else');
$sql->(q{SELECT tick.refresh('lists'); SELECT tick.refresh('medians', '2024-03-01 12:00+00', '2024-03-01 12:10+00'); TRUNCATE everything_state});
same('recomputed by hand');

# ---- what is shown before it was computed: nothing, or what was there. Nobody may compute while the source is locked.
my $lock = $node->background_psql('postgres');
$sql->(q{SELECT tick.wait(NULL)});
my $median = $sql->(q{SELECT median FROM medians WHERE symbol = 'LATE'});
$lock->query_safe('BEGIN; LOCK TABLE trades_3 IN ACCESS EXCLUSIVE MODE');
$sql->(q{INSERT INTO trades_1 VALUES ('LATE', '2024-03-01 12:00:31+00', 50, 5, 6), ('NEW', '2024-03-01 12:00:31+00', 50, 5, 7)});
wait_for($node, q{SELECT trades = 2 FROM candles_1m WHERE symbol = 'LATE'});
is($sql->(q{SELECT string_agg(symbol || ' ' || n || ' ' || median || ' ' || final, ',') FROM medians WHERE symbol IN ('LATE', 'NEW')}), "LATE 1 $median false", 'the old row, not final; a new one is hidden');
is($sql->(q{SELECT state, lag_ms > 0, pending_deltas FROM tick.status WHERE rollup = 'medians'::regclass}), 'recompute|t|0', 'status');
is($sql->(q{SELECT tick.wait('medians', '100 ms')}), 'f', 'and wait waits');
$lock->query_safe('COMMIT');
$lock->quit;
same('after it');

# ---- the postmaster is killed while rows come and windows are being computed
# One that pg_ctl has started stays behind as a zombie when it is killed: this one is our own child.
my ($server, $servers) = (undef, 0);

sub start_server {
  until_true(60, 'the server takes connections', sub {
    undef $server if $server && waitpid($server->{pid}, POSIX::WNOHANG()) != 0;    # what it had shared was still in use
    $server //= launch('server_' . ++$servers, "$ENV{TICK_BINDIR}/postgres", '-D', $node->data_dir);
    return (eval { $node->psql('postgres', 'SELECT 1') } // 1) == 0;    # a psql that finds no server may have gone before it was told the query
  });
}
$node->stop;
start_server();
for my $round (1 .. 2) {
  $sql->(qq{INSERT INTO trades SELECT 'K' || i % 50, '2024-03-02 14:00+00'::timestamptz + i * interval '150 ms', random() * 100, i % 7, i FROM generate_series(1, 5000) AS i;
    UPDATE trades SET price = price + 1 WHERE ts > '2024-03-02 14:05+00' AND trade_id % 3 = $round});
  wait_for($node, q{SELECT count(*) > 0 FROM tick_catalog.touched}) if $round == 1;
  is(finish($server, 'KILL') & 127, 9, "kill $round");
  start_server();
}
finish($server, 'INT');
$node->start;
$sql->(q{DELETE FROM trades WHERE symbol ~ '^K4'});
same('after kill -9 of the postmaster');
my ($computer) = $sql->(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_tick recompute'}) =~ /^(\d+)$/;
ok($computer, 'one process');
$sql->("SELECT pg_terminate_backend($computer)");
$sql->(q{UPDATE trades SET price = price + 1 WHERE symbol = 'K1'});
same('after it was terminated');

# ---- whose error it is
$sql->(q{INSERT INTO trades VALUES ('BAD', '2024-03-01 12:00+00', -1, 1, 1)});
wait_for($node, q{SELECT state = 'error' FROM tick.status WHERE rollup = 'spreads'::regclass});
is($sql->(q{SELECT last_error FROM tick.status WHERE rollup = 'spreads'::regclass}), 'no price is below zero', 'the failing aggregate sets its rollup aside');
$sql->(q{SELECT tick.wait('medians'), tick.wait('lists'), tick.wait('candles_1m')});
is($sql->(q{SELECT string_agg(v.rollup::text, ',') FROM (SELECT rollup FROM tick.status WHERE state = 'live') AS v, tick.verify(v.rollup)}), '', 'the writer and all others went on');
is($sql->(q{SELECT count(*) FROM medians WHERE symbol = 'BAD'}), '1', 'with the row');
$sql->(q{UPDATE trades SET price = 1 WHERE symbol = 'BAD'; SELECT tick.resume('spreads')});
same('resumed');

# ---- under whose name
$sql->(q{CREATE ROLE limited; GRANT SELECT, TRIGGER ON trades TO limited; GRANT CREATE ON SCHEMA public TO limited; SET ROLE limited;
  SELECT tick.create_rollup('owners', 'SELECT symbol, who(trade_id) AS who FROM trades GROUP BY 1')});
$sql->(q{SELECT tick.wait('owners')});
is($sql->(q{SELECT DISTINCT who FROM owners}), 'limited', 'an aggregate runs as the owner of its rollup');
my (undef, undef, $error) = $node->psql('postgres', 'UPDATE owners_state SET who = 1');
like($error, qr/only its worker writes it/, 'nobody else writes the state');
$sql->(q{REVOKE SELECT ON trades FROM limited; UPDATE trades SET trade_id = trade_id + 1 WHERE symbol = 'S1'});
wait_for($node, q{SELECT state = 'error' FROM tick.status WHERE rollup = 'owners'::regclass});
$sql->(q{SELECT tick.drop_rollup('owners')});

# ---- a dump, restored beside
my $dump = $node->basedir . '/dump.sql';
$sql->(q{UPDATE trades SET price = price + 1 WHERE symbol = 'K2'});
$node->command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ], 'dumped');
$sql->('CREATE DATABASE copy');
$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', $dump, $node->connstr('copy') ], 'restored');
$node->safe_psql('copy', q{INSERT INTO trades VALUES ('COPY', '2024-03-01 12:00+00', 3, 1, 1), ('K2', '2024-03-02 14:00+00', 3, 1, 1)});
$node->safe_psql('copy', q{SELECT tick.wait(NULL, '150 s')});
is($node->safe_psql('copy', q{SELECT count(*) FROM tick.status AS s LEFT JOIN LATERAL tick.verify(s.rollup) AS v ON true WHERE s.state <> 'live' OR v."column" IS NOT NULL}), '0', 'and exact');
is($node->safe_psql('copy', q{SELECT median FROM medians WHERE symbol = 'COPY'}), '3', 'and it goes on');

# ---- rows that have gone for good
same('before a partition goes');
my $old = q{SELECT md5(string_agg(m::text, ',' ORDER BY m)) FROM (SELECT symbol, ts, median, n FROM medians WHERE ts < '2024-03-02') AS m};
my $candles = $sql->($old);
$sql->(q{DROP TABLE trades_1; INSERT INTO trades VALUES ('LATE', '2024-03-01 12:00:45+00', 500, 1, 1)});
wait_for($node, q{SELECT count(*) = 1 FROM tick.stale WHERE rollup = 'medians'::regclass});
$sql->(q{SELECT tick.wait(NULL)});
is($sql->($old), $candles, 'a median of rows that were dropped stays, and is listed as stale');
is($sql->(q{SELECT trades FROM candles_1m WHERE symbol = 'LATE' AND ts = '2024-03-01 12:00+00'}), '3', 'where a count goes on');
is($sql->(q{SELECT count(*) FROM tick.status AS s, tick.verify(s.rollup) AS v}), '0', 'verified from there');

$sql->(q{SELECT tick.drop_rollup(rollup) FROM tick.status WHERE strategy = 'recompute'});
wait_for($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'pg_tick recompute' AND datname = 'postgres'});
pass('the process ends with the last of them');
$node->stop;
done_testing();
