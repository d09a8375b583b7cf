-- Appended to pg_tick--1.0.sql by make: ways to read a rollup, and functions for users' own SQL.

-- ---------------------------------------------------------------------------------------------------------
-- name_live: a rollup as the reader's own snapshot sees it
-- ---------------------------------------------------------------------------------------------------------

COMMENT ON COLUMN tick_catalog.pending.marked IS 'only rows that are marked stale can differ from the source';
COMMENT ON COLUMN tick_catalog.rollup.finish IS 'what the view makes of rows of the state table; with a parent: upsert, for all keys';
COMMENT ON COLUMN tick_catalog.rollup.live IS 'the view name_live; NULL: there is none';
CREATE FUNCTION tick_catalog.live(state oid) RETURNS SETOF record
  LANGUAGE c STABLE STRICT ROWS 100 AS 'MODULE_PATHNAME', 'tick_live';
COMMENT ON FUNCTION tick_catalog.live(oid) IS
  'rows of a state table that are different by now: deltas of the caller''s snapshot, and windows still to be computed';
CREATE FUNCTION tick_catalog.live_places(state oid) RETURNS SETOF tid
  LANGUAGE c STABLE STRICT ROWS 100 AS 'MODULE_PATHNAME', 'tick_live_places';
COMMENT ON FUNCTION tick_catalog.live_places(oid) IS 'the rows of a state table that those replace';

-- ---------------------------------------------------------------------------------------------------------
-- tick.fill: windows without rows
-- ---------------------------------------------------------------------------------------------------------

CREATE FUNCTION tick_catalog.empty_columns(definition oid, name oid, OUT number int2, OUT kind text, OUT origin int2)
  RETURNS SETOF record LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_empty_columns';
COMMENT ON FUNCTION tick_catalog.empty_columns(oid, oid) IS
  'what the columns of a rollup are of an empty window: total = 0, value = the value of the column origin before it, constant = that of its key';
CREATE FUNCTION tick_catalog.window_grid(rollup int4, "from" timestamptz, "to" timestamptz,
                                         OUT start timestamptz, OUT "end" timestamptz)
  RETURNS SETOF record LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_window_grid';

-- A rollup by its row type, as its readers see it. Keys in the order of the index over them; columns by their number in the view.
CREATE FUNCTION tick_catalog.readable(candle regtype, OUT rollup int4, OUT name regclass, OUT source regclass,
                                      OUT keys int2[], OUT ts int2, OUT ts_type regtype, OUT definition oid)
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  SELECT r.id, r.view, r.source, r.definition, t.attnum, t.atttypid,
         (SELECT array_agg(d.attnum ORDER BY k.at)
          FROM pg_index i CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY AS k (state, at)
          JOIN pg_attribute s ON s.attrelid = i.indrelid AND s.attnum = k.state
          JOIN pg_attribute d ON d.attrelid = r.definition AND d.attname = s.attname
          WHERE i.indrelid = r.state AND s.attname = ANY (r.key_columns)
            AND i.indexrelid = (SELECT c.conindid FROM pg_constraint c WHERE c.conrelid = r.state AND c.contype = 'u'
                                ORDER BY c.oid LIMIT 1))
    INTO rollup, name, source, definition, ts, ts_type, keys
    FROM tick_catalog.rollup r JOIN pg_class v ON v.oid = r.view
    LEFT JOIN pg_attribute t ON t.attrelid = r.definition AND t.attname = r.time_column
    WHERE v.reltype = candle;
  IF NOT FOUND THEN
    RAISE EXCEPTION '% is not the row type of a rollup', candle USING ERRCODE = 'wrong_object_type',
      HINT = 'Name the rollup by its row type: null::candles_1m.';
  END IF;
END $$;

CREATE FUNCTION tick.fill(candle anyelement, "from" timestamptz, "to" timestamptz, method text DEFAULT 'prev',
                          value float8 DEFAULT NULL)
  RETURNS SETOF anyelement LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  rollup record;
  columns text;     -- of the result
  parts text;       -- PARTITION BY
  sorted text;      -- keys in the order of their index
  newest text;      -- the same, each DESC
  key text;         -- the keys of a row as a row
  old_key text;     -- the same of a row before "from"
  near_too text;    -- whether that key has a row in the range
  first_key text;
  plain bool;       -- the keys can be compared by name
  before text;      -- the last row of each key before "from"; whole rows are (v.*)::type, as v may be a column
  ts text;
  starts timestamptz[];
  ends timestamptz[];
