"""Commands of the server's package: serve, import, doctor."""
