"""Hands final windows of a rollup on as Parquet: OUT/tumbling_1m/event_date=D/part-0.parquet.

A day's file is replaced as a whole, by a rename, whenever one of its final windows has changed: readers see the old file or the
new one. What has changed is asked of tick.changes, with a token kept beside the files; it is written after them, so that a crash
repeats a day and forgets none.
"""
import argparse
import datetime
import os
import pathlib
import time

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq

TYPES = {16: pa.bool_(), 20: pa.int64(), 23: pa.int32(), 25: pa.string(), 701: pa.float64(), 1184: pa.timestamp("us", "UTC")}


def replace(path, write):
    """Writes a file beside `path`, names beginning with _ being passed over by readers, and puts it in its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.parent / ("_new." + path.name)
    write(new)
    with open(new, "rb") as file:
        os.fsync(file.fileno())
    os.replace(new, path)
    directory = os.open(path.parent, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def export(connection, rollup, out):
    """Brings the files up to what the rollup is now; returns the days that were written."""
    kept = out / "_token"
    token = int(kept.read_text()) if kept.exists() else None
    try:
        return export_since(connection, rollup, out, token, kept)
    except psycopg.errors.ObjectNotInPrerequisiteState:  # the changes since then are no longer kept: all days anew
        return export_since(connection, rollup, out, None, kept)


def export_since(connection, rollup, out, token, kept):
    # One snapshot: what has changed, and the days as they are then.
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        changes = connection.execute(
            f"SELECT token, (candle).event_date, change = 'delete' OR (candle).final FROM tick.changes(null::{rollup}, %s)", [token]
        ).fetchall()
        days = {day for _, day, counts in changes if counts}
        if token is None:
            days |= {datetime.date.fromisoformat(path.name.split("=")[1]) for path in out.glob("event_date=*")}
        days = sorted(days)
        tables = [(day, read_day(connection, rollup, day)) for day in days]
    for day, table in tables:
        path = out / f"event_date={day}" / "part-0.parquet"
        if table.num_rows:
            replace(path, lambda new, table=table: pq.write_table(table, new))
        else:
            path.unlink(missing_ok=True)
    if changes:
        newest = max(change[0] for change in changes)
        replace(kept, lambda new: new.write_text(str(newest)))
    return days


def read_day(connection, rollup, day):
    cursor = connection.execute(f"SELECT * FROM {rollup} WHERE final AND event_date = %s ORDER BY window_start, symbol", [day])
    rows = cursor.fetchall()
    wanted = [(i, c) for i, c in enumerate(cursor.description) if c.name not in ("event_date", "final", "revision", "updated_at")]
    schema = pa.schema([(c.name, TYPES[c.type_code]) for _, c in wanted])
    return pa.table([[row[i] for row in rows] for i, _ in wanted], schema=schema)


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--database", default="", help="libpq connection string")
    options.add_argument("--rollup", default="tumbling_1m")
    options.add_argument("--out", type=pathlib.Path, default=pathlib.Path("parquet"))
    options.add_argument("--every", type=float, default=5, help="seconds between looks; 0 = look once")
    given = options.parse_args()
    with psycopg.connect(given.database, autocommit=True) as connection:
        while True:
            for day in export(connection, given.rollup, given.out / given.rollup):
                print(f"{given.rollup}/event_date={day} written", flush=True)
            if not given.every:
                return
            time.sleep(given.every)


if __name__ == "__main__":
    main()
