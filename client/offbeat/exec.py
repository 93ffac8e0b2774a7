"""`offbeat exec` and `offbeat ping`: the two commands that stand in crontabs, units and scripts.

`exec` runs exactly the command it was given and reports it. No fault of the monitoring (address, key, settings, DNS,
server) keeps the command from running or changes its exit status: each fault is one line on standard error. Pings are
sent in order by a thread while the job runs. After the job's end a bounded time remains for those not delivered yet.

The module imports the light part of the standard library and nothing else. A start costs little processor time, no
other package can break it, and it works with any interpreter that has this one file.
"""

from __future__ import annotations  # so that an older interpreter reads the file too

import errno
import os
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable

TYPE_CHECKING = False  # as in `typing`, whose import would take longer than all the others
if TYPE_CHECKING:
    from typing import NoReturn

DEFAULT_URL = "http://127.0.0.1:8080"
SIGNALS = ("start", "success", "fail", "log", "progress", "skip", "leave")
# The server keeps this much of a message; sending more would only make it cut a second time.
MESSAGE_HEAD_BYTES, MESSAGE_TAIL_BYTES = 2_000, 8_000
RUN_CHARS_MAX, STAGE_CHARS_MAX, TASK_CHARS_MAX = 255, 100, 255
BUSINESS_DATE_CHARS_MAX, EXECUTION_CHARS_MAX = 100, 255

EXEC_WAIT_S = 5.0  # after the job's end, for pings that are not delivered yet
PING_WAIT_S = 10.0
TRY_S = 10.0  # one attempt to deliver one ping
CONNECT_S = 4.0  # one address of several
PAUSE_FIRST_S, PAUSE_MAX_S, PAUSE_AT_END_S = 0.5, 15.0, 0.5
RETRY_AFTER_MAX_S = 60.0
OUTPUT_WAIT_S = 2.0  # for a background process of the job that keeps its output open
HURRY_S = 0.3  # what remains of a wait once a signal has asked to end it
SAME_SIGNAL_S = 0.1  # a signal so soon after the job's end was meant for the job
REDIRECTS_MAX = 3
HEAD_BYTES_MAX = 65_536
REASON_CHARS_MAX = 200
PART_BYTES = 65_536

# Signals that are not handed to the job: those that cannot be caught, those that a fault of this process itself raises,
# and those that the kernel sends to each process for its own use of a terminal or a pipe.
_OWN_SIGNALS = "KILL STOP CHLD SEGV BUS ILL FPE TRAP ABRT SYS PIPE XFSZ TTIN TTOU"
_BY_TERMINAL = {signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGWINCH}
_ENDING = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}
_SI_KERNEL = 0x80
_PR_SET_PDEATHSIG = 1

EXEC_HELP = f"""Usage: offbeat exec [OPTIONS] KEY [OPTIONS] [--] COMMAND...

  Run COMMAND and report it to the monitor of KEY: its start, its exit code, its duration, and the first and last lines
  of its output. KEY may be the whole ping URL.

  COMMAND runs even if the server cannot be reached or a setting is wrong. The exit status of COMMAND becomes that of
  this command (128 + N after signal N, 127: not found, 126: found but cannot be run). Signals are passed on to
  COMMAND. A `--` directly after the options and KEY belongs to this command; with it, options may also stand after
  KEY.

Options:
  --run ID            The run; default: OFFBEAT_RUN, else a new one. COMMAND finds it in OFFBEAT_RUN.
                      Inside a command that reports the same KEY the default is always a new run.
  --stage NAME        Report a stage of the run instead of the run itself.
  --task NAME         Report a task of the run.
  --member NAME       Report a member of a fleet, such as "$(hostname)"; a fleet's monitor needs this.
  --for DATE          The business date of the run: a date, a date and time, or any other label.
  --backfill          The run makes up for an earlier date; the schedule does not wait for it.
  --attempt N         Which attempt at its business date the run is, from 1.
  --execution ID      The id of the process, pod or job that runs COMMAND.
  --alive SECONDS     Send a `log` ping every SECONDS (at least 1) as a keep-alive.
  --wait SECONDS      After COMMAND has ended, wait at most this long for pings that are not delivered yet; SIGTERM
                      ends the wait. Default: {EXEC_WAIT_S:g}.
  --no-output         Leave the output alone and do not report it. Use this if COMMAND starts a process that continues
                      to write: otherwise the output of such a process is cut {OUTPUT_WAIT_S:g} s after COMMAND ends.
  --die-with-wrapper  Linux: send COMMAND a SIGTERM if this process is killed.
  --url URL           The server's address.  [OFFBEAT_URL; default: {DEFAULT_URL}]
  -h, --help          Show this text.
"""

PING_HELP = f"""Usage: offbeat ping [OPTIONS] KEY [SIGNAL or EXIT CODE]

  Send one ping to the monitor of KEY: success, or the SIGNAL or EXIT CODE that is given. KEY may be the whole ping URL.

  Signals: {", ".join(SIGNALS)}. Exit code: 0 the server has accepted it, 1 it has not, 2 wrong usage.

Options:
  --run ID            The run to which the ping belongs.  [OFFBEAT_RUN]
  --stage NAME        The stage.
  --task NAME         The task.
  --member NAME       The member of a fleet, such as "$(hostname)".
  --for DATE          The business date of the run: a date, a date and time, or any other label.
  --backfill          The run makes up for an earlier date; the schedule does not wait for it.
  --attempt N         Which attempt at its business date the run is, from 1.
  --execution ID      The id of the process, pod or job that sends the ping.
  --done N            Progress: this much of the work is done.
  --total N           Progress: the whole amount of work; with a start, the number of tasks.
  --duration SECONDS  Duration of the run, stage or task.
  --message TEXT      The message. The server never reads parameters from it.
  --wait SECONDS      Retry for at most this long. Default: {PING_WAIT_S:g}.
  --slug SLUG         Ping the monitor of this slug with an access key, instead of KEY.
  --api-key KEY       The access key for --slug.  [OFFBEAT_ADMIN_KEY; default: the one in the data directory]
  --data-dir PATH     Where a server on this machine keeps its admin key.  [OFFBEAT_DATA_DIR; default: .offbeat]
  --url URL           The server's address.  [OFFBEAT_URL; default: {DEFAULT_URL}]
  -h, --help          Show this text.
"""

_EXEC_TEXTS = (
    *("--run", "--stage", "--task", "--member", "--for", "--execution"),
    *("--url", "--api-key", "--data-dir"),
)
_EXEC_NUMBERS = ("--alive", "--wait", "--attempt")
_EXEC_FLAGS = ("--output", "--no-output", "--die-with-wrapper", "--backfill")
_PING_TEXTS = (*_EXEC_TEXTS, "--message", "--slug")
_PING_NUMBERS = ("--done", "--total", "--duration", "--wait", "--attempt")
_PING_FLAGS = ("--backfill",)


