"""Signing secrets that Offbeat generates: shown once, kept when a file is applied again, verified by the receiver."""

from pathlib import Path
from typing import Any

import pytest

from offbeat_server.common.errors import DefinitionError, SettingsError
from offbeat_server.notify.channels.registry import read_channel
from offbeat_server.notify.channels.webhook import Webhook
from offbeat_server.services.config_apply import apply_file, read_file
from tests.integration.notify.test_channel_webhook import verify
from tests.support.clients.command import file_with, offbeat
from tests.support.harness import Receiver, Server
from tests.support.servers.api_server import serving

URL = "https://hooks.example.org/a"


def read(definition: dict[str, Any], stored: dict[str, Any] | None = None) -> tuple[str, ...]:
    """The signing secrets of a webhook as it would be stored."""
    channel = read_channel("webhook", definition, stored)
    assert isinstance(channel, Webhook)
    return channel.secrets


def test_a_secret_is_generated_once_for_each_receiver() -> None:
    (secret,) = read({"url": URL, "secrets": ["generate"]})
    assert secret.startswith("whsec_") and (secret,) != read({"url": URL, "secrets": ["generate"]})
    stored = {"url": URL, "secrets": [secret, "whsec_" + "A" * 32]}
    assert read({"url": URL, "secrets": ["generate"]}, stored) == tuple(stored["secrets"])
    assert read({"url": URL + "/b", "secrets": ["generate"]}, stored) == tuple(stored["secrets"])
    moved = read({"url": "https://other.example.org/a", "secrets": ["generate"]}, stored)
    assert len(moved) == 1 and moved[0] not in stored["secrets"], "what one receiver knows signs nothing for another"
    assert read({"url": URL, "secrets": ["generate"]}, {"url": URL}) != ()
    for wrong in (["generate", secret], ["generate", "generate"], "generate", ["Generate"]):
        with pytest.raises(DefinitionError, match="secrets"):
            read({"url": URL, "secrets": wrong}, stored)


async def test_the_secret_is_in_the_answer_that_made_it_and_in_no_other(database_url: str) -> None:
    async with serving(database_url) as api:
        hook = {"kind": "webhook", "url": URL, "secrets": ["generate"]}
        created = await api("PUT", "/channels/ops", hook)
        secret = created.body["new_secret"]
        assert created.status == 201 and created.body["secrets"] == ["•••"] and secret.startswith("whsec_")
        for again in (await api("PUT", "/channels/ops", hook), await api("GET", "/channels/ops")):
            assert again.status == 200 and "new_secret" not in again.body
            assert again.headers["ETag"] == created.headers["ETag"]
        plain = await api("PUT", "/channels/given", {**hook, "secrets": [secret]})
        assert plain.status == 201 and "new_secret" not in plain.body, "they know what they gave"

        async def stored() -> list[str]:
            secrets: list[str] = await api.pool.fetchval(
                "select array(select jsonb_array_elements_text(definition -> 'secrets')) from channels where slug = $1",
                "ops",
            )
            return secrets

        rolled = await api("POST", "/channels/ops/secrets", {})
        assert rolled.status == 201
        second = rolled.body["new_secret"]
        assert await stored() == [second, secret], "both sign, so that the receiver can change over"
        third = (await api("POST", "/channels/ops/secrets", {})).body["new_secret"]
        assert await stored() == [third, second, secret], "a repeated request does not break the receiver"
        for _ in range(3):
            await api("POST", "/channels/ops/secrets", {})
        assert len(await stored()) == 5 and await stored() == [*(await stored())[:3], third, second]
        only = await api("POST", "/channels/ops/secrets", {"keep_former": False})
        assert await stored() == [only.body["new_secret"]]
        stale = await api("POST", "/channels/ops/secrets", {}, headers={"If-Match": created.headers["ETag"]})
        assert stale.status == 412
        assert (await api("POST", "/channels/nobody/secrets", {})).status == 404
        refused = await api("POST", "/channels/log/secrets", {})
        assert refused.status == 409 and "only webhook channels" in refused.body["detail"]
        changes = str((await api("GET", "/changes?kind=channel")).body)
        assert "whsec_" not in changes and "secrets" in changes


async def test_a_file_generates_a_secret_once(database_url: str, tmp_path: Path) -> None:
    async with Receiver() as receiver, Server(database_url, "--allow-private-destinations") as server:
        file = file_with(
            tmp_path, "m.yaml", f"channels: {{ops: {{kind: webhook, url: '{receiver.url}', secrets: [generate]}}}}"
        )
        assert "whsec_" not in (await offbeat("apply", file, "--dry-run", url=server.url)).out
        output = (await offbeat("apply", file, url=server.url)).out
        assert "channel ops: signing secret whsec_" in output and "not shown again" in output
        first = output.partition("signing secret ")[2].split()[0]
        again = await offbeat("apply", file, "--json", url=server.url)
        assert again.json["counts"]["unchanged"] == 1 and again.json["new_secrets"] == []
        second = (await offbeat("channels", "secret", "ops", url=server.url)).out.strip()
        assert (await offbeat("apply", file, "--json", url=server.url)).json["counts"]["unchanged"] == 1
        assert (await offbeat("channels", "test", "ops", url=server.url)).code == 0
        assert all(verify(receiver.requests[-1], secret) for secret in (first, second))
        only = await offbeat("channels", "secret", "ops", "--only", "--json", url=server.url)
        assert (await offbeat("channels", "test", "ops", url=server.url)).code == 0
        assert verify(receiver.requests[-1], only.json["new_secret"]) and not verify(receiver.requests[-1], second)


async def test_the_start_generates_no_secret_because_no_client_would_see_it(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "m.yaml"
    file.write_text(f"channels: {{ops: {{kind: webhook, url: '{URL}', secrets: [generate]}}}}")
    async with serving(database_url) as api:
        with pytest.raises(SettingsError, match=r"channels\.ops\.secrets: \[generate\] is not possible in --config"):
            await apply_file(api.deps.context, file, await read_file(file))
        assert (await api("GET", "/channels/ops")).status == 404, "nothing was changed"
        hook = {"kind": "webhook", "url": URL, "secrets": ["generate"]}
        assert (await api("PUT", "/channels/ops", hook)).status == 201
        assert (await apply_file(api.deps.context, file, await read_file(file))).counts.unchanged == 1
