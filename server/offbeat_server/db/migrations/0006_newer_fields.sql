-- usable from: 1
-- Fields of a monitor's definition that the program before this one would reject in `definition`. Monitors that it wrote
-- have none, and keep the meaning that they had: without `complete` in it, a `success` of a run is trusted.

alter table monitors add column newer_fields jsonb not null default '{}';
