"""Slugs out of other services' names for a monitor, and one slug for each environment of it.

Offbeat's slugs are a-z, 0-9, `_`, `.` and `-`, 100 characters at most. Other services allow more, so names are mapped
the way Sentry maps them. Two names that differ only in what the mapping drops are one monitor, there as here.
"""

import re
from typing import Final

from offbeat_server.engine.model.definition import SLUG_PATTERN

is_slug: Final = re.compile(SLUG_PATTERN).fullmatch
_FOREIGN = re.compile(r"[^a-z0-9_.-]+")
PRODUCTION = "production"


def slug_of(name: str) -> str | None:
    """The slug for a name: lower case, `-` for other characters; None where nothing or too much is left."""
    if is_slug(name):
        return name
    slug = _FOREIGN.sub("-", name.lower()).strip("_.-")
    return slug if is_slug(slug) else None


def free_slug(name: str, taken: set[str], otherwise: str) -> str:
    """A slug for a name that is not one of `taken`, to which it is added; made from `otherwise` where none is left."""
    base = slug_of(name[:80]) or otherwise
    slug, count = base, 1
    while slug in taken:
        count += 1
        slug = f"{base}-{count}"
    taken.add(slug)
    return slug


def slug_in(slug: str, environment: str | None) -> str | None:
    """The slug of a monitor in an environment: `slug.environment`, and `slug` alone in production.

    An environment is a monitor of its own, so that a healthy staging never hides a silent production. The dot cannot
    stand in a slug of Sentry's, so no job of another name is ever hit. None where the environment cannot be written.
    """
    environment = (environment or "").strip()
    if not environment or environment.lower() == PRODUCTION:
        return slug
    suffix = slug_of(environment)
    together = f"{slug}.{suffix}"
    return together if suffix is not None and is_slug(together) else None
