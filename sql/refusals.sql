-- Definitions that tick.create_rollup refuses (SEMANTICS R17): one clear error with a cure each, nothing left behind.
\set VERBOSITY default
\set SHOW_CONTEXT never
CREATE TABLE trades (symbol text, ts timestamptz, local_ts timestamp, price float8, qty numeric, id int8, day date,
                     pays interval, doc jsonb, tags text[]);
CREATE TABLE others (symbol text, name text);
CREATE VIEW trades_view AS SELECT * FROM trades;
CREATE MATERIALIZED VIEW trades_matview AS SELECT * FROM trades;
CREATE TEMP TABLE trades_temp (symbol text, ts timestamptz);
CREATE UNLOGGED TABLE trades_unlogged (symbol text, ts timestamptz);
CREATE TABLE parent (symbol text, ts timestamptz);
CREATE TABLE child () INHERITS (parent);
CREATE TABLE parts (symbol text, ts timestamptz) PARTITION BY RANGE (ts);
CREATE TABLE parts_2024 PARTITION OF parts FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE secured (symbol text, ts timestamptz);
ALTER TABLE secured ENABLE ROW LEVEL SECURITY;
CREATE FUNCTION volatile_double(float8) RETURNS float8 LANGUAGE sql VOLATILE AS 'SELECT $1 * 2';
CREATE FUNCTION leftovers() RETURNS bigint LANGUAGE sql AS $$
  SELECT (SELECT count(*) FROM tick_catalog.rollup) + (SELECT count(*) FROM tick_catalog.program WHERE current)
       + (SELECT count(*) FROM tick_catalog.source) + (SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'zz_tick%')
       + (SELECT count(*) FROM pg_class WHERE relname LIKE 'bad%' OR relname LIKE '%\_definition\_%' AND relkind = 'v')
$$;

-- What is no plain SELECT from one table
SELECT tick.create_rollup('bad', 'SELEC 1');
SELECT tick.create_rollup('bad', '');
SELECT tick.create_rollup('bad', 'SELECT count(*) FROM trades; SELECT 1');
SELECT tick.create_rollup('bad', 'DELETE FROM trades');
SELECT tick.create_rollup('bad', 'VALUES (1)');
SELECT tick.create_rollup('bad', 'SELECT 1 AS one');
SELECT tick.create_rollup('bad', 'SELECT symbol, count(*) FROM trades GROUP BY 1 UNION SELECT symbol, 1 FROM others');
SELECT tick.create_rollup('bad', 'WITH t AS (SELECT * FROM trades) SELECT symbol, count(*) FROM t GROUP BY 1');
SELECT tick.create_rollup('bad', 'SELECT DISTINCT symbol FROM trades');
SELECT tick.create_rollup('bad', 'SELECT DISTINCT ON (symbol) symbol, price FROM trades');
SELECT tick.create_rollup('bad', 'SELECT symbol, count(*) FROM trades GROUP BY 1 HAVING count(*) > 1');
SELECT tick.create_rollup('bad', 'SELECT symbol, count(*) FROM trades GROUP BY 1 ORDER BY 1');
SELECT tick.create_rollup('bad', 'SELECT symbol, count(*) FROM trades GROUP BY 1 LIMIT 10');
SELECT tick.create_rollup('bad', 'SELECT symbol, count(*) FROM trades GROUP BY 1 OFFSET 10');
SELECT tick.create_rollup('bad', 'SELECT symbol, count(*) INTO bad2 FROM trades GROUP BY 1');
SELECT tick.create_rollup('bad', 'SELECT symbol FROM trades FOR UPDATE');
SELECT tick.create_rollup('bad', 'SELECT symbol, count(*) FROM trades GROUP BY ROLLUP (1)');
SELECT tick.create_rollup('bad', 'SELECT symbol, GROUPING(symbol) AS g, count(*) FROM trades GROUP BY 1');
SELECT tick.create_rollup('bad', 'SELECT symbol, count(*) OVER () AS n FROM trades GROUP BY 1');
SELECT tick.create_rollup('bad', 'SELECT symbol, generate_series(1, 2) AS n, count(*) FROM trades GROUP BY 1, 2');
SELECT tick.create_rollup('bad', 'SELECT t.symbol, count(*) FROM trades t JOIN others o ON o.symbol = t.symbol GROUP BY 1');
SELECT tick.create_rollup('bad', 'SELECT count(*) FROM trades, others');
SELECT tick.create_rollup('bad', 'SELECT count(*) FROM (SELECT * FROM trades) t');
SELECT tick.create_rollup('bad', 'SELECT count(*) FROM generate_series(1, 3)');
SELECT tick.create_rollup('bad', 'SELECT count(*) FROM trades TABLESAMPLE system (10)');
SELECT tick.create_rollup('bad', 'SELECT count(*) FROM ONLY trades');
SELECT tick.create_rollup('bad', 'SELECT symbol, (SELECT max(name) FROM others) AS m, count(*) FROM trades GROUP BY 1');
SELECT tick.create_rollup('bad', 'SELECT count(*) FROM trades WHERE symbol IN (SELECT symbol FROM others)');
SELECT tick.create_rollup('bad', 'SELECT symbol FROM trades');
SELECT tick.create_rollup('bad', 'SELECT symbol, price FROM trades GROUP BY 1');
SELECT tick.create_rollup('bad', 'SELECT symbol, count(*) FROM trades GROUP BY 1 WHERE');
SELECT tick.create_rollup('bad', 'SELECT nothing, count(*) FROM trades GROUP BY 1');
SELECT tick.create_rollup('bad', 'SELECT count(*) FROM nowhere');
SELECT leftovers();

