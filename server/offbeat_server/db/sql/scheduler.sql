-- The scheduler reads its position, the definitions, the writers and the pings.

-- name: checkpoint
-- Absent before the first one.
select at, applied_rev, cursors, set_aside from checkpoint

-- name: write_checkpoint
-- Never backwards: the last write of a scheduler that was replaced may come late.
insert into checkpoint (at, applied_rev, cursors, set_aside) values ($1, $2, $3, $4)
on conflict (one) do update
   set at = excluded.at, applied_rev = excluded.applied_rev, cursors = excluded.cursors, set_aside = excluded.set_aside
  where checkpoint.at <= excluded.at

-- name: load_monitors
-- Everything to start from, streamed. A monitor whose newest change the stored state does not know yet comes with what
-- it was before the first such change, so that replay meets the definition that was in force then; with the project of
-- that change, unless it moved the monitor and so says itself where it was. Instants as microseconds, see entries.sql.
select m.id, m.project_id, m.slug, m.name, m.tags, m.paused, m.snoozed_until, (m.definition || m.newer_fields)::text as definition,
       m.rev,
       (extract(epoch from s.at) * 1000000)::bigint as at, s.writer, s.seq, s.status,
       (extract(epoch from s.since) * 1000000)::bigint as since, s.state::text as state,
       case when m.rev > $1 then (
         select (jsonb_build_object('project_id', c.project_id) || c.before)::text from changes c
          where c.monitor_id = m.id and c.rev > greatest($1, coalesce((s.state ->> 'rev')::bigint, 0))
            and c.kind not in ('acknowledge', 'resolve', 'comment')
          order by c.rev limit 1) end as before,
       m.rev > greatest($1, coalesce((s.state ->> 'rev')::bigint, 0)) as changed
  from monitors m left join states s on s.monitor_id = m.id
union all
select s.monitor_id, s.project_id, null, null, null, null, null, null, null,
       (extract(epoch from s.at) * 1000000)::bigint, s.writer, s.seq, s.status,
       (extract(epoch from s.since) * 1000000)::bigint, s.state::text,
       c.before::text, true
  from states s
 cross join lateral (select jsonb_build_object('project_id', c.project_id) || c.before as before from changes c
                      where c.monitor_id = s.monitor_id and c.rev > greatest($1, coalesce((s.state ->> 'rev')::bigint, 0))
                        and c.kind not in ('acknowledge', 'resolve', 'comment')
                      order by c.rev limit 1) c
 where not exists (select from monitors m where m.id = s.monitor_id) and c.before is not null

-- name: load_members
-- Of all fleets; the silent ones in the order in which they fell silent. Streamed.
select monitor_id, name, (extract(epoch from at) * 1000000)::bigint as at,
       (extract(epoch from members.silent_since) * 1000000)::bigint as silent_since
  from members order by members.monitor_id, members.silent_since, members.name

-- name: deleted_since
-- Monitors that a change after $1 has deleted and whose state is gone with them, or never was: reading the changes again
-- must not bring them back. With the instant at which that took effect; null if no scheduler has applied it yet.
select c.monitor_id as id, c.effective_at from changes c
 where c.rev > $1 and c.kind = 'monitor' and c.before is not null and c.after is null
   and not exists (select from states s where s.monitor_id = c.monitor_id)

-- name: windows
-- As they were after change $1: of those changed since, what they were before the first such change.
select w.id, w.project_id, w.slug, w.definition from windows w where w.rev <= $1
union all
select (c.before ->> 'id')::integer, c.project_id, c.subject, c.before -> 'definition'
  from changes c
 where c.kind = 'window' and c.rev > $1 and c.before is not null
   and not exists (select from changes e where e.kind = 'window' and e.rev > $1 and e.rev < c.rev
                      and e.project_id = c.project_id and e.subject = c.subject)

-- name: windows_applied
-- Later changes of windows that are in force already, and since when: the last scheduler has decided with these.
select rev, kind, project_id, monitor_id, subject, before::text as before, after::text as after, effective_at
  from changes where rev > $1 and kind = 'window' and effective_at is not null order by rev

-- name: changes_since
-- In the order of commits, see schema.sql. The program before would take a change of a kind that it does not know for a
-- new definition, but leaves out changes without a monitor: so `close` has its monitor in `after`.
select rev, kind, project_id, case when kind = 'close' then (after ->> 'monitor_id')::integer else monitor_id end,
       subject, before::text as before, after::text as after
  from changes where rev > $1 order by rev limit $2

