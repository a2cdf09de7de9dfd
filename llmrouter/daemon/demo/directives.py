"""What a caller can ask the demo to do to it: by the model's name, or by the header `x-demo`.

    model "demo-slow"                       the first byte comes after two seconds
    model "demo-slow=0.5,tokens=500"        ... after half a second, and then there are 500 tokens
    x-demo: error=429                       this answer is an error, whatever the model

A directive is a name, with `=` or `-` and a number where it takes one; several are separated by
commas. The header, where there is one, counts alone. `TABLE` has all of them.
"""

import re

import msgspec

MODEL_PREFIX = "demo-"
HEADER = b"x-demo"
TOKENS_MAX = 1_000_000
BYTES_MAX = 64 * 1024 * 1024
SECONDS_MAX = 3_600
SLOW_S = 2.0

_FORM = re.compile(r"([a-z]+(?:-[a-z]+)*)(?:[=-](\d{1,9}(?:\.\d{1,6})?))?")
_SHOWN_CHARS_MAX = 60


class Directives(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for; each default is the ordinary behaviour."""

    slow: float = 0.0
    gap: float = 0.0
    tokens: int | None = None
    bytes: int | None = None
    reasoning: int = 0
    cached: int = 0
    error: int | None = None
    throttle: int | None = None
    flap: int = 0
    blink: float = 0.0
    fail_rate: int = 0
    stall_rate: int = 0
    context_length: bool = False
    content_refused: bool = False
    content_filter: bool = False
    prefill: bool = False
    cut: int | None = None
    role_cut: bool = False
    stall: int | None = None
    malformed: int | None = None
    error_event: int | None = None
    ping: int = 0
    reset: bool = False
    silent: bool = False
    no_done: bool = False
    no_usage: bool = False
    empty: bool = False
    not_json: bool = False
    drip: bool = False
    keepalive_close: bool = False


class Directive(msgspec.Struct, frozen=True):
    """One line of the table."""

    name: str
    field: str
    kind: type[int] | type[float] | None
    """What number it takes; None: none."""
    default: float
    """The number where none is given."""
    least: float
    most: float
    meaning: str

    def read(self, number: str | None) -> float | bool:
        """Give the value of its field; raises DirectiveError."""
        if self.kind is None:
            if number is not None:
                raise DirectiveError(f"the directive '{self.name}' takes no number; leave it out")
            return True
        if number is None:
            return self.kind(self.default)
        if self.kind is int and "." in number:
            raise DirectiveError(f"'{self.name}={number}': the number must be whole")
        if not self.least <= float(number) <= self.most:
            reason = f"the number must be from {self.least:g} to {self.most:g}"
            raise DirectiveError(f"'{self.name}={number}': {reason}")
        return self.kind(number)


class DirectiveError(ValueError):
    """A directive that does not exist, or whose number it does not take."""


def _switch(name: str, meaning: str) -> Directive:
    return Directive(name, name.replace("-", "_"), None, 0, 0, 0, meaning)


def _event(name: str, meaning: str) -> Directive:
    return Directive(name, name.replace("-", "_"), int, 5, 0, TOKENS_MAX, meaning)


def _rate(name: str, meaning: str) -> Directive:
    return Directive(name, name.replace("-", "_"), int, 5, 1, 100, meaning)


TABLE: tuple[Directive, ...] = (
    Directive(
        "slow", "slow", float, SLOW_S, 0, SECONDS_MAX, "the first byte comes after N seconds"
    ),
    Directive("gap", "gap", float, 20.0, 0, 60_000, "N milliseconds between two events"),
    Directive("pace", "gap", float, 20.0, 0, 60_000, "the same as gap"),
    Directive("tokens", "tokens", int, 2_000, 1, TOKENS_MAX, "the text has exactly N tokens"),
    Directive("long", "tokens", int, 2_000, 1, TOKENS_MAX, "the same as tokens"),
    Directive("bytes", "bytes", int, 4 << 20, 1, BYTES_MAX, "the text has exactly N bytes"),
    Directive("big", "bytes", int, 4 << 20, 1, BYTES_MAX, "the same as bytes"),
    Directive("reasoning", "reasoning", int, 32, 1, TOKENS_MAX, "N reasoning tokens come on top"),
    Directive("cached", "cached", int, 16, 1, 10**9, "up to N tokens of the prompt were cached"),
    Directive("error", "error", int, 500, 400, 599, "status N; 429 and 503 with retry-after: 1"),
    Directive("throttle", "throttle", int, 2, 0, SECONDS_MAX, "status 429, retry-after: N"),
    Directive("flap", "flap", int, 2, 1, 1_000_000, "status 503, but for every Nth such call"),
    Directive("blink", "blink", float, 2.0, 0.01, SECONDS_MAX, "status 503 every other N seconds"),
    _rate("fail-rate", "status 500 for N % of such calls"),
    _rate("stall-rate", "only N % of such calls are slow (slow=N, 2 seconds)"),
    _switch("context-length", "status 400, code context_length_exceeded"),
    _switch("content-refused", "status 400, code content_filter"),
    _switch("content-filter", "the text ends half-way with finish reason content_filter"),
    _switch("prefill", "status 400 if the last message is the assistant's"),
    _event("cut", "closed after N events; plain: after half of the body"),
    _switch("role-cut", "closed after what announces the answer, before its text; plain: as cut"),
    _event("stall", "nothing more after N events, but open; plain: after half of the body"),
    _event("malformed", "the event after N is broken JSON; plain: the second half is missing"),
    _event("error-event", "the event after N is an error and the last; plain: the body is one"),
    Directive("ping", "ping", int, 3, 1, TOKENS_MAX, "N comments come before the first event"),
    _switch("reset", "the connection is reset before any answer"),
    _switch("silent", "no answer at all"),
    _switch("no-done", "a stream ends properly, but without its last event"),
    _switch("no-usage", "usage is never told"),
    _switch("empty", "status 200 and an empty body"),
    _switch("not-json", "status 200 and a page of HTML"),
    _switch("drip", "one byte at a time, N milliseconds apart if gap=N is asked for too"),
    _switch("keepalive-close", "connection: keep-alive is promised, and then it is closed"),
)
NONE = Directives()

_BY_NAME = {directive.name: directive for directive in TABLE}


def read_directives(model: str, header: bytes | None) -> Directives:
    """Read what one request asks for; raises DirectiveError."""
    if header is not None:
        return _read(header.decode("latin-1"))
    if model.startswith(MODEL_PREFIX):
        return _read(model.removeprefix(MODEL_PREFIX))
    return NONE


def _read(text: str) -> Directives:
    found: dict[str, float | bool] = {}
    for part in text.split(","):
        name, number = _parts(part.strip())
        directive = _BY_NAME[name]
        found[directive.field] = directive.read(number)
    return msgspec.convert(found, Directives)


def _parts(part: str) -> tuple[str, str | None]:
    match = _FORM.fullmatch(part)
    if match is None or match[1] not in _BY_NAME:
        shown = part[:_SHOWN_CHARS_MAX]
        raise DirectiveError(f"unknown directive {shown!r}; known are {', '.join(_BY_NAME)}")
    return match[1], match[2]
