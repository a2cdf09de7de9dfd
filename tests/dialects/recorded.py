"""Recorded calls: samples beside each dialect's tests, and a large corpus where there is one.

A dialect's folder of tests holds `samples/samples.json`, which lists its samples and what is to be
read in them, and for each sample the bytes of the request and of the answer.
"""

import base64
import gzip
import os
import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from llmrouter.contracts.call import Call, Operation, Usage
from llmrouter.http1 import sse

HERE = Path(__file__).parent
CORPUS = Path(os.environ.get("LLMROUTER_CORPUS", HERE.parents[2] / "shared/wire/corpus.jsonl.gz"))
"""Recorded exchanges, one JSON object a line; too large to stand in the repository."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded call, and what is to be read in it."""

    dialect: str = ""
    name: str
    operation: Operation
    model: str
    stream: bool = False
    wants_usage: bool = False
    output_max: int | None = None
    choices: int = 1
    prompt_bounded: bool = True
    usage: Usage | None = None
    taken_out: tuple[int, ...] = ()
    """The events that go only to a caller who asked for usage, by their place in the stream."""

    @property
    def request(self) -> bytes:
        return (self._folder / f"{self.name}.request.json").read_bytes()

    @property
    def answer(self) -> bytes:
        ending = "sse" if self.stream else "json"
        return (self._folder / f"{self.name}.answer.{ending}").read_bytes()

    @property
    def _folder(self) -> Path:
        return HERE / self.dialect / "samples"


def samples(dialect: str) -> list[Sample]:
    """The samples beside the tests of a dialect."""
    listed = (HERE / dialect / "samples/samples.json").read_bytes()
    found = msgspec.json.decode(listed, type=list[Sample])
    return [msgspec.structs.replace(sample, dialect=dialect) for sample in found]


class Exchange(msgspec.Struct):
    """One line of the corpus."""

    file: str
    uri: str
    req_b64: str
    resp_b64: str
    status: int
    resp_headers: dict[str, str]

    @property
    def request(self) -> bytes:
        return base64.b64decode(self.req_b64)

    @property
    def answer(self) -> bytes:
        return base64.b64decode(self.resp_b64)

    @property
    def is_stream(self) -> bool:
        return "event-stream" in self.resp_headers.get("content-type", "")


def corpus() -> Iterator[Exchange]:
    """Every recorded exchange; skips the test that asks where there is no corpus."""
    if not CORPUS.is_file():
        pytest.skip(f"no recorded exchanges at {CORPUS.name}; set LLMROUTER_CORPUS to their file")
    decoder = msgspec.json.Decoder(Exchange)
    with gzip.open(CORPUS) as lines:
        yield from map(decoder.decode, lines)


def call(operation: Operation, *, stream: bool = True, wants_usage: bool = False) -> Call:
    """A call whose body matters no more."""
    return Call(
        operation=operation,
        model="m",
        stream=stream,
        wants_usage=wants_usage,
        body=b"",
        members={},
        spans=None,
    )


def blocks(stream: bytes, seed: int) -> list[bytes]:
    """A stream as a splitter may hand it on: one or several whole events at a time."""
    source = random.Random(seed)
    parts: list[bytes] = []
    for event in sse.events(stream):
        if parts and source.random() < 0.5:
            parts[-1] += event
        else:
            parts.append(event)
    return parts
