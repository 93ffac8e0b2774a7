"""Builds a Dockerfile without Docker: its steps run in a chroot, with this machine in the place of the base image.

A stage is an overlay over this machine's root, so a step changes nothing outside it. Reads no more of the syntax than
our Dockerfile uses. Needs root and a kernel with overlayfs.
"""

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from tests.support.harness import needs, refuse

BASE_PATH = f"{sys.base_prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_VARIABLE = re.compile(r"\$\{?(\w+)\}?")


class Step(NamedTuple):
    """An instruction, and what follows it."""

    name: str
    rest: str


def steps_of(dockerfile: str) -> list[Step]:
    """The instructions without comments."""
    lines = re.sub(r"^\s*#.*\n", "", dockerfile, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [Step(*line.split(maxsplit=1)) for line in lines if line.strip()]


class Image:
    """`async with Image(dockerfile, context) as image` builds it.

    Raises AssertionError with the output of a step that fails. `context` is a directory with what git knows. After the
    build, `inside` runs programs as a container would.
    """

    def __init__(self, dockerfile: Path, context: Path, arguments: Mapping[str, str] | None = None) -> None:
        self._steps = steps_of(dockerfile.read_text())
        self._context = context
        self._arguments = dict(arguments or {})
        self._mounts = Path(tempfile.mkdtemp(prefix="offbeat-image-"))
        self._namespace: subprocess.Popen[bytes] | None = None
        self._roots: dict[str, Path] = {}  # by the name of the stage, the last one last
        self._directory = "/"
        self._user = "0"
        self._env: dict[str, str] = {}
        self.entrypoint: list[str] = []
        self.command: list[str] = []
        self.healthcheck: list[str] = []

    async def __aenter__(self) -> Self:
        if os.geteuid() != 0:
            refuse("only root can mount the stages of an image")
        # The mounts belong to a namespace of their own, and vanish with the process that holds it.
        hold = f"mount -t tmpfs none {self._mounts} && echo ready && exec sleep infinity"
        self._namespace = subprocess.Popen(
            [needs("unshare"), "--mount", "sh", "-c", hold], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        try:
            assert self._namespace.stdout is not None
            assert await asyncio.to_thread(self._namespace.stdout.readline) == b"ready\n"
            for step in self._steps:
                await asyncio.to_thread(self._do, step)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._namespace is not None
        self._namespace.kill()
        self._namespace.wait()
        self._mounts.rmdir()

    def inside(self, *arguments: str, env: Mapping[str, str] | None = None) -> list[str]:
        """The command that runs a program in the last stage, with its user, directory and environment."""
        values = [f"{name}={value}" for name, value in {**self._env, **(env or {})}.items()]
        root = str(self._root)
        return [
            *self._enter(),
            "chroot",
            f"--userspec={self._user}",
            root,
            "env",
            *values,
            *self._in_directory(arguments),
        ]

    def _in_directory(self, arguments: tuple[str, ...]) -> list[str]:
        return ["sh", "-c", 'mkdir -p "$0" && cd "$0" && exec "$@"', self._directory, *arguments]

    @property
    def _root(self) -> Path:
        return list(self._roots.values())[-1]

    def _enter(self) -> list[str]:
        assert self._namespace is not None
        return ["nsenter", "--mount", f"--target={self._namespace.pid}"]

    def _run(self, *arguments: str) -> None:
        done = subprocess.run(arguments, capture_output=True, text=True)
        assert done.returncode == 0, f"{shlex.join(arguments)}\n{done.stdout}{done.stderr}"

    def _outside(self, script: str) -> None:
        self._run(*self._enter(), "sh", "-e", "-c", script)

    def _do(self, step: Step) -> None:
        known = {**self._arguments, **self._env}
        rest = _VARIABLE.sub(lambda variable: known.get(variable[1], variable[0]), step.rest)
        match step.name:
            case "ARG":
                name, _, value = rest.partition("=")
                self._arguments.setdefault(name, value)
            case "FROM":
                self._begin(rest.split()[-1])
            case "WORKDIR":
                self._directory = rest
            case "ENV":
                self._env |= dict(assignment.split("=", 1) for assignment in shlex.split(rest))
            case "COPY":
                self._copy(rest.split())
            case "RUN":
                # Arguments are variables of its shell.
                self._run(*self.inside("sh", "-e", "-c", step.rest, env=self._arguments))
            case "USER":
                self._user = rest
            case "ENTRYPOINT":
                self.entrypoint = json.loads(rest)
            case "CMD":
                self.command = json.loads(rest)
            case "HEALTHCHECK":
                self.healthcheck = json.loads(rest.partition(" CMD ")[2])
            case "VOLUME" | "EXPOSE" | "STOPSIGNAL":
                pass  # these are for the start of a container
            case _:
                raise AssertionError(f"unknown instruction: {step.name} {rest}")

    def _begin(self, name: str) -> None:
        """A stage: only the base image. Its Python can be read by every user, as in the real one."""
        home = self._mounts / str(len(self._roots))
        root = self._roots[name] = home / "root"
        overlay = f"lowerdir=/,upperdir={home}/upper,workdir={home}/work"
        closed = " ".join(str(root) + str(parent) for parent in Path(sys.base_prefix).parents if parent != Path("/"))
        self._outside(f"""
            mkdir -p {home}/upper {home}/work {root}
            mount -t overlay overlay -o {overlay} {root}
            mount --bind /proc {root}/proc
            mount --rbind /dev {root}/dev
            chmod o+x {closed or root}
        """)
        self._directory, self._user, self._env = "/", "0", {"PATH": BASE_PATH}

    def _copy(self, paths: list[str]) -> None:
        sources, to = paths[:-1], self._root / paths[-1].lstrip("/")
        if not paths[-1].startswith("/"):
            to = self._root / self._directory.lstrip("/") / paths[-1]
        origin = self._context
        if sources[0].startswith("--from="):
            origin = self._roots[sources.pop(0).removeprefix("--from=")]
        for source in sources:
            path = origin / source.lstrip("/")
            # A folder is copied by its contents, a file into the folder.
            self._outside(f"mkdir -p {to}; if [ -d {path} ]; then cp -a {path}/. {to}; else cp -a {path} {to}; fi")
