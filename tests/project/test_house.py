"""Rules for the code that no linter has. The rules of imports are in .importlinter.

Each rule reads the source of both packages and says where, what is wrong, and what to use instead.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.quick

ROOT = Path(__file__).parents[2]
PACKAGES = {"offbeat": ROOT / "client" / "offbeat", "offbeat_server": ROOT / "server" / "offbeat_server"}

FUNCTION_LINES_MAX = 80
BANNED_WORDS = {"manager", "util", "utils", "helper", "helpers"}  # they name nothing; say what it does
BANNED_MODULES = {"data", "process", "misc"}
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
ALERT_LINES = "offbeat_server/notify/channels/log.py"  # the channel `log`: its lines are alerts, not events
LOG_LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
CLOCK_READINGS = {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns"}
SQL = re.compile(
    r"""\s*(select\b.+\bfrom\b | select\s+[\w.]+\( | insert\s+into\b | update\s+\S+\s+set\b | delete\s+from\b
    | create\s+(or\s+replace\s+)?(unlogged\s+)?(table|index|unique|function|trigger|type|database|role)\b
    | (alter|drop|truncate|lock)\s+(table|role|index|database|type)\b | with\s+\w+(\s*\(.*\))?\s+as\b
    | copy\s+.+\b(from|to)\s+std | set\s+(local|session)\b | (un)?listen\s+\w+$ | notify\s+\w+)""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)


class Module(NamedTuple):
    """One source file; `layer` is its package below `offbeat_server`, or `offbeat`."""

    path: str
    layer: str
    text: str
    tree: ast.Module


class Fault(NamedTuple):
    """A line, and what is wrong with it and why."""

    line: int
    message: str


Rule = Callable[[Module], Iterator[Fault]]


@cache
def modules() -> list[Module]:
    """All of both packages, read once."""
    return [
        module_of(f"{name}/{path.relative_to(folder).as_posix()}", path.read_text(encoding="utf-8"))
        for name, folder in PACKAGES.items()
        for path in sorted(folder.rglob("*.py"))
    ]


def module_of(path: str, text: str) -> Module:
    """A module at `path`, which begins with its package."""
    package, below, *_ = path.split("/")
    return Module(path, package if package == "offbeat" else below.removesuffix(".py"), text, ast.parse(text))


def imports(module: Module) -> Iterator[tuple[int, str]]:
    """Every imported module by its full dotted name, wherever in the file."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." * node.level + (node.module or "")


def dotted(node: ast.AST) -> str:
    """`a.b.c` of a name or attribute; a call in the middle is written `()`."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return f"{dotted(node.func)}()" if isinstance(node, ast.Call) else ""


# `offbeat exec` and `offbeat ping`: one file that works without the rest of the house.
STANDS_ALONE = "offbeat/exec.py"


# --------------------------------------------------------------------------------------------------------------- rules


def imports_are_absolute(module: Module) -> Iterator[Fault]:
    """Imports name the whole path; .importlinter says which are allowed."""
    for line, name in imports(module):
        if name.startswith("."):
            yield Fault(line, f"import {name} is relative; write offbeat_server.…, so that a reader sees the package")


def engine_is_synchronous(module: Module) -> Iterator[Fault]:
    """No async in the engine; .importlinter forbids it clocks, randomness and I/O."""
    if module.layer != "engine":
        return
    for node in ast.walk(module.tree):
        if isinstance(node, (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)):
            yield Fault(node.lineno, "the engine is synchronous; the scheduler calls it")


def clock_is_read_in_one_place(module: Module) -> Iterator[Fault]:
    """Raw clocks only in common/clock.py."""
    if module.path in ("offbeat_server/common/clock.py", STANDS_ALONE):
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            yield Fault(node.lineno, "use common.clock: monotonic() to wait, LogClock for what is recorded")
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        base, _, last = name.rpartition(".")
        if (base == "time" and last in CLOCK_READINGS) or name.endswith(("loop.time", "loop().time")):
            yield Fault(node.lineno, f"{name}(): use common.clock.monotonic, or take the instant as an argument")
        if base.split(".")[-1] in ("datetime", "date") and last in ("now", "utcnow", "today"):
            yield Fault(node.lineno, f"{name}(): use LogClock.now and common.clock.to_datetime")


