"""The house checks itself: who may import whom, and the bans that make the other rules true.

Each rule reads the source of `server/` and says where, what is wrong, and what to use instead.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

SERVER = Path(__file__).parent.parent / "server"

# Imports only go down, and rooms on one floor never import each other: app.py hands over a callable instead.
FLOORS: list[set[str]] = [
    {
        *("engine", "settings", "clock", "errors", "metrics", "service", "__init__"),
        *("logs", "loop_lag", "systemd", "beat", "failpoints", "admin_key", "greeting", "descriptors"),
        *("estate_file", "strict_json", "pace", "crontab", "names"),
    },
    {"store", "roster"},
    {"ingest", "keep", "deliver"},
    {"web"},
    {
        "app",
        "provision",
        "listening",
        "readings",
        "site",
        "worker",
        "workers",
        "healthchecks_export",
        "cli",
        "__main__",
    },
]
GROUND, ROOF = FLOORS[0], FLOORS[-1]  # on these two the single modules may use each other
ENGINE_MAY_USE = {"engine", "errors"}

FUNCTION_LINES_MAX = 80
BANNED_WORDS = {"manager", "util", "utils", "helper", "helpers"}  # they name nothing; say what it does
BANNED_MODULES = {"data", "process", "common", "misc"}
# Would make the engine's answer depend on more than its input.
NOT_IN_ENGINE = {
    *("asyncio", "threading", "concurrent", "multiprocessing", "subprocess", "socket", "os", "time", "random"),
    *("secrets", "uuid", "logging", "structlog", "asyncpg", "aiohttp"),
}
SLOW_TO_IMPORT = {
    "argparse",
    "contextlib",
    "ctypes",
    "http.client",
    "json",
    "logging",
    "ssl",
    "re",
    "subprocess",
    "typing",
    "urllib.request",
    "uuid",
}
CLOCK_READINGS = {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns"}
SQL = re.compile(
    r"""\s*(select\b.+\bfrom\b | select\s+[\w.]+\( | insert\s+into\b | update\s+\S+\s+set\b | delete\s+from\b
    | create\s+(or\s+replace\s+)?(unlogged\s+)?(table|index|unique|function|trigger|type|database|role)\b
    | (alter|drop|truncate|lock)\s+(table|role|index|database|type)\b | with\s+\w+(\s*\(.*\))?\s+as\b
    | copy\s+.+\b(from|to)\s+std | set\s+(local|session)\b | (un)?listen\s+\w+$ | notify\s+\w+)""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)


class Module(NamedTuple):
    """One source file; `room` is its folder or, at the top level, its own name."""

    path: str
    room: str
    text: str
    tree: ast.Module


class Fault(NamedTuple):
    """A line, and what is wrong with it and why."""

    line: int
    message: str


Rule = Callable[[Module], Iterator[Fault]]


@cache
def modules() -> list[Module]:
    """All of server/, read once."""
    found = []
    for path in sorted(SERVER.rglob("*.py")):
        parts = path.relative_to(SERVER).parts
        text = path.read_text(encoding="utf-8")
        found.append(Module(f"server/{'/'.join(parts)}", room_of(parts[0]), text, ast.parse(text)))
    return found


def room_of(name: str) -> str:
    """The folder, or the module at the top level; the modules of the command line are one room."""
    stem = name.removesuffix(".py")
    return "cli" if stem.startswith("cli_") else stem


def imports(module: Module) -> Iterator[tuple[int, str]]:
    """Every imported module by its full dotted name, wherever in the file."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            name = node.module or ""
            if node.level:
                yield node.lineno, "." * node.level + name
            elif name == "server":
                yield from ((node.lineno, f"server.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, name


def dotted(node: ast.AST) -> str:
    """`a.b.c` of a name or attribute; a call in the middle is written `()`."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return f"{dotted(node.func)}()" if isinstance(node, ast.Call) else ""


def floor_of(room: str) -> int | None:
    """0 at the bottom; None for a room without a floor."""
    return next((number for number, rooms in enumerate(FLOORS) if room in rooms), None)


# `offbeat exec` and `offbeat ping`: one file that works without the rest of the house.
STANDS_ALONE = "server/cli_exec.py"


# --------------------------------------------------------------------------------------------------------------- rules