BEGIN
  IF "from" IS NULL OR "to" IS NULL OR coalesce(method, '') NOT IN ('null', 'prev', 'linear', 'value') THEN
    RAISE EXCEPTION 'tick.fill needs two times and one of the methods null, prev, linear and value'
      USING ERRCODE = 'invalid_parameter_value';
  ELSIF (method = 'value') <> (value IS NOT NULL) THEN
    RAISE EXCEPTION 'a value is for the method value' USING ERRCODE = 'invalid_parameter_value',
      HINT = 'As in tick.fill(null::candles_1m, t1, t2, ''value'', 0).';
  END IF;
  rollup := tick_catalog.readable(pg_typeof(candle));
  IF rollup.ts IS NULL THEN
    RAISE EXCEPTION 'rollup "%" has no windows to fill', rollup.name USING ERRCODE = 'wrong_object_type';
  END IF;
  SELECT array_agg(g.start ORDER BY g.start), array_agg(g."end" ORDER BY g.start) INTO starts, ends
    FROM tick_catalog.window_grid(rollup.rollup, "from", "to") g;
  IF starts IS NULL THEN
    RETURN;
  END IF;

  SELECT string_agg(
    CASE WHEN e.number IS NULL THEN
      CASE a.at WHEN 1 THEN format('g.finish%s', CASE WHEN rollup.ts_type = 'timestamp'::regtype AND a.atttypid = 'timestamp'::regtype
                                                      THEN ' AT TIME ZONE ''UTC''' ELSE '' END)
                WHEN 2 THEN 'coalesce(g.finish <= $5, false)'
                ELSE format('CASE WHEN g.i = s.i THEN (s.r).%I END', a.attname) END
    WHEN a.attnum = rollup.ts THEN format('g.start%s', CASE WHEN rollup.ts_type = 'timestamp'::regtype THEN ' AT TIME ZONE ''UTC''' ELSE '' END)
    WHEN a.attnum = ANY (rollup.keys) OR e.kind = 'constant' THEN format('(s.r).%I', a.attname)
    ELSE format('CASE WHEN g.i = s.i THEN (s.r).%I ELSE %s END', a.attname,
      CASE
      WHEN method = 'null' THEN 'NULL'
      WHEN method = 'value' THEN CASE WHEN a.number THEN format('$4::%s', a.type) ELSE 'NULL' END
      WHEN e.kind = 'total' THEN format('0::%s', a.type)
      WHEN method = 'prev' THEN format('CASE WHEN s.i < g.i THEN (s.r).%I END', o.attname)
      WHEN a.number THEN format(
        -- Between this row and the next one, by the starts of their windows.
        'CASE WHEN s.i < g.i THEN ((s.r).%1$I + ((s.n).%1$I - (s.r).%1$I) * extract(epoch FROM g.start%2$s - (s.r).%3$I)::%4$s'
        ' / extract(epoch FROM (s.n).%3$I - (s.r).%3$I)::%4$s)::%5$s END', o.attname,
        CASE WHEN rollup.ts_type = 'timestamp'::regtype THEN ' AT TIME ZONE ''UTC''' ELSE '' END, t.attname,
        CASE WHEN a.type IN ('double precision', 'real') THEN 'float8' ELSE 'numeric' END, a.type)
      ELSE 'NULL' END)
    END, ', ' ORDER BY a.attnum) INTO columns
  FROM (SELECT c.attnum, c.attname, c.attrelid, c.atttypid, format_type(c.atttypid, NULL) AS type,
               c.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'float4'::regtype, 'float8'::regtype, 'numeric'::regtype) AS number,
               c.attnum - (SELECT min(n) - 1 FROM generate_series(1, 1600) n WHERE n NOT IN (SELECT x.number FROM
                 tick_catalog.empty_columns(rollup.definition, rollup.name) x)) AS at
        FROM pg_attribute c WHERE c.attrelid = rollup.name AND c.attnum > 0) a
  LEFT JOIN tick_catalog.empty_columns(rollup.definition, rollup.name) e ON e.number = a.attnum
  LEFT JOIN pg_attribute o ON o.attrelid = a.attrelid AND o.attnum = e.origin
  JOIN pg_attribute t ON t.attrelid = a.attrelid AND t.attnum = rollup.ts;

  SELECT format('%I', a.attname) INTO ts FROM pg_attribute a WHERE a.attrelid = rollup.name AND a.attnum = rollup.ts;
  SELECT 'PARTITION BY ' || string_agg(format('(q.r).%I', a.attname), ', ' ORDER BY k.at),
         string_agg(format('v.%I', a.attname), ', ' ORDER BY k.at), string_agg(format('v.%I DESC', a.attname), ', ' ORDER BY k.at),
         string_agg(format('(k.r).%I', a.attname), ', ' ORDER BY k.at),
         string_agg(format('(d.r).%I', a.attname), ', ' ORDER BY k.at), bool_and(coalesce(y.typnamespace, 0) = 'pg_catalog'::regnamespace),
         min(format('%I', a.attname)) FILTER (WHERE k.at = 1)
    INTO parts, sorted, newest, key, old_key, plain, first_key
    FROM unnest(rollup.keys) WITH ORDINALITY AS k (attnum, at)
    JOIN pg_attribute a ON a.attrelid = rollup.name AND a.attnum = k.attnum JOIN pg_type y ON y.oid = a.atttypid;
  near_too := format('EXISTS (SELECT FROM near AS k WHERE ROW(%s) IS NOT DISTINCT FROM ROW(%s))', key, old_key);
  before := CASE
    WHEN sorted IS NULL THEN format('(SELECT (v.*)::%1$s AS r FROM %1$s AS v WHERE v.%2$s < $3 ORDER BY v.%2$s DESC LIMIT 1)', rollup.name, ts)
    -- From key to key through the index, and from each to its last window. Keys with a NULL are not found so: those that
    -- have a window in the range are looked for by themselves.
    WHEN plain THEN format('(WITH RECURSIVE k AS ('
      '(SELECT (v.*)::%1$s AS r FROM %1$s AS v WHERE ROW(%2$s) IS NOT NULL ORDER BY %2$s LIMIT 1) UNION ALL '
      'SELECT (SELECT (v.*)::%1$s FROM %1$s AS v WHERE ROW(%2$s) > ROW(%3$s) ORDER BY %2$s LIMIT 1) FROM k WHERE (k.r).%4$s IS NOT NULL) '
      'SELECT l.r FROM k CROSS JOIN LATERAL (SELECT (v.*)::%1$s AS r FROM %1$s AS v WHERE ROW(%2$s) = ROW(%3$s) AND v.%5$s < $3 '
      'ORDER BY %6$s, v.%5$s DESC LIMIT 1) AS l WHERE (k.r).%4$s IS NOT NULL) UNION ALL '
      '(SELECT d.r FROM (SELECT DISTINCT ON (%2$s) (v.*)::%1$s AS r FROM %1$s AS v WHERE NOT ROW(%2$s) IS NOT NULL AND v.%5$s < $3 AND '
      '(SELECT bool_or(NOT ROW(%3$s) IS NOT NULL) FROM near AS k) ORDER BY %2$s, v.%5$s DESC) AS d WHERE %7$s)',
      rollup.name, sorted, key, first_key, ts, newest, near_too)
    ELSE format('(SELECT d.r FROM (SELECT DISTINCT ON (%2$s) (v.*)::%1$s AS r FROM %1$s AS v WHERE v.%3$s < $3 ORDER BY %2$s, v.%3$s DESC) AS d '
      'WHERE ROW(%4$s) IS NOT NULL OR %5$s)', rollup.name, sorted, ts, old_key, near_too)
    END;
  before := replace(before, '$3', CASE WHEN rollup.ts_type = 'timestamp'::regtype THEN '$3 AT TIME ZONE ''UTC''' ELSE '$3' END);

  RETURN QUERY EXECUTE format(
    'WITH near AS MATERIALIZED (SELECT (v.*)::%1$s AS r FROM %1$s AS v WHERE v.%2$s >= %7$s AND v.%2$s < %8$s), '
    'placed AS (SELECT q.r, width_bucket((q.r).%2$s%6$s, $1) AS i, lead(q.r) OVER w AS n, row_number() OVER w AS at '
    'FROM (SELECT r FROM near UNION ALL %3$s) AS q WINDOW w AS (%4$s ORDER BY (q.r).%2$s)), '
    'spans AS (SELECT p.*, CASE WHEN p.at = 1 THEN 1 ELSE greatest(p.i, 1) END AS lo, '
    'coalesce(width_bucket((p.n).%2$s%6$s, $1) - 1, cardinality($1)) AS hi FROM placed AS p) '
    'SELECT %5$s FROM spans AS s CROSS JOIN LATERAL (SELECT x.i, ($1)[x.i] AS start, ($2)[x.i] AS finish '
    'FROM generate_series(s.lo, s.hi) AS x (i)) AS g',
    rollup.name, ts, before, coalesce(parts, ''), columns,
    CASE WHEN rollup.ts_type = 'timestamp'::regtype THEN ' AT TIME ZONE ''UTC''' ELSE '' END,
    CASE WHEN rollup.ts_type = 'timestamp'::regtype THEN '$3 AT TIME ZONE ''UTC''' ELSE '$3' END,
    CASE WHEN rollup.ts_type = 'timestamp'::regtype THEN '$6 AT TIME ZONE ''UTC''' ELSE '$6' END)
    USING starts, ends, "from", value, tick.watermark(rollup.source), "to";
