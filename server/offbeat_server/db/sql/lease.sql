-- Leases: who may evaluate deadlines (the scheduler, `keeper`) and who may send alerts (the dispatcher, `courier`). One
-- row for each, log time by the database, a term. (The database's own clock may be set back, and then the lease of a dead
-- process would last that much longer.)

-- part: may_be_taken
-- Leases `l` that are free, our own, or ahead of the clock: an expired one; one of the holder $2, since an attempt whose
-- answer was lost may have come through; or one that ends later than any of $4 seconds can, since it was renewed while
-- the database's clock stood far ahead.
(l.holder = $2 or l.expires_at not between log_time() and log_time() + 2 * make_interval(secs => $4))

-- name: take
-- By the scheduler. The term grows with every take, also of one's own lease: decisions are fenced by it, and those of an
-- earlier term must fail. `term` is part of a key, so this waits for every transaction that holds `for key share`.
update lease l
   set term = l.term + 1, holder = $2, node = $3, metrics_address = $5, taken_at = log_time(),
       expires_at = log_time() + make_interval(secs => $4)
 where l.name = $1 and
 -- include: may_be_taken
returning l.term

-- name: take_or_renew
-- By the dispatcher, which fences nothing: two that work for a moment do no harm, since claims are by row. So one
-- statement takes and renews, and the term grows with the holder. A dispatcher in the scheduler's process goes first,
-- because it learns of decisions at once.
update lease l
   set term = l.term + (l.holder <> $2)::integer,
       taken_at = case when l.holder = $2 then l.taken_at else log_time() end,
       holder = $2, node = $3, expires_at = log_time() + make_interval(secs => $4)
 where l.name = $1
   and (
   -- include: may_be_taken
     or (l.node <> $3 and exists (
          select from lease k where k.name = 'keeper' and k.node = $3 and k.expires_at > log_time())))
returning l.term

-- name: end_stuck_sessions
-- A process that froze within a transaction holds its locks: on the lease, on the changes, on rows that the scheduler
-- must write. If it froze between two statements, `bound_idle` ends its session; between the parsing of a statement and its
-- execution a session is not idle, and neither that nor `statement_timeout` ends it (the driver sends the two apart,
-- behind a pooler each time). Transactions that only read delay no other process for long. Writers are left alone: they send one
-- statement, whose locks are its last act. `keeper` and `upkeep` are names of processes of former releases, which may
-- run beside this one during an upgrade.
select pg_terminate_backend(a.pid) from pg_stat_activity a
 where a.usename = current_user and a.datname = current_database()
   and a.application_name in ('offbeat', 'offbeat scheduler', 'offbeat start', 'offbeat retention',
                              'offbeat keeper', 'offbeat upkeep')
   and a.state in ('active', 'idle in transaction') and a.wait_event = 'ClientRead'
   and a.state_change < clock_timestamp() - interval '3 s'
   and (a.backend_xid is not null
        or exists (select from pg_locks l where l.pid = a.pid and l.locktype = 'advisory' and l.granted))

-- name: renew
-- Touches no key column, so it passes every `for key share`. An expired lease is not renewed: another process may be
-- about to take it.
update lease set expires_at = log_time() + make_interval(secs => $4)
 where name = $1 and term = $2 and holder = $3 and expires_at >= log_time()
returning term

-- part: released
-- A graceful stop: the next process need not wait.
update lease set expires_at = '-infinity' where name = $1 and holder = $2

-- name: release
-- By the scheduler, in its term: a late statement must not release a lease that the same process has taken again.
-- include: released
   and term = $3

-- name: release_in_any_term
-- By the dispatcher, which does not know its term if the answer to its take was lost.
-- include: released

-- name: bound_idle
-- A frozen holder must not keep a take-over waiting for ever; see `end_stuck_sessions` too. And every statement is planned for
-- the tables as they are now: a plan made while there were no alerts would read all of them for each of a hundred
-- thousand resolutions.
select set_config('idle_in_transaction_session_timeout', '3s', true),
       set_config('plan_cache_mode', 'force_custom_plan', true)

-- name: hold
-- The first statement of every transaction that only the holder may make: a renewal passes, a take-over waits.
select 1 from lease where name = $1 and term = $2 and holder = $3 for key share

-- name: outlast
-- After a lost connection: its transaction in `hold` may still commit. This waits for the end of that transaction, and
-- lets renewals pass.
select 1 from lease where name = $1 and term = $2 and holder = $3 for update
