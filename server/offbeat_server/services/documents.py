"""Monitors, channels, windows and projects as people write them: in a request, in a form, in a file.

The types validate, name the wrong fields, and describe themselves in the OpenAPI document, where they have the same
names.
"""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from offbeat_server.config import PLACEHOLDER
from offbeat_server.engine.model.definition import Definition, Slug, StageName
from offbeat_server.engine.model.ping import Signal
from offbeat_server.engine.schedule.maintenance_windows import Window

# Any shape that a client may have been given elsewhere: one path segment, or two as in `{ping key}/{slug}`.
_SEGMENT = r"[^/?#\x00-\x20\x7f]{1,150}"


def _no_dots(key: str) -> str:
    if any(part in (".", "..") for part in key.split("/")):
        raise ValueError("no part of a key may be . or ..: HTTP clients remove them from URLs")
    if left := PLACEHOLDER.search(key):
        raise ValueError(f"contains the placeholder {left[0]}, which was not replaced: enter the key itself")
    return key


KeyText = Annotated[str, Field(max_length=200, pattern=rf"^{_SEGMENT}(/{_SEGMENT})?$"), AfterValidator(_no_dots)]
Name = Annotated[str, Field(min_length=1, max_length=200)]


class InputDocument(BaseModel):
    """A document. Unknown fields are rejected, because most of them are typing errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class KeyBody(InputDocument):
    """An additional key. If it is bound to a signal or stage, pings that name none count as that signal or stage."""

    key: KeyText | None = Field(None, description="A key taken over from another service. None: kept or generated.")
    signal: Signal | None = Field(None, description="Signal of pings by this key that name none.")
    stage: StageName | None = Field(None, description="Stage of pings by this key that name none.")


class MonitorBody(Definition):
    """The wanted definition of a monitor. Omitted fields get defaults; omitted keys and `paused` stay unchanged."""

    key: KeyText | None = Field(None, description="The main key. None: kept or generated.")
    keys: tuple[KeyBody, ...] | None = Field(
        None, max_length=200, description="All keys except the main one. None: unchanged."
    )
    paused: bool | None = Field(None, description="None: unchanged.")

    def definition(self) -> Definition:
        """The definition without keys and `paused`."""
        return Definition.model_construct(**{name: getattr(self, name) for name in Definition.model_fields})


class ListedMonitor(MonitorBody):
    """A monitor in a file or a list, with its address."""

    slug: Slug = Field(description="Its name in addresses, unique in the project.")
    project: Slug | None = Field(None, description="Slug of the project. None: the key's own project, or `default`.")


class ChannelBody(BaseModel):
    """A channel: its kind and the fields of that kind."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: Annotated[str, Field(min_length=1, max_length=30)] = Field(description="webhook, log, email, slack, …")
    default: bool = Field(True, description="Used by every monitor of the project whose `channels` is null.")

    def fields(self) -> dict[str, Any]:
        """The fields of the kind."""
        return dict(self.model_extra or {})


class ListedChannel(ChannelBody):
    """A channel in a file or a list, with its address."""

    slug: Slug = Field(description="Its name in addresses, unique in the project.")
    project: Slug | None = Field(None, description="Slug of the project. None: the key's own project, or `default`.")


class ListedWindow(Window):
    """A maintenance window in a file or a list, with its address."""

    slug: Slug = Field(description="Its name in addresses, unique in the project.")
    project: Slug | None = Field(None, description="Slug of the project. None: the key's own project, or `default`.")

    def window(self) -> Window:
        """The window itself."""
        return Window.model_construct(**{name: getattr(self, name) for name in Window.model_fields})


class ProjectBody(InputDocument):
    """The wanted settings of a project."""

    name: Name | None = Field(None, description="Display name. None: the slug.")
    ping_key: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{16,100}$")] | None = Field(
        None, description="The key for pings by slug. None: kept or generated."
    )
    metrics: bool = Field(False, description="Serve the status of each monitor to Prometheus.")
    badges: bool = Field(False, description="Serve badges to clients that have the badge key.")
    status_page: bool = Field(False, description="Serve a public page with the status of the monitors.")


class ListedProject(ProjectBody):
    """A project in a file or a list, with its slug."""

    slug: Slug = Field(description="Its name in addresses.")


LISTED: tuple[type[BaseModel], ...] = (ListedMonitor, ListedChannel, ListedWindow, ListedProject)
