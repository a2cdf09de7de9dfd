"""What a dialect provides: the wire form of an API, as pure functions over bytes."""

from collections.abc import Iterable, Mapping
from typing import Protocol

from llmrouter.contracts.call import Call, Operation, Usage
from llmrouter.errors import RouterError


class StreamTap(Protocol):
    """Follows one streamed answer: what of it goes downstream, what it used, whether it ended."""

    @property
    def usage(self) -> Usage | None:
        """What the upstream said was used, once it has said so."""

    @property
    def complete(self) -> bool:
        """The dialect's own end of a stream has passed: nothing but this makes a stream whole."""

    def feed(self, block: bytes) -> bytes:
        """Take whole events as they came; return those that go downstream, b"" for none."""


class Dialect(Protocol):
    """The wire form of one API. Stateless; one object serves all exchanges of a process."""

    @property
    def name(self) -> str:
        """The name that router.toml and the journal know it by."""

    @property
    def paths(self) -> Mapping[bytes, Operation]:
        """The downstream paths that are calls."""

    @property
    def models_path(self) -> bytes:
        """The downstream path that lists models; with `/{id}` behind it, one of them."""

    @property
    def request_headers(self) -> frozenset[bytes]:
        """The caller's headers that go upstream; no other does."""

    @property
    def response_headers(self) -> frozenset[bytes]:
        """The upstream's headers that go downstream; no other does."""

    def presented_key(self, headers: Mapping[bytes, bytes]) -> bytes | None:
        """The key text that a caller sent, or None."""

    def credential_headers(self, secret: str) -> tuple[tuple[bytes, bytes], ...]:
        """The headers that carry our credential upstream."""

    def upstream_path(self, operation: Operation) -> bytes:
        """What is appended to the path of the upstream's URL."""

    def read_call(self, operation: Operation, body: bytes) -> Call:
        """Read a call; raises InvalidJson, InvalidRequest.

        Its `output_max` and `choices` are never less than what an upstream may make of the body:
        where two members say different things of one, the larger counts.
        """

    def is_prompt_bounded(self, call: Call) -> bool:
        """Whether the whole prompt stands in the body as text, so that its bytes bound its tokens.

        False where anything in it is kept elsewhere, is measured otherwise (pictures, files), is
        added to by the server (tools of its own), or is not known to be none of these; and once
        the body is gone. Decodes the prompt: ask only where an exact bound is needed.
        """

    def upstream_body(self, call: Call, model: str) -> bytes:
        """The body for a deployment: the caller's own but for the model and the usage option."""

    def read_usage(self, body: bytes) -> Usage | None:
        """Check that a plain answer is whole JSON, and read its usage; raises UpstreamError."""

    def read_usage_tail(self, tail: bytes) -> Usage | None:
        """Read the usage of a plain answer too long to be held, from its last bytes."""

    def tap(self, call: Call) -> StreamTap:
        """Follow the streamed answer to `call`."""

    def error_body(self, error: RouterError, request_id: str) -> bytes:
        """The body of a response that refuses; a `QuotaRefused` says which limit, and its state."""

    def error_event(self, call: Call, error: RouterError, request_id: str) -> bytes:
        """What ends a stream that has begun and cannot be finished; never looks like its end.

        It carries what `error_body` does.
        """

    def models_body(self, models: Iterable[str], created_at_s: int) -> bytes:
        """The list of models."""

    def model_body(self, model: str, created_at_s: int) -> bytes:
        """One model of the list."""
