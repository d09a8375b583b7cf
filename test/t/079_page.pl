# The live page in a real browser: candles of a running feed are drawn, a new tick moves the last one within a second, and
# what should not get in does not.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use IO::Socket::INET;
use JSON::PP;
use MIME::Base64;
use Time::HiRes qw(time);

shared_data();
my $node = make_node('page');
my $database = $node->connstr('postgres');
command_ok([ $ENV{TICK_INGEST}, 'init', '--database', $database ], 'init');
my $fake = launch('fake', $ENV{TICK_INGEST}, 'fake', '--symbols', 'BTCUSDT,ETHUSDT', '--rate', 50);
my $ingest = launch('run', $ENV{TICK_INGEST}, 'run', '--url', 'ws://127.0.0.1:' . fake_port($fake), '--symbols', 'BTCUSDT,ETHUSDT',
  '--database', $database, '--listen', '127.0.0.1:0');
my $port = until_true(30, 'the page is served', sub { slurp($ingest->{log}) =~ m{candles on http://127\.0\.0\.1:(\d+)/} && $1 });
wait_for($node, 'SELECT count(DISTINCT symbol) = 2 FROM candles_1m');

# ---- by hand

sub get {
  my ($target, @headers) = @_;
  my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port", Timeout => 10) or die "connect: $!";
  print $socket join("\r\n", "GET $target HTTP/1.1", "Host: 127.0.0.1:$port", @headers, '', '');
  my $answer = '';
  1 while $answer !~ /\r\n\r\n/ && sysread $socket, $answer, 65536, length $answer;
  my ($length) = $answer =~ /Content-Length: (\d+)/i;
  my $head = index($answer, "\r\n\r\n") + 4;
  1 while defined $length && length($answer) < $head + $length && sysread $socket, $answer, 65536, length $answer;
  return $answer;
}
my @upgrade = ('Connection: Upgrade', 'Upgrade: websocket', 'Sec-WebSocket-Version: 13', 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==');
my $html = get('/');
like($html, qr{^HTTP/1\.1 200 .*text/html}s, 'the page');
unlike($html =~ s{<script>/\*!.*?</script>}{}sr, qr{(?:src|href)=|https?://}, 'it loads nothing from elsewhere');
like(get('/live', @upgrade, "Origin: http://127.0.0.1:$port"), qr{^HTTP/1\.1 101}, 'candles for it');
like(get('/live', @upgrade, 'Origin: http://evil.example'), qr{^HTTP/1\.1 403}, 'none for the page of somebody else');
like(get('/other', @upgrade), qr{^HTTP/1\.1 404}, 'nothing else');
wait_for($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'tick-ingest page'});
pass('none while nobody looks');

# ---- in a browser, by its DevTools on a pipe

my ($chromium) = grep { -x } map { "$_/chromium" } split /:/, $ENV{PATH};
my ($to, $from, $number) = (undef, undef, 0);

sub devtools {
  my ($method, $session, %params) = @_;
  my $id = ++$number;
  syswrite $to, encode_json({ id => $id, method => $method, params => \%params, $session ? (sessionId => $session) : () }) . "\0";
  while (1) {
    local $/ = "\0";
    my $line = <$from> // die 'the browser is gone';
    chop $line;
    my $message = decode_json($line);
    next unless ($message->{id} // 0) == $id;
    die "$method: " . encode_json($message->{error}) if $message->{error};
    return $message->{result};
  }
}

SKIP: {
  skip 'no chromium here', 8 unless $chromium;
  pipe my $in, $to;
  pipe $from, my $out;
  my $browser = fork;
  if (!$browser) {
    POSIX::dup2(fileno $in, 3);
    POSIX::dup2(fileno $out, 4);
    open STDERR, '>', "$ENV{TESTLOGDIR}/chromium.log";
    exec $chromium, '--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--remote-debugging-pipe', '--window-size=1000,600',
      "--user-data-dir=" . PostgreSQL::Test::Utils::tempdir_short(), 'about:blank' or POSIX::_exit(127);
  }
  close $_ for $in, $out;
  my $target = devtools('Target.createTarget', undef, url => "http://127.0.0.1:$port/")->{targetId};
  my $session = devtools('Target.attachToTarget', undef, targetId => $target, flatten => JSON::PP::true)->{sessionId};
  my $ask = sub {
    my $result = devtools('Runtime.evaluate', $session, expression => $_[0], returnByValue => JSON::PP::true);
    return $result->{exceptionDetails} ? undef : $result->{result}{value};
  };
  until_true(60, 'a candle is drawn', sub { ($ask->('page.bars().length') // 0) > 0 && $ask->('page.series.data().length') > 0 });
  is($ask->('decodeURIComponent(location.search)'), '?rollup=candles_1m&key=["binance",+"BTCUSDT"]', 'the first rollup and key are chosen');
  is($ask->("[...document.querySelector('#key').options].map(o => o.text).join()"), 'binance BTCUSDT,binance ETHUSDT', 'all keys are offered');
  # Pixels in the colours of candles.
  cmp_ok($ask->(q{(() => { const c = chart.takeScreenshot(), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0;
    for (let i = 0; i < d.length; i += 4) if ((d[i] === 38 && d[i + 1] === 166 && d[i + 2] === 154) || (d[i] === 239 && d[i + 1] === 83 && d[i + 2] === 80)) ++n;
    return n })()}), '>', 20, 'in colours that are seen');
  is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tick-ingest page'}), '1', 'by one connection');
  # A tick that nobody else can have made becomes the high of the last candle.
  my @took;
  for my $round (1 .. 5) {
    my $price = 1_000_000 + $round;
    my $sent = time;
    $node->safe_psql('postgres', "INSERT INTO trades (exchange, symbol, ts, price, qty, trade_id) VALUES ('binance', 'BTCUSDT', now(), $price, 1, -$round)");
    until_true(30, 'the tick is drawn', sub { ($ask->('Math.max(...page.series.data().slice(-2).map(c => c.high))') // 0) == $price });
    push @took, time - $sent;
  }
  @took = sort { $a <=> $b } @took;
  diag(sprintf 'from before INSERT, with the start of psql, to the candle in the browser: %.0f to %.0f ms', $took[0] * 1e3, $took[-1] * 1e3);
  cmp_ok($took[2], '<', 1, 'within a second');
  my $drawn = $ask->('JSON.stringify(page.series.data().map(c => [c.time, c.open]))');
  my $stored = $node->safe_psql('postgres', "SELECT json_agg(json_build_array(extract(epoch FROM ts)::int8, open) ORDER BY ts) FROM candles_1m WHERE symbol = 'BTCUSDT'");
  is_deeply([ map { [ map { $_ + 0 } @$_ ] } @{ decode_json($drawn) } ], [ map { [ map { $_ + 0 } @$_ ] } @{ decode_json($stored) } ], 'what is drawn is what is stored');
  $ask->("document.querySelector('#key').selectedIndex = 1; document.querySelector('#key').onchange()");
  until_true(30, 'another key', sub { ($ask->('page.bars().length') // 0) > 0 && $ask->('page.series.data().at(-1).high < 1000000') });
  like($ask->("document.querySelector('#state').textContent"), qr/^binance\/.*: connected, [\d,]+ rows, [\d.]+ ms behind, UTC$/, 'the state is shown');
  # The database goes away and comes back.
  $node->stop('immediate');
  until_true(30, 'trouble is told', sub { $ask->("document.querySelector('#trouble').textContent !== ''") });
  $node->start;
  until_true(60, 'and it goes on', sub { $ask->("document.querySelector('#trouble').textContent === ''") && $ask->('page.bars().length > 0') });
  pass('over a restart of the database');
  if ($ENV{TICK_SHOTS}) {
    my $shot = devtools('Page.captureScreenshot', $session, format => 'png');
    open my $file, '>:raw', "$ENV{TICK_SHOTS}/live-page.png" or die;
    print $file MIME::Base64::decode_base64($shot->{data});
  }
  kill 'KILL', $browser;
  waitpid $browser, 0;
}
finish($ingest, 'TERM');
exact($node, 'at the end');
$node->stop;
stop_all();
done_testing();
