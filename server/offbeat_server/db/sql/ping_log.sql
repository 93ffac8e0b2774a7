-- Appending to the log.

-- name: append
-- The rows, in binary form; {columns} are those that db/copy_format.py writes.
copy pings ({columns}) from stdin (format binary)

-- name: register
-- A new writer, in one round trip and one transaction with the fencing of the one before it and with the refusals that
-- were not yet reported, so that no reader sees accepted_through pass them. They are given by their age, since the
-- process does not know the log time before the first answer of the database.
--
-- If the database's clock has jumped ($8: the former writer has seen it), or is behind what was already written, log
-- time continues from the last sign of any writer, or with the clock if the clock is further. The time that is skipped
-- counts as refused, like the rest.
with past as (
  select clock_timestamp() as clock, log_time() as at, max(accepted_through) as latest from writers
), jump as (
  select clock, at, latest, coalesce($8 or at < latest - interval '2 s', false) as seen from past
), here as (
  select clock, latest, seen, case when seen then greatest(clock, latest) else at end as at from jump
), moved as (
  update clock set set_at = here.clock, ahead = here.at - here.clock from here where here.seen
), leases as (
  -- One that was renewed while log time stood far ahead must not outlive its holder by as much.
  update lease set expires_at = least(expires_at, here.at + interval '10 s') from here where here.seen
), alerts as (
  -- Alerts that wait to be sent wait by the clock.
  update alerts set next_attempt_at = least(next_attempt_at, here.clock + interval '1 minute')
    from here where here.seen and state = 'pending'
), digests as (
  update digests set next_attempt_at = least(next_attempt_at, here.clock + interval '1 minute')
    from here where here.seen and state = 'pending'
), former as (
  update writers set fenced = true, seen_at = here.clock from here where id = $3 and not fenced
  returning accepted_through
), mine as (
  insert into writers (started_at, accepted_through, seen_at, node, metrics_address)
  select at, at, clock, $1, $2 from here
  returning id, started_at
), skipped as (
  insert into refusals (writer, started_at, ended_at, pings, reason)
  select mine.id, former.accepted_through, mine.started_at, 0, 'clock' from mine, former where $8
), lost as (
  -- Answered pings that are no longer in the log: $9 is the last instant of the former writer that is left of it.
  insert into refusals (writer, started_at, ended_at, pings, reason)
  select mine.id, least($9, mine.started_at), mine.started_at, $10, 'lost' from mine where $9 is not null
), refused as (
  insert into refusals (writer, started_at, ended_at, pings, reason)
  select mine.id, mine.started_at - r.first_age * interval '1 microsecond',
         mine.started_at - r.last_age * interval '1 microsecond', r.pings, r.reason
    from mine, unnest($4::bigint[], $5::bigint[], $6::bigint[], $7::text[]) as r (first_age, last_age, pings, reason)
)
select id, started_at from mine

-- name: standing
-- After a lost connection Postgres may be another one: a standby that was promoted without the last commits. An id may
-- then be given to another writer, so the start counts too.
select seq, accepted_through from writers where id = $1 and started_at = $2

-- name: latest
-- Read after a registration was committed: a scheduler that has not seen it has evaluated no further than this.
select max(accepted_through) from writers

-- name: pulse
-- The sign of life of an idle writer, and log time by the database. `greatest`: a pulse never takes back what a COPY
-- has said.
update writers
   set accepted_through = greatest(accepted_through, $2), seen_at = clock_timestamp()
 where id = $1 and not fenced
returning log_time()

-- name: report_refusals
-- Before the COPY or pulse that passes them, see schema.sql.
insert into refusals (writer, started_at, ended_at, pings, reason)
select $1, r.started_at, r.ended_at, r.pings, r.reason
  from unnest($2::timestamptz[], $3::timestamptz[], $4::bigint[], $5::text[]) as r (started_at, ended_at, pings, reason)

-- name: end_writer
-- An orderly stop: nothing will follow. Fenced too, so that it holds back no watermark and the scheduler need not find it dead.
update writers
   set accepted_through = greatest(accepted_through, $2), seen_at = clock_timestamp(), clean = true, fenced = true
 where id = $1 and not fenced

-- name: end_backend
-- Ends a session whose last COPY is doubtful, and waits until it is gone (at most $3 ms). The name is one of a kind:
-- behind a pooler, or after a failover, the number may be that of another process' session.
select pg_terminate_backend(pid, $3) from pg_stat_activity where pid = $1 and application_name = $2
