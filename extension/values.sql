-- Appended to pg_tick--1.0.sql by make: what computes values.

-- ---------------------------------------------------------------------------------------------------------
-- Values: windows, the exact sum, ordered aggregates, and what a rollup's view needs to finish partials.
-- ---------------------------------------------------------------------------------------------------------

CREATE FUNCTION tick.tumble(ts timestamptz, size interval) RETURNS timestamptz
  LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_tumble';
COMMENT ON FUNCTION tick.tumble(timestamptz, interval)
  IS 'start of the window of a size that holds a time, in UTC';
CREATE FUNCTION tick.tumble(ts timestamptz, size interval, tz text) RETURNS timestamptz
  LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_tumble_in';
COMMENT ON FUNCTION tick.tumble(timestamptz, interval, text)
  IS 'start of the window of a size that holds a time, by the calendar and midnights of a time zone';
CREATE FUNCTION tick.tumble(ts timestamptz, size interval, origin timestamptz) RETURNS timestamptz
  LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_tumble_from';
COMMENT ON FUNCTION tick.tumble(timestamptz, interval, timestamptz)
  IS 'start of the window of a size that holds a time, days beginning at the time of day of an origin';
CREATE FUNCTION tick.tumble(ts timestamptz, size interval, tz text, origin timestamptz) RETURNS timestamptz
  LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_tumble_in';
COMMENT ON FUNCTION tick.tumble(timestamptz, interval, text, timestamptz)
  IS 'start of the window of a size that holds a time, by the calendar of a time zone, days beginning at the time of day of an origin there';
CREATE FUNCTION tick.tumble(ts timestamp, size interval) RETURNS timestamp
  LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_tumble';
COMMENT ON FUNCTION tick.tumble(timestamp, interval)
  IS 'start of the window of a size that holds a time read as UTC';
CREATE FUNCTION tick.tumble(ts timestamp, size interval, tz text) RETURNS timestamp
  LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_tumble_in';
COMMENT ON FUNCTION tick.tumble(timestamp, interval, text)
  IS 'start of the window of a size that holds a time read as UTC, by the calendar and midnights of a time zone';
CREATE FUNCTION tick.tumble(ts timestamp, size interval, origin timestamp) RETURNS timestamp
  LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_tumble_from';
COMMENT ON FUNCTION tick.tumble(timestamp, interval, timestamp)
  IS 'start of the window of a size that holds a time read as UTC, days beginning at the time of day of an origin';
CREATE FUNCTION tick.tumble(ts timestamp, size interval, tz text, origin timestamp) RETURNS timestamp
  LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_tumble_in';
COMMENT ON FUNCTION tick.tumble(timestamp, interval, text, timestamp)
  IS 'start of the window of a size that holds a time read as UTC, by the calendar of a time zone, days beginning at the time of day of an origin there';
CREATE FUNCTION tick.hop(ts timestamptz, size interval, slide interval) RETURNS SETOF timestamptz
  LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE ROWS 5 AS 'MODULE_PATHNAME', 'tick_hop';
COMMENT ON FUNCTION tick.hop(timestamptz, interval, interval)
  IS 'starts of the windows of a size, one every slide, that hold a time, in UTC';
CREATE FUNCTION tick.hop(ts timestamptz, size interval, slide interval, tz text) RETURNS SETOF timestamptz
  LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE ROWS 5 AS 'MODULE_PATHNAME', 'tick_hop';
COMMENT ON FUNCTION tick.hop(timestamptz, interval, interval, text)
  IS 'starts of the windows of a size, one every slide from midnight of a time zone, that hold a time';
CREATE FUNCTION tick.hop(ts timestamp, size interval, slide interval) RETURNS SETOF timestamp
  LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE ROWS 5 AS 'MODULE_PATHNAME', 'tick_hop';
COMMENT ON FUNCTION tick.hop(timestamp, interval, interval)
  IS 'starts of the windows of a size, one every slide, that hold a time read as UTC';
CREATE FUNCTION tick.hop(ts timestamp, size interval, slide interval, tz text) RETURNS SETOF timestamp
  LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE ROWS 5 AS 'MODULE_PATHNAME', 'tick_hop';
