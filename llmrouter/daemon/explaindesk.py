"""What would become of a call: the question, with all that only the owner of the state knows.

The command line says by whose key and what; here the key is looked up, and how the buckets stand
that may count the call. Who answers has the rest: a worker, or a gateway of its own (`fresh`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from llmrouter.access.issued import IssuedKey
from llmrouter.access.keybook import KeyBook
from llmrouter.contracts.call import Operation
from llmrouter.contracts.rule import Scope
from llmrouter.gateway.explanation import Caller, Explanation, Question
from llmrouter.quota.ledger import Standing
from llmrouter.quota.rulebook import Bucketed, Rulebook
from llmrouter.units import MS_PER_S


class _Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    key: str
    """Its id, or its whole text."""
    body: bytes
    """Base64 in JSON."""
    operation: Operation = Operation.CHAT
    is_sample: bool = False

    def __repr__(self) -> str:
        return f"<_Asked {self.operation} body={len(self.body)}>"


class ExplainDesk:
    """Makes questions out of what the command line asks."""

    def __init__(
        self,
        book: KeyBook,
        rulebook: Rulebook,
        standing: Callable[[Iterable[Bucketed]], list[Standing]],
        now_ms: Callable[[], int],
    ) -> None:
        self._book = book
        self._rulebook = rulebook
        self._standing = standing
        self._now_ms = now_ms

    def question(self, args: dict[str, object]) -> Question:
        """Raises UnknownKey, ValueError."""
        asked = msgspec.convert(args, _Asked)
        key = self._book.find(asked.key)
        buckets = [one for scope in self._scopes(key) for one in self._rulebook.of_scope(scope)]
        standings = tuple(self._standing(buckets))
        at_ms = self._now_ms()
        return Question(
            caller=_caller(key, at_ms),
            operation=asked.operation,
            body=asked.body,
            is_sample=asked.is_sample,
            standings=standings,
            at_ms=at_ms,
        )

    def _scopes(self, key: IssuedKey) -> Iterator[Scope]:
        """Whose buckets may count the call, and those of the places at upstreams."""
        yield Scope(kind="org", name=key.org)
        if key.team is not None:
            yield Scope(kind="team", name=f"{key.org}/{key.team}")
        if key.user is not None:
            yield Scope(kind="user", name=f"{key.org}/{key.user}")
        yield Scope(kind="key", name=key.id)
        yield from (scope for scope in self._rulebook.scopes() if scope.kind == "upstream")


class ExplainAlone:
    """The desk while no daemon runs."""

    def __init__(self, desk: ExplainDesk, answer: Callable[[Question], Explanation]) -> None:
        self._desk = desk
        self._answer = answer

    def steps(self) -> Mapping[str, Callable[[dict[str, object]], object]]:
        """The operation, by the name that the control socket knows it by."""
        return {"explain": self.explain}

    def explain(self, args: dict[str, object]) -> object:
        """What would become of a call, as plain JSON values."""
        return msgspec.to_builtins(self._answer(self._desk.question(args)))


def _caller(key: IssuedKey, at_ms: int) -> Caller:
    view = key.view(at_ms / MS_PER_S)
    return Caller(
        id=view.id,
        name=view.name,
        org=view.org,
        team=view.team,
        user=view.user,
        status=view.status.value,
        expires_at=view.expires_at,
    )
