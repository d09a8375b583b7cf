"""Each bar of a rollup once it is closed, once: LISTEN says when to look, tick.changes what there is.

The token is where to go on from: keep it, and no bar is lost or seen twice, whatever breaks in between.
"""
import asyncio
import sys

import pandas
import psycopg
from psycopg import sql


async def closed_bars(database, rollup, token=None):
    """Yields (token, DataFrame) of the windows that have become final since the token."""
    view = sql.Identifier(*rollup.split("."))
    changes = sql.SQL("SELECT token, (candle).* FROM tick.changes(null::{}, %s) WHERE (candle).final ORDER BY token").format(view)
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        channel = (await (await connection.execute("SELECT tick.channel(%s)", [rollup])).fetchone())[0]
        await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        while True:
            cursor = await connection.execute(changes, [token])
            bars = pandas.DataFrame(await cursor.fetchall(), columns=[column.name for column in cursor.description])
            if len(bars):
                token = int(bars["token"].max())
                yield token, bars.drop(columns="token")
            async for _ in connection.notifies(timeout=60, stop_after=1):
                pass


async def main(database, rollup="candles_1m"):
    async for _, bars in closed_bars(database, rollup):
        print(bars.to_string(index=False), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
