"""The records of clients and receivers, and their comparison with the database."""
