"""Every default in the OpenAPI document is what the API reads as that default: generated clients send them all."""

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel, TypeAdapter

from offbeat_server.engine.model.definition import read_definition
from offbeat_server.engine.rules.reasons import warnings
from offbeat_server.notify.channels.registry import KINDS
from offbeat_server.services import documents
from offbeat_server.web.api.openapi import WireDefaults, document
from offbeat_server.web.api.routes import ROUTES


def models_of(annotation: Any) -> set[type[BaseModel]]:
    """The models in a type, and in the types of their fields."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        inside = (models_of(field.annotation) for field in annotation.model_fields.values())
        return {annotation}.union(*inside)
    return set().union(*(models_of(each) for each in get_args(annotation)))


REQUESTS = sorted(
    set().union(
        *(models_of(each) for route in ROUTES for each in (route.body, route.query) if each is not None),
        *(models_of(each) for each in (*documents.LISTED, *KINDS.values())),
    ),
    key=lambda model: model.__name__,
)


def test_the_models_of_requests_are_found() -> None:
    assert {"MonitorBody", "ListedMonitor", "Members", "Stage", "Webhook", "ListedWindow", "ApplyBody"} <= {
        model.__name__ for model in REQUESTS
    }


@pytest.mark.parametrize("model", REQUESTS, ids=lambda model: model.__name__)
def test_every_default_of_a_request_is_read_as_the_models_own(model: type[BaseModel]) -> None:
    properties = model.model_json_schema(mode="validation", schema_generator=WireDefaults)["properties"]
    for name, field in model.model_fields.items():
        described = properties[field.alias or name]
        if "default" not in described:
            continue
        read = TypeAdapter(field.rebuild_annotation()).validate_python(described["default"])
        assert read == field.get_default(call_default_factory=True), (name, described["default"])


def test_the_document_has_these_defaults() -> None:
    schemas = document(ROUTES, "1")["components"]["schemas"]
    for name in ("MonitorBody", "NewMonitor", "ListedMonitor"):
        assert schemas[name]["properties"]["grace"]["default"] == "1m"
        assert schemas[name]["properties"]["dependency_wait"]["default"] == "2m"
    [members] = [name for name in schemas if name.startswith("Members") and "Output" not in name]
    assert schemas[members]["properties"]["forget_after"]["default"] == "1d"

    def defaults(value: object) -> Iterator[object]:
        if isinstance(value, dict):
            yield from ([value["default"]] if "default" in value else [])
            for each in value.values():
                yield from defaults(each)
        elif isinstance(value, list):
            for each in value:
                yield from defaults(each)

    numbers = [each for each in defaults(document(ROUTES, "1")) if isinstance(each, int | float)]
    assert numbers and max(numbers) < 100_000, "no length of time in microseconds"


def test_a_body_of_all_defaults_is_the_monitor_that_was_meant() -> None:
    schema = documents.MonitorBody.model_json_schema(schema_generator=WireDefaults)
    sent = {name: each["default"] for name, each in schema["properties"].items() if "default" in each}
    fields = {name: value for name, value in sent.items() if name not in ("key", "keys", "paused")}
    assert read_definition({**fields, "every": "1m"}) == read_definition({"every": "1m"})


@pytest.mark.parametrize(
    ("definition", "warned"),
    [
        ({"every": "1m", "grace": "694d"}, True),
        ({"every": "1m", "grace": "2h"}, True),
        ({"cron": "*/5 * * * *", "grace": "1d"}, True),
        ({"oncalendar": "hourly", "grace": "30d"}, True),
        ({"members": {"every": "10s", "grace": "2h"}}, True),
        ({"every": "1m", "grace": "1h"}, False),
        ({"every": "1m", "grace": "15m"}, False),
        ({"cron": "0 2 * * *", "grace": "3d"}, False),
        ({"every": "1d", "grace": "1h"}, False),
        ({"cron": "0 0 29 2 *", "grace": "60d"}, False),
        ({"oncalendar": "2126-01-01 00:00", "grace": "60d"}, False),
        ({"after": {"monitor": "a", "within": "1m"}, "grace": "2h"}, False),
    ],
)
def test_a_grace_far_beyond_the_period_is_warned_of(definition: dict[str, object], warned: bool) -> None:
    grace_warnings = [each for each in warnings(read_definition(definition), True, 0) if "grace" in each]
    assert len(grace_warnings) == warned, grace_warnings
