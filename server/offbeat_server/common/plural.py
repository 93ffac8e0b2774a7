"""Numbers of things in sentences."""


def plural(count: int, one: str, many: str | None = None) -> str:
    """`1 run`, `2 runs`. `many`: the plural, if it is not `one` with an s."""
    return f"{count} {one if count == 1 else many or f'{one}s'}"
