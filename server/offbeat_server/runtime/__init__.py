"""Puts the parts together: start and stop, roles, worker processes, sockets, systemd."""
