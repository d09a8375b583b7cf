-- The table as it was called; its key keeps out what the server tells twice.
CREATE EXTENSION IF NOT EXISTS pg_tick;
CREATE SCHEMA IF NOT EXISTS crypto;
CREATE TABLE crypto.prices (id text, name text, price_usd float8, ts bigint, processing_time timestamp, PRIMARY KEY (id, ts));
SELECT tick.add_source('crypto.prices', watermark_delay => '1 minute');
SELECT tick.create_rollup('crypto.prices_5m', $$
  SELECT id, tick.tumble(to_timestamp(ts), '5 minutes') AS ts, tick.first(price_usd, ts) AS open, max(price_usd) AS high,
         min(price_usd) AS low, tick.last(price_usd, ts) AS close, avg(price_usd) AS average, count(*) AS polls
  FROM crypto.prices GROUP BY 1, 2 $$);
SELECT tick.create_rollup('crypto.latest', $$
  SELECT id, tick.last(name, ts) AS name, tick.last(price_usd, ts) AS price_usd, max(ts) AS ts,
         max(processing_time) AS processing_time
  FROM crypto.prices GROUP BY 1 $$);
