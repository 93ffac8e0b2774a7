"""The pages for operators do what they say, with a real Postgres, PgBouncer and nginx.

`tests/support/doc_pages.py` says how a page is run. Each page begins in an empty directory, with a Postgres of its own
on the port that the pages call 5432, and a PgBouncer in front of it.
"""

import contextlib
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.test_guides import PAGES
from tests.support.clients.browser import create_monitor
from tests.support.doc_pages import Terminal, blocks_of, play
from tests.support.harness import ADMIN_KEY, ROOT, PgBouncer, Postgres, Server, eventually, free_port, needs
from tests.support.postgres.system_postgres import SystemPostgres

pytestmark = pytest.mark.slow

DOCS = ROOT / "docs"
OPERATIONS = sorted(set((DOCS / "operations").glob("*.md")) - set(PAGES))
# Blocks of other pages, and the test that checks them.
CHECKED_ELSEWHERE = {
    (DOCS / "chaos.md", "sh"): "tests/project/test_docs.py",
    (DOCS / "simulation.md", "sh"): "tests/project/test_docs.py",
    (DOCS / "development" / "testing.md", "sh"): "tests/project/test_docs.py",
    (DOCS / "reference" / "alert-payload.md", "json"): "tests/project/test_reference.py",
    (DOCS / "reference" / "channels.md", "yaml"): "tests/project/test_reference.py",
    (DOCS / "reference" / "monitor.md", "yaml"): "tests/project/test_reference.py",
    (DOCS / "semantics.md", "example"): "tests/model/test_golden.py",
}
FOR_PEOPLE = {"text", "mermaid"}


@pytest.mark.parametrize("page", OPERATIONS, ids=lambda page: page.stem)
async def test_the_page_is_true(page: Path, database_url: str, tmp_path: Path) -> None:
    """Every block that can run gives the output that follows it."""
    port = free_port()
    async with contextlib.AsyncExitStack() as stack:
        system = await stack.enter_async_context(SystemPostgres())
        socket = f"postgresql://offbeat@/offbeat?host={system.directory}&port={system.port}"
        pooler = (await stack.enter_async_context(PgBouncer(socket))).removeprefix("postgresql://offbeat@")
        new = await stack.enter_async_context(Server(database_url))
        admin = f"env PGHOST={system.directory} PGPORT={system.port} PGUSER=postgres "
        printed = (
            ("http://127.0.0.1:8080", f"http://127.0.0.1:{port}"),
            ("http://localhost:8080", f"http://127.0.0.1:{port}"),
            ("localhost:5432", f"127.0.0.1:{system.port}"),
            ("localhost:6432/offbeat", pooler),
            ("@db1,db2/", f"@127.0.0.1:{system.port},127.0.0.1:{free_port()}/"),  # the second one is down
            ("http://new-server:8080", new.url),
            ("KEY-OF-THE-NEW-SERVER", ADMIN_KEY),
            ("/var/backups/", f"{tmp_path}/"),
            ("sudo -u postgres ", admin),
        )
        env = {
            "OFFBEAT_PORT": str(port),
            "OFFBEAT_URL": f"http://127.0.0.1:{port}",
            "OFFBEAT_CONNECTIONS_MAX": "1000",  # fits the `ulimit -n` of every machine
        }
        await play(Terminal(tmp_path, env, printed), page, tmp_path, no_key)


async def no_key(slug: str) -> str:
    """No page for operators names the key of a monitor."""
    raise AssertionError(slug)


@contextlib.asynccontextmanager
async def balancer(directory: Path, nodes: list[Server]) -> AsyncIterator[str]:
    """Run nginx with the configuration that the page prints, in front of two nodes; its address."""
    program = needs("nginx")
    (block,) = [each for each in blocks_of(DOCS / "operations" / "several-nodes.md") if each.language == "nginx"]
    port = free_port()
    text = block.text
    for printed, real in (
        ("10.0.0.11:8080", f"127.0.0.1:{nodes[0].port}"),
        ("10.0.0.12:8080", f"127.0.0.1:{nodes[1].port}"),
        ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        ("# ssl_certificate and ssl_certificate_key", "ssl_certificate cert.pem; ssl_certificate_key key.pem;"),
    ):
        assert text.count(printed) == 1, printed
        text = text.replace(printed, real)
    new = ("-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=localhost")
    subprocess.run([needs("openssl"), "req", "-x509", *new], cwd=directory, check=True, capture_output=True)
    temporary = "".join(
        f"{kind}_temp_path {directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""
    (directory / "nginx.conf").write_text(
        f"{user} daemon off; pid {directory}/nginx.pid; error_log stderr error; events {{}}\n"
        f"http {{ access_log off; {temporary}\n{text}}}\n"
    )
    process = subprocess.Popen([program, "-c", str(directory / "nginx.conf"), "-p", str(directory)])
    try:
        yield f"https://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


async def test_the_balancer_of_the_page_loses_no_ping_when_a_node_stops(postgres: Postgres, tmp_path: Path) -> None:
    proxies = ("--trusted-proxies", "127.0.0.1/32")
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(postgres.fresh())
        nodes = [await stack.enter_async_context(Server(url, *proxies)) for _ in range(2)]
        address = await stack.enter_async_context(balancer(tmp_path, nodes))
        path = await create_monitor(nodes[1], "nightly", every="1h")
        session = await stack.enter_async_context(aiohttp.ClientSession())

        async def ping() -> int:
            async with session.post(address + path, ssl=False) as response:
                return response.status

        async def known_everywhere() -> bool:
            with contextlib.suppress(aiohttp.ClientError):
                return [await ping() for _ in range(4)] == [200] * 4
            return False

        await eventually(known_everywhere)
        # Cookies are marked as secure: the node knows from the balancer that the client came by https.
        same = {"Sec-Fetch-Site": "same-origin"}
        async with session.post(address + "/sign-in", data={"key": ADMIN_KEY}, headers=same, ssl=False) as response:
            cookies = [name for answer in (*response.history, response) for name in answer.cookies]
        assert any(name.startswith("__Host-") for name in cookies), (response.status, cookies)
        assert await nodes[0].stop() == 0
        assert [await ping() for _ in range(20)] == [200] * 20


def test_every_block_is_checked() -> None:
    """A block is run with its page, or another test checks it, or it is for people."""
    for page in sorted(DOCS.rglob("*.md")):
        if page in PAGES or page in OPERATIONS:
            known = {"sh", "console", "crontab", "yaml", "json", "ini", "python", "nginx", *FOR_PEOPLE}
        else:
            known = {language for of, language in CHECKED_ELSEWHERE if of == page} | FOR_PEOPLE
        unknown = [f"line {block.line}: {block.language}" for block in blocks_of(page) if block.language not in known]
        assert not unknown, f"{page.relative_to(ROOT)}: no test checks {unknown}"
