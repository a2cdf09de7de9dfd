"""Requests out of bytes: llhttp's strict mode, and what else a proxy must refuse. No I/O.

Theory of operation. `feed` takes bytes as they come; the receiver hears of a request twice: when
its head is complete (`request_head`, where it may say that it does not want the body) and when its
body is. Requests follow each other on one connection; after one that ends the connection, what
follows is dropped unread, so bytes can never be taken for a request that the peer did not frame.
An offer to upgrade is not taken up (Java's client makes one with every first request), and is the
last request of its connection: llhttp would read on in the other protocol, so a second parser reads
the body, if there is one.

Of a body whose length is known, the parser reads what came with the end of its head. The rest is
counted off, since the parser would copy each piece, and another parser reads the next request.

A client sends the same head with every request of a connection, but for the length of the body.
llhttp reads it once: a head is a function of its bytes, and so one that is alike gives the same
request. That holds for whole requests alone, which ask for nothing but to be answered; any other
bytes go to the parser, which stands between two requests meanwhile. A request as the official SDKs
send it (20 headers) is read in a quarter of the time.

llhttp refuses by itself: Content-Length beside Transfer-Encoding, duplicate or malformed lengths,
obs-fold, bare LF and CR, NUL and other controls, white space before the colon, the HTTP/2 preface;
`heads` what else makes a request unfit. Refused here: heads and bodies over their limits, and
framing without end (chunk extensions), for which llhttp has no limit of its own.
"""

from typing import Final, Protocol

import httptools

from llmrouter.http1 import heads
from llmrouter.http1.errors import MessageError
from llmrouter.http1.request import Buffered, KnownHead, Request, path_of

FRAMING_BYTES_MAX: Final = 4096
"""Of a chunked body, bytes in a row that carry nothing: real chunk lines are under 20 bytes."""
SLICE_BYTES: Final = 2048
"""Chunked bodies are fed in slices, so that framing without end is noticed within one read."""
NEW_HEADS_MAX: Final = 4
"""After so many heads of which none was like the one before, none is remembered any more."""
_BLANKS: Final = b" \t"
_LINE_PUNCTUATION_BYTES: Final = len(b": \r\n")
_REQUEST_LINE_BYTES: Final = 32
"""At most, besides the target: method, version, and the empty line that ends the head."""
_SPENT: Final = httptools.HttpRequestParser(None)
"""Of all readers that are closed."""


class RequestLimits(Protocol):
    """How large a request may be."""

    @property
    def head_bytes(self) -> int:
        """Of request line and headers."""

    @property
    def body_bytes(self) -> int:
        """Of the body, its framing taken off."""


class RequestReceiver(Protocol):
    """Who hears of requests."""

    def request_head(self, request: Request) -> None:
        """The head is complete; clear `request.wants_body` to have the body dropped."""

    def request_complete(self, request: Request) -> None:
        """The body is complete too."""


