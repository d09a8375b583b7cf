# Posts of Jetstream through the fake exchange, with faults, kills of the ingestor and of PostgreSQL: each post is in once for each
# symbol that it is about, none is missing, and the rollup of their sentiment is exact. Then a scorer of one's own that fails and comes back.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use IO::Socket::INET;
use JSON::PP ();

plan skip_all => 'tick-ingest is not built' unless $ENV{TICK_INGEST} && -x $ENV{TICK_INGEST};
my $seed = $ENV{TICK_SEED} // int(rand 1_000_000);
my $seconds = $ENV{TICK_SOURCE_SECONDS} // 5;
diag("seed $seed (TICK_SEED), $seconds s (TICK_SOURCE_SECONDS)");
my ($rate, $kills) = (400, $seconds > 5 ? 12 : 3);
my $dir = PostgreSQL::Test::Utils::tempdir;
my $node = make_node('posts');
my $database = $node->connstr('postgres');
my @init = ($ENV{TICK_INGEST}, 'init', '--database', $database, '--feed', 'jetstream');
command_ok(\@init, 'init');
command_ok(\@init, 'init again');

# ---- no loss, no duplicate
my $sent = "$dir/sent";
my $trades = $rate * $seconds;
my $fake = launch('fake', $ENV{TICK_INGEST}, 'fake', '--symbols', 'BTCUSDT,ETHUSDT,SYM001USDT', '--rate', $rate, '--seconds', $seconds,
  '--first-id', 1, '--seed', $seed, '--faults', int($trades / 40) . '/' . int($trades * 0.9), '--ping', 1, '--wait', '--post-every', 2, '--sent', $sent);
