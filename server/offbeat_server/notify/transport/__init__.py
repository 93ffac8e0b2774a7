"""How alerts leave: HTTP, SMTP, and the guard against forbidden destinations."""