END $$;
COMMENT ON FUNCTION tick.fill(anyelement, timestamptz, timestamptz, text, float8) IS
  'rows of a rollup, tick.fill(null::candles_1m, t1, t2, method), with one for each window that starts in [from, to), of each key; method null, prev, linear or value';

-- ---------------------------------------------------------------------------------------------------------
-- tick.changes: what has changed since a token
-- ---------------------------------------------------------------------------------------------------------

CREATE FUNCTION tick_catalog.changes_after(rollup oid, since int8, OUT token int8, OUT turn timestamptz, OUT lo timestamptz,
                                           OUT hi timestamptz, OUT kind "char", OUT key jsonb)
  RETURNS SETOF record LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'tick_changes_after';
COMMENT ON FUNCTION tick_catalog.changes_after(oid, int8) IS
  'the log of a rollup after a token, as the calling query sees it and as no crash will undo it; since NULL: one row, the newest token';

CREATE FUNCTION tick.changes(type anyelement, since int8 DEFAULT NULL, OUT token int8, OUT change text, OUT candle anyelement)
  RETURNS SETOF record LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  rollup record := tick_catalog.readable(pg_typeof(type));
  utc text := CASE WHEN rollup.ts_type = 'timestamp'::regtype THEN ' AT TIME ZONE ''UTC''' ELSE '' END;
  ts text;       -- quoted
  near text;     -- rows of the windows in the log
  here text;     -- keys and window of a row v as one record
  there text;    -- of a row d that has gone
  named text;    -- its keys by their names in the view
