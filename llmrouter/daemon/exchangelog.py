"""The line of the log that every exchange has, and nothing in it that is secret.

Lines are gathered, and handed over a few times a second. What a caller chose is quoted where it
could be taken for more than one value.
"""

import functools
import re
from collections.abc import Callable
from typing import Final

from llmrouter.daemon.logs import Writer
from llmrouter.errors import Source
from llmrouter.gateway.exchange import Exchange

FLUSH_EVERY_S: Final = 0.1
_VALUE_CHARS_MAX: Final = 128
_LEVELS: Final = {Source.CLIENT: "info", Source.UPSTREAM: "warning", Source.ROUTER: "error"}
_PLAIN: Final = re.compile(r"[!#-<>-\[\]-~]+")
"""Printable ASCII without space, quote, equals sign and backslash."""


class ExchangeLog:
    """Writes a line an exchange."""

    def __init__(
        self,
        writer: Writer,
        *,
        call_later: Callable[[float, Callable[[], None]], object],
        clock: Callable[[], float],
    ) -> None:
        self._writer = writer
        self._call_later = call_later
        self._clock = clock
        self._lines: list[str] = []

    def __call__(self, exchange: Exchange) -> None:
        """Note that `exchange` is over."""
        if not self._lines:
            self._call_later(FLUSH_EVERY_S, self.flush)
        self._lines.append(self._line(exchange))

    def flush(self) -> None:
        """Hand what was gathered to the writer."""
        if self._lines:
            lines, self._lines = self._lines, []
            self._writer.put("".join(lines).encode())

    def _line(self, exchange: Exchange) -> str:
        error, principal, request = exchange.error, exchange.principal, exchange.request
        start = self._writer.line_start("info" if error is None else _LEVELS[error.source])
        who = _who(principal.org, principal.key_id) if principal is not None else ""
        call = _call(exchange.model, exchange.deployment) if exchange.model else ""
        code = f" code={error.code}" if error is not None else ""
        tried = exchange.attempts
        attempts = f" attempts_failed={tried.count}" if tried is not None else ""
        what = _what(request.method, request.path[: _VALUE_CHARS_MAX + 1])  # it is remembered
        tenths = round((self._clock() - exchange.arrived_at) * 10_000)
        return (
            f"{start} request={exchange.request_id}{who}{what}{call}"
            f" status={exchange.status}{code}{attempts}"
            f" ms={tenths // 10}.{tenths % 10}\n"
        )


@functools.lru_cache(maxsize=1024)
def _who(org: str, key_id: str) -> str:
    return f" org={_value(org)} key={key_id}"


@functools.lru_cache(maxsize=1024)
def _call(model: str, deployment: str) -> str:
    return f" model={_value(model)} deployment={_value(deployment)}"


@functools.lru_cache(maxsize=1024)
def _what(method: bytes, path: bytes) -> str:
    return f" method={method.decode()} path={_value(path.decode('latin-1'))}"


def _value(text: str) -> str:
    """Make one word of `text`, in quotes where it is not plainly one."""
    cut = text[:_VALUE_CHARS_MAX]
    if _PLAIN.fullmatch(cut):
        return cut
    escaped = cut.encode("unicode_escape").decode().replace('"', '\\"')
    return f'"{escaped}"'
