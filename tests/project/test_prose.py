"""The prose linter finds what english.md forbids, at its line, and passes what english.md recommends."""

import re
from pathlib import Path

import pytest

from tests.project import prose
from tests.project.prose import ROOT, Passage, findings, lint, main, passages, rules

# One sentence for each rule of docs/development/prose.toml.
FORBIDDEN = {
    "no-actor": "Nobody is notified.",
    "whatever": "The job runs whatever happens.",
    "so-much": "So many pings may come in a minute.",
    "told": "The channel is told of the end.",
    "heard": "A member that was not heard for an hour is silent.",
    "looked-after": "An incident that a person looks after.",
    "where-it": "The number is shown. Where it is missing, the default counts.",
    "who-subject": "Who has the key may send pings.",
    "headless-what": "What is due at noon is decided at noon.",
    "anew": "The file is written anew.",
    "all-the-same": "The alert is sent all the same.",
    "is-no-more": "A member that is no more has no deadline.",
    "lacks": "The log lacks a ping.",
    "old-terms": "The courier sends alerts.",
    "judge": "The scheduler judges deadlines.",
    "see-the-module": "See the module.",
    "ours": "An error of ours.",
    "by-and-by": "The row was changed meanwhile.",
    "idioms": "The server waits in vain.",
    "idioms-of-hands-and-words": "The lease is in the scheduler's hands.",
    "blame": "A failed run is blamed on its stage.",
    "away-and-along": "The key was taken away.",
    "goes-on": "The job goes on.",
    "any-more": "The monitor does not exist any more.",
    "on-record": "The outage is on record.",
    "nothing-but": "It needs nothing but Python.",
    "outcome": "The report says what came of it.",
    "state-idioms": "The scheduler is well.",
}
ALLOWED = [
    "So long as the lease is held, the scheduler evaluates deadlines.",
    "What for? Where is the log? Who may read it?",
    "The server answers with 503 if Postgres cannot be reached.",
    "No more than five alerts are sent; there are no more than five.",
]


def found_in(text: str, kind: str = "page") -> set[str]:
    return {finding.rule for finding in findings(Passage("a.md", 1, kind, text), rules())}


def test_every_rule_has_an_example_that_it_finds() -> None:
    assert {rule.name for rule in rules()} == FORBIDDEN.keys()
    for name, sentence in FORBIDDEN.items():
        assert name in found_in(sentence), sentence
        for space in range(sentence.count(" ")):
            words = sentence.split(" ")
            wrapped = "\n  ".join([" ".join(words[: space + 1]), " ".join(words[space + 1 :])])
            assert name in found_in(wrapped), f"a sentence may go over a line's end: {wrapped}"


def test_what_the_style_guide_recommends_is_allowed() -> None:
    guide = (ROOT / "docs" / "development" / "english.md").read_text()
    examples = re.findall(r"^\| (.+?\.) \| (.+?\.) \|$", guide, re.MULTILINE)
    assert len(examples) >= 5
    for _, recommended in examples:
        assert not found_in(recommended), recommended
    for sentence in ALLOWED:
        assert not found_in(sentence), sentence


@pytest.mark.parametrize(
    ("name", "text", "kind", "line"),
    [
        ("a.md", "# Title\n\n```\nnobody\n```\n`nobody` and\nnobody else\n", "page", 7),
        ("a.py", '"""Do it.\n\nNobody waits."""\n', "docstring", 3),
        ("a.py", 'class A:\n    """Do it.\n\n    For\n    nobody.\n    """\n', "docstring", 5),
        ("a.py", "a = 1\n# Waits until\n# nobody is left.\n", "comment", 3),
        ("a.py", 'a = f"the number {1} is\\n what nobody has seen"\n', "text", 1),
        ("tests/a.py", 'assert 1 == 2, (\n    "what nobody has seen"\n)\nb = "what nobody reads here"\n', "text", 2),
        ("tests/a.py", 'b = "what nobody reads"\nraise ValueError(\n    f"{1} that nobody knows")\n', "text", 3),
        ("tests/a.py", 'a("what nobody reads")\npytest.skip("what nobody runs here")\n', "text", 2),
        ("tests/a.py", "def test_nobody_is_notified() -> None:\n    pass\n", "name", 1),
        ("a.sql", "-- name: a\n-- Rows that\n-- nobody has.\nselect 1\n", "sql", 3),
        ("a.html", '{# nobody #}\n<p title="nobody">{{ nobody }}</p>\n<p>nobody</p>\n', "template", 3),
        ("pyproject.toml", '[project]\nname = "nobody"\ndescription = "Told by nobody."\n', "text", 3),
    ],
)
def test_prose_is_found_in_every_kind_of_file(
    name: str, text: str, kind: str, line: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prose, "ROOT", tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    found = [
        (passage.kind, finding.line)
        for passage in passages(tmp_path / name)
        for finding in findings(passage, rules())
        if finding.rule == "no-actor"
    ]
    assert [at for at in found if at[0] == kind] == [(kind, line)]


def test_findings_are_printed_with_their_line_and_fail_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prose, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("A sentence.\n\nNobody was told.\n\nThe answer is crystal clear at this moment in time.\n")
    assert main([str(page)]) == 1
    printed = capsys.readouterr().out
    assert "page.md:3: no-actor: " in printed
    assert "page.md:3: told: " in printed
    assert re.search(r"page\.md:5: [a-z_.]+: ", printed), "proselint's checks count too"
    page.write_text("The server sends an alert.\n")
    assert main([str(page)]) == 0


def test_no_file_is_skipped_that_does_not_exist() -> None:
    assert list(lint([])) == []
    names = [path.relative_to(ROOT).as_posix() for path in prose.files()]
    for pattern in prose.skipped():
        assert any(pattern.match(name) for name in names), pattern.pattern
