-- Queries of a new connection before it is used.

-- name: durability
-- Behind a pooler a session cannot choose synchronous_commit, so the promise that a 2xx means committed is checked here.
select current_setting('synchronous_commit') as synchronous_commit, current_user as role

-- name: timeline
-- Of a primary, and the identifier that its whole cluster has. A standby that is promoted begins a new timeline, with
-- the next higher number.
select (select system_identifier from pg_control_system()),
       ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint as timeline

-- name: confirm
-- Writes a record to the WAL and commits it. When the commit is acknowledged, everything that was committed before is on
-- disk, and on the synchronous standby if there is one. A transaction that only reads waits for neither.
select pg_logical_emit_message(true, 'offbeat', '')
