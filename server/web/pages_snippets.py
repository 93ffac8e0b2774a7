"""How to ping: lines ready to be pasted, for the places in which jobs live.

Each one sends the outcome and not only the success, gives up in time, and never makes the job fail.
"""

from typing import NamedTuple

from server.engine.monitor import Definition

CURL = "curl -fsS -m 10 --retry 5 -o /dev/null"


class Snippet(NamedTuple):
    """A few lines for one place."""

    place: str
    about: str
    text: str


def snippets(url: str, base: str, key: str, definition: Definition) -> list[Snippet]:
    """For a monitor that is pinged at `url`."""
    when = definition.cron or "*/5 * * * *"
    fleet = definition.members is not None
    return [
        Snippet(
            "curl",
            "A worker says that it lives." if fleet else "One ping; /start before and the exit code after show runs.",
            f"{CURL} '{url}?task='$(hostname)"
            if fleet
            else f"{CURL} {url}\n\n# with start, exit code and duration\n{CURL} {url}/start\n./job; {CURL} {url}/$?",
        ),
        Snippet(
            "crontab",
            "The exit code decides; offbeat exec also sends the output's tail and signs of life.",
            f"{when} /path/to/job; {CURL} {url}/$?\n\n# or\n"
            f"{when} OFFBEAT_URL={base} offbeat exec {key} -- /path/to/job",
        ),
        Snippet("Python", "Only the standard library.", _python(url)),
        Snippet("systemd", "In the [Service] section of the unit.", _systemd(url)),
        Snippet("Kubernetes", "A CronJob whose container has wget.", _kubernetes(url, when, definition.timezone)),
    ]


def _python(url: str) -> str:
    return f'''import contextlib, urllib.request

def ping(what=""):
    with contextlib.suppress(OSError):  # the job goes on, also while nobody hears it
        urllib.request.urlopen("{url}" + what, timeout=10).close()

ping("/start")
try:
    main()
except BaseException:
    ping("/fail")
    raise
ping()'''


def _systemd(url: str) -> str:
    # $$ is systemd's way to leave a $ to the shell.
    return f"""ExecStartPre=-/usr/bin/{CURL} {url}/start
ExecStart=/path/to/job
ExecStopPost=-/bin/sh -c 'test "$$SERVICE_RESULT" = success && s=success || s=fail; {CURL} {url}/$$s'"""


def _kubernetes(url: str, when: str, timezone: str) -> str:
    return f"""apiVersion: batch/v1
kind: CronJob
metadata:
  name: job
spec:
  schedule: "{when}"
  timeZone: "{timezone}"
  concurrencyPolicy: Forbid
  jobTemplate:
    spec:
      backoffLimit: 0
      template:
        spec:
          restartPolicy: Never
          containers:
            - name: job
              image: your/image
              command: ["/bin/sh", "-c"]
              args:
                - |
                  ping() {{ wget -q -T 10 -O /dev/null "{url}/$1" || true; }}
                  ping start; /path/to/job; code=$?; ping $code; exit $code"""
