-- Offbeat's whole schema, applied once to an empty database by db/schema.py.
--
-- docs/concepts/glossary.md defines the terms. Times are timestamptz; every instant in `pings`, `states`, `runs` and `incidents`
-- is *log time* (see common/clock.py). No foreign key points at or leaves the log: a ping must never wait for a lock
-- on a definition. Columns of the large tables are ordered by width, so that rows carry no padding.

-- A change of this file comes with a numbered file in server/offbeat_server/db/migrations that brings an older database
-- to it. A new column stands last in its table, so that both ways give the same schema.

create table meta (
  one             boolean primary key default true check (one),
  schema_version  integer not null,
  created_at      timestamptz not null default now(),
  -- Signs sessions and peppers the hashes of access keys; never leaves the database and the processes.
  secret          bytea not null,
  -- The oldest program, by the schema version that it knows, that can still work with this one: in a rolling upgrade
  -- both are there.
  usable_from     integer not null default 1,
  -- The generated admin key of this installation: its hash, and where it was shown and is kept.
  admin_key_hash  bytea,
  admin_key_home  text
);

-- Log time is this database's clock, but it never goes back. If the clock was set back, log time continues from its last
-- value, `ahead` of the clock at `set_at` (by that clock), and a tenth slower until both are equal again.
create table clock (
  one     boolean primary key default true check (one),
  set_at  timestamptz not null,
  ahead   interval not null
);

create function log_time() returns timestamptz language sql volatile as $$
  select clock_timestamp()
         + greatest(interval '0', ahead - greatest(interval '0', clock_timestamp() - set_at) / 10)
    from clock
$$;

---------------------------------------------------------------------------------------------------- definitions

create type signal as enum ('start', 'success', 'fail', 'log', 'progress', 'skip', 'leave');

create table projects (
  id          integer generated always as identity primary key,
  slug        text not null unique,
  name        text not null,
  ping_key    text not null unique,          -- addresses monitors by slug: /ping/{ping_key}/{slug}
  definition  jsonb not null default '{}',
  created_at  timestamptz not null default now(),
  rev         bigint not null default 0      -- the last change by version 5 or later that wrote this row; 0: none
);

create table channels (
  id          integer generated always as identity primary key,
  project_id  integer not null references projects on delete cascade,
  slug        text not null,
  kind        text not null,                 -- webhook, log, email, slack, ...
  is_default  boolean not null default true, -- used by every monitor of the project that names no channels
  definition  jsonb not null,                -- as notify/channels reads it; may hold secrets, never shown whole
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now(),
  -- When it was marked as failing, why, and when this was last reported on the other channels; null: it is not failing.
  failing_since   timestamptz,
  failing_why     text,
  failing_told_at timestamptz,
  rev             bigint not null default 0, -- the last change by version 5 or later that wrote this definition; 0: none
  unique (project_id, slug)
);

create table monitors (
  id          integer generated always as identity primary key,
  project_id  integer not null references projects on delete cascade,
  rev         bigint not null,               -- the change that wrote this definition
  slug        text not null,
  name        text not null,
  tags        text[] not null default '{}',
  paused      boolean not null default false,
  snoozed_until timestamptz,                 -- alerts, not the record, are held back until then
  definition  jsonb not null,                -- as engine/model/definition.py reads it
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now(),
  newer_fields jsonb not null default '{}',  -- the fields of it that the program of version 5 does not know: NEWER_FIELDS
  unique (project_id, slug)
);
-- The few that refer to others: who depends on whom is asked at every change and deletion.
create index monitors_linked on monitors (project_id) where definition ?| array['depends_on', 'after'];
-- The few monitors with reminders of open incidents.
create index monitors_reminded on monitors (id) where definition ? 'remind_every';

