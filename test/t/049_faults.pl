# The worker is never in a crash loop: cancelled, terminated, timed out, without room on a disk, with rollups that fail.
# It comes back within seconds, says so in few lines, the other rollups go on, and afterwards everything is exact.
use strict;
use warnings;
# A full disk is a small tmpfs in a mount namespace of this test's own, where the machine allows that.
BEGIN {
  my @namespace = qw(unshare --user --map-current-user --keep-caps --mount);
  if (!$ENV{TICK_TEST_NAMESPACE} && system(join ' ', @namespace, 'true 2>/dev/null') == 0) {
    local $ENV{TICK_TEST_NAMESPACE} = 1;
    local $ENV{PERL5LIB} = join ':', @INC;
    exec @namespace, $^X, $0;
  }
}
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use POSIX ();
use Test::More;
use Time::HiRes qw(time);

sub small_disk {
  my ($dir, $megabytes) = @_;
  my %call = (x86_64 => 165, aarch64 => 40);
  my $mount = $call{ (POSIX::uname())[4] };
  return 0 unless $ENV{TICK_TEST_NAMESPACE} && $mount;
  mkdir $dir;
  my ($device, $type, $flags, $options) = ('none', 'tmpfs', 0, "size=${megabytes}m,mode=700");
  return syscall($mount, $device, $dir, $type, $flags, $options) == 0;
}

my $node = make_node('faults', conf => "max_worker_processes = 16\n");
# Whatever this test sets for the server, its own sessions are free of it.
$ENV{PGOPTIONS} = join ' ', map { "-c $_" } qw(statement_timeout=0 lock_timeout=0 idle_in_transaction_session_timeout=0
  idle_session_timeout=0 default_transaction_read_only=off session_replication_role=origin default_transaction_isolation=read\\_committed
  search_path=public standard_conforming_strings=on array_nulls=on transform_null_equals=off DateStyle=ISO TimeZone=UTC extra_float_digits=1);
$ENV{PGOPTIONS} =~ s/_committed/ committed/;

make_trades($node, 1);
sub sql { return $node->safe_psql('postgres', $_[0]) }
sub state_of { return sql("SELECT state || coalesce(': ' || last_error, '') FROM tick.status WHERE rollup = '$_[0]'::regclass") }
sub log_size { return -s $node->logfile }
# What the server has said since then that concerns us.
sub said_since {
  my ($from) = @_;
  return grep { /pg_tick|rollup/ && !/STATEMENT|HINT|statement:|^\t/ } split /\n/, PostgreSQL::Test::Utils::slurp_file($node->logfile, $from);
}
sql(q{SELECT tick.create_rollup('candles_1m', candle_query('1 minute'));
  SELECT tick.create_rollup('by_symbol', 'SELECT symbol, count(*) AS n, max(price) AS high, sum(qty) AS q FROM trades GROUP BY 1')});

# A writer that goes on until it is told to stop; every statement is a transaction.
my $feeds = 0;
sub start_feed {
  my ($name) = @_;
  my $seed = ++$feeds / 100;
  sql('CREATE TABLE IF NOT EXISTS go_on ()');
  return launch($name, 'psql', '-XqAt', '-d', $node->connstr('postgres'), '-c', qq{SELECT setseed($seed)}, '-c',
    q{DO $$ BEGIN WHILE to_regclass('go_on') IS NOT NULL LOOP
        INSERT INTO trades SELECT 'S' || (random() * 7)::int, '2024-03-01 12:00+00'::timestamptz + floor(random() * 18000) * interval '100 ms',
          (100 + floor(random() * 10000) / 100)::float8, floor(random() * 1e6) / 1e4, i FROM generate_series(1, 5) AS i;
        COMMIT; PERFORM pg_sleep(0.003); END LOOP; END $$});
}
sub end_feed {
  my ($feed) = @_;
  sql('DROP TABLE go_on');
  waitpid $feed->{pid}, 0;
  is($?, 0, "$feed->{name} was never failed") or diag(slurp($feed->{log}));
  $feed->{status} = $?;
}
# Calls a function of pg_signal_backend's for the worker every 50 ms.
sub pester {
  my ($function, $seconds) = @_;
  my $count = int($seconds / 0.05);
  return sql(qq{DO \$\$ DECLARE hits int := 0; BEGIN FOR i IN 1 .. $count LOOP
      IF EXISTS (SELECT $function(pid) FROM pg_stat_activity WHERE backend_type = 'pg_tick worker') THEN hits := hits + 1; END IF;
      PERFORM pg_stat_clear_snapshot(); PERFORM pg_sleep(0.05); END LOOP;
    PERFORM set_config('tick_test.hits', hits::text, false); END \$\$;
    SELECT current_setting('tick_test.hits')});
}

