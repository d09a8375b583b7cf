# Binance, Coinbase and Kraken v2 over TLS into one table under one name; certificates that must be refused, each with a
# message that says why; and who is there but is no exchange.
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
my $ca = "$dir/ca.pem";

sub run_openssl {
  my @command = @_;
  my $result = system "openssl @command >>$dir/openssl.log 2>&1";
  die "openssl @command: see $dir/openssl.log" if $result != 0;
}

# A certificate for a name, signed by the test's authority (or by itself), with these dates.
sub certificate {
  my ($name, $host, %options) = @_;
  my $file = "$dir/$name";
  run_openssl("req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout $file.key -out $file.csr -subj /CN=$host");
  open my $extensions, '>', "$file.ext" or die;
  print $extensions "subjectAltName=DNS:$host\n";
  close $extensions;
  if ($options{self}) {
    run_openssl("x509 -req -in $file.csr -signkey $file.key -days 2 -extfile $file.ext -out $file.pem");
  } else {
    my $dates = $options{expired} ? '-startdate 200101000000Z -enddate 200201000000Z' : '-days 2';
    run_openssl("ca -batch -notext -config $dir/ca.cnf -in $file.csr -out $file.pem -extfile $file.ext $dates");
  }
  return ('--tls-cert', "$file.pem", '--tls-key', "$file.key");
}

plan skip_all => 'openssl is not installed' if system('openssl version >/dev/null 2>&1') != 0;
open my $config, '>', "$dir/ca.cnf" or die;
print $config "[ca]\ndefault_ca=own\n[own]\ndatabase=$dir/index.txt\nserial=$dir/serial\nnew_certs_dir=$dir\n"
  . "certificate=$ca\nprivate_key=$dir/ca.key\ndefault_md=sha256\npolicy=any\nunique_subject=no\n[any]\ncommonName=supplied\n";
close $config;
open my $index, '>', "$dir/index.txt" or die;
close $index;
run_openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout $dir/ca.key -out $ca -days 2 -subj /CN=authority");
open my $serial, '>', "$dir/serial" or die;
print $serial "01\n";
close $serial;

my $fakes = 0;

sub start_fake {
  my @options = @_;
  my $fake = launch('fake_' . ++$fakes, $ENV{TICK_INGEST}, 'fake', '--symbols', 'BTCUSDT', '--rate', 100, @options);
  fake_port($fake);
  my ($port) = until_true(20, 'TLS', sub { slurp($fake->{log}) =~ /^TLS on \S+:(\d+)$/m ? "$1" : undef });
  return ($fake, $port);
}

# ---- one instrument from three exchanges

my $node = make_node('exchanges');
my $database = $node->connstr('postgres');
command_ok([ $ENV{TICK_INGEST}, 'init', '--database', $database ], 'init');
my ($fake, $port) = start_fake(certificate('good', 'localhost'));

my $toml = "$dir/tick.toml";
open my $out, '>', $toml or die;
print $out "[feed]\nsymbols = [\"BTCUSDT\"]\ntls_ca = \"$ca\"\n[symbols]\nBTCUSDT = [\"BTC-USDT\", \"XBT/USDT\"]\n"
  . "[database]\nconninfo = \"$database\"\n";
close $out;
my %path = (binance => '', coinbase => '/', kraken => '/v2');
my %ingest = map {
  $_ => launch("ingest_$_", $ENV{TICK_INGEST}, 'run', '-c', $toml, '--feed', $_, '--url', "wss://localhost:$port$path{$_}")
} sort keys %path;
for my $exchange (sort keys %path) {
  my $there = eval { wait_for($node, "SELECT count(*) > 50 FROM trades WHERE exchange = '$exchange' AND symbol = 'BTCUSDT'"); 1 };
  ok($there, "$exchange over TLS") or diag(slurp($ingest{$exchange}{log}));
}
is(finish($ingest{$_}, 'TERM'), 0, "$_ stops cleanly") for sort keys %path;
is($node->safe_psql('postgres', 'SELECT count(*) FROM (SELECT trade_id FROM trades GROUP BY trade_id
    HAVING count(DISTINCT (price, qty, is_buyer_maker, date_trunc(\'milliseconds\', ts))) > 1) d'), '0', 'they tell the same trades');
is($node->safe_psql('postgres', "SELECT count(*) FROM trades WHERE symbol <> 'BTCUSDT'"), '0', 'under one name');
is($node->safe_psql('postgres', 'SELECT count(*) FROM (SELECT FROM trades GROUP BY exchange, trade_id HAVING count(*) > 1) d'),
  '0', 'each once');
# The oracle knows symbols only: each exchange gets its own.
$node->safe_psql('postgres', "SELECT tick.wait(NULL, '60 s');
  CREATE VIEW by_exchange AS SELECT exchange || ':' || symbol AS symbol, ts, open, high, low, close, volume, trades, vwap FROM candles_1m");
is($node->safe_psql('postgres', "SELECT oracle_differences('by_exchange', '1 min',
    '(SELECT exchange || '':'' || symbol AS symbol, ts, price, qty, trade_id FROM trades) t')"), '0', 'candles by built-ins');
is($node->safe_psql('postgres', 'SELECT count(*) FROM tick.status s, tick.verify(s.rollup)'), '0', 'three exchanges: exact');
$node->stop;

# ---- who is not believed

sub refused {
  my ($what, $url, $pattern, @options) = @_;
  my ($stdout, $stderr);
  IPC::Run::run([ $ENV{TICK_INGEST}, 'record', '--url', $url, '--symbols', 'BTCUSDT', '--limit', 1, @options, "$dir/record" ],
    '<', \'', '>', \$stdout, '2>', \$stderr);
  ok($? != 0 && $stderr =~ $pattern, $what) or diag("exit $?: $stderr");
}

my $trust = ['--tls-ca', $ca];
refused('nobody trusted has signed it', "wss://localhost:$port", qr/refused: .*(self-signed|nobody trusted)/);
refused('an address is no name', "wss://127.0.0.1:$port", qr/refused: it is for another host/, @$trust);
command_ok([ $ENV{TICK_INGEST}, 'record', '--url', "wss://127.0.0.1:$port", '--symbols', 'BTCUSDT', '--limit', 3, '--tls-verify', 'no',
    "$dir/record.gz" ], 'unless it is told to believe everybody');
command_like([ 'sh', '-c', "gzip -dc $dir/record.gz | wc -l" ], qr/^3$/, 'record --limit');
my (undef, $expired) = start_fake(certificate('expired', 'localhost', expired => 1));
refused('expired', "wss://localhost:$expired", qr/refused: it has expired/, @$trust);
my (undef, $elsewhere) = start_fake(certificate('elsewhere', 'stream.example.org'));
refused('wrong host', "wss://localhost:$elsewhere", qr/refused: it is for another host/, @$trust);
my (undef, $self) = start_fake(certificate('self', 'localhost', self => 1));
refused('self-signed', "wss://localhost:$self", qr/refused: it is self-signed; feed.tls_ca/, @$trust);
refused('no TLS there', 'wss://localhost:' . fake_port($fake), qr/TLS handshake/, @$trust);
refused('no such path', 'ws://127.0.0.1:' . fake_port($fake) . '/elsewhere', qr/status 404: no such path; is feed.url right/);
stop_all();
done_testing();
