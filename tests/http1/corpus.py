"""Recorded HTTP messages, good and bad, each with what must become of it.

The clients' ones are shaped as the SDKs and tools of that name send them; the bad ones are the
known ways in which two parsers come to disagree about where a request ends.
"""

# ruff: noqa: E501  (a message is read best on one line)

from typing import NamedTuple

HEAD_BYTES = 4096
BODY_BYTES = 1000


class Limits:
    """The limits under which the corpus was written."""

    head_bytes = HEAD_BYTES
    body_bytes = BODY_BYTES


class Asked(NamedTuple):
    """A request that must come out; of the headers, those listed must be there."""

    method: bytes
    target: bytes
    headers: dict[bytes, bytes] = {}  # noqa: RUF012  # never written to
    body: bytes = b""
    keep_alive: bool = True


class Message(NamedTuple):
    """Bytes of one connection: the requests in them, then a refusal's status or None."""

    name: str
    raw: bytes
    asked: tuple[Asked, ...] = ()
    status: int | None = None


def _head(
    *lines: bytes, start: bytes = b"POST /v1 HTTP/1.1", host: bytes = b"host: a\r\n"
) -> bytes:
    return start + b"\r\n" + host + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


_CHUNKED = _head(b"transfer-encoding: chunked")
_JSON = b'{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]}'
_NEXT = b"GET /next HTTP/1.1\r\nhost: a\r\n\r\n"
_ASKED_NEXT = Asked(b"GET", b"/next", {b"host": b"a"})
_POST = Asked(b"POST", b"/v1", {b"host": b"a"})
_ABC = _POST._replace(body=b"abc")

