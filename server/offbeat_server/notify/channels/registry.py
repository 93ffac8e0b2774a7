"""All kinds of channels, and how their definitions are read and shown.

Stored definitions hold complete secrets; shown ones have them masked. A definition that comes back with a mask in it
keeps the stored secret there, so that people can change one field of a channel without knowing the others. It does not
if the secret would be sent to another host, because then a user who may change a channel could read its secrets there.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson
from pydantic import ValidationError
from yarl import URL

from offbeat_server.common.errors import DefinitionError, Problem
from offbeat_server.config import PLACEHOLDER
from offbeat_server.engine.model.definition_problems import problems_of
from offbeat_server.notify.channel import Channel
from offbeat_server.notify.channels.alertmanager import Alertmanager
from offbeat_server.notify.channels.apprise import Apprise, installed
from offbeat_server.notify.channels.discord import Discord
from offbeat_server.notify.channels.email import Email
from offbeat_server.notify.channels.log import Log
from offbeat_server.notify.channels.msteams import MsTeams
from offbeat_server.notify.channels.ntfy import Ntfy
from offbeat_server.notify.channels.opsgenie import Opsgenie
from offbeat_server.notify.channels.pagerduty import PagerDuty
from offbeat_server.notify.channels.slack import Slack
from offbeat_server.notify.channels.telegram import Telegram
from offbeat_server.notify.channels.webhook import GENERATE, SECRETS_MAX, Webhook, new_secret
from offbeat_server.services.context import ChannelSecret

KINDS: dict[str, type[Channel]] = {
    each.kind: each
    for each in (
        Webhook,
        Email,
        Slack,
        Discord,
        Telegram,
        MsTeams,
        Ntfy,
        PagerDuty,
        Opsgenie,
        Alertmanager,
        Apprise,
        Log,
    )
}
MASK = "•••"
# Fields that say to whom the secrets are sent, and how.
_WHERE = frozenset(("url", "urls", "server", "api", "host", "port", "security"))


def read_channel(kind: str, definition: Mapping[str, Any], stored: Mapping[str, Any] | None = None) -> Channel:
    """Read a channel as people send it. Masked secrets are taken from `stored`, the definition that it replaces.

    `secrets: [generate]` keeps the stored signing secrets if the receiver is the same. If there are none, or if the
    receiver changes, a new secret is generated.

    `read_channel(…).model_dump(mode="json", exclude_defaults=True)` is what to store.
    Raises DefinitionError that names every wrong field and why.
    """
    model = KINDS.get(kind)
    if model is None:
        raise DefinitionError([Problem("kind", f"must be one of {', '.join(KINDS)}, not {kind!r}")])
    if kind == Apprise.kind and not installed():
        raise DefinitionError([Problem("kind", "apprise is not installed here: pip install 'offbeat-server[apprise]'")])
    sent = dict(definition)
    held = dict(stored or {})
    if generates := kind == Webhook.kind and sent.get("secrets") == [GENERATE]:
        del sent["secrets"]
    known = sorted(model.hidden & sent.keys() & held.keys())
    kept = [name for name in known if _holds_mask(sent[name]) and sent[name] == _mask(held[name])]
    sent |= {name: held[name] for name in kept}
    masked = [name for name in sorted(model.hidden & sent.keys()) if _holds_mask(sent[name])]
    if masked:
        raise DefinitionError(
            [
                Problem(name, f"contains the mask {MASK}, but no stored secret fits it: send the complete secret")
                for name in masked
            ]
        )
    if problems := [
        Problem(
            name,
            f"holds {left}, which would be sent as it is: give the value, or apply a file, where it stands "
            "for an environment variable",
        )
        for name in sorted(sent.keys() - {*kept, "body"})  # a body may be any text
        if (left := _placeholder(sent[name])) is not None
    ]:
        raise DefinitionError(problems)
    try:
        channel = model.model_validate(sent)
    except ValidationError as error:
        raise DefinitionError(problems_of(error, model=model)) from None
    secrets = [name for name in kept if name not in _WHERE]
    if secrets and not _receivers(channel) <= _receivers(model.model_construct(**held)):
        reason = f"contains the mask {MASK}, but the receiver has changed: send the complete secret"
        raise DefinitionError([Problem(name, reason) for name in secrets])
    if generates:
        same = held.get("secrets") and _receivers(channel) == _receivers(model.model_construct(**held))
        return channel.model_copy(update={"secrets": tuple(held["secrets"]) if same else (new_secret(),)})
    return channel


def _placeholder(value: Any) -> str | None:
    """The first `${NAME}` in a text, or in the texts of a list or an object."""
    if isinstance(value, str):
        match = PLACEHOLDER.search(value)
        return match[0] if match else None
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return next((left for each in parts if (left := _placeholder(each)) is not None), None)


def _receivers(channel: Channel) -> set[tuple[str, str]]:
    """Whom it speaks to and how: of addresses the origin."""
    found = set()
    for name in _WHERE & type(channel).model_fields.keys():
        value = getattr(channel, name)
        for each in value if isinstance(value, list | tuple) else (value,):
            found.add((name, str(URL(each).origin()) if "://" in str(each) else str(each)))
    return found


@lru_cache(maxsize=20_000)
def load_channel(kind: str, text: str) -> Channel:
    """A channel from its stored JSON; equal texts give the same object. Raises DefinitionError."""
    model = KINDS.get(kind)
    if model is None:
        raise DefinitionError([Problem("kind", f"{kind!r} is unknown to this version")])
    try:
        return model.model_validate(orjson.loads(text))
    except ValidationError as error:
        raise DefinitionError(problems_of(error, model=model)) from None


def dump_channel(channel: Channel) -> dict[str, Any]:
    """The definition to store, secrets included, without what is at its default."""
    return channel.model_dump(mode="json", exclude_defaults=True)


def show_channel(kind: str, definition: Mapping[str, Any]) -> dict[str, Any]:
    """A stored definition as it may be shown: secrets masked, of an address only the host left."""
    model = KINDS.get(kind)
    hidden = model.hidden if model is not None else frozenset(definition)
    return {name: _mask(value) if name in hidden else value for name, value in definition.items()}


def kinds() -> dict[str, dict[str, Any]]:
    """The JSON schema of every kind's definition, for the API's documentation and for forms."""
    return {name: model.model_json_schema() for name, model in KINDS.items()}


class Kinds:
    """All kinds, as the use cases ask for them: `services.context.ChannelKinds`."""

    def stored(self, kind: str, fields: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the definition to store. Masked secrets are taken from `before`. Raises DefinitionError."""
        return dump_channel(read_channel(kind, fields, before))

    def shown(self, kind: str, definition: Mapping[str, Any]) -> dict[str, Any]:
        """Return a stored definition with its secrets masked."""
        return show_channel(kind, definition)

    def asks_for_secret(self, kind: str, fields: Mapping[str, Any]) -> bool:
        """Whether the fields ask that a signing secret be generated if there is none."""
        return kind == Webhook.kind and fields.get("secrets") == [GENERATE]

    def secrets(self, definition: Mapping[str, Any]) -> list[str]:
        """Return the signing secrets of a stored definition, the newest first."""
        return list(definition.get("secrets", ()))

    def signs(self, kind: str) -> bool:
        """Whether channels of this kind have signing secrets."""
        return kind == Webhook.kind

    def with_new_secret(self, definition: Mapping[str, Any], keep_former: bool) -> ChannelSecret:
        """Generate a signing secret and put it before the former ones, or in their place."""
        secret = new_secret()
        former = self.secrets(definition)[: SECRETS_MAX - 1] if keep_former else []
        return ChannelSecret(secret, {**definition, "secrets": [secret, *former]})


def _mask(value: Any) -> Any:
    """Mask an address. Its shape and host stay, so that people can distinguish two channels."""
    if isinstance(value, str):
        return _mask_text(value)
    if isinstance(value, Mapping):
        return {name: _mask(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_mask(each) for each in value]
    return value


def _mask_text(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        return MASK
    url = URL(text)
    port = f":{url.explicit_port}" if url.explicit_port else ""
    bare = not url.raw_query_string and not url.user and url.raw_path in ("", "/")
    return text if bare else f"{url.scheme}://{url.raw_host}{port}/{MASK}"


def _holds_mask(value: Any) -> bool:
    if isinstance(value, str):
        return MASK in value
    if isinstance(value, Mapping):
        return any(map(_holds_mask, value.values()))
    return isinstance(value, list | tuple) and any(map(_holds_mask, value))
