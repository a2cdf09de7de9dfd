"""Desks as a supervisor offers them, each over a store of its own unless one is given."""

from collections.abc import Iterable

from llmrouter.access.issued import IssuedKey
from llmrouter.access.key import KeyDigest
from llmrouter.access.keybook import KeyBook
from llmrouter.daemon import administer
from llmrouter.daemon.administer import Published
from llmrouter.daemon.control import Operation
from llmrouter.daemon.eventbook import EventBook
from llmrouter.daemon.eventdesk import EventDesk
from llmrouter.daemon.keydesk import KeyDesk
from llmrouter.daemon.limitdesk import LimitDesk
from llmrouter.quota.rulebook import Rulebook
from llmrouter.stores.memory import MemoryStore

NOW_S = 1_700_000_000.0


async def confirm(keys: Iterable[IssuedKey]) -> bool:
    """What a supervisor without workers does to put keys in force."""
    del keys
    return True


def operations(
    *,
    keys: KeyDesk | None = None,
    events: EventDesk | None = None,
    limits: LimitDesk | None = None,
    publish: Published = confirm,
) -> dict[str, Operation]:
    """What is behind the control socket."""
    return administer.operations(
        keys or KeyDesk(KeyBook(MemoryStore(), KeyDigest(bytes(32))), lambda: NOW_S),
        events or EventDesk(EventBook(MemoryStore())),
        limits or LimitDesk(Rulebook({}), lambda _: []),
        publish,
    )
