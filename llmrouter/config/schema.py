"""What router.toml may hold: one struct a table, one field a key, and what each is for.

The string beneath a field is its documentation, in the operator's words: what it is, and when to
change it. A constraint on one value stands in its type; whatever ties two keys together, or needs
more than a range, is in `checks`. A field that is None by default is simply absent from the file.
"""

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

Text = Annotated[str, Meta(min_length=1, max_length=4_096)]
Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Bytes = Annotated[int, Meta(ge=1, le=2**40)]
Tokens = Annotated[int, Meta(ge=1, le=10**15)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Days = Annotated[int, Meta(ge=1, le=36_500)]
SecondsOrZero = Annotated[float, Meta(ge=0, le=86_400)]
Share = Annotated[float, Meta(ge=0, le=1)]
Weight = Annotated[int, Meta(ge=1, le=1_000)]
UsdPerMillion = Annotated[float, Meta(ge=0, le=1_000_000)]
Usd = Annotated[float, Meta(gt=0, le=1_000_000_000)]
Names = Annotated[tuple[Text, ...], Meta(min_length=1, max_length=1_000)]

DialectName = Literal["openai", "anthropic", "gemini", "bedrock"]
StrategyName = Literal["weighted", "ordered", "least-inflight", "fastest", "cheapest", "sticky"]
Rate = Literal["second", "minute", "hour", "day"]
Window = Literal["hour", "day", "week", "month", "total"]
Priority = Literal["interactive", "normal", "batch"]
MidStream = Literal["finish", "cut"]
Unpriced = Literal["refuse", "warn"]

WAIT_S = 10.0
"""How long "queue" waits, where no `wait` says otherwise."""

SERVED_DIALECTS: tuple[DialectName, ...] = ("openai",)
"""The dialects that a model may be deployed on today; the others are names we keep free."""
SERVED_STRATEGIES: tuple[StrategyName, ...] = ("weighted", "ordered")
"""The strategies that route today; the others are served as the first of these."""


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
    """From the sent request to the first byte of the answer. Raise it for reasoning models."""
    idle: Seconds = 30.0
    """Between two pieces of an answer; a stream that is silent for longer has stalled."""
    total: Seconds = 600.0
    """For the whole answer, however lively it is."""


class Health(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An active probe, besides watching the calls themselves."""

    path: Text
    """What to GET, relative to the upstream's url; it must answer 2xx without cost."""
    every: Seconds = 10.0
    """Seconds between two probes."""


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
    drain_after_disconnect: Drain = Drain()
    """What is read on when a caller leaves in the middle of an answer; see there."""
    health: Health | None = None
    """Probe it actively; absent means that only the calls themselves tell."""


class Deployment(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model at one upstream: what routing chooses."""

    upstream: Text
    """The upstream's name in this file."""
    model: Text | None = None
    """What the upstream calls the model; absent means the name that was asked for."""
    weight: Weight = 1
    """Its share of the calls, beside the other deployments of the model."""


class Price(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model costs, in USD per million tokens; absent means the price list's."""

    input: UsdPerMillion
    """Prompt tokens."""
    cached_input: UsdPerMillion | None = None
    """Prompt tokens that the upstream had in its cache; absent means the price of `input`."""
    output: UsdPerMillion
    """Output tokens, reasoning included."""


class Retry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often a call that failed before its first byte is tried again."""

    attempts: Annotated[int, Meta(ge=1, le=10)] = 3
    """Attempts a call may make in all, the first included."""
    budget: Share = 0.2
    """The share of traffic that may be repeats, so that an outage is not made worse."""


class Model(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A public name that callers ask for, or a pattern of names with `*` in it."""

    aliases: tuple[Text, ...] = ()
    """Other names for the same model. A pattern has none."""
    strategy: StrategyName = "weighted"
    """How a deployment is chosen: "weighted" by weight, "ordered" as they stand here."""
    deployments: Annotated[tuple[Deployment, ...], Meta(min_length=1)]
    """Where it is served; calls fail over among them."""
    fallbacks: tuple[Text, ...] = ()
    """Other models to try, in order, when no deployment of this one can answer."""
    price: Price | None = None
    """What it costs; absent means the price list's figure. Set it for a model of your own."""
    max_output: Tokens | None = None
    """The most output tokens that one answer of it can have. Set it where a strict budget applies:
    a call that names no max_tokens of its own is held at this."""
    retry: Retry = Retry()
    """How often a failed call is tried again; see there."""


class Limit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule on a rate or on concurrency: one of `requests`, `tokens` and `concurrent`."""

    requests: Count | None = None
    """Calls admitted per `per`."""
    tokens: Tokens | None = None
    """Tokens, prompt and output together, per `per`."""
    concurrent: Count | None = None
    """Calls in flight at once; it takes no `per`."""
    per: Rate | None = None
    """The time that `requests` or `tokens` are counted over."""
    model: Text | None = None
    """Count only calls to this model, or to models of this pattern; absent means all calls."""
    burst: Tokens | None = None
    """What a rate admits at once after a rest; absent means all of one `per`. Lower it to spread
    calls evenly."""
    at_limit: Text = "reject"
    """What happens then: "reject", "queue", or "model:NAME" to serve with another model."""
    wait: Seconds = WAIT_S
    """With "queue": how long a call waits for room, in seconds, before it is refused."""


class Budget(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule on money over a window of the UTC calendar."""

    usd: Usd
    """What may be spent in one window; at most nine decimals."""
    per: Window
    """The window; "total" never refills."""
    model: Text | None = None
    """Count only calls to this model, or to models of this pattern; absent means all calls."""
    at_limit: Text = "reject"
    """What happens then: "reject", "queue", or "model:NAME" to serve with a cheaper model."""
    wait: Seconds = WAIT_S
    """With "queue": how long a call waits for money, in seconds, before it is refused."""
    strict: bool = False
    """Hold the worst case of every call, so that the budget is never overshot. Leave it off unless
    that matters more than refusing calls which would have fitted."""
    mid_stream: MidStream = "finish"
    """What becomes of running streams when the money ends: "finish" lets them end, "cut" ends them
    with a reason."""


class User(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A person or program that keys name as their user, in whatever team of the org."""

    limits: tuple[Limit, ...] = ()
    """Rates of this user over all of their keys, within those of the org."""
    budgets: tuple[Budget, ...] = ()
    """Money of this user over all of their keys, within that of the org."""


class Team(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of an org; what the org may not do, its team may not do either."""

    models: Names = ("*",)
    """Models, aliases or patterns that the team may use, among those of its org."""
    limits: tuple[Limit, ...] = ()
    """Rates of the whole team, within those of its org."""
    budgets: tuple[Budget, ...] = ()
    """Money of the whole team, within that of its org."""


class Org(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who calls and who pays; keys are issued to an org, or to a team of it."""

    models: Names = ("*",)
    """Models, aliases or patterns that the org may use; absent means every model."""
    limits: tuple[Limit, ...] = ()
    """Rates of the whole org."""
    budgets: tuple[Budget, ...] = ()
    """Money of the whole org."""
    weight: Weight = 1
    """Its share, beside the other orgs, when a deployment is saturated."""
    priority: Priority = "normal"
    """Who waits for whom: "interactive" goes before "normal", "normal" before "batch"."""
    unpriced: Unpriced = "refuse"
    """What happens to calls to a model without a price while a budget applies to them: "refuse", or
    "warn" to serve them as if they cost nothing."""
    teams: dict[str, Team] = {}
    """Its teams, by name."""
    users: dict[str, User] = {}
    """Its users, by the name in their keys; "*" stands for each user without a table of its own."""


class Claims(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which claims of a signed-in person's JWT say who they are."""

    org: Text = "org"
    """The claim that names the org."""
    user: Text = "email"
    """The claim that names the person."""
    teams: Text = "groups"
    """The claim that lists the teams."""


class Oidc(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An identity provider whose JWTs we accept from signed-in people."""

    issuer: Text
    """Its issuer URL, exactly as it stands in the JWTs."""
    audience: Text
    """The audience that a JWT for us must name."""
    claims: Claims = Claims()
    """Which claims say who somebody is; see there."""


class Auth(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ways to be known to us besides our own keys."""

    oidc: dict[str, Oidc] = {}
    """Identity providers, by a name of your choice."""


class Journal(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The record of calls that every worker writes below `state`."""

    fsync: Literal["batch", "off"] = "batch"
    """Whether records are made durable against a power cut, a few times a second. Even with "off"
    they survive any death of our processes."""


class Books(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The accounts of all calls, which the supervisor keeps below `state`."""

    keep_days: Days = 400
    """How long single calls stay in the books. Totals by hour and day are kept for ever. Lower it
    where the disk is small: a million calls take at most 250 MB."""
    on_disk_full: Literal["refuse", "serve"] = "refuse"
    """What happens to calls while the disk is full and takes no record of them: "refuse" (503), or
    "serve" them though no limit will count them, and the books never have them."""


class Quotas(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How limits and budgets are kept, whosever they are."""

    hold_wait: SecondsOrZero = 2.0
    """How long a call waits in order, in seconds, for money or tokens that calls in flight hold and
    may not need; 0 refuses it at once."""


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of router.toml."""

    state: Text = "state"
    """The directory of keys, journals and books, created 0700. Put it on a local disk."""
    server: Server = Server()
    """Where we listen, and what protects us."""
    upstreams: dict[str, Upstream] = {}
    """The hosts we call, by a name of your choice."""
    models: dict[str, Model] = {}
    """What callers may ask for, by name or pattern."""
    orgs: dict[str, Org] = {}
    """Who may call, by name."""
    auth: Auth = Auth()
    """Ways in besides our own keys."""
    quotas: Quotas = Quotas()
    """How limits and budgets are kept; see there."""
    journal: Journal = Journal()
    """The record of calls; see there."""
    books: Books = Books()
    """The accounts of calls; see there."""


class Config(Settings, frozen=True, kw_only=True):
    """The settings that `load` read, and where it read them.

    Two are equal when they would run the same: what was left to its default does not matter.
    """

    file: Path
    """The file as it was named to us."""
    given: tuple[tuple[str, ...], ...] = ()
    """The tables and keys that stand in the file, in its order, whatever their value."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Config):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in settings_names())


def settings_names() -> tuple[str, ...]:
    """The top-level keys of router.toml."""
    return Settings.__struct_fields__
