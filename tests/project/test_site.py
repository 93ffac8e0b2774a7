"""The documentation site: it builds without a warning, and a reader's browser asks no other host for anything."""

import os
import re
import subprocess
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from playwright.async_api import Request

from tests.support.clients.browser import chromium
from tests.support.harness import ROOT

MKDOCS = ROOT / ".venv" / "bin" / "mkdocs"
MERMAID = ROOT / "node_modules" / "@mermaid-js" / "tiny"
# Attributes whose address a browser loads without a click.
LOADING = {
    *(("script", "src"), ("img", "src"), ("img", "srcset"), ("source", "src"), ("source", "srcset"), ("video", "src")),
    *(("audio", "src"), ("iframe", "src"), ("embed", "src"), ("object", "data"), ("input", "src"), ("use", "href")),
    *(("image", "href"), ("link", "href"), ("video", "poster"), ("form", "action")),
}
ELSEWHERE = re.compile(r"\s*(?:https?:|wss?:|ftp:)?//", re.IGNORECASE)
CSS_LOADS = re.compile(r"""(?:url\(\s*|@import\s+)['"]?\s*(?:https?:)?//[^'")\s]*""", re.IGNORECASE)
# Addresses in the theme's script: used only with features that this site does not have (a repository's address), in a
# browser without ResizeObserver, or for diagrams if the page has not loaded mermaid itself.
KNOWN_IN_SCRIPTS = {
    *("https://api.github.com/users/", "https://api.github.com/repos/", "https://clipboardjs.com/"),
    "https://bit.ly/2s3ChXG",  # in an error message of the search
    *("https://unpkg.com/resize-observer-polyfill", "https://unpkg.com/mermaid@11/dist/mermaid.min.js"),
}


def build(to: Path, config: Path = ROOT / "mkdocs.yml") -> subprocess.CompletedProcess[str]:
    """Build the site as `make check` does."""
    command = [str(MKDOCS), "build", "--strict", "--site-dir", str(to), "--config-file", str(config)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    built = build(folder)
    assert built.returncode == 0, built.stderr
    return folder


class _Loads(HTMLParser):
    """Collect the addresses of other hosts that a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "link" and values.get("rel") in ("canonical", "alternate", "author", "license", "next", "prev"):
            return
        for name, value in attrs:
            address = value or ""
            if ((tag, name.removeprefix("xlink:")) in LOADING and ELSEWHERE.match(address)) or (
                name == "style" and CSS_LOADS.search(address)
            ):
                self.found.append(f"<{tag} {name}={address}>")


def loads_of(text: str) -> list[str]:
    """The addresses on other hosts that a page of HTML loads."""
    parser = _Loads()
    parser.feed(text)
    styles = re.findall(r"<style[^>]*>(.*?)</style>", text, re.DOTALL)
    return parser.found + [load for style in styles for load in CSS_LOADS.findall(style)]


@pytest.mark.parametrize(
    "page",
    [
        '<script src="https://cdn.example.com/x.js"></script>',
        '<link rel="stylesheet" href="//fonts.example.com/css">',
        '<link rel="preconnect" href="https://fonts.example.com" crossorigin>',
        '<img alt="" src="HTTP://example.com/x.png">',
        "<p style=\"background: url( 'https://example.com/x.png')\">",
        "<style>@import 'https://example.com/x.css';</style>",
    ],
)
def test_a_load_from_another_host_is_found(page: str) -> None:
    assert loads_of(page)


def test_pages_styles_and_scripts_load_nothing_from_another_host(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    styles = list(site.rglob("*.css"))
    assert pages and styles
    loads_by_file = {str(path): loads for path in pages if (loads := loads_of(path.read_text()))}
    loads_by_file |= {
        str(path): loads for path in [*styles, *site.rglob("*.svg")] if (loads := CSS_LOADS.findall(path.read_text()))
    }
    assert not loads_by_file
    for path in [*site.rglob("bundle*.js"), *site.rglob("search*.js")]:
        script = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
        addresses = set(re.findall(r"(?:https?|wss?)://[a-z0-9-]+\.[\w./@-]+", script))
        assert {each for each in addresses if "//www.w3.org/" not in each} <= KNOWN_IN_SCRIPTS, path


@pytest.mark.slow
async def test_a_browser_asks_no_other_host_and_diagrams_are_drawn(site: Path, server_of_site: str) -> None:
    requested: set[str] = set()
    drawn = 0

    def note(request: Request) -> None:
        if not request.url.startswith((server_of_site, "data:", "blob:")):
            requested.add(request.url)

    async with chromium() as browser:
        page = await browser.new_page()
        page.on("request", note)
        for path in sorted(site.rglob("*.html")):
            diagrams = path.read_text().count('class="mermaid"') if MERMAID.exists() else 0
            await page.goto(f"{server_of_site}/{path.relative_to(site)}")
            if diagrams:
                # The theme replaces the text of each by a `div` with the picture.
                await page.wait_for_function("n => document.querySelectorAll('div.mermaid').length == n", arg=diagrams)
                drawn += diagrams
        await page.goto(f"{server_of_site}/index.html")
        await page.keyboard.press("s")
        await page.keyboard.type("grace")
        await page.wait_for_selector(".md-search-result__item")
    assert not requested
    assert drawn or not MERMAID.exists()


@pytest.fixture
def server_of_site(site: Path) -> Iterator[str]:
    """The address of a server of these files."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("[x](missing.md)", "missing.md"),
        ("[x](index.md#missing)", "#missing"),
        ("[x](../CHANGELOG.txt)", "CHANGELOG.txt"),
        ("![x](missing.png)", "missing.png"),
        ("[x](/absolute.md)", "absolute"),
    ],
)
def test_a_link_that_leads_nowhere_fails_the_build(tmp_path: Path, text: str, warning: str) -> None:
    built = build_of(tmp_path, text)
    assert built.returncode != 0 and warning in built.stderr


def test_a_page_outside_the_navigation_fails_the_build(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "other.md").write_text("# Other\n")
    built = build_of(tmp_path, "text")
    assert built.returncode != 0 and "other.md" in built.stderr


def build_of(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    """A site of one page, with the settings of the real one."""
    (folder / "docs").mkdir(exist_ok=True)
    (folder / "docs" / "index.md").write_text(f"# Page\n\n{text}\n")
    config = folder / "mkdocs.yml"
    pages = "[index.md, changelog.md, security.md, development/contributing.md, development/bench.md]"
    lines = [f"INHERIT: {ROOT / 'mkdocs.yml'}", f"docs_dir: {folder / 'docs'}", f"nav: {pages}"]
    config.write_text("\n".join([*lines, f"hooks: [{ROOT / 'docs' / 'hooks.py'}]"]))
    return build(folder / "site", config)
