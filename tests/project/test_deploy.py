"""The files for running Offbeat: they parse, whom they are for accepts them, and the metrics they name exist."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest

from offbeat_server.observability.metrics import READINGS, Metrics
from tests.support.harness import needs

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def run(*command: str | Path, cwd: Path = DEPLOY) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def known_metrics() -> set[str]:
    text = generate_latest(Metrics("0").registry).decode()
    names = set(re.findall(r"^([a-z_]+)[{ ]", text, re.MULTILINE))
    for name, reading in READINGS.items():
        names.add(f"offbeat_{name}" + ("_total" if reading.kind == "counter" else ""))
    return names


def test_prometheus_takes_configuration_and_rules() -> None:
    needs("promtool")
    assert "SUCCESS" in run("promtool", "check", "config", "prometheus.yml")
    assert "SUCCESS" in run("promtool", "check", "rules", "alerts.yml")


def test_alerts_fire_where_they_should() -> None:
    needs("promtool")
    assert "SUCCESS" in run("promtool", "test", "rules", "alerts_test.yml", cwd=ROOT / "tests" / "fixtures")


def rules() -> list[dict[str, Any]]:
    [group] = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    alert_rules: list[dict[str, Any]] = group["rules"]
    return alert_rules


def test_every_alert_is_tested_and_explains_itself() -> None:
    cases = (ROOT / "tests" / "fixtures" / "alerts_test.yml").read_text()
    for rule in rules():
        assert f'{{alertname="{rule["alert"]}", alertstate="firing"' in cases or "DeadMans" in rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning", "none")
        assert set(rule["annotations"]) == {"summary", "description"}


@pytest.mark.parametrize("file", ["alerts.yml", "grafana/offbeat.json", "../tests/fixtures/alerts_test.yml"])
def test_only_metrics_that_exist_are_named(file: str) -> None:
    text = re.sub(r"#.*", "", (DEPLOY / file).read_text())
    named = set(re.findall(r"\boffbeat_[a-z_]+[a-z]\b", text))
    assert named, file
    assert named <= known_metrics(), named - known_metrics()


def test_the_dashboard_can_be_imported_anywhere() -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "offbeat.json").read_text())
    assert dashboard["id"] is None and dashboard["uid"] == "offbeat" and dashboard["schemaVersion"]
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == ["datasource", "job", "instance"]
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in panels:
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert "$instance" in target["expr"] and "[5m]" not in target["expr"]


def test_the_dashboards_queries_are_promql(tmp_path: Path) -> None:
    needs("promtool")
    dashboard = json.loads((DEPLOY / "grafana" / "offbeat.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    records = [
        {"record": f"panel:{n}", "expr": expression.replace("$__rate_interval", "1m")}
        for n, expression in enumerate(expressions)
    ]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": records}]}))
    run("promtool", "check", "rules", "panels.yml", cwd=tmp_path)


def test_compose_starts_offbeat_with_postgres_and_prometheus() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = compose["services"]
    assert {"postgres", "offbeat", "prometheus"} <= {name for name, s in services.items() if "profiles" not in s}
    assert (DEPLOY / services["offbeat"]["build"]["context"] / services["offbeat"]["build"]["dockerfile"]).exists()
    for service in services.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (DEPLOY / source).exists(), volume
        # Nothing is open to the network, no secret has a default, and an image is always the same one.
        assert all(port.startswith(("127.0.0.1:", "${BIND_ADDRESS:-127.0.0.1}:")) for port in service.get("ports", []))
        assert "build" in service or re.fullmatch(r"[a-z/]+:v?\d+\.\d+(\.\d+)?", service["image"])
    text = (DEPLOY / "compose.yaml").read_text()
    assert set(re.findall(r"\$\{POSTGRES_PASSWORD[^}]*\}", text)) == {"${POSTGRES_PASSWORD:?set it in deploy/.env}"}
    # Prometheus finds Offbeat by the name that Offbeat reports.
    assert services["offbeat"]["hostname"] == "offbeat"
    assert "http://offbeat:8080/sd/prometheus" in (DEPLOY / "prometheus.yml").read_text()


def test_the_image_runs_without_root_and_says_when_it_is_ready() -> None:
    lines = (DEPLOY / "Dockerfile").read_text()
    last_stage = lines[lines.rindex("\nFROM") :]
    user = re.search(r"^USER (\S+)$", last_stage, re.MULTILINE)
    assert user and user[1] not in ("root", "0")
    assert "HEALTHCHECK" in last_stage and "/readyz" in last_stage
    assert "OFFBEAT_HOST=0.0.0.0" in last_stage, "the default is loopback, which is the container's own"
    copied = {name for names in re.findall(r"^COPY (?!--from)(.+) \S+$", lines, re.MULTILINE) for name in names.split()}
    allowed = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert all(f"!{name}" in allowed and (ROOT / name).exists() for name in copied)
    for path in (*(ROOT / "client").rglob("*"), *(ROOT / "server").rglob("*")):
        assert not path.is_symlink() or path.resolve().relative_to(ROOT).parts[0] in copied, path


@pytest.mark.parametrize(("extras", "requirement"), [("", "."), ("embedded", ".[embedded]")])
def test_the_image_installs_the_server_with_and_without_extras(extras: str, requirement: str) -> None:
    (command,) = re.findall(
        r"^RUN /opt/offbeat/bin/pip install (.*)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE
    )
    shell = f"EXTRAS={extras}; printf '%s\\n' {command}"
    assert run("sh", "-c", shell).splitlines()[-1] == requirement


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = (DEPLOY / "offbeat.service").read_text()
    (tmp_path / "offbeat.service").write_text(unit.replace("/opt/offbeat/bin/offbeat", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / "offbeat.service"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "offbeat.service" not in done.stderr, done.stderr


def test_the_unit_is_started_again_however_often_a_start_ends() -> None:
    lines = (DEPLOY / "offbeat.service").read_text().splitlines()
    section = lines[lines.index("[Unit]") : lines.index("[Service]")]
    assert "StartLimitIntervalSec=0" in section  # elsewhere systemd ignores it
    assert "Restart=always" in lines and not any(line.startswith("RestartPreventExitStatus") for line in lines)


def test_alertmanager_takes_its_configuration() -> None:
    needs("amtool")
    run("amtool", "check-config", "alertmanager.yml")
