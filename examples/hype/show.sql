\echo realtime_hype
SELECT time, symbol, round(avg_price::numeric, 2) AS avg_price, round(hype_score::numeric, 3) AS hype_score, trades, posts, final
FROM realtime_hype ORDER BY time DESC, symbol LIMIT 8;
\echo behind it; behind: from the newest row until the view has it
SELECT 'price' AS what, max(p.updated_at) - (SELECT max(ts) FROM trades) AS behind FROM prices_10s AS p
UNION ALL SELECT 'posts', max(s.updated_at) - (SELECT max(ts) FROM posts) FROM posts_10s AS s;
