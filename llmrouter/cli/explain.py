"""`llmrouter explain`: what would become of a call, and why; daemon up or down."""

import base64
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec
import typer

from llmrouter.access.ruletext import parse_budget, parse_limit
from llmrouter.cli.options import CONFIG_DEFAULT, AsJson, ConfigPath, refusals
from llmrouter.cli.overview import rule_text
from llmrouter.cli.sheet import Sheet, count, decimal_usd, print_sheet
from llmrouter.config.load import load
from llmrouter.contracts.call import Operation
from llmrouter.contracts.rule import Kind
from llmrouter.daemon.administer import administer
from llmrouter.dialects.openai.samples import sample_body
from llmrouter.gateway.explanation import (
    AttemptsSaid,
    Explanation,
    Hold,
    LimitSaid,
    Outcome,
    Place,
    Served,
)

BODY_BYTES_MAX = 32 * 1024 * 1024
"""As in base64 it still goes through the control socket; serving takes no more by default."""
_DEPLOYMENTS = (
    "turn", "deployment", "sent as", "weight", "tags", "in flight", "first token", "time-outs",
    "why not",
)  # fmt: skip
_LIMITS = ("whose", "rule", "limit", "used", "held", "left", "needed", "resets at")
_NUMBERS = frozenset(
    {"turn", "weight", "in flight", "first token", "limit", "used", "held", "left", "needed"}
)
_LABEL = "{:<13} {}"


