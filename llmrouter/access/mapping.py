"""Which model serves those who ask for another: of an org, of a team, of a key.

An exact name wins, then the longest pattern, and of two as long the first. A name is mapped once:
what it is mapped to is not looked up again, so maps cannot run in circles.
"""

from collections.abc import Iterable, Iterator, Mapping

from llmrouter.access.patterns import ModelPatterns
from llmrouter.contracts import patterns
from llmrouter.contracts.patterns import is_pattern

MAPPED_MAX = 1_000  # every pattern may be tried for every new name


class ModelMap:
    """From the name that was asked for, or a pattern of such names, to the model that serves.

    Raises ValueError, saying what is accepted, for a map that is none.
    """

    __slots__ = ("_exact", "_patterns", "texts")

    def __init__(self, texts: Mapping[str, str] | None = None) -> None:
        self.texts = dict(texts or {})
        """As it was written."""
        if len(self.texts) > MAPPED_MAX:
            raise ValueError(f"{len(self.texts)} mapped models are too many; {MAPPED_MAX} fit")
        for asked, served in self.texts.items():
            _check(asked, served)
        self._exact = {asked: to for asked, to in self.texts.items() if not is_pattern(asked)}
        covering = [asked for asked in self.texts if is_pattern(asked)]
        covering.sort(key=len, reverse=True)
        self._patterns = [(patterns.split(asked), self.texts[asked]) for asked in covering]

    def __repr__(self) -> str:
        return f"<ModelMap {', '.join(map('='.join, self.texts.items())) or 'empty'}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelMap) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __iter__(self) -> Iterator[str]:
        """The names that are mapped as they stand, without those that patterns cover."""
        return iter(self._exact)

    def _key(self) -> tuple[tuple[str, str], ...]:
        return tuple(self.texts.items())  # of two patterns as long, the first counts

    def of(self, asked: str) -> str | None:
        """The model that serves those who ask for `asked`, if that is another."""
        served = self._exact.get(asked)
        if served is not None:
            return served
        for parts, covering in self._patterns:
            if patterns.matches(parts, asked):
                return covering
        return None


def _check(asked: str, served: str) -> None:
    ModelPatterns((asked, served))
    if is_pattern(served):
        raise ValueError(f"{asked!r} is mapped to the pattern {served!r}; name one model")
    if asked == served:
        raise ValueError(f"{asked!r} is mapped to itself; name another model, or leave it out")


def read_map(texts: Iterable[str]) -> dict[str, str]:
    """Read a map as people write it, a text for each name: `gpt-4=gpt-4o-mini`.

    Raises ValueError, saying what is accepted, for a text that is none, or a name given twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        asked, equals, served = text.partition("=")
        if not (asked and equals and served):
            raise ValueError(
                f"{text[:100]!r} maps nothing: write the name that is asked for, '=' and the model"
                " that serves, such as gpt-4=gpt-4o-mini"
            )
        if asked in found:
            raise ValueError(f"{asked!r} is mapped twice; give each name once")
        found[asked] = served
    ModelMap(found)
    return found
