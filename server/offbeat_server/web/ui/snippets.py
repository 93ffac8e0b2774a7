"""How to ping: lines ready to be pasted, for the places in which jobs live.

Each one sends the outcome and not only the success, gives up in time, and never makes the job fail.
"""

from typing import NamedTuple

from offbeat_server.common.instants import SECOND
from offbeat_server.engine.model.definition import Definition

CURL = "curl -fsS -m 10 --retry 5 -o /dev/null"


class Snippet(NamedTuple):
    """A few lines for one place."""

    place: str
    about: str
    text: str


def snippets(url: str, base: str, key: str, definition: Definition) -> list[Snippet]:
    """For a monitor that is pinged at `url`."""
    if definition.members is not None:
        return _for_workers(url, base, key, max(1, definition.members.every // SECOND // 2))
    when = definition.cron or "*/5 * * * *"
    return [
        Snippet(
            "curl",
            "One ping; /start before and the exit code after also record the run.",
            f"{CURL} {url}\n\n# with start, exit code and duration\n{CURL} {url}/start\n./job; {CURL} {url}/$?",
        ),
        Snippet(
            "crontab",
            "The exit code decides; offbeat exec also sends the end of the output and keep-alive pings.",
            f"{when} /path/to/job; {CURL} {url}/$?\n\n# or\n"
            f"{when} OFFBEAT_URL={base} offbeat exec {key} -- /path/to/job",
        ),
        Snippet("Python", "Only the standard library.", _python(url)),
        Snippet("systemd", "In the [Service] section of the unit.", _systemd(url)),
        Snippet("Kubernetes", "A CronJob whose container has wget.", _kubernetes(url, when, definition.timezone)),
    ]


def _for_workers(url: str, base: str, key: str, every_s: int) -> list[Snippet]:
    """For a fleet. Each line names its worker (`task`): without a name that stays, each run would be a new member."""
    return [
        Snippet("curl", f"Each worker sends its host name, every {every_s} s.", f'{CURL} "{url}?task=$(hostname)"'),
        Snippet(
            "crontab",
            "On each worker, if it runs jobs at least that often. The exit code decides.",
            f'* * * * * /path/to/job; {CURL} "{url}/${{?}}?task=$(hostname)"\n\n# or\n'
            f'* * * * * OFFBEAT_URL={base} offbeat exec --task "$(hostname)" {key} -- /path/to/job',
        ),
        Snippet(
            "offbeat exec",
            "Starts a worker and pings while it runs.",
            f'OFFBEAT_URL={base} offbeat exec --task "$(hostname)" --alive {every_s} {key} -- /path/to/worker',
        ),
        Snippet("Python", "Only the standard library; call ping() in the worker's loop.", _python_worker(url)),
        Snippet("systemd", "A service and a timer on each worker.", _systemd_worker(url, every_s)),
        Snippet("Kubernetes", "A Deployment whose container has wget.", _kubernetes_worker(url, every_s)),
    ]


def _python(url: str) -> str:
    return f'''import contextlib, urllib.request

def ping(what=""):
    with contextlib.suppress(OSError):  # the job continues if the server does not answer
        urllib.request.urlopen("{url}" + what, timeout=10).close()

ping("/start")
try:
    main()
except BaseException:
    ping("/fail")
    raise
ping()'''


def _python_worker(url: str) -> str:
    return f'''import contextlib, socket, urllib.parse, urllib.request

WORKER = urllib.parse.quote(socket.gethostname(), safe="")

def ping(what=""):
    with contextlib.suppress(OSError):  # the worker continues if the server does not answer
        urllib.request.urlopen("{url}" + what + "?task=" + WORKER, timeout=10).close()

ping()          # while it works
ping("/leave")  # when it stops on purpose'''


def _systemd(url: str) -> str:
    # $$ is systemd's way to leave a $ to the shell.
    return f"""ExecStartPre=-/usr/bin/{CURL} {url}/start
ExecStart=/path/to/job
ExecStopPost=-/bin/sh -c 'test "$$SERVICE_RESULT" = success && s=success || s=fail; {CURL} {url}/$$s'"""


def _systemd_worker(url: str, every_s: int) -> str:
    # %H is systemd's own host name.
    return f"""# worker-alive.service
[Service]
Type=oneshot
ExecCondition=/usr/bin/systemctl --quiet is-active worker.service
ExecStart=/usr/bin/{CURL} {url}?task=%H

# worker-alive.timer
[Timer]
OnActiveSec=0
OnUnitActiveSec={every_s}
AccuracySec=1
[Install]
WantedBy=timers.target"""


def _kubernetes_worker(url: str, every_s: int) -> str:
    return f"""apiVersion: apps/v1
kind: Deployment
metadata:
  name: worker
spec:
  replicas: 3
  selector: {{matchLabels: {{app: worker}}}}
  template:
    metadata: {{labels: {{app: worker}}}}
    spec:
      containers:
        - name: worker
          image: your/image
          command: ["/bin/sh", "-c"]
          args:
            - |
              ping() {{ wget -q -T 10 -O /dev/null "{url}/$1?task=$(hostname)" || true; }}
              /path/to/worker & worker=$!
              trap 'kill $worker; ping leave; exit 143' TERM
              while kill -0 $worker 2>/dev/null; do ping success; sleep {every_s} & wait $!; done
              wait $worker"""


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
