-- Maintenance windows: few rows, changed by people, loaded completely by the scheduler.

-- name: windows
-- In one project, or in all: the scheduler loads them with this at its start.
select w.id, w.project_id, w.rev, p.slug as project, w.slug, w.definition, w.created_at, w.updated_at
  from windows w join projects p on p.id = w.project_id
 where $1::integer is null or w.project_id = $1
 order by w.project_id, w.slug

-- name: window
-- One by its address.
select w.id, w.project_id, w.rev, p.slug as project, w.slug, w.definition, w.created_at, w.updated_at
  from windows w join projects p on p.id = w.project_id
 where w.project_id = $1 and w.slug = $2

-- name: put_window
-- The id stays: it is the engine's name for the window.
insert into windows (project_id, rev, slug, definition)
values ($1, $2, $3, $4)
on conflict (project_id, slug) do update
   set rev = excluded.rev, definition = excluded.definition, updated_at = now()
returning id

-- name: delete_window
-- Alerts that it held back are sent when the scheduler has seen the change.
delete from windows where project_id = $1 and slug = $2
