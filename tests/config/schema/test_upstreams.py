"""`[upstreams.NAME]`: defaults, and what is refused of a value alone."""

from typing import Any

import msgspec
import pytest

from llmrouter.config.schema import Breaker, Drain, Health, Upstream, UpstreamTimeouts


def test_an_upstream_is_patient_and_not_limited_unless_it_is_said() -> None:
    upstream = Upstream(url="builtin:demo")

    assert upstream.dialect == "openai"
    assert upstream.timeouts == UpstreamTimeouts(
        connect=5, first_token=60, idle=30, total=600, asked_max=600
    )
    assert upstream.drain_after_disconnect == Drain(seconds=5, bytes=65_536)
    assert (upstream.concurrent, upstream.health, upstream.tags) == (None, None, {})
    assert upstream.connection_age == 300


def test_a_breaker_opens_after_five_failures_or_half_of_the_calls() -> None:
    assert Breaker() == Breaker(failures=5, error_rate=0.5, window=30, rest=5, rest_max=60)


def test_two_probes_that_fail_take_an_upstream_out() -> None:
    assert Health(path="/models") == Health(path="/models", every=10, timeout=5, failures=2)


@pytest.mark.parametrize(
    ("table", "members"),
    [
        (Breaker, {"failures": 0}),
        (Breaker, {"error_rate": 0}),
        (Breaker, {"error_rate": 1.01}),
        (Breaker, {"rest": 0}),
        (Health, {"path": "/", "failures": 0}),
        (Health, {"path": "/", "timeout": 0}),
        (Health, {}),
        (UpstreamTimeouts, {"asked_max": 0}),
        (Upstream, {"url": "x", "connection_age": 0}),
        (Upstream, {"url": "x", "concurrent": 0}),
    ],
)
def test_what_makes_no_sense_is_refused(table: type, members: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(members, table)
