-- Which schema a database holds. Offbeat's advisory locks are (20302, n): 1 the schema, 2 the partitions.

-- name: lock_schema
-- Two processes that start at once on an empty database: the second waits, then finds the work done. Ends with the
-- transaction, so it is safe behind a transaction pooler.
select pg_advisory_xact_lock(20302, 1)

-- name: wait_shortly
-- Every statement behind a waiting lock waits too, and pings must not: a migration gives up soon and tries again.
select set_config('lock_timeout', '500ms', true)

-- name: has_meta
-- An empty database has no `meta`; asking for its row instead would abort the transaction.
select to_regclass('meta') is not null

-- name: schema_version
-- Compared with the version this program knows.
select schema_version from meta

-- name: usable_from
-- Only asked of a database that is newer than this program: the column is one of version 2.
select usable_from from meta

-- name: set_schema_version
-- Written in the transaction of the migration itself.
update meta set schema_version = $1, usable_from = $2
