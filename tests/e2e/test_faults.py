"""The sixteen faults, plain and streamed, through the real SDK: the right answer, or an error.

Two deployments behind one model, the first faulty, the second sound. What is seen in each case: no
caller hangs, no cut answer looks whole, no call makes more attempts than it may, and the books
agree with what both upstreams served. The run ends with a scorecard (see `conftest`).
"""

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
import openai
import pytest

from tests.e2e.faultcases import (
    ATTEMPTS,
    CASES,
    CUT,
    RETRY_AFTER_S,
    RIGHT,
    SCENES,
    Raised,
    Scene,
    first_faults,
    models,
    second_faults,
)
from tests.support.accounting import assert_all_booked, assert_tokens_agree, key_of, rows_of
from tests.support.asking import Got, ask, client
from tests.support.daemon import Daemon, run, serving
from tests.support.faults import WORDS, Fault, Kind, Seen, text
from tests.support.faulty import Faulty, faulty

pytestmark = pytest.mark.e2e

SDK_RETRIES = (0, 2)
"""None, and what it does by default."""
PROMPT_S = 15.0
"""Generous, as the machine may be busy; time-outs of a second allow for about four."""
TIMEOUTS = {"connect": 1.0, "first_token": 1.0, "idle": 1.0, "total": 6.0}
FLAP_S = 0.3
AT_ONCE = 16
"""Scenes that are played at the same time."""
FORMS = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
THROTTLED = next(case for case in CASES if case.name == "throttled")
ONE_500 = next(case for case in CASES if case.name == "one-500")
"""So sound apart from that that its breaker stays closed."""
UPSTREAMS = ("first", "second", "flapping")
Note = Any
"""pytest's `record_property`; the scorecard is made of what it is told."""


class Play(NamedTuple):
    """The daemon, and what stands behind it."""

    daemon: Daemon
    upstreams: dict[str, Faulty]

    def seen(self, scene: Scene, settings: Sequence[int] = SDK_RETRIES) -> dict[str, Seen]:
        """What came to the upstreams of a scene, of its calls with these settings of the SDK."""
        tags = [f"{scene.model}/{retries}" for retries in settings]
        counts = {name: self.upstreams[name].quiet().by_tag for name in scene.upstreams}
        return {
            name: _added([by_tag[tag] for tag in tags if tag in by_tag])
            for name, by_tag in counts.items()
        }

    def act(self, scene: Scene, key: str, retries: int = 0, calls: int = 1) -> list[Got]:
        """So many calls, one after the other, with a tag that tells the scene and the setting."""
        prompt = {"role": "user", "content": f"{scene.model}/{retries} and so on"}
        messages = [prompt, *scene.messages]
        with client(self.daemon.base_url, key, max_retries=retries) as sdk:
            return [ask(sdk, scene.model, messages, stream=scene.stream) for _ in range(calls)]


def _added(those: Sequence[Seen]) -> Seen:
    rows = zip(*map(msgspec.structs.astuple, those), strict=True)
    return Seen(*map(sum, rows)) if those else Seen()


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Play]:
    with contextlib.ExitStack() as stack:
        upstreams = {name: stack.enter_context(faulty(name)) for name in UPSTREAMS}
        upstreams["first"].order(first_faults())
        upstreams["second"].order(second_faults())
        upstreams["flapping"].order(flap_s=FLAP_S)
        settings = {
            "upstreams": {
                name: {"url": each.url, "timeouts": TIMEOUTS} for name, each in upstreams.items()
            },
            "models": models(),
            "orgs": {"acme": {}},
        }
        directory = tmp_path_factory.mktemp("faults")
        yield Play(stack.enter_context(serving(directory, settings, workers=2)), upstreams)


class Acted(NamedTuple):
    """What came of a scene."""

    key_id: str
    answers: list[Got]


@pytest.fixture(scope="module")
def acts(play: Play) -> dict[Scene, Acted]:
    """All scenes, many at the same time, since most of the time of a fault is waited."""

    def act(scene: Scene) -> Acted:
        key = key_of(play.daemon)
        settings = SDK_RETRIES[:1] if scene.is_alone else SDK_RETRIES
        answers = [play.act(scene, key["key"], retries, scene.calls) for retries in settings]
        return Acted(key["id"], [got for gots in answers for got in gots])

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(SCENES, pool.map(act, SCENES), strict=True))


def assert_fair(got: Got, raised: Raised) -> None:
    """The right answer or an explicit error, as it should be, and in time."""
    assert got.took_s < PROMPT_S, got
    if raised is RIGHT:
        assert got.error is None, got
        assert got.text in {text(name) for name in UPSTREAMS}
        assert got.finish == "stop"
    else:
        assert isinstance(got.error, raised), got
        # Neither hung up upon without a word, nor left to its own clock.
        assert not isinstance(got.error, openai.APIConnectionError), got


