"""What calls are foreseen to use."""

import msgspec


class Who(msgspec.Struct, frozen=True, gc=False):
    """Whose call it is, as far as estimates go."""

    key_id: str
    model: str


class Need(msgspec.Struct, frozen=True, gc=False):
    """What one call is foreseen to use."""

    who: Who
    prompt_tokens: int
    output_tokens: int
    """What is held for at first."""
    prompt_most: int
    output_most: int
    """What a plain answer is charged with that nobody saw the end of."""
    body_bytes: int
    """By which the prompt was estimated."""
    output_max: int | None = None
    """The most output that it allows itself, as far as that is known."""
    is_strict: bool = False
    """Those are the most that it can use, and a stream is charged with them as well."""
