"""One downstream request, as the reader fills it and the application reads it."""

from typing import Final

SMALL_PIECE_BYTES: Final = 1024
"""Smaller pieces of a body are gathered: an object for each would cost many times its bytes."""
LENGTH_DIGITS_MAX: Final = 12
"""Of a Content-Length that is read here; longer ones are the parser's."""


class Buffered:
    """The bodies that one server holds in memory, together."""

    __slots__ = ("bytes", "bytes_max")

    def __init__(self, bytes_max: int) -> None:
        self.bytes = 0
        self.bytes_max = bytes_max

    def __repr__(self) -> str:
        return f"<Buffered {self.bytes} of {self.bytes_max}>"


class KnownHead:
    """A head that has come before on its connection, and what was worked out from it alone.

    Two heads are alike if they are the same bytes, but for how long the body is. As long as its
    connection stands it holds the caller's credential.
    """

    __slots__ = ("after", "before", "headers", "kept", "method", "minor_version", "path", "target")

    def __init__(self, request: "Request", before: bytes, after: bytes) -> None:
        self.before = before
        """The head up to the digits of its Content-Length."""
        self.after = after
        """What follows them."""
        self.method = request.method
        self.target = request.target
        self.path = request.path
        self.minor_version = request.minor_version
        self.headers = request.headers
        self.kept: object = None
        """What the application keeps with it."""

    def __repr__(self) -> str:
        return f"<KnownHead {self.method.decode()} {self.target!r}>"

    def read(self, data: bytes) -> "tuple[Request, bytes] | None":
        """The request and its body, if `data` is all of one that has such a head, and no more."""
        start = len(self.before)
        if not data.startswith(self.before):
            return None
        end = data.find(b"\r", start, start + LENGTH_DIGITS_MAX + 1)
        length = data[start:end]
        if not length.isdigit() or not data.startswith(self.after, end):
            return None
        body = data[end + len(self.after) :]
        if len(body) != int(length):
            return None
        request = Request(self.target, self.path)
        request.method = self.method
        request.minor_version = self.minor_version
        request.headers = headers = self.headers.copy()
        headers[b"content-length"] = length
        request.known = self
        return request, body


class Request:
    """One HTTP request: its head, then its body as it grows."""

    __slots__ = (
        "body_bytes",
        "buffered",
        "complete",
        "expects_continue",
        "headers",
        "keep_alive",
        "known",
        "method",
        "minor_version",
        "path",
        "pieces",
        "target",
        "wants_body",
    )

    def __init__(self, target: bytes, path: bytes | None = None) -> None:
        self.target = target
        self.path = path_of(target) if path is None else path
        """Of the target: without the query, and without the origin of an absolute form."""
        self.method = b""
        self.minor_version = 1
        self.headers: dict[bytes, bytes] = {}
        """Names in lower case; values of a repeated field joined by `, ` (RFC 9110, 5.3)."""
        self.keep_alive = True
        self.expects_continue = False
        self.wants_body = True
        """False: the body is read and dropped, because the answer is known without it."""
        self.complete = False
        self.body_bytes = 0
        self.pieces: list[bytes | bytearray] = []
        """The body as it came; read `body` for the whole."""
        self.buffered: Buffered | None = None
        """Where the body is counted as held, while it is."""
        self.known: KnownHead | None = None
        """Where its head has come before."""

    @property
    def body(self) -> bytes:
        """The whole body; copied only if it came in more than one piece."""
        pieces = self.pieces
        if len(pieces) == 1 and isinstance(pieces[0], bytes):
            return pieces[0]
        whole = b"".join(pieces)
        self.pieces = [whole]
        return whole

    def hold(self, piece: bytes) -> None:
        """Add a piece to the body."""
        pieces = self.pieces
        if len(piece) >= SMALL_PIECE_BYTES:
            pieces.append(piece)
        elif pieces and isinstance(last := pieces[-1], bytearray):
            last += piece
        else:
            pieces.append(bytearray(piece) if pieces else piece)

    def drop_body(self) -> None:
        """Forget the body, if it is still held: it is not needed again."""
        if self.buffered is not None:
            self.buffered.bytes -= self.body_bytes
            self.buffered = None
        self.pieces = []

    def __repr__(self) -> str:
        state = "complete" if self.complete else "partial"
        return f"<Request {self.method.decode()} {self.target!r} {state} body={self.body_bytes}>"


def path_of(target: bytes) -> bytes:
    """The path of a request target (RFC 9112, 3.2)."""
    path = target.partition(b"?")[0]
    if not path.startswith(b"/") and b"://" in path:
        rest = path.partition(b"://")[2]
        return rest[slash:] if (slash := rest.find(b"/")) >= 0 else b"/"
    return path