-- Sources
SELECT tick.create_rollup('bad', 'SELECT count(*) FROM trades_view');
SELECT tick.create_rollup('bad', 'SELECT count(*) FROM trades_matview');
SELECT tick.create_rollup('bad', 'SELECT count(*) FROM trades_temp');
SELECT tick.create_rollup('bad', 'SELECT count(*) FROM trades_unlogged');
SELECT tick.create_rollup('bad', 'SELECT count(*) FROM parent');
SELECT tick.create_rollup('bad', 'SELECT count(*) FROM child');
SELECT tick.create_rollup('bad', 'SELECT count(*) FROM parts_2024');
SELECT tick.create_rollup('bad', 'SELECT count(*) FROM secured');
SELECT tick.create_rollup('bad', 'SELECT count(*) FROM pg_class');
SELECT tick.create_rollup('bad', 'SELECT count(*) FROM information_schema.sql_features');
SELECT tick.create_rollup('bad', 'SELECT count(*) FROM tick_catalog.rollup');
SELECT leftovers();

-- Windows and grouping
SELECT tick.create_rollup('bad', $$SELECT tick.tumble(ts, '1 minute') AS a, tick.tumble(ts, '5 minutes') AS b, count(*) FROM trades GROUP BY 1, 2$$);
SELECT tick.create_rollup('bad', $$SELECT symbol, tick.tumble(ts, '1 minute') AS ts, count(*) FROM trades GROUP BY symbol, ts$$);
SELECT tick.create_rollup('bad', $$SELECT upper(symbol) AS symbol, count(*) FROM trades GROUP BY symbol$$);
SELECT tick.create_rollup('bad', $$SELECT ts, tick.tumble(ts, '1 minute') AS w, count(*) FROM trades GROUP BY 1$$);
SELECT tick.create_rollup('bad', $$SELECT tick.tumble(ts, '0 minutes') AS w, count(*) FROM trades GROUP BY 1$$);
SELECT tick.create_rollup('bad', $$SELECT tick.tumble(ts, '-1 minute') AS w, count(*) FROM trades GROUP BY 1$$);
SELECT tick.create_rollup('bad', $$SELECT tick.tumble(ts, '1 month 1 day') AS w, count(*) FROM trades GROUP BY 1$$);
SELECT tick.create_rollup('bad', $$SELECT tick.tumble(ts, '25 hours') AS w, count(*) FROM trades GROUP BY 1$$);
SELECT tick.create_rollup('bad', $$SELECT tick.tumble(ts, pays) AS w, count(*) FROM trades GROUP BY 1$$);
SELECT tick.create_rollup('bad', $$SELECT tick.tumble(ts, NULL) AS w, count(*) FROM trades GROUP BY 1$$);
SELECT tick.create_rollup('bad', $$SELECT count(*) FROM trades GROUP BY symbol$$);
SELECT tick.create_rollup('bad', $$SELECT symbol, count(*) FROM trades GROUP BY symbol, tick.tumble(ts, '1 minute')$$);
SELECT tick.create_rollup('bad', $$SELECT doc, count(*) FROM trades GROUP BY 1$$);
SELECT tick.create_rollup('bad', $$SELECT pays, count(*) FROM trades GROUP BY 1$$);
SELECT tick.create_rollup('bad', $$SELECT tags, count(*) FROM trades GROUP BY 1$$);

