"""How requests of Offbeat and of other services become pings: one module for each protocol.

`base` has the types and the contract that all protocols share, `answers` the answers that several give, `registry`
finds the protocol of a path. `parsing` has the readers that several use.
"""