# fmt: off
GOOD = (
    Message(
        "curl asks for the models",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost:4000\r\nUser-Agent: curl/8.5.0\r\n"
        b"Accept: */*\r\nAuthorization: Bearer sk-1\r\n\r\n",
        (Asked(b"GET", b"/v1/models", {b"host": b"localhost:4000", b"user-agent": b"curl/8.5.0"}),),
    ),
    Message(
        "the openai SDK posts a chat",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:4000\r\n"
        b"Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\nAccept: application/json\r\n"
        b"Content-Type: application/json\r\nUser-Agent: OpenAI/Python 2.0.0\r\n"
        b"X-Stainless-Lang: python\r\nAuthorization: Bearer sk-1\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(_JSON), _JSON),
        (
            Asked(
                b"POST",
                b"/v1/chat/completions",
                {b"authorization": b"Bearer sk-1", b"x-stainless-lang": b"python"},
                _JSON,
            ),
        ),
    ),
    Message(
        "a coding agent posts with a query and in chunks",
        b"POST /v1/messages?beta=true HTTP/1.1\r\nhost: gw\r\nx-api-key: sk-1\r\n"
        b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(_JSON), _JSON),
        (Asked(b"POST", b"/v1/messages?beta=true", {b"x-api-key": b"sk-1"}, _JSON),),
    ),
    Message("a body that is empty", _head(b"content-length: 0"), (_POST,)),
    Message("a body without any framing is none", _head(), (_POST,)),
    Message("a sized body", _head(b"content-length: 3") + b"abc", (_ABC,)),
    Message("a length with leading zeros", _head(b"content-length: 0003") + b"abc", (_ABC,)),
    Message("white space around a value", _head(b"x-a: \t b \t") + b"",
            (_POST._replace(headers={b"x-a": b"b"}),)),
    Message("white space after a length and an expectation",
            _head(b"content-length: 3 \t", b"expect: 100-continue ") + b"abc", (_ABC,)),
    Message("white space after a coding", _head(b"transfer-encoding: chunked ") + b"3\r\nabc\r\n0\r\n\r\n",
            (_ABC,)),
    Message("a value that is empty", _head(b"x-a:", b"x-b: "),
            (_POST._replace(headers={b"x-a": b"", b"x-b": b""}),)),
    Message("a repeated field is one list", _head(b"accept: a", b"Accept: b"),
            (_POST._replace(headers={b"accept": b"a, b"}),)),
    Message("bytes above ASCII in a value", _head("x-a: ü".encode()),
            (_POST._replace(headers={b"x-a": "ü".encode()}),)),
    Message("one chunk", _CHUNKED + b"3\r\nabc\r\n0\r\n\r\n", (_ABC,)),
    Message("many chunks", _CHUNKED + b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n", (_ABC,)),
    Message("chunk sizes in capitals and with zeros", _CHUNKED + b"00A\r\n0123456789\r\n0\r\n\r\n",
            (_POST._replace(body=b"0123456789"),)),
    Message("a coding in capitals", _head(b"Transfer-Encoding: CHUNKED") + b"3\r\nabc\r\n0\r\n\r\n",
            (_ABC,)),
    Message("short chunk extensions", _CHUNKED + b'3;a=b;c="d"\r\nabc\r\n0;e\r\n\r\n', (_ABC,)),
    Message("no chunk but the last", _CHUNKED + b"0\r\n\r\n", (_POST,)),
    Message(
        "a trailer is no header, of this request or the next",
        _CHUNKED + b"3\r\nabc\r\n0\r\nauthorization: Bearer x\r\nx-t:\r\n\r\n" + _NEXT,
        (_ABC, _ASKED_NEXT),
    ),
    Message("two requests at once", _NEXT + _NEXT, (_ASKED_NEXT, _ASKED_NEXT)),
    Message("a sized request, then another", _head(b"content-length: 3") + b"abc" + _NEXT,
            (_ABC, _ASKED_NEXT)),
    Message("a chunked request, then another", _CHUNKED + b"3\r\nabc\r\n0\r\n\r\n" + _NEXT,
            (_ABC, _ASKED_NEXT)),
    Message("empty lines before a request", b"\r\n\r\n" + _NEXT + b"\r\n" + _NEXT,
            (_ASKED_NEXT, _ASKED_NEXT)),
    Message("what follows connection: close is dropped", _head(b"connection: close") + _NEXT,
            (_POST._replace(keep_alive=False),)),
    Message("even if it is no HTTP", _head(b"connection: close") + b"\x00\xff \r\n" * 9,
            (_POST._replace(keep_alive=False),)),
    Message("HTTP/1.0 ends its connection", _head(start=b"GET / HTTP/1.0", host=b"") + _NEXT,
            (Asked(b"GET", b"/", keep_alive=False),)),
    Message(
        "HTTP/1.0 asks to keep it",
        _head(b"connection: keep-alive", start=b"GET / HTTP/1.0", host=b"") + _NEXT,
        (Asked(b"GET", b"/"), _ASKED_NEXT),
    ),
    Message(
        "HTTP/1.0 with a sized body",
        _head(b"content-length: 3", start=b"POST / HTTP/1.0", host=b"") + b"abc",
        (Asked(b"POST", b"/", body=b"abc", keep_alive=False),),
    ),
    Message("the absolute form", _head(start=b"GET http://gw:4000/v1?a=b HTTP/1.1"),
            (Asked(b"GET", b"http://gw:4000/v1?a=b"),)),
    Message("the asterisk form", _head(start=b"OPTIONS * HTTP/1.1"), (Asked(b"OPTIONS", b"*"),)),
    Message("an escaped target stays as it came", _head(start=b"GET /a%3A0/%2e%2e?x=%00 HTTP/1.1"),
            (Asked(b"GET", b"/a%3A0/%2e%2e?x=%00"),)),
    Message("HEAD", _head(start=b"HEAD /v1 HTTP/1.1"), (Asked(b"HEAD", b"/v1"),)),
    Message("an upgrade is not taken up, and ends the connection",
            _head(b"connection: upgrade", b"upgrade: h2c") + _NEXT,
            (_POST._replace(keep_alive=False),)),
    Message("Java posts with an offer of HTTP/2",
            _head(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
                  b"Content-Length: 3") + b"abc" + _NEXT,
            (_ABC._replace(keep_alive=False),)),
    Message("Java streams with an offer of HTTP/2",
            _head(b"connection: upgrade", b"upgrade: h2c", b"transfer-encoding: chunked")
            + b"1\r\na\r\n2;x\r\nbc\r\n0\r\nx-t: 1\r\n\r\n" + _NEXT,
            (_ABC._replace(keep_alive=False),)),
    Message("an offer of HTTP/2 with an unfinished body",
            _NEXT + _head(b"connection: upgrade", b"upgrade: h2c", b"content-length: 5") + b"abc",
            (_ASKED_NEXT,)),
    Message("CONNECT ends the connection", _head(start=b"CONNECT a:80 HTTP/1.1") + _NEXT,
            (Asked(b"CONNECT", b"a:80", keep_alive=False),)),
    Message("expects a 100", _head(b"expect: 100-continue", b"content-length: 3") + b"abc", (_ABC,)),
    Message("a long head under the limit", _head(b"cookie: " + b"c" * 4000),
            (_POST._replace(headers={b"cookie": b"c" * 4000}),)),
    Message("many short headers", _head(*(b"x-%d: %d" % (n, n) for n in range(200))),
            (_POST._replace(headers={b"x-199": b"199"}),)),
    Message("a body at its limit", _head(b"content-length: 1000") + b"x" * 1000,
            (_POST._replace(body=b"x" * 1000),)),
    Message("a chunked body at its limit", _CHUNKED + b"1f4\r\n%b\r\n" % (b"x" * 500) * 2 + b"0\r\n\r\n",
            (_POST._replace(body=b"x" * 1000),)),
    Message("an unfinished head", b"GET /next HTT"),
    Message("an unfinished sized body", _head(b"content-length: 5") + b"abc"),
    Message("an unfinished chunk", _NEXT + _CHUNKED + b"5\r\nab", (_ASKED_NEXT,)),
    Message("unfinished trailers", _CHUNKED + b"3\r\nabc\r\n0\r\nx-t: 1\r\n"),
)


