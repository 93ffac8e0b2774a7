-- The history: pings, runs and incidents, a page at a time. Each page is an index walk that stops at its limit.

-- name: pings
-- The newest first. The bound on `at` alone lets Postgres skip partitions; writer and seq break ties of one instant.
select at, writer, seq, signal, run, stage, task, done, total, coalesce(exit_code, wide_exit_code) as exit_code, duration,
       message, source, dialect, options
  from pings
 where monitor_id = $1
   and at <= $2 and (at, writer, seq) < ($2, $3, $4)
   and ($5::timestamptz is null or at >= $5)
   and ($6::signal is null or signal = $6)
   and ($7::text is null or run = $7)
 order by at desc, writer desc, seq desc
 limit $8

-- part: runs_shown
-- A run as it is shown, with the names of its monitor and project. Runs for one business date are its attempts, by number.
select r.monitor_id, r.number, r.run, r.started_at, r.finished_at, r.last_ping_at, r.duration,
       coalesce(r.exit_code, r.wide_exit_code) as exit_code, r.verdict, r.reason, r.detail, r.business_date, r.backfill, r.execution,
       coalesce(r.attempt, case when r.business_date is not null then
         (select count(*)::integer from runs o
           where o.monitor_id = r.monitor_id and o.business_date = r.business_date and o.number <= r.number) end)
         as attempt, m.slug as monitor, p.slug as project, m.project_id, (m.definition || m.newer_fields)::text as definition
  from runs r
  join monitors m on m.id = r.monitor_id
  join projects p on p.id = m.project_id

-- name: runs
-- By number, the newest first.
-- include: runs_shown
 where r.monitor_id = $1 and r.number < $2
   and ($3::boolean is null or (r.finished_at is null) = $3)
   and ($4::text[] is null or r.verdict = any($4))
   and ($5::text is null or r.run = $5)
   and ($7::text is null or r.business_date = $7)
 order by r.number desc
 limit $6

-- name: run
-- One, by its own address.
-- include: runs_shown
 where r.monitor_id = $1 and r.number = $2

-- name: run_standing
-- The facts on which closing run $2 of monitor $1 depends. A change that closes it waits for the scheduler until the
-- stored state of its monitor, or the checkpoint, includes that change. `ended`: when it ended, if the scheduler still
-- remembers it (`c`: the last runs with an id; `f`: the last one without; see engine/model/runs.py).
select exists (
         select from changes c
          where c.monitor_id is null and c.kind = 'close' and (c.after ->> 'monitor_id')::integer = $1
            and (c.after ->> 'number')::integer = $2
            and c.rev > greatest((select (s.state ->> 'rev')::bigint from states s where s.monitor_id = $1),
                                 (select k.applied_rev from checkpoint k), 0)) as is_closing,
       (select e.ended from states s
         cross join lateral (
           select (c ->> 1)::bigint as number, (c ->> 3)::bigint as ended
             from jsonb_array_elements(s.state -> 'runs' -> 'c') c
           union all
           select (s.state -> 'runs' -> 'f' ->> 0)::bigint, (s.state -> 'runs' -> 'f' ->> 2)::bigint) e
         where s.monitor_id = $1 and e.number = $2
         limit 1) as ended

-- part: incidents_shown
-- An incident as it is shown, likewise.
select i.monitor_id, i.number, i.opened_at, i.resolved_at, i.decided_at, i.cause, i.reason, i.run, i.stage, i.causes,
       i.revised, i.acknowledged_at, i.acknowledged_by, coalesce(i.held, '[]') as held, m.slug as monitor, p.slug as project, m.project_id,
       (select u.slug from monitors u where u.id = i.suppressed_by) as suppressed_by
  from incidents i
  join monitors m on m.id = i.monitor_id
  join projects p on p.id = m.project_id

-- name: incidents_of_monitor
-- By number, the newest first.
-- include: incidents_shown
 where i.monitor_id = $1 and i.number < $2
   and ($3::boolean is null or (i.resolved_at is null) = $3)
 order by i.number desc
 limit $4

-- name: incidents
-- Of all monitors that the caller may see, the newest first.
-- include: incidents_shown
 where (i.opened_at, i.monitor_id, i.number) < ($1::timestamptz, $2::integer, $3::integer)
   and ($4::integer is null or i.project_id = $4)
   and ($5::boolean is null or (i.resolved_at is null) = $5)
 order by i.opened_at desc, i.monitor_id desc, i.number desc
 limit $6

-- name: incident
-- One, by its own address.
-- include: incidents_shown
 where i.monitor_id = $1 and i.number = $2

-- name: alert
-- One, to see what becomes of it.
select id, project_id, channel_id, kind, state, attempts, error from alerts where id = $1

-- name: add_test_alert
-- Like any other alert, through the outbox: so the test proves the way that an alert will take.
insert into alerts (project_id, channel_id, kind, facts, expires_at)
values ($1, $2, 'test', $3, clock_timestamp() + interval '10 minutes')
returning id

-- name: acknowledge
-- Of interest to people and to reminders alone, so it is written at once; the scheduler never touches these two columns.
update incidents set acknowledged_at = now(), acknowledged_by = $3
 where monitor_id = $1 and number = $2 and acknowledged_at is null

-- name: members
-- A fleet by name: the members that the scheduler last wrote, and those that have pinged since its rows were last
-- complete, which is minutes ago at most. A member that is in no row and has not pinged since the state was written has
-- left or was forgotten.
with stored as (
  select (select at from states where monitor_id = $1) as at, (select at from checkpoint) as whole_at
), heard as (
  select distinct on (name) coalesce(task, run, '') as name, at, signal
    from pings
   where monitor_id = $1 and at > coalesce((select least(at, whole_at) from stored), '-infinity')
   order by name, at desc
)
select name, greatest(k.at, h.at) as last_at,
       case when h.at is null or h.at <= k.silent_since then k.silent_since end as silent_since
  from (select * from members where monitor_id = $1) k
  full join heard h using (name)
 where name > $2 and h.signal is distinct from 'leave'
   and (k.name is not null or h.at > coalesce((select at from stored), '-infinity'))
   and ($3::boolean is null or (k.silent_since is not null and (h.at is null or h.at <= k.silent_since)) = $3)
 order by name
 limit $4

-- name: lengths
-- How long the latest successful runs took, and their stages.
select duration, detail -> 'stages' as stages
  from runs
 where monitor_id = $1 and verdict = 'succeeded' and duration is not null
 order by number desc
 limit $2
