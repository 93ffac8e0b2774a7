"""Runs the fenced blocks of a documentation page as printed, from top to bottom in one shell, in an empty directory.

The language of a block decides:

- ``sh``: is run. A ``text`` block that follows is its output;
- ``console``: its lines that begin with ``$`` are run; the other lines are their output;
- ``crontab``: the commands of its lines are run, as cron would;
- ``yaml``, ``json``, ``ini``, ``python`` with a title: is written to the file of that name; YAML and JSON are parsed in
  any case;
- others are for people.

A comment in the line before a block changes this:

- ``<!-- retry -->``: run again until the output is the expected one;
- ``<!-- background -->``: run in a second terminal, until the end of the page;
- ``<!-- serve -->``: the same with a server: it ends the server before, and waits until the new one is ready;
- ``<!-- stopped -->``: run after the server has stopped;
- ``<!-- terminal -->`` before a ``text`` block: what the second terminal shows sooner or later;
- ``<!-- exit 3 -->``: ends with this exit code instead of 0;
- ``<!-- pod -->``, ``<!-- pods INDEX=0,1 -->``: the command of the first container is run, as Kubernetes would;
- ``<!-- unit A=1 -->``: the commands of a systemd unit are run, with variables that systemd would set;
- ``<!-- workflow A=1 -->``: the steps of a GitHub workflow are run, with variables that GitHub would set;
- ``<!-- file job.sh -->``: is not run, but written to this file;
- ``<!-- not run: reason -->``: cannot run here. Bash still parses it.

A comment alone in a line, ``<!-- run: COMMAND -->`` or ``<!-- run serve: COMMAND -->``, is a block that readers do not
see. It prepares what a page assumes, or checks the result.
"""

import asyncio
import contextlib
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import yaml

from tests.support.harness import HANG_S, ROOT, eventually