BEGIN
  IF since IS NULL THEN
    RETURN QUERY EXECUTE format('SELECT l.token, ''upsert''::text, (v.*)::%1$s FROM tick_catalog.changes_after($1, NULL) AS l CROSS JOIN %1$s AS v',
      rollup.name) USING rollup.name::oid;
    RETURN;
  END IF;
  SELECT format('%I', a.attname) INTO ts FROM pg_attribute a WHERE a.attrelid = rollup.name AND a.attnum = rollup.ts;
  SELECT 'ROW(true' || coalesce(string_agg(format(', v.%I', a.attname), '' ORDER BY a.attnum), '') || ')::record',
         'ROW(true' || coalesce(string_agg(format(', (d.candle).%I', a.attname), '' ORDER BY a.attnum), '') || ')::record',
         coalesce(string_agg(format('%L, g.key -> %L', a.attname, d.attname), ', '), '')
    INTO here, there, named
    FROM pg_attribute a JOIN pg_attribute d ON d.attrelid = rollup.definition AND d.attnum = a.attnum
    WHERE a.attrelid = rollup.name AND a.attnum = ANY (rollup.keys);
  -- Each stretch of windows is read through the index, so that a late row of long ago costs no history.
  near := CASE WHEN ts IS NULL THEN format('SELECT (v.*)::%1$s AS v FROM %1$s AS v WHERE EXISTS (SELECT FROM log)', rollup.name) ELSE
    format('SELECT v FROM (SELECT unnest(range_agg(tstzrange(l.lo, l.hi, CASE l.kind WHEN ''f'' THEN ''[]'' ELSE ''[)'' END))) AS r '
           'FROM log AS l WHERE l.kind <> ''g'') AS w CROSS JOIN LATERAL (SELECT (v.*)::%1$s FROM %1$s AS v WHERE v.%2$s >= lower(w.r)%3$s '
           'AND v.%2$s <= upper(w.r)%3$s AND v.%2$s%3$s <@ w.r) AS x (v)', rollup.name, ts, utc) END;
  RETURN QUERY EXECUTE format(
    'WITH log AS MATERIALIZED (SELECT * FROM tick_catalog.changes_after($1, $2)), near AS (%1$s), '
    'changed AS (SELECT l.turn, max(l.token) AS token FROM log AS l WHERE l.kind = ''c'' GROUP BY 1), '
    'final AS (SELECT l.lo, max(l.token) AS token FROM log AS l WHERE l.kind = ''f'' GROUP BY 1), '
    'gone AS (SELECT g.token, jsonb_populate_record(NULL::%2$s, jsonb_build_object(%3$s)) AS candle FROM '
    '(SELECT max(l.token) AS token, l.lo, l.key FROM log AS l WHERE l.kind = ''g'' GROUP BY l.lo, l.key) AS g) '
    'SELECT greatest(c.token, f.token), ''upsert''::text, n.v FROM near AS n LEFT JOIN changed AS c ON c.turn = (n.v).updated_at '
    'LEFT JOIN final AS f ON %4$s WHERE c.token IS NOT NULL OR f.token IS NOT NULL '
    'UNION ALL SELECT d.token, ''delete'', d.candle FROM gone AS d WHERE NOT EXISTS (SELECT FROM %2$s AS v WHERE %5$s%6$s = %7$s) '
    'ORDER BY 1',
    near, rollup.name,
    named || CASE WHEN ts IS NULL THEN '' ELSE format('%s%L, to_jsonb(g.lo%s)', CASE named WHEN '' THEN '' ELSE ', ' END,
      (SELECT a.attname FROM pg_attribute a WHERE a.attrelid = rollup.name AND a.attnum = rollup.ts), utc) END,
    CASE WHEN ts IS NULL THEN 'false' ELSE format('f.lo%s = (n.v).%s', utc, ts) END,
    CASE WHEN ts IS NULL THEN '' ELSE format('v.%1$s = (d.candle).%1$s AND ', ts) END, here, there)
    USING rollup.name::oid, since;
