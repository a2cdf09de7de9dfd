"""What a caller feels of a flood at an exhausted limit, beyond the CPU that it takes.

It is compared with a flood of calls that meet no limit, for a model that nobody serves, so many of
them that the daemon works as long. Rounds of either take turns, so that what else the machine does
meets both. All of the daemon runs on one CPU, which has to be free to serve others at all.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from tests.bench.planned import percentile
from tests.bench.processes import Cpus, cpu_s
from tests.support.daemon import Daemon, serving
from tests.support.flooding import Flood, Flooded, exhaust, flooded
from tests.support.load import request
from tests.support.quotas import PRICED, Key, chat, issue

pytestmark = [pytest.mark.bench, pytest.mark.e2e, pytest.mark.slow]

PER_S, CALM_PER_S = 10_000, 400
CALIBRATIONS, CALIBRATE_S = 3, 3.0
ROUNDS, ROUND_S = 8, 5.0
SLOWER_BY = 1.10
ASKED_PER_S_MAX = 20


class Round(msgspec.Struct):
    """What became of a flood and of the others, and the share of a CPU that the daemon took."""

    found: Flooded
    busy: float


def play(daemon: Daemon, flood: Flood, calm: Key, seconds: float) -> Round:
    before_s = cpu_s(daemon.process.pid)
    found = flooded(daemon, flood, calm, seconds, calm_per_s=CALM_PER_S)
    return Round(found, (cpu_s(daemon.process.pid) - before_s) / seconds)


def p99_ms(name: str, rounds: Sequence[Round]) -> float:
    """Of the others' calls in all rounds; printed, beside all that it may depend on."""
    took_s = [answer.took_s for each in rounds for answer in each.found.calm]
    p50, p99 = (1_000 * percentile(took_s, percent) for percent in (50, 99))
    per_s = sum(each.found.per_s for each in rounds) / len(rounds)
    busy = sum(each.busy for each in rounds) / len(rounds)
    asked = sum(each.found.asked_per_s for each in rounds) / len(rounds)
    sys.stdout.write(
        f"\n{name}: {per_s:,.0f}/s, daemon {busy:.0%} of a CPU, ledger asked {asked:.1f}/s,"
        f" others' p50 {p50:.2f}, p99 {p99:.2f} ms"
    )
    return p99


def test_a_flood_at_a_limit_slows_others_by_the_cpu_that_it_takes_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cpus = Cpus()
    with cpus.for_measured(), serving(tmp_path, PRICED) as daemon, cpus.for_rest():
        key = exhaust(daemon, issue(daemon, limits=("requests=1/day",)))
        calm = issue(daemon, org="calm", limits=("requests=100000/second",))
        refused = Flood(chat(key), PER_S)
        unserved = request(key.key, {"model": "nobody-serves-it", "messages": []})
        unknown, unknown_per_s = Flood(unserved, PER_S), float(PER_S)
        for _ in range(CALIBRATIONS):
            wanted, taken = (play(daemon, flood, calm, CALIBRATE_S) for flood in (refused, unknown))
            unknown_per_s *= wanted.busy / taken.busy
            unknown.per_s = unknown_per_s
        turns = [
            (play(daemon, refused, calm, ROUND_S), play(daemon, unknown, calm, ROUND_S))
            for _ in range(ROUNDS)
        ]
    at_limit, beside = zip(*turns, strict=True)
    with capsys.disabled():
        limit_ms, beside_ms = p99_ms("429", at_limit), p99_ms("404", beside)
    for each in at_limit:
        assert each.found.statuses.keys() == {"429"}
        assert {answer.status for answer in each.found.calm} == {200}
        assert each.found.asked_per_s < ASKED_PER_S_MAX
    assert limit_ms <= SLOWER_BY * beside_ms
