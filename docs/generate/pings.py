"""The page of pings: addresses and parameters by protocol. The real readers read every example of the page."""

import re
from typing import Any, NamedTuple

from docs.generate.markdown import Missing, table, words
from offbeat_server.engine.model.ping import SIGNALS
from offbeat_server.ingest.http.content_codings import ACCEPTED
from offbeat_server.ingest.protocols import answers, cronitor, gatus, registry, uptime_kuma
from offbeat_server.ingest.protocols.base import KeyAddress, Outcome, ParsedPing, Rejection, Request
from offbeat_server.ingest.protocols.parsing import outcome
from offbeat_server.ingest.protocols.sentry import check_ins

UUID = "9d3b1f6e-0c9a-4a64-8a58-2f1f5d1f7f10"
SIGNALS_MEAN = {
    "start": "A run, stage or task begins.",
    "success": "The job, run, stage or task ended well. A ping that says nothing else is a success.",
    "fail": "It failed.",
    "log": "A sign of life with a message. It does not satisfy a schedule.",
    "progress": "Progress of a run, stage or task, with `done` and `total`.",
    "skip": "A stage or a run is skipped on purpose.",
    "leave": "A member leaves its fleet.",
}
# The parameters of a native ping: what may be sent.
NATIVE = {
    "status": "A signal, or a word for one (see the table of words).",
    "exit_code": "A number, or the word of systemd for a result or a signal (`timeout`, `oom-kill`, `KILL`). 0 is "
    "`success`, any other number is `fail`.",
    "passed": "`true`, `1`, `yes` or `on` is `success`; `false`, `0`, `no` or `off` is `fail`.",
    "failed": "`fail`, unless the value says that there is no error (empty, `0`, `false`, `none`, `no errors`). A text is "
    "the message if there is no other.",
    "code": "An exit code, or a status of HTTP: 0 is `success`, any other value is refused if nothing else says the outcome.",
    "http": "A status of HTTP: below 400 is `success`, any other value is refused if nothing else says the outcome.",
    "run": "The id of the run, so that overlapping runs are kept apart.",
    "stage": "The stage of the run.",
    "task": "The task of the run or stage, or the member of a fleet.",
    "done": "A whole number from 0: progress. It may exceed `total`.",
    "total": "A whole number from 0: the whole of `done`. Without `done`: the number of tasks, 0 if there is nothing to do.",
    "duration": "The duration of the job: seconds, `1h30m`, `1,5`, `00:01:30` or `PT90S`.",
    "message": "Text. Any other JSON value is kept as JSON.",
    "for": "The business date of the run: a date, a date and time, or any other label of at most 100 characters.",
    "backfill": "`1`: the run makes up for an earlier date. The schedule does not wait for it.",
    "attempt": "Which attempt at its business date the run is: a whole number from 1.",
    "execution": "An id of the process, pod or job that sends the ping, so that two starts of one run are two attempts.",
}
CRONITOR = {
    "state": "The signal: `run` is `start`; `complete`, `ok`, `tick` and none are `success`; `fail` is `fail`; `logs` is "
    "`log`.",
    "series": "The run id.",
    "message": "The message.",
    "msg": "The message.",
    "metric": "May be repeated. `count:N` is `done`, `duration:S` is the duration. Others are ignored.",
    "duration": "The duration in seconds.",
    "env": "Each environment except `production` is a monitor of its own, `slug.env`. It is created like `slug` if that "
    "exists.",
    "try": "Ignored.",
    "stamp": "Ignored. With it, an address below `/ping/` is read as Cronitor's.",
    "host": "Ignored.",
    "schedule": "Ignored.",
    "status_code": "The exit code. It decides the signal only if there is no `state`.",
    "exit_code": "As `status_code`.",
}
UPTIME_KUMA = {
    "status": "`up` or nothing is `success`; every other value is `fail`.",
    "msg": "The message.",
    "ping": "The duration in milliseconds.",
}
GATUS = {
    "success": "Required. `true` is `success`, `false` is `fail`.",
    "error": "The message of a failure.",
    "duration": "The duration as Go writes it: `10s`, `1h2m3.5s`, `150ms`.",
}
SNITCH = {
    "s": "None, empty or 0 is `success`; another number is an exit code; any other value is `fail`.",
    "m": "The message.",
}
SENTRY = {
    "status": "`in_progress` is `start`, `ok` is `success`, `error` is `fail`. An unknown status is stored as `log`.",
    "check_in_id": "The run id. The id of zeros ends the open run that began last.",
    "monitor_slug": "The slug of the monitor.",
    "environment": "Each environment except `production` is a monitor of its own, `slug.environment`.",
    "duration": "The duration in seconds.",
    "monitor_config": "Creates the monitor or changes it: `schedule`, `timezone`, `checkin_margin` (`grace`, minutes), "
    "`max_runtime` (minutes), `failure_issue_threshold` (`fail_after`), `recovery_threshold` (`recover_after`). A month "
    "is 31 days.",
    "sentry_key": "The ping key, if no header and no path has it.",
    "sentry_version": "Ignored.",
    "sentry_client": "Ignored.",
    "contexts": "Ignored.",
    "release": "Ignored.",
    "type": "Ignored.",
}


