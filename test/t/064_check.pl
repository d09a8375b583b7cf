# `tick-ingest check` on broken configurations: each mistake is named with its line and its cure, and the exit code tells.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

shared_data();
my $dir = $ENV{TESTLOGDIR};
my $node = make_node('check');
my $database = $node->connstr('postgres');
command_ok([ $ENV{TICK_INGEST}, 'init', '--database', $database ], 'init');
$node->safe_psql('postgres', 'CREATE ROLE reader LOGIN; CREATE TABLE narrow (symbol text, at timestamptz); CREATE DATABASE bare');
my $bare = $node->connstr('bare');
my $fake = launch('fake', $ENV{TICK_INGEST}, 'fake', '--symbols', 'BTCUSDT', '--rate', 100);
my $port = fake_port($fake);

# Somebody who answers every connection with this text, and no exchange.
my $answers = 0;

sub answerer {
  my ($text) = @_;
  my $program = 'use IO::Socket::INET; $| = 1; my $l = IO::Socket::INET->new(LocalAddr => "127.0.0.1", Listen => 5) or die;'
    . ' print "listening on 127.0.0.1:", $l->sockport, "\n"; while (my $c = $l->accept) { sysread $c, my $x, 4096; print $c $ARGV[0]; close $c }';
  return fake_port(launch('answer_' . ++$answers, $^X, '-e', $program, $text));
}

