-- The table as its pipeline made it, and one column more: trades of one millisecond have an order.
CREATE EXTENSION IF NOT EXISTS pg_tick;
CREATE SCHEMA IF NOT EXISTS stock;
CREATE TABLE IF NOT EXISTS stock.real_time_prices (
  id SERIAL PRIMARY KEY,
  symbol VARCHAR(20) NOT NULL,
  price DECIMAL(20,8) NOT NULL,
  timestamp BIGINT NOT NULL,
  event_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
  volume DECIMAL(20,8),
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX IF NOT EXISTS idx_real_time_prices_symbol ON stock.real_time_prices (symbol);
CREATE INDEX IF NOT EXISTS idx_real_time_prices_timestamp ON stock.real_time_prices (timestamp);
CREATE INDEX IF NOT EXISTS idx_real_time_prices_event_time ON stock.real_time_prices (event_time);
ALTER TABLE stock.real_time_prices ADD COLUMN IF NOT EXISTS trade_id BIGINT;
SELECT tick.add_source('stock.real_time_prices', dedup_key => '{symbol}', dedup_id => 'trade_id');

SELECT tick.create_rollup('stock.aggregated_prices_1min', $$
  SELECT symbol, tick.tumble(event_time, '1 minute') AS window_start,
         tick.first(price, event_time, trade_id)::decimal(20,8) AS open_price,
         tick.last(price, event_time, trade_id)::decimal(20,8) AS close_price,
         max(price)::decimal(20,8) AS high_price, min(price)::decimal(20,8) AS low_price,
         avg(price)::decimal(20,8) AS avg_price, sum(volume)::decimal(20,8) AS total_volume,
         count(*)::integer AS trade_count
  FROM stock.real_time_prices GROUP BY 1, 2 $$);
SELECT tick.create_rollup('stock.aggregated_prices_5min', $$
  SELECT symbol, tick.tumble(event_time, '5 minutes') AS window_start,
         tick.first(price, event_time, trade_id)::decimal(20,8) AS open_price,
         tick.last(price, event_time, trade_id)::decimal(20,8) AS close_price,
         max(price)::decimal(20,8) AS high_price, min(price)::decimal(20,8) AS low_price,
         avg(price)::decimal(20,8) AS avg_price, sum(volume)::decimal(20,8) AS total_volume,
         count(*)::integer AS trade_count
  FROM stock.real_time_prices GROUP BY 1, 2 $$);
SELECT tick.create_rollup('stock.latest_prices', $$
  SELECT symbol, tick.last(price, event_time, trade_id)::decimal(20,8) AS price,
         tick.last(timestamp, event_time, trade_id) AS timestamp, max(event_time) AS event_time,
         tick.last(volume, event_time, trade_id)::decimal(20,8) AS volume, max(created_at) AS created_at
  FROM stock.real_time_prices GROUP BY 1 $$);
