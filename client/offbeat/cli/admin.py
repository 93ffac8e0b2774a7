"""`offbeat channels` and `offbeat keys`: where alerts go, and who may manage."""

from typing import Any

import click

from offbeat.cli.client import (
    ApiClient,
    json_option,
    path_of,
    project_filter_option,
    project_option,
    say,
    when,
    with_client,
    write_json,
    write_table,
)

TEST_TIMEOUT_S = 40.0


@click.group("channels", invoke_without_command=True)
@project_filter_option
@json_option
@with_client
def channels_command(client: ApiClient, project: str | None, as_json: bool) -> None:
    """List channels."""
    channels = list(client.pages("/channels", project=project))
    if as_json:
        write_json(channels)
        return
    known = ("slug", "project", "kind", "default", "created_at", "updated_at")
    rows = [
        (
            c["slug"] if c["project"] == "default" else f"{c['project']}/{c['slug']}",
            c["kind"],
            "default" if c["default"] else "",
            ", ".join(f"{name}={value}" for name, value in c.items() if name not in known and value is not None),
        )
        for c in channels
    ]
    write_table(("channel", "kind", "", "fields"), rows, "no channels")


@channels_command.command("test")
@click.argument("slug")
@project_option
@json_option
@with_client
def channel_test(client: ApiClient, slug: str, project: str | None, as_json: bool) -> None:
    """Send a test message; exit code 1 if it is not delivered."""
    result = client("POST", path_of("channels", slug, "test"), timeout_s=TEST_TIMEOUT_S, project=project)
    if as_json:
        write_json(result)
    elif result["state"] == "delivered":
        say(f"{slug}: delivered")
    else:
        say(f"{slug}: {result['error'] or 'not sent yet'} ({result['state']})")
    if result["state"] != "delivered":
        raise click.exceptions.Exit(1)


@channels_command.command("secret")
@click.argument("slug")
@click.option("--only", is_flag=True, help="Stop signing with the former secrets now.")
@project_option
@json_option
@with_client
def channel_secret(client: ApiClient, slug: str, only: bool, project: str | None, as_json: bool) -> None:
    """Generate a signing secret for a webhook channel. It is shown only once.

    A message then has one signature for each secret, at most five, so that the receiver can change to the new one.
    """
    answer = client("POST", path_of("channels", slug, "secrets"), {"keep_former": not only}, project=project)
    if as_json:
        write_json(answer)
    else:
        click.echo(answer["new_secret"])
        click.echo("Save it: it is not shown again.", err=True)


@channels_command.command("delete")
@click.argument("slug")
@project_option
@with_client
def channel_delete(client: ApiClient, slug: str, project: str | None) -> None:
    """Delete a channel that no monitor names."""
    client("DELETE", path_of("channels", slug), project=project)
    say(f"deleted {slug}")


@click.group("keys", invoke_without_command=True)
@click.option("--all", "show_all", is_flag=True, help="Include revoked keys.")
@project_filter_option
@json_option
@with_client
def keys_command(client: ApiClient, show_all: bool, project: str | None, as_json: bool) -> None:
    """List access keys."""
    keys = [key for key in client.pages("/keys", project=project) if show_all or key["revoked_at"] is None]
    if as_json:
        write_json(keys)
        return
    rows = [
        (
            k["id"],
            k["name"],
            k["role"],
            k["project"] or "all",
            k["prefix"] + "…",
            when(k["last_used_at"]),
            when(k["revoked_at"]),
        )
        for k in keys
    ]
    write_table(("id", "name", "role", "project", "key", "last used", "revoked"), rows, "no keys")


@keys_command.command("create")
@click.argument("name")
@click.option("--role", type=click.Choice(("admin", "read", "ping")), required=True, help="Rights of the key.")
@click.option("--project", help="Limit the key to this project; default: all projects.")
@json_option
@with_client
def key_create(client: ApiClient, name: str, role: str, project: str | None, as_json: bool) -> None:
    """Create a key. It is shown only once."""
    created: dict[str, Any] = client("POST", "/keys", {"name": name, "role": role, "project": project})
    if as_json:
        write_json(created)
    else:
        click.echo(created["key"])
        click.echo("Save it: it is not shown again.", err=True)


@keys_command.command("revoke")
@click.argument("key_id", metavar="ID")
@with_client
def key_revoke(client: ApiClient, key_id: str) -> None:
    """Revoke a key immediately."""
    client("DELETE", path_of("keys", key_id))
    say(f"revoked {key_id}")
