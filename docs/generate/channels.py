"""The page of channel kinds, from the models that validate channels."""

from docs.generate.markdown import Missing, described, fields, number, words
from offbeat_server.notify.channel import Channel
from offbeat_server.notify.channels.registry import KINDS

# Of each kind: what it does, and the fields of an example.
ABOUT: dict[str, tuple[str, str]] = {
    "webhook": (
        "Sends the alert as JSON to an HTTP address. With `secrets` the request is signed as Standard Webhooks "
        "describes. `body` replaces the JSON by a template.",
        'url: "https://hooks.example.com/offbeat"\nsecrets: [generate]',
    ),
    "email": (
        "Sends mail by SMTP, through the server in `host` or the one in `--smtp-url`.",
        "to: [oncall@example.com]\nsender: offbeat@example.com\nhost: mail.example.com",
    ),
    "slack": (
        "Posts to a Slack channel by an incoming webhook.",
        'url: "https://hooks.slack.com/services/T000/B000/XXXX"',
    ),
    "discord": ("Posts to a Discord channel by a webhook.", 'url: "https://discord.com/api/webhooks/1/XXXX"'),
    "telegram": (
        "Sends a message as a bot to a chat, a group or a topic of a group.",
        'token: "123456789:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"\nchat: -1001234567890',
    ),
    "msteams": (
        "Posts an adaptive card to Microsoft Teams by a workflow.",
        'url: "https://prod-1.westeurope.logic.azure.com/workflows/XXXX"',
    ),
    "ntfy": ("Publishes to a topic of ntfy.", "topic: offbeat-oncall\nserver: https://ntfy.example.com"),
    "pagerduty": (
        "Triggers a PagerDuty alert when an incident opens, and resolves it when the incident ends.",
        "routing_key: 0123456789abcdef0123456789abcdef\nseverity: error",
    ),
    "opsgenie": (
        "Creates an Opsgenie alert when an incident opens, and closes it when the incident ends.",
        "api_key: 01234567-89ab-cdef-0123-456789abcdef\npriority: P2",
    ),
    "alertmanager": (
        "Posts alerts to the API of Prometheus Alertmanager. One peer that accepts an alert is enough. Open incidents "
        "are repeated, because Alertmanager resolves alerts that are not.",
        'urls: ["http://alertmanager-1:9093", "http://alertmanager-2:9093"]\nlabels: {team: data}',
    ),
    "apprise": (
        "Sends the text to addresses of the apprise library, which the operator installs. "
        "[Services](../apprise.md) lists what is allowed.",
        'urls: ["matrixs://token@matrix.example.com/#oncall"]',
    ),
    "log": ("Writes the alert into the server's log.", ""),
}
COMMON = ("per_minute", "digest")


def page() -> str:
    """The page."""
    if list(ABOUT) != list(KINDS):
        raise Missing(f"ABOUT must have each kind: {set(ABOUT) ^ set(KINDS)}")
    common = Channel.model_json_schema(mode="validation")
    return f"""# Channels

A channel sends alerts to people or programs. It has a kind, the fields of that kind, and the fields of all kinds.
[Semantics](../semantics.md#sending) says when alerts are sent, combined and repeated.

## Fields of all kinds

| field | type | default | description |
| --- | --- | --- | --- |
| `kind` | {words(KINDS)} | required | The service that receives the alerts. |
| `default` | `true` or `false` | `true` | The channel is used by every monitor of the project whose `channels` is null. |
{"".join(fields(common, {}).splitlines(keepends=True)[2:])}
Secrets are stored whole and shown masked (`•••`). A masked value that is sent back keeps the stored secret, unless the
address in the same channel changes.

In a file for `offbeat apply`, `${{NAME}}` stands for an environment variable. A channel that is created by the API or the
pages must not contain such a placeholder.

{"".join(_kind(kind, model) for kind, model in KINDS.items())}"""


def example(kind: str) -> str:
    """The example of a kind, as an entry of a file for `offbeat apply`."""
    lines = "".join(f"    {line}\n" for line in ABOUT[kind][1].splitlines())
    return f"channels:\n  oncall:\n    kind: {kind}\n{lines}"


def _kind(kind: str, model: type[Channel]) -> str:
    schema = model.model_json_schema(mode="validation")
    own = {name: field for name, field in schema["properties"].items() if name not in COMMON}
    secret = f"Shown masked: {words(sorted(model.hidden), 'and')}.\n" if model.hidden else ""
    table = fields({**schema, "properties": own}, {}) + "\n" if own else "This kind has no fields.\n\n"
    digest = "one request with all of them" if model.digest_style == "members" else "one message that lists them"
    return f"""## {kind}

{described(kind, ABOUT[kind][0])}

{table}{secret}
Default rate: {number(model.per_minute_default)} messages per minute. Combined alerts: {digest}.

```yaml
{example(kind)}```

"""
