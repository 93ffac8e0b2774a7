"""The management API: one module a subject."""