COMMENT ON FUNCTION tick.hop(timestamp, interval, interval, text)
  IS 'starts of the windows of a size, one every slide from midnight of a time zone, that hold a time read as UTC';
CREATE FUNCTION tick.cumulate(ts timestamptz, size interval, step interval) RETURNS SETOF timestamptz
  LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE ROWS 12 AS 'MODULE_PATHNAME', 'tick_cumulate';
COMMENT ON FUNCTION tick.cumulate(timestamptz, interval, interval)
  IS 'last steps of the windows that hold a time and grow by steps within those of a size, in UTC';
CREATE FUNCTION tick.cumulate(ts timestamptz, size interval, step interval, tz text) RETURNS SETOF timestamptz
  LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE ROWS 12 AS 'MODULE_PATHNAME', 'tick_cumulate';
COMMENT ON FUNCTION tick.cumulate(timestamptz, interval, interval, text)
  IS 'last steps of the windows that hold a time and grow by steps within those of a size, from midnight of a time zone';
CREATE FUNCTION tick.cumulate(ts timestamp, size interval, step interval) RETURNS SETOF timestamp
  LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE ROWS 12 AS 'MODULE_PATHNAME', 'tick_cumulate';
COMMENT ON FUNCTION tick.cumulate(timestamp, interval, interval)
  IS 'last steps of the windows that hold a time read as UTC and grow by steps within those of a size';
CREATE FUNCTION tick.cumulate(ts timestamp, size interval, step interval, tz text) RETURNS SETOF timestamp
  LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE ROWS 12 AS 'MODULE_PATHNAME', 'tick_cumulate';
COMMENT ON FUNCTION tick.cumulate(timestamp, interval, interval, text)
  IS 'last steps of the windows that hold a time read as UTC and grow by steps within those of a size, from midnight of a time zone';

CREATE FUNCTION tick_catalog.window_end(start timestamptz, size interval) RETURNS timestamptz
  LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_window_end';
CREATE FUNCTION tick_catalog.window_end(start timestamptz, size interval, slide interval, tz text, origin timestamptz) RETURNS timestamptz
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_window_end_in';
CREATE FUNCTION tick_catalog.window_end(start timestamp, size interval) RETURNS timestamp
  LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_window_end';
CREATE FUNCTION tick_catalog.window_end(start timestamp, size interval, slide interval, tz text, origin timestamp) RETURNS timestamp
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_window_end_in';
CREATE FUNCTION tick_catalog.window_reach(first timestamptz, last timestamptz, size interval, slide interval, tz text, origin timestamptz, grows bool) RETURNS timestamptz[]
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_window_reach';
CREATE FUNCTION tick_catalog.window_from(covered timestamptz, size interval, slide interval, tz text, origin timestamptz, grows bool) RETURNS timestamptz
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_window_from';

CREATE TYPE tick.exact_sum;
CREATE FUNCTION tick_catalog.exact_sum_in(cstring) RETURNS tick.exact_sum
  LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_exact_sum_in';
CREATE FUNCTION tick_catalog.exact_sum_out(tick.exact_sum) RETURNS cstring
  LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_exact_sum_out';
CREATE FUNCTION tick_catalog.exact_sum_recv(internal) RETURNS tick.exact_sum
  LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_exact_sum_recv';
CREATE FUNCTION tick_catalog.exact_sum_send(tick.exact_sum) RETURNS bytea
  LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_exact_sum_send';
CREATE TYPE tick.exact_sum (
  INPUT = tick_catalog.exact_sum_in, OUTPUT = tick_catalog.exact_sum_out,
  RECEIVE = tick_catalog.exact_sum_recv, SEND = tick_catalog.exact_sum_send,
  INTERNALLENGTH = VARIABLE, STORAGE = extended
);
COMMENT ON TYPE tick.exact_sum IS 'sum of double precision values without rounding';
CREATE FUNCTION tick_catalog.exact_value(tick.exact_sum) RETURNS float8
  LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_exact_value';
CREATE FUNCTION tick_catalog.exact_of(float8) RETURNS tick.exact_sum
  LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_exact_of';