def main() -> NoReturn:
    """Run the command in sys.argv and end the process, also while a thread hangs in the look-up of a name."""
    arguments, environment = sys.argv[1:], original_environment()
    if arguments[0] == "exec":
        run_exec(arguments[1:], environment)
    os._exit(run_ping(arguments[1:], environment))


# --------------------------------------------------------------------------------------------------------- environment


def original_environment() -> dict[bytes, bytes]:
    """The environment as the caller gave it, which the job gets.

    Shells drop variables whose names they cannot use, so `client/bin/offbeat` hands over a copy. Python sets LC_CTYPE.
    """
    handed_over = os.environ.get("OFFBEAT_ENVIRONMENT_FD", "")
    try:
        if handed_over.isdigit():
            import binascii

            with open(int(handed_over), "rb") as file:
                raw = binascii.a2b_base64(file.read())
        else:
            with open("/proc/self/environ", "rb") as file:
                raw = file.read()
    except (OSError, ValueError):
        raw = b""
    pairs = (each.partition(b"=") for each in raw.split(b"\0") if b"=" in each[1:])
    environment = {name: value for name, _, value in pairs} or dict(os.environb)
    environment.pop(b"OFFBEAT_ENVIRONMENT_FD", None)
    return environment


def variable(environment: dict[bytes, bytes], name: str) -> str:
    """A variable as text without surrounding blanks; "" where it is not set."""
    return os.fsdecode(environment.get(name.encode(), b"")).strip()


def say(text: str) -> None:
    """One line on standard error, or nothing if that cannot be written."""
    line = "".join(char if char.isprintable() else "?" for char in text)
    try:
        os.write(2, f"offbeat: {line}\n".encode("utf-8", "backslashreplace"))
    except OSError:
        pass


# ------------------------------------------------------------------------------------------------------------- options


class UsageError(Exception):
    """The command line cannot be understood."""


class Options:
    """Options that were read, what was wrong with them, and the words that follow them."""

    def __init__(self, texts: Iterable[str], numbers: Iterable[str], flags: Iterable[str]) -> None:
        self.texts, self.numbers, self.flags = set(texts), set(numbers), set(flags)
        self.given: dict[str, str] = {}
        self.amounts: dict[str, float] = {}
        self.problems: list[str] = []

    def read(self, arguments: list[str]) -> list[str]:
        """Read the options at the beginning of `arguments`; the rest begins with `--` or with no option.

        Raises UsageError for an unknown option and for one whose value is missing.
        """
        while arguments and arguments[0].startswith("-") and arguments[0] not in ("--", "-"):
            name, equals, value = arguments[0].partition("=")
            if name in ("-h", "--help"):
                self.given["--help"] = ""
                return []
            if name in self.flags and not equals:
                self.given[name] = ""
                arguments = arguments[1:]
                continue
            if name not in self.texts and name not in self.numbers:
                raise UsageError(f"no such option: {arguments[0]}")
            if not equals:
                if len(arguments) < 2:
                    raise UsageError(f"{name} needs a value")
                value = arguments[1]
            arguments = arguments[1:] if equals else arguments[2:]
            self._take(name, value)
        return arguments

    def _take(self, name: str, value: str) -> None:
        if name in self.texts:
            self.given[name] = value
            return
        try:
            number = float(value)
            if not 0 <= number < 1e18:
                raise ValueError
        except ValueError:
            self.problems.append(f"{name} must be a number from 0, not {value!r}")
        else:
            self.amounts[name], self.given[name] = number, value

    def text(self, name: str) -> str | None:
        """The value of an option; None if it is absent or empty."""
        return self.given.get(name, "").strip() or None


class CommandLine:
    """The command line of `exec`: the options, the KEY (None: none was given) and the command."""

    def __init__(self, arguments: list[str]) -> None:
        self.options = Options(_EXEC_TEXTS, _EXEC_NUMBERS, _EXEC_FLAGS)
        self.key: str | None = None
        try:
            remaining = self.options.read(arguments)
        except UsageError as error:
            # With `--` it is known which command to run, and a wrong option must not keep it from running.
            if "--" not in arguments:
                raise
            at = arguments.index("--")
            self.options.problems.append(str(error))
            self.key = next((argument for argument in reversed(arguments[:at]) if not argument.startswith("-")), None)
            remaining = arguments[at:]
        else:
            if remaining and remaining[0] != "--":
                self.key, remaining = remaining[0], self._after_key(remaining[1:])
        self.command = remaining[1:] if remaining[:1] == ["--"] else remaining
        if not self.command and "--help" not in self.options.given:
            raise UsageError("no command is given: offbeat exec KEY -- COMMAND...")

    def _after_key(self, arguments: list[str]) -> list[str]:
        """Options after KEY are ours only if `--` follows them; otherwise they are the command's."""
        if not arguments or not arguments[0].startswith("-") or arguments[0] == "--":
            return arguments
        later = Options(_EXEC_TEXTS, _EXEC_NUMBERS, _EXEC_FLAGS)
        try:
            remaining = later.read(arguments)
        except UsageError:
            return arguments
        if remaining[:1] != ["--"] and "--help" not in later.given:
            return arguments
        self.options.given |= later.given
        self.options.amounts |= later.amounts
        self.options.problems += later.problems
        return remaining


# ------------------------------------------------------------------------------------------------------------- address


class ServerAddress:
    """Where to send pings. `note` says what was put right in what was given."""

    def __init__(self, url: str) -> None:
        """Raises ValueError if no server can be reached under this address."""
        text = _without_quotes(url)
        scheme, separator, rest = text.partition("://")
        if not separator:
            scheme, rest = "http", text
        self.scheme = scheme.lower()
        if self.scheme not in ("http", "https"):
            raise ValueError("must begin with http:// or https://")
        end = min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))
        authority, rest = rest[:end], rest[end:].partition("#")[0]
        user, _, place = authority.rpartition("@")
        self.host, self.port = _host_and_port(place, 443 if self.scheme == "https" else 80)
        self.path, _, self.query = rest.partition("?")
        self.path = _quoted(self.path.rstrip("/"), "/%")
        self.query = _quoted(self.query, "/%=&+:,")
        self.credentials = user
        self.note = None if text == url.strip() and separator else f"{self.shown} is used"

    @property
    def shown(self) -> str:
        """The address without path, user and key."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def host_header(self) -> str:
        """The Host header: without the port where it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"


