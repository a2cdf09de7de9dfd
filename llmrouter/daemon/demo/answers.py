"""From a path and a body to an answer: the table of the APIs, the models, and the refusals."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import unquote

import msgspec

from llmrouter.daemon.demo.chat import ChatRequest
from llmrouter.daemon.demo.completions import CompletionRequest
from llmrouter.daemon.demo.directives import MODEL_PREFIX, TABLE, Directives
from llmrouter.daemon.demo.embeddings import EmbeddingRequest
from llmrouter.daemon.demo.responses import ResponseRequest
from llmrouter.daemon.demo.shapes import Answer, Asked, BadRequest, Stamp, encode

MODELS_PATH = b"/v1/models"
MODELS = ("demo", *(MODEL_PREFIX + directive.name for directive in TABLE))

_READERS: Mapping[bytes, Callable[[bytes], Asked]] = {
    b"/v1/chat/completions": msgspec.json.Decoder(ChatRequest).decode,
    b"/v1/completions": msgspec.json.Decoder(CompletionRequest).decode,
    b"/v1/embeddings": msgspec.json.Decoder(EmbeddingRequest).decode,
    b"/v1/responses": msgspec.json.Decoder(ResponseRequest).decode,
}

_CODES = {
    401: "invalid_api_key",
    403: "permission_denied",
    404: "model_not_found",
    429: "rate_limit_exceeded",
}


class _Error(msgspec.Struct):
    message: str
    type: str
    param: str | None
    code: str | None


class _ErrorBody(msgspec.Struct):
    error: _Error


class _Model(msgspec.Struct):
    id: str
    created: int
    object: str = "model"
    owned_by: str = "llmrouter"


class _Models(msgspec.Struct):
    data: list[_Model]
    object: str = "list"


class _ModelsRequest(msgspec.Struct, frozen=True):
    """A request for the list of models, or for one of them."""

    wanted: str
    model: str = ""
    stream: bool = False

    def answer(self, stamp: Stamp, directives: Directives) -> Answer:
        """Every model exists; the list has those that have a name of their own."""
        del directives
        if self.wanted:
            return Answer(encode(_Model(self.wanted, stamp.created_at_s)))
        return Answer(encode(_Models([_Model(model, stamp.created_at_s) for model in MODELS])))


class Place(NamedTuple):
    """What is served at a path."""

    name: str
    """The path; one name stands for all single models, so that there are few."""
    method: bytes


def place_of(path: bytes) -> Place | None:
    """Find what is served at a path."""
    if path in _READERS:
        return Place(path.decode(), b"POST")
    if path == MODELS_PATH:
        return Place(path.decode(), b"GET")
    return _ONE_MODEL if path.startswith(MODELS_PATH + b"/") else None


_ONE_MODEL = Place("/v1/models/{id}", b"GET")


def read(path: bytes, body: bytes) -> Asked:
    """Read a request that is served; raises BadRequest."""
    reader = _READERS.get(path)
    if reader is None:
        return _ModelsRequest(
            unquote(path.removeprefix(MODELS_PATH).lstrip(b"/").decode("latin-1"))
        )
    with _readable():
        return reader(body)


def answer(asked: Asked, stamp: Stamp, directives: Directives) -> Answer:
    """Answer a request that was read; raises BadRequest."""
    with _readable():  # some members are read only when they are needed
        return asked.answer(stamp, directives)


def error_body(
    status: int, message: str, *, code: str | None = None, param: str | None = None
) -> bytes:
    """Refuse in the shape of the API; the code is the usual one of the status if none is given."""
    return encode(_ErrorBody(_Error(message, _type(status), param, code or _CODES.get(status))))


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body cannot be read: {error}") from error


def _type(status: int) -> str:
    if status >= 500:
        return "server_error"
    return "rate_limit_error" if status == 429 else "invalid_request_error"
