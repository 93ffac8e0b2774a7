"""Live updates of pages over server-sent events."""