def explain(
    key: Annotated[
        str,
        typer.Option(metavar="ID|KEY", help="Whose call: the key's id. The key itself will do."),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="The model asked for; without it, give a body on standard input."),
    ] = None,
    operation: Annotated[
        Operation, typer.Option(help="What is asked of the model.")
    ] = Operation.CHAT,
    stream: Annotated[bool, typer.Option(help="With --model: the answer is streamed.")] = False,
    config: ConfigPath = CONFIG_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Explain what would become of a call, without making it.

    Says who it is, what serves the model, which deployments in which order, what counts the call,
    what would be held for it, and whether it would be admitted now. Nothing is sent or held. Exit
    status 0 means that it would be admitted and sent now, 1 that it would not.

    Example: llmrouter explain --key 3fQ9xW2LbT0c --model gpt-4o

    Example: llmrouter explain --key 3fQ9xW2LbT0c < body.json
    """
    body = _body(model, operation, stream=stream)
    args: dict[str, object] = {
        "key": key,
        "body": base64.b64encode(body).decode(),
        "operation": operation.value,
        "is_sample": model is not None,
    }
    with refusals():
        said = msgspec.convert(administer(load(config), "explain", args), Explanation)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(said)).decode(), flush=True)
    else:
        _print(said)
    if not said.outcome.admitted:
        raise typer.Exit(1)


def _body(model: str | None, operation: Operation, *, stream: bool) -> bytes:
    if model is not None:
        try:
            return sample_body(operation, model, stream=stream)
        except UnicodeEncodeError as error:
            said = "it is not UTF-8 text; retype it"
            raise typer.BadParameter(said, param_hint="'--model'") from error
    if stream:
        raise typer.BadParameter("a body says itself whether it is streamed; leave out --stream")
    body = b"" if sys.stdin.isatty() else sys.stdin.buffer.read(BODY_BYTES_MAX + 1)
    if not body:
        raise typer.BadParameter("name a --model, or give the body of a call on standard input")
    if len(body) > BODY_BYTES_MAX:
        raise typer.BadParameter(f"a body of more than {BODY_BYTES_MAX:_} bytes is not explained")
    return body


# ---- on paper -------------------------------------------------------------------------------


def _print(said: Explanation) -> None:
    for line in _head(said):
        print(line)
    if said.deployments:
        print(f"\ndeployments  {said.strategy}")
        print_sheet(_sheet(_DEPLOYMENTS, [_place_cells(place) for place in said.deployments]))
    if said.fallbacks:
        print("\nfallbacks")
        rows = [[each.model, each.why_not or "would take over"] for each in said.fallbacks]
        print_sheet(_sheet(("model", "then"), rows))
    if said.limits:
        print("\nlimits and budgets")
        print_sheet(_sheet(_LIMITS, [_limit_cells(limit) for limit in said.limits]))
    if said.notes:
        print("\nnotes")
        for note in said.notes:
            print(f"  {note}")
    sys.stdout.flush()


def _sheet(columns: Sequence[str], rows: list[list[str]]) -> Sheet:
    return Sheet(columns=columns, numbers=_NUMBERS, rows=rows)


def _head(said: Explanation) -> Iterator[str]:
    """What fits into a line each."""
    caller = said.caller
    whose = [f"org {caller.org}"]
    whose += [f"team {caller.team}"] if caller.team else []
    whose += [f"user {caller.user}"] if caller.user else []
    name = f" ({caller.name})" if caller.name else ""
    expires = f", expires at {caller.expires_at}" if caller.expires_at else ""
    yield _LABEL.format("who", ", ".join(whose))
    yield _LABEL.format("key", f"{caller.id}{name}, {caller.status}{expires}")
    if said.served is not None:
        yield from _served_lines(said.served)
    if said.attempts is not None:
        yield from _attempts_lines(said.attempts)
    if said.hold is not None:
        yield _LABEL.format("would hold", _hold_text(said.hold))
    yield from _outcome_lines(said.outcome)


def _served_lines(served: Served) -> Iterator[str]:
    how = "streamed" if served.stream else "whole"
    yield _LABEL.format("asks for", f"{served.asked} ({served.operation.value}, {how})")
    if served.mapped_to is not None:
        yield _LABEL.format(
            "mapped to", f"{served.mapped_to}, by the map of the {served.mapped_by}"
        )
    yield _LABEL.format("route", f"{served.route}, found by its {served.found_by}")
    if served.model != served.route:
        yield _LABEL.format("counted as", served.model)
    if served.required:
        yield _LABEL.format("required", _pairs(served.required))


def _attempts_lines(attempts: AttemptsSaid) -> Iterator[str]:
    text = f"{attempts.most} at most, {count(attempts.repeats_left)} repeats left"
    yield _LABEL.format("attempts", text)
    if attempts.hedge_after is not None:
        delay = attempts.hedge_delay
        after = "the p95, not known yet" if delay is None else f"{delay:.3g} s"
        yield _LABEL.format("hedged", f"streams, after {after}")


def _hold_text(held: Hold) -> str:
    prompt, output = count(held.prompt_tokens), count(held.output_tokens)
    money = f"{decimal_usd(held.usd)} USD" if held.has_price else "no price"
    worst = "" if held.worst_usd is None else f", strictly {decimal_usd(held.worst_usd)} USD"
    tokens = f"{prompt} tokens of prompt, {output} of output"
    return f"{held.requests} request, {tokens}, {money}{worst}"


def _outcome_lines(outcome: Outcome) -> Iterator[str]:
    if outcome.admitted:
        instead = f", and served by {outcome.served_by} instead" if outcome.served_by else ""
        yield _LABEL.format("outcome", f"admitted now{instead}")
        return
    waits = f", after a wait of {outcome.waits:g} s" if outcome.waits else ""
    yield _LABEL.format("outcome", f"refused{waits}: {outcome.status} {outcome.code}")
    yield _LABEL.format("", outcome.message)
    yield _LABEL.format("admitted", outcome.when)


def _place_cells(place: Place) -> list[str]:
    times = place.timeouts
    why_not = place.why_not
    if not why_not and place.places_left is not None and place.places_left <= 0:
        why_not = "its places are all taken: others are tried first"
    return [
        "-" if place.turn is None else str(place.turn),
        place.deployment,
        place.model,
        str(place.weight),
        _pairs(place.tags) or "-",
        str(place.inflight),
        "-" if place.latency is None else f"{place.latency:.3f} s",
        f"{times.connect:g}/{times.first_token:g}/{times.idle:g}/{times.total:g} s",
        why_not or "-",
    ]


def _limit_cells(limit: LimitSaid) -> list[str]:
    parse = parse_budget if limit.kind == Kind.USD else parse_limit
    show = decimal_usd if limit.kind == Kind.USD else lambda amount: f"{amount:_}"
    amounts = (limit.limit, limit.used, limit.claimed, limit.left, limit.needed)
    return [
        f"{limit.scope} {limit.name.rpartition('/')[2]}",
        rule_text(parse(limit.rule)) + ("" if limit.gates else " (counts, refuses no more)"),
        *map(show, amounts),
        limit.resets_at or "-",
    ]


def _pairs(tags: dict[str, str]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in tags.items())
