"""Third step: whether this node can carry one more call.

Invariant: what `admit` takes is given back when its `with` ends, however that is.
"""

from types import TracebackType

from llmrouter.errors import Overloaded

RETRY_AFTER_S = 1


class Admission:
    """Counts the calls that this worker carries; a call is in flight while its `with` lasts."""

    def __init__(self, inflight_max: int) -> None:
        self._inflight_max = inflight_max
        self.inflight = 0

    def admit(self) -> "Admission":
        """Raises Overloaded where the worker's share of `server.limits.inflight` is used up."""
        if self.inflight >= self._inflight_max:
            reason = f"this node carries as many calls as it may ({self._inflight_max} a worker)"
            raise Overloaded(f"{reason}; try again shortly", retry_after_s=RETRY_AFTER_S)
        return self

    def __enter__(self) -> None:
        self.inflight += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.inflight -= 1
