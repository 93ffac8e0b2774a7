"""From rows of the outbox to messages: identity, thread, words, and secrets taken out. Pure, so a retry is the same."""

from collections.abc import Iterable
from typing import Any

from server.clock import to_micros, to_rfc3339
from server.deliver.channel import Message
from server.deliver.redact import redact_all
from server.deliver.words import cut_head, link_to, say_alert, say_digest, say_over
from server.engine.readable import one_line
from server.store.outbox import Attached, Claimed, Member

FIRST_MAX = 20  # names in a digest
MESSAGE_READ_CHARS_MAX = 4_000
_FIRST_FACTS = ("monitor", "name", "project", "incident", "reason", "cause", "opened_at", "resolved_at")


class Scribe:
    """Writes messages of one database (`instance`), with links below `public_url` where that is known."""

    def __init__(self, instance: str, public_url: str | None) -> None:
        self._instance = instance
        self._public_url = public_url

    def alert(self, row: Claimed | Member, created_at: str, project: str) -> Message:
        """One alert. `project` is for facts that name none."""
        facts: dict[str, Any] = {"project": project, **_shown(_shortened(row.facts), row.secrets), "kind": row.kind}
        id = f"alert_{self._instance}_{row.id}"
        link = link_to(facts, self._public_url)
        at = facts.get("decided_at")
        return Message(
            id=id,
            thread=self._thread(facts) or id,
            kind=row.kind,
            at=at if isinstance(at, str) and at else created_at,
            facts=facts,
            words=say_alert(row.kind, facts, link),
            link=link,
        )

    def digest(self, attached: Attached, project: str, members: Iterable[Message] = ()) -> Message:
        """Many alerts in one message: the counts, and the first of them."""
        first = [
            _shown({name: each.facts[name] for name in _FIRST_FACTS if each.facts.get(name) is not None}, each.secrets)
            | {"kind": each.kind}
            for each in attached.first[:FIRST_MAX]
        ]
        facts = {**attached.counts, "kind": "digest", "alerts": attached.alerts, "project": project, "first": first}
        created_at = to_rfc3339(to_micros(attached.created_at)) or ""
        return self.stored_digest(attached.id, "digest", None, facts, created_at, members)

    def stored_digest(
        self, id: int, kind: str, closes: int | None, facts: dict[str, Any], at: str, members: Iterable[Message] = ()
    ) -> Message:
        """A digest, or the message that closes one, from its row."""
        link = link_to({"project": facts.get("project")}, self._public_url)
        words = say_over(facts, link) if kind == "over" else say_digest(facts, link)
        return Message(
            id=f"digest_{self._instance}_{id}",
            thread=f"offbeat/{self._instance}/digest/{closes or id}",
            kind=kind,
            at=at,
            facts=facts,
            words=words,
            link=link,
            members=tuple(members),
        )

    def over(self, closes: int, facts: dict[str, Any], at: str) -> Message:
        """What is queued to close a digest; its own id is not known yet, and no body holds it."""
        return self.stored_digest(0, "over", closes, facts, at)

    def _thread(self, facts: dict[str, Any]) -> str | None:
        monitor, incident = facts.get("monitor"), facts.get("incident")
        return f"offbeat/{self._instance}/{facts['project']}/{monitor}/{incident}" if monitor and incident else None


def _shown(facts: dict[str, Any], secrets: Iterable[str]) -> dict[str, Any]:
    """Without secrets, and all but the job's message on one line: a name must not look like a part of the alert."""
    return {
        name: value if name == "last_message" else _on_one_line(value)
        for name, value in redact_all(facts, secrets).items()
    }


def _on_one_line(value: Any) -> Any:
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, dict):
        return {name: _on_one_line(each) for name, each in value.items()}
    return [_on_one_line(each) for each in value] if isinstance(value, list) else value


def _shortened(facts: dict[str, Any]) -> dict[str, Any]:
    """With the end of the last message, where errors stand. Longer than what is shown of it, so that no half of a
    secret at the cut is shown."""
    message = facts.get("last_message")
    if not isinstance(message, str):
        return facts
    return {**facts, "last_message": cut_head(message, MESSAGE_READ_CHARS_MAX)}
