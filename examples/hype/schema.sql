-- Prices and posts are summed up apart, each by its own rollup; the windows are joined, not the rows: a price does not count once
-- for every post. A window that has only one of both is a row, too.
CREATE EXTENSION IF NOT EXISTS pg_tick;
CREATE TABLE trades (exchange text NOT NULL, symbol text NOT NULL, ts timestamptz NOT NULL, price float8 NOT NULL, qty float8,
  trade_id int8, is_buyer_maker bool, received_at timestamptz);
SELECT tick.add_source('trades', dedup_key => '{exchange,symbol}', dedup_id => 'trade_id');
CREATE TABLE posts (feed text NOT NULL, symbol text NOT NULL, ts timestamptz NOT NULL, id text NOT NULL, author text,
  text text, sentiment float8);
CREATE UNIQUE INDEX ON posts (feed, id, symbol);
CREATE INDEX ON posts (ts, id) WHERE sentiment IS NULL;
SELECT tick.create_rollup('prices_10s', $$
  SELECT symbol, tick.tumble(ts, '10 seconds') AS ts, avg(price) AS price, count(*) AS trades FROM trades GROUP BY 1, 2 $$);
SELECT tick.create_rollup('posts_10s', $$
  SELECT symbol, tick.tumble(ts, '10 seconds') AS ts, avg(sentiment) AS sentiment, count(*) AS posts FROM posts GROUP BY 1, 2 $$);
CREATE VIEW realtime_hype AS
  SELECT coalesce(p.ts, s.ts) AT TIME ZONE 'UTC' AS time, p.price AS avg_price, (s.sentiment + 1) / 2 AS hype_score,
         coalesce(p.symbol, s.symbol) AS symbol, coalesce(p.trades, 0) AS trades, coalesce(s.posts, 0) AS posts,
         coalesce(p.final, true) AND coalesce(s.final, true) AS final, greatest(p.updated_at, s.updated_at) AS updated_at
  FROM prices_10s AS p FULL JOIN posts_10s AS s ON s.symbol = p.symbol AND s.ts = p.ts;
