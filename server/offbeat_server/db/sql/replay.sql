-- One monitor at a time: its state as it was last written. Instants as microseconds, see entries.sql.

-- name: stored_state
-- With its position, which says from where on the log adds to it.
select (extract(epoch from at) * 1000000)::bigint as at, writer, seq, status,
       (extract(epoch from since) * 1000000)::bigint as since, state::text as state
  from states where monitor_id = $1

-- name: stored_members
-- The silent ones in the order in which they fell silent.
select name, (extract(epoch from at) * 1000000)::bigint as at,
       (extract(epoch from members.silent_since) * 1000000)::bigint as silent_since
  from members where monitor_id = $1 order by members.silent_since, members.name
