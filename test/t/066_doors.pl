# The ingestor writes by tick.ingest, and by COPY where that refuses a table: the rows are the same, a row that the table
# refuses is left out alone either way, and the way back is found when the reason is gone.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($trades) = shared_data('oracle/XRP_OLD-trades.json.gz');
my $node = make_node('doors');
my $database = $node->connstr('postgres');
my $columns = '(exchange text, symbol text, ts timestamptz, price float8, qty float8 CHECK (qty <> 1000), trade_id int8, is_buyer_maker bool, received_at timestamptz)';
my %setup = (
  fast => '',
  trigger => 'CREATE TRIGGER theirs BEFORE INSERT ON %1$s FOR EACH ROW EXECUTE FUNCTION pass()',
  generated => 'ALTER TABLE %1$s ADD twice float8 GENERATED ALWAYS AS (price * 2) STORED',
  narrow => 'ALTER TABLE %1$s DROP received_at, DROP is_buyer_maker, ALTER symbol TYPE varchar, ALTER ts TYPE timestamp',
  fixed => 'ALTER TABLE %1$s ALTER exchange TYPE char(10)',
);
my %says = (trigger => 'it has a trigger', generated => 'it has generated columns', fixed => 'column "exchange" has type');
$node->safe_psql('postgres', 'CREATE FUNCTION pass() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$');
for my $name (sort keys %setup) {
  $node->safe_psql('postgres', "SET timezone = 'UTC'; CREATE TABLE $name $columns; " . sprintf $setup{$name}, $name);
  $node->safe_psql('postgres', "ALTER DATABASE postgres SET timezone = 'UTC'; SELECT tick.create_rollup('rollup_$name',
    'SELECT symbol, tick.tumble(ts, ''5 minutes'') AS ts, sum(qty) AS volume, count(*) AS trades, tick.last(price, ts, trade_id) AS close FROM $name GROUP BY 1, 2')");
  my ($stdout, $stderr);
  IPC::Run::run([ $ENV{TICK_INGEST}, 'replay', $trades, '--table', $name, '--batch-rows', 777, '--database', $database ],
    '<', \'', '>', \$stdout, '2>', \$stderr);
  is($?, 0, "$name: replay") or diag($stderr);
  if ($says{$name}) { like($stderr, qr/rows go by COPY: .*$says{$name}/, "$name: by COPY, with the reason") }
  else { unlike($stderr, qr/COPY/, "$name: by tick.ingest") }
  my ($refused) = $stderr =~ /(\d+) refused/;
  cmp_ok($refused // 0, '>', 0, "$name: the CHECK refuses rows, $refused of them");
  is($node->safe_psql('postgres', "SELECT count(*) + $refused FROM $name"), '12477', "$name: and those alone");
  is($node->safe_psql('postgres', "SELECT count(*) FROM ((SELECT symbol::text, ts::timestamptz, price, qty, trade_id FROM $name EXCEPT ALL
      SELECT symbol, ts, price, qty, trade_id FROM fast) UNION ALL (SELECT symbol, ts, price, qty, trade_id FROM fast EXCEPT ALL
      SELECT symbol::text, ts::timestamptz, price, qty, trade_id FROM $name)) d"), '0', "$name: the same rows");
}
exact($node, 'all of them');

# Live: a trigger appears, and goes.
command_ok([ $ENV{TICK_INGEST}, 'init', '--database', $database ], 'init');
my $fake = launch('fake', $ENV{TICK_INGEST}, 'fake', '--symbols', 'BTCUSDT', '--rate', 500, '--first-id', 1);
my $ingest = launch('ingest', $ENV{TICK_INGEST}, 'run', '--url', 'ws://127.0.0.1:' . fake_port($fake), '--symbols', 'BTCUSDT', '--database', $database);
my $more = sub { my $n = $node->safe_psql('postgres', 'SELECT count(*) FROM trades'); wait_for($node, "SELECT count(*) > $n + 100 FROM trades") };
$more->();
unlike(slurp($ingest->{log}), qr/COPY/, 'by tick.ingest');
$node->safe_psql('postgres', 'CREATE TRIGGER theirs BEFORE INSERT ON trades FOR EACH ROW EXECUTE FUNCTION pass()');
until_true(20, 'by COPY', sub { slurp($ingest->{log}) =~ /rows go by COPY: .*it has a trigger/ });
$more->();
is($node->safe_psql('postgres', 'SELECT count(*) - count(DISTINCT trade_id) FROM trades'), '0', 'no tick twice');
is($node->safe_psql('postgres', 'SELECT max(trade_id) - min(trade_id) + 1 - count(*) FROM trades'), '0', 'none missing');
is(finish($ingest, 'TERM'), 0, 'the ingestor stops cleanly');
finish($fake, 'TERM');
$node->stop;
stop_all();
done_testing();
