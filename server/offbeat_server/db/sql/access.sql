-- Access keys, and the objects that were created under an idempotency key.

-- name: secret
-- Peppers the hashes; read once at the start of a process.
select secret from meta

-- name: admin_key
-- The hash of the generated admin key: null until a node has generated it.
select admin_key_hash, admin_key_home from meta

-- name: claim_admin_key
-- The first node's stays.
update meta set admin_key_hash = $1, admin_key_home = $2 where admin_key_hash is null

-- name: find_key
-- By its hash: a client cannot choose the value that is compared, so the timing reveals nothing. A revoked key is
-- unknown at once, in every process, because nothing is remembered between requests.
select k.id, k.role, k.name, k.prefix, k.project_id, p.slug as project, k.last_used_at
  from access_keys k left join projects p on p.id = k.project_id
 where k.hash = $1 and k.revoked_at is null

-- name: touch_key
-- To the minute: an UPDATE per request would be more work than most requests are.
update access_keys set last_used_at = now()
 where id = $1 and (last_used_at is null or last_used_at < now() - interval '1 minute')

-- name: insert_key
-- Only the hash stays.
insert into access_keys (project_id, role, name, prefix, hash)
values ($1, $2, $3, $4, $5)
returning id

-- name: keys
-- Revoked ones too, so that a key in an old log can be looked up.
select k.id, k.name, k.role, k.prefix, k.created_at, k.last_used_at, k.revoked_at, k.project_id, p.slug as project
  from access_keys k left join projects p on p.id = k.project_id
 where k.id > $1 and ($2::integer is null or k.project_id = $2)
 order by k.id
 limit $3

-- name: key
-- One by its id.
select k.id, k.name, k.role, k.prefix, k.created_at, k.last_used_at, k.revoked_at, k.project_id, p.slug as project
  from access_keys k left join projects p on p.id = k.project_id
 where k.id = $1

-- name: revoke_key
-- Once; the row says whether it was this call.
update access_keys set revoked_at = now() where id = $1 and revoked_at is null returning id

-- name: find_creation
-- Within a day; older ones are ignored.
select request, subject from creations where scope = $1 and key = $2 and created_at > now() - interval '1 day'

-- name: remember_creation
-- An older row of the same key is taken over.
insert into creations (scope, key, request, subject) values ($1, $2, $3, $4)
on conflict (scope, key) do update set request = excluded.request, subject = excluded.subject, created_at = now()

-- name: forget_creations
-- A few at a time, with each new one, so that no other job has to delete them.
delete from creations where (scope, key) in (
  select scope, key from creations where created_at < now() - interval '1 day' order by created_at limit 10)
