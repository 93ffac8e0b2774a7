-- One monitor at a time: its state as it was last written, and what was heard of it since.

-- name: stored_state
-- With its position, which says from where on the log adds to it.
select timestamptz_send(at) as at, writer, seq, status, timestamptz_send(since) as since, state::text as state
  from states where monitor_id = $1

-- name: stored_members
-- The silent ones in the order in which they fell silent.
select name, timestamptz_send(at) as at, timestamptz_send(silent_since) as silent_since
  from members where monitor_id = $1 order by members.silent_since, members.name

-- name: heard_after
-- Its pings in the one order after a position, up to an instant; by the index (monitor_id, at).
select writer, timestamptz_send(at), seq, monitor_id, project_id, inet_send(source),
       signal, run, stage, task, done, total, exit_code, duration, message, dialect
  from pings
 where monitor_id = $1 and at >= $2 and (at, writer, seq) > ($2, $3, $4) and at <= $5
 order by at, writer, seq limit $6
