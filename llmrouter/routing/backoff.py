"""How long to wait before the same deployment is tried again: exponential, with full jitter.

Full jitter spreads those that failed together over the whole of the pause, from nothing to its end,
so that they do not return together.
"""

_FIRST_S = 0.1
_MAX_S = 2.0
_DOUBLINGS_MAX = 16
"""Far beyond what reaches the maximum; a bound for the shift."""


def pause_s(repeat: int, random: float) -> float:
    """Seconds before the `repeat`-th repeat, counted from 1; `random` is from 0 up to 1."""
    doublings = min(max(repeat - 1, 0), _DOUBLINGS_MAX)
    return random * min(_FIRST_S * (1 << doublings), _MAX_S)
