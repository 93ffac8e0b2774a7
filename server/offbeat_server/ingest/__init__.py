"""Pings in. Doors take requests, dialects read them, the batch makes them durable.

No SQL text and nothing of the web here.
"""
