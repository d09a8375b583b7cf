# The Python of examples/python against a database that moves: each closed bar once, from the token on; the Streamlit chart drawn
# by Streamlit's own test, twice.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $python = $ENV{TICK_PYTHON};
plan skip_all => 'tick-ingest is not built' unless $ENV{TICK_INGEST} && -x $ENV{TICK_INGEST};
plan skip_all => 'no Python with psycopg, pandas and streamlit' unless $python;
my $example = "$FindBin::Bin/../../examples/python";
my $node = make_node('python');
my $database = $node->connstr('postgres');
$ENV{HOME} = PostgreSQL::Test::Utils::tempdir;
sub sql { return $node->safe_psql('postgres', $_[0]); }
command_ok([ $ENV{TICK_INGEST}, 'init', '--database', $database ], 'init');
my $id = 0;
sub trade { my ($ts, $price) = @_; ++$id; sql("INSERT INTO trades (exchange, symbol, ts, price, qty, trade_id) VALUES ('x', 'BTCUSDT', $ts, $price, 1, $id)"); }

# ---- closed bars
my $listen = launch('listen', $python, '-u', "$example/listen.py", $database);
my $bars = sub { return map { join ' ', (split)[-12 .. -1] } grep { /BTCUSDT/ } split /\n/, slurp($listen->{log}); };
wait_for($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%tick.changes(%' AND pid <> pg_backend_pid()");
trade("'2024-03-01 12:00:01+00'", 100);
trade("'2024-03-01 12:00:59+00'", 101);
trade("'2024-03-01 12:01:30+00'", 102);
until_true(60, 'the first bar', sub { $bars->() == 1 });
like(slurp($listen->{log}), qr/2024-03-01 12:00:00\S* +100\.0 +101\.0 +100\.0 +101\.0 +2\.0 +2 .*True +0/, 'a bar is told of when it is closed');
trade("'2024-03-01 12:02:30+00'", 103);
until_true(60, 'the second bar', sub { $bars->() == 2 });
trade("'2024-03-01 12:00:30+00'", 99);
until_true(60, 'a revision', sub { $bars->() == 3 });
like(slurp($listen->{log}), qr/2024-03-01 12:00:00\S* +100\.0 +101\.0 +99\.0 +101\.0 +3\.0 +3 .*True +1/, 'and again when it is revised');
finish($listen, 'KILL');
# What comes while nobody listens is there from the token on, and what was told of is not.
my $code = 'import asyncio, sys; sys.path.insert(0, sys.argv[2]); import listen
async def first(token):
    async for token, bars in listen.closed_bars(sys.argv[1], "candles_1m", token): return token, bars
token, bars = asyncio.run(first(int(sys.argv[3]) if len(sys.argv) > 3 else None)); print(token, len(bars), *bars["close"])';
sub ask { my ($out, $err); IPC::Run::run([ $python, '-c', $code, $database, $example, @_ ], '<', \'', '>', \$out, '2>', \$err) or diag($err); chomp $out; return split / /, $out; }
my ($token, @all) = ask();
is("@all", '2 102.0 101.0', 'without a token all closed bars, as they closed');
trade("'2024-03-01 12:03:30+00'", 104);
my (undef, @rest) = ask($token);
is("@rest", '1 103.0', 'from a token on what has closed since');
exact($node, 'bars');

# ---- the chart
trade('now()', 64000);
sql('SELECT tick.wait(NULL)');
my $draw = 'import sys; from streamlit.testing.v1 import AppTest
app = AppTest.from_file(sys.argv[2], default_timeout=120).run()
assert not app.exception, app.exception
print(app.title[0].value, app.selectbox[0].value, app.metric[0].value, sep="|")
import psycopg
with psycopg.connect(sys.argv[1], autocommit=True) as c:
    c.execute("INSERT INTO trades (exchange, symbol, ts, price, qty, trade_id) VALUES (\'x\', \'BTCUSDT\', now(), 64001.5, 1, 100000)")
    c.execute("SELECT tick.wait(NULL)")
app.run()
assert not app.exception, app.exception
print(app.metric[0].value)';
my ($out, $err) = ('', '');
IPC::Run::run([ $python, '-c', $draw, $database, "$example/chart.py" ], '<', \'', '>', \$out, '2>', \$err);
is($out, "Candles of a minute|BTCUSDT|64000.00\n64001.50\n", 'the chart shows the last price, and a new one') or diag($err);
stop_all();
$node->stop;
done_testing();
