-- Every change of a definition: numbered in the order of commits, and kept as the audit log.

-- name: lock
-- Taken first in every transaction that changes a definition, and held to its end: a reader that has seen rev n
-- has then seen all before it. The number is that of the changes lock alone; nothing else takes it.
select pg_advisory_xact_lock(6238142001)

-- name: next_revs
-- Numbers for a whole batch at once; the lock makes them greater than all that are committed.
select nextval(pg_get_serial_sequence('changes', 'rev')) as rev from generate_series(1, $1::integer)

-- name: record
-- One row a change, in the transaction of the change.
insert into changes (rev, project_id, monitor_id, actor, kind, subject, before, after)
overriding system value
select c.rev, c.project_id, c.monitor_id, $1, c.kind, c.subject, c.before::jsonb, c.after::jsonb
  from unnest($2::bigint[], $3::integer[], $4::integer[], $5::text[], $6::text[], $7::text[], $8::text[])
    as c (rev, project_id, monitor_id, kind, subject, before, after)

-- name: page
-- The audit log, the newest first.
select c.rev, c.at, p.slug as project, c.actor, c.kind, c.subject, c.before, c.after
  from changes c left join projects p on p.id = c.project_id
 where c.rev < $1
   and ($2::integer is null or c.project_id = $2)
   and ($3::text is null or c.kind = $3)
   and ($4::text is null or c.subject = $4)
 order by c.rev desc
 limit $5

-- name: since
-- The changes of an object since its form was opened. Read backwards from the newest: the form is young.
select c.rev, c.at, c.actor, c.kind, c.before, c.after
  from changes c
 where c.rev > $1 and c.project_id = $2 and c.kind = any($3::text[]) and c.subject = $4
 order by c.rev desc
 limit $5

-- name: of_incident
-- The actions of people on one incident. Few rows: changes_monitor narrows to one monitor.
select c.rev, c.at, c.actor, c.kind, c.after
  from changes c
 where c.monitor_id = $1 and c.kind in ('acknowledge', 'resolve', 'comment') and (c.after ->> 'incident')::integer = $2
 order by c.rev
