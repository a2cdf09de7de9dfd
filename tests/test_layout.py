"""What the layout promises: a test file beside every source file, and a README that is true."""

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import typer.main
from msgspec.inspect import StructType, UnionType

from llmrouter.cli.main import app
from llmrouter.config.schema import Settings
from llmrouter.errors import CODES

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "llmrouter"
README = (ROOT / "README.md").read_text()
TOP_LEVEL = {"pyproject.toml", "llmrouter", "tests", "examples", "router.toml", "README.md"}
PRODUCTS = re.compile(r"(?i)\b(openai|anthropic|gemini|bedrock|redis|azure|ollama|vllm)\b")
PRODUCTS_MAY_STAND_IN = (
    "dialects/openai/",
    "config/",
    "stores/diskcache.py",
    "metering/exportforms.py",  # the table of the usage exports that providers write
)
CONTRACT_SUITES = {
    "contracts/dialect.py": "dialects/test_contract.py",
    "contracts/store.py": "stores/test_contract.py",
}
"""Protocols have no behaviour of their own: the suites over every leaf test them."""
COMPOSITION_ROOT = "daemon/build.py"


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def has_code(path: Path) -> bool:
    """Package files that hold nothing but their docstring have nothing to test."""
    return path.name != "__init__.py"


def covering_file(source: Path) -> Path:
    relative = source.relative_to(PACKAGE)
    if (suite := CONTRACT_SUITES.get(str(relative))) is not None:
        return ROOT / "tests" / suite
    return ROOT / "tests" / relative.parent / f"test_{relative.stem.strip('_')}.py"


def test_every_source_file_has_its_test_file() -> None:
    assert [
        path for path in map(covering_file, filter(has_code, sources())) if not path.is_file()
    ] == []


def test_the_top_level_is_what_was_agreed() -> None:
    visible = {
        path.name
        for path in ROOT.iterdir()
        if not path.name.startswith((".", "__")) and not path.name.endswith(".egg-info")
    }
    assert visible - {"LICENSE", "state", "build"} == TOP_LEVEL


def test_no_product_is_named_outside_its_leaf() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for path in sources()
        if not str(path.relative_to(PACKAGE)).startswith(PRODUCTS_MAY_STAND_IN)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if PRODUCTS.search(line) and not is_import_or_table(path, line)
    ]
    assert not found


def is_import_or_table(path: Path, line: str) -> bool:
    """A leaf's own import path, and the composition root's table of leaves."""
    if str(path.relative_to(PACKAGE)) == COMPOSITION_ROOT:
        return line.startswith("DIALECTS = ")
    return line.startswith(("from llmrouter.dialects.", "import llmrouter.dialects."))


def keys(kind: msgspec.inspect.Type, above: str = "") -> Iterator[str]:
    """Every key of the configuration, as README writes it: `upstreams.*.timeouts.connect`."""
    if isinstance(kind, UnionType):
        for part in kind.types:
            yield from keys(part, above)
    elif isinstance(kind, msgspec.inspect.DictType):
        yield from keys(kind.value_type, f"{above}.*")
    elif isinstance(kind, msgspec.inspect.VarTupleType):
        yield from keys(kind.item_type, above)
    elif isinstance(kind, StructType):
        for field in kind.fields:
            key = f"{above}.{field.encode_name}".lstrip(".")
            yield key
            yield from keys(field.type, key)


@pytest.mark.parametrize("key", sorted(set(keys(msgspec.inspect.type_info(Settings)))))
def test_readme_names_every_config_key(key: str) -> None:
    assert f"`{key}`" in README


def commands() -> Iterator[str]:
    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        for sub in getattr(command, "commands", None) or [None]:
            yield f"llmrouter {name} {sub}" if sub else f"llmrouter {name}"


@pytest.mark.parametrize("command", sorted(commands()))
def test_readme_names_every_command(command: str) -> None:
    assert f"`{command}" in README


@pytest.mark.parametrize("error", CODES, ids=lambda error: error.code)
def test_readme_documents_every_error_code(error: type) -> None:
    assert re.search(rf"\| {error.status} \|[^\n]*`{error.code}`", README)  # type: ignore[attr-defined]
