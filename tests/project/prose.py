"""Lint the prose that people read: `python -m tests.project.prose [PATH …]`, part of `make check`.

Reads sentences from Markdown pages, from docstrings, comments and texts of Python, from comments of SQL, from the text
of page templates, and from the descriptions of the packages in pyproject.toml. Of the texts in tests it reads those
that a person sees: what an assertion, a failed or skipped test, an exception or `print` says, and the names of tests.
Holds them to the rules of docs/development/prose.toml, which are those of docs/development/english.md that a pattern
can check, and to a choice of proselint's checks. Prints one line `path:line: rule: message` per finding; exits with 1
if there is one.
"""

import ast
import io
import re
import subprocess
import sys
import textwrap
import tokenize
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from proselint.checks import __register__ as proselint_checks
from proselint.registry import CheckRegistry
from proselint.tools import LintFile

ROOT = Path(__file__).parents[2]
RULES = ROOT / "docs" / "development" / "prose.toml"


class Passage(NamedTuple):
    """A piece of prose. Lines are those of the file, so what is no prose is blank in `text`, not left out."""

    path: str
    line: int
    kind: str  # "page", "docstring", "comment", "text" (a string in code, a description), "sql", "template", "name"
    text: str


class Rule(NamedTuple):
    """A pattern that no prose may contain."""

    name: str
    pattern: re.Pattern[str]
    message: str
    kinds: frozenset[str]  # empty: all
    except_in: re.Pattern[str] | None  # paths that may contain it


class Finding(NamedTuple):
    path: str
    line: int
    rule: str
    message: str
    found: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.message} (found: {self.found!r})"


def passages(path: Path) -> Iterator[Passage]:
    """The prose of a file, by its suffix. A file of another kind has none."""
    name = path.relative_to(ROOT).as_posix()
    text = path.read_text(encoding="utf-8")
    match path.suffix:
        case ".md":
            yield Passage(name, 1, "page", _of_markdown(text))
        case ".py":
            yield from _of_python(name, text)
        case ".sql":
            yield from _comments(name, "sql", _lines_with(text, r"--(?!\s?(?:name|part):)\s?(.*)"))
        case ".html":
            yield Passage(name, 1, "template", _blank(text, _TEMPLATE))
        case ".toml":
            yield from _of_packages(name, text)
        case _:
            pass


_CODE = re.compile(
    r"^```.*?^```|^~~~.*?^~~~|``.+?``|`[^`\n]*`|<!--.*?-->|\]\([^)]*\)|https?://\S+|^    .*?$", re.M | re.S
)
_TEMPLATE = re.compile(r"<(script|style)\b.*?</\1>|\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}|<[^>]*>|&\w+;", re.S)
_INLINE = re.compile(r"``.+?``|`[^`\n]*`|https?://\S+|\"[^\"\n]*\"", re.S)
_SENTENCE = re.compile(r"[A-Za-z]{2,}[^\n]* [a-z]{2,}[^\n]* [a-z]{2,}")


def _blank(text: str, pattern: re.Pattern[str]) -> str:
    """Replace what matches by spaces, so that lines and columns stay."""
    return pattern.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


def _of_packages(name: str, text: str) -> Iterator[Passage]:
    """The description of a package, which package indexes show."""
    for number, line in _lines_with(text, r'^description = "(.*)"$'):
        yield Passage(name, number, "text", line)


def _of_markdown(text: str) -> str:
    return _blank(text, _CODE)


