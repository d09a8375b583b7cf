-- tick.verify finds what differs, in one snapshot, and says where.
\set SHOW_CONTEXT never
SET timezone = 'UTC';
SET datestyle = 'ISO';
CREATE TABLE trades (symbol text, venue text, ts timestamptz, price float8, qty numeric, small float4);
INSERT INTO trades SELECT 's' || i % 3, nullif('v' || i % 2, 'v1'), '2024-01-01'::timestamptz + i * interval '10 s', i % 13, i / 8.0, i % 5
FROM generate_series(1, 400) AS i;
SELECT tick.create_rollup('candles', $$
  SELECT symbol, venue, tick.tumble(ts, '10 minutes') AS w, max(price) AS high, sum(price) AS total, sum(qty) AS volume,
         tick.last(price, ts) AS close, count(*) AS n, sum(small) AS smalls, sum(qty) / count(*) AS mean
  FROM trades GROUP BY 1, 2, 3 $$);
SELECT tick.wait('candles');
SELECT * FROM tick.verify('candles');

-- Each planted difference is named: a column, a missing row, an extra row
CREATE FUNCTION tampered(change text) RETURNS TABLE (key jsonb, ts timestamptz, "column" text, stored text, expected text)
LANGUAGE plpgsql AS $$
DECLARE
  differences jsonb;
BEGIN
  BEGIN
    EXECUTE change;
    differences := (SELECT coalesce(jsonb_agg(v), '[]') FROM tick.verify('candles') AS v);
    RAISE EXCEPTION 'undo' USING ERRCODE = 'TK001';
  EXCEPTION WHEN SQLSTATE 'TK001' THEN
    NULL;
  END;
  RETURN QUERY SELECT * FROM jsonb_to_recordset(differences)
    AS f(key jsonb, ts timestamptz, "column" text, stored text, expected text);
END $$;
ALTER TABLE candles_state DISABLE TRIGGER tick_guard;
SELECT * FROM tampered($$UPDATE candles_state SET high = high + 1 WHERE symbol = 's1' AND venue IS NULL AND w = '2024-01-01 00:10'$$);
SELECT * FROM tampered($$UPDATE candles_state SET high = NULL WHERE symbol = 's1' AND venue IS NULL AND w = '2024-01-01 00:10'$$);
SELECT * FROM tampered($$UPDATE candles_state SET volume = volume + 0.001 WHERE symbol = 's1' AND venue = 'v0' AND w = '2024-01-01 00:10'$$);
SELECT * FROM tampered($$UPDATE candles_state SET n = n + 1 WHERE symbol = 's1' AND venue = 'v0' AND w = '2024-01-01 00:10'$$);
SELECT * FROM tampered($$UPDATE candles_state SET close = -1, total = '0:[5] n=1' WHERE symbol = 's2' AND venue = 'v0' AND w = '2024-01-01 00:00'$$);
SELECT * FROM tampered($$UPDATE candles_state SET smalls = '0:[1000] n=1' WHERE symbol = 's2' AND venue = 'v0' AND w = '2024-01-01 00:00'$$);
SELECT * FROM tampered($$DELETE FROM candles_state WHERE symbol = 's2' AND venue IS NULL AND w = '2024-01-01 00:20'$$);
SELECT * FROM tampered($$INSERT INTO candles_state SELECT 's7', venue, w, n, high, total, total_count, volume, volume_count, close, close_order, smalls, smalls_count, false, revision, updated_at
                         FROM candles_state WHERE symbol = 's2' AND venue = 'v0' AND w = '2024-01-01 00:20'$$);
SELECT column_name FROM information_schema.columns WHERE table_name = 'candles_state' ORDER BY ordinal_position;
SELECT "column", count(*) FROM tampered('DELETE FROM candles_state') GROUP BY 1;
SELECT * FROM tick.verify('candles');

-- A range: windows whose start is in [from, to)
BEGIN;
UPDATE candles_state SET n = n + 1;
SELECT count(*), count(DISTINCT ts), min(ts), max(ts) FROM tick.verify('candles') WHERE "column" = 'n';
SELECT count(*), count(DISTINCT ts), min(ts), max(ts) FROM tick.verify('candles', '2024-01-01 00:10', '2024-01-01 00:30') WHERE "column" = 'n';
SELECT count(*), count(DISTINCT ts), min(ts), max(ts) FROM tick.verify('candles', "to" => '2024-01-01 00:10:01') WHERE "column" = 'n';
SELECT count(*), count(DISTINCT ts), min(ts), max(ts) FROM tick.verify('candles', '2024-01-01 00:10:01') WHERE "column" = 'n';
SELECT count(*) FROM tick.verify('candles', '-infinity', 'infinity') WHERE "column" = 'n';
SELECT count(*) FROM tick.verify('candles', '2025-01-01');
ROLLBACK;

