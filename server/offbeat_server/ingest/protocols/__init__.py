"""How requests of Offbeat and of other services become pings: one module a protocol."""
