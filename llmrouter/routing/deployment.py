"""A deployment: one model at one upstream."""

import msgspec


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """What routing chooses."""

    upstream: str
    """The upstream's name in router.toml."""
    model: str | None = None
    """The model's name there; None passes on the name that was asked for."""
    weight: int = 1

    def model_for(self, asked: str) -> str:
        """The name to send upstream for a call that asked for `asked`."""
        return self.model or asked
