-- The outbox: the dispatcher claims, sends and settles its alerts, and people query it.
--
-- A *lane* is a channel's queue (0: the server's own log). Of one incident in one lane only the lowest unsettled
-- (ordinal, round) may go. `next_attempt_at` is the lease too: a claim moves it ahead, so no other process finds the row.
-- now() and not clock_timestamp() where an index is to be used: the latter is not stable within a statement.

-- part: is_lowest
-- Alerts `a` of which nothing earlier about the same incident waits in the lane: see above.
and not exists (
  select from alerts b
   where b.state = 'pending' and b.monitor_id = a.monitor_id and b.incident = a.incident
     and b.lane = a.lane and (b.ordinal, b.round) < (a.ordinal, a.round))

-- part: is_over
-- Openings `a` whose incident is over before anything was sent of it.
(a.kind = 'opened' and a.attempts = 0 and exists (
   select from alerts r
    where r.state = 'pending' and r.monitor_id = a.monitor_id and r.incident = a.incident and r.lane = a.lane
      and r.kind = 'resolved' and r.attempts = 0))

-- part: is_new
-- Alerts `a` in the lane of `w` that were never tried and may go now.
a.lane = w.lane and a.state = 'pending' and a.digest_id is null and a.kind <> 'test'
and a.attempts = 0 and a.next_attempt_at <= now()
-- include: is_lowest

-- part: is_retry
-- And those that were tried.
a.lane = w.lane and a.state = 'pending' and a.digest_id is null and a.kind <> 'test'
and a.attempts > 0 and a.next_attempt_at <= now()
-- include: is_lowest

-- part: never_tried
-- Of the new ones those that a claim may take.
select a.id from alerts a
 where
 -- include: is_new
   and (w.alone or not
   -- include: is_over
   )

-- part: claimed
-- The columns of an alert `a` that the dispatcher has claimed.
a.id, a.lane, a.channel_id, a.project_id, a.monitor_id, a.incident, a.attempts, a.lapses, a.kind, a.facts, a.uid,
a.urgent, a.created_at, a.expires_at < clock_timestamp() as expired

-- part: is_explicit
-- Alerts `a` of something that a job itself said has failed.
(a.kind in ('opened', 'worse') and (
   a.facts @> '{"cause": "failed"}' or a.facts @> '{"causes": [{"cause": "failed"}]}'
   or a.facts @> '{"causes": [{"cause": "stage"}]}' or a.facts @> '{"causes": [{"cause": "tasks"}]}'
   or a.facts @> '{"causes": [{"cause": "incomplete"}]}'))

-- part: is_without_opening
-- Ends `a` of incidents of which nothing reached the channel: every alert before it died. (If there is none before it,
-- they were deleted.)
(a.kind = 'resolved' and exists (
   select from alerts o
    where o.monitor_id = a.monitor_id and o.incident = a.incident and o.lane = a.lane and o.id <> a.id)
 and not exists (
   select from alerts o
    where o.monitor_id = a.monitor_id and o.incident = a.incident and o.lane = a.lane and o.id <> a.id
      and o.state not in ('dead', 'expired')))

-- part: mark
-- The channels of alerts that are `given_up` count as failing, in the statement that gives them up: a crash loses neither.
marked as (
  update channels c
     set failing_since = clock_timestamp(), failing_why = g.error
    from (select distinct on (lane) lane, error from given_up where kind <> 'test' order by lane) as g
   where c.id = g.lane and c.failing_since is null
)

-- part: lapse_factor
-- How many times longer than the usual a claim lasts. A claim that ended without a result has lapsed: its sender died. An
-- alert or digest that kills its senders is claimed less and less often: up to 32 times as long.
power(2, greatest(0, least(lapses + (claimed_by is not null)::integer, 7) - 2))

-- part: waiting
-- Messages that wait for a retry.
select lane, created_at, error from alerts where state = 'pending' and error is not null and lane > 0
union all
select lane, created_at, error from digests where state = 'pending' and error is not null and lane > 0

-- part: secrets
-- Keys that may stand in a job's message and must not be sent.
(select array_agg(k.key) from keys k where k.monitor_id = a.monitor_id)
  || (select p.ping_key from projects p where p.id = a.project_id) as secrets

-- part: thread
-- The id that all alerts of the incident of `a` have in common: that of the first alert, to any channel. The incident's
-- number occurs again after a restore and in a copy of the database.
(select (array_agg(o.uid order by o.id))[1] from alerts o where o.monitor_id = a.monitor_id and o.incident = a.incident)
  as thread

