"""What of the package is compiled, and whether that is what the sources say."""

import importlib.util
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
STALE = "llmrouter is compiled from sources that have changed since: install it anew"


def compiled() -> Sequence[Path]:
    """The sources that are compiled where they can be."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return [ROOT / f"llmrouter/{name}.py" for name in project["tool"]["llmrouter"]["compiled"]]


def library() -> Path | None:
    """What they were compiled into; None where they are interpreted."""
    spec = importlib.util.find_spec("llmrouter.native__mypyc")
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


def check() -> None:
    """Raise UsageError where what is compiled is older than its source.

    Only a package that is installed in place can be.
    """
    built = library()
    if built is None or ROOT not in built.parents:
        return
    built_at = os.stat(built).st_mtime
    changed = [path.name for path in compiled() if os.stat(path).st_mtime > built_at]
    if changed:
        raise pytest.UsageError(f"{STALE} ({', '.join(changed)})")
