"""One clock for all processes of a node, whatever is done to that of the wall."""

import time

import pytest

from llmrouter.daemon.clock import SteadyClock

NS = 1_000_000
START_MS = 1_763_892_000_000


class Machine:
    """The clocks of a machine that was up for an hour when we started."""

    def __init__(self) -> None:
        self.wall_ms = START_MS
        self.up_ms = 3_600_000

    def passes(self, ms: int) -> None:
        self.wall_ms += ms
        self.up_ms += ms


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(time, "time_ns", lambda: made.wall_ms * NS + 999_999)
    monkeypatch.setattr(time, "monotonic_ns", lambda: made.up_ms * NS + 1)
    return made


def test_it_is_unix_time_in_milliseconds(machine: Machine) -> None:
    clock = SteadyClock()
    assert clock.now_ms() == START_MS

    machine.passes(1_500)

    assert clock.now_ms() == START_MS + 1_500
    assert repr(clock) == f"<SteadyClock {START_MS + 1_500}>"


def test_time_goes_on_when_the_wall_clock_is_set_back(machine: Machine) -> None:
    """Limits would stand still for as long as it was set back."""
    clock = SteadyClock()
    machine.wall_ms -= 86_400_000

    machine.passes(60_000)

    assert clock.now_ms() == START_MS + 60_000


def test_a_wall_clock_that_is_ahead_is_followed(machine: Machine) -> None:
    """It was corrected, or the machine slept, which its other clock does not count."""
    clock = SteadyClock()

    machine.wall_ms += 7_200_000

    assert clock.now_ms() == START_MS + 7_200_000


def test_all_processes_agree_whenever_they_started_and_looked(machine: Machine) -> None:
    """Else what one has spent would lie in the past of another, and have drained."""
    supervisor = SteadyClock()
    machine.wall_ms += 3_600_000
    early = SteadyClock(supervisor.offset_ms)
    assert supervisor.now_ms() == early.now_ms()

    machine.wall_ms -= 7_200_000
    late = SteadyClock(supervisor.offset_ms)

    assert supervisor.now_ms() == early.now_ms() == late.now_ms() == START_MS


def test_a_supervisor_that_starts_anew_goes_by_the_wall_clock_of_then(machine: Machine) -> None:
    SteadyClock()
    machine.wall_ms -= 3_600_000

    assert SteadyClock().now_ms() == START_MS - 3_600_000
