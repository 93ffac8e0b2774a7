-- Projects and their channels: few rows, changed by people.

-- name: projects
-- All of them; a server has tens.
select id, slug, name, ping_key, definition, created_at, rev from projects order by slug

-- name: project
-- One by its slug.
select id, slug, name, ping_key, definition, created_at, rev from projects where slug = $1

-- name: project_with_badges
-- The badge key gives the right to see which monitors are up, and nothing else.
select id, slug, name from projects where definition ->> 'badge_key' = $1 and definition -> 'badges' = 'true'

-- name: insert_project
-- The ping key addresses monitors by slug, so it is as unguessable as a monitor's own key.
insert into projects (slug, name, ping_key, definition, rev)
values ($1, $2, coalesce($3, replace(gen_random_uuid()::text, '-', '')), $4, $5)
on conflict (ping_key) do nothing
returning id, slug, name, ping_key, definition, created_at

-- name: update_project
-- Not with a ping key that another project has: then no row comes back.
update projects set name = $2, ping_key = $3, definition = $4, rev = $5
 where id = $1 and not exists (select from projects o where o.ping_key = $3 and o.id <> $1)
returning id, slug, name, ping_key, definition, created_at

-- name: ping_key_hides
-- Whether a monitor of another project has a key that is, or begins with, this ping key: this project would receive its pings.
select exists (select from keys where project_id <> $1 and (key = $2 or starts_with(key, $2 || '/')))

-- name: size_of_project
-- A project that still has monitors is not deleted by mistake.
select count(*) from (select from monitors where project_id = $1 limit 1000) as counted

-- name: delete_project
-- Its channels go with it.
delete from projects where id = $1

-- name: channels
-- In one project, or in all.
select c.id, c.project_id, p.slug as project, c.slug, c.kind, c.is_default, c.definition, c.created_at, c.updated_at,
       c.failing_since, c.failing_why, c.rev
  from channels c join projects p on p.id = c.project_id
 where $1::integer is null or c.project_id = $1
 order by c.project_id, c.slug

-- name: channel
-- One by its address.
select c.id, c.project_id, p.slug as project, c.slug, c.kind, c.is_default, c.definition, c.created_at, c.updated_at,
       c.failing_since, c.failing_why, c.rev
  from channels c join projects p on p.id = c.project_id
 where c.project_id = $1 and c.slug = $2

-- name: put_channel
-- The id stays, so alerts that are under way keep their channel.
insert into channels (project_id, slug, kind, is_default, definition, rev)
values ($1, $2, $3, $4, $5, $6)
on conflict (project_id, slug) do update
   set kind = excluded.kind, is_default = excluded.is_default, definition = excluded.definition, updated_at = now(),
       rev = excluded.rev
returning id

-- name: users_of_channel
-- The monitors that name a channel, for refusing to delete it under them.
select slug from monitors
 where project_id = $1 and definition -> 'channels' @> to_jsonb($2::text)
 order by slug limit 5

-- name: delete_channel
-- Alerts that wait for it will find it gone and say so.
delete from channels where project_id = $1 and slug = $2
