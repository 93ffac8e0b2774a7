"""The stored objects of the server: one module a subject."""
