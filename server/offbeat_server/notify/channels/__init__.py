"""The kinds of channels: one module a kind."""
