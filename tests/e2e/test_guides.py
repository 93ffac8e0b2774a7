"""The commands of the README, the tutorial and the guides do what the pages say, as printed, on a real server.

`tests/support/doc_pages.py` says how a page is run. All pages share a server; each has a project of its own. A page
with ``<!-- project: default -->`` has the default one, and all rights. `tests/e2e/test_operations.py` runs the pages
that start servers themselves.
"""

import asyncio
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import yaml

from tests.support.doc_pages import Terminal, agrees, blocks_of, play
from tests.support.harness import ADMIN_KEY, ROOT, Postgres, Server, free_port, needs

pytestmark = pytest.mark.slow

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", DOCS / "tutorial.md", *sorted((DOCS / "guides").glob("*.md"))]
PAGES.append(DOCS / "operations" / "managing.md")
ADDRESS = "http://localhost:8080"
RECEIVER = "127.0.0.1:9000"
TURNS = 16  # pages at once


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(postgres: Postgres) -> AsyncIterator[Server]:
    """One for all pages; each page has a project of its own."""
    async with (
        postgres.fresh() as url,
        Server(url, "--allow-destinations", "127.0.0.0/8", "--root-protocol", "snitch") as running,
    ):
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def played(
    server: Server, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[dict[Path, asyncio.Task[None]]]:
    """The pages that are to be tested, several at once: for most of their time they wait for deadlines."""
    turns = asyncio.Semaphore(TURNS)

    async def one(page: Path) -> None:
        async with turns:
            await play_on(server, page, tmp_path_factory.mktemp(page.stem))

    chosen = {item.name for item in request.session.items}  # as `-k` and `-n` have left them
    pages = [page for page in PAGES if f"test_the_page_is_true[{page.stem}]" in chosen]
    tasks = {page: asyncio.create_task(one(page)) for page in pages}
    yield tasks
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)


async def project_for(server: Server, slug: str) -> str:
    """Make a project; an access key that has all rights in it and nowhere else."""
    created = await server.api("PUT", f"/api/v1/projects/{slug}", {})
    assert created.status == 201, created
    key = await server.api("POST", "/api/v1/keys", {"name": slug, "role": "admin", "project": slug})
    assert key.status == 201, key
    return str(key.body["key"])


async def key_of(server: Server, project: str, slug: str) -> str:
    """The key of a monitor that the page has made by now."""
    answer = await server.api("GET", f"/api/v1/monitors/{slug}?project={project}")
    assert answer.status == 200, f"the page names the monitor {slug}, which does not exist here: {answer.body}"
    return str(answer.body["key"])


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
async def test_the_page_is_true(played: dict[Path, asyncio.Task[None]], page: Path) -> None:
    """Every block that can run gives the output that follows it."""
    for program in ("curl", *re.findall(r"<!-- needs: (\S+) -->", page.read_text())):
        needs(program)
    await played[page]


async def play_on(server: Server, page: Path, directory: Path) -> None:
    """Run the blocks of a page in a project of its own."""
    if "<!-- project: default -->" in page.read_text():
        project, access_key = "default", ADMIN_KEY
    else:
        project = f"page-{page.stem.lower()}"
        access_key = await project_for(server, project)
    port = free_port()
    printed = (
        (ADDRESS, server.url),
        (RECEIVER, f"127.0.0.1:{port}"),
        ('"127.0.0.1", 9000', f'"127.0.0.1", {port}'),
    )
    env = {"OFFBEAT_URL": server.url, "OFFBEAT_ADMIN_KEY": access_key}
    terminal = Terminal(directory, env, printed, hidden=f"{project}/")
    await play(terminal, page, directory, lambda slug: key_of(server, project, slug))


def test_alertmanager_accepts_the_route_of_the_guide(tmp_path: Path) -> None:
    blocks = blocks_of(DOCS / "guides" / "moving.md")
    (block,) = [each for each in blocks if each.language == "yaml" and "webhook_configs" in each.text]
    added = yaml.safe_load(block.text)
    base = yaml.safe_load((ROOT / "deploy" / "alertmanager.yml").read_text())
    base["route"]["routes"] = [*base["route"].get("routes", []), *added["route"]["routes"]]
    base["receivers"] += added["receivers"]
    (tmp_path / "alertmanager.yml").write_text(yaml.safe_dump(base))
    check = [needs("amtool"), "check-config", str(tmp_path / "alertmanager.yml")]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_accepts_the_units_of_the_guide(tmp_path: Path) -> None:
    blocks = [block for block in blocks_of(DOCS / "guides" / "systemd.md") if block.language == "ini"]
    timers = [block for block in blocks if "[Timer]" in block.text]
    services = [block for block in blocks if "[Service]" in block.text]
    assert len(timers) == 1 and len(services) == 2
    for number, service in enumerate(services):
        directory = tmp_path / str(number)
        directory.mkdir()
        (directory / "cleanup.service").write_text(service.text)
        (directory / "cleanup.timer").write_text(timers[0].text)
        verify = [
            "systemd-analyze",
            "verify",
            "--man=no",
            str(directory / "cleanup.timer"),
            str(directory / "cleanup.service"),
        ]
        done = subprocess.run(verify, capture_output=True, text=True)
        assert done.returncode == 0 and "cleanup." not in done.stderr, done.stderr


def test_the_comparison_notices_a_difference() -> None:
    assert agrees("a   b 12:00:01\nc\n", "a b 09:09:09\nc\n")
    assert agrees("a\nb\nc\n", "a\n…\n") and agrees("one two\n", "one …\n")
    assert not agrees("a\nb\n", "a\n") and not agrees("a\n", "a\nb\n") and not agrees("up\n", "down\n")