def _bad(name: str, raw: bytes, status: int = 400) -> Message:
    return Message(name, raw, status=status)


BAD = (
    _bad("a length beside a coding", _head(b"content-length: 3", b"transfer-encoding: chunked") + b"0\r\n\r\n"),
    _bad("a coding beside a length", _head(b"transfer-encoding: chunked", b"content-length: 3") + b"0\r\n\r\n"),
    _bad("two lengths that differ", _head(b"content-length: 3", b"content-length: 4") + b"abcd"),
    _bad("two lengths that agree", _head(b"content-length: 3", b"content-length: 3") + b"abc"),
    _bad("a list of lengths", _head(b"content-length: 3, 3") + b"abc"),
    _bad("a length with a sign", _head(b"content-length: +3") + b"abc"),
    _bad("a negative length", _head(b"content-length: -3") + b"abc"),
    _bad("a length with white space inside", _head(b"content-length: 3 3") + b"abc"),
    _bad("a length in hexadecimal", _head(b"content-length: 0x3") + b"abc"),
    _bad("a length that is empty", _head(b"content-length:")),
    _bad("a length without bounds", _head(b"content-length: 99999999999999999999999")),
    _bad("a length with a fraction", _head(b"content-length: 3.0") + b"abc"),
    _bad("a coding that we do not know", _head(b"transfer-encoding: gzip")),
    _bad("a coding before chunked", _head(b"transfer-encoding: gzip, chunked") + b"0\r\n\r\n"),
    _bad("a coding after chunked", _head(b"transfer-encoding: chunked, gzip") + b"0\r\n\r\n"),
    _bad("the coding identity", _head(b"transfer-encoding: identity")),
    _bad("chunked twice", _head(b"transfer-encoding: chunked, chunked") + b"0\r\n\r\n"),
    _bad("chunked in two fields", _head(b"transfer-encoding: chunked", b"transfer-encoding: chunked")),
    _bad("chunked with a parameter", _head(b"transfer-encoding: chunked;q=1") + b"0\r\n\r\n"),
    _bad("chunked in quotes", _head(b'transfer-encoding: "chunked"') + b"0\r\n\r\n"),
    _bad("xchunked", _head(b"transfer-encoding: xchunked") + b"0\r\n\r\n"),
    _bad("a vertical tab before chunked", _head(b"transfer-encoding: \x0bchunked") + b"0\r\n\r\n"),
    _bad("a coding that is empty", _head(b"transfer-encoding:", b"content-length: 3") + b"abc"),
    _bad("chunked in HTTP/1.0", _head(b"transfer-encoding: chunked", start=b"POST / HTTP/1.0") + b"0\r\n\r\n"),
    _bad("a folded header", _head(b"x-a: b\r\n c")),
    _bad("a folded coding", _head(b"transfer-encoding:\r\n chunked") + b"0\r\n\r\n"),
    _bad("white space before the first header", b"GET / HTTP/1.1\r\n host: a\r\n\r\n"),
    _bad("bare LFs", b"GET / HTTP/1.1\nhost: a\n\n"),
    _bad("a bare LF after a header", b"GET / HTTP/1.1\r\nhost: a\nx: b\r\n\r\n"),
    _bad("a bare LF at the end of a head", b"GET / HTTP/1.1\r\nhost: a\r\n\n" + _NEXT),
    _bad("a bare CR in a value", _head(b"x-a: b\rc")),
    _bad("a bare CR between headers", b"GET / HTTP/1.1\r\nhost: a\rx: b\r\n\r\n"),
    _bad("NUL in a value", _head(b"x-a: b\x00c")),
    _bad("NUL in a name", _head(b"x\x00a: b")),
    _bad("NUL in a target", _head(start=b"GET /\x00 HTTP/1.1")),
    _bad("a control in a value", _head(b"x-a: b\x01c")),
    _bad("white space before a colon", _head(b"content-length : 3") + b"abc"),
    _bad("a tab before a colon", _head(b"transfer-encoding\t: chunked") + b"0\r\n\r\n"),
    _bad("a header without a name", _head(b": b")),
    _bad("a header without a colon", _head(b"x-a")),
    _bad("a name with a space", _head(b"x a: b")),
    _bad("a name with bytes above ASCII", _head("ü: b".encode())),
    _bad("the HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    _bad("a TLS greeting", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    _bad("HTTP/0.9 by name", _head(start=b"GET / HTTP/0.9")),
    _bad("HTTP/2.0", _head(start=b"GET / HTTP/2.0")),
    _bad("HTTP/1.2", _head(start=b"GET / HTTP/1.2")),
    _bad("HTTP/1.10", _head(start=b"GET / HTTP/1.10")),
    _bad("a version in small letters", _head(start=b"GET / http/1.1")),
    _bad("a request line without a version", b"GET /\r\nhost: a\r\n\r\n"),
    _bad("white space after the version", _head(start=b"GET / HTTP/1.1 ")),
    _bad("a method in small letters", _head(start=b"get / HTTP/1.1")),
    _bad("an unknown method", _head(start=b"BREW / HTTP/1.1")),
    _bad("bytes above ASCII in a target", _head(start="GET /ü HTTP/1.1".encode())),
    _bad("a target that is none", _head(start=b"GET v1 HTTP/1.1")),
    _bad("no host", _head(host=b"")),
    _bad("two hosts", _head(b"host: b")),
    _bad("a list of hosts", _head(host=b"host: a, b\r\n")),
    _bad("two hosts in HTTP/1.0", _head(b"host: b", start=b"GET / HTTP/1.0")),
    _bad("an expectation that we do not know", _head(b"expect: 200-ok")),
    _bad("an upgrade with a body over the limit",
         _head(b"connection: upgrade", b"upgrade: h2c", b"content-length: 1001"), 413),
    _bad("an upgrade with chunks over the limit",
         _head(b"connection: upgrade", b"upgrade: h2c", b"transfer-encoding: chunked")
         + b"3e9\r\n%b\r\n" % (b"x" * 1001), 413),
    _bad("an upgrade with a chunk that is none",
         _head(b"connection: upgrade", b"upgrade: h2c", b"transfer-encoding: chunked") + b"x\r\n"),
    _bad("CONNECT with a body", _head(b"content-length: 3", start=b"CONNECT a:80 HTTP/1.1") + b"abc"),
    _bad("a chunk size that is none", _CHUNKED + b"g\r\nabc\r\n0\r\n\r\n"),
    _bad("a chunk size with a prefix", _CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n"),
    _bad("a chunk size with a sign", _CHUNKED + b"+3\r\nabc\r\n0\r\n\r\n"),
    _bad("a chunk size that is missing", _CHUNKED + b"\r\nabc\r\n0\r\n\r\n"),
    _bad("a chunk size before white space", _CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n"),
    _bad("a chunk size without bounds", _CHUNKED + b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n"),
    _bad("a chunk longer than its size", _CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n"),
    _bad("a chunk shorter than its size", _CHUNKED + b"5\r\nabc\r\n0\r\n\r\n"),
    _bad("a bare LF after a chunk size", _CHUNKED + b"3\nabc\r\n0\r\n\r\n"),
    _bad("a bare LF after a chunk", _CHUNKED + b"3\r\nabc\n0\r\n\r\n"),
    _bad("a bare LF in a chunk extension", _CHUNKED + b"3;a\nb\r\nabc\r\n0\r\n\r\n"),
    _bad("a bare CR in a chunk extension", _CHUNKED + b"3;a\rb\r\nabc\r\n0\r\n\r\n"),
    _bad("a chunk extension without end", _CHUNKED + b"3;" + b"a" * 20_000),
    _bad("a chunk extension that is too long", _CHUNKED + b"3;" + b"a" * 20_000 + b"\r\nabc\r\n0\r\n\r\n"),
    _bad("trailers without end", _CHUNKED + b"0\r\nx: " + b"a" * 20_000),
    _bad("a head without end", b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 20_000, 431),
    _bad("a target without end", b"GET /" + b"a" * 20_000, 431),
    _bad("a head that is too long", _head(b"cookie: " + b"c" * 5000), 431),
    _bad("a target that is too long", _head(start=b"GET /%b HTTP/1.1" % (b"a" * 5000)), 431),
    _bad("a target that is too long, and nothing else",
         _head(start=b"GET /%b HTTP/1.0" % (b"a" * 5000), host=b""), 431),
    _bad("too many headers", _head(*(b"x: %d" % n for n in range(900))), 431),
    _bad("a length over the limit", _head(b"content-length: 1001") + b"x" * 1001, 413),
    _bad("chunks over the limit", _CHUNKED + b"1f4\r\n%b\r\n" % (b"x" * 500) * 3 + b"0\r\n\r\n", 413),
    _bad("one chunk over the limit", _CHUNKED + b"3e9\r\n%b\r\n" % (b"x" * 1001) + b"0\r\n\r\n", 413),
    Message("a good one before a bad one", _NEXT + b"GET / HTTP/1.1\r\n\r\n", (_ASKED_NEXT,), 400),
    Message("a body without framing, taken for the next request", _head() + b"abc\r\n\r\n", (_POST,), 400),
    Message("a length that ends within the body", _head(b"content-length: 2") + b"abc /",
            (_POST._replace(body=b"ab"),), 400),
    Message("bytes after the last chunk", _CHUNKED + b"3\r\nabc\r\n0\r\n\r\n" + b"\x00" * 9, (_ABC,), 400),
)

# fmt: on

MESSAGES = GOOD + BAD