-- name: writers
-- Those that hold the watermark, and those whose last rows may not have been read yet: known ones by id ($1), and all
-- that are newer than any known ($2).
select w.id, w.seq, w.started_at, w.accepted_through, w.fenced, w.seen_at,
       extract(epoch from clock_timestamp() - w.seen_at)::float8 as silent_s
  from writers w
 where not w.fenced or w.id = any($1::integer[]) or w.id > $2
 order by w.id

-- name: ended_runs
-- The last ended runs of monitors ($1) with these ids ($2): late pings of their stages and tasks belong to them. Not
-- rows of a program that kept less.
select w.monitor_id, w.run, r.number, r.verdict, r.finished_at, r.business_date, r.backfill, r.execution,
       r.ended::text as ended
  from unnest($1::integer[], $2::text[]) as w (monitor_id, run)
 cross join lateral (
   select number, verdict, finished_at, business_date, backfill, execution, runs.ended from runs
    where runs.monitor_id = w.monitor_id and runs.run = w.run and runs.finished_at is not null
    order by number desc limit 1) r
 where r.ended is not null

-- name: state_at
-- Whether the rows that a scheduler has written are still there, after a lost connection.
select at from states where monitor_id = $1

-- name: news
-- Whether there is anything to fetch of the rarer inputs; one round trip instead of two empty ones.
select (select coalesce(max(rev), 0) from changes) as rev, (select coalesce(max(id), 0) from refusals) as refusal_id

-- name: unfinished_writers
-- At the start: writers of whom rows may be unread. $1, $2: cursors by writer.
select w.id from writers w left join unnest($1::integer[], $2::bigint[]) as c (id, seq) using (id)
 where not w.fenced or w.seq > coalesce(c.seq, 0)

-- name: fence
-- Fencing is one statement: it waits for an open batch of the writer, or that batch meets `fenced` and is refused. It
-- does nothing if the writer has shown a sign of life since $2, the last one that the scheduler has seen.
-- The outage that this may have caused is recorded in the same transaction. It ends no earlier than the last sign of any
-- writer: if the database's clock was set back since, and no process has noticed yet, log time is still there.
with dead as (
  update writers set fenced = true
   where id = $1 and not fenced and seen_at = $2
  returning id, accepted_through
)
insert into deaf (started_at, ended_at, writer, reason, decided_at)
select accepted_through,
       greatest(log_time(), accepted_through + interval '1 microsecond', (select max(accepted_through) from writers)),
       id, 'crash', $3
  from dead
returning id, started_at, ended_at, reason, pings

-- name: outages_by_refusals
-- Refusals become outages, each once.
insert into deaf (started_at, ended_at, writer, refusal_id, pings, reason, decided_at)
select started_at, greatest(ended_at, started_at + interval '1 microsecond'), writer, id, pings, reason, $2
  from refusals where id > $1 order by id
on conflict (refusal_id) do nothing
returning id, started_at, ended_at, reason, pings

-- name: outage_before_writer
-- From the last sign of any earlier writer to the first of this one, if no other was there: between a stop and the next
-- start no process could receive pings. A jump of the clock is recorded as such, and so is the crash of the writer
-- before.
insert into deaf (started_at, ended_at, writer, reason, decided_at)
select gap.since, w.started_at, w.id, 'stopped', $2
  from writers w
 cross join lateral (select max(o.accepted_through) as since from writers o where o.id < w.id) gap
 where w.id = $1 and gap.since < w.started_at
   and not exists (select from deaf d where d.writer = w.id and d.reason = 'stopped')
   and not exists (select from deaf d where d.started_at <= gap.since and d.ended_at >= w.started_at)
   and not exists (select from writers o where o.id < w.id and not o.fenced)
   and not exists (select from refusals r where r.writer = w.id and r.reason = 'clock' and r.started_at <= gap.since)
returning id, started_at, ended_at, reason, pings

-- name: now
-- For a process that has no writer to keep its clock true.
select log_time()

-- name: known_outages
-- Every outage that a window may still reach back to.
select id, started_at, ended_at, reason, pings from deaf order by id

-- name: refusals_applied
-- The last refusal that is already recorded as an outage.
select coalesce(max(refusal_id), 0) from deaf

-- name: last_writer
-- The newest writer that inputs were read of, or any, when there was no checkpoint yet.
select coalesce(max(id), 0) from writers where accepted_through <= $1

-- name: open_incidents
-- To be compared with the engine's at the start.
select monitor_id, number from incidents where resolved_at is null

-- name: channels
-- Where alerts go: small, read again when a channel or project changes.
select id, project_id, slug, is_default from channels

-- name: projects
-- For the facts of an alert.
select id, slug from projects
