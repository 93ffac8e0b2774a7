"""The pages of docs/reference/, generated from the code: `python -m docs.generate` writes them.

Each module has the function `page`, which returns the text of one page. It raises Missing if something that the page
lists has no description. tests/project/test_reference.py compares the committed pages with what the code generates.
"""

from collections.abc import Callable
from pathlib import Path

from docs.generate import alert_payload, api, channels, cli, limits, metrics, monitor, pings, settings

FOLDER = Path(__file__).parents[1] / "reference"
PAGES: dict[str, Callable[[], str]] = {
    "alert-payload.md": alert_payload.page,
    "api.md": api.page,
    "channels.md": channels.page,
    "cli.md": cli.page,
    "limits.md": limits.page,
    "metrics.md": metrics.page,
    "monitor.md": monitor.page,
    "pings.md": pings.page,
    "settings.md": settings.page,
}