class Example(NamedTuple):
    """A request, as a reader gets it. `{uuid}` in the address is replaced."""

    address: str
    method: str = "GET"
    body: str = ""
    kind: str = ""
    authorization: str = ""


NATIVE_EXAMPLES = (
    Example("/api/v1/heartbeat/KEY"),
    Example("/api/v1/heartbeat/KEY/start?run=2026-11-30"),
    Example("/api/v1/heartbeat/KEY/fail?run=2026-11-30", "POST", "disk full"),
    Example("/api/v1/heartbeat/KEY/3"),
    Example("/api/v1/heartbeat/KEY/KILL"),
    Example("/api/v1/heartbeat/KEY/progress?run=7&stage=load&done=40&total=100"),
    Example("/api/v1/heartbeat/KEY?jobStatus=FAILED&rc=2"),
    Example("/api/v1/heartbeat/KEY", "POST", '{"status": "ok", "duration": "1m30s"}', "application/json"),
    Example("/api/v1/heartbeat/KEY", "POST", '{"result": {"error": "timeout"}}', "application/json"),
    Example("/api/v1/heartbeat/KEY/start?for=2026-11-23&backfill=1&attempt=2"),
    Example("/api/v1/heartbeat/KEY?duration=soon"),
    Example("/api/v1/heartbeat/KEY?status=perhaps"),
)
EXAMPLES = {
    "healthchecks": (
        Example("/ping/{uuid}"),
        Example("/ping/{uuid}/start?rid={uuid}"),
        Example("/ping/{uuid}/1", "POST", "disk full"),
        Example("/ping/PING-KEY/nightly-etl/fail?create=1"),
        Example("/ping/PING-KEY/nightly-etl?create=1/fail"),
    ),
    "cronitor": (
        Example("/p/API-KEY/nightly-etl?state=run&series=7"),
        Example("/p/API-KEY/nightly-etl?state=fail&message=disk%20full"),
        Example("/ping/API-KEY/nightly-etl?state=complete&metric=count:40"),
    ),
    "uptime_kuma": (
        Example("/api/push/TOKEN?status=up&msg=OK&ping="),
        Example("/api/push/TOKEN?status=down&msg=disk%20full&ping=1500"),
    ),
    "gatus": (
        Example("/api/v1/endpoints/group_name/external?success=true", "POST", authorization="Bearer PING-KEY"),
        Example(
            "/api/v1/endpoints/group_name/external?success=false&error=timeout&duration=10s",
            *("POST", "", "", "Bearer PING-KEY"),
        ),
    ),
    "snitch": (Example("/5f3e1a2b4c?m=done"), Example("/5f3e1a2b4c?s=2")),
    "sentry": (
        Example("/api/1/cron/nightly-etl/PING-KEY/?status=in_progress&check_in_id=9d3b1f6e0c9a4a648a582f1f5d1f7f10"),
        Example("/api/1/cron/nightly-etl/PING-KEY/?status=error&environment=staging"),
    ),
    "alertmanager": (
        Example(
            "/api/v1/heartbeat/KEY",
            "POST",
            '{"groupKey":"1","receiver":"offbeat","status":"firing","alerts":[{}],"commonLabels":{"alertname":"Watchdog"}}',
            "application/json",
        ),
        Example(
            "/api/v1/heartbeat/KEY",
            "POST",
            '{"groupKey":"1","receiver":"offbeat","status":"resolved","alerts":[{}],"commonLabels":{}}',
            "application/json",
        ),
    ),
}