-- Every monitor has one main UUID key; more can be added, also ones brought from another service,
-- and a key may be bound to a signal and a stage. Plain text, since the ping address must be shown again.
create table keys (
  monitor_id  integer not null references monitors on delete cascade,
  project_id  integer not null,
  key         text primary key,
  main        boolean not null default false,
  signal      signal,
  stage       text,
  created_at  timestamptz not null default now()
);
create index keys_monitor on keys (monitor_id);
create unique index keys_main on keys (monitor_id) where main;

-- The former addresses of monitors that were renamed or moved, until another monitor takes the slug: pings still arrive
-- by them, and pages lead to the new one.
create table former_slugs (
  project_id  integer not null references projects on delete cascade,
  slug        text not null,
  monitor_id  integer not null references monitors on delete cascade,
  since       timestamptz not null default now(),
  primary key (project_id, slug)
);
create index former_slugs_monitor on former_slugs (monitor_id);

-- Times in which a project's monitors are evaluated and recorded, and no alert is sent.
create table windows (
  id          integer generated always as identity primary key,
  project_id  integer not null references projects on delete cascade,
  rev         bigint not null,               -- the change that wrote this definition
  slug        text not null,
  definition  jsonb not null,                -- as engine/schedule/maintenance_windows.py reads it
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now(),
  unique (project_id, slug)
);

-- Every change of a definition, and the audit log. Written in the transaction of the change itself, under
-- pg_advisory_xact_lock(changes_lock), so that the order of `rev` is the order of commits and a reader that has seen
-- rev n has seen all before it. `before` is null for a creation, `after` for a deletion.
create table changes (
  rev         bigint generated always as identity primary key,
  at          timestamptz not null default now(),
  project_id  integer,
  monitor_id  integer,
  actor       text not null,                 -- who: 'admin', 'apply', 'ping', a key's prefix
  kind        text not null,                 -- monitor, key, channel, project, window, move, pause, snooze, acknowledge, resolve, close
  subject     text not null,                 -- the slug of what was changed
  before      jsonb,
  after       jsonb,
  effective_at timestamptz                   -- log time: when the deletion of a monitor, or a change of a window, took effect
);
create index changes_monitor on changes (monitor_id, rev);

-- Keys of people and programs that manage. Only a hash with meta.secret is kept; `prefix` is what may be shown again.
create table access_keys (
  id            integer generated always as identity primary key,
  project_id    integer references projects on delete cascade,  -- null: every project
  role          text not null check (role in ('admin', 'read', 'ping')),
  name          text not null,
  prefix        text not null,
  hash          bytea not null unique,
  created_at    timestamptz not null default now(),
  last_used_at  timestamptz,                 -- to the minute
  revoked_at    timestamptz
);

-- The object that was created under each Idempotency-Key, so that a repeated request creates nothing more; kept for a day.
create table creations (
  created_at  timestamptz not null default now(),
  scope       text not null,                 -- who and what: two clients may use the same key
  key         text not null,
  request     bytea not null,                -- a hash: the same key with another request is refused
  subject     text not null,
  primary key (scope, key)
);
create index creations_created on creations (created_at);

-- People who are signed in to the pages. A session stands on the key that it was opened with and ends with it; neither
-- the key nor the cookie can be made from what is kept here.
create table sessions (
  id          bytea primary key,             -- a hash of the random id in the cookie
  key_hash    bytea not null,                -- as in access_keys, or that of the admin key of the settings
  created_at  timestamptz not null default now(),
  seen_at     timestamptz not null default now()  -- to the minute
);
create index sessions_seen on sessions (seen_at);

---------------------------------------------------------------------------------------------------- the log

-- One row for each start of a process that writes to the log.
create table writers (
  id               integer generated always as identity primary key,
  seq              bigint not null default 0,         -- the last one committed; final once fenced
  started_at       timestamptz not null,
  accepted_through timestamptz not null,              -- everything it accepted up to here is committed
  seen_at          timestamptz not null default clock_timestamp(),  -- the database's own clock at its last sign of life
  fenced           boolean not null default false,
  clean            boolean not null default false,    -- it stopped by itself, after its last commit
  node             text not null,
  metrics_address  text                               -- host:port of its /metrics, for /sd/prometheus
);
create index writers_live on writers (id) where not fenced;

