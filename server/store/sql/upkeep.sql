-- What grows old is deleted, in small steps, so that no statement holds locks for long.

-- name: old_runs
-- Finished ones only: an open run is watched, however old.
delete from runs where (monitor_id, number) in
  (select monitor_id, number from runs where finished_at < $1 order by finished_at limit $2)

-- name: old_incidents
-- Resolved ones only.
delete from incidents where (monitor_id, number) in
  (select monitor_id, number from incidents where resolved_at < $1 limit $2)

-- name: old_deaf
-- No window reaches back that far.
delete from deaf where id in (select id from deaf where ended_at < $1 order by ended_at limit $2)

-- name: old_refusals
-- They are deaf time by now.
delete from refusals where id in (select id from refusals where ended_at < $1 limit $2)

-- name: old_writers
-- Their rows have gone with the partitions. The newest few stay: they say when somebody was last there.
delete from writers where id in
  (select id from writers where fenced and seen_at < $1 and id < (select max(id) - 10 from writers) limit $2)

-- name: has_leapt
-- Whether log time has leapt by more than a day within the last one: then the clock may have been set wrongly, and what
-- is old by it need not be.
select exists (
  select from deaf
   where reason = 'clock' and ended_at - started_at > interval '1 day' and ended_at > log_time() - interval '1 day')
