\echo stock.aggregated_prices_1min, the newest minute
SELECT symbol, window_start, open_price, high_price, low_price, close_price, total_volume, trade_count
FROM stock.aggregated_prices_1min WHERE window_start = (SELECT max(window_start) FROM stock.aggregated_prices_1min) ORDER BY 1;
\echo stock.latest_prices; behind: from the receipt of the newest trade until the view has it
SELECT symbol, price, event_time, updated_at - created_at AT TIME ZONE 'UTC' AS behind FROM stock.latest_prices ORDER BY 1;
