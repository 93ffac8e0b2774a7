"""The page of limits. The numbers come from the settings and constants that the code uses."""

from typing import NamedTuple

from docs.generate.markdown import number, table
from offbeat import exec as client_exec
from offbeat_server.config import Settings
from offbeat_server.db.repositories.monitor_moves import FORMER_SLUGS_MAX
from offbeat_server.db.scheduler_store.decision_rows import COMMENTS_NAMED_MAX
from offbeat_server.engine.model import definition, fleet, ping, run, runs
from offbeat_server.engine.model.monitor import RUNS_COUNTED_MAX
from offbeat_server.engine.rules import deadlines
from offbeat_server.engine.rules import incidents as incident_rules
from offbeat_server.engine.rules.notifications import RUNS_NAMED_MAX
from offbeat_server.engine.schedule import calendar
from offbeat_server.ingest import bulk, idempotency, key_index, ndjson, pipeline, provisioning
from offbeat_server.ingest.http import bodies, connection, content_codings, request_head
from offbeat_server.ingest.log_writer import backlog
from offbeat_server.ingest.protocols.parsing import message, parameters
from offbeat_server.ingest.protocols.sentry import check_ins, envelope
from offbeat_server.notify import channel_queue
from offbeat_server.notify.channels import webhook
from offbeat_server.notify.messages.message_builder import COMMENT_CHARS_MAX
from offbeat_server.services import config_apply
from offbeat_server.web.api import configuration, statistics
from offbeat_server.web.framework import auth_throttle, routing
from offbeat_server.web.ui import page_base
from offbeat_server.web.ui.live import hub
from offbeat_server.web.ui.pages import run as run_page
from offbeat_server.web.ui.pages import status


class Limit(NamedTuple):
    """One row: the thing, its limit, and the result beyond it."""

    thing: str
    limit: str
    beyond: str


def _of(name: str, unit: str = "") -> str:
    """A setting and its default."""
    default = Settings.model_fields[name].get_default(call_default_factory=True)
    shown = "" if default is None else f", by default {number(default)}{unit and ' ' + unit}"
    return f"`--{name.replace('_', '-')}`{shown}"


