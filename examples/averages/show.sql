\echo test_write
SELECT * FROM test_write ORDER BY timestamp DESC, stock_ticker LIMIT 6;
\echo behind it; behind: from the newest quote until the view has it
SELECT a.symbol, a.ts, a.quotes, a.final, a.revision, a.updated_at - q.ts AS behind
FROM averages_5m AS a CROSS JOIN LATERAL (SELECT ts FROM quotes WHERE symbol = a.symbol ORDER BY ts DESC LIMIT 1) AS q
ORDER BY a.ts DESC, a.symbol LIMIT 3;
