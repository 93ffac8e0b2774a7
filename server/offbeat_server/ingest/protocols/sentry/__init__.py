"""Sentry's check-ins, envelopes and monitor configuration."""
