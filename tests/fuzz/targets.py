"""One function a reader: it takes any bytes, reads them, and asserts what must hold of the result.

An error that the reader promises is fine; any other, an assertion, or an input that takes seconds is a finding. Texts
that reach a reader through JSON hold no lone surrogates, those of an address may.
"""

import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import orjson

from offbeat.cli.config_file import read_config
from offbeat_server.cli.importers.crontab import program_of, read_crontab, under_exec
from offbeat_server.cli.importers.healthchecks import read_checks
from offbeat_server.common.errors import DefinitionError, SettingsError
from offbeat_server.common.ip_address import IpNetwork
from offbeat_server.config import Settings
from offbeat_server.engine.model.definition import read_definition
from offbeat_server.engine.model.slugs import is_slug, slug_of
from offbeat_server.engine.schedule.calendar import calendar, check_cron, check_oncalendar, check_zone
from offbeat_server.engine.schedule.durations import read_duration, write_duration
from offbeat_server.ingest.bulk import _read as read_bulk_value
from offbeat_server.ingest.http.client_address import ClientAddresses
from offbeat_server.ingest.http.content_codings import PIECE_BYTES as CODED_PIECE_BYTES
from offbeat_server.ingest.http.content_codings import BadCoding, Unpacker
from offbeat_server.ingest.ndjson import BadBody, NdjsonReader
from offbeat_server.ingest.protocols import cronitor, gatus, healthchecks, native, snitch, uptime_kuma
from offbeat_server.ingest.protocols.base import Dialect, Rejection, Request
from offbeat_server.ingest.protocols.parsing.encodings import charset_of, text_of
from offbeat_server.ingest.protocols.parsing.message import STORED_BYTES_MAX, stored_message
from offbeat_server.ingest.protocols.parsing.parameters import read_fields
from offbeat_server.ingest.protocols.parsing.urlencoded import read_pairs
from offbeat_server.ingest.protocols.registry import find
from offbeat_server.ingest.protocols.sentry import check_ins
from offbeat_server.ingest.protocols.sentry.envelope import open_envelope
from offbeat_server.notify.channels.registry import KINDS, dump_channel, read_channel
from offbeat_server.services.config_apply import ConfigFile
from offbeat_server.services.documents import MonitorBody
from offbeat_server.web.framework import pagination
from offbeat_server.web.framework.problems import ApiError
from offbeat_server.web.framework.routing import validate
from tests.fuzz.judge import is_storable, judge_request
from tests.unit.ingest.test_request_head import check as check_head

Target = Callable[[bytes], None]
_METHODS = ("GET", "HEAD", "POST", "PUT")
_AT = 1_790_000_000_000_000  # some instant
_FILE = Path(tempfile.gettempdir()) / "offbeat-fuzz.yaml"


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _json(data: bytes) -> object:
    """The bytes read as JSON; None if they are no JSON."""
    try:
        value: object = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return value


# ----------------------------------------------------------------------------------------------------------- dialects


def _dialect(dialect: Dialect, prefix: str) -> Target:
    """The first line is the rest of the target, the second method and headers, what follows the body."""

    def target(data: bytes) -> None:
        rest, _, after = data.partition(b"\n")
        second, _, body = after.partition(b"\n")
        method, *headers = second.decode("utf-8", "surrogateescape").split("|")
        path, _, query = (prefix + rest.decode("utf-8", "surrogateescape")).partition("?")
        names = ("content-type", "content-encoding", "authorization", "x-sentry-auth")
        sent = {name: value for name, value in zip(names, headers, strict=False) if value}
        request = Request(method if method in _METHODS else "POST", path, query, sent, body)
        if find(path, query, "snitch") is dialect:
            judge_request(dialect, request)
        else:
            dialect.read(request)

    return target


def envelope(data: bytes) -> None:
    """Sentry's frame of items."""
    opened = open_envelope(data, "check_in")
    assert all(payload in data for payload in opened.payloads)
    kept = opened.result()
    assert open_envelope(kept.body, "check_in").payloads == opened.payloads or opened.header is None


