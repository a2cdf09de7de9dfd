"""JSON as somebody else might write it: any white space, any escapes; for hypothesis."""

import random
from json import JSONEncoder
from typing import NamedTuple

from hypothesis import strategies as st

WHITE = (b"", b" ", b"\n", b"\r\n\t", b"    ")
SHORT = {"\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "/": "\\/"}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


class Member(NamedTuple):
    """A name and a value as they stand in a body, with the white space around them."""

    name: bytes
    value: bytes
    before: bytes = b""
    colon: bytes = b":"
    after: bytes = b""


def string(text: str, source: random.Random) -> bytes:
    """`text` as a JSON string, each character escaped or not as chance has it."""
    return ('"' + "".join(_char(char, source) for char in text) + '"').encode()


def _char(char: str, source: random.Random) -> str:
    if char in SHORT and source.random() < 0.7:
        return SHORT[char]
    if char < " " or char in '"\\' or source.random() < 0.2:
        units = char.encode("utf-16-be").hex()
        return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
    return char


def value(found: object, source: random.Random) -> bytes:
    """`found` as JSON; infinity is written as a number too large to be read as any other."""
    match found:
        case str():
            return string(found, source)
        case list():
            return _joined(b"[]", [value(inner, source) for inner in found], source)
        case dict():
            pairs = [
                string(name, source) + _colon(source) + value(inner, source)
                for name, inner in found.items()
            ]
            return _joined(b"{}", pairs, source)
        case float() if found in (float("inf"), float("-inf")):
            return b"1e999" if found > 0 else b"-1e999"
        case _:
            return JSONEncoder().encode(found).encode()


def member(name: str, found: object, source: random.Random) -> Member:
    """A member of a body, with white space."""
    white = [source.choice(WHITE) for _ in range(2)]
    written = value(found, source)
    return Member(string(name, source), written, white[0], _colon(source), white[1])


def body(members: list[Member], *, around: bytes = b"") -> bytes:
    """The object that these members make up."""
    inner = b",".join(one.before + one.name + one.colon + one.value + one.after for one in members)
    return around + b"{" + inner + b"}" + around


def _colon(source: random.Random) -> bytes:
    return source.choice(WHITE) + b":" + source.choice(WHITE)


def _joined(ends: bytes, parts: list[bytes], source: random.Random) -> bytes:
    white = source.choice(WHITE)
    return ends[:1] + white + (white + b"," + white).join(parts) + white + ends[1:]