def imports_go_down(module: Module) -> Iterator[Fault]:
    """Imports only go down."""
    here = floor_of(module.room)
    if here is None:
        yield Fault(1, f"`{module.room}` has no floor; give it one in FLOORS of tests/test_house.py")
        return
    for line, name in imports(module):
        if name.startswith("."):
            yield Fault(line, f"import {name} is relative; write server.…, so that a reader sees the room")
        room = room_of(name.split(".")[1]) if name.startswith("server.") else None
        # `from server import __version__` is the package itself.
        if room is None or room == module.room or room.startswith("__"):
            continue
        there = floor_of(room)
        if there is None or there > here:
            yield Fault(line, f"{module.room} may not import {room}, which is above it; app.py hands over a callable")
        elif there == here and module.room not in GROUND | ROOF:
            yield Fault(line, f"{module.room} and {room} are on one floor; app.py hands over a callable")
        elif module.room == "engine" and room not in ENGINE_MAY_USE:
            yield Fault(line, f"the engine is pure and may not use {room}")


def engine_is_pure(module: Module) -> Iterator[Fault]:
    """No async, no clock, no randomness, no I/O in the engine."""
    if module.room != "engine":
        return
    for line, name in imports(module):
        if name.split(".")[0] in NOT_IN_ENGINE:
            yield Fault(line, f"the engine may not import {name}: its answer depends on its input alone")
    for node in ast.walk(module.tree):
        if isinstance(node, (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)):
            yield Fault(node.lineno, "the engine is synchronous; the keeper calls it")


def clock_is_read_in_one_place(module: Module) -> Iterator[Fault]:
    """Raw clocks only in clock.py."""
    if module.path in ("server/clock.py", STANDS_ALONE):
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            yield Fault(node.lineno, "use server.clock: monotonic() to wait, LogClock for what is recorded")
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        base, _, last = name.rpartition(".")
        if (base == "time" and last in CLOCK_READINGS) or name.endswith(("loop.time", "loop().time")):
            yield Fault(node.lineno, f"{name}(): use server.clock.monotonic, or take the instant as an argument")
        if base.split(".")[-1] in ("datetime", "date") and last in ("now", "utcnow", "today"):
            yield Fault(node.lineno, f"{name}(): use LogClock.now and server.clock.to_datetime")


def environment_is_read_in_one_place(module: Module) -> Iterator[Fault]:
    """The environment only in settings.py."""
    if module.path in ("server/settings.py", STANDS_ALONE):
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and dotted(node) in ("os.environ", "os.getenv", "os.environb"):
            yield Fault(node.lineno, f"{dotted(node)}: make it a field of server.settings.Settings")


def exec_stands_alone(module: Module) -> Iterator[Fault]:
    """`offbeat exec` imports the standard library alone, and nothing of it that is slow to import at the start."""
    if module.path != STANDS_ALONE:
        return
    for line, name in imports(module):
        if name.split(".")[0] not in sys.stdlib_module_names:
            yield Fault(line, f"{name}: no other package, not even ours, may keep a job from running")
    for node in module.tree.body:
        for name in (each.name for each in getattr(node, "names", ()) if isinstance(node, ast.Import)):
            if name in SLOW_TO_IMPORT:
                yield Fault(node.lineno, f"{name} is slow to import: import it where it is needed, or do without")


def tasks_belong_to_a_service(module: Module) -> Iterator[Fault]:
    """Tasks are made in service.py."""
    if module.path == "server/service.py":
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and dotted(node.func).split(".")[-1] in ("create_task", "ensure_future"):
            yield Fault(node.lineno, "an orphan task: use Service.spawn for what must not end, Service.errand else")


def sql_lives_in_sql_files(module: Module) -> Iterator[Fault]:
    """SQL text in server/store/sql, asyncpg in server/store."""
    for line, text in strings(module.tree):
        if SQL.match(text):
            yield Fault(line, f"SQL belongs into server/store/sql/*.sql: {text.strip()[:50]!r}")
    if module.room != "store":
        for line, name in imports(module):
            if name.split(".")[0] == "asyncpg":
                yield Fault(line, "asyncpg stays in server/store; pool.database_trouble translates its errors")


