"""The simulated Postgres, and its comparison with the real one."""
