"""USD as whole nano-USD: router.toml holds decimals, and everything that counts money integers."""

from decimal import Decimal

DECIMALS_MAX = 9  # a nano-USD is the ninth


def nano_usd(usd: float) -> int:
    """The exact amount as it was written; ValueError where it has a part below a nano-USD."""
    nano = Decimal(str(usd)).scaleb(DECIMALS_MAX)
    if nano != nano.to_integral_value():
        message = f"has more than {DECIMALS_MAX} decimals (value {usd}); round it"
        raise ValueError(message)
    return int(nano)
