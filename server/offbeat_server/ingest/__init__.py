"""Receives pings. An HTTP server reads requests, a protocol turns them into pings, the writer commits them to the log.

This package contains no SQL and does not import `web`.
"""
