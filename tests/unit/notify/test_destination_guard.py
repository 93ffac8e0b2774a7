"""Channels reach public addresses and nothing else, also if a name resolves to another address the second time."""

import asyncio
import contextlib
import resource
import socket
import ssl
import threading
import time
import zlib
from collections.abc import AsyncIterator
from functools import cache
from ipaddress import ip_network
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest
from aiohttp import TCPConnector

from offbeat_server.config import Settings
from offbeat_server.notify.channels.registry import read_channel
from offbeat_server.notify.transport import destination_guard
from offbeat_server.notify.transport.delivery import DeliveryError, MailServer
from offbeat_server.notify.transport.destination_guard import BlockedDestinationError, Guard
from offbeat_server.notify.transport.http_client import Transport
from tests.support.channels import make_certificate, message
from tests.support.harness import HANG_S, Behaviour, Receiver, eventually

REFUSED = """
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1 127.1.2.3 168.63.129.16
169.254.169.254 169.254.0.1 172.16.0.1 172.31.255.255 192.0.0.8 192.0.0.192 192.0.2.1 192.88.99.1 192.168.1.1
198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.7 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
:: ::1 ::ffff:10.0.0.1 ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::10.0.0.1 64:ff9b::a00:1 64:ff9b::808:808
64:ff9b:1::a00:1 100::1 2001::1 2001:db8::1 2001:10::1 2002:a00:1::1 2002:808:808::1 3fff::1 5f00::1 fc00::1
fd00:ec2::254 fe80::1 fe80::1%lo fec0::1 ff02::1 ff05::1:3
""".split()  # noqa: SIM905
PERMITTED = """
1.1.1.1 8.8.8.8 11.0.0.1 100.63.255.255 100.128.0.1 126.255.255.255 128.0.0.1 169.253.255.255 172.15.255.255 172.32.0.1
192.0.1.1 192.167.255.255 198.17.255.255 198.20.0.1 223.255.255.255 ::ffff:8.8.8.8 2001:4860:4860::8888
2606:4700:4700::1111 2a00:1450::1 2003::1
""".split()  # noqa: SIM905


@pytest.mark.parametrize("address", REFUSED)
def test_refused(address: str) -> None:
    assert not Guard().permits(address)
    assert Guard(allow_private=True).permits(address)
    with pytest.raises(BlockedDestinationError, match="is not a public address"):
        Guard().check(address)


@pytest.mark.parametrize("address", PERMITTED)
def test_permitted(address: str) -> None:
    assert Guard().permits(address)


def test_listed_networks_are_open_and_nothing_beside_them() -> None:
    guard = Guard(allowed=(ip_network("10.1.0.0/16"), ip_network("fd00:1::/32")))
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "fd00:1::5", "8.8.8.8"):
        assert guard.permits(address)
    for address in ("10.2.0.1", "fd00:2::5", "127.0.0.1"):
        assert not guard.permits(address)


def test_what_is_no_address_is_refused() -> None:
    for text in ("", "localhost", "2130706433", "127.1", "0x7f000001", "10.0.0"):
        assert not Guard().permits(text)


@contextlib.asynccontextmanager
async def transport(tls: ssl.SSLContext | None = None, **changes: Any) -> AsyncIterator[Transport]:
    out = Transport(Settings(**changes), lambda: time.time_ns() // 1000, tls)
    out.send_timeout_s = HANG_S
    await out.start()
    yield out
    await out.stop()


async def failure(out: Transport, url: str, **more: Any) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        await out.post(url, b"{}", {}, **more)
    return caught.value


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]"])
async def test_nothing_is_sent_to_this_machine(host: str) -> None:
    async with Receiver() as receiver, transport() as out:
        url = receiver.url.replace("127.0.0.1", host)
        error = await failure(out, url)
        assert "is not a public address" in str(error) and not error.permanent
        assert not receiver.requests


