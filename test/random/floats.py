#!/usr/bin/env python3
# The oracle of the float test: Python's math.fsum, which rounds the exact sum of float64 values once.
#
#   floats.py make SEED DIR RUNS GROUPS   one psql script a run, DIR/run_<n>.sql: the same values in another order and
#                                         other batches, with rows that are wrong at first and corrected later
#   floats.py check SEED GROUPS < rows    rows are run, group, window, sum, mean, n as CSV; prints what differs
import math
import random
import sys

WINDOWS = 3


def dataset(seed, groups):
    """(group, second, value) of all rows that are there in the end: magnitudes 1e-8 to 1e12, both signs."""
    dice = random.Random(seed)
    rows = []
    for group in range(groups):
        values = [dice.choice((-1, 1)) * dice.uniform(1, 10) * 10.0 ** dice.randint(-8, 11)
                  for _ in range(dice.randint(3, 7))]
        if group % 3 == 0:  # what flows in flows out again, and dust remains
            values += [-v for v in values if dice.random() < 0.8]
        rows += [(group, dice.randrange(60 * WINDOWS), v) for v in values]
    return rows


def moment(run, second):
    return f"2024-03-{run + 1:02} 12:{second // 60:02}:{second % 60:02}+00"


def make(seed, directory, runs, groups):
    data = dataset(seed, groups)
    for run in range(runs):
        dice = random.Random(seed * 1000 + run)
        rows = []
        for number, (group, second, value) in enumerate(data):
            right = (group, second, value)
            wrong = dice.random()
            if wrong < 0.05:
                first = (group, second, value * dice.choice((-3.7, 1e-9, 1e6)))
            elif wrong < 0.08:
                first = (group, dice.randrange(60 * WINDOWS), value)
            elif wrong < 0.11:
                first = (dice.randrange(groups), second, value)
            else:
                first = right
            rows.append((number, first, right))
            if dice.random() < 0.06:  # a row that will be deleted; greater than all, so that an extreme is lost
                rows.append((-number - 1, (group, second, dice.choice((-1, 1)) * dice.uniform(1, 10) * 1e12), None))
        dice.shuffle(rows)
        with open(f"{directory}/run_{run}.sql", "w") as out:
            out.write("SET synchronous_commit = off;\n")
            pending = []
            here = f"run = {run} AND ts >= '2024-03-{run + 1:02} 00:00+00' AND ts < '2024-03-{run + 2:02} 00:00+00'"
            while rows:
                size = dice.choice((1, 7, 100, 1000, 5000))
                batch, rows = rows[:size], rows[size:]
                lines = [(run, number, first[0], moment(run, first[1]), repr(first[2]))
                         for number, first, _ in batch]
                if size <= 100:
                    out.write("INSERT INTO flows VALUES " +
                              ", ".join(f"({r}, {n}, {k}, '{t}', '{v}')" for r, n, k, t, v in lines) + ";\n")
                else:
                    out.write("COPY flows FROM STDIN;\n" + "".join("\t".join(map(str, line)) + "\n" for line in lines) + "\\.\n")
                pending += [(number, right) for number, first, right in batch if first != right]
                if pending and (not rows or dice.random() < 0.2):
                    kept = [(n, r) for n, r in pending if r is not None]
                    gone = [str(n) for n, r in pending if r is None]
                    out.write("BEGIN;\n")
                    if kept:
                        out.write("UPDATE flows f SET k = c.k, ts = c.at::timestamptz, v = c.v::float8 FROM (VALUES " +
                                  ", ".join(f"({n}, {k}, '{moment(run, s)}', '{v!r}')"
                                            for n, (k, s, v) in kept) +
                                  f") AS c (id, k, at, v) WHERE f.{here.replace('AND ts', 'AND f.ts')} AND f.id = c.id;\n")
                    if gone:
                        out.write(f"DELETE FROM flows WHERE {here} AND id IN ({', '.join(gone)});\n")
                    out.write("COMMIT;\n")
                    pending = []


def check(seed, groups):
    cells = {}
    for group, second, value in dataset(seed, groups):
        cells.setdefault((group, -1), []).append(value)
        cells.setdefault((group, second // 60), []).append(value)
    expected = {key: (math.fsum(values), math.fsum(values) / len(values), len(values))
                for key, values in cells.items()}
    seen = {}
    differences = 0
    for line in sys.stdin:
        run, group, window, total, mean, n = line.strip().split(",")
        key = (int(group), int(window))
        seen[run] = seen.get(run, 0) + 1
        got = (float(total).hex(), float(mean).hex(), int(n))
        must = expected.get(key)
        if must is None or got != (must[0].hex(), must[1].hex(), must[2]):
            differences += 1
            if differences <= 10:
                print(f"run {run} group {group} window {window}: {total} {mean} {n}, must be {must}")
    for run, count in seen.items():
        if count != len(expected):
            differences += 1
            print(f"run {run}: {count} rows, must be {len(expected)}")
    naive = sum(1 for values in cells.values() if sum(values) != math.fsum(values))
    print(f"{differences} differences in {sum(seen.values())} sums of {len(seen)} runs;"
          f" adding one after another is wrong in {naive} of {len(expected)}")


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    else:
        check(int(sys.argv[2]), int(sys.argv[3]))
