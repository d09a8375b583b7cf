-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION pg_tick" to load this file. \quit

-- The SQL surface of pg_tick: catalogs in schema tick_catalog, everything a user calls in schema tick.

CREATE SCHEMA tick_catalog;
GRANT USAGE ON SCHEMA tick_catalog TO PUBLIC;
GRANT USAGE ON SCHEMA tick TO PUBLIC;

-- ---------------------------------------------------------------------------------------------------------
-- Catalogs. Only the extension's own code writes them.
-- ---------------------------------------------------------------------------------------------------------

-- The snapshot up to which deltas have been merged. A lock on this table as an object is the only mutex of a turn. Never
-- dumped: sources of another epoch have come out of a dump; under another system, all of them have come with pg_upgrade.
CREATE TABLE tick_catalog.frontier (
  id       bool PRIMARY KEY DEFAULT true CHECK (id),
  snapshot pg_catalog.pg_snapshot NOT NULL,
  ids      pg_catalog.pg_snapshot,
  epoch    uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
  system   int8 NOT NULL
) WITH (fillfactor = 10);
COMMENT ON COLUMN tick_catalog.frontier.ids IS 'the same for deltas of ids; NULL: no other. A bounded turn merges all of them';
INSERT INTO tick_catalog.frontier (snapshot, system)
  SELECT pg_catalog.pg_current_snapshot(), system_identifier FROM pg_catalog.pg_control_system();
CREATE FUNCTION tick_catalog.epoch() RETURNS uuid LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
  AS 'SELECT f.epoch FROM tick_catalog.frontier AS f WHERE f.system = (SELECT system_identifier FROM pg_control_system())';
REVOKE ALL ON FUNCTION tick_catalog.epoch() FROM PUBLIC;
COMMENT ON FUNCTION tick_catalog.epoch() IS 'of what can be merged; NULL after pg_upgrade';

-- A table that rollups read. Catalogs name relations by regclass, so that a dump does; an owner is its view's.
CREATE TABLE tick_catalog.source (
  relid            regclass PRIMARY KEY,
  epoch            uuid NOT NULL DEFAULT tick_catalog.epoch(),
  triggered        bool NOT NULL DEFAULT false,
  watermark_delay  interval NOT NULL DEFAULT '10 seconds',
  idle_timeout     interval NOT NULL DEFAULT '60 seconds',
  max_skew         interval NOT NULL DEFAULT '5 seconds',
  watermark_by     text,
  freeze_after     interval,
  raw_from         timestamptz,
  dedup_key        text[],
  dedup_id         text,
  dedup_group      text,
  retention        interval,
  partition_size   interval,
  partitions_ahead int4 NOT NULL DEFAULT 3,
  declared         bool NOT NULL DEFAULT false,
  trouble          text
);
COMMENT ON TABLE tick_catalog.source IS 'tables that rollups read';
COMMENT ON COLUMN tick_catalog.source.declared IS 'by tick.add_source: it stays when its last rollup has gone';
COMMENT ON COLUMN tick_catalog.source.triggered IS 'it had its triggers before a dump brought this row: the rows of its dump fire them';
COMMENT ON COLUMN tick_catalog.source.trouble IS 'why the worker cannot keep its partitions';
COMMENT ON COLUMN tick_catalog.source.raw_from IS 'the table is complete from this time on; NULL: from its beginning';

-- Settings of dedup as attribute numbers of the source (0 = none). Immutable: others are another row.
CREATE TABLE tick_catalog.dedup (
  id           int4 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  source       regclass NOT NULL UNIQUE REFERENCES tick_catalog.source ON DELETE CASCADE,
  keys         int2[] NOT NULL,
  id_column    int2 NOT NULL,
  group_column int2 NOT NULL,
  time_column  int2 NOT NULL,
  duplicates   int8 NOT NULL DEFAULT 0
);
COMMENT ON COLUMN tick_catalog.dedup.duplicates IS 'rows that were left out';

-- The ids of each key that are in a source, up to the frontier. Written by the worker alone, once it is filled.
CREATE TABLE tick_catalog.seen (
  dedup       int4 NOT NULL REFERENCES tick_catalog.dedup ON DELETE CASCADE,
  key         bytea NOT NULL,
  ranges      bytea NOT NULL,
  range_count int8 NOT NULL,
  ids         int8 NOT NULL,
  updated_at  timestamptz NOT NULL,
  PRIMARY KEY (dedup, key)
) WITH (fillfactor = 50);

-- Why a gap stays: what those say who have tried to fill it. Gone when its ids have come.
CREATE TABLE tick_catalog.gap_note (
  dedup       int4 NOT NULL REFERENCES tick_catalog.dedup ON DELETE CASCADE,
  key         bytea NOT NULL,
  to_id       int8 NOT NULL,
  reason      text NOT NULL,
  PRIMARY KEY (dedup, key, to_id)
);

-- Rollups with the same source, owner, keys, WHERE and time expression share one fold per row.
CREATE TABLE tick_catalog.capture_group (
  id        int4 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  source    regclass NOT NULL REFERENCES tick_catalog.source ON DELETE CASCADE,
  owner     oid NOT NULL
);

