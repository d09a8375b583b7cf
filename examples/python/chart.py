"""The last hour of a symbol's candles, as they are now: streamlit run examples/python/chart.py -- "dbname=market"."""
import sys

import pandas
import psycopg
import streamlit


@streamlit.cache_resource
def database():
    return psycopg.connect(sys.argv[1] if len(sys.argv) > 1 else "", autocommit=True)


def read(query, parameters=None):
    cursor = database().execute(query, parameters)
    return pandas.DataFrame(cursor.fetchall(), columns=[column.name for column in cursor.description])


streamlit.title("Candles of a minute")
symbol = streamlit.selectbox("Symbol", read("SELECT DISTINCT symbol FROM latest_price ORDER BY 1")["symbol"])


@streamlit.fragment(run_every="1s")
def candles():
    bars = read("SELECT ts, open, high, low, close, volume, final FROM candles_1m"
                " WHERE symbol = %s AND ts > now() - interval '1 hour' ORDER BY ts", [symbol]).set_index("ts")
    if bars.empty:
        return
    newest = bars.iloc[-1]
    streamlit.metric("Last price", f"{newest['close']:.2f}", f"{newest['close'] - newest['open']:.2f}")
    streamlit.line_chart(bars[["low", "close", "high"]])
    streamlit.bar_chart(bars["volume"])


candles()
