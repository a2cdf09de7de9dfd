"""What can be asked of events: `llmrouter events`, with the daemon up or down."""

from collections.abc import Callable, Mapping
from typing import Annotated

import msgspec

from llmrouter.access.issued import iso_utc
from llmrouter.access.key import is_id
from llmrouter.contracts.rule import Kind
from llmrouter.daemon.eventbook import EVENTS_MAX, LIST_DEFAULT, EventBook
from llmrouter.quota.denials import Denial, read_bucket
from llmrouter.units import MS_PER_S, NANO_PER_USD


class _Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    org: str | None = None
    key: str | None = None
    since_ms: Annotated[int, msgspec.Meta(ge=0, lt=10**13)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=EVENTS_MAX)] = LIST_DEFAULT


class EventDesk:
    """What can be asked of events; arguments and results are plain JSON values."""

    def __init__(self, book: EventBook) -> None:
        self._book = book

    def steps(self) -> Mapping[str, Callable[[dict[str, object]], object]]:
        """The operations by the names that the control socket knows them by."""
        return {"events.list": self.list}

    def list(self, args: dict[str, object]) -> object:
        """The newest events, newest last. Another thread than that of the book's may ask."""
        asked = msgspec.convert(args, _Asked)
        if asked.key is not None and not is_id(asked.key):
            # What was given may be a key itself, so it is not repeated.
            raise ValueError(
                "that is not the id of a key: an id is 12 letters and digits,"
                " as `llmrouter keys list` shows; never give the key itself"
            )
        return [view(row) for row in self._book.find(**msgspec.structs.asdict(asked))]


def view(row: Denial) -> dict[str, object]:
    """An event as people and scripts see it; money is in USD, and what is summed up is null."""
    bucket = read_bucket(row.bucket)
    unit = NANO_PER_USD if bucket is not None and bucket.kind is Kind.USD else 1
    amounts = {"limit": row.limit, "balance": row.balance, "wanted": row.wanted}
    return {
        "first_at": _iso_ms(row.at_ms),
        "last_at": _iso_ms(row.last_ms),
        "count": row.count,
        "org": row.org,
        "team": row.team,
        "user": row.user,
        "key_id": row.key_id or None,
        "model": row.model,
        "action": row.action.value,
        "served_by": row.served_by,
        "code": row.code,
        "bucket": row.bucket or None,
        "kind": None if bucket is None else bucket.kind.value,
        **{
            name: None if not row.bucket else amount if unit == 1 else amount / unit
            for name, amount in amounts.items()
        },
    }


def _iso_ms(at_ms: int) -> str:
    return f"{iso_utc(at_ms // MS_PER_S).removesuffix('Z')}.{at_ms % MS_PER_S:03}Z"
