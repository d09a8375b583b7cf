# The change feed: a consumer that keeps its token gets every row that has changed, closed or gone, each final value once,
# though turns commit asynchronously and the postmaster is killed under it. What listeners hear of is in the feed.
#
#   TICK_CHANGES_KILLS  how often the postmaster is killed (default 3)
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $kills = $ENV{TICK_CHANGES_KILLS} // 3;
my $seed = $ENV{TICK_SEED} // int(rand(1e6));
srand $seed;
diag("seed $seed, $kills kills");

# WAL is written out rarely: what a kill loses is as much as it can be.
my $node = make_node('changes', conf => "wal_writer_delay = 10s\nwal_writer_flush_after = 0\n");
sub sql { return $node->safe_psql('postgres', $_[0]); }
sub refused { my ($query, $why, $what) = @_; my ($rc, $out, $err) = $node->psql('postgres', $query); like($err, $why, $what); }

# ---- what a feed consists of

sql(q{CREATE TABLE trades (venue text, symbol text, at timestamp, price float8, id int8);
  SELECT tick.add_source('trades', watermark_delay => '0', idle_timeout => '1 hour');
  SELECT tick.create_rollup('minutes', 'SELECT symbol, tick.tumble(at, ''1 minute'') AS m, venue, max(price) AS high, count(*) AS n FROM trades GROUP BY 1, 2, 3');
  SELECT tick.create_rollup('latest', 'SELECT symbol, tick.last(price, at) AS price FROM trades GROUP BY 1');
  INSERT INTO trades VALUES ('x', 'A', '2024-03-01 11:00:30', 1, 1), (NULL, 'A', '2024-03-01 11:00:40', 2, 2), ('x', 'B', '2024-03-01 11:01:10', 3, 3);});
sql('SELECT tick.wait(NULL)');
sql('ALTER VIEW minutes RENAME COLUMN venue TO place; ALTER VIEW minutes RENAME COLUMN m TO minute');
my %since;
# Changes of a rollup since the last call, as text, ordered by row.
sub changes {
  my ($rollup, $columns) = @_;
  my $from = $since{$rollup} // 'NULL';
  my $rows = sql("SELECT token, change, $columns FROM tick.changes(null::$rollup, $from) ORDER BY 2, 3, 4, 5");
  for (split /\n/, $rows) {
    my ($token) = /^(\d+)/;
    ok($from eq 'NULL' || $token > $from, "token $token is later than $from");
    $since{$rollup} = $token if !defined $since{$rollup} || $token > $since{$rollup};
  }
  $rows =~ s/^\d+\|//mg;
  return $rows;
}
my $minute = '(candle).symbol, (candle).place, (candle).minute, (candle).high, (candle).n, (candle).final, (candle).revision';
my $price = '(candle).symbol, (candle).price, 0';
is(changes('minutes', $minute), join("\n", 'upsert|A|x|2024-03-01 11:00:00|1|1|t|0', 'upsert|A||2024-03-01 11:00:00|2|1|t|0', 'upsert|B|x|2024-03-01 11:01:00|3|1|f|0'),
  'without a token, all rows');
is(changes('latest', $price), "upsert|A|2|0\nupsert|B|3|0", 'without a window, too');
is(changes('minutes', $minute) . changes('latest', $price), '', 'then nothing');
sql(q{INSERT INTO trades VALUES ('x', 'A', '2024-03-01 11:00:50', 5, 4); SELECT tick.wait(NULL)});
is(changes('minutes', $minute), 'upsert|A|x|2024-03-01 11:00:00|5|2|t|1', 'a late row: the one row that it changed');
is(changes('latest', $price), 'upsert|A|5|0', 'and that of its key');
sql(q{INSERT INTO trades VALUES ('x', 'C', '2024-03-01 11:02:00', 1, 5); SELECT tick.wait(NULL)});
is(changes('minutes', $minute), "upsert|B|x|2024-03-01 11:01:00|3|1|t|0\nupsert|C|x|2024-03-01 11:02:00|1|1|f|0", 'a row that became final as another came');
sql(q{DELETE FROM trades WHERE id IN (2, 3); SELECT tick.wait(NULL)});
is(changes('minutes', '(candle).symbol, (candle).place, (candle).minute, (candle).n'),
  "delete|A||2024-03-01 11:00:00|\ndelete|B|x|2024-03-01 11:01:00|", 'rows that have gone');
