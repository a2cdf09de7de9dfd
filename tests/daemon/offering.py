"""Desks as a supervisor offers them, each over a store of its own unless one is given."""

from collections.abc import Iterable

from llmrouter.access.issued import IssuedKey
from llmrouter.access.key import KeyDigest
from llmrouter.access.keybook import KeyBook
from llmrouter.daemon import operations as behind
from llmrouter.daemon.control import Operation
from llmrouter.daemon.eventbook import EventBook
from llmrouter.daemon.eventdesk import EventDesk
from llmrouter.daemon.explaindesk import ExplainDesk
from llmrouter.daemon.keydesk import KeyDesk
from llmrouter.daemon.limitdesk import LimitDesk
from llmrouter.daemon.operations import Answered, Published
from llmrouter.gateway.explanation import Explanation, Question
from llmrouter.quota.rulebook import Rulebook
from llmrouter.stores.memory import MemoryStore

NOW_S = 1_700_000_000.0


async def confirm(keys: Iterable[IssuedKey]) -> bool:
    """What a supervisor without workers does to put keys in force."""
    del keys
    return True


async def nobody_answers(question: Question) -> Explanation | None:
    """What a supervisor without workers says of a call."""
    del question
    return None


def operations(
    *,
    keys: KeyDesk | None = None,
    events: EventDesk | None = None,
    limits: LimitDesk | None = None,
    explanations: ExplainDesk | None = None,
    publish: Published = confirm,
    answer: Answered = nobody_answers,
) -> dict[str, Operation]:
    """What is behind the control socket."""
    book = KeyBook(MemoryStore(), KeyDigest(bytes(32)))
    return behind.operations(
        keys or KeyDesk(book, lambda: NOW_S),
        events or EventDesk(EventBook(MemoryStore())),
        limits or LimitDesk(Rulebook({}), lambda _: []),
        explanations or ExplainDesk(book, Rulebook({}), lambda _: [], lambda: int(NOW_S) * 1000),
        publish=publish,
        answer=answer,
    )