def _lines_with(text: str, pattern: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if match := re.search(pattern, line):
            yield number, match[1]


def _comments(name: str, kind: str, lines: Iterable[tuple[int, str]]) -> Iterator[Passage]:
    """Comments on neighbouring lines are one passage: a sentence may go over their ends."""
    block: list[tuple[int, str]] = []
    for number, line in [*lines, (-1, "")]:
        if block and number != block[-1][0] + 1:
            yield Passage(name, block[0][0], kind, _blank("\n".join(text for _, text in block), _INLINE))
            block = []
        block.append((number, line))


def _without_indent(docstring: str) -> str:
    """The docstring with as many lines, without the indent of its function or class, which is no block of code."""
    first, newline, rest = docstring.partition("\n")
    return first + newline + textwrap.dedent(rest)


# Functions whose arguments a person reads: of pytest, of programs, and of the worlds of the chaos runs.
_SAYING = {"fail", "skip", "xfail", "exit", "print", "echo", "say"}


def _read_in_tests(tree: ast.AST) -> Iterator[ast.AST]:
    """The parts of a module of tests whose texts a person reads. Other texts are inputs and expected outputs."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert) and node.msg is not None:
            yield from ast.walk(node.msg)
        elif isinstance(node, ast.Raise) and node.exc is not None:
            yield from ast.walk(node.exc)
        elif isinstance(node, ast.keyword) and node.arg == "reason":
            yield from ast.walk(node.value)
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in _SAYING:
                yield from (part for argument in node.args for part in ast.walk(argument))


def _names_of_tests(name: str, tree: ast.AST) -> Iterator[Passage]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield Passage(name, node.lineno, "name", node.name.removeprefix("test_").replace("_", " "))


def _of_python(name: str, text: str) -> Iterator[Passage]:
    tree = ast.parse(text)
    docstrings: set[ast.expr] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                docstrings.add(first.value)
                yield Passage(name, first.lineno, "docstring", _blank(_without_indent(first.value.value), _CODE))
    parts = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    if name.startswith("tests/"):
        read = list(_read_in_tests(tree))
        yield from _names_of_tests(name, tree)
    else:
        read = list(ast.walk(tree))
    for node in read:
        if isinstance(node, ast.JoinedStr):
            value = "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings | parts:
            value = node.value
        else:
            continue
        if _SENTENCE.search(value):
            if node.lineno == node.end_lineno:
                value = value.replace("\n", " ")  # an escape, not an end of a line of the file
            yield Passage(name, node.lineno, "text", _blank(value, _INLINE))
    comments = (
        (token.start[0], token.string[1:].strip())
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT and not token.string.startswith(("# noqa", "# type:", "# fmt:", "#!"))
    )
    yield from _comments(name, "comment", comments)


def rules() -> list[Rule]:
    """Read docs/development/prose.toml."""
    with RULES.open("rb") as file:
        read = tomllib.load(file)["rules"]
    return [
        Rule(
            name,
            # An indented line's end is several spaces.
            re.compile(each["pattern"].replace(" ", " +"), re.M | (0 if each.get("case") else re.I)),
            each["message"],
            frozenset(each.get("kinds", ())),
            re.compile(each["except_in"]) if "except_in" in each else None,
        )
        for name, each in read.items()
    ]


def skipped() -> dict[re.Pattern[str], frozenset[str]]:
    """The beginnings of paths whose prose is not held to the rules, with the kinds that are not."""
    with RULES.open("rb") as file:
        return {re.compile(start): frozenset(kinds) for start, kinds in tomllib.load(file)["skipped"].items()}


def findings(passage: Passage, rules: Iterable[Rule]) -> Iterator[Finding]:
    """Apply the rules to a passage. A line's end counts as a space: a phrase may go over it."""
    flat = re.sub(r"(?<!\n)\n[ \t]*(?!\s*\n)", lambda match: " " + " " * (len(match[0]) - 1), passage.text)
    for rule in rules:
        if rule.kinds and passage.kind not in rule.kinds:
            continue
        if rule.except_in is not None and rule.except_in.search(passage.path):
            continue
        for match in rule.pattern.finditer(flat):
            line = passage.line + passage.text.count("\n", 0, match.start())
            yield Finding(passage.path, line, rule.name, rule.message, " ".join(match[0].split())[:60])


def advice(path: str, found: Iterable[Passage], checks: dict[str, bool]) -> Iterator[Finding]:
    """Apply proselint's `checks` to the pages and templates among the passages of a file."""
    lines: dict[int, str] = {}
    for passage in found:
        if passage.kind in ("page", "template"):
            lines |= dict(enumerate(passage.text.splitlines(), passage.line))
    text = "\n".join(lines.get(number, "") for number in range(1, max(lines, default=0) + 1))
    if text.strip():
        for result in LintFile(path, text).lint({"max_errors": 1000, "checks": checks}):
            line, column = result.pos
            yield Finding(path, line, result.check_result.check_path, result.check_result.message, f"column {column}")


def files() -> list[Path]:
    """Every file under version control, and every new one that git does not ignore."""
    kinds = ("*.md", "*.py", "*.sql", "*.html", "*pyproject.toml")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *kinds]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [ROOT / name for name in sorted(set(names)) if (ROOT / name).is_file() and not (ROOT / name).is_symlink()]


def lint(paths: Iterable[Path]) -> Iterator[Finding]:
    """Findings in these files, each with its line."""
    with RULES.open("rb") as file:
        read: dict[str, Any] = tomllib.load(file)
    CheckRegistry().checks.clear()
    CheckRegistry().register_many(proselint_checks)
    held = rules()
    for path in paths:
        name = path.relative_to(ROOT).as_posix()
        without = frozenset[str]().union(*(kinds for pattern, kinds in skipped().items() if pattern.match(name)))
        found = [passage for passage in passages(path) if passage.kind not in without]
        for passage in found:
            yield from findings(passage, held)
        yield from advice(name, found, read["proselint"])


def main(arguments: list[str]) -> int:
    """Print the findings in the files named, or in all; the exit status."""
    found = list(lint([Path(argument).resolve() for argument in arguments] or files()))
    for finding in found:
        print(finding)
    if found:
        print(
            f"{len(found)} findings. The rules: docs/development/prose.toml; how we write: docs/development/english.md"
        )
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