is(changes('latest', $price), "delete|B||0\nupsert|A|5|0\nupsert|C|1|0", 'without a window, too');
sql(q{DELETE FROM trades WHERE id = 5; SELECT tick.wait(NULL)});
sql(q{INSERT INTO trades VALUES ('x', 'C', '2024-03-01 11:02:10', 7, 6); SELECT tick.wait(NULL)});
is(changes('minutes', $minute), 'upsert|C|x|2024-03-01 11:02:00|7|1|f|0', 'a row that went and came again');
sql(q{DELETE FROM trades WHERE id = 4; SELECT tick.wait(NULL)});
is(changes('minutes', '(candle).symbol, (candle).place, (candle).minute, (candle).high, (candle).n, (candle).final'),
  'upsert|A|x|2024-03-01 11:00:00|1|1|t', 'a window that is recomputed, as its highest has left');
sql('CREATE ROLE reader LOGIN; GRANT SELECT ON minutes TO reader');
is(sql('SET ROLE reader; SELECT count(*) FROM tick.changes(null::minutes, ' . ($since{minutes} - 1) . ')'), '1', 'who may read the view');
refused('SET ROLE reader; SELECT * FROM tick.changes(null::latest, 1)', qr/permission denied/, 'not others');
refused('SELECT * FROM tick.changes(null::trades, 1)', qr/trades is not the row type of a rollup/, 'not of a table');
refused('SELECT * FROM tick.changes(null::minutes, 1)', qr/changes after token 1 are no longer kept/, 'too old');
refused('SELECT * FROM tick.changes(null::minutes, 1000000000)', qr/token 1000000000 is ahead of this database/, 'not from here');

# The log stays small; a token that it no longer covers is refused, a newer one gives what it should.
my $first = $since{minutes};
sql(q{ALTER SYSTEM SET tick.change_log_size = '32kB'; SELECT pg_reload_conf()});
my $kept = sql('SELECT kept_from FROM tick_catalog.change_log');
sql(q{INSERT INTO trades VALUES ('x', 'D', '2024-03-01 11:03', 9, 9); SELECT tick.wait(NULL)});
is(changes('minutes', $minute), "upsert|C|x|2024-03-01 11:02:00|7|1|t|0\nupsert|D|x|2024-03-01 11:03:00|9|1|f|0", 'another window closes');
my $n = 10;
until_true(60, 'the log has gone round', sub {
  for (1 .. 50) { sql("INSERT INTO trades VALUES ('x', 'D', '2024-03-01 11:03', $n, $n)"); ++$n; }
  sql('SELECT tick.wait(NULL)');
  is(changes('minutes', $minute), 'upsert|D|x|2024-03-01 11:03:00|' . ($n - 1) . '|' . ($n - 9) . '|f|0', 'the newest value') if $n % 100 == 10;
  sql('SELECT kept_from FROM tick_catalog.change_log') > $first;
});
refused("SELECT * FROM tick.changes(null::minutes, $first)", qr/no longer kept/, 'what has been overwritten is not passed over');
sql('ALTER SYSTEM RESET tick.change_log_size; SELECT pg_reload_conf()');
exact($node, 'before the kills');

# ---- the postmaster is killed under a consumer

$node->stop;
my ($server, $servers) = (undef, 0);
my $database = $node->connstr('postgres');
sub ask {
  my ($query) = @_;
  my ($out, $err);
  IPC::Run::run([ 'psql', '-XAtq', '-d', "$database connect_timeout=5", '-v', 'ON_ERROR_STOP=1', '-c', $query ],
    '<', \'', '>', \$out, '2>', \$err) or return undef;
  chomp $out;
  return $out;
}

sub start_server {
  until_true(60, 'the server takes connections', sub {
    undef $server if $server && waitpid($server->{pid}, POSIX::WNOHANG()) != 0;
    $server //= launch('server_' . ++$servers, "$ENV{TICK_BINDIR}/postgres", '-D', $node->data_dir);
    return defined ask('SELECT 1');
  });
}
start_server();
ask(q{CREATE TABLE ticks (symbol int, ts timestamptz, x int8);
  SELECT tick.add_source('ticks', watermark_delay => '100 ms', idle_timeout => '1 s');
  SELECT tick.create_rollup('seconds', 'SELECT symbol, tick.tumble(ts, ''200 ms'') AS ts, sum(x) AS total, count(*) AS n FROM ticks GROUP BY 1, 2')});

