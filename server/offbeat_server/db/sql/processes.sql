-- Queries of programs about the whole of Offbeat: the database's part of the metrics, and the addresses of all processes.

-- name: facts
-- One round trip for a scrape. All counts are over partial indexes or small tables: nothing here grows with monitors or
-- pings. An alert is *untaken* when it may be sent now, no dispatcher holds it, and none of its incident and channel
-- stands before it: then a dispatcher should have taken it, even if its receiver has been refusing others for long.
select
  (select count(*) from writers where not fenced and not clean) as writers,
  (select count(*) from alerts where state = 'pending') as outbox_pending,
  (select extract(epoch from min(created_at))::float8 from alerts where state = 'pending') as outbox_oldest,
  (select extract(epoch from a.next_attempt_at)::float8
     from alerts a
    where a.state = 'pending'
      and a.digest_id is null
      and a.next_attempt_at <= clock_timestamp()
      and not exists (
        select from alerts b
         where b.state = 'pending' and b.monitor_id = a.monitor_id and b.incident = a.incident
           and b.lane = a.lane and (b.ordinal, b.round) < (a.ordinal, a.round))
    order by a.next_attempt_at
    limit 1) as outbox_due,
  (select coalesce(extract(epoch from sum(ended_at - started_at)), 0)::float8 from deaf) as outage_s,
  (select extract(epoch from at)::float8 from checkpoint) as checkpoint,
  -- The upper bound of the last partition stands only in its definition.
  (select extract(epoch from max((regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''([^'']+)''\)'))[1]::timestamptz))
          ::float8
     from pg_inherits i
     join pg_class c on c.oid = i.inhrelid
    where i.inhparent = 'pings'::regclass) as partitions_through,
  extract(epoch from clock_timestamp())::float8 as read_at

-- name: targets
-- The processes that live and can be scraped, for Prometheus' discovery: writers (`writers_live` holds only a few rows),
-- and the scheduler if it is a process without a writer (writer 0).
select id, node, metrics_address
  from writers
 where not fenced and not clean and metrics_address is not null
union all
select 0, node, metrics_address
  from lease
 where name = 'keeper' and expires_at > log_time() and metrics_address is not null
 order by id