CREATE CAST (tick.exact_sum AS float8) WITH FUNCTION tick_catalog.exact_value(tick.exact_sum);

CREATE FUNCTION tick_catalog.merge_sum(tick.exact_sum, tick.exact_sum) RETURNS tick.exact_sum
  LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_merge_sum';
CREATE AGGREGATE tick_catalog.merged_sum(tick.exact_sum) (
  SFUNC = tick_catalog.merge_sum, STYPE = tick.exact_sum, COMBINEFUNC = tick_catalog.merge_sum, PARALLEL = SAFE
);
CREATE FUNCTION tick_catalog.merge_min(anyelement, anyelement) RETURNS anyelement
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_merge_min';
CREATE FUNCTION tick_catalog.merge_max(anyelement, anyelement) RETURNS anyelement
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_merge_max';
CREATE FUNCTION tick_catalog.comes_before("any", "any", "any", "any") RETURNS bool
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_comes_before';
CREATE FUNCTION tick_catalog.comes_before("any", "any", "any", "any", "any", "any") RETURNS bool
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_comes_before';
CREATE FUNCTION tick_catalog.comes_after("any", "any", "any", "any") RETURNS bool
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_comes_after';
CREATE FUNCTION tick_catalog.comes_after("any", "any", "any", "any", "any", "any") RETURNS bool
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_comes_after';

CREATE FUNCTION tick_catalog.finish_sum(anyelement, int8) RETURNS anyelement
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_finish_sum';
CREATE FUNCTION tick_catalog.finish_float8(tick.exact_sum, int8) RETURNS float8
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_finish_float8';
CREATE FUNCTION tick_catalog.finish_float4(tick.exact_sum, int8) RETURNS float4
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_finish_float4';
CREATE FUNCTION tick_catalog.finish_avg(numeric, int8) RETURNS numeric
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_finish_avg';
CREATE FUNCTION tick_catalog.finish_avg(tick.exact_sum, int8) RETURNS float8
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_finish_float_avg';
CREATE FUNCTION tick_catalog.finish_var_pop(sum numeric, squares numeric, count int8) RETURNS numeric
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_finish_var_pop';
CREATE FUNCTION tick_catalog.finish_var_pop(sum tick.exact_sum, squares tick.exact_sum, count int8) RETURNS float8
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_finish_float_var_pop';
CREATE FUNCTION tick_catalog.finish_var_samp(sum numeric, squares numeric, count int8) RETURNS numeric
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_finish_var_samp';
CREATE FUNCTION tick_catalog.finish_var_samp(sum tick.exact_sum, squares tick.exact_sum, count int8) RETURNS float8
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_finish_float_var_samp';
CREATE FUNCTION tick_catalog.finish_stddev_pop(sum numeric, squares numeric, count int8) RETURNS numeric
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_finish_stddev_pop';
CREATE FUNCTION tick_catalog.finish_stddev_pop(sum tick.exact_sum, squares tick.exact_sum, count int8) RETURNS float8
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_finish_float_stddev_pop';
CREATE FUNCTION tick_catalog.finish_stddev_samp(sum numeric, squares numeric, count int8) RETURNS numeric
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_finish_stddev_samp';
CREATE FUNCTION tick_catalog.finish_stddev_samp(sum tick.exact_sum, squares tick.exact_sum, count int8) RETURNS float8
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_finish_float_stddev_samp';

CREATE FUNCTION tick_catalog.first_step(internal, anyelement) RETURNS internal
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_first_step';
CREATE FUNCTION tick_catalog.first_step(internal, anyelement, "any") RETURNS internal
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_first_step';
CREATE FUNCTION tick_catalog.first_step(internal, anyelement, "any", "any") RETURNS internal
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_first_step';
CREATE FUNCTION tick_catalog.last_step(internal, anyelement) RETURNS internal
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_last_step';
CREATE FUNCTION tick_catalog.last_step(internal, anyelement, "any") RETURNS internal
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_last_step';
CREATE FUNCTION tick_catalog.last_step(internal, anyelement, "any", "any") RETURNS internal
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_last_step';
CREATE FUNCTION tick_catalog.ordered_final(internal, anyelement) RETURNS anyelement
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_ordered_final';
CREATE FUNCTION tick_catalog.ordered_final(internal, anyelement, "any") RETURNS anyelement
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_ordered_final';
CREATE FUNCTION tick_catalog.ordered_final(internal, anyelement, "any", "any") RETURNS anyelement
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_ordered_final';

