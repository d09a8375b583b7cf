# Tests of the tests: the engine built with planted bugs. Each scenario is exact without its bug and wrong with it.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = make_node('planted', faults => 1, conf => "tick.queue_size = '8kB'\n");

sub plant {
  my ($bug) = @_;
  $node->safe_psql('postgres', "ALTER SYSTEM SET tick.debug_bug = '$bug'");
  $node->reload;
  # Every process has read it once a turn has ended after the reload; new sessions have it anyway.
  wait_for($node, "SELECT current_setting('tick.debug_bug') = '$bug'");
  my $pid = worker_pid($node);
  $node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 10000)") if $pid;
}

# Rows that would have shrunk are kept and listed as stale: noticed as well.
my $differences = q{SELECT (SELECT count(*) FROM tick.verify('candles_1m')) + (SELECT count(*) FROM tick.stale)};

sub request_recompute {
  $node->safe_psql('postgres', q{
    INSERT INTO tick_catalog.pending SELECT id, -9223372036854775808, 9223372036854775807, false FROM tick_catalog.rollup;
    UPDATE tick_catalog.generation SET value = value + 1;
    SELECT tick_catalog.wake()});
}

my $row = "('A', '2024-03-01 12:00:30+00', 7, 1, 1)";

my %scenarios = (
  greatest_xid => sub {
    my $slow = $node->background_psql('postgres');
    $slow->query_safe("BEGIN; INSERT INTO trades VALUES $row");
    $node->safe_psql('postgres', "INSERT INTO trades VALUES $row; SELECT tick.wait(NULL)");
    $node->safe_psql('postgres', 'SELECT tick.wait(NULL)');
    $slow->query_safe('COMMIT');
    $slow->quit;
  },
  no_subtransaction_callback => sub {
    $node->safe_psql('postgres',
      "BEGIN; SAVEPOINT a; INSERT INTO trades_1 VALUES $row; ROLLBACK TO a; INSERT INTO trades VALUES $row; COMMIT");
  },
  snapshot_before_lock => sub {
    my ($planted) = @_;
    my $rewrite = $node->background_psql('postgres');
    $rewrite->query_safe('BEGIN; ALTER TABLE trades ADD COLUMN junk float8 DEFAULT random()');
    my $turns = $node->safe_psql('postgres', 'SELECT turns FROM tick_catalog.worker_counters()');
    request_recompute();
    # With the bug the worker waits for the lock with its snapshot in hand; without it, it goes on and comes again.
    wait_for($node, $planted
      ? q{SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
          WHERE NOT l.granted AND a.backend_type = 'pg_tick worker')}
      : "SELECT turns > $turns + 2 FROM tick_catalog.worker_counters()");
    $rewrite->query_safe('COMMIT');
    $rewrite->quit;
  },
  queue_lock_released => sub {
    my ($planted) = @_;
    my $writer = $node->background_psql('postgres');
    my $table = $writer->query_safe("BEGIN; INSERT INTO trades VALUES $row;
      SELECT oid FROM pg_class WHERE relname ~ '^queue_\\d\$' AND pg_stat_get_xact_tuples_inserted(oid) > 0");
    my $file = "SELECT pg_relation_filenode($table)";
    my $before = $node->safe_psql('postgres', $file);
    # Others go on until the ring has turned: with the bug the table that holds the uncommitted delta is truncated.
    for my $round (1 .. ($planted ? 1000 : 60)) {
      $node->safe_psql('postgres', "INSERT INTO trades SELECT * FROM random_trades(300, $round / 1000.0)");
      last if $node->safe_psql('postgres', $file) ne $before;
    }
    $writer->query_safe('COMMIT');
    $writer->quit;
  },
  chunk_outside_turn => sub {
    my $worker = worker_pid($node);
    # The delta and the request are seen by the same turn: the worker is held until both are there.
    kill 'STOP', $worker;
    $node->safe_psql('postgres', "INSERT INTO trades VALUES $row");
    request_recompute();
    kill 'CONT', $worker;
    $node->safe_psql('postgres', "SELECT tick.wait(NULL, '60 s')");
    $node->safe_psql('postgres', "INSERT INTO trades VALUES $row");
  },
);

for my $bug (sort keys %scenarios) {
  for my $planted ('', $bug) {
    plant($planted);
    $node->safe_psql('postgres', 'DROP TABLE IF EXISTS trades CASCADE');
    make_trades($node, 1);
    $node->safe_psql('postgres', "INSERT INTO trades SELECT * FROM random_trades(500, 0.1)");
    $node->safe_psql('postgres', "SELECT tick.create_rollup('candles_1m', candle_query('1 minute'))");
    $node->safe_psql('postgres', "SELECT tick.wait(NULL, '60 s')");
    wait_for($node, q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'pg_tick worker')});
    $scenarios{$bug}->($planted);
    if ($planted) {
      # Not by tick.wait: with some of the bugs there is no end to it.
      ok(wait_for($node, "SELECT ($differences) > 0"), "$bug: noticed");
    }
    else {
      is($node->safe_psql('postgres', "SELECT tick.wait(NULL, '60 s')"), 't', "$bug: everything merged without it");
      is($node->safe_psql('postgres', $differences), 0, "$bug: exact without it");
    }
  }
}

$node->stop;
done_testing();
