"""The dispatcher and the channels. The dispatcher sends each alert of the outbox, at least once.

It sends only to addresses that the operator allows. `messages` writes what is sent, `channels` has one module for each
kind of channel, `transport` sends it.
"""
