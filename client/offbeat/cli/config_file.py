"""Reads and writes a file of monitors, channels and projects: YAML, or JSON.

Text that YAML reads as something that few people mean is refused, with its line: a key that is given twice (the first
would be dropped), `24:00` (1440), `0600` (384), `no` (false). `${NAME}` in a channel or a key stands for an environment
variable, so that secrets need not be in the file; `$${` is a plain `${`.
"""

import re
from pathlib import Path
from typing import IO, Any

import yaml

from offbeat.cli.settings import read_variable
from offbeat.errors import SettingsError
from offbeat.readable import readable
from offbeat.strict_json import read_json

# The reader in C is ten times as quick: 10 000 monitors in 2 s instead of 20.
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9]*)?\.?[0-9]*")
_TRUE_FALSE = {"true": True, "false": False}
# Text for PyYAML, numbers for readers of YAML 1.2.
_NUMBER_ELSEWHERE = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+|0o[0-7]+")
_VARIABLE = re.compile(r"(\$?)\$\{([^{}]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEY_FIELDS = frozenset(("key", "ping_key"))


class _Loader(_Base):  # type: ignore[misc]
    """PyYAML's safe loader without guesses."""

    yaml_constructors: dict[Any, Any] = {}

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[str, Any]:
        """An object; each key once, and text."""
        first: dict[str, int] = {}
        for key, _ in node.value:
            if key.tag not in (_TAG + "str", _TAG + "merge"):
                raise _wrong(key, f"the key {_written(key)} is not text: put it in quotes")
            if key.value in first:
                raise _wrong(key, f"the key {key.value!r} is given twice, first in line {first[key.value]}")
            first[key.value] = key.start_mark.line + 1
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for key, value in node.value:
            read = self.construct_object(value, deep=True)
            if key.tag == _TAG + "str":
                own[self.construct_object(key, deep=True)] = read
                continue
            sources = read if isinstance(read, list) else [read]
            if not all(isinstance(each, dict) for each in sources):
                raise _wrong(value, "<< takes a mapping or a list of mappings")
            for each in reversed(sources):
                merged |= each
        return merged | own

    def construct_list(self, node: Any) -> list[Any]:
        """A list."""
        return [self.construct_object(each, deep=True) for each in node.value]

    def construct_text(self, node: Any) -> str:
        """Text as it is written, dates too."""
        text: str = self.construct_scalar(node)
        if not node.style and _NUMBER_ELSEWHERE.fullmatch(text):
            raise _wrong(node, f"{text} is ambiguous: put it in quotes, or write the number with its digits alone")
        return text

    def construct_integer(self, node: Any) -> int:
        """A whole number in plain decimal digits."""
        if not _INTEGER.fullmatch(node.value):
            raise _ambiguous(node, self.construct_yaml_int(node))
        return int(node.value)

    def construct_number(self, node: Any) -> float:
        """A number with a decimal point."""
        if not _NUMBER.fullmatch(node.value):
            raise _ambiguous(node, self.construct_yaml_float(node))
        return float(node.value)

    def construct_flag(self, node: Any) -> bool:
        """true or false."""
        value = _TRUE_FALSE.get(node.value.lower())
        if value is None:
            raise _wrong(node, f"{node.value} is ambiguous: write true or false, or put it in quotes if it is text")
        return value

    def refuse(self, node: Any) -> None:
        """Everything that JSON cannot hold."""
        raise _wrong(node, f"the tag {node.tag.replace(_TAG, '!!')} is not supported")


def _wrong(node: Any, reason: str) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, reason, node.start_mark)


def _ambiguous(node: Any, value: float) -> yaml.MarkedYAMLError:
    return _wrong(
        node,
        f"{node.value} is ambiguous: YAML reads it as the number {value}. Write a length of time with a unit, such as "
        "24h or 1h30m; put text in quotes",
    )