def page() -> str:
    """The page."""
    _must_be_complete()
    signals = table(("signal", "meaning"), ((f"`{name}`", SIGNALS_MEAN[name]) for name in SIGNALS))
    native = [(f"`{_name(field)}`", _names(field), text) for field, text in NATIVE.items()]
    spoken = [(f"`{signal}`", words(text.split(), "and")) for signal, text in outcome._WORDS.items()]
    return f"""# Pings

A ping is an HTTP request. The answer 200 (202 for Dead Man's Snitch and Sentry's cron address) means that the ping is
committed in Postgres. Any other answer, or none, means that it may or may not be stored: send it again.

| protocol | address | key |
| --- | --- | --- |
| [Native](#native), Better Stack | `/api/v1/heartbeat/{{key}}[/{{signal or exit code}}]` | a key of the monitor |
| [Bulk](#bulk) | `/api/v1/heartbeats` | `key` of each line |
| [Healthchecks](#healthchecks), runitor | `/ping/{{uuid}}[/{{signal}}]`, `/ping/{{ping key}}/{{slug}}[/{{signal}}]` | a key of the monitor, or the ping key of the project |
| [Cronitor](#cronitor) | `/p/{{api key}}/{{slug}}`, `/ping/{{api key}}/{{slug}}?state=…` | the ping key of the project |
| [Uptime Kuma](#uptime-kuma) push | `/api/push/{{token}}` | a key of the monitor |
| [Gatus](#gatus) external endpoint | `/api/v1/endpoints/{{group_name}}/external` | the ping key of the project as the bearer token, or the added key `token/group_name` |
| [Sentry Crons](#sentry) | `/api/{{number}}/envelope/`, `/api/{{number}}/cron/{{slug}}/{{ping key}}/` | the ping key of the project |
| [Dead Man's Snitch](#dead-mans-snitch) | `/{{token}}`, with `--root-protocol snitch` | a key of the monitor |
| [Alertmanager](#alertmanager), Grafana alerting | webhook to a native or a Healthchecks address | as that address |

[Supported clients](#supported-clients) says what to change in a client and what is not supported.

## Signals

{signals}
[Semantics](../semantics.md) defines the effect of each signal on runs, stages, tasks and fleets.

{_READ}
## Native

`GET`, `HEAD` or `POST`. The signal or the exit code is in the path, or in the parameters. Parameters are in the query; on
an address that names no signal they may also be in a JSON object or a form. Any other body is the message.

Names are compared without regard to letter case, `_`, `-`, `.` and spaces. Compounds such as `jobStatus`,
`build_result`, `is_ok` and `backup_failed` are understood too.

{table(("parameter", "other names", "value"), native)}
Words for a signal:

{table(("signal", "words"), spoken)}
Words of systemd instead of an exit code: {words(outcome._RESULTS, "and")}; and the names of signals, with or without
`SIG`.

The signal is decided in this order: a failure in `status`, `success` or the path (only `log` and `leave` in the path
outrank it); the path; `status` and `success`; `exit_code`; `error`. But `error` outranks every success that is said
beside it, and `exit_code` outranks a success that only says that the job has ended (`completed`). If nothing says an
outcome, the ping is a success.

{_examples(NATIVE_EXAMPLES)}
| answer | meaning |
| --- | --- |
| 200 `OK` | committed |
| 400, 413, 415 | refused: the body says why. 415 has `Accept-Encoding: {ACCEPTED}` |
| 404 | no monitor has this key |
| 429 | this key pings more often than `--key-pings-per-minute-max` allows; `Retry-After` says when to try again |
| 503 | may or may not be stored; `Retry-After` says when to try again |

A request that is repeated with the same `Idempotency-Key` is stored once ([Limits](limits.md#pings)).

## Bulk

`POST /api/v1/heartbeats` takes many pings in one request: one JSON object per line (NDJSON), or a JSON array, compressed
or not. Each object has `key` and the native parameters. The answer is
`{{"accepted": 2, "refused": 1, "errors": [{{"line": 3, "reason": "…"}}]}}` and comes when all accepted pings are
committed. It is 400 if no ping was stored. `ignored` names parts of accepted lines that were left out.

## Healthchecks

Any method. The suffix after the key or the slug is `start`, `fail`, `log` or an exit status. The body is the message.

| parameter | value |
| --- | --- |
| `rid` | The run id. |
| `create` | `1` creates the monitor if it does not exist. It expects a ping every day with a grace period of 1 h, and runs of at most 1 h. |

{_examples(EXAMPLES["healthchecks"])}
Answers: 200 `OK`, 201 `Created`, 400, 404 `not found`, 409 `ambiguous slug`. Each has the header `Ping-Body-Limit`.
`/ping/{{uuid}}/{{word}}`: if a monitor has this UUID as a key, the word is a signal or the monitor's slug. If the UUID is
the ping key of a project and no monitor's key, the word is a slug.

## Cronitor

`GET`, `HEAD` or `POST`; the body is ignored. The ping key of the project is the API key. An unknown monitor is created.
The state may also be a third part of the path: `/p/API-KEY/nightly-etl/run`.

{_parameters(CRONITOR)}
{_examples(EXAMPLES["cronitor"])}
## Uptime Kuma

Any method; the body is ignored. Answers are JSON: 200 `{{"ok":true}}`, or 404 `{{"ok":false,"msg":"…"}}`.

{_parameters(UPTIME_KUMA)}
{_examples(EXAMPLES["uptime_kuma"])}
## Gatus

`POST`; the body is ignored. The group and name in the path are the slug of the monitor.

{_parameters(GATUS)}
{_examples(EXAMPLES["gatus"])}
Answers: 200 with an empty body, 400, 401 without a token. A wrong token gets 404, as an unknown endpoint does.

## Sentry

The DSN is `http://{{ping key}}@HOST:PORT/1`. Every check-in in an envelope is a ping; all other items of an SDK are accepted
and dropped. The cron address takes the same parameters in the query, in JSON or in a form. Names may be written as in
JavaScript (`checkInId`). A check-in with `monitor_config` creates the monitor (grace period 1 min, runs of at most 30 min unless
it says otherwise) or changes it.

{_parameters(SENTRY)}
{_examples(EXAMPLES["sentry"])}
Answers: 200 (202 at the cron address) means stored, 404 that no monitor exists, 400 that no check-in could be read. 429 is
never sent, because an SDK then stops sending for a minute; 503 takes its place.

## Dead Man's Snitch

Only with `--root-protocol snitch`. `GET`, `HEAD` or `POST`; parameters are in the query or in a form. The answer is 202
`Got it, thanks!`.

{_parameters(SNITCH)}
{_examples(EXAMPLES["snitch"], "snitch")}
## Alertmanager

Send an alert that always fires to a webhook receiver with a native or a Healthchecks address, with a short
`repeat_interval`. A group that fires counts as the signal of the address. A resolved group is stored as `log`, for any
value of `send_resolved`. Grafana alerting sends the same body.

{_examples(EXAMPLES["alertmanager"])}
{_CLIENTS}"""


