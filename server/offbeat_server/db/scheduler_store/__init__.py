"""The tables of the scheduler: the log, states of monitors, decisions, its checkpoint and lease, retention.

Only the scheduler and its recovery use it; the start of the server waits for the lease.
"""