def _bytes(count: int) -> str:
    """A size in the largest unit that divides it."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size and count % (size // 10) == 0:
            return f"{count / size:g} {unit}"
    return f"{number(count)} bytes"


PINGS = (
    Limit(
        "pings that wait for their commit",
        f"{_of('pings_pending_max')}; {_of('bytes_pending_max', 'bytes')}",
        f"503 with `Retry-After` of 1 to {backlog.RETRY_AFTER_S_MAX} s. The time is an outage",
    ),
    Limit("commit of a ping", _of("commit_timeout", "s"), "503. The ping stays in the queue and may be stored"),
    Limit(
        "pings of one key",
        f"{_of('key_pings_per_minute_max')} (no limit) per minute, in each process",
        "429 with `Retry-After` (503 to Sentry SDKs, which stop sending after a 429). Not stored, no outage; other keys "
        "are not affected",
    ),
    Limit(
        "requests with an `Idempotency-Key`",
        f"key of 1 to {idempotency.KEY_CHARS_MAX} characters; each process remembers "
        f"{number(idempotency.REQUESTS_MAX)} requests for {idempotency.REMEMBERED_S / 60:g} min",
        "an older request, a longer key, or a repetition that reaches another process is taken as a new ping. With a run "
        "id it still [counts once](../semantics.md#repeats)",
    ),
    Limit(
        "body of a ping that is kept whole",
        _of("body_bytes_max", "bytes"),
        f"the first {_bytes(message.KEPT_HEAD_BYTES)} and the last {_bytes(message.KEPT_TAIL_BYTES)} are kept. 413 only if the "
        "body must contain the outcome and these parts do not",
    ),
    Limit(
        "body of a ping that is read",
        f"{_bytes(bodies.READ_BYTES_MAX)} as sent and unpacked; {bodies.READ_S_MAX:g} s; "
        f"{content_codings.CODINGS_MAX} codings; unpacked {_bytes(content_codings.FREE_BYTES)} or "
        f"{content_codings.RATIO_MAX} times the size that was sent",
        "413 or 415; 200 without the body if the address says the signal",
    ),
    Limit(
        "message",
        _bytes(ping.MESSAGE_HEAD_BYTES + ping.MESSAGE_TAIL_BYTES),
        f"the first {_bytes(ping.MESSAGE_HEAD_BYTES)} and the last {_bytes(ping.MESSAGE_TAIL_BYTES)} are kept, with "
        "a mark between them. The ping counts",
    ),
    Limit(
        "run id, stage, task",
        f"{ping.RUN_CHARS_MAX}, {ping.STAGE_CHARS_MAX} and {ping.TASK_CHARS_MAX} characters",
        "the beginning is stored with a digest of the whole, and named in `Offbeat-Changed`",
    ),
    Limit(
        "exit code",
        f"{ping.EXIT_CODE_MIN} to {ping.EXIT_CODE_MAX}",
        "a failure without its number",
    ),
    Limit(
        "body of an address that belongs to no monitor and no project",
        _bytes(pipeline.UNVOUCHED_BYTES_MAX),
        "404; it is decompressed but not parsed",
    ),
    Limit(
        "values of a JSON body that does not say its outcome",
        f"{number(parameters.VALUES_LOOKED_AT_MAX)} are searched for a failure",
        "400, unless the address says the signal",
    ),
    Limit(
        "bulk request",
        f"{_bytes(bulk.BODY_BYTES_MAX)} unpacked; {_bytes(ndjson.VALUE_BYTES_MAX)} per line; {bulk.REQUEST_S_MAX:g} s",
        "413, 400 or 408 with the number of accepted pings. If the queue of pings is full, the request waits",
    ),
    Limit(
        "bulk request without a known key",
        f"{number(bulk.STRANGE_MAX)} lines; {number(ndjson.BLANK_LINES_MAX)} blank lines in a row",
        "400, and no more is read",
    ),
    Limit(
        "Sentry envelope",
        f"{number(envelope.ITEMS_MAX)} items; {check_ins.CHECK_INS_MAX} check-ins of {_bytes(envelope.PAYLOAD_BYTES_MAX)} "
        f"each and {_bytes(envelope.PAYLOADS_BYTES_MAX)} together; other items have the limit of any body",
        "413 if no check-in could be read; otherwise the ones that could are stored",
    ),
    Limit(
        "unknown keys",
        f"{1 / key_index.REFRESH_GAP_S:g} reads of the database per second together; {number(key_index.WAITERS_MAX)} waiting "
        f"requests; {key_index.REFRESH_WAIT_S:g} s",
        "503",
    ),
    Limit(
        "monitors that pings create",
        f"{provisioning.CREATED_PER_MINUTE_MAX} per minute (fixed windows) and project, in each process",
        "429 (503 to Sentry SDKs)",
    ),
    Limit(
        "monitors of a project that pings create",
        _of("provisioned_max"),
        "the same answer, with the reason. The API still creates monitors",
    ),
    Limit(
        "a ping whose monitor does not exist yet, in a project whose pings can create monitors",
        f"waits up to {pipeline.MADE_WITHIN_S:g} s; {number(pipeline.WAITING_MAX)} at once in each process",
        "404",
    ),
    Limit(
        "monitors changed by a `monitor_config`",
        f"{number(provisioning.CHANGED_PER_MINUTE_MAX)} per minute (fixed windows) and project, in each process",
        "the check-in counts; a later one changes the monitor",
    ),
)
CONNECTIONS = (
    Limit(
        "open connections of a process",
        f"{_of('connections_max')}, and never more than `ulimit -n` allows",
        "further connections are closed at once and counted in `offbeat_connections_refused_total`. The time is an outage",
    ),
    Limit(
        "open connections of one client address (an IPv6 /64), except trusted proxies",
        f"{_of('connections_per_address_max')}, by default 75 % of `--connections-max`",
        "closed and counted in the same way. No outage",
    ),
    Limit(
        "request line; headers",
        f"{_bytes(request_head.LINE_BYTES_MAX)}; {request_head.HEADERS_MAX} of {_bytes(request_head.HEAD_BYTES_MAX)}",
        "400 or 431, and the connection is closed",
    ),
    Limit(
        "request head",
        f"{_of('header_timeout', 's')}; after the first request that is no ping {_of('idle_timeout', 's')}",
        "the connection is closed",
    ),
    Limit(
        "request body",
        f"{_of('body_timeout', 's')}, and 1 s more for every {_bytes(bodies.BYTES_PER_S_MIN)} that have arrived",
        "408 (200 without the rest of the body if the address has the signal). The server keeps reading for the same time, "
        "so that the client receives the answer",
    ),
    Limit(
        "a connection without a request",
        _of("idle_timeout", "s")
        + ". Each time the server checks again after the same time if the client still takes earlier answers: some are "
        "on their way, and the client has acknowledged bytes since the last check",
        "the connection is closed",
    ),
    Limit(
        "a client that acknowledges no byte of its answers",
        _of("idle_timeout", "s")
        + ", from when answers wait in the process. The whole time has no limit: a client that acknowledges some bytes "
        "within each such time keeps its connection. A client's system acknowledges in steps of up to the size of its "
        "receive buffer, so a client that reads less than one step in this time is closed too",
        "the connection is closed",
    ),
    Limit(
        "requests of one connection that wait for their answers",
        str(connection.PIPELINE_MAX),
        "the server reads no more until half of them are answered",
    ),
    Limit("all request bodies that are not whole yet", _of("bytes_pending_max", "bytes"), "503"),
)
MONITORS = (
    Limit("open runs of a monitor", number(runs.RUNS_OPEN_MAX), "the oldest is closed as `unknown`"),
    Limit(
        "tasks of a run; members of a fleet",
        f"{number(definition.TASKS_MAX)}; {number(fleet.MEMBERS_MAX)}",
        "further names are not kept. Their pings still count as activity",
    ),
    Limit("task names of all open runs of a monitor", number(runs.TASK_NAMES_MAX), "further names are not kept"),
    Limit(
        "names of stages and tasks of the ended runs that a monitor remembers",
        number(runs.ENDED_NAMES_MAX),
        "the scheduler reads the oldest of these runs from the database when a late ping needs them",
    ),
    Limit(
        "stages of a definition; stages seen in a run",
        f"{definition.STAGES_MAX}; {run.STAGES_SEEN_MAX}",
        "422 for a definition. Further stages of a run are in the log only",
    ),
    Limit("causes of an incident", str(incident_rules.CAUSES_MAX), "the oldest cause is no longer kept"),
    Limit(
        "runs of an incident",
        str(RUNS_COUNTED_MAX),
        f"later ones are not counted in *resolved*, which names the first {RUNS_NAMED_MAX}",
    ),
    Limit(
        "comments in *resolved*",
        f"the last {COMMENTS_NAMED_MAX}, {COMMENT_CHARS_MAX} characters each",
        "the incident's page has all",
    ),
    Limit(
        "occurrences in a row that an outage excuses",
        str(deadlines.EXCUSED_MAX),
        "the next missed occurrence opens an incident",
    ),
    Limit(
        "OnCalendar expressions of a monitor",
        f"{calendar.ONCALENDAR_LINES_MAX}; {number(definition.CALENDAR_CHARS_MAX)} characters together",
        "422",
    ),
    Limit(
        "former slugs of a monitor",
        number(FORMER_SLUGS_MAX),
        "the oldest no longer leads to the monitor: pings by it are answered 404",
    ),
)
MANAGEMENT = (
    Limit(
        "request body of the API; of `apply`; of a form",
        f"{_bytes(routing.BODY_BYTES_MAX)}; {_bytes(configuration.BODY_BYTES_MAX)}; {_bytes(page_base.FORM_BYTES_MAX)}",
        "413",
    ),
    Limit("work of one request", f"{routing.REQUEST_S_MAX:g} s; ten connections to Postgres", "503"),
    Limit("monitors of one `apply`", number(config_apply.MONITORS_MAX), "422; apply the file in parts"),
    Limit(
        "wrong keys of one address, at API and pages together",
        f"{auth_throttle.WRONG_PER_MINUTE_MAX} per minute, in each process",
        "429 for every key from that address, also for valid ones, until the minute is over",
    ),
    Limit("runs that `/durations` counts", number(statistics.RUNS_MAX), "older runs are left out"),
    Limit(
        "live pages",
        f"{hub.STREAMS_MAX} per process; {hub.STREAMS_PER_SESSION_MAX} per session; {hub.STREAMS_PER_PROJECT_MAX} of the "
        f"keys of one project; {hub.STREAMS_OF_PROJECTS_MAX} of the keys of all projects",
        "503. The page shows that it is not live, and tries again",
    ),
    Limit("tasks of a run that its page draws", number(run_page.CELLS_MAX), "counted and named, not drawn"),
    Limit("monitors of a status page", str(status.MONITORS_MAX), "counted, not listed"),
)
ALERTS = (
    Limit("retries of an alert", "24 h", "kept as `expired`, counted, and can be sent again"),
    Limit(
        "alerts that are sent one by one while others wait",
        str(channel_queue.BURST_MAX),
        "further alerts are combined into one message, unless `digest` is false",
    ),
    Limit("signing secrets of a webhook", str(webhook.SECRETS_MAX), "422; a generated one replaces the oldest"),
)
CLIENT = (
    Limit(
        "`offbeat exec`",
        f"{client_exec.EXEC_WAIT_S:g} s (`--wait`) after the end of the job for pings that are not delivered; "
        f"{client_exec.OUTPUT_WAIT_S:g} s for a background process that keeps the output open",
        "one line on standard error; the output of that process is closed",
    ),
    Limit("`offbeat ping`", f"{client_exec.PING_WAIT_S:g} s (`--wait`)", "exit code 1"),
)
HEAD = ("subject", "limit", "result beyond it")
SECTIONS = {
    "Pings": PINGS,
    "Connections": CONNECTIONS,
    "Monitors and runs": MONITORS,
    "API and pages": MANAGEMENT,
    "Alerts": ALERTS,
    "Client": CLIENT,
}


def page() -> str:
    """The page."""
    sections = "\n".join(f"## {title}\n\n{table(HEAD, rows)}" for title, rows in SECTIONS.items())
    return f"""# Limits

Every queue, body, cache and wait has a limit. A limit that is a setting can be changed ([Settings](settings.md)); the
others are constants. [The web pages](../pages.md#limits) lists further limits of the pages.

{sections}"""
