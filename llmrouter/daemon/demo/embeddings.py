"""Embeddings: unit vectors that depend on nothing but the input."""

import base64
import hashlib
import math
import struct
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from llmrouter.daemon.demo import tokens
from llmrouter.daemon.demo.directives import Directives
from llmrouter.daemon.demo.shapes import Answer, BadRequest, Stamp, encode

DIMENSIONS = 256
DIMENSIONS_MAX = 4_096
INPUTS_MAX = 2_048

_Input = str | list[int]


class _Embedding(msgspec.Struct):
    index: int
    embedding: list[float] | str
    object: str = "embedding"


class _Usage(msgspec.Struct):
    prompt_tokens: int
    total_tokens: int


class _Embeddings(msgspec.Struct, kw_only=True):
    object: str = "list"
    data: list[_Embedding]
    model: str
    usage: _Usage | UnsetType


class EmbeddingRequest(msgspec.Struct, kw_only=True):
    """A request for embeddings, as far as it matters here."""

    model: str
    input: str | list[str | int | list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1, le=DIMENSIONS_MAX)] | None = None

    @property
    def stream(self) -> bool:
        return False

    def answer(self, stamp: Stamp, directives: Directives) -> Answer:
        inputs = self._inputs()
        if not 0 < len(inputs) <= INPUTS_MAX:
            raise BadRequest(f"input has {len(inputs)} items; send 1 to {INPUTS_MAX}")
        used = sum(tokens.count(item) if isinstance(item, str) else len(item) for item in inputs)
        embeddings = _Embeddings(
            data=[_Embedding(at, self._vector(item)) for at, item in enumerate(inputs)],
            model=self.model,
            usage=UNSET if directives.no_usage else _Usage(used, used),
        )
        return Answer(encode(embeddings))

    def _inputs(self) -> list[_Input]:
        if isinstance(self.input, str):
            return [self.input]
        numbers = [item for item in self.input if isinstance(item, int)]
        return [numbers] if numbers else [item for item in self.input if not isinstance(item, int)]

    def _vector(self, item: _Input) -> list[float] | str:
        packed = unit_vector(item, self.dimensions or DIMENSIONS)
        if self.encoding_format == "base64":
            return base64.b64encode(packed).decode()
        return list(struct.unpack(f"<{len(packed) // 4}f", packed))


def unit_vector(item: str | list[int], dimensions: int) -> bytes:
    """Make little-endian 32-bit floats of length one, the same for the same item."""
    seed = item.encode() if isinstance(item, str) else encode(item)
    drawn = hashlib.shake_128(seed).digest(2 * dimensions)
    values = [value + 0.5 for value in struct.unpack(f"<{dimensions}h", drawn)]  # never all zero
    length = math.hypot(*values)
    return struct.pack(f"<{dimensions}f", *[value / length for value in values])
