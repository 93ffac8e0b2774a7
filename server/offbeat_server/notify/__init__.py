"""Couriers and channels. Alerts leave the outbox here, at least once, and only to where they may go."""
