-- What tick.create_rollup makes, how rollups share one fold, and how they end.
\set SHOW_CONTEXT never
SET timezone = 'UTC';
SET datestyle = 'ISO';
SET intervalstyle = 'postgres';
ALTER SEQUENCE tick_catalog.rollup_id_seq RESTART WITH 1001;
CREATE TABLE trades (exchange text, symbol text, ts timestamptz, price float8, qty float8, trade_id int8, is_buyer_maker bool);
INSERT INTO trades
  SELECT 'x', 's' || i % 3, '2024-01-01'::timestamptz + i * interval '7 s', i % 11 + i / 64.0, (i % 7) / 8.0, i, i % 2 = 0
  FROM generate_series(1, 1000) AS i;

SELECT tick.create_rollup('candles_1m', $$
  SELECT symbol, tick.tumble(ts, '1 minute') AS ts,
         tick.first(price, ts, trade_id) AS open, max(price) AS high, min(price) AS low,
         tick.last(price, ts, trade_id)  AS close, sum(qty) AS volume, count(*) AS trades,
         sum(price * qty) / nullif(sum(qty), 0) AS vwap
  FROM trades GROUP BY 1, 2 $$);
SELECT attname, format_type(atttypid, atttypmod), collname FROM pg_attribute LEFT JOIN pg_collation AS c ON c.oid = attcollation
WHERE attrelid = 'candles_1m'::regclass AND attnum > 0 ORDER BY attnum;
SELECT attname, format_type(atttypid, atttypmod), collname, attnotnull FROM pg_attribute LEFT JOIN pg_collation AS c ON c.oid = attcollation
WHERE attrelid = 'candles_1m_state'::regclass AND attnum > 0 ORDER BY attnum;
SELECT indexdef FROM pg_indexes WHERE tablename = 'candles_1m_state' ORDER BY 1;
SELECT relreplident, reloptions FROM pg_class WHERE relname = 'candles_1m_state';
SELECT tgname, tgenabled, tgnargs FROM pg_trigger WHERE tgrelid = 'trades'::regclass ORDER BY 1;
SELECT view::regclass, state::regclass, source::regclass, window_size, key_columns, time_column, item_columns
FROM tick_catalog.rollup;
SELECT tick.wait('candles_1m');
SELECT * FROM tick.verify('candles_1m');
SELECT count(*), sum(trades), min(ts), max(window_end), bool_or(final) FROM candles_1m;
INSERT INTO trades VALUES ('x', 's0', '2024-01-01 00:00:01', 1000, 1, 5000), ('x', 's0', NULL, 7, 7, 7),
                          ('x', NULL, '2024-01-01', 3, 1, 2), ('x', NULL, '2024-01-01', 4, 1, 1), ('x', 's0', 'infinity', 1, 1, 1);
SELECT tick.wait('candles_1m');
SELECT * FROM tick.verify('candles_1m');
SELECT symbol, ts, open, high, low, close, volume, trades, vwap FROM candles_1m WHERE ts < '2024-01-01 00:01' ORDER BY 1;
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SET enable_sort = off;
EXPLAIN (COSTS OFF) SELECT symbol, ts, close FROM candles_1m WHERE symbol = 's1' ORDER BY ts DESC LIMIT 60;
RESET enable_seqscan;
RESET enable_bitmapscan;
RESET enable_sort;

-- Rollups of one capture group share a program: the items are the union, the pane is the greatest common one
SELECT tick.create_rollup('candles_5m', $$
  SELECT tick.tumble(ts, '5 minutes') AS start, symbol AS pair, max(price) AS high, sum(qty * 2) AS double_volume
  FROM trades GROUP BY 2, 1 $$);