END $$;
COMMENT ON FUNCTION tick.changes(anyelement, int8) IS
  'what has changed in a rollup since a token, tick.changes(null::candles_1m, token): each row once, with the token to go on from; without a token all rows';

-- ---------------------------------------------------------------------------------------------------------
-- tick.as_of: what was final at a time
-- ---------------------------------------------------------------------------------------------------------

CREATE FUNCTION tick_catalog.history_at(rollup int4, at timestamptz, OUT since timestamptz, OUT versions regclass,
                                        OUT watermark timestamptz, OUT kept_from timestamptz)
  LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT greatest(h.since, clock_timestamp() - h.length), h.versions,
         (SELECT f.watermark FROM tick_catalog.finality f WHERE f.rollup = h.rollup AND f.at <= $2 ORDER BY f.at DESC, f.watermark DESC LIMIT 1),
         r.kept_from
  FROM tick_catalog.history h JOIN tick_catalog.rollup r ON r.id = h.rollup WHERE h.rollup = $1 $$;

CREATE FUNCTION tick.as_of(candle anyelement, at timestamptz, "from" timestamptz DEFAULT NULL, "to" timestamptz DEFAULT NULL)
  RETURNS SETOF anyelement LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  rollup record := tick_catalog.readable(pg_typeof(candle));
  history record;
  utc text := CASE WHEN rollup.ts_type = 'timestamp'::regtype THEN ' AT TIME ZONE ''UTC''' ELSE '' END;
  columns text;
  versions text;
  bounds text;   -- on the windows of both
BEGIN
  IF at IS NULL THEN
    RAISE EXCEPTION 'tick.as_of needs a time' USING ERRCODE = 'invalid_parameter_value',
      HINT = 'As in tick.as_of(null::candles_1m, now() - interval ''1 day'').';
  END IF;
  SELECT * INTO history FROM tick_catalog.history_at(rollup.rollup, at);
  IF history.versions IS NULL THEN
    RAISE EXCEPTION 'rollup "%" keeps no history', rollup.name USING ERRCODE = 'object_not_in_prerequisite_state',
      HINT = format('SELECT tick.alter_rollup(%L, history => ''30 days'') keeps it from then on.', rollup.name);
  ELSIF at < history.since THEN
    RAISE EXCEPTION 'the history of "%" reaches back to %', rollup.name, history.since
      USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Older versions are not kept.';
  END IF;
  SELECT string_agg(CASE a.attname WHEN 'final' THEN 'true' ELSE format('v.%I', a.attname) END, ', ' ORDER BY a.attnum),
         string_agg(CASE a.attname WHEN 'final' THEN 'true' ELSE format('v.%I', h.attname) END, ', ' ORDER BY a.attnum),
         min(format('v.%1$I >= $3%2$s AND v.%1$I < $4%2$s', a.attname, utc)) FILTER (WHERE a.attnum = rollup.ts)
    INTO columns, versions, bounds
    FROM pg_attribute a JOIN pg_attribute h ON h.attrelid = history.versions AND h.attnum = a.attnum + 1
    WHERE a.attrelid = rollup.name AND a.attnum > 0;
  RETURN QUERY EXECUTE format(
    'SELECT %1$s FROM %2$s AS v WHERE v.updated_at <= $1 AND v.window_end <= $2%6$s AND %5$s UNION ALL '
    'SELECT %3$s FROM %4$s AS v WHERE v.tick_replaced_at > $1 AND v.updated_at <= $1 AND v.window_end <= $2%6$s AND %5$s',
    columns, rollup.name, versions, history.versions, bounds, utc)
    USING at, history.watermark, greatest("from", history.kept_from, '-infinity'), coalesce("to", 'infinity');
END $$;
COMMENT ON FUNCTION tick.as_of(anyelement, timestamptz, timestamptz, timestamptz) IS
  'the rows of a rollup that were final at a time, as they were then, tick.as_of(null::candles_1m, t), of windows that start in [from, to)';

-- ---------------------------------------------------------------------------------------------------------
-- tick.seed: windows of before the first row; keys that go or are renamed
-- ---------------------------------------------------------------------------------------------------------

CREATE FUNCTION tick.seed(name regclass, query text) RETURNS int8
  LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tick_seed';
COMMENT ON FUNCTION tick.seed(regclass, text) IS
  'gives a rollup finished windows of before its source''s first row, as the rows of a query whose columns are named as the rollup''s; returns how many';

