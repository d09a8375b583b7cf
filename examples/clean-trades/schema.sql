-- raw_trades takes what comes; a trigger puts what is valid into clean_trades, once, and flags jumps.
CREATE EXTENSION IF NOT EXISTS pg_tick;
CREATE TABLE raw_trades (symbol text, price float8, quantity float8, trade_time timestamptz, timestamp_ms int8,
                         is_buyer_maker bool, trade_id int8, source text);
CREATE TABLE clean_trades (
  symbol text NOT NULL, price float8 NOT NULL, quantity float8 NOT NULL,
  trade_value_usdt float8 GENERATED ALWAYS AS (price * quantity) STORED,
  trade_time timestamptz NOT NULL, timestamp_ms int8 NOT NULL, is_buyer_maker bool,
  is_price_spike bool NOT NULL DEFAULT false, trade_id int8 NOT NULL, source text,
  PRIMARY KEY (symbol, trade_id));

-- A spike is a jump of more than 2 % against the trade of the symbol that has the next smaller id. A trade that comes late, a
-- repaired gap say, is put between two others: its successor is judged anew.
-- (The settings: a session that planned this while the table was empty would read all of it for ever.)
CREATE FUNCTION clean() RETURNS trigger LANGUAGE plpgsql
  SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off SET enable_sort = off AS $$
BEGIN
  PERFORM pg_advisory_xact_lock('clean_trades'::regclass::oid::int8);  -- neighbours that two writers bring at a time see each other
  INSERT INTO clean_trades (symbol, price, quantity, trade_time, timestamp_ms, is_buyer_maker, trade_id, source)
  SELECT symbol, price, quantity, trade_time, timestamp_ms, is_buyer_maker, trade_id, source FROM added
  WHERE symbol IS NOT NULL AND price > 0 AND price < 'infinity' AND quantity > 0 AND quantity < 'infinity'
    AND timestamp_ms > 0 AND trade_time IS NOT NULL AND trade_id IS NOT NULL
  ON CONFLICT (symbol, trade_id) DO NOTHING;

  UPDATE clean_trades AS c SET is_price_spike = NOT c.is_price_spike
  FROM (SELECT DISTINCT symbol, trade_id FROM added) AS a
  CROSS JOIN LATERAL (SELECT ctid, price, trade_id FROM clean_trades WHERE symbol = a.symbol AND trade_id >= a.trade_id
                      ORDER BY trade_id LIMIT 2) AS judged
  LEFT JOIN LATERAL (SELECT price FROM clean_trades WHERE symbol = a.symbol AND trade_id < judged.trade_id
                     ORDER BY trade_id DESC LIMIT 1) AS previous ON true
  WHERE c.ctid = judged.ctid
    AND c.is_price_spike <> coalesce(abs(judged.price / previous.price - 1) > 0.02, false);
  RETURN NULL;
END $$;
CREATE TRIGGER clean AFTER INSERT ON raw_trades REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION clean();

SELECT tick.add_source('clean_trades', watermark_delay => '2 minutes');
SELECT tick.create_rollup('tumbling_1m', $$
  SELECT symbol, tick.tumble(trade_time, '1 minute') AS window_start, (trade_time AT TIME ZONE 'UTC')::date AS event_date,
         count(*) AS trade_count, avg(price) AS avg_price, sum(quantity) AS sum_qty, sum(trade_value_usdt) AS sum_value,
         count(*) FILTER (WHERE is_price_spike) AS spike_count
  FROM clean_trades GROUP BY 1, 2, 3 $$);
SELECT tick.create_rollup('sliding_windows', $$
  SELECT symbol, tick.hop(trade_time, '5 minutes', '1 minute') AS window_start, count(*) AS trade_count, avg(price) AS avg_price,
         min(price) AS min_price, max(price) AS max_price, sum(trade_value_usdt) AS sum_value
  FROM clean_trades GROUP BY 1, 2 $$);
CREATE VIEW sliding_5m_1m AS
  SELECT *, (window_start AT TIME ZONE 'UTC')::date AS event_date FROM sliding_windows;
