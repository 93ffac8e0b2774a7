-- Queries of the pages, beside those of the API, and cheap queries that show whether something has changed.

-- name: pulse
-- Once a second for all monitors on open pages, in one statement: if none of this has changed, nothing that a page shows
-- of the monitor has changed. The newest ping is one walk from the end of (monitor_id, at).
select m.id, m.rev, m.paused, s.status, s.at as state_at,
       (select l.at from pings l where l.monitor_id = m.id order by l.at desc limit 1) as last_at,
       i.number as incident, i.acknowledged_at
  from unnest($1::integer[]) as w (id)
  join monitors m on m.id = w.id
  left join states s on s.monitor_id = m.id
  left join incidents i on i.monitor_id = m.id and i.resolved_at is null

-- name: trouble
-- The open incidents of monitors that are not paused: first those that are not acknowledged, then those that another incident explains, the newest first.
select i.monitor_id, i.number, i.opened_at, i.cause, i.reason, i.run, i.stage, i.acknowledged_at, i.acknowledged_by,
       m.slug as monitor, m.name, m.project_id, p.slug as project, m.snoozed_until,
       (select u.slug from monitors u where u.id = i.suppressed_by) as suppressed_by
  from incidents i
  join monitors m on m.id = i.monitor_id
  join projects p on p.id = m.project_id
 where i.resolved_at is null and not m.paused and ($1::integer is null or i.project_id = $1)
   and ($3::text[] is null or m.tags @> $3)
   and ($4::text is null or strpos(lower(m.slug || ' ' || m.name), lower($4)) > 0)
 order by i.acknowledged_at is not null, i.suppressed_by is not null, i.opened_at desc, i.monitor_id
 limit $2

-- name: trouble_count
-- Counted up to that number only: in a storm no reader needs the exact number each second.
select count(*) from (
  select from incidents i join monitors m on m.id = i.monitor_id
   where i.resolved_at is null and not m.paused and ($1::integer is null or i.project_id = $1) limit $2) as open

-- name: trouble_matching
-- The same of those that a filter of the overview lets through.
select count(*) from (
  select from incidents i
    join monitors m on m.id = i.monitor_id
   where i.resolved_at is null and not m.paused and ($1::integer is null or i.project_id = $1)
     and ($3::text[] is null or m.tags @> $3)
     and ($4::text is null or strpos(lower(m.slug || ' ' || m.name), lower($4)) > 0)
   limit $2) as open

-- name: counts
-- Monitors by the status that the scheduler wrote.
select case when m.paused then 'paused' else coalesce(s.status, 'new') end as status, count(*) as monitors
  from monitors m left join states s on s.monitor_id = m.id
 where $1::integer is null or m.project_id = $1
 group by 1

-- name: tags
-- The tags in use, the most used first.
select tag, count(*) as monitors
  from monitors m cross join lateral unnest(m.tags) as tag
 where m.tags <> '{}' and ($1::integer is null or m.project_id = $1)
 group by tag order by count(*) desc, tag limit $2

-- name: late_candidates
-- Those that may be late: a healthy monitor's stored due time is never later than the true one, so what is not past by
-- it is not past. The rest is seen by the newest ping.
select m.id
  from monitors m left join states s on s.monitor_id = m.id
 where not m.paused and coalesce(s.status, 'new') in ('new', 'up', 'unknown')
   and ($1::integer is null or m.project_id = $1)
   and ((s.state ->> 'due')::bigint < $2 or (s.monitor_id is null or m.definition ? 'first_within'))

-- name: troubles_of
-- The incidents that a strip or a calendar shows, of many monitors at once; that number of the newest of each.
select i.monitor_id, i.number, i.opened_at, i.resolved_at, i.cause
  from unnest($1::integer[]) as w (id)
 cross join lateral (select * from incidents i where i.monitor_id = w.id order by i.number desc limit $3) i
 where i.resolved_at is null or i.resolved_at > $2

-- name: runs_by_day
-- $3: the starts of the days, rising; a run counts where it finished.
select width_bucket(r.finished_at, $3::timestamptz[]) as day, r.verdict, count(*) as runs
  from runs r where r.monitor_id = $1 and r.finished_at >= $2 group by 1, 2

-- name: days_with_pings
-- Whether there was any ping on each day: one step into the index a day, however many there were.
select exists (select from pings l where l.monitor_id = $1 and l.at >= d.began and l.at < d.ended) as has_pings
  from unnest($2::timestamptz[], $3::timestamptz[]) with ordinality as d (began, ended, n) order by d.n

-- name: durations
-- The latest finished runs, for the chart and the usual range.
select number, run, started_at, finished_at, duration, verdict
  from runs where monitor_id = $1 and finished_at is not null and duration is not null order by number desc limit $2

-- name: heartbeats
-- The latest pings without their messages, for the chart of a monitor without runs; parts of runs say nothing here.
select at, signal, duration from pings
 where monitor_id = $1 and signal in ('success', 'fail', 'skip') and stage is null and task is null and at > $3
 order by at desc limit $2