CREATE FUNCTION tick.forget(source regclass, keys jsonb, "from" timestamptz DEFAULT NULL, "to" timestamptz DEFAULT NULL,
    OUT rows int8, OUT windows int8) RETURNS record
  LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tick_forget';
COMMENT ON FUNCTION tick.forget(regclass, jsonb, timestamptz, timestamptz)
  IS 'deletes all that is known of a key: rows, windows of any age, their versions, ids; from and to: of a time only';
CREATE FUNCTION tick.rename_key(source regclass, "old" jsonb, "new" jsonb, OUT rows int8, OUT windows int8) RETURNS record
  LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tick_rename_key';
COMMENT ON FUNCTION tick.rename_key(regclass, jsonb, jsonb)
  IS 'gives a key another name: in rows, in windows of any age and in what is known of its ids';

-- ---------------------------------------------------------------------------------------------------------
-- For users' own SQL
-- ---------------------------------------------------------------------------------------------------------

CREATE FUNCTION tick_catalog.vwap_final(moments float8[]) RETURNS float8
  LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
  -- count, sum of qty, its squares, sum of price, its squares, products about the means
  SELECT CASE WHEN $1[1] > 0 THEN ($1[6] + $1[2] * ($1[4] / $1[1])) / nullif($1[2], 0) END $$;
CREATE AGGREGATE tick.vwap(price float8, qty float8) (
  SFUNC = pg_catalog.float8_regr_accum, STYPE = float8[], INITCOND = '{0,0,0,0,0,0}', FINALFUNC = tick_catalog.vwap_final,
  COMBINEFUNC = pg_catalog.float8_regr_combine, PARALLEL = SAFE
);
COMMENT ON AGGREGATE tick.vwap(float8, float8) IS 'average price, weighted by quantity; rows without one of them are left out';
CREATE FUNCTION tick_catalog.vwap_step(numeric[], price numeric, qty numeric) RETURNS numeric[]
  LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS 'SELECT ARRAY[$1[1] OPERATOR(pg_catalog.+) ($2 OPERATOR(pg_catalog.*) $3), $1[2] OPERATOR(pg_catalog.+) $3]';
CREATE FUNCTION tick_catalog.vwap_combine(numeric[], numeric[]) RETURNS numeric[]
  LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS 'SELECT ARRAY[$1[1] OPERATOR(pg_catalog.+) $2[1], $1[2] OPERATOR(pg_catalog.+) $2[2]]';
CREATE FUNCTION tick_catalog.vwap_final(numeric[]) RETURNS numeric
  LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS 'SELECT $1[1] OPERATOR(pg_catalog./) nullif($1[2], 0)';
CREATE AGGREGATE tick.vwap(price numeric, qty numeric) (
  SFUNC = tick_catalog.vwap_step, STYPE = numeric[], INITCOND = '{0,0}', FINALFUNC = tick_catalog.vwap_final,
  COMBINEFUNC = tick_catalog.vwap_combine, PARALLEL = SAFE
);
COMMENT ON AGGREGATE tick.vwap(numeric, numeric) IS 'average price, weighted by quantity; rows without one of them are left out';

CREATE TYPE tick.candle AS (open float8, high float8, low float8, close float8, volume float8, trades int8);
COMMENT ON TYPE tick.candle IS 'what tick.ohlcv gives';
CREATE FUNCTION tick_catalog.ohlcv_step(internal, price float8, qty float8, ts timestamptz) RETURNS internal
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_ohlcv_step';
CREATE FUNCTION tick_catalog.ohlcv_step(internal, price float8, qty float8, ts timestamptz, seq int8) RETURNS internal
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_ohlcv_step';
CREATE FUNCTION tick_catalog.ohlcv_final(internal) RETURNS tick.candle
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_ohlcv_final';
CREATE AGGREGATE tick.ohlcv(price float8, qty float8, ts timestamptz) (
  SFUNC = tick_catalog.ohlcv_step, STYPE = internal, FINALFUNC = tick_catalog.ohlcv_final, PARALLEL = SAFE
);
CREATE AGGREGATE tick.ohlcv(price float8, qty float8, ts timestamptz, seq int8) (
  SFUNC = tick_catalog.ohlcv_step, STYPE = internal, FINALFUNC = tick_catalog.ohlcv_final, PARALLEL = SAFE
);
COMMENT ON AGGREGATE tick.ohlcv(float8, float8, timestamptz) IS 'a candle: (tick.ohlcv(price, qty, ts)).*';
COMMENT ON AGGREGATE tick.ohlcv(float8, float8, timestamptz, int8) IS 'a candle: (tick.ohlcv(price, qty, ts, seq)).*';

