"""What is held for one call, in every bucket that applies; then settled once, or released.

Held are one request, tokens and money as far as they can be foreseen, and one of the calls at once.
A running stream that needs more extends its hold. Settling gives back what was held and not used,
and takes what was used and not held.
"""

from collections.abc import Callable

from llmrouter.quota.leases import Account, Amounts, Lease, Leases, Refusal


class Reservation:
    """The hold of one call."""

    __slots__ = (
        "_account",
        "_amounts",
        "_ask_id",
        "_cutting",
        "_cutting_nano_usd",
        "_leases",
        "is_open",
        "rules",
    )

    def __init__(self, leases: Leases, account: Account, amounts: Amounts) -> None:
        self._leases = leases
        self._account = account
        self._amounts = amounts
        self.is_open = True
        """It was neither settled nor released."""
        self._cutting: tuple[Lease, ...] | None = None
        """Once the hold was extended: those that end the stream rather than be overdrawn."""
        self._cutting_nano_usd = 0
        """What is held of those."""
        self.rules = account.rules
        """The generation of the rules that it was made under."""
        self._ask_id = 0
        """The ask for more of those that is under way."""

    def __repr__(self) -> str:
        return f"<Reservation {self._amounts} open={self.is_open}>"

    @property
    def account(self) -> Account:
        """The leases that it holds parts of."""
        return self._account

    @property
    def tokens(self) -> int:
        """Tokens held."""
        return self._amounts[1]

    @property
    def nano_usd(self) -> int:
        """Money held: the worst case where some budget asks for it."""
        _, _, nano_usd, _, worst = self._amounts
        return nano_usd if nano_usd > worst else worst

    def again(self) -> Amounts:
        """What another attempt of the same call needs: it is no other call, and not one more."""
        _, tokens, nano_usd, _, worst = self._amounts
        return 0, tokens, nano_usd, 0, worst

    def settle(self, tokens: int, nano_usd: int) -> None:
        """The call is over and used so much; whatever comes after that does nothing."""
        self._close(0, tokens, nano_usd)

    def release(self) -> None:
        """Nothing was sent upstream, so nothing counts; whatever comes after that does nothing."""
        self._close(1, 0, 0)

    def _close(self, requests_left: int, tokens: int, nano_usd: int) -> None:
        if not self.is_open:
            return
        self.is_open = False
        if self._ask_id:
            self._leases.cancel(self._ask_id)
        _, held, held_usd, slots, worst = self._amounts
        left = (requests_left, held - tokens, held_usd - nano_usd, slots, worst - nano_usd)
        account, cutting = self._account, self._cutting
        if not cutting:
            self._leases.credit(account.gating, left)
            if account.counted:
                self._leases.credit(account.counted, left)
            return
        self._leases.credit(self._others(), left)
        cutting_left = (0, 0, self._cutting_nano_usd - nano_usd, 0, worst - nano_usd)
        self._leases.credit(cutting, cutting_left)

    def extend(
        self, tokens: int, nano_usd: int, cut: Callable[[Refusal], None], now_ms: int
    ) -> None:
        """A running stream needs more; `cut` is told where a budget that cuts has no more.

        All others are overdrawn where they have no more: the answer is finished.
        """
        if not self.is_open:
            return
        if self._cutting is None:
            gating = self._account.gating
            self._cutting = tuple(lease for lease in gating if lease.found.rule.cut)
            self._cutting_nano_usd = self._amounts[2]
        self._leases.debit(self._others(), (0, tokens, nano_usd, 0, 0))
        requests, held, held_usd, slots, worst = self._amounts
        self._amounts = (requests, held + tokens, held_usd + nano_usd, slots, worst)
        if self._cutting and not self._ask_id:
            behind = self._amounts[2] - self._cutting_nano_usd
            self._extend_cutting(self._cutting, behind, cut, now_ms)

    def _extend_cutting(
        self,
        cutting: tuple[Lease, ...],
        nano_usd: int,
        cut: Callable[[Refusal], None],
        now_ms: int,
    ) -> None:
        more = (0, 0, nano_usd, 0, 0)
        account = Account(cutting)

        def answered(refusal: Refusal | None) -> None:
            self._ask_id = 0
            if refusal is None:
                self._cutting_nano_usd += nano_usd
            elif not self._leases.alone:  # else nobody has refused: the ledger is gone
                cut(refusal)

        if self._leases.reserve(account, more, now_ms):
            self._cutting_nano_usd += nano_usd
        elif (refusal := self._leases.refusal(account, more, now_ms)) is not None:
            cut(refusal)
        else:
            self._ask_id = self._leases.ask(account, more, answered, now_ms, at_once=True)

    def _others(self) -> list[Lease]:
        every = (*self._account.gating, *self._account.counted)
        return [lease for lease in every if lease not in (self._cutting or ())]