my $port = fake_port($fake);
my ($ingest, $starts);
sub start {
  my ($feed_port, @more) = @_;
  $ingest = launch('ingest_' . ++$starts, $ENV{TICK_INGEST}, 'run', '--feed', 'jetstream', '--url', "ws://127.0.0.1:$feed_port", '--database', $database,
    '--symbols', 'BTCUSDT,ETHUSDT,SYM001USDT', '--max-silence', '300ms', '--ping', '80ms', '--max-frame', 1_000_000, @more);
}
my ($messages, $again) = (0, 0);
start($port);
my $step = int($trades / 2 * 0.6 / ($kills + 1));
for my $n (1 .. $kills) {
  wait_for($node, 'SELECT count(*) >= ' . $step * $n . ' FROM posts');
  finish($ingest, 'KILL');
  crash($node) if $n % 4 == 2;
  start($port);
}
crash($node);  # and this one lives through it
until_true(120 + $seconds, 'the fake exchange has sent all', sub { slurp($fake->{log}) =~ /everything sent/ });
my %truth = map { $_ => 1 } slurp($sent) =~ /^post (\S+ \S+)$/mg;
my $posts = keys %truth;
cmp_ok($posts, '>', $trades / 2 * 0.5, "$posts posts and symbols were written about");
ok(eval { wait_for($node, "SELECT count(*) = $posts FROM posts"); 1 }, 'all of them came') or diag(slurp($ingest->{log}));
is(finish($ingest, 'TERM'), 0, 'stops cleanly');
finish($fake, 'TERM');
my ($faults) = slurp($fake->{log}) =~ /(faults played:.*)/;
diag($faults // 'no fault summary');
like($faults // '', qr/together [1-9]/, 'faults were played');
my @in = split /\n/, $node->safe_psql('postgres', "SELECT symbol || ' ' || id FROM posts");
is(scalar(grep { !$truth{$_} } @in), 0, 'nothing that was not written');
is(scalar(@in), $posts, 'each post once for each symbol');
is($node->safe_psql('postgres', "SELECT count(*) FROM posts WHERE feed <> 'jetstream' OR sentiment IS NULL OR abs(sentiment) > 1
    OR author <> split_part(id, '/', 1)"), '0', 'every row is whole');
is($node->safe_psql('postgres', "SELECT (tick.position('jetstream', 'posts\@127.0.0.1:$port')->>'record')::int8
    >= extract(epoch FROM max(ts)) * 1000000 - 10000 FROM posts"), 't', 'the position is the cursor');
is($node->safe_psql('postgres', "SELECT count(*) FROM posts WHERE CASE
    WHEN text ~ 'crash|disaster|not bullish|plunge' THEN sentiment > -0.35
    WHEN text ~ 'to the moon|bullish on|upgraded|beats|Not selling' THEN sentiment < 0.35
    ELSE abs(sentiment) > 0.35 END"), '0', 'the lexicon reads them as they are meant');
is($node->safe_psql('postgres', 'SELECT count(DISTINCT sentiment > 0) FROM posts WHERE sentiment <> 0'), '2', 'both moods');

# ---- a scorer of one's own
my $mode = "$dir/mode";
sub mode { open my $out, '>', "$mode.new" or die; print $out $_[0]; close $out; rename "$mode.new", $mode; }
mode('good');
my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 50, ReuseAddr => 1) or die "listen: $!";
my $scorer_port = $listener->sockport;
my $server = fork() // die;
if ($server == 0) {
  $SIG{CHLD} = 'IGNORE';
  while (my $client = $listener->accept) {
    next if fork();
    my ($length, $body) = (0, '');
    while (defined(my $line = <$client>)) {
      $length = $1 if $line =~ /^content-length:\s*(\d+)/i;
      last if $line =~ /^\r?\n$/;
    }
    read $client, $body, $length;
    my $how = slurp($mode);
    select undef, undef, undef, 60 if $how eq 'slow';
    my $texts = JSON::PP->new->utf8->decode($body)->{texts};
    my @scores = map { sprintf '%.1f', length($_) % 21 / 10 - 1 } @$texts;
    pop @scores if $how eq 'short';
    my $answer = '{"scores":[' . join(',', @scores) . ']}';
    my $status = $how eq 'down' ? '500 Internal Server Error' : '200 OK';
    print $client "HTTP/1.1 $status\r\nContent-Type: application/json\r\nContent-Length: " . length($answer) . "\r\nConnection: close\r\n\r\n$answer";
    close $client;
    POSIX::_exit(0);
  }
  POSIX::_exit(0);
}
close $listener;
my $steady = launch('steady', $ENV{TICK_INGEST}, 'fake', '--symbols', 'BTCUSDT,ETHUSDT', '--rate', 40, '--post-every', 1, '--seed', $seed);
my $steady_port = fake_port($steady);
my @scorer = ('--exchange', 'own', '--scorer', "http://127.0.0.1:$scorer_port/score", '--scorer-timeout', '300ms');
my $own = "FROM posts WHERE feed = 'own'";
my $right = 'sentiment = length(text) % 21 / 10.0 - 1';
start($steady_port, @scorer);
wait_for($node, "SELECT count(*) >= 20 $own");
for my $how (qw(down short slow)) {
  mode($how);
  ok(eval { wait_for($node, "SELECT count(*) >= 20 $own AND sentiment IS NULL"); 1 }, "$how: posts are kept without a score")
    or diag(slurp($ingest->{log}));
  if ($how eq 'short') {
    finish($ingest, 'KILL');
    start($steady_port, @scorer);
  }
  my $until = $node->safe_psql('postgres', "SELECT max(ts) $own");
  mode('good');
  ok(eval { wait_for($node, "SELECT count(*) = 0 $own AND sentiment IS NULL AND ts <= '$until'"); 1 }, "$how: and scored when it is back")
    or diag(slurp($ingest->{log}));
}
is($node->safe_psql('postgres', "SELECT count(*) $own AND NOT $right"), '0', 'by that scorer');
like(slurp($ingest->{log}), qr/no scores from http.*\n(.*\n)*.*the scorer answers again/, 'which the log tells');
is(finish($ingest, 'TERM'), 0, 'stops cleanly');
exact($node, 'the rollup of posts, of which some were scored late');

# ---- what check and run say
my @check = ($ENV{TICK_INGEST}, 'check', '--feed', 'jetstream', '--url', "ws://127.0.0.1:$steady_port", '--database', $database, '--symbols', 'BTCUSDT');
command_like(\@check, qr/table posts\n.*events come from .*\n0 mistakes/s, 'check');
command_checks_all([ @check, '--table', 'nothing' ], 1, [qr/no table nothing/], [], 'check: no table');
$node->safe_psql('postgres', 'CREATE TABLE bare (symbol text, ts timestamptz)');
command_checks_all([ @check, '--table', 'bare' ], 1, [qr/no column feed, id, author, text, sentiment/], [], 'check: columns');
open my $out, '>', "$dir/words" or die;
print $out "nonsense\n";
close $out;
command_checks_all([ $ENV{TICK_INGEST}, 'run', '--feed', 'jetstream', '--url', "ws://127.0.0.1:$steady_port", '--database', $database, '--lexicon', "$dir/words" ],
  1, [], [qr/words: line 1: must be VALUE: TERM/], 'a lexicon that is none');
kill 'KILL', $server;
waitpid $server, 0;
stop_all();
done_testing();
