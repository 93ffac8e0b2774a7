"""Forwarded headers behind real proxies: what a client forges decides nothing."""

import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from ipaddress import ip_network
from pathlib import Path

import aiohttp
import pytest

from bench.rivals import free_port
from offbeat_server.ingest.http.client_address import Client, ClientAddresses, entry_of
from tests.support.harness import ADMIN_KEY, Server, eventually, needs

NGINX = """
worker_processes 1;
daemon off;
pid {dir}/nginx.pid;
error_log stderr error;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  server {{
    listen {listen};
    location / {{
      proxy_pass http://{to};
      proxy_bind {listen_host};
      proxy_set_header Host $host;
      {headers}
    }}
  }}
}}
"""
APPENDS = """
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto "$http_x_forwarded_proto, $scheme";
      proxy_set_header X-Forwarded-Host "$http_x_forwarded_host, {name}";
"""
REPLACES = """
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-Host {name};
"""
FORGED = {
    "X-Forwarded-For": "198.51.100.99, 127.0.0.2",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "evil.example.org",
}


@contextmanager
def _nginx(host: str, to: str, headers: str) -> Iterator[str]:
    """A proxy at `host` on a free port that leads to `to`; its host and port."""
    needs("nginx")
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    assert program is not None
    listen = f"{host}:{free_port()}"
    with tempfile.TemporaryDirectory(prefix="offbeat-nginx-") as directory:
        config = Path(directory) / "nginx.conf"
        config.write_text(NGINX.format(dir=directory, listen=listen, listen_host=host, to=to, headers=headers))
        process = subprocess.Popen([program, "-c", str(config), "-p", directory])
        try:
            yield listen
        finally:
            process.terminate()
            process.wait()


@asynccontextmanager
async def _behind(database_url: str, headers: list[str]) -> AsyncIterator[tuple[Server, str]]:
    """A server behind proxies at 127.0.0.2, 127.0.0.3, …, the outermost last; the address of the outermost."""
    trusted = ",".join(f"127.0.0.{number}" for number in range(2, 2 + len(headers)))
    async with Server(database_url, "--trusted-proxies", trusted) as server:
        with _chain(f"127.0.0.1:{server.port}", headers, 2) as address:
            await eventually(lambda: _is_up(f"http://{address}/livez"))
            yield server, f"http://{address}"


@contextmanager
def _chain(to: str, headers: list[str], number: int) -> Iterator[str]:
    if not headers:
        yield to
        return
    name = f"proxy{number}.example.org"
    with (
        _nginx(f"127.0.0.{number}", to, headers[0].format(name=name)) as address,
        _chain(address, headers[1:], number + 1) as outermost,
    ):
        yield outermost


async def _is_up(url: str) -> bool:
    try:
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


@pytest.mark.parametrize(
    ("headers", "outermost"),
    [([APPENDS], 2), ([REPLACES], 2), ([APPENDS, APPENDS], 3), ([APPENDS, REPLACES], 3)],
    ids=["appends", "replaces", "both append", "the outer one replaces"],
)
async def test_a_forged_header_decides_nothing(database_url: str, headers: list[str], outermost: int) -> None:
    admin = {"Authorization": f"Bearer {ADMIN_KEY}"}
    async with _behind(database_url, headers) as (_, url), aiohttp.ClientSession() as session:
        async with session.put(f"{url}/api/v1/monitors/job", json={}, headers={**admin, **FORGED}) as response:
            shown = (await response.json())["ping_url"]
        assert shown.startswith(f"http://proxy{outermost}.example.org/"), shown
        async with session.get(f"{url}/api/v1/heartbeat/{shown.rpartition('/')[2]}", headers=FORGED) as response:
            assert response.status == 200
        async with session.get(f"{url}/api/v1/monitors/job/pings", headers=admin) as response:
            (ping,) = (await response.json())["items"]
        assert ping["source"] == "127.0.0.1", "the client of these requests"


async def test_a_proxy_that_is_not_trusted_decides_nothing(database_url: str) -> None:
    async with Server(database_url) as server:
        with _chain(f"127.0.0.1:{server.port}", [REPLACES], 2) as address:
            await eventually(lambda: _is_up(f"http://{address}/livez"))
            async with aiohttp.ClientSession() as session:
                headers = {"Authorization": f"Bearer {ADMIN_KEY}", "Host": "beat.example.org"}
                async with session.put(f"http://{address}/api/v1/monitors/job", json={}, headers=headers) as response:
                    assert (await response.json())["ping_url"].startswith("http://beat.example.org/")


@pytest.mark.parametrize(
    ("forwarded_for", "client"),
    [
        (None, Client(b"\x0a\0\0\1", 1)),
        ("", Client(b"\x0a\0\0\1", 1)),
        ("192.0.2.1", Client(b"\xc0\0\2\1", 1)),
        ("203.0.113.9, 192.0.2.1", Client(b"\xc0\0\2\1", 1)),
        ("203.0.113.9, 192.0.2.1, 10.0.0.2", Client(b"\xc0\0\2\1", 2)),
        ("10.0.0.3, 10.0.0.2", Client(b"\x0a\0\0\3", 2)),
        ("nonsense, 10.0.0.2", Client(b"\x0a\0\0\2", 1)),
        ("nonsense", Client(b"\x0a\0\0\1", 1)),
    ],
)
def test_entries_are_read_from_the_right_while_trusted_proxies_wrote_them(
    forwarded_for: str | None, client: Client
) -> None:
    addresses = ClientAddresses([ip_network("10.0.0.0/8")])
    assert addresses.client(addresses.peer(("10.0.0.1", 1)), forwarded_for) == client
    assert addresses.client(addresses.peer(("192.0.2.7", 1)), forwarded_for) == Client(b"\xc0\0\2\7", 0)


def test_the_entry_of_the_outermost_trusted_proxy_counts() -> None:
    assert entry_of("https", 1) == "https"
    assert entry_of("https, http", 1) == "http"
    assert entry_of("forged, https, http", 2) == "https"
    assert entry_of("https", 2) == "https"
    assert entry_of("", 1) == ""
