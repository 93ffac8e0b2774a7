-- Monitors and their keys, as they are defined. All writes are set-based: ten thousand take seconds, not minutes.

-- name: by_slug
-- The monitors that have one of these addresses, whole, as a change must record them. `for update` keeps a deletion of
-- the project from passing under us; the changes lock orders us against every other change.
select m.id, m.project_id, m.rev, m.slug, m.name, m.tags, m.paused, m.snoozed_until, m.definition,
       m.newer_fields, m.created_at,
       (select jsonb_agg(jsonb_build_object('key', k.key, 'signal', k.signal, 'stage', k.stage, 'main', k.main))
          from keys k where k.monitor_id = m.id) as keys
  from monitors m
  join unnest($1::integer[], $2::text[]) as wanted (project_id, slug) using (project_id, slug)
   for update of m

-- name: slugs_of
-- For pruning: what a project has.
select slug from monitors where project_id = $1 order by slug

-- name: has_monitors
-- Whether a project has at least $2 monitors; counted no further.
select count(*) >= $2 from (select from monitors where project_id = $1 limit $2::integer) as counted

-- name: insert_monitors
-- In the order of their input, so that ids rise with it.
insert into monitors (project_id, rev, slug, name, tags, paused, definition, newer_fields)
select w.project_id, w.rev, w.slug, w.name, coalesce(string_to_array(nullif(w.tags, ''), ' '), '{}'), w.paused,
       w.definition::jsonb, w.newer_fields::jsonb
  from unnest($1::integer[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::boolean[], $7::text[], $8::text[])
    with ordinality as w (project_id, rev, slug, name, tags, paused, definition, newer_fields, position)
 order by w.position
returning id, project_id, slug, created_at

-- name: take_slugs
-- These addresses are of other monitors now, and no longer former addresses of renamed ones.
delete from former_slugs f using unnest($1::integer[], $2::text[]) as w (project_id, slug)
 where f.project_id = w.project_id and f.slug = w.slug

-- name: update_monitors
-- The whole definition each time: what is written is what the change's row says.
update monitors m
   set rev = w.rev, name = w.name, tags = coalesce(string_to_array(nullif(w.tags, ''), ' '), '{}'), paused = w.paused,
       snoozed_until = w.snoozed_until, definition = w.definition::jsonb, newer_fields = w.newer_fields::jsonb,
       updated_at = now()
  from unnest($1::integer[], $2::bigint[], $3::text[], $4::text[], $5::boolean[], $6::timestamptz[], $7::text[],
              $8::text[])
    as w (id, rev, name, tags, paused, snoozed_until, definition, newer_fields)
 where m.id = w.id

-- name: delete_monitors
-- Their keys go with them. Their pings, runs and incidents are deleted an hour later, in slices: retention.sql.
delete from monitors where id = any($1::integer[])

-- name: keys_taken
-- Which of these keys lead to some monitor already.
select k.key from keys k where k.key = any($1::text[])

-- name: keys_reserved
-- Which of these keys are, or begin with, the ping key of another project: `PING_KEY` or `PING_KEY/name`.
select w.key
  from unnest($1::text[], $2::integer[]) as w (key, project_id)
  join projects p on p.ping_key = split_part(w.key, '/', 1) and p.id <> w.project_id

-- name: delete_keys
-- A key that is gone is unknown at once, in every process.
delete from keys where key = any($1::text[])

-- name: insert_keys
-- Two requests with the same key meet at the primary key; the changes lock means that only keys of before can be met.
insert into keys (monitor_id, project_id, key, main, signal, stage)
select w.monitor_id, w.project_id, w.key, w.main, w.signal::signal, w.stage
  from unnest($1::integer[], $2::integer[], $3::text[], $4::boolean[], $5::text[], $6::text[])
    as w (monitor_id, project_id, key, main, signal, stage)

-- name: links
-- References between monitors, for unknown names and cycles. monitors_linked holds only the monitors that refer to others.
select project_id, slug, definition -> 'depends_on' as depends_on, definition -> 'after' ->> 'monitor' as after
  from monitors
 where project_id = any($1::integer[]) and definition ?| array['depends_on', 'after']

-- name: slugs_known
-- Which of these monitors exist.
select project_id, slug from monitors join unnest($1::integer[], $2::text[]) as w (project_id, slug) using (project_id, slug)

-- name: channels_known
-- Which of these channels exist.
select project_id, slug from channels join unnest($1::integer[], $2::text[]) as w (project_id, slug) using (project_id, slug)
