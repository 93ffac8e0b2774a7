-- A monitor gets another slug or another project; its id, keys and history stay.

-- name: move
-- The row itself. Its definition is written by `update_monitors` as every other.
update monitors set project_id = $2, slug = $3 where id = $1

-- name: move_keys
-- The key index reads the project of a key here.
update keys set project_id = $2 where monitor_id = $1 and project_id <> $2

-- name: note_former
-- Pings and links by the address before still lead to it. The oldest of more than $4 are dropped; the delete does not see
-- the row that is noted here.
with noted as (
  insert into former_slugs (project_id, slug, monitor_id) values ($1, $2, $3)
  on conflict (project_id, slug) do update set monitor_id = excluded.monitor_id, since = now()
)
delete from former_slugs where monitor_id = $3 and (project_id, slug) in
  (select project_id, slug from former_slugs where monitor_id = $3 and (project_id, slug) <> ($1, $2)
    order by since desc offset $4 - 1)

-- name: referring
-- The monitors of a project that name this slug. monitors_linked holds only the monitors that refer to others.
select slug, definition -> 'after' ->> 'monitor' = $2 as follows, coalesce(definition -> 'depends_on' ? $2, false) as depends
  from monitors
 where project_id = $1 and definition ?| array['depends_on', 'after'] and slug <> $2
   and (definition -> 'after' ->> 'monitor' = $2 or definition -> 'depends_on' ? $2)
 order by slug

-- name: now_at
-- The present address of the monitor that was at this one before; no row if there is none.
select m.id, m.project_id, m.slug, p.slug as project
  from former_slugs f join monitors m on m.id = f.monitor_id join projects p on p.id = m.project_id
 where f.project_id = $1 and f.slug = $2
