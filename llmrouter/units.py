"""Units that stand in names and files: milliseconds, nano-USD, durations as people write them."""

import re

MS_PER_S = 1000
NANO_PER_USD = 1_000_000_000

_DURATION = re.compile(r"([0-9]{1,9})(s|m|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def duration_s(text: str) -> int:
    """Read a duration such as `90d`, `12h` or `30m` as whole seconds.

    Raises ValueError, saying what is accepted, for anything else and for zero.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None or int(match[1]) == 0:
        raise ValueError(
            f"{text!r} is not a duration; write a number and a unit, such as 12h or 90d"
        )
    return int(match[1]) * _SECONDS[match[2]]
