\echo tumbling_1m
SELECT symbol, window_start, trade_count, avg_price, sum_qty, sum_value, spike_count, final FROM tumbling_1m ORDER BY window_start DESC, symbol LIMIT 6;
\echo sliding_5m_1m, its newest full window
SELECT symbol, window_start, window_end, trade_count, avg_price, min_price, max_price
FROM sliding_5m_1m WHERE window_end > (SELECT max(trade_time) FROM clean_trades) ORDER BY window_start, symbol LIMIT 2;
