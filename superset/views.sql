-- What the Superset dashboard reads, for the tables that `tick-ingest init` makes: a schema of views and a role that can do
-- nothing but read them. Run it with psql in the database of the ticks, as their owner with the right to create roles, again
-- whenever you like: psql -d ticks -v password=secret -f superset/views.sql
-- Promise: no chart does arithmetic of its own. Each view gives the rows that are drawn.
\set ON_ERROR_STOP on
SET client_min_messages = warning;
SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'dashboard') AS is_new, to_regclass('posts_1m') IS NOT NULL AS has_posts \gset
BEGIN;

\if :is_new
CREATE ROLE dashboard LOGIN CONNECTION LIMIT 20;
\endif
\if :{?password}
ALTER ROLE dashboard PASSWORD :'password';
\endif
-- The grants below are what keeps it from writing; these settings end what takes too long, and make UTC the zone of every chart.
ALTER ROLE dashboard SET statement_timeout = '5s';
ALTER ROLE dashboard SET lock_timeout = '1s';
ALTER ROLE dashboard SET idle_in_transaction_session_timeout = '30s';
ALTER ROLE dashboard SET default_transaction_read_only = on;
ALTER ROLE dashboard SET timezone = 'UTC';

CREATE SCHEMA IF NOT EXISTS dashboard;
COMMENT ON SCHEMA dashboard IS 'what the Superset dashboard of pg_tick reads';

CREATE OR REPLACE VIEW dashboard.candles AS
  SELECT exchange, symbol, ts, open, high, low, close, volume, trades, vwap, final, revision
  FROM candles_1m;
COMMENT ON VIEW dashboard.candles IS 'one row a minute, exchange and symbol';

-- Superset has no candlesticks. A box over these five is one, exactly: its quartiles are the second and the fourth of them.
CREATE OR REPLACE VIEW dashboard.candle_points AS
  SELECT exchange, symbol, ts, point, price
  FROM candles_1m
  CROSS JOIN LATERAL (VALUES (1, low), (2, least(open, close)), (3, (open + close) / 2), (4, greatest(open, close)), (5, high))
    AS points (point, price);
COMMENT ON VIEW dashboard.candle_points IS 'five rows a candle: low, lower end of the body, its middle, upper end, high';

CREATE OR REPLACE VIEW dashboard.latest AS
  SELECT l.exchange, l.symbol, l.price, 100 * (l.price / nullif(d.open, 0) - 1) AS change, l.qty, l.last_ts AS ts, l.trades,
         extract(epoch FROM clock_timestamp() - l.last_ts)::float8 AS age
  FROM latest_price l
  LEFT JOIN LATERAL (
    SELECT c.open FROM candles_1m c
    WHERE c.exchange = l.exchange AND c.symbol = l.symbol AND c.ts > l.last_ts - interval '24 hours'
    ORDER BY c.ts LIMIT 1) d ON true;
COMMENT ON VIEW dashboard.latest IS 'the newest trade of each symbol, its change in 24 hours in per cent, its age in seconds';

-- Prices beside the sentiment of posts, one row a minute for each of them. Without posts (`tick-ingest init --feed jetstream` makes
-- their table) prices alone; run this again once there are any.
CREATE OR REPLACE VIEW dashboard.sentiment AS
  SELECT symbol, ts, sum(vwap * volume) / nullif(sum(volume), 0) AS price, NULL::float8 AS sentiment, NULL::int8 AS posts
  FROM candles_1m GROUP BY 1, 2
\if :has_posts
  UNION ALL SELECT symbol, ts, NULL, sentiment, posts FROM posts_1m
\endif
;
COMMENT ON VIEW dashboard.sentiment IS 'a row a minute and symbol with a price, one with the average sentiment of its posts, from -1 to 1';

-- Data quality. The views of schema tick show what the reading role may read, hence the grants on the tables themselves.
CREATE OR REPLACE VIEW dashboard.rollups AS
  SELECT rollup::text AS rollup, source::text AS source, state, rows_per_second, pending_deltas, lag_ms, stale, last_error
  FROM tick.status;
COMMENT ON VIEW dashboard.rollups IS 'how far each rollup is, and what is wrong with it';

CREATE OR REPLACE VIEW dashboard.gaps AS
  SELECT source::text AS source, key ->> 'exchange' AS exchange, key ->> 'symbol' AS symbol, from_id, to_id, missing,
         from_time AS ts, to_time, since, reason
  FROM tick.gaps;
COMMENT ON VIEW dashboard.gaps IS 'ids of trades that never came, between two that did';

CREATE OR REPLACE VIEW dashboard.late AS
  SELECT rollup::text AS rollup, key ->> 'exchange' AS exchange, key ->> 'symbol' AS symbol, ts, rows, reason, since
  FROM tick.late;
COMMENT ON VIEW dashboard.late IS 'rows that a rollup has not taken in, and why';

CREATE OR REPLACE VIEW dashboard.quality AS
  SELECT s.source::text AS source, s.max_time AS ts, s.watermark, s.rows, s.rows_per_second, s.duplicates,
         extract(epoch FROM clock_timestamp() - s.max_time)::float8 AS age,
         (SELECT max(r.lag_ms) FROM tick.status r WHERE r.source = s.source) AS lag_ms,
         (SELECT coalesce(sum(g.missing), 0) FROM tick.gaps g WHERE g.source = s.source) AS missing,
         (SELECT coalesce(max(refused), 0)
          FROM (SELECT sum(l.rows) AS refused FROM tick.late l JOIN tick.status r USING (rollup)
                WHERE r.source = s.source GROUP BY rollup) l) AS late
  FROM tick.sources s;
COMMENT ON VIEW dashboard.quality IS 'one row a source: its pace, its lag, what is missing and what came too late for a rollup';

GRANT USAGE ON SCHEMA dashboard TO dashboard;
GRANT SELECT ON ALL TABLES IN SCHEMA dashboard TO dashboard;
GRANT SELECT ON trades, candles_1m, candles_5m, latest_price TO dashboard;
\if :has_posts
GRANT SELECT ON posts_1m TO dashboard;
\endif
COMMIT;
