-- What a connection asks before it is used.

-- name: durability
-- Behind a pooler a session cannot choose synchronous_commit, so the promise that a 2xx means committed is checked here.
select current_setting('synchronous_commit') as synchronous_commit, current_user as role
