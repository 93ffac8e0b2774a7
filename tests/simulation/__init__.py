"""A whole installation on a virtual clock: the real engine, scheduler and writer over a simulated Postgres."""