def environment_is_read_in_one_place(module: Module) -> Iterator[Fault]:
    """The environment only in config.py, and in the client's cli/settings.py."""
    if module.path in ("offbeat_server/config.py", "offbeat/cli/settings.py", STANDS_ALONE):
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and dotted(node) in ("os.environ", "os.getenv", "os.environb"):
            yield Fault(node.lineno, f"{dotted(node)}: make it a field of config.Settings")


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
    if module.path == "offbeat_server/common/service.py":
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and dotted(node.func).split(".")[-1] in ("create_task", "ensure_future"):
            yield Fault(node.lineno, "an orphan task: use Service.spawn for what must not end, Service.errand else")


def sql_lives_in_sql_files(module: Module) -> Iterator[Fault]:
    """SQL text in db/sql; .importlinter keeps asyncpg in db."""
    for line, text in strings(module.tree):
        if SQL.match(text):
            yield Fault(line, f"SQL belongs into offbeat_server/db/sql/*.sql: {text.strip()[:50]!r}")


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


def log_events_have_one_form(module: Module) -> Iterator[Fault]:
    """A logger has its module's name; an event is `module.what_happened`, a literal. Values are in the fields."""
    stem = Path(module.path).stem
    if module.path == ALERT_LINES:
        return
    called = {node.func for node in ast.walk(module.tree) if isinstance(node, ast.Call)}
    for node in ast.walk(module.tree):
        match node:
            case ast.Attribute(value=ast.Name("log"), attr=level) if level in LOG_LEVELS and node not in called:
                yield Fault(node.lineno, f"call log.{level} where it stands, so that the event is checked")
            case ast.Call(
                func=ast.Attribute(value=ast.Name("structlog"), attr="get_logger"), args=[ast.Constant(name)]
            ):
                if name != stem:
                    yield Fault(node.lineno, f"the logger is called {name!r}: call it {stem!r}, as the module")
            case ast.Call(func=ast.Attribute(value=ast.Name("log"), attr=level), args=arguments) if level in LOG_LEVELS:
                event = arguments[0].value if arguments and isinstance(arguments[0], ast.Constant) else None
                if len(arguments) != 1 or not re.fullmatch(rf"{stem}(\.[a-z]+(_[a-z]+)*)", str(event)):
                    yield Fault(node.lineno, f"not one literal `{stem}.what_happened`; put what varies into fields")