-- part: as_it_stands
-- The facts of an alert `a`; where they tell of a fleet, with its members as the incident `i` has them now: members go
-- and come between two words.
a.facts || case when i.cause = 'members' and a.facts ->> 'cause' = 'members' then jsonb_build_object(
  'reason', i.reason,
  'causes', (select jsonb_agg(case c ->> 'cause' when 'members' then c || jsonb_build_object('reason', i.reason) else c end)
               from jsonb_array_elements(a.facts -> 'causes') as c)) else '{}' end

-- name: own_plans
-- The outbox is empty for months and then holds a hundred thousand rows: a plan made for the one is ruin for the other.
-- A plan of its own for each execution looks at the table's size of that moment.
set local plan_cache_mode = force_custom_plan

-- name: identity
-- Distinguishes the ids of this database's alerts from those of any other; a copy of the secret it is not.
select left(encode(sha256(secret || 'alerts'::bytea), 'hex'), 8) as instance from meta

-- name: due
-- From lane to lane ($1: after this one; or these, $5, where they are given), without those that may not send now ($2),
-- until $4 are found. Counted up to $3 each: urgent alerts never tried, other alerts never tried, of both those whose
-- incident is over, and retries. The steps of the recursion each touch one index entry, so this costs by lanes and never
-- by alerts; and it ends as soon as the limit is reached.
with recursive walk (lane) as (
  (select lane from alerts
    where state = 'pending' and digest_id is null and lane > $1 and $5::integer[] is null order by lane limit 1)
  union all
  select (select a.lane from alerts a
           where a.state = 'pending' and a.digest_id is null and a.lane > w.lane
           order by a.lane limit 1)
    from walk w
   where w.lane is not null
)
select w.lane, urgent.count as urgent, urgent.over as urgent_over, fresh.count as fresh, fresh.over as fresh_over,
       again.count as again
  from (select lane from walk union all select * from unnest($5)) w
 cross join lateral (
   select count(*)::integer, (count(*) filter (where found.over))::integer as over from (
     select
       -- include: is_over
       as over from alerts a
      where a.urgent and
        -- include: is_new
      limit $3) as found) as urgent
 cross join lateral (
   select count(*)::integer, (count(*) filter (where found.over))::integer as over from (
     select
       -- include: is_over
       as over from alerts a
      where not a.urgent and
        -- include: is_new
      limit $3) as found) as fresh
 cross join lateral (
   select count(*)::integer from (
     select from alerts a
      where
        -- include: is_retry
      limit $3) as found) as again
 where w.lane is not null and w.lane <> all ($2::integer[])
   and (urgent.count > 0 or fresh.count > 0 or again.count > 0)
 limit $4

-- name: channels_of
-- The channel of a lane, read again for every claim: a change of the channel applies to the next attempt.
select c.id, c.kind, c.definition::text as definition, c.slug, p.slug as project
  from channels c join projects p on p.id = c.project_id
 where c.id = any ($1::integer[])

-- name: cover_resolves
-- In services that keep incidents a digest is one incident, closed when all of its members are resolved. A resolve of
-- one member says nothing to them: it is part of that digest's end. (Where the open went alone, its resolve goes alone
-- too.)
update alerts r
   set state = 'collapsed', settled_at = clock_timestamp(), digest_id = o.digest_id,
       error = 'the end of its digest reports it'
  from alerts o
 where r.lane = any ($1::integer[]) and r.state = 'pending' and r.digest_id is null and r.kind = 'resolved'
   and o.monitor_id = r.monitor_id and o.incident = r.incident and o.lane = r.lane and o.kind = 'opened'
   and o.digest_id is not null and o.state <> 'pending'
returning r.lane

-- name: claim
-- For each lane at most that number of urgent alerts, of others that were never tried, and of retries. Unless `alone`,
-- an opening whose incident is over is left to the lane's next digest, which reports both in one message. A row that
-- still has a claimer was lost by it: from the third such loss on, the wait doubles each time, so that an alert that
-- kills its sender does so less and less often and delays few others. The keys that may stand in a job's message come
-- with it, so that they can be redacted.
with wanted as (
  select * from unnest($1::integer[], $2::integer[], $3::integer[], $4::integer[], $5::boolean[])
    as w (lane, urgent, fresh, again, alone)
), picked as (
  select found.id
    from wanted w
   cross join lateral (
     -- include: never_tried
        and a.urgent
      order by a.next_attempt_at, a.id
      limit w.urgent
        for update skip locked) as found
  union all
  select found.id
    from wanted w
   cross join lateral (
     -- include: never_tried
        and not a.urgent
      order by a.next_attempt_at, a.id
      limit w.fresh
        for update skip locked) as found
  union all
  select found.id
    from wanted w
   cross join lateral (
     select a.id from alerts a
      where
        -- include: is_retry
      order by a.next_attempt_at, a.id
      limit w.again
        for update skip locked) as found
)
update alerts a
   set attempts = a.attempts + 1,
       lapses = a.lapses + (a.claimed_by is not null)::integer,
       next_attempt_at = clock_timestamp()
         + $7::float8 * interval '1 second' *
       -- include: lapse_factor
       ,
       claimed_by = $6
  from picked
 where a.id = picked.id