create table pings (
  at          timestamptz not null,          -- log time at the append; strictly increasing within a writer
  seq         bigint not null,               -- a counter per writer
  writer      integer not null,
  monitor_id  integer not null,
  project_id  integer not null,
  signal      signal not null,
  exit_code   integer,
  done        bigint,
  total       bigint,
  duration    double precision,              -- seconds, as the client said
  run         text,
  stage       text,
  task        text,
  message     text,                          -- at most 10 kB
  source      inet,
  dialect     text,                          -- null: native
  wide_exit_code bigint,                     -- an exit code that does not fit into exit_code, which is null then
  options     jsonb,                         -- for, backfill, attempt, execution: what few pings say; null: nothing
  primary key (writer, seq, at)              -- the position in the log, and the guard against writing a batch twice
) partition by range (at);
create index pings_monitor on pings (monitor_id, at);

-- Advances the writer's row and refuses a fenced writer, inside COPY's own transaction and round trip: a batch is
-- committed and counted, or neither. All rows of a batch have one writer.
create function pings_accept() returns trigger language plpgsql as $$
declare
  last record;
begin
  select min(writer) as first_writer, max(writer) as writer, max(seq) as seq, max(at) as at into last from batch;
  if last.writer is null then
    return null;
  end if;
  update writers w
     set seq = greatest(w.seq, last.seq),
         accepted_through = greatest(w.accepted_through, last.at),
         seen_at = clock_timestamp()
   where w.id = last.writer and not w.fenced and last.first_writer = last.writer;
  if not found then
    raise exception 'writer % is fenced', last.writer
      using errcode = 'OB001', hint = 'Register a new writer; this one may not append any more.';
  end if;
  return null;
end $$;

create trigger pings_accept after insert on pings
  referencing new table as batch for each statement execute function pings_accept();

-- When pings were refused. A writer reports it before it commits anything it accepted later, so that a
-- reader that has seen its accepted_through pass an interval has seen the interval too.
create table refusals (
  id          bigint generated always as identity primary key,
  writer      integer not null,
  started_at  timestamptz not null,
  ended_at    timestamptz not null,
  pings       bigint not null,
  reason      text not null                  -- full, database, clock, stopping, stalled
);

-- Outages of Offbeat: when pings may have been sent and could not be received. The scheduler decides each once.
create table deaf (
  id          bigint generated always as identity primary key,
  started_at  timestamptz not null,
  ended_at    timestamptz not null check (ended_at > started_at),
  writer      integer,                       -- null: no writer was there
  refusal_id  bigint unique,
  pings       bigint not null default 0,     -- known to have been refused
  reason      text not null,                 -- full, database, clock, stopping, stalled, crash, stopped
  decided_at  timestamptz not null           -- the watermark at which it became an input of the engine
);
create index deaf_ended on deaf (ended_at);

---------------------------------------------------------------------------------------------------- the scheduler

-- Exactly one scheduler (row `keeper`) and one dispatcher (row `courier`) at a time. A renewal touches no column of a
-- key, so it passes the `for key share` that every decision holds; a take-over changes `term`, so it waits for the
-- decision under way.
create table lease (
  name        text primary key,
  term        bigint not null,
  holder      text not null,
  node        text not null,
  metrics_address text,                      -- host:port of the holder's /metrics, if it has no writer
  taken_at    timestamptz not null,
  expires_at  timestamptz not null,
  unique (name, term)
);

-- The scheduler's position: a start loads `states` and reads the log from here.
create table checkpoint (
  one          boolean primary key default true check (one),
  at           timestamptz not null,         -- every state includes all inputs up to here, or is newer
  applied_rev  bigint not null,              -- the last change applied
  cursors      jsonb not null default '{}',  -- writer -> the last seq applied
  set_aside    integer[] not null default '{}'  -- monitors left out of it because of an error: their states are older
);

