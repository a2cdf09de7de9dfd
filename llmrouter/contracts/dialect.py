"""What a dialect provides: the wire form of an API, as pure functions over bytes."""

from collections.abc import Iterable, Mapping
from typing import Protocol

from llmrouter.contracts.call import Call, Objection, Operation, Usage
from llmrouter.errors import RouterError, UpstreamError


class MalformedEvent(UpstreamError):
    """An event in the middle of a stream whose data no caller could read."""

    def __init__(self, message: str, *, sound: bytes) -> None:
        super().__init__(message)
        self.sound = sound
        """What came before it in the same block and goes downstream, b"" for none."""


class RefusedInStream(UpstreamError):
    """A stream that begins with an error event: the call was refused behind a head of success."""

    def __init__(self, message: str, *, objection: Objection | None) -> None:
        super().__init__(message)
        self.objection = objection
        """Why, where the event's code tells that."""


class StreamTap(Protocol):
    """Follows one streamed answer: what of it goes downstream, what it used, whether it ended."""

    @property
    def usage(self) -> Usage | None:
        """What the upstream said was used, once it has said so."""

    @property
    def complete(self) -> bool:
        """The dialect's own end of a stream has passed: nothing but this makes a stream whole."""

    @property
    def events(self) -> int:
        """How many events with data were returned to go downstream."""

    def feed(self, block: bytes) -> bytes:
        """Take whole events as they came; return those that go downstream, b"" for none.

        Raises MalformedEvent where the data of an event cannot be read, so that no caller is left
        with it; what stands behind the end is not looked at.
        """


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

    def opens(self, operation: Operation, events: bytes) -> bool:
        """Whether the answer itself begins in these events, the first of a stream.

        They are whole events. A role alone, an empty delta, a comment, an announcement of what is
        to come are not the answer yet; text, a tool call, reasoning, a finish reason and the end
        marker are. Raises UpstreamError where one before that is malformed, and RefusedInStream
        where it is an error.
        """

    def objection(self, body: bytes) -> Objection | None:
        """Why a refusal (4xx) with this body was made, where its code tells that."""

    def is_filtered(self, body: bytes) -> bool:
        """Whether a plain answer (2xx) says that a content filter has kept it back or cut it."""

    def conversation(self, call: Call) -> bytes:
        """What tells the conversation of a call from others: the same in each of its turns.

        b"" where nothing does. Its cost does not matter: only some strategies ask for it.
        """

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
