-- The right to judge: one row per name, the database's clock, a term that grows with every take-over.

-- name: take
-- Only an expired lease is taken. `term` is part of a key, so this waits for whoever holds `for key share`.
update lease
   set term = term + 1, holder = $2, node = $3, metrics_address = $5, taken_at = clock_timestamp(),
       expires_at = clock_timestamp() + make_interval(secs => $4)
 where name = $1 and expires_at < clock_timestamp()
returning term

-- name: renew
-- Touches no key column, so it passes every `for key share`. An expired lease is not renewed: somebody may be about to
-- take it.
update lease set expires_at = clock_timestamp() + make_interval(secs => $4)
 where name = $1 and term = $2 and holder = $3 and expires_at >= clock_timestamp()
returning term

-- name: release
-- A graceful stop: the next one need not wait.
update lease set expires_at = '-infinity' where name = $1 and term = $2 and holder = $3

-- name: bound_idle
-- A frozen holder must not keep a take-over waiting for ever.
set local idle_in_transaction_session_timeout = '3s'

-- name: hold
-- The first statement of every transaction that only the holder may make: a renewal passes, a take-over waits.
select 1 from lease where name = $1 and term = $2 and holder = $3 for key share
