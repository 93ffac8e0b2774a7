"""No version of a dependency that is known to be bad: not here, not in the constraints, not allowed by pyproject.toml.

`make audit` asks the databases of advisories, where they can be reached; this list is what was known when it was
written, and holds without them. A line says from which version on it is good, and why the ones before are not.
"""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, version

import pytest

from tests.support.harness import ROOT

GOOD_FROM = {
    # Dependencies of the server.
    "aiohttp": (
        "3.14.5",
        "connections that never send a request stay open; before that CVE-2026-54273, -54277, -34525",
    ),
    "jinja2": ("3.1.6", "CVE-2025-27516, CVE-2024-56326: ways out of the sandbox"),
    "orjson": ("3.9.15", "CVE-2024-27454: deep JSON exhausts the stack"),
    "brotli": ("1.2.0", "CVE-2025-6176: decompression without a bound"),
    "pyyaml": ("5.4", "CVE-2020-14343: code in a file"),
    "idna": ("3.7", "CVE-2024-3651: quadratic time"),
    "certifi": ("2024.7.4", "CVE-2024-39689: a distrusted root"),
    # Dependencies of tests and extras alone.
    "urllib3": ("2.7.0", "CVE-2026-44432, CVE-2026-21441: decompression without a bound"),
    "requests": ("2.32.4", "CVE-2024-47081: credentials of .netrc sent elsewhere"),
    "sentry-sdk": ("2.8.0", "CVE-2024-40647: the environment reaches child processes"),
    "werkzeug": ("3.1.5", "CVE-2026-21860: device names of Windows"),
    "pillow": ("11.3.0", "CVE-2025-48379: a write past a buffer"),
}
_PINNED = re.compile(r"^([A-Za-z0-9_.-]+)==(\S+)$", re.MULTILINE)
_FLOOR = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[[^]]*\])?>=([0-9.]+)")


def parts(text: str) -> tuple[int, ...]:
    numbers = [int(part) for part in re.findall(r"\d+", text)]
    return (*numbers, *[0] * (3 - len(numbers)))


def floors(requirements: list[str]) -> dict[str, str]:
    matches = (_FLOOR.match(requirement) for requirement in requirements)
    return {each[1].lower(): each[2] for each in matches if each}


@pytest.mark.parametrize("name", GOOD_FROM)
def test_no_version_that_is_known_to_be_bad(name: str) -> None:
    good, why = GOOD_FROM[name]
    pins = {each[0].lower(): each[1] for each in _PINNED.findall((ROOT / "constraints.txt").read_text())}
    assert parts(pins[name]) >= parts(good), f"constraints.txt: {why}"
    try:
        installed = version(name)
    except PackageNotFoundError:
        return
    assert parts(installed) >= parts(good), f"installed: {why}"


def test_what_the_server_needs_may_not_be_older_either() -> None:
    server, client = (
        tomllib.loads((ROOT / name).read_text())["project"] for name in ("pyproject.toml", "client/pyproject.toml")
    )
    assert client["dependencies"] == []
    assert f"offbeat[cli]=={client['version']}" in server["dependencies"] and client["version"] == server["version"]
    allowed = floors([*server["dependencies"], *client["optional-dependencies"]["cli"]])
    assert {"aiohttp", "jinja2", "orjson", "brotli", "pyyaml"} <= allowed.keys()
    for name in GOOD_FROM.keys() & allowed.keys():
        good, why = GOOD_FROM[name]
        assert parts(allowed[name]) >= parts(good), f"pyproject.toml allows {name} {allowed[name]}: {why}"


def test_the_parser_in_c_is_the_one_that_is_used() -> None:
    """Most of aiohttp's advisories about requests that hide in others are of its parser in Python."""
    from aiohttp.http_parser import HttpRequestParser, HttpRequestParserPy

    assert HttpRequestParser is not HttpRequestParserPy
