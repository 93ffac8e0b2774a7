-- One monitor at a time: its state as it was last written.

-- name: stored_state
-- With its position, which says from where on the log adds to it.
select timestamptz_send(at) as at, writer, seq, status, timestamptz_send(since) as since, state::text as state
  from states where monitor_id = $1

-- name: stored_members
-- The silent ones in the order in which they fell silent.
select name, timestamptz_send(at) as at, timestamptz_send(silent_since) as silent_since
  from members where monitor_id = $1 order by members.silent_since, members.name
