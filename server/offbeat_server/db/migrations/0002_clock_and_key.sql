-- usable from: 1
-- Log time that outlives a clock set back, one admin key for all nodes, deletions with their instant, monitors that a
-- checkpoint leaves out, and members of fleets in rows of their own.

alter table meta add column usable_from integer not null default 1;
alter table meta add column admin_key_hash bytea;
alter table meta add column admin_key_home text;

create table clock (
  one     boolean primary key default true check (one),
  set_at  timestamptz not null,
  ahead   interval not null
);
insert into clock (set_at, ahead) values (clock_timestamp(), '0');

create function log_time() returns timestamptz language sql volatile as $$
  select clock_timestamp()
         + greatest(interval '0', ahead - greatest(interval '0', clock_timestamp() - set_at) / 10)
    from clock
$$;

alter table changes add column effective_at timestamptz;
alter table checkpoint add column set_aside integer[] not null default '{}';

-- The members of fleets, until now within the states.
create table members (
  monitor_id    integer not null,
  name          text not null,
  at            timestamptz not null,
  silent_since  timestamptz,
  primary key (monitor_id, name)
) with (fillfactor = 75);
with silent as (
  select s.monitor_id, q ->> 0 as name, (q ->> 1)::bigint as since
    from states s cross join jsonb_array_elements(s.state -> 'fleet' -> 's') q
)
insert into members (monitor_id, name, at, silent_since)
select s.monitor_id, m ->> 0, timestamptz 'epoch' + (m ->> 1)::bigint * interval '1 microsecond',
       timestamptz 'epoch' + q.since * interval '1 microsecond'
  from states s
 cross join jsonb_array_elements(s.state -> 'fleet' -> 'm') m
  left join silent q on q.monitor_id = s.monitor_id and q.name = m ->> 0;
