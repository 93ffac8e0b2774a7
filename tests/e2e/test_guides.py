"""The commands of the README, the tutorial and the guides do what the pages say, as printed, on a real server.

A page is run from top to bottom in one shell, in an empty directory. The language of a fenced block decides:

- ``sh``: is run. A ``text`` block that follows is its output;
- ``crontab``: the commands of its lines are run, as cron would;
- ``yaml``, ``json``, ``ini``, ``python`` with a title: is written to the file of that name; YAML is parsed in any case;
- others are for people.

A comment in the line before a block changes this:

- ``<!-- retry -->``: run again until the output is the expected one;
- ``<!-- background -->``: run in a second terminal, until the end of the page;
- ``<!-- terminal -->`` before a ``text`` block: what the second terminal shows sooner or later;
- ``<!-- exit 3 -->``: ends with this exit code instead of 0;
- ``<!-- pod -->``, ``<!-- pods INDEX=0,1 -->``: the command of the first container is run, as Kubernetes would;
- ``<!-- unit A=1 -->``: the commands of a systemd unit are run, with variables that systemd would set;
- ``<!-- workflow A=1 -->``: the steps of a GitHub workflow are run, with variables that GitHub would set;
- ``<!-- file job.sh -->``: is not run, but written to this file;
- ``<!-- not run: reason -->``: cannot run here.

Each page has a project of its own. A page with ``<!-- project: default -->`` has the default one, and all rights. The
word KEY in a command is replaced by the key of the monitor that the page names in ``<!-- key: slug -->``.
"""

import asyncio
import contextlib
import os
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO, NamedTuple

import pytest
import pytest_asyncio
import yaml

from tests.support.harness import ADMIN_KEY, ROOT, Postgres, Server, eventually, free_port, needs