SELECT tick.create_rollup('latest', 'SELECT symbol, tick.last(price, ts, trade_id) AS price FROM trades GROUP BY symbol');
SELECT tick.create_rollup('candles_7m', $$SELECT symbol, tick.tumble(ts, '7 minutes') AS ts, count(*) FROM trades GROUP BY 1, 2$$);
SELECT tick.create_rollup('makers', $$SELECT symbol, tick.tumble(ts, '5 minutes') AS ts, count(*) FROM trades WHERE is_buyer_maker GROUP BY 1, 2$$);
SELECT tick.create_rollup('everything', 'SELECT count(*), sum(qty) AS volume, avg(price) AS mean FROM trades');
SELECT r.view::regclass, dense_rank() OVER (ORDER BY group_id) AS "group", p.pane / 1000000 AS pane,
       cardinality(p.items) / 5 AS program_items, m.items
FROM tick_catalog.rollup AS r JOIN tick_catalog.program AS p USING (group_id)
JOIN tick_catalog.rollup_program AS m ON m.program = p.id AND m.rollup = r.id WHERE p.current ORDER BY r.id;
SELECT tgname, tgnargs FROM pg_trigger WHERE tgrelid = 'trades'::regclass ORDER BY 1;
INSERT INTO trades SELECT 'x', 's' || i % 4, '2024-01-01'::timestamptz + i * interval '5 s', i, i, i, i % 3 = 0 FROM generate_series(1, 300) AS i;
SELECT bool_and(tick.wait(view::regclass)) FROM tick_catalog.rollup;
SELECT v.* FROM tick_catalog.rollup AS r, tick.verify(r.view::regclass) AS v;
SELECT symbol, price, window_end, final FROM latest ORDER BY 1 NULLS LAST;
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'candles_5m'::regclass AND attnum > 0 ORDER BY attnum;

-- Dropping one leaves the others exact, with a smaller program
SELECT tick.drop_rollup('candles_1m');
DROP VIEW makers;
SELECT r.view::regclass, dense_rank() OVER (ORDER BY group_id) AS "group", p.pane / 1000000 AS pane,
       cardinality(p.items) / 5 AS program_items, m.items
FROM tick_catalog.rollup AS r JOIN tick_catalog.program AS p USING (group_id)
JOIN tick_catalog.rollup_program AS m ON m.program = p.id AND m.rollup = r.id WHERE p.current ORDER BY r.id;
INSERT INTO trades SELECT 'x', 's' || i % 4, '2024-01-01'::timestamptz + i * interval '5 s', i, i, i, i % 3 = 0 FROM generate_series(1, 300) AS i;
SELECT bool_and(tick.wait(view::regclass)) FROM tick_catalog.rollup;
SELECT v.* FROM tick_catalog.rollup AS r, tick.verify(r.view::regclass) AS v;
SELECT relname FROM pg_class WHERE relname ~ '^(candles_1m|makers)';

-- The source and its columns cannot go unnoticed
DROP TABLE trades;
ALTER TABLE trades DROP COLUMN price;
ALTER TABLE trades ALTER COLUMN price TYPE numeric;
DROP TABLE candles_5m_state;
TRUNCATE trades;
ALTER TABLE trades RENAME COLUMN qty TO quantity;
ALTER TABLE trades RENAME TO ticks;
INSERT INTO ticks SELECT 'x', 's9', '2024-01-01'::timestamptz + i * interval '5 s', i, i, i FROM generate_series(1, 300) AS i;
SELECT bool_and(tick.wait(view::regclass)) FROM tick_catalog.rollup;
SELECT v.* FROM tick_catalog.rollup AS r, tick.verify(r.view::regclass) AS v;
DROP TABLE ticks CASCADE;
SELECT (SELECT count(*) FROM tick_catalog.rollup), (SELECT count(*) FROM tick_catalog.source),
       (SELECT count(*) FROM tick_catalog.capture_group), (SELECT count(*) FROM tick_catalog.program WHERE current),
       (SELECT count(*) FROM tick_catalog.rollup_program), (SELECT count(*) FROM tick_catalog.pending),
       (SELECT count(*) FROM tick_catalog.watermark);

