"""Between the supervisor and a child: messages over a Unix socketpair.

A frame is a length (4 bytes, big-endian) and a MessagePack object whose `t` names its kind. The end
of the stream is a message too: the other side has died.
"""

import asyncio
import socket
import struct
from typing import Any

import msgspec

from llmrouter.access.issued import IssuedKey
from llmrouter.gateway.explanation import Explanation, Question
from llmrouter.metering.prices import PriceTable
from llmrouter.quota.denials import Denial
from llmrouter.quota.messages import FromLedger, ToLedger
from llmrouter.routing.report import Report

FRAME_BYTES_MAX = 256 * 1024 * 1024
"""A start message holds every key: 100,000 of them are about 40 MB."""
_LENGTH = struct.Struct(">I")


class Start(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="start"):
    """All that a worker needs to serve. Secrets travel here, never in arguments or environment."""

    worker: int
    """Its number, from 0."""
    workers: int
    config: bytes
    """The settings, as `build` wrote them."""
    secrets: dict[str, str]
    """By upstream; absent for those that take none."""
    digest_key: bytes
    keys: list[IssuedKey]
    journal_dir: str
    listener_fds: list[int]
    demo_path: str | None
    """Where the demo upstream listens, if one runs."""
    started_at_s: int
    """When the supervisor started, unix time."""
    boot: str
    """The name of this life of the worker: its journal and its leases go by it."""
    rules: int
    """The generation of the rules: of the settings, and of the keys."""
    prices: PriceTable
    clock_offset_ms: int
    """For the clock that all processes of the node share."""
    conditions: list[Report] = []
    """Of the deployments that are not simply closed."""
    down: list[str] = []
    """The upstreams whose probes fail."""

    def __repr__(self) -> str:
        upstreams = ",".join(self.secrets)
        place = f"worker={self.worker} of {self.workers}"
        return f"<Start {place} upstreams={upstreams} keys={len(self.keys)}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # Every struct has one of its own, and that would show the secrets.
        return [("worker", self.worker), ("keys", len(self.keys))]


class Keys(msgspec.Struct, frozen=True, tag_field="t", tag="keys"):
    """Keys that were created or changed; to be in force when `Applied` answers."""

    serial: int
    keys: list[IssuedKey]
    rules: int
    """The generation of the rules from now on."""

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("serial", self.serial), ("keys", list(map(repr, self.keys)))]


class Drain(msgspec.Struct, frozen=True, tag_field="t", tag="drain"):
    """Accept nothing new, finish what is in flight, then exit."""


class Ready(msgspec.Struct, frozen=True, tag_field="t", tag="ready"):
    """The worker accepts connections."""


class Applied(msgspec.Struct, frozen=True, tag_field="t", tag="applied"):
    """The `Keys` with this serial are in force."""

    serial: int


class Denied(msgspec.Struct, frozen=True, tag_field="t", tag="denied"):
    """What limits and budgets have refused."""

    denials: list[Denial]


class Conditions(msgspec.Struct, frozen=True, tag_field="t", tag="conditions"):
    """How deployments are since a moment ago, each as it is now; both sides tell each other."""

    reports: list[Report]


class Probed(msgspec.Struct, frozen=True, tag_field="t", tag="probed"):
    """The probes of an upstream began to fail, or to succeed again."""

    upstream: str
    sound: bool


class Explain(msgspec.Struct, frozen=True, tag_field="t", tag="explain"):
    """Say what would become of a call; `Explained` answers."""

    serial: int
    question: Question


class Explained(msgspec.Struct, frozen=True, tag_field="t", tag="explained"):
    """What the worker says to the `Explain` with this serial; None where that has failed."""

    serial: int
    explanation: Explanation | None


ToWorker = Start | Keys | Drain | Conditions | Probed | Explain | FromLedger
ToSupervisor = Ready | Applied | Denied | Conditions | Explained | ToLedger
_encode = msgspec.msgpack.Encoder().encode
_decode_to_worker = msgspec.msgpack.Decoder(ToWorker).decode
_decode_to_supervisor = msgspec.msgpack.Decoder(ToSupervisor).decode


class Channel:
    """One end of the socketpair."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> "Channel":
        """The channel over `end`, which it owns from now on."""
        end.setblocking(False)
        return cls(*await asyncio.open_unix_connection(sock=end))

    def send(self, *messages: ToWorker | ToSupervisor) -> None:
        """Queue messages, in one write; to a side that has died they go nowhere."""
        if self._writer.is_closing():
            return
        payloads = map(_encode, messages)
        self._writer.write(b"".join(_LENGTH.pack(len(payload)) + payload for payload in payloads))

    async def to_worker(self) -> ToWorker | None:
        """The next message to a worker; None when the supervisor has died."""
        frame = await self._frame()
        return None if frame is None else _decode_to_worker(frame)

    async def to_supervisor(self) -> ToSupervisor | None:
        """The next message to the supervisor; None when the worker has died."""
        frame = await self._frame()
        return None if frame is None else _decode_to_supervisor(frame)

    async def _frame(self) -> bytes | None:
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            assert length <= FRAME_BYTES_MAX, "a frame of ours is never that long"
            return await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def close(self) -> None:
        """Close this end; the other one sees the end of the stream."""
        self._writer.close()
