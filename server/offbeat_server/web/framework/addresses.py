"""The addresses that answers show: where a monitor is pinged, and who a request came from.

`--public-url` wins; else the request's own host, and behind a trusted proxy the host that the proxy names. A proxy that
is not listed is not believed: otherwise any client could make the server show a forged address.
"""

import re
from urllib.parse import quote

from aiohttp import web

from offbeat_server.ingest.http.client_address import Client, ClientAddresses, entry_of

_HOST = re.compile(r"[A-Za-z0-9.\-_\[\]:]{1,255}")


def client_of(request: web.Request, addresses: ClientAddresses) -> Client:
    """The client of a request, behind trusted proxies too."""
    peer = addresses.peer(request.transport and request.transport.get_extra_info("peername"))
    return addresses.client(peer, _joined(request, "X-Forwarded-For") or None)


def base_url(request: web.Request, public_url: str | None, addresses: ClientAddresses) -> str:
    """The address of this server as the client of `request` reached it, without a slash at the end."""
    if public_url is not None:
        return public_url
    scheme, host = request.scheme, request.headers.get("Host", "")
    if proxies := client_of(request, addresses).proxies:
        scheme = entry_of(_joined(request, "X-Forwarded-Proto"), proxies) or scheme
        host = entry_of(_joined(request, "X-Forwarded-Host"), proxies) or host
    if scheme not in ("http", "https"):
        scheme = "http"
    return f"{scheme}://{host if _HOST.fullmatch(host) else 'localhost'}"


def ping_url(base: str, key: str) -> str:
    """Return the ping address of a key; a key of two parts, from another service, has that service's own path."""
    return f"{base}/ping/{quote(key, safe='/')}" if "/" in key else f"{base}/api/v1/heartbeat/{quote(key, safe='')}"


def _joined(request: web.Request, header: str) -> str:
    return ", ".join(request.headers.getall(header, []))
