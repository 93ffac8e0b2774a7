"""The tables of the scheduler: the log, states of monitors, decisions, its checkpoint, retention.

Only the scheduler and its recovery use it. The lease is in `db/repositories`: the dispatcher has one too.
"""
