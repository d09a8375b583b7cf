-- Declaring a source and changing its settings: what is accepted, what is refused, who may.
\set VERBOSITY default
\set SHOW_CONTEXT never
SET intervalstyle = 'postgres';
CREATE TABLE trades (symbol text, venue text, ts timestamptz, price float8);
CREATE TABLE "Odd ""table""" (k text, "Ven ue" text, ts timestamptz);
CREATE VIEW trades_view AS SELECT * FROM trades;
CREATE FUNCTION settings(regclass) RETURNS TABLE (delay interval, idle interval, skew interval, by text, freeze interval,
    declared bool) LANGUAGE sql AS $$
  SELECT watermark_delay, idle_timeout, max_skew, watermark_by, freeze_after, declared
  FROM tick_catalog.source WHERE relid = $1 $$;

-- Declared with defaults, altered, reset
SELECT tick.add_source('trades', watermark_delay => '2 seconds', watermark_by => 'venue');
SELECT * FROM settings('trades');
SELECT tick.alter_source('trades', idle_timeout => '5 seconds', max_skew => '1 second', freeze_after => '1 day');
SELECT * FROM settings('trades');
SELECT tick.alter_source('trades');
SELECT tick.alter_source('trades', reset => '{watermark_delay,freeze_after,watermark_by}');
SELECT * FROM settings('trades');
SELECT tick.add_source('"Odd ""table"""', watermark_by => 'Ven ue');
SELECT * FROM settings('"Odd ""table"""');

-- It stays without rollups; one that a rollup made goes with it
SELECT tick.create_rollup('counts', 'SELECT symbol, count(*) AS n FROM trades GROUP BY 1');
SELECT tick.drop_rollup('counts');
SELECT count(*) FROM settings('trades');
SELECT tick.create_rollup('counts', 'SELECT symbol, count(*) AS n FROM trades GROUP BY 1');
SELECT tick.drop_source('trades');
SELECT count(*) FROM settings('trades');
SELECT tick.add_source('trades');
SELECT tick.drop_source('trades');
SELECT tick.drop_rollup('counts');
SELECT count(*) FROM settings('trades');
SELECT tick.drop_source('trades');
SELECT tick.alter_source('trades', idle_timeout => '1 s');

-- It goes with its table
SELECT tick.add_source('trades');
DROP TABLE trades CASCADE;
DROP TABLE "Odd ""table""";
SELECT count(*) FROM tick_catalog.source;
SELECT count(*) FROM tick_catalog.watermark;

-- What is refused leaves everything as it was
CREATE TABLE trades (symbol text, venue text, ts timestamptz, price float8);
CREATE VIEW trades_view AS SELECT * FROM trades;
SELECT tick.add_source(NULL);
SELECT tick.add_source('trades_view');
SELECT tick.add_source('trades', watermark_delay => '-1 s');
SELECT tick.add_source('trades', max_skew => '1100 years');
SELECT tick.add_source('trades', watermark_by => 'Venue');
SELECT tick.add_source('trades', watermark_by => 'ctid');
SELECT tick.add_source('trades', dedup_key => '{venue,symbol}', dedup_id => 'price');
SELECT tick.add_source('trades', dedup_key => '{venue,symbol}');
CREATE TABLE ids (a text, b text COLLATE "C", j json, id int8, ts timestamptz);
SELECT tick.add_source('ids', dedup_id => 'id');
SELECT tick.add_source('ids', dedup_key => '{a,id}', dedup_id => 'id');
SELECT tick.add_source('ids', dedup_key => '{a,b,a}', dedup_id => 'id');
SELECT tick.add_source('ids', dedup_key => '{a,j}', dedup_id => 'id');
SELECT tick.add_source('ids', dedup_key => '{a}', dedup_id => 'id', dedup_group => 'b');
SELECT tick.add_source('ids', dedup_key => '{a,b}', dedup_id => 'id', dedup_group => 'b');
SELECT tick.alter_source('ids', reset => '{dedup_id}');
INSERT INTO ids VALUES ('x', 'y', NULL, 1), ('x', 'z', NULL, 1), ('x', 'y', NULL, 1);
SELECT tick.alter_source('ids', reset => '{dedup_id,dedup_key,dedup_group}');
SELECT count(*) FROM ids;
SELECT tick.drop_source('ids');
DROP TABLE ids;
SELECT tick.add_source('trades', retention => '30 days');
SELECT tick.add_source('trades', partitions_ahead => -1);
SELECT count(*) FROM settings('trades');
SELECT tick.add_source('trades');
SELECT tick.add_source('trades');
SELECT tick.alter_source('trades', reset => '{nothing}');
SELECT tick.alter_source('trades', reset => '{idle_timeout,idle_timeout}');
SELECT tick.alter_source('trades', idle_timeout => '1 s', reset => '{idle_timeout}');
SELECT tick.alter_source('trades', reset => '{NULL}');
SELECT * FROM settings('trades');

-- For the table's owner
CREATE ROLE tick_stranger;
GRANT SELECT, INSERT, TRIGGER ON trades TO tick_stranger;
SET ROLE tick_stranger;
SELECT tick.add_source('trades');
SELECT tick.alter_source('trades', idle_timeout => '1 s');
SELECT tick.drop_source('trades');
RESET ROLE;
SELECT * FROM settings('trades');
DROP TABLE trades CASCADE;
DROP ROLE tick_stranger;