pytestmark = pytest.mark.slow

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", DOCS / "tutorial.md", *sorted((DOCS / "guides").glob("*.md"))]
ADDRESS = "http://localhost:8080"
RECEIVER = "127.0.0.1:9000"
BLOCK_S = 40.0
TURNS = 16  # pages at once
_FENCE = re.compile(
    r"(?:^[ ]*<!-- (?P<how>[^\n]*?) -->\n)?"
    r"^(?P<indent>[ ]*)```(?P<language>[a-z]+)(?: title=\"(?P<title>[^\"]+)\")?[^\n]*\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_CRON_LINE = re.compile(r"^(?:@\w+|(?:\S+\s+){5})\s*(?P<command>\S.*)$")
_IS_KEY = re.compile(r"(?<![$\w{])KEY\b(?!=)")
_KEY_OF = re.compile(r"<!-- key: (\S+) -->")
# Values that differ from run to run, the longest forms first.
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
    """One for all pages; each page has a project of its own."""
    async with (
        postgres.fresh() as url,
        Server(url, "--allow-destinations", "127.0.0.0/8", "--root-protocol", "snitch") as running,
    ):
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def played(
    server: Server, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[dict[Path, asyncio.Task[None]]]:
    """The pages that are to be tested, several at once: for most of their time they wait for deadlines."""
    turns = asyncio.Semaphore(TURNS)

    async def one(page: Path) -> None:
        async with turns:
            await play(server, page, tmp_path_factory.mktemp(page.stem))

    chosen = {item.name for item in request.session.items}  # as `-k` and `-n` have left them
    pages = [page for page in PAGES if f"test_the_page_is_true[{page.stem}]" in chosen]
    tasks = {page: asyncio.create_task(one(page)) for page in pages}
    yield tasks
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)


class Terminal:
    """A shell that runs the blocks of one page. Variables and functions stay from block to block."""

    def __init__(self, server: Server, project: str, access_key: str, directory: Path) -> None:
        self._server = server
        self._project = project
        self._access_key = access_key
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
            "OFFBEAT_ADMIN_KEY": self._access_key,
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
            "HOME": str(self._directory),
            "SHELL": "/bin/sh",
        }

    async def _start(self, *words: str, given: int, output: int | IO[bytes]) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *("bash", "--norc", *words),
            cwd=self._directory,
            env=self._env,
            stdin=given,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    async def run(self, text: str) -> tuple[int, str]:
        """Exit code and output (both streams) of a block."""
        if self._process is None:
            pipe = asyncio.subprocess.PIPE
            self._process = await self._start(given=pipe, output=pipe)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._count += 1
        block, output = (self._directory / f".block-{self._count}.{kind}" for kind in ("sh", "out"))
        block.write_text(text)
        self._process.stdin.write(f"source {block} >{output} 2>&1 </dev/null; echo $?\n".encode())
        try:
            async with asyncio.timeout(BLOCK_S):
                code = int(await self._process.stdout.readline())
        except TimeoutError:
            raise AssertionError(f"not within {BLOCK_S} s; so far:\n{output.read_text()}") from None
        return code, self._as_printed(output.read_text())

    def printed_beside(self) -> str:
        """The output in the second terminal."""
        return self._as_printed((self._directory / ".background").read_text())

    @property
    def receiver_as_printed(self) -> tuple[tuple[str, str], ...]:
        """The forms in which the pages name the receiver, and what stands for them here."""
        return (RECEIVER, f"127.0.0.1:{self.receiver_port}"), (
            '"127.0.0.1", 9000',
            f'"127.0.0.1", {self.receiver_port}',
        )

    def _as_printed(self, text: str) -> str:
        text = text.replace(self._server.url, ADDRESS).replace(f"127.0.0.1:{self.receiver_port}", RECEIVER)
        return text.replace(f"{self._project}/", "")  # which readers do not see in the project `default`

    async def run_beside(self, text: str) -> None:
        """Begin a block as in another terminal."""
        out = (self._directory / ".background").open("ab")
        with out:
            process = await self._start("-c", text, given=asyncio.subprocess.DEVNULL, output=out)
        self._background.append(process)

    async def close(self) -> None:
        """End everything that still runs."""
        for process in (*self._background, *([self._process] if self._process is not None else [])):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def project_for(server: Server, slug: str) -> str:
    """Make a project; an access key that has all rights in it and nowhere else."""
    made = await server.api("PUT", f"/api/v1/projects/{slug}", {})
    assert made.status == 201, made
    key = await server.api("POST", "/api/v1/keys", {"name": slug, "role": "admin", "project": slug})
    assert key.status == 201, key
    return str(key.body["key"])


async def key_of(server: Server, project: str, slug: str) -> str:
    """The key of a monitor that the page has made by now."""
    answer = await server.api("GET", f"/api/v1/monitors/{slug}?project={project}")
    assert answer.status == 200, f"the page names the monitor {slug}, which does not exist here: {answer.body}"
    return str(answer.body["key"])


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
async def test_the_page_is_true(played: dict[Path, asyncio.Task[None]], page: Path) -> None:
    """Every block that can run gives the output that stands behind it."""
    for program in ("curl", *re.findall(r"<!-- needs: (\S+) -->", page.read_text())):
        needs(program)
    await played[page]


async def play(server: Server, page: Path, directory: Path) -> None:
    """Run the blocks of a page. Raises AssertionError at the first that does not give its output."""
    blocks = blocks_of(page)
    slug = _KEY_OF.search(page.read_text())
    if "<!-- project: default -->" in page.read_text():
        project, access_key = "default", ADMIN_KEY
    else:
        project = f"page-{page.stem.lower()}"
        access_key = await project_for(server, project)
    terminal = Terminal(server, project, access_key, directory)
    try:
        for number, block in enumerate(blocks):
            follows = blocks[number + 1] if number + 1 < len(blocks) else None
            is_output = follows is not None and follows.language == "text" and not follows.how
            expected = follows.text if follows is not None and is_output else None
            text, how = block.text, block.how
            for printed, real in ((ADDRESS, server.url), *terminal.receiver_as_printed):
                text, how = text.replace(printed, real), how.replace(printed, real)
            if block.language != "text" and slug is not None and _IS_KEY.search(text + how):
                key = await key_of(server, project, slug[1])
                text, how = _IS_KEY.sub(key, text), _IS_KEY.sub(key, how)
            place = f"{page.relative_to(ROOT)}:{block.line}"
            if block.language == "yaml":
                list(yaml.safe_load_all(text))
            if title := block.title or (how.startswith("file ") and how.removeprefix("file ")):
                (directory / title).write_text(text)
            if how == "terminal":
                await _eventually_agrees(place, terminal.printed_beside, block.text)
            elif how == "background":
                await terminal.run_beside(text)
            elif block.language == "crontab":
                commands = (found["command"] for line in text.splitlines() if (found := _CRON_LINE.match(line)))
                await _check(terminal, place, how, "\n".join(commands), expected)
            elif (system := how.partition(" ")[0]) in _SYSTEMS:
                await _check(terminal, place, "", _SYSTEMS[system](text, _variables(how)), None)
            elif block.language == "sh" and not how.startswith(("file", "not run")):
                await _check(terminal, place, how, text, expected)
    finally:
        await terminal.close()


