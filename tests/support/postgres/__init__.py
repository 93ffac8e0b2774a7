"""Clusters of Postgres beside those of `harness.py`: with a standby, under Patroni, behind a proxy that can be cut."""
