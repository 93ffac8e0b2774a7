"""`offbeat ping` and `offbeat exec`: what stands in a crontab.

`exec` must never be the reason that a job fails: pings go out beside the job, in order, from a thread of their own; a
server that is away costs a warning and some seconds at the end, and the job's exit code and signals pass through.
"""

import os
import signal
import subprocess
import sys
import threading
import uuid
from collections import deque
from http.client import HTTPException
from queue import SimpleQueue
from types import FrameType
from typing import Any, BinaryIO, NamedTuple
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

import click

from server.cli_client import Client, path_of, with_client
from server.clock import monotonic
from server.engine.ping import MESSAGE_HEAD_BYTES, MESSAGE_TAIL_BYTES, SIGNALS
from server.errors import OffbeatError
from server.settings import environment_for

TRY_TIMEOUT_S = 10.0
FIRST_PAUSE_S = 0.5
PAUSE_MAX_S = 8.0
WAIT_S = 30.0  # for a ping that the server does not take, as long as a restart of it may last
PIPE_WAIT_S = 2.0  # for a grandchild that keeps the output open
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


class NotSent(OffbeatError):
    """A ping did not arrive."""

    exit_code = 1


class Heartbeat(NamedTuple):
    """One ping: what stands behind the key in the address, the parameters, and the message."""

    what: str
    query: dict[str, Any]
    message: bytes = b""


def send(url: str, key: str, beat: Heartbeat, give_up_at: float) -> None:
    """Send one, and try again while trying can help. Raises NotSent."""
    given = {name: value for name, value in beat.query.items() if value is not None}
    address = f"{url}/ping/{key}" if "/" in key else f"{url}/api/v1/heartbeat/{quote(key, safe='')}"
    address += (f"/{beat.what}" if beat.what else "") + (f"?{urlencode(given)}" if given else "")
    pause_s = FIRST_PAUSE_S
    while True:
        request = Request(address, beat.message, {"Content-Type": "text/plain; charset=utf-8"}, method="POST")
        try:
            with urlopen(request, timeout=TRY_TIMEOUT_S):
                return
        except HTTPError as error:
            reason, again = f"{error.code} {error.reason}", error.code >= 500 or error.code == 429
            after = error.headers.get("Retry-After", "")
            next_s = min(float(after), PAUSE_MAX_S) if after.isdigit() else pause_s
        except (OSError, HTTPException) as error:
            reason, again, next_s = str(getattr(error, "reason", error) or error), True, pause_s
        if not again or monotonic() + next_s > give_up_at:
            raise NotSent(f"{url} did not take the ping: {reason}")
        threading.Event().wait(next_s)
        pause_s = min(pause_s * 2, PAUSE_MAX_S)


class Sender(threading.Thread):
    """Sends pings in order beside the job; none of its failures is the job's."""

    def __init__(self, url: str, key: str, wait_s: float) -> None:
        super().__init__(name="pings", daemon=True)
        self.url, self.key, self.wait_s = url, key, wait_s
        self.end_by = float("inf")
        self._line: SimpleQueue[Heartbeat | None] = SimpleQueue()

    def put(self, beat: Heartbeat) -> None:
        """Send this after all before it."""
        self._line.put(beat)

    def finish(self) -> None:
        """Wait until all are sent, or it is clear that they will not be."""
        self.end_by = monotonic() + self.wait_s
        self._line.put(None)
        self.join(self.wait_s + 2 * TRY_TIMEOUT_S)

    def run(self) -> None:
        """Until `finish`."""
        while (beat := self._line.get()) is not None:
            try:
                send(self.url, self.key, beat, min(self.end_by, monotonic() + self.wait_s))
            except OffbeatError as error:
                click.echo(f"offbeat: {error}", err=True)


class Tail:
    """The first and the last of an output, as much as the server keeps; passed on as it comes."""

    def __init__(self) -> None:
        self._head, self._tail, self._tail_bytes, self._cut = b"", deque[bytes](), 0, 0
        self._lock = threading.Lock()

    def copy(self, source: BinaryIO, to: BinaryIO) -> None:
        """Until the end of `source`."""
        while part := os.read(source.fileno(), 65_536):
            try:
                to.write(part)
                to.flush()
            except (OSError, ValueError):
                pass  # nobody reads our output any more; the job goes on
            self.keep(part)

    def keep(self, part: bytes) -> None:
        """Take a part of the output."""
        with self._lock:
            self._keep(part)

    def _keep(self, part: bytes) -> None:
        room = MESSAGE_HEAD_BYTES - len(self._head)
        self._head += part[:room]
        self._tail.append(part[room:] if room > 0 else part)
        self._tail_bytes += len(self._tail[-1])
        while self._tail_bytes - len(self._tail[0]) >= MESSAGE_TAIL_BYTES:
            self._cut += len(self._tail[0])
            self._tail_bytes -= len(self._tail.popleft())

    def text(self) -> bytes:
        """What to report."""
        with self._lock:
            tail = b"".join(self._tail)
            cut = self._cut + max(0, len(tail) - MESSAGE_TAIL_BYTES)
            mark = f"\n[... {cut} bytes left out ...]\n".encode() if cut else b""
            return self._head + mark + tail[-MESSAGE_TAIL_BYTES:]