def _variables(how: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in shlex.split(how)[1:])


def _with(env: dict[str, str], command: str) -> str:
    return " ".join(("env", *(f'{name}="{value}"' for name, value in env.items()), command))


def _of_pods(text: str, env: dict[str, str]) -> str:
    """The commands of the first container, once for each value of a variable that Kubernetes would set."""
    (manifest,) = yaml.safe_load_all(text)
    spec = manifest["spec"]
    while "containers" not in spec:
        spec = spec["jobTemplate"]["spec"] if "jobTemplate" in spec else spec["template"]["spec"]
    container = spec["containers"][0]
    command = shlex.join([*container["command"], *container.get("args", [])])
    fixed = {each["name"]: each["value"] for each in container.get("env", [])}
    ((name, values),) = env.items() or {("IS_POD", "1")}
    return " && ".join(_with({**fixed, name: value}, command) for value in values.split(","))


def _of_unit(text: str, env: dict[str, str]) -> str:
    """The commands of a unit, in order. Reads no more of systemd's syntax than the guides use."""
    lines = [line.partition("=")[::2] for line in text.splitlines()]
    own = dict(value.split("=", 1) for name, value in lines if name == "Environment")
    commands = (value.removeprefix("-").replace("$$", "$") for name, value in lines if name.startswith("Exec"))
    return " && ".join(_with({**own, **env}, "sh -c " + shlex.quote(command)) for command in commands)


def _of_workflow(text: str, env: dict[str, str]) -> str:
    """The steps of a workflow, each in a shell of its own."""
    (job,) = yaml.safe_load(text)["jobs"].values()
    return " && ".join(_with(env, "bash -e -c " + shlex.quote(step["run"])) for step in job["steps"])


_SYSTEMS = {"pod": _of_pods, "pods": _of_pods, "unit": _of_unit, "workflow": _of_workflow}


async def _eventually_agrees(place: str, printed: Callable[[], str], expected: str) -> None:
    async def does() -> bool:
        assert agrees(printed(), expected), f"{place}: printed:\n{printed()}\nexpected:\n{expected}"
        return True

    await eventually(does)


async def _check(terminal: Terminal, place: str, how: str, text: str, expected: str | None) -> None:
    wanted = int(how.removeprefix("exit ")) if how.startswith("exit ") else 0
    deadline = asyncio.get_running_loop().time() + BLOCK_S
    while True:
        code, output = await terminal.run(text)
        if code == wanted and (expected is None or agrees(output, expected)):
            return
        if how != "retry" or asyncio.get_running_loop().time() > deadline:
            break
        await asyncio.sleep(0.1)  # sleep: the pause between two attempts
    raise AssertionError(f"{place}: exit code {code}, output:\n{output}\nexpected:\n{expected}")


def test_the_comparison_notices_a_difference() -> None:
    assert agrees("a   b 12:00:01\nc\n", "a b 09:09:09\nc\n")
    assert agrees("a\nb\nc\n", "a\n…\n") and agrees("one two\n", "one …\n")
    assert not agrees("a\nb\n", "a\n") and not agrees("a\n", "a\nb\n") and not agrees("up\n", "down\n")