@pytest.mark.parametrize("host", ["2130706433", "127.1", "0x7f.1", "017700000001"])
async def test_odd_spellings_of_an_address_lead_nowhere(host: str) -> None:
    async with Receiver() as receiver, transport() as out:
        await failure(out, receiver.url.replace("127.0.0.1", host))
        assert not receiver.requests


async def test_a_listed_network_may_be_sent_to() -> None:
    async with Receiver() as receiver, transport(allow_destinations="127.0.0.0/8") as out:
        assert (await out.post(receiver.url, b"{}", {})).status == 200


async def test_a_name_that_answers_differently_the_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check is made on the address that is connected to, not on an earlier answer."""
    looked_up: list[str] = []

    def rebinding(host: str, port: int, family: int) -> list[destination_guard.AddressInfo]:
        looked_up.append(host)
        address = "8.8.8.8" if len(looked_up) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    async with Receiver() as receiver, transport() as out:
        monkeypatch.setattr(destination_guard, "_look_up", rebinding)
        url = receiver.url.replace("127.0.0.1", "rebind.example")
        out.send_timeout_s = 0.2
        await failure(out, url)  # 8.8.8.8 was permitted, and does not answer
        out.send_timeout_s = HANG_S
        assert out._session is not None and isinstance(out._session.connector, TCPConnector)
        out._session.connector.clear_dns_cache()
        error = await failure(out, url)
        assert "127.0.0.1 is not a public address" in str(error)
        assert len(looked_up) == 2 and not receiver.requests


async def test_a_resolver_that_lies_does_not_get_past_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even when the lookup permits an address, the socket to it is refused."""
    async with Receiver() as receiver, transport() as out:
        assert out._resolver is not None
        monkeypatch.setattr(out._resolver, "_guard", Guard(allow_private=True))
        error = await failure(out, receiver.url.replace("127.0.0.1", "localhost"))
        assert "is not a public address" in str(error)
        assert not receiver.requests


async def test_a_redirection_is_a_failure_and_is_not_followed() -> None:
    async with Receiver() as inner, Receiver() as receiver, transport(allow_private_destinations=True) as out:
        for target in ("http://169.254.169.254/latest/meta-data/", inner.url):
            receiver.script.append(Behaviour(redirect=target))
            error = await failure(out, receiver.url)
            assert str(error) == "the receiver answered 302, a redirection, which is not followed"
        assert not inner.requests


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Receiver() as proxy, Receiver() as receiver, transport(allow_private_destinations=True) as out:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        await out.post(receiver.url, b"{}", {})
        assert len(receiver.requests) == 1 and not proxy.requests


# --------------------------------------------------------------------------------------------------- hostile receivers


@contextlib.asynccontextmanager
async def raw_server(answer: Any) -> AsyncIterator[str]:
    """A server that writes what it likes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            await answer(reader, writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def _never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()  # until the other side gives up


async def _drip_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for byte in chain(b"HTTP/1.1 200 OK\r\nX: ", repeat(ord("x"))):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.2)  # sleep: the pace of the drips


async def _drip_body_of_failure(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 500 No\r\nContent-Length: 1000000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.2)  # sleep: the pace of the drips


async def _endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 500 No\r\nContent-Length: 10000000000\r\n\r\n")
    for _ in range(100_000):
        writer.write(b"x" * 100_000)
        await writer.drain()


async def _endless_success(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n")
    for _ in range(100_000):
        writer.write(b"x" * 100_000)
        await writer.drain()


@cache
def _packed() -> bytes:
    """Zeros, 300 MB of them."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(packer.compress(bytes(1_000_000)) for _ in range(300)) + packer.flush()


