"""`[upstreams.NAME]`: the hosts we call."""

from typing import Annotated

from msgspec import Meta, Struct

from llmrouter.config.schema.values import (
    Count,
    DialectName,
    Failures,
    Seconds,
    SecondsOrZero,
    Tags,
    Text,
)


class Credential(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a secret that a provider issued to us is found; never the secret itself."""

    env: Text | None = None
    """The name of an environment variable that holds it."""
    file: Text | None = None
    """A file that holds it on one line. Relative to the directory of router.toml."""


class UpstreamTimeouts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long we wait for an upstream, in seconds."""

    connect: Seconds = 5.0
    """For TCP and TLS. Raise it for an upstream across an ocean."""
    first_token: Seconds = 60.0
    """From the sent request until the answer itself begins: pings and roles are none. Raise it for
    reasoning models."""
    idle: Seconds = 30.0
    """Between two pieces of an answer; a stream that is silent for longer has stalled."""
    total: Seconds = 600.0
    """For the whole answer, however lively it is."""
    asked_max: Seconds = 600.0
    """The most that a caller may ask for by header, for any of these. Raise it for callers that
    know better than this file how long they can wait."""


class Breaker(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a deployment that fails is left alone, and for how long."""

    failures: Failures = 5
    """So many failures in a row open it: no call goes there. Lower it where calls are few."""
    error_rate: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """So does this share of the calls of `window` failing, of at least 20. Raise it for an upstream
    that fails now and then."""
    window: Seconds = 30.0
    """How far back `error_rate` looks, in seconds."""
    rest: Seconds = 5.0
    """How long it stays open before calls probe the deployment, in seconds; twice as long each time
    that the probes fail."""
    rest_max: Seconds = 60.0
    """The longest rest, in seconds. Lower it to notice sooner that an upstream is back."""


class Health(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An active probe, besides watching the calls themselves."""

    path: Text
    """What to GET, relative to the upstream's url; it must answer 2xx without cost."""
    every: Seconds = 10.0
    """Seconds between two probes."""
    timeout: Seconds = 5.0
    """Seconds that it has to answer one."""
    failures: Failures = 2
    """So many probes in a row must fail before no call goes there; one that succeeds ends that."""


class Drain(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long an answer is read on whose caller has gone, to learn what it used."""

    seconds: SecondsOrZero = 5.0
    """For so long at most; 0 leaves the upstream at once. Set it to 0 for an upstream that bills
    nothing for what is broken off, such as a server of your own."""
    bytes: Annotated[int, Meta(ge=1, le=64 * 2**20)] = 65_536
    """So much of it at most, which may be held in memory. Raise it where the rest of a plain answer
    is longer."""


class Upstream(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A host we call, with its own pool of connections."""

    dialect: DialectName = "openai"
    """The API it speaks. Local servers such as vLLM, Ollama and llama.cpp speak "openai"."""
    url: Text
    """The base URL that the provider's own SDK takes, or "builtin:demo" for the built-in demo."""
    credential: Credential | None = None
    """Where our key to it is found; leave it out for a local upstream that asks for none."""
    concurrent: Count | None = None
    """Calls it may hold at once, from this node; absent means no limit of its own."""
    timeouts: UpstreamTimeouts = UpstreamTimeouts()
    """How long we wait for it; see there."""
    connection_age: Seconds = 300.0
    """How long a connection is used, in seconds, before a new one takes its place. Lower it where
    DNS moves the upstream often: only a new connection follows."""
    drain_after_disconnect: Drain = Drain()
    """What is read on when a caller leaves in the middle of an answer; see there."""
    health: Health | None = None
    """Probe it actively; absent means that only the calls themselves tell."""
    breaker: Breaker = Breaker()
    """When its deployments are left alone; see there."""
    tags: Tags = {}
    """What all of its deployments are, such as { region = "eu" }: what `require` asks for."""
