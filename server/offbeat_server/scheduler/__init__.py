"""The keeper, the one process that judges.

It follows the log in one order, runs the engine and records what it decides.
"""