# ---- cancelled: nothing to cancel between turns, a turn is done again; the process stays.
my $feed = start_feed('cancelled feed');
wait_for($node, 'SELECT count(*) > 100 FROM trades');
my $log = log_size();
my $pid = worker_pid($node);
my $hits = pester('pg_cancel_backend', 5);
cmp_ok($hits, '>', 80, 'cancelled every 50 ms');
is(worker_pid($node), $pid, 'the same worker is there');
my $began = time;
sql("SELECT tick.wait(NULL, '10 s')");
cmp_ok(time - $began, '<', 3, 'and up to date at once');
cmp_ok(scalar(said_since($log)), '<=', 3, 'with few words') or diag(join "\n", said_since($log));

# ---- terminated: it comes back a second after its last start.
$log = log_size();
$hits = pester('pg_terminate_backend', 8);
cmp_ok($hits, '>=', 3, 'terminated whenever it was there');
$began = time;
wait_for($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'pg_tick worker'});
is(sql("SELECT tick.wait(NULL, '20 s')"), 't', 'worker restarted');
cmp_ok(time - $began, '<', 5, 'soon');
cmp_ok(scalar(said_since($log)), '<=', 40, 'few lines a restart') or diag(join "\n", said_since($log));
pester($_, 2) for qw(pg_cancel_backend pg_terminate_backend);
end_feed($feed);
exact($node, 'after all that');

# ---- hostile settings, for the server, the database and the role
$feed = start_feed('feed under timeouts');
$log = log_size();
my @hostile = ([ statement_timeout => '1ms' ], [ lock_timeout => '1ms' ], [ idle_in_transaction_session_timeout => '1ms' ],
  [ idle_session_timeout => '1ms' ], [ default_transaction_read_only => 'on' ], [ default_transaction_isolation => 'serializable' ],
  [ default_transaction_deferrable => 'on' ], [ search_path => 'nowhere' ], [ standard_conforming_strings => 'off' ],
  [ array_nulls => 'off' ], [ transform_null_equals => 'on' ], [ TimeZone => 'America/Santiago' ], [ DateStyle => 'SQL, DMY' ],
  [ IntervalStyle => 'iso_8601' ], [ extra_float_digits => '-15' ], [ bytea_output => 'escape' ], [ row_security => 'off' ],
  [ quote_all_identifiers => 'on' ], [ session_replication_role => 'replica' ], [ enable_indexscan => 'off' ]);
my $role = sql('SELECT quote_ident(current_user)');
for my $scope ('SYSTEM', 'DATABASE postgres', "ROLE $role", "ROLE $role IN DATABASE postgres") {
  $node->safe_psql('postgres', "ALTER $scope SET $_->[0] = '$_->[1]'") for @hostile;
  sql('SELECT pg_reload_conf()');
  sql(q{SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE backend_type = 'pg_tick worker'});
  sql("DELETE FROM trades WHERE symbol = 'S3' AND ts < '2024-03-01 12:10+00'; SELECT tick.refresh('candles_1m')");
  is(sql("SELECT tick.wait(NULL, '20 s')"), 't', "up to date with hostile settings of $scope");
  $node->safe_psql('postgres', "ALTER $scope RESET ALL");
}
sql('SELECT pg_reload_conf()');
cmp_ok(scalar(said_since($log)), '<=', 40, 'in few words') or diag(join "\n", said_since($log));
end_feed($feed);
exact($node, 'after hostile settings');