def _without_quotes(text: str) -> str:
    """Without blanks, line ends and the quotes that env files leave around a value."""
    text = text.strip()
    while len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1].strip()
    return text


def _host_and_port(place: str, port: int) -> tuple[str, int]:
    host, number = place, ""
    if place.startswith("["):
        host, bracket, after = place[1:].partition("]")
        if not bracket or (after and not after.startswith(":")) or ":" not in host:
            raise ValueError("has no valid IPv6 address in [ ]")
        number = after[1:]
    elif place.count(":") == 1:
        host, _, number = place.partition(":")
    elif ":" in place:
        raise ValueError("needs [ ] around its IPv6 address")
    if number:
        if not (number.isascii() and number.isdigit() and 0 < int(number) < 65_536):
            raise ValueError(f"has no valid port: {number[:20]!r}")
        port = int(number)
    if not host or not host.isprintable() or set(host) & set(" \"'<>\\^`{|}$"):
        raise ValueError("has no valid host name")
    return host, port


def _quoted(text: str, safe: str = "") -> str:
    """Percent-encoded, except for letters, digits, `-._~` and `safe`."""
    kept = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~" + safe.encode()
    return "".join(chr(byte) if byte in kept else f"%{byte:02X}" for byte in os.fsencode(text))


def fitted(text: str, chars_max: int) -> str:
    """A name as the server takes it: printable UTF-8, and a long one cut with a digest of the whole.

    The same text always gives the same result, and so does a result.
    """
    printable = os.fsencode(text).decode("utf-8", "replace").strip()
    printable = "".join(char if char.isprintable() else "_" for char in printable)
    if len(printable) <= chars_max:
        return printable
    import hashlib

    digest = hashlib.sha256(printable.encode()).hexdigest()[:16]
    return f"{printable[: chars_max - 17]}-{digest}"


class PreparedPing:
    """One ping, ready to be sent. `advice`: by the status of a refusal, what the caller of this command can do."""

    def __init__(self, what: str, path: str, body: bytes, headers: list[str], advice: dict[int, str]) -> None:
        self.what, self.path, self.body, self.headers, self.advice = what, path, body, headers, advice


class PingTarget:
    """The address of one monitor's pings."""

    def __init__(self, address: ServerAddress, key: str) -> None:
        """`key`: a key, PINGKEY/SLUG, or the whole ping URL, which then is the address too. Raises ValueError."""
        key = _without_quotes(key)
        self.signal_in_url: str | None = None  # the signal that a whole URL ends with
        self.advice = {404: "check KEY" if is_url(key) else "check KEY and --url (or OFFBEAT_URL)"}
        if is_url(key):
            address = ServerAddress(key)
            before, _, last = address.path.rpartition("/")
            if _is_signal_or_code(last):
                address.path, self.signal_in_url = before, last
        elif not key:
            raise ValueError("KEY is empty")
        elif not key.isprintable():
            raise ValueError("KEY contains characters that no key can contain")
        else:
            address.path += f"/ping/{_quoted(key, '/')}" if "/" in key else f"/api/v1/heartbeat/{_quoted(key)}"
            address.query = ""
        self.address = address

    def beat(self, what: str, fields: dict[str, str | None], message: bytes = b"") -> PreparedPing:
        """A ping. The signal stands in the path and the message is declared as text, so it is never read as fields."""
        query = "&".join(f"{name}={_quoted(value)}" for name, value in fields.items() if value)
        query = "&".join(part for part in (self.address.query, query) if part)
        path = f"{self.address.path}/{what}" + (f"?{query}" if query else "")
        # The same key at every attempt, so that one whose answer was lost is stored once.
        headers = [f"Content-Type: text/plain{_charset_of(message)}", f"Idempotency-Key: {_new_id()}"]
        return PreparedPing(what, path, message, headers, self.advice)


def is_url(key: str) -> bool:
    """Whether a KEY is a whole ping URL."""
    return "://" in key or "/api/v1/heartbeat/" in key


def _is_signal_or_code(text: str) -> bool:
    """Whether this is a signal or an exit code."""
    return text in SIGNALS or (text.isascii() and text.isdigit() and len(text) <= 10)


def _charset_of(message: bytes) -> str:
    try:
        message.decode("utf-8")
    except UnicodeDecodeError:
        return ""  # the server finds out
    return "; charset=utf-8"


# ---------------------------------------------------------------------------------------------------------------- HTTP


