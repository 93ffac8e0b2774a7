"""wrk, the closed-loop load generator from Debian: as many requests as the server takes, at little CPU of its own.

Each request goes to another key, as real pings do. Latencies of a closed loop are not reported; see load.py.
"""

import asyncio
import re
import tempfile
from typing import NamedTuple

# The requests are made once, before the clock runs. `done` prints the exact numbers; wrk's own text rounds them.
_SCRIPT = """
local requests, n, at = {}, 0, 0
function init(args)
  for key in io.lines("%(keys)s") do
    n = n + 1
    requests[n] = wrk.format("%(method)s", (%(path)s):gsub("{key}", key), %(headers)s, %(body)s)
  end
  at = math.floor(n * %(phase)s)
end
function request()
  at = at + 1
  if at > n then at = 1 end
  return requests[at]
end
function done(summary)
  local e = summary.errors
  io.write(string.format("\\nDONE %%d %%d %%d %%d\\n", summary.requests, summary.duration, e.status,
                         e.connect + e.read + e.write + e.timeout))
end
"""


class Closed(NamedTuple):
    """The results of a closed loop: answers, of them not 2xx or 3xx, broken connections, and its duration."""

    answers: int
    errors: int
    broken: int
    seconds: float

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return (self.answers - self.errors) / self.seconds


async def drive(
    host: str,
    port: int,
    keys: str,
    *,
    connections: int,
    seconds: float,
    path: str = "/api/v1/heartbeat/{key}",
    method: str = "GET",
    close: bool = False,
    body: str | None = None,
    phase: float = 0.0,
) -> Closed:
    """Keep `connections` busy for `seconds`.

    `close`: a connection for each request. `phase`: where in the list of keys to begin, from 0 to 1.
    """
    headers = '{["Connection"] = "close"}' if close else "{}"
    script = _SCRIPT % {
        "keys": keys,
        "method": method,
        "path": _lua(path),
        "headers": headers,
        "body": "nil" if body is None else _lua(body),
        "phase": phase,
    }
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        child = await asyncio.create_subprocess_exec(
            "wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "15s", "-s", file.name,
            f"http://{host}:{port}/", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await child.communicate()
    match = re.search(r"^DONE (\d+) (\d+) (\d+) (\d+)$", output.decode(), re.MULTILINE)
    if match is None:
        raise RuntimeError(f"wrk failed:\n{output.decode()}")
    answers, micros, errors, broken = map(int, match.groups())
    return Closed(answers, errors, broken, micros / 1_000_000)


def _lua(text: str) -> str:
    """The text as a Lua string."""
    return (
        '"'
        + "".join(f"\\{byte:03d}" if not 32 <= byte < 127 or byte in b'"\\' else chr(byte) for byte in text.encode())
        + '"'
    )