# ---- rollups that fail: they are set aside once, the others are not held up, the writers neither
sql(q{CREATE FUNCTION inner_price(x float8) RETURNS float8 LANGUAGE sql IMMUTABLE AS 'SELECT x';
  CREATE FUNCTION outer_price(x float8) RETURNS float8 LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN public.inner_price(x); END';
  CREATE FUNCTION direct_price(x float8) RETURNS float8 LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN x; END';
  CREATE TABLE big (k text, n int8);
  SELECT tick.create_rollup('ratio', 'SELECT symbol, sum(price / qty) AS r FROM trades GROUP BY 1');
  SELECT tick.create_rollup('called', 'SELECT symbol, sum(outer_price(price)) AS r FROM trades GROUP BY 1');
  SELECT tick.create_rollup('direct', 'SELECT symbol, sum(direct_price(price)) AS r FROM trades GROUP BY 1');
  SELECT tick.create_rollup('counts', 'SELECT k, count(*) AS n, sum(n::int4) AS s FROM big GROUP BY 1')});
sql("DELETE FROM trades WHERE qty = 0; SELECT tick.wait(NULL, '20 s')");
sql("SELECT tick.resume(rollup) FROM tick.status WHERE state = 'error'");
exact($node, 'before any error');
$log = log_size();
$feed = start_feed('feed beside failing rollups');
sql("INSERT INTO trades VALUES ('S1', '2024-03-01 12:00+00', 1, 0, 1)");
sql("INSERT INTO big VALUES ('a', 1), ('a', 5000000000)");
sql('DROP FUNCTION inner_price(float8)');
sql('INSERT INTO trades SELECT * FROM random_trades(10, 0.77)');
wait_for($node, qq{SELECT count(*) = 3 FROM tick.status WHERE rollup IN ('ratio'::regclass, 'called'::regclass, 'counts'::regclass) AND state = 'error'});
is(state_of('ratio'), 'error: division by zero', 'division by zero');
like(state_of('called'), qr/^error: function public.inner_price\(double precision\) does not exist/, 'a dropped function');
is(state_of('counts'), 'error: integer out of range', 'overflow');
my ($rc, $out, $err) = $node->psql('postgres', 'DROP FUNCTION direct_price(float8)');
like($err, qr/other objects depend on it.*direct/s, 'a function that a rollup calls itself is not dropped');
sql('DROP FUNCTION direct_price(float8) CASCADE');
is(sql("SELECT to_regclass('direct') IS NULL AND NOT EXISTS (SELECT FROM tick.status WHERE rollup::text = 'direct')"), 't', 'or with it');
# Deltas are read after the type of something in them has gone; one that cannot be read any more stops only its group.
my $own = q{INSERT INTO trades SELECT 'S1', '2024-03-01 12:00+00', 1, 1, 1, 'glad'};
for my $ended (0, 1) {
  sql(q{CREATE TYPE mood AS ENUM ('sad', 'glad'); ALTER TABLE trades ADD COLUMN feeling mood;
    SELECT tick.create_rollup('moods', 'SELECT symbol, tick.last(feeling, ts) AS f FROM trades GROUP BY 1')});
  sql("$own; SELECT tick.wait('moods')");
  my $end = $ended ? q{SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE backend_type = 'pg_tick worker';} : '';
  sql("BEGIN; $own; $end DROP TYPE mood CASCADE; COMMIT");
  is(sql("SELECT to_regclass('moods') IS NULL"), 't', 'a rollup goes with the type that it reads');
  is(sql("SELECT tick.wait('candles_1m', '20 s')"), 't', 'the others go on');
  like(state_of('by_symbol'), $ended ? qr/^(live|error: cache lookup failed for type \d+)$/ : qr/^live$/, 'those of its group too, if they can');
}
sql(q{SELECT tick.resume('by_symbol') WHERE EXISTS (SELECT FROM tick.status WHERE rollup = 'by_symbol'::regclass AND state = 'error');
  DELETE FROM tick_catalog.held});
my $slowest = 0;
for (1 .. 10) {
  $began = time;
  sql("SELECT tick.wait('candles_1m', '10 s')");
  my $took = time - $began;
  $slowest = $took if $took > $slowest;
}
cmp_ok($slowest, '<', 2, 'the others are not delayed');
my @said = said_since($log);
cmp_ok(scalar(@said), '<=', 12, 'each said once') or diag(join "\n", @said);
end_feed($feed);
sql(q{CREATE FUNCTION inner_price(x float8) RETURNS float8 LANGUAGE sql IMMUTABLE AS 'SELECT x'; DELETE FROM trades WHERE qty = 0;
  DELETE FROM big; SELECT tick.resume(rollup) FROM tick.status WHERE state = 'error'});
