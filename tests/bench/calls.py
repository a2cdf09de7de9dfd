"""The calls that are measured: a chat of about 1 kB, and heads as plain clients and SDKs send."""

from collections.abc import Sequence

import msgspec

PATH = b"/v1/chat/completions"
_LINE = "One line of a long text, such as a document that is asked about.\n"
Headers = Sequence[tuple[bytes, bytes]]

_MESSAGES = (
    ("system", "You are a helpful assistant. Answer briefly, and say where you know it from."),
    ("user", "Explain how a token bucket limits a rate, and why it allows bursts. " * 5),
    ("assistant", "A bucket holds up to B tokens and gains R tokens a second. " * 3),
    ("user", "Now do the same for a budget in dollars, and say what a reservation is. " * 4),
)


def chat(model: str = "gpt-4o", *, stream: bool = False, more_bytes: int = 0) -> bytes:
    """The body of a chat; `more_bytes` longer, where its prompt is to be long."""
    call: dict[str, object] = {
        "model": model,
        "messages": [
            *({"role": role, "content": text} for role, text in _MESSAGES),
            *({"role": "user", "content": _LINE * (more_bytes // len(_LINE))},) * (more_bytes > 0),
        ],
        "temperature": 0.7,
        "max_tokens": 256,
    }
    if stream:
        call |= {"stream": True, "stream_options": {"include_usage": True}}
    return msgspec.json.encode(call)


def plain_headers(key: bytes, body: bytes) -> Headers:
    """The five that a plain client sends."""
    return [
        (b"Host", b"127.0.0.1:8080"),
        (b"Authorization", b"Bearer " + key),
        (b"Content-Type", b"application/json"),
        (b"Accept", b"*/*"),
        (b"Content-Length", b"%d" % len(body)),
    ]


def sdk_headers(key: bytes, body: bytes) -> Headers:
    """Twenty, as an official SDK sends them from behind a proxy of its own."""
    return [
        (b"Host", b"llmrouter.example.com"),
        (b"Accept-Encoding", b"gzip, deflate, br, zstd"),
        (b"Connection", b"keep-alive"),
        (b"Accept", b"application/json"),
        (b"Content-Type", b"application/json"),
        (b"User-Agent", b"OpenAI/Python 2.8.1"),
        (b"X-Stainless-Lang", b"python"),
        (b"X-Stainless-Package-Version", b"2.8.1"),
        (b"X-Stainless-OS", b"Linux"),
        (b"X-Stainless-Arch", b"x64"),
        (b"X-Stainless-Runtime", b"CPython"),
        (b"X-Stainless-Runtime-Version", b"3.12.3"),
        (b"X-Stainless-Async", b"async:asyncio"),
        (b"X-Stainless-Retry-Count", b"0"),
        (b"X-Stainless-Read-Timeout", b"600"),
        (b"Authorization", b"Bearer " + key),
        (b"OpenAI-Organization", b"org-1234567890"),
        (b"X-Forwarded-For", b"203.0.113.7"),
        (b"X-Forwarded-Proto", b"https"),
        (b"Content-Length", b"%d" % len(body)),
    ]


def message(headers: Headers, body: bytes) -> bytes:
    """A whole request."""
    lines = [b"%b: %b\r\n" % header for header in headers]
    return b"POST %b HTTP/1.1\r\n%b\r\n%b" % (PATH, b"".join(lines), body)


def lowered(headers: Headers) -> dict[bytes, bytes]:
    """The same as a reader gives them."""
    return {name.lower(): value for name, value in headers}
