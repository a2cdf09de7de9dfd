"""What a call is foreseen to need, and of which leases: worked out before any of it is taken.

Nearly all of that is the same for every call of one key to one model: such a `Case` is made once,
and again when the rules, the key or the route have changed.

Held for a call are one request, one of the calls at once, and tokens and money for its prompt (by
its bytes, of which those of pictures and files count for little) and for as much output as the
key's calls to the model mostly have. What is held never
exceeds what fits into a limit or budget at all, or nobody could begin. Under a strict budget the
worst case is held, and a call that has none is refused.

Invariant: nothing here awaits, or takes anything.
"""

from dataclasses import dataclass, replace
from typing import Final

from llmrouter.access.principal import Principal
from llmrouter.contracts.call import Call
from llmrouter.contracts.rule import Kind
from llmrouter.errors import InsufficientQuota, InvalidRequest
from llmrouter.gateway import quotas
from llmrouter.gateway.exchange import Asking
from llmrouter.gateway.needs import Need, Who
from llmrouter.gateway.spending import Flight
from llmrouter.metering import costs
from llmrouter.metering.prices import Price, dearest
from llmrouter.quota.leases import Account, Amounts, Leases
from llmrouter.routing.routes import Route

CASES_MAX = 8_192
"""Pairs of key and model that are remembered; callers choose the names."""
TEMPLATE_TOKENS_MAX: Final = 1_024
"""Tokens that an upstream's own template adds to a prompt; the most in recorded traffic is 331."""

SHORT_BYTES: Final = 16_384
"""No more than that holds no picture that would matter: such bodies are not searched."""
EMBEDDED: Final = b";base64,"
"""What is in a body as a `data:` URL (RFC 2397): a picture or a file."""
SAMPLES, SAMPLE_BYTES = 64, 512
"""A body without that many solid bytes in one of so many places is not searched either."""
EMBEDDED_MAX: Final = 1_000
"""So many of them are looked for: a search of bytes, but of as many as a caller sends."""
EMBEDDED_BYTES_LEAST: Final = 4_000
"""Each of them counts as a text of so many bytes, or..."""
EMBEDDED_PART: Final = 128
"""...as one part in so many of its own, if that is more: a picture of a megabyte has about 1,000
tokens, and not 300,000."""


@dataclass(frozen=True)
class Case:
    """All that is the same for the calls of one key to one model."""

    principal: Principal
    version: int
    """Of the rules that it was made by."""
    route: Route
    account: Account
    headers: quotas.LimitHeaders
    who: Who
    price: Price | None
    """The dearest of its deployments'; None if one has no price."""
    counts_money: bool
    is_strict: bool
    tokens_max: int
    """The most that fits into all of its limits on tokens."""
    nano_usd_max: int
    """The most that fits into all of its budgets."""

    def without(self, bucket: str) -> "Case":
        """The same, but that bucket does not refuse."""
        account = self.account.without(bucket)
        headers = quotas.LimitHeaders(account.gating)
        return replace(self, account=account, headers=headers)

    def falling_back_from(self, models: tuple[str, ...]) -> "Case":
        """The same for a call that the limits on requests have counted for one of `models`."""
        account = self.account.without_requests_of(models)
        return replace(self, account=account)


