\echo crypto.latest; behind: from the receipt of the answer until the view has it
SELECT id, name, price_usd, to_timestamp(ts) AS ts, updated_at - processing_time AT TIME ZONE 'UTC' AS behind
FROM crypto.latest ORDER BY price_usd DESC LIMIT 10;
\echo crypto.prices_5m
SELECT id, ts, open, high, low, close, polls, final FROM crypto.prices_5m ORDER BY ts DESC, id LIMIT 5;
