"""One downstream request, as the reader fills it and the application reads it."""

SMALL_PIECE_BYTES = 1024
"""Smaller pieces of a body are gathered: an object for each would cost many times its bytes."""


class Buffered:
    """The bodies that one server holds in memory, together."""

    __slots__ = ("bytes", "bytes_max")

    def __init__(self, bytes_max: int) -> None:
        self.bytes = 0
        self.bytes_max = bytes_max

    def __repr__(self) -> str:
        return f"<Buffered {self.bytes} of {self.bytes_max}>"


class Request:
    """One HTTP request: its head, then its body as it grows."""

    __slots__ = (
        "body_bytes",
        "buffered",
        "complete",
        "expects_continue",
        "headers",
        "keep_alive",
        "method",
        "minor_version",
        "path",
        "pieces",
        "target",
        "wants_body",
    )

    def __init__(self, target: bytes) -> None:
        self.target = target
        self.path = path_of(target)
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
