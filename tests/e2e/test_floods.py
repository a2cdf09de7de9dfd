"""A flood of refused calls costs the ledger nothing, and other callers little (SC-004)."""

from collections.abc import Iterator

import pytest

from tests.support.daemon import Daemon, serving
from tests.support.demo import counters
from tests.support.flooding import Flood, exhaust, flooded
from tests.support.load import request
from tests.support.quotas import (
    OUTPUT_TOKENS,
    PRICED,
    PROMPT_TOKENS,
    chat,
    cost_nano,
    issue,
    usd,
)

pytestmark = pytest.mark.e2e

WORKERS = 2
ASKED_PER_S_MAX = 20
SECONDS = [2, pytest.param(20, marks=pytest.mark.slow)]
NO_WORSE_THAN = 10.0
"""Generous, as flood, callers and daemon share the machine; the figures themselves are printed."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with serving(tmp_path_factory.mktemp("floods"), PRICED, workers=WORKERS) as daemon:
        yield daemon


@pytest.mark.parametrize("seconds", SECONDS)
def test_a_flood_of_refused_calls_neither_reaches_the_ledger_nor_stops_others(
    daemon: Daemon, seconds: float
) -> None:
    """Beside a flood of calls that no limit refuses: all that other callers feel is the CPU."""
    key = exhaust(daemon, issue(daemon, limits=("requests=1/day",)))
    calm = issue(daemon, org="calm", limits=("requests=100000/second",))
    quiet = flooded(daemon, None, calm, seconds)
    before = counters(daemon.state)["requests"]
    refused = flooded(daemon, Flood(chat(key)), calm, seconds)
    assert refused.statuses.keys() == {"429"}
    assert counters(daemon.state)["requests"] - before == len(refused.calm)
    unserved = request(key.key, {"model": "nobody-serves-it", "messages": []})
    unknown = flooded(daemon, Flood(unserved), calm, seconds)
    assert unknown.statuses.keys() == {"404"}
    for name, found in (("quiet", quiet), ("429", refused), ("404", unknown)):
        figures = f"{found.per_s:,.0f}/s, others' p99 {found.p99_ms:.1f} ms"
        print(f"{name}: {figures}, ledger asked {found.asked_per_s:.1f}/s")  # noqa: T201
        assert {answer.status for answer in found.calm} == {200}
    assert refused.per_s > 100 * ASKED_PER_S_MAX
    # The calm org's own calls ask too: what the flood adds is what counts.
    assert refused.asked_per_s - quiet.asked_per_s < ASKED_PER_S_MAX
    assert refused.p99_ms < NO_WORSE_THAN * unknown.p99_ms


def test_a_flood_of_calls_without_money_does_not_reach_the_ledger(daemon: Daemon) -> None:
    call_nano = cost_nano(PROMPT_TOKENS, OUTPUT_TOKENS)
    key = exhaust(daemon, issue(daemon, budgets=(f"usd={usd(call_nano)}/total",)))
    before = counters(daemon.state)["requests"]
    refused = flooded(daemon, Flood(chat(key)), issue(daemon, org="calm"), 2)
    assert refused.statuses.keys() == {"402"}
    assert refused.per_s > 100 * ASKED_PER_S_MAX
    assert refused.asked_per_s < ASKED_PER_S_MAX
    assert counters(daemon.state)["requests"] - before == len(refused.calm)