-- The variants without an order exist to say that they need one.
CREATE AGGREGATE tick.first(anyelement) (
  SFUNC = tick_catalog.first_step, STYPE = internal, FINALFUNC = tick_catalog.ordered_final, FINALFUNC_EXTRA, PARALLEL = SAFE
);
CREATE AGGREGATE tick.first(anyelement, "any") (
  SFUNC = tick_catalog.first_step, STYPE = internal, FINALFUNC = tick_catalog.ordered_final, FINALFUNC_EXTRA, PARALLEL = SAFE
);
CREATE AGGREGATE tick.first(anyelement, "any", "any") (
  SFUNC = tick_catalog.first_step, STYPE = internal, FINALFUNC = tick_catalog.ordered_final, FINALFUNC_EXTRA, PARALLEL = SAFE
);
CREATE AGGREGATE tick.last(anyelement) (
  SFUNC = tick_catalog.last_step, STYPE = internal, FINALFUNC = tick_catalog.ordered_final, FINALFUNC_EXTRA, PARALLEL = SAFE
);
CREATE AGGREGATE tick.last(anyelement, "any") (
  SFUNC = tick_catalog.last_step, STYPE = internal, FINALFUNC = tick_catalog.ordered_final, FINALFUNC_EXTRA, PARALLEL = SAFE
);
CREATE AGGREGATE tick.last(anyelement, "any", "any") (
  SFUNC = tick_catalog.last_step, STYPE = internal, FINALFUNC = tick_catalog.ordered_final, FINALFUNC_EXTRA, PARALLEL = SAFE
);
COMMENT ON AGGREGATE tick.first(anyelement) IS 'refused: name an order, tick.first(value, ts)';
COMMENT ON AGGREGATE tick.last(anyelement) IS 'refused: name an order, tick.last(value, ts)';
COMMENT ON AGGREGATE tick.first(anyelement, "any") IS 'the value at the smallest order';
COMMENT ON AGGREGATE tick.first(anyelement, "any", "any") IS 'the value at the smallest (order, sequence)';
COMMENT ON AGGREGATE tick.last(anyelement, "any") IS 'the value at the greatest order';
COMMENT ON AGGREGATE tick.last(anyelement, "any", "any") IS 'the value at the greatest (order, sequence)';

CREATE FUNCTION tick_catalog.key_json(dedup int4, key bytea) RETURNS jsonb
  LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'tick_key_json';
CREATE FUNCTION tick_catalog.rebuild_seen(source regclass) RETURNS void
  LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'tick_rebuild_seen';
COMMENT ON FUNCTION tick_catalog.rebuild_seen(regclass) IS 'makes the sets of ids of a source anew from its rows';
REVOKE ALL ON FUNCTION tick_catalog.rebuild_seen(regclass) FROM PUBLIC;
CREATE FUNCTION tick_catalog.ranges(packed bytea, OUT from_id int8, OUT to_id int8, OUT first_time timestamptz,
                                    OUT last_time timestamptz, OUT since timestamptz)
  RETURNS SETOF record LANGUAGE c STABLE STRICT ROWS 10 AS 'MODULE_PATHNAME', 'tick_ranges';
COMMENT ON FUNCTION tick_catalog.ranges(bytea) IS 'ranges of ids, with the times of the rows at their edges';

CREATE VIEW tick.seen AS
  SELECT d.source::pg_catalog.regclass AS source, tick_catalog.key_json(s.dedup, s.key) AS key, s.ids,
         s.range_count AS ranges, r.from_id, r.to_id, s.updated_at
  FROM tick_catalog.seen s JOIN tick_catalog.dedup d ON d.id = s.dedup
  CROSS JOIN LATERAL (SELECT min(from_id) AS from_id, max(to_id) AS to_id FROM tick_catalog.ranges(s.ranges)) r
  WHERE s.ids > 0 AND pg_catalog.has_table_privilege(d.source, 'SELECT');