-- What depends on the session or on the moment
SELECT tick.create_rollup('bad', $$SELECT ts::date AS day, count(*) FROM trades GROUP BY 1$$);
SELECT tick.create_rollup('bad', $$SELECT date_trunc('hour', ts) AS h, count(*) FROM trades GROUP BY 1$$);
SELECT tick.create_rollup('bad', $$SELECT to_char(ts, 'HH24') AS h, count(*) FROM trades GROUP BY 1$$);
SELECT tick.create_rollup('bad', $$SELECT tick.tumble(day, '1 day') AS d, count(*) FROM trades GROUP BY 1$$);
SELECT tick.create_rollup('bad', $$SELECT max(local_ts::timestamptz) AS m FROM trades$$);
SELECT tick.create_rollup('bad', $$SELECT sum(random()) AS s FROM trades$$);
SELECT tick.create_rollup('bad', $$SELECT sum(volatile_double(price)) AS s FROM trades$$);
SELECT tick.create_rollup('bad', $$SELECT count(*) FROM trades WHERE ts > now() - interval '1 day'$$);
SELECT tick.create_rollup('bad', $$SELECT count(*) FROM trades WHERE day = current_date$$);
SELECT tick.create_rollup('bad', $$SELECT count(*) FILTER (WHERE symbol = current_user) AS n FROM trades$$);
SELECT tick.create_rollup('bad', $$SELECT max(ts)::text AS m FROM trades$$);

-- Aggregates
SELECT tick.create_rollup('bad', $$SELECT symbol, tick.first(price) AS open FROM trades GROUP BY 1$$);
SELECT tick.create_rollup('bad', $$SELECT symbol, tick.last(price) AS close FROM trades GROUP BY 1$$);
SELECT tick.first(price) FROM (VALUES (1.0)) AS t(price);
SELECT tick.create_rollup('bad', $$SELECT tick.first(doc, ts) AS d FROM trades$$);
SELECT tick.create_rollup('bad', $$SELECT tick.first(price, price > 1) AS d FROM trades$$);
SELECT tick.create_rollup('bad', $$SELECT count(DISTINCT symbol) AS n FROM trades$$);
SELECT tick.create_rollup('bad', $$SELECT sum(price ORDER BY ts) AS s FROM trades$$);
SELECT tick.create_rollup('bad', $$SELECT symbol, string_agg(id::text, ',') AS s FROM trades GROUP BY 1$$);
SELECT tick.create_rollup('bad', $$SELECT symbol, json_agg(price ORDER BY ts) AS s FROM trades GROUP BY 1$$);
CREATE FUNCTION careless_step(float8, float8) RETURNS float8 LANGUAGE sql AS 'SELECT $1 + $2';
CREATE AGGREGATE careless(float8) (SFUNC = careless_step, STYPE = float8, INITCOND = 0);
SELECT tick.create_rollup('bad', $$SELECT symbol, careless(price) AS s FROM trades GROUP BY 1$$);
DROP AGGREGATE careless(float8);
DROP FUNCTION careless_step;
SELECT tick.create_rollup('bad', $$SELECT symbol, tick.first(price, ts ORDER BY ts) AS s FROM trades GROUP BY 1$$);
SELECT tick.create_rollup('bad', $$SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY price) AS p FROM trades$$);
SELECT tick.create_rollup('bad', $$SELECT sum(pays) AS s FROM trades$$);
SELECT tick.create_rollup('bad', $$SELECT max(pays) AS m FROM trades$$);
SELECT tick.create_rollup('bad', $$SELECT max(tags) AS m FROM trades$$);