-- The engine's state of a monitor, written together with what was decided; (at, writer, seq) is the last input in it.
create table states (
  monitor_id  integer primary key,
  project_id  integer not null,
  at          timestamptz not null,
  seq         bigint not null,
  writer      integer not null,
  status      text not null,                 -- new, up, down, unknown, unwatched, paused; `late` is computed when read
  since       timestamptz not null,
  state       jsonb not null                 -- see engine/model/monitor.py
) with (fillfactor = 75);
create index states_trouble on states (project_id, status) where status in ('down', 'unknown');

-- The members of fleets, each a row of its monitor's state: written with the decision by which it comes, falls silent,
-- comes back or goes. `at` alone may be older than the state, but not than the checkpoint. No index on what changes.
create table members (
  monitor_id    integer not null,
  name          text not null,
  at            timestamptz not null,         -- its last ping
  silent_since  timestamptz,                  -- the deadline that it missed
  primary key (monitor_id, name)
) with (fillfactor = 75);

create table runs (
  monitor_id   integer not null,
  number       integer not null,             -- per monitor, from 1
  project_id   integer not null,
  exit_code    integer,
  run          text,                         -- the client's run id; null: none was sent
  started_at   timestamptz,                  -- null: the start was never received
  finished_at  timestamptz,
  last_ping_at timestamptz not null,
  duration     double precision,             -- seconds
  verdict      text,                         -- null while open; succeeded, failed, hung, unverified, superseded, ignored, unknown
  reason       text,
  detail       jsonb not null default '{}',  -- stages, tasks, progress
  wide_exit_code bigint,                     -- as in pings
  business_date text,                        -- the occurrence that it serves; null: none
  backfill     boolean not null default false, -- it makes up for an earlier occurrence
  attempt      integer,                      -- as the client numbers it
  execution    text,                         -- the id of the process, pod or job that started it, as the client sent it
  ended        jsonb,                        -- of an ended run with an id: all that a late ping of it needs to know
  primary key (monitor_id, number)
) with (fillfactor = 85);
create index runs_by_id on runs (monitor_id, run, number) where run is not null;
create index runs_open on runs (monitor_id) where finished_at is null;
create index runs_business_date on runs (monitor_id, business_date, number) where business_date is not null;
create index runs_finished on runs (finished_at) where finished_at is not null;

create table incidents (
  monitor_id      integer not null,
  number          integer not null,          -- per monitor, from 1
  project_id      integer not null,
  opened_at       timestamptz not null,      -- the deadline that was missed, not when the scheduler noticed
  resolved_at     timestamptz,
  decided_at      timestamptz not null,
  cause           text not null,             -- the worst: missed, failed, hung, stage, tasks, members, ...
  reason          text not null,             -- the sentence for people
  run             text,
  stage           text,
  causes          jsonb not null,            -- all, with their own times
  suppressed_by   integer,                   -- the monitor whose incident explains this one
  revised         boolean not null default false,
  acknowledged_at timestamptz,
  acknowledged_by text,
  held            jsonb,                     -- what holds or held its alerts back, in order; null: nothing
  primary key (monitor_id, number)
) with (fillfactor = 85);
create unique index incidents_open on incidents (monitor_id) where resolved_at is null;
create index incidents_recent on incidents (project_id, opened_at);

---------------------------------------------------------------------------------------------------- the outbox

