"""Health of a real node: it says soon what is out, and soon that it is back, whatever goes on."""

import http.client
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.daemon.answering import call
from tests.support import flood
from tests.support.accounting import key_of
from tests.support.daemon import Daemon, serving, wait_for
from tests.support.faults import Fault, Kind, Port
from tests.support.faulty import Faulty, faulty
from tests.support.load import request

pytestmark = pytest.mark.e2e

CALL: dict[str, object] = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
REST_S = 1.0
BREAKER = {"failures": 2, "rest": REST_S, "rest_max": REST_S}
SHARED_WITHIN_S = 0.25
NOTICED_WITHIN_S = 1.0
ANSWERED_WITHIN_S = 0.05
"""By 99 of 100 answers of the admin listener, whatever upstreams do."""


def settings(*upstreams: Faulty, **table: object) -> dict[str, Any]:
    """One model, served by each of these."""
    return {
        "upstreams": {
            each.name: {"url": each.url, "breaker": BREAKER, **table} for each in upstreams
        },
        "models": {"m": {"deployments": [{"upstream": each.name} for each in upstreams]}},
        "orgs": {"acme": {}},
    }


def status(daemon: Daemon) -> str:
    return str(daemon.admin("/health")[1]["status"])


def took_s(condition: Callable[[], Any]) -> float:
    """How long it is until something becomes true."""
    began_s = time.monotonic()
    wait_for(condition)
    return time.monotonic() - began_s


