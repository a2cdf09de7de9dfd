"""`[server]`: where we listen, and what protects us."""

from typing import Annotated

from msgspec import Meta, Struct

from llmrouter.config.schema.values import Bytes, Count, Names, Seconds, Text


class Tls(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the listeners prove who they are."""

    cert: Text
    """The certificate chain, PEM. Relative to the directory of router.toml."""
    key: Text
    """The private key of `cert`, PEM, readable by the daemon only."""


class ServerLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What protects the daemon itself, whoever calls; each is a sum over all workers."""

    connections: Count = 10_000
    """Open downstream connections on this node; more are refused. Raise it with `ulimit -n`."""
    head_bytes: Annotated[int, Meta(ge=256, le=16 * 2**20)] = 65_536
    """Request line and headers of one request. Raise it for agents that send long cookies."""
    body_bytes: Bytes = 33_554_432
    """The body of one request. Raise it for long prompts with pictures in them."""
    inflight: Count = 4_000
    """Admitted calls on this node at any moment; more are refused with 503."""
    queued: Count = 2_000
    """Calls that wait for their turn on this node; more are refused at once."""
    buffered_bytes: Bytes = 536_870_912
    """Bodies held in memory on this node at any moment. Lower it on a small machine."""


class ServerTimeouts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long the daemon waits for those who call it, in seconds."""

    head: Seconds = 10.0
    """From the first byte of a request to the end of its headers."""
    body: Seconds = 60.0
    """From the end of the headers to the end of the body. Raise it for slow uplinks."""
    idle: Seconds = 75.0
    """An open connection between two requests. Keep it above that of a balancer in front."""
    drain: Seconds = 30.0
    """What calls in flight get to finish when the daemon drains. Raise it for long answers."""


class Server(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where we listen, and with how many processes."""

    listen: Text | Names = "127.0.0.1:4000"
    """One address or a list: "host:port", "[::1]:4000", "unix:/run/llmrouter.sock", "fd:3"."""
    admin_listen: Text = "127.0.0.1:4001"
    """Where health and metrics are answered, without a key: keep it off public networks."""
    workers: Annotated[int, Meta(ge=0, le=512)] = 0
    """Processes that serve; 0 means one for each core that the daemon may use."""
    tls: Tls | None = None
    """Serve HTTPS on `listen`; leave it out where a proxy in front does that."""
    limits: ServerLimits = ServerLimits()
    """What protects the daemon itself; see there."""
    timeouts: ServerTimeouts = ServerTimeouts()
    """How long it waits for its callers; see there."""
