"""Used by every layer: clock, errors, instants, background tasks."""