class HttpResponse:
    """Status, headers in lower case, and the beginning of the body of a response."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        parts = first.split(None, 2)
        if len(parts) < 2 or not parts[0].startswith("HTTP/") or not parts[1].isdigit():
            raise OSError("the answer is not HTTP")
        self.status, self.reason = int(parts[1]), parts[2] if len(parts) > 2 else ""
        pairs = (line.partition(":") for line in lines)
        self.headers = {name.strip().lower(): value.strip() for name, _, value in pairs}


def post(address: ServerAddress, beat: PreparedPing, environment: dict[bytes, bytes]) -> HttpResponse:
    """One POST within TRY_S, redirects included. Raises OSError or ValueError."""
    end_by, path = time.monotonic() + TRY_S, beat.path
    for _ in range(REDIRECTS_MAX):
        answer = _post_once(address, path, beat, environment, end_by)
        location = answer.headers.get("location")
        if answer.status not in (301, 302, 303, 307, 308) or not location:
            return answer
        if location.startswith("/"):
            path = location
        else:
            address = ServerAddress(location)
            path = (address.path or "/") + (f"?{address.query}" if address.query else "")
    raise OSError("too many redirects")


def _post_once(
    address: ServerAddress, path: str, beat: PreparedPing, environment: dict[bytes, bytes], end_by: float
) -> HttpResponse:
    proxy = _proxy_for(address, environment)
    lines = [f"Host: {address.host_header}", "User-Agent: offbeat", "Accept: */*", "Connection: close", *beat.headers]
    if address.credentials:
        lines.append(f"Authorization: Basic {_basic(address.credentials)}")
    connection = _connected(proxy or address, end_by)
    try:
        if proxy is not None:
            by_proxy = [f"Proxy-Authorization: Basic {_basic(proxy.credentials)}"] if proxy.credentials else []
            if address.scheme == "https":
                tunnel = f"{address.host}:{address.port}"
                answer = _exchange(
                    connection, [f"CONNECT {tunnel} HTTP/1.1", f"Host: {tunnel}", *by_proxy], b"", end_by
                )
                if answer.status != 200:
                    raise OSError(f"the proxy answered {answer.status} {answer.reason}")
            else:
                path, lines = f"http://{address.host_header}{path}", [*lines, *by_proxy]
        if address.scheme == "https":
            import ssl

            connection.settimeout(_left(end_by))
            connection = ssl.create_default_context().wrap_socket(connection, server_hostname=address.host)
        lines = [f"POST {path} HTTP/1.1", *lines, f"Content-Length: {len(beat.body)}"]
        return _exchange(connection, lines, beat.body, end_by)
    finally:
        connection.close()


def _left(end_by: float) -> float:
    left = end_by - time.monotonic()
    if left <= 0:
        raise TimeoutError("no answer in time")
    return left


def _connected(address: ServerAddress, end_by: float) -> socket.socket:
    # As bytes, because a str would import the codec of internationalized names.
    host = address.host.encode("ascii") if address.host.isascii() else address.host.encode("idna")
    trouble: OSError = OSError("the host name has no address")
    for family, kind, protocol, _, place in socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM):
        connection = None
        try:
            connection = socket.socket(family, kind, protocol)
            connection.settimeout(min(_left(end_by), CONNECT_S))
            connection.connect(place)
            return connection
        except OSError as error:
            if connection is not None:
                connection.close()
            trouble = error
    raise trouble


def _exchange(connection: socket.socket, lines: list[str], body: bytes, end_by: float) -> HttpResponse:
    connection.settimeout(_left(end_by))
    connection.sendall("\r\n".join([*lines, "", ""]).encode("ascii") + body)
    raw = b""
    while True:
        while b"\r\n\r\n" not in raw:
            part = _received(connection, end_by)
            raw += part
            if not part or len(raw) > HEAD_BYTES_MAX:
                raise OSError("the connection was closed without an answer" if not raw else "the answer is not HTTP")
        answer = HttpResponse(raw)
        if answer.status >= 200:
            break
        raw = answer.body  # 1xx: the answer proper follows
    # The reason of a refusal is worth a moment.
    reason_by = min(end_by, time.monotonic() + 1.0)
    length = answer.headers.get("content-length", "")
    wanted = min(int(length), PART_BYTES) if length.isdigit() else 0
    try:
        while answer.status >= 400 and len(answer.body) < wanted and (part := _received(connection, reason_by)):
            answer.body += part
    except OSError:
        pass
    return answer


def _received(connection: socket.socket, end_by: float) -> bytes:
    connection.settimeout(_left(end_by))
    return connection.recv(PART_BYTES)


def _basic(credentials: str) -> str:
    import binascii

    name, _, password = credentials.partition(":")
    plain = f"{_unquoted(name)}:{_unquoted(password)}".encode("utf-8", "surrogateescape")
    return binascii.b2a_base64(plain, newline=False).decode()


def _unquoted(text: str) -> str:
    from urllib.parse import unquote

    return unquote(text)


def _proxy_for(address: ServerAddress, environment: dict[bytes, bytes]) -> ServerAddress | None:
    """The proxy that the usual variables name for this address; None for none, and for one that cannot be used."""
    names = (f"{address.scheme}_proxy", f"{address.scheme}_proxy".upper(), "all_proxy", "ALL_PROXY")
    given = next((value for name in names if (value := variable(environment, name))), "")
    if not given:
        return None
    without = variable(environment, "no_proxy") or variable(environment, "NO_PROXY")
    for each in without.replace(",", " ").split():
        end = each.lower().lstrip("*").lstrip(".").partition(":")[0]
        if not end or address.host.lower() == end or address.host.lower().endswith("." + end):
            return None
    try:
        proxy = ServerAddress(given)
    except ValueError:
        return None
    return proxy if proxy.scheme == "http" else None


# -------------------------------------------------------------------------------------------------------------- sender


class Sender:
    """Delivers pings in order, from a thread of its own, and retries those that the server cannot take now.

    `problem` says why a ping was not delivered. `on_done` is called at the end of the thread.
    """

    def __init__(self, address: ServerAddress, environment: dict[bytes, bytes], on_done: Callable[[], None]) -> None:
        self.address, self.environment, self.on_done = address, environment, on_done
        self.alive: tuple[float, Callable[[], PreparedPing]] | None = None
        self.done = False
        self.problem: str | None = None
        self.refused: str | None = None
        self._line: list[PreparedPing] = []
        self._ends_at = 0.0  # 0: more pings can come
        self._news = threading.Condition()

    def start(self) -> None:
        """Begin. Pings put before are sent first."""
        threading.Thread(target=self._send_all, name="pings", daemon=True).start()

    def put(self, *beats: PreparedPing) -> None:
        """Send these after all before them."""
        with self._news:
            self._line.extend(beats)
            self._news.notify()

    def finish(self, wait_s: float, *beats: PreparedPing) -> None:
        """These are the last ones; the caller waits for at most `wait_s`."""
        with self._news:
            self._line = [beat for beat in self._line if beat.what != "log"] + list(beats)
            self._ends_at = time.monotonic() + wait_s
            self._news.notify()

    def _send_all(self) -> None:
        try:
            while (beat := self._next()) is not None:
                self._deliver(beat)
                with self._news:
                    if beat in self._line:
                        self._line.remove(beat)
        except Exception as error:  # no error may be silent, and the job must not notice it
            self.problem = self.refused = f"{type(error).__name__}: {error}"
        self.done = True
        self.on_done()

    def _next(self) -> PreparedPing | None:
        with self._news:
            while not self._line:
                if self._ends_at:
                    return None
                if not self._news.wait(self.alive[0] if self.alive else None) and self.alive:
                    self._line.append(self.alive[1]())
            return self._line[0]

    def _deliver(self, beat: PreparedPing) -> None:
        pause_s = PAUSE_FIRST_S
        while True:
            after_s = 0.0
            try:
                answer = post(self.address, beat, self.environment)
            except (OSError, ValueError, ImportError) as error:
                self.problem, again = _reason_of(error), True
            else:
                if 200 <= answer.status < 300:
                    self.problem = self.refused
                    return
                self.problem, again = (
                    _refusal_of(answer, beat.advice),
                    answer.status >= 500 or answer.status in (408, 425, 429),
                )
                after = answer.headers.get("retry-after", "")
                after_s = min(float(after), RETRY_AFTER_MAX_S) if after.isdigit() and len(after) < 9 else 0.0
            if not again:
                self.refused = self.problem
                return
            if not self._wait_to_retry(beat, pause_s, after_s):
                return
            pause_s = min(pause_s * 2, PAUSE_MAX_S)

    def _wait_to_retry(self, beat: PreparedPing, pause_s: float, after_s: float) -> bool:
        """Wait as long as the server asks, else for the pause. False: the ping is a sign of life, and the job ended.

        At the job's end the next attempt comes at once; after it the pauses are short, and the last attempt comes
        before the end of the wait, also if the server asks for a longer pause.
        """
        with self._news:
            if not self._ends_at:
                self._news.wait_for(lambda: self._ends_at > 0, after_s or pause_s)
            else:
                left_s = self._ends_at - time.monotonic() - PAUSE_AT_END_S
                self._news.wait(max(min(after_s or PAUSE_AT_END_S, left_s), PAUSE_AT_END_S))
            return not (self._ends_at and beat.what == "log")


def _reason_of(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return f"{getattr(error, 'strerror', None) or error or type(error).__name__}"[:REASON_CHARS_MAX]


def _refusal_of(answer: HttpResponse, advice: dict[int, str]) -> str:
    """The status and what the body says: plain text, or the `detail` and the fields of a JSON problem; then the advice.

    The body of a 401 is for programs: it names headers. The advice replaces it.
    """
    if answer.status == 401 and 401 in advice:
        return advice[401]
    text = answer.body.decode("utf-8", "replace").strip()
    if answer.headers.get("content-type", "").partition(";")[0].endswith("json"):
        import json

        try:
            problem = json.loads(text)
            fields = [f"{each['field']}: {each['reason']}" for each in problem.get("errors") or ()]
            text = "; ".join(fields) or str(problem.get("detail") or "")
        except (ValueError, KeyError, TypeError, AttributeError):
            text = ""
    elif answer.headers.get("content-type", "").startswith("text/html"):
        text = ""
    refusal = f"{answer.status} {answer.reason}".strip() + (f": {' '.join(text.split())}" if text else "")
    refusal = refusal[:REASON_CHARS_MAX]
    return f"{refusal}: {advice[answer.status]}" if answer.status in advice else refusal


# -------------------------------------------------------------------------------------------------------------- output


class Tail:
    """The first and the last bytes of an output, as many as the server keeps."""

    def __init__(self) -> None:
        self._head, self._tail, self._bytes = b"", b"", 0
        self._lock = threading.Lock()

    def keep(self, part: bytes) -> None:
        """Take a part of the output."""
        with self._lock:
            self._bytes += len(part)
            if len(self._head) < MESSAGE_HEAD_BYTES:
                room = MESSAGE_HEAD_BYTES - len(self._head)
                self._head, part = self._head + part[:room], part[room:]
            self._tail = (self._tail + part[-MESSAGE_TAIL_BYTES:])[-MESSAGE_TAIL_BYTES:]

    def keep_file(self, file: int, begin: int, end: int) -> None:
        """Take this range of a file."""
        head_end = min(end, begin + MESSAGE_HEAD_BYTES)
        self.keep(os.pread(file, head_end - begin, begin))
        tail_begin = max(head_end, end - MESSAGE_TAIL_BYTES)
        with self._lock:
            self._bytes += tail_begin - head_end
        self.keep(os.pread(file, end - tail_begin, tail_begin))

    def text(self) -> bytes:
        """Return the message to report, at most as long as the server keeps completely."""
        with self._lock:
            left_out = self._bytes - len(self._head) - len(self._tail)
            if not left_out:
                return self._head + self._tail
            mark = f"\n[... {left_out} bytes left out ...]\n".encode()
            # No half of a character at the cuts: the rest would be read in another encoding.
            head = self._head[: -_open_bytes(self._head) or None]
            tail = self._tail[len(mark) :]
            return (
                head
                + mark
                + tail[next((at for at in range(4) if tail[at : at + 1] < b"\x80" or tail[at] >= 0xC0), 0) :]
            )


def _open_bytes(text: bytes) -> int:
    """How many bytes at the end begin a UTF-8 character that is not complete."""
    for back in range(1, min(4, len(text)) + 1):
        byte = text[-back]
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if back < length else 0
        if byte < 0x80:
            return 0
    return 0


class Output:
    """The destination of the job's standard output or error, and the source of its report.

    A pipe copies what it reads to this program's own stream. A regular file is given to the job itself, so that the job
    meets a full disk exactly as without this program; its tail is read at the end. Devices are given to the job and not
    reported.
    """

    def __init__(self, fd: int, tail: Tail) -> None:
        self.fd, self.tail = fd, tail
        self.read_end = self.write_end = self.file = -1
        self.begin = 0
        self.ended = True
        about = os.fstat(fd)
        self.identity = about.st_dev, about.st_ino
        null = os.stat(os.devnull).st_rdev
        if stat.S_ISREG(about.st_mode) and self._can_read_back(about.st_size):
            self.tail = Tail()
            return
        if stat.S_ISCHR(about.st_mode) and about.st_rdev != null and not os.isatty(fd):
            return
        self.read_end, self.write_end = os.pipe()
        self.ended = False

    def _can_read_back(self, size: int) -> bool:
        import fcntl

        try:
            self.file = os.open(f"/dev/fd/{self.fd}", os.O_RDONLY)
            appends = fcntl.fcntl(self.fd, fcntl.F_GETFL) & os.O_APPEND
            self.begin = size if appends else os.lseek(self.fd, 0, os.SEEK_CUR)
            os.pread(self.file, 1, 0)
        except OSError:
            return False
        return True

    def copy(self, on_end: Callable[[], None]) -> None:
        """Copy and keep the output of the job, until the job ends or the reader of our own stream closes it."""
        os.close(self.write_end)
        try:
            while part := os.read(self.read_end, PART_BYTES):
                self.tail.keep(part)
                self._write(part)
        except OSError:
            pass
        os.close(self.read_end)  # a job that writes on gets SIGPIPE, as without us
        self.ended = True
        on_end()

    def _write(self, part: bytes) -> None:
        """Write all bytes. Raises an OSError only if the reader is gone; after any other failure the job continues."""
        view = memoryview(part)
        while view:
            try:
                view = view[os.write(self.fd, view) :]
            except BlockingIOError:
                import select

                select.select([], [self.fd], [])
            except (BrokenPipeError, ConnectionResetError):
                raise
            except OSError:
                return

    def read_back(self) -> None:
        """Keep what the job has written to a regular file."""
        if self.file < 0:
            return
        try:
            end = os.lseek(self.fd, 0, os.SEEK_CUR)
            if end <= self.begin:
                end = os.fstat(self.file).st_size
            if end > self.begin:
                self.tail.keep_file(self.file, self.begin, end)
        except OSError:
            pass


# ----------------------------------------------------------------------------------------------------------------- job


class ChildProcess:
    """The command as a child process, and the signals that are passed on to it."""

    def __init__(self) -> None:
        own = {getattr(signal, f"SIG{name}", None) for name in _OWN_SIGNALS.split()}
        self.passed_on = {number for number in signal.valid_signals() if number not in own}
        self.watched = self.passed_on | {signal.SIGCHLD}
        # A handler, because some systems drop what they would ignore even while it is blocked. It never runs.
        self.before = {number: signal.getsignal(number) for number in (signal.SIGCHLD, signal.SIGWINCH)}
        self.mask = signal.pthread_sigmask(signal.SIG_BLOCK, self.watched)
        for number in self.before:
            signal.signal(number, lambda number, frame: None)
        self.pid = 0
        self.ended_at = 0.0
        self.hurried = False
        self._main = threading.get_ident()

    def start(
        self, command: list[bytes], environment: dict[bytes, bytes], outputs: dict[int, Output], die: bool
    ) -> None:
        """Start it. Raises OSError: `filename` is what could not be run; without one there can be no child now."""
        read_end, write_end = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                for fd, output in outputs.items():
                    if output.write_end >= 0:
                        os.dup2(output.write_end, fd)
                if die:
                    _die_with_parent()
                self.exec_here(command, environment)
            except OSError as error:
                os.write(write_end, str(error.errno).encode())
            finally:
                os._exit(127)
        os.close(write_end)
        failed = os.read(read_end, 20)
        os.close(read_end)
        if failed:
            os.waitpid(self.pid, 0)
            number = int(failed)
            raise OSError(number, os.strerror(number), os.fsdecode(command[0]))

    def exec_here(self, command: list[bytes], environment: dict[bytes, bytes]) -> NoReturn:
        """Become the command, with the signals as they were."""
        for number, handler in self.before.items():
            signal.signal(number, handler if handler == signal.SIG_IGN else signal.SIG_DFL)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them
            signal.signal(number, signal.SIG_DFL)
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)
        _execute(command, environment)

    def wait(self) -> int:
        """Wait for its end and pass signals on; its exit code, 128 + the number for a signal."""
        while True:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self.ended_at = time.monotonic()
                return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
            number, by_terminal = self._next_signal(None)
            if number == signal.SIGCHLD or (by_terminal and number in _BY_TERMINAL):
                if number == signal.SIGTSTP:
                    self._stop()
                continue
            try:
                os.kill(self.pid, number)
            except OSError:
                pass  # a job of another user, such as sudo
            if number == signal.SIGTSTP:
                self._stop()

    def _stop(self) -> None:
        """Stop as the default of SIGTSTP does, until SIGCONT."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})

    def wait_until(self, is_done: Callable[[], bool], seconds: float) -> None:
        """After the job's end: wait at most this time. SIGTERM, SIGINT, SIGHUP and SIGQUIT shorten the wait."""
        end_by = time.monotonic() + (min(seconds, HURRY_S) if self.hurried else seconds)
        while not is_done() and (left := end_by - time.monotonic()) > 0:
            number, _ = self._next_signal(left)
            if number in _ENDING and time.monotonic() > self.ended_at + SAME_SIGNAL_S:
                self.hurried = True
                end_by = min(end_by, time.monotonic() + HURRY_S)

    def wake(self) -> None:
        """End a wait of the main thread, which then looks again."""
        signal.pthread_kill(self._main, signal.SIGCHLD)

    def _next_signal(self, seconds: float | None) -> tuple[int, bool]:
        """The next signal (0: none came in time), and whether the terminal sent it to the whole process group."""
        if hasattr(signal, "sigtimedwait"):
            info = (
                signal.sigtimedwait(self.watched, seconds) if seconds is not None else signal.sigwaitinfo(self.watched)
            )
            return (info.si_signo, info.si_code == _SI_KERNEL) if info is not None else (0, False)
        timer = threading.Timer(seconds, self.wake) if seconds is not None else None
        if timer is not None:
            timer.daemon = True
            timer.start()
        number = int(signal.sigwait(self.watched))
        if timer is not None:
            timer.cancel()
        return number, os.isatty(0)


