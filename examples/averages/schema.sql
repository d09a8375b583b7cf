-- A quote is in once, to the millisecond. Averages are there with the first quote of a window and are revised with each; a window
-- is final 15 minutes after its end, by the clock when no quotes come any more.
CREATE EXTENSION IF NOT EXISTS pg_tick;
CREATE TABLE quotes (symbol text NOT NULL, ts timestamptz NOT NULL, price float8 NOT NULL, UNIQUE (symbol, ts, price));
SELECT tick.add_source('quotes', watermark_delay => '15 minutes', idle_timeout => '15 minutes');
SELECT tick.create_rollup('averages_5m', $$
  SELECT symbol, tick.tumble(ts, '5 minutes') AS ts, avg(price) AS price, count(*) AS quotes FROM quotes GROUP BY 1, 2 $$);
CREATE VIEW test_write AS SELECT symbol AS stock_ticker, window_end AS timestamp, price FROM averages_5m;