-- Output columns
SELECT tick.create_rollup('bad', $$SELECT count(*) AS window_end FROM trades$$);
SELECT tick.create_rollup('bad', $$SELECT count(*) AS final FROM trades$$);
SELECT tick.create_rollup('bad', $$SELECT count(*) AS revision FROM trades$$);
SELECT tick.create_rollup('bad', $$SELECT symbol AS updated_at, count(*) FROM trades GROUP BY 1$$);
SELECT tick.create_rollup('bad', $$SELECT symbol, count(*) AS symbol FROM trades GROUP BY 1$$);
SELECT tick.create_rollup('bad', $$SELECT symbol, sum(price) + 1 FROM trades GROUP BY 1$$);
SELECT tick.create_rollup('bad', $$SELECT symbol AS ctid, count(*) FROM trades GROUP BY 1$$);
SELECT tick.create_rollup('bad', $$SELECT max(ctid) AS m FROM trades$$);
SELECT tick.create_rollup('bad', $$SELECT count(trades) AS n FROM trades$$);
SELECT leftovers();

-- Names
SELECT tick.create_rollup('others', 'SELECT count(*) FROM trades');
CREATE TABLE taken_state ();
SELECT tick.create_rollup('taken', 'SELECT count(*) FROM trades');
SELECT tick.create_rollup('nowhere.bad', 'SELECT count(*) FROM trades');
SELECT tick.create_rollup('pg_temp.bad', 'SELECT count(*) FROM trades');
SELECT tick.create_rollup('', 'SELECT count(*) FROM trades');

-- Rights
CREATE ROLE regress_tick_user;
GRANT CREATE ON SCHEMA public TO regress_tick_user;
SET ROLE regress_tick_user;
SELECT tick.create_rollup('bad', 'SELECT count(*) FROM trades');
RESET ROLE;
GRANT SELECT ON trades TO regress_tick_user;
SET ROLE regress_tick_user;
SELECT tick.create_rollup('bad', 'SELECT count(*) FROM trades');
RESET ROLE;
GRANT TRIGGER ON trades TO regress_tick_user;
REVOKE CREATE ON SCHEMA public FROM regress_tick_user;
SET ROLE regress_tick_user;
SELECT tick.create_rollup('public.bad', 'SELECT count(*) FROM trades');
RESET ROLE;
SELECT leftovers();

-- A rollup over a rollup, and what is not a rollup
SELECT tick.create_rollup('good', 'SELECT symbol, count(*) FROM trades GROUP BY 1');
SELECT tick.create_rollup('bad', 'SELECT count(*) FROM good');
SELECT tick.create_rollup('bad', 'SELECT count(*) FROM good_state');
SELECT tick.drop_rollup('others');
SELECT tick.verify('others');
SELECT tick.verify('good', '2024-01-01');
SET ROLE regress_tick_user;
SELECT tick.drop_rollup('good');
SELECT tick.verify('good');
RESET ROLE;
SELECT tick.drop_rollup('good');

-- A writer that does not end
SET tick.lock_timeout = '300ms';
SELECT format('host=%s port=%s dbname=%s user=%s', split_part(current_setting('unix_socket_directories'), ',', 1),
              current_setting('port'), current_database(), current_user) AS conninfo \gset
CREATE EXTENSION dblink;
SELECT dblink_connect('writer', :'conninfo');
SELECT dblink_exec('writer', 'BEGIN');
SELECT dblink_exec('writer', 'INSERT INTO trades (symbol) VALUES (''a'')');
\set VERBOSITY sqlstate
SELECT tick.create_rollup('bad', 'SELECT count(*) FROM trades');
\set VERBOSITY default
SELECT dblink_exec('writer', 'ROLLBACK');
SELECT dblink_disconnect('writer');
DROP EXTENSION dblink;

SET client_min_messages = warning;
DROP TABLE trades, others, trades_unlogged, parent, child, parts, secured, taken_state CASCADE;
REVOKE ALL ON SCHEMA public FROM regress_tick_user;
DROP ROLE regress_tick_user;
DROP FUNCTION volatile_double;
SELECT count(*) FROM tick_catalog.program WHERE current;
