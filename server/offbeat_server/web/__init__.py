"""People and programs that manage. API, pages, live updates, access."""