def _must_be_complete() -> None:
    known: dict[str, tuple[set[str], set[str]]] = {
        "SIGNALS_MEAN": (set(SIGNALS_MEAN), set(SIGNALS)),
        "NATIVE": (set(NATIVE), set(outcome._NAMES)),
        "CRONITOR": (set(CRONITOR), {*cronitor._OWN, "status_code", "exit_code"}),
        "UPTIME_KUMA": (set(UPTIME_KUMA), set(uptime_kuma._OWN)),
        "SENTRY": (set(SENTRY), set(check_ins._OWN)),
        "EXAMPLES": (
            set(EXAMPLES),
            {each.name for each in registry.DIALECTS if each.name != "native"} | {"alertmanager"},
        ),
    }
    for name, (listed, read) in known.items():
        if listed != read:
            raise Missing(f"{name} must list what the reader takes: {sorted(listed ^ read)}")
    for field in GATUS:
        if f'"{field}"' not in _source(gatus):
            raise Missing(f"GATUS: {field} is not read")


def _source(module: Any) -> str:
    with open(module.__file__) as file:
        return file.read()


def _name(field: str) -> str:
    return {"passed": "success", "failed": "error", "http": "http_status"}.get(field, field)


def _names(field: str) -> str:
    own = _name(field).replace("_", "")
    others = [name for name in outcome._NAMES[field].split() if name != own]
    return ", ".join(f"`{name}`" for name in others)