def assert_booked(play: Play, scene: Scene, acted: Acted) -> None:
    """The books agree with both upstreams, attempt by attempt and token by token."""
    seen = play.seen(scene)
    begun = sum(each.begun for each in seen.values())
    answered = sum(got.error is None for got in acted.answers)
    rows = rows_of(play.daemon, acted.key_id, attempts=begun, calls=answered)
    assert_tokens_agree(rows, seen)
    assert all(row.attempts <= ATTEMPTS for row in rows)
    if not scene.case.is_flapping:  # what its port refused has not come there
        assert_all_booked(rows, seen, resent=scene.case.fault.kind is Kind.RESET)


@pytest.mark.parametrize("scene", [scene for scene in SCENES if not scene.is_alone], ids=str)
def test_a_fault_is_not_seen_or_is_said_aloud(
    play: Play, acts: dict[Scene, Acted], scene: Scene, record_property: Note
) -> None:
    case = scene.case
    record_property("fault", (case.number, case.name))
    for got in acts[scene].answers:
        assert_fair(got, case.streamed if scene.stream else case.plain)
    once = play.seen(scene, [0])
    assert sum(each.begun for each in once.values()) <= ATTEMPTS * case.calls
    assert_booked(play, scene, acts[scene])


@pytest.mark.parametrize("scene", [scene for scene in SCENES if scene.is_alone], ids=str)
def test_a_fault_of_the_only_deployment_is_an_explicit_error(
    play: Play, acts: dict[Scene, Acted], scene: Scene, record_property: Note
) -> None:
    case = scene.case
    record_property("fault", (case.number, f"{case.name}-alone"))
    (got,) = acts[scene].answers
    raised = CUT if scene.stream and case.streamed is CUT else case.alone
    if case.is_flapping and got.error is None:
        raised = RIGHT  # it came while the port was open
    assert_fair(got, raised)
    assert play.seen(scene)[case.first].begun <= ATTEMPTS
    assert_booked(play, scene, acts[scene])


@FORMS
def test_a_lasting_429_says_until_when(play: Play, stream: bool, record_property: Note) -> None:
    """Also while its deployment rests, and is not asked."""
    record_property("fault", (2, "retry-after"))
    scene = Scene(THROTTLED, stream, is_alone=True)
    calls = play.act(scene, key_of(play.daemon)["key"], calls=3)
    for got in calls:
        assert isinstance(got.error, openai.APIStatusError), got
        assert got.error.status_code in {429, 503}
        assert 1 <= int(got.error.response.headers["retry-after"]) <= RETRY_AFTER_S
    assert play.upstreams["first"].counts.by_model[scene.model] <= 2  # each worker, at most


@FORMS
def test_an_answer_that_a_filter_cut_says_so(
    play: Play, stream: bool, record_property: Note
) -> None:
    record_property("fault", (13, "filtered-half-way"))
    scene = Scene(ONE_500, stream, is_alone=True)
    play.upstreams["first"].order({scene.model: Fault(Kind.FILTERED)})
    (got,) = play.act(scene, key_of(play.daemon)["key"])
    assert (got.error, got.finish, got.text) == (None, "content_filter", text("first", 3))


@FORMS
def test_a_failover_is_booked_attempt_by_attempt(
    play: Play, stream: bool, record_property: Note
) -> None:
    """What each row says, as the command line shows it."""
    record_property("fault", (16, "rows-of-a-failover"))
    scene = Scene(ONE_500, stream, is_alone=False)
    play.upstreams["first"].order({scene.model: Fault(Kind.CUT, words=0)})
    key = key_of(play.daemon)
    (got,) = play.act(scene, key["key"])
    assert_fair(got, RIGHT)
    assert len(rows_of(play.daemon, key["id"], attempts=2)) == 2
    options = ("--calls", "--json", "--key", key["id"], "--config", str(play.daemon.config))
    printed = run("usage", *options)
    assert printed.returncode == 0, printed.stderr
    rows = {row["deployment"]: row for row in msgspec.json.decode(printed.stdout)}
    lost, won = rows[f"first/{scene.model}"], rows[f"second/{scene.model}"]
    assert (lost["attempts"], lost["outcome"]) == (0, "upstream_error")
    assert (won["attempts"], won["outcome"], won["error_code"]) == (2, "ok", None)
    assert lost["request_id"] == won["request_id"]
    assert (lost["output_tokens"], won["output_tokens"]) == (0, WORDS)
    prompt = won["prompt_tokens"]
    assert prompt == len(f"{scene.model}/0 and so on".split())
    assert Decimal(won["cost_usd"]) * 1_000_000 == 3 * prompt + 9 * WORDS