-- Written with the decision; facts are frozen. Per incident and channel only the lowest unsettled (ordinal, round) may
-- be claimed. `next_attempt_at` is also the claim's lease: before it no other process may try.
create table alerts (
  id              bigint generated always as identity primary key,
  created_at      timestamptz not null default clock_timestamp(),
  next_attempt_at timestamptz not null default clock_timestamp(),
  settled_at      timestamptz,
  expires_at      timestamptz not null default clock_timestamp() + interval '24 hours',
  digest_id       bigint,                    -- sent as a part of this digest
  project_id      integer not null,
  channel_id      integer,                   -- null: the server's own log
  lane            integer not null generated always as (coalesce(channel_id, 0)) stored,
  monitor_id      integer,                   -- null: about Offbeat itself
  incident        integer,
  ordinal         integer not null default 0,  -- order within one incident, counted by the engine
  round           integer not null default 0,  -- the reminders after that ordinal: 1, 2, ...
  attempts        integer not null default 0,
  lapses          integer not null default 0,  -- how often a claimer died with it
  kind            text not null,             -- opened, worse, resolved, reminder, operator, test
  -- pending, delivered, dead, expired; collapsed: the end of an incident that is reported by another message, or of one
  -- whose opening did not reach this channel
  state           text not null default 'pending',
  claimed_by      text,
  error           text,                      -- of the last attempt
  facts           jsonb not null,
  -- The id that receivers see. Random, because row numbers are used again after a restore and in a copy of the database.
  -- Null: a row of an older version, whose id is made of its number.
  uid             uuid default gen_random_uuid(),
  urgent          boolean not null default false  -- the first alert of its monitor to this channel in ten minutes
) with (fillfactor = 85);
create unique index alerts_once on alerts (monitor_id, incident, ordinal, round, lane) where incident is not null;
-- The dispatcher's order: lane by lane, and in a lane first the alerts that were never tried.
create index alerts_due on alerts (lane, attempts, next_attempt_at) where state = 'pending' and digest_id is null;
create index alerts_order on alerts (monitor_id, incident, lane, ordinal, round) where state = 'pending';
create index alerts_urgent on alerts (lane, next_attempt_at)
  where state = 'pending' and digest_id is null and urgent and attempts = 0;
-- Ends of incidents that a service does not receive one by one.
create index alerts_back on alerts (lane) where state = 'pending' and digest_id is null and kind = 'resolved';
-- A person waits for the result of a test.
create index alerts_tests on alerts (id) where state = 'pending' and kind = 'test';
create index alerts_digest on alerts (digest_id) where digest_id is not null;
create index alerts_settled on alerts (settled_at) where settled_at is not null;
create index alerts_given_up on alerts (id) where state in ('dead', 'expired');

-- Many alerts of one channel in one message. The message is stored before it is sent, so that a retry, also by another
-- process, sends the same bytes.
create table digests (
  id              bigint generated always as identity primary key,
  created_at      timestamptz not null default clock_timestamp(),
  next_attempt_at timestamptz not null default clock_timestamp(),
  settled_at      timestamptz,
  expires_at      timestamptz not null default clock_timestamp() + interval '24 hours',
  project_id      integer not null,
  channel_id      integer,
  lane            integer not null generated always as (coalesce(channel_id, 0)) stored,
  alerts          integer not null,          -- how many are in it
  attempts        integer not null default 0,
  lapses          integer not null default 0,
  closes          bigint,                    -- says that all of that digest are resolved (services that keep incidents)
  kind            text not null default 'digest',   -- digest, over
  state           text not null default 'pending',  -- pending, delivered, dead, expired
  claimed_by      text,
  error           text,
  facts           jsonb not null,            -- counts and the first names
  body            bytea not null,
  uid             uuid default gen_random_uuid()  -- as in alerts
);
create index digests_pending on digests (lane) where state = 'pending';
create unique index digests_closes on digests (closes) where closes is not null;

---------------------------------------------------------------------------------------------------- first rows

insert into meta (schema_version, secret)
  values (10, decode(md5(gen_random_uuid()::text) || md5(gen_random_uuid()::text), 'hex'));
insert into projects (slug, name, ping_key)
  values ('default', 'Default', replace(gen_random_uuid()::text, '-', ''));
insert into channels (project_id, slug, kind, definition)
  select id, 'log', 'log', '{}' from projects;
insert into clock (set_at, ahead) values (clock_timestamp(), '0');
insert into lease (name, term, holder, node, taken_at, expires_at)
  values ('keeper', 0, '', '', '-infinity', '-infinity'), ('courier', 0, '', '', '-infinity', '-infinity');
