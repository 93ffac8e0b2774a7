"""The addresses that answers show: where a monitor is pinged, and who a request came from.

`--public-url` wins; else the request's own host, and behind a trusted proxy what the proxy says it was. A proxy that is
not listed is not believed: otherwise anybody could make the server show addresses of theirs.
"""

import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import quote

from aiohttp import web

from offbeat_server.config import Network

_HOST = re.compile(r"[A-Za-z0-9.\-_\[\]:]{1,255}")


def base_url(request: web.Request, public_url: str | None, trusted: Sequence[Network]) -> str:
    """The address of this server as the client of `request` reached it, without a slash at the end."""
    if public_url is not None:
        return public_url
    scheme, host = request.scheme, request.headers.get("Host", "")
    if trusted and _is_trusted(request.remote, trusted):
        scheme = _first(request.headers.get("X-Forwarded-Proto")) or scheme
        host = _first(request.headers.get("X-Forwarded-Host")) or host
    if scheme not in ("http", "https"):
        scheme = "http"
    return f"{scheme}://{host if _HOST.fullmatch(host) else 'localhost'}"


def ping_url(base: str, key: str) -> str:
    """Where a key is pinged; a key of two parts, as another service gave it, at that service's own path."""
    return f"{base}/ping/{quote(key, safe='/')}" if "/" in key else f"{base}/api/v1/heartbeat/{quote(key, safe='')}"


def _is_trusted(remote: str | None, trusted: Sequence[Network]) -> bool:
    try:
        address = ipaddress.ip_address(remote or "")
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in trusted)


def _first(header: str | None) -> str:
    """The entry that the client's own proxy wrote, where several proxies add theirs."""
    return (header or "").split(",")[0].strip()
