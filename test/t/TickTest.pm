# What the TAP tests share: a node with pg_tick, the oracle loaded, and the check that every test ends with.
package TickTest;

use strict;
use warnings;
use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use FindBin;
use POSIX ();
use Time::HiRes ();

our @EXPORT = qw(make_node exact make_trades background worker_pid wait_for slurp crash crash_worker);

sub slurp { my ($file) = @_; local $/; open my $in, '<', $file or die "$file: $!"; return <$in>; }

# A running node. conf: more settings; faults: load the build with planted bugs.
sub make_node {
  my ($name, %options) = @_;
  my $node = PostgreSQL::Test::Cluster->new($name);
  $node->init(allows_streaming => $options{streaming} // 0);
  $node->append_conf('postgresql.conf', "restart_after_crash = on\nfsync = off\nmax_prepared_transactions = 10\n");
  $node->append_conf('postgresql.conf', slurp($ENV{TICK_FAULTS_CONF})) if $options{faults};
  $node->append_conf('postgresql.conf', $options{conf}) if $options{conf};
  $node->start;
  $node->safe_psql('postgres', 'CREATE EXTENSION pg_tick');
  $node->safe_psql('postgres', slurp("$FindBin::Bin/../oracle/candles.sql"));
  return $node;
}

# The table most tests use, plain or partitioned by day with a default partition.
sub make_trades {
  my ($node, $partitioned, $name) = @_;
  $name //= 'trades';
  $node->safe_psql('postgres',
    "CREATE TABLE $name (symbol text, ts timestamptz, price float8, qty float8, trade_id int8)"
      . ($partitioned ? ' PARTITION BY RANGE (ts)' : ''));
  return unless $partitioned;
  for my $day (1 .. 3) {
    my $next = $day + 1;
    $node->safe_psql('postgres',
      "CREATE TABLE ${name}_$day PARTITION OF $name FOR VALUES FROM ('2024-03-0$day 00:00+00') TO ('2024-03-0$next 00:00+00')");
  }
  $node->safe_psql('postgres', "CREATE TABLE ${name}_attic PARTITION OF $name DEFAULT");
}

# Every rollup equals its query: by tick.verify, and by built-ins for those named candles_<minutes>m.
sub exact {
  my ($node, $what) = @_;
  my $merged = $node->safe_psql('postgres', "SELECT tick.wait(NULL, '60 s')");
  # An audit of the worker's may ask for a recompute a moment later; that has to end as well.
  $node->poll_query_until('postgres', "SELECT count(*) = 0 FROM tick.status WHERE state = 'recompute'");
  my $bad = $node->safe_psql('postgres',
    "SELECT s.rollup, s.state, s.last_error, v.* FROM tick.status s LEFT JOIN LATERAL tick.verify(s.rollup) v ON true"
      . " WHERE s.state <> 'live' OR v.\"column\" IS NOT NULL LIMIT 10");
  my $candles = $node->safe_psql('postgres',
    "SELECT rollup, oracle_differences(rollup, (substring(rollup::text FROM '^candles_(\\d+)m') || ' min')::interval)"
      . " AS n FROM tick.status WHERE rollup::text ~ '^candles_\\d+m\$'");
  my @wrong = grep { !/\|0$/ } split /\n/, $candles;
  ok($merged eq 't' && $bad eq '' && !@wrong, "$what: exact") or diag("merged $merged\n$bad\n@wrong");
}

sub worker_pid {
  my ($node) = @_;
  return $node->safe_psql('postgres',
    "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_tick worker' AND datname = current_database()");
}

# kill -9 of the worker, which takes the whole server through recovery; back when that is over. A dead process is listed until
# the postmaster has noticed: before, the server still answers.
sub crash_worker {
  my ($node) = @_;
  my $pid = worker_pid($node) or return;
  kill 'KILL', $pid;
  wait_for($node, "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)");
}

# kill -9 of the server, and its start as soon as the last of its processes has noticed.
sub crash {
  my ($node) = @_;
  my ($pid) = slurp($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
  $node->kill9;
  until_true(60, 'the server is gone', sub { !kill 0, $pid });
  until_true(60, 'the server starts again', sub { $node->{_pid} = undef; $node->start(fail_ok => 1) });
}

# Polls a query until it gives `expected`; dies after a bound.
sub wait_for {
  my ($node, $query, $expected) = @_;
  $node->poll_query_until('postgres', $query, $expected // 't') or die "timed out: $query";
}

# ---- other processes: tick-ingest and what else a test starts. Killed at the end, by pid.
push @EXPORT, qw(launch finish any_ended stop_all fake_port shared_data until_true copy_database);
my %started;

# Skips the whole file when tick-ingest, or one of these files of ../shared/data, is not there. Returns their paths.
sub shared_data {
  my @files = @_;
  plan skip_all => 'tick-ingest is not built' unless $ENV{TICK_INGEST} && -x $ENV{TICK_INGEST};
  my @paths = map { ($ENV{TICK_SHARED} // '') . "/data/$_" } @files;
  for my $path (@paths) {
    plan skip_all => "$path is not there" unless -r $path;
  }
  return @paths;
}

# Starts a process with stdout and stderr in a log file; returns { pid, log, name }.
sub launch {
  my ($name, @command) = @_;
  my $log = "$ENV{TESTLOGDIR}/$name.log";
  open my $out, '>', $log or die "$log: $!";
  my $pid = fork() // die "fork: $!";
  if ($pid == 0) {
    open STDIN, '<', '/dev/null';
    open STDOUT, '>&', $out or POSIX::_exit(126);
    open STDERR, '>&', $out;
    { no warnings; exec { $command[0] } @command; }
    POSIX::_exit(127);
  }
  $started{$pid} = 1;
  return { pid => $pid, log => $log, name => $name };
}

# Sends a signal, waits at most `seconds` and returns the exit status as $?; KILL when it takes longer.
sub finish {
  my ($process, $signal, $seconds) = @_;
  my $pid = $process->{pid};
  return $process->{status} if defined $process->{status};
  kill $signal, $pid;
  my $until = time + ($seconds // 30);
  while (waitpid($pid, POSIX::WNOHANG()) == 0) {
    if (time > $until) {
      diag("$process->{name} did not end in time");
      kill 'KILL', $pid;
      $until += 30;
    }
    select undef, undef, undef, 0.02;
  }
  $process->{status} = $?;
  delete $started{$pid};
  return $process->{status};
}

# Waits until some process that was launched ends; returns its pid, its exit status is in $?.
sub any_ended {
  my $pid = waitpid -1, 0;
  delete $started{$pid};
  return $pid;
}

# The port in the first line of a fake exchange.
sub fake_port {
  my ($fake) = @_;
  my $port;
  until_true(20, 'the fake exchange listens', sub { ($port) = slurp($fake->{log}) =~ /^listening on \S+:(\d+)$/m; $port });
  return $port;
}

# Calls `test` until it is true; dies after `seconds`.
sub until_true {
  my ($seconds, $what, $test) = @_;
  my $until = Time::HiRes::time() + $seconds;
  while (1) {
    my $result = $test->();
    return $result if $result;
    die "not within $seconds s: $what" if Time::HiRes::time() > $until;
    select undef, undef, undef, 0.02;
  }
}

# PostgreSQL itself waits 5 s for those who leave a template, which a busy machine may need for a worker's exit; one that
# does not leave at all fails this.
sub copy_database {
  my ($node, $template, $name) = @_;
  my $in = $template eq 'postgres' ? 'template1' : 'postgres';
  until_true(30, "a copy of database $template", sub {
    my ($rc, $out, $err) = $node->psql($in, "CREATE DATABASE $name TEMPLATE $template");
    die $err if $rc && $err !~ /is being accessed by other users/;
    return !$rc;
  });
}

sub stop_all {
  for my $pid (keys %started) {
    kill 'KILL', $pid;
    waitpid $pid, 0;
  }
  %started = ();
}

END {
  my $code = $?;
  stop_all();
  $? = $code;
}

1;
