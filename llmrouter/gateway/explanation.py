"""What is asked for an explanation, and what it says: values, for people, scripts and processes.

An explanation is filled in on the way of the call that it is about. Where that ends early, what
would have come later is empty, and the outcome says why. Money is in USD, times are in seconds.
"""

from typing import Literal

import msgspec

from llmrouter.contracts.call import Operation
from llmrouter.quota.ledger import Standing


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Whose key it is; never the key."""

    id: str
    name: str | None
    org: str
    team: str | None
    user: str | None
    status: str
    """`active`, `expired` or `revoked`."""
    expires_at: str | None


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A call that nobody makes."""

    caller: Caller
    operation: Operation
    body: bytes
    is_sample: bool
    """The body was made up: of what it asks for, only the model and the stream were said."""
    standings: tuple[Standing, ...]
    """How the buckets stand that may count it."""
    at_ms: int
    """When they stood so."""


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for, and what serves that."""

    asked: str
    operation: Operation
    stream: bool
    mapped_to: str | None
    """The name that stands for the one that was asked for; null where that is itself."""
    mapped_by: str | None
    """Whose map says so: `key`, `team` or `org`."""
    model: str
    """What the call is counted under."""
    route: str
    """The model, or pattern of models, of router.toml."""
    found_by: Literal["name", "alias", "pattern"]
    required: dict[str, str]
    """The tags that a deployment must have for this key."""


class TimeoutsSaid(msgspec.Struct, frozen=True, kw_only=True):
    """How long an attempt may take; a caller may ask for others by headers."""

    connect: float
    first_token: float
    idle: float
    total: float


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment of the route."""

    deployment: str
    upstream: str
    model: str
    """The name that goes upstream."""
    weight: int
    tags: dict[str, str]
    turn: int | None
    """The how-manieth it would be tried, from 1; null for one that cannot be used now."""
    why_not: str
    """Why it cannot be used; empty where it can."""
    breaker: str
    inflight: int
    """Attempts that the answering worker has there."""
    latency: float | None
    """To the first token, as far as it counts now; null while nothing is known."""
    places_left: int | None
    """How many more calls its upstream may hold; null where that is not limited."""
    timeouts: TimeoutsSaid


class FallbackSaid(msgspec.Struct, frozen=True, kw_only=True):
    """Another model that may take over."""

    model: str
    why_not: str
    """Why it would not; empty where it would."""


class AttemptsSaid(msgspec.Struct, frozen=True, kw_only=True):
    """How often the call may be sent."""

    most: int
    """The first included."""
    repeats_left: int
    """How many repeats the model has left at the answering worker, for all of its calls."""
    repeats_share: float
    fallback_on: tuple[str, ...]
    hedge_after: float | Literal["p95"] | None
    hedge_delay: float | None
    """After how long a second attempt is made for a stream; null for never, or not known yet."""


class LimitSaid(msgspec.Struct, frozen=True, kw_only=True):
    """A limit or budget that counts the call."""

    bucket: str
    scope: str
    name: str
    rule: str
    """As the command line writes it."""
    kind: str
    limit: int | float
    used: int | float
    claimed: int | float
    """What calls in flight hold, and workers hold ready for the next ones."""
    left: int | float
    resets_at: str | None
    needed: int | float
    """What would be held of it."""
    gates: bool
    """Whether it can refuse the call; one that was met, and has another model serve, cannot."""


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """What would be held at first."""

    requests: int
    prompt_tokens: int
    output_tokens: int
    usd: float
    """At the price of the dearest deployment; 0 where there is no price."""
    has_price: bool
    worst_usd: float | None
    """What strict budgets hold; null where none applies."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What would become of the call now."""

    admitted: bool
    """It would be admitted at once, and sent upstream."""
    served_by: str | None = None
    """The model that would serve in place of the one asked for, and why that."""
    status: int | None = None
    code: str | None = None
    message: str | None = None
    """What the caller would be told."""
    waits: float = 0.0
    """It would wait so long for room, and be told that only then."""
    at: str | None = None
    """When the same call would be admitted, if nobody else takes what comes free."""
    when: str = "now"
    """The same in words."""


NOBODY_KNOWS = Outcome(admitted=False, when="unknown")


class Explanation(msgspec.Struct, kw_only=True):
    """What would become of a call, and why."""

    caller: Caller
    notes: list[str] = []
    """What to bear in mind of all that."""
    served: Served | None = None
    strategy: str = ""
    """How the next deployment is chosen, in words."""
    deployments: list[Place] = []
    """In the order in which they would be tried, then those that cannot be used."""
    fallbacks: list[FallbackSaid] = []
    """In order."""
    attempts: AttemptsSaid | None = None
    limits: list[LimitSaid] = []
    hold: Hold | None = None
    outcome: Outcome = NOBODY_KNOWS