returning
          -- include: claimed
          ,
          -- include: thread
          ,
          -- include: secrets

-- name: claim_tests
-- A person pressed a button and waits: a test goes at once, past the queue of its lane, and also if the lane pauses. A
-- test that kills its sender waits as any other alert does.
with picked as (
  select a.id from alerts a
   where a.state = 'pending' and a.kind = 'test' and a.next_attempt_at <= now()
   order by a.id
   limit $1
     for update skip locked
)
update alerts a
   set attempts = a.attempts + 1,
       lapses = a.lapses + (a.claimed_by is not null)::integer,
       next_attempt_at = clock_timestamp()
         + $3::float8 * interval '1 second' *
       -- include: lapse_factor
       ,
       claimed_by = $2
  from picked
 where a.id = picked.id
returning
          -- include: claimed
          , null::text[] as secrets

-- name: ends_without_opening
-- Ends of incidents are for channels that received the beginning.
select a.id from alerts a
 where a.id = any ($1::bigint[]) and
 -- include: is_without_opening

-- name: change_channel
-- A change that the service itself has reported, unless a person has changed the channel since.
update channels set definition = definition || $3::jsonb, updated_at = now() where id = $1 and definition @> $2::jsonb

-- name: introduce
-- A channel of a monitor that is down, which has no alert of it: it gets the opening as of now. The facts are those of the
-- last alert to another channel, with the present address of the monitor ($1: monitors under maintenance). Incidents that
-- are decided just now are left to the next time, and the others stand still until the alert is there, as for reminders.
-- So at most $3 at once, from monitor $2 on.
insert into alerts (project_id, channel_id, monitor_id, incident, ordinal, round, kind, facts, urgent)
select m.project_id, c.id, a.monitor_id, a.incident, a.ordinal, a.round, 'opened',
       -- include: as_it_stands
       || jsonb_build_object('monitor', m.slug, 'name', m.name,
         'project', (select p.slug from projects p where p.id = m.project_id), 'kind', 'opened', 'decided_at',
         to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')), true
  from incidents i
  join monitors m on m.id = i.monitor_id
  join channels c on c.project_id = m.project_id
                 and case when m.definition ? 'channels' then m.definition -> 'channels' ? c.slug else c.is_default end
 cross join lateral (
   select l.* from alerts l
    where l.monitor_id = i.monitor_id and l.incident = i.number
    order by l.ordinal desc, l.round desc
    limit 1) as a
 where i.resolved_at is null and i.suppressed_by is null
   and not m.paused
   and (m.snoozed_until is null or m.snoozed_until <= clock_timestamp())
   and m.id <> all ($1::integer[])
   and i.monitor_id >= $2
   and not exists (
     select from alerts o where o.monitor_id = i.monitor_id and o.incident = i.number and o.lane = c.id)
 order by i.monitor_id, c.id
 limit $3
   for share of i skip locked
on conflict do nothing
returning monitor_id

-- name: revive
-- Openings of open incidents that were given up, of which nothing else reached their channel, and that can arrive now: the
-- channel was changed since, or it works again ($1). The same alert, so the same id. Not more than twenty attempts.
update alerts a
   set state = 'pending', lapses = 0, settled_at = null, error = null, claimed_by = null, digest_id = null,
       -- Those that were combined are combined again: thousands of single retries would keep all others waiting.
       attempts = case when a.digest_id is null then greatest(a.attempts, 1) else 0 end,
       next_attempt_at = clock_timestamp(),
       expires_at = clock_timestamp() + interval '24 hours'
  from channels c, incidents i
 where a.state in ('dead', 'expired') and a.kind = 'opened' and c.id = a.channel_id
   and (c.updated_at > a.settled_at or (c.id = any ($1::integer[]) and a.attempts < 20))
   and i.monitor_id = a.monitor_id and i.number = a.incident and i.resolved_at is null
   and not exists (
     select from alerts o
      where o.monitor_id = a.monitor_id and o.incident = a.incident and o.lane = a.lane and o.id <> a.id
        and o.state in ('pending', 'delivered'))
returning a.id

-- name: last_change
-- Only a change of a monitor or a channel can bring a channel to an incident that is open already.
select coalesce(max(rev), 0) from changes

-- name: mark_failing
-- Channels at which retries do not help: an alert has waited for three minutes and nothing has arrived in that time, or
-- an alert has waited for an hour. (Of alerts that were given up the statements that settle them take care.)
with waiting as (
  -- include: waiting
), oldest as (
  select distinct on (lane) lane, created_at, error from waiting order by lane, created_at
)
update channels c
   set failing_since = clock_timestamp(), failing_why = o.error
  from oldest o
 where c.id = o.lane and c.failing_since is null and c.updated_at < now() - interval '3 minutes'
   and o.created_at < now() - interval '3 minutes'
   and (o.created_at < now() - interval '1 hour'
     or not exists (
       select from alerts a
        where a.lane = c.id and a.state = 'delivered' and a.settled_at > now() - interval '3 minutes'))

-- name: unreported
-- Failing channels that are to be reported on the other channels of the project: once for each mark, and once an hour.
select id, project_id, slug, failing_since, failing_why
  from channels
 where failing_since is not null
   and (failing_told_at is null or (failing_told_at < failing_since and failing_told_at < now() - interval '1 hour'))
   for update skip locked

-- name: working
-- Channels at which an alert or a test has arrived after the mark, while nothing was given up for a minute (or since the
-- channel was changed) and nothing has waited for an hour. The mark has other conditions, so that it cannot come back
-- until something else fails.
update channels c set failing_since = null, failing_why = null
 where c.failing_since is not null
   and exists (
     select from alerts a
      where a.lane = c.id and a.state = 'delivered'
        and a.settled_at > greatest(c.failing_since, now() - interval '10 minutes'))
   and not exists (
     select from alerts a
      where a.lane = c.id and a.state in ('dead', 'expired')
        and a.settled_at > greatest(c.updated_at, now() - interval '1 minute'))
   and not exists (
     select from (
       -- include: waiting
       ) as w
      where w.lane = c.id and w.created_at < now() - interval '1 hour')
returning c.id

-- name: hurry
-- Retries in channels that work again wait no longer.
with hurried_digests as (
  update digests set next_attempt_at = clock_timestamp()
   where lane = any ($1::integer[]) and state = 'pending' and claimed_by is null and attempts > 0
     and next_attempt_at > now()
)
update alerts set next_attempt_at = clock_timestamp()
 where lane = any ($1::integer[]) and state = 'pending' and digest_id is null and claimed_by is null and attempts > 0
   and next_attempt_at > now()

-- name: report_failing
-- To the other default channels of the project ($2) that work, else to any that work, else to the log.
with told as (
  update channels set failing_told_at = clock_timestamp() where id = any ($1::integer[])
), others as (
  select id, is_default from channels where project_id = $2 and id <> all ($1::integer[]) and failing_since is null
), chosen as (
  select id from others where is_default or not exists (select from others where is_default)
)
insert into alerts (project_id, channel_id, kind, facts, urgent)
select $2, id, 'operator', $3::jsonb, true from chosen
union all
select $2, null, 'operator', $3::jsonb, true where not exists (select from chosen)

-- name: flapping
-- How many incidents of the same monitor this lane received, or was to receive, in the hour before each of these opens.
-- The numbers of a monitor's incidents rise with time, so the last fifty are enough.
select a.id, count(o.id)::integer as earlier
  from alerts a
  left join alerts o
    on o.monitor_id = a.monitor_id and o.incident between a.incident - 50 and a.incident - 1
   and o.lane = a.lane and o.kind = 'opened' and o.created_at > a.created_at - interval '1 hour'
 where a.id = any ($1::bigint[])
 group by a.id

-- name: note
-- The facts that the dispatcher adds before the first attempt: they must be stored before anything is sent, so that a
-- retry sends the same. (A statement whose connection was lost may come later than that.)
update alerts a
   set facts = a.facts || jsonb_build_object('flapping', n.flapping)
  from unnest($1::bigint[], $2::jsonb[]) as n (id, flapping)
 where a.id = n.id and a.claimed_by = $3 and a.state = 'pending' and a.attempts = 1

-- name: hold
-- Back into the queue as never tried, until later: together with those of the same monitor that are held back already,
-- so that one message can report all of them.
update alerts a
   set attempts = 0, claimed_by = null,
       next_attempt_at = coalesce(
         (select min(h.next_attempt_at) from alerts h
           where h.state = 'pending' and h.monitor_id = a.monitor_id and h.lane = a.lane and h.kind = 'opened'
             and h.attempts = 0 and h.next_attempt_at > clock_timestamp()),
         clock_timestamp() + $3::float8 * interval '1 second')
 where a.id = any ($1::bigint[]) and a.claimed_by = $2 and a.state = 'pending' and a.attempts = 1

-- name: renew
-- Alerts that are still being sent stay claimed.
update alerts
   set next_attempt_at = greatest(next_attempt_at, clock_timestamp() + $3::float8 * interval '1 second')
 where id = any ($1::bigint[]) and claimed_by = $2 and state = 'pending'

-- name: renew_digests
-- The same for digests.
update digests
   set next_attempt_at = greatest(next_attempt_at, clock_timestamp() + $3::float8 * interval '1 second')
 where id = any ($1::bigint[]) and claimed_by = $2 and state = 'pending'

-- name: settle
-- The results of attempts, in bulk. A delivered alert is delivered, also if the claim was lost since: that saves the
-- second copy if the other process has not sent yet. `pending` is a retry after that number of seconds.
with settled as (
  update alerts a
     set state = s.state, error = s.error, claimed_by = null,
         settled_at = case when s.state <> 'pending' then clock_timestamp() end,
         next_attempt_at = case when s.state = 'pending' then clock_timestamp() + s.wait_s * interval '1 second'
                                else a.next_attempt_at end
    from unnest($1::bigint[], $2::text[], $3::float8[], $4::text[]) as s (id, state, wait_s, error)
   where a.id = s.id and a.state = 'pending' and (a.claimed_by = $5 or s.state = 'delivered')
  returning a.lane, a.kind, a.state, a.error
), given_up as (
  select lane, kind, error from settled where state in ('dead', 'expired')
),
-- include: mark
select count(*) from settled

-- name: release
-- An orderly stop: what was not finished may be taken by another at once.
with given as (
  update digests set claimed_by = null, next_attempt_at = clock_timestamp()
   where state = 'pending' and claimed_by = $1
)
update alerts set claimed_by = null, next_attempt_at = clock_timestamp()
 where state = 'pending' and claimed_by = $1

-- name: expire
-- News that is too old is none. (What is being sent just now is left to its attempt.)
with given_up as (
  update alerts a
     set state = 'expired', settled_at = clock_timestamp(), error = coalesce(a.error, 'was not delivered in time')
   where a.state = 'pending' and a.digest_id is null and a.claimed_by is null and a.expires_at < now()
  returning a.lane, a.kind, a.error
),
-- include: mark
select coalesce(c.kind, 'log') as kind from given_up g left join channels c on c.id = g.lane

-- name: attach
-- A digest of the never tried alerts of a lane that may go, if they are at least $3: one row, and they are part of it,
-- together with what follows about the same incidents ($4; it would wait for them for ever). The body follows in the
-- same transaction. $5: resolves too. $6: `all`; `rest`: without urgent ones, which go alone; `over`: only openings whose
-- incident is over, which the others include. Of monitors with an explicit failure at most $7, so that the message can
-- name each; `left` says whether there are more. (`+ 0` and `offset 0` make the planner look up each incident by itself:
-- before the first statistics of a storm it would compare all alerts with all.)
with ready as (
  select a.id, a.monitor_id, a.incident, a.lane, a.next_attempt_at
    from alerts a
   where a.lane = $1 and a.state = 'pending' and a.digest_id is null
     and a.attempts = 0 and a.next_attempt_at <= now()
     and a.expires_at > now() and a.kind not in ('operator', 'test') and ($5 or a.kind <> 'resolved') and not
     -- include: is_without_opening
     and ($6 = 'all' or ($6 = 'rest' and not a.urgent) or
     -- include: is_over
     )
     -- include: is_lowest
   order by a.next_attempt_at, a.id
   limit $2
     for update skip locked
), classified as (
  select r.*, exists (
           select from alerts a
            where a.monitor_id = r.monitor_id and a.incident = r.incident and a.lane = r.lane and a.state = 'pending' and
            -- include: is_explicit
         ) as explicit
    from ready r
), failing as (
  select monitor_id from classified where explicit group by monitor_id order by min(next_attempt_at), monitor_id limit $7
), picked as (
  select * from classified r where not r.explicit or exists (select from failing f where f.monitor_id = r.monitor_id)
), following as (
  select f.id from picked p
   cross join lateral (
     select b.id from alerts b
      where b.monitor_id = p.monitor_id and b.incident = p.incident and b.lane = p.lane and b.id <> p.id
        and b.state = 'pending' and b.digest_id + 0 is null and b.attempts = 0
     offset 0) as f
   where $4
), every as (
  select id from picked union select id from following
), made as (
  insert into digests (project_id, channel_id, alerts, facts, body)
  select c.project_id, nullif($1, 0), count(every.id), '{}', ''
    from every
    left join channels c on c.id = $1
   group by c.project_id
  having count(every.id) >= $3
  returning id, created_at, uid
), part as (
  update alerts a set digest_id = made.id from made, every where a.id = every.id and a.state = 'pending'
  returning a.id
)
select made.id, made.created_at, made.uid, (select count(*) from part)::integer as alerts,
       (select count(*) from ready) > (select count(*) from picked) as left
  from made

-- name: members_counted
-- The counts of a digest: alerts of each kind, incidents that begin and end, and the first and the last instant.
select count(*) filter (where kind = 'opened')::integer as opened,
       count(*) filter (where kind = 'worse')::integer as worse,
       count(*) filter (where kind = 'reminder')::integer as reminder,
       count(*) filter (where kind = 'resolved')::integer as resolved,
       (select count(*) from (
          select from alerts where digest_id = $1 group by monitor_id, incident
          having bool_or(kind = 'opened') and bool_or(kind = 'resolved')) as both_ends)::integer as recovered,
       min(coalesce(case kind when 'resolved' then facts ->> 'resolved_at' else facts ->> 'opened_at' end,
                    facts ->> 'decided_at')) as since,
       max(coalesce(case kind when 'resolved' then facts ->> 'resolved_at' else facts ->> 'opened_at' end,
                    facts ->> 'decided_at')) as until,
       max(facts ->> 'decided_at') as decided_at
  from alerts where digest_id = $1

-- name: members_whole
-- The members one by one, for machines: trouble before what is over, the oldest first.
select a.id, a.monitor_id, a.incident, a.kind, a.facts, a.uid,
       -- include: thread
       ,
       -- include: secrets
  from alerts a
 where a.digest_id = $1
 order by (a.kind = 'resolved'), a.id
 limit $2

-- name: members_named
-- The monitors that a message names: at most $2, each with the number of its incidents in the digest and the latest $3
-- of them. Explicit failures come first, then what is still down, then what has recovered, then mere ends. (`+ 0` keeps
-- the planner from an index that leads to fifty thousand rows.)
with told as (
  select a.monitor_id, a.incident, bool_or(a.kind = 'resolved') as over, bool_or(a.kind = 'opened') as opened,
         bool_or(a.kind <> 'resolved') as trouble, coalesce(min(a.id) filter (where
         -- include: is_explicit
         ), min(a.id)) as id, bool_or(
         -- include: is_explicit
         ) as explicit
    from alerts a where a.digest_id = $1
   group by a.monitor_id, a.incident
), monitors_told as (
  select monitor_id, count(*)::integer as incidents, min(id) as id,
         min(case when explicit then 0 when trouble and not over then 1 when trouble then 2 else 3 end) as place
    from told group by monitor_id
   order by place, id
   limit $2
), chosen as (
  select t.*, m.incidents, m.place, m.id as first_id,
         row_number() over (partition by t.monitor_id order by t.explicit desc, t.trouble desc, t.incident desc) as turn
    from monitors_told m join told t using (monitor_id)
)
select a.monitor_id, a.incident, a.kind, a.facts, c.incidents, c.explicit, c.opened,
       (select r.facts ->> 'resolved_at' from alerts r
         where r.digest_id + 0 = $1 and r.monitor_id = c.monitor_id and r.incident = c.incident and r.kind = 'resolved'
         limit 1) as resolved_at,
       -- include: secrets
  from chosen c join alerts a on a.id = c.id
 where c.turn <= $3
 order by c.place, c.first_id, c.turn

-- name: write_digest
-- Stored before it is sent, and claimed with it.
update digests
   set facts = $2::jsonb, body = $3, claimed_by = $4, attempts = 1, alerts = $6,
       next_attempt_at = clock_timestamp() + $5::float8 * interval '1 second'
 where id = $1

-- name: lanes_in_digests
-- A lane with a digest under way sends nothing else: its members stand before everything that followed them, and so thousands
-- of followers need not be looked at. Not for ever: one that its receiver will not take must not silence the lane, and
-- then is tried among the others.
select lane, bool_or(attempts < $1) as first from digests where state = 'pending' group by lane

-- name: claim_digests
-- As for alerts; there are few. In the order of a lane, unless the one before has failed that often ($5). Either those
-- that have not ($6), or those that have.
with picked as (
  select d.id from digests d
   where d.state = 'pending' and d.next_attempt_at <= now() and d.lane <> all ($1::integer[])
     and (d.attempts < $5) = $6
     and not exists (
       select from digests b where b.state = 'pending' and b.lane = d.lane and b.id < d.id and b.attempts < $5)
   order by d.next_attempt_at
   limit $2
     for update skip locked
)
update digests d
   set attempts = d.attempts + 1,
       lapses = d.lapses + (d.claimed_by is not null)::integer,
       next_attempt_at = clock_timestamp()
         + $4::float8 * interval '1 second' *
       -- include: lapse_factor
       ,
       claimed_by = $3
  from picked
 where d.id = picked.id
returning d.id, d.lane, d.kind, d.attempts, d.alerts, d.closes, d.facts,
          d.body, d.created_at, d.expires_at < clock_timestamp() as expired, d.uid,
          (select c.uid from digests c where c.id = d.closes) as closes_uid

-- name: settle_digest
-- The digest's own row.
with settled as (
  update digests d
     set state = $2, error = $4, claimed_by = null,
         settled_at = case when $2 <> 'pending' then clock_timestamp() end,
         next_attempt_at = case when $2 = 'pending' then clock_timestamp() + $3::float8 * interval '1 second'
                                else d.next_attempt_at end
   where d.id = $1 and d.state = 'pending' and (d.claimed_by = $5 or $2 = 'delivered')
  returning d.id, d.lane, d.kind, d.state, d.error
), given_up as (
  select lane, kind, error from settled where state in ('dead', 'expired')
),
-- include: mark
select id from settled

-- name: settle_members
-- And its members, in the same transaction. As many as fifty thousand: this has a time-out of its own.
update alerts set state = $2, error = $3, settled_at = clock_timestamp() where digest_id = $1 and state = 'pending'

-- name: all_over
-- Digests as incidents at a service, of which every member is resolved. The first open member ends the search.
select d.id, d.lane, d.alerts, d.uid
  from digests d
 where d.state = 'delivered' and d.kind = 'digest' and d.lane = any ($1::integer[])
   and d.settled_at > now() - interval '30 days'
   and not exists (select from digests o where o.closes = d.id)
   and not exists (
     select from alerts m
       join incidents i on i.monitor_id = m.monitor_id and i.number = m.incident
      where m.digest_id = d.id and i.resolved_at is null)

-- name: close_digest
-- The message that closes it waits in the lane like any other. Two dispatchers meet at digests_closes.
insert into digests (project_id, channel_id, alerts, closes, kind, facts, body)
select project_id, channel_id, alerts, id, 'over', $2::jsonb, $3 from digests where id = $1
on conflict do nothing

-- name: lanes_of_kinds
-- The channels of these kinds.
select id, kind, definition::text as definition, project_id from channels where kind = any ($1::text[])

-- name: remind
-- Reminders of open incidents, by the definition of this moment: the incident is not acknowledged, its monitor is
-- neither paused nor snoozed nor under maintenance ($2) and still has that channel, and the last alert to it was
-- delivered `remind_every` ago. A reminder repeats the facts of that last alert, a fleet's as they are now; `round`
-- orders it after that alert and before the scheduler's next one. The unique index alerts_once holds if two dispatchers
-- do this at once. monitors_reminded keeps a million monitors without reminders out of it. Incidents that are locked by
-- a decision are left to the next round; the others stay locked until the reminder is written: otherwise it could follow
-- a resolve that was sent in the same moment.
insert into alerts (project_id, channel_id, monitor_id, incident, ordinal, round, kind, facts)
select a.project_id, a.channel_id, a.monitor_id, a.incident, a.ordinal, a.round + 1, 'reminder',
       -- include: as_it_stands
       || jsonb_build_object('kind', 'reminder', 'decided_at',
         to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))
  from monitors m
  join incidents i on i.monitor_id = m.id and i.resolved_at is null and i.acknowledged_at is null
                  and i.suppressed_by is null
 cross join lateral (
   select distinct on (l.lane) l.*
     from alerts l
    where l.monitor_id = i.monitor_id and l.incident = i.number
    order by l.lane, l.ordinal desc, l.round desc) as a
  left join channels c on c.id = a.channel_id
 where m.definition ? 'remind_every'
   and not m.paused
   and (m.snoozed_until is null or m.snoozed_until <= clock_timestamp())
   and m.id <> all ($2::integer[])
   and a.state = 'delivered'
   and a.settled_at <= clock_timestamp() - (m.definition ->> 'remind_every')::interval
   and case when a.lane = 0 then true
            when m.definition ? 'channels' then m.definition -> 'channels' ? c.slug
            else c.is_default end
 order by a.id
 limit $1
   for share of i skip locked