-- An empty source: a rollup without keys has its one row from the beginning
CREATE TABLE empty (k int, v numeric, at timestamp);
SELECT tick.create_rollup('total', 'SELECT count(*), count(v) AS known, sum(v), max(k) FROM empty');
SELECT tick.create_rollup('per_day', $$SELECT tick.tumble(at, '1 day') AS day, sum(v) FROM empty GROUP BY 1$$);
SELECT * FROM tick.verify('total');
SELECT count, known, sum, max, window_end, final FROM total;
INSERT INTO empty VALUES (1, 1.50, '2024-02-29 12:00'), (2, NULL, 'infinity'), (3, 2, NULL);
SELECT tick.wait('total'), tick.wait('per_day');
SELECT count, known, sum, max, window_end, final FROM total;
SELECT day, sum, window_end, revision FROM per_day;
SELECT * FROM tick.verify('total');
SELECT * FROM tick.verify('per_day');
DROP TABLE empty CASCADE;

-- Hostile names
CREATE SCHEMA "sch""ema %s";
CREATE TYPE "sch""ema %s"."mo'od" AS ENUM ('it''s', 'a "b"');
CREATE TABLE "sch""ema %s"."tab'le; --" ("ke""y" text, "select" "sch""ema %s"."mo'od", "t%s" timestamptz, "va'l" numeric(12,2), "$1" text COLLATE "POSIX");
SELECT tick.create_rollup('"sch""ema %s"."roll''up $1 %n"', $$
  SELECT "ke""y" AS "k""1", "select" AS "order", tick.tumble("t%s", '1 hour') AS "ti'me", sum("va'l") AS "s""um %d",
         tick.first("va'l", "t%s") AS "fi""rst", max("$1") AS "$2", avg("va'l") FILTER (WHERE "$1" <> 'x''y') AS "a.vg"
  FROM "sch""ema %s"."tab'le; --" WHERE "select" IS NOT NULL GROUP BY 1, 2, 3 $$);
INSERT INTO "sch""ema %s"."tab'le; --" VALUES ('it''s', 'a "b"', '2024-01-01', 1.25, '$$'), ('it''s', 'a "b"', '2024-01-01', 2, 'x''y');
SELECT tick.wait('"sch""ema %s"."roll''up $1 %n"');
INSERT INTO "sch""ema %s"."tab'le; --" VALUES (NULL, 'it''s', '2024-01-01', 1.25, '$$'), ('it''s', 'a "b"', '2023-01-01', 2, 'x''y');
SELECT tick.wait('"sch""ema %s"."roll''up $1 %n"');
SELECT "k""1", "order", "ti'me", "s""um %d", "fi""rst", "$2", "a.vg" FROM "sch""ema %s"."roll'up $1 %n" ORDER BY 3, 1;
SELECT * FROM tick.verify('"sch""ema %s"."roll''up $1 %n"');
DROP SCHEMA "sch""ema %s" CASCADE;
CREATE TABLE long_names (k text, t timestamptz, a_column_with_a_name_of_sixty_three_bytes_xxxxxxxxxxxxxxxxxxxxx float8);
SELECT tick.create_rollup('a_rollup_with_a_name_of_sixty_three_bytes_xxxxxxxxxxxxxxxxxxxxx', $$
  SELECT k, tick.tumble(t, '1 s') AS t, avg(a_column_with_a_name_of_sixty_three_bytes_xxxxxxxxxxxxxxxxxxxxx) AS a_column_with_a_name_of_sixty_three_bytes_xxxxxxxxxxxxxxxxxxxxx,
         stddev(a_column_with_a_name_of_sixty_three_bytes_xxxxxxxxxxxxxxxxxxxxx) AS a_column_with_a_name_of_sixty_three_bytes_xxxxxxxxxxxxxxxxxxxxy
  FROM long_names GROUP BY 1, 2$$);
