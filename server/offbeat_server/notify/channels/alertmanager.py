"""Prometheus Alertmanager: alerts that fire there as long as the incident is open here.

Source: prometheus/alertmanager docs/alerts_api.md and docs/high_availability.md, api/v2/openapi.yaml: POST
/api/v2/alerts with `[{labels, annotations, startsAt, endsAt, generatorURL}]`; the labels are the identity. An
Alertmanager keeps no alert beyond its `endsAt`, so a sender repeats firing alerts, and resolved ones for five minutes,
and sends to every peer, not to a balancer in front of them. notify/periodic.py does the repeating.
"""

import asyncio
import base64
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import orjson
from pydantic import Field

from offbeat_server.common.clock import monotonic
from offbeat_server.engine.model.enums import AlertKind
from offbeat_server.notify.channel import Channel, Message, Url
from offbeat_server.notify.messages.render import cut
from offbeat_server.notify.transport.delivery import DeliveryError
from offbeat_server.notify.transport.http_client import Transport

FINAL = frozenset((400, 413, 415, 422))
OTHERS_S_MAX = 2.0  # a peer that hangs would hold every alert up for all of its time-out, and a storm for hours
LABEL_PATTERN = r"^[a-zA-Z_][a-zA-Z0-9_]*$"


class Alertmanager(Channel):
    """Posts to every peer; one that takes it is enough, the others get it with the next repetition."""

    kind: ClassVar[str] = "alertmanager"
    hidden: ClassVar[frozenset[str]] = frozenset(("token", "password", "urls"))
    digest_style = "members"
    digest_alerts_max: ClassVar[int] = 200  # writing one takes 0.1 ms, and the loop waits for all
    keeps_incidents: ClassVar[bool] = False  # every member of a digest is sent by itself
    per_minute_default: ClassVar[int] = 6_000

    urls: Annotated[tuple[Url, ...], Field(min_length=1, max_length=10, description="Every peer of the cluster.")]
    alertname: Annotated[str, Field(min_length=1, max_length=100)] = Field(
        "MonitorDown", description="Label `alertname` of every alert."
    )
    severity: Annotated[str, Field(min_length=1, max_length=50)] = Field(
        "critical", description="Label `severity` of every alert."
    )
    labels: dict[Annotated[str, Field(pattern=LABEL_PATTERN)], Annotated[str, Field(max_length=500)]] = Field(
        default_factory=dict, max_length=20, description="More labels of every alert."
    )
    username: Annotated[str, Field(max_length=200)] | None = Field(None, description="Name for basic authentication.")
    password: Annotated[str, Field(max_length=500)] | None = Field(
        None, description="Password for basic authentication."
    )
    token: Annotated[str, Field(max_length=2_000, pattern=r"^[\x21-\x7e]+$")] | None = Field(
        None, description="Bearer token, instead of name and password."
    )

    def compose(self, message: Message) -> bytes:
        # Two incidents of a monitor have one identity there, and the last message wins: the end of the earlier one must
        # not come behind the beginning of the later one, as it does in a digest, where trouble stands first.
        members = sorted(message.members, key=lambda each: each.facts.get("incident") or 0)
        return self.encode([self.alert(each) for each in members or (message,)])

    def encode(self, alerts: list[dict[str, Any]]) -> bytes:
        """The body of a request."""
        return orjson.dumps(alerts)

    def alert(self, message: Message, ends_at: str | None = None) -> dict[str, Any]:
        """One alert. The identity holds nothing that changes while an incident is open.

        Without `ends_at` a firing alert lasts for the receiver's own resolve_timeout.
        """
        facts, rendered = message.facts, message.rendered
        labels = {
            "alertname": self.alertname if facts.get("monitor") else "Offbeat",
            "severity": self.severity,
            "project": str(facts.get("project") or "default"),
            **({"monitor": str(facts["monitor"])} if facts.get("monitor") else {}),
            **self.labels,
        }
        annotations = {"summary": rendered.title, "description": cut(rendered.text, 5_000)}
        details = {"cause": facts.get("cause"), "run": facts.get("run"), "stage": facts.get("stage")}
        annotations |= {name: str(value) for name, value in details.items() if value}
        content: dict[str, Any] = {
            "labels": labels,
            "annotations": annotations,
            "startsAt": facts.get("opened_at") or message.at,
        }
        if message.kind == AlertKind.RESOLVED:
            content["endsAt"] = facts.get("resolved_at") or message.at
        elif ends_at is not None:
            content["endsAt"] = ends_at
        if message.link:
            content["generatorURL"] = message.link
        return content

    async def send(self, message: Message, body: bytes, out: Transport) -> None:
        failures = await self.post(self.urls, body, out, OTHERS_S_MAX)
        if failures.keys() >= set(self.urls):
            raise DeliveryError(
                "; ".join(str(each) for each in failures.values()),
                permanent=all(each.permanent for each in failures.values()),
                retry_after_s=max((each.retry_after_s or 0 for each in failures.values()), default=0) or None,
            )

    async def post(
        self, urls: Sequence[str], body: bytes, out: Transport, others_s_max: float | None = None
    ) -> dict[str, DeliveryError]:
        """Send to these peers at once; the failures by peer. `others_s_max`: time for the others after the first."""
        failures: dict[str, DeliveryError] = {}
        waiting = set(urls)
        bound = asyncio.timeout(None)

        async def post_to(url: str) -> None:
            try:
                await self._request(url, body, out)
            except DeliveryError as error:
                failures[url] = error
            else:
                if others_s_max is not None and bound.when() is None:
                    bound.reschedule(monotonic() + others_s_max)
            waiting.discard(url)

        try:
            async with bound:
                await asyncio.gather(*map(post_to, urls))
        except TimeoutError:
            failures |= {url: DeliveryError("another peer was faster") for url in waiting}
        return failures

    async def _request(self, url: str, body: bytes, out: Transport) -> None:
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        elif self.username is not None:
            credentials = f"{self.username}:{self.password or ''}".encode()
            headers["Authorization"] = "Basic " + base64.b64encode(credentials).decode()
        await out.post(url.rstrip("/") + "/api/v2/alerts", body, headers, final=FINAL, quote=True)
