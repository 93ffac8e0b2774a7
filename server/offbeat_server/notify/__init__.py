"""The dispatcher and the channels. The dispatcher sends each alert of the outbox, at least once.

It sends only to addresses that the operator allows.
"""
