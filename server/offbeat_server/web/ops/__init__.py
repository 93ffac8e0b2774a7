"""Probes, metrics and service discovery, for programs."""