_FENCE = re.compile(
    r"^<!-- run(?P<hidden>| serve): (?P<command>[^\n]*) -->$|"
    r"(?:^[ ]*<!-- (?P<how>[^\n]*?) -->\n)?"
    r"^(?P<indent>[ ]*)```(?P<language>[a-z]+)(?: title=\"(?P<title>[^\"]+)\")?[^\n]*\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_CRON_LINE = re.compile(r"^(?:@\w+|(?:\S+\s+){5})\s*(?P<command>\S.*)$")
_IS_KEY = re.compile(r"(?<![$\w{])KEY\b(?!=)")
_INCLUDED = re.compile(r"^--8<-- \"(\S+)\"\n", re.MULTILINE)
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
    blocks = []
    for match in _FENCE.finditer(source):
        if match["command"] is not None:
            line = source.count("\n", 0, match.start()) + 1
            blocks.append(Block(line, match["hidden"].strip(), "sh", None, match["command"] + "\n"))
            continue
        indent = len(match["indent"])
        text = "".join(line[indent:] or "\n" for line in match["text"].splitlines(keepends=True))
        text = _INCLUDED.sub(lambda included: (ROOT / included[1]).read_text(), text)
        line = source.count("\n", 0, match.start("language")) + 1
        blocks.append(Block(line, match["how"] or "", match["language"], match["title"], text))
    return blocks


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


class Terminal:
    """A shell that runs the blocks of one page. Variables and functions stay from block to block.

    `printed` are pairs: a form in which the pages name something, and what stands for it here.
    `hidden` is a text in the output that readers do not see, such as the name of a project other than `default`.
    """

    def __init__(
        self, directory: Path, env: Mapping[str, str], printed: Sequence[tuple[str, str]], hidden: str = ""
    ) -> None:
        self._directory = directory
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("OFFBEAT_")},
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
            "HOME": str(directory),
            "SHELL": "/bin/sh",
            **env,
        }
        self._printed = printed
        self._hidden = hidden
        self._process: asyncio.subprocess.Process | None = None
        self._background: list[asyncio.subprocess.Process] = []
        self._server: asyncio.subprocess.Process | None = None
        self._count = 0

    async def _start(self, *arguments: str, given: int, output: int | IO[bytes]) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *("bash", "--norc", *arguments),
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
            async with asyncio.timeout(HANG_S):
                code = int(await self._process.stdout.readline())
        except TimeoutError:
            raise AssertionError(f"not within {HANG_S} s; so far:\n{output.read_text()}") from None
        return code, self.as_printed(output.read_text())

    def printed_beside(self) -> str:
        """The output in the second terminal."""
        return self.as_printed((self._directory / ".background").read_text())

    def as_here(self, text: str) -> str:
        """A text of a page with what stands here for the addresses in it."""
        for printed, real in self._printed:
            text = text.replace(printed, real)
        return text

    def as_printed(self, text: str) -> str:
        """An output with the addresses of the page."""
        for printed, real in self._printed:
            text = text.replace(real, printed)
        return text.replace(self._hidden, "") if self._hidden else text

    async def run_beside(self, text: str) -> asyncio.subprocess.Process:
        """Begin a block as in another terminal."""
        out = (self._directory / ".background").open("ab")
        with out:
            process = await self._start("-c", text, given=asyncio.subprocess.DEVNULL, output=out)
        self._background.append(process)
        return process

    async def serve(self, text: str) -> None:
        """Start a server in the second terminal, instead of the one before; return when it is ready."""
        await self.stop_server()
        self._server = process = await self.run_beside(f"exec {text}")

        async def is_ready() -> bool:
            assert process.returncode is None, f"the server ended:\n{self.printed_beside()}"
            return (await self.run('curl -fsS "$OFFBEAT_URL/readyz"'))[0] == 0

        await eventually(is_ready, HANG_S, 0.1)

    async def stop_server(self) -> None:
        """Stop the server that the page has started, if any, as `Ctrl-C` does."""
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)
            async with asyncio.timeout(HANG_S):
                await self._server.wait()
            self._server = None

    async def close(self) -> None:
        """End everything that still runs."""
        await self.stop_server()
        for process in (*self._background, *([self._process] if self._process is not None else [])):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def play(terminal: Terminal, page: Path, directory: Path, key_of: Callable[[str], Awaitable[str]]) -> None:
    """Run the blocks of a page. Raises AssertionError at the first that does not give its output.

    The word KEY in a block is replaced by `key_of` the monitor that the page names in ``<!-- key: slug -->``.
    """
    blocks = blocks_of(page)
    slug = _KEY_OF.search(page.read_text())
    try:
        for number, block in enumerate(blocks):
            follows = blocks[number + 1] if number + 1 < len(blocks) else None
            is_output = follows is not None and follows.language == "text" and not follows.how
            expected = follows.text if follows is not None and is_output else None
            text, how = terminal.as_here(block.text), terminal.as_here(block.how)
            if block.language != "text" and slug is not None and _IS_KEY.search(text + how):
                key = await key_of(slug[1])
                text, how = _IS_KEY.sub(key, text), _IS_KEY.sub(key, how)
            place = f"{page.relative_to(ROOT)}:{block.line}"
            if block.language == "yaml":
                list(yaml.safe_load_all(text))
            if block.language == "json":
                json.loads(text)
            if title := block.title or (how.startswith("file ") and how.removeprefix("file ")):
                (directory / title).write_text(text)
            if how == "stopped":
                await terminal.stop_server()
            if how.startswith("not run"):
                if block.language == "sh":
                    await _check(terminal, place, "", f"bash -n <<'END'\n{text}END\n", None)
            elif how == "terminal":
                await _eventually_agrees(place, terminal.printed_beside, block.text)
            elif how == "background":
                await terminal.run_beside(text)
            elif how == "serve":
                await terminal.serve(text)
            elif how.startswith("file"):
                pass
            elif block.language == "console":
                await _play_console(terminal, place, how, text, block.text)
            elif block.language == "crontab":
                commands = (match["command"] for line in text.splitlines() if (match := _CRON_LINE.match(line)))
                await _check(terminal, place, how, "\n".join(commands), expected)
            elif (system := how.partition(" ")[0]) in _SYSTEMS:
                await _check(terminal, place, "", _SYSTEMS[system](text, _variables(how)), None)
            elif block.language == "sh":
                await _check(terminal, place, how, text, expected)
    finally:
        await terminal.close()


async def _play_console(terminal: Terminal, place: str, how: str, text: str, printed: str) -> None:
    command = text.removeprefix("$ ").partition("\n")[0]
    await _check(terminal, place, how, command, printed.partition("\n")[2])


def _variables(how: str) -> dict[str, str]:
    return dict(assignment.split("=", 1) for assignment in shlex.split(how)[1:])


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
    deadline = asyncio.get_running_loop().time() + HANG_S
    while True:
        code, output = await terminal.run(text)
        if code == wanted and (expected is None or agrees(output, expected)):
            return
        if how != "retry" or asyncio.get_running_loop().time() > deadline:
            break
        await asyncio.sleep(0.1)  # sleep: the pause between two attempts
    raise AssertionError(f"{place}: exit code {code}, output:\n{output}\nexpected:\n{expected}")
