"""Authentication and rights: a key in the request becomes a `Principal`.

The admin key may do everything. Other keys have a role, and may be bound to one project: then nothing
outside it exists for them. Rights are few and checked in one place, before a handler runs.
"""

import hmac
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from aiohttp import web

from offbeat_server.db.pool import Pool
from offbeat_server.db.repositories import access as stored
from offbeat_server.ingest.http.client_address import ClientAddresses
from offbeat_server.web.framework.auth_throttle import AuthThrottle
from offbeat_server.web.framework.problems import ApiError

# Rights that a route requires. `server`: everything, in every project.
Right = Literal["open", "ping", "read", "write", "server"]
_RIGHTS: dict[str, frozenset[Right]] = {
    "admin": frozenset(("ping", "read", "write")),
    "read": frozenset(("read",)),
    "ping": frozenset(("ping",)),
}
KEY_CHARS_MAX = 200


class Principal(NamedTuple):
    """The owner of a key. `actor`: the name in the audit log; `project_id` and `project` are None for every project."""

    actor: str
    role: str
    project_id: int | None = None
    project: str | None = None

    @property
    def sees_secrets(self) -> bool:
        """Whether ping keys may be shown: a client that has them can ping."""
        return self.role == "admin"

    def may(self, right: Right) -> bool:
        """Whether the role allows it."""
        if right == "server":
            return self.role == "admin" and self.project_id is None
        return right == "open" or right in _RIGHTS[self.role]


NOBODY = Principal("nobody", "ping", -1)


@dataclass
class Access:
    """Checks access keys. `admin_key_hash` is of the admin key."""

    pool: Pool
    admin_key_hash: bytes
    client_addresses: ClientAddresses = field(default_factory=lambda: ClientAddresses(()))
    _secret: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self._attempts = AuthThrottle(self.client_addresses)

    async def secret(self) -> bytes:
        """The secret of this installation, read once."""
        if self._secret is None:
            self._secret = await stored.load_secret(self.pool)
        return self._secret

    async def admit(self, request: web.Request, right: Right) -> Principal:
        """Return the principal of a request, if it has the right. Raises ApiError: 401, 403, 429."""
        if right == "open":
            return NOBODY
        key = key_in(request)
        if key is None:
            raise _unauthorised(
                "The request has no access key: send it in the header Authorization: Bearer KEY or X-Api-Key: KEY."
            )
        principal = await self.identify(request, key)
        if principal is None:
            raise _unauthorised("The access key is unknown or revoked: send another one.")
        if not principal.may(right):
            raise ApiError(403, f"A key with the role {principal.role} may not do this.")
        return principal

    async def identify(self, request: web.Request, key: str) -> Principal | None:
        """Return the principal of a key; None: unknown or revoked. Raises ApiError (429) after too many wrong keys."""
        async with self._attempts.attempt(request) as attempt:
            principal = await self._whose(key)
            attempt.is_wrong = principal is None
        return principal

    async def _whose(self, key: str) -> Principal | None:
        if hmac.compare_digest(stored.hash_key(await self.secret(), key), self.admin_key_hash):
            return Principal("admin", "admin")
        row = await stored.find_key(self.pool, await self.secret(), key)
        if row is None:
            return None
        return Principal(row["prefix"], row["role"], row["project_id"], row["project"])


def key_in(request: web.Request) -> str | None:
    """The key that a request carries, or None."""
    header = request.headers.get("Authorization")
    if header is not None:
        scheme, _, key = header.partition(" ")
        key = key.strip() if scheme.lower() == "bearer" else ""
    else:
        key = request.headers.get("X-Api-Key", "").strip()
    return key if 0 < len(key) <= KEY_CHARS_MAX and key.isascii() and key.isprintable() else None


def _unauthorised(detail: str) -> ApiError:
    return ApiError(401, detail, headers={"WWW-Authenticate": 'Bearer realm="offbeat"'})
