"""Text of jobs never reaches a terminal, an alert, a page or a log as a command.

The whole way: pings with escape sequences in every field, and then everything that shows them.
"""

import asyncio
import json
import os
import pty
import re
import subprocess
import sys
import uuid
from pathlib import Path
from urllib.parse import quote

import pytest

from offbeat.readable import one_line, readable, readable_json
from tests.e2e.web.test_pages_http import Visitor
from tests.support.clients.command import file_with, offbeat
from tests.support.cost import loops
from tests.support.harness import ADMIN_KEY, ROOT, Receiver, Server, eventually

ESC, BELL, CSI, OSC = "\x1b", "\x07", "\x9b", "\x9d"
EVIL = f"a{ESC}[31mb{ESC}]0;title{BELL}c{CSI}2Jd{OSC}52;c;ZXZpbA=={ESC}\\e\u202ef\x08\x00g".replace("\x00", "")
HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü 漢 👩‍💻 \tx\n", "plain ü 漢 👩‍💻 \tx\n"),
        (EVIL, "abcde\\u202efg"),
        (f"{ESC}[1;31;48:2::255:0:0mred{ESC}[0m", "red"),
        (f"{CSI}31mred{CSI}m", "red"),
        (f"{ESC}]8;;https://evil{ESC}\\click{ESC}]8;;{ESC}\\", "click"),
        (f"{ESC}]0;never ended", "0;never ended"),
        (f"{OSC}0;never ended", "0;never ended"),
        (f"{ESC}P1$r{ESC}\\x{ESC}_y{ESC}\\{ESC}^z{ESC}\\{ESC}Xs{ESC}\\", "x"),
        (f"{ESC}(B{ESC}7{ESC}c{ESC}#8done{ESC}", "done"),
        (f"{ESC}{ESC}[31m{ESC}[{ESC}[0mx", "x"),
        ("10 %\r20 %\r\n30 %\n", "10 %\n20 %\n30 %\n"),
        ("a\u2028b\u2029c\x85d\x0be\x0cf", "a\nb\nc\nd\ne\nf"),
        ("\u202aa\u2066b\u2069\u200fc", "\\u202aa\\u2066b\\u2069\u200fc"),
        ("a\x7fb\ufeffc\U000e0041d", "abcd"),
    ],
)
def test_readable(text: str, shown: str) -> None:
    assert readable(text) == shown
    assert readable(shown) == shown
    assert one_line(text) == re.sub(r"[\t\n]+", " ", shown)


def test_json_keeps_its_value() -> None:
    value = {"a": EVIL + "\x7f\x85\u2028\ufeff\U000e0041"}
    text = readable_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(text) == value and HARMFUL.search(text) is None


def test_no_text_takes_long() -> None:
    for part in (
        ESC,
        f"{ESC}[",
        f"{ESC}]",
        OSC,
        CSI,
        f"{ESC}[0",
        f"{ESC}]0",
        f"{OSC}{ESC}",
        "\r",
        "\u202e",
        f"{ESC}(((",
    ):
        assert loops(lambda text=part * 100_000: readable(text)) < 60, part  # type: ignore[misc]


async def in_terminal(*arguments: str, url: str) -> str:
    """The output of a command on a terminal."""
    main, other = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "offbeat", *arguments),
        cwd=ROOT,
        stdin=other,
        stdout=other,
        stderr=other,
        env=os.environ | {"OFFBEAT_URL": url, "OFFBEAT_ADMIN_KEY": ADMIN_KEY, "TERM": "dumb", "COLUMNS": "300"},
    )
    os.close(other)
    loop, seen = asyncio.get_running_loop(), b""
    while True:
        try:
            part = await loop.run_in_executor(None, os.read, main, 65_536)
        except OSError:  # the terminal's other end is closed
            break
        if not part:
            break
        seen += part
    os.close(main)
    await process.wait()
    return seen.decode("utf-8", "replace").replace("\r\n", "\n")


