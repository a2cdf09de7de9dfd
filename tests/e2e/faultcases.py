"""The sixteen faults as a table, and a configuration that has each of them."""

from typing import Any, NamedTuple

import openai

from tests.support.faults import Fault, Kind

ATTEMPTS = 3
PRICE = {"input": 3, "output": 9}
RIGHT = None
"""No error, but the whole answer."""
Raised = type[openai.APIError] | None


class Case(NamedTuple):
    """One way to fail, and what callers get."""

    number: int
    """Among the sixteen."""
    name: str
    fault: Fault
    plain: Raised = RIGHT
    streamed: Raised = RIGHT
    alone: Raised = openai.InternalServerError
    """What is raised where there is no second deployment, unless the stream has begun."""
    fallback_on: str = ""
    """Where it is named, the sound deployment is that of another model."""
    second: Kind = Kind.SOUND
    calls: int = 1
    """One after the other, for each setting of the SDK."""
    prefill: str = ""
    """How the answer is to begin; the caller sends it behind the prompt."""

    def slug(self) -> str:
        return f"{self.number:02}-{self.name}"

    def model(self, *, stream: bool) -> str:
        return f"{self.slug()}-{'streamed' if stream else 'plain'}"

    @property
    def is_flapping(self) -> bool:
        """Its first deployment is at the upstream whose port opens and closes."""
        return self.number == 15

    @property
    def first(self) -> str:
        """The name of the upstream of its first deployment."""
        return "flapping" if self.is_flapping else "first"


def _refusing(status: int, code: str | None = None, **more: Any) -> Fault:
    return Fault(Kind.STATUS, status=status, code=code, **more)


RETRY_AFTER_S = 30
_FULL = "rate_limit_exceeded"
_TOO_LONG = _refusing(400, "context_length_exceeded")
_FILTERED = _refusing(400, "content_filter")
_BAD = openai.BadRequestError
CUT = openai.APIError
CASES = (
    Case(1, "throttled-once", _refusing(429, _FULL, retry_after_s=1, times=1), alone=RIGHT),
    Case(
        2,
        "throttled",
        _refusing(429, _FULL, retry_after_s=RETRY_AFTER_S),
        alone=openai.RateLimitError,
    ),
    Case(3, "one-500", _refusing(500, times=1), alone=RIGHT),
    Case(4, "unavailable", _refusing(503)),
    Case(5, "reset", Fault(Kind.RESET)),
    Case(6, "silent", Fault(Kind.SILENT)),
    Case(7, "slow-first-token", Fault(Kind.SLOW, seconds=9)),
    Case(8, "cut", Fault(Kind.CUT), streamed=CUT),
    Case(8, "cut-at-once", Fault(Kind.CUT, words=0)),
    Case(9, "stalled", Fault(Kind.STALL), streamed=CUT),
    Case(9, "stalled-at-once", Fault(Kind.STALL, words=0)),
    Case(10, "malformed", Fault(Kind.MALFORMED), streamed=CUT),
    Case(10, "malformed-at-once", Fault(Kind.MALFORMED, words=0)),
    Case(11, "no-end", Fault(Kind.UNENDED), streamed=CUT),
    Case(12, "too-long", _TOO_LONG, _BAD, _BAD, _BAD),
    Case(12, "too-long-for-one", _TOO_LONG, alone=_BAD, fallback_on="context_length"),
    Case(13, "filtered", _FILTERED, _BAD, _BAD, _BAD),
    Case(13, "filtered-by-one", _FILTERED, alone=_BAD, fallback_on="content_filter"),
    Case(
        14,
        "fallback-takes-no-prefill",
        _refusing(503),
        openai.APIStatusError,
        openai.APIStatusError,
        fallback_on="unavailable",
        second=Kind.NO_PREFILL,
        prefill="Once ",
    ),
    Case(15, "flapping", Fault(), calls=12),
    Case(16, "accounting", _refusing(500), calls=3),
)


def alone(name: str) -> str:
    """The model that has the faulty deployment of `name`, and nothing else."""
    return f"{name}-alone"


class Scene(NamedTuple):
    """Calls of one form that meet one fault."""

    case: Case
    stream: bool
    is_alone: bool
    """There is no second deployment."""

    @property
    def model(self) -> str:
        name = self.case.model(stream=self.stream)
        return alone(name) if self.is_alone else name

    @property
    def messages(self) -> list[dict[str, str]]:
        """What follows the prompt."""
        prefill = {"role": "assistant", "content": self.case.prefill}
        return [prefill] if self.case.prefill else []

    @property
    def calls(self) -> int:
        """For each setting of the SDK."""
        return 1 if self.is_alone else self.case.calls

    @property
    def upstreams(self) -> list[str]:
        return [self.case.first] if self.is_alone else [self.case.first, "second"]

    def __str__(self) -> str:
        return f"{self.case.slug()}-{'streamed' if self.stream else 'plain'}"


SCENES = [
    Scene(case, stream, is_alone)
    for is_alone in (False, True)
    for case in CASES
    for stream in (False, True)
]


def models() -> dict[str, Any]:
    """What serves all cases, plain and streamed."""
    served: dict[str, Any] = {}
    for case in CASES:
        for stream in (False, True):
            served |= _models(case, case.model(stream=stream))
    return served


def _models(case: Case, name: str) -> dict[str, Any]:
    """The model of a case, its fallback, and its faulty deployment alone."""
    first = {"upstream": case.first, "model": name}
    second = {"upstream": "second", "model": name}
    retry = {"attempts": ATTEMPTS, "budget": 1.0}
    plain = {"strategy": "ordered", "price": PRICE, "retry": retry}
    alone_one = {**plain, "deployments": [{**first, "model": alone(name)}]}
    if not case.fallback_on:
        return {name: {**plain, "deployments": [first, second]}, alone(name): alone_one}
    fallback = {"fallbacks": [f"{name}-next"], "fallback_on": [case.fallback_on]}
    return {
        name: {**plain, "deployments": [first], **fallback},
        f"{name}-next": {**plain, "deployments": [second]},
        alone(name): alone_one,
    }


def first_faults() -> dict[str, Fault]:
    """What goes wrong at the first upstream."""
    names = {case.model(stream=stream): case for case in CASES for stream in (False, True)}
    with_a_second = {name: case.fault for name, case in names.items()}
    return with_a_second | {alone(name): case.fault for name, case in names.items()}


def second_faults() -> dict[str, Fault]:
    """What goes wrong at the second one."""
    return {
        case.model(stream=stream): Fault(case.second) for case in CASES for stream in (False, True)
    }