CREATE FUNCTION tick_catalog.ema_step(float8, x float8, n int4) RETURNS float8
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_ema_step';
CREATE AGGREGATE tick.ema(x float8, n int4) (SFUNC = tick_catalog.ema_step, STYPE = float8, PARALLEL = SAFE);
COMMENT ON AGGREGATE tick.ema(float8, int4) IS
  'exponential moving average over n values, alpha = 2 / (n + 1), begun by the first: tick.ema(close, 12) OVER (PARTITION BY symbol ORDER BY ts)';

CREATE FUNCTION tick_catalog.query_columns(query text) RETURNS text[]
  LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'tick_query_columns';
COMMENT ON FUNCTION tick_catalog.query_columns(text) IS 'names of the columns of a query, which is not run';

-- Everything runs as the caller, and names are found as he finds them.
CREATE FUNCTION tick.upsert(target regclass, query text, key text[] DEFAULT NULL, newest_by text DEFAULT NULL,
                            OUT inserted int8, OUT updated int8)
  LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  given text[] := tick_catalog.query_columns(query);
  body text := pg_catalog.regexp_replace(query, '[;[:space:]]+$', '');
  keys text[] := key;
  values_list text;
  old_values text;
  new_values text;
  assignments text;
BEGIN
  IF target IS NULL OR query IS NULL THEN
    RAISE EXCEPTION 'tick.upsert needs a table and a query' USING ERRCODE = 'null_value_not_allowed';
  END IF;
  IF keys IS NULL THEN
    SELECT pg_catalog.array_agg(a.attname::pg_catalog.text ORDER BY k.at) INTO keys
      FROM (SELECT i.indrelid, i.indkey, i.indnkeyatts FROM pg_catalog.pg_index AS i
            WHERE i.indrelid OPERATOR(pg_catalog.=) target AND i.indisunique AND i.indimmediate AND i.indisvalid
              AND i.indpred IS NULL AND i.indexprs IS NULL
            ORDER BY i.indisprimary DESC, i.indexrelid LIMIT 1) AS i
      CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::pg_catalog.int2[]) WITH ORDINALITY AS k (attnum, at)
      JOIN pg_catalog.pg_attribute AS a ON a.attrelid OPERATOR(pg_catalog.=) i.indrelid AND a.attnum OPERATOR(pg_catalog.=) k.attnum
      WHERE k.at OPERATOR(pg_catalog.<=) i.indnkeyatts;
  END IF;
  IF keys IS NULL OR NOT keys OPERATOR(pg_catalog.<@) given THEN
    RAISE EXCEPTION 'tick.upsert cannot tell which rows of "%" are new', target USING ERRCODE = 'invalid_parameter_value',
      DETAIL = CASE WHEN keys IS NULL THEN 'The table has no unique index over columns.'
                    ELSE pg_catalog.format('The query does not give all columns of the key: %s.', pg_catalog.array_to_string(keys, ', ')) END,
      HINT = 'Columns of query and table are matched by name; key names those of a unique index.';
  END IF;
  SELECT pg_catalog.string_agg(pg_catalog.format('%I', g.name), ', ' ORDER BY g.at),
         pg_catalog.string_agg(pg_catalog.format('t.%I', g.name), ', ' ORDER BY g.at) FILTER (WHERE NOT g.is_key),
         pg_catalog.string_agg(pg_catalog.format('excluded.%I', g.name), ', ' ORDER BY g.at) FILTER (WHERE NOT g.is_key),
         pg_catalog.string_agg(pg_catalog.format('%1$I = excluded.%1$I', g.name), ', ' ORDER BY g.at) FILTER (WHERE NOT g.is_key)
    INTO values_list, old_values, new_values, assignments
    FROM (SELECT u.name, u.at, u.name OPERATOR(pg_catalog.=) ANY (keys) AS is_key
          FROM pg_catalog.unnest(given) WITH ORDINALITY AS u (name, at)) AS g;
  -- A row that is the same byte for byte is not written.
  EXECUTE pg_catalog.format(
    E'WITH given AS (SELECT pg_catalog.row_number() OVER () AS tick_row, q.* FROM (%1$s\n) AS q), '
    'done AS (INSERT INTO %2$s AS t (%3$s) SELECT %3$s FROM (SELECT DISTINCT ON (%4$s) * FROM given ORDER BY %4$s, %5$stick_row DESC) AS g '
    'ON CONFLICT (%4$s) DO %6$s RETURNING %7$s AS is_new) '
    'SELECT pg_catalog.count(*) FILTER (WHERE is_new), pg_catalog.count(*) FILTER (WHERE NOT is_new) FROM done',
    body, target, values_list,
    (SELECT pg_catalog.string_agg(pg_catalog.format('%I', k), ', ') FROM pg_catalog.unnest(keys) AS k),
    CASE WHEN newest_by IS NULL THEN '' ELSE pg_catalog.format('%I DESC NULLS LAST, ', newest_by) END,
    CASE WHEN assignments IS NULL THEN 'NOTHING' ELSE pg_catalog.format(
      'UPDATE SET %s WHERE ROW(%s)::pg_catalog.record OPERATOR(pg_catalog.*<>) ROW(%s)::pg_catalog.record', assignments, old_values, new_values) END,
    -- A partitioned table does not tell what has become of a row: what was there when the statement began counts.
    (SELECT CASE WHEN c.relkind OPERATOR(pg_catalog.<>) 'p' THEN 't.xmax OPERATOR(pg_catalog.=) ''0''::pg_catalog.xid'
       ELSE pg_catalog.format('NOT EXISTS (SELECT FROM %s AS o WHERE ROW(%s) = ROW(%s))', target,
         (SELECT pg_catalog.string_agg(pg_catalog.format('o.%I', k), ', ') FROM pg_catalog.unnest(keys) AS k),
         (SELECT pg_catalog.string_agg(pg_catalog.format('t.%I', k), ', ') FROM pg_catalog.unnest(keys) AS k)) END
     FROM pg_catalog.pg_class AS c WHERE c.oid OPERATOR(pg_catalog.=) target))
    INTO inserted, updated;
