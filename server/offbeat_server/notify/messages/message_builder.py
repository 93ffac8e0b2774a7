"""From rows of the outbox to messages: identity, thread, words, and secrets taken out. Pure, so a retry is the same."""

from collections.abc import Iterable, Mapping
from typing import Any, cast
from uuid import UUID

from offbeat.readable import one_line
from offbeat_server.common.clock import to_rfc3339
from offbeat_server.common.instants import to_micros
from offbeat_server.db.repositories.outbox import Attached, Claimed, Digest, DigestMember, Named
from offbeat_server.engine.model.alert_payload import DigestItem
from offbeat_server.engine.model.enums import AlertKind, CauseKind, read_enum
from offbeat_server.notify.channel import Message
from offbeat_server.notify.messages.redact import redact_all
from offbeat_server.notify.messages.render import (
    AlertFacts,
    cut,
    cut_head,
    link_to,
    render_alert,
    render_digest,
    render_recovered,
)

MONITORS_NAMED_MAX = 20  # in a digest
INCIDENTS_NAMED_MAX = 5  # of each
MESSAGE_READ_CHARS_MAX = 4_000
SAID_CHARS_MAX = 200
COMMENT_CHARS_MAX = 300
# Causes by what a job itself has reported.
_EXPLICIT = (CauseKind.FAILED, CauseKind.STAGE, CauseKind.TASKS, CauseKind.INCOMPLETE)
_FIRST_FACTS = ("monitor", "name", "project", "incident", "reason", "cause", "opened_at", "resolved_at", "timezone")


class MessageBuilder:
    """Writes messages of one database (`instance`), with links below `public_url` where that is known."""

    def __init__(self, instance: str, public_url: str | None) -> None:
        self._instance = instance
        self._public_url = public_url

    def alert(self, row: Claimed | DigestMember, created_at: str, project: str) -> Message:
        """One alert. `project` is for facts that name none."""
        kind = read_enum(AlertKind, row.kind)
        shown = _with_short_comments(_shown(_shortened(row.facts), row.secrets))
        facts = cast(AlertFacts, {"project": project, **shown, "kind": kind})
        id = self._id("alert", row)
        link = link_to(facts, self._public_url)
        at = facts.get("decided_at")
        return Message(
            id=id,
            thread=self._thread(row, facts) or id,
            kind=kind,
            at=at if isinstance(at, str) and at else created_at,
            facts=facts,
            rendered=render_alert(kind, facts, link),
            link=link,
        )

    def digest(self, attached: Attached, project: str, members: Iterable[Message] = ()) -> Message:
        """Many alerts in one message: the counts, and the most important of them by monitor."""
        of_monitors: dict[int, list[Named]] = {}
        for each in attached.named:
            of_monitors.setdefault(each.monitor_id, []).append(each)
        first = [_first(each) for each in list(of_monitors.values())[:MONITORS_NAMED_MAX]]
        facts: AlertFacts = {
            **attached.counts,
            "kind": AlertKind.DIGEST,
            "alerts": attached.alerts,
            "project": project,
            "first": first,
        }
        created_at = to_rfc3339(to_micros(attached.created_at)) or ""
        digest = Digest(
            attached.id,
            0,
            AlertKind.DIGEST,
            1,
            attached.alerts,
            None,
            {},
            b"",
            attached.created_at,
            False,
            attached.uid,
        )
        return self.stored_digest(digest, facts, created_at, members)

    def stored_digest(self, digest: Digest, facts: AlertFacts, at: str, members: Iterable[Message] = ()) -> Message:
        """A digest, or the message that closes one, from its row."""
        link = link_to({"project": facts.get("project")}, self._public_url)
        rendered = render_recovered(facts, link) if digest.kind == AlertKind.OVER else render_digest(facts, link)
        closed = (digest.id, digest.uid) if digest.closes is None else (digest.closes, digest.closes_uid)
        return Message(
            id=self._id("digest", digest),
            thread=self._digest_thread(*closed),
            kind=digest.kind,
            at=at,
            facts=facts,
            rendered=rendered,
            link=link,
            members=tuple(members),
        )

    def over(self, closes: int, facts: AlertFacts, at: str, uid: UUID | None = None) -> Message:
        """The message that closes the digest with this `uid`; its own id is not known yet, and no body holds it."""
        link = link_to({"project": facts.get("project")}, self._public_url)
        return Message(
            "", self._digest_thread(closes, uid), AlertKind.OVER, at, facts, render_recovered(facts, link), link
        )

    def _id(self, what: str, row: Claimed | DigestMember | Digest) -> str:
        """Never the same for two messages, also after a restore and in a copy of the database."""
        return f"{what}_{row.uid.hex}" if row.uid is not None else f"{what}_{self._instance}_{row.id}"

    def _digest_thread(self, id: int, uid: UUID | None) -> str:
        return f"offbeat/{uid.hex}" if uid is not None else f"offbeat/{self._instance}/digest/{id}"

    def _thread(self, row: Claimed | DigestMember, facts: AlertFacts) -> str | None:
        """Like an id, never the same for two incidents. Numbers are for rows of an older version, which used them."""
        if row.thread is not None:
            return f"offbeat/{row.thread.hex}"
        monitor, incident = facts.get("monitor"), facts.get("incident")
        return f"offbeat/{self._instance}/{facts['project']}/{monitor}/{incident}" if monitor and incident else None


def _shown(facts: Mapping[str, Any], secrets: Iterable[str]) -> dict[str, Any]:
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


def _shortened(facts: AlertFacts) -> AlertFacts:
    """With the end of the last message, where errors stand. Longer than what is shown of it, so that no half of a
    secret at the cut is shown."""
    message = facts.get("last_message")
    if not isinstance(message, str):
        return facts
    return {**facts, "last_message": cut_head(message, MESSAGE_READ_CHARS_MAX)}


def _with_short_comments(facts: dict[str, Any]) -> dict[str, Any]:
    """With the beginnings of long comments. Cut only here, so that no half of a secret at the cut is shown."""
    if "comments" not in facts:
        return facts
    return {**facts, "comments": [{**each, "text": cut(each["text"], COMMENT_CHARS_MAX)} for each in facts["comments"]]}


def _first(named: list[Named]) -> DigestItem[str]:
    """A monitor in a digest: its most important incident there, how many there are, and what else was reported."""
    each, *others = named
    known: Mapping[str, object] = each.facts
    facts = cast(DigestItem[str], {name: known[name] for name in _FIRST_FACTS if known.get(name) is not None})
    facts |= {"kind": read_enum(AlertKind, each.kind), "incidents": each.incidents, "explicit": each.explicit}
    if each.opened and each.resolved_at is not None:
        facts |= {"recovered": True, "resolved_at": each.resolved_at}
    message = each.facts.get("last_message")
    if isinstance(message, str) and message:
        facts["said"] = cut_head(" ".join(cut_head(message, MESSAGE_READ_CHARS_MAX).split()), SAID_CHARS_MAX)
    causes = [cause for cause in each.facts.get("causes") or () if cause.get("cause") in _EXPLICIT]
    also = [found.get("reason") for found in (*causes, *(other.facts for other in others))]
    reasons = {str(reason): None for reason in also if reason}
    reasons.pop(str(each.facts.get("reason")), None)
    if reasons:
        facts["other_reasons"] = list(reasons)
    shown = cast(DigestItem[str], _shown(facts, each.secrets))
    if "said" in shown:  # its former name; nodes of the previous version read it from the row of the digest
        shown["last_message"] = shown["said"]
    return shown
