"""Patterns of model names: `*` stands for any text, also none, and may stand anywhere.

Callers choose the names that are matched, so matching is linear in the name's length whatever the
pattern (a regular expression would backtrack), and keeps no memory of the names that it saw.
"""


def is_pattern(text: str) -> bool:
    """Whether `text` stands for many names."""
    return "*" in text


def split(pattern: str) -> tuple[str, ...]:
    """What stands between the stars of a pattern; one part if it has none."""
    return tuple(pattern.split("*"))


def matches(parts: tuple[str, ...], name: str) -> bool:
    """Whether the pattern that was `split` into `parts` covers `name`."""
    if len(parts) == 1:
        return name == parts[0]
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
