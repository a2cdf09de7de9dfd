"""Requests with something wrong in them: the corpus, mutated with a seed."""

import random
from collections.abc import Callable, Iterator

from tests.http1.corpus import MESSAGES

_SEEDS = [message.raw for message in MESSAGES if len(message.raw) < 2000]
_TOKENS = [
    b"\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b":", b";", b",", b"\r\n\r\n", b"0\r\n\r\n",
    b"Content-Length: 5\r\n", b"content-length: 0\r\n", b"Transfer-Encoding: chunked\r\n",
    b"transfer-encoding: gzip\r\n", b"Host: b\r\n", b"Connection: close\r\n",
    b"expect: 100-continue\r\n", b"connection: upgrade\r\nupgrade: x\r\n",
    b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    b"ffffffffffffffff", b"-1", b"+", b"0x", b"\x80\xff",
]  # fmt: skip


def _replace(raw: bytes, at: int, chance: random.Random) -> bytes:
    return raw[:at] + bytes([chance.randrange(256)]) + raw[at + 1 :]


def _insert(raw: bytes, at: int, chance: random.Random) -> bytes:
    return raw[:at] + chance.choice(_TOKENS) + raw[at:]


def _delete(raw: bytes, at: int, chance: random.Random) -> bytes:
    return raw[:at] + raw[at + chance.randint(1, 8) :]


def _repeat(raw: bytes, at: int, chance: random.Random) -> bytes:
    return raw[: at + chance.randint(1, 40)] + raw[at:]


def _cross(raw: bytes, at: int, chance: random.Random) -> bytes:
    other = chance.choice(_SEEDS)
    return raw[:at] + other[chance.randint(0, len(other)) :]


def _cut(raw: bytes, at: int, chance: random.Random) -> bytes:
    return raw[:at]


_MUTATIONS: list[Callable[[bytes, int, random.Random], bytes]] = [
    _replace, _replace, _insert, _insert, _insert, _delete, _repeat, _cross, _cut,
]  # fmt: skip


def mutants(count: int, *, seed: int, of: bytes | None = None) -> Iterator[bytes]:
    """`count` requests, the same ones for the same seed; made of any, or `of` one."""
    chance = random.Random(seed)
    for _ in range(count):
        raw = chance.choice(_SEEDS) if of is None else of
        for _ in range(chance.randint(1, 4)):
            raw = chance.choice(_MUTATIONS)(raw, chance.randint(0, len(raw)), chance)
        yield raw
