"""Servers, or parts of one, for tests: in this process on real sockets, and as processes that are killed."""
