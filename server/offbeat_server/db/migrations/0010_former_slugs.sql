-- usable from: 1
-- The former addresses of monitors that were renamed or moved: pings still arrive by them, and pages lead to the new one.
-- The program before this one knows no former addresses, so to its pings and pages they are unknown.

create table former_slugs (
  project_id  integer not null references projects on delete cascade,
  slug        text not null,
  monitor_id  integer not null references monitors on delete cascade,
  since       timestamptz not null default now(),
  primary key (project_id, slug)
);
create index former_slugs_monitor on former_slugs (monitor_id);
