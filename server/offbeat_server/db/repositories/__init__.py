"""What the server stores: one module a subject."""
