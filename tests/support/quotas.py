"""Limits and budgets of a running daemon: keys that have some, and how their buckets stand."""

from typing import Any, cast

import msgspec

from llmrouter.daemon.control import ask
from llmrouter.daemon.state import control_path
from tests.support.daemon import DEMO, Daemon, Settings, limits, wait_for
from tests.support.load import request

NANO_PER_USD = 10**9
INPUT_NANO, OUTPUT_NANO = 1_000, 10_000
"""What a token of the models of `PRICED` costs."""
PROMPT_TOKENS = OUTPUT_TOKENS = 10
"""What each call of `chat` uses, by default."""
PRICED: Settings = {
    **DEMO,
    "models": {
        "demo-*": {
            "deployments": [{"upstream": "demo"}],
            "price": {
                "input": INPUT_NANO * 1_000_000 / NANO_PER_USD,
                "output": OUTPUT_NANO * 1_000_000 / NANO_PER_USD,
            },
        }
    },
    "orgs": {"acme": {}, "calm": {}},
}
"""The demo upstream, which costs something; `calm` is an org that nothing limits."""


class Key(msgspec.Struct, frozen=True):
    """A key that was just issued."""

    id: str
    key: str

    def bucket(self, rule: str) -> str:
        """The name of the bucket of one of its own rules."""
        return f"key/{self.id}/{rule}"


def issue(
    daemon: Daemon,
    *,
    org: str = "acme",
    limits: tuple[str, ...] = (),
    budgets: tuple[str, ...] = (),
) -> Key:
    """Issue a key with rules of its own, faster than by the command line."""
    args: dict[str, object] = {"org": org, "limits": limits, "budgets": budgets}
    return msgspec.convert(ask(control_path(daemon.state), "keys.create", args), Key)


def chat(
    key: Key,
    model: str = f"demo-tokens={OUTPUT_TOKENS}",
    *,
    max_tokens: int | None = OUTPUT_TOKENS,
    stream: bool = False,
) -> bytes:
    """A call whose use is known: PROMPT_TOKENS, and what the model's name says."""
    call: dict[str, object] = {
        "model": model,
        "messages": [{"role": "user", "content": "word" * PROMPT_TOKENS}],
        "stream": stream,
    }
    if max_tokens is not None:
        call["max_tokens"] = max_tokens
    return request(key.key, call)


def body_bytes(message: bytes) -> int:
    """How long the body of a request is."""
    return len(message.partition(b"\r\n\r\n")[2])


def cost_nano(prompt_tokens: int, output_tokens: int) -> int:
    """What so many tokens cost."""
    return prompt_tokens * INPUT_NANO + output_tokens * OUTPUT_NANO


def usd(nano: int) -> str:
    """An amount as rules have it, to the nano-dollar."""
    return f"{nano // NANO_PER_USD}.{nano % NANO_PER_USD:09d}"


def settled(daemon: Daemon, bucket: str) -> int:
    """What of a bucket was used, in its own unit, once no worker claims anything of it."""

    def unclaimed() -> dict[str, Any] | None:
        view = limits(daemon)[bucket]
        return view if view["claimed"] == 0 else None

    view = cast("dict[str, Any]", wait_for(unclaimed, what=f"the settling of {bucket}"))
    if view["kind"] == "usd":
        return round(float(view["used"]) * NANO_PER_USD)
    return int(view["used"])


def asked(daemon: Daemon) -> int:
    """How often workers have asked the ledger since the start."""
    counts = ask(control_path(daemon.state), "quota.counts", {})
    return cast("dict[str, int]", counts)["asked"]