RULES: list[Rule] = [
    imports_are_absolute,
    engine_is_synchronous,
    clock_is_read_in_one_place,
    environment_is_read_in_one_place,
    exec_stands_alone,
    tasks_belong_to_a_service,
    sql_lives_in_sql_files,
    functions_are_readable,
    names_say_something,
    modules_say_what_and_why,
    log_events_have_one_form,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_house(rule: Rule) -> None:
    faults = [f"{module.path}:{fault.line}: {fault.message}" for module in modules() for fault in rule(module)]
    assert not faults, "\n".join([f"{rule.__doc__}", *faults])


# A violation of each rule that it must find, so that no rule becomes one that finds nothing.
WRONG: list[tuple[Rule, str, str]] = [
    (imports_are_absolute, "offbeat_server/web/x.py", "from . import y"),
    (engine_is_synchronous, "offbeat_server/engine/x.py", "async def f(): pass"),
    (clock_is_read_in_one_place, "offbeat_server/web/x.py", "import time\ntime.monotonic()"),
    (clock_is_read_in_one_place, "offbeat_server/web/x.py", "import datetime\ndatetime.datetime.now(datetime.UTC)"),
    (clock_is_read_in_one_place, "offbeat_server/web/x.py", "asyncio.get_running_loop().time()"),
    (environment_is_read_in_one_place, "offbeat_server/web/x.py", "import os\nos.environ['X']"),
    (exec_stands_alone, STANDS_ALONE, "from offbeat.cli.settings import ClientSettings"),
    (exec_stands_alone, STANDS_ALONE, "def f():\n    import click"),
    (exec_stands_alone, STANDS_ALONE, "import subprocess"),
    (tasks_belong_to_a_service, "offbeat_server/web/x.py", "asyncio.create_task(f())"),
    (sql_lives_in_sql_files, "offbeat_server/db/x.py", "x = 'select a\\n from b'"),
    (sql_lives_in_sql_files, "offbeat_server/db/x.py", "x = f'UPDATE {table} SET a = 1'"),
    (functions_are_readable, "offbeat_server/web/x.py", "def f():\n" + "    x = 1\n" * FUNCTION_LINES_MAX),
    (names_say_something, "offbeat_server/web/string_utils.py", ""),
    (names_say_something, "offbeat_server/web/x.py", "class ConnectionManager: pass"),
    (modules_say_what_and_why, "offbeat_server/web/x.py", "x = 1"),
    (log_events_have_one_form, "offbeat_server/web/x.py", "log = structlog.get_logger('pages')"),
    (log_events_have_one_form, "offbeat_server/web/x.py", "log.info('x is loaded', keys=1)"),
    (log_events_have_one_form, "offbeat_server/web/x.py", "log.info('y.loaded', keys=1)"),
    (log_events_have_one_form, "offbeat_server/web/x.py", "say = log.info\nsay('x is loaded')"),
    (log_events_have_one_form, "offbeat_server/web/x.py", "log.info(f'x.loaded_{keys}')"),
    (log_events_have_one_form, "offbeat_server/web/x.py", "log.info('x.loaded', 1)"),
]


@pytest.mark.parametrize(("rule", "path", "text"), WRONG, ids=lambda value: getattr(value, "__name__", None))
def test_each_rule_catches_what_it_is_for(rule: Rule, path: str, text: str) -> None:
    assert list(rule(module_of(path, text)))


# ----------------------------------------------------------------------------------------- one name for one class


def types_of(module: Module) -> Iterator[tuple[str, int]]:
    """Each class, type alias and type variable with its line. The underscore of a private name does not count."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef):
            yield node.name.lstrip("_"), node.lineno
    for node in module.tree.body:
        for target in node.targets if isinstance(node, ast.Assign) else ():
            if isinstance(target, ast.Name) and re.match(r"_*[A-Z]\w*[a-z]", target.id):
                yield target.id.lstrip("_"), node.lineno


def names_used_twice(sources: list[Module]) -> dict[str, list[str]]:
    """The places of each name that more than one class or type has."""
    places: dict[str, list[str]] = {}
    for module in sources:
        for name, line in types_of(module):
            places.setdefault(name, []).append(f"{module.path}:{line}")
    return {name: where for name, where in places.items() if len(where) > 1}


def test_no_two_classes_have_the_same_name() -> None:
    faults = [f"{name}: {', '.join(where)}" for name, where in names_used_twice(modules()).items()]
    assert not faults, "\n".join(["name each after what only it is", *faults])


def test_a_name_that_is_used_twice_is_found() -> None:
    one = module_of("offbeat_server/web/x.py", "class Page: pass\nRow = tuple[int]\nLIMIT = 1")
    other = module_of("offbeat_server/db/y.py", "class _Page: pass\nRow = TypeVar('Row')\nLIMIT = 2\nx = Page")
    assert names_used_twice([one, other]) == {
        "Page": ["offbeat_server/web/x.py:1", "offbeat_server/db/y.py:1"],
        "Row": ["offbeat_server/web/x.py:2", "offbeat_server/db/y.py:2"],
    }


# ---------------------------------------------------------------------------------------------------- tests do not wait

SLEEP_S_MIN = 0.1
OWN_TIME = ("chaos", "simulation")  # their sleeps are the schedule of faults, or virtual


def fixed_sleeps(text: str) -> Iterator[Fault]:
    """A test waits for a signal. A sleep that is its input, like a job's work, says so: `# sleep: why`."""
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Call(func=func, args=[ast.Constant(value=int() | float() as seconds)]) if (
                dotted(func).rpartition(".")[2] == "sleep" and seconds >= SLEEP_S_MIN
            ):
                if "# sleep: " not in lines[node.lineno - 1]:
                    yield Fault(node.lineno, f"sleeps for {seconds} s: wait for a signal, or say why: `# sleep: why`")


def test_tests_wait_for_signals() -> None:
    folder = ROOT / "tests"
    paths = (path for path in sorted(folder.rglob("*.py")) if path.relative_to(folder).parts[0] not in OWN_TIME)
    faults = [
        f"{path.relative_to(ROOT)}:{fault.line}: {fault.message}"
        for path in paths
        for fault in fixed_sleeps(path.read_text(encoding="utf-8"))
    ]
    assert not faults, "\n".join(faults)


def test_a_fixed_sleep_is_found() -> None:
    wrong = "await asyncio.sleep(1)\ntime.sleep(0.5)\nsleep(2)\n"
    assert sorted(fault.line for fault in fixed_sleeps(wrong)) == [1, 2, 3]
    assert not list(fixed_sleeps("time.sleep(0.5)  # sleep: the job\nsleep(0.02)\nasyncio.sleep(pause)\n"))