exact($node, 'cured and resumed');

# ---- no room on the disk of one state table, and on that of the whole database
SKIP: {
  my ($one, $all) = map { $node->basedir . "/$_" } qw(one all);
  skip 'no mount namespace here', 12 unless small_disk($one, 40) && small_disk($all, 40);
  sql(qq{CREATE TABLESPACE one LOCATION '$one'});
  sql(qq{CREATE TABLESPACE roomy LOCATION '$all'});
  sql(q{CREATE TABLE keys (k text, v float8);
    SELECT tick.create_rollup('few', 'SELECT count(*) AS n, max(v) AS v FROM keys');
    SET default_tablespace = one;
    SELECT tick.create_rollup('by_key', 'SELECT k, count(*) AS n FROM keys GROUP BY 1')});
  is(sql("SELECT spcname FROM pg_class c JOIN pg_tablespace t ON t.oid = c.reltablespace WHERE c.oid = 'by_key_state'::regclass"), 'one',
    'a state table in a tablespace of its own');
  $log = log_size();
  my $ballast = "$one/ballast";
  is(system("head -c 36M /dev/zero > $ballast"), 0, 'a disk with little room');
  $feed = start_feed('feed beside a full disk');
  sql("INSERT INTO keys SELECT repeat(md5(i::text), 20) || i, i FROM generate_series(1, 10000) AS i");
  wait_for($node, q{SELECT state = 'error' FROM tick.status WHERE rollup = 'by_key'::regclass});
  like(state_of('by_key'), qr/could not extend file .*No space left on device/, 'its disk is full');
  $began = time;
  is(sql("SELECT tick.wait('few', '10 s'); SELECT n FROM few"), "t\n10000", 'the others go on');
  cmp_ok(time - $began, '<', 2, 'at once');
  cmp_ok(scalar(said_since($log)), '<=', 6, 'in few words') or diag(join "\n", said_since($log));
  end_feed($feed);
  unlink $ballast;
  sql("SELECT tick.resume('by_key')");
  exact($node, 'with room again');

  # Everybody's disk: nobody is set aside, and nobody has to be resumed.
  sql('CREATE DATABASE full_one TABLESPACE roomy');
  my $other = sub { return $node->safe_psql('full_one', $_[0]) };
  $other->(q{CREATE EXTENSION pg_tick; CREATE TABLE keys (k text, v float8);
    SELECT tick.create_rollup('by_key', 'SELECT k, count(*) AS n, sum(v) AS s FROM keys GROUP BY 1');
    INSERT INTO keys SELECT i, i FROM generate_series(1, 100) AS i; SELECT tick.wait(NULL)});
  $log = log_size();
  $ballast = "$all/ballast";
  # The rows and their delta still fit, the states of their keys do not.
  $other->(q{SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE backend_type = 'pg_tick worker' AND datname = current_database();
    INSERT INTO keys SELECT md5(i::text), i FROM generate_series(1, 20000) AS i});
  system("head -c 64M /dev/zero > $ballast 2>/dev/null");
  wait_for($node, qq{SELECT pg_read_file('@{[$node->logfile]}', $log, 100000000) ~ 'will be run again: could not extend'});
  until_true(10, 'it is tried again', sub { scalar(grep { /full_one|pg_tick/ } said_since($log)) >= 1 });
  cmp_ok(scalar(said_since($log)), '<=', 20, 'in few words') or diag(join "\n", said_since($log));
  unlink $ballast;
  is($other->("SELECT tick.wait(NULL, '30 s')"), 't', 'up to date by itself once there is room');
  is($other->("SELECT count(*) FROM by_key") . $other->("SELECT count(*) FROM tick.verify('by_key')"), '201000', 'and exact');
  is($other->("SELECT state FROM tick.status"), 'live', 'nobody was set aside');
  sql('DROP DATABASE full_one');
  sql('DROP TABLE keys CASCADE');
}
exact($node, 'at the end');
is(sql("SELECT count(*) FROM tick_catalog.held"), '0', 'nothing was held');

$node->stop;
done_testing();
