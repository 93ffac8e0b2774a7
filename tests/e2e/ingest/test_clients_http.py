"""curl, requests and runitor's own requests, as real processes against the real server."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.clients.programs import (
    Ran,
    make,
    ping_fields,
    ping_key,
    pings,
    python,
    run,
    runs_become,
    status_becomes,
)
from tests.support.harness import Postgres, Server, needs

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["fast", "aiohttp"])
async def server(postgres: Postgres, request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    async with (
        postgres.fresh() as url,
        Server(url, "--root-protocol", "snitch", "--http-server", request.param) as server,
    ):
        yield server


async def curl(*arguments: str, stdin: bytes = b"") -> tuple[int, str]:
    """Status and body."""
    ran = await run(needs("curl"), "-sS", "-m", "10", "-w", "\n%{http_code}", *arguments, stdin=stdin)
    assert ran.code == 0, ran
    body, _, status = ran.out.rpartition("\n")
    return int(status), body


async def test_curl_in_all_its_forms(server: Server) -> None:
    key = await make(server, "curl", every="1h")
    url = f"{server.url}/api/v1/heartbeat/{key}"
    ok = (200, "OK")
    assert await curl(url) == ok
    assert await curl(f"{url}/start?run=7") == ok
    assert await curl("-d", "3 files & 100% done", f"{url}/1?run=7") == ok
    assert await curl("-d", "status=fail", "-d", "message=disk full", url) == ok
    assert await curl("-d", '{"status": "ok", "run": "j"}', url) == ok
    assert await curl("--json", '{"status": "start", "run": "k", "total": 3}', url) == ok
    assert await curl("-G", "--data-urlencode", "message=50 % over", "-d", "status=log", url) == ok
    assert await curl("--data-binary", "@-", f"{url}/fail", stdin=b"line 1\nline 2\0\xff\n") == ok
    assert await curl("-H", "Transfer-Encoding: chunked", "-d", "@-", f"{url}/0", stdin=b"chunked") == ok
    assert await curl("-H", "Expect: 100-continue", "-d", "waited", f"{url}/0") == ok
    assert await curl("--http1.0", f"{url}/skip") == ok
    assert await curl("--http2", "-d", "an upgrade to HTTP/2 was offered", f"{url}/0") == ok
    assert await curl("-X", "POST", f"{url}/progress?done=1&total=2&run=k") == ok
    assert (await curl("-I", f"{url}/success"))[0] == 200
    assert (await curl("--data-binary", "@-", f"{url}/fail", stdin=b"a" * 2_000 + b"b" * 90_000 + b"c" * 8_000)) == ok
    assert await ping_fields(server, "curl", "run", "exit_code", "message") == [
        ("success", None, None, None),
        ("start", "7", None, None),
        ("fail", "7", 1, "3 files & 100% done"),
        ("fail", None, None, "disk full"),
        ("success", "j", None, None),
        ("start", "k", None, None),
        ("log", None, None, "50 % over"),
        ("fail", None, None, "line 1\nline 2\ufffd\ufffd\n"),
        ("success", None, 0, "chunked"),
        ("success", None, 0, "waited"),
        ("skip", None, None, None),
        ("success", None, 0, "an upgrade to HTTP/2 was offered"),
        ("progress", "k", None, None),
        ("success", None, None, None),
        ("fail", None, None, "a" * 2_000 + "\n[… cut here: the whole had 100000 bytes …]\n" + "c" * 8_000),
    ]


async def test_curl_shows_what_is_wrong(server: Server) -> None:
    key = await make(server, "wrong", every="1h")
    url = f"{server.url}/api/v1/heartbeat/{key}"
    assert await curl(f"{url}x") == (404, "unknown key")
    assert await curl(f"{url}/sideways") == (
        400,
        "unknown status 'sideways': use start, success, fail, log, progress, skip or leave, or an exit code",
    )
    assert (await curl(f"{url}?status=%ff"))[0] == 400
    assert (await curl("--json", "{", url))[0] == 400
    assert (await curl("-X", "DELETE", url))[0] == 405
    lost = b'{"message": "' + b"x" * 500_000 + b'", "status": "fail", "log": "' + b"x" * 500_000 + b'"}'
    assert (await curl("--json", "@-", url, stdin=lost))[0] == 413  # its outcome is not in the ends that are kept
    assert await pings(server, "wrong") == []


async def test_keys_taken_over_from_other_services(server: Server) -> None:
    token, project = "tOk3n0123456789abcdefghijklmnopq", "0123456789abcdef"
    keys = [
        {"key": token},
        {"key": "c2354d53d2"},
        {"key": f"{project}/core_db"},
        {"key": "extract-start", "signal": "start", "stage": "extract"},
        {"key": "etl-failure", "signal": "fail"},
    ]
    await make(server, "brought", every="1h", keys=keys)
    push = f"{server.url}/api/push/{token}"
    assert await curl(f"{push}?status=up&msg=OK&ping=12.5") == (200, '{"ok":true}')
    assert await curl(f"{push}/?status=up&msg=disk%20space&ping=") == (200, '{"ok":true}')
    assert await curl(f"{push}?status=true&msg=") == (200, '{"ok":true}'), "only `up` is up, as at Uptime Kuma"
    assert await curl(f"{push}x") == (404, '{"ok":false,"msg":"Monitor not found or not active."}')
    assert await curl(f"{server.url}/c2354d53d2?m=done") == (202, "Got it, thanks!")
    external = f"{server.url}/api/v1/endpoints/core_db/external?success=false&error=no+route&duration=150ms"
    assert await curl("-X", "POST", "-H", f"Authorization: Bearer {project}", external) == (200, "")
    assert await curl("-X", "POST", "-H", "Authorization: Bearer wrong", external) == (404, "not found")
    native = f"{server.url}/api/v1/heartbeat"
    assert await curl(f"{native}/extract-start") == (200, "OK")
    assert await curl("-d", "it broke", f"{native}/etl-failure") == (200, "OK")
    assert await ping_fields(server, "brought", "stage", "duration", "message", "dialect") == [
        ("success", None, 0.0125, "OK", "uptime_kuma"),
        ("success", None, None, "disk space", "uptime_kuma"),
        ("fail", None, None, None, "uptime_kuma"),
        ("success", None, None, "done", "snitch"),
        ("fail", None, 0.15, "no route", "gatus"),
        ("start", "extract", None, None, None),
        ("fail", None, None, "it broke", None),
    ]


async def test_gatus_by_the_ping_key_and_by_the_monitors_own(server: Server) -> None:
    key = await make(server, "core_db", every="1h")
    url = f"{server.url}/api/v1/endpoints/core_db/external?success=true"
    for bearer in (await ping_key(server), key):
        assert await curl("-X", "POST", "-H", f"Authorization: Bearer {bearer}", url) == (200, "")
    other = f"{server.url}/api/v1/endpoints/other/external?success=true"
    assert (await curl("-X", "POST", "-H", f"Authorization: Bearer {key}", other))[0] == 404
    assert len(await pings(server, "core_db")) == 2


async def test_healthchecks_as_documented(server: Server) -> None:
    key = await make(server, "documented", every="1h")
    project = await ping_key(server)
    url = f"{server.url}/ping"
    for form in ("", "/", "/start", "/fail", "/log", "/0", "/3"):
        assert await curl(f"{url}/{key}{form}") == (200, "OK")
    assert await curl("-X", "PUT", f"{url}/{project}/documented") == (200, "OK")
    assert await curl(f"{url}/{project}/new") == (404, "not found")
    assert await curl(f"{url}/{project}/new?create=1") == (201, "Created")
    assert await curl("-d", "again", f"{url}/{project}/new/fail?create=1") == (200, "OK")
    assert await curl(f"{url}/{key}/sideways") == (404, "not found")
    assert (await curl(f"{url}/{key}?status=sideways"))[0] == 400
    # Values that Healthchecks refuses although they are clear: other exit codes, and a `rid` that is no UUID.
    assert await curl(f"{url}/{key}/256") == (200, "OK")
    assert await curl(f"{url}/{key}?rid=xyz") == (200, "OK")
    assert await curl(f"{url}/{project}/New") == (400, "invalid url format")
    documented = await ping_fields(server, "documented", "run")
    assert [signal for signal, _ in documented] == [
        *("success", "success", "start", "fail", "log", "success", "fail", "success", "fail", "success")
    ]
    assert documented[-1] == ("success", "xyz")
    assert await ping_fields(server, "new", "message") == [("success", None), ("fail", "again")]


async def test_a_monitor_that_takes_only_post_and_one_with_keywords(server: Server) -> None:
    strict = await make(server, "strict", every="1h", methods="POST")
    keyword_key = await make(server, "words", every="1h", keywords={"fail": ["ERROR"], "success": ["done"]})
    for arguments in ((), ("-X", "POST")):
        assert await curl(*arguments, f"{server.url}/ping/{strict}") == (200, "OK")
    for text in ("all done", "done, but ERROR"):
        assert await curl("-d", text, f"{server.url}/ping/{keyword_key}/start") == (200, "OK")
    assert [signal for (signal,) in await ping_fields(server, "strict")] == ["log", "success"]
    # The word that matters stands where the message is cut.
    long = b"done " * 600 + b"ERROR" + b" done" * 6_000
    assert await curl("--data-binary", "@-", f"{server.url}/ping/{keyword_key}", stdin=long) == (200, "OK")
    assert await curl("--data-binary", "@-", f"{server.url}/api/v1/heartbeat/{keyword_key}/0", stdin=long) == (
        200,
        "OK",
    )
    assert [signal for (signal,) in await ping_fields(server, "words")] == ["success", "fail", "fail", "fail"]


_RUNITOR = """
# What runitor 1.4 sends (internal/api.go, cmd/runitor/main.go), byte for byte but for the host.
import http.client, sys, urllib.parse, uuid
url, arguments = urllib.parse.urlsplit(sys.argv[1]), sys.argv[2:]
rid = str(uuid.uuid4())

