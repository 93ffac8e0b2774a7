"""Maintenance windows: times in which a project's monitors are evaluated and recorded, and no alert is sent.

A window is once (`start`, `end`) or recurs (`cron` or `oncalendar`, `duration`). It covers the monitors of its project
that it names by slug, by a pattern of slugs or by tag; without any of these it covers all.
"""

from datetime import datetime
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from offbeat_server.common.errors import DefinitionError
from offbeat_server.common.instants import SECOND, Micros, to_micros
from offbeat_server.engine.model.definition import CalendarText, Cron, Duration, Zone
from offbeat_server.engine.model.definition_problems import problems_of
from offbeat_server.engine.schedule.calendar import calendar

OVERLAPS_MAX = 100  # windows that follow one another without a gap; what comes later is no longer followed


class Window(BaseModel):
    """A maintenance window as people send it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str | None = Field(None, max_length=200, description="Display name. None: the slug.")
    monitors: tuple[Annotated[str, Field(min_length=1, max_length=100)], ...] = Field(
        (), max_length=500, description="Slugs, or patterns such as etl-*; with tags also empty: every monitor."
    )
    tags: tuple[Annotated[str, Field(min_length=1, max_length=50)], ...] = Field(
        (), max_length=50, description="The window applies to monitors with one of these tags."
    )
    start: datetime | None = Field(None, description="Start of a window that comes once. Needs `end`.")
    end: datetime | None = Field(None, description="End of a window that comes once.")
    cron: Cron | None = Field(
        None, description="Starts of a recurring window: five fields, in `timezone`. Needs `duration`."
    )
    oncalendar: CalendarText | None = Field(
        None, description="Starts of a recurring window: systemd OnCalendar, in `timezone`. Needs `duration`."
    )
    timezone: Zone = Field("UTC", description="IANA time zone of a recurring window.")
    duration: Duration | None = Field(None, description="Length of a recurring window, 1 s to 31 d.")

    @field_validator("start", "end")
    @classmethod
    def _has_an_offset(cls, value: datetime | None) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError("give the offset from UTC, such as Z")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        kinds = [name for name in ("start", "cron", "oncalendar") if getattr(self, name) is not None]
        if len(kinds) != 1:
            raise ValueError("give one of start (with end), cron or oncalendar (with duration)")
        if (self.start is None) != (self.end is None):
            raise ValueError("start and end go together")
        if self.start is not None and self.end is not None and self.end <= self.start:
            raise ValueError("end must be later than start")
        if (self.duration is None) != (self.start is not None):
            raise ValueError("duration goes with cron and oncalendar")
        if self.duration is not None and not SECOND <= self.duration <= 31 * 86_400 * SECOND:
            raise ValueError("duration must be from 1s to 31d")
        return self

    @cached_property
    def _once(self) -> tuple[Micros, Micros] | None:
        return None if self.start is None or self.end is None else (to_micros(self.start), to_micros(self.end))

    def covers(self, slug: str, tags: tuple[str, ...]) -> bool:
        """Whether a monitor of its project is meant."""
        if not self.monitors and not self.tags:
            return True
        return any(fnmatchcase(slug, pattern) for pattern in self.monitors) or not set(tags).isdisjoint(self.tags)

    def end_at(self, at: Micros) -> Micros | None:
        """When the window that is open at `at` ends (exclusive); None when none is open then."""
        if self._once is not None:
            start, once_end = self._once
            return once_end if start <= at < once_end else None
        assert self.duration is not None
        expression = self.cron or self.oncalendar
        assert expression is not None
        slots = calendar("cron" if self.cron else "oncalendar", expression, self.timezone)
        slot = slots.next_after(at - self.duration)
        end: Micros | None = None
        for _ in range(OVERLAPS_MAX):
            if slot is None or slot > at:
                break
            end = slot + self.duration  # the latest start before `at` ends last
            slot = slots.next_after(slot)
        return end


def read_window(value: object) -> Window:
    """A window as people send it. Raises DefinitionError that names every wrong field and why."""
    try:
        return Window.model_validate(value)
    except ValidationError as error:
        raise DefinitionError(problems_of(error, model=Window)) from None
