"""`keys update` while the daemon serves: in force at once on all workers, with what was used."""

import http.client
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.daemon.answering import ModelServer, Stream, call, everywhere, model_server
from tests.support.daemon import Daemon, create_key, limits, run, serving, wait_for

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def upstream() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, upstream: ModelServer) -> Iterator[Daemon]:
    price = {"input": 1000, "output": 1000}  # 0.006 USD a call
    models = {
        name: {"deployments": [{"upstream": "up"}], "price": price} for name in ("m", "m-held")
    }
    settings = {**upstream.settings(), "models": models}
    with serving(tmp_path_factory.mktemp("updates"), settings, workers=2) as daemon:
        yield daemon


def update(daemon: Daemon, key_id: str, *options: str) -> None:
    done = run("keys", "update", key_id, *options, "--config", str(daemon.config))
    assert done.returncode == 0, done.stderr


def used(daemon: Daemon, bucket: str) -> float:
    return float(limits(daemon)[bucket]["used"])


def admitted(statuses: list[int]) -> int:
    return statuses.count(200)


def test_a_rate_opens_and_closes_at_once_and_keeps_what_was_used(daemon: Daemon) -> None:
    """FR-011: on every worker when the command returns."""
    created = create_key(daemon.config, "--limit", "requests=40/day")
    key, key_id = created["key"], created["id"]
    bucket = f"key/{key_id}/requests/day"
    assert admitted(everywhere(daemon, key, 429)) == 40
    assert used(daemon, bucket) == 40

    update(daemon, key_id, "--limit", "requests=1000/day")

    raised = everywhere(daemon, key, 200)
    assert set(raised) == {200}
    wait_for(lambda: limits(daemon)[bucket]["claimed"] == 0, what="rest")
    assert 40 + len(raised) - 1 <= used(daemon, bucket) <= 40 + len(raised)
    assert limits(daemon)[bucket]["limit"] == 1_000

    update(daemon, key_id, "--limit", "requests=10/day")

    lowered = everywhere(daemon, key, 429)
    assert set(lowered) == {429}
    assert used(daemon, bucket) > 40
    assert limits(daemon)[bucket]["left"] < 0


def test_a_budget_opens_and_closes_at_once_and_keeps_what_was_spent(daemon: Daemon) -> None:
    created = create_key(daemon.config, "--budget", "usd=0.06/total")
    key, key_id = created["key"], created["id"]
    bucket = f"key/{key_id}/usd/total"
    refused = 0
    while refused == 0:  # one after the other, so that no hold is in the way
        refused = call(daemon, key).status != 200
    before = used(daemon, bucket)
    assert 0 < before <= 0.06

    update(daemon, key_id, "--budget", "usd=100/total")
    raised = everywhere(daemon, key, 200)
    assert set(raised) == {200}
    wait_for(lambda: limits(daemon)[bucket]["claimed"] == 0, what="rest")
    after = used(daemon, bucket)
    assert after == pytest.approx(before + 0.006 * len(raised))

    update(daemon, key_id, "--budget", f"usd={before}/total")
    assert set(everywhere(daemon, key, 402)) == {402}
    assert used(daemon, bucket) == after

    update(daemon, key_id, "--remove", "usd/total")
    assert set(everywhere(daemon, key, 200)) == {200}
    assert bucket not in limits(daemon)


def test_a_limit_of_the_file_that_changes_keeps_what_was_used(
    tmp_path: Path, upstream: ModelServer
) -> None:
    """From one start to the next: raised it opens, lowered it closes."""

    def served(amount: int, usd: float) -> tuple[list[int], float]:
        org = {
            "limits": [{"requests": amount, "per": "day"}],
            "budgets": [{"usd": usd, "per": "total"}],
        }
        price = {"input": 1000, "output": 1000}
        models = {"m": {"deployments": [{"upstream": "up"}], "price": price}}
        settings = {**upstream.settings(), "models": models, "orgs": {"acme": org}}
        with serving(tmp_path, settings, workers=2) as daemon:
            if not keys:
                keys.append(create_key(daemon.config)["key"])
            statuses = [call(daemon, keys[0]).status for _ in range(5)]
            wait_for(lambda: limits(daemon)[bucket]["claimed"] == 0, what="rest")
            return statuses, used(daemon, bucket)

    keys: list[str] = []
    bucket = "org/acme/requests/day"

    assert served(3, 100) == ([200] * 3 + [429] * 2, 3)
    assert served(5, 100) == ([200] * 2 + [429] * 3, 5)
    assert served(4, 100) == ([429] * 5, 5)
    assert served(1000, 0.02) == ([402] * 5, 5)
    assert served(1000, 100) == ([200] * 5, 10)


def test_calls_at_once_that_run_are_counted_under_the_new_limit(
    daemon: Daemon, upstream: ModelServer
) -> None:
    created = create_key(daemon.config, "--limit", "concurrent=2")
    key, key_id = created["key"], created["id"]
    upstream.go_on.clear()
    streams = [Stream(daemon, key), Stream(daemon, key)]
    try:
        assert set(everywhere(daemon, key, 429)) == {429}

        update(daemon, key_id, "--limit", "concurrent=3")
        streams.append(Stream(daemon, key))
        assert set(everywhere(daemon, key, 429)) == {429}

        update(daemon, key_id, "--limit", "concurrent=1")
        assert limits(daemon)[f"key/{key_id}/concurrent"]["left"] == -2
        assert set(everywhere(daemon, key, 429)) == {429}
    finally:
        upstream.go_on.set()
    assert all(stream.is_whole() for stream in streams)
    wait_for(lambda: call(daemon, key).status == 200, what="room for one")


def test_a_rule_that_is_added_counts_from_then_on(daemon: Daemon, tmp_path: Path) -> None:
    created = create_key(daemon.config)
    key, key_id = created["key"], created["id"]
    assert set(everywhere(daemon, key, 200)) == {200}

    update(daemon, key_id, "--limit", "requests=20/day")

    assert used(daemon, f"key/{key_id}/requests/day") == 0
    assert admitted(everywhere(daemon, key, 429)) == 20


def test_headers_tell_of_the_new_limit(daemon: Daemon) -> None:
    created = create_key(daemon.config, "--limit", "requests=40/day")
    update(daemon, created["id"], "--limit", "requests=50/day")
    connection = daemon.connection()
    body = msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": "Hi"}]})
    headers = {"authorization": f"Bearer {created['key']}", "content-type": "application/json"}
    connection.request("POST", "/v1/chat/completions", body, headers)
    response: http.client.HTTPResponse = connection.getresponse()

    assert response.read()
    assert response.headers["x-ratelimit-limit-requests"] == "50"
    assert response.headers["x-ratelimit-remaining-requests"] == "49"
    connection.close()
