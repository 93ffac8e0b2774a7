"""Bodies of requests and responses of the API."""
