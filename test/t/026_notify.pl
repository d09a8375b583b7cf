# What listeners are told: each change of a rollup, once per turn, and the end of each window exactly once, whatever
# becomes of the worker; and that trouble with telling never stops a merge.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use JSON::PP;

my $node = make_node('notify', faults => 1);
sub sql { return $node->safe_psql('postgres', $_[0]); }
sql(q{CREATE TABLE trades (symbol text, n int, ok bool, ts timestamptz, price float8);
  SELECT tick.add_source('trades', watermark_delay => '0', idle_timeout => '1 hour');
  SELECT tick.create_rollup('minutes', 'SELECT symbol, n, ok, tick.tumble(ts, ''1 minute'') AS ts, count(*) AS c FROM trades GROUP BY 1, 2, 3, 4');
  SELECT tick.create_rollup('latest', 'SELECT symbol, tick.last(price, ts) AS price FROM trades GROUP BY 1');
  INSERT INTO trades VALUES ('old', 1, true, '2024-03-01 11:00:30+00', 1)});
sql('SELECT tick.wait(NULL)');

# Everything that has been heard since the last time.
my %channel = map { $_ => sql("SELECT tick.channel('$_')") } qw(minutes latest);
my $listener = $node->background_psql('postgres');
my @heard;
sub hear {
  my $text = $listener->query('SELECT 1');
  push @heard, map { { channel => $$_[0], %{ decode_json($$_[1]) } } }
    map { [/notification "([^"]*)" with payload "(.*)" received/] } grep { /^Asynchronous notification/ } split /\n/, $text;
  return @heard;
}
sub heard_until { my ($what, $test) = @_; until_true(20, $what, sub { hear(); $test->() }); }
sub closed { return grep { $$_{closed} } @heard; }
$listener->query("LISTEN \"$channel{$_}\"") for keys %channel;

sql(q{INSERT INTO trades VALUES ('A "q"', 7, false, '2024-03-01 12:00:30+00', 1), (NULL, NULL, NULL, '2024-03-01 12:01:10+00', 1)});
heard_until('both rollups', sub { grep({ $$_{rollup} eq 'public.minutes' } @heard) && grep { $$_{rollup} eq 'public.latest' } @heard });
my ($change) = grep { $$_{rollup} eq 'public.minutes' && !$$_{closed} } @heard;
is($$change{from}, '2024-03-01T12:00:00+00:00', 'from the first window changed');
is($$change{to}, '2024-03-01T12:02:00+00:00', 'to the end of the last');
is_deeply([sort { ($$a{n} // 0) <=> ($$b{n} // 0) } @{ $$change{keys} }],
  [{ symbol => undef, n => undef, ok => undef }, { symbol => 'A "q"', n => 7, ok => JSON::PP::false }], 'the keys');
is(sql("SELECT count(*) FROM tick.changes(null::minutes, $$change{token} - 1) WHERE token = $$change{token}"), '3', 'a token: that of the change feed, with the rows that it made final');
my ($latest) = grep { $$_{rollup} eq 'public.latest' } @heard;
is($$latest{channel}, $channel{latest}, 'each on its own channel');
ok(!defined $$latest{from} && !defined $$latest{to}, 'a rollup without a window has no times');

# The windows that the watermark has passed, each once: 11:00 (before anybody listened or after), 12:00.
heard_until('12:00', sub { grep { $$_{from} eq '2024-03-01T12:00:00+00:00' } closed() });
my ($end) = grep { $$_{from} eq '2024-03-01T12:00:00+00:00' } closed();
is("$$end{to} " . ($$end{keys} // 'null'), '2024-03-01T12:01:00+00:00 null', 'a closed window');

# Many keys do not fit into a payload.
@heard = ();
sql(q{INSERT INTO trades SELECT 'key ' || i, i, true, '2024-03-01 12:01:20+00', 1 FROM generate_series(1, 1000) i});
heard_until('many', sub { grep { $$_{rollup} eq 'public.minutes' } @heard });
ok(!defined $heard[0]{keys}, 'many keys: null');

# A hundred windows in random order, some late, with the worker killed in between: each is told of once.
@heard = ();
my $from = '2024-03-02 00:00+00';
for my $round (0 .. 4) {
  sql("INSERT INTO trades SELECT 's', 1, true, '$from'::timestamptz + (random() * 20 + $round * 20) * interval '1 minute', 1 FROM generate_series(1, 60)");
  sql("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE backend_type = 'pg_tick worker'") if $round % 2;
}
sql("INSERT INTO trades VALUES ('s', 1, true, '$from'::timestamptz + interval '3 hours', 1)");
sql('SELECT tick.wait(NULL)');
wait_for($node, "SELECT count(*) <= 1 FROM tick_catalog.open_window");
hear();
my %times;
$times{ $$_{from} }++ for closed();
# 12:01 of the day before was open when the first of these rows came.
is(scalar(grep { /^2024-03-02/ } keys %times), sql("SELECT count(DISTINCT ts) FROM minutes WHERE final AND ts >= '$from'"), 'each window has closed');
is(join(' ', grep { $times{$_} != 1 } keys %times), '', 'once');

# A window whose first row comes late closes too; another late row does not close it again.
@heard = ();
sql("INSERT INTO trades VALUES ('s', 1, true, '2024-03-01 13:00:10+00', 1)");
heard_until('the late one', sub { closed() });
is((closed())[0]{from}, '2024-03-01T13:00:00+00:00', 'a window whose first row is late');
@heard = ();
sql("INSERT INTO trades VALUES ('s', 1, true, '2024-03-01 13:00:20+00', 1), ('t', 1, true, '2024-03-01 13:00:20+00', 1)");
heard_until('its change', sub { grep { $$_{rollup} eq 'public.minutes' } @heard });
sql('SELECT tick.wait(NULL)');
hear();
is(scalar(closed()), 0, 'does not close again');

# Telling fails, as with a full queue: merges go on, and closed windows are told of afterwards.
@heard = ();
sql("ALTER SYSTEM SET tick.debug_bug = 'notify_fails'; SELECT pg_reload_conf()");
wait_for($node, "SELECT setting = 'notify_fails' FROM pg_settings WHERE name = 'tick.debug_bug'");
my $log = -s $node->logfile;
sql("INSERT INTO trades VALUES ('s', 1, true, '2024-03-02 04:00+00', 1)");
until_true(20, 'a report', sub {
  sql("INSERT INTO trades VALUES ('s', 1, true, '2024-03-02 04:00+00', 1)");
  slurp($node->logfile) =~ /cannot notify listeners/;
});
exact($node, 'while nobody can be told');
sql("ALTER SYSTEM RESET tick.debug_bug; SELECT pg_reload_conf()");
heard_until('the window that has closed meanwhile', sub { grep { $$_{from} eq '2024-03-02T03:00:00+00:00' } closed() });
pass('it is told of afterwards');

# Who may not read a rollup does not know its channel; without listeners nothing is sent.
sql('CREATE ROLE stranger LOGIN');
my ($rc, $out, $err) = $node->psql('postgres', "SET ROLE stranger; SELECT tick.channel('minutes')");
like($err, qr/permission denied/, 'the channel is for who may read the rollup');
$listener->quit;
sql("INSERT INTO trades VALUES ('s', 1, true, '2024-03-02 05:00+00', 1)");
exact($node, 'at the end');
$node->stop;
done_testing();