def unpacked(data: bytes) -> None:
    """Compressed bodies, in pieces that are none too large; the first byte chooses the encoding."""
    encoding = ("gzip", "deflate", "br", "identity", "zstd", "gzip, br", "x")[data[0] % 7] if data else ""
    with suppress(BadCoding):
        unpacker = Unpacker(encoding)
        for piece in (data[1 : len(data) // 2], data[len(data) // 2 :]):
            assert all(
                0 < len(part) <= max(CODED_PIECE_BYTES, len(piece)) or not piece for part in unpacker.pieces(piece)
            )
        assert not list(unpacker.end())


def text(data: bytes) -> None:
    """Bytes in any encoding; the first line is a Content-Type."""
    kind, _, body = data.partition(b"\n")
    text_of(body, charset_of(kind.decode("latin-1"))).encode("utf-8", "replace")


def fields(data: bytes) -> None:
    """Parameters as JSON."""
    value = _json(data)
    if isinstance(value, dict):
        parameters = read_fields(value.items())
        if not isinstance(parameters, Rejection):
            is_storable(parameters.ping)


def pairs(data: bytes) -> None:
    """Forms and queries."""
    for name, value in read_pairs(data.decode("utf-8", "surrogateescape")):
        assert isinstance(name, str) and isinstance(value, str)


def message(data: bytes) -> None:
    """A body that is a message."""
    stored = stored_message(data)
    assert (stored is None) == (not data)
    assert stored is None or ("\0" not in stored and len(stored.encode()) <= STORED_BYTES_MAX)


def slug(data: bytes) -> None:
    """Names that become slugs."""
    cleaned = slug_of(_text(data))
    assert cleaned is None or is_slug(cleaned)


# ------------------------------------------------------------------------------------------------------------- bodies


def lines(data: bytes) -> None:
    """NDJSON and arrays: the values are the same however the body is cut; each is a ping or a sentence."""
    whole_body = _values([data])
    cut = len(data) // 3
    assert _values([data[:cut], data[cut : 2 * cut], data[2 * cut :]]) == whole_body
    for value in whole_body or ():
        parsed = read_bulk_value(value)
        if not isinstance(parsed, str):
            is_storable(parsed[1].ping)


def _values(pieces: Iterable[bytes]) -> list[object] | None:
    """Every value; None where the body cannot be read to its end."""
    reader = NdjsonReader()
    values: list[object] = []
    try:
        for piece in pieces:
            values += reader.feed(piece)
        values += reader.end()
    except BadBody:
        return None
    return ["bad" if isinstance(value, BadBody) else value for value in values]


# -------------------------------------------------------------------------------------------------------- definitions


def duration(data: bytes) -> None:
    """Lengths of time."""
    try:
        length = read_duration(_text(data))
    except ValueError:
        return
    assert read_duration(write_duration(length)) == length


def _calendar(kind: str, check: Callable[[str], str]) -> Target:
    def target(data: bytes) -> None:
        try:
            text = check(_text(data)[:200])
        except ValueError:
            return
        assert check(text) == text
        first = calendar(kind, text, "Europe/Berlin").next_after(_AT)
        second = None if first is None else calendar(kind, text, "Europe/Berlin").next_after(first)
        assert first is None or (first > _AT and (second is None or second > first))

    return target


def zone(data: bytes) -> None:
    """Time zones."""
    with suppress(ValueError):
        check_zone(_text(data))


def definition(data: bytes) -> None:
    """A monitor as people define it; what is stored reads as the same."""
    value = _json(data)
    try:
        read = read_definition(value)
    except DefinitionError as error:
        assert error.problems
        return
    assert read_definition(orjson.loads(orjson.dumps(read.dump()))) == read


def channel(data: bytes) -> None:
    """A channel of each kind."""
    value = _json(data)
    for kind in KINDS if isinstance(value, dict) else ():
        try:
            read = read_channel(kind, value)  # type: ignore[arg-type]
        except DefinitionError as error:
            assert error.problems
            continue
        assert read_channel(kind, orjson.loads(orjson.dumps(dump_channel(read)))) == read


def body(data: bytes) -> None:
    """The body that the management API gets for a monitor."""
    try:
        validate(MonitorBody, _json(data))
    except ApiError as refused:
        assert refused.status == 422 and refused.errors


def config(data: bytes) -> None:
    """A file of monitors, as YAML."""
    _FILE.write_bytes(data)
    try:
        value = read_config(_FILE)
        validate(ConfigFile, value)
    except (SettingsError, ApiError):
        pass


# -------------------------------------------------------------------------------------------------------------- others


def cursor(data: bytes) -> None:
    """The cursor of each list."""
    for sort_key in pagination.ALL:
        try:
            sort_key.place(_text(data))
        except ApiError as refused:
            assert refused.status == 422


def crontab(data: bytes) -> None:
    """A crontab that is taken over."""
    text = _text(data)
    for system in (False, True):
        for job in read_crontab(text, system).jobs:
            program_of(job.command)
            assert "offbeat exec" in under_exec(job, "key")


def export(data: bytes) -> None:
    """An export of Healthchecks."""
    with suppress(SettingsError):
        read_checks(_json(data))


def forwarded(data: bytes) -> None:
    """X-Forwarded-For of a proxy that is believed."""
    client = _sources.client(_proxy, data.decode("utf-8", "surrogateescape")).source
    assert client is not None and len(client) in (4, 16)


def public_url(data: bytes) -> None:
    """A setting that is an address."""
    try:
        read = Settings(public_url=_text(data)).public_url
    except ValueError:
        return
    assert read is None or read.startswith(("http://", "https://"))


def _networks() -> list[IpNetwork]:
    return Settings(trusted_proxies="127.0.0.0/8,fd00::/8").trusted_proxies


_sources = ClientAddresses(_networks())
_proxy = _sources.peer(("127.0.0.1", 1))

TARGETS: dict[str, Target] = {
    "head": check_head,
    "native": _dialect(native, native.PREFIX),
    "healthchecks": _dialect(healthchecks, healthchecks.PREFIX),
    "cronitor": _dialect(cronitor, cronitor.PREFIX),
    "uptime_kuma": _dialect(uptime_kuma, uptime_kuma.PREFIX),
    "gatus": _dialect(gatus, gatus.PREFIX),
    "sentry": _dialect(check_ins, "/api/1/"),
    "snitch": _dialect(snitch, "/"),
    "envelope": envelope,
    "unpacked": unpacked,
    "fields": fields,
    "pairs": pairs,
    "message": message,
    "slug": slug,
    "lines": lines,
    "text": text,
    "duration": duration,
    "cron": _calendar("cron", check_cron),
    "oncalendar": _calendar("oncalendar", check_oncalendar),
    "zone": zone,
    "definition": definition,
    "channel": channel,
    "body": body,
    "config_file": config,
    "cursor": cursor,
    "crontab": crontab,
    "export": export,
    "forwarded": forwarded,
    "public_url": public_url,
}
