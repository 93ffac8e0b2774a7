"""The README and SECURITY.md are true: the script that people paste works, and the tests that are named exist."""

import asyncio
import contextlib
import re
import shlex
from pathlib import Path

import click
import pytest

from offbeat.cli import cli
from offbeat_server.config import Settings
from tests.chaos.__main__ import main as chaos
from tests.support.harness import HANG_S, ROOT, Receiver, needs

README = ROOT / "README.md"
DOCUMENTS = ("README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "CODE_OF_CONDUCT.md", "bench/README.md")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_to_files_and_headings(name: str) -> None:
    """`make check` does this for the pages of the site; these are read in the repository too."""
    for target, anchor in re.findall(r"\]\(([^):#\s]*)(#[^)\s]*)?\)", (ROOT / name).read_text()):
        path = (ROOT / name).parent / target if target else ROOT / name
        assert path.exists(), f"{name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", each.lower()).strip().replace(" ", "-") for each in headings}
            assert anchor[1:] in slugs, f"{name}: {target}{anchor}"


def test_what_the_threat_model_names_is_there() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    for path in re.findall(r"`(tests/[a-z_]+\.py)`|\]\(([a-z./]+)\)", text):
        assert (ROOT / "".join(path)).exists(), path
    flags = {f"--{name.replace('_', '-')}" for name in Settings.model_fields} | {"--no-auto-provision"}
    assert set(re.findall(r"`(--[a-z-]+)", text)) <= flags


def test_the_commands_of_the_page_about_testing_exist() -> None:
    text = (ROOT / "docs/development/testing.md").read_text()
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"`make ([a-z -]+)`|^make ([a-z-]+)", text, re.MULTILINE)
    assert {target for line in named for target in "".join(line).split()} <= set(targets)
    (path, pattern) = re.findall(r"pytest (tests/\S+) -k (\w+)", text)[0]
    assert re.search(rf"^(async )?def test_\w*{pattern}", (ROOT / path).read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", ["chaos", "simulation"])
def test_the_commands_of_the_pages_about_long_runs_can_be_run(name: str, request: pytest.FixtureRequest) -> None:
    text = (ROOT / "docs" / f"{name}.md").read_text()
    (block,) = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    commands = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert len(commands) == 3
    for program, *arguments in commands:
        if program == "make":
            target, *variables = arguments
            assert target == name
            given = dict(variable.split("=", 1) for variable in variables)
            assert given.keys() <= set(re.findall(r"\$\((?:or \$\()?(\w+)\)", (ROOT / "Makefile").read_text()))
            with contextlib.suppress(click.exceptions.Exit):  # of --help; another wrong option raises UsageError
                chaos.make_context(name, shlex.split(given.get("ARGS", "")))
        else:
            path, *options = arguments[2:]  # of `python -m pytest`
            assert (ROOT / path).exists()
            for option in options[::2]:
                request.config.getoption(option)


def script_of_the_readme() -> str:
    """The job of "From a monitor to an alert", without the functions that readers replace by their own commands."""
    (script,) = re.findall(r"^cat > job.sh <<'END'\n(.*?)^END$", README.read_text(), re.DOTALL | re.MULTILINE)
    script, replaced = re.subn(r"^(?:extract|transform|load)\(\) .*\n", "", script, flags=re.MULTILINE)
    assert replaced == 3
    return str(script)


async def run_script(script: str, base: str, cwd: Path, load: str) -> tuple[int | None, bytes]:
    """Run it under `set -e` against this server; the last stage is `load`."""
    stages = "extract() { echo extract >> ran; }; transform() { echo transform >> ran; }; load() { " + load + "; }\n"
    text = "set -e\nKEY=k\n" + stages + script.replace("http://localhost:8080", base)
    process = await asyncio.create_subprocess_exec("sh", "-c", text, cwd=cwd, stderr=asyncio.subprocess.PIPE)
    async with asyncio.timeout(HANG_S):
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
        code, _ = await run_script(script, base, directory, "echo load >> ran; exit 0")
        assert code == 0 and (directory / "ran").read_text().split() == ["extract", "transform", "load"]
    silent.close()


def test_the_readme_of_the_client_lists_every_command() -> None:
    text = (ROOT / "client" / "README.md").read_text()
    named = set(re.findall(r"`(?:offbeat )?([a-z]+)`", text)) - {"offbeat"}
    assert named == set(cli.list_commands(click.Context(cli)))
