"""What the `usage` object of an answer says was used.

Compatible servers differ in what they count and call it, so nothing in it is demanded. What is made
of it here keeps what `Usage` promises: the prompt includes what came from a cache, the output
includes reasoning.
"""

from typing import Final

from llmrouter.contracts.call import Usage
from llmrouter.dialects.openai.counts import Costs, Counts
from llmrouter.units import NANO_PER_USD

_USD_MAX: Final = 10**6
"""Of what an upstream may claim for one call."""


def usage_of(found: Counts | None) -> Usage | None:
    """None where nothing was counted: that is not the same as nothing used."""
    if found is None:
        return None
    prompt = found.prompt_tokens if found.input_tokens is None else found.input_tokens
    output = found.completion_tokens if found.output_tokens is None else found.output_tokens
    total = found.total_tokens
    if not prompt and not output and not total:
        return None  # no call uses nothing: who says so has not counted, and would be free
    if prompt is None:
        prompt = max((total or 0) - (output or 0), 0)
    # Some servers leave reasoning out of the output, and bill it as output all the same.
    output = max(output or 0, (total or 0) - prompt)
    prompt_details = found.prompt_tokens_details or found.input_tokens_details
    output_details = found.completion_tokens_details or found.output_tokens_details
    cached = (prompt_details.cached_tokens if prompt_details else None) or _cached_elsewhere(found)
    reasoning = (output_details.reasoning_tokens if output_details else None) or 0
    return Usage(
        prompt_tokens=prompt,
        cached_tokens=min(cached, prompt),
        output_tokens=output,
        reasoning_tokens=min(reasoning, output),
        cost_nano_usd=None if found.cost is None else _nano_usd(found.cost),
    )


def _cached_elsewhere(found: Counts) -> int:
    return found.cached_tokens or found.num_cached_tokens or found.prompt_cache_hit_tokens or 0


def _nano_usd(cost: float | Costs) -> int | None:
    usd = cost.total_cost if isinstance(cost, Costs) else cost
    return None if usd is None or usd > _USD_MAX else round(usd * NANO_PER_USD)
