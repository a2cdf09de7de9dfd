"""What is wrong with a configuration: which file, which key, and what to do about it.

A problem never shows a secret. Values are shown, for an operator recognises a mistake by its
value, but for the places where people paste secrets: everything under `credential`, and strings
under keys that we do not know (`api_key = "sk-…"`).
"""

import datetime
import re
from collections.abc import Iterator, Sequence

import msgspec

Key = tuple[str | int, ...]
"""Where a value stands: names of tables and keys, and indexes into lists."""
Finding = tuple[Key, str]
"""A key, and what is wrong with its value."""
Findings = Iterator[Finding]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SHOWN_CHARS_MAX = 60  # a longer value hides the sentence around it
_SHOWN_INT_MAX = 10**18  # TOML's hexadecimal has no limit, but Python refuses to print such numbers


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong, in a sentence for the operator."""

    file: str
    """The file as it was named to us."""
    key: str
    """The path of the key, as in `upstreams.demo.url`; empty where the whole file is meant."""
    message: str
    """What was wrong, with the value, and what to do."""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.key, self.message) if part)


class ConfigError(Exception):
    """A configuration that cannot be used; it carries every problem that was found."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


def key_text(key: Key) -> str:
    """Write a key path as TOML would: `models."gpt-4o".deployments[1].upstream`."""
    text = ""
    for index, part in enumerate(key):
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            is_model = index == 1 and key[0] == "models"
            text += ("." if text else "") + (_quoted(part) if is_model else _name(part))
    return text


def shown(value: object, key: Key) -> str:
    """Show a value that was refused at `key`, or only its kind where it may be a secret."""
    match value:
        case dict():
            text = "a table"
        case list():
            text = "a list with entries" if value else "[]"
        case bool():
            text = str(value).lower()
        case str() if "credential" in key:
            text = "a string, not shown"
        case int() if abs(value) > _SHOWN_INT_MAX:
            text = "a huge number"
        case datetime.date() | datetime.time():
            text = f"the date or time {value}"
        case _:
            text = _cut(repr(value))
    return text


def shown_unknown(value: object, key: Key) -> str:
    """Show the value of a key that we do not know: a string may be a secret there."""
    return "a string, not shown" if isinstance(value, str) else shown(value, key)


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """End a message with the nearest of the `known` names; empty if none is near."""
    import difflib  # only a refused configuration pays for it

    near = difflib.get_close_matches(name, known, n=1) or [
        other for other in known if other.lower() == name.lower()
    ]
    return f"; did you mean '{near[0]}'?" if near else ""


def _name(part: str) -> str:
    return part if _BARE.fullmatch(part) else _quoted(part)


def _quoted(part: str) -> str:
    return msgspec.json.encode(part).decode()


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS_MAX else text[:_SHOWN_CHARS_MAX] + "…"
