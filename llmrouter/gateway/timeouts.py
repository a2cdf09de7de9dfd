"""How long an attempt may take: what the upstream says, then the model, then the caller.

A caller asks by headers, in seconds, for shorter time-outs or for longer ones, up to what the
upstream lets it ask for:

    x-llmrouter-timeout-connect: 2          x-llmrouter-timeout-idle: 10
    x-llmrouter-timeout-first-token: 5      x-llmrouter-timeout-total: 120
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from llmrouter.errors import InvalidRequest
from llmrouter.gateway.upstream import Upstream
from llmrouter.http1.upstream import UpstreamTimeouts
from llmrouter.routing.routes import Route

LEAST_S: Final = 0.05
"""The shortest time-out that can be asked for: time-outs are looked at that often."""
_NUMBER_BYTES_MAX: Final = 12
HEADERS: Final[Mapping[bytes, str]] = {
    b"x-llmrouter-timeout-connect": "connect_s",
    b"x-llmrouter-timeout-first-token": "first_s",
    b"x-llmrouter-timeout-idle": "idle_s",
    b"x-llmrouter-timeout-total": "total_s",
}
_NAMES: Final = tuple(HEADERS)
Overrides = Mapping[str, float]
"""Seconds by the member of `UpstreamTimeouts`."""
_NOTHING: Final[Overrides] = {}


class Timeouts:
    """The time-outs of attempts."""

    __slots__ = ("_known", "_of_models", "_upstreams")

    def __init__(
        self, upstreams: Mapping[str, Upstream], of_models: Mapping[str, Overrides]
    ) -> None:
        self._upstreams = upstreams
        self._of_models = of_models
        """By the name of a route."""
        self._known: dict[tuple[str, str], UpstreamTimeouts] = {}

    def of(self, route: Route, upstream: Upstream, asked: Overrides) -> UpstreamTimeouts:
        """Those of an attempt at one of the route's deployments."""
        name = route.name, upstream.name
        known = self._known.get(name)
        if known is None:
            own = self._of_models.get(route.name, _NOTHING)
            known = self._known[name] = replace(upstream.terms.timeouts, **own)
        if not asked:
            return known
        most = upstream.terms.asked_max_s
        bounded = {member: min(seconds, most) for member, seconds in asked.items()}
        return replace(known, **bounded)

    def asked(self, headers: dict[bytes, bytes], route: Route) -> Overrides:
        """What a caller asks for; raises InvalidRequest where that cannot be had."""
        for name in _NAMES:
            if name in headers:
                return self._read(headers, route)
        return _NOTHING

    def _read(self, headers: dict[bytes, bytes], route: Route) -> Overrides:
        most = max(self._upstreams[each.upstream].terms.asked_max_s for each in route.deployments)
        return {
            member: _seconds(name, headers[name], most)
            for name, member in HEADERS.items()
            if name in headers
        }


def _seconds(name: bytes, value: bytes, most: float) -> float:
    text = value.decode("latin-1").strip()
    if len(text) <= _NUMBER_BYTES_MAX and text.replace(".", "", 1).isdecimal() and text.isascii():
        seconds = float(text)
        if LEAST_S <= seconds <= most:
            return seconds
    header = name.decode()
    shown = ascii(text[:_NUMBER_BYTES_MAX])
    reason = f"the header '{header}' is {shown}; send seconds from {LEAST_S:g} to {most:g}"
    raise InvalidRequest(reason, param=header)
