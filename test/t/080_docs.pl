# What users read is true: the reference is what the database says, every function and view is explained and is named in
# docs/sql.md, and the SQL of README and docs runs as it stands.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use TickTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $root = "$FindBin::Bin/../..";
my $node = make_node('docs');

my ($code, $made, $errors) = $node->psql('postgres', slurp("$root/docs/reference.sql"), extra_params => [ '-X' ]);
$errors =~ s/^NOTICE.*\n?//mg;
is($errors, '', 'the reference can be made');
my $written = slurp("$root/docs/reference.md");
s/\s+\z// for $made, $written;
unlike($made, qr/\(no comment\)/, 'everything has a comment');
# Settings may differ by the test's own configuration.
s/^## Settings.*//ms for (my $now = $made), (my $then = $written);
ok($now eq $then, 'docs/reference.md is what the database says; `make docs` writes it') or diag(first_difference($now, $then));

my $explained = slurp("$root/docs/sql.md");
my @names = split /\n/, $node->safe_psql('postgres', q{
  SELECT DISTINCT 'tick.' || p.proname FROM pg_proc AS p WHERE p.pronamespace = 'tick'::regnamespace
  UNION SELECT 'tick.' || c.relname FROM pg_class AS c WHERE c.relnamespace = 'tick'::regnamespace AND c.relkind = 'v' ORDER BY 1});
my %internal = map { $_ => 1 } qw(tick.explain_gap tick.reject tick.exact_sum);
my @missing = grep { !$internal{$_} && $explained !~ /\Q$_\E\b/ } @names;
is("@missing", '', 'docs/sql.md names every function and view');

# The SQL of each file runs block by block in a database of its own.
for my $file (grep { slurp($_) =~ /^```sql/m } "$root/README.md", grep { !/reference/ } glob "$root/docs/*.md") {
  my ($name) = $file =~ m{(\w+)\.md$};
  $node->safe_psql('postgres', qq{CREATE DATABASE "$name"});
  $node->safe_psql($name, 'CREATE EXTENSION pg_tick');
  my ($blocks, $text, @failed) = (0, slurp($file));
  while ($text =~ /^```sql\n(.*?)^```/msg) {
    my ($code, $out, $err) = $node->psql($name, $1, on_error_stop => 1);
    ++$blocks;
    push @failed, "block $blocks: $err" if $code != 0;
  }
  is("@failed", '', "the $blocks SQL blocks of $name.md run");
  is($node->safe_psql($name, "SELECT tick.wait(NULL, '60 s'); SELECT count(*) FROM tick.status AS s, tick.verify(s.rollup)"), "t\n0",
    'and the rollups they made are exact');
}

sub first_difference {
  my @left = split /\n/, $_[0];
  my @right = split /\n/, $_[1];
  for my $i (0 .. ($#left > $#right ? $#left : $#right)) {
    return "now: " . ($left[$i] // '(nothing)') . "\nwritten: " . ($right[$i] // '(nothing)') if ($left[$i] // '') ne ($right[$i] // '');
  }
  return '';
}

$node->stop;
done_testing();
