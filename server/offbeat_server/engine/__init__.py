"""The rules for pings, schedules, runs and missing pings. Pure: no I/O, no clock, no randomness, no `async`."""
