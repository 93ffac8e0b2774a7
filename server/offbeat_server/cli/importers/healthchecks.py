"""Turns checks of Healthchecks into monitors, from what its API answers to `GET /api/v3/checks/`.

Source: healthchecks.io/docs/api, "Get a List of Existing Checks": name, slug, tags (separated by spaces), desc, grace
and timeout in seconds, schedule with tz instead of timeout for cron and OnCalendar, methods ("POST" or ""),
manual_resume, status, ping_url (only with a read-write key), start_kw, success_kw, failure_kw (separated by commas),
filter_subject, filter_body, filter_http_body, filter_default_fail.
"""

import re
from typing import Any

from offbeat_server.common.errors import SettingsError
from offbeat_server.engine.model.slugs import free_slug


def read_checks(export: Any) -> list[dict[str, Any]]:
    """Monitors as `apply` takes them. Raises SettingsError that says what the file should be."""
    checks = export.get("checks") if isinstance(export, dict) else export
    if not isinstance(checks, list) or not all(isinstance(check, dict) for check in checks):
        raise SettingsError("not an answer of GET /api/v3/checks/: there is no list of checks in it")
    taken: set[str] = set()
    return [_monitor(check, taken) for check in checks]


def _monitor(check: dict[str, Any], taken: set[str]) -> dict[str, Any]:
    name = str(check.get("name") or "")
    monitor: dict[str, Any] = {"slug": free_slug(str(check.get("slug") or name), taken, "check")}
    if name and name != monitor["slug"]:
        monitor["name"] = name[:200]
    if tags := str(check.get("tags") or "").split():
        monitor["tags"] = list(dict.fromkeys(tag[:50] for tag in tags))
    if description := check.get("desc"):
        monitor["description"] = str(description)
    monitor |= _schedule(check)
    if check.get("grace"):
        monitor["grace"] = check["grace"]
        # There, a run that has started must end within the grace time.
        monitor["max_runtime"] = check["grace"]
    if check.get("methods") == "POST":
        monitor["methods"] = "POST"
    if check.get("manual_resume"):
        monitor["manual_resume"] = True
    if check.get("status") == "paused":
        monitor["paused"] = True
    if check.get("filter_http_body"):
        monitor["keywords"] = _keywords(check)
    # The addresses that jobs already know keep working: their last part is the key.
    parts = str(check.get("ping_url") or "").rstrip("/").split("/ping/")[-1].split("/")
    if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", parts[-1]):
        monitor["key"] = parts[-1]
    elif len(parts) == 2 and all(parts):
        monitor["keys"] = [{"key": "/".join(parts)}]
    elif check.get("uuid"):
        monitor["key"] = str(check["uuid"])
    return monitor


def _schedule(check: dict[str, Any]) -> dict[str, Any]:
    lines = [line.strip() for line in str(check.get("schedule") or "").splitlines() if line.strip()]
    if not lines:
        return {"every": check["timeout"]} if check.get("timeout") else {}
    # Healthchecks' own rule: one line of five words is cron. Only OnCalendar may have several lines.
    is_cron = len(lines) == 1 and (len(lines[0].split()) == 5 or lines[0].startswith("@"))
    return {"cron" if is_cron else "oncalendar": "\n".join(lines), "timezone": str(check.get("tz") or "UTC")}


def _keywords(check: dict[str, Any]) -> dict[str, Any]:
    def keywords_in(name: str) -> list[str]:
        return [keyword.strip() for keyword in str(check.get(name) or "").split(",") if keyword.strip()]

    lists = {"start": keywords_in("start_kw"), "success": keywords_in("success_kw"), "fail": keywords_in("failure_kw")}
    keywords: dict[str, Any] = {name: value for name, value in lists.items() if value}
    keywords["default"] = "fail" if check.get("filter_default_fail") else "ignore"
    return keywords