def _parameters(texts: dict[str, str]) -> str:
    return table(("parameter", "value"), ((f"`{name}`", text) for name, text in texts.items()))


def _examples(examples: tuple[Example, ...], root_protocol: str = "none") -> str:
    rows = []
    for example in examples:
        shown = f"`{example.method} {example.address}`" if example.method != "GET" else f"`{example.address}`"
        rows.append((shown, f"`{example.body}`" if example.body else "", _read(example, root_protocol)))
    return table(("request", "body", "read as"), rows)


def _read(example: Example, root_protocol: str) -> str:
    path, _, query = example.address.replace("{uuid}", UUID).partition("?")
    dialect = registry.find(path, query, root_protocol)
    assert dialect is not None, example.address
    headers = {"content-type": example.kind, "authorization": example.authorization}
    request = Request(example.method, path, query, headers, example.body.encode())
    reading = dialect.read(request)
    if isinstance(reading, Rejection):
        return f"refused with {reading.status}: {reading.reason}"
    parsed = reading[0] if isinstance(reading, list) else reading
    assert answers.answer_of(dialect, Outcome("ok"), request).status in (200, 202)
    return _shown(parsed)


def _shown(parsed: ParsedPing) -> str:
    ping = parsed.ping
    parts = [f"`{ping.signal}`"]
    if not isinstance(parsed.address, KeyAddress):
        parts.append(f"monitor `{parsed.address.slug}`")
    fields = ("run", "stage", "task", "done", "total", "exit_code", "duration", "message")
    values = {field: getattr(ping, field) for field in fields} | (ping.options.dump() if ping.options else {})
    for field, value in values.items():
        if value is not None:
            parts.append(f"{field.replace('_', ' ')} `{str(value).replace(UUID, '{uuid}')}`")
    parts += [f"{'changed' if note.changed else 'ignored'} {note.field}: {note.reason}" for note in parsed.notes]
    return re.sub(r"`(\d+)\.0`", r"`\1`", ", ".join(parts))


