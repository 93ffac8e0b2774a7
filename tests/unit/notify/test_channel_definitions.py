"""Definitions of channels: refused whole with every wrong field named, shown with their secrets masked."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from offbeat_server.common.errors import DefinitionError
from offbeat_server.notify.channels import apprise
from offbeat_server.notify.channels.registry import (
    KINDS,
    MASK,
    dump_channel,
    kinds,
    load_channel,
    read_channel,
    show_channel,
)
from offbeat_server.notify.channels.webhook import Webhook, new_secret

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
GOOD: dict[str, dict[str, Any]] = {
    "webhook": {"url": "https://example.org/hook?token=hunter2", "secrets": [SECRET], "headers": {"X-Key": "hunter2"}},
    "email": {"to": ["oncall@example.org"], "host": "mail.example.org", "username": "bob", "password": "hunter2"},
    "slack": {"url": "https://hooks.slack.com/services/T0/B0/hunter2"},
    "discord": {"url": "https://discord.com/api/webhooks/1/hunter2"},
    "telegram": {"token": "123456:ABC-hunter2-ABCDEFGHIJKL", "chat": -100123},
    "msteams": {"url": "https://prod-1.westeurope.logic.azure.com/workflows/hunter2?sig=hunter2"},
    "ntfy": {"topic": "alerts", "token": "tk_hunter2"},
    "pagerduty": {"routing_key": "hunter2" + "0" * 25},
    "opsgenie": {"api_key": "hunter2-0000-0000"},
    "alertmanager": {"urls": ["http://am-1:9093", "http://am-2:9093"], "token": "hunter2"},
    "apprise": {"urls": ["pover://hunter2@token"]},
    "log": {},
}


def test_every_kind_has_an_example_here() -> None:
    assert GOOD.keys() == KINDS.keys() == kinds().keys()


@pytest.mark.parametrize("kind", KINDS)
def test_a_definition_goes_in_and_out(kind: str) -> None:
    channel = read_channel(kind, GOOD[kind])
    stored = dump_channel(channel)
    assert load_channel(kind, orjson.dumps(stored).decode()) == channel


@pytest.mark.parametrize("kind", KINDS)
def test_no_secret_is_shown_and_a_shown_definition_can_be_sent_back(kind: str) -> None:
    stored = dump_channel(read_channel(kind, GOOD[kind]))
    shown = show_channel(kind, stored)
    assert "hunter2" not in repr(shown) and SECRET not in repr(shown)
    assert read_channel(kind, shown, stored) == read_channel(kind, GOOD[kind])
    if MASK in repr(shown):
        with pytest.raises(DefinitionError, match="but no stored secret fits it"):
            read_channel(kind, shown)


@pytest.mark.parametrize(("kind", "field"), [("alertmanager", "urls"), ("ntfy", "server"), ("telegram", "api")])
def test_a_password_in_the_address_of_ones_own_server_is_not_shown(kind: str, field: str) -> None:
    given: Any = ["https://bob:s3cret@example.org/", "https://example.net"]
    definition = {**GOOD[kind], field: given if field == "urls" else given[0]}
    stored = dump_channel(read_channel(kind, definition))
    shown = show_channel(kind, stored)
    assert "s3cret" not in repr(shown) and "https://example.org/" in repr(shown)
    assert read_channel(kind, shown, stored) == read_channel(kind, definition)


@pytest.mark.parametrize(
    ("kind", "stored", "fine", "elsewhere"),
    [
        (
            "webhook",
            {"url": "https://a.example/x", "headers": {"X-Key": "s3cret"}},
            {"url": "https://a.example/y", "method": "PUT"},
            {"url": "https://b.example/x"},
        ),
        (
            "alertmanager",
            {"urls": ["https://a.example", "https://b.example"], "token": "s3cret"},
            {"urls": ["https://b.example"]},
            {"urls": ["https://b.example", "https://c.example"]},
        ),
        ("ntfy", {"topic": "t", "token": "s3cret"}, {"server": "https://ntfy.sh"}, {"server": "http://ntfy.sh"}),
        (
            "email",
            {"to": ["a@example.org"], "host": "mail.example", "username": "bob", "password": "s3cret"},
            {"security": "starttls", "to": ["b@example.org"]},
            {"security": "none"},
        ),
    ],
)
def test_a_masked_secret_is_sent_to_no_other_address(
    kind: str, stored: dict[str, Any], fine: dict[str, Any], elsewhere: dict[str, Any]
) -> None:
    """Otherwise a user who may change a channel could read secrets there that are never shown."""
    shown = show_channel(kind, stored)
    assert "s3cret" in repr(read_channel(kind, {**shown, **fine}, stored))
    with pytest.raises(DefinitionError, match="but the receiver has changed: send the complete secret"):
        read_channel(kind, {**shown, **elsewhere}, stored)
    read_channel(kind, {**stored, **elsewhere}, stored)


def test_what_a_mask_leaves_of_an_address() -> None:
    for url, shown in (
        ("https://example.org/hook/x", f"https://example.org/{MASK}"),
        ("https://bob:pw@example.org:8443/", f"https://example.org:8443/{MASK}"),
        ("https://example.org/", "https://example.org/"),
    ):
        assert show_channel("webhook", {"url": url}) == {"url": shown}


@pytest.mark.parametrize(
    ("kind", "definition", "problem"),
    [
        ("pigeon", {}, "kind: must be one of webhook, "),
        ("webhook", {}, "url: is missing"),
        ("webhook", {"url": "https://x", "adress": 1}, "adress: there is no such field"),
        ("webhook", {"url": "ftp://x/y"}, "url: must be an address that begins with http:// or https://"),
        ("webhook", {"url": "https://"}, "url: must be"),
        ("webhook", {"url": "https://x", "secrets": ["whsec_abc"]}, "secrets.0: must be whsec_ and the base64 of 24"),
        ("webhook", {"url": "https://x", "headers": {"A B": "c"}}, "headers: 'A B' is not a header's name"),
        ("webhook", {"url": "https://x", "headers": {"Webhook-Id": "1"}}, "headers: Webhook-Id is set by Offbeat"),
        ("webhook", {"url": "https://x", "headers": {"A": "b\r\nC: d"}}, "headers: A must be one line"),
        ("webhook", {"url": "https://x", "body": "{{nope}}"}, "body: {{nope}}: no such field"),
        ("webhook", {"url": "https://x", "per_minute": 0}, "per_minute: must be at least 1"),
        ("email", {"to": []}, "to: "),
        ("email", {"to": ["not an address"]}, "to.0: must be an e-mail address"),
        ("email", {"to": ["a@b.org\nBcc: c@d.org"]}, "to.0: must be an e-mail address"),
        ("telegram", {"token": "x", "chat": 1}, "token: "),
        ("ntfy", {"topic": "a/b"}, "topic: "),
        ("pagerduty", {"routing_key": "short"}, "routing_key: "),
        ("alertmanager", {"urls": []}, "urls: "),
        ("alertmanager", {"urls": ["http://a"], "labels": {"1a": "b"}}, "labels.1a"),
        *(
            ("apprise", {"urls": [f"{scheme}://x/y"]}, f"urls.0: {scheme}:// is not one of the services that are")
            for scheme in (
                *[
                    "syslog",
                    "SYSLOG",
                    "gio",
                    "glib",
                    "dbus",
                    "kde",
                    "qt",
                    "macosx",
                    "windows",
                    "blink1",
                    "file",
                    "exec",
                ],
            )
        ),
        *(
            ("apprise", {"urls": [f"{scheme}://x/y"]}, f"urls.0: {scheme}:// is not one of the services that are")
            for scheme in ("fcm", "vapid", "mailto", "mqtt", "nosuchthing")
        ),
        *(
            ("apprise", {"urls": [f"workflows://x/y/z/?{query}"]}, f"urls.0: the parameter {name} may not be used")
            for query, name in (
                ("template=/etc/passwd", "template"),
                ("Template=x", "Template"),
                ("a=b&%74emplate=x", "template"),
                ("-keyfile=k", "-keyfile"),
                ("x=file:///etc/passwd", "x"),
            )
        ),
        ("apprise", {"urls": ["nonsense"]}, "urls.0: must be an address that apprise knows"),
        ("log", {"url": "https://x"}, "url: there is no such field"),
    ],
)
def test_a_wrong_definition_is_refused_with_the_field_and_why(
    kind: str, definition: dict[str, Any], problem: str
) -> None:
    with pytest.raises(DefinitionError) as caught:
        read_channel(kind, definition)
    assert str(caught.value).startswith(problem), str(caught.value)


def test_several_problems_are_reported_at_once() -> None:
    with pytest.raises(DefinitionError) as caught:
        read_channel("telegram", {"token": "x", "topic": 0, "more": 1})
    assert {problem.field.split(".")[0] for problem in caught.value.problems} == {"token", "chat", "topic", "more"}


def test_a_fresh_secret_is_one() -> None:
    assert isinstance(read_channel("webhook", {"url": "https://x", "secrets": [new_secret()]}), Webhook)
    assert new_secret() != new_secret()


def test_apprise_is_refused_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offbeat_server.notify.channels.registry.installed", lambda: False)
    with pytest.raises(DefinitionError, match="pip install"):
        read_channel("apprise", GOOD["apprise"])


def test_the_documented_services_of_apprise_are_those_that_are_allowed() -> None:
    text = (Path(__file__).parents[3] / "docs" / "apprise.md").read_text()
    assert set(text.split("```")[1].split()) == apprise.SCHEMES
    assert all(f"`{name}`" in text for name in apprise.FILE_PARAMETERS)
