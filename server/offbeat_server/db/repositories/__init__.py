"""The stored objects of the server, one module for each: they write it, and read it for the code that changes it.

Services, ingest and the dispatcher use them. `db/scheduler_store` has the tables that only the scheduler writes,
`db/read_models` the queries of pages and metrics.
"""
