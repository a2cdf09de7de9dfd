"""What has arrived at the demo: for tests that prove what went upstream, and what did not."""

import msgspec

from llmrouter.http1.request import Request

LAST_BODY_BYTES = 64 * 1024


class Counters(msgspec.Struct, kw_only=True):
    """Of this process, since it began; requests for the counters themselves are not counted."""

    requests: int = 0
    """Every head that arrived, whatever became of it."""
    plain: int = 0
    """Calls that asked for a plain answer."""
    streams: int = 0
    """Calls that asked for a streamed one."""
    open: int = 0
    """Answers that are being given at this moment."""
    cancelled: int = 0
    """Answers whose client went away before they ended."""
    events_sent: int = 0
    """Of all streams; the last event of each is one too."""
    by_path: dict[str, int] = {}
    """Requests by path; those that are not served stand under `other`."""

    def count(self, name: str) -> int:
        """Count a request that has arrived; returns its number."""
        self.by_path[name] = self.by_path.get(name, 0) + 1
        self.requests += 1
        return self.requests


class Arrived(msgspec.Struct, frozen=True):
    """A request as it arrived; a header that came twice is joined by a comma."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: str


class Last(msgspec.Struct, frozen=True):
    """The last request, kept as it is until somebody asks for it."""

    request: Request
    body: bytes

    def arrived(self) -> Arrived:
        """Put it into words."""
        request = self.request
        return Arrived(
            method=request.method.decode("latin-1"),
            target=request.target.decode("latin-1"),
            headers=[
                (name.decode("latin-1"), value.decode("latin-1"))
                for name, value in request.headers.items()
            ],
            body=self.body.decode(errors="replace"),
        )


def last_of(request: Request) -> Last:
    """Note a request whose body has arrived; the request itself may forget it."""
    return Last(request, request.body[:LAST_BODY_BYTES])