# Small commits that nobody waits for, some late, some taken back.
my $writer = "$ENV{TESTLOGDIR}/writer.sql";
open my $out, '>', $writer or die;
print $out "SET synchronous_commit = off;\n";
print $out map {
  "INSERT INTO ticks SELECT i % 5, clock_timestamp() - CASE WHEN random() < 0.02 THEN random() * interval '2 s' ELSE '0' END, (random() * 1000)::int8 FROM generate_series(1, 5) i;\n"
    . ($_ % 20 == 0 ? "DELETE FROM ticks WHERE ts > clock_timestamp() - interval '1 s' AND x % 10 = 3;\n" : '') . "SELECT pg_sleep(0.003) \\g /dev/null\n" } 1 .. 20000;
close $out;
my $hearing = "$ENV{TESTLOGDIR}/listener.sql";
my $channel = ask("SELECT tick.channel('seconds')");
open $out, '>', $hearing or die;
print $out "LISTEN \"$channel\";\n", "SELECT pg_sleep(0.02) \\g /dev/null\n" x 5000;
close $out;
my (@children, @listeners);
sub start_clients {
  push @children, launch("writer_$servers", 'psql', '-XAtq', '-d', $database, '-v', 'ON_ERROR_STOP=1', '-f', $writer);
  push @listeners, launch("listener_$servers", 'psql', '-XAt', '-d', $database, '-v', 'ON_ERROR_STOP=1', '-f', $hearing);
}

my ($since, %mirror, %finals, %tokens, @wrong, $polls) = (undef);
$polls = 0;
sub poll {
  my $rows = ask("SELECT token, change, (candle).symbol, (candle).ts, (candle).total, (candle).n, (candle).final, (candle).revision FROM tick.changes(null::seconds, "
      . ($since // 'NULL') . ')') // return;
  ++$polls;
  my $last = $since // 0;
  for (split /\n/, $rows) {
    my ($token, $change, $symbol, $ts, $total, $n, $final, $revision) = split /\|/;
    push @wrong, "token $token after $last" if defined $since && ($token <= $since || $token < $last);
    $last = $token;
    $tokens{$token} = 1 if defined $since;
    if ($change eq 'delete') { delete $mirror{"$symbol $ts"}; delete $finals{$_} for grep { /^$symbol \Q$ts\E / } keys %finals; next; }
    $mirror{"$symbol $ts"} = "$total|$n|$final|$revision";
    push @wrong, "twice: $symbol $ts $revision $total $n" if $final eq 't' && $finals{"$symbol $ts $revision $total $n"}++;
  }
  $since = $last if $last > 0;
}
for my $kill (1 .. $kills) {
  start_clients();
  my ($until, $enough) = (time + 1 + rand 1.5, $polls + 6);
  poll() while time < $until || ($polls < $enough && time < $until + 60);
  finish($server, 'KILL');
  undef $server;
  finish($_, 'KILL') for splice(@children), splice(@listeners);
  start_server();
}
start_clients();
my $until = time + 1;
poll() while time < $until;
finish($_, 'KILL') for splice(@children), splice(@listeners);
sql('SELECT tick.wait(NULL)');
wait_for($node, "SELECT bool_and(final) FROM seconds");
poll();
my %rows = map { my @f = split /\|/; ("$f[0] $f[1]" => join '|', @f[2 .. 5]) } split /\n/, sql('SELECT symbol, ts, total, n, final, revision FROM seconds');
my @differ = grep { ($mirror{$_} // '') ne ($rows{$_} // '') } keys %{ { %mirror, %rows } };
cmp_ok($polls, '>', 5 * $kills, "$polls polls, " . keys(%rows) . ' rows, ' . keys(%tokens) . ' tokens');
is_deeply([ map { "$_: " . ($mirror{$_} // '-') . ' is ' . ($rows{$_} // '-') } @differ > 5 ? @differ[ 0 .. 4 ] : @differ ], [], 'the consumer has every final value');
is_deeply(\@wrong, [], 'each once, tokens in order');
my %logged = map { $_ => 1 } split /\n/, sql(q{SELECT xid FROM tick_catalog.change_0 UNION SELECT xid FROM tick_catalog.change_1});
is(join(' ', grep { !$logged{$_} } keys %tokens), '', 'no token has vanished');
my %heard = map { $_ => 1 } map { slurp($_) =~ /"token": "(\d+)"/g } glob "$ENV{TESTLOGDIR}/listener_*.log";
cmp_ok(scalar keys %heard, '>', 10 * $kills, keys(%heard) . ' tokens heard');
is(join(' ', grep { !$logged{$_} } keys %heard), '', 'nor one that listeners were told');
exact($node, 'at the end');
finish($server, 'INT', 60);
done_testing();
