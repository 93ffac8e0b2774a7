"""What people install is whole: the package from a clean environment, outside the checkout."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.harness import ROOT

PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check")


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_an_installed_package_works_and_holds_every_file(tmp_path: Path) -> None:
    # pip leaves its working files in the source; a copy of what git knows is what a newcomer has.
    source = tmp_path / "source"
    for name in run("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).splitlines():
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name, follow_symlinks=False)
    run(sys.executable, *PIP, "wheel", "--no-deps", "--wheel-dir", tmp_path, source, cwd=tmp_path)
    wheel = next(tmp_path.glob("offbeat-*.whl"))
    shipped = set(zipfile.ZipFile(wheel).namelist())
    ours = {str(path.relative_to(source)) for path in (source / "server").rglob("*") if path.is_file()}
    assert ours - shipped == set()
    assert zipfile.ZipFile(wheel).read("server/store/schema.sql") == (ROOT / "schema.sql").read_bytes()

    python = tmp_path / "venv" / "bin" / "python"
    # Of the environment our pip is no part, and what is compiled at the first import need not be compiled here.
    run(sys.executable, "-m", "venv", "--without-pip", python.parent.parent, cwd=tmp_path)
    install = ("--python", python, "install", "--no-compile", "--constraint", ROOT / "constraints.txt")
    run(sys.executable, *PIP, *install, wheel, cwd=tmp_path)
    offbeat = python.with_name("offbeat")
    assert "serve" in run(offbeat, "--help", cwd=tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "server.py").write_text("raise RuntimeError")
    (tmp_path / "link").symlink_to(offbeat)
    disturbed = ("env", f"PYTHONPATH={tmp_path / 'other'}", "PYTHONHOME=/x")
    assert "serve" in run(*disturbed, offbeat, "--help", cwd=tmp_path)
    assert run(*disturbed, tmp_path / "link", "exec", "--wait", "0", "K", "echo", "ran", cwd=tmp_path) == "ran\n"
    assert "--database-url" in run(offbeat, "serve", "--help", cwd=tmp_path)
    assert "select" in run(
        *(python, "-c", "from server.store.queries import load; print(load('meta')['schema_version'])"), cwd=tmp_path
    )