on conflict do nothing
returning lane

-- name: maintained
-- Monitors with reminders in the projects ($1) that have a maintenance window at this moment.
select m.id, m.project_id, m.slug, m.tags
  from monitors m
  join incidents i on i.monitor_id = m.id and i.resolved_at is null
 where m.definition ? 'remind_every' and m.project_id = any ($1::integer[])

-- name: windows
-- Few rows, whole; which of them are open is the engine's own question.
select project_id, definition from windows

-- name: firing
-- The alerts that an Alertmanager should hold: every open incident of which this channel ($1) has received an alert, by
-- its last alert; none of a paused monitor. An alert that was never tried (the present attempt aside) is not repeated: if its incident resolves
-- first, no end would be sent. In pages of $3 by monitor, after $2.
select i.monitor_id, a.id, a.incident, a.kind,
       -- include: as_it_stands
       as facts, a.uid,
       -- include: thread
       ,
       -- include: secrets
  from incidents i
 cross join lateral (
   select l.* from alerts l
    where l.monitor_id = i.monitor_id and l.incident = i.number and l.lane = $1
      and l.state <> 'collapsed' and l.kind <> 'resolved'
      and (l.state <> 'pending' or l.digest_id is not null or l.attempts > (l.claimed_by is not null)::integer)
    order by l.ordinal desc, l.round desc
    limit 1) as a
 where i.resolved_at is null and i.monitor_id > $2
   and not exists (select from monitors m where m.id = i.monitor_id and m.paused)
 order by i.monitor_id
 limit $3

