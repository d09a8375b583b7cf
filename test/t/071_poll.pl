# Documents that are polled from the fake exchange, which plays faults on them, while the ingestors and PostgreSQL are killed: prices
# of CoinLore and CoinGecko by two ingestors side by side, and news by RSS by one. Nothing is in twice, nothing is missing, everything
# in is what a server told. Then versions (ETag, Last-Modified, 304), Retry-After, and a document that does not move.
#
#   TICK_SOURCE_SECONDS  how long (default 6)     TICK_SEED  repeats faults and kills
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
use List::Util qw(shuffle);
use Time::HiRes qw(time);

plan skip_all => 'tick-ingest is not built' unless $ENV{TICK_INGEST} && -x $ENV{TICK_INGEST};
my $seed = $ENV{TICK_SEED} // int(rand 1_000_000);
my $seconds = $ENV{TICK_SOURCE_SECONDS} // 6;
diag("seed $seed (TICK_SEED), $seconds s (TICK_SOURCE_SECONDS)");
srand $seed;
my %kills = $seconds > 6 ? (ingestor => 10, server => 5) : (ingestor => 2, server => 1);
my $dir = PostgreSQL::Test::Utils::tempdir;
my $node = make_node('poll');
my $database = $node->connstr('postgres');
command_ok([ $ENV{TICK_INGEST}, 'init', '--database', $database, '--feed', 'http', '--table', 'quotes', '--no-rollups' ], 'init');
command_ok([ $ENV{TICK_INGEST}, 'init', '--database', $database, '--feed', 'rss' ], 'init for news');
$node->safe_psql('postgres', q{SELECT tick.create_rollup('quotes_1m', 'SELECT exchange, symbol, tick.tumble(ts, ''1 minute'') AS ts,
  max(price) AS high, count(*) AS n FROM quotes GROUP BY 1, 2, 3')});

# ---- a server that says what a script tells it to (looked at below)
my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 5, ReuseAddr => 1) or die "listen: $!";
my $here = 'http://127.0.0.1:' . $listener->sockport;
my $versions = "$here/price";
my ($first, $second) = ('Tue, 10 Jun 2025 12:00:00 GMT', 'Tue, 10 Jun 2025 12:00:07 GMT');
my $server = fork() // die;
if ($server == 0) {
  close STDOUT;
  close STDERR;
  my $row = sub { qq({"s":"X","t":1749556800,"p":$_[0]}) };
  my $n = 0;
  while (my $client = $listener->accept) {
    my (%header, $path);
    while (defined(my $line = <$client>)) {
      $path //= $1 if $line =~ /^GET (\S+)/;
      $header{lc $1} = $2 if $line =~ /^([\w-]+):\s*(.*?)\r?\n/;
      last if $line =~ /^\r?\n$/;
    }
    if ($path ne '/price') {  # one after the other, each in another way, to what is there
      my %to = ('/moved' => '301 there?x=1', '/there?x=1' => "302 $here/then", '/then' => '307 /last', '/last' => '308 ' . substr("$here/final", 5),
        '/loop' => '302 /loop', '/odd' => '302 ftp://127.0.0.1/price');
      my ($status, $location) = split / /, $to{$path} // '';
      my $body = $location ? '' : $row->(5);
      print $client 'HTTP/1.1 ' . ($location ? "$status Elsewhere\r\nLocation: $location" : '200 OK') . "\r\nContent-Length: " . length($body)
          . "\r\nConnection: close\r\n\r\n$body";
      close $client;
      next;
    }
    my ($etag, $modified) = map { $header{$_} // '' } 'if-none-match', 'if-modified-since';
    open my $log, '>>', "$dir/requests" or die;
    print $log join('|', time, $etag, $modified), "\n";
    close $log;
    my $step = ++$n;
    my ($status, $more, $body) =
        $step == 1 ? ('200 OK', qq(ETag: "one"\r\nLast-Modified: $first\r\n), $row->(1))
      : $step == 2 ? ('304 Not Modified', qq(ETag: "one"\r\n), '')
      : $step == 3 ? ('429 Too Many Requests', "Retry-After: 2\r\n", '')
      : $step == 4 ? ('503 Service Unavailable', 'Retry-After: ' . POSIX::strftime('%a, %d %b %Y %H:%M:%S GMT', gmtime(time + 3)) . "\r\n", '')
      : $step == 5 ? ('200 OK', qq(ETag: "two"\r\n), substr($row->(2), 0, 20))
      : $step == 6 ? ('200 OK', qq(ETag: W/"three"\r\n), $row->(3))
      : $step == 7 ? ('200 OK', "Last-Modified: $second\r\n", $row->(4))
      :              ($modified eq $second && $etag eq '' ? '304 Not Modified' : '500 Oops', '', '');
    print $client "HTTP/1.1 $status\r\n${more}Content-Length: " . length($body) . "\r\nConnection: close\r\n\r\n$body";
    close $client;
  }
  POSIX::_exit(0);
}
close $listener;
END { kill 'KILL', $server if $server }
my $versioned = launch('versions', $ENV{TICK_INGEST}, 'run', '--feed', 'http', '--url', $versions, '--columns', 'symbol=/s,ts=/t,price=/p',
  '--exchange', 'versions', '--connection', 'versions', '--table', 'quotes', '--database', $database, '--poll-interval', '50ms');

# ---- faults and kills
# Prices stand for two seconds, as behind a cache: what a server tells can be asked for twice. Of two ingestors side by side one is
# killed when the other has written since it was started, or since the server was, last.
my ($rate, $age, $sent) = (100, 2, "$dir/sent");
my $trades = $rate * $seconds;
my $fake = launch('fake', $ENV{TICK_INGEST}, 'fake', '--symbols', 'BTCUSDT,ETHUSDT', '--rate', $rate, '--seconds', $seconds, '--seed', $seed,
  '--post-every', 10, '--document-age', $age, '--faults', int($trades / 12) . '/' . int($trades * 0.8), '--sent', $sent);
my $base = 'http://127.0.0.1:' . fake_port($fake);
my %options = (
  coinlore => [ '--url', "$base/api/tickers/?start=0&limit=100", '--symbols', 'BTC,ETH', '--table', 'quotes' ],
  coingecko => [ '--url', "$base/api/v3/simple/price?vs_currencies=usd&include_last_updated_at=true", '--symbols', 'BITCOIN,ETHEREUM', '--table', 'quotes' ],
  rss => [ '--url', "$base/rss", '--symbols', 'BTCUSDT,ETHUSDT' ],
);
my %sides = (rss => ['a'], map { $_ => [ 'a', 'b' ] } qw(coinlore coingecko));
my %rows = (rss => "posts WHERE feed = 'rss'", map { $_ => "quotes WHERE exchange = '$_'" } qw(coinlore coingecko));
my (%ingest, %starts, %stood);
sub position {
  my ($feed, $side) = @_;
  return $node->safe_psql('postgres', "SELECT position ->> 'session', position ->> 'batch' FROM tick.feeds WHERE connection = '$feed $side'");
}
sub start {
  my ($feed, $side) = @_;
  $stood{"$feed $side"} = position($feed, $side);
  $ingest{"$feed $side"} = launch("${feed}_${side}_" . ++$starts{$feed}, $ENV{TICK_INGEST}, 'run', '--feed', $feed, '--database', $database,
    '--connection', "$feed $side", '--poll-interval', '100ms', '--max-silence', '300ms', @{ $options{$feed} });
}
sub all_sent { return slurp($fake->{log}) =~ /everything sent/ }
# What it writes after this moment was read after it.
sub well {
  my ($feed, $side) = @_;
  my $who = "$feed $side";
  return unless defined $stood{$who};
  until_true(60, "$who goes on", sub { all_sent() || position($feed, $side) ne $stood{$who} });
  $stood{$who} = undef;
}
for my $feed (sort keys %options) { start($feed, $_) for @{ $sides{$feed} } }
for my $feed (sort keys %options) { well($feed, $_) for @{ $sides{$feed} } }
my @plan = shuffle((map { my $feed = $_; ($feed) x $kills{ingestor} } sort keys %options), ('server') x $kills{server});
my ($begin, $step, %killed) = (time, $seconds * 0.8 / @plan);
for my $i (0 .. $#plan) {
  my $moment = $begin + ($i + rand) * $step;
  while (time < $moment) { select undef, undef, undef, 0.02 }
  my $feed = $plan[$i];
  if ($feed eq 'server') {
    crash($node);
    for my $other (sort keys %options) { $stood{"$other $_"} //= position($other, $_) for @{ $sides{$other} } }
  } else {
    my $side = $sides{$feed}[ $killed{$feed}++ % @{ $sides{$feed} } ];
    well($feed, $_) for grep { $_ ne $side } @{ $sides{$feed} };
    finish($ingest{"$feed $side"}, 'KILL');
    start($feed, $side);
  }
}
until_true(120 + $seconds, 'the fake exchange has sent all', \&all_sent);

my %posts = map { $_ => 1 } slurp($sent) =~ /^post (\S+ \S+)$/mg;
ok(eval { wait_for($node, 'SELECT count(*) = ' . keys(%posts) . " FROM $rows{rss}"); 1 }, 'all news came') or diag(slurp($ingest{'rss a'}{log}));
is(join(' ', grep { !$posts{$_} } split /\n/, $node->safe_psql('postgres', "SELECT symbol || ' ' || id FROM $rows{rss}")), '', 'and nothing else');
is($node->safe_psql('postgres', "SELECT count(*) - count(DISTINCT (symbol, id)), count(*) FILTER (WHERE sentiment IS NULL OR author <> 'Fake news' OR text !~ '\\\$') FROM $rows{rss}"),
  '0|0', 'each once, and whole');
# Of documents: what they say, symbol by symbol.
sub told {
  my ($feed, $document) = @_;
  return map { [ $_->{symbol}, $document->{info}{time}, $_->{price_usd} ] } @{ $document->{data} } if $feed eq 'coinlore';
  return map { [ uc $_, $document->{$_}{last_updated_at}, $document->{$_}{usd} ] } sort keys %$document;
}
sub answers {
  my ($feed) = @_;
  return grep { ($feed eq 'coinlore') == /"data"/ && !/^\{\}$/ } slurp($sent) =~ /^answer (.*)$/mg;
}
# What was told, as it is in the table.
sub all_told {
  my ($feed) = @_;
  return map { "$_->[0] $_->[1] " . $_->[2] * 1 } map { told($feed, JSON::PP->new->utf8->decode($_)) } answers($feed);
}
sub all_in {
  my ($feed) = @_;
  return map { $_ => 1 } split /\n/, $node->safe_psql('postgres', "SELECT symbol || ' ' || extract(epoch FROM ts)::int8 || ' ' || price FROM $rows{$feed}");
}
# The last document stands for ever; nobody is in the middle of anything.
for my $feed (qw(coingecko coinlore)) {
  my ($last, $since) = ('', time);
  until_true(60, "$feed has the last document", sub {
    my $now = (answers($feed))[-1] // '';
    ($last, $since) = ($now, time) if $now ne $last;
    time > $since + 2 * $age;
  });
}
for my $who (sort keys %ingest) {
  is(finish($ingest{$who}, 'TERM'), 0, "$who stops cleanly");
  unlike(slurp($ingest{$who}{log}), qr/ 0 unchanged/, "$who: was told that nothing is new") unless $who =~ /rss/;
}
for my $feed (qw(coingecko coinlore)) {
  my %told = map { $_ => 1 } all_told($feed);
  my %in = all_in($feed);
  is(join(', ', grep { !$in{$_} } sort keys %told), '', "$feed: nothing is missing") or diag(map { slurp($_->{log}) } @ingest{ "$feed a", "$feed b" });
  is(join(', ', grep { !$told{$_} } sort keys %in), '', "$feed: nothing that was not told");
  is($node->safe_psql('postgres', "SELECT count(*) - count(DISTINCT (symbol, ts, price)) FROM $rows{$feed}"), '0', "$feed: nothing twice");
  cmp_ok(scalar keys %told, '>=', $seconds / $age, "$feed: prices moved");
  diag("$feed: two side by side, " . answers($feed) . ' answers, ' . keys(%told) . " prices told, all in, $kills{ingestor} kills");
}
finish($fake, 'TERM');
my ($faults) = slurp($fake->{log}) =~ /(faults played:.*)/;
diag('rss: ' . keys(%posts) . " posts and symbols; kills: of each feed $kills{ingestor}, PostgreSQL $kills{server}; " . ($faults // 'no fault summary'));
like($faults // '', qr/together [1-9]/, 'faults were played');

# ---- versions: what was asked for, and when
my @asked = until_true(60, 'all of the script was asked for', sub {
  my @lines = -e "$dir/requests" ? split /\n/, slurp("$dir/requests") : ();
  return @lines > 9 ? \@lines : undef;
})->@*;
my (@at, @known);
for (@asked) { my ($time, $etag, $modified) = split /\|/, $_, -1; push @at, $time; push @known, "$etag|$modified" }
is($known[0], '|', 'first: whatever there is');
is($known[$_ - 1], qq("one"|$first), "then what is newer ($_)") for 2 .. 5;
cmp_ok($at[3] - $at[2], '>=', 2, 'Retry-After in seconds is obeyed');
cmp_ok($at[4] - $at[3], '>=', 1.9, 'and as a time');
is($known[5], '|', 'a document that cannot be read is asked for again');
is($known[6], 'W/"three"|', 'a weak version');
is($known[$_], "|$second", "a time alone ($_)") for 7 .. 9;
is(finish($versioned, 'TERM'), 0, 'stops cleanly');
is($node->safe_psql('postgres', "SELECT string_agg(price::text, ' ' ORDER BY price) FROM quotes WHERE exchange = 'versions'"), '1 3 4', 'all prices that were told');

# ---- another address
my @moved = ('--feed', 'http', '--columns', 'symbol=/s,ts=/t,price=/p', '--exchange', 'moved', '--table', 'quotes', '--database', $database);
my $moved = launch('moved', $ENV{TICK_INGEST}, 'run', @moved, '--url', "$here/moved", '--connection', 'moved', '--poll-interval', '50ms');
wait_for($node, "SELECT count(*) = 1 FROM quotes WHERE exchange = 'moved' AND price = 5");
is(finish($moved, 'TERM'), 0, 'followed by 301, 302, 307 and 308 to what is there');
command_checks_all([ $ENV{TICK_INGEST}, 'check', @moved, '--url', "$here/loop" ], 1, [qr,MISTAKE.*redirected more than 5 times\, last to /loop,], [], 'but not for ever');
command_checks_all([ $ENV{TICK_INGEST}, 'check', @moved, '--url', "$here/odd" ], 1, [qr,MISTAKE.*redirected to ftp://127.0.0.1/price\, which is no http address,], [],
  'nor anywhere');

# ---- any document by pointers, from a file that does not move: one row, and then the server says so
my $still = launch('still', $ENV{TICK_INGEST}, 'fake', '--symbols', 'SOLUSDT', '--rate', 50, '--seconds', 1, '--post-every', 2);
my $port = fake_port($still);
until_true(30, 'the fake exchange has sent all', sub { slurp($still->{log}) =~ /everything sent/ });
my @generic = ('--feed', 'http', '--url', "http://127.0.0.1:$port/api/tickers/", '--items', '/data', '--columns',
  'symbol=/symbol,ts=^/info/time,price=/price_usd', '--table', 'quotes', '--database', $database);
command_like([ $ENV{TICK_INGEST}, 'check', @generic ], qr/the answer is understood: 1 rows, SOL at .*\n0 mistakes/s, 'check reads the answer');
my @news = ($ENV{TICK_INGEST}, 'check', '--feed', 'rss', '--database', $database);
command_like([ @news, '--url', "http://127.0.0.1:$port/rss" ], qr/events come from .*\n0 mistakes/s, 'check reads news');
command_checks_all([ @news, '--url', "http://127.0.0.1:$port/api/tickers/" ], 1, [qr/MISTAKE.*broken XML|neither RSS nor Atom/], [], 'check: no news there');
command_checks_all([@news], 1, [qr/feed.name is rss: feed.url must be given/], [], 'check: no address');
my $generic = launch('generic', $ENV{TICK_INGEST}, 'run', @generic, '--poll-interval', '50ms', '--listen', '127.0.0.1:'
    . (my $listen = PostgreSQL::Test::Cluster::get_free_port()));
wait_for($node, "SELECT count(*) = 1 FROM quotes WHERE exchange = 'http' AND symbol = 'SOL'");
until_true(30, 'the server says that nothing has moved', sub {
  IPC::Run::run([ $ENV{TICK_INGEST}, 'status', '--listen', "127.0.0.1:$listen" ], '<', \'', '>', \my $out, '2>', \my $err);
  my ($messages) = $out =~ /"messages":(\d+)/;
  ($messages // 0) > 5;
});
is(finish($generic, 'TERM'), 0, 'stops cleanly');
like(slurp($generic->{log}), qr/stopped: 1 rows committed, ([0-9]+) requests, 0 duplicates, [1-9]\d* unchanged/, 'one row; the rest was unchanged');
exact($node, 'prices and news');
stop_all();
done_testing();
