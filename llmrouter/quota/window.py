"""The windows of budgets: hours, days, weeks and months of the UTC calendar, or all time."""

import datetime

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
WEEK_MS = 7 * DAY_MS
_MONDAY_MS = 4 * DAY_MS  # 1970-01-05, the first Monday of Unix time


def start_ms(window: str, now_ms: int) -> int:
    """When the window that holds `now_ms` began; 0 for `total`, which has no other."""
    match window:
        case "hour":
            return now_ms - now_ms % HOUR_MS
        case "day":
            return now_ms - now_ms % DAY_MS
        case "week":
            return now_ms - (now_ms - _MONDAY_MS) % WEEK_MS
        case "month":
            return _month_ms(*_month(now_ms))
        case "total":
            return 0
        case _:
            raise ValueError(f"{window!r} is no window of a budget")


def end_ms(window: str, now_ms: int) -> int | None:
    """When the window that holds `now_ms` ends, and the next begins; None for `total`."""
    match window:
        case "hour":
            return start_ms(window, now_ms) + HOUR_MS
        case "day":
            return start_ms(window, now_ms) + DAY_MS
        case "week":
            return start_ms(window, now_ms) + WEEK_MS
        case "month":
            year, month = _month(now_ms)
            return _month_ms(year + month // 12, month % 12 + 1)
        case "total":
            return None
        case _:
            raise ValueError(f"{window!r} is no window of a budget")


def _month(at_ms: int) -> tuple[int, int]:
    day = datetime.date.fromordinal(at_ms // DAY_MS + _EPOCH)
    return day.year, day.month


def _month_ms(year: int, month: int) -> int:
    return (datetime.date(year, month, 1).toordinal() - _EPOCH) * DAY_MS


_EPOCH = datetime.date(1970, 1, 1).toordinal()
