"""Measure a start of `offbeat exec` and of `offbeat ping` against a start of the bare interpreter.

A crontab can start thousands of them. The bench starts the script of an installation, with an interpreter beside it, as
pip installs them. An editable installation would load all of its import hooks first. The bench measures processor time
(user and system) of the command and of all processes that it starts and waits for, and the largest resident memory of
these. It does not measure wall time, which depends on what else runs. `exec` reports to a port on which no process
listens, and does not wait (`--wait 0`).
"""

import asyncio
import shutil
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench.measure import Goal, Line, Result, in_turn, ratio
from bench.stage import Stage

ROOT = Path(__file__).parent.parent.parent
CPU_MS_MAX = 80.0
NOBODY = "http://127.0.0.1:1"
# Starts a command from a small process: the kernel counts the memory of the starting process as the command's too.
# `posix` is the built-in part of `os`, so that this process is no larger than a bare interpreter.
_START = """
import posix, sys
null = posix.open("/dev/null", posix.O_RDWR)
quiet = [(posix.POSIX_SPAWN_DUP2, null, number) for number in (0, 1, 2)]
child = posix.posix_spawn(sys.argv[1], sys.argv[1:], posix.environ, file_actions=quiet)
_, status, used = posix.wait4(child, 0)
print(status, used.ru_utime + used.ru_stime, used.ru_maxrss)
"""


class Used(NamedTuple):
    """The resources that one start has used."""

    cpu_ms: float
    memory_mb: float


async def run(stage: Stage) -> Result:
    """Both commands and the interpreter in turn, several starts each."""
    starts = 3 if stage.quick else 20
    result = Result("start", f"a start of the client, the median of {starts}")
    with tempfile.TemporaryDirectory() as directory:
        command = install(Path(directory))
        python = str(command.parent / "python3")
        contenders = {
            "offbeat exec": (str(command), "exec", "--wait", "0", "K", "--", "true"),
            "offbeat ping --help": (str(command), "ping", "--help"),
            "python3 -c pass": (python, "-c", "pass"),
            "python3 -I -S -c pass": (python, "-I", "-S", "-c", "pass"),
        }
        memory = {name: Line(f"{name}: resident memory", "MB") for name in contenders}

        async def measure(name: str) -> float:
            used = [await asyncio.to_thread(start, python, contenders[name]) for _ in range(starts)]
            memory[name].values.append(statistics.median(each.memory_mb for each in used))
            return statistics.median(each.cpu_ms for each in used)

        cpu = await in_turn(
            stage.rounds,
            {name: partial(measure, name) for name in contenders},
            "{}: processor time",
            "ms",
            "ms",
        )
    result.lines = [*cpu.values(), *memory.values()]
    bare = "python3 -c pass"
    for name in ("offbeat exec", "offbeat ping --help"):
        result.goals.append(Goal(f"{name}: processor time", cpu[name].median, at_most=CPU_MS_MAX, unit=" ms"))
        times, larger = ratio(cpu[name], cpu[bare]), ratio(memory[name], memory[bare])
        result.notes.append(f"{name} takes {times:.2f} × the processor time and {larger:.2f} × the memory of {bare}")
    return result


def install(home: Path) -> Path:
    """Lay out an installation of the client in a directory; its command."""
    packages = home / "lib" / f"python3.{sys.version_info[1]}" / "site-packages"
    packages.mkdir(parents=True)
    shutil.copytree(ROOT / "client" / "offbeat", packages / "offbeat")
    (home / "bin").mkdir()
    (home / "bin" / "python3").symlink_to(Path(sys.executable).resolve())
    return Path(shutil.copy2(ROOT / "client" / "bin" / "offbeat", home / "bin"))


def start(python: str, command: tuple[str, ...]) -> Used:
    """Start a command, wait for its end, and say what it used. Raises RuntimeError if it fails."""
    done = subprocess.run(
        [python, "-I", "-S", "-c", _START, *command],
        env={"PATH": "/usr/bin:/bin", "OFFBEAT_URL": NOBODY},
        capture_output=True,
        text=True,
        check=True,
    )
    status, cpu_s, memory_kb = done.stdout.split()
    if status != "0":
        raise RuntimeError(f"{' '.join(command)} has failed: {status}")
    return Used(float(cpu_s) * 1000, float(memory_kb) / 1000)
