-- usable from: 1
-- Random ids of alerts, and alerts that go before those of monitors that had their turn.

-- Existing rows keep the ids that receivers may have seen: null stands for the id that is made of the row's number.
alter table alerts add column uid uuid;
alter table alerts alter column uid set default gen_random_uuid();
alter table alerts add column urgent boolean not null default false;
alter table digests add column uid uuid;
alter table digests alter column uid set default gen_random_uuid();

alter table channels add column failing_since timestamptz;
alter table channels add column failing_why text;
alter table channels add column failing_told_at timestamptz;

create index alerts_urgent on alerts (lane, next_attempt_at)
  where state = 'pending' and digest_id is null and urgent and attempts = 0;
