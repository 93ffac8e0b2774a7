"""A whole installation on a virtual clock: the real engine, order, keeper and writer over a simulated Postgres."""