@contextmanager
def calling(daemon: Daemon, key: str, seconds: float) -> Iterator["subprocess.Popen[bytes]"]:
    """Calls pour in, as fast as they are answered."""
    with subprocess.Popen(
        [sys.executable, "-m", flood.__name__, daemon.host, str(daemon.port), str(seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(request(key, CALL))
        process.stdin.close()
        try:
            yield process
        finally:
            process.kill()


def answered(process: "subprocess.Popen[bytes]") -> dict[str, int]:
    """How many of those calls were answered how, once they have ended."""
    assert process.stdout is not None
    said = process.stdout.read()
    assert process.wait(30) == 0
    return msgspec.json.decode(said, type=dict[str, int])


def looks(daemon: Daemon, seconds: float) -> list[tuple[float, int]]:
    """Ask for health again and again: how long each answer took, and its status."""
    host, _, port = daemon.admin_address.rpartition(":")
    seen, pause = [], threading.Event()
    with closing(http.client.HTTPConnection(host, int(port), timeout=30)) as connection:
        end_s = time.monotonic() + seconds
        while (began_s := time.monotonic()) < end_s:
            connection.request("GET", "/health")
            response = connection.getresponse()
            response.read()
            seen.append((time.monotonic() - began_s, response.status))
            pause.wait(0.005)  # who watches does not flood
    return seen


@pytest.mark.parametrize("seconds", [2.0, pytest.param(30.0, marks=pytest.mark.slow)])
def test_health_answers_at_once_while_every_upstream_is_dead_and_calls_pour_in(
    tmp_path: Path, seconds: float
) -> None:
    with faulty("one") as one, faulty("two") as two:
        one.order(port=Port.REFUSED)
        two.order(port=Port.DEAD)
        table = {"timeouts": {"connect": 0.3}}
        with (
            serving(tmp_path, settings(one, two, **table), workers=2) as daemon,
            calling(daemon, key_of(daemon)["key"], seconds) as process,
        ):
            wait_for(lambda: status(daemon) == "unhealthy", what="the verdict")
            seen = looks(daemon, seconds - 0.5)
            statuses = answered(process)
    p99_s = statistics.quantiles([took for took, _ in seen], n=100)[-1]
    print(f"{len(seen)} answers: p99 {1e3 * p99_s:.1f} ms; calls: {statuses}")  # noqa: T201
    assert p99_s < ANSWERED_WITHIN_S
    assert "200" not in statuses
    assert sum(statuses.values()) > 100 * seconds, "hardly any load"


def test_an_outage_shows_at_once_and_so_does_its_end(tmp_path: Path) -> None:
    """Degraded within a second of the first failure, healthy within one of recovery and rest."""
    with (
        faulty("flaky") as flaky,
        faulty("sound") as sound,
        serving(tmp_path, settings(flaky, sound), workers=2) as daemon,
        calling(daemon, key_of(daemon)["key"], 60.0),
    ):
        wait_for(lambda: flaky.order().all.whole > 20, what="load")
        assert status(daemon) == "healthy"

        flaky.order(port=Port.REFUSED)
        assert took_s(lambda: status(daemon) == "degraded") < NOTICED_WITHIN_S
        _, health = daemon.admin("/health")
        deployments = health["models"]["m"]["deployments"]
        assert deployments["sound/m"] == {"state": "closed"}
        assert deployments["flaky/m"]["state"] in ("open", "half-open")
        assert deployments["flaky/m"]["reason"]
        assert health["upstreams"]["flaky"]["status"] in ("unhealthy", "degraded")
        assert daemon.admin("/readyz")[0] == 200

        flaky.order(port=Port.OPEN)
        assert took_s(lambda: status(daemon) == "healthy") < NOTICED_WITHIN_S + REST_S


def test_what_one_worker_finds_out_every_other_knows_and_so_does_its_successor(
    tmp_path: Path,
) -> None:
    with faulty("up") as up:
        table = {"breaker": {"failures": 1, "rest": 60.0}, "credential": {"env": "UP_API_KEY"}}
        env = {"UP_API_KEY": "sk-provider-abcDEF123456"}  # made up
        with serving(tmp_path, settings(up, **table), workers=2, env=env) as daemon:
            key = key_of(daemon)["key"]
            assert {call(daemon, key).status for _ in range(16)} == {200}
            up.order({"m": Fault(Kind.STATUS, status=500)})
            assert call(daemon, key).status >= 500
            opened_s = time.monotonic()
            wait_for(lambda: "deployment=up/m state=open" in daemon.log, what="the word of it")
            assert time.monotonic() - opened_s < SHARED_WITHIN_S
            begun = up.order().all.begun

            answers = [call(daemon, key) for _ in range(16)]
            assert {answer.code for answer in answers} == {"no_deployment_available"}
            for pid in daemon.workers():
                os.kill(pid, signal.SIGKILL)
            wait_for(lambda: daemon.log.count(" serving\n") >= 4, what="their successors")
            assert {call(daemon, key).code for _ in range(16)} == {"no_deployment_available"}

            assert up.order().all.begun == begun, "a worker did not know"
            answered_as, health = daemon.admin("/health")
            assert answered_as == daemon.admin("/readyz")[0] == 503
            assert daemon.admin("/livez")[0] == 200
            for secret in (env["UP_API_KEY"], key, "acme", up.url):
                assert secret not in repr(health)


def test_probes_notice_an_outage_and_its_end_without_any_call(tmp_path: Path) -> None:
    probed = {"health": {"path": "/models", "every": 0.1, "timeout": 0.5, "failures": 2}}
    with faulty("flaky") as flaky, faulty("sound") as sound:
        with serving(tmp_path, settings(flaky, sound, **probed), workers=2) as daemon:
            key = key_of(daemon)["key"]
            flaky.order(port=Port.REFUSED)
            wait_for(lambda: status(daemon) == "degraded", what="the outage")
            _, health = daemon.admin("/health")
            assert health["models"]["m"]["deployments"]["flaky/m"]["state"] == "down"
            assert health["upstreams"]["flaky"]["reason"].startswith("its probes fail: ")

            answers = {call(daemon, key).status for _ in range(16)}
            assert answers == {200}
            assert flaky.order().all.begun == 0
            flaky.order(port=Port.OPEN)
            wait_for(lambda: status(daemon) == "healthy", what="the recovery")
            wait_for(lambda: call(daemon, key).status == 200 and flaky.order().all.whole > 0)
        assert daemon.log.count("upstream=flaky probes=") == 2
        assert "Traceback" not in daemon.log


def test_what_probes_bring_back_needs_no_call_to_prove_it(tmp_path: Path) -> None:
    table = {
        "health": {"path": "/models", "every": 0.1, "timeout": 0.5, "failures": 1},
        "breaker": {"failures": 1, "rest": 0.3, "rest_max": 0.3},
    }
    with faulty("up") as up, serving(tmp_path, settings(up, **table), workers=2) as daemon:
        key = key_of(daemon)["key"]
        up.order(port=Port.REFUSED)
        wait_for(lambda: "upstream=up probes=failing" in daemon.log)
        assert call(daemon, key).status >= 500
        wait_for(lambda: "deployment=up/m state=open" in daemon.log)
        assert daemon.admin("/readyz")[0] == 503
        opened_s = time.monotonic()
        wait_for(lambda: time.monotonic() > opened_s + 0.4)

        up.order(port=Port.OPEN)

        wait_for(lambda: status(daemon) == "healthy", what="the recovery")
        assert daemon.admin("/readyz")[0] == 200
