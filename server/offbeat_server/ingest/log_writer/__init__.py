"""Appends accepted pings to the log in Postgres, many in one COPY."""
