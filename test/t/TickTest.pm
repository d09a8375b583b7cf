# What the TAP tests share: a node with pg_tick, the oracle loaded, and the check that every test ends with.
package TickTest;

use strict;
use warnings;
use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use FindBin;

our @EXPORT = qw(make_node exact make_trades background worker_pid wait_for slurp);

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

# Polls a query until it gives `expected`; dies after a bound.
sub wait_for {
  my ($node, $query, $expected) = @_;
  $node->poll_query_until('postgres', $query, $expected // 't') or die "timed out: $query";
}

1;
