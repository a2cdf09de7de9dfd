"""An upstream as the path sees it: a pool, a dialect, and what every request to it begins with."""

from dataclasses import dataclass

from llmrouter.contracts.call import Operation
from llmrouter.contracts.dialect import Dialect
from llmrouter.gateway.drain import NO_DRAIN, DrainBounds
from llmrouter.gateway.slots import Slots
from llmrouter.http1.pool import Pool
from llmrouter.http1.request import Request
from llmrouter.http1.upstream import UpstreamTimeouts


@dataclass(frozen=True, kw_only=True)
class UpstreamTerms:
    """How an upstream is dealt with."""

    timeouts: UpstreamTimeouts
    """Where neither the model nor the caller says otherwise."""
    asked_max_s: float = 600.0
    """The longest time-out that a caller may ask for."""
    drain: DrainBounds = NO_DRAIN
    """How far its answers are heard out whose clients have gone."""
    also_passes: frozenset[bytes] = frozenset()
    """Headers of the caller that go there, besides those of the dialect."""


class Upstream:
    """A host we call."""

    def __init__(
        self,
        name: str,
        dialect: Dialect,
        pool: Pool,
        terms: UpstreamTerms,
        *,
        secret: str | None,
    ) -> None:
        self.name = name
        self.dialect = dialect
        self.pool = pool
        self.terms = terms
        self.loop = pool.loop
        self.slots: Slots | None = None
        """Its places for our calls, where there are only so many."""
        self._secret = secret.encode() if secret else None
        credential = dialect.credential_headers(secret) if secret is not None else ()
        lines = [b"%b: %b\r\n" % header for header in credential]
        self._passes = dialect.request_headers | terms.also_passes
        self._fixed = b"".join([b"host: %b\r\n" % pool.origin.host_header, *lines])
        self._heads: dict[Operation, bytes] = {}

    def __repr__(self) -> str:
        return f"<Upstream {self.name} {self.pool!r}>"

    def request_head(self, operation: Operation, request: Request, body_bytes: int) -> bytes:
        """The head for a call: ours, and those of the caller's headers that may pass."""
        start = self._heads.get(operation) or self._start(operation)
        headers, passes = request.headers, self._passes
        passed = [b"%b: %b\r\n" % (name, headers[name]) for name in headers if name in passes]
        return b"%b%bcontent-length: %d\r\n\r\n" % (start, b"".join(passed), body_bytes)

    def is_given_away_by(self, body: bytes) -> bool:
        """Whether our credential stands in `body`: some servers say which one they refuse."""
        # With each event of a stream; `in` takes bytes for a number first: 90 ns more.
        return self._secret is not None and body.find(self._secret) >= 0

    def _start(self, operation: Operation) -> bytes:
        path = self.pool.origin.path_prefix + self.dialect.upstream_path(operation)
        # Asked for as it is, because we look for usage in what comes back.
        plain = b"content-type: application/json\r\naccept-encoding: identity\r\n"
        start = b"POST %b HTTP/1.1\r\n%b%b" % (path, self._fixed, plain)
        self._heads[operation] = start
        return start