def strings(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Every string but docstrings; what an f-string fills in is written `{}`."""
    if isinstance(node, ast.JoinedStr):
        parts = (str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        yield node.lineno, "".join(parts)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.lineno, node.value
    prose = docstring_of(node)
    for child in ast.iter_child_nodes(node):
        if child is not prose:
            yield from strings(child)


def docstring_of(node: ast.AST) -> ast.stmt | None:
    """The statement that is its docstring."""
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return node.body[0] if ast.get_docstring(node, clean=False) is not None else None
    return None


def functions_are_readable(module: Module) -> Iterator[Fault]:
    """A function does one thing. Modules have no limit: a limit cut single ideas into several small files."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                yield Fault(
                    node.lineno, f"{node.name} has {length} lines, at most {FUNCTION_LINES_MAX}: name its steps"
                )


def names_say_something(module: Module) -> Iterator[Fault]:
    """No manager, util, helper; no module called data or process."""
    stem = Path(module.path).stem
    if stem in BANNED_MODULES | BANNED_WORDS or BANNED_WORDS & set(stem.split("_")):
        yield Fault(1, f"`{stem}` names nothing: name the module after what it does or holds")
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            words = set(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", node.name).lower().split("_"))
            if words & BANNED_WORDS:
                yield Fault(node.lineno, f"`{node.name}` names nothing: say what it does")


def modules_say_what_and_why(module: Module) -> Iterator[Fault]:
    """Every module is opened by a docstring."""
    if docstring_of(module.tree) is None:
        yield Fault(1, "no docstring: one sentence of what, one of why")


RULES: list[Rule] = [
    imports_go_down,
    engine_is_pure,
    clock_is_read_in_one_place,
    environment_is_read_in_one_place,
    exec_stands_alone,
    tasks_belong_to_a_service,
    sql_lives_in_sql_files,
    functions_are_readable,
    names_say_something,
    modules_say_what_and_why,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_house(rule: Rule) -> None:
    faults = [f"{module.path}:{fault.line}: {fault.message}" for module in modules() for fault in rule(module)]
    assert not faults, "\n".join([f"{rule.__doc__}", *faults])


# What each rule must catch, so that it does not rot into one that catches nothing.
WRONG: list[tuple[Rule, str, str]] = [
    (imports_go_down, "server/store/x.py", "from server.ingest.batch import Batch"),
    (imports_go_down, "server/keep/x.py", "import server.ingest.batch"),
    (imports_go_down, "server/keep/x.py", "from server import deliver"),
    (imports_go_down, "server/engine/x.py", "from server.clock import monotonic"),
    (imports_go_down, "server/web/x.py", "from . import y"),
    (imports_go_down, "server/attic/x.py", ""),
    (engine_is_pure, "server/engine/x.py", "import random"),
    (engine_is_pure, "server/engine/x.py", "async def f(): pass"),
    (clock_is_read_in_one_place, "server/web/x.py", "import time\ntime.monotonic()"),
    (clock_is_read_in_one_place, "server/web/x.py", "import datetime\ndatetime.datetime.now(datetime.UTC)"),
    (clock_is_read_in_one_place, "server/web/x.py", "asyncio.get_running_loop().time()"),
    (environment_is_read_in_one_place, "server/web/x.py", "import os\nos.environ['X']"),
    (exec_stands_alone, STANDS_ALONE, "from server.settings import Settings"),
    (exec_stands_alone, STANDS_ALONE, "def f():\n    import click"),
    (exec_stands_alone, STANDS_ALONE, "import subprocess"),
    (tasks_belong_to_a_service, "server/web/x.py", "asyncio.create_task(f())"),
    (sql_lives_in_sql_files, "server/store/x.py", "x = 'select a\\n from b'"),
    (sql_lives_in_sql_files, "server/store/x.py", "x = f'UPDATE {table} SET a = 1'"),
    (sql_lives_in_sql_files, "server/web/x.py", "import asyncpg.exceptions"),
    (functions_are_readable, "server/web/x.py", "def f():\n" + "    x = 1\n" * FUNCTION_LINES_MAX),
    (names_say_something, "server/web/string_utils.py", ""),
    (names_say_something, "server/web/x.py", "class ConnectionManager: pass"),
    (modules_say_what_and_why, "server/web/x.py", "x = 1"),
]


@pytest.mark.parametrize(("rule", "path", "text"), WRONG, ids=lambda value: getattr(value, "__name__", None))
def test_each_rule_catches_what_it_is_for(rule: Rule, path: str, text: str) -> None:
    assert list(rule(Module(path, room_of(path.split("/")[1]), text, ast.parse(text))))
