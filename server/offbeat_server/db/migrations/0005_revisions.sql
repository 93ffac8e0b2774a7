-- usable from: 1
-- The number of the change that wrote a channel or a project, as monitors and windows have it: a form and a request are
-- refused if the row has another one than they were made from. The program before this one writes no number: after its
-- write the row keeps the one that it had.

alter table channels add column rev bigint not null default 0;
alter table projects add column rev bigint not null default 0;
