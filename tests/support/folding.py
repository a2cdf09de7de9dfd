"""Facts that are all at hand, put into books."""

from collections.abc import Iterable, Mapping

from llmrouter.metering.books import Books
from llmrouter.metering.tail import Folded, Position


def fold(books: Books, facts: Iterable[Folded], positions: Mapping[str, Position | None]) -> int:
    """Store them, and up to where they were handed out, at once; how many rows that were."""
    with books.folding() as folding:
        folding.store(facts)
        folding.move(positions)
    return folding.rows
