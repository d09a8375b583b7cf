# What the TAP tests share: a node with pg_tick, the oracle loaded, and the check that every test ends with.
package TickTest;

use strict;
use warnings;
use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use FindBin;
use HTTP::Tiny;
use POSIX ();
use Time::HiRes ();

our @EXPORT = qw(make_node exact same_rows same_rollups make_trades background worker_pid wait_for slurp crash crash_worker);

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

# Two queries have the same rows, each as often.
sub same_rows {
  my ($node, $one, $other, $what) = @_;
  is($node->safe_psql('postgres', "SELECT (SELECT count(*) FROM ($one EXCEPT ALL $other) a) + (SELECT count(*) FROM ($other EXCEPT ALL $one) b)"), '0', $what);
}

# The rollups 1m, 5m and all of two tables say the same.
sub same_rollups {
  my ($node, $one, $other) = @_;
  for my $rollup ('1m', '5m', 'all') {
    my ($left, $right) = map { "SELECT to_jsonb(r) - 'revision' - 'updated_at' - 'final' FROM ${_}_$rollup r" } $one, $other;
    same_rows($node, $left, $right, "$one and $other: the same rollup $rollup");
  }
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

# Polls a query until it gives `expected`, also while the server restarts; dies after a bound.
sub wait_for {
  my ($node, $query, $expected) = @_;
  for (1 .. 100) {
    my $found = eval { $node->poll_query_until('postgres', $query, $expected // 't') };
    # A psql that finds no server may have gone before it was told the query.
    next if $@ =~ /Broken pipe/;
    die $@ if $@;
    return $found if $found;
    last;
  }
  die "timed out: $query";
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

# ---- feeds that tell little of what has been: two ingestors side by side
push @EXPORT, qw(side_by_side);

# Pairs of ingestors on one fake exchange of their own. In each round one of every pair meets a fault that the test asks for, and when all are well
# again each is killed while the other is well, in every second round together with the server. Only the one that is to meet a fault leaves a
# connection that is mute before thirty seconds, and it is never alone: no busy machine makes both leave at once.
#   seed, rate, symbols => of the fake   rounds, seconds => at least so many, and so long   pairs => { name => regex of the fake's names of its protocol }
#   options => sub (pair, side, address of the fake): what it is started with   kill_both => 1: to see what is missing then
# Returns first, last: the numbers of the trades between which somebody of each pair has listened; sent: the file that has them; figures: what happened;
# end: ends it all, cleanly, or says how not.
sub side_by_side {
  my ($node, %o) = @_;
  my @kinds = qw(gap mute drop bad-json half-open close-1001 no-pong giant slow close-1006 shutdown reorder close-1012 duplicate);
  my %calm = map { $_ => 1 } qw(gap bad-json slow reorder duplicate);  # the connection lives on
  my $sent = PostgreSQL::Test::Utils::tempdir . '/sent';
  my $fake = launch('side_fake', $ENV{TICK_INGEST}, 'fake', '--first-id', 1, '--seed', $o{seed}, '--rate', $o{rate},
    '--symbols', $o{symbols}, '--ping', 30, '--wait', '--sent', $sent);
  my $port = fake_port($fake);
  my @pairs = sort keys %{ $o{pairs} };
  my (%twin, $starts, %met);
  my $run = sub {
    my ($pair, $side, $patience) = @_;
    $twin{$pair}{$side} = launch("side_${pair}_${side}_" . ++$starts, $ENV{TICK_INGEST}, 'run', '--connection', "side $side of $pair",
      '--max-silence', $patience, '--max-data-silence', $patience, '--max-stream-silence', $patience, '--ping', '400ms', '--max-frame', 1_000_000, '--repair-interval', '5ms',
      $o{options}->($pair, $side, "ws://127.0.0.1:$port"));
  };
  # Those who listen to a pair's feed, the newest last; and how many ever have.
  my $listeners = sub {
    my ($pair) = @_;
    my $log = slurp($fake->{log});
    my @ever = $log =~ /client (\d+) listens \($o{pairs}{$pair}\)/g;
    my %gone = map { $_ => 1 } $log =~ /client (\d+) is gone/g;
    return ([ grep { !$gone{$_} } @ever ], scalar @ever);
  };
  my $ever = sub { map { my $pair = $_; $pair => ($listeners->($pair))[1] } @pairs };
  # Everybody listens (after so many had), and what they heard before is in the table: a batch that was formed afterwards is.
  my $well = sub {
    my (%before) = @_;
    for my $pair (@pairs) {
      until_true(120, "both of $pair listen", sub { my ($now, $all) = $listeners->($pair); @$now == 2 && $all >= ($before{$pair} // 0) });
    }
    my $then = $node->safe_psql('postgres', q{SELECT coalesce(jsonb_object_agg(connection, position), '{}') FROM tick.feeds WHERE connection LIKE 'side %'});
    wait_for($node, 'SELECT count(*) = ' . 2 * @pairs . qq{ FROM tick.feeds f LEFT JOIN jsonb_each('$then') t ON t.key = connection WHERE connection LIKE 'side %'
      AND (position ->> 'batch')::int8 >= 2 + CASE WHEN t.value ->> 'session' = position ->> 'session' THEN (t.value ->> 'batch')::int8 ELSE 0 END});
  };
  my $told = sub { return scalar(() = slurp($sent) =~ /\n/g) };
  my ($hasty, $steady) = qw(a b);  # the hasty one has come last
  $run->($_, $steady, '30s') for @pairs;
  for my $pair (@pairs) {
    until_true(120, "$pair listens", sub { @{ ($listeners->($pair))[0] } });
  }
  $run->($_, $hasty, '1500ms') for @pairs;
  $well->();
  my $first = $told->();
  my ($begun, $round) = (Time::HiRes::time(), 0);
  while ($round < $o{rounds} || Time::HiRes::time() < $begun + $o{seconds}) {
    ++$round;
    my %before = $ever->();
    for my $i (0 .. $#pairs) {
      my $kind = $kinds[($o{seed} + $round + $i * 4) % @kinds];
      my $client = 0;
      until_true(120, "$kind is met", sub {
        my ($now, $all) = $listeners->($pairs[$i]);
        if (@$now == 2 && $now->[-1] != $client) {  # another one than before when a stall made it leave by itself
          $client = $now->[-1];
          $before{ $pairs[$i] } = $all + ($calm{$kind} ? 0 : 1);
          HTTP::Tiny->new->get("http://127.0.0.1:$port/fault/$kind\@$client");
        }
        return slurp($fake->{log}) =~ /fault \Q$kind\E at trade \d+, client $client /;
      });
      ++$met{$kind};
    }
    $well->(%before);
    for my $side ($hasty, $steady) {
      my $other = $side eq 'a' ? 'b' : 'a';
      %before = $ever->();
      finish($twin{$_}{$side}, 'KILL') for @pairs;
      if ($o{kill_both}) { finish($twin{$_}{$other}, 'KILL') for @pairs }
      crash($node) if $round % 2 == 0 && $side eq $hasty;
      if ($o{kill_both}) { $run->($_, $other, '30s') for @pairs }
      $run->($_, $side, $side eq $steady ? '1500ms' : '30s') for @pairs;
      ++$before{$_} for @pairs;
      $well->(%before);
    }
    ($hasty, $steady) = ($steady, $hasty);
  }
  my $last = $told->();
  my $end = sub {
    my @codes = map { my $pair = $_; map { finish($twin{$pair}{$_}, 'TERM') } qw(a b) } @pairs;
    finish($fake, 'TERM');
    return join ' ', grep { $_ } @codes;
  };
  my $figures = sprintf('%.0f s, ', Time::HiRes::time() - $begun) . 2 * $round * @pairs . ' kills, ' . int($round / 2) . ' of PostgreSQL, ' . $round * @pairs . ' faults ('
    . join(', ', map { "$_ $met{$_}" } sort keys %met) . '), ' . ($last - $first) . ' trades';
  return { first => $first, last => $last, sent => $sent, figures => $figures, end => $end };
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
