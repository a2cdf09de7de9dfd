import pytest

from llmrouter.access.patterns import ModelPatterns
from llmrouter.access.principal import Principal


def test_a_principal_cannot_be_changed() -> None:
    """It is built once for a key and shared by every call that the key makes."""
    principal = Principal(
        org="acme", team=None, user="ada", key_id="0123456789AB", models=ModelPatterns()
    )

    with pytest.raises(AttributeError):
        principal.org = "other"  # type: ignore[misc]  # the assignment is what is tested
