-- usable from: 1
-- What late pings of the stages and tasks of an ended run need to know, and the index that finds the run by its id. The
-- program before this one does not write it: ten minutes after the end of its runs, such pings open a run as before.

alter table runs add column ended jsonb;
create index runs_by_id on runs (monitor_id, run, number) where run is not null;
