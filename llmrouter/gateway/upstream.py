"""An upstream as the path sees it: a pool, a dialect, and what every request to it begins with."""

from llmrouter.contracts.call import Operation
from llmrouter.contracts.dialect import Dialect
from llmrouter.http1.pool import Pool
from llmrouter.http1.request import Request
from llmrouter.http1.upstream import UpstreamTimeouts


class Upstream:
    """A host we call."""

    def __init__(
        self,
        name: str,
        dialect: Dialect,
        pool: Pool,
        timeouts: UpstreamTimeouts,
        *,
        secret: str | None,
        also_passes: frozenset[bytes] = frozenset(),
    ) -> None:
        self.name = name
        self.dialect = dialect
        self.pool = pool
        self.timeouts = timeouts
        self._secret = secret.encode() if secret else None
        credential = dialect.credential_headers(secret) if secret is not None else ()
        lines = [b"%b: %b\r\n" % header for header in credential]
        self._passes = dialect.request_headers | also_passes
        self._fixed = b"".join([b"host: %b\r\n" % pool.origin.host_header, *lines])
        self._heads: dict[Operation, bytes] = {}

    def __repr__(self) -> str:
        return f"<Upstream {self.name} {self.pool!r}>"

    def request_head(self, operation: Operation, request: Request, body_bytes: int) -> bytes:
        """The head for a call: ours, and those of the caller's headers that may pass."""
        start = self._heads.get(operation) or self._start(operation)
        headers = request.headers
        passed = [b"%b: %b\r\n" % (name, headers[name]) for name in self._passes & headers.keys()]
        return b"%b%bcontent-length: %d\r\n\r\n" % (start, b"".join(passed), body_bytes)

    def is_given_away_by(self, body: bytes) -> bool:
        """Whether our credential stands in `body`: some servers say which one they refuse."""
        return self._secret is not None and self._secret in body

    def _start(self, operation: Operation) -> bytes:
        path = self.pool.origin.path_prefix + self.dialect.upstream_path(operation)
        # Asked for as it is, because we look for usage in what comes back.
        plain = b"content-type: application/json\r\naccept-encoding: identity\r\n"
        start = b"POST %b HTTP/1.1\r\n%b%b" % (path, self._fixed, plain)
        self._heads[operation] = start
        return start
