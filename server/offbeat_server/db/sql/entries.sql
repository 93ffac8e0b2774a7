-- The log as the engine takes it.

-- part: columns
-- As columns, not rows: the reader (db/scheduler_store/log_entries.py) needs half the time for them. Columns that a plain
-- ping does not use are left out: the last columns hold values of the other pings alone. An instant comes as microseconds: `extract` is
-- numeric and exact, where a double loses some after 2041. The subquery is in order, and so is the aggregate.
select array_agg(p.writer), array_agg((extract(epoch from p.at) * 1000000)::bigint), array_agg(p.seq),
       array_agg(p.monitor_id), array_agg(p.project_id), array_agg(inet_send(p.source)), array_agg(p.signal::text),
       array_agg(p.plain),
       array_agg(p.run) filter (where not p.plain), array_agg(p.stage) filter (where not p.plain),
       array_agg(p.task) filter (where not p.plain), array_agg(p.done) filter (where not p.plain),
       array_agg(p.total) filter (where not p.plain),
       array_agg(coalesce(p.exit_code, p.wide_exit_code)) filter (where not p.plain),
       array_agg(p.duration) filter (where not p.plain), array_agg(p.message) filter (where not p.plain),
       array_agg(p.dialect) filter (where not p.plain), array_agg(p.options::text) filter (where not p.plain)
  from (select *, num_nonnulls(run, stage, task, done, total, exit_code, wide_exit_code, duration, message, dialect, options) = 0
                      as plain
          from pings

-- name: of_writer
-- The next rows of one writer, up to $4. Bounded in time on both sides, so that only the partitions in question are
-- opened (0.3 ms over 31 of them); and $4 not within, where it would be looked for through all that the writer has
-- written since: the index does not know that its rows rise in time too.
-- include: columns
         where writer = $1 and seq > $2 and at > $3 and at <= $5
         order by seq limit $6) p
 where p.at <= $4

-- name: of_monitor
-- Its pings in the one order after a position, up to an instant; by the index (monitor_id, at).
-- include: columns
         where monitor_id = $1 and at >= $2 and (at, writer, seq) > ($2, $3, $4) and at <= $5
         order by at, writer, seq limit $6) p
