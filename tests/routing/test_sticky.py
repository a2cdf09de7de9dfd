import random
from collections import Counter, defaultdict
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.routing.deployment import Deployment
from llmrouter.routing.facts import Facts, StickyBy
from llmrouter.routing.sticky import Sticky
from tests.support.fleet import fleet

CALLS = 20_000
TURNS = 20


def facts(conversation: bytes = b"", key_id: str = "k", user: str | None = None) -> Facts:
    return Facts(asked="m", key_id=key_id, user=user, conversation=conversation)


def turns(seed: int) -> Iterator[bytes]:
    """Turns of conversations, some hundred of which go on at a time."""
    chance = random.Random(seed)
    live: list[bytes] = []
    for _ in range(CALLS):
        if len(live) < 300:
            live += [chance.randbytes(16)] * TURNS
        yield live.pop(chance.randrange(len(live)))


def place(strategy: Sticky, deployments: list[Deployment], conversation: bytes) -> str:
    return strategy.choose(deployments, 0.0, facts(conversation)).upstream


@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 1, 1, 1), (1, 1), (3, 1), (5, 3, 1)])
@pytest.mark.parametrize("per_s", [20.0, 500.0])
def test_keeps_the_turns_of_conversations_together_and_the_load_even(
    weights: tuple[int, ...], per_s: float
) -> None:
    """At least 95 % of turns where most of them are, and under 1.25 x the load of its weight."""
    deployments = fleet(*weights)
    strategy, now_s = Sticky(deployments, StickyBy.CONVERSATION), 1000.0
    placed: defaultdict[bytes, Counter[str]] = defaultdict(Counter)
    for conversation in turns(seed=7):
        now_s += 1 / per_s
        placed[conversation][strategy.choose(deployments, now_s, facts(conversation)).upstream] += 1

    load = sum(placed.values(), Counter[str]())
    assert sum(max(each.values()) for each in placed.values()) >= 0.95 * CALLS
    for deployment in deployments:
        mean = CALLS * deployment.weight / sum(weights)
        assert load[deployment.upstream] < 1.25 * mean


@pytest.mark.parametrize("weights", [(1, 1), (1, 1, 1, 1, 1), (4, 2, 1), (10, 1)])
def test_lots_fall_by_weight(weights: tuple[int, ...]) -> None:
    """Before any load is looked at: each conversation is new to a strategy."""
    deployments, count = fleet(*weights), 5_000
    fallen = Counter(
        place(Sticky(deployments, StickyBy.CONVERSATION), deployments, b"%d" % number)
        for number in range(count)
    )
    for deployment in deployments:
        expected = count * deployment.weight / sum(weights)
        assert abs(fallen[deployment.upstream] - expected) < 4 * expected**0.5


def test_a_deployment_that_goes_moves_its_own_conversations_alone_evenly_and_back() -> None:
    deployments = fleet(1, 1, 1, 1)
    left = deployments[1:]
    moved_to: Counter[str] = Counter()
    for number in range(3_000):
        conversation = b"%d" % number
        strategy = Sticky(deployments, StickyBy.CONVERSATION)
        before = place(strategy, deployments, conversation)
        after = place(strategy, left, conversation)
        if before == "a":
            moved_to[after] += 1
        else:
            assert after == before
        assert place(strategy, deployments, conversation) == before

    assert min(moved_to.values()) > 0.8 * moved_to.total() / 3


@given(st.binary(max_size=40), st.permutations(range(4)))
def test_all_workers_agree_in_whatever_order_the_deployments_stand(
    conversation: bytes, order: list[int]
) -> None:
    here, there = fleet(1, 1, 1, 1), fleet(1, 1, 1, 1)
    there = [there[which] for which in order]
    assert place(Sticky(here, StickyBy.CONVERSATION), here, conversation) == place(
        Sticky(there, StickyBy.CONVERSATION), there, conversation
    )


def test_lots_do_not_change_with_a_restart_or_a_release() -> None:
    """Else every prompt cache is cold after one."""
    deployments = fleet(1, 1, 1)
    found = [
        place(Sticky(deployments, StickyBy.CONVERSATION), deployments, b"%d" % number)
        for number in range(16)
    ]
    assert "".join(found) == "ccccbabbacbcbacb"


@pytest.mark.parametrize(
    ("by", "same", "other"),
    [
        (StickyBy.CONVERSATION, {"conversation": b"c"}, {"key_id": "x", "user": "y"}),
        (StickyBy.KEY, {"key_id": "k"}, {"conversation": b"x", "user": "y"}),
        (StickyBy.USER, {"user": "u"}, {"conversation": b"x", "key_id": "y"}),
        (StickyBy.CONVERSATION, {"key_id": "k"}, {"user": "y"}),  # no conversation: the key
        (StickyBy.USER, {"key_id": "k"}, {"conversation": b"x"}),  # no user: the key
    ],
)
def test_stays_together_by_what_is_configured_else_by_the_key(
    by: StickyBy, same: dict[str, bytes], other: dict[str, bytes]
) -> None:
    deployments = fleet(1, 1, 1, 1, 1, 1, 1)

    def found(**known: object) -> str:
        told = facts(**known)  # type: ignore[arg-type]  # a table of members
        return Sticky(deployments, by).choose(deployments, 0.0, told).upstream

    assert found(**same) == found(**same, **other)
    (name, value) = next(iter(same.items()))
    spread = {found(**{name: value * number}) for number in range(1, 30)}
    assert len(spread) > 3


def test_a_lone_conversation_stays_where_it_is() -> None:
    deployments = fleet(1, 1, 1)
    strategy = Sticky(deployments, StickyBy.CONVERSATION)
    found = {
        strategy.choose(deployments, 5.0 * turn, facts(b"alone")).upstream for turn in range(500)
    }
    assert len(found) == 1


def test_a_conversation_that_floods_is_spread() -> None:
    deployments = fleet(1, 1, 1)
    strategy = Sticky(deployments, StickyBy.CONVERSATION)
    load = Counter(
        strategy.choose(deployments, call / 100, facts(b"flood")).upstream for call in range(3_000)
    )
    assert max(load.values()) < 1.25 * 1_000


def test_counts_fade_and_go_on_over_a_long_time() -> None:
    """What is counted grows with time, and is brought down again: twice in five hours."""
    deployments = fleet(1, 1, 1)
    strategy = Sticky(deployments, StickyBy.CONVERSATION)
    load: Counter[str] = Counter()
    for call in range(CALLS):
        load[strategy.choose(deployments, call * 0.9, facts(b"flood")).upstream] += 1
    assert max(load.values()) < 0.65 * CALLS

    home = place(Sticky(deployments, StickyBy.CONVERSATION), deployments, b"flood")
    assert strategy.choose(deployments, 1e9, facts(b"flood")).upstream == home
