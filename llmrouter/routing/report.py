"""How a deployment is, as one process tells another."""

import msgspec

from llmrouter.routing.breaker import State


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A condition as one process tells another."""

    deployment: str
    """Its name."""
    state: State
    """Of its breaker."""
    rest_s: float
    """What is left of the breaker's rest."""
    reason: str
    """Why it was opened or rests."""
    changed_s: float
    """When it last opened or closed, on the monotonic clock that all processes share."""
    throttled_s: float = 0.0
    """What is left of the rest that the upstream asked for."""
