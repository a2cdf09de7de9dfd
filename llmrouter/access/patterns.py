"""The sets of model patterns that policy goes by: of an org, of a team, of a key."""

from collections.abc import Iterable

from llmrouter.contracts import patterns

PATTERN_CHARS_MAX = 256  # the longest model names, those of Amazon's resources, are shorter
PATTERNS_MAX = 1_000  # every one may be tried for every call
_REFUSED = frozenset("?[]{}\\,\"'")  # other glob syntaxes, and lists that were not split


class ModelPatterns:
    """A set of patterns that a model's name may match; the empty set allows every model.

    Case-sensitive. Raises ValueError, saying what is accepted, for a pattern that is none.
    """

    __slots__ = ("_exact", "_others", "_prefixes", "texts")

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self.texts = tuple(texts)
        """The patterns as they were written."""
        if len(self.texts) > PATTERNS_MAX:
            raise ValueError(f"{len(self.texts)} model patterns are too many; {PATTERNS_MAX} fit")
        for text in self.texts:
            _check(text)
        split = [patterns.split(text) for text in self.texts]
        self._exact = frozenset(parts[0] for parts in split if len(parts) == 1)
        self._prefixes = tuple(parts[0] for parts in split if len(parts) == 2 and not parts[1])
        self._others = tuple(
            parts for parts in split if len(parts) > 2 or (len(parts) == 2 and parts[1])
        )

    def __repr__(self) -> str:
        return f"<ModelPatterns {', '.join(self.texts) or 'every model'}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelPatterns) and self.texts == other.texts

    def __hash__(self) -> int:
        return hash(self.texts)

    def allows(self, model: str) -> bool:
        """Tell whether `model` matches a pattern, or there is none."""
        return (
            not self.texts
            or model in self._exact
            or model.startswith(self._prefixes)
            or any(patterns.matches(parts, model) for parts in self._others)
        )


def _check(text: str) -> None:
    if not 0 < len(text) <= PATTERN_CHARS_MAX:
        raise ValueError(
            f"the model pattern {text[:40]!r} has {len(text)} characters;"
            f" write 1 to {PATTERN_CHARS_MAX}"
        )
    if any(char in _REFUSED or char.isspace() or not char.isprintable() for char in text):
        raise ValueError(
            f"{text!r} is not a model pattern: write a model's name, with '*' for any text, such as"
            " gpt-4o*; no spaces, commas, quotes, '?', brackets, braces or backslashes"
        )
