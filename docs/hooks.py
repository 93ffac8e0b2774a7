"""Hooks of mkdocs: pages from files outside docs/, links to them, and diagrams without another host.

A link in a Markdown file works in the repository. In the site, a link to a file of the repository that is no page
becomes its text.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# Files of the repository that are pages of the site.
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "development/contributing.md",
    "SECURITY.md": "security.md",
    "bench/README.md": "development/bench.md",
}
# The name of mermaid in node_modules, and in the site. Without npm a diagram is shown as its text.
MERMAID = ROOT / "node_modules" / "@mermaid-js" / "tiny" / "dist" / "mermaid.tiny.js"
MERMAID_URI = "assets/javascripts/mermaid.js"
LINK = re.compile(r"(!?)\[((?:[^][]|\[[^][]*\])*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Show diagrams as text if mermaid is not installed."""
    if not MERMAID.exists():
        config.mdx_configs["pymdownx.superfences"]["custom_fences"] = []
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/, with the pictures that they show, and mermaid."""
    for source, uri in PAGES.items():
        files.append(File.generated(config, uri, content=(ROOT / source).read_text()))
        for picture in _pictures_of(source):
            files.append(File.generated(config, f"pictures/{picture}", abs_src_path=str(ROOT / picture)))
    if MERMAID.exists():
        files.append(File.generated(config, MERMAID_URI, abs_src_path=str(MERMAID)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Point links at pages of the site."""
    uri = page.file.src_uri
    source = next((name for name, each in PAGES.items() if each == uri), f"docs/{uri}")

    def link(found: re.Match[str]) -> str:
        picture, text, target, anchor = found.groups()
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if path.startswith("docs/") and path.endswith((".md", ".png", ".svg")):
            new = path.removeprefix("docs/")
        elif path in PAGES:
            new = PAGES[path]
        elif picture:
            new = f"pictures/{path}"
        elif (ROOT / path).exists():
            return text
        else:
            raise PluginError(f"{source}: the link {target} leads to no file of the repository")
        return f"{picture}[{text}]({posixpath.relpath(new, posixpath.dirname(uri) or '.')}{anchor or ''})"

    return LINK.sub(link, markdown)


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """Load mermaid on pages with a diagram, from the site itself; the theme would ask another host."""
    if 'class="mermaid"' not in output:
        return output
    address = posixpath.relpath(MERMAID_URI, posixpath.dirname(page.file.dest_uri) or ".")
    return output.replace("</head>", f'<script src="{address}"></script></head>', 1)


def _pictures_of(source: str) -> list[str]:
    found = LINK.findall((ROOT / source).read_text())
    folder = posixpath.dirname(source)
    return [posixpath.normpath(posixpath.join(folder, target)) for picture, _, target, _ in found if picture]
