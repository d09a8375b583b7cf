# Sums of float8 are the exact sum rounded once, bit for bit what Python's math.fsum gives: 1,000 groups of values from
# 1e-8 to 1e13 of both signs, orders of arrival and cuts into batches, late rows, corrections that are subtracted and
# corrections that recompute, and sums made from history.
#
#   FLOAT_ORDERS  orders of arrival (default 6; 20 is the full size)     SEED  the values (default: drawn, and printed)
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'python3 is not there'
  unless `python3 -c 'import math; print(math.fsum([1e100, 1, -1e100]))' 2>&1` eq "1.0\n";
my $seed = $ENV{SEED} || int(rand 1_000_000);
my ($runs, $groups) = ($ENV{FLOAT_ORDERS} || 6, 1000);
diag("seed $seed");

my $oracle = "$FindBin::Bin/../random/floats.py";
my $node = make_node('floats', conf => "max_wal_size = 1GB\ntick.turn_memory = '256kB'\n");
my $dir = $node->basedir;
$node->safe_psql('postgres', q{
  CREATE TABLE flows (run int, id int, k int, ts timestamptz, v float8) PARTITION BY RANGE (ts);
  CREATE INDEX ON flows (run, id)});
# A day a run.
$node->safe_psql('postgres', sprintf "CREATE TABLE flows_%d PARTITION OF flows FOR VALUES FROM ('2024-03-%02d 00:00+00') TO ('2024-03-%02d 00:00+00')",
  $_, $_ + 1, $_ + 2) for 0 .. $runs - 1;

# "by_minute" and "total" can be corrected by subtraction alone; "range" recomputes when its extremes leave.
my $minute = q{SELECT run, k, tick.tumble(ts, '1 minute') AS w, sum(v) AS total, avg(v) AS mean, count(v) AS n%s
  FROM flows GROUP BY 1, 2, 3};
sub create { my ($name, $query) = @_; $node->safe_psql('postgres', "SELECT tick.create_rollup('$name', \$\$$query\$\$)"); }
create('by_minute', sprintf $minute, '');
create('total', 'SELECT run, k, sum(v) AS total, avg(v) AS mean, count(v) AS n FROM flows GROUP BY 1, 2');

command_ok([ 'python3', $oracle, 'make', $seed, $dir, $runs, $groups ], 'the values');
for my $run (0 .. $runs - 1) {
  create('range', sprintf $minute, ', min(v) AS low, max(v) AS high') if $run == int($runs / 2);
  my ($out, $err);
  IPC::Run::run([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-f', "$dir/run_$run.sql" ],
    '<', \'', '>', \$out, '2>', \$err) or die $err;
}
create('later', sprintf $minute, '');
is($node->safe_psql('postgres', "SELECT tick.wait(NULL, '300 s')"), 't', 'merged');

my $windows = q{SELECT run, k, extract(minute FROM w)::int, total, mean, n FROM %s};
for my $rollup (qw(by_minute range later)) {
  compare($rollup, sprintf($windows, $rollup) . ' UNION ALL SELECT run, k, -1, total, mean, n FROM total');
}

sub compare {
  my ($name, $query) = @_;
  $node->safe_psql('postgres', "COPY ($query) TO '$dir/$name.csv' (FORMAT csv)");
  my $found = `python3 $oracle check $seed $groups < $dir/$name.csv 2>&1`;
  like($found, qr/^0 differences in \d{5} sums of $runs runs/m, "$name: bit for bit") or diag($found);
  note($found);
}

# PostgreSQL's own sums, in the order of the table, are not: the values are hard enough to tell.
isnt($node->safe_psql('postgres', 'SELECT count(*) FROM total t JOIN (SELECT run, k, sum(v) AS s FROM flows GROUP BY 1, 2) b
  USING (run, k) WHERE t.total <> b.s'), '0', 'built-in sums differ');

$node->stop;
done_testing();
