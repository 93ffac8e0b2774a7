"""Clients of the server: programs, jobs, browsers and the command line."""