COMMENT ON VIEW tick.seen IS 'one row a source and key: the ids that were merged';
GRANT SELECT ON tick.seen TO PUBLIC;

CREATE VIEW tick.gaps AS
  SELECT source, tick_catalog.key_json(dedup, key) AS key, g.from_id, g.to_id,
         g.to_id::numeric - g.from_id + 1 AS missing, g.from_time, g.to_time,
         (SELECT jsonb_object_agg(r.view::pg_catalog.regclass::text, tick_catalog.window_reach(
                   least(g.from_time, g.to_time), greatest(g.from_time, g.to_time),
                   r.window_size, r.window_slide, r.window_zone, r.window_origin, r.window_grows))
          FROM tick_catalog.rollup r WHERE r.source = u.source AND r.window_size IS NOT NULL
            AND g.from_time IS NOT NULL AND g.to_time IS NOT NULL) AS windows,
         g.since,
         (SELECT n.reason FROM tick_catalog.gap_note n
          WHERE n.dedup = u.dedup AND n.key = u.key AND n.to_id = g.to_id) AS reason
  FROM (SELECT d.source::pg_catalog.regclass AS source, s.dedup, s.key, s.ranges
        FROM tick_catalog.seen s JOIN tick_catalog.dedup d ON d.id = s.dedup
        WHERE s.range_count > 1 AND pg_catalog.has_table_privilege(d.source, 'SELECT')) u
  CROSS JOIN LATERAL (
    SELECT lag(to_id) OVER w + 1 AS from_id, from_id - 1 AS to_id, lag(last_time) OVER w AS from_time,
           first_time AS to_time, since
    FROM tick_catalog.ranges(u.ranges) WINDOW w AS (ORDER BY from_id)) g
  WHERE g.from_id IS NOT NULL;
COMMENT ON VIEW tick.gaps IS
  'ids missing between ids that were seen, the times of the rows around them, the windows of rollups they would be in, and why they stay';
GRANT SELECT ON tick.gaps TO PUBLIC;

CREATE FUNCTION tick.explain_gap(source regclass, key jsonb, to_id int8, reason text) RETURNS void
  LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  -- The caller: inside this function current_user is the extension's owner.
  who oid := coalesce((SELECT oid FROM pg_roles WHERE rolname = nullif(current_setting('role'), 'none')),
                      session_user::regrole);
BEGIN
  IF NOT has_table_privilege(who, source, 'INSERT') THEN
    RAISE EXCEPTION 'permission denied for table %', source USING ERRCODE = 'insufficient_privilege';
  END IF;
  -- Notes of gaps that are no more go with the first new one of their key.
  WITH gap AS MATERIALIZED (
    SELECT s.dedup, s.key, r.from_id - 1 AS to_id
    FROM tick_catalog.dedup d JOIN tick_catalog.seen s ON s.dedup = d.id
    CROSS JOIN LATERAL tick_catalog.ranges(s.ranges) r
    WHERE d.source = explain_gap.source AND tick_catalog.key_json(s.dedup, s.key) = explain_gap.key),
  gone AS (
    DELETE FROM tick_catalog.gap_note n USING (SELECT DISTINCT g.dedup, g.key FROM gap g) k
    WHERE n.dedup = k.dedup AND n.key = k.key AND NOT EXISTS (SELECT FROM gap g WHERE g.to_id = n.to_id))
  INSERT INTO tick_catalog.gap_note SELECT g.dedup, g.key, g.to_id, left(explain_gap.reason, 500) FROM gap g
    WHERE g.to_id = explain_gap.to_id
  ON CONFLICT ON CONSTRAINT gap_note_pkey DO UPDATE SET reason = excluded.reason;
END $$;
COMMENT ON FUNCTION tick.explain_gap(regclass, jsonb, int8, text) IS
  'says why a gap cannot be filled; tick.gaps shows it as long as the gap is there';

