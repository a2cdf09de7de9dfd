from llmrouter.http1.deadlines import NEVER, Deadlines
from tests.support.transport import FakeLoop


class Item:
    """Notes when it expired; may watch or forget others then."""

    def __init__(self, deadline: float, *, again_s: float = NEVER) -> None:
        self.deadline = deadline
        self.again_s = again_s
        self.expired_at: list[float] = []

    def expired(self, now: float) -> None:
        self.expired_at.append(now)
        self.deadline = now + self.again_s


def test_a_deadline_fires_once_it_has_passed_and_at_most_one_sweep_late() -> None:
    loop = FakeLoop(now_s=0)
    deadlines = Deadlines(loop, every_s=0.25)
    item = Item(1.125)
    deadlines.watch(item)
    loop.advance(1.0)
    assert item.expired_at == []
    loop.advance(0.25)
    assert item.expired_at == [1.25]


def test_a_deadline_that_is_moved_in_time_does_not_fire() -> None:
    loop = FakeLoop(now_s=0)
    deadlines = Deadlines(loop, every_s=0.25)
    item = Item(1.0)
    deadlines.watch(item)
    for _ in range(10):
        loop.advance(0.5)
        item.deadline = loop.now_s + 1.0
    assert item.expired_at == []


def test_a_deadline_that_was_not_moved_fires_at_every_sweep() -> None:
    loop = FakeLoop(now_s=0)
    deadlines = Deadlines(loop, every_s=1)
    item = Item(0.5, again_s=0)
    deadlines.watch(item)
    loop.advance(3)
    assert item.expired_at == [1, 2, 3]


def test_what_was_forgotten_does_not_fire() -> None:
    loop = FakeLoop(now_s=0)
    deadlines = Deadlines(loop, every_s=1)
    item = Item(0.5)
    deadlines.watch(item)
    deadlines.forget(item)
    deadlines.forget(item)
    loop.advance(5)
    assert item.expired_at == []
    assert len(deadlines) == 0


def test_the_timer_stops_while_nothing_is_watched_and_starts_again() -> None:
    loop = FakeLoop(now_s=0)
    deadlines = Deadlines(loop, every_s=1)
    assert loop.timers == []
    first = Item(NEVER)
    deadlines.watch(first)
    deadlines.watch(Item(NEVER))
    assert len(loop.timers) == 1
    deadlines.close()
    assert loop.timers == []
    deadlines.watch(first)
    deadlines.forget(first)
    loop.advance(1)
    assert loop.timers == []
    deadlines.watch(first)
    assert len(loop.timers) == 1


def test_one_that_watches_another_as_it_expires_does_not_start_a_second_timer() -> None:
    loop = FakeLoop(now_s=0)
    deadlines = Deadlines(loop, every_s=1)
    late = Item(NEVER)

    class Replacing(Item):
        def expired(self, now: float) -> None:
            super().expired(now)
            deadlines.forget(self)
            deadlines.watch(late)

    deadlines.watch(Replacing(0.5))
    loop.advance(1)
    assert len(loop.timers) == 1


def test_one_that_was_forgotten_as_another_expired_does_not_fire() -> None:
    loop = FakeLoop(now_s=0)
    deadlines = Deadlines(loop, every_s=1)
    fired: list[Item] = []

    class Jealous(Item):
        def expired(self, now: float) -> None:
            fired.append(self)
            for other in (one, two):
                deadlines.forget(other)

    one, two = Jealous(0.5), Jealous(0.5)
    deadlines.watch(one)
    deadlines.watch(two)
    loop.advance(1)
    assert len(fired) == 1


def test_closing_as_one_expires_stops_the_timer_for_good() -> None:
    loop = FakeLoop(now_s=0)
    deadlines = Deadlines(loop, every_s=1)

    class Closing(Item):
        def expired(self, now: float) -> None:
            super().expired(now)
            deadlines.close()

    item = Closing(0.5)
    deadlines.watch(item)
    deadlines.watch(Item(NEVER))
    loop.advance(5)
    assert item.expired_at == [1]
    assert loop.timers == []
