"""Queries for pages and API: lists, history, statistics."""
