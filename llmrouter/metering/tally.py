"""What the books add up."""

import msgspec


class Tally(msgspec.Struct, frozen=True, gc=False):
    """What is added up over calls; in the order of the columns of the totals."""

    calls: int = 0
    errors: int = 0
    estimated: int = 0
    """Calls and other attempts whose tokens are our own count, as no upstream gave one."""
    interrupted: int = 0
    """Calls whose worker died; each of them is an error, and estimated, too."""
    unpriced: int = 0
    """Calls and other attempts of unknown cost: they count as nothing in `cost_nano_usd`."""
    reported: int = 0
    """Calls and other attempts of which the upstream reported a cost."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nano_usd: int = 0
    reported_nano_usd: int = 0
    other_attempts: int = 0
    """Attempts besides the last of each call; whatever they used is in here, too."""
