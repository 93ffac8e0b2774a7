"""Floor 3, the cold room: people and programs that manage. API, pages, live updates, access."""
