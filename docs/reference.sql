-- Prints docs/reference.md: what CREATE EXTENSION pg_tick gives users, from the catalogs and COMMENT ON alone.
-- `make docs` writes it; a test compares.
\pset format unaligned
\pset tuples_only on
\pset fieldsep ''
\pset recordsep '\n'
\echo '# SQL reference'
\echo
\echo 'Made by `make docs` from the comments in the database (`\\df+ tick.*`, `\\dv+ tick.*`).'
\echo
\echo '## Functions and aggregates'
\echo
SELECT '### `tick.' || p.proname || '(' || regexp_replace(pg_get_function_arguments(p.oid), '::[a-z ]+(\[\])?', '', 'g') || ')`'
    || CASE WHEN p.proretset AND pg_get_function_result(p.oid) LIKE 'TABLE%' THEN '' ELSE ' returns `' || pg_get_function_result(p.oid) || '`' END || E'\n\n'
    || CASE p.prokind WHEN 'a' THEN 'Aggregate. ' WHEN 'p' THEN 'Procedure. ' ELSE '' END || coalesce(obj_description(p.oid, 'pg_proc'), '(no comment)') || '.'
    || CASE WHEN pg_get_function_result(p.oid) LIKE 'TABLE%' THEN E'\n\nColumns: `' || substr(pg_get_function_result(p.oid), 7, length(pg_get_function_result(p.oid)) - 7) || '`' ELSE '' END
    || E'\n'
  FROM pg_proc AS p WHERE p.pronamespace = 'tick'::regnamespace
    AND p.prorettype <> ALL ('{trigger,event_trigger,internal}'::regtype[])
  ORDER BY p.proname, p.pronargs, pg_get_function_identity_arguments(p.oid);
\echo '## Views'
\echo
SELECT '### `tick.' || c.relname || E'`\n\n' || coalesce(obj_description(c.oid, 'pg_class'), '(no comment)') || E'.\n\n'
    || (SELECT string_agg('`' || a.attname || '` ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum)
          FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) || E'\n'
  FROM pg_class AS c WHERE c.relnamespace = 'tick'::regnamespace AND c.relkind IN ('v', 'r', 'p') ORDER BY c.relname;
\echo '## Settings'
\echo
SELECT '* `' || name || '` = ' || coalesce(nullif(reset_val, ''), '''''') || coalesce(' ' || unit, '') || ': ' || short_desc
    || CASE context WHEN 'postmaster' THEN ' (at server start)' WHEN 'sighup' THEN ' (by reload)' ELSE '' END
  FROM pg_settings WHERE name LIKE 'tick.%' ORDER BY name;