async def test_nothing_that_a_job_prints_is_a_command(database_url: str, tmp_path: Path) -> None:
    async with Receiver() as receiver, Server(database_url, "--allow-private-destinations") as server:
        hook = {"kind": "webhook", "url": receiver.url}
        assert (await server.api("PUT", "/api/v1/channels/ops", hook)).status == 201
        created = await server.api("PUT", "/api/v1/monitors/job", {"max_runtime": "1h", "name": EVIL, "tags": ["t"]})
        key = created.body["key"]
        query = "&".join(f"{name}={quote(f'{EVIL}{name}')}" for name in ("run", "stage", "task"))
        for path in (f"start?run={quote(EVIL)}", f"fail?{query}", f"7?run={quote(EVIL)}"):
            answer = await server.session.post(f"/api/v1/heartbeat/{key}/{path}", data=f"{EVIL}\nlast {EVIL}".encode())
            assert answer.status == 200, await answer.text()
        alert = await receiver.wait_for(lambda request: b"opened" in request.body)
        text = json.dumps(alert.json, ensure_ascii=False)
        assert HARMFUL.search(text) is None and "abcde" in text, text

        async def is_there() -> bool:
            return bool((await server.api("GET", "/api/v1/incidents?open=true")).body["items"])

        await eventually(is_there)
        (incident,) = (await server.api("GET", "/api/v1/incidents")).body["items"]
        assert HARMFUL.search(incident["reason"]) is None and "abcde" in incident["reason"]
        runs = (await server.api("GET", "/api/v1/monitors/job/runs")).body["items"]
        for arguments in (
            ("incidents",),
            ("incidents", "show", incident["id"]),
            ("incidents", "--json"),
            ("runs", "job"),
            ("runs", "--json", "job"),
            ("runs", "show", runs[0]["id"]),
            ("monitors",),
            ("monitors", "--json"),
            ("monitors", "show", "job"),
            ("monitors", "show", f"no{EVIL}"),
            ("export",),
            ("doctor",),
        ):
            shown = await in_terminal(*arguments, url=server.url)
            assert HARMFUL.search(shown) is None and "Traceback" not in shown, (arguments, shown)
        exported = (await offbeat("export", url=server.url)).out
        file = file_with(tmp_path, "exported.yaml", exported)
        applied = await offbeat("apply", "--dry-run", file, url=server.url)
        assert applied.code == 0 and "0 created, 0 changed" in applied.out, applied

        run, number, seen = runs[0]["id"], incident["id"], ""
        async with Visitor(server) as visitor:
            assert await visitor.sign_in() == 303
            pages = ["/", "/monitors/job", f"/runs/{run}", "/incidents", f"/incidents/{number}", "/alerts", "/audit"]
            for page in pages:
                status, text, _ = await visitor.get(page)
                assert status == 200 and HARMFUL.search(text) is None, page
                seen += text
        assert seen.count("abcde") > len(pages)


@pytest.mark.parametrize("form", ["console", "json"])
def test_no_name_forges_a_line_of_the_log(form: str, tmp_path: Path) -> None:
    program = (
        "import sys, logging, structlog\nfrom offbeat_server.observability import logging as logs\n"
        f"logs.set_up({form!r}, 'info')\n"
        "evil = sys.argv[1]\nlog = structlog.get_logger('x')\n"
        "log.info('pinged', name=evil, names=[evil], deep={evil: evil}, key=evil)\n"
        "log.info(evil)\n"
        "logging.getLogger('library').warning('says %s', evil)\n"
        "try:\n    raise ValueError(evil)\nexcept ValueError:\n    log.exception('failed', name=evil)\n"
    )
    mark = uuid.uuid4().hex
    evil = f"x\n2026-11-30T00:00:00Z [error    ] {mark} forged\r{EVIL}"
    done = subprocess.run([sys.executable, "-c", program, evil], cwd=ROOT, capture_output=True, check=True, text=True)
    out = done.stdout
    assert HARMFUL.search(out) is None and not done.stderr, (out, done.stderr)
    lines = out.splitlines()
    if form == "json":
        assert len(lines) == 4 and all(json.loads(line) for line in lines)
    else:
        assert [line for line in lines if line.startswith("2026-11-30T00:00:00Z [error")] == []
        assert len([line for line in lines if re.match(r"\d{4}-", line)]) == 4
