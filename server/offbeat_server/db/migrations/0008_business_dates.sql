-- usable from: 1
-- What few pings say about their run: its business date, whether it is a backfill, its attempt and execution. The
-- program before this one reads such pings without it, and writes runs without a date.

alter table pings add column options jsonb;
alter table runs add column business_date text;
alter table runs add column backfill boolean not null default false;
alter table runs add column attempt integer;
alter table runs add column execution text;
-- Monitors that had runs keep the meaning that they had, until their definition is written again: a run id held no date,
-- and any later success ended a failure.
update monitors m set newer_fields = newer_fields || '{"run_date": "none", "recover_by": "any"}'
 where exists (select from runs r where r.monitor_id = m.id);
create index runs_business_date on runs (monitor_id, business_date, number) where business_date is not null;
