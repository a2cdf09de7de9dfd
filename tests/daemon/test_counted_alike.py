"""Ledger and books read the journals apart from each other, and come to the same sums.

A call may make several attempts, and go on at other models, each with a record of its own; whoever
is killed when, it is one call, one request under each rule, and all that it has used.
"""

import contextlib
import tempfile
from pathlib import Path

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmrouter.access.ruletext import parse_budget, parse_limit
from llmrouter.daemon.bookkeeping import Bookkeeping
from llmrouter.daemon.teller import Teller
from llmrouter.metering.accounts import Accounts
from llmrouter.quota.rulebook import Rulebook
from llmrouter.stores.memory import MemoryStore
from tests.daemon.spending import ACME, Writer, an_attempt, now_ms

MODELS = ("m", "m2", "n")
COUNTED = (None, "m", "m*", "n")
"""What the limits on requests are for."""
RULES = (
    *(parse_limit(f"requests=1000/day,model={model}") for model in COUNTED if model),
    parse_limit("requests=1000/day"),
    parse_limit("tokens=1000000/day"),
    parse_budget("usd=1000/total"),
)
Used = tuple[int, int | None]
"""Tokens, and nano-USD."""


class Tried(msgspec.Struct, frozen=True):
    """What one model has used of a call."""

    used: Used
    others: tuple[Used, ...]

    def tokens(self) -> int:
        return sum(tokens for tokens, _ in (self.used, *self.others))

    def nano_usd(self) -> int:
        return sum(nano_usd or 0 for _, nano_usd in (self.used, *self.others))


class Called(msgspec.Struct, frozen=True):
    """A call: the models that it went on at, the last of which stands for it."""

    models: tuple[str, ...]
    tried: tuple[Tried, ...]
    interrupted: bool
    """Its worker dies before the last has ended, which held so much then."""
    then: str
    """What happens next."""


useds = st.tuples(st.integers(0, 1_000), st.none() | st.integers(0, 10**6))
trieds = st.builds(Tried, useds, st.lists(useds, max_size=2).map(tuple))
calleds = st.builds(
    Called,
    st.permutations(MODELS).map(tuple),
    st.lists(trieds, min_size=1, max_size=3).map(tuple),
    st.sampled_from([False, False, False, True]),
    st.sampled_from(["", "count", "store", "book", "die", "restart"]),
)


class Node:
    """Workers that die, and a supervisor that is restarted, over one state."""

    def __init__(self, directory: Path) -> None:
        self._journals = directory / "journal"
        self._journals.mkdir()
        self.books = directory / "books.db"
        self._store = MemoryStore()
        self._boots = 0
        self.rulebook = Rulebook({ACME: RULES})
        self._begin()

    def _begin(self) -> None:
        self.teller = Teller(self._store, self._journals, self.rulebook, now_ms)
        self.teller.recover()
        self._hire()

    def _hire(self) -> None:
        self._boots += 1
        self._writer = Writer(self._journals, f"boot{self._boots}")
        self.teller.started(self._writer.boot)

    def serve(self, called: Called) -> None:
        """Have it journaled, as a worker does: a record for each model, each begun before the one
        that it takes over from has ended."""
        writer, seq, before = self._writer, 0, list[str]()
        last = len(called.tried) - 1
        for number, tried in enumerate(called.tried):
            tokens, nano_usd = tried.tokens(), tried.nano_usd()
            model = called.models[number]
            new = writer.begin(tokens, nano_usd, model=model, instead_of=tuple(before))
            if before:
                self._end(seq, called.tried[number - 1], replaced=True)
            seq = new
            before.append(model)
        if called.interrupted:
            self.die()
        else:
            self._end(seq, called.tried[last], replaced=False)

    def _end(self, seq: int, tried: Tried, *, replaced: bool) -> None:
        others = tuple(an_attempt(*used) for used in tried.others)
        self._writer.end(seq, *tried.used, others=others, replaced=replaced)

    def count(self) -> None:
        self.teller.fold_all()

    def store(self) -> None:
        self._store.write(self.teller.changes())

    def book(self) -> None:
        with contextlib.closing(Bookkeeping(self.books, self._journals)) as keeping:
            while keeping.fold():
                pass

    def die(self) -> None:
        """The worker; another one takes its place."""
        self._writer.die()
        assert self.teller.finish(self._writer.boot)
        self._hire()

    def restart(self) -> None:
        """Everything is killed at once."""
        self._writer.die()
        self.teller.close()
        self._begin()

    def close(self) -> None:
        self._writer.die()
        self.teller.close()


def requests(called: Called, model: str | None) -> int:
    """One, if a rule for `model` covers any that the call was made to."""
    asked = called.models[: len(called.tried)]
    return int(any(model is None or matches(model, one) for one in asked))


def matches(pattern: str, model: str) -> bool:
    return model.startswith(pattern[:-1]) if pattern.endswith("*") else model == pattern


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(calleds, max_size=12))
def test_books_and_ledger_come_to_what_was_used(calls: list[Called]) -> None:
    with tempfile.TemporaryDirectory() as name:
        node = Node(Path(name))
        try:
            for called in calls:
                node.serve(called)
                if called.then:
                    getattr(node, called.then)()
            node.restart()
            node.book()
            standing = node.teller.standing(node.rulebook.of_scope(ACME))
            with contextlib.closing(Accounts(node.books)) as accounts:
                (total,) = accounts.totals().totals
        finally:
            node.close()

    tried = [one for called in calls for one in called.tried]
    tokens, nano_usd = sum(map(Tried.tokens, tried)), sum(map(Tried.nano_usd, tried))
    used = {found.bucket: found.used for found in standing}
    asked = {
        f"org/acme/requests/day{f'/{model}' if model else ''}": sum(
            requests(called, model) for called in calls
        )
        for model in COUNTED
    }
    assert used == {
        **asked,
        "org/acme/tokens/day": tokens,
        "org/acme/usd/total": nano_usd,
    }
    tally = total.tally
    assert (tally.calls, tally.interrupted) == (
        len(calls), sum(called.interrupted for called in calls),
    )  # fmt: skip
    assert (tally.prompt_tokens + tally.output_tokens, tally.cost_nano_usd) == (tokens, nano_usd)