END $$;
COMMENT ON FUNCTION tick.upsert(regclass, text, text[], text) IS
  'inserts the rows of a query, or updates those that are there by a unique index; of rows with one key the last, or the newest by a column, counts';

-- ---------------------------------------------------------------------------------------------------------
-- How a rollup comes about
-- ---------------------------------------------------------------------------------------------------------

CREATE FUNCTION tick.explain(name regclass) RETURNS SETOF text
  LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  r tick.rollups;
  s tick.sources;
  upper text;  -- of a rollup that follows: how the other comes about
BEGIN
  SELECT * INTO r FROM tick.rollups t WHERE t.rollup = name;
  IF NOT FOUND THEN
    RAISE EXCEPTION '"%" is not a rollup that you may read', name USING ERRCODE = 'wrong_object_type',
      HINT = 'tick.rollups lists the rollups.';
  END IF;
  IF r.strategy = 'follow' THEN
    IF EXISTS (SELECT FROM tick.rollups t WHERE t.rollup = r.source) THEN
      FOR upper IN SELECT * FROM tick.explain(r.source) LOOP RETURN NEXT upper; END LOOP;
    ELSE
      RETURN NEXT format('source %s: you may not read it', r.source);
    END IF;
    RETURN NEXT format('      rollup %s: window of %s over the rows of %s, strategy %s, %s%s', r.rollup, r.window_size, r.source, r.strategy,
      r.state, CASE WHEN r.pending_ranges > 0 THEN format(', %s ranges to compute', r.pending_ranges) ELSE '' END
        || coalesce('; windows are kept ' || r.retention, '') || coalesce('; there are none before ' || r.kept_from, ''));
    RETURN;
  END IF;
  SELECT * INTO s FROM tick.sources t WHERE t.source = r.source;
  RETURN NEXT format('source %s: %s', r.source,
    CASE WHEN s.source IS NULL THEN 'you may not read it' ELSE
      format('final %s after the newest time, or %s after the last arrival', s.watermark_delay, s.idle_timeout)
      || coalesce('; raw rows are kept ' || s.retention, '') || coalesce('; complete from ' || s.raw_from, '')
      || CASE WHEN s.partitions > 0 THEN format('; %s partitions', s.partitions) ELSE '' END END);
  RETURN NEXT format('  group %s: rows are folded once per %s%s, for %s', r.group_id,
    coalesce(nullif(array_to_string(r.keys, ', '), ''), 'table'),
    coalesce(' and pane of ' || r.pane, ''),
    (SELECT string_agg(t.rollup::text, ', ' ORDER BY t.rollup::text) FROM tick.rollups t WHERE t.group_id = r.group_id));
  RETURN NEXT format('    rollup %s: %s, strategy %s, %s%s', r.rollup,
    CASE WHEN r.window_size IS NULL THEN 'no window'
         WHEN extract(month FROM r.window_size) + extract(year FROM r.window_size) > 0 THEN format('window of %s', r.window_size)
         ELSE format('window of %s = %s panes', r.window_size,
                     ceil(extract(epoch FROM r.window_size) / extract(epoch FROM r.pane))) END,
    r.strategy, r.state, CASE WHEN r.pending_ranges > 0 THEN format(', %s ranges to compute', r.pending_ranges) ELSE '' END
      || coalesce('; windows are kept ' || r.retention, '') || coalesce('; there are none before ' || r.kept_from, ''));
END $$;
COMMENT ON FUNCTION tick.explain(regclass) IS 'how a rollup comes about: source, group, panes, strategy';