def _die_with_parent() -> None:
    """Linux: let the kernel send this process SIGTERM when its parent dies."""
    try:
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        pass


def _execute(command: list[bytes], environment: dict[bytes, bytes]) -> NoReturn:
    """execvpe(3) without its fallback to a shell. Raises OSError."""
    if b"/" in command[0]:
        os.execve(command[0], command, environment)
    trouble = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    for directory in environment.get(b"PATH", b"/bin:/usr/bin").split(b":") if command[0] else ():
        try:
            os.execve(os.path.join(directory or b".", command[0]), command, environment)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
                raise
            if error.errno == errno.EACCES:
                trouble = error
    raise trouble


def _hint(command: list[str], number: int) -> str:
    """Return the likely intention of the user, if the command cannot be run."""
    program = command[0]
    if program.startswith("-"):
        return "options of `offbeat exec` stand before KEY, or before a `--` that follows KEY"
    if number == errno.ENOEXEC:
        return f"a script needs a first line such as #!/bin/sh; or run it as: sh {program}"
    if number == errno.ENOENT and os.path.exists(program):
        return "the interpreter in its first line does not exist; look for a wrong path or a carriage return"
    if number == errno.ENOENT and any(char in program for char in " \t\n;|&<>$()`*?"):
        return "a line for a shell needs one: offbeat exec KEY -- sh -c 'LINE'"
    if number == errno.EACCES and os.path.isdir(program):
        return "it is a directory"
    if number == errno.EACCES and os.path.exists(program):
        return "it may not be executed: chmod +x"
    return ""


