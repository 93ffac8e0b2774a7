-- Which schema a database holds. Advisory locks of ours are (20302, n): 1 the schema, 2 the partitions.

-- name: lock_schema
-- Two processes that start at once on an empty database: the second waits, then finds the work done. Ends with the
-- transaction, so it is safe behind a transaction pooler.
select pg_advisory_xact_lock(20302, 1)

-- name: has_meta
-- An empty database has no `meta`; asking for its row instead would abort the transaction.
select to_regclass('meta') is not null

-- name: schema_version
-- Compared with the version this program knows.
select schema_version from meta

-- name: set_schema_version
-- Written in the transaction of the migration itself.
update meta set schema_version = $1