-- name: fleet
-- The numbers of a fleet, as the scheduler last wrote them.
select (select count(*) from members m where m.monitor_id = s.monitor_id) as known,
       (select count(silent_since) from members m where m.monitor_id = s.monitor_id) as silent,
       coalesce((state -> 'fleet' -> 'p' ->> 0)::integer, 0) as peak
  from states s where monitor_id = $1 and state ? 'fleet'

-- name: watermark
-- Up to here every accepted ping can be read, in order. A writer that died holds it back until it is fenced.
select coalesce(min(accepted_through), now()) as through from writers where not fenced

-- name: run_pings
-- The next pings of several runs at once. A run without an id is identified by its monitor and time: there is only one.
select w.n, l.at, l.writer, l.seq, l.signal, l.run, l.stage, l.task, l.done, l.total,
       coalesce(l.exit_code, l.wide_exit_code) as exit_code, l.duration, l.options
  from unnest($1::integer[], $2::text[], $3::timestamptz[], $4::integer[], $5::bigint[], $6::timestamptz[])
       with ordinality as w (monitor_id, run, after, writer, seq, through, n)
 cross join lateral (
   select p.* from pings p
    where p.monitor_id = w.monitor_id and p.at >= w.after and (p.at, p.writer, p.seq) > (w.after, w.writer, w.seq)
      and p.at <= w.through and p.run is not distinct from w.run
    order by p.at, p.writer, p.seq limit $7) l
 order by w.n, l.at, l.writer, l.seq

-- name: open_run_states
-- Open runs as the scheduler last wrote them, each with the last input in the state of its monitor.
select s.monitor_id, w.number, s.at, s.writer, s.seq, o.run
  from states s
 cross join lateral jsonb_array_elements(s.state -> 'runs' -> 'o') as o (run)
  join unnest($1::integer[], $2::integer[]) as w (monitor_id, number)
    on w.monitor_id = s.monitor_id and w.number = (o.run ->> 'n')::integer
 where s.monitor_id = any($1::integer[])

-- name: run_pulse
-- Runs on open pages, with what is expected of them.
select r.monitor_id, r.number, r.run, r.started_at, r.finished_at, r.last_ping_at, r.duration,
       coalesce(r.exit_code, r.wide_exit_code) as exit_code, r.verdict, r.reason, r.detail, r.business_date, r.backfill, r.execution,
       coalesce(r.attempt, case when r.business_date is not null then
         (select count(*)::integer from runs o
           where o.monitor_id = r.monitor_id and o.business_date = r.business_date and o.number <= r.number) end)
         as attempt, m.slug as monitor, m.name, p.slug as project, m.project_id,
       (m.definition || m.newer_fields)::text as definition
  from unnest($1::integer[], $2::integer[]) as w (monitor_id, number)
  join runs r on r.monitor_id = w.monitor_id and r.number = w.number
  join monitors m on m.id = r.monitor_id
  join projects p on p.id = m.project_id

-- name: incident_pulse
-- Whether anything was decided, done or sent about the incidents on open pages.
select i.monitor_id, i.number, i.resolved_at, i.acknowledged_at, i.reason, i.causes::text as causes, i.held::text as held,
       (select max(c.rev) from changes c
         where c.monitor_id = i.monitor_id and c.kind in ('acknowledge', 'resolve', 'comment')
           and (c.after ->> 'incident')::integer = i.number) as rev,
       (select string_agg(a.id || a.state || a.attempts, ' ' order by a.id) from alerts a
         where a.monitor_id = i.monitor_id and a.incident = i.number) as alerts
  from unnest($1::integer[], $2::integer[]) as w (monitor_id, number)
  join incidents i on i.monitor_id = w.monitor_id and i.number = w.number

-- name: leases
-- The leases of the scheduler and of the dispatcher.
select name, term, holder, node, taken_at, expires_at, expires_at > log_time() as held, log_time() as now
  from lease order by name

-- name: writers
-- Those that live, and the last few that do not.
select id, node, seq, started_at, accepted_through, seen_at, fenced, clean
  from writers order by fenced, id desc limit $1

-- name: checkpoint
-- From where a start would follow the log.
select at, applied_rev from checkpoint

-- name: outages
-- Outages in which pings could not be received, the newest first.
select started_at, ended_at, writer, pings, reason, decided_at from deaf order by ended_at desc limit $1

-- name: outbox
-- Alerts that wait, and alerts that were given up. Settled ones are counted over a day.
select state, count(*) as alerts, min(created_at) as oldest, max(attempts) as attempts
  from alerts
 where state = 'pending' or (state in ('dead', 'expired')) or settled_at > now() - interval '1 day'
 group by state order by state

-- name: partitions
-- The days of the log. Sizes with indexes; rows as Postgres last estimated them.
select c.relname as name, pg_total_relation_size(c.oid) as bytes, greatest(c.reltuples, 0)::bigint as rows,
       (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \(''([^'']+)''\)'))[1]::timestamptz as began
  from pg_inherits i join pg_class c on c.oid = i.inhrelid
 where i.inhparent = 'pings'::regclass
 order by c.relname

-- name: database
-- The database itself.
select current_setting('server_version') as version, pg_database_size(current_database()) as bytes,
       (select count(*) from monitors) as monitors
