"""Reads the SQL of one subject from `sql/{subject}.sql`, so that SQL lives in SQL files, each block with its reason.

A block is one statement: `-- name: some_name`, comment lines that say why it is as it is, then the SQL. If a name
must be written into the statement (DDL takes no parameters), it stands as a quoted placeholder, `"{partition}"` or
`'{start}'`: still valid SQL, so the test that prepares every block against the schema reads it like any other.

A part that several blocks of a file share stands once, as a block `-- part: some_name`; a line `-- include: some_name`
inserts it.
"""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

SQL_DIR = Path(__file__).parent / "sql"
_NAME = re.compile(r"^-- (name|part): ([a-z][a-z0-9_]*)$")
_INCLUDE = re.compile(r"^ *-- include: (.*)$", re.MULTILINE)


@cache
def load(subject: str) -> Mapping[str, str]:
    """The statements of `sql/{subject}.sql` by name, without their comment lines.

    Raises ValueError that names file and block where a name is wrong or used twice, a part is not there, or the why or
    the SQL is missing.
    """
    path = SQL_DIR / f"{subject}.sql"
    return MappingProxyType(parse(path.read_text(encoding="utf-8"), path.name))


def parse(text: str, source: str) -> dict[str, str]:
    """The blocks of `text`; `source` is for the messages. Comments before the first block are the file's own."""
    statements: dict[str, str] = {}
    parts: dict[str, str] = {}
    head, *blocks = re.split(r"^(?=-- (?:name|part):)", text, flags=re.MULTILINE)
    if _sql(head):
        raise ValueError(f"{source}: SQL before the first `-- name:`")
    for block in blocks:
        first, _, body = block.partition("\n")
        match = _NAME.match(first.rstrip())
        if match is None:
            raise ValueError(f"{source}: {first!r}: a name is lower case, digits and _")
        kind, name = match.groups()
        if name in statements or name in parts:
            raise ValueError(f"{source}: {name} stands there twice")
        if not body.lstrip().startswith("--"):
            raise ValueError(f"{source}: {name} has no comment that says why")
        for used in _INCLUDE.findall(body):
            if used not in parts:
                raise ValueError(f"{source}: {name} includes {used}, and no part before it has this name")
        sql = _sql(_INCLUDE.sub(lambda line: parts[line[1]], body))
        if not sql:
            raise ValueError(f"{source}: {name} has no SQL")
        (statements if kind == "name" else parts)[name] = sql
    return statements


def _sql(text: str) -> str:
    """Return `text` without comment lines: Postgres never gets them."""
    return "\n".join(line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("--"))