-- name: just_resolved
-- The incidents whose end was sent to an Alertmanager within the last $2 seconds, to be sent again: one of its peers may
-- have been away. Found by the instant at which the alerts were settled, because incidents have no index for it and need none. In pages of $4 by id, after
-- $3: of a monitor's incidents the later has the higher one.
select a.monitor_id, a.id, a.incident, a.kind, a.facts, a.uid,
       -- include: thread
       ,
       -- include: secrets
  from alerts a
 where a.settled_at > now() - $2::float8 * interval '1 second'
   and a.lane = $1 and a.kind = 'resolved' and a.state = 'delivered'
   and a.id > $3
   and not exists (select from incidents i where i.monitor_id = a.monitor_id and i.resolved_at is null)
 order by a.id
 limit $4

-- name: resend
-- On request: a settled alert is sent again, alone and with all its time, under the same id. It counts as tried: it
-- is neither held back nor put into a digest, and an open and its resolve that are both asked for do not cancel out.
update alerts
   set state = 'pending', attempts = 1, lapses = 0, settled_at = null, error = null, claimed_by = null, digest_id = null,
       next_attempt_at = clock_timestamp(), expires_at = clock_timestamp() + interval '24 hours'
 where id = $1 and state <> 'pending'
returning id

-- name: page
-- Alerts for people, the newest first; any of the filters may be null. Of the facts, which may be long, only whose they
-- are. Of a digest: how many alerts are in it, and whether it reports the end of the same incident too.
select a.id, a.created_at, a.next_attempt_at, a.settled_at, a.expires_at, a.digest_id, p.slug as project,
       c.slug as channel, c.kind as channel_kind, a.monitor_id, a.incident, a.ordinal, a.round, a.attempts, a.kind,
       a.state, a.error, a.facts ->> 'monitor' as monitor, d.alerts as digest_alerts,
       a.kind = 'opened' and exists (
         select from alerts r
          where r.digest_id + 0 = a.digest_id and r.monitor_id = a.monitor_id and r.incident = a.incident
            and r.kind = 'resolved' and r.state <> 'collapsed') as recovered_unsent
  from alerts a
  join projects p on p.id = a.project_id
  left join channels c on c.id = a.channel_id
  left join digests d on d.id = a.digest_id
 where ($1::integer is null or a.project_id = $1)
   and ($2::text[] is null or a.state = any ($2))
   and ($3::integer is null or a.monitor_id = $3)
   and ($4::integer is null or a.incident = $4)
   and ($5::integer is null or a.channel_id = $5)
   and ($6::bigint is null or a.id < $6)
 order by a.id desc
 limit $7

-- name: sweep
-- Settled alerts that are older than $1 days, never those of an open incident (reminders and Alertmanagers live on them),
-- or of one of which something waits (its thread is that of the first alert).
delete from alerts
 where id in (
   select a.id from alerts a
    where a.settled_at < now() - $1::integer * interval '1 day'
      and not exists (
        select from incidents i
         where i.monitor_id = a.monitor_id and i.number = a.incident and i.resolved_at is null)
      and not exists (
        select from alerts p
         where p.state = 'pending' and p.monitor_id = a.monitor_id and p.incident = a.incident)
    limit $2)

-- name: sweep_digests
-- And the digests without alerts.
delete from digests d
 where d.settled_at < now() - $1::integer * interval '1 day'
   and not exists (select from alerts a where a.digest_id = d.id)
