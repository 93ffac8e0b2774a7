"""Every new name on docs/development/renamed.md exists: modules, files, names in modules, and texts in the code."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from docs.generate import metrics
from offbeat_server.engine.model.definition import Definition

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "development" / "renamed.md"
SOURCES = (ROOT / "client", ROOT / "server")
CODE = re.compile(r"`([^`]+)`")


class Row(NamedTuple):
    """A row of a table of the page, with the heading above it."""

    line: int
    heading: str
    cells: tuple[str, ...]


def rows() -> Iterator[Row]:
    """The rows of all tables of the page, without their heads."""
    heading, in_table = "", False
    for number, line in enumerate(PAGE.read_text().splitlines(), 1):
        if line.startswith("## "):
            heading = line[3:]
        if not line.startswith("|"):
            in_table = False
        elif re.fullmatch(r"[| :-]+", line):
            in_table = True
        elif in_table:
            yield Row(number, heading, tuple(cell.strip() for cell in line.strip("|").split("|")))


def below(heading: str) -> list[Row]:
    below_heading = [row for row in rows() if row.heading == heading]
    assert below_heading, f"no table below {heading!r}"
    return below_heading


def file_of(module: str) -> Path | None:
    """The file of a module or package of the client, the server or the tests."""
    for source in (*SOURCES, ROOT):
        for end in (".py", "/__init__.py"):
            if (path := source / (module.replace(".", "/") + end)).is_file():
                return path
    return None


@cache
def tree_of(module: str) -> ast.Module:
    path = file_of(module)
    assert path is not None, f"no module {module}"
    return ast.parse(path.read_text())


def _targets(node: ast.AST) -> list[ast.expr]:
    match node:
        case ast.Assign():
            targets = node.targets
        case ast.AnnAssign() | ast.AugAssign() | ast.For() | ast.AsyncFor():
            targets = [node.target]
        case _:
            return []
    return [part for each in targets for part in (each.elts if isinstance(each, ast.Tuple) else [each])]


def _names_below(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """Names that statements bind, with the statement: functions, classes, type aliases, variables."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node
        for target in _targets(node):
            if isinstance(target, ast.Name):
                yield target.id, node
        for inner in ("body", "orelse", "handlers", "finalbody"):
            if isinstance(node, ast.If | ast.Try | ast.With):
                yield from _names_below([part for part in getattr(node, inner, []) if isinstance(part, ast.stmt)])


def _is_attribute(owner: ast.ClassDef, name: str) -> bool:
    """Whether a class has a method or field of this name, or sets it on `self`."""
    if any(found == name for found, _ in _names_below(owner.body)):
        return True
    return any(
        isinstance(target, ast.Attribute)
        and isinstance(target.value, ast.Name)
        and target.value.id == "self"
        and target.attr == name
        for node in ast.walk(owner)
        for target in _targets(node)
    )


def missing_in(module: str, name: str) -> str | None:
    """The part of `name` that does not exist, or None.

    `name` is `f`, `Class` or `Class.attribute`, each with or without `(parameter, …)`.
    """
    dotted, _, inside = name.partition("(")
    first, *attributes = dotted.split(".")
    node = dict(_names_below(tree_of(module).body)).get(first)
    if node is None:
        return f"{module} has no {first}"
    for attribute in attributes:
        if not isinstance(node, ast.ClassDef) or not _is_attribute(node, attribute):
            return f"{first} in {module} has no {attribute}"
        node = dict(_names_below(node.body)).get(attribute, node)
    if isinstance(node, ast.ClassDef):
        node = dict(_names_below(node.body)).get("__init__", node)
    parameters: set[str] = set()
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        parameters = {each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
    for parameter in re.findall(r"\w+", inside):
        if parameter not in parameters:
            return f"{dotted} in {module} has no parameter {parameter}"
    return None


def is_statement(name: str) -> bool:
    """Whether there is an SQL statement with this name, which is `FILE.STATEMENT`."""
    file, _, statement = name.partition(".")
    path = ROOT / "server" / "offbeat_server" / "db" / "sql" / f"{file}.sql"
    return path.is_file() and f"-- name: {statement}\n" in path.read_text()


def sources() -> str:
    """The Python source of client and server."""
    return "\n".join(path.read_text() for source in SOURCES for path in sorted(source.rglob("*.py")))


def test_new_modules_exist() -> None:
    gone = [
        f"{row.line}: {module}"
        for row in below("Modules")
        for module in CODE.findall(row.cells[1])
        if file_of(module) is None
    ]
    assert not gone, "no such module:\n" + "\n".join(gone)


def test_new_classes_functions_and_attributes_exist() -> None:
    """The name is in the module of the first column; in `NAME` in `MODULE`, it is in that module."""
    problems = []
    for row in below("Classes, functions and attributes"):
        module, _, new = row.cells
        (home,) = CODE.findall(module)
        if home == "SQL":
            problems += [f"{row.line}: no statement {name}" for name in CODE.findall(new) if not is_statement(name)]
            continue
        if file_of(home) is None:
            problems.append(f"{row.line}: no module {home}")
            continue
        if elsewhere := re.search(r" in `([\w.]+)`$", new):
            home, new = f"offbeat_server.{elsewhere[1]}", new[: elsewhere.start()]
            if file_of(home) is None:
                problems.append(f"{row.line}: no module {home}")
                continue
        problems += [f"{row.line}: {problem}" for name in CODE.findall(new) if (problem := missing_in(home, name))]
        assert CODE.search(new), f"{row.line}: no name in `…`"
    assert not problems, "\n".join(problems)


def test_new_files_exist() -> None:
    gone = [
        f"{row.line}: {path}"
        for row in below("Test files and SQL files")
        for path in CODE.findall(row.cells[1])
        if not (ROOT / path).exists()
    ]
    assert not gone, "no such file:\n" + "\n".join(gone)


@pytest.mark.parametrize("heading", ["Loggers, services and sessions", "Log events"])
def test_new_texts_are_in_the_code(heading: str) -> None:
    """Names of loggers, services, sessions and log events are literals; a comma separates several."""
    code = sources()
    gone = [
        f"{row.line}: {text}"
        for row in below(heading)
        for text in ", ".join(CODE.findall(row.cells[1])).split(", ")
        if f'"{text}"' not in code
    ]
    assert not gone, "no such text in client/ or server/:\n" + "\n".join(gone)


def test_new_public_names_exist() -> None:
    """Metrics, fields of monitors, alert rules in deploy/alerts.yml, values and types in the code."""
    rules = (ROOT / "deploy" / "alerts.yml").read_text()
    code = sources()
    known = {*metrics.names(), *Definition.model_fields, *re.findall(r"alert: (\w+)", rules)}
    gone = [
        f"{row.line}: {name}"
        for row in below("Public names")
        for name in CODE.findall(row.cells[1])
        if name not in known and f'"{name}"' not in code and f"class {name}(" not in code
    ]
    assert not gone, "no such public name:\n" + "\n".join(gone)


def test_every_deprecated_metric_is_listed() -> None:
    listed = {row.cells[:2] for row in below("Public names")}
    assert listed >= set(metrics.former_names())