def ping(suffix, body, create):
    connection = http.client.HTTPConnection(url.netloc, timeout=5)
    query = f"?create=1&rid={rid}" if create else f"?rid={rid}"
    headers = {"User-Agent": "runitor/v1.4.1 (linux-amd64; +https://bdd.fi/x/runitor)", "Content-Type": "text/plain",
               "Accept-Encoding": "gzip", "Content-Length": str(len(body))}
    connection.request("POST", url.path + suffix + query, body, headers)
    response = connection.getresponse()
    assert response.status in (200, 201), (response.status, response.read())
    return response

create = "create" in arguments
limit = int(ping("/start", b"", create).getheader("Ping-Body-Limit"))
output = b"x" * 20_000 + b"the end"
ping("/3", output[-limit:], create)
ping("/3", output[-limit:], create)  # as after a time-out
print(rid, limit)
"""


async def test_runitor(server: Server) -> None:
    key = await make(server, "runitor", every="1h", max_runtime="1h")
    project = await ping_key(server)
    ran = await python(_RUNITOR, f"{server.url}/ping/{key}")
    assert ran.code == 0, ran.err
    rid, limit = ran.out.split()
    assert limit == "10000"
    assert await ping_fields(server, "runitor", "run", "exit_code") == [("start", rid, None), *[("fail", rid, 3)] * 2]
    message = (await pings(server, "runitor"))[1]["message"]
    assert message == "x" * 9_993 + "the end"
    monitor = await status_becomes(server, "runitor", "down")
    assert monitor["open_runs"] in (0, [])
    await runs_become(server, "runitor", (rid, "failed"))
    ran = await python(_RUNITOR, f"{server.url}/ping/{project}/made", "create")
    assert ran.code == 0, ran.err
    assert len(await pings(server, "made")) == 3


_REQUESTS = """
import sys, requests
url = sys.argv[1]
session = requests.Session()
for said in (
    {"json": {"status": "start", "run": "r1", "message": "extracting"}},
    {"json": {"status": "progress", "run": "r1", "done": 5, "total": 10}},
    {"data": {"status": "failed", "run": "r1", "message": "load broke: Größe"}},
    {"data": b"raw \\xff output"},
    {"params": {"status": "ok", "message": "a b&c"}},
):
    session.post(url, timeout=10, **said).raise_for_status()
