"""The HTTP server for pings, and the bridge to aiohttp."""