@click.command("ping")
@click.argument("key", required=False)
@click.argument("what", required=False, default="success", metavar="[SIGNAL or EXIT CODE]")
@click.option("--slug", help="Ping the monitor of this slug instead, with an access key.")
@click.option("--run", help="The run it belongs to.  [OFFBEAT_RUN]")
@click.option("--stage")
@click.option("--task")
@click.option("--done", type=click.IntRange(0))
@click.option("--total", type=click.IntRange(0))
@click.option("--duration", type=click.FloatRange(0), help="Seconds.")
@click.option("--message")
@with_client
def ping_command(
    client: Client, key: str | None, what: str, slug: str | None, run: str | None, message: str | None, **fields: Any
) -> None:
    """Send one ping to the monitor of KEY: success, or the SIGNAL or EXIT CODE that is given.

    Signals: start, success, fail, log, progress, skip, leave. Exit code 1: it did not arrive.
    """
    run = run or client.run
    if slug is not None:
        what = key or what
        code = int(what) if what.isdigit() else None
        said = what if code is None else "fail" if code else "success"
        body = {"signal": said, "exit_code": code, "run": run, "message": message, **fields}
        client("POST", path_of("monitors", slug, "ping"), body)
        return
    if key is None:
        raise click.UsageError("give a KEY, or --slug")
    if what not in SIGNALS and not (what.isdigit() and int(what) <= 255):
        raise click.UsageError(f"a signal ({', '.join(SIGNALS)}) or an exit code up to 255, not {what!r}")
    beat = Heartbeat(what, {"run": run, **fields}, (message or "").encode())
    send(client.url, key, beat, monotonic() + WAIT_S)


class _Exec(click.Command):
    """Options may stand before or after KEY, up to `--`; without `--` what follows KEY is the command's own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.allow_interspersed_args = "--" in args
        return super().parse_args(ctx, args)


@click.command("exec", cls=_Exec)
@click.argument("key")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
@click.option("--run", help="The run's id; default: a new one.")
@click.option("--stage", help="Report a stage of a run instead of the run itself.")
@click.option("--task", help="Report a task of a run.")
@click.option(
    "--alive", type=click.FloatRange(1), metavar="SECONDS", help="Ping `log` so often, so that it shows life."
)
@click.option(
    "--wait",
    type=click.FloatRange(0),
    default=WAIT_S,
    show_default=True,
    metavar="SECONDS",
    help="Try a ping for so long that the server does not take.",
)
@click.option("--output/--no-output", default=True, help="Report the first and last lines of its output.")
@with_client
def exec_command(
    client: Client,
    key: str,
    command: tuple[str, ...],
    run: str | None,
    stage: str | None,
    task: str | None,
    alive: float | None,
    wait: float,
    output: bool,
) -> None:
    """Run COMMAND and tell the monitor of KEY: its start, then success or its exit code with the output's tail.

    Signals and the exit code pass through. The job never fails because the server is away.
    """
    run = run or client.run or str(uuid.uuid4())
    same = {"run": run, "stage": stage, "task": task}
    sender = Sender(client.url, key, wait)
    sender.start()
    sender.put(Heartbeat("start", same))
    tail = Tail()
    started = monotonic()
    code = _run(command, run, tail if output else None, alive, lambda: sender.put(Heartbeat("log", same)))
    duration = round(monotonic() - started, 3)
    sender.put(Heartbeat(str(min(code, 255)), {**same, "duration": duration}, tail.text()))
    sender.finish()
    raise click.exceptions.Exit(code)


def _run(command: tuple[str, ...], run: str, tail: Tail | None, alive: float | None, show_life: Any) -> int:
    """Run the command to its end; its exit code, 128 + the number for a signal, 126 or 127 if it cannot be run."""
    pipe = subprocess.PIPE if tail is not None else None
    try:
        child = subprocess.Popen(command, stdout=pipe, stderr=pipe, env=environment_for({"OFFBEAT_RUN": run}))
    except OSError as error:
        click.echo(f"offbeat: {command[0]}: {error.strerror}", err=True)
        if tail is not None:
            tail.keep(f"{command[0]}: {error.strerror}\n".encode())
        return 127 if isinstance(error, FileNotFoundError) else 126
    _pass_signals_to(child)
    copies = _copy_output(child, tail) if tail is not None else []
    while True:
        try:
            code = child.wait(alive)
            break
        except subprocess.TimeoutExpired:
            show_life()
    for copy in copies:
        copy.join(PIPE_WAIT_S)
    return code if code >= 0 else 128 - code


def _copy_output(child: "subprocess.Popen[bytes]", tail: Tail) -> list[threading.Thread]:
    assert child.stdout is not None and child.stderr is not None
    pipes = ((child.stdout, sys.stdout.buffer), (child.stderr, sys.stderr.buffer))
    copies = [threading.Thread(target=tail.copy, args=pair, daemon=True) for pair in pipes]
    for copy in copies:
        copy.start()
    return copies


def _pass_signals_to(child: "subprocess.Popen[bytes]") -> None:
    def pass_on(number: int, frame: FrameType | None) -> None:
        # A terminal's Ctrl-C has reached the command already: it is in the same group.
        if number in (signal.SIGINT, signal.SIGQUIT) and sys.stdin is not None and sys.stdin.isatty():
            return
        if child.poll() is None:
            child.send_signal(number)

    for number in PASSED_ON:
        signal.signal(number, pass_on)