SELECT item_columns FROM tick_catalog.rollup;
INSERT INTO long_names VALUES ('a', '2024-01-01', 1), ('a', '2024-01-01', 2);
SELECT tick.wait('a_rollup_with_a_name_of_sixty_three_bytes_xxxxxxxxxxxxxxxxxxxxx');
SELECT * FROM tick.verify('a_rollup_with_a_name_of_sixty_three_bytes_xxxxxxxxxxxxxxxxxxxxx');
DROP TABLE long_names CASCADE;

-- Whatever is renamed or moved, the rollup follows
CREATE SCHEMA old_schema;
CREATE TYPE old_schema.side AS ENUM ('buy', 'sell');
CREATE FUNCTION old_schema.net(float8) RETURNS float8 LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 0.5';
CREATE TABLE old_schema.orders (side old_schema.side, t timestamptz, v float8);
SELECT tick.create_rollup('old_schema.by_side', $$SELECT side, tick.tumble(t, '1 minute') AS t, old_schema.net(sum(old_schema.net(v))) AS v FROM old_schema.orders GROUP BY 1, 2$$);
ALTER SCHEMA old_schema RENAME TO new_schema;
ALTER TABLE new_schema.by_side_state RENAME TO kept;
ALTER TABLE new_schema.kept SET SCHEMA public;
ALTER TYPE new_schema.side RENAME TO direction;
ALTER FUNCTION new_schema.net RENAME TO half;
ALTER VIEW new_schema.by_side RENAME COLUMN v TO value;
ALTER VIEW new_schema.by_side RENAME TO by_direction;
INSERT INTO new_schema.orders VALUES ('buy', '2024-01-01', 1), ('buy', '2024-01-01', 2), (NULL, '2024-01-01', 3);
SELECT tick.wait('new_schema.by_direction');
SELECT side, value FROM new_schema.by_direction;
SELECT * FROM tick.verify('new_schema.by_direction');
INSERT INTO new_schema.orders VALUES ('buy', '2024-01-01', 1), ('sell', '2024-01-01', 2), (NULL, '2024-01-01', 3);
SELECT tick.wait('new_schema.by_direction');
SELECT * FROM tick.verify('new_schema.by_direction');
ALTER TABLE kept RENAME COLUMN v_sum TO other;
DROP SCHEMA new_schema CASCADE;

-- A hostile search_path changes neither what the query means nor what runs later
CREATE SCHEMA evil;
CREATE TABLE prices (k text, t timestamptz, p int4);
CREATE FUNCTION evil.plus(int4, int4) RETURNS int4 LANGUAGE sql IMMUTABLE AS 'SELECT 42';
CREATE OPERATOR evil.+ (LEFTARG = int4, RIGHTARG = int4, FUNCTION = evil.plus);
CREATE FUNCTION evil.sum_step(int8, int4) RETURNS int8 LANGUAGE sql IMMUTABLE AS 'SELECT 43::int8';
CREATE AGGREGATE evil.max(int4) (SFUNC = evil.sum_step, STYPE = int8);
CREATE TABLE evil.prices_state (x int);
SELECT tick.create_rollup('plain_sums', $$SELECT k, tick.tumble(t, '1 minute') AS t, sum(p + 1), max(p) FROM prices GROUP BY 1, 2$$);
SET search_path = evil, public, pg_catalog;
SELECT tick.create_rollup('public.evil_sums', $$SELECT k, tick.tumble(t, '1 minute') AS t, sum(p + 1) FROM prices GROUP BY 1, 2$$);
SELECT tick.create_rollup('evil_max', $$SELECT max(p) FROM prices$$);
INSERT INTO prices VALUES ('a', '2024-01-01', 1), ('a', '2024-01-01', 2);
SELECT public.plain_sums.sum FROM public.plain_sums WHERE false;
SELECT tick.wait('plain_sums'), tick.wait('evil_sums');
SELECT k, sum, max FROM plain_sums;
SELECT k, sum FROM evil_sums;
SELECT * FROM tick.verify('plain_sums');
SELECT * FROM tick.verify('evil_sums');
RESET search_path;
SELECT tick.drop_rollup('plain_sums'), tick.drop_rollup('evil_sums');
DROP TABLE prices;
DROP SCHEMA evil CASCADE;

