-- The keys that every process holds in memory, to find the monitor of a ping.

-- name: rev
-- One step down the primary key, so that asking ten times a second costs nothing. Sooner than what is read after it.
select coalesce(max(rev), 0) from changes

-- name: keys
-- All of them, read through a cursor at the start. A monitor always has a main key, so none is missing. `rules` only
-- where a ping must be looked at before it counts: few monitors have any.
select k.key, k.monitor_id, k.project_id, k.signal, k.stage, m.slug,
       case when m.definition ?| array['methods', 'keywords'] then m.definition::text end as rules
  from keys k join monitors m on m.id = k.monitor_id

-- name: changes_since
-- The definitions to read again, in slices: an import of a million monitors is a million rows. Definitions are read as they are
-- now, which is never older than the change.
select rev, kind, monitor_id from changes where rev > $1 order by rev limit $2

-- name: keys_of
-- Of the monitors that have changed; one that is gone has no rows.
select k.key, k.monitor_id, k.project_id, k.signal, k.stage, m.slug,
       case when m.definition ?| array['methods', 'keywords'] then m.definition::text end as rules
  from keys k join monitors m on m.id = k.monitor_id
 where k.monitor_id = any($1::integer[])

-- name: former_slugs
-- The former addresses of renamed and moved monitors: few.
select project_id || '/' || slug as address, monitor_id from former_slugs

-- name: ping_keys
-- All of them: a server has tens of projects.
select ping_key, id from projects