my $blocked = answerer("HTTP/1.1 451 Unavailable For Legal Reasons\r\nContent-Length: 0\r\n\r\n");
my $forbidden = answerer("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
my $page = answerer("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
my $mail = answerer("220 mail.example.org ESMTP\r\n");

# A whole configuration in which some lines are replaced: { line number => text }.
my @options;
sub check {
  my (%lines) = @_;
  my @text = ('[feed]', 'name = "binance"', "url = \"ws://127.0.0.1:$port\"", 'symbols = ["BTCUSDT"]', 'max_silence = "60s"', '[database]',
    "conninfo = \"$database\"", 'table = "trades"', '[batch]', 'rows = 10000');
  $text[$_ - 1] = $lines{$_} for keys %lines;
  open my $out, '>', "$dir/tick.toml" or die;
  print $out "$_\n" for @text;
  close $out;
  my ($stdout, $stderr);
  IPC::Run::run([ $ENV{TICK_INGEST}, 'check', '-c', "$dir/tick.toml", @options ], '<', \'', '>', \$stdout, '2>', \$stderr);
  return ($? >> 8, $stdout . $stderr);
}

my ($code, $said) = check();
is($code, 0, 'a good configuration') or diag($said);
like($said, qr/^ok .*^0 mistakes$/ms, 'is said to be good');
like($said, qr/^ok .*a trade came; its time is [\d.]+ s (behind|ahead of) this machine's clock/m, 'and the clocks are compared');
like($said, qr/^ok .*sent -?[\d.]+ s after the trade$/m, 'those of the exchange, too');
like($said, qr/^ok .*missing trades can be fetched/m, 'and REST is asked');

# What is broken, what is said of it (with its line), and the cure.
my @broken = (
  [ 'broken TOML', { 4 => 'symbols = ["BTCUSDT"' }, qr/tick\.toml:[45]: /, qr/(missing|expect|encountered)/i ],
  [ 'a misspelt setting', { 5 => 'max_silense = "60s"' }, qr/tick\.toml:5: unknown setting feed\.max_silense/, qr/did you mean feed\.max_silence\?/ ],
  [ 'a time without unit', { 5 => 'max_silence = "soon"' }, qr/tick\.toml:5: feed\.max_silence/, qr/must be a time such as "20ms"/ ],
  [ 'a count out of range', { 10 => 'rows = 0' }, qr/tick\.toml:10: batch\.rows/, qr/whole number from 1 to/ ],
  [ 'no such feed', { 2 => 'name = "binanse"' }, qr/tick\.toml:2: feed\.name/, qr/must be one of binance, binance\.data, binance\.us, coinbase, .*kraken/ ],
  [ "another exchange's symbol", { 4 => 'symbols = ["BTC-USD"]' }, qr/tick\.toml:4: feed\.symbols.*BTC-USD/, qr/BTCUSD|\[symbols\]/ ],
  [ 'symbols of another kind', { 2 => 'name = "coinlore"', 3 => "url = \"http://127.0.0.1:$port/api/tickers/\"", 4 => 'symbols = ["BTCUSDT"]' },
    qr/tick\.toml:4: feed\.symbols: no row is of BTCUSDT; the rows are of .*BTC/, qr/cure: write symbols as the answer does/ ],
  [ 'no symbols', { 4 => '' }, qr/feed\.symbols: no symbol/, qr/cure: symbols = / ],
  [ 'no server', { 7 => 'conninfo = "host=127.0.0.1 port=1 dbname=postgres"' }, qr/tick\.toml:7: database\.conninfo: .*refused/, qr/cure: is the server running/ ],
  [ 'no extension', { 7 => "conninfo = \"$bare\"" }, qr/tick\.toml:7: database\.conninfo: extension pg_tick is not in database bare/, qr/cure: tick-ingest init/ ],
  [ 'no such table', { 8 => 'table = "tradez"' }, qr/tick\.toml:8: database\.table: there is no table tradez/, qr/cure: tick-ingest init creates it/ ],
  [ 'a table without columns', { 8 => 'table = "narrow"' }, qr/tick\.toml:8: database\.table: table narrow has no column ts/, qr/cure: name a table with symbol, ts and price/ ],
  [ 'no rights', { 7 => "conninfo = \"$database user=reader\"" }, qr/database\.table: reader may not write table trades/, qr/cure: GRANT INSERT, SELECT ON trades TO reader/ ],
  [ 'no such host', { 3 => 'url = "wss://stream.example.invalid"' }, qr/tick\.toml:3: feed\.url: .*resolve/, qr/cure: the address of binance is wss:\/\/stream\.binance\.com/ ],
  [ 'nobody listens', { 3 => 'url = "ws://127.0.0.1:1"' }, qr/tick\.toml:3: feed\.url: .*refused/, qr/cure: the address of binance is/ ],
  [ 'not served in this country', { 3 => "url = \"ws://127.0.0.1:$blocked\"" }, qr/tick\.toml:3: feed\.url: .*status 451: it does not serve this country/, qr/binance\.data/ ],
  [ 'a firewall', { 3 => "url = \"ws://127.0.0.1:$forbidden\"" }, qr/tick\.toml:3: feed\.url: .*status 403/, qr/cure: .*binance\.data/ ],
  [ 'a web page', { 3 => "url = \"ws://127.0.0.1:$page\"" }, qr/tick\.toml:3: feed\.url: .*status 200 instead of a WebSocket/, qr/cure: the address of binance is/ ],
  [ 'a mail server', { 3 => "url = \"ws://127.0.0.1:$mail\"" }, qr/tick\.toml:3: feed\.url: .*does not speak HTTP/, qr/cure: the address of binance is/ ],
  [ 'no REST', { 5 => "[repair]\nurl = \"http://127.0.0.1:$page\"" }, qr/tick\.toml:6: repair\.url: .*gives no history of BTCUSDT/, qr/cure: repair\.url = / ],
  [ 'TLS where there is none', { 3 => "url = \"wss://127.0.0.1:$port\"" }, qr/tick\.toml:3: feed\.url: .*TLS/, qr/cure: /],
);
for my $case (@broken) {
  my ($what, $lines, $mistake, $cure) = @$case;
  my ($exit, $output) = check(%$lines);
  isnt($exit, 0, "$what: the exit code tells");
  ok($output =~ $mistake && $output =~ $cure && $output =~ /^[1-9]\d* mistakes?$/m, "$what: mistake, line and cure") or diag($output);
}

($code, $said) = check(2 => 'name = "binanse"', 5 => 'max_silense = "60s"', 10 => 'rows = "many"');
like($said, qr/tick\.toml:2: .*tick\.toml:5: .*tick\.toml:10: .*^3 mistakes$/ms, 'all mistakes at once, in order of lines');
unlike(join('', map { (check(7 => "conninfo = \"host=127.0.0.1 port=1 password=$_\""))[1] } 'verysecret'), qr/verysecret/, 'no password is shown');
my ($stdout, $stderr);
IPC::Run::run([ $ENV{TICK_INGEST}, 'check', '-c', "$dir/nowhere.toml" ], '<', \'', '>', \$stdout, '2>', \$stderr);
ok($? != 0 && "$stdout$stderr" =~ /nowhere\.toml: cannot be opened/, 'no such file');

# The whole way: the first step that lets nothing through is named.
@options = qw(--end-to-end --role reader);
($code, $said) = check();
is($code, 1, 'end to end, nothing has come yet');
like($said, qr/^MISTAKE  table trades is empty: the feed brings nothing\n +cure: is tick-ingest run/m, 'the feed is named');
my $ingest = launch('run', $ENV{TICK_INGEST}, 'run', '-c', "$dir/tick.toml");
wait_for($node, 'SELECT count(*) > 20 FROM trades');
$node->safe_psql('postgres', q{SELECT tick.wait(NULL, '60 s'); GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader});
($code, $said) = check();
is($code, 0, 'end to end, all is well') or diag($said);
like($said, qr/^ok .*feed binance: last commit [\d.]+ s ago\nok .*table trades: newest tick -?[\d.]+ s old, [\d.]+ rows\/s, \d+ rows taken in/m, 'the feed and the table have figures');
like($said, qr/^ok .*rollup candles_1m: live, last turn [\d.]+ ms after its commit, newest window from 20\S+ \S+, \w+/m, 'a rollup has');
like($said, qr/^ok .*rollup candles_1m: its last hour equals its query$/m, 'and is verified');
like($said, qr/^ok .*rollup latest_price equals its query$/m, 'one without windows, too');
like($said, qr/^ok .*role reader may read latest_price$/m, 'the role is asked for');
# Two quotes in a name, and what there is between a rollup and its reader.
$node->safe_psql('postgres', q{
  SELECT tick.create_rollup('"it''s ""it"""', $$SELECT symbol, tick.tumble(ts, '1 day') AS "the day", count(*) AS n FROM trades GROUP BY 1, 2$$);
  SELECT tick.create_rollup('whales', $$SELECT symbol, count(*) AS n FROM trades WHERE qty > 1e12 GROUP BY 1$$);
  CREATE VIEW joined AS SELECT c.symbol, c.ts FROM candles_1m AS c JOIN latest_price AS l ON c.symbol = lower(l.symbol);
  CREATE VIEW days AS SELECT * FROM "it's ""it""" WHERE final;
  CREATE VIEW over_joined AS SELECT * FROM joined;
  SELECT tick.wait(NULL, '60 s'); GRANT SELECT ON days, whales, joined, over_joined TO reader});
($code, $said) = check();
is($code, 1, 'end to end, with holes');
like($said, $_->[0], $_->[1]) for (
  [ qr/^ok .*rollup "it's ""it""": its last hour equals its query$/m, 'a name with quotes' ],
  [ qr/^MISTAKE  rollup whales is empty although table trades has rows: its WHERE lets none through: .*qty > /m, 'WHERE is named' ],
  [ qr/^MISTAKE  view joined is empty although candles_1m and latest_price have rows: its join key or its WHERE/m, 'the join key is' ],
  [ qr/^MISTAKE  view over_joined is empty as joined is$/m, 'a view over it points there' ],
  [ qr/^MISTAKE  view days is empty: no window is final yet$/m, 'the watermark is' ],
  [ qr/^MISTAKE  role reader may not read "it's ""it"""\n +cure: GRANT SELECT ON "it's ""it""" TO "reader"$/m, 'a missing right is' ]);
$node->safe_psql('postgres', q{CREATE FUNCTION broken(float8) RETURNS float8 IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RAISE ''no luck''; END';
  SELECT tick.create_rollup('unlucky', $$SELECT symbol, sum(broken(qty)) AS n FROM trades GROUP BY 1$$)});
wait_for($node, q{SELECT EXISTS (SELECT FROM tick.status WHERE state = 'error')});
like((check())[1], qr/^MISTAKE  rollup unlucky is set aside: .*no luck.*\n +cure: mend what it says, then SELECT tick.resume\('unlucky'\)$/m, 'a rollup that is set aside');
finish($ingest, 'TERM');
# What stands where no option and no verb is.
for my $case ([ [ 'run', '--symbls', 'BTCUSDT' ], qr/--symbls is not an argument of run; did you mean --symbols\?/ ], [ ['runn'], qr/runn is not a verb; did you mean run\?/ ],
  [ [ 'fake', '--zzzz' ], qr/--zzzz is not an argument of fake; see --help/ ], [ [ 'fake', '--port', $port ], qr/fake on 127\.0\.0\.1:$port: bind: Address already in use$/ ]) {
  my ($out, $err) = ('', '');
  IPC::Run::run([ $ENV{TICK_INGEST}, @{ $case->[0] } ], '>', \$out, '2>', \$err);
  isnt($?, 0, "@{ $case->[0] }: the exit code tells");
  like($err, $case->[1], 'and the words');
}

$node->stop;
stop_all();
done_testing();
