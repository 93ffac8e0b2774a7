-- The scheduler writes effects, and the state that followed, in one transaction. Every statement may be repeated
-- with the same rows, because a transaction whose commit is in doubt is written again.

-- name: put_states
-- The last input in each state says which part of the log it knows; replay ignores what is at or before it.
insert into states (monitor_id, project_id, at, writer, seq, status, since, state)
select w.monitor_id, w.project_id, w.at, w.writer, w.seq, w.status, w.since, w.state::jsonb
  from unnest($1::integer[], $2::integer[], $3::timestamptz[], $4::integer[], $5::bigint[], $6::text[],
              $7::timestamptz[], $8::text[])
    as w (monitor_id, project_id, at, writer, seq, status, since, state)
on conflict (monitor_id) do update
   set at = excluded.at, writer = excluded.writer, seq = excluded.seq, status = excluded.status,
       since = excluded.since, state = excluded.state, project_id = excluded.project_id

-- name: delete_states
-- Of monitors that were deleted. When that took effect ($2) stays known: until then no later change may take effect.
with gone as (
  select * from unnest($1::integer[], $2::timestamptz[]) as g (monitor_id, at)
), states_gone as (
  delete from states s using gone where s.monitor_id = gone.monitor_id
)
update changes c set effective_at = gone.at
  from gone
 where c.monitor_id = gone.monitor_id and c.kind = 'monitor' and c.after is null

-- name: put_effective
-- Changes of windows ($1), which no state knows of, and when they took effect ($2): a restart meets them there again.
update changes c set effective_at = taken.at
  from unnest($1::bigint[], $2::timestamptz[]) as taken (rev, at)
 where c.rev = taken.rev

-- name: put_members
-- Members of fleets that joined, became silent or came back; and at a checkpoint all that have pinged.
insert into members (monitor_id, name, at, silent_since)
select * from unnest($1::integer[], $2::text[], $3::timestamptz[], $4::timestamptz[])
on conflict (monitor_id, name) do update set at = excluded.at, silent_since = excluded.silent_since

-- name: delete_members
-- They have left or were forgotten.
delete from members m
 using unnest($1::integer[], $2::text[]) as w (monitor_id, name)
 where m.monitor_id = w.monitor_id and m.name = w.name

-- name: disband
-- These monitors are no longer fleets, or were deleted.
delete from members where monitor_id = any($1::integer[])

-- name: put_runs
-- A revised run knows only what the late ping said; what the row had stays. If a person revised it, there was no ping,
-- and `last_ping_at` is the epoch.
insert into runs (monitor_id, number, project_id, run, started_at, finished_at, last_ping_at, duration, verdict, reason,
                  exit_code, wide_exit_code, detail, business_date, backfill, attempt, execution,
                  ended)
select w.monitor_id, w.number, w.project_id, w.run, w.started_at, w.finished_at, w.last_ping_at, w.duration, w.verdict,
       w.reason, case when w.exit_code between -2147483648 and 2147483647 then w.exit_code::integer end,
       case when w.exit_code not between -2147483648 and 2147483647 then w.exit_code end, w.detail::jsonb,
       w.business_date, w.backfill, w.attempt, w.execution, w.ended::jsonb
  from unnest($1::integer[], $2::integer[], $3::integer[], $4::text[], $5::timestamptz[], $6::timestamptz[],
              $7::timestamptz[], $8::double precision[], $9::text[], $10::text[], $11::bigint[], $12::text[],
              $13::text[], $14::boolean[], $15::integer[], $16::text[], $17::text[])
    as w (monitor_id, number, project_id, run, started_at, finished_at, last_ping_at, duration, verdict, reason,
          exit_code, detail, business_date, backfill, attempt, execution, ended)
on conflict (monitor_id, number) do update
   set started_at = coalesce(excluded.started_at, runs.started_at), finished_at = excluded.finished_at,
       last_ping_at = case when excluded.last_ping_at = 'epoch' then runs.last_ping_at else excluded.last_ping_at end,
       duration = coalesce(excluded.duration, runs.duration), verdict = excluded.verdict, reason = excluded.reason,
       exit_code = case when excluded.last_ping_at = 'epoch' then runs.exit_code else excluded.exit_code end,
       wide_exit_code = case when excluded.last_ping_at = 'epoch' then runs.wide_exit_code
                             else excluded.wide_exit_code end,
       detail = case when excluded.detail = '{}' then runs.detail else excluded.detail end,
       business_date = coalesce(excluded.business_date, runs.business_date),
       backfill = excluded.backfill or runs.backfill, attempt = coalesce(excluded.attempt, runs.attempt),
       execution = coalesce(excluded.execution, runs.execution),
       ended = coalesce(excluded.ended, runs.ended)

-- name: put_incidents
-- The columns of an acknowledgement belong to another statement and stay as they are.
insert into incidents (monitor_id, number, project_id, opened_at, resolved_at, decided_at, cause, reason, run, stage,
                       causes, suppressed_by, held)