-- What a group folds. Immutable: a change of the group is a new program (its id is in the triggers' arguments).
CREATE TABLE tick_catalog.program (
  id         int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  group_id   int4 NOT NULL,
  source     regclass NOT NULL,
  owner      oid NOT NULL,
  current    bool NOT NULL,
  inputs     text NOT NULL,
  keys       int2[] NOT NULL,
  time_input int2 NOT NULL,
  where_input int2 NOT NULL,
  pane       int8 NOT NULL,
  items      int2[] NOT NULL,
  expressions text[] NOT NULL
);
COMMENT ON COLUMN tick_catalog.program.expressions IS 'inputs as SQL: what counts once they have come out of a dump';
COMMENT ON COLUMN tick_catalog.program.inputs IS 'node tree of the list of expressions, variables numbered as in the source';
COMMENT ON COLUMN tick_catalog.program.items IS 'five numbers an item: kind, value, order, seq, filter';

CREATE TABLE tick_catalog.rollup (
  id           int4 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  view         regclass NOT NULL UNIQUE,
  state        regclass NOT NULL UNIQUE,
  definition   regclass NOT NULL UNIQUE,
  source       regclass NOT NULL REFERENCES tick_catalog.source,
  group_id     int4 REFERENCES tick_catalog.capture_group,
  parent       int4,
  parent_keys  int2[],
  owner        oid NOT NULL,
  window_size  interval,
  window_slide interval,
  window_zone  text,
  window_origin timestamptz,
  window_grows bool NOT NULL DEFAULT false,
  key_columns  text[] NOT NULL,
  time_column  text,
  item_columns text[] NOT NULL,
  upsert       text NOT NULL,
  merged       text NOT NULL,
  status       text NOT NULL DEFAULT 'backfill' CHECK (status IN ('backfill', 'live', 'error')),
  last_error   text,
  created_at   timestamptz NOT NULL DEFAULT pg_catalog.now(),
  retention    interval,
  kept_from    timestamptz,
  seeded_to    timestamptz,
  item_from    timestamptz[],
  live         regclass,
  finish       text NOT NULL,
  filling      int4 NOT NULL DEFAULT 0,
  value_columns text[],
  channel      text NOT NULL DEFAULT 'tick_' OPERATOR(pg_catalog.||) pg_catalog.replace(pg_catalog.gen_random_uuid()::text, '-', '')
);
COMMENT ON COLUMN tick_catalog.rollup.parent IS 'the rollup whose view its query reads: `source` is what that one, or the first of them, reads, and there is no group';
COMMENT ON COLUMN tick_catalog.rollup.window_grows IS 'windows of window_size grow by steps of window_slide, rather than slide by it';
COMMENT ON COLUMN tick_catalog.rollup.parent_keys IS 'by key: the position of the same among the keys of the parent, -1 = it is none of them';
COMMENT ON COLUMN tick_catalog.rollup.value_columns IS 'columns of the state table that the query itself computes, in the order of its outputs; NULL: all are merged';
COMMENT ON COLUMN tick_catalog.rollup.item_from IS 'items that were added: windows that start before have none; NULL: all have';
COMMENT ON COLUMN tick_catalog.rollup.filling IS 'so many of the last items are still to be computed, in windows that are pending';
COMMENT ON COLUMN tick_catalog.rollup.kept_from IS 'windows that start before were dropped by retention, for good';
COMMENT ON COLUMN tick_catalog.rollup.seeded_to IS 'windows that start before were given by tick.seed: the source does not tell of them';
COMMENT ON COLUMN tick_catalog.rollup.channel IS 'of its notifications: anybody may listen to a channel whose name he knows';
COMMENT ON COLUMN tick_catalog.rollup.upsert IS 'parameters: an array per key, window and partial, of stale and of the revision of new rows, then the time of the turn and the watermark before it. With a parent: what makes windows anew (pg/follow.cpp)';
COMMENT ON COLUMN tick_catalog.rollup.merged IS 'the query''s own columns from the states and what is not merged yet';
COMMENT ON COLUMN tick_catalog.rollup.item_columns IS 'columns of the state table that hold partials, in the order of its items';

-- Which item of a program each item of a rollup is.
CREATE TABLE tick_catalog.rollup_program (
  rollup  int4 NOT NULL REFERENCES tick_catalog.rollup ON DELETE CASCADE,
  program int8 NOT NULL REFERENCES tick_catalog.program ON DELETE CASCADE,
  items   int2[] NOT NULL,
  PRIMARY KEY (rollup, program)
);

-- Window starts [lo, hi), microseconds since 2000-01-01, still to be recomputed. Deltas for windows that have
-- never been computed (fresh) are ignored: the recompute will see those rows. While a helper process scans them
-- (scan), they are merged, and so is what it finds in the snapshot of the turn that started it.
CREATE TABLE tick_catalog.pending (
  rollup  int4 NOT NULL REFERENCES tick_catalog.rollup ON DELETE CASCADE,
  lo      int8 NOT NULL,
  hi      int8 NOT NULL,
  fresh   bool NOT NULL,
  scan    int8,
  replace bool NOT NULL DEFAULT false,
  missed  bool NOT NULL DEFAULT false,
  marked  bool NOT NULL DEFAULT false,
  PRIMARY KEY (rollup, lo, hi, fresh)
);
COMMENT ON COLUMN tick_catalog.pending.missed IS 'rows came while the rollup was set aside: its state does not know of them';
COMMENT ON COLUMN tick_catalog.pending.replace IS 'asked for: counts may fall to what the source holds';

-- The partitions that a source's rows are in, default partitions excepted, with the times [lo, hi) they may have.
CREATE TABLE tick_catalog.leaf (
  source regclass NOT NULL REFERENCES tick_catalog.source ON DELETE CASCADE,
  leaf   regclass NOT NULL,
  lo     timestamptz,
  hi     timestamptz,
  PRIMARY KEY (source, leaf)
);

-- Windows with rows that may show what has left: their source no longer holds what a recompute would need.
CREATE TABLE tick_catalog.stale (
  rollup int4 NOT NULL REFERENCES tick_catalog.rollup ON DELETE CASCADE,
  ts     timestamptz,
  UNIQUE NULLS NOT DISTINCT (rollup, ts)
);
COMMENT ON COLUMN tick_catalog.stale.ts IS 'start of the window; NULL: a rollup without window';

-- What a scan has found, in pieces that the worker merges and deletes, newest windows first. All pieces of a scan
-- commit together, at least one.
CREATE UNLOGGED TABLE tick_catalog.backfill (
  scan    int8 NOT NULL,
  newest  int8 NOT NULL,
  number  int4 NOT NULL,
  payload bytea NOT NULL,
  PRIMARY KEY (scan, newest, number)
);
ALTER TABLE tick_catalog.backfill ALTER payload SET STORAGE EXTERNAL;

-- Raised by every change of the catalogs above: the worker's caches follow it.
CREATE TABLE tick_catalog.generation (
  id    bool PRIMARY KEY DEFAULT true CHECK (id),
  value int8 NOT NULL
);
INSERT INTO tick_catalog.generation (value) VALUES (1);

CREATE TABLE tick_catalog.watermark (
  source       regclass PRIMARY KEY,
  watermark    timestamptz,
  max_time     timestamptz,
  last_arrival timestamptz,
  rows         int8 NOT NULL DEFAULT 0,
  rate         float8 NOT NULL DEFAULT 0,
  ahead        timestamptz[],
  late         int8 NOT NULL DEFAULT 0,
  future       int8 NOT NULL DEFAULT 0,
  rejected     int8 NOT NULL DEFAULT 0,
  value_names    text[],
  value_times    timestamptz[],
  value_arrivals timestamptz[]
) WITH (fillfactor = 10);
COMMENT ON COLUMN tick_catalog.watermark.ahead IS 'times of rows ahead of the clock: they move the watermark when their time comes';
COMMENT ON COLUMN tick_catalog.watermark.late IS 'rows of panes that had ended before the watermark when they came';
COMMENT ON COLUMN tick_catalog.watermark.future IS 'rows that were further ahead of the clock than max_skew when they came';
COMMENT ON COLUMN tick_catalog.watermark.rejected IS 'rows without a finite time: they are in no window';
COMMENT ON COLUMN tick_catalog.watermark.value_names IS 'values of the column watermark_by, with their newest time and last arrival';

-- What tick.set_watermark has asked for; the next turn does it.
CREATE TABLE tick_catalog.watermark_request (
  source    regclass PRIMARY KEY REFERENCES tick_catalog.source ON DELETE CASCADE,
  watermark timestamptz NOT NULL
);

-- Windows that have rows and are not final yet, by their start in microseconds since 2000-01-01.
CREATE TABLE tick_catalog.open_window (
  rollup int4 NOT NULL REFERENCES tick_catalog.rollup ON DELETE CASCADE,
  start  int8 NOT NULL,
  PRIMARY KEY (rollup, start)
);
-- Likewise, windows of rollups that are recomputed with rows touched since. What came before `since` is in what they show.
CREATE TABLE tick_catalog.touched (rollup int4 NOT NULL REFERENCES tick_catalog.rollup ON DELETE CASCADE,
  start int8 NOT NULL, since timestamptz NOT NULL, PRIMARY KEY (rollup, start));

-- The delta queue: a ring of tables, all read every turn, truncated by the worker alone. What fits a page stays in one row.
CREATE TABLE tick_catalog.queue_0 (xid xid8 NOT NULL, program int8 NOT NULL, payload bytea NOT NULL)
  WITH (autovacuum_enabled = false, toast_tuple_target = 8160);
ALTER TABLE tick_catalog.queue_0 ALTER payload SET STORAGE EXTERNAL, REPLICA IDENTITY FULL;
CREATE INDEX queue_0_xid ON tick_catalog.queue_0 (xid);
CREATE TABLE tick_catalog.queue_1 (xid xid8 NOT NULL, program int8 NOT NULL, payload bytea NOT NULL)
  WITH (autovacuum_enabled = false, toast_tuple_target = 8160);
ALTER TABLE tick_catalog.queue_1 ALTER payload SET STORAGE EXTERNAL, REPLICA IDENTITY FULL;
CREATE INDEX queue_1_xid ON tick_catalog.queue_1 (xid);
CREATE TABLE tick_catalog.queue_2 (xid xid8 NOT NULL, program int8 NOT NULL, payload bytea NOT NULL)
  WITH (autovacuum_enabled = false, toast_tuple_target = 8160);
ALTER TABLE tick_catalog.queue_2 ALTER payload SET STORAGE EXTERNAL, REPLICA IDENTITY FULL;
CREATE INDEX queue_2_xid ON tick_catalog.queue_2 (xid);

-- What turns have done, for tick.changes: kind c = rows of windows [lo, hi) have changed (those updated_at `turn`),
-- f = the window lo has become final, g = the row with this key has gone from the window lo. Never dumped.
CREATE TABLE tick_catalog.change_0 (
  xid    int8 NOT NULL,
  rollup int4 NOT NULL,
  turn   timestamptz NOT NULL,
  lo     timestamptz NOT NULL,
  hi     timestamptz NOT NULL,
  kind   "char" NOT NULL,
  key    jsonb
) WITH (autovacuum_enabled = false);
CREATE INDEX change_0_xid ON tick_catalog.change_0 (xid);
CREATE TABLE tick_catalog.change_1 (LIKE tick_catalog.change_0) WITH (autovacuum_enabled = false);
CREATE INDEX change_1_xid ON tick_catalog.change_1 (xid);
CREATE TABLE tick_catalog.change_log (
  id        bool PRIMARY KEY DEFAULT true CHECK (id),
  current   int4 NOT NULL,
  kept_from int8 NOT NULL
);
COMMENT ON COLUMN tick_catalog.change_log.kept_from IS 'tokens after this one are all in the log';
INSERT INTO tick_catalog.change_log (current, kept_from) VALUES (0, pg_catalog.pg_current_xact_id()::text::int8);
CREATE TABLE tick_catalog.change_from (
  rollup int4 PRIMARY KEY,
  token  int8 NOT NULL
);
COMMENT ON TABLE tick_catalog.change_from IS 'tokens of a rollup that can be gone on from begin here; rollup 0: of each';
INSERT INTO tick_catalog.change_from VALUES (0, pg_catalog.pg_current_xact_id()::text::int8);

-- Rollups with a history: where versions of final rows are, and since when all of them. finality: their watermark from `at` on.
CREATE TABLE tick_catalog.history (rollup int4 PRIMARY KEY REFERENCES tick_catalog.rollup ON DELETE CASCADE,
  length interval NOT NULL, versions_table regclass NOT NULL, versions regclass NOT NULL, since timestamptz NOT NULL);
CREATE TABLE tick_catalog.finality (rollup int4 NOT NULL REFERENCES tick_catalog.rollup ON DELETE CASCADE,
  at timestamptz NOT NULL, watermark timestamptz NOT NULL);
CREATE INDEX finality_at ON tick_catalog.finality (rollup, at);

-- Deltas that could not be read, kept for people; their rollups were set aside.
CREATE TABLE tick_catalog.held (
  held_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
  program int8 NOT NULL,
  payload bytea NOT NULL,
  reason  text NOT NULL
);

-- Rows that a rollup has not taken in: of frozen windows, with keys too wide for an index, without a time.
CREATE TABLE tick_catalog.late (
  rollup  int4 NOT NULL REFERENCES tick_catalog.rollup ON DELETE CASCADE,
  reason  text NOT NULL,
  ts      timestamptz,
  key     jsonb NOT NULL,
  rows    int8 NOT NULL,
  since   timestamptz NOT NULL,
  partial bytea NOT NULL
);
CREATE INDEX late_rollup ON tick_catalog.late (rollup, ts);

CREATE TABLE tick_catalog.feed (
  feed       text NOT NULL,
  connection text NOT NULL,
  position   jsonb NOT NULL,
  updated_at timestamptz NOT NULL,
  owner      oid NOT NULL,
  role       name NOT NULL,
  epoch      uuid NOT NULL,
  PRIMARY KEY (feed, connection)
);
COMMENT ON COLUMN tick_catalog.feed.role IS 'the owner''s name: what counts if the row has come out of a dump, that is if epoch is not the frontier''s';
CREATE FUNCTION tick_catalog.feed_owner(tick_catalog.feed) RETURNS oid LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
  AS 'SELECT CASE WHEN f.epoch = $1.epoch THEN $1.owner ELSE coalesce(r.oid, e.extowner) END FROM tick_catalog.frontier AS f
      JOIN pg_extension AS e ON e.extname = ''pg_tick'' LEFT JOIN pg_roles AS r ON r.rolname = $1.role';
REVOKE ALL ON FUNCTION tick_catalog.feed_owner(tick_catalog.feed) FROM PUBLIC;

-- ---------------------------------------------------------------------------------------------------------
-- The engine: capture in the writer, merge in the worker
-- ---------------------------------------------------------------------------------------------------------

CREATE FUNCTION tick_catalog.capture() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'tick_capture';
CREATE FUNCTION tick_catalog.dedup() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'tick_dedup';
CREATE FUNCTION tick_catalog.flush() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'tick_flush';
CREATE FUNCTION tick_catalog.refuse_truncate() RETURNS trigger
  LANGUAGE c AS 'MODULE_PATHNAME', 'tick_refuse_truncate';

-- What a subscription replays must not reach the engine's own tables: this cluster makes its own deltas and states.
CREATE FUNCTION tick_catalog.ignore_replica() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'tick_ignore_replica';
-- capture() and dedup() are cloned to partitions, for which their owner needs the right to call them; they look for
-- themselves whose trigger they are.
REVOKE ALL ON FUNCTION tick_catalog.flush(), tick_catalog.refuse_truncate(),
  tick_catalog.ignore_replica() FROM PUBLIC;
CREATE FUNCTION tick_catalog.refuse_replica(catalog pg_catalog.regclass) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  EXECUTE format('CREATE TRIGGER tick_replica BEFORE INSERT OR UPDATE OR DELETE ON %s
    FOR EACH ROW EXECUTE FUNCTION tick_catalog.ignore_replica()', catalog);
  EXECUTE format('CREATE TRIGGER tick_replica_truncate BEFORE TRUNCATE ON %s
    FOR EACH STATEMENT EXECUTE FUNCTION tick_catalog.ignore_replica()', catalog);
  EXECUTE format('ALTER TABLE %s ENABLE REPLICA TRIGGER tick_replica, ENABLE REPLICA TRIGGER tick_replica_truncate', catalog);
END $$;
REVOKE ALL ON FUNCTION tick_catalog.refuse_replica(pg_catalog.regclass) FROM PUBLIC;

-- Only the worker writes a state table; emptied by its owner it is computed again.
CREATE FUNCTION tick_catalog.guard_state() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'tick_guard_state';
CREATE FUNCTION tick_catalog.keep_version() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'tick_keep_version';
CREATE FUNCTION tick_catalog.guard_table(state pg_catalog.regclass, definition name) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  -- The argument tells tick.resume which definition is this table's when a dump has brought the schema alone.
  EXECUTE format('CREATE TRIGGER tick_guard BEFORE INSERT OR UPDATE OR DELETE ON %s
    FOR EACH STATEMENT EXECUTE FUNCTION tick_catalog.guard_state(%L)', state, definition);
  EXECUTE format('CREATE TRIGGER tick_rebuild AFTER TRUNCATE ON %s
    FOR EACH STATEMENT EXECUTE FUNCTION tick_catalog.guard_state()', state);
END $$;
REVOKE ALL ON FUNCTION tick_catalog.guard_state(), tick_catalog.keep_version(), tick_catalog.guard_table(pg_catalog.regclass, name) FROM PUBLIC;

-- A source that comes out of a dump: nothing of it is merged before the session that brings it has ended.
CREATE FUNCTION tick_catalog.loading() RETURNS void LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'tick_loading';
CREATE FUNCTION tick_catalog.on_load() RETURNS trigger
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  NEW.triggered := EXISTS (SELECT FROM pg_trigger AS g WHERE g.tgrelid = NEW.relid AND g.tgname ~ '^zz_tick_(insert|dedup)$');
  UPDATE tick_catalog.generation SET value = value + 1;
  PERFORM tick_catalog.loading();
  RETURN NEW;
END $$;
REVOKE ALL ON FUNCTION tick_catalog.loading(), tick_catalog.on_load() FROM PUBLIC;
CREATE FUNCTION tick_catalog.is_dumped(epoch uuid) RETURNS bool LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
  AS 'SELECT $1 IS DISTINCT FROM f.epoch FROM tick_catalog.frontier AS f';
REVOKE ALL ON FUNCTION tick_catalog.is_dumped(uuid) FROM PUBLIC;
CREATE TRIGGER tick_load BEFORE INSERT ON tick_catalog.source FOR EACH ROW
  WHEN (tick_catalog.is_dumped(NEW.epoch)) EXECUTE FUNCTION tick_catalog.on_load();

CREATE FUNCTION tick_catalog.unmerged(rollup int4) RETURNS SETOF record
  LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'tick_unmerged';
COMMENT ON FUNCTION tick_catalog.unmerged(int4) IS
  'rows of the state table that committed deltas will add, as the calling query sees them';

CREATE FUNCTION tick_catalog.worker_counters(
    OUT worker int4, OUT waiting_since timestamptz, OUT last_lag_ms float8, OUT turns int8,
    OUT started_at timestamptz, OUT held_ms float8)
  RETURNS record LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'tick_worker_counters';

CREATE FUNCTION tick_catalog.scan_progress(
    OUT rollup int4, OUT "from" timestamptz, OUT "to" timestamptz, OUT rows int8, OUT rows_expected int8,
    OUT rows_per_second float8, OUT started_at timestamptz)
  RETURNS SETOF record LANGUAGE c VOLATILE ROWS 1 AS 'MODULE_PATHNAME', 'tick_scan_progress';
COMMENT ON FUNCTION tick_catalog.scan_progress() IS 'the scan of a rollup''s history that a helper process runs now, if any';

CREATE FUNCTION tick_catalog.wake() RETURNS void LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'tick_wake';
REVOKE ALL ON FUNCTION tick_catalog.wake() FROM PUBLIC;

CREATE FUNCTION tick.wait(name regclass, timeout interval DEFAULT '30 seconds') RETURNS bool
  LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'tick_wait';
COMMENT ON FUNCTION tick.wait(regclass, interval) IS
  'waits until everything committed before the call is in the rollup (NULL: in all of them); false after the timeout';

CREATE FUNCTION tick_catalog.present_rate(rate float8, last_arrival timestamptz) RETURNS float8
  LANGUAGE sql VOLATILE AS $$
  SELECT coalesce($1 * pg_catalog.exp(-least(extract(epoch FROM pg_catalog.clock_timestamp() - $2), 3000)::float8 / 5), 0) $$;
COMMENT ON FUNCTION tick_catalog.present_rate(float8, timestamptz) IS 'rows a second, as it has decayed since the last arrival';

-- LIMIT 1 tells the planner what the primary key does not: how many rows there are. Without it the view would look dear
-- enough to be compiled, for seconds.
CREATE VIEW tick.status AS
  SELECT r.view::pg_catalog.regclass AS rollup,
         coalesce((SELECT p.view FROM tick_catalog.rollup p WHERE p.id = r.parent), r.source)::pg_catalog.regclass AS source,
         CASE WHEN r.status <> 'error' AND o.epoch <> f.epoch THEN 'restored'
              WHEN r.status = 'live' AND (d.since IS NOT NULL OR EXISTS (SELECT FROM tick_catalog.pending p WHERE p.rollup = r.id))
              THEN 'recompute' ELSE r.status END AS state,
         tick_catalog.present_rate(w.rate, w.last_arrival) AS rows_per_second,
         (SELECT count(*) FROM (SELECT snapshot FROM tick_catalog.frontier LIMIT 1) f,
            (SELECT xid FROM tick_catalog.queue_0 UNION ALL SELECT xid FROM tick_catalog.queue_1
             UNION ALL SELECT xid FROM tick_catalog.queue_2) q
          WHERE q.xid >= pg_catalog.pg_snapshot_xmin(f.snapshot)
            AND NOT pg_catalog.pg_visible_in_snapshot(q.xid, f.snapshot)) AS pending_deltas,
         coalesce(extract(epoch FROM clock_timestamp() - least(c.waiting_since, d.since))::float8 * 1000, c.last_lag_ms) AS lag_ms,
         r.last_error,
         CASE WHEN r.parent IS NOT NULL THEN 'follow' WHEN r.value_columns IS NULL THEN 'merge' ELSE 'recompute' END AS strategy,
         (SELECT count(*) FROM tick_catalog.stale t WHERE t.rollup = r.id) AS stale
  FROM tick_catalog.rollup r
  JOIN tick_catalog.source o ON o.relid = r.source
  CROSS JOIN (SELECT epoch FROM tick_catalog.frontier LIMIT 1) f
  LEFT JOIN tick_catalog.watermark w ON w.source = r.source
  CROSS JOIN tick_catalog.worker_counters() c
  LEFT JOIN LATERAL (SELECT min(t.since) AS since FROM tick_catalog.touched t WHERE t.rollup = r.id) d ON true
  WHERE pg_catalog.has_table_privilege(r.view, 'SELECT');
COMMENT ON VIEW tick.status IS 'one row a rollup: how far it is, and what is wrong with it';
GRANT SELECT ON tick.status TO PUBLIC;
GRANT SELECT ON tick_catalog.watermark TO PUBLIC;

CREATE VIEW tick.stale AS
  SELECT r.view::pg_catalog.regclass AS rollup, t.ts
  FROM tick_catalog.stale t JOIN tick_catalog.rollup r ON r.id = t.rollup
  WHERE pg_catalog.has_table_privilege(r.view, 'SELECT');
COMMENT ON VIEW tick.stale IS 'windows in which a value may have left that cannot be recomputed: the rows it needs were retired';
GRANT SELECT ON tick.stale TO PUBLIC;

CREATE VIEW tick.late AS
  SELECT r.view::pg_catalog.regclass AS rollup, l.key, l.ts, l.rows, l.reason, l.since
  FROM tick_catalog.late l JOIN tick_catalog.rollup r ON r.id = l.rollup
  WHERE pg_catalog.has_table_privilege(r.view, 'SELECT');
COMMENT ON VIEW tick.late IS
  'rows that a rollup has not taken in, by key and window: of frozen windows, with too wide keys, without a time';
GRANT SELECT ON tick.late TO PUBLIC;

CREATE FUNCTION tick.channel(name regclass) RETURNS text
  LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'tick_channel';
COMMENT ON FUNCTION tick.channel(regclass) IS 'the channel to LISTEN to for changes of a rollup, known to who may read it';

CREATE FUNCTION tick.resume(name regclass) RETURNS void
  LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'tick_resume';
COMMENT ON FUNCTION tick.resume(regclass) IS
  'recomputes a rollup that was set aside after an error, or of which a dump has brought the schema alone';

CREATE FUNCTION tick.feed(feed text, connection text, "position" jsonb) RETURNS void
  LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'tick_feed';
COMMENT ON FUNCTION tick.feed(text, text, jsonb) IS
  'remembers how far a feed has been read; commits with the rows written by the same transaction';

CREATE FUNCTION tick.position(feed text, connection text) RETURNS jsonb
  LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'tick_position';
COMMENT ON FUNCTION tick.position(text, text) IS 'how far a feed has been read, NULL if it is not known';

CREATE VIEW tick.feeds AS SELECT feed, connection, position, updated_at FROM tick_catalog.feed;
COMMENT ON VIEW tick.feeds IS 'how far each feed has been read';

-- What feeds sent that cannot be a tick: of each role the newest 10,000, and some more until they are counted next.
CREATE TABLE tick_catalog.rejected (
  id          int8 GENERATED ALWAYS AS IDENTITY,
  owner       oid NOT NULL,
  feed        text NOT NULL,
  received_at timestamptz NOT NULL,
  reason      text NOT NULL,
  payload     text
);
CREATE INDEX ON tick_catalog.rejected (owner, id);
COMMENT ON TABLE tick_catalog.rejected IS 'messages that could not be written, by tick.reject';

CREATE FUNCTION tick.reject(feed text, reason text, payload text) RETURNS void
  LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  -- The caller: inside this function current_user is the extension's owner.
  who oid := coalesce((SELECT oid FROM pg_roles WHERE rolname = nullif(current_setting('role'), 'none')),
                      session_user::regrole);
  now_id int8;
BEGIN
  IF feed IS NULL OR reason IS NULL THEN
    RAISE EXCEPTION 'feed and reason of a rejected message must not be null' USING ERRCODE = 'null_value_not_allowed';
  END IF;
  INSERT INTO tick_catalog.rejected (owner, feed, received_at, reason, payload)
    VALUES (who, left(feed, 200), clock_timestamp(), left(reason, 200), left(payload, 4000)) RETURNING id INTO now_id;
  IF now_id % 100 = 0 THEN
    DELETE FROM tick_catalog.rejected WHERE owner = who AND id <
      (SELECT r.id FROM tick_catalog.rejected r WHERE r.owner = who ORDER BY r.id DESC OFFSET 9999 LIMIT 1);
  END IF;
END $$;
COMMENT ON FUNCTION tick.reject(text, text, text) IS 'remembers a message of a feed that cannot be a tick; see tick.rejected';

CREATE VIEW tick.rejected AS
  SELECT feed, received_at, reason, payload FROM tick_catalog.rejected WHERE pg_catalog.pg_has_role(owner, 'MEMBER');
COMMENT ON VIEW tick.rejected IS 'messages of one''s own feeds that could not be a tick';

-- ---------------------------------------------------------------------------------------------------------
-- Definitions.
-- ---------------------------------------------------------------------------------------------------------

CREATE FUNCTION tick.create_rollup(name text, query text DEFAULT NULL, retention interval DEFAULT NULL, like_rollup regclass DEFAULT NULL,
  size interval DEFAULT NULL, history interval DEFAULT NULL) RETURNS regclass
  LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tick_create_rollup';
COMMENT ON FUNCTION tick.create_rollup(text, text, interval, regclass, interval, interval)
  IS 'makes a view that always equals a GROUP BY query over a table, or the query of another rollup with windows of another size';
CREATE FUNCTION tick.alter_rollup(name regclass, retention interval DEFAULT NULL, add text DEFAULT NULL, reset text[] DEFAULT NULL,
  history interval DEFAULT NULL) RETURNS void
  LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tick_alter_rollup';
COMMENT ON FUNCTION tick.alter_rollup(regclass, interval, text, text[], interval)
  IS 'changes how long windows and versions of final rows are kept (reset: for ever, and none); adds output columns, written as in a SELECT list';
CREATE FUNCTION tick.drop_rollup(name regclass) RETURNS void
  LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tick_drop_rollup';
COMMENT ON FUNCTION tick.drop_rollup(regclass) IS 'drops a rollup with its state';
CREATE FUNCTION tick.add_source(
    source regclass, watermark_delay interval DEFAULT NULL, idle_timeout interval DEFAULT NULL,
    max_skew interval DEFAULT NULL, watermark_by text DEFAULT NULL, freeze_after interval DEFAULT NULL,
    dedup_key text[] DEFAULT NULL, dedup_id text DEFAULT NULL, dedup_group text DEFAULT NULL,
    retention interval DEFAULT NULL, partition_size interval DEFAULT NULL, partitions_ahead int4 DEFAULT NULL)
  RETURNS void LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tick_add_source';
COMMENT ON FUNCTION tick.add_source(regclass, interval, interval, interval, text, interval, text[], text, text, interval, interval, int4)
  IS 'declares a table a source of rollups, with the settings given; NULL leaves a setting as it is';
CREATE FUNCTION tick.alter_source(
    source regclass, watermark_delay interval DEFAULT NULL, idle_timeout interval DEFAULT NULL,
    max_skew interval DEFAULT NULL, watermark_by text DEFAULT NULL, freeze_after interval DEFAULT NULL,
    dedup_key text[] DEFAULT NULL, dedup_id text DEFAULT NULL, dedup_group text DEFAULT NULL,
    retention interval DEFAULT NULL, partition_size interval DEFAULT NULL, partitions_ahead int4 DEFAULT NULL,
    reset text[] DEFAULT NULL)
  RETURNS void LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tick_alter_source';
COMMENT ON FUNCTION tick.alter_source(regclass, interval, interval, interval, text, interval, text[], text, text, interval, interval, int4, text[])
  IS 'changes the settings given; reset puts those it names back to their defaults';
CREATE FUNCTION tick.drop_source(source regclass) RETURNS void
  LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tick_drop_source';
COMMENT ON FUNCTION tick.drop_source(regclass) IS 'takes a declaration back; the source goes with its last rollup';
CREATE FUNCTION tick.watermark(source regclass) RETURNS timestamptz
  LANGUAGE sql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
  AS 'SELECT w.watermark FROM tick_catalog.watermark AS w WHERE w.source = $1';
COMMENT ON FUNCTION tick.watermark(regclass) IS 'event time up to which the windows of a source are final; NULL = none yet';
CREATE FUNCTION tick.set_watermark(source regclass, watermark timestamptz) RETURNS void
  LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tick_set_watermark';
COMMENT ON FUNCTION tick.set_watermark(regclass, timestamptz)
  IS 'moves a watermark, also back: the next turn does it, and rows move it on from there';

CREATE FUNCTION tick.ingest(target regclass, batch bytea, OUT inserted int8, OUT duplicates int8) RETURNS record
  LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tick_ingest';
COMMENT ON FUNCTION tick.ingest(regclass, bytea)
  IS 'inserts the rows of a column-wise batch, as COPY would but faster; feature_not_supported: use COPY for this table';

CREATE FUNCTION tick.purge(source regclass, before timestamptz) RETURNS int8
  LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tick_purge';
COMMENT ON FUNCTION tick.purge(regclass, timestamptz) IS 'deletes rows before a time from a source, and leaves their candles as they are';
CREATE FUNCTION tick.refresh(name regclass, "from" timestamptz DEFAULT NULL, "to" timestamptz DEFAULT NULL) RETURNS void
  LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tick_refresh';
COMMENT ON FUNCTION tick.refresh(regclass, timestamptz, timestamptz)
  IS 'has windows recomputed: they become what the source holds, also if that is less';
CREATE FUNCTION tick.reset(source regclass) RETURNS void
  LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tick_reset';
COMMENT ON FUNCTION tick.reset(regclass) IS 'empties a source: its rows, candles, ids and watermark start anew';

CREATE FUNCTION tick_catalog.on_drop() RETURNS event_trigger
  LANGUAGE C AS 'MODULE_PATHNAME', 'tick_on_drop';
CREATE EVENT TRIGGER tick_drop ON sql_drop EXECUTE FUNCTION tick_catalog.on_drop();

-- A table and its partitions, as pg_partition_tree, which would lock these before anybody has locked the table.
CREATE FUNCTION tick_catalog.tree(source oid) RETURNS SETOF oid LANGUAGE sql STABLE BEGIN ATOMIC
  WITH RECURSIVE t (relid) AS (SELECT $1 UNION ALL SELECT i.inhrelid FROM t JOIN pg_catalog.pg_inherits AS i ON i.inhparent = t.relid
    JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid AND c.relispartition) SELECT t.relid FROM t;
END;
REVOKE ALL ON FUNCTION tick_catalog.tree(oid) FROM PUBLIC;

-- Sources and leaves that do not carry all triggers of the capture, ENABLE ALWAYS.
CREATE VIEW tick_catalog.own_trigger AS
  SELECT g.tgrelid, g.tgname, g.tgtype, g.tgfoid, pg_catalog.encode(g.tgargs, 'escape') AS arguments FROM pg_catalog.pg_trigger g
  WHERE g.tgenabled = 'A' AND g.tgqual IS NULL AND g.tgattr::text = '';
COMMENT ON VIEW tick_catalog.own_trigger IS 'triggers that always fire, for every row and column';
CREATE VIEW tick_catalog.unguarded AS
  SELECT source, leaf, captured FROM (
    SELECT s.relid AS source, t.leaf,
           (SELECT count(*) FROM tick_catalog.own_trigger g
            WHERE g.tgrelid = t.leaf AND g.tgfoid = 'tick_catalog.capture()'::pg_catalog.regprocedure
              AND (g.tgname, g.tgtype) IN (('zz_tick_insert', 5), ('zz_tick_delete', 9), ('zz_tick_update', 17))
              AND g.arguments = (SELECT string_agg(i.id || E'\\000', '' ORDER BY i.id) FROM (
                SELECT p.id FROM tick_catalog.program p WHERE p.source = s.relid AND p.current
                UNION ALL SELECT -d.id FROM tick_catalog.dedup d WHERE d.source = s.relid) i)) = 3
           AND (EXISTS (SELECT FROM tick_catalog.own_trigger g JOIN tick_catalog.dedup d ON d.source = s.relid
                        WHERE g.tgrelid = t.leaf AND g.tgname = 'zz_tick_dedup' AND g.tgtype = 15
                          AND g.tgfoid = 'tick_catalog.dedup()'::pg_catalog.regprocedure AND g.arguments = d.id || E'\\000')
                OR NOT EXISTS (SELECT FROM tick_catalog.dedup d WHERE d.source = s.relid))
           AND (t.leaf <> s.relid OR EXISTS (
                  SELECT FROM tick_catalog.own_trigger g WHERE g.tgrelid = t.leaf AND g.tgname = 'zz_tick_flush'
                    AND g.tgtype = 28 AND g.tgfoid = 'tick_catalog.flush()'::pg_catalog.regprocedure)) AS captured,
           EXISTS (SELECT FROM tick_catalog.own_trigger g WHERE g.tgrelid = t.leaf AND g.tgname = 'zz_tick_truncate'
                     AND g.tgtype = 34 AND g.tgfoid = 'tick_catalog.refuse_truncate()'::pg_catalog.regprocedure) AS kept
    FROM tick_catalog.source s JOIN pg_catalog.pg_class c ON c.oid = s.relid
    CROSS JOIN LATERAL tick_catalog.tree(s.relid) AS t (leaf)
    WHERE s.epoch = tick_catalog.epoch()
      AND (EXISTS (SELECT FROM tick_catalog.program p WHERE p.source = s.relid AND p.current)
           OR EXISTS (SELECT FROM tick_catalog.dedup d WHERE d.source = s.relid))) u
  WHERE NOT captured OR NOT kept;

CREATE FUNCTION tick_catalog.on_alter() RETURNS event_trigger
  LANGUAGE C AS 'MODULE_PATHNAME', 'tick_on_alter';
CREATE EVENT TRIGGER tick_alter ON ddl_command_end
  WHEN TAG IN ('ALTER TABLE', 'CREATE TABLE', 'CREATE TRIGGER', 'ALTER TRIGGER', 'CREATE FOREIGN TABLE',
               'ALTER FOREIGN TABLE', 'CREATE SCHEMA') EXECUTE FUNCTION tick_catalog.on_alter();
ALTER EVENT TRIGGER tick_alter ENABLE ALWAYS;
ALTER EVENT TRIGGER tick_drop ENABLE ALWAYS;

CREATE FUNCTION tick_catalog.on_rename() RETURNS event_trigger
  LANGUAGE C AS 'MODULE_PATHNAME', 'tick_on_rename';
CREATE EVENT TRIGGER tick_rename ON ddl_command_end
  WHEN TAG IN ('ALTER TABLE', 'ALTER VIEW', 'ALTER SCHEMA', 'ALTER TYPE', 'ALTER DOMAIN', 'ALTER FUNCTION', 'ALTER ROUTINE',
               'ALTER OPERATOR', 'ALTER COLLATION', 'ALTER AGGREGATE', 'GRANT', 'REVOKE')
  EXECUTE FUNCTION tick_catalog.on_rename();
ALTER EVENT TRIGGER tick_rename ENABLE ALWAYS;

CREATE FUNCTION tick_catalog.differs(float8, float8, tolerance float8) RETURNS bool
  LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'tick_differs';
CREATE FUNCTION tick.verify(name regclass, "from" timestamptz DEFAULT NULL, "to" timestamptz DEFAULT NULL,
                            tolerance float8 DEFAULT 1e-9)
  RETURNS TABLE (key jsonb, ts timestamptz, "column" text, stored text, expected text)
  LANGUAGE C STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'tick_verify';
COMMENT ON FUNCTION tick.verify(regclass, timestamptz, timestamptz, float8)
  IS 'what differs between a rollup and its defining query; no rows = exact';

-- A function that a definition calls was replaced: what has been folded with the old one is computed again, when nobody folds any more.
CREATE FUNCTION tick_catalog.lock_out_writers(sources oid[]) RETURNS void LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'tick_lock_out_writers';
CREATE FUNCTION tick_catalog.on_function() RETURNS event_trigger
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  callers int[] := ARRAY(WITH RECURSIVE changed AS (  -- with operators, aggregates and functions that are made of them
      SELECT c.classid, c.objid FROM pg_event_trigger_ddl_commands() c WHERE c.classid = 'pg_proc'::regclass UNION
      SELECT d.classid, d.objid FROM changed c JOIN pg_depend d ON d.refclassid = c.classid AND d.refobjid = c.objid
      WHERE d.classid IN ('pg_proc'::regclass, 'pg_operator'::regclass))
    SELECT DISTINCT r.id FROM changed c JOIN pg_depend d ON d.refclassid = c.classid AND d.refobjid = c.objid AND d.classid = 'pg_rewrite'::regclass
      JOIN pg_rewrite w ON w.oid = d.objid JOIN tick_catalog.rollup r ON r.definition = w.ev_class WHERE r.status <> 'error');
BEGIN
  IF callers = '{}' THEN RETURN; END IF;
  PERFORM tick_catalog.lock_out_writers(ARRAY(SELECT DISTINCT r.source::oid FROM tick_catalog.rollup r WHERE r.id = ANY (callers)));
  INSERT INTO tick_catalog.pending (rollup, lo, hi, fresh, replace)
    SELECT id, (-9223372036854775808)::int8, 9223372036854775807, false, true FROM unnest(callers) AS id
    ON CONFLICT (rollup, lo, hi, fresh) DO UPDATE SET replace = true;
  UPDATE tick_catalog.generation SET value = value + 1;
  PERFORM tick_catalog.wake();
END $$;
REVOKE ALL ON FUNCTION tick_catalog.on_function(), tick_catalog.lock_out_writers(oid[]) FROM PUBLIC;
CREATE EVENT TRIGGER tick_function ON ddl_command_end WHEN TAG IN ('CREATE FUNCTION', 'ALTER FUNCTION', 'ALTER ROUTINE',
  'CREATE AGGREGATE', 'ALTER AGGREGATE') EXECUTE FUNCTION tick_catalog.on_function();
ALTER EVENT TRIGGER tick_function ENABLE ALWAYS;

-- ---------------------------------------------------------------------------------------------------------
-- What the engine tells about itself. Everybody sees what he may read.
-- ---------------------------------------------------------------------------------------------------------

CREATE FUNCTION tick_catalog.turns(OUT started timestamptz, OUT ms float8, OUT deltas int8, OUT rows int8)
  RETURNS SETOF record LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'tick_turns';
CREATE FUNCTION tick_catalog.partitions(source oid, OUT partition oid, OUT lo timestamptz, OUT hi timestamptz, OUT attic bool)
  RETURNS SETOF record LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'tick_partitions';

CREATE VIEW tick.rollups AS
  SELECT r.view::pg_catalog.regclass AS rollup,
         coalesce((SELECT p.view FROM tick_catalog.rollup p WHERE p.id = r.parent), r.source)::pg_catalog.regclass AS source,
         pg_catalog.pg_get_viewdef(r.definition) AS query,
         r.owner::pg_catalog.regrole AS owner,
         r.window_size,
         r.key_columns AS keys,
         r.group_id,
         CASE WHEN r.window_size IS NOT NULL THEN
           (SELECT pg_catalog.make_interval(secs => p.pane / 1e6) FROM tick_catalog.program p
            WHERE p.group_id = r.group_id AND p.current) END AS pane,
         t.strategy,
         t.state,
         (SELECT count(*) FROM tick_catalog.pending p WHERE p.rollup = r.id) AS pending_ranges,
         r.retention, r.kept_from, r.seeded_to, (SELECT h.length FROM tick_catalog.history h WHERE h.rollup = r.id) AS history,
         r.created_at, t.stale, g.rows AS rows_done, g.rows_expected, g.rows_per_second,
         pg_catalog.make_interval(secs => greatest(g.rows_expected - g.rows, 0) / nullif(g.rows_per_second, 0)) AS remaining
  FROM tick_catalog.rollup r JOIN tick.status t ON t.rollup = r.view
  LEFT JOIN tick_catalog.scan_progress() g ON g.rollup = r.id;
COMMENT ON VIEW tick.rollups IS 'one row a rollup: what it is and how it is kept';

CREATE VIEW tick.sources AS
  SELECT s.relid::pg_catalog.regclass AS source,
         c.relowner::pg_catalog.regrole AS owner,
         (SELECT count(*) FROM tick_catalog.rollup r WHERE r.source = s.relid) AS rollups,
         s.declared, s.watermark_delay, s.idle_timeout, s.max_skew, s.watermark_by, s.freeze_after,
         s.dedup_key, s.dedup_id, s.dedup_group, s.retention, s.partition_size, s.partitions_ahead,
         w.watermark, w.max_time, w.last_arrival, w.rows, w.late, w.future, w.rejected,
         tick_catalog.present_rate(w.rate, w.last_arrival) AS rows_per_second,
         (SELECT d.duplicates FROM tick_catalog.dedup d WHERE d.source = s.relid) AS duplicates, s.raw_from,
         p.count AS partitions, p.lo AS partitions_from, p.hi AS partitions_to, p.attic, s.trouble
  FROM tick_catalog.source s
  JOIN pg_catalog.pg_class c ON c.oid = s.relid
  LEFT JOIN tick_catalog.watermark w ON w.source = s.relid
  CROSS JOIN LATERAL (
    SELECT count(*), min(p.lo) AS lo, max(p.hi) AS hi, max(p.partition) FILTER (WHERE p.attic)::pg_catalog.regclass AS attic
    FROM tick_catalog.partitions(s.relid) p) p
  WHERE pg_catalog.has_table_privilege(s.relid, 'SELECT');
COMMENT ON VIEW tick.sources IS 'one row a source: its settings, and how far it has come';

CREATE VIEW tick.turns AS SELECT started, ms, deltas, rows FROM tick_catalog.turns();
COMMENT ON VIEW tick.turns IS 'the last turns of the worker that changed something';

-- Who holds back the horizon behind which old versions of rows can be removed.
CREATE VIEW tick_catalog.holder AS
  SELECT holder, since FROM (
    SELECT pg_catalog.format('process %s (%s, %s)', a.pid, coalesce(nullif(a.application_name, ''), a.backend_type),
                             coalesce(a.state, 'running')) AS holder,
           a.xact_start AS since,
           greatest(pg_catalog.age(a.backend_xmin), pg_catalog.age(a.backend_xid)) AS age
    FROM pg_catalog.pg_stat_activity a WHERE a.backend_type <> 'pg_tick worker'
    UNION ALL
    SELECT pg_catalog.format('prepared transaction %L', x.gid), x.prepared, pg_catalog.age(x.transaction)
    FROM pg_catalog.pg_prepared_xacts x
    UNION ALL
    SELECT pg_catalog.format('replication slot %I', s.slot_name), NULL, pg_catalog.age(s.xmin)
    FROM pg_catalog.pg_replication_slots s) h
  WHERE age IS NOT NULL ORDER BY age DESC, since LIMIT 1;

CREATE VIEW tick.worker AS
  SELECT c.worker AS pid, c.started_at, c.turns,
         coalesce(t.busy, 0) AS busy, t.last_ms, t.p50_ms, t.p99_ms, t.max_ms, t.deltas, t.rows,
         coalesce(extract(epoch FROM pg_catalog.clock_timestamp() - c.waiting_since)::float8 * 1000, c.last_lag_ms) AS lag_ms,
         pg_catalog.make_interval(secs => c.held_ms / 1000) AS held_for,
         h.holder AS held_by, h.since AS held_since
  FROM tick_catalog.worker_counters() c
  CROSS JOIN LATERAL (
    SELECT sum(ms) FILTER (WHERE recent) / 1000
             / nullif(extract(epoch FROM pg_catalog.clock_timestamp() - min(started) FILTER (WHERE recent))::float8, 0) AS busy,
           (pg_catalog.array_agg(ms ORDER BY started DESC))[1] AS last_ms,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY ms) AS p50_ms,
           percentile_cont(0.99) WITHIN GROUP (ORDER BY ms) AS p99_ms,
           max(ms) AS max_ms, sum(deltas)::int8 AS deltas, sum(rows)::int8 AS rows
    FROM (SELECT *, started > pg_catalog.clock_timestamp() - interval '1 minute' AS recent FROM tick_catalog.turns()) t) t
  LEFT JOIN tick_catalog.holder h ON c.held_ms > 0;
COMMENT ON VIEW tick.worker IS 'the worker of this database: its last turns, and who holds it up';
GRANT SELECT ON tick.rejected, tick.rollups, tick.sources, tick.turns, tick.worker TO PUBLIC;

-- Must stay the last of this script. No catalog takes in what a subscription replays, each can be updated although a
-- publication has it, and all that is not of this epoch or these roles alone is dumped; of the queue, what the states do not hold yet.
-- Parallel restores load catalogs in any order, so references only cascade: that they exist is checked by nobody.
DO $$
DECLARE
  catalog pg_catalog.regclass;
  reference record;
BEGIN
  FOR reference IN SELECT g.tgrelid::pg_catalog.regclass AS catalog, g.tgname FROM pg_catalog.pg_trigger g
    JOIN pg_catalog.pg_constraint c ON c.oid OPERATOR(pg_catalog.=) g.tgconstraint
      AND c.conrelid OPERATOR(pg_catalog.=) g.tgrelid
    JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) g.tgfoid AND p.proname OPERATOR(pg_catalog.~) '^RI_FKey_check_'
    WHERE c.connamespace OPERATOR(pg_catalog.=) 'tick_catalog'::pg_catalog.regnamespace
  LOOP
    EXECUTE pg_catalog.format('ALTER TABLE %s DISABLE TRIGGER %I', reference.catalog, reference.tgname);
  END LOOP;
  FOR catalog IN SELECT c.oid FROM pg_catalog.pg_class c
    WHERE c.relnamespace OPERATOR(pg_catalog.=) 'tick_catalog'::pg_catalog.regnamespace AND c.relkind OPERATOR(pg_catalog.=) 'r'
  LOOP
    PERFORM tick_catalog.refuse_replica(catalog);
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_index i
                   WHERE i.indrelid OPERATOR(pg_catalog.=) catalog::pg_catalog.oid AND i.indisprimary) THEN
      EXECUTE pg_catalog.format('ALTER TABLE %s REPLICA IDENTITY FULL', catalog);
    END IF;
    CONTINUE WHEN catalog::text OPERATOR(pg_catalog.~) '[.](frontier|generation|rejected|change_.+)$';
    PERFORM pg_catalog.pg_extension_config_dump(catalog, CASE WHEN catalog::text OPERATOR(pg_catalog.~) '[.]queue_' THEN
      'WHERE NOT pg_catalog.pg_visible_in_snapshot(xid, (SELECT CASE WHEN program OPERATOR(pg_catalog.<) 0 '
      'THEN coalesce(f.ids, f.snapshot) ELSE f.snapshot END FROM tick_catalog.frontier f))' ELSE '' END);
  END LOOP;
END $$;