-- The tolerance
BEGIN;
UPDATE candles_state SET high = high * (1 + 1e-8);
SELECT count(*) > 0 FROM tick.verify('candles');
SELECT count(*) > 0 FROM tick.verify('candles', tolerance => 1e-7);
ROLLBACK;

-- What is not merged yet counts: rows of this transaction, and of transactions the worker has not seen
BEGIN;
INSERT INTO trades SELECT 's' || i % 5, 'v9', '2024-01-01'::timestamptz + i * interval '10 s', i % 13, i / 8.0, i FROM generate_series(1, 400) AS i;
SELECT * FROM tick.verify('candles');
SAVEPOINT a;
INSERT INTO trades SELECT 's9', 'v9', '2024-01-01'::timestamptz + i * interval '10 s', i % 13, i / 8.0, i FROM generate_series(1, 40) AS i;
SELECT * FROM tick.verify('candles');
ROLLBACK TO a;
SELECT * FROM tick.verify('candles');
COMMIT;
SELECT * FROM tick.verify('candles');

-- Readers: SELECT on the rollup and on its source is enough, and nothing of theirs runs
CREATE ROLE regress_tick_reader;
SET ROLE regress_tick_reader;
SELECT * FROM tick.verify('candles');
RESET ROLE;
GRANT SELECT ON candles TO regress_tick_reader;
SET ROLE regress_tick_reader;
SELECT * FROM tick.verify('candles');
RESET ROLE;
GRANT SELECT ON trades TO regress_tick_reader;
SET ROLE regress_tick_reader;
SELECT * FROM tick.verify('candles');
RESET ROLE;
REVOKE ALL ON candles, trades FROM regress_tick_reader;
DROP ROLE regress_tick_reader;

-- Types without equality, domains, a rollup without window, timestamps without time zone
CREATE DOMAIN price_type AS numeric CHECK (value >= 0);
CREATE TABLE odd (k price_type, at timestamp, v float8, d price_type);
SELECT tick.create_rollup('odd_r', $$SELECT k, tick.tumble(at, '1 day') AS day, json_build_array(max(v)) AS j, point(max(v), min(v)) AS p,
                                            ARRAY[max(v), min(v)] AS a, tick.first(d, at) AS f, max(d) AS m FROM odd GROUP BY 1, 2$$);
SELECT tick.create_rollup('odd_r', $$SELECT k, tick.tumble(at, '1 day') AS day, point(max(v), min(v)) AS p,
                                            ARRAY[max(v), min(v)] AS a, tick.first(d, at) AS f, max(d) AS m FROM odd GROUP BY 1, 2$$);
SELECT tick.create_rollup('odd_all', 'SELECT k, max(v) FROM odd GROUP BY 1');
INSERT INTO odd VALUES (1.0, '2024-01-01 05:00', 1, 2), (1.00, '2024-01-01 06:00', 3, 1), (NULL, '2024-01-01 06:00', 3, 1), (2, '-infinity', 1, 1), (3, NULL, 1, 1);
SELECT tick.wait('odd_r'), tick.wait('odd_all');
SELECT k, day, p, a, f, m, pg_typeof(k), pg_typeof(f), pg_typeof(m) FROM odd_r ORDER BY k;
SELECT * FROM tick.verify('odd_r');
SELECT * FROM tick.verify('odd_all');
SELECT * FROM tick.verify('odd_r', '2024-01-01', '2024-01-02');
BEGIN;
ALTER TABLE odd_r_state DISABLE TRIGGER tick_guard;
ALTER TABLE odd_all_state DISABLE TRIGGER tick_guard;
UPDATE odd_r_state SET f = f + 1 WHERE k = 1;
DELETE FROM odd_all_state WHERE k = 1;
SELECT * FROM tick.verify('odd_r', '2024-01-01', '2024-01-02');
SELECT * FROM tick.verify('odd_r', '2024-01-02');
SELECT * FROM tick.verify('odd_all');
ROLLBACK;
SELECT * FROM tick.verify(NULL);
SET client_min_messages = warning;
DROP TABLE odd, trades CASCADE;
DROP DOMAIN price_type;