# ------------------------------------------------------------------------------------------------------------ commands


def run_exec(arguments: list[str], environment: dict[bytes, bytes]) -> NoReturn:
    """`offbeat exec`: ends this process with the exit status of the command."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # so that none of our own files gets this number; the job finds it closed
    try:
        command_line = CommandLine(arguments)
    except UsageError as error:
        say(f"exec: {error} (offbeat exec --help)")
        os._exit(2)
    if "--help" in command_line.options.given:
        os.write(1, EXEC_HELP.encode())
        os._exit(0)
    command = [os.fsencode(argument) for argument in command_line.command]
    job = ChildProcess()
    try:
        wrapped = Wrapped(command_line, environment, job)
        wrapped.start(command)
    except NotStarted as error:
        os._exit(error.code)
    except Exception as error:  # an internal error, or a machine at its limits: the job runs, and is not reported
        say(f"{_reason_of(error)}; the command runs without being reported")
        try:
            job.exec_here(command, environment)
        except OSError as failure:
            say(f"{command_line.command[0]}: {failure.strerror}")
            os._exit(_exit_code_of(failure))
    code = job.wait()
    try:
        wrapped.finish(code)
    except Exception as error:
        say(f"the end was not reported: {_reason_of(error)}")
    os._exit(code)


class NotStarted(Exception):
    """The command cannot be run; this was reported."""

    def __init__(self, code: int) -> None:
        self.code = code


class Wrapped:
    """One command, its output and its pings."""

    def __init__(self, command_line: CommandLine, environment: dict[bytes, bytes], job: ChildProcess) -> None:
        self.command_line, self.job, options = command_line, job, command_line.options
        self.wait_s = options.amounts.get("--wait", EXEC_WAIT_S)
        url = options.text("--url") or variable(environment, "OFFBEAT_URL") or DEFAULT_URL
        self.target = self._target(url)
        self.sender = Sender(self.target.address, environment, job.wake) if self.target is not None else None
        self.run, keys = run_of(command_line, environment)
        self.environment = {**environment, b"OFFBEAT_RUN": self.run.encode(), b"OFFBEAT_RUN_KEYS": keys.encode()}
        stage, task = options.text("--stage"), options.text("--member") or options.text("--task")
        self.same: dict[str, str | None] = {
            "run": self.run,
            "stage": fitted(stage, STAGE_CHARS_MAX) if stage else None,
            "task": fitted(task, TASK_CHARS_MAX) if task else None,
            **_options_of_run(options),
        }
        self.outputs: dict[int, Output] = {}
        self.started_at = 0.0

    def _target(self, url: str) -> PingTarget | None:
        """None if there is nowhere to send pings to; one line says why."""
        problems, key, target = self.command_line.options.problems, self.command_line.key, None
        try:
            if key is None:
                raise ValueError("no KEY is given")
            target = PingTarget(ServerAddress(DEFAULT_URL if is_url(key) else url), key)
            if target.address.note:
                problems.append(f"the address {key if is_url(key) else url!r}: {target.address.note}")
        except ValueError as error:
            about = "" if str(error).startswith(("KEY", "no KEY")) else f"the address {url!r} "
            problems.append(f"{about}{error}; the command runs without being reported")
        if problems:
            say("; ".join(problems))
        return target

    def start(self, command: list[bytes]) -> None:
        """Start the command and the pings. Raises NotStarted."""
        if "--no-output" not in self.command_line.options.given:
            self.outputs = _outputs()
        self.started_at = time.monotonic()
        try:
            self.job.start(
                command, self.environment, self.outputs, "--die-with-wrapper" in self.command_line.options.given
            )
        except OSError as error:
            if error.filename is None:
                raise
            self._report_failed_start(error)
        self._report_start()
        for output in self._pipes():
            copy = threading.Thread(target=output.copy, args=(self.job.wake,), daemon=True)
            try:
                copy.start()
            except RuntimeError:
                output.copy(self.job.wake)

    def _report_start(self) -> None:
        if self.sender is None or self.target is None:
            return
        alive = self.command_line.options.amounts.get("--alive")
        if alive is not None:
            target, same = self.target, self.same
            self.sender.alive = max(alive, 1.0), lambda: target.beat("log", same)
        self.sender.put(self.target.beat("start", self.same))
        try:
            self.sender.start()
        except RuntimeError as error:  # no more threads
            say(f"{error}; the command runs without being reported")
            self.sender = None

    def _pipes(self) -> list[Output]:
        return [each for each in set(self.outputs.values()) if each.read_end >= 0]

    def _report_failed_start(self, error: OSError) -> NoReturn:
        code = _exit_code_of(error)
        hint = _hint(self.command_line.command, error.errno or 0)
        text = f"{self.command_line.command[0]}: {error.strerror}" + (f" ({hint})" if hint else "")
        say(text)
        self.job.ended_at = time.monotonic()
        self._report_start()
        self._deliver(code, 0.0, f"{text}\n".encode("utf-8", "surrogateescape"))
        raise NotStarted(code)

    def finish(self, code: int) -> None:
        """Report the end of the command, within the bounds of the waits."""
        duration_s = self.job.ended_at - self.started_at
        pipes = self._pipes()
        self.job.wait_until(lambda: all(each.ended for each in pipes), OUTPUT_WAIT_S)
        for output in dict.fromkeys(self.outputs.values()):
            output.read_back()
        self._deliver(code, duration_s, _joined([each.tail for each in self.outputs.values()]))

    def _deliver(self, code: int, duration_s: float, message: bytes) -> None:
        sender, target = self.sender, self.target
        if sender is None or target is None:
            return
        sender.finish(self.wait_s, target.beat(str(code), {**self.same, "duration": f"{duration_s:.3f}"}, message))
        self.job.wait_until(lambda: sender.done, self.wait_s)
        _say_undelivered(sender)


def _say_undelivered(sender: Sender) -> bool:
    problem = sender.refused if sender.done else sender.problem or "no answer in time"
    if problem:
        say(f"{sender.address.shown} did not accept the ping: {problem}")
    return bool(problem)


def _outputs() -> dict[int, Output]:
    """Standard output and error; one for both if they are the same file, which keeps the order of what is written."""
    outputs: dict[int, Output] = {}
    tail = Tail()
    for fd in (1, 2):
        if not os.get_inheritable(fd):  # it was closed, and is our own placeholder
            continue
        about = os.fstat(fd)
        same = next((each for each in outputs.values() if each.identity == (about.st_dev, about.st_ino)), None)
        outputs[fd] = same or Output(fd, tail)
    return outputs


def _joined(tails: list[Tail]) -> bytes:
    """One report of several: what went to files has no order in time, and the errors are worth the end."""
    joined = Tail()
    for tail in dict.fromkeys(tails):
        joined.keep(tail.text())
    return joined.text()


def run_of(command_line: CommandLine, environment: dict[bytes, bytes]) -> tuple[str, str]:
    """The run's id, and the keys whose run it is (as short digests) for an `offbeat exec` inside the command.

    Inside the command of the same key, the outer `exec` ends that run. The inner one begins a run of its own, unless it
    reports a stage or a task or was given a run.
    """
    options, inherited = command_line.options, variable(environment, "OFFBEAT_RUN")
    keys = variable(environment, "OFFBEAT_RUN_KEYS").split(",") if inherited else []
    if chosen := options.text("--run"):
        inherited, keys = chosen, []
    is_piece = any(options.text(name) for name in ("--stage", "--task", "--member"))
    digest = _digest_of(command_line.key or "")
    if inherited and not is_piece and digest in keys:
        inherited = ""
    if not inherited:
        inherited, keys = _new_id(), []
    if not is_piece:
        keys = [*keys, digest]
    return fitted(inherited, RUN_CHARS_MAX) or _new_id(), ",".join(key for key in keys if key)


def _options_of_run(options: Options) -> dict[str, str | None]:
    """Which date, attempt and execution the run is, as the server takes it."""
    date, execution = options.text("--for"), options.text("--execution")
    return {
        "for": fitted(date, BUSINESS_DATE_CHARS_MAX) if date else None,
        "backfill": "1" if "--backfill" in options.given else None,
        "attempt": f"{options.amounts['--attempt']:.0f}" if "--attempt" in options.amounts else None,
        "execution": fitted(execution, EXECUTION_CHARS_MAX) if execution else None,
    }


def _digest_of(key: str) -> str:
    """Of a key, however it is spelled: alone or as the end of a ping URL."""
    import zlib

    parts = [
        part for part in _without_quotes(key).partition("?")[0].split("/") if part and not _is_signal_or_code(part)
    ]
    return f"{zlib.crc32(os.fsencode(parts[-1] if parts else '')):08x}"


def _new_id() -> str:
    """A random UUID (version 4)."""
    raw = bytearray(os.urandom(16))
    raw[6], raw[8] = raw[6] & 0x0F | 0x40, raw[8] & 0x3F | 0x80
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _exit_code_of(error: OSError) -> int:
    return 127 if error.errno in (errno.ENOENT, errno.ENOTDIR) else 126


def run_ping(arguments: list[str], environment: dict[bytes, bytes]) -> int:
    """`offbeat ping`: 0 accepted, 1 not accepted, 2 wrong usage."""
    options, rest = Options(_PING_TEXTS, _PING_NUMBERS, _PING_FLAGS), list[str]()
    try:
        while arguments:
            arguments = options.read(arguments)
            if arguments[:1] == ["--"]:
                rest, arguments = rest + arguments[1:], []
            rest, arguments = rest + arguments[:1], arguments[1:]
        if "--help" in options.given:
            os.write(1, PING_HELP.encode())
            return 0
        if options.problems:
            raise UsageError("; ".join(options.problems))
        key, what = _read_ping(options, rest)
    except UsageError as error:
        say(f"ping: {error} (offbeat ping --help)")
        return 2
    url = options.text("--url") or variable(environment, "OFFBEAT_URL") or DEFAULT_URL
    try:
        if key is None:
            address = ServerAddress(url)
            beat = _beat_by_slug(address, what, options, environment)
        else:
            target = PingTarget(ServerAddress(DEFAULT_URL if is_url(key) else url), key)
            address = target.address
            message = os.fsencode(options.given.get("--message", ""))
            beat = target.beat(what or target.signal_in_url or "success", _fields(options, environment), message)
    except ValueError as error:
        say(str(error) if str(error).startswith("KEY") else f"the address {url!r} {error}")
        return 1
    if address.note:
        say(f"the address {key if key is not None and is_url(key) else url!r}: {address.note}")
    return 0 if _send_one(address, beat, options.amounts.get("--wait", PING_WAIT_S), environment) else 1


def _read_ping(options: Options, rest: list[str]) -> tuple[str | None, str | None]:
    """KEY (None with --slug) and the signal or exit code (None: not given). Raises UsageError."""
    by_slug = options.text("--slug") is not None
    if not rest and not by_slug:
        raise UsageError("give a KEY, or --slug")
    if len(rest) > (1 if by_slug else 2):
        raise UsageError(f"unexpected: {rest[-1]!r}")
    what = rest[-1] if len(rest) == (1 if by_slug else 2) else None
    if what is not None and not _is_signal_or_code(what):
        raise UsageError(f"give a signal ({', '.join(SIGNALS)}) or an exit code, not {what!r}")
    return (None if by_slug else rest[0]), what


def _fields(options: Options, environment: dict[bytes, bytes]) -> dict[str, str | None]:
    run = options.text("--run") or variable(environment, "OFFBEAT_RUN")
    stage, task = options.text("--stage"), options.text("--member") or options.text("--task")
    return {
        "run": fitted(run, RUN_CHARS_MAX) if run else None,
        "stage": fitted(stage, STAGE_CHARS_MAX) if stage else None,
        "task": fitted(task, TASK_CHARS_MAX) if task else None,
        **_options_of_run(options),
        **{name: options.text(f"--{name}") for name in ("done", "total", "duration")},
    }


def _beat_by_slug(
    address: ServerAddress, what: str | None, options: Options, environment: dict[bytes, bytes]
) -> PreparedPing:
    """The ping as the management API takes it."""
    import json

    what = what or "success"
    code = int(what) if what.isdigit() else None
    fields: dict[str, str | int | float | None] = dict(_fields(options, environment))
    for name, number in options.amounts.items():
        if name[2:] in fields:
            fields[name[2:]] = int(number) if number.is_integer() else number
    fields |= {"signal": what if code is None else "fail" if code else "success", "exit_code": code}
    message = os.fsencode(options.given.get("--message", "")).decode("utf-8", "replace")
    body = json.dumps({**fields, "message": message or None}).encode()
    headers = ["Content-Type: application/json"]
    key = options.text("--api-key") or variable(environment, "OFFBEAT_ADMIN_KEY") or _stored_key(options, environment)
    if key:
        headers.append(f"Authorization: Bearer {_quoted(key, '!#$&*+/=?^`|')}")
    slug = _quoted(options.text("--slug") or "")
    return PreparedPing(what, f"{address.path}/api/v1/monitors/{slug}/ping", body, headers, {401: _key_rejected(key)})


def _key_rejected(key: str | None) -> str:
    """Return the error of a ping whose access key the server rejects. The other commands have the same sentence."""
    reason = "the server does not know the access key, or it is revoked" if key else "no access key was found"
    return f"{reason}: set --api-key or OFFBEAT_ADMIN_KEY, or --data-dir if the server runs on this machine"


def _stored_key(options: Options, environment: dict[bytes, bytes]) -> str | None:
    """The key in OFFBEAT_ADMIN_KEY_FILE, or that of a server on this machine; None if we may read neither."""
    directory = options.text("--data-dir") or variable(environment, "OFFBEAT_DATA_DIR") or ".offbeat"
    path = variable(environment, "OFFBEAT_ADMIN_KEY_FILE") or os.path.join(directory, "admin-key")
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip() or None
    except (OSError, ValueError):
        return None


def _send_one(address: ServerAddress, beat: PreparedPing, wait_s: float, environment: dict[bytes, bytes]) -> bool:
    """Deliver one ping within this time, also if a call hangs; False and a line with the reason if that failed."""
    done = threading.Event()
    sender = Sender(address, environment, done.set)
    sender.finish(wait_s, beat)
    sender.start()
    done.wait(wait_s)
    return not _say_undelivered(sender)