-- Owners: everything a user gives runs as that user; rollups of two owners share no fold
CREATE ROLE regress_tick_a;
CREATE ROLE regress_tick_b;
CREATE SCHEMA shop;
GRANT ALL ON SCHEMA shop TO regress_tick_a, regress_tick_b;
CREATE TABLE shop.sales (item text, t timestamptz, amount numeric);
GRANT SELECT, INSERT, TRIGGER ON shop.sales TO regress_tick_a, regress_tick_b;
SET ROLE regress_tick_a;
CREATE FUNCTION shop.who(numeric) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN current_user; END';
SELECT tick.create_rollup('shop.by_a', $$SELECT item, tick.tumble(t, '1 day') AS d, sum(amount), max(shop.who(amount)) AS who FROM shop.sales GROUP BY 1, 2$$);
RESET ROLE;
SET ROLE regress_tick_b;
SELECT tick.create_rollup('shop.by_b', $$SELECT item, tick.tumble(t, '1 day') AS d, sum(amount), max(shop.who(amount)) AS who FROM shop.sales GROUP BY 1, 2$$);
INSERT INTO shop.sales VALUES ('pen', '2024-01-01', 1.5);
SELECT tick.drop_rollup('shop.by_a');
RESET ROLE;
INSERT INTO shop.sales VALUES ('pen', '2024-01-01', 2.5);
SELECT tick.wait('shop.by_a'), tick.wait('shop.by_b');
SELECT item, sum, who FROM shop.by_a UNION ALL SELECT item, sum, who FROM shop.by_b;
SELECT * FROM tick.verify('shop.by_a');
SELECT relname, pg_get_userbyid(relowner) FROM pg_class WHERE relname ~ '^by_' AND relkind IN ('r', 'v') AND relname !~ 'definition' ORDER BY 1;
SELECT count(DISTINCT group_id) FROM tick_catalog.rollup;
DROP OWNED BY regress_tick_a;
SELECT view::regclass FROM tick_catalog.rollup ORDER BY view::regclass::text COLLATE "C";
DROP SCHEMA shop CASCADE;
DROP OWNED BY regress_tick_a, regress_tick_b;
DROP ROLE regress_tick_a, regress_tick_b;
SELECT count(*) FROM tick_catalog.rollup;

-- Partitions carry the triggers, new ones too, and a rolled back creation leaves nothing
CREATE TABLE parts (k text, t timestamptz, v float8) PARTITION BY RANGE (t);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
BEGIN;
SELECT tick.create_rollup('by_hour', $$SELECT k, tick.tumble(t, '1 hour') AS t, sum(v), count(*) FROM parts GROUP BY 1, 2$$);
ROLLBACK;
SELECT (SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'zz_tick%'), (SELECT count(*) FROM tick_catalog.program WHERE current);
SELECT tick.create_rollup('by_hour', $$SELECT k, tick.tumble(t, '1 hour') AS t, sum(v), count(*) FROM parts GROUP BY 1, 2$$);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM ('2024-02-01') TO ('2024-03-01');
SELECT tgrelid::regclass, tgname, tgenabled FROM pg_trigger WHERE tgname IN ('zz_tick_insert', 'zz_tick_truncate') AND tgrelid <> 'parts_2'::regclass ORDER BY 1, 2;
INSERT INTO parts SELECT 'k' || i % 2, '2024-01-25'::timestamptz + i * interval '1 hour', i FROM generate_series(1, 400) AS i;
INSERT INTO parts_1 VALUES ('k0', '2024-01-05', 1);
SELECT tick.wait('by_hour');
SELECT * FROM tick.verify('by_hour');
TRUNCATE parts_1;
DROP TABLE parts CASCADE;
SELECT count(*) FROM tick_catalog.rollup;

