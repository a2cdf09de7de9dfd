"""Write a configuration back as TOML, complete with every default, secrets as their source."""

import msgspec
import tomli_w

from llmrouter.config.schema import Config, settings_names


def effective_toml(config: Config) -> str:
    """What would run, as a file that loads to an equal `Config` from any directory.

    Paths are absolute. A key that is absent by default and in the file is absent here.
    """
    return tomli_w.dumps(effective(config))


def effective(config: Config) -> dict[str, object]:
    """What would run, as plain values; of a credential, only where it comes from."""
    return {
        name: _without_none(msgspec.to_builtins(getattr(config, name))) for name in settings_names()
    }


def _without_none(value: object) -> object:
    match value:
        case dict():
            return {key: _without_none(item) for key, item in value.items() if item is not None}
        case list() | tuple():
            return [_without_none(item) for item in value]
        case _:
            return value
