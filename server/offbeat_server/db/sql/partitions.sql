-- The log's daily partitions. DDL takes no parameters, so names and bounds are quoted placeholders.

-- name: lock_partitions
-- One maker at a time; the other then finds the partitions made.
select pg_advisory_xact_lock(20302, 2)

-- name: bound_lock_wait
-- For this transaction only (milliseconds). No statement of Offbeat waits long for a lock while it holds others.
select set_config('lock_timeout', $1, true)

-- name: list_partitions
-- Also tables that look like partitions and are not attached: a retirement ended between its two steps.
-- `pending` is a DETACH CONCURRENTLY that was broken off; only FINALIZE can follow it.
select c.relname::text as name, i.inhrelid is not null as attached, coalesce(i.inhdetachpending, false) as pending
  from pg_class c
  join pg_class parent on parent.oid = 'pings'::regclass and parent.relnamespace = c.relnamespace
  left join pg_inherits i on i.inhrelid = c.oid and i.inhparent = parent.oid
 where c.relkind = 'r' and c.relname ~ '^pings_[0-9]{8}$'
 order by 1

-- name: create_partition
-- A table of its own first: CREATE … PARTITION OF would lock the log against every writer.
create table if not exists "{partition}" (like pings including all)

-- name: attach_partition
-- Takes only SHARE UPDATE EXCLUSIVE on the log: COPY and reading continue.
alter table pings attach partition "{partition}" for values from ('{start}') to ('{end}')

-- name: detach_partition
-- CONCURRENTLY for the same reason. May not run in a transaction block.
alter table pings detach partition "{partition}" concurrently

-- name: finalize_detach
-- Ends what a crash or a time-out left half done; until then no other partition can be detached.
alter table pings detach partition "{partition}" finalize

-- name: drop_partition
-- Detached, so it locks only readers of that old day.
drop table if exists "{partition}"