def _hint(text: bytes, error: yaml.MarkedYAMLError) -> str:
    """Return the advice for an error in the form of the file."""
    mark, problem = error.problem_mark, str(error.problem)
    if "another document" in problem:
        return ": the file must be one document"
    if "mapping values are not allowed" in problem:
        return ": put text that holds a colon and a space in quotes"
    lines = text.decode("utf-8", "replace").splitlines()
    if mark is None or mark.line >= len(lines):
        return ""
    line = lines[mark.line]
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return ": indent with spaces, not with tabs"
    # The mark of a sign that begins no text stands at it, behind it or before the space in front of it.
    signs = [sign for sign in line[max(mark.column - 1, 0) : mark.column + 2].strip() if sign in "@`%*&"]
    return f": put text that begins with {signs[0]} in quotes" if signs else ""


def _written(key: Any) -> str:
    return str(key.value) if isinstance(key, yaml.ScalarNode) else "that is a list or an object"


for _tag, _constructor in (
    ("map", _Loader.construct_mapping),
    ("seq", _Loader.construct_list),
    ("str", _Loader.construct_text),
    ("timestamp", _Loader.construct_text),
    ("int", _Loader.construct_integer),
    ("float", _Loader.construct_number),
    ("bool", _Loader.construct_flag),
    ("null", _Base.construct_yaml_null),
):
    _Loader.add_constructor(_TAG + _tag, _constructor)
_Loader.add_constructor(None, _Loader.refuse)


def read_config(path: Path) -> dict[str, Any]:
    """The file as it is written, not yet checked. Raises SettingsError that names the file, and the line if it can."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"{path}: cannot be read ({error.strerror or error}): name a readable file in YAML or JSON"
        ) from None
    try:
        value = read_json(text) if path.suffix == ".json" else yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        raise SettingsError(f"{path}: cannot be read: {where}{error.problem}{_hint(text, error)}") from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count(b"\n") + 1 if isinstance(error.position, int) else 1
        raise SettingsError(
            f"{path}: cannot be read: line {line}: the file must be UTF-8 without control characters: {error.reason}"
        ) from None
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise SettingsError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise SettingsError(f"{path}: must be an object with monitors, channels or projects")
    try:
        return {
            name: _expand(part, name, in_all_texts=name == "channels")
            if name in ("channels", "monitors", "projects")
            else part
            for name, part in value.items()
        }
    except ValueError as error:
        raise SettingsError(f"{path}: {error}") from None


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """PyYAML's safe dumper, which quotes every value that `_Loader` would refuse."""

    def write_text(self, text: str) -> Any:
        """Text."""
        style = "'" if _NUMBER_ELSEWHERE.fullmatch(text) else None
        return self.represent_scalar(_TAG + "str", text, style=style)


_Dumper.add_representer(str, _Dumper.write_text)


def write_config(config: dict[str, Any], to: IO[str]) -> None:
    """Write a configuration as YAML that `read_config` reads."""
    text = yaml.dump(config, None, _Dumper, sort_keys=False, allow_unicode=True, width=120)
    if text != readable(text):  # the same values, with everything but ASCII escaped
        text = yaml.dump(config, None, _Dumper, sort_keys=False, width=120)
    to.write(text)


def _expand(value: Any, path: str, in_all_texts: bool) -> Any:
    """With environment variables in place of `${NAME}`: in every text if `in_all_texts`, else in keys alone."""
    if isinstance(value, dict):
        return {
            name: _expand(each, f"{path}.{name}", in_all_texts or (name in _KEY_FIELDS and isinstance(each, str)))
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [_expand(each, f"{path}.{index}", in_all_texts) for index, each in enumerate(value)]
    if not in_all_texts or not isinstance(value, str) or "${" not in value:
        return value

    def replaced(match: re.Match[str]) -> str:
        escape, variable = match.groups()
        if escape:
            return match[0][1:]
        if not _NAME.fullmatch(variable):
            raise ValueError(f"{path}: {match[0]} must be ${{NAME}} with the name of an environment variable")
        content = read_variable(variable)
        if not content:
            raise ValueError(f"{path}: the environment variable {variable} is not set, or is empty")
        return content

    return _VARIABLE.sub(replaced, value)