class Cases:
    """Knows what calls need."""

    def __init__(self, flight: Flight, leases: Leases, *, unpriced_allowed: frozenset[str]) -> None:
        self._flight = flight
        self._accounts = leases.accounts
        self._unpriced_allowed = unpriced_allowed
        """The orgs whose calls to models without a price are served, although money counts."""
        self._cases: dict[tuple[str, str], Case] = {}

    def of(self, exchange: Asking, route: Route) -> Case:
        """The case of a call; raises InsufficientQuota where money counts and there is no price."""
        principal = exchange.principal
        assert principal is not None
        name = principal.key_id, exchange.asked
        case = self._cases.get(name)
        if (
            case is None
            or case.principal is not principal
            or case.version != self._accounts.version
            or case.route is not route
        ):
            if len(self._cases) >= CASES_MAX:
                self._cases.clear()
            case = self._cases[name] = self._new(exchange, principal, route)
        if case.price is None and case.counts_money:
            self._check_unpriced(case)
        return case

    def need(self, exchange: Asking, call: Call, case: Case) -> tuple[Need, Amounts]:
        """What a call is foreseen to use, and what is held of it at first.

        Raises InvalidRequest where a strict budget applies and there is no worst case.
        """
        estimator, who, price = self._flight.estimator, case.who, case.price
        body_bytes = text_bytes = len(call.body)
        if body_bytes > SHORT_BYTES and not _is_text(call.body):
            text_bytes -= _embedded_bytes(call.body)
        output_max = call.output_max
        if output_max is None and case.route.output_max is not None:
            output_max = case.route.output_max * call.choices
        prompt = estimator.prompt_tokens(who.model, text_bytes)
        prompt_most = prompt
        output = most = estimator.output_tokens(who.key_id, who.model, output_max)
        if prompt + output > case.tokens_max > prompt:
            output = case.tokens_max - prompt
        nano_usd = worst = 0
        if price is not None:  # without a budget, too: a call that dies is booked at its hold
            nano_usd = costs.estimate(price, prompt, output)
            if nano_usd > case.nano_usd_max:
                output, nano_usd = _affordable(price, prompt, output, case.nano_usd_max)
            if case.is_strict:
                most = _most_output(exchange, call, output_max)
                prompt_most = body_bytes + TEMPLATE_TOKENS_MAX
                worst = costs.estimate(price, prompt_most, most)
        need = Need(who, prompt, output, prompt_most, most, text_bytes, output_max, worst > 0)
        return need, (1, prompt + output, nano_usd, 1, worst)

    def _new(self, exchange: Asking, principal: Principal, route: Route) -> Case:
        account = self._accounts.of(
            principal.org, principal.team, principal.user, principal.key_id, exchange.model
        )
        return Case(
            principal=principal,
            version=self._accounts.version,
            route=route,
            account=account,
            headers=quotas.LimitHeaders(account.gating),
            who=Who(principal.key_id, exchange.model),
            price=self._price(exchange.asked, route),
            counts_money=account.has_budget,
            is_strict=account.is_strict,
            tokens_max=account.smallest(Kind.TOKENS),
            nano_usd_max=account.smallest(Kind.USD),
        )

    def _price(self, asked: str, route: Route) -> Price | None:
        find = self._flight.prices.price
        prices = [
            find(route.name, each.upstream, each.model_for(asked)) for each in route.deployments
        ]
        known = [price for price in prices if price is not None]
        return dearest(known) if len(known) == len(prices) else None

    def _check_unpriced(self, case: Case) -> None:
        if case.principal.org not in self._unpriced_allowed:
            said = f"the model {case.who.model!r} has no price, so no budget could be kept"
            raise InsufficientQuota(f"{said}; your admin can give it one (`price` in router.toml)")


def _is_text(body: bytes) -> bool:
    """Whether there is a space wherever one looks: then no picture is a notable part of a body.

    One that is missed is shorter than a sixty-fourth of it, and counts as text. A search of all of
    it takes 190 us a megabyte.
    """
    step = len(body) // SAMPLES
    for at in range(0, len(body) - SAMPLE_BYTES, step):
        if body.find(b" ", at, at + SAMPLE_BYTES) < 0:
            return False
    return True


def _embedded_bytes(body: bytes) -> int:
    """The bytes of pictures and files in a body that do not count as text.

    From its end: backwards, CPython searches three times as fast.
    """
    starts: dict[int, int] = {}
    start = len(body)
    for _ in range(EMBEDDED_MAX):
        start = body.rfind(EMBEDDED, 0, start)
        if start < 0:
            break
        starts[body.find(b'"', start)] = start  # by its end: in one text, the first of them counts
    starts.pop(-1, None)  # that one has no end
    sizes = [end - start for end, start in starts.items()]
    return sum([max(0, size - max(EMBEDDED_BYTES_LEAST, size // EMBEDDED_PART)) for size in sizes])


def _affordable(price: Price, prompt: int, output: int, most_nano_usd: int) -> tuple[int, int]:
    """How much of `output` a whole budget pays for, and its cost; all, if not even the prompt."""
    whole, of_prompt = costs.estimate(price, prompt, output), costs.estimate(price, prompt, 0)
    if of_prompt > most_nano_usd:
        return output, whole
    return output * (most_nano_usd - of_prompt) // (whole - of_prompt), most_nano_usd


def _most_output(exchange: Asking, call: Call, output_max: int | None) -> int:
    """The most output that a call can have; raises InvalidRequest where nothing bounds it."""
    if output_max is None:
        said = "a strict budget applies to this key, so a call must say how long its answer may be"
        raise InvalidRequest(f"{said}; send max_tokens", param="max_tokens")
    if not exchange.dialect.is_prompt_bounded(call):
        said = "a strict budget applies to this key, and this call may cost more than it shows"
        hint = "send text itself, refer to nothing else, and ask for no other service_tier"
        raise InvalidRequest(f"{said}; {hint}")
    return output_max
