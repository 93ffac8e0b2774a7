-- People who are signed in. All ages are by the database's clock; a session that is too old is ignored.

-- name: open
-- A new id at every sign-in, so that an id that another person may have planted is never the one that counts.
insert into sessions (id, key_hash) values ($1, $2)

-- name: find
-- With the key that it stands on: a revoked key ends its sessions at once, in every process. The admin key of the
-- settings is in no table; its hash is compared by the caller.
select s.key_hash, k.role, k.prefix, k.project_id, p.slug as project
  from sessions s
  left join access_keys k on k.hash = s.key_hash and k.revoked_at is null
  left join projects p on p.id = k.project_id
 where s.id = $1
   and s.seen_at > now() - make_interval(secs => $2)
   and s.created_at > now() - make_interval(secs => $3)

-- name: living
-- Which of these sessions still stand; $4 is the hash of the admin key. It touches nothing: an open page does not prove that
-- a person looks at it.
select s.id
  from sessions s
  left join access_keys k on k.hash = s.key_hash and k.revoked_at is null
 where s.id = any($1::bytea[])
   and s.seen_at > now() - make_interval(secs => $2)
   and s.created_at > now() - make_interval(secs => $3)
   and (k.hash is not null or s.key_hash = $4)

-- name: touch
-- To the minute: a page more or less is not worth a write.
update sessions set seen_at = now() where id = $1 and seen_at < now() - interval '1 minute'

-- name: close
-- Signed out.
delete from sessions where id = $1

-- name: sweep
-- A few of the oldest with each sign-in, so that no other job has to delete them.
delete from sessions where id in (
  select id from sessions where seen_at < now() - make_interval(secs => $1) order by seen_at limit 100)