async def _bomb(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    body = _packed()
    head = f"HTTP/1.1 500 No\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()


async def _header_bomb(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    for n in range(1_000_000):
        writer.write(b"X-%d: %b\r\n" % (n, b"y" * 1_000))
        await writer.drain()


async def _reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def _nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.6\r\n\x00\xff")
    await writer.drain()


@pytest.mark.parametrize(
    "answer",
    [_never, _drip_head, _drip_body_of_failure, _endless, _bomb, _header_bomb, _reset, _nonsense],
    ids=lambda answer: answer.__name__.strip("_"),
)
async def test_a_hostile_receiver_costs_one_bounded_attempt(answer: Any) -> None:
    _packed()  # not part of what is measured
    says_nothing = answer in (_never, _drip_head)
    async with raw_server(answer) as url, transport(allow_private_destinations=True) as out:
        if says_nothing:
            out.send_timeout_s = 1.0
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        error = await failure(out, f"{url}/services/a-secret?token=another")
        assert ("no answer within" in str(error)) == says_nothing and not error.permanent
        assert "secret" not in str(error) and "another" not in str(error), "the address is one"
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # kB


async def test_a_success_is_one_as_soon_as_its_status_is_there() -> None:
    async with raw_server(_endless_success) as url, transport(allow_private_destinations=True) as out:
        # The body never ends: who waited for it would end with the time limit, and that is an error.
        assert (await out.post(url, b"{}", {})).status == 200


async def test_tls_that_stalls() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server, transport(allow_private_destinations=True) as out:
        port = server.sockets[0].getsockname()[1]
        out.send_timeout_s = 1.0
        assert str(await failure(out, f"https://127.0.0.1:{port}")) == "no answer within 1 s"


async def test_tls_is_checked(tmp_path: Path) -> None:
    certificate = tmp_path / "tls.pem"
    received: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 OK\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=make_certificate(certificate))
    trusting = ssl.create_default_context(cafile=str(certificate))
    async with server:
        url = f"https://localhost:{server.sockets[0].getsockname()[1]}/"
        async with transport(allow_private_destinations=True) as out:
            assert "certificate verify failed" in str(await failure(out, url)) and not received
        async with transport(trusting, allow_private_destinations=True) as out:
            assert (await out.post(url, b"{}", {})).status == 204
            assert "certificate" in str(await failure(out, url.replace("localhost", "127.0.0.1"))), "and the name too"


async def test_the_time_that_a_receiver_asks_for() -> None:
    async with Receiver() as receiver, transport(allow_private_destinations=True) as out:
        for headers, body, wish in (
            ({"Retry-After": "120"}, b"", 120),
            ({"Retry-After": "999999"}, b"", 3600),
            ({"Retry-After": "9" * 1_000}, b"", 3600),
            ({"Retry-After": "-5"}, b"", None),
            ({"Retry-After": f"Mon, 01 Jan {'9' * 30} 00:00:00 GMT"}, b"", None),
            ({}, b'{"retry_after": 1e400}', None),
            ({}, b'{"retry_after": "inf"}', 3600),
            ({}, b'{"retry_after": -1}', 0),
            (
                {"Retry-After": "Tue, 24 Nov 2026 03:10:30 GMT", "Date": "Tue, 24 Nov 2026 03:10:00 GMT"},
                b"",
                30,
            ),
            ({}, b'{"retry_after": 1.5}', 1.5),
            ({}, b'{"ok": false, "parameters": {"retry_after": 34}}', 34),
            ({"Retry-After": "soon"}, b"[]", None),
            ({}, b"not json", None),
        ):
            receiver.script.append(Behaviour(status=429, headers=headers, body=body))
            assert (await failure(out, receiver.url)).retry_after_s == wish


async def test_the_receivers_text_is_quoted_only_if_it_may_be_shown() -> None:
    behaviour = Behaviour(status=404, body=b"channel_not_found\x1b[31m")
    async with Receiver(behaviour) as receiver, transport(allow_private_destinations=True) as out:
        assert str(await failure(out, receiver.url)) == "the receiver answered 404"
        error = await failure(out, receiver.url, quote=True, final=frozenset((404,)))
        assert str(error) == "the receiver answered 404: channel_not_found[31m" and error.permanent


async def test_a_name_server_that_is_silent_delays_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    real, answered = destination_guard._look_up, threading.Event()

    def slow(host: str, port: int, family: int) -> list[destination_guard.AddressInfo]:
        if host == "silent.example":
            answered.wait()
        return real("localhost", port, family)

    monkeypatch.setattr(destination_guard, "_look_up", slow)
    async with Receiver() as receiver, transport(allow_private_destinations=True) as out:
        stuck = [asyncio.create_task(out.post(f"http://silent.example:{9000 + n}/", b"{}", {})) for n in range(20)]
        await asyncio.sleep(0.05)  # they have begun, or begin beside the other
        await out.post(receiver.url.replace("127.0.0.1", "localhost"), b"{}", {})
        assert not any(task.done() for task in stuck), "it did not wait for them"
        for task in stuck:
            task.cancel()
        out.send_timeout_s = 0.1
        assert str(await failure(out, "http://silent.example/")) == "no answer within 0.1 s"
        answered.set()


async def test_mail_to_this_machine_is_refused_unless_it_is_the_operators_own() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"554 go away\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server, transport() as out:
        port = server.sockets[0].getsockname()[1]
        for guarded, problem_text in ((True, "is not a public address"), (False, "554 go away")):
            mail_server = MailServer("localhost", port, "none", None, None, None, guarded)
            with pytest.raises(DeliveryError, match=problem_text):
                await out.mail(mail_server, "a@example.org", ["b@example.org"], b"\r\n")


async def test_blocking_libraries_are_guarded_too() -> None:
    """Every connection in one of those threads is checked, by the interpreter's own audit events."""

    def connect(host: str, port: int) -> str:
        with socket.create_connection((host, port), timeout=HANG_S):
            return "connected"

    async with Receiver() as receiver, transport() as out:
        port = int(receiver.url.rpartition(":")[2])
        for host in ("127.0.0.1", "localhost"):
            with pytest.raises(DeliveryError, match="is not a public address"):
                await out.in_thread(connect, host, port)
        # Only in those threads: the rest of the process connects as it likes.
        assert await asyncio.to_thread(connect, "127.0.0.1", port) == "connected"


@pytest.mark.parametrize("answer", [_endless, _bomb])
async def test_of_an_answer_apprise_too_reads_the_beginning_alone(answer: Any) -> None:
    pytest.importorskip("apprise")
    _packed()
    async with raw_server(answer) as url, transport(allow_private_destinations=True) as out:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        channel = read_channel("apprise", {"urls": [url.replace("http", "json")]})
        what = message()
        with pytest.raises(DeliveryError, match="could not deliver"):
            await channel.send(what, channel.compose(what), out)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # kB


async def test_an_error_is_one_line_of_what_can_be_printed() -> None:
    body = b"no \x1b[31mway\r\n\x00\xff" + b"x" * 10_000
    async with (
        Receiver(Behaviour(status=500, body=body)) as receiver,
        transport(allow_private_destinations=True) as out,
    ):
        error = await failure(out, receiver.url, quote=True)
    assert "no [31mway" in str(error) and str(error).isprintable() and len(str(error)) < 300
    assert DeliveryError("550 go\n\x1b]0;away").args == ("550 go ]0;away",)


async def test_threads_that_hang_are_given_up_and_do_not_pile_up() -> None:
    ended = threading.Event()
    async with transport() as out:
        out.send_timeout_s = 0.1
        for _ in range(4):
            with pytest.raises(DeliveryError, match=r"no answer within 0\.2 s"):
                await out.in_thread(ended.wait)
        with pytest.raises(DeliveryError, match="taken by ones that hang"):
            await out.in_thread(time.sleep, 0)
        ended.set()

        async def is_free() -> bool:
            with contextlib.suppress(DeliveryError):
                return bool(await out.in_thread(lambda: 7) == 7)
            return False

        await eventually(is_free)
