"""The reference is complete and is that of the code: `python -m docs.generate` writes it again."""

from typing import Any

import jsonschema_rs
import pytest
import yaml

from docs.generate import FOLDER, PAGES, alert_payload, channels, limits, markdown, metrics, monitor, pings, text_of
from docs.generate import settings as settings_page
from offbeat_server.config import Settings
from offbeat_server.engine.model import definition
from offbeat_server.notify.channels.registry import KINDS, read_channel
from offbeat_server.notify.messages.payload_schema import SENT, webhook_schema
from offbeat_server.services.documents import ListedMonitor
from tests.support.harness import Postgres, Server


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_the_code_generates(name: str) -> None:
    assert (FOLDER / name).read_text() == text_of(name), "run: python -m docs.generate"


def test_every_page_of_the_folder_is_generated() -> None:
    assert {path.name for path in FOLDER.glob("*.md")} == set(PAGES)


def test_the_example_of_a_monitor_is_one() -> None:
    fields = yaml.safe_load(monitor.EXAMPLE)
    assert ListedMonitor.model_validate(fields).slug == "nightly-etl"


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_of_a_channel_is_one(kind: str) -> None:
    fields: dict[str, Any] = yaml.safe_load(channels.example(kind))["channels"]["oncall"]
    assert read_channel(fields.pop("kind"), fields).kind == kind


@pytest.mark.parametrize("name", SENT)
def test_the_example_of_an_alert_fits_the_schema(name: str) -> None:
    jsonschema_rs.Draft202012Validator(webhook_schema()).validate(alert_payload.example(name))


def test_a_new_field_without_a_description_is_found() -> None:
    class Wider(definition.AtMost):
        undescribed: int = 1

    schema = Wider.model_json_schema()
    with pytest.raises(markdown.Missing, match=r"Wider\.undescribed"):
        markdown.fields(schema, {})
    with pytest.raises(markdown.Missing, match=r"Wider\.undescribed"):
        markdown.answer_fields(schema, {})


def test_a_new_field_of_monitors_must_get_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "GROUPS", {**monitor.GROUPS, "Runs": monitor.GROUPS["Runs"][1:]})
    with pytest.raises(markdown.Missing, match="max_runtime"):
        monitor.page()


def test_a_parameter_that_a_protocol_reads_must_be_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(pings.CRONITOR, "series")
    with pytest.raises(markdown.Missing, match="series"):
        pings.page()


def test_limits_name_every_setting_that_is_one() -> None:
    fields = list(Settings.model_fields)
    of_limits = fields[fields.index(settings_page.FIRST_LIMIT) :]
    # How much is written at once, and how a stop goes: nothing is refused at these.
    others = {"batch_pings_max", "batch_bytes_max", "writer_silent_max", "drain_delay", "stop_timeout"}
    page = limits.page()
    assert {name for name in of_limits if f"`--{name.replace('_', '-')}`" not in page} == others


async def test_every_metric_of_a_server_is_listed(postgres: Postgres) -> None:
    async with postgres.fresh() as url, Server(url) as server, server.session.get(server.url + "/metrics") as answer:
        text = await answer.text()
    exported = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE offbeat_")}
    assert len(exported) > 30
    assert exported <= metrics.names()
