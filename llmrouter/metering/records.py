"""The records of a journal: one JSON object a line, its kind in the member `t`.

A file starts with a `Header`, then holds `Begin`, `Hold` and `End` in the order in which they were
written. The boot id of the header and the `seq` of a record name a call: all of its records carry
the same `seq`, and may stand in several files of the same boot. Begins stand in the order of `seq`.

How the format grows: a new member has a default, so that older files still read, and readers ignore
the members that they do not know. What an older reader would misunderstand raises `FORMAT`. So far:

    1  a call is one attempt, or what was used by the last of them
    2  `others`, `replaced` and `instead_of`, without which money and requests would be miscounted

Members at their default are left out of the line. A reader knows all formats up to its own.

Invariant: no member can hold a secret, a prompt or an answer; a key stands here by its id alone.
"""

import msgspec

from llmrouter.contracts.call import Usage

FORMAT = 2
NO_USAGE = Usage()


class Header(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="t", tag="journal"):
    """Whose file this is."""

    format: int = msgspec.field(default=FORMAT)
    """The version of the format; a reader refuses one that is newer than its own."""
    worker: str
    """The name of the worker, as in the file's name."""
    boot: str
    """Drawn anew each time that a worker starts; what makes `seq` unique."""
    pid: int
    """The process that wrote the file, for the operator who looks for its log lines."""


class Begin(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    gc=False,
    omit_defaults=True,
    tag_field="t",
    tag="begin",
):
    """A call was admitted, and may have reached its upstream from here on."""

    seq: int
    """Counts the calls of this boot, upwards; the call's other records have the same."""
    at_ms: int
    """Unix time in milliseconds."""
    request_id: str
    """What the caller was told in `x-request-id`."""
    org: str
    team: str | None = None
    user: str | None = None
    key_id: str
    """Which key was used; its id, never the key."""
    model: str
    """The public name that the call was routed by."""
    deployment: str
    """The deployment chosen first; failover may have moved the call since."""
    upstream: str | None = None
    dialect: str
    operation: str
    """The value of a `contracts.call.Operation`."""
    stream: bool = False
    hold_tokens: int = 0
    """What is charged if the worker dies before the call's end."""
    hold_nano_usd: int = 0
    """The same, in money."""
    rules: int = 0
    """The generation of the rules that the call was admitted under."""
    instead_of: tuple[str, ...] = ()
    """The models that this one took over from, each with a record before this: what has counted a
    request of one of them counts none here."""


class Hold(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="t", tag="hold"):
    """What is held for a running stream was raised; the last of a call's holds counts."""

    seq: int
    """The `seq` of the call's `Begin`."""
    tokens: int
    """What is held from now on, in all; not what was added."""
    nano_usd: int
    """The same, in money."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """An attempt of a call that is neither the one that answered nor the last that failed."""

    deployment: str
    upstream: str
    outcome: str
    """How it ended, in a word: `upstream_error`, or `hedged` where another was faster."""
    error_code: str | None = None
    """The code of the error that a caller would have been given."""
    usage: Usage = NO_USAGE
    estimated: bool = False
    """As in an `End`; so are those below."""
    cost_nano_usd: int | None = None
    price: str | None = None
    duration_ms: int = 0
    """Milliseconds from its own begin to its end."""


class End(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    gc=False,
    omit_defaults=True,
    tag_field="t",
    tag="end",
):
    """A call is over, and this is what it used: here, and in each of its `others`."""

    seq: int
    """The `seq` of the call's `Begin`."""
    at_ms: int
    """Unix time in milliseconds."""
    request_id: str
    status: int
    """The HTTP status that the caller was given; 0 if the caller left before one was sent."""
    outcome: str
    """How it ended, in a word: `ok`, `client_gone`, `upstream_error`."""
    error_code: str | None = None
    """The code of our error, where the answer was ours."""
    deployment: str | None = None
    """The deployment that answered, or failed last, where the call did not begin with it."""
    upstream: str | None = None
    """Of that deployment, where it is given."""
    attempts: int = 1
    """How many there were, the `others` and those at models before included; 1 at least."""
    usage: Usage = NO_USAGE
    """Tokens, and the upstream's own figure of the cost where it gives one."""
    cost_nano_usd: int | None = None
    """What we say that the call cost; None where it has no price."""
    price: str | None = None
    """The price that this was worked out by, as `metering.price` writes it; None where there was
    none: then what stands as the cost is the upstream's own figure."""
    estimated: bool = False
    """The upstream gave no usage, so the tokens are our count of what passed."""
    ttft_ms: int | None = None
    """Milliseconds to the first byte of the answer; None if none came."""
    duration_ms: int
    """Milliseconds from the call's arrival to its end."""
    others: tuple[Attempt, ...] = ()
    """What else was tried for it, in the order of their ends; what they used is not in `usage`."""
    replaced: bool = False
    """Another record with the same request id stands for the call: another model took it over."""


Record = Header | Begin | Hold | End