_READ = """## How a ping is read

- **Path and query decide.** If they say the signal, the body is the message, even if it looks like JSON: a job may print
  JSON. Otherwise JSON and forms are parameters. Sentry, Alertmanager, Dead Man's Snitch and bulk requests define their
  bodies.
- **An outcome is never guessed.** Names and values that are not ambiguous are understood. A failure outranks a success in
  the same ping, but `error: "no errors"` is no failure. `status` outranks `exit_code`, unless it only says that the job
  has ended (`completed`). `success: false` beside a `status` of start or progress is no outcome yet, and
  `finished: false` never is one. The answer names the outcome that was outranked. If an outcome cannot be read, also deep
  within a JSON object, the ping is refused with 400 and the correct name; so is text that looks like parameters and
  contains a failure. Other output is the message. The same holds for a query at the addresses of other services: there a
  failure in other words outranks a success in the service's own words. A suffix behind the query (`?run=7/fail`,
  `?create=1/fail`) is refused with 400.
- **A detail never costs the signal.** If the signal is readable and another value is not, the ping is stored without that
  value. The value is named in the header `Offbeat-Ignored: duration, exit_code` and in the answer's text, and counted in
  `offbeat_ping_details_ignored_total`. Ids are never left out: they are shortened, and named in `Offbeat-Changed`. An
  empty value counts as absent.
- **Run ids** in which only `+` and spaces differ are the same, because a query without encoding turns one into the other:
  `2026-11-29T02:00:00+01:00` is stored with its `+`, and `a+b` as `a b`; look-ups by run id do the same.
- **Encodings**: `Content-Encoding` gzip, deflate, br, zstd (415 for others, with the list in `Accept-Encoding`); charsets
  of the Content-Type, byte order marks, UTF-16; bytes that are not UTF-8 are read as Windows-1252.
"""
_CLIENTS = """## Supported clients

| client | what to change | supported | not supported |
| --- | --- | --- | --- |
| curl, wget, requests, any HTTP | the address | GET, HEAD, POST; parameters in the query, and on an address that names no signal also as JSON or a form; any other body is the message | multipart forms, XML, YAML (415 unless path or query name the signal) |
| Better Stack heartbeats | host name; the token as an added key | `/fail`, `/{exit code}`, raw body | on the bare address, a body declared as JSON is parameters |
| Healthchecks (curl, borgmatic, …) | `https://hc-ping.com/` → `http://HOST/ping/` | UUID and ping-key/slug, `start fail log` and exit status, `rid`, `create=1`, 200/201/400/404/409, `Ping-Body-Limit`, any method, POST-only, keywords, un-pause | ping by e-mail; the rate limit of Healthchecks |
| runitor | `HC_API_URL=http://HOST/ping` | everything it sends, run ids, `-create`, its cut to our limit | – |
| Uptime Kuma push scripts | host name; the token as an added key | `status`, `msg`, `ping` (ms → duration), JSON answers | `maxretries` (use `fail_after`) |
| Gatus external endpoints, gatus-cli | `--url`; the project's ping key as the token, or an added key `token/group_name` | `success`, `error`, Go durations | 401 for a wrong token (404, so that nothing is revealed) |
| Dead Man's Snitch, `snitcher` gem | host name, `--root-protocol snitch`; the token as an added key | `m`, `s`, form, 202 `Got it, thanks!` | Field Agent |
| Cronitor for Python | `Monitor._ping_api_url` (its host is in its code), or DNS with a certificate that the client trusts (it speaks https); API key = ping key | `job` decorator, all states, `series`, `message`, count and duration metrics, `env`, monitors made by their first ping | monitor API (`Monitor.put`), `error_count` |
| Cronitor for Node, for Ruby | the `pingUrl` of its API object, or DNS with such a certificate; `telemetry_domain` (https) | the same, under `/ping/` or `/p/` | the same |
| Cronitor CLI | DNS for `cronitor.link` with such a certificate; needs an API key | `ping`, `exec` events, retries | log upload, the form without an API key |
| Sentry SDKs | DSN `http://{ping key}@HOST:PORT/1` | check-ins, `monitor_config` upsert, environments (`slug.environment`), gzip, br, deflate, zstd, attachments of any size, repeated `in_progress`, cron address (202); everything else an SDK sends is accepted and dropped | errors, traces and the like; month intervals are 31 days |
| Prometheus Alertmanager, Grafana alerting | webhook `url: http://HOST/ping/{key}` (or native) with a short `repeat_interval` | firing counts; resolved is stored as `log`, for any value of `send_resolved` | – |

## Keys

`GET /api/v1/projects/default` shows the ping key of the project. `PUT` with `ping_key` sets a key that your clients
already have (a Healthchecks ping key, a Cronitor API key: 16 to 100 letters, digits, `_`, `-`).

Pings of Healthchecks (`create=1`), Cronitor and Sentry can create their monitor; `--no-auto-provision` disables this. Such
a monitor expects a ping every day with a grace period of 1 h, unless the protocol says otherwise, and can be changed like any
other.

A monitor accepts further keys: keys from another service, and keys that imply a signal and a stage. One pipeline can have
`EXTRACT_START_KEY`, `LOAD_COMPLETE_KEY` and `ETL_FAILURE_KEY`.
"""
