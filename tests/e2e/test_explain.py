"""`llmrouter explain` beside a daemon that serves: the same answer, up or down; nothing changes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.daemon.answering import ModelServer, call, model_server
from tests.support.daemon import Daemon, create_key, limits, run, serving, wait_for

pytestmark = pytest.mark.e2e
PRICE = {"input": 1000, "output": 1000}
LIMITS = ("--limit", "requests=3/day", "--budget", "usd=100/day")


@pytest.fixture
def upstream() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


def settings(upstream: ModelServer) -> dict[str, Any]:
    deployments = [{"upstream": "up", "model": "a", "weight": 2}, {"upstream": "up", "model": "b"}]
    models = {"m": {"deployments": deployments, "price": PRICE}}
    return {**upstream.settings(), "models": models}


def explained(config: Path, key: str, *options: str) -> dict[str, Any]:
    done = run("explain", "--key", key, "--model", "m", "--json", "--config", str(config), *options)
    assert done.returncode in (0, 1), done.stderr
    found: dict[str, Any] = msgspec.json.decode(done.stdout)
    assert done.returncode == (0 if found["outcome"]["admitted"] else 1)
    return found


def turns(found: dict[str, Any]) -> list[tuple[str, int]]:
    return [(one["deployment"], one["turn"]) for one in found["deployments"]]


def shape(value: Any) -> Any:
    """The names of all members; what is known with the daemon up alone is null without."""
    if isinstance(value, dict):
        return {name: shape(member) for name, member in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value]
    return "value"


def at_rest(daemon: Daemon, used: int) -> dict[str, Any]:
    """The buckets, once so many calls were counted and nothing is claimed."""

    def found() -> dict[str, Any] | None:
        views = limits(daemon)
        rates = [one["used"] for one in views.values() if one["kind"] == "requests"]
        is_at_rest = all(one["claimed"] == 0 for one in views.values())
        return views if rates == [used] and is_at_rest else None

    views: dict[str, Any] = wait_for(found, what="rest")
    return views


def test_the_answer_is_that_of_a_call_and_the_same_with_the_daemon_down(
    tmp_path: Path, upstream: ModelServer
) -> None:
    with serving(tmp_path, settings(upstream), workers=2) as daemon:
        created = create_key(daemon.config, *LIMITS)
        key, key_id = created["key"], created["id"]

        for used in range(3):
            found = explained(daemon.config, key_id)
            assert found["outcome"]["admitted"], found
            assert len(upstream.authorizations) == used
            before = at_rest(daemon, used)
            assert turns(explained(daemon.config, key)) == turns(found)
            after = at_rest(daemon, used)
            assert {name: one["used"] for name, one in after.items()} == {
                name: one["used"] for name, one in before.items()
            }
            assert call(daemon, key).status == 200

        at_rest(daemon, 3)
        up = explained(daemon.config, key_id)
        refused = call(daemon, key)
        assert (up["outcome"]["status"], up["outcome"]["code"]) == (429, "rate_limit_exceeded")
        assert refused.status == 429
        assert len(upstream.authorizations) == 3
        assert created["key"] not in daemon.log

    down = explained(daemon.config, key_id)

    assert shape(down) == shape(up)
    assert down["outcome"]["code"] == up["outcome"]["code"]
    assert [one["used"] for one in down["limits"]] == [one["used"] for one in up["limits"]]
    assert "worker 0 of 2" in up["notes"][-1]
    assert "no daemon runs" in down["notes"][-1]


def test_an_open_breaker_is_explained_by_the_daemon_that_has_it(
    tmp_path: Path, upstream: ModelServer
) -> None:
    table = settings(upstream)
    table["upstreams"]["dead"] = {
        "url": "http://127.0.0.1:9/v1", "dialect": "openai", "breaker": {"failures": 1, "rest": 60},
    }  # fmt: skip
    table["models"]["m"] = {
        "deployments": [{"upstream": "dead"}, {"upstream": "up"}],
        "strategy": "ordered",
        "price": PRICE,
    }
    with serving(tmp_path, table) as daemon:
        key = create_key(daemon.config)
        assert [one["turn"] for one in explained(daemon.config, key["id"])["deployments"]] == [1, 2]
        assert call(daemon, key["key"]).status == 200

        found = explained(daemon.config, key["id"])["deployments"]

    assert [(one["upstream"], one["turn"]) for one in found] == [("up", 1), ("dead", None)]
    assert found[1]["breaker"] == "open"
    assert "its breaker is open for" in found[1]["why_not"]