class RequestReader:
    """The reading half of one downstream connection."""

    __slots__ = (
        "_barren_bytes",
        "_body_bytes_max",
        "_body_follows",
        "_body_left",
        "_buffered",
        "_chunked",
        "_completed",
        "_error",
        "_head_bytes",
        "_head_bytes_fed",
        "_head_bytes_max",
        "_headers",
        "_in_head",
        "_known",
        "_limits",
        "_new_heads",
        "_parser",
        "_parts",
        "_receiver",
        "_request",
        "_whole",
        "ended",
    )

    def __init__(
        self, receiver: RequestReceiver, limits: RequestLimits, buffered: Buffered
    ) -> None:
        # for the process
        self._buffered = buffered
        # for the connection
        self._receiver: RequestReceiver | None = receiver
        self._limits = limits
        self._head_bytes_max = limits.head_bytes
        self._body_bytes_max = limits.body_bytes
        self._parser = httptools.HttpRequestParser(self)
        self._error: MessageError | None = None
        self.ended = False
        """A request has ended the connection: what follows is dropped."""
        self._known: KnownHead | None = None
        """The head of the last whole request, if the next may have the same."""
        self._new_heads = 0
        """How many were remembered since one was met again."""
        # for the request being read
        self._request: Request | None = None
        self._headers: dict[bytes, bytes] = {}
        self._in_head = False
        self._head_bytes = 0
        self._head_bytes_fed = 0
        self._chunked = False
        self._body_follows = False
        self._body_left = 0
        """Bytes of its body that are still to come, if the parser is not to read them."""
        self._parts = 0
        self._barren_bytes = 0
        # for the bytes being fed
        self._completed = False
        self._whole: Request | None = None
        """The request that they held last, if they held the end of one."""

    def is_reading_head(self) -> bool:
        """Some bytes of a head have come, but not all."""
        return self._in_head

    def is_reading_body(self) -> bool:
        """A head is complete and its body is not."""
        return self._request is not None and not self._in_head

    def is_mid_request(self) -> bool:
        """A request has begun and is not complete."""
        return self._in_head or self._request is not None

    def unfinished(self) -> Request | None:
        """The request that is being read, as far as it is known."""
        return self._request

    def close(self) -> None:
        """Read no more; let go of those who refer to this, or only a collector could free them."""
        self._parser, self._receiver = _SPENT, None

    def feed(self, data: bytes) -> None:
        """Read `data`; raises MessageError where the connection cannot go on."""
        if self.ended:
            return
        if self._body_left:
            data = self._read_body(data)
            if not data:
                return
        if self._new_heads > NEW_HEADS_MAX or self.is_mid_request():
            self._read(data)
        elif self._known is None or (read := self._known.read(data)) is None:
            self._read_new(data)
        else:
            self._repeat(*read)

    def _repeat(self, request: Request, body: bytes) -> None:
        """A whole request, with a head that is known."""
        self._new_heads = 0
        size = len(body)
        if size > self._body_bytes_max:
            raise heads.body_too_large(self._body_bytes_max)
        receiver = self._receiver
        assert receiver is not None
        self._request = request
        receiver.request_head(request)
        if body:
            self.on_body(body)
        self.on_message_complete()

    def _read_new(self, data: bytes) -> None:
        """Read what a request may begin with; if it is all of one, remember its head."""
        self._read(data)
        request, self._whole = self._whole, None
        if request is not None and (known := heads.known(request, data, self._head_bytes_max)):
            self._known = known
            self._new_heads += 1

    def _read_body(self, data: bytes) -> bytes:
        """Read more of a body whose length is known; what is to be read of `data` behind it."""
        left = self._body_left
        self._body_left = max(0, left - len(data))
        self.on_body(data if len(data) <= left else data[:left])
        if not self._body_left:
            self._parser = httptools.HttpRequestParser(self)
            self.on_message_complete()
        return b"" if self.ended else data[left:]

    def _read(self, data: bytes) -> None:
        if len(data) <= SLICE_BYTES or not self._may_be_chunked(data):
            self._feed(data)
        else:
            view = memoryview(data)
            while view:
                self._feed(view[:SLICE_BYTES])
                view = view[SLICE_BYTES:]
        request = self._request
        if request is not None and not (self._in_head or self._chunked):
            self._body_left = int(request.headers[b"content-length"]) - request.body_bytes

    def _may_be_chunked(self, data: bytes) -> bool:
        if self._in_head or self._request is not None:
            return self._in_head or self._chunked
        end = data.find(heads.END)
        return end < 0 or b"chunked" in data[:end].lower()

    def _feed(self, data: bytes | memoryview) -> None:
        if self.ended:
            return
        parts = self._parts
        self._completed = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._read_on(data[upgrade.args[0] :])
            return
        except httptools.HttpParserCallbackError as error:
            if self._error is None:
                raise  # a bug of ours, and it stays one
            raise self._error from error
        except httptools.HttpParserError as error:
            if not self.ended:
                raise _malformed(error) from error
        if self._in_head:
            self._bound_unfinished_head(len(data))
        elif self._chunked:
            self._bound_framing(len(data), barren=parts == self._parts)

    def _bound_unfinished_head(self, fed: int) -> None:
        # A field still unfinished is in no callback yet, so what was fed is counted besides.
        if not self._completed:
            self._head_bytes_fed += fed
            if self._head_bytes_fed > self._limits.head_bytes:
                raise _head_too_large(self._limits.head_bytes)

    def _bound_framing(self, fed: int, *, barren: bool) -> None:
        self._barren_bytes = self._barren_bytes + fed if barren else 0
        if self._barren_bytes > FRAMING_BYTES_MAX:
            raise MessageError(400, "chunk extensions or trailers are too long")

    def _refuse(self, error: MessageError) -> MessageError:
        self._error = error
        return error

    # httptools calls these while it is fed.

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._in_head = True
        self._head_bytes = self._head_bytes_fed = 0

    def on_url(self, url: bytes) -> None:
        """The target, or as much of it as this read holds: what is known of a request first."""
        if self._request is None:
            self._request = request = Request(url)
            self._headers = request.headers
            self._head_bytes = _REQUEST_LINE_BYTES
        else:
            request = self._request
            request.target += url
            request.path = path_of(request.target)
        self._head_bytes += len(url)
        if self._head_bytes > self._limits.head_bytes:
            raise self._refuse(_head_too_large(self._limits.head_bytes))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header of the head, or a trailer: trailers are dropped."""
        self._head_bytes = size = (
            self._head_bytes + len(name) + len(value) + _LINE_PUNCTUATION_BYTES
        )
        if size > self._head_bytes_max:
            raise self._refuse(_head_too_large(self._head_bytes_max))
        if self._in_head:
            name = name.lower()
            value = value.rstrip(_BLANKS)  # llhttp takes off only what stands before it
            headers = self._headers
            headers[name] = value if name not in headers else headers[name] + b", " + value

    def on_chunk_header(self) -> None:
        """The size line of a chunk: a sign that the framing gets somewhere."""
        self._parts += 1

    def on_headers_complete(self) -> None:
        """The head is complete: whatever makes a request unfit to be served is refused here."""
        request, receiver = self._request, self._receiver
        assert request is not None
        assert receiver is not None
        parser = self._parser
        request.method = parser.get_method()
        request.keep_alive = parser.should_keep_alive()
        try:
            self._chunked = heads.check(request, parser.get_http_version(), self._body_bytes_max)
            if parser.should_upgrade():
                self._ignore_upgrade(request)
            self._in_head = False
            receiver.request_head(request)
        except MessageError as error:
            raise self._refuse(error) from None

    def on_body(self, piece: bytes) -> None:
        """A piece of the body."""
        request = self._request
        assert request is not None
        self._parts += 1
        size = len(piece)
        request.body_bytes += size
        if request.wants_body:
            request.hold(piece)
            buffered = request.buffered = self._buffered
            buffered.bytes += size
            if buffered.bytes > buffered.bytes_max:
                raise self._refuse(_no_memory(buffered.bytes_max))
        if request.body_bytes > self._body_bytes_max:
            raise self._refuse(heads.body_too_large(self._body_bytes_max))

    def on_message_complete(self) -> None:
        """The request is whole; the next byte begins another one, if the connection goes on."""
        if self._body_follows:
            self._body_follows = False
            return
        request, receiver = self._request, self._receiver
        assert request is not None
        assert receiver is not None
        self._completed = True
        self._request = None
        self._chunked = False
        request.complete = True
        if not request.keep_alive:
            self.ended = True
        self._whole = request
        receiver.request_complete(request)

    def _ignore_upgrade(self, request: Request) -> None:
        # llhttp takes everything after such a head for the other protocol's bytes.
        request.keep_alive = False
        self._body_follows = self._chunked or int(request.headers.get(b"content-length", b"0")) > 0
        if self._body_follows and request.method == b"CONNECT":
            raise MessageError(400, "a CONNECT request has no body")

    def _read_on(self, rest: bytes | memoryview) -> None:
        """Read the body of a request that llhttp took for an upgrade, and nothing after it."""
        request = self._request
        if request is None:
            self.ended = True
            return
        framing = b"transfer-encoding: chunked"
        if not self._chunked:
            framing = b"content-length: " + request.headers[b"content-length"]
        self._parser = httptools.HttpRequestParser(_BodyOnly(self))
        self._parser.feed_data(b"POST / HTTP/1.1\r\nconnection: close\r\n%b\r\n\r\n" % framing)
        if rest:
            self._feed(rest)


class _BodyOnly:
    """What a parser that reads nothing but one body calls."""

    def __init__(self, reader: RequestReader) -> None:
        self.on_chunk_header = reader.on_chunk_header
        self.on_body = reader.on_body
        self.on_message_complete = reader.on_message_complete


def _malformed(error: httptools.HttpParserError) -> MessageError:
    """What llhttp found, in words."""
    text = str(error)
    return MessageError(400, "malformed request: " + (text[:1].lower() + text[1:]))


def _head_too_large(limit: int) -> MessageError:
    return MessageError(431, f"request line and headers are longer than {limit} bytes")


def _no_memory(limit: int) -> MessageError:
    reason = f"all bodies in memory are longer than {limit} bytes together"
    return MessageError(503, f"{reason}; try again shortly")