-- The query of another rollup with windows of another size, whatever the search_path
CREATE SCHEMA like_a;
CREATE TABLE like_a.ticks (k text, t timestamptz, v float8, n int8);
CREATE FUNCTION like_a.twice(float8) RETURNS float8 IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 2';
SET search_path = like_a, public;
SELECT tick.create_rollup('like_1m', $$SELECT upper(k) AS key, tick.tumble(t, size => '1 minute') AS w, tick.first(v, t, n) AS open, sum(twice(v)) FILTER (WHERE n > 1) AS total,
  count(*), max(v) - min(v) AS range FROM ticks WHERE v > 0 GROUP BY 1, 2$$);
SELECT tick.create_rollup('like_day', $$SELECT k, tick.tumble(t, '1 hour', 'America/New_York', '2024-01-01 00:30') AS w, count(*) FROM ticks GROUP BY k, 2$$);
SELECT tick.create_rollup('like_hop', $$SELECT tick.hop(t, '5 min', '1 min') AS w, count(*) FROM ticks GROUP BY 1$$);
SELECT tick.create_rollup('like_latest', $$SELECT k, tick.last(v, t) AS v FROM ticks GROUP BY 1$$);
INSERT INTO ticks SELECT 'k' || i % 3, '2024-03-10 00:00+00'::timestamptz + i * interval '7 minutes', i % 11 - 1, i % 4 FROM generate_series(1, 500) AS i;
RESET search_path;
CREATE FUNCTION twice(float8) RETURNS float8 IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 3';
SELECT tick.create_rollup('like_15m', like_rollup => 'like_a.like_1m', size => '15 minutes');
SELECT tick.create_rollup('like_3d', like_rollup => 'like_a.like_day', size => '3 days', retention => '1000 years');
SELECT tick.create_rollup('like_hop_1h', like_rollup => 'like_a.like_hop', size => '1 hour');
SELECT replace(substring(pg_get_viewdef(definition::oid) FROM '(tick\.(?:tumble|hop)[^\n]*) AS w'), 'ticks.', '') FROM tick_catalog.rollup WHERE view IN ('like_15m'::regclass, 'like_3d'::regclass, 'like_hop_1h'::regclass) ORDER BY id;
SELECT tick.wait(NULL);
SELECT count(*) FROM tick.rollups AS r, tick.verify(r.rollup);
SELECT (SELECT count(*) FROM like_15m), (SELECT count(*) FROM like_3d), (SELECT count(*) FROM like_hop_1h),
  (SELECT sum(total) FROM like_15m) = (SELECT sum(total) FROM like_a.like_1m) AS same_total, (SELECT count(DISTINCT group_id) FROM tick_catalog.rollup WHERE view IN ('like_15m'::regclass, 'like_a.like_1m'::regclass)) AS groups;
SELECT tick.create_rollup('bad', like_rollup => 'like_a.like_latest', size => '1 hour');
SELECT tick.create_rollup('bad', like_rollup => 'like_a.ticks', size => '1 hour');
SELECT tick.create_rollup('bad', like_rollup => 'like_15m');
SELECT tick.create_rollup('bad', size => '1 hour');
SELECT tick.create_rollup('bad', 'SELECT 1', like_rollup => 'like_15m', size => '1 hour');
\set VERBOSITY sqlstate
SELECT tick.create_rollup('bad', like_rollup => 'like_15m', size => '25 hours');
SELECT tick.create_rollup('bad', like_rollup => 'like_hop_1h', size => '90 seconds');
\set VERBOSITY default
SELECT tick.create_rollup(NULL, 'SELECT 1');
DROP FUNCTION twice(float8);
SET client_min_messages = warning;
DROP TABLE like_a.ticks CASCADE;
DROP SCHEMA like_a CASCADE;
RESET client_min_messages;
