"""What pings, schedules, runs and silence mean. Pure: no I/O, no clock, no randomness, no `async`."""
