"""The commands of the tutorial and of the guides do what the pages say, as printed, on a real server.

A page is run from top to bottom in one shell, in an empty directory. What counts is the language of a fenced block:

- ``sh``: is run. A ``text`` block that follows is its output;
- ``crontab``: the commands of its lines are run, as cron would;
- ``yaml``, ``json``, ``ini``, ``python`` with a title: is written to the file of that name; YAML is parsed in any case;
- others are for people.

A comment in the line before a block changes this:

- ``<!-- retry -->``: run again until the output is the expected one;
- ``<!-- background -->``: run in a second terminal, until the end of the page;
- ``<!-- terminal -->`` before a ``text`` block: what the second terminal shows sooner or later;
- ``<!-- exit 3 -->``: ends with this exit code instead of 0;
- ``<!-- env A=1 -->``: with variables that the system (SLURM, Kubernetes) would set;
- ``<!-- file job.sh -->``: is not run, but written to this file;
- ``<!-- not run: reason -->``: cannot run here.

The word KEY in a command is replaced by the key of the monitor that the page names in ``<!-- key: slug -->``.
"""

import asyncio
import contextlib
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio
import yaml

from tests.support.harness import ADMIN_KEY, ROOT, Postgres, Server, eventually, free_port, needs

pytestmark = pytest.mark.slow

DOCS = ROOT / "docs"
PAGES = [DOCS / "tutorial.md", *sorted((DOCS / "guides").glob("*.md"))]
ADDRESS = "http://localhost:8080"
RECEIVER = "127.0.0.1:9000"
BLOCK_S = 20.0
_FENCE = re.compile(
    r"(?:^[ ]*<!-- (?P<how>[^\n]*?) -->\n)?"
    r"^(?P<indent>[ ]*)```(?P<language>[a-z]+)(?: title=\"(?P<title>[^\"]+)\")?[^\n]*\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_CRON_LINE = re.compile(r"^(?:@\w+|(?:\S+\s+){5})\s*(?P<command>\S.*)$")
_KEY_OF = re.compile(r"<!-- key: (\S+) -->")
# What differs from run to run, the longest forms first.
_VARYING = (
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?( UTC|Z)?"), "<time>"),
    (re.compile(r"\b\d\d:\d\d:\d\d\b"), "<time>"),
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "<uuid>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d\b"), "<date>"),
    (re.compile(r"\b\d+-\d+\b"), "<id>"),
    (re.compile(r"\b\d+(\.\d+)? (ms|s|min)\b"), "<duration>"),
    (re.compile(r"\b\d+\.\d+\b"), "<number>"),
    (re.compile(r"\b(obp|oba|obr)_\w+|alert_[0-9a-f]{32}|whsec_\S+"), "<secret>"),
)


class Block(NamedTuple):
    """A fenced block of a page."""

    line: int
    how: str
    language: str
    title: str | None
    text: str


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    source = page.read_text()
    found = []
    for match in _FENCE.finditer(source):
        indent = len(match["indent"])
        text = "".join(line[indent:] or "\n" for line in match["text"].splitlines(keepends=True))
        line = source.count("\n", 0, match.start("language")) + 1
        found.append(Block(line, match["how"] or "", match["language"], match["title"], text))
    return found


def plain(text: str) -> list[str]:
    """Lines without what differs from run to run, and without the widths of columns."""
    for varying, name in _VARYING:
        text = varying.sub(name, text)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    return [line for line in lines if line]


def agrees(output: str, expected: str) -> bool:
    """Whether an output is the expected one. `…` stands for any text in a line; alone in a line, for any lines."""
    parts = []
    for line in plain(expected):
        if line == "…":
            parts.append(r"(?:[^\n]*\n)*")
        else:
            parts.append(r"[^\n]*".join(re.escape(part) for part in line.split("…")) + r"\n")
    return re.fullmatch("".join(parts), "".join(f"{line}\n" for line in plain(output))) is not None


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(postgres: Postgres) -> AsyncIterator[Server]:
    """One for all pages; each uses slugs of its own."""
    async with (
        postgres.fresh() as url,
        Server(url, "--allow-destinations", "127.0.0.0/8", "--root-protocol", "snitch") as running,
    ):
        yield running


