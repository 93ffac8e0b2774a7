-- usable from: 1
-- What holds or held the alerts of an incident back. The program before this one leaves the column as it is.

alter table incidents add column held jsonb;
