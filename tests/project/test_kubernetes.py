"""The manifests for Kubernetes in the documentation and on the page of a monitor have the fields that Kubernetes knows.

The schemas are those of the newest Kubernetes that the package `kubernetes-validate` has. An unknown field is an error.
"""

import re
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml

from offbeat_server.engine.model.definition import read_definition
from offbeat_server.web.ui.snippets import snippets
from tests.support.harness import ROOT

_BLOCK = re.compile(r"^( *)```ya?ml[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
DEFINITIONS: list[dict[str, Any]] = [
    {"cron": "0 2 * * *", "timezone": "Europe/Berlin"},
    {"every": "5m"},
    {"members": {"every": "10s"}},
]


def manifests_in(text: str) -> Iterator[dict[str, Any]]:
    for manifest in yaml.safe_load_all(text):
        if isinstance(manifest, dict) and {"apiVersion", "kind"} <= manifest.keys():
            yield manifest


def documented() -> Iterator[Any]:
    for path in sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")]):
        for _, block in _BLOCK.findall(path.read_text()):
            for manifest in manifests_in(block) if "apiVersion:" in block else ():
                yield pytest.param(manifest, id=f"{path.name}-{manifest['metadata']['name']}")
    for path in sorted([*ROOT.glob("deploy/**/*.yaml"), *ROOT.glob("deploy/**/*.yml")]):
        for manifest in manifests_in(path.read_text()):
            yield pytest.param(manifest, id=f"{path.name}-{manifest['metadata']['name']}")


def problem_of(manifest: dict[str, Any]) -> str:
    """Return what the schema says against a manifest; empty if it is valid."""
    try:
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    except kubernetes_validate.ValidationError as error:
        return str(error).partition("\n")[0]
    return ""


@pytest.mark.parametrize("manifest", list(documented()))
def test_a_manifest_of_the_documentation_is_valid(manifest: dict[str, Any]) -> None:
    assert not problem_of(manifest)


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda definition: next(iter(definition)))
def test_the_manifest_on_the_page_of_a_monitor_is_valid(definition: dict[str, Any]) -> None:
    shown = snippets("http://host/ping", "http://host", "key", read_definition(definition))
    (text,) = (snippet.text for snippet in shown if snippet.place == "Kubernetes")
    manifests = list(manifests_in(text))
    assert manifests and not any(map(problem_of, manifests))


def test_a_wrong_manifest_is_found() -> None:
    manifests = [each.values[0] for each in documented()]
    assert {"CronJob", "Job"} <= {manifest["kind"] for manifest in manifests}
    job = next(manifest for manifest in manifests if manifest["kind"] == "Job")
    pod = job["spec"]["template"]["spec"]
    for wrong in ({**pod, "restartPolcy": "Never"}, {**pod, "containers": "one"}):
        assert problem_of({**job, "spec": {**job["spec"], "template": {"spec": wrong}}})
