"""Instants and lengths of time are integers: microseconds, of an instant since 1970-01-01 UTC. As in Postgres."""

# CPython makes room for one digit more in every sum, 48 bytes instead of 32; so a sum that is kept for each of a
# million monitors is copied: `| 0`.
Micros = int
SECOND: Micros = 1_000_000
