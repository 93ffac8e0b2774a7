"""Arithmetic of time: calendars, due times, maintenance windows, outages."""
