"""Floor 2, the hot room: pings in. Doors take requests, dialects read them, the batch makes them durable.

No SQL text and nothing of the web here.
"""
