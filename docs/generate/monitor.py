"""The page of a monitor's fields, from the model that validates them."""

from docs.generate.markdown import Missing, Schema, fields
from offbeat_server.engine.model import definition
from offbeat_server.services.documents import KeyBody, ListedMonitor
from offbeat_server.web.api.openapi import WireDefaults

GROUPS: dict[str, tuple[str, ...]] = {
    "Name and text": ("slug", "project", "name", "description", "tags"),
    "Keys and pings": ("key", "keys", "methods", "keywords", "paused", "manual_resume"),
    "Schedule": ("every", "cron", "oncalendar", "after", "members", "timezone", "grace", "first_within"),
    "Runs": (
        *("max_runtime", "min_runtime", "quiet_for", "stall_for", "overlap", "stages", "tasks", "complete", "at_most"),
    ),
    "Business dates": ("run_date", "business_date_offset", "recover_by"),
    "Alerts": (
        *("fail_after", "recover_after", "depends_on", "dependency_wait", "count_outages", "strict", "channels"),
        "remind_every",
    ),
}
TYPES = (
    definition.Stage,
    definition.Tasks,
    definition.Members,
    definition.After,
    definition.AtMost,
    definition.Keywords,
)
NAMES = {"Stage": "Stages", "Tasks": "Tasks", "Members": "Members of a fleet", "After": "After", "AtMost": "At most"}
NAMES |= {"Keywords": "Keywords", "KeyBody": "Keys"}
LINKS = {name: f"[{title}](#{title.lower().replace(' ', '-')})" for name, title in NAMES.items()}
EXAMPLE = """\
slug: nightly-etl
cron: "0 2 * * *"
timezone: Europe/Berlin
grace: 15m
max_runtime: 2h
stages:
  - {name: extract, within: 30m}
  - {name: transform, within: 1h, tasks: {expected: 40, tolerate: 2}}
  - load
depends_on: [warehouse]
remind_every: 4h
"""


def page() -> str:
    """The page."""
    schema = ListedMonitor.model_json_schema(mode="validation", schema_generator=WireDefaults)
    grouped = [name for names in GROUPS.values() for name in names]
    if sorted(grouped) != sorted(schema["properties"]):
        raise Missing(f"GROUPS must have each field once: {sorted(set(grouped) ^ set(schema['properties']))}")
    groups = "\n".join(_group(title, names, schema) for title, names in GROUPS.items())
    nested = "\n".join(
        f"## {NAMES[model.__name__]}\n\n{model.__doc__}\n\n"
        + fields(model.model_json_schema(mode="validation", schema_generator=WireDefaults), LINKS)
        for model in (*TYPES, KeyBody)
    )
    return f"""# Monitor fields

These are the fields of a monitor in a file for `offbeat apply`, in the [HTTP API](api.md) and in the form of the web
pages. [Semantics](../semantics.md) defines what they do. In a file, the slug is the key of the entry:

```yaml
{EXAMPLE}```

- A **duration** is a text such as `90s`, `15m`, `1h30m` or `7d`, or a number of seconds. The maximum is 3660 days.
- A **slug** is 1 to 100 characters: small letters, digits, `_`, `.` and `-`. It begins and ends with a letter or a digit.
- Set at most one of `every`, `cron`, `oncalendar`, `after` and `members`. A monitor without a schedule watches only its
  runs and reported failures.
- A field that is left out has its default. If the column is empty, the default is `null` or an empty list.

{groups}
{nested}"""


def _group(title: str, names: tuple[str, ...], schema: Schema) -> str:
    not_fleets = {*definition.NOT_OF_FLEETS, "fail_after", "recover_after"}
    also = {name: "monitors without `members`" for name in names if name in not_fleets}
    also |= {"timezone": "`cron`, `oncalendar`; times in alerts", "dependency_wait": "monitors with `depends_on`"}
    also |= {"first_within": "monitors before their first ping"}
    picked = {**schema, "properties": {name: schema["properties"][name] for name in names}}
    return f"## {title}\n\n{fields(picked, LINKS, {name: also.get(name, 'all monitors') for name in names})}"
