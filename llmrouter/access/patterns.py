"""Patterns of model names: `gpt-4o*`, where `*` stands for any text, also none.

Callers choose the names that are matched, so matching is linear in the name's length whatever the
pattern (a regular expression would backtrack), and keeps no memory of the names that it saw.
"""

from collections.abc import Iterable

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
        split = [tuple(text.split("*")) for text in self.texts]
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
            or any(_matches(parts, model) for parts in self._others)
        )


def _matches(parts: tuple[str, ...], name: str) -> bool:
    """Match `name` with a pattern split at its stars; there is at least one."""
    first, *middle, last = parts
    at, end = len(first), len(name) - len(last)
    if at > end or not name.startswith(first) or not name.endswith(last):
        return False
    for part in middle:
        found = name.find(part, at, end)  # the leftmost leaves most room for those that follow
        if found < 0:
            return False
        at = found + len(part)
    return True


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