class Terminal:
    """A shell that runs the blocks of one page. Variables and functions stay from block to block."""

    def __init__(self, server: Server, directory: Path) -> None:
        self._server = server
        self._directory = directory
        self._process: asyncio.subprocess.Process | None = None
        self._background: list[asyncio.subprocess.Process] = []
        self._count = 0
        self.receiver_port = free_port()

    @property
    def _env(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OFFBEAT_")}
        return kept | {
            "OFFBEAT_URL": self._server.url,
            "OFFBEAT_ADMIN_KEY": ADMIN_KEY,
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
            "HOME": str(self._directory),
            "SHELL": "/bin/sh",
        }

    async def _start(self, *command: str, **pipes: int) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *command, cwd=self._directory, env=self._env, start_new_session=True, **pipes
        )

    async def run(self, text: str, **env: str) -> tuple[int, str]:
        """Exit code and output (both streams) of a block."""
        if self._process is None:
            pipe = asyncio.subprocess.PIPE
            self._process = await self._start("bash", "--norc", stdin=pipe, stdout=pipe, stderr=pipe)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._count += 1
        block, output = (self._directory / f".block-{self._count}.{kind}" for kind in ("sh", "out"))
        block.write_text(text)
        variables = "".join(f"{name}={shlex.quote(value)} " for name, value in env.items())
        source = f"source {block}" if not env else f"{variables} bash {block}"
        self._process.stdin.write(f"{source} >{output} 2>&1 </dev/null; echo $?\n".encode())
        try:
            async with asyncio.timeout(BLOCK_S):
                code = int(await self._process.stdout.readline())
        except TimeoutError:
            raise AssertionError(f"not within {BLOCK_S} s; so far:\n{output.read_text()}") from None
        return code, self._as_printed(output.read_text())

    def printed_beside(self) -> str:
        """What the second terminal shows."""
        return self._as_printed((self._directory / ".background").read_text())

    def _as_printed(self, text: str) -> str:
        return text.replace(self._server.url, ADDRESS).replace(f"127.0.0.1:{self.receiver_port}", RECEIVER)

    async def run_beside(self, text: str) -> None:
        """Begin a block as in another terminal."""
        out = (self._directory / ".background").open("ab")
        with out:
            process = await self._start(
                "bash", "--norc", "-c", text, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out
            )
        self._background.append(process)

    async def close(self) -> None:
        """End everything that still runs."""
        for process in (*self._background, *([self._process] if self._process is not None else [])):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def key_of(server: Server, slug: str) -> str:
    """The key of a monitor that the page has made by now."""
    answer = await server.api("GET", f"/api/v1/monitors/{slug}")
    assert answer.status == 200, f"the page names the monitor {slug}, which does not exist here: {answer.body}"
    return str(answer.body["key"])


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
async def test_the_page_is_true(server: Server, page: Path, tmp_path: Path) -> None:
    """Every block that can run gives the output that stands behind it."""
    blocks = blocks_of(page)
    slug = _KEY_OF.search(page.read_text())
    for program in ("curl", *re.findall(r"<!-- needs: (\S+) -->", page.read_text())):
        needs(program)
    terminal = Terminal(server, tmp_path)
    try:
        for number, block in enumerate(blocks):
            follows = blocks[number + 1] if number + 1 < len(blocks) else None
            is_output = follows is not None and follows.language == "text" and not follows.how
            expected = follows.text if follows is not None and is_output else None
            text = block.text.replace(ADDRESS, server.url).replace(RECEIVER, f"127.0.0.1:{terminal.receiver_port}")
            text = text.replace('"127.0.0.1", 9000', f'"127.0.0.1", {terminal.receiver_port}')
            if block.language in ("sh", "crontab") and slug is not None and re.search(r"\bKEY\b", text):
                key = await key_of(server, slug[1])
                text = re.sub(r"(?<![$\w{])KEY\b(?!=)", key, text)
            if block.language == "yaml":
                list(yaml.safe_load_all(text))
            if block.title is not None:
                (tmp_path / block.title).write_text(text)
            place = f"{page.relative_to(ROOT)}:{block.line}"
            if block.how.startswith("not run"):
                continue
            if block.how == "terminal":
                await _eventually_agrees(place, terminal.printed_beside, block.text)
                continue
            if block.language == "crontab":
                text = "\n".join(found["command"] for line in text.splitlines() if (found := _CRON_LINE.match(line)))
            elif block.language != "sh":
                continue
            if found := re.match(r"file (\S+)", block.how):
                (tmp_path / found[1]).write_text(text)
                continue
            if block.how == "background":
                await terminal.run_beside(text)
                continue
            await _check(terminal, place, block.how, text, expected)
    finally:
        await terminal.close()
        with contextlib.suppress(FileNotFoundError):
            print((tmp_path / ".background").read_text())
        shutil.rmtree(tmp_path, ignore_errors=True)


async def _eventually_agrees(place: str, printed: Callable[[], str], expected: str) -> None:
    async def does() -> bool:
        assert agrees(printed(), expected), f"{place}: printed:\n{printed()}\nexpected:\n{expected}"
        return True

    await eventually(does)


async def _check(terminal: Terminal, place: str, how: str, text: str, expected: str | None) -> None:
    env = dict(word.split("=", 1) for word in shlex.split(how.removeprefix("env "))) if how.startswith("env ") else {}
    wanted = int(how.removeprefix("exit ")) if how.startswith("exit ") else 0
    deadline = asyncio.get_running_loop().time() + BLOCK_S
    while True:
        code, output = await terminal.run(text, **env)
        if code == wanted and (expected is None or agrees(output, expected)):
            return
        if how != "retry" or asyncio.get_running_loop().time() > deadline:
            break
        await asyncio.sleep(0.1)
    raise AssertionError(f"{place}: exit code {code}, output:\n{output}\nexpected:\n{expected}")


def test_the_comparison_notices_a_difference() -> None:
    assert agrees("a   b 12:00:01\nc\n", "a b 09:09:09\nc\n")
    assert agrees("a\nb\nc\n", "a\n…\n") and agrees("one two\n", "one …\n")
    assert not agrees("a\nb\n", "a\n") and not agrees("a\n", "a\nb\n") and not agrees("up\n", "down\n")
