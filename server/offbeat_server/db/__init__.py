"""The only room with SQL and asyncpg. Named queries live in sql/, one file a subject."""
