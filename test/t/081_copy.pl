# COPY into a source goes in without a trigger for each row, and nobody can tell: the same rows, errors, line numbers
# and figures as with tick.fast_copy off; and whatever is out of the ordinary is left to the triggers.
#
#   COPY_ROUNDS     rounds of the random comparison (default 120)    SEED   repeats a run
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = make_node('copy', conf => "track_functions = all\n");
my $seed = $ENV{SEED} || int(rand(2**31));
srand $seed;
diag("seed $seed");
my $file = "$ENV{TESTLOGDIR}/rows";    # read by psql or the server

# What a statement says: its errors with their places, and its command tag.
sub say_all {
  my ($sql, %options) = @_;
  my ($rc, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$sql", extra_params => ['-Xe'], %options);
  $err =~ s/^LOCATION:.*\n//mg;
  $err =~ s/^psql:<stdin>:\d+: //mg;
  $out =~ s/^(?!COPY \d).*\n?//mg;    # echoed statements
  return "$out\n$err";
}

# ---- the same as with triggers, at random

my $columns = q{symbol text NOT NULL, ts timestamptz NOT NULL, price float8 CONSTRAINT no_66 CHECK (price <> 66), qty numeric, trade_id int8,
  maker bool, note text, made timestamp DEFAULT '2024-01-01', number serial};
my %shape = (plain => '', parted => 'ts', dedup => 'ts', unique => '', odd => 'ts');
for my $shape (sort keys %shape) {
  for my $side (qw(fast slow)) {
    my $name = "${shape}_$side";
    $node->safe_psql('postgres', "CREATE TABLE $name ($columns) " . ($shape{$shape} ? 'PARTITION BY RANGE (ts)' : ''));
    $node->safe_psql('postgres', qq{
      CREATE TABLE ${name}_1 PARTITION OF $name FOR VALUES FROM ('2024-03-01 00:00+00') TO ('2024-03-02 00:00+00');
      CREATE TABLE ${name}_2 (gone int, note text, made timestamp DEFAULT '2024-01-01', number int DEFAULT nextval('${name}_number_seq') NOT NULL, maker bool, trade_id int8,
        qty numeric, price float8 CONSTRAINT no_66 CHECK (price <> 66), ts timestamptz NOT NULL, symbol text NOT NULL);
      ALTER TABLE ${name}_2 DROP COLUMN gone;
      ALTER TABLE $name ATTACH PARTITION ${name}_2 FOR VALUES FROM ('2024-03-02 00:00+00') TO ('2024-03-03 00:00+00')}) if $shape{$shape};
    $node->safe_psql('postgres', "CREATE UNIQUE INDEX ${shape}_key_$side ON $name (symbol, trade_id); CREATE INDEX ON $name ((price * 2)) WHERE maker") if $shape eq 'unique';
    $node->safe_psql('postgres', qq{
      SELECT tick.create_rollup('${name}_1m', \$\$SELECT symbol, tick.tumble(ts, '1 minute') AS ts, tick.first(price, ts, trade_id) AS open, max(price) AS high,
        tick.last(price, ts, trade_id) AS close, sum(qty) AS volume, count(*) AS trades, min(note) AS note FROM $name GROUP BY 1, 2\$\$);
      SELECT tick.create_rollup('${name}_5m', \$\$SELECT symbol, maker, tick.tumble(made, '5 minutes') AS ts, avg(qty) AS qty, count(note) AS notes
        FROM $name WHERE price > 500 GROUP BY 1, 2, 3\$\$);
      SELECT tick.create_rollup('${name}_all', \$\$SELECT symbol, sum(price) AS turnover, max(ts) AS ts FROM $name GROUP BY 1\$\$)});
    $node->safe_psql('postgres', "SELECT tick.alter_source('$name', dedup_key => '{symbol}', dedup_id => 'trade_id')") if $shape eq 'dedup' || $shape eq 'odd';
    # A partition with triggers of its own, of which one changes rows and leaves some out.
    $node->safe_psql('postgres', qq{
      CREATE TABLE ${name}_log (id int8, price float8);
      CREATE FUNCTION ${name}_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF NEW.trade_id % 7 = 3 THEN RETURN NULL; END IF; NEW.price := NEW.price + 1; RETURN NEW; END';
      CREATE FUNCTION ${name}_note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO ${name}_log VALUES (NEW.trade_id, NEW.price); RETURN NULL; END';
      CREATE TRIGGER a_change BEFORE INSERT ON ${name}_2 FOR EACH ROW EXECUTE FUNCTION ${name}_change();
      CREATE TRIGGER z_note AFTER INSERT ON ${name}_2 FOR EACH ROW EXECUTE FUNCTION ${name}_note()}) if $shape eq 'odd';
  }
}

my %fault = (
  null => sub { $_[0]{symbol} = undef }, check => sub { $_[0]{price} = 66 }, input => sub { $_[0]{qty} = 'x1' }, partition => sub { $_[0]{ts} = '2031-01-01 00:00+00' },
  unique => sub { @{ $_[0] }{qw(symbol trade_id)} = @{ $_[1] }{qw(symbol trade_id)} }, encoding => sub { $_[0]{note} = "\xff" });
my ($differences, %results);
for my $round (1 .. $ENV{COPY_ROUNDS} || 120) {
  my $shape = (sort keys %shape)[rand keys %shape];
  my $rows = (0, 1, 3, 50, 255, 256, 257, 700, 1500)[rand 9];
  my $fault = $rows && rand() < 0.4 ? (sort keys %fault)[rand keys %fault] : '';
  my $ids = $shape eq 'unique' ? 2**50 : 400;
  my @rows = map {
    {
      symbol => (qw(BTC ETH), 'S' . int(rand 300))[rand 3], ts => sprintf('2024-03-0%d %02d:%02d:%02d+00', 1 + rand 2, rand 24, rand 60, rand 60), price => int(rand 1e6) / 1000,
      qty => (0, -1, 'NaN', '1e-30', int rand 100, undef)[rand 6], trade_id => rand() < 0.1 && $shape ne 'unique' ? undef : int(rand $ids), maker => (qw(t f), undef)[rand 3],
      note => ("a\tb\\", '', 'x' x rand 50, 'N', ', "', undef)[rand 6], made => sprintf('2024-01-01 %02d:%02d:00', rand 24, rand 60)
    }
  } 1 .. $rows;
  $fault = '' if $fault eq 'unique' && ($rows < 2 || $shape ne 'unique') || $fault eq 'partition' && !$shape{$shape};
  my $at = int rand $rows;
  $fault{$fault}->($rows[$at], $rows[ ($at + 1) % $rows ]) if $fault;
  my @names = sort { rand() <=> 0.5 } grep { /symbol|ts|price|trade_id/ || rand() < 0.8 } keys %{ $rows[0] // { map { $_ => 1 } qw(symbol ts price) } };
  my $csv = rand() < 0.5;
  open my $out, '>', $file or die;
  print $out join(',', @names) . "\n" if $csv;
  for my $row (@rows) {
    my @values = map {
      my $value = $row->{$_};
      if ($csv) { $value = defined $value ? '"' . ($value =~ s/"/""/gr) . '"' : '' }
      elsif (defined $value) { $value =~ s/\\/\\\\/g; $value =~ s/\t/\\t/g }
      else { $value = '\N' }
      $value
    } @names;
    print $out join($csv ? ',' : "\t", @values) . "\n";
  }
  close $out;
  my $list = join ', ', @names;
  my $format = $csv ? '(FORMAT csv, HEADER)' : "(ENCODING 'UTF8')";
  # The same in binary, by way of a table that takes everything.
  if (!$csv && $fault !~ /input|encoding/ && rand() < 0.4) {
    my $typed = join ', ', map { "$_ " . { symbol => 'text', ts => 'timestamptz', price => 'float8', qty => 'numeric', trade_id => 'int8', maker => 'bool', note => 'text', made => 'timestamp' }->{$_} } @names;
    $node->safe_psql('postgres', "CREATE TEMP TABLE form ($typed); COPY form FROM '$file'; COPY form TO '$file.binary' (FORMAT binary)");
    rename "$file.binary", $file;
    $format = '(FORMAT binary)';
  }
  my $way = ('%s', "BEGIN;\n%s\nCOMMIT;", "BEGIN;\nSAVEPOINT a;\n%s\nROLLBACK TO a;\n%s\nCOMMIT;", "BEGIN;\n%s\nROLLBACK;", "BEGIN ISOLATION LEVEL SERIALIZABLE;\n%s\nCOMMIT;")[rand 5];
  my $client = rand() < 0.7;
  my @done;
  for my $side (qw(fast slow)) {
    my $table = "${shape}_$side";
    my $do = $client ? "\\copy $table ($list) FROM '$file' $format" : "COPY $table ($list) FROM '$file' $format;";
    (my $sql = $way) =~ s/%s/$do/g;
    my $said = say_all(($side eq 'slow' ? "SET tick.fast_copy = off;\n" : '') . $sql);
    $said =~ s/_$side\b/_side/g;
    $said =~ s/_${side}_/_side_/g;
    $said =~ s/\(\d+(?=\)\.$)/(n/mg;    # the numbers of a sequence in a failing row
    $said =~ s/, \d+\)\.$/, n)./mg;
    push @done, $said;
  }
  ++$results{ $shape . ($fault ? " $fault" : '') };
  my $same = join ', ', qw(symbol ts price qty trade_id maker note made);
  my ($extra) = $node->safe_psql('postgres', qq{SELECT (SELECT count(*) FROM (SELECT $same FROM ${shape}_fast EXCEPT ALL SELECT $same FROM ${shape}_slow) a)
    + abs((SELECT count(*) FROM ${shape}_slow) - (SELECT count(*) FROM ${shape}_fast))});
  next if $done[0] eq $done[1] && $extra == 0;
  ++$differences;
  diag("round $round, $shape, $rows rows, fault '$fault', $format, $way, client $client: $extra rows differ; without triggers\n$done[0]\nwith\n$done[1]");
  last;
}
diag(join ', ', map { "$_: $results{$_}" } sort keys %results);
ok(!$differences, "the same rows, errors and places as with triggers, seed $seed");
exact($node, 'all rollups');
same_rollups($node, "${_}_fast", "${_}_slow") for sort keys %shape;
for my $shape (qw(dedup odd)) {
  same_rows($node, (map { "SELECT key, from_id, to_id FROM tick.seen WHERE source = '${shape}_$_'::regclass" } qw(fast slow)), "$shape: the same ids are seen");
}
same_rows($node, (map { "SELECT id, price FROM odd_${_}_log" } qw(fast slow)), "a partition's own triggers are fired");
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM odd_fast_log'), '>', 0, 'and they were');

# ---- partitions with something of their own, and what looks at the rows before

# Two tables, one for each way; what both say of the same rows, and what is in them then.
my $number = 0;
sub both {
  my ($what, $setup, $lines, %also) = @_;
  ++$number;
  my @done;
  for my $side (qw(fast slow)) {
    (my $made = $setup) =~ s/\bT(?![A-Z])/both_${number}_$side/g;
    $node->safe_psql('postgres', $made);
    my $text = join '', map { "$_\n" } @$lines;
    my $columns = $also{columns} // '';
    my $role = $also{role} ? "SET ROLE $also{role};" : '';
    my $said = say_all("SET tick.fast_copy = " . ($side eq 'fast' ? 'on' : 'off') . ";\n$role\nCOPY both_${number}_$side $columns FROM STDIN;\n$text\\.\n");
    my $there = $node->safe_psql('postgres', "SELECT tableoid::regclass, * FROM both_${number}_$side t ORDER BY t::text");
    my $both = "$said\n$there";
    $both =~ s/both_${number}_$side/T/g;
    push @done, $both;
  }
  is($done[0], $done[1], "$what: the same");
  like($done[0], $also{like}, "$what: as it should be") if $also{like};
}
my $days = q{CREATE TABLE T (symbol text NOT NULL, ts timestamptz NOT NULL, price float8, id int8) PARTITION BY RANGE (ts);
  CREATE TABLE T1 PARTITION OF T FOR VALUES FROM ('2024-03-01 00:00+00') TO ('2024-03-02 00:00+00');
  CREATE TABLE T2 PARTITION OF T FOR VALUES FROM ('2024-03-02 00:00+00') TO ('2024-03-03 00:00+00');};
my $rollup = q{SELECT tick.create_rollup('T_1m', $$SELECT symbol, tick.tumble(ts, '1 minute') AS ts, count(*) AS n, sum(price) AS s FROM T GROUP BY 1, 2$$);};
my $dedup = q{SELECT tick.alter_source('T', dedup_key => '{symbol}', dedup_id => 'id');};
my @lines = map { my $day = (1, 1, 2, 1, 2)[ $_ - 1 ]; "A\t2024-03-0$day 01:00+00\t1\t$_" } 1 .. 5;
both('a partition whose trigger moves rows out of it', "$days $rollup" . q{
  CREATE FUNCTION T_move() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.ts := NEW.ts + interval ''20 days''; RETURN NEW; END';
  CREATE TRIGGER move BEFORE INSERT ON T2 FOR EACH ROW EXECUTE FUNCTION T_move()}, \@lines, like => qr/violates partition constraint/);
both('a trigger that counts', "$days $rollup" . q{
  CREATE FUNCTION T_count() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.price := (SELECT count(*) FROM T); RETURN NEW; END';
  CREATE TRIGGER count BEFORE INSERT ON T2 FOR EACH ROW EXECUTE FUNCTION T_count()}, \@lines, like => qr/\|4\|5$/m);
both('a trigger that deletes', "$days $rollup $dedup" . q{
  CREATE FUNCTION T_delete() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN DELETE FROM T WHERE id = NEW.id - 1; RETURN NEW; END';
  CREATE TRIGGER a_delete BEFORE INSERT ON T2 FOR EACH ROW EXECUTE FUNCTION T_delete()}, \@lines);
both('a CHECK that looks around', q{CREATE TABLE T (symbol text NOT NULL, ts timestamptz NOT NULL, price float8, id int8);
  CREATE FUNCTION T_new(float8) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN NOT EXISTS (SELECT FROM T WHERE price = $1); END'; ALTER TABLE T ADD CHECK (T_new(price));} . "$rollup $dedup",
  \@lines, like => qr/violates check constraint/);
both('a row that fails, for who may only write', "$days $rollup ALTER TABLE T ADD CHECK (price < 5); DO 'BEGIN CREATE ROLE writer; EXCEPTION WHEN duplicate_object THEN NULL; END'; GRANT INSERT ON T TO writer",
  [ "A\t2024-03-01 01:00+00\t7" ], columns => '(symbol, ts, price)', role => 'writer', like => qr/Failing row contains \(symbol, ts, price\)/);
both('a partition with a generated column', q{CREATE TABLE T (symbol text NOT NULL, ts timestamptz NOT NULL, price float8, id int8) PARTITION BY RANGE (ts);
  CREATE TABLE T1 PARTITION OF T FOR VALUES FROM ('2024-03-01 00:00+00') TO ('2024-03-02 00:00+00');
  CREATE TABLE T2 (symbol text NOT NULL, ts timestamptz NOT NULL, price float8, id int8 GENERATED ALWAYS AS (price * 2) STORED);
  ALTER TABLE T ATTACH PARTITION T2 FOR VALUES FROM ('2024-03-02 00:00+00') TO ('2024-03-03 00:00+00');} . $rollup, [ map { s/\t\d$//r } @lines ], columns => '(symbol, ts, price)', like => qr/\|1\|2$/m)
  if $node->safe_psql('postgres', 'SHOW server_version_num') < 160000;
# What a row leaves behind goes with it, also if all rows are duplicates.
$node->safe_psql('postgres', q{CREATE TABLE big (symbol text NOT NULL, ts timestamptz NOT NULL, price float8, id int8) PARTITION BY LIST (lower(symbol || repeat('x', 5000))); CREATE TABLE big_rest PARTITION OF big DEFAULT;
  SELECT tick.add_source('big', dedup_key => '{symbol}', dedup_id => 'id')});
open my $out, '>', $file or die;
print $out "A\t2024-03-01 01:00+00\t1\t1\n" for 1 .. 50000;
close $out;
is($node->safe_psql('postgres', qq{COPY big FROM '$file'; SELECT count(*) FROM big}), 1, 'many duplicates');
my ($high) = $node->safe_psql('postgres', qq{COPY big FROM '$file'; SELECT (regexp_match(pg_read_file('/proc/' || pg_backend_pid() || '/status'), 'VmHWM:\\s*(\\d+)'))[1]});
cmp_ok($high, '<', 100_000, 'in as little memory as one');
exact($node, 'all of these');

# ---- who does without triggers, and who does not

$node->safe_psql('postgres', q{CREATE TABLE one (symbol text, ts timestamptz, price float8, trade_id int8);
  SELECT tick.create_rollup('one_1m', $$SELECT symbol, tick.tumble(ts, '1 minute') AS ts, count(*) AS n, sum(price) AS s FROM one GROUP BY 1, 2$$);
  SELECT tick.alter_source('one', dedup_key => '{symbol}', dedup_id => 'trade_id');
  CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TABLE symbols (symbol text PRIMARY KEY); INSERT INTO symbols VALUES ('A'); CREATE ROLE someone});
my $id = 0;
# How often the capture trigger was fired for three rows and a duplicate, and what the COPY said.
sub fired {
  my ($setup, $options, %also) = @_;
  my $calls = q{SELECT coalesce(sum(pg_stat_get_xact_function_calls(oid)), 0) FROM pg_proc WHERE proname = 'capture' AND pronamespace = 'tick_catalog'::regnamespace};
  my $first = $id + 1;
  my $last = $id += 3;
  my $lines = join "\n", map { "A\t2024-03-01 00:00:0" . (1 + $_ % 3) . "+00\t1\t$_" } $first .. $last, $first;
  my $names = $also{names} // '(symbol, ts, price, trade_id)';
  my ($rc, $out, $err) = $node->psql('postgres', "BEGIN;\n$setup;\nCOPY one $names FROM STDIN $options;\n$lines\n\\.\nRESET ROLE;\n$calls;\n" . ($also{end} // 'COMMIT') . ';');
  return $err =~ /(ERROR:  .*)/ ? $1 : (split /\n/, $out)[-1];
}
is(fired('SELECT 1', ''), '0', 'no trigger for a row');
is(fired('SET LOCAL tick.fast_copy = off', ''), '3', 'but with tick.fast_copy off');
is(fired('SET LOCAL session_replication_role = replica', ''), '0', 'nor for one of a replica');
is(fired('CREATE TRIGGER mine BEFORE INSERT ON one FOR EACH ROW EXECUTE FUNCTION nothing()', '', end => 'ROLLBACK'), '3', 'another trigger');
is(fired('CREATE TRIGGER mine AFTER INSERT ON one FOR EACH STATEMENT EXECUTE FUNCTION nothing()', '', end => 'ROLLBACK'), '3', 'one for each statement');
is(fired('ALTER TABLE one ADD FOREIGN KEY (symbol) REFERENCES symbols NOT VALID', '', end => 'ROLLBACK'), '3', 'a foreign key');
is(fired('ALTER TABLE one ADD twice float8 GENERATED ALWAYS AS (price * 2) STORED', '', end => 'ROLLBACK'), '3', 'generated columns');
is(fired('ALTER TABLE one ADD r float8 DEFAULT random()', '', end => 'ROLLBACK'), '3', 'a volatile default');
is(fired("ALTER TABLE one ADD r timestamptz DEFAULT now(), ADD i int DEFAULT 7", '', end => 'ROLLBACK'), '0', 'other defaults are filled in');
is(fired('SELECT 1', 'WHERE price > 0'), '3', 'WHERE');
is(fired('GRANT INSERT (symbol, ts, price, trade_id) ON one TO someone; SET LOCAL ROLE someone', '', end => 'ROLLBACK'), '3', 'rights on columns');
is(fired('GRANT INSERT ON one TO someone; SET LOCAL ROLE someone', '', end => 'ROLLBACK'), '0', 'rights on the table');
like(fired('SET LOCAL ROLE someone', ''), qr/permission denied for table one/, 'no rights');
like(fired('SET TRANSACTION READ ONLY', ''), qr/cannot execute COPY FROM in a read-only transaction/, 'a read-only transaction');
like(fired('SELECT 1', '', names => '(symbol, no)'), qr/column "no" of relation "one" does not exist/, 'a column that is not there');
like(($node->psql('postgres', "GRANT INSERT ON one TO someone; SET ROLE someone; COPY one FROM '$file'"))[2], qr/COPY (from|FROM) a file/, 'a file is not for everybody');
exact($node, 'whoever did it');
is($node->safe_psql('postgres', q{SELECT sum(n) = (SELECT count(*) FROM one) FROM one_1m}), 't', 'by count');

# ---- beside a library that watches utility statements, too

my $leaves = qr/pg_tick leaves COPY to row triggers: a library before it/;
for my $case ([ 'pg_stat_statements, pg_tick', '3', 'a library before pg_tick would not be called' ], [ 'pg_tick, pg_stat_statements', '0', 'one after it is' ]) {
  my ($list, $calls, $what) = @$case;
  my $from = -s $node->logfile;
  $node->append_conf('postgresql.conf', "shared_preload_libraries = '$list'");
  $node->restart;
  is(fired('SELECT 1', ''), $calls, $what);
  my $said = substr(slurp($node->logfile), $from);
  $calls ? like($said, $leaves, 'and the log says so') : unlike($said, $leaves, 'with nothing to say');
}
$node->safe_psql('postgres', 'CREATE EXTENSION pg_stat_statements');
is($node->safe_psql('postgres', q{SELECT sum(calls) FILTER (WHERE query LIKE 'COPY one %'), sum(rows) FILTER (WHERE query LIKE 'COPY one %') FROM pg_stat_statements}), '2|6',
  'which has seen both COPYs and counted their rows');
exact($node, 'beside another library');

$node->stop;
done_testing();