select w.monitor_id, w.number, w.project_id, w.opened_at, w.resolved_at, w.decided_at, w.cause, w.reason, w.run,
       w.stage, w.causes::jsonb, w.suppressed_by, w.held::jsonb
  from unnest($1::integer[], $2::integer[], $3::integer[], $4::timestamptz[], $5::timestamptz[], $6::timestamptz[],
              $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::integer[], $13::text[])
    as w (monitor_id, number, project_id, opened_at, resolved_at, decided_at, cause, reason, run, stage, causes,
          suppressed_by, held)
on conflict (monitor_id, number) do update
   set resolved_at = excluded.resolved_at, cause = excluded.cause, reason = excluded.reason, run = excluded.run,
       stage = excluded.stage, causes = excluded.causes, suppressed_by = excluded.suppressed_by,
       held = excluded.held, project_id = excluded.project_id

-- name: move_incidents
-- Of monitors ($1) that are in another project now ($2): its lists show them. After them come rows with that project.
update incidents i set project_id = w.project_id
  from unnest($1::integer[], $2::integer[]) as w (monitor_id, project_id)
 where i.monitor_id = w.monitor_id and i.project_id <> w.project_id

-- name: put_alerts
-- One row per channel; the unique index alerts_once makes a repetition harmless. The end of an incident comes without a
-- channel: it goes to each channel that an alert of the incident reached or may still reach, earlier or in this same
-- statement, even if the definition has changed since. A channel that was deleted since gets nothing. Urgent is the first
-- alert of a monitor to a channel in ten minutes (the numbers of its incidents rise with time, so the latest will do).
with w as (
  select *
    from unnest($1::integer[], $2::integer[], $3::integer[], $4::integer[], $5::integer[], $6::text[], $7::text[])
      as w (project_id, channel_id, monitor_id, incident, ordinal, kind, facts)
), told as (
  select a.monitor_id, a.incident, a.channel_id
    from w join alerts a on a.monitor_id = w.monitor_id and a.incident = w.incident
   where w.kind = 'resolved' and a.state in ('pending', 'delivered')
  union
  select monitor_id, incident, channel_id from w where kind <> 'resolved'
)
insert into alerts (project_id, channel_id, monitor_id, incident, ordinal, kind, facts, urgent)
select project_id, channel_id, monitor_id, incident, ordinal, kind, facts::jsonb, not exists (
         select from alerts a
          where a.monitor_id = w.monitor_id and a.incident between w.incident - 3 and w.incident
            and a.lane = coalesce(w.channel_id, 0) and a.kind in ('opened', 'worse')
            and a.created_at > clock_timestamp() - interval '10 minutes')
  from w where kind <> 'resolved'
union all
select w.project_id, t.channel_id, w.monitor_id, w.incident, w.ordinal, w.kind, w.facts::jsonb, false
  from w join told t on t.monitor_id = w.monitor_id and t.incident = w.incident
 where w.kind = 'resolved' and (t.channel_id is null or exists (select from channels c where c.id = t.channel_id))
on conflict do nothing

-- name: usual
-- How long the latest hundred successful runs of these monitors took, in seconds; by the primary key, newest first.
select m.id as monitor_id, count(r.duration)::integer as count,
       percentile_cont(0.5) within group (order by r.duration) as median,
       percentile_cont(0.95) within group (order by r.duration) as p95
  from unnest($1::integer[]) as m (id)
 cross join lateral (
   select duration from runs
    where monitor_id = m.id and verdict = 'succeeded' and duration is not null
    order by number desc limit 100) r
 group by m.id

-- name: notes
-- The acknowledgements of incidents (of monitors $1, with numbers $2) and their last $3 comments. The index changes_monitor narrows to the changes of one monitor.
select i.monitor_id, i.number, i.acknowledged_at, i.acknowledged_by, c.count, c.instants, c.actors, c.texts
  from unnest($1::integer[], $2::integer[]) as w (monitor_id, number)
  join incidents i on i.monitor_id = w.monitor_id and i.number = w.number
 cross join lateral (
   select coalesce(max(n.nth), 0)::integer as count,
          array_agg(n.at order by n.nth desc) filter (where n.nth <= $3) as instants,
          array_agg(n.actor order by n.nth desc) filter (where n.nth <= $3) as actors,
          array_agg(n.text order by n.nth desc) filter (where n.nth <= $3) as texts
     from (select c.at, c.actor, c.after ->> 'comment' as text, row_number() over (order by c.rev desc) as nth
             from changes c
            where c.monitor_id = w.monitor_id and c.kind in ('acknowledge', 'resolve', 'comment')
              and (c.after ->> 'incident')::integer = w.number and c.after ->> 'comment' is not null) n) c
 where i.acknowledged_by is not null or c.count > 0

-- name: put_operator_alert
-- About Offbeat itself: to every default channel of the first project, or to the log where there is none.
insert into alerts (project_id, channel_id, kind, facts, urgent)
select p.id, c.id, 'operator', $1, true from (select id from projects order by id limit 1) p
  left join channels c on c.project_id = p.id and c.is_default

-- name: close_incident
-- SQL has an incident open that the engine does not know of: repaired, and marked as such.
update incidents set resolved_at = $3, revised = true where monitor_id = $1 and number = $2 and resolved_at is null

-- name: slug_of
-- For ending a pause by the slug, as a person would.
select project_id, slug from monitors where id = $1 and paused
