"""Pages without a browser: a signed-in session that opens them and sends their forms."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html.parser import HTMLParser

import aiohttp

from tests.support.harness import ADMIN_KEY, Server

Fields = Sequence[tuple[str, str]] | Mapping[str, str]


@dataclass
class Pages:
    """One person's session. Redirects are not followed."""

    session: aiohttp.ClientSession

    async def get(self, path: str) -> str:
        """The text of a page."""
        async with self.session.get(path) as answer:
            text = await answer.text()
            assert answer.status == 200, text
            return text

    async def send(self, path: str, fields: Fields) -> tuple[int, str]:
        """Send a form: status and text of the answer."""
        async with self.session.post(path, data=fields, allow_redirects=False) as answer:
            return answer.status, await answer.text()

    async def form(self, path: str, action: str = "", **changed: str) -> dict[str, str]:
        """The fields that a browser would send of a form without lists, with some of them changed."""
        fields = dict(FormReader(await self.get(path), action=action).found)
        assert fields, f"{path} has no form {action}"
        return {**fields, **changed}


@asynccontextmanager
async def signed_in(server: Server) -> AsyncIterator[Pages]:
    """A session of the admin."""
    headers, jar = {"Sec-Fetch-Site": "same-origin"}, aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(server.url, headers=headers, cookie_jar=jar) as session:
        await session.post("/sign-in", data={"key": ADMIN_KEY})
        yield Pages(session)


class FormReader(HTMLParser):
    """Reads the fields that a browser would send of the first form with this id or action, untouched."""

    def __init__(self, page: str, id: str = "", action: str = "") -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self._id, self._action, self._inside = id, action, False
        self._select: str | None = None
        self._option: str | None = None
        self._area: list[str] | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Inputs, options that are selected, the beginning of a text."""
        values = dict(attributes)
        name = values.get("name") or ""
        if tag == "form":
            wanted = values.get("id") == self._id if self._id else values.get("action") == self._action
            self._inside = wanted and not self.found
        elif not self._inside:
            return
        elif tag == "input" and (values.get("type") not in ("checkbox", "radio") or "checked" in values):
            self.found.append((name, values.get("value") or ""))
        elif tag == "select":
            self._select, self._option = name, None
        elif tag == "option" and self._select is not None and ("selected" in values or self._option is None):
            self._option = values.get("value") or ""
        elif tag == "textarea":
            self._area = []
            self.found.append((name, ""))

    def handle_data(self, data: str) -> None:
        """The words of a text."""
        if self._area is not None:
            self._area.append(data)

    def handle_endtag(self, tag: str) -> None:
        """The value of a select or text."""
        if tag == "form":
            self._inside = False
        elif tag == "select" and self._select is not None:
            self.found.append((self._select, self._option or ""))
            self._select = None
        elif tag == "textarea" and self._area is not None:
            self.found[-1] = (self.found[-1][0], "".join(self._area))
            self._area = None
