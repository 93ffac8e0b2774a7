-- Monitors as they are shown: the definition, the scheduler's state, and the newest ping, which may be newer than the state.

-- name: monitors
-- One page in the order of (project, slug), or the named ones. `last_ping_at` is the newest ping that satisfies a schedule:
-- nearly always the newest of all, so the second look into the log is rare. Both walk (monitor_id, at) from its end,
-- partition by partition, and stop at the first row. Of the state only the few fields that `status_at` reads leave Postgres;
-- the rest may be megabytes for a large fleet. With $10, what is new to the scheduler and was not pinged since is
-- passed over before all of that: ten thousand of these would take a second.
select m.id, m.project_id, p.slug as project, m.slug, m.name, m.tags, m.paused, m.snoozed_until, m.rev,
       (m.definition || m.newer_fields)::text as definition, m.created_at, m.updated_at,
       s.status, s.since, s.at as state_at, last.at as last_at, last.signal as last_signal,
       jsonb_strip_nulls(jsonb_build_object('due', s.state -> 'due', 'heard_at', s.state -> 'heard_at',
                                            'not_before', s.state -> 'not_before', 'created', s.state -> 'created'))
         as state,
       case when last.signal in ('success', 'fail', 'skip', 'start') then last.at
            when last.signal is not null then
              (select l.at from pings l
                where l.monitor_id = m.id and l.signal in ('success', 'fail', 'skip', 'start')
                order by l.at desc limit 1)
       end as last_ping_at,
       (select count(*) from runs r where r.monitor_id = m.id and r.finished_at is null) as open_runs,
       (select i.number from incidents i where i.monitor_id = m.id and i.resolved_at is null) as incident,
       (select jsonb_agg(jsonb_build_object('key', k.key, 'signal', k.signal, 'stage', k.stage, 'main', k.main))
          from keys k where k.monitor_id = m.id) as keys
  from monitors m
  join projects p on p.id = m.project_id
  left join states s on s.monitor_id = m.id
  left join lateral (select l.at, l.signal from pings l where l.monitor_id = m.id order by l.at desc limit 1) last on true
 where ($1::integer is null or m.project_id = $1)
   and ($2::text[] is null or m.slug = any($2))
   and (m.project_id, m.slug) > ($3::integer, $4::text)
   and ($5::text[] is null or m.tags @> $5)
   and ($6::text is null or strpos(lower(m.slug || ' ' || m.name), lower($6)) > 0)
   and ($7::text[] is null or case when m.paused then 'paused' else coalesce(s.status, 'new') end = any($7))
   and ($9::integer[] is null or m.id = any($9))
   and (not $10 or m.paused or coalesce(s.status, 'new') <> 'new'
        or exists (select from pings l where l.monitor_id = m.id and l.at > coalesce(s.at, '-infinity')
                                         and l.at < now() + interval '1 hour'))
 order by m.project_id, m.slug
 limit $8

-- name: exported
-- Definitions and keys alone, for `export`: no look into the log.
select m.id, m.project_id, p.slug as project, m.slug, m.name, m.tags, m.paused, m.definition || m.newer_fields as definition,
       (select jsonb_agg(jsonb_build_object('key', k.key, 'signal', k.signal, 'stage', k.stage, 'main', k.main))
          from keys k where k.monitor_id = m.id) as keys
  from monitors m
  join projects p on p.id = m.project_id
 where ($1::integer is null or m.project_id = $1)
   and (m.project_id, m.slug) > ($2::integer, $3::text)
 order by m.project_id, m.slug
 limit $4

-- name: monitor_id
-- For lists about one monitor.
select id from monitors where project_id = $1 and slug = $2
