"""The scheduler. It reads the log in order, evaluates pings and deadlines with the engine, and writes the decisions.

Only the process that holds the lease is the scheduler.
"""
