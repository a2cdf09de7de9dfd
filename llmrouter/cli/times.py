"""Times as people write them: `today`, `1h` ago, `2026-11-23T10:00Z`, a month; in UTC."""

import datetime
import re
import time
from typing import Annotated

import msgspec
import typer

from llmrouter.units import MS_PER_S, duration_s

_MONTH = re.compile(r"([0-9]{4})-([0-9]{2})")
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MONTH_DAYS_MAX = 31


def now_ms() -> int:
    """Unix milliseconds by the calendar, as calls are dated."""
    return int(time.time() * MS_PER_S)  # noqa: TID251 - people ask by the calendar


def moment_ms(text: str, now_ms: int) -> int:
    """A time as Unix milliseconds. Raises ValueError, saying what is accepted, if it is none."""
    if text == "today":
        now = _EPOCH + datetime.timedelta(milliseconds=now_ms)
        return _unix_ms(now.replace(hour=0, minute=0, second=0, microsecond=0))
    try:
        return max(0, now_ms - duration_s(text) * MS_PER_S)
    except ValueError:
        return _time_ms(text)


def _time_ms(text: str) -> int:
    try:
        return max(0, _unix_ms(datetime.datetime.fromisoformat(text)))
    except ValueError:
        raise ValueError(
            f"{text!r} is neither a duration nor a time; write one such as 1h, today, 2026-11-23"
            " or 2026-11-23T10:00Z"
        ) from None


def month_ms(text: str) -> tuple[int, int]:
    """When a month begins and ends. Raises ValueError, saying how to write one, if it is none."""
    try:
        match = _MONTH.fullmatch(text)
        begin = datetime.datetime(int(match[1]), int(match[2]), 1) if match else None
        end = begin and (begin + datetime.timedelta(days=_MONTH_DAYS_MAX)).replace(day=1)
    except (ValueError, OverflowError):
        begin = end = None
    if begin is None or end is None:
        raise ValueError(f"{text!r} is not a month; write one such as 2026-11")
    return max(0, _unix_ms(begin)), max(0, _unix_ms(end))


def _unix_ms(at: datetime.datetime) -> int:
    if at.tzinfo is None:
        at = at.replace(tzinfo=datetime.UTC)
    return (at - _EPOCH) // datetime.timedelta(milliseconds=1)


def iso(at_ms: int) -> str:
    """A moment as it is shown: `2026-11-23T10:00:00.250Z`."""
    at = _EPOCH + datetime.timedelta(milliseconds=at_ms)
    return at.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


class Window(msgspec.Struct, frozen=True):
    """What time is asked about; the texts are those of the options."""

    since: str | None
    until: str | None
    month: str | None

    def bounds(self, now_ms: int) -> tuple[int | None, int | None]:
        """From when on, and before when, as Unix milliseconds; None is without a bound.

        Raises typer.BadParameter where the options exclude each other.
        """
        if self.month is not None:
            if self.since is not None or self.until is not None:
                raise typer.BadParameter("--month says it all; leave out --since and --until")
            return month_ms(self.month)
        since = None if self.since is None else moment_ms(self.since, now_ms)
        until = None if self.until is None else moment_ms(self.until, now_ms)
        if since is not None and until is not None and since >= until:
            raise typer.BadParameter(f"--since {self.since} is not before --until {self.until}")
        return since, until


def _a_moment(text: str) -> str:
    """The text, once it is sure that it can be read; what `today` means may change later."""
    try:
        moment_ms(text, 0)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return text


def _a_month(text: str) -> str:
    try:
        month_ms(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return text


Since = Annotated[
    str | None,
    typer.Option(
        parser=_a_moment,
        metavar="1h|today|TIME",
        help="Only from then on: so long ago (1h, 30m, 2d), or a day or time such as 2026-11-23 or"
        " 2026-11-23T10:00Z; UTC if it has no zone.",
    ),
]
Until = Annotated[
    str | None,
    typer.Option(parser=_a_moment, metavar="1h|today|TIME", help="Only before then."),
]
Month = Annotated[
    str | None,
    typer.Option(parser=_a_month, metavar="2026-11", help="Only of that month, in UTC."),
]
