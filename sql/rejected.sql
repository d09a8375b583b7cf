-- What feeds reject: kept per role, bounded, seen by its owner's members only.
CREATE ROLE regress_feeder;
CREATE ROLE regress_other;
SELECT tick.reject('binance/trade', 'impossible price', '{"p":"-1"}');
SET ROLE regress_feeder;
SELECT tick.reject('kraken/trade', 'not JSON', repeat('x', 5000));
SELECT feed, reason, length(payload), received_at <= clock_timestamp() AS past FROM tick.rejected;
INSERT INTO tick_catalog.rejected (owner, feed, received_at, reason) VALUES (0, 'a', now(), 'b');
SET ROLE regress_other;
SELECT count(*) FROM tick.rejected;
SELECT count(*) FROM tick_catalog.rejected;
RESET ROLE;
SELECT feed, reason, payload FROM tick.rejected WHERE feed = 'binance/trade';
SELECT tick.reject('a', NULL, 'c');
SELECT tick.reject('a', 'b', NULL);
-- Bounded: a broken feed cannot fill the disk.
SELECT count(tick.reject('flood', 'n ' || n, '')) FROM generate_series(1, 10100) n;
SELECT count(*) BETWEEN 10000 AND 10099 AS bounded, max(substr(reason, 3)::int) AS newest FROM tick.rejected WHERE feed <> 'kraken/trade';
SELECT min(substr(reason, 3)::int) > 1 AS oldest_went, bool_and(feed = 'flood') FROM tick.rejected WHERE feed <> 'kraken/trade';
SELECT count(*) FROM tick.rejected WHERE feed = 'kraken/trade';
DROP ROLE regress_feeder;
DROP ROLE regress_other;
