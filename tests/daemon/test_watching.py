"""From settings to what is watched."""

from typing import Any

import msgspec
import pytest

from llmrouter.config.schema import Settings
from llmrouter.daemon import routing, watching
from llmrouter.routing.breaker import BreakerTerms

SECRET = "sk-upstream-abcDEF123456"  # made up


def settings(**tables: Any) -> Settings:
    upstreams = {"a": {"url": "http://up.example:8000/v1"}, "b": {"url": "http://b.example"}}
    return msgspec.convert({"upstreams": upstreams, "models": {}} | tables, Settings)


def test_the_breakers_of_an_upstream_are_as_it_says() -> None:
    breaker = {"failures": 2, "error_rate": 0.1, "window": 9, "rest": 1.5, "rest_max": 7}
    upstreams = {"a": {"url": "http://a", "breaker": breaker}, "b": {"url": "http://b"}}

    assert routing.breakers(settings(upstreams=upstreams)) == {
        "a": BreakerTerms(failures=2, error_rate=0.1, window_s=9, rest_s=1.5, rest_max_s=7),
        "b": BreakerTerms(failures=5, error_rate=0.5, window_s=30, rest_s=5, rest_max_s=60),
    }


def test_the_plan_names_every_deployment_as_routing_does() -> None:
    models = {
        "m": {
            "aliases": ["alias"],
            "deployments": [
                {"upstream": "b"},
                {"upstream": "a", "model": "org/m-2"},
                {"upstream": "b", "model": "m", "weight": 2},
            ],
        },
        "m-*": {"deployments": [{"upstream": "a"}]},
    }

    plan = watching.plan(settings(models=models))

    assert plan.models == {"m": ("b/m", "a/org/m-2"), "m-*": ("a/m-*",)}
    assert plan.upstreams == ("a", "b")


def test_only_upstreams_with_health_are_probed_each_with_its_own_credential() -> None:
    health = {"path": "/models", "every": 3, "timeout": 1, "failures": 4}
    upstreams = {
        "a": {"url": "http://up.example:8000/v1", "health": health},
        "b": {"url": "http://b.example"},
        "c": {"url": "https://c.example", "health": {"path": "/ok"}},
    }

    first, second = watching.probes(settings(upstreams=upstreams), {"a": SECRET}, None)

    assert (first.upstream, first.path, first.origin.path_prefix) == ("a", b"/models", b"/v1")
    assert first.headers == (
        b"host: up.example:8000\r\nauthorization: Bearer %b\r\n" % SECRET.encode()
    )
    assert (first.every_s, first.timeout_s, first.failures) == (3, 1, 4)
    assert second.headers == b"host: c.example\r\n"
    assert second.origin.tls is not None


def test_the_demo_upstream_is_probed_where_it_listens() -> None:
    upstreams = {"demo": {"url": "builtin:demo", "health": {"path": "/models"}}}

    (probe,) = watching.probes(settings(upstreams=upstreams), {}, "/state/demo.sock")

    assert probe.origin.unix_path == "/state/demo.sock"
    assert probe.origin.path_prefix + probe.path == b"/v1/models"


@pytest.mark.parametrize("dialect", ["anthropic", "gemini"])
def test_an_upstream_of_a_dialect_that_is_not_served_is_not_probed(dialect: str) -> None:
    table = {"url": "http://a", "dialect": dialect, "health": {"path": "/"}}

    assert watching.probes(settings(upstreams={"a": table}), {}, None) == []
