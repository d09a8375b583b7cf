-- The oracle of the tests: candles by built-in functions only. Counts the rows in which a candle rollup over
-- `source` (symbol, ts, price, qty, trade_id) differs, missing and extra rows included.
CREATE FUNCTION oracle_differences(rollup regclass, width interval, source text DEFAULT 'trades')
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  result bigint;
BEGIN
  EXECUTE format($q$
    WITH expected AS (
      SELECT symbol, date_bin(%L, ts, '2000-01-01 00:00+00') AS ts,
             (array_agg(price ORDER BY ts, trade_id NULLS FIRST, price) FILTER (WHERE price IS NOT NULL))[1] AS open,
             max(price) AS high, min(price) AS low,
             (array_agg(price ORDER BY ts DESC, trade_id DESC NULLS LAST, price DESC)
               FILTER (WHERE price IS NOT NULL))[1] AS close,
             sum(qty) AS volume, count(*) AS trades, sum(price * qty) / nullif(sum(qty), 0) AS vwap
      FROM %s WHERE isfinite(ts) GROUP BY 1, 2)
    SELECT count(*) FROM expected e FULL JOIN %s c ON (c.symbol IS NOT DISTINCT FROM e.symbol AND c.ts = e.ts)
    WHERE e.ts IS NULL OR c.ts IS NULL
       OR (c.open, c.high, c.low, c.close, c.trades) IS DISTINCT FROM (e.open, e.high, e.low, e.close, e.trades)
       OR abs(c.volume - e.volume) > 1e-9 * greatest(abs(c.volume), 1e-300)
       OR abs(c.vwap - e.vwap) > 1e-9 * greatest(abs(c.vwap), 1e-300)
       OR (c.volume IS NULL) <> (e.volume IS NULL) OR (c.vwap IS NULL) <> (e.vwap IS NULL)
  $q$, width, source, rollup) INTO result;
  RETURN result;
END $$;

CREATE FUNCTION candle_query(width text, source text DEFAULT 'trades') RETURNS text LANGUAGE sql AS $$
  SELECT format($q$
    SELECT symbol, tick.tumble(ts, %L) AS ts, tick.first(price, ts, trade_id) AS open, max(price) AS high,
           min(price) AS low, tick.last(price, ts, trade_id) AS close, sum(qty) AS volume, count(*) AS trades,
           sum(price * qty) / nullif(sum(qty), 0) AS vwap
    FROM %s GROUP BY 1, 2 $q$, width, source)
$$;

-- Rows of seeded random trades. Times repeat, so that ties are common.
CREATE FUNCTION random_trades(rows int, seed float8, since timestamptz DEFAULT '2024-03-01 12:00+00', minutes int DEFAULT 30)
RETURNS TABLE (symbol text, ts timestamptz, price float8, qty float8, trade_id int8) LANGUAGE sql VOLATILE AS $$
  SELECT setseed(seed);
  SELECT 'S' || (random() * 7)::int, since + floor(random() * minutes * 600) * interval '100 ms',
         (100 + floor(random() * 10000) / 100)::float8, floor(random() * 1e6) / 1e4, (seed * 1e6)::int8 * 1000000 + i
  FROM generate_series(1, rows) AS i
$$;
