"""The README is true: its table of settings is the settings, and every metric that it names exists.

`python -m tests.test_docs` writes the table anew.
"""

import re
from pathlib import Path

from server.metrics import Metrics
from server.settings import Settings

README = Path(__file__).parent.parent / "README.md"
TABLE = re.compile(r"(<!-- settings -->\n)(.*?)(<!-- /settings -->)", re.DOTALL)


def settings_table() -> str:
    """The table as the settings themselves say it."""
    lines = ["| flag | default | what |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = (
            ""
            if default is None or default == []
            else f"`{str(default).lower() if default is False or default is True else default}`"
        )
        lines.append(f"| `--{name.replace('_', '-')}` | {shown} | {field.description} |")
    return "\n".join(lines) + "\n"


def test_the_table_of_settings_is_the_settings() -> None:
    found = TABLE.search(README.read_text())
    assert found is not None
    assert found[2] == settings_table(), "run: python -m tests.test_docs"


def test_metrics_that_are_named_exist() -> None:
    text = README.read_text().partition("## Metrics")[2].partition("\n## ")[0]
    families = {family.name for family in Metrics("test").registry.collect()}
    known = {f"offbeat_{name}" for name in _readings()} | families
    for name in re.findall(r"`([a-z_]+)(?:\{[a-z_,]+\})?`", text):
        if name != "offbeat_":
            assert f"offbeat_{name.removesuffix('_total').removesuffix('_info')}" in known, name


def test_what_the_threat_model_names_is_there() -> None:
    text = (README.parent / "SECURITY.md").read_text()
    for path in re.findall(r"`(tests/[a-z_]+\.py)`|\]\(([a-z./]+)\)", text):
        assert (README.parent / "".join(path)).exists(), path
    flags = {f"--{name.replace('_', '-')}" for name in Settings.model_fields} | {"--no-auto-provision"}
    assert set(re.findall(r"`(--[a-z-]+)", text)) <= flags


def _readings() -> set[str]:
    from server.metrics import READINGS

    return set(READINGS)


if __name__ == "__main__":
    README.write_text(TABLE.sub(lambda m: m[1] + settings_table() + m[3], README.read_text()))
