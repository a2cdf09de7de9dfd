"""Upstreams that are dead, silent or slow: time-outs fire when they should, and nothing leaks.

How late they fire is printed; what is asserted is generous, as the machine may be busy.
"""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import openai
import pytest

from tests.support.accounting import key_of
from tests.support.asking import Got, ask, client
from tests.support.daemon import Daemon, limits, serving, wait_for
from tests.support.faults import Fault, Kind, Port, text
from tests.support.faulty import Faulty, faulty

pytestmark = pytest.mark.e2e

LATE_S = 2.0
"""What is asserted; what is meant is 0.1."""
EARLY_S = 0.02
"""A deadline is a moment of the clock of another process."""
ROOM = 8
"""What an upstream may hold at once, and the org."""
ASKED_MAX_S = 20.0
MESSAGES = [{"role": "user", "content": "Hello"}]
DRIP_S = 0.2


class Case(NamedTuple):
    """One time-out, and what makes it fire."""

    name: str
    timeout: str
    seconds: float
    fault: Fault = Fault()
    stream: bool = False
    header: bool = False
    """It is asked for by the caller; router.toml says another."""
    more: dict[str, float] = {}  # noqa: RUF012  # never changed

    @property
    def is_dead(self) -> bool:
        return self.timeout == "connect"

    @property
    def headers(self) -> dict[str, str]:
        word = self.timeout.replace("_", "-")
        return {f"x-llmrouter-timeout-{word}": str(self.seconds)} if self.header else {}

    @property
    def timeouts(self) -> dict[str, float]:
        configured = 9.0 if self.header else self.seconds
        others = dict.fromkeys(("connect", "first_token", "idle", "total"), 9.0)
        return {**others, self.timeout: configured, "asked_max": ASKED_MAX_S}


SILENT = Fault(Kind.SILENT)
STALLED = Fault(Kind.STALL)
LATE = Fault(Kind.SLOW, seconds=8)
DRIPPING = Fault(Kind.DRIP, seconds=DRIP_S)
A_BYTE_A_SECOND = Fault(Kind.DRIP, seconds=1)
CASES = (
    Case("dead", "connect", 0.5),
    Case("dead-streamed", "connect", 0.5, stream=True),
    Case("dead-header", "connect", 0.4, header=True),
    Case("silent", "first_token", 0.6, SILENT),
    Case("silent-streamed", "first_token", 0.6, SILENT, stream=True),
    Case("silent-header", "first_token", 0.5, SILENT, header=True),
    Case("role-then-nothing", "first_token", 0.6, LATE, stream=True),
    Case("dripping-its-head", "first_token", 0.7, DRIPPING, stream=True),
    Case("stalled", "idle", 0.5, STALLED),
    Case("stalled-streamed", "idle", 0.5, STALLED, stream=True),
    Case("stalled-header", "idle", 0.4, STALLED, stream=True, header=True),
    Case("a-byte-a-second", "total", 1.5, A_BYTE_A_SECOND),
    Case("a-byte-a-second-streamed", "total", 1.5, A_BYTE_A_SECOND, stream=True),
    Case("a-byte-a-second-header", "total", 1.2, A_BYTE_A_SECOND, header=True),
)


class Play(NamedTuple):
    """The daemon, and what stands behind it."""

    daemon: Daemon
    key: str
    dead: Faulty
    odd: Faulty

    def asked(self, name: str, *, stream: bool, headers: dict[str, str]) -> Got:
        with client(self.daemon.base_url, self.key) as sdk:
            return ask(sdk.with_options(default_headers=headers), name, MESSAGES, stream=stream)


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Play]:
    with contextlib.ExitStack() as stack:
        dead, odd = (stack.enter_context(faulty(name)) for name in ("dead", "odd"))
        dead.order(port=Port.DEAD)
        odd.order({case.name: case.fault for case in CASES})
        settings = {
            "upstreams": {
                case.name: {
                    "url": (dead if case.is_dead else odd).url,
                    "timeouts": case.timeouts,
                    "concurrent": ROOM,
                }
                for case in CASES
            },
            "models": {case.name: model(case.name) for case in CASES},
            "orgs": {"acme": {"limits": [{"concurrent": ROOM * len(CASES)}]}},
        }
        directory = tmp_path_factory.mktemp("timeouts")
        daemon = stack.enter_context(serving(directory, settings, workers=1))
        yield Play(daemon, key_of(daemon)["key"], dead, odd)


def model(name: str) -> dict[str, Any]:
    deployments = [{"upstream": name, "model": name}]
    return {"deployments": deployments, "retry": {"attempts": 1}}


@pytest.fixture(scope="module")
def timed(play: Play) -> dict[str, Got]:
    """One call of each case, all at the same time: none has to wait for another."""

    def asked(case: Case) -> Got:
        return play.asked(case.name, stream=case.stream, headers=case.headers)

    with ThreadPoolExecutor(len(CASES)) as pool:
        got = dict(zip((case.name for case in CASES), pool.map(asked, CASES), strict=True))
    for case in CASES:
        late_ms = (got[case.name].took_s - case.seconds) * 1_000
        print(f"{case.name}: {case.timeout} {case.seconds} s fired {late_ms:+.0f} ms")  # noqa: T201
    return got


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_time_out_fires_at_its_moment(timed: dict[str, Got], case: Case) -> None:
    got = timed[case.name]
    assert case.seconds - EARLY_S < got.took_s < case.seconds + LATE_S
    assert isinstance(got.error, openai.APIError), got
    assert not isinstance(got.error, openai.APIConnectionError), got
    assert got.error.code == ("upstream_unreachable" if case.is_dead else "upstream_timeout")
    whole = text("odd")
    assert got.text != whole
    assert whole.startswith(got.text)


@pytest.mark.usefixtures("timed")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_timed_out_holds_nothing(play: Play, case: Case) -> None:
    """As many calls as fit are answered at once."""
    if case.is_dead:
        play.dead.order(port=Port.OPEN)
    (play.dead if case.is_dead else play.odd).order({case.name: Fault()})
    with ThreadPoolExecutor(ROOM) as pool:
        asking = [
            pool.submit(play.asked, case.name, stream=case.stream, headers={}) for _ in range(ROOM)
        ]
        answers = [future.result() for future in asking]
    assert {str(got.error) for got in answers} == {"None"}
    assert {got.text for got in answers} == {text("dead" if case.is_dead else "odd")}
    wait_for(lambda: in_use(play.daemon) == 0, what="the end of all claims")
    assert play.odd.quiet().open == 0


def in_use(daemon: Daemon) -> int:
    views = limits(daemon).values()
    return sum(int(view["used"]) for view in views if view["kind"] == "concurrent")


@pytest.mark.parametrize("timeout", ["connect", "first-token", "idle", "total"])
@pytest.mark.parametrize("said", ["soon", "", "-1", "0", "nan", "inf", str(ASKED_MAX_S + 1)])
def test_a_time_out_that_cannot_be_is_refused(play: Play, timeout: str, said: str) -> None:
    before = play.odd.counts.all.begun
    headers = {f"x-llmrouter-timeout-{timeout}": said}
    got = play.asked("silent", stream=False, headers=headers)
    assert isinstance(got.error, openai.BadRequestError), got
    assert f"x-llmrouter-timeout-{timeout}" in str(got.error)
    assert play.odd.counts.all.begun == before
