"""A deployment: one model at one upstream."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from llmrouter.routing.condition import Condition


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """What routing chooses."""

    upstream: str
    """The upstream's name in router.toml."""
    model: str | None = None
    """The model's name there; None passes on the name that was asked for."""
    weight: int = 1
    tags: Mapping[str, str] = field(default_factory=dict)
    """What it is, and what its upstream is: `region = "eu"`."""
    condition: Condition
    """How it is now; shared by all routes that lead to the same model of the same upstream."""
    condition_of: Callable[[str], Condition] | None = None
    """Where many names are passed on: how each of these models is."""

    def named(self, asked: str) -> "Deployment":
        """The deployment of one of the models whose names are passed on."""
        if self.condition_of is None:
            return self
        return replace(self, condition=self.condition_of(asked), condition_of=None)

    def model_for(self, asked: str) -> str:
        """The name to send upstream for a call that asked for `asked`."""
        return self.model or asked
