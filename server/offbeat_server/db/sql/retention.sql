-- Old rows are deleted in small steps, so that no statement holds locks for long.

-- name: old_runs
-- Finished ones only: an open run is watched, however old.
delete from runs where (monitor_id, number) in
  (select monitor_id, number from runs where finished_at < $1 order by finished_at limit $2)

-- name: old_incidents
-- Resolved ones only.
delete from incidents where (monitor_id, number) in
  (select monitor_id, number from incidents where resolved_at < $1 limit $2)

-- name: old_outages
-- No window of a deadline reaches back that far.
delete from deaf where id in (select id from deaf where ended_at < $1 order by ended_at limit $2)

-- name: old_refusals
-- They are recorded as outages by now.
delete from refusals where id in (select id from refusals where ended_at < $1 limit $2)

-- name: old_writers
-- Their rows have gone with the partitions. The newest few stay: they show when a writer was last there.
delete from writers where id in
  (select id from writers where fenced and seen_at < $1 and id < (select max(id) - 10 from writers) limit $2)

-- name: has_leapt
-- Whether log time has leapt by more than a day within the last one: then the clock may have been set wrongly, and what
-- is old by it need not be.
select exists (
  select from deaf
   where reason = 'clock' and ended_at - started_at > interval '1 day' and ended_at > log_time() - interval '1 day')

-- name: seen_through
-- The last change before the first one that is not older than $2, of those after $1: only new changes are read.
select coalesce(
  (select min(rev) - 1 from changes where rev > $1 and at >= $2),
  (select max(rev) from changes), 0)

-- name: deleted_monitors
-- Deleted since $2 by a change after $4, with something left that is older than $1. Each probe is an index walk that
-- stops at the first row.
select distinct c.monitor_id
  from changes c
 where c.kind = 'monitor' and c.after is null and c.monitor_id is not null and c.at >= $2 and c.at < $1
   and c.rev > $4
   and not exists (select from monitors m where m.id = c.monitor_id)
   and (exists (select from pings p where p.monitor_id = c.monitor_id and p.at < $1)
     or exists (select from runs r where r.monitor_id = c.monitor_id and r.finished_at < $1)
     or exists (select from incidents i where i.monitor_id = c.monitor_id and i.resolved_at < $1))
 limit $3

-- name: pings_of
-- From $4 until before $2, a day at most, so that only its partition is opened.
delete from pings p
 using (select writer, seq, at from pings
         where monitor_id = any($1::integer[]) and at < $2 and at >= $4 limit $3) gone
 where p.writer = gone.writer and p.seq = gone.seq and p.at = gone.at and p.at < $2 and p.at >= $4

-- name: runs_of
-- The ended ones: the scheduler closes every run of a monitor that is deleted.
delete from runs where (monitor_id, number) in
  (select monitor_id, number from runs where monitor_id = any($1::integer[]) and finished_at < $2 limit $3)

-- name: incidents_of
-- The resolved ones: the scheduler resolves the incident of a monitor that is deleted.
delete from incidents where (monitor_id, number) in
  (select monitor_id, number from incidents where monitor_id = any($1::integer[]) and resolved_at < $2 limit $3)
