"""The README is true: its table of settings is the settings, and every metric that it names exists.

`python -m tests.project.test_docs` writes the table again.
"""

import asyncio
import re
import time
from pathlib import Path

from offbeat_server.config import Settings
from offbeat_server.observability.metrics import Metrics
from tests.support.harness import Receiver, needs

README = Path(__file__).parents[2] / "README.md"
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
    assert found[2] == settings_table(), "run: python -m tests.project.test_docs"


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
    from offbeat_server.observability.metrics import READINGS

    return set(READINGS)


def script_of_the_readme() -> str:
    """The job of "From a monitor to an alert", as people paste it."""
    (script,) = re.findall(r"```sh\n(PING=.*?)```", README.read_text(), re.DOTALL)
    return str(script)


async def run_script(script: str, base: str, cwd: Path, load: str) -> tuple[int | None, bytes]:
    """Run it under `set -e` against this server; the last stage is `load`."""
    stages = "extract() { echo extract >> ran; }; transform() { echo transform >> ran; }; load() { " + load + "; }\n"
    text = "set -e\nKEY=k\n" + stages + script.replace("http://localhost:8080", base)
    process = await asyncio.create_subprocess_exec("sh", "-c", text, cwd=cwd, stderr=asyncio.subprocess.PIPE)
    _, err = await process.communicate()
    return process.returncode, err


async def test_the_script_of_the_readme_reports_and_is_never_in_the_way(tmp_path: Path) -> None:
    needs("curl")
    script = script_of_the_readme()
    async with Receiver() as receiver:
        assert (await run_script(script, receiver.url, tmp_path, "true"))[0] == 0
        whats = [request.path.partition("/k/")[2].partition("?")[0] for request in receiver.requests]
        assert whats == ["start", *["start", "success"] * 3]
        receiver.requests.clear()
        assert (await run_script(script, receiver.url, tmp_path, "echo @disk full; false"))[0] == 1
        assert receiver.requests[-1].path.startswith("/api/v1/heartbeat/k/fail?")
        assert receiver.requests[-1].body == b"@disk full\n"

    async def never_answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(never_answers, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    for number, base in enumerate((f"http://127.0.0.1:{port}", "http://127.0.0.1:1", "http://no.such.host.invalid")):
        directory = tmp_path / str(number)
        directory.mkdir()
        began = time.monotonic()
        code, _ = await run_script(script, base, directory, "echo load >> ran; exit 0")
        assert code == 0 and (directory / "ran").read_text().split() == ["extract", "transform", "load"]
        assert time.monotonic() - began < 35  # about 15 s and 1 s for each later ping
    silent.close()


if __name__ == "__main__":
    README.write_text(TABLE.sub(lambda m: m[1] + settings_table() + m[3], README.read_text()))