-- What tick.verify falls back on: aggregates of floats that round once.
CREATE FUNCTION tick_catalog.exact_step(internal, float8) RETURNS internal
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_exact_step';
CREATE FUNCTION tick_catalog.exact_step_squares(internal, float8) RETURNS internal
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_exact_step_squares';
CREATE FUNCTION tick_catalog.exact_step(internal, float4) RETURNS internal
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_exact_step4';
CREATE FUNCTION tick_catalog.exact_step_squares(internal, float4) RETURNS internal
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_exact_step4_squares';
CREATE FUNCTION tick_catalog.exact_sum_final(internal) RETURNS float8
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_exact_sum_final';
CREATE FUNCTION tick_catalog.exact_sum4_final(internal) RETURNS float4
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_exact_sum4_final';
CREATE FUNCTION tick_catalog.exact_avg_final(internal) RETURNS float8
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_exact_avg_final';
CREATE FUNCTION tick_catalog.exact_var_pop_final(internal) RETURNS float8
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_exact_var_pop_final';
CREATE FUNCTION tick_catalog.exact_var_samp_final(internal) RETURNS float8
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_exact_var_samp_final';
CREATE FUNCTION tick_catalog.exact_stddev_pop_final(internal) RETURNS float8
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_exact_stddev_pop_final';
CREATE FUNCTION tick_catalog.exact_stddev_samp_final(internal) RETURNS float8
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_exact_stddev_samp_final';
CREATE AGGREGATE tick_catalog.exact_sum(float8) (
  SFUNC = tick_catalog.exact_step, STYPE = internal, FINALFUNC = tick_catalog.exact_sum_final, PARALLEL = SAFE
);
CREATE AGGREGATE tick_catalog.exact_avg(float8) (
  SFUNC = tick_catalog.exact_step, STYPE = internal, FINALFUNC = tick_catalog.exact_avg_final, PARALLEL = SAFE
);
CREATE AGGREGATE tick_catalog.exact_var_pop(float8) (
  SFUNC = tick_catalog.exact_step_squares, STYPE = internal, FINALFUNC = tick_catalog.exact_var_pop_final, PARALLEL = SAFE
);
CREATE AGGREGATE tick_catalog.exact_var_samp(float8) (
  SFUNC = tick_catalog.exact_step_squares, STYPE = internal, FINALFUNC = tick_catalog.exact_var_samp_final, PARALLEL = SAFE
);
CREATE AGGREGATE tick_catalog.exact_stddev_pop(float8) (
  SFUNC = tick_catalog.exact_step_squares, STYPE = internal, FINALFUNC = tick_catalog.exact_stddev_pop_final, PARALLEL = SAFE
);
CREATE AGGREGATE tick_catalog.exact_stddev_samp(float8) (
  SFUNC = tick_catalog.exact_step_squares, STYPE = internal, FINALFUNC = tick_catalog.exact_stddev_samp_final, PARALLEL = SAFE
);
CREATE AGGREGATE tick_catalog.exact_sum(float4) (
  SFUNC = tick_catalog.exact_step, STYPE = internal, FINALFUNC = tick_catalog.exact_sum4_final, PARALLEL = SAFE
);
CREATE AGGREGATE tick_catalog.exact_avg(float4) (
  SFUNC = tick_catalog.exact_step, STYPE = internal, FINALFUNC = tick_catalog.exact_avg_final, PARALLEL = SAFE
);
CREATE AGGREGATE tick_catalog.exact_var_pop(float4) (
  SFUNC = tick_catalog.exact_step_squares, STYPE = internal, FINALFUNC = tick_catalog.exact_var_pop_final, PARALLEL = SAFE
);
CREATE AGGREGATE tick_catalog.exact_var_samp(float4) (
  SFUNC = tick_catalog.exact_step_squares, STYPE = internal, FINALFUNC = tick_catalog.exact_var_samp_final, PARALLEL = SAFE
);
CREATE AGGREGATE tick_catalog.exact_stddev_pop(float4) (
  SFUNC = tick_catalog.exact_step_squares, STYPE = internal, FINALFUNC = tick_catalog.exact_stddev_pop_final, PARALLEL = SAFE
);
CREATE AGGREGATE tick_catalog.exact_stddev_samp(float4) (
  SFUNC = tick_catalog.exact_step_squares, STYPE = internal, FINALFUNC = tick_catalog.exact_stddev_samp_final, PARALLEL = SAFE
);
