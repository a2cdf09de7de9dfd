"""How a call is booked: the rows that it makes, and what each of them adds to the totals. Pure.

- A call is a row. It stands at the time of its end; an interrupted one, which has none, at that of
  its begin.
- It is an error if its status is 400 or above, or its outcome is anything but `ok`: so also where
  the caller left, or an answer was cut after its status had been sent, or it was interrupted.
- An interrupted call has the outcome `interrupted` and the status 0, and is estimated: what was
  held for it at last counts, and no price is known. A hold does not tell prompt from output, so
  its tokens stand as the prompt's. Where no money was held, its cost is unknown.
- It stands at the deployment that ended it. The upstream of that is not known where a journal of
  format 1 says that the call had moved.
- Each of its other attempts is a row of its own, at the deployment that served it; so is a call
  that another model took over, which then has a row of its own as well. Their tokens and money
  are theirs alone, so that sums by deployment are what each upstream bills. They are neither calls
  nor errors: the caller has seen one call. Their `attempts` is 0, which tells them apart.
"""

from collections.abc import Iterable, Iterator
from typing import Final, assert_never

from msgspec.structs import replace

from llmrouter.contracts.call import Usage
from llmrouter.metering.records import Attempt, Begin, End
from llmrouter.metering.tail import Began, Damaged, Ended, Folded, Interrupted

INTERRUPTED: Final = "interrupted"
"""The outcome of a call whose worker died before its end."""
TOKENS_MAX: Final = 10**12
NANO_USD_MAX: Final = 10**15
"""More than that is nonsense for one call, and sums of it would not fit 64 bits; so is less than no
money, which no upstream's report comes with."""

# Where they stand in a `Tally`.
_CALLS: Final = 0
_ERRORS: Final = 1
_ESTIMATED: Final = 2
_INTERRUPTED: Final = 3
_UNPRICED: Final = 4
_REPORTED: Final = 5
_PROMPT_TOKENS: Final = 6
_CACHED_TOKENS: Final = 7
_OUTPUT_TOKENS: Final = 8
_REASONING_TOKENS: Final = 9
_COST: Final = 10
_REPORTED_COST: Final = 11
_OTHER_ATTEMPTS: Final = 12

Names = tuple[str | int, ...]
Amounts = tuple[int, int, int, int, int | None, int | None, int | None, int | None]
"""Tokens of the prompt, cached, of the output and of reasoning; costs; milliseconds."""


def booked(facts: Iterable[Folded]) -> Iterator[tuple[Begin, End]]:
    """A row each: what began, and how it ended. What is no call has a row with 0 attempts."""
    for fact in facts:
        match fact:
            case Ended(begin=begin, end=end):
                if end.others or end.replaced or not end.attempts:
                    yield from ((begin, each) for each in _apart(end))
                else:
                    yield begin, end
            case Interrupted(begin=begin):
                yield begin, _end_of(fact)
            case Began() | Damaged():
                pass
            case _:
                assert_never(fact)


def who(begin: Begin) -> Names:
    """Who called: org, team, user and key; an empty text means none, here and below."""
    return begin.org, begin.team or "", begin.user or "", begin.key_id


def what(begin: Begin, end: End) -> Names:
    """What was called: model, deployment, upstream, dialect and operation."""
    deployment, upstream = end.deployment or begin.deployment, end.upstream
    if upstream is None and deployment == begin.deployment:
        upstream = begin.upstream
    return begin.model, deployment, upstream or "", begin.dialect, begin.operation


def how(begin: Begin, end: End) -> Names:
    """How it ended: status, outcome, code, attempts, and whether streamed, estimated, an error."""
    error_code, failed = end.error_code or "", is_error(end)
    return end.status, end.outcome, error_code, end.attempts, begin.stream, end.estimated, failed


def is_error(end: End) -> bool:
    """Whether it counts as a call that failed."""
    return end.attempts > 0 and (end.status >= 400 or end.outcome != "ok")


def amounts(end: End) -> Amounts:
    """The amounts of a row: tokens, what it cost by us and by the upstream, to first byte and end.

    The interrupted have no time of their end.
    """
    usage = end.usage
    return (
        min(usage.prompt_tokens, TOKENS_MAX),
        min(usage.cached_tokens, TOKENS_MAX),
        min(usage.output_tokens, TOKENS_MAX),
        min(usage.reasoning_tokens, TOKENS_MAX),
        _money(end.cost_nano_usd),
        _money(usage.cost_nano_usd),
        end.ttft_ms,
        None if end.outcome == INTERRUPTED else end.duration_ms,
    )


def add(sums: list[int], end: End, amounts_of_it: Amounts) -> None:
    """Add one row to the totals, which are in the order of a `Tally`."""
    prompt, cached, output, reasoning, cost, reported, _, _ = amounts_of_it
    if end.attempts > 0:
        sums[_CALLS] += 1
        if is_error(end):
            sums[_ERRORS] += 1
    else:
        sums[_OTHER_ATTEMPTS] += 1
    if end.estimated:
        sums[_ESTIMATED] += 1
    if end.outcome == INTERRUPTED:
        sums[_INTERRUPTED] += 1
    if cost is None:
        sums[_UNPRICED] += 1
    else:
        sums[_COST] += cost
    if reported is not None:
        sums[_REPORTED] += 1
        sums[_REPORTED_COST] += reported
    sums[_PROMPT_TOKENS] += prompt
    sums[_CACHED_TOKENS] += cached
    sums[_OUTPUT_TOKENS] += output
    sums[_REASONING_TOKENS] += reasoning


def _apart(end: End) -> Iterator[End]:
    """The end of the call itself, then of each other attempt."""
    yield replace(end, attempts=0 if end.replaced else max(1, end.attempts))
    for other in end.others:
        yield _end_of_attempt(end, other)


def _end_of_attempt(end: End, other: Attempt) -> End:
    return End(
        seq=end.seq,
        at_ms=end.at_ms,
        request_id=end.request_id,
        status=0,
        outcome=other.outcome,
        error_code=other.error_code,
        deployment=other.deployment,
        upstream=other.upstream,
        attempts=0,
        usage=other.usage,
        cost_nano_usd=other.cost_nano_usd,
        price=other.price,
        estimated=other.estimated,
        duration_ms=other.duration_ms,
    )


def _end_of(interrupted: Interrupted) -> End:
    begin, (tokens, nano_usd) = interrupted.begin, interrupted.hold
    return End(
        seq=begin.seq,
        at_ms=begin.at_ms,
        request_id=begin.request_id,
        status=0,
        outcome=INTERRUPTED,
        usage=Usage(prompt_tokens=tokens),
        cost_nano_usd=nano_usd or None,
        estimated=True,
        duration_ms=0,
    )


def _money(nano_usd: int | None) -> int | None:
    return None if nano_usd is None else max(0, min(nano_usd, NANO_USD_MAX))
