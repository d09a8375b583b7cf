# The fast door: tick.ingest does to a table what COPY does, row for row and error for error, or refuses before
# the first row. The batches are made here, from the format's description, not by the code under test.
#
#   INGEST_ROUNDS   batches of the random comparison (default 100)    SEED   repeats a run
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Encode ();

my $node = make_node('ingest', conf => "tick.fast_copy = off\n");    # COPY as the triggers have it
my %kind = (boolean => 1, whole => 2, number => 3, time => 4, text => 5, words => 6);

sub string { my ($text) = @_; my $bytes = Encode::encode('UTF-8', $text); return (length $bytes, $bytes) }

# A batch of columns [name, kind, values], undef being NULL.
sub batch {
  my @columns = @_;
  my $rows = scalar @{ $columns[0][2] };
  my $out = pack 'a2CCVv', 'TB', 1, 0, $rows, scalar @columns;
  for my $column (@columns) {
    my ($name, $kind, $values) = @$column;
    my $nulls = grep { !defined } @$values;
    $out .= pack('v/aCC', Encode::encode('UTF-8', $name), $kind{$kind}, $nulls ? 1 : 0);
    $out .= pack('b*', join '', map { defined $_ ? 0 : 1 } @$values) if $nulls;
    if ($kind eq 'boolean') { $out .= pack 'C*', map { $_ ? 1 : 0 } @$values }
    elsif ($kind eq 'number') { $out .= pack 'd<*', map { $_ // 0 } @$values }
    elsif ($kind eq 'text') {
      my @bytes = map { Encode::encode('UTF-8', $_ // '') } @$values;
      $out .= pack('V*', map { length } @bytes) . join '', @bytes;
    } elsif ($kind eq 'words') {
      my (%word, @words);
      my @indexes = map { my $bytes = Encode::encode('UTF-8', $_ // ''); $word{$bytes} //= (push(@words, $bytes), $#words)[1] } @$values;
      my $width = @words <= 256 ? 'C' : @words <= 65536 ? 'v' : 'V';
      $out .= pack('VV*', scalar @words, map { length } @words) . join('', @words);
      $out .= pack('C', { C => 1, v => 2, V => 4 }->{$width}) . pack "$width*", @indexes;
    } else { $out .= pack 'q<*', map { $_ // 0 } @$values }
  }
  return $out;
}

sub ingest_sql { my ($table, $bytes) = @_; return "SELECT inserted, duplicates FROM tick.ingest('$table', '\\x" . unpack('H*', $bytes) . "')" }

# SQLSTATE of a statement, or its output.
sub run {
  my ($sql, %options) = @_;
  my ($rc, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$sql", on_error_stop => 1, %options);
  return $err =~ /ERROR:  (\w{5}):/ ? $1 : $rc == 0 ? $out : $err;
}

# ---- the same as COPY, at random

my $seed = $ENV{SEED} || int(rand(2**31));
srand $seed;
diag("seed $seed");
my $columns = q{symbol text NOT NULL, ts timestamptz NOT NULL, price float8 CONSTRAINT no_66 CHECK (price <> 66), qty float8, trade_id int8,
  small int2, maker bool, note varchar, made timestamp DEFAULT '2024-01-01', number serial};
# The same table twice; of each its rollups, with and without partitions whose columns have another order.
for my $shape (qw(plain parted dedup unique)) {
  for my $name ("${shape}_copy", "${shape}_ingest") {
    my $tail = $shape eq 'parted' || $shape eq 'dedup' ? 'PARTITION BY RANGE (ts)' : '';
    $node->safe_psql('postgres', "CREATE TABLE $name ($columns) $tail");
    if ($tail) {
      $node->safe_psql('postgres', qq{
        CREATE TABLE ${name}_1 PARTITION OF $name FOR VALUES FROM ('2024-03-01 00:00+00') TO ('2024-03-02 00:00+00');
        CREATE TABLE ${name}_2 (gone int, note varchar, made timestamp DEFAULT '2024-01-01', number int DEFAULT nextval('${name}_number_seq') NOT NULL, small int2, maker bool, trade_id int8,
          qty float8, price float8 CONSTRAINT no_66 CHECK (price <> 66), ts timestamptz NOT NULL, symbol text NOT NULL);
        ALTER TABLE ${name}_2 DROP COLUMN gone;
        ALTER TABLE $name ATTACH PARTITION ${name}_2 FOR VALUES FROM ('2024-03-02 00:00+00') TO ('2024-03-03 00:00+00')});
      $node->safe_psql('postgres', "CREATE TABLE ${name}_rest PARTITION OF $name DEFAULT") if $shape eq 'parted';
    }
    $node->safe_psql('postgres', "CREATE UNIQUE INDEX ON $name (symbol, trade_id); CREATE INDEX ON $name ((price * 2)) WHERE maker") if $shape eq 'unique';
    $node->safe_psql('postgres', qq{
      SELECT tick.create_rollup('${name}_1m', \$\$SELECT symbol, tick.tumble(ts, '1 minute') AS ts, tick.first(price, ts, trade_id) AS open, max(price) AS high,
        tick.last(price, ts, trade_id) AS close, sum(qty) AS volume, count(*) AS trades, min(note) AS note FROM $name GROUP BY 1, 2\$\$);
      SELECT tick.create_rollup('${name}_5m', \$\$SELECT symbol, maker, tick.tumble(made, '5 minutes') AS ts, avg(small) AS small, count(note) AS notes
        FROM $name WHERE qty > 0 GROUP BY 1, 2, 3\$\$);
      SELECT tick.create_rollup('${name}_all', \$\$SELECT symbol, sum(price * qty) AS turnover, max(ts) AS ts FROM $name GROUP BY 1\$\$)});
    $node->safe_psql('postgres', "SELECT tick.alter_source('$name', dedup_key => '{symbol}', dedup_id => 'trade_id')") if $shape eq 'dedup';
  }
}

my $base = 762566400;    # 2024-03-01 in seconds since 2000
sub stamp { my ($micros) = @_; return $micros == -2**63 ? '-infinity' : $micros == 2**63 - 1 ? 'infinity' : "\@$micros" }
sub random_column {
  my ($name, $rows, $fault, $ids) = @_;
  my @values;
  for my $row (1 .. $rows) {
    my $value =
        $name eq 'symbol' ? (qw(BTC ETH), "\N{U+DC}n\N{U+EF}code", "S" . int(rand 400))[rand 4]
      : $name eq 'ts' ? ($base + int(rand 2 * 86400)) * 1_000_000 + int(rand 1e6)
      : $name eq 'price' ? int(rand 1e6) / 1000
      : $name eq 'qty' ? (0, -1, rand, 'NaN', 1e-300)[rand 5]
      : $name eq 'trade_id' ? int(rand $ids)
      : $name eq 'small' ? int(rand 65536) - 32768
      : $name eq 'maker' ? int(rand 2)
      : $name eq 'note' ? ("a\tb\\", '', 'x' x rand 50, "\N{U+1F600}", 'N')[rand 5]
      : $base * 1_000_000 + int(rand 86400e6);
    $value = undef if $name !~ /symbol|ts|price/ && rand() < 0.1;
    push @values, $value;
  }
  # One fault that COPY would refuse.
  my $at = int rand $rows;
  $values[$at] = undef if $fault eq "null $name";
  $values[$at] = 66 if $fault eq 'check' && $name eq 'price';
  $values[$at] = 40000 if $fault eq 'range' && $name eq 'small';
  $values[$at] = 4e17 if $fault eq 'partition' && $name eq 'ts';
  return \@values;
}

sub copy_text {
  my ($value, $kind) = @_;
  return '\N' unless defined $value;
  return $value ? 't' : 'f' if $kind eq 'boolean';
  return sprintf '%.17g', $value if $kind eq 'number' && $value ne 'NaN';
  if ($kind eq 'time') {
    my $seconds = POSIX::floor($value / 1_000_000);
    my @t = gmtime($seconds + 946684800);
    return sprintf '%d-%02d-%02d %02d:%02d:%02d.%06d+00', $t[5] + 1900, $t[4] + 1, @t[3, 2, 1, 0], $value - $seconds * 1_000_000;
  }
  $value =~ s/([\\\t\n])/{ "\\" => '\\\\', "\t" => '\t', "\n" => '\n' }->{$1}/ge;
  return Encode::encode('UTF-8', $value);
}

my %kinds = (symbol => 'words', ts => 'time', price => 'number', qty => 'number', trade_id => 'whole', small => 'whole', maker => 'boolean', note => 'text', made => 'time');
my (%results, $differences);
for my $round (1 .. $ENV{INGEST_ROUNDS} || 100) {
  my $shape = (qw(plain parted dedup unique))[rand 4];
  my $rows = (1, 3, 50, 999, 1000, 1001, 2300)[rand 7];
  my $fault = rand() < 0.3 ? ('null symbol', 'null ts', 'check', 'range', 'partition')[rand 5] : '';
  # Of two faults COPY reports the one that its buffers meet first: a unique index has one only without another.
  my $ids = $shape eq 'unique' && ($fault || rand() < 0.5) ? 2**50 : 300;
  $kinds{symbol} = rand() < 0.5 ? 'words' : 'text';
  my @names = sort { rand() <=> 0.5 } grep { /symbol|ts|price/ || rand() < 0.8 } keys %kinds;
  my @made = map { [ $_, $kinds{$_}, random_column($_, $rows, $fault, $ids) ] } @names;
  my $text = join '', map { my $row = $_; join("\t", map { copy_text($_->[2][$row], $_->[1]) } @made) . "\n" } 0 .. $rows - 1;
  my $file = "$ENV{TESTLOGDIR}/rows.txt";
  open my $out, '>', $file or die; print $out $text; close $out;
  my $way = (q{%s}, q{BEGIN; %s; COMMIT}, q{BEGIN; SAVEPOINT a; %s; ROLLBACK TO a; %s; COMMIT}, q{BEGIN; %s; ROLLBACK})[rand 4];
  my $list = join ', ', @names;
  my @done;
  for my $side (qw(copy ingest)) {
    my $do = $side eq 'copy' ? "COPY ${shape}_copy ($list) FROM '$file' (ENCODING 'UTF8')" : ingest_sql("${shape}_ingest", batch(@made));
    (my $sql = $way) =~ s/%s/$do/g;
    my $result = run($sql);
    push @done, $result =~ /^\w{5}$/ && $result =~ /\d/ ? $result : 'done';
  }
  ++$results{"$shape $done[1]"};
  # A number is drawn for each row that came as far; of a batch that failed that may differ.
  my ($count, $extra) = split /\|/, $node->safe_psql('postgres', qq{SELECT (SELECT count(*) FROM ${shape}_copy), (SELECT count(*) FROM
    (SELECT symbol, ts, price, qty, trade_id, small, maker, note, made FROM ${shape}_copy EXCEPT ALL SELECT symbol, ts, price, qty, trade_id, small, maker, note, made FROM ${shape}_ingest) a)
    + (SELECT count(*) FROM ${shape}_ingest) - (SELECT count(*) FROM ${shape}_copy)});
  next if $done[0] eq $done[1] && $extra == 0;
  ++$differences;
  diag("round $round, $shape, $rows rows, fault '$fault', $way: COPY $done[0], tick.ingest $done[1], $extra rows differ");
  last;
}
diag(join ', ', map { "$_: $results{$_}" } sort keys %results);
ok(!$differences, "the same rows and the same errors as COPY, seed $seed");
exact($node, 'all rollups');
same_rollups($node, "${_}_copy", "${_}_ingest") for qw(plain parted dedup unique);
same_rows($node, (map { "SELECT key, from_id, to_id FROM tick.seen WHERE source = 'dedup_$_'::regclass" } qw(copy ingest)), 'the same ids are seen');
cmp_ok($node->safe_psql('postgres', q{SELECT count(*) FROM tick.seen WHERE source = 'dedup_ingest'::regclass}), '>', 0, 'and there are some');

# ---- to the last bit

{
  $node->safe_psql('postgres', 'CREATE EXTENSION pageinspect');
  $node->safe_psql('postgres', "CREATE TABLE bits_$_ (flag bool, label text, small int2, plain text, n int4, ts timestamptz, note varchar, x float8, big int8, end_flag bool);
    ALTER TABLE bits_$_ ALTER plain SET STORAGE PLAIN") for qw(copy ingest);
  my @row = 0 .. 599;
  # Texts of all lengths around those whose header changes; each third row has a NULL.
  my @made = ([ 'flag', 'boolean', [ map { $_ % 2 } @row ] ], [ 'label', 'words', [ map { 'l' x ($_ % 140) } @row ] ], [ 'small', 'whole', [ map { $_ - 300 } @row ] ],
    [ 'plain', 'text', [ map { 'p' x ($_ * 7 % 260) } @row ] ], [ 'n', 'whole', [ map { $_ % 3 ? $_ * 1e5 : undef } @row ] ], [ 'ts', 'time', [ map { ($base + $_) * 1_000_000 } @row ] ],
    [ 'note', 'text', [ map { 'n' x ($_ % 11) } @row ] ], [ 'x', 'number', [ map { $_ / 7 } @row ] ], [ 'big', 'whole', [ map { -$_ * 10**12 } @row ] ],
    [ 'end_flag', 'boolean', [ map { $_ % 5 == 0 ? 1 : 0 } @row ] ]);
  my $file = "$ENV{TESTLOGDIR}/rows.txt";
  open my $out, '>', $file or die;
  for my $row (@row) { print $out join("\t", map { copy_text($_->[2][$row], $_->[1]) } @made) . "\n" }
  close $out;
  run("COPY bits_copy FROM '$file'");
  is(run(ingest_sql('bits_ingest', batch(@made))), '600|0', 'rows of all kinds');
  my $tuples = sub { my ($table) = @_; return "SELECT b, lp, lp_off, lp_len, t_infomask2, t_infomask & 15, t_hoff, t_bits, t_data FROM generate_series(0, pg_relation_size('$table') / 8192 - 1) AS b, heap_page_items(get_raw_page('$table', b::int))" };
  my $both = join ' EXCEPT ALL ', map { $tuples->("bits_$_") } qw(copy ingest);
  my $other = join ' EXCEPT ALL ', map { $tuples->("bits_$_") } qw(ingest copy);
  is($node->safe_psql('postgres', "SELECT (SELECT count(*) FROM (" . $tuples->('bits_copy') . ") t), (SELECT count(*) FROM ($both) a) + (SELECT count(*) FROM ($other) b)"), '600|0', 'the same tuples as COPY makes, bit for bit');
}

# ---- one at a time

sub rows { return batch([ 'symbol', 'words', ['A', 'A', 'B'] ], [ 'ts', 'time', [ map { ($base + $_) * 1_000_000 } 1 .. 3 ] ],
  [ 'price', 'number', [ 1, 2, 3 ] ], [ 'trade_id', 'whole', $_[0] // [ 1, 2, 1 ] ]) }
sub refused { my ($what, $setup) = @_; is(run("BEGIN; $setup; " . ingest_sql('one', rows())), '0A000', "refused: $what") }

$node->safe_psql('postgres', q{CREATE TABLE one (symbol text, ts timestamptz, price float8, qty float8 DEFAULT 7, trade_id int8);
  SELECT tick.create_rollup('one_1m', $$SELECT symbol, tick.tumble(ts, '1 minute') AS ts, count(*) AS n, sum(qty) AS q FROM one GROUP BY 1, 2$$);
  SELECT tick.alter_source('one', dedup_key => '{symbol}', dedup_id => 'trade_id');
  CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TABLE symbols (symbol text PRIMARY KEY); CREATE ROLE someone; CREATE DOMAIN price AS float8});
is(run(ingest_sql('one', rows())), '3|0', 'rows inserted');
is(run(ingest_sql('one', rows([ 2, 3, 1 ]))), '1|2', 'and duplicates counted');
is(run(ingest_sql('one', rows([ 9, 9, 9 ]))), '2|1', 'also within a batch');
is($node->safe_psql('postgres', q{SELECT tick.wait('one_1m'); SELECT sum(n), sum(q) FROM one_1m}), "t\n6|42", 'defaults are filled in, rollups follow');
is(run("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 1; " . ingest_sql('one', rows([ 20, 21, 22 ])) . '; COMMIT'), "1\n3|0", 'in a serializable transaction');
is(run(q{DO $$ BEGIN BEGIN PERFORM 1 FROM (} . ingest_sql('one', rows([ 30, 31, 32 ])) . q{) x; RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN NULL; END; END $$; }
  . ingest_sql('one', rows([ 30, 31, 32 ]))), '3|0', 'ids of a rolled back block are free again');
is(run(ingest_sql('one', batch([ 'symbol', 'text', [] ]))), '0|0', 'no rows');
is(run(ingest_sql('one', 'TB')), 'XX001', 'bytes that are no batch');
is(run(ingest_sql('one', substr rows(), 0, 40)), 'XX001', 'half a batch');
is(run(ingest_sql('one', batch([ 'no', 'text', ['x'] ]))), '42703', 'no such column');
is(run(ingest_sql('one', batch([ 'ctid', 'text', ['x'] ]))), '42703', 'a system column');
is(run(ingest_sql('one', batch([ 'symbol', 'text', ['x'] ], [ 'symbol', 'text', ['x'] ]))), '42701', 'a column twice');
is(run(ingest_sql('one', batch([ 'ts', 'time', [ -2**62 * 1.5 ] ]))), '22008', 'a time out of range');
is(run(ingest_sql('one', batch([ 'ts', 'time', [ $base * 1e6 ] ]))), '1|0', 'a row with hardly anything');
{
  my $bad = batch([ 'symbol', 'text', ["abc"] ]);
  $bad =~ s/abc$/a\xffc/;
  is(run(ingest_sql('one', $bad)), '22021', 'text that is not UTF-8');
  $bad =~ s/a\xffc$/a\0c/;
  is(run(ingest_sql('one', $bad)), '22021', 'nor with a zero byte');
}
is(run('BEGIN READ ONLY; ' . ingest_sql('one', rows())), '25006', 'in a read-only transaction');
is(run('SET ROLE someone; ' . ingest_sql('one', rows())), '42501', 'without the right to insert');
is(run('BEGIN; GRANT INSERT (symbol, ts, price) ON one TO someone; SET ROLE someone; ' . ingest_sql('one', rows())), '42501', 'with that for some columns');
is(run('BEGIN; GRANT INSERT (symbol, ts, price, trade_id) ON one TO someone; SET ROLE someone; ' . ingest_sql('one', rows([ 40, 41, 42 ])) . '; ROLLBACK'), '3|0', 'with that for all columns');
refused('a trigger', 'CREATE TRIGGER mine BEFORE INSERT ON one FOR EACH ROW EXECUTE FUNCTION nothing()');
refused('a trigger for each statement', 'CREATE TRIGGER mine AFTER INSERT ON one FOR EACH STATEMENT EXECUTE FUNCTION nothing()');
refused('a foreign key', 'DELETE FROM one; ALTER TABLE one ADD FOREIGN KEY (symbol) REFERENCES symbols');
refused('a deferrable constraint', 'ALTER TABLE one ADD UNIQUE (symbol, trade_id) DEFERRABLE');
refused('row security', 'ALTER TABLE one ENABLE ROW LEVEL SECURITY; GRANT INSERT ON one TO someone; SET ROLE someone');
refused('generated columns', 'ALTER TABLE one ADD twice float8 GENERATED ALWAYS AS (price * 2) STORED');
refused('a volatile CHECK', 'ALTER TABLE one ADD CHECK (price < 10 + random())');
refused('a volatile default', 'ALTER TABLE one ADD r float8 DEFAULT random()');
{
  my $bad = rows();
  $bad =~ s/symbol/sym\0ol/;
  is(run(ingest_sql('one', $bad)), '22021', 'a name with a zero byte');
}
# Two leaves that were sources before, each with its own ids.
$node->safe_psql('postgres', q{CREATE TABLE ap (symbol text, ts timestamptz, price float8, trade_id int8) PARTITION BY RANGE (ts)});
for my $leaf (1, 2) {
  $node->safe_psql('postgres', qq{CREATE TABLE ap$leaf (symbol text, ts timestamptz, price float8, trade_id int8);
    SELECT tick.create_rollup('ap${leaf}_1m', 'SELECT symbol, tick.tumble(ts, ''1 minute'') AS ts, count(*) AS n FROM ap$leaf GROUP BY 1, 2');
    SELECT tick.alter_source('ap$leaf', dedup_key => '{symbol}', dedup_id => 'trade_id');
    ALTER TABLE ap ATTACH PARTITION ap$leaf FOR VALUES FROM ('2024-03-0$leaf 00:00+00') TO ('2024-03-0} . ($leaf + 1) . q{ 00:00+00')});
}
is(run(ingest_sql('ap', batch([ 'symbol', 'words', [ ('A') x 4 ] ], [ 'ts', 'time', [ map { ($base + $_ * 86400 + 60) * 1_000_000 } 0, 1, 0, 1 ] ],
  [ 'price', 'number', [ 1 .. 4 ] ], [ 'trade_id', 'whole', [ 1, 1, 2, 2 ] ]))), '4|0', 'leaves with ids of their own');
refused('a domain', 'DROP TABLE one CASCADE; CREATE TABLE one (symbol text, ts timestamptz, price price, trade_id int8)');
refused('a length', 'DROP TABLE one CASCADE; CREATE TABLE one (symbol varchar(3), ts timestamptz, price float8, trade_id int8)');
refused('a view', 'DROP TABLE one CASCADE; CREATE VIEW one AS SELECT 1 AS symbol');
is(run('BEGIN; CREATE TRIGGER mine BEFORE INSERT ON one FOR EACH ROW EXECUTE FUNCTION nothing(); ALTER TABLE one DISABLE TRIGGER mine; ' . ingest_sql('one', rows([ 50, 51, 52 ])) . '; ROLLBACK'),
  '3|0', 'a trigger that is off does not matter');
exact($node, 'after all that');

# A batch that is too much for one delta, into a leaf, where no statement's end writes the rest: the transaction's own reads see all of it.
$node->safe_psql('postgres', q{CREATE TABLE wide (symbol text, ts timestamptz, price float8) PARTITION BY RANGE (ts);
  CREATE TABLE wide_1 PARTITION OF wide FOR VALUES FROM ('2024-03-01 00:00+00') TO ('2024-03-11 00:00+00');
  SELECT tick.create_rollup('wide_1m', $$SELECT symbol, tick.tumble(ts, '1 minute') AS ts, tick.first(price, ts) AS open, max(price) AS high, min(price) AS low,
    tick.last(price, ts) AS close, count(*) AS n FROM wide GROUP BY 1, 2$$)});
my @seen;
for my $rows (map { $_ * 512 } 3 .. 12) {
  my $bytes = batch([ 'symbol', 'words', [ ('A') x $rows ] ], [ 'ts', 'time', [ map { ($base + $_ * 60) * 1_000_000 } 1 .. $rows ] ], [ 'price', 'number', [ 1 .. $rows ] ]);
  push @seen, run(qq{\\o /dev/null\nBEGIN; INSERT INTO wide_1 VALUES ('B', '2024-03-01 00:00+00', 1); } . ingest_sql('wide_1', $bytes) . qq{;\n\\o\nSELECT sum(n) - $rows FROM wide_1m_live; ROLLBACK});
}
is("@seen", join(' ', (1) x 10), 'a transaction sees all rows of its batches, of whatever size');

# What is said of a table while a batch goes in, such as the figures of an autovacuum, makes its triggers be read anew.
$node->safe_psql('postgres', q{CREATE TABLE busy (symbol text, ts timestamptz, price float8, trade_id int8) PARTITION BY RANGE (ts);
  CREATE TABLE busy_1 PARTITION OF busy FOR VALUES FROM ('2024-03-01 00:00+00') TO ('2024-03-02 00:00+00');
  SELECT tick.create_rollup('busy_1m', 'SELECT symbol, tick.tumble(ts, ''1 minute'') AS ts, count(*) AS n, sum(price * 2) AS s FROM busy GROUP BY 1, 2');
  SELECT tick.alter_source('busy', dedup_key => '{symbol}', dedup_id => 'trade_id')});
sub script { my ($name, @lines) = @_; my $file = "$ENV{TESTLOGDIR}/$name.sql"; open my $out, '>', $file or die $!; print $out "$_;\n" for @lines; close $out; return ($name, 'psql', '-Xq', '-o', '/dev/null', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-f', $file) }
my @talkers = map { launch(script("talker_$_", ("GRANT SELECT ON busy_1 TO PUBLIC", "REVOKE SELECT ON busy_1 FROM PUBLIC") x 20000)) } 1, 2;
my $writer = launch(script('busy', map { ingest_sql('busy', batch([ 'symbol', 'words', ['A', 'A'] ], [ 'ts', 'time', [ ($base + $_ % 3600) * 1_000_000, ($base + 60) * 1_000_000 ] ],
  [ 'price', 'number', [ 1, 2 ] ], [ 'trade_id', 'whole', [ 2 * $_, 2 * $_ + 1 ] ])) } 1 .. ($ENV{INGEST_BUSY} // 2000)));
waitpid $writer->{pid}, 0;
is($?, 0, 'batches go in while their table is talked about') or diag(slurp($writer->{log}));
finish($_, 'TERM') for @talkers;
exact($node, 'none of them is lost');
is($node->safe_psql('postgres', q{SELECT sum(n) = (SELECT count(*) FROM one) FROM one_1m}), 't', 'by count');
$node->stop;
done_testing();
