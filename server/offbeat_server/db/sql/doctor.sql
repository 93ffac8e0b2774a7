-- Whether a database is fit for Offbeat: asked by `offbeat doctor`, never by the server.

-- name: settings
-- The settings that decide whether a committed ping is on disk, and whether Offbeat can write.
select current_setting('server_version_num')::integer as version, current_setting('server_version') as version_name,
       current_setting('fsync') as fsync, current_setting('synchronous_commit') as synchronous_commit,
       current_setting('full_page_writes') as full_page_writes, pg_is_in_recovery() as standby,
       current_setting('max_connections')::integer as connections_max,
       to_regclass('meta') is not null as ours

-- name: state
-- Only where the schema is there; it may be of any version.
select (select schema_version from meta) as schema_version,
       (select (to_jsonb(m) ->> 'usable_from')::integer from meta m) as usable_from,
       (select count(*)::integer from writers where not fenced) as writers,
       (select holder from lease where name = 'keeper' and expires_at > clock_timestamp()) as scheduler,
       (select count(*)::integer from pg_inherits where inhparent = 'pings'::regclass) as partitions
