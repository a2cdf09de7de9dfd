"""The values that may stand in router.toml: their ranges, and the words that they may be."""

from typing import Annotated, Literal

from msgspec import Meta

Text = Annotated[str, Meta(min_length=1, max_length=4_096)]
Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Bytes = Annotated[int, Meta(ge=1, le=2**40)]
Tokens = Annotated[int, Meta(ge=1, le=10**15)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Days = Annotated[int, Meta(ge=1, le=36_500)]
SecondsOrZero = Annotated[float, Meta(ge=0, le=86_400)]
Share = Annotated[float, Meta(ge=0, le=1)]
Weight = Annotated[int, Meta(ge=1, le=1_000)]
UsdPerMillion = Annotated[float, Meta(ge=0, le=1_000_000)]
Usd = Annotated[float, Meta(gt=0, le=1_000_000_000)]
Names = Annotated[tuple[Text, ...], Meta(min_length=1, max_length=1_000)]
Failures = Annotated[int, Meta(ge=1, le=1_000)]
Tags = Annotated[dict[str, Text], Meta(max_length=100)]
ModelMap = Annotated[dict[str, Text], Meta(max_length=1_000)]

DialectName = Literal["openai", "anthropic", "gemini", "bedrock"]
StrategyName = Literal["weighted", "ordered", "least-inflight", "fastest", "cheapest", "sticky"]
Rate = Literal["second", "minute", "hour", "day"]
Window = Literal["hour", "day", "week", "month", "total"]
Priority = Literal["interactive", "normal", "batch"]
MidStream = Literal["finish", "cut"]
Unpriced = Literal["refuse", "warn"]
StickyBy = Literal["conversation", "key", "user"]
FallbackOn = Literal["unavailable", "context_length", "content_filter"]

WAIT_S = 10.0
"""How long "queue" waits, where no `wait` says otherwise."""

SERVED_DIALECTS: tuple[DialectName, ...] = ("openai",)
"""The dialects that a model may be deployed on today; the others are names we keep free."""
