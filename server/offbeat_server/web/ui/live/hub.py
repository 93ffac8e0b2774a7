"""Live pages: what people look at is asked for once a second, in one go for all of them, and sent to who looks at it.

A browser holds one stream and names what it watches, with the version that it shows. So nothing is missed between the
page and its stream, or while the network was away, and what has not changed is neither rendered nor sent. With any
number of open pages the database gets the same few queries a second; with no page, none.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping, Sequence
from typing import NamedTuple, Protocol

import orjson
import structlog
from aiohttp import web

from offbeat_server.common.errors import DatabaseDownError
from offbeat_server.common.instants import Micros
from offbeat_server.common.service import Service, forever
from offbeat_server.db.pool import database_trouble
from offbeat_server.web.ui.page_base import HEADERS, statics_version

STREAMS_MAX = 500  # of one process; beyond this and the next three: 503, and the page asks again later
STREAMS_PER_SESSION_MAX = 20
STREAMS_PER_PROJECT_MAX = 100  # of sessions whose key is bound to this project
STREAMS_OF_PROJECTS_MAX = 400  # of all such sessions: the rest is for keys of every project
WATCHED_MAX = 400  # things that one stream watches
TOPICS_MAX = 4_000  # different things that are watched in one process
QUEUE_MAX = 20  # messages that wait for one browser; a slower one begins again
EVERY_S = 1.0
QUIET_S = 15.0  # then a line that keeps proxies from closing the stream
LIFE_S = 900.0  # then the browser comes again: so a session with an open page does not become too old
WRITE_TIMEOUT_S = 20.0

_ALL, _OF_PROJECTS = "all", "of projects"

log = structlog.get_logger("hub")
TopicKey = Hashable
Patch = tuple[str, str]  # the id of an element of the page, and its new HTML; "" takes it away


class TopicKind(Protocol):
    """One sort of thing that can be watched."""

    async def versions(self, keys: Sequence[TopicKey], now: Micros) -> Mapping[TopicKey, str]:
        """The version of each; one that is missing no longer exists."""
        ...

    async def render(self, keys: Sequence[TopicKey], now: Micros) -> Mapping[TopicKey, list[Patch]]:
        """Render them as they are now. Called right after `versions`, for those that a stream has not sent yet."""
        ...

    def keep(self, keys: set[TopicKey]) -> None:
        """Only these are still watched."""
        ...


class Topic(NamedTuple):
    """A thing of a kind."""

    kind: str
    key: TopicKey


class StreamOwner(NamedTuple):
    """The owner of a stream: a session by its cookie, and the project that its key is bound to (None: to none)."""

    session: str
    project_id: int | None


class Stream:
    """One browser, signed in by `session_id`. `shown`: the version of each thing it shows, None before it has any."""

    def __init__(self, session_id: str, shown: dict[Topic, str | None]) -> None:
        self.session_id, self.shown = session_id, shown
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUE_MAX + 1)
        self.ended = False

    def send(self, message: bytes) -> None:
        """Queue it. A browser that does not keep up is sent away; it comes again and gets all at once."""
        if self.queue.qsize() >= QUEUE_MAX:
            self.end()
        if not self.ended:
            self.queue.put_nowait(message)

    def end(self) -> None:
        """No more messages."""
        if not self.ended:
            self.ended = True
            self.queue.put_nowait(None)


class LiveHub(Service):
    """All open streams, and the loop that queries for them."""

    name = "live_hub"

    def __init__(
        self,
        kinds: Mapping[str, TopicKind],
        now: Callable[[], Micros],
        living: Callable[[Collection[str]], Awaitable[Collection[str]]],
    ) -> None:
        """`living` says which of these sessions are not over."""
        super().__init__()
        self._kinds, self._now, self._living = kinds, now, living
        self._streams: set[Stream] = set()
        self._owners: Counter[StreamOwner | int | str | None] = (
            Counter()
        )  # streams by session, by project, and of projects
        self._closed = False
        self._wake = asyncio.Event()

    async def start(self) -> None:
        """Begin to ask."""
        self.spawn(forever(self._poll, EVERY_S), "look")

    async def stop(self) -> None:
        """Close all streams."""
        self.close()
        await super().stop()

    def close(self) -> None:
        """End every stream, and take no new ones."""
        self._closed = True
        for stream in list(self._streams):
            stream.end()

    def has_room_for(self, owner: StreamOwner) -> bool:
        """Whether this session may open another stream: so that one reader cannot take all of them."""
        if self._closed or self._owners[_ALL] >= STREAMS_MAX or self._owners[owner] >= STREAMS_PER_SESSION_MAX:
            return False
        if owner.project_id is None:
            return True
        of_project, of_projects = self._owners[owner.project_id], self._owners[_OF_PROJECTS]
        return of_project < STREAMS_PER_PROJECT_MAX and of_projects < STREAMS_OF_PROJECTS_MAX

    async def serve(
        self, request: web.Request, owner: StreamOwner, shown: dict[Topic, str | None]
    ) -> web.StreamResponse:
        """One stream for as long as it lasts. The caller has just looked whether there is room."""
        counted = (_ALL, owner) if owner.project_id is None else (_ALL, owner, owner.project_id, _OF_PROJECTS)
        self._owners.update(counted)
        try:
            return await self._serve(request, owner.session, shown)
        finally:
            self._owners.subtract(counted)
            for each in counted:
                if not self._owners[each]:
                    del self._owners[each]

    async def _serve(self, request: web.Request, session_id: str, shown: dict[Topic, str | None]) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={**HEADERS, "Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
        )
        await response.prepare(request)
        stream = Stream(session_id, shown)
        self._streams.add(stream)
        self._wake.set()
        try:
            async with asyncio.timeout(LIFE_S):
                await _write(response, _event("hello", {"version": statics_version()}))
                while (message := await _next(stream)) is not None:
                    await _write(response, message)
        except (TimeoutError, ConnectionError):
            pass
        finally:
            self._streams.discard(stream)
        return response

    # ---------------------------------------------------------------- looking

    async def _poll(self) -> None:
        if not self._streams:
            self._wake.clear()
            await self._wake.wait()
        try:
            with database_trouble():
                await self._refresh_all()
        except DatabaseDownError as error:
            log.debug("hub.read_failed", error=str(error))
            for stream in list(self._streams):
                stream.send(_event("trouble", {}))

    async def _refresh_all(self) -> None:
        await self._close_signed_out()
        watched: dict[str, set[TopicKey]] = {}
        for stream in self._streams:
            for topic in stream.shown:
                watched.setdefault(topic.kind, set()).add(topic.key)
        now = self._now()
        for name, kind in self._kinds.items():
            keys = watched.get(name, set())
            kind.keep(keys)
            if keys:
                await self._refresh(name, kind, sorted(keys, key=str)[:TOPICS_MAX], now)

    async def _close_signed_out(self) -> None:
        streams = list(self._streams)
        living = await self._living({stream.session_id for stream in streams})
        for stream in streams:
            if stream.session_id not in living:
                self._streams.discard(stream)  # at once: nothing more is for them
                stream.send(_event("signed-out", {}))
                stream.end()

    async def _refresh(self, name: str, kind: TopicKind, keys: list[TopicKey], now: Micros) -> None:
        versions = await kind.versions(keys, now)
        behind = {
            topic.key
            for stream in self._streams
            for topic, shown in stream.shown.items()
            if topic.kind == name and shown != versions.get(topic.key, "")
        }
        if not behind:
            return
        rendered = await kind.render([key for key in keys if key in behind], now)
        for key in behind:
            patches, topic, version = rendered.get(key), Topic(name, key), versions.get(key, "")
            message = _event("patch", patches) if patches else None
            for stream in list(self._streams):
                if topic in stream.shown and stream.shown[topic] != version:
                    stream.shown[topic] = version
                    if message is not None:
                        stream.send(message)


async def _next(stream: Stream) -> bytes | None:
    try:
        async with asyncio.timeout(QUIET_S):
            return await stream.queue.get()
    except TimeoutError:
        return b": still here\n\n"


async def _write(response: web.StreamResponse, message: bytes) -> None:
    async with asyncio.timeout(WRITE_TIMEOUT_S):
        await response.write(message)


def _event(name: str, value: object) -> bytes:
    # JSON has no line ends of its own, so one data line is enough.
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps(value) + b"\n\n"
