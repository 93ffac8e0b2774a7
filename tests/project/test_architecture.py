"""The documents for developers are true: every file that they name exists, and so does every name in it.

Pictures, hooks and the workflow of CI agree with what they describe.
"""

import re
from configparser import ConfigParser
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from tests.support.harness import ROOT

DECISIONS = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs/development/decisions").glob("*.md"))]
ARCHITECTURE = "docs/development/architecture.md"
DOCUMENTS = (
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "CODE_OF_CONDUCT.md",
    ARCHITECTURE,
    "docs/development/english.md",
    *DECISIONS,
    "SECURITY.md",
    "bench/README.md",
    *("docs/chaos.md", "docs/pages.md", "docs/simulation.md", "results/chaos.md", "results/simulation.md"),
    *(
        path.relative_to(ROOT).as_posix()
        for part in ("concepts", "operations")
        for path in (ROOT / "docs" / part).iterdir()
    ),
)
OF_READERS = {"monitors.yaml", "all.yaml", "offbeat.yaml", ".offbeat/"}  # files that a page lets its reader make
DECISION_LINES_MAX = 40
SUFFIXES = "py|sql|html|css|js|md|toml|json|yml|yaml|svg|patch"
FILE = re.compile(rf"(?<![\w/{{}}:.-])[\w.-]+(?:/[\w.-]+)*\.(?:{SUFFIXES})\b(?!/)")
FOLDER = re.compile(r"`([\w.-]+(?:/[\w.-]+)*/)`")
NAME_IN_FILE = re.compile(r"`(\w+)`(?:(?: [a-z ]*)?and (?:[a-z ]*)?`(\w+)`)?(?:, both)? in\s+`([\w./-]+\.py)`")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)?(?:#([\w-]+))?\)")
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
STANDS_FOR_ANY = {"NAME.py", "KIND.py", "NNNN_words.sql"}
# In the recipe of a rule its modules are named by their file alone.
SHORT = ("server/offbeat_server/engine/rules/", "server/offbeat_server/", "client/offbeat/", "")
PACKAGE = "server/offbeat_server/"
FOLDER_NAMES = {path.name for path in (ROOT / PACKAGE).rglob("*") if path.is_dir()}


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def exists(path: str, document: str) -> bool:
    """Whether it is there: named in full, from a package or the document's folder on, or by its last name alone."""
    if path.rstrip("/") in FOLDER_NAMES or path in OF_READERS:
        return True
    beside = f"{Path(document).parent.as_posix()}/"
    folders = ("", PACKAGE, "client/", beside) if "/" in path else (*SHORT, beside)
    return any((ROOT / folder / path).exists() for folder in folders)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_that_is_named_exists(document: str) -> None:
    text = re.sub(r"\]\([^)]*\)", "]", text_of(document))
    named = {path for path in (*FILE.findall(text), *FOLDER.findall(text)) if path.split("/")[-1] not in STANDS_FOR_ANY}
    missing = sorted(path for path in named if not exists(path, document))
    assert not missing, f"{document} names what is not there: {', '.join(missing)}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document: str) -> None:
    for path, anchor in LINK.findall(text_of(document)):
        target = (ROOT / document).parent / path if path else ROOT / document
        assert target.exists(), f"{document}: {path}"
        if anchor:
            headings = HEADING.findall(target.read_text(encoding="utf-8"))
            anchors = {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{document}: {path}#{anchor}"


def test_every_name_of_a_recipe_is_in_its_file() -> None:
    names = NAME_IN_FILE.findall(text_of("CONTRIBUTING.md"))
    assert len(names) > 15
    for first, second, path in names:
        for name in filter(None, (first, second)):
            assert re.search(rf"\b{name}\b", text_of(path)), f"CONTRIBUTING.md: {name} is not in {path}"


def test_a_ping_makes_at_most_a_dozen_stops_and_each_is_a_module() -> None:
    way = text_of(ARCHITECTURE).partition("## A ping")[2].partition("\n## ")[0]
    stops = re.findall(r"^\| (\d+) \| `([^`]+)` \|", way, re.MULTILINE)
    assert [int(number) for number, _ in stops] == list(range(1, len(stops) + 1))
    assert 6 <= len(stops) <= 12
    for _, path in stops:
        assert (ROOT / PACKAGE / path).is_file(), path


def test_every_participant_of_a_diagram_is_a_module_or_the_world_outside() -> None:
    names = re.findall(r"^ +participant (?:\w+ as )?(.+)$", text_of(ARCHITECTURE), re.MULTILINE)
    outside = {"job", "browser", "receiver", "Postgres"}
    assert len(names) > 20
    assert not [name for name in names if name not in outside and not (ROOT / PACKAGE / name).is_file()]


def test_the_picture_of_the_packages_is_what_the_linter_enforces() -> None:
    picture = text_of(ARCHITECTURE).partition("flowchart TD\n")[2].partition("```")[0]
    arrows = [line.split("-->") for line in picture.strip().splitlines()]
    drawn = {(upper.strip(), lower.strip()) for upper, lowers in arrows for lower in lowers.split("&")}
    layers = text_of(".importlinter").partition("layers =\n")[2].partition("exhaustive")[0]
    rows = [[name.strip() for name in row.split("|")] for row in layers.strip().splitlines()]
    assert drawn == {(upper, lower) for above, below in pairwise(rows) for upper in above for lower in below}


@pytest.mark.parametrize(("contract", "key"), [("api", "modules"), ("pages", "forbidden_modules")])
def test_the_contracts_of_the_api_name_each_of_its_modules(contract: str, key: str) -> None:
    linter = ConfigParser()
    linter.read(ROOT / ".importlinter")
    listed = linter[f"importlinter:contract:{contract}"][key].split()
    shared = {"__init__", "openapi", "routes", "schemas"}  # what the others need, and what lists them
    names = {
        path.stem for path in (ROOT / PACKAGE / "web" / "api").iterdir() if not path.name.startswith("__pycache__")
    }
    assert sorted(listed) == sorted(f"offbeat_server.web.api.{name}" for name in names - shared)


def test_decisions_are_short_and_listed() -> None:
    index = text_of("docs/development/decisions/README.md")
    for path in DECISIONS:
        name, text = path.rpartition("/")[2], text_of(path)
        assert text.count("\n") <= DECISION_LINES_MAX, f"{name} has more than {DECISION_LINES_MAX} lines"
        if name != "README.md":
            number, title = re.fullmatch(r"# (\d+)\. (.+)", text.partition("\n")[0]).groups()  # type: ignore[union-attr]
            assert f"[{number} {title}]({name})" in index, f"the index does not list {name} by its title"
            assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]


def test_a_path_that_is_gone_is_found() -> None:
    text = "a `web/ui/gone.py`, `db/sql/` and `server/offbeat_server/gone/`; `engine/rules/NAME.py`, /api/v1/x.json"
    assert FILE.findall(text) == ["web/ui/gone.py", "engine/rules/NAME.py"]
    assert [path for path in ("web/ui/gone.py", *FOLDER.findall(text)) if not exists(path, ARCHITECTURE)] == [
        "web/ui/gone.py",
        "server/offbeat_server/gone/",
    ]


def test_the_hooks_are_the_tools_of_make_check() -> None:
    recipe = text_of("Makefile").partition("\ncheck:")[2].partition("\n\n")[0]
    tools = re.findall(r"@\$\(BIN\)/([\w-]+(?: (?!-)\w+| -m [\w.]+)?)", recipe)
    hooks = yaml.safe_load(text_of(".pre-commit-config.yaml"))["repos"][0]["hooks"]
    entries = [hook["entry"] for hook in hooks if hook["language"] == "system"]
    assert len(tools) == 6
    assert [re.sub(r" --.*", "", entry.removeprefix(".venv/bin/")) for entry in entries] == tools


def test_ci_runs_what_every_change_must_pass_on_the_oldest_python() -> None:
    job = yaml.safe_load(text_of(".github/workflows/ci.yml"))["jobs"]["run"]
    assert ".ci/run" in [step.get("run") for step in job["steps"]]
    oldest = re.search(r'requires-python = ">=([\d.]+)"', text_of("pyproject.toml"))
    assert oldest is not None
    assert job["container"]["image"].startswith(f"python:{oldest[1]}-")


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.name)
def test_every_file_for_the_forge_can_be_read(path: Path) -> None:
    read = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.parent.name == "ISSUE_TEMPLATE" and path.name != "config.yml":
        assert {"name", "description", "body"} <= read.keys()
        fields = [field for field in read["body"] if field["type"] != "markdown"]
        assert all(field["attributes"]["label"] for field in fields)
        assert len({field["id"] for field in fields}) == len(fields)