session.head(url, timeout=10).raise_for_status()
session.get(url + "/0", timeout=10).raise_for_status()
assert session.get(url + "/nonsense", timeout=10).status_code == 400
"""


async def test_requests(server: Server) -> None:
    key = await make(server, "requests", every="1h")
    ran: Ran = await python(_REQUESTS, f"{server.url}/api/v1/heartbeat/{key}")
    assert ran.code == 0, ran.err
    assert await ping_fields(server, "requests", "run", "message") == [
        ("start", "r1", "extracting"),
        ("progress", "r1", None),
        ("fail", "r1", "load broke: Größe"),
        ("success", None, "raw \xff output"),  # read as Windows-1252
        ("success", None, "a b&c"),
        ("success", None, None),
        ("success", None, None),
    ]


async def test_better_stack(server: Server) -> None:
    key = await make(server, "better-stack", every="1h")
    url = f"{server.url}/api/v1/heartbeat/{key}"
    ran = await run("sh", "-c", f'output=$(echo "rows=3&status=green"; exit 3); curl -sS -m 10 -d "$output" {url}/$?')
    assert ran.out == "OK", ran
    assert await curl("--data-raw", '{"rows":3}', f"{url}/0") == (200, "OK")
    assert await ping_fields(server, "better-stack", "exit_code", "message") == [
        ("fail", 3, "rows=3&status=green"),
        ("success", 0, '{"rows":3}'),
    ]
